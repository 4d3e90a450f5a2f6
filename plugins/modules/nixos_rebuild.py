#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nixos_rebuild
short_description: Build a NixOS system, activate it, or make it the boot default
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Drives C(nix), C(nix-env) and C(switch-to-configuration) itself, in an order that leaves the boot default alone
    until the new system has been activated and answered on a new connection.
  - Before it activates a system, it makes the host return to the old one by itself, unless somebody confirms the new
    one in time over a new connection. This needs no controller, no network and no Python.
  - C(switch-to-configuration) runs in a systemd unit of its own, so that a lost connection does not kill it half way.
    The action plugin connects again and follows it to its end.
  - A unit that was failed before the activation does not make it a failed one.
  - Whatever changes the host is done under a claim, see M(homelab.nixos.lab_claim). Without O(run_id) the module takes
    one for as long as it runs.
options:
  action:
    description:
      - V(build) builds O(attribute) of O(flake) on this host and roots it against garbage collection.
      - V(dry_activate) says what an activation would do to units.
      - V(test) activates the system. The profile and the boot default stay what they were.
      - V(boot) makes the system the profile and the boot default, and activates nothing. The boot loader is asked
        afterwards whether it took it; when it did not, the profile is put back.
      - V(boot_once) lets the next boot, and no other, start the system, where the boot loader can do that.
      - V(switch) is V(test), a check that the host answers on a new connection, and then V(boot).
      - V(rollback) returns to the system that the open claim came from, and makes it the boot default. A host that does
        not answer is waited for, as it returns by itself.
    type: str
    choices: [build, dry_activate, test, switch, boot, boot_once, rollback]
    default: switch
  system:
    description:
      - Store path of the system; it has to be on this host. Give this, or O(flake) and O(attribute), unless O(action)
        is V(rollback).
    type: path
  flake:
    description: Flake to build the system from.
    type: str
  attribute:
    description: Attribute of O(flake), as in V(nixosConfigurations."web".config.system.build.toplevel).
    type: str
  specialisation:
    description: Activate this specialisation of the system. The boot default is always the system itself.
    type: str
  install_bootloader:
    description: Install the boot loader itself as well, with V(boot) and V(switch).
    type: bool
    default: false
  ignored_units:
    description: Units that may fail.
    type: list
    elements: str
    default: []
  options:
    description: Settings of C(nix.conf) for the build.
    type: dict
    default: {}
  timeout:
    description:
      - How long the build, and how long each activation, may take, in seconds. An activation is stopped then.
    type: int
    default: 1800
  confirm_timeout:
    description:
      - How long after the end of an activation the host waits for somebody to reach it over a new connection, in
        seconds, before it returns to its old system.
    type: int
    default: 120
  verify_timeout:
    description:
      - How long after that the host waits for the next step, the verification, in seconds.
    type: int
    default: 600
  reboot_timeout:
    description:
      - How long V(rollback) waits for a host that does not answer, in seconds; it may be rebooting.
    type: int
    default: 600
  settle:
    description:
      - How long units that failed in an activation may take to come up again, in seconds, and at most half of
        O(confirm_timeout).
    type: int
    default: 30
  require_python:
    description:
      - Refuse to activate a system without C(sw/bin/python3). Set it to V(false) where the interpreter that Ansible
        uses is not part of the system.
    type: bool
    default: true
  witnesses:
    description:
      - Other hosts, by their names in the inventory. If one of them takes a connection before the activation, one has
        to take one after it, or else the new system counts as one in which nobody reached the host.
      - For a host that is its own controller, which would reach itself without any network.
    type: list
    elements: str
    default: []
  run_id:
    description: The claim under which to act, see M(homelab.nixos.lab_claim).
    type: str
  controller:
    description: Who holds the claim; by default this controller, by its machine id.
    type: str
  phase:
    description:
      - Set by the action plugin of this module, never by hand. Which part of V(test) to do, V(activate), V(follow)
        after a lost connection, or V(confirm).
    type: str
    choices: [activate, follow, confirm]
requirements:
  - NixOS with Python 3.11 or newer, Nix 2.26 or newer, systemd 250 or newer
attributes:
  check_mode:
    support: full
    description: Says what would change, from a dry activation. A build adds store paths and a GC root of ours.
  diff_mode:
    support: full
    description: Shows systems, packages, the growth of the closure, units and the reasons for a reboot.
  platform:
    support: full
    platforms: linux
    description: NixOS.
notes:
  - Run it with C(become).
  - When the connection is lost, the result has RV(connection_lost), and the task fails rather than being unreachable.
"""

EXAMPLES = r"""
- name: Activate a system that is on the host already, and make it the boot default
  homelab.nixos.nixos_rebuild:
    action: switch
    system: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.2
  become: true

- name: Build on the host itself
  homelab.nixos.nixos_rebuild:
    action: build
    flake: /etc/nixos
    attribute: nixosConfigurations."web".config.system.build.toplevel
"""

RETURN = r"""
system:
  description: The system that was built or asked for.
  returned: success
  type: str
  sample: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.2
ending:
  description:
    - How C(switch-to-configuration) ended, one of V(ok), V(refused) by a pre-switch check, V(failed),
      V(activate_failed), V(units_failed), V(timed_out), V(killed), V(reboot_needed) when inhibitors or another init
      interface forbid to switch and nothing was activated, V(not_begun) when something was wrong before that,
      V(unconfirmed) when nobody could reach the host afterwards, V(reverted) when the host has put itself back, or
      V(unknown) when its end was not seen.
  returned: unless the connection was lost
  type: str
  sample: ok
