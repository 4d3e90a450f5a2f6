#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_rollout
short_description: Keep in mind how far the rollout of a flake has come
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - A rollout may take several nights, because stages soak, and may stay stopped, because a critical stage was hit. This
    is written down on the host that has the flake, in C(/var/lib/lab-auto-update), where every controller finds it; by
    a user other than root, in C(lab-auto-update) of the XDG state directory.
  - A record that cannot be read is an error. It may be that of a rollout that was stopped.
options:
  state:
    description: V(read) tells what the record means for tonight; V(noted) writes down how tonight has ended.
    type: str
    choices: [read, noted]
    default: read
  path:
    description: Directory of the flake.
    type: path
    required: true
  resume:
    description: Whether a rollout that was stopped goes on.
    type: bool
    default: false
  soak:
    description: With O(state=read), how long stages soak, in seconds. Nothing soaks any more when V(0).
    type: int
    default: 0
  run_id:
    description: With O(state=noted), the run.
    type: str
    default: ""
  revision:
    description: With O(state=noted), RV(revision) after the systems were built.
    type: str
    default: ""
  stop:
    description: With O(state=noted), why tonight's rollout was stopped, if that hit a critical stage; else empty.
    type: str
    default: ""
  critical_stages:
    description: With O(stop), the stages that stay closed.
    type: list
    elements: str
    default: []
  soaking:
    description: With O(state=noted), the stages that wait for others to soak, and why.
    type: dict
    default: {}
  whole:
    description:
      - With O(state=noted), whether all hosts of the inventory were in the night. What soaks goes on to if not.
    type: bool
    default: true
  hosts:
    description: With O(state=noted), the hosts of the night.
    type: list
    elements: str
    default: []
  current:
    description: With O(state=noted), those of O(hosts) that were seen to run what the flake gives them.
    type: list
    elements: str
    default: []
requirements:
  - Python 3.11 or newer
  - git, or Nix for a flake that is in no checkout
attributes:
  check_mode:
    support: full
    description: Writes nothing.
  diff_mode:
    support: none
    description: Has nothing to show.
  platform:
    support: full
    platforms: posix
    description: Where the flake is.
seealso:
  - module: homelab.nixos.nix_flake_update
"""

EXAMPLES = r"""
- name: Ask whether the inputs may be updated tonight
  homelab.nixos.lab_rollout:
    path: /etc/nixos
    soak: 72000
"""

RETURN = r"""
status:
  description: V(done), V(soaking) or V(stopped).
  returned: success
  type: str
  sample: stopped
may_update:
  description: Whether the inputs may be updated.
  returned: success
  type: bool
  sample: false
closed:
  description: Stages that nobody may touch, and why.
  returned: success
  type: dict
  sample:
    critical: "Stopped since 2026-11-22 02:14:07 UTC (run 20261122T020000Z-7f3a): 1 of 4 hosts ended badly (web), …"
reason:
  description: Why the inputs are not updated, in a sentence; empty when they are.
  returned: success
  type: str
  sample: ""
revision:
  description: What the flake is, its commit, or a hash of its files where it is in no git checkout.
  returned: success
  type: str
  sample: 5d6e7f8a9b0c1d2e3f405162738495a6b7c8d9e0
current:
  description: When each host was last seen to run what the flake gives it (Unix time). From its first night on.
  returned: success
  type: dict
  sample: {web: 1763777647}
"""

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _rollout
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run, door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._flake_places import Deadline, Git, find_place
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule
from ansible_collections.homelab.nixos.plugins.module_utils._rollout import Ending, Record
from ansible_collections.homelab.nixos.plugins.module_utils._state import State, directory_of_user

_SECONDS = 60


def main() -> None:
    module = LabModule(
        argument_spec={
            "state": {"type": "str", "choices": ["read", "noted"], "default": "read"},
            "path": {"type": "path", "required": True},
            "resume": {"type": "bool", "default": False},
            "soak": {"type": "int", "default": 0},
            "run_id": {"type": "str", "default": ""},
            "revision": {"type": "str", "default": ""},
            "stop": {"type": "str", "default": ""},
            "critical_stages": {"type": "list", "elements": "str", "default": []},
            "soaking": {"type": "dict", "default": {}},
            "whole": {"type": "bool", "default": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "current": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[("state", "noted", ("run_id", "revision"))],
        supports_check_mode=True,
    )
    params = module.params
    try:
        state = State(directory_of_user())
        record = state.rollout(params["path"])
        if params["state"] == "read":
            revision = _revision(door(module), params["path"])
            standing = _rollout.standing(record, revision, resume=params["resume"], soak=params["soak"])
            told = {"status": record.status, "revision": revision, "current": record.current, **vars(standing)}
            module.exit_json(changed=False, **told)
        noted = _noted(record, params)
        if not module.check_mode:
            state.write_rollout(params["path"], noted)
        module.exit_json(changed=noted.status != record.status, status=noted.status, current=noted.current)
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)


def _noted(record: Record, params: Mapping[str, Any]) -> Record:
    ending = Ending(
        run_id=params["run_id"],
        revision=params["revision"],
        stop=params["stop"],
        critical_stages=tuple(params["critical_stages"]),
        soaking=params["soaking"],
        whole=params["whole"],
    )
    now = int(time.time())
    return _rollout.ended(record, ending, now, params["hosts"], params["current"], resume=params["resume"])


def _revision(run: Run, path: str) -> str:
    return find_place(run, path, Git(), Deadline(_SECONDS)).revision()


if __name__ == "__main__":
    main()
