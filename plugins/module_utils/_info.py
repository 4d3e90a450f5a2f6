# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that nixos_info tells of a host. Looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _boot_once, _entries, _host, _log_files, _recovery
from ansible_collections.homelab.nixos.plugins.module_utils._activation import properties
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import PROVEN_ROOT, store_path
from ansible_collections.homelab.nixos.plugins.module_utils._state import HOLD, State, hold
from ansible_collections.homelab.nixos.plugins.module_utils._systems import drift, reboot_reasons
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Torn

ARGUMENTS: Mapping[str, Any] = {
    "target": {"type": "path"},
    "hold_file": {"type": "path", "default": HOLD},
    "log": {
        "type": "dict",
        "options": {"since": {"type": "float", "required": True}, "newest": {"type": "int", "default": 10}},
    },
}
BOOT_GUARD = "lab-auto-update-boot-guard.service"
_WATCHDOG = "--property=RuntimeWatchdogUSec,WatchdogDevice,WatchdogLastPingTimestampMonotonic"


def answer(
    run: Run, state: State, *, target: str | None, hold_file: str, log: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The result of nixos_info. What the log has is told by a host as well that is no NixOS, and has the flake."""
    told = {} if log is None else {"log": read_log(state, **log)}
    try:
        return {"changed": False, **look(run, state, target), "hold": hold(hold_file), **told}
    except LabError as error:
        return {"failed": True, "msg": str(error), **error.data, **told}


def look(run: Run, state: State, target: str | None) -> dict[str, object]:
    """What nixos_info returns. C(target) is a system to compare with, the running one by default."""
    systems, boot = _host.read_boot(run)
    # read_boot refuses a host without a current system
    current = str(systems.current)
    aim = current if target is None else store_path(target, "target")
    parts = _host.parts(run, [systems.booted or current, current, aim])
    reasons = reboot_reasons(*parts)
    generations = _host.generations(run)
    guard = has_boot_guard(run, current)
    found: dict[str, object] = {}
    target_guard = guard
    if target is not None:
        target_guard = has_boot_guard(run, aim)
        space = _boot_once.space(run, aim, boot)
        found = {"target_boot_guard": target_guard, "boot_space": {"needed": space.needed, "free": space.free}}
    passphrase = asks_for_passphrase(run)
    proven = _host.resolve(run, [PROVEN_ROOT])[0]
    deferrals = state.deferrals()
    return found | {
        "systems": dict(vars(systems)),
        "drift": drift(systems),
        "boot_loader": boot.loader,
        "boot_id": _host.boot_id(run),
        "next_boot": boot.next_boot,
        "one_shot": boot.one_shot,
        "boot_guard": guard,
        "passphrase_at_boot": passphrase,
        "boot_recovery": _recovery.grade(
            one_shot=boot.one_shot, passphrase=passphrase, guard=target_guard, watchdog=has_watchdog(run)
        ),
        "current": _host.described(run, current, parts[1], generations).as_result(),
        "generations": generations,
        "failed_units": _host.failed_units(run),
        "reboot_required": bool(reasons),
        "reboot_reasons": reasons,
        "transaction": transaction(state),
        "failed_systems": failed_systems(state),
        "last": state.last(),
        "deferrals": None if deferrals is None else dict(vars(deferrals)),
        "proven": proven,
        "proven_since": proven_since(run) if proven == current else None,
    }


def read_log(state: State, since: float, newest: int) -> dict[str, object]:
    """What this host's log of the nights has to tell, see L(worth_telling)."""
    found, skipped = _log_files.read(state.log.path, since, newest)
    told = _entries.worth_telling(found, since, newest)
    return {"records": [entry.as_result() for entry in told], "skipped": skipped}


def proven_since(run: Run) -> int | None:
    """When the proven system became that (Unix time): the root itself is as old, and not what it leads to."""
    done = run(["stat", "--format=%Y", "--", PROVEN_ROOT])
    return int(done.stdout) if done.ok and done.stdout.strip().isdigit() else None


def has_boot_guard(run: Run, system: str) -> bool:
    """Whether C(system) goes back by itself when nobody confirms it after its boot."""
    return run(["test", "-e", f"{system}/etc/systemd/system/{BOOT_GUARD}"]).ok


def has_watchdog(run: Run) -> bool:
    """Whether the hardware resets this host when it hangs."""
    done = run(["systemctl", "show", _WATCHDOG])
    return done.ok and _recovery.watchdog_in_use(properties(done.stdout))


def asks_for_passphrase(run: Run) -> bool:
    """Whether somebody has to be there when this host boots; also when that cannot be told."""
    done = run(["lsblk", "--json", "--output", "NAME,TYPE,FSTYPE,MOUNTPOINTS"])
    asks = _recovery.asks_for_passphrase(done.stdout) if done.ok else None
    if asks is False and _recovery.has_zfs(done.stdout):
        keys = run(["zfs", "get", "-H", "-t", "filesystem,volume", "-o", "value", "keylocation"])
        asks = _recovery.zfs_asks_for_passphrase(keys.stdout) if keys.ok else None
    return asks is not False


def transaction(state: State) -> dict[str, object] | None:
    """Who is changing this host."""
    found = state.transaction()
    if isinstance(found, Torn):
        return {"torn": found.reason}
    return None if found is None else found.as_result()


def failed_systems(state: State) -> dict[str, object]:
    """The systems that failed here."""
    try:
        return {system: dict(vars(failed)) for system, failed in state.failed_systems().items()}
    except Unreadable as error:
        # whoever asks has to see it, and has to see the rest as well
        return {"torn": str(error)}