activated:
  description: Whether the system is the running one now.
  returned: unless the connection was lost
  type: bool
  sample: true
boot_default:
  description: Whether the system is the profile and the boot default now.
  returned: unless the connection was lost
  type: bool
  sample: true
before:
  description: The running system before.
  returned: unless the connection was lost
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
    system: /nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.1
after:
  description: The system asked for, described like RV(before).
  returned: unless the connection was lost
  type: dict
  sample:
    generation: 2
    kernel: linux-6.12.1
    nixos_version: 26.05.2
    system: /nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.2
packages:
  description:
    - What differs between the closures of RV(before) and RV(after). In each list the kernel is first.
    - A package without a version has an empty one.
  returned: unless the connection was lost
  type: dict
  contains:
    added:
      description: The packages that are new, each with its C(name) and its versions C(after).
      type: list
      elements: dict
    removed:
      description: The packages that are gone, each with its C(name) and its versions C(before).
      type: list
      elements: dict
    changed:
      description: The packages that have other versions, each with its C(name) and versions, C(before) and C(after).
      type: list
      elements: dict
    grouped:
      description: As RV(packages.changed), but with the C(names) of packages that have the very same versions together.
      type: list
      elements: dict
    closure_delta:
      description: By how many bytes the closure grew, without differences below 8 KiB. V(null) if it cannot be told.
      type: int
  sample:
    added: []
    changed:
      - name: linux
        before: ["6.12.1"]
        after: ["6.12.2"]
      - name: hello
        before: ["2.12.1"]
        after: ["2.12.2"]
      - name: initrd-linux
        before: ["6.12.1"]
        after: ["6.12.2"]
    closure_delta: 12902
    grouped:
      - names: [linux, initrd-linux]
        before: ["6.12.1"]
        after: ["6.12.2"]
      - names: [hello]
        before: ["2.12.1"]
        after: ["2.12.2"]
    removed: []
units:
  description: The units V(stopped), V(started), V(restarted), V(reloaded), V(skipped), and newly V(failed).
  returned: unless the connection was lost
  type: dict
  sample:
    failed: []
    reloaded: []
    restarted: [web.service]
    skipped: []
    started: []
    stopped: []
reboot_required:
  description: Whether a reboot is needed before all of the system is in use.
  returned: unless the connection was lost
  type: bool
  sample: true
reboot_reasons:
  description: Why, as in RV(homelab.nixos.nixos_info#module:reboot_reasons).
  returned: unless the connection was lost
  type: list
  elements: str
  sample: [kernel]
reverted:
  description: Whether the host went back to the system it came from.
  returned: unless the connection was lost
  type: bool
  sample: false
output:
  description: The last 50 lines of what C(switch-to-configuration) printed.
  returned: unless the connection was lost
  type: list
  elements: str
  sample: ["restarting the following units: web.service"]
durations:
  description: Seconds that each part took.
  returned: unless the connection was lost
  type: dict
  sample:
    test: 2.1
    boot: 0.8
connection_lost:
  description: Whether the host went away while the module ran, or did not answer on a new connection.
  returned: when it did
  type: bool
  sample: true
"""

from ansible_collections.homelab.nixos.plugins.module_utils import _rebuild
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._diff import rebuild_diff
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule
from ansible_collections.homelab.nixos.plugins.module_utils._state import State


def main() -> None:
    module = LabModule(
        argument_spec={
            "action": {
                "type": "str",
                "choices": ["build", "dry_activate", "test", "switch", "boot", "boot_once", "rollback"],
                "default": "switch",
            },
            "system": {"type": "path"},
            "flake": {"type": "str"},
            "attribute": {"type": "str"},
            "specialisation": {"type": "str"},
            "install_bootloader": {"type": "bool", "default": False},
            "ignored_units": {"type": "list", "elements": "str", "default": []},
            "options": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 1800},
            "confirm_timeout": {"type": "int", "default": 120},
            "verify_timeout": {"type": "int", "default": 600},
            "reboot_timeout": {"type": "int", "default": 600},
            "settle": {"type": "int", "default": 30},
            "require_python": {"type": "bool", "default": True},
            "run_id": {"type": "str"},
            "controller": {"type": "str"},
            "witnesses": {"type": "list", "elements": "str", "default": []},
            "phase": {"type": "str", "choices": ["activate", "follow", "confirm"]},
        },
        mutually_exclusive=[("system", "flake")],
        required_if=[
            ("action", action, ("system", "flake"), True)
            for action in ("build", "dry_activate", "test", "switch", "boot", "boot_once")
        ],
        required_together=[("flake", "attribute")],
        supports_check_mode=True,
    )
    params = dict(module.params)
    # the action plugin's
    del params["reboot_timeout"], params["witnesses"]
    state = State()
    state.log.warn = module.warn
    try:
        request = _rebuild.request(check_mode=module.check_mode, **params)
        result = _rebuild.perform(door(module), state, request)
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)
    for line in result.pop("unknown_lines", ()):
        module.warn(f"Nix said {line!r} of the difference of two closures; please report it.")
    if "before" in result:
        result["diff"] = {"prepared": rebuild_diff(result)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
