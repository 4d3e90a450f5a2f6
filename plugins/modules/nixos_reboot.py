#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nixos_reboot
short_description: Reboot a NixOS host and prove what it booted
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Announces the reboot to whoever is logged in, reboots, waits for a bounded time, and then looks at which boot this
    is and which system was booted.
  - A reboot is proven by a new boot id and by C(/run/booted-system), never by an uptime or by a host that answers.
  - Refuses to reboot a host whose next boot would start anything but O(expected_system), be it the boot default or an
    entry for the next boot only.
  - With O(run_id), the transaction of that run, see M(homelab.nixos.lab_claim), says before the reboot that it comes,
    and afterwards, over a new connection with C(become) and Python, that the new boot was reached. A host with the boot
    guard goes back by itself to the system it came from when nobody says so.
  - M(ansible.builtin.reboot) looks for C(shutdown) in places that NixOS does not have, and never notices that another
    system booted than the one that was meant.
options:
  expected_system:
    description: Store path of the system that has to be booted afterwards.
    type: path
    required: true
  timeout:
    description: How long the host may take from going down to answering again, in seconds of a monotonic clock.
    type: int
    default: 600
  delay:
    description:
      - How long before the reboot it is announced, in seconds. C(shutdown) counts in minutes, it is rounded up to them.
    type: int
    default: 120
  msg:
    description: What people who are logged in are told.
    type: str
    default: Auto-update completed - rebooting
  run_id:
    description: The run that holds the host. Without it, nothing is written to the host's transaction.
    type: str
  controller:
    description: The controller of that run, as in O(homelab.nixos.lab_claim#module:controller).
    type: str
  confirm_timeout:
    description:
      - How long the boot guard waits after its own start until it puts the host back, in seconds, and how long it is
        tried to confirm the new boot.
    type: int
    default: 300
  verify_timeout:
    description: How long the verification after the reboot may take, in seconds. The boot guard waits for it.
    type: int
    default: 600
  patience:
    description:
      - How long, in seconds, a host that cannot be reached before its reboot is asked again, each time over a new
        connection.
    type: int
    default: 0
  phase:
    description:
      - V(prepare), V(order) and V(confirm) are V(all) in three parts, for a host that is its own controller and cannot
        be waited for by it. They need O(run_id).
      - V(prepare) writes down that the reboot comes, and leaves O(night) for it, which
        C(lab-auto-update-resume.service) takes up at the next boot. The host needs that unit, see C(nix/host.nix).
      - V(order) orders the reboot for when the process of this run has ended.
      - V(confirm) looks at what was booted, on the host itself, and confirms it.
    type: str
    choices: [all, prepare, order, confirm]
    default: all
  witnesses:
    description:
      - Other hosts, by their names in the inventory. Those that take a connection with O(phase=prepare) are left with
        the note; with O(phase=confirm), one of them has to take one, or else the boot is not confirmed.
    type: list
    elements: str
    default: []
  night:
    description: With O(phase=prepare), what C(playbooks/resume.yml) has to know of the night.
    type: dict
    default: {}
  silence_url:
    description:
      - URL of an Alertmanager, as C(http://monitoring:9093), in which the host's alerts are silenced from just before
        the reboot until the new boot was confirmed, or given up. A user and a password may be in it.
      - The silence is short and renewed, so that a controller that dies leaves none for longer than five minutes. What
        goes wrong with it is a warning, and changes nothing about the reboot.
      - Not with V(prepare), V(order) and V(confirm) of O(phase), where nobody is there to renew it.
    type: str
    default: ""
  silence_labels:
    description:
      - Labels of the alerts that are this host's, with regular expressions for their whole values.
      - Without it, C(instance) is the name of the host in the inventory, with any port.
    type: dict
attributes:
  check_mode:
    support: full
    description: Does not reboot.
  diff_mode:
    support: none
    description: Has nothing to show.
  platform:
    support: full
    platforms: linux
    description: NixOS.
  action:
    support: full
    description: Runs on the controller.
notes:
  - Run it with C(become).
"""

EXAMPLES = r"""
- name: Reboot into the new system
  homelab.nixos.nixos_reboot:
    expected_system: "{{ target }}"
    timeout: 300
  become: true

- name: Reboot under a claim, and let the host go back if it cannot be reached afterwards
  homelab.nixos.nixos_reboot:
    expected_system: "{{ target }}"
    run_id: 20261122T020000Z-7f3a
    confirm_timeout: 300
  become: true
"""

RETURN = r"""
rebooted:
  description: Whether the host was seen with a new boot id.
  returned: always
  type: bool
  sample: true
boot_id_before:
  description: The identity of the boot before, or V(null) when the host did not answer.
  returned: always
  type: str
  sample: 5c5b9cf9-0a3c-4a57-9b1e-1f2d8a1c2b3d
boot_id_after:
  description: The identity of the boot after, or V(null) when the host did not come back.
  returned: always
  type: str
  sample: 0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09
booted_system:
  description: The system that was booted, or V(null).
  returned: always
  type: str
  sample: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.2
elapsed:
  description: Seconds from the request to the answer.
  returned: always
  type: float
  sample: 31.4
went_back:
  description:
    - Whether the host has booted the system that was booted before, and not O(expected_system). The boot loader or the
      boot guard went back to it.
  returned: always
  type: bool
  sample: false
confirmed:
  description: Whether the host was told that its new boot was reached; V(false) without O(run_id).
  returned: always
  type: bool
  sample: true
later:
  description: Whether the reboot is still to come, after the end of this run; only with V(prepare) and V(order).
  returned: always
  type: bool
  sample: false
connection_lost:
  description: Whether the host did not answer in the end.
  returned: always
  type: bool
  sample: false
"""

from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule


def main() -> None:
    module = LabModule(
        # the settings of an owner are in it
        unshown=["night"],
        argument_spec={
            "expected_system": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 600},
            "delay": {"type": "int", "default": 120},
            "msg": {"type": "str", "default": "Auto-update completed - rebooting"},
            "run_id": {"type": "str"},
            "controller": {"type": "str"},
            "confirm_timeout": {"type": "int", "default": 300},
            "verify_timeout": {"type": "int", "default": 600},
            "patience": {"type": "int", "default": 0},
            "phase": {"type": "str", "choices": ["all", "prepare", "order", "confirm"], "default": "all"},
            "witnesses": {"type": "list", "elements": "str", "default": []},
            "night": {"type": "dict", "default": {}},
            "silence_url": {"type": "str", "default": "", "no_log": True},
            "silence_labels": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    module.fail_json(
        msg="nixos_reboot was called without its action plugin, which is the whole of it. "
        "Call homelab.nixos.nixos_reboot, or set action_plugins beside library in ansible.cfg."
    )


if __name__ == "__main__":
    main()
