#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_health_check
short_description: Check whether a NixOS host is healthy
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Checks space and inodes, space for kernels, systemd and its units, required services, uptime, memory and the clock.
  - As a gate before an update, also asks whether somebody is logged in, a program blocks the shutdown, a unit is at
    work that shall not be disturbed, something else updates the host, or a file holds it.
  - Fails when a required check is not V(ok). What cannot be told counts as not V(ok).
  - Every check has an end, see O(timeout).
  - Reads only.
options:
  mounts:
    description: File systems of which space and inodes are checked, each named by any path on it.
    type: list
    elements: path
    default: [/]
  max_disk_percent:
    description: How much of the space of each of O(mounts) may be in use, in percent.
    type: int
    default: 90
  max_inode_percent:
    description: How many of the inodes of each of O(mounts) may be in use, in percent.
    type: int
    default: 90
  min_boot_free:
    description: Free space, in MiB, on C(/boot), C(/boot/efi) and C(/efi), where they are file systems of their own.
    type: int
    default: 16
  min_memory:
    description: Available memory, in MiB.
    type: int
    default: 64
  min_uptime:
    description: Minutes since PID 1 started. For a gate before an update only, never for a check after a reboot.
    type: int
    default: 0
  services:
    description: Units that have to be active.
    type: list
    elements: str
    default: []
  ignored_units:
    description: Units that may be failed.
    type: list
    elements: str
    default: []
  baseline_units:
    description:
      - Units that were failed before, see RV(homelab.nixos.nixos_info#module:failed_units). They may be failed still.
    type: list
    elements: str
    default: []
  defer_for_users:
    description:
      - Whether it is a failed check that somebody is logged in. For a gate before an update only.
      - The session in which the module itself runs does not count, nor do other connections of the same user from the
        same address in which nothing runs but the ssh server. A session whose user has logged out does not count,
        whatever was left running in it.
      - Users who only copy files or run commands over ssh are logged in, too, see O(ignored_users).
    type: bool
    default: false
  user_idle:
    description:
      - After how many idle minutes somebody who is logged in does not count any more; V(0) means never.
      - Somebody is idle as long as nothing is typed on their terminals, or as their desktop says. Of a session without
        either, as of one that copies files, it is not known, so it counts.
    type: int
    default: 30
  ignored_users:
    description: Users who may be logged in.
    type: list
    elements: str
    default: []
  defer_for_inhibitors:
    description:
      - Whether it is a failed check that a program blocks the shutdown, see C(systemd-inhibit --list). One that only
        delays it does not count. For a gate before an update only.
    type: bool
    default: false
  busy_units:
    description:
      - Units, or patterns for units, of which none may be at work, whether it is starting, running, reloading or
        stopping. For a gate before an update only.
      - A name or a pattern without a type is one of services, so V(restic-*) is not about timers. A unit that is not
        loaded is not at work.
    type: list
    elements: str
    default: []
  other_updaters:
    description:
      - Units, or patterns for units, that update the host as well. It is a failed check that one of them is active or
        starting; a timer is active while it waits. For a gate before an update only.
      - A name or a pattern without a type is one of services.
    type: list
    elements: str
    default: []
  hold_file:
    description:
      - A file of which it is a failed check that it exists; its first line is the reason. For a gate before an update
        only.
    type: path
  levels:
    description:
      - The level, V(required) or V(wanted), of checks that shall not have their usual one, by name or by kind.
      - The kinds are V(disk), V(inodes), V(boot), V(systemd), V(failed_units), V(service), V(uptime), V(memory),
        V(clock), V(sessions), V(inhibitors), V(busy), V(updater) and V(hold). A name is a kind, with a colon and what
        is checked where there are several, as in V(disk:/srv).
      - V(clock) is V(wanted), all others are V(required).
    type: dict
    default: {}
  settle:
    description:
      - How long, in seconds, an unhealthy host is looked at again before it is called unhealthy. With it, a host also
        has to stay healthy for five seconds, or half of that time if that is less.
    type: int
    default: 0
  timeout:
    description: How long each single question may take, in seconds. A question without an answer is a failed check.
    type: int
    default: 10
requirements:
  - NixOS with Python 3.11 or newer, systemd 250 or newer
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
seealso:
  - ref: ansible_collections.homelab.nixos.nixos_info_module
    description: Tells which systems the host has.
"""

EXAMPLES = r"""
- name: Check all hosts by hand
  # ansible all -m homelab.nixos.lab_health_check
  homelab.nixos.lab_health_check:

- name: Ask whether it may be changed now
  homelab.nixos.lab_health_check:
    min_uptime: 30
    defer_for_users: true
    ignored_users: [backup]
    defer_for_inhibitors: true
    busy_units: [restic-backups-*]
    other_updaters: [nixos-upgrade.timer]
    hold_file: /var/lib/lab-auto-update/hold

- name: Check a name server
  homelab.nixos.lab_health_check:
    services: [unbound.service]
    mounts: [/, /var/lib]
    ignored_units: [fwupd-refresh.service]
    levels:
      clock: required
"""

RETURN = r"""
healthy:
  description: Whether every required check is V(ok).
  returned: always
  type: bool
  sample: false
checks:
  description: All checks.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The kind of the check, and what was checked where there are several of that kind.
      type: str
    level:
      description: V(required) or V(wanted).
      type: str
    status:
      description: V(ok), V(fail), or V(unknown) when it could not be told.
      type: str
    observed:
      description: What was seen.
      type: str
    expected:
      description: What would have been right.
      type: str
    message:
      description: Both, in a sentence.
      type: str
  sample:
    - name: disk:/
      level: required
      status: fail
      observed: 93 %
      expected: at most 90 %
      message: The file system of / has 93 % of its space in use, the limit is 90 %.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.nixos.plugins.module_utils import _health, _vitals
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "mounts": {"type": "list", "elements": "path", "default": ["/"]},
            "max_disk_percent": {"type": "int", "default": 90},
            "max_inode_percent": {"type": "int", "default": 90},
            "min_boot_free": {"type": "int", "default": 16},
            "min_memory": {"type": "int", "default": 64},
            "min_uptime": {"type": "int", "default": 0},
            "services": {"type": "list", "elements": "str", "default": []},
            "ignored_units": {"type": "list", "elements": "str", "default": []},
            "baseline_units": {"type": "list", "elements": "str", "default": []},
            "defer_for_users": {"type": "bool", "default": False},
            "user_idle": {"type": "int", "default": 30},
            "ignored_users": {"type": "list", "elements": "str", "default": []},
            "defer_for_inhibitors": {"type": "bool", "default": False},
            "busy_units": {"type": "list", "elements": "str", "default": []},
            "other_updaters": {"type": "list", "elements": "str", "default": []},
            "hold_file": {"type": "path"},
            "levels": {"type": "dict", "default": {}},
            "settle": {"type": "int", "default": 0},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    params = dict(module.params)
    try:
        params["levels"] = _health.levels(params["levels"])
        checks = _vitals.examine(door(module), settle=params.pop("settle"), wanted=_vitals.Wanted(**params))
    except LabError as error:
        module.fail_json(msg=str(error), healthy=False, checks=[], **error.data)
    healthy = _health.healthy(checks)
    module.exit_json(
        changed=False,
        failed=not healthy,
        healthy=healthy,
        checks=[check.as_result() for check in checks],
        msg="Healthy." if healthy else _health.complaint(checks),
    )


if __name__ == "__main__":
    main()
