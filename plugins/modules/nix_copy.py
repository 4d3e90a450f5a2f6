#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nix_copy
short_description: Push the closure of a store path to a host
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Copies a store path and all that it needs from the machine that the task runs on, the builder, to a host of the
    inventory over ssh.
  - Makes a GC root for the path on the host first, C(/nix/var/nix/gcroots/lab-auto-update/target), so that the garbage
    collector cannot take it between its arrival and its activation.
  - The address, the port and the user come from the inventory's variables of O(host). Where the builder is the
    controller itself, the key and the ssh arguments do too. They go into an ssh configuration of its own, in which host
    keys are checked as ever and connections are not shared.
options:
  path:
    description: The store path, which the builder has.
    type: str
    required: true
  host:
    description: The host, by its name in the inventory.
    type: str
    required: true
  ssh_key:
    description:
      - The private key on the builder that hosts know.
      - Without it the builder tries what its own ssh would, or the inventory's key if the builder is the controller.
    type: path
  user:
    description: The user to push as, instead of the inventory's C(ansible_user).
    type: str
  check_signatures:
    description:
      - Whether the host insists on a signature by a key that it trusts.
      - The host only listens to V(false) when the user is root or one of its C(trusted-users).
    type: bool
    default: false
  options:
    description: Nix settings for this run, as in C(nix.conf).
    type: dict
    default: {}
  timeout:
    description: Seconds for everything together.
    type: int
    default: 1800
  ssh_config:
    description:
      - The ssh configuration for O(host), in which it is named by its name in the inventory.
      - Set by the action plugin of this module, which refuses it in a task.
    type: str
requirements:
  - Python 3.11 or newer, Nix 2.26 or newer and ssh on the builder
attributes:
  action:
    support: full
    description: Reads the connection variables of O(host), and turns a lost connection to the builder into a failure.
  check_mode:
    support: partial
    description: Copies in check mode too.
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
seealso:
  - module: homelab.nixos.nix_flake_update
"""

EXAMPLES = r"""
- name: Push each host its system, all at once
  homelab.nixos.nix_copy:
    path: "{{ flake.systems[inventory_hostname] }}"
    host: "{{ inventory_hostname }}"
    ssh_key: /root/.ssh/id_ed25519
  delegate_to: builder
  become: true
"""

RETURN = r"""
store_path:
  description: The store path.
  returned: success
  type: str
  sample: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
host:
  description: The host.
  returned: success
  type: str
  sample: web
store:
  description: The URL of the host's store, as it was given to Nix.
  returned: success
  type: str
  sample: ssh-ng://web
durations:
  description: Seconds that everything together, C(total), took.
  returned: success
  type: dict
  sample:
    total: 2.4
connection_lost:
  description: Is V(true) if the controller lost the builder.
  returned: when the controller lost the builder
  type: bool
  sample: true
host_reachable:
  description: Is V(false) if the builder could not connect to the host.
  returned: when the builder could not connect to the host
  type: bool
  sample: false
"""

import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.nixos.plugins.module_utils import _copy
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "ssh_key": {"type": "path", "no_log": False},
            "user": {"type": "str"},
            "check_signatures": {"type": "bool", "default": False},
            "options": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 1800},
            "ssh_config": {"type": "str"},
        },
        supports_check_mode=True,
    )
    # the action plugin has put the user into the configuration
    del module.params["user"]
    text = module.params.pop("ssh_config")
    if text is None:
        module.fail_json(msg="nix_copy needs its action plugin. Call it as homelab.nixos.nix_copy.")
    # not module.tmpdir, which may have a blank in it: Nix splits the options of ssh there
    with tempfile.NamedTemporaryFile("w", prefix="ssh_config-", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        request = _copy.Request(**module.params, config=file.name)
        try:
            result = _copy.copy(door(module), request)
        except LabError as error:
            module.fail_json(msg=str(error), **error.data)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
