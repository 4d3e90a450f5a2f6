#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nix_realise
short_description: Let a host fetch a store path from a substituter
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Fetches a store path and all that it needs from a substituter, on the host that the task runs on. Nothing is
    evaluated and nothing is built there, ever.
  - Makes a GC root for the path first, C(/nix/var/nix/gcroots/lab-auto-update/target), so that the garbage collector
    cannot take it between its arrival and its activation.
  - Before the first byte, the room in the store is compared with what Nix says it would unpack. Where it is too little,
    the task fails with RV(no_space) and nothing is fetched. It fails as well where Nix does not say that clearly.
  - A substituter that is down, refuses, hangs or answers with errors is named, and keeps no other from being asked.
options:
  path:
    description: The store path. It cannot be a derivation.
    type: str
    required: true
  substituters:
    description:
      - URLs of the substituters to ask, in this order, instead of those in the host's C(nix.conf).
      - What they have has to be signed by one of the host's C(trusted-public-keys).
    type: list
    elements: str
  options:
    description:
      - Nix settings for this run, as in C(nix.conf).
      - Unless they say otherwise, C(connect-timeout) is 10, C(stalled-download-timeout) is 30 and C(download-attempts)
        is 3, so that no substituter is waited for without end.
    type: dict
    default: {}
  timeout:
    description: Seconds for everything together.
    type: int
    default: 1800
requirements:
  - Python 3.11 or newer, Nix 2.26 or newer
attributes:
  action:
    support: full
    description: Turns a lost connection into a failure.
  check_mode:
    support: partial
    description: Fetches in check mode too.
    details:
      - Nothing can say what a system would do to a host that does not have it.
      - Only store paths and a GC root of ours are added to the host.
  diff_mode:
    support: none
    description: Has nothing to show.
  platform:
    support: full
    platforms: linux
    description: Any Linux that has Nix.
notes:
  - Run it with C(become), only root makes GC roots and chooses substituters.
seealso:
  - module: homelab.nixos.nix_copy
"""

EXAMPLES = r"""
- name: Let each host fetch its system from the cache
  homelab.nixos.nix_realise:
    path: "{{ flake.systems[inventory_hostname] }}"
    substituters: ["https://cache.lab.example"]
  become: true
"""

RETURN = r"""
store_path:
  description: The store path.
  returned: success
  type: str
  sample: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
fetched:
  description: How many paths had to be fetched.
  returned: success
  type: int
  sample: 212
no_space:
  description: Is V(true) if the store has no room for what is to be fetched. Nothing was fetched then.
  returned: when there is no room
  type: bool
  sample: true
space:
  description: What is needed in the store and what is free there, before it was fetched.
  returned: when something has to be fetched
  type: dict
  contains:
    needed_bytes:
      description: What Nix said it would unpack, rounded up, and half a block for each file.
      type: int
    free_bytes:
      description: What is free for users other than root.
      type: int
    needed_inodes:
      description:
        - How many files that may be. An estimate, as if they were as large as the other files of this file system, for
          Nix cannot say it.
        - V(null) where the file system does not count them.
      type: int
    free_inodes:
      description: How many more files it can hold. V(null) where it does not count them.
      type: int
  sample:
    free_bytes: 20401094656
    free_inodes: 1210000
    needed_bytes: 312475648
    needed_inodes: 9120
failing_substituters:
  description: The substituters that Nix gave up, without passwords.
  returned: when a path could not be fetched
  type: list
  elements: str
  sample: ["https://cache.lab.example"]
durations:
  description: Seconds that everything together, C(total), took.
  returned: success
  type: dict
  sample:
    total: 2.4
connection_lost:
  description: Is V(true) if the host went away.
  returned: when the host went away
  type: bool
  sample: true
"""

from ansible_collections.homelab.nixos.plugins.module_utils import _realise
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule


def main() -> None:
    module = LabModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "substituters": {"type": "list", "elements": "str"},
            "options": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 1800},
        },
        supports_check_mode=True,
    )
    request = _realise.Request(**module.params)
    try:
        module.exit_json(**_realise.realise(door(module), request))
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)


if __name__ == "__main__":
    main()
