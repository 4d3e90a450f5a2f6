# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: bootstrap
short_description: Whether a host can be managed, and what is missing
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Judges what C(playbooks/files/bootstrap.sh) and our modules said on one host.
  - A host is V(manageable) once a module of ours has looked at it, and not before.
options:
  _input:
    description:
      - The registered results by step. The steps are V(greet), V(look), V(python), V(info) and V(health).
    type: dict
    required: true
  interpreter:
    description: The C(ansible_python_interpreter) of the inventory.
    type: str
    default: ""
  installable:
    description: What Python is built from; the C(python3) of the host's own nixpkgs when empty.
    type: str
    default: ""
  pulls:
    description: Whether the host fetches its systems, so that they have to be signed.
    type: bool
    default: false
  needed:
    description: Whether a night has anything to do with the host.
    type: bool
    default: true
  dry_run:
    description: Whether nothing is to be changed.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Say how it stands
  ansible.builtin.debug:
    msg: "{{ (evidence | homelab.nixos.bootstrap).outcome }}"
  vars:
    evidence: {greet: "{{ greet }}", look: "{{ look }}"}
"""

RETURN = r"""
_value:
  description:
    - V(outcome), the word; V(reason), a sentence; V(found), sentences about the host; V(inventory) and
      V(configuration), the lines that are missing there; V(bad), whether the run has failed because of it; V(due),
      whether a Python is still to be put there; V(take), where one is in its store; V(python), the interpreter that
      works now.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _bootstrap


def bootstrap(
    evidence: Mapping[str, Any],
    interpreter: str = "",
    installable: str = "",
    pulls: bool = False,
    needed: bool = True,
    dry_run: bool = False,
) -> dict[str, object]:
    owner = _bootstrap.Owner(interpreter, installable, pulls, needed)
    return _bootstrap.report(evidence, owner, dry_run).as_result()


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bootstrap": bootstrap}
