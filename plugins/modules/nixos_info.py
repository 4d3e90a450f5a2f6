#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nixos_info
short_description: Look at the systems of a NixOS host
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Tells which systems a NixOS host runs, has booted, has as its profile and would boot next, and whether these agree.
  - The boot default is read from the boot loader (systemd-boot through C(bootctl), GRUB, or extlinux), never inferred
    from the system profile.
  - Reads only.
options:
  target:
    description:
      - Store path of a system that is on the host.
      - With it, RV(reboot_reasons) tells what of that system only a reboot brings; without it, what of the running one.
    type: path
requirements:
  - NixOS with Python 3.11 or newer, Nix 2.26 or newer, systemd 250 or newer
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: none
    description: Has nothing to show.
  platform:
    support: full
    platforms: linux
    description: NixOS.
notes:
  - Run it with C(become), C(bootctl) reads the EFI system partition as root only.
"""

EXAMPLES = r"""
- name: Look at the host
  homelab.nixos.nixos_info:
  become: true
  register: host

- name: Say why it wants a reboot
  ansible.builtin.debug:
    msg: "{{ host.reboot_reasons | join(', ') }}"
  when: host.reboot_required
"""

RETURN = r"""
systems:
  description: The four systems of the host. A system that cannot be told is V(null).
  returned: success
  type: dict
  contains:
    current:
      description: What C(/run/current-system) is.
      type: str
    booted:
      description: What C(/run/booted-system) is.
      type: str
    profile:
      description: What C(/nix/var/nix/profiles/system) is.
      type: str
    boot_default:
      description: What the default entry of the boot loader starts.
      type: str
  sample:
    boot_default: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
    booted: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
    current: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
    profile: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
drift:
  description: A sentence for each disagreement of current system, profile and boot default; empty when they agree.
  returned: success
  type: list
  elements: str
  sample: []
boot_loader:
  description: The boot loader that was found, one of V(systemd-boot), V(grub), V(extlinux), V(unknown).
  returned: success
  type: str
  sample: systemd-boot
boot_id:
  description: The kernel's identity of this boot. It changes with every boot, and with nothing else.
  returned: success
  type: str
  sample: 5c5b9cf9-0a3c-4a57-9b1e-1f2d8a1c2b3d
current:
  description: The running system as people know it.
  returned: success
  type: dict
  contains:
    system:
      description: Its store path.
      type: str
    generation:
      description: The newest generation of the system profile that holds it, or V(null).
      type: int
    nixos_version:
      description: Its version of NixOS.
      type: str
    kernel:
      description: Its kernel.
      type: str
  sample:
    generation: 1
    kernel: linux-6.12.1
    nixos_version: 26.05.1
    system: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
generations:
  description: The generations of the system profile, newest first.
  returned: success
  type: list
  elements: dict
  contains:
    generation:
      description: Its number.
      type: int
    system:
      description: The system it holds.
      type: str
    time:
      description: When it was made, in seconds since 1970.
      type: int
  sample:
    - generation: 1
      system: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
      time: 1795375200
failed_units:
  description: All units that are failed, or wait to be restarted because they failed.
  returned: success
  type: list
  elements: str
  sample: []
reboot_required:
  description: Whether O(target), or the running system, has parts that only a reboot brings.
  returned: success
  type: bool
  sample: false
reboot_reasons:
  description:
    - Which parts these are, of V(kernel), V(initrd), V(kernel-modules), V(kernel-params), V(systemd),
        V(init-interface) and V(switch-inhibitor NAME).
  returned: success
  type: list
  elements: str
  sample: [kernel, initrd]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.nixos.plugins.module_utils import _host
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def main() -> None:
    module = AnsibleModule(argument_spec={"target": {"type": "path"}}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, **_host.look(door(module), module.params["target"]))
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)


if __name__ == "__main__":
    main()
