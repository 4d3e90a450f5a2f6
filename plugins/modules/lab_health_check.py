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
        V(clock), V(sessions), V(inhibitors), V(busy), V(updater), V(hold), V(window), V(alerts) and V(check). A name is
        a kind, with a colon and what is checked where there are several, as in V(disk:/srv).
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
  checks:
    description:
      - Checks of the owner's own. Each is a dictionary with a C(name), which makes V(check:NAME), and a C(kind).
      - C(tcp) asks whether C(port) of C(host) takes connections. C(host) is V(localhost) when it is not set, and has
        to be set where the controller asks.
      - C(http) asks C(url) for a C(status), V(200) or a list of those that are right. Redirects are not followed, and
        proxies not used. What it answers may have to match the regular expression C(body), which is searched in it, and
        to satisfy the JMESPath expression C(json), which has to give something else than V(false), V(null), zero and
        what is empty. Both are checks of at most 64 KiB; of what is longer nothing can be told. The controller
        evaluates C(json), and needs the Python library jmespath for it. C(ca_path) is a file with certificates;
        C(validate_certs), true when it is not set, may be false.
      - C(command) runs C(argv), a list of words and not a line for a shell, which has to end with the exit code C(rc),
        V(0) when it is not set. Its environment has nothing but C(PATH), that of NixOS, and C(LC_ALL). It runs as the
        user of this module, in check mode, too, and may change nothing.
      - All may have C(from), which is V(host) when it is not set, or V(controller); C(level), V(required) when it is
        not set, or V(wanted), over which O(levels) wins by V(check:NAME); C(timeout), V(10) when it is not set, in
        seconds for each attempt; C(retries), V(0) when it is not set, after the first attempt; and C(interval), V(1)
        when it is not set, in seconds between them.
      - They are made one after the other.
    type: list
    elements: dict
    default: []
  window:
    description:
      - When the host may be changed, as V(22:00-06:00), V(Mon..Fri 23:00-05:30) or V(Sat,Sun 01:00-09:00
        Europe/Vienna), or a list of these; at any time when it is empty.
      - A window belongs to the day on which it opens, and to the controller's time zone unless it names one. A time
        that the clocks leave out on a day is the first that comes after it, and of an hour that comes twice both are
        inside.
      - Asked on the controller, makes V(window).
    type: raw
  hold:
    description:
      - Whether its owner holds the host. A dictionary of C(reason) and, if you like, C(until), the first day on which
        it is not held any more, as V(2026-12-24), by the controller's time; or the reason alone.
      - Asked on the controller, makes V(hold:inventory).
    type: raw
  alerts_url:
    description:
      - URL of a Prometheus or an Alertmanager that the controller asks for alerts of the host that fire. It may have a
        user and a password. Not asked when it is empty. Makes V(alerts).
    type: str
    default: ""
  alerts_api:
    description: What answers at O(alerts_url). An Alertmanager is asked for alerts that are not silenced or inhibited.
    type: str
    choices: [prometheus, alertmanager]
    default: prometheus
  alerts_labels:
    description:
      - Labels of the alerts that are this host's, with regular expressions for their whole values.
      - When it is not set, C(instance) is the host's name in the inventory, with any port. When it is empty, all alerts
        are this host's.
    type: dict
  ignored_alerts:
    description: Names of alerts that may fire.
    type: list
    elements: str
    default: []
  patience:
    description:
      - How long, in seconds, the host is asked again, each time over a new connection, when the connection to it was
        lost or cannot be made.
    type: int
    default: 0
requirements:
  - NixOS with Python 3.11 or newer, systemd 250 or newer
  - jmespath on the controller, for O(checks) with C(json)
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
  action:
    support: full
    description: Answers what is asked on the controller, and evaluates JMESPath.
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

- name: Check that it resolves, that its page is well, and that it may be changed now
  homelab.nixos.lab_health_check:
    checks:
      - name: dns
        kind: tcp
        from: controller
        host: 192.0.2.53
        port: 53
      - name: page
        kind: http
        url: http://localhost:8080/health
        json: status == 'ok' && length(workers) > `1`
        retries: 3
      - name: zone
        kind: command
        argv: [unbound-control, status]
        level: wanted
    window: Mon..Fri 23:00-05:30
    hold:
      reason: The disks are being replaced
      until: 2026-12-24
    alerts_url: http://monitoring:9090
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

from collections.abc import Sequence

from ansible_collections.homelab.nixos.plugins.module_utils import _controller_side, _health, _user_checks, _vitals
from ansible_collections.homelab.nixos.plugins.module_utils._command import PATH, Run, door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import UserCheck

_CONTROLLERS = ("window", "hold", "alerts_url", "alerts_labels", "ignored_alerts", "patience")


def own_checks(run: Run, checks: Sequence[UserCheck], bodies: dict[str, str]) -> list[Check]:
    """Make the owner's checks that are made from here; C(bodies) get what the controller judges."""
    if not checks:
        return []
    # it speaks HTTP, and costs time in every run; only hosts with such checks pay for it
    from ansible_collections.homelab.nixos.plugins.module_utils import _ask_checks

    return _ask_checks.ask_all(run, PATH, checks, bodies)


def main() -> None:
    module = LabModule(
        # the words of a command may be secrets of any look
        unshown=["checks"],
        # what the controller evaluates
        whole=["bodies"],
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
            "checks": {"type": "list", "elements": "dict", "default": []},
            "window": {"type": "raw"},
            "hold": {"type": "raw"},
            "alerts_url": {"type": "str", "default": ""},
            "alerts_api": {"type": "str", "choices": ["prometheus", "alertmanager"], "default": "prometheus"},
            "alerts_labels": {"type": "dict"},
            "ignored_alerts": {"type": "list", "elements": "str", "default": []},
            "patience": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = dict(module.params)
    bodies: dict[str, str] = {}
    try:
        _controller_side.refuse("lab_health_check", params, _CONTROLLERS)
        own = _user_checks.for_the_host(_user_checks.parse(params.pop("checks")))
        params = {name: value for name, value in params.items() if name not in (*_CONTROLLERS, "alerts_api")}
        params["levels"] = {**_user_checks.levels(own), **_health.levels(params["levels"])}
        run, settle = door(module), params.pop("settle")
        wanted = _vitals.Wanted(**params)
        checks = _vitals.examine(run, wanted, settle, lambda: own_checks(run, own, bodies))
    except LabError as error:
        module.fail_json(msg=str(error), healthy=False, checks=[], **error.data)
    healthy = _health.healthy(checks)
    module.exit_json(
        changed=False,
        failed=not healthy,
        healthy=healthy,
        checks=[check.as_result() for check in checks],
        **({"bodies": bodies} if bodies else {}),
        msg="Healthy." if healthy else _health.complaint(checks),
    )


if __name__ == "__main__":
    main()
