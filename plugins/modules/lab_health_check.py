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
  levels:
    description:
      - The level, V(required) or V(wanted), of checks that shall not have their usual one, by name or by kind.
      - The kinds are V(disk), V(inodes), V(boot), V(systemd), V(failed_units), V(service), V(uptime), V(memory) and
        V(clock). A name is a kind, with a colon and what is checked where there are several, as in V(disk:/srv).
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
