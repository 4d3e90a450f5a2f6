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
  - Tells which systems a NixOS host runs, has booted, has as its profile and would boot next, and whether these agree,
    how it recovers from a boot that goes wrong, who is changing it, and which systems failed on it.
  - The boot default is read from the boot loader (systemd-boot through C(bootctl), GRUB, or extlinux), never inferred
    from the system profile.
  - Reads only.
options:
  target:
    description:
      - Store path of a system that is on the host.
      - With it, RV(reboot_reasons) tells what of that system only a reboot brings, and RV(boot_recovery) how the host
        comes back if that system does not boot; without it, it is the running one that is looked at.
    type: path
  hold_file:
    description: A file that holds the host while it exists; its first line is why.
    type: path
    default: /var/lib/lab-auto-update/hold
  log:
    description:
      - Tell as well what the log of the nights has, C(/var/log/lab-auto-update.log) and what it was rotated to.
      - Then, where pipelining is on and the path of the host's Python is set, our own code goes there alone, without
        what Ansible adds to a module, because this is asked of many hosts at once.
    type: dict
    suboptions:
      since:
        description: From when on, in seconds since 1970.
        type: float
        required: true
      newest:
        description: How many of the newest records to tell in any case, whatever they are of.
        type: int
        default: 10
  patience:
    description:
      - How long, in seconds, the host is asked again, each time over a new connection, when the connection to it was
        lost or cannot be made.
    type: int
    default: 0
requirements:
  - NixOS with Python 3.11 or newer, Nix 2.26 or newer, systemd 250 or newer
attributes:
  action:
    support: full
    description: Makes a lost connection a result, has O(patience), and tells RV(is_controller).
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
next_boot:
  description:
    - What the next boot starts, V(null) where it cannot be told. It is another system than the default while the boot
      loader has an entry for the next boot only.
  returned: success
  type: str
  sample: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
one_shot:
  description: Whether the boot loader can start an entry once, and its default the time after that.
  returned: success
  type: bool
  sample: true
boot_guard:
  description:
    - Whether the running system has C(lab-auto-update-boot-guard.service), by which a host goes back by itself when
      nobody confirms the system that it has booted.
  returned: success
  type: bool
  sample: true
target_boot_guard:
  description: Whether O(target) has it.
  returned: when O(target) is given
  type: bool
  sample: true
passphrase_at_boot:
  description:
    - Whether somebody may have to type a passphrase before this host has booted, because a disk that the boot needs is
      encrypted.
    - A key in a TPM, on a network or in a file looks the same. V(true) as well when it cannot be told.
  returned: success
  type: bool
  sample: false
boot_recovery:
  description:
    - How the host comes back from a system that does not boot, or that nobody reaches after its boot.
    - V(automatic) is by itself, on RV(one_shot), the boot guard and a hardware watchdog that systemd feeds.
    - V(on_reset) is by any reset or power cycle. It may come by itself, but a system that hangs is reset by nobody.
    - V(manual) is by a person at the console, who chooses an older entry or types a passphrase.
  returned: success
  type: str
  sample: on_reset
boot_space:
  description: Room on the boot file system, in bytes.
  returned: when O(target) is given
  type: dict
  contains:
    needed:
      description: What O(target) needs there beyond what is there already.
      type: int
    free:
      description: What is free.
      type: int
  sample:
    needed: 41943040
    free: 402653184
transaction:
  description:
    - Who is changing this host, and how far they got, as in C(/var/lib/lab-auto-update/transaction.json). V(null) is
      nobody.
    - With the key C(torn) alone, which says why the file cannot be read, it is somebody of whom nobody knows more.
  returned: success
  type: dict
  sample:
    version: 1
    controller: 4f8a2d1e6b7c4d0f9e3a5b6c7d8e9f01
    controller_name: control
    run_id: 20261122T020000Z-7f3a
    process: {pid: 4711, start: 81021, boot_id: 5c5b9cf9-0a3c-4a57-9b1e-1f2d8a1c2b3d, pid_namespace: 4026531836}
    since: 1795312800
    deadline: 1795313400
    step: verification
    boot_id: 0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09
    from: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
    target: /nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2
    failed_units: []
    verified: false
    guard_seconds: null
    guard_until: null
failed_systems:
  description:
    - The systems that failed on this host, by store path, each with C(reason), C(run_id) and C(time).
    - With the key C(torn) alone, which says why the list cannot be read and what to do about it, it may be any.
  returned: success
  type: dict
  sample:
    /nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2:
      reason: "Units failed with the new system: nginx.service."
      run_id: 20261121T020000Z-0b2c
      time: 1795226700
last:
  description:
    - The transaction that was ended last, with C(outcome), C(reason) and C(ended). V(null) when there is none that
      could be read.
  returned: success
  type: dict
  sample: null
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
proven:
  description: The system that passed its verification last, V(null) when none did yet.
  returned: success
  type: str
  sample: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1
proven_since:
  description:
    - When RV(proven) became that, in seconds since 1970; V(null) unless it is the system that runs.
    - To be proven again does not change it.
  returned: success
  type: int
  sample: 1795375260
deferrals:
  description:
    - The nights in a row in which the host asked not to be touched, see O(homelab.nixos.lab_claim#module:state).
    - V(null) when there are none, or their count cannot be read.
  returned: success
  type: dict
  contains:
    nights:
      description: How many they are; a run counts once.
      type: int
    since:
      description: When the first of them was counted, in seconds since 1970 by the clock of the host.
      type: int
    reason:
      description: Why the host was not touched in the last of them.
      type: str
    run_id:
      description: The last of them.
      type: str
  sample: null
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
hold:
  description: The first line of O(hold_file), or a sentence where it has none; V(null) when there is no such file.
  returned: success
  type: str
  sample: null
log:
  description: What the log of the nights has.
  returned: when O(log) is given, also by a host that is no NixOS
  type: dict
  contains:
    records:
      description:
        - Records as they are in the log, the oldest first.
        - They are how each run since O(log.since) ended for this host, that it was claimed by one that never let go,
          and whole nights; the newest of any kind, O(log.newest) of them; and how the last run of all ended.
      type: list
      elements: dict
    skipped:
      description: How many lines are no records that can be read.
      type: int
  sample:
    records:
      - details: {reason: "", rebooted: false}
        host: web
        operation: outcome
        run_id: 20261122T020000Z-7f3a
        seconds: 42.1
        seq: 7
        status: updated
        time: "2026-11-22T02:03:04.123Z"
        version: 1
    skipped: 0
is_controller:
  description: Whether this host is the controller itself, by the boot that both are in, whatever its name is.
  returned: success, with the action plugin
  type: bool
  sample: false
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

from ansible_collections.homelab.nixos.plugins.module_utils import _controller_side, _info
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule
from ansible_collections.homelab.nixos.plugins.module_utils._state import State


def main() -> None:
    module = LabModule(
        argument_spec={**_info.ARGUMENTS, "patience": {"type": "int", "default": 0}}, supports_check_mode=True
    )
    try:
        _controller_side.refuse("nixos_info", module.params, ["patience"])
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)
    wanted = {name: module.params[name] for name in _info.ARGUMENTS}
    result = _info.answer(door(module), State(), **wanted)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
