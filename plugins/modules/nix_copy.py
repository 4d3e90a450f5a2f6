#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nix_copy
short_description: Push the closure of a store path to a host, or to a store
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Copies a store path and all that it needs from the machine that the task runs on, the builder, to a host of the
    inventory over ssh, or store paths to another store, as a binary cache.
  - Before the first byte, the room in the host's store is compared with what is still to arrive. Where it is too
    little, the task fails with RV(no_space) and nothing is copied.
  - Makes a GC root for the path on the host first, C(/nix/var/nix/gcroots/lab-auto-update/target), so that the garbage
    collector cannot take it between its arrival and its activation. A user who is not root needs C(sudo) without a
    password for that.
  - The address, the port and the user come from the inventory's variables of O(host). Where the builder is the
    controller itself, the key and the ssh arguments do too. They go into an ssh configuration of its own, in which host
    keys are checked as ever and connections are not shared.
options:
  path:
    description: The store path, which the builder has; one for O(host), and any number for O(store).
    type: list
    elements: str
    required: true
  host:
    description:
      - The host, by its name in the inventory.
      - One of O(host) and O(store) is required.
    type: str
  store:
    description:
      - The URL of a store, such as V(s3://lab-cache?region=eu-central-1), V(file:///srv/cache?compression=zstd) or
        V(ssh-ng://cache).
      - Neither room nor a GC root is asked of it. Where it wants a password, Nix finds one in its C(netrc-file), in
        the files of AWS, or as ssh does.
    type: str
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
      - The host only listens to V(false) when the user is root or one of its C(trusted-users). Of anybody else it
        takes nothing but what is signed.
    type: bool
    default: false
  options:
    description:
      - Nix settings for this run, as in C(nix.conf).
      - With O(store), every wait has an end by C(connect-timeout), C(stalled-download-timeout) and
        C(download-attempts), unless these are set here.
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
  local:
    description:
      - Whether O(host) is the builder itself, to which nothing has to be copied.
      - Set by the action plugin of this module, which refuses it in a task.
    type: bool
    default: false
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
  - module: homelab.nixos.nix_realise
"""

EXAMPLES = r"""
- name: Push each host its system, all at once
  homelab.nixos.nix_copy:
    path: "{{ flake.systems[inventory_hostname] }}"
    host: "{{ inventory_hostname }}"
    ssh_key: /root/.ssh/id_ed25519
  delegate_to: builder
  become: true

- name: Upload all systems to the cache from which hosts fetch them
  homelab.nixos.nix_copy:
    path: "{{ flake.systems.values() }}"
    store: s3://lab-cache?region=eu-central-1
  delegate_to: builder
  become: true
  run_once: true
"""

RETURN = r"""
store_path:
  description: The store path.
  returned: success, with O(host)
  type: str
  sample: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
store_paths:
  description: The store paths.
  returned: success, with O(store)
  type: list
  elements: str
  sample: [/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1]
host:
  description: The host.
  returned: success, with O(host)
  type: str
  sample: web
store:
  description: The URL of the store, as it was given to Nix, without a password.
  returned: success
  type: str
  sample: ssh-ng://web
no_space:
  description: Is V(true) if the host's store has no room for what is to arrive. Nothing was copied then.
  returned: when there is no room
  type: bool
  sample: true
space:
  description: What is needed in the host's store and what is free there, before the copy.
  returned: when something has to be copied to O(host)
  type: dict
  contains:
    needed_bytes:
      description: The sizes of the paths that are missing there, and half a block for each of their files.
      type: int
    free_bytes:
      description: What is free for users other than root.
      type: int
    needed_inodes:
      description: How many files these paths have. V(null) where the file system does not count them.
      type: int
    free_inodes:
      description: How many more files it can hold. V(null) where it does not count them.
      type: int
  sample:
    free_bytes: 20401094656
    free_inodes: 1210000
    needed_bytes: 312475648
    needed_inodes: 9120
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

from ansible_collections.homelab.nixos.plugins.module_utils import _copy
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule


def main() -> None:
    module = LabModule(
        # what the inventory gives to ssh, a ProxyCommand say, is nobody's to read
        unshown=["ssh_config"],
        argument_spec={
            "path": {"type": "list", "elements": "str", "required": True},
            "host": {"type": "str"},
            "store": {"type": "str"},
            "ssh_key": {"type": "path", "no_log": False},
            "user": {"type": "str"},
            "check_signatures": {"type": "bool", "default": False},
            "options": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 1800},
            "ssh_config": {"type": "str"},
            "local": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("host", "store")],
        required_one_of=[("host", "store")],
        supports_check_mode=True,
    )
    # the action plugin has put the user into the configuration
    del module.params["user"]
    text = module.params.pop("ssh_config")
    if text is None and module.params["host"] is not None and not module.params["local"]:
        module.fail_json(msg="nix_copy needs its action plugin. Call it as homelab.nixos.nix_copy.")
    # not module.tmpdir, which may have a blank in it: Nix splits the options of ssh there
    with tempfile.NamedTemporaryFile("w", prefix="ssh_config-", encoding="utf-8") as file:
        file.write(text or "")
        file.flush()
        request = _copy.Request(**module.params, config=file.name)
        try:
            result = _copy.copy(door(module), request)
        except LabError as error:
            module.fail_json(msg=str(error), **error.data)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
