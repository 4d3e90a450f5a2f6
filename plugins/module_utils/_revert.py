# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Arm, re-arm, disarm and start the units by which a host puts itself back. See _revert_units.py for what they are.

There is never a moment without an armed timer between the first and the last: the next one is started before the
others are stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ansible_collections.homelab.nixos.plugins.module_utils import _activation_unit, _revert_units
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._revert_units import DIRECTORY, REVERT, STAGES, Stage

_POLL = 0.2
# a stopped service may take its time to end
_LONGEST = 3600.0
_GRACE = 2 * _revert_units.STOP_SECONDS


def arm(run: Run, origin: str, live: str, seconds: Mapping[Stage, float], timeout: float) -> None:
    """Install the units and start the timer of the activation."""
    install(run, origin, live, seconds, timeout)
    guard(run, "activation")


def install(run: Run, origin: str, live: str, seconds: Mapping[Stage, float], timeout: float) -> None:
    """Write the units afresh. A revert that is under way is somebody's, and is not disturbed."""
    for program in (_revert_units.test(origin), _revert_units.systemctl(origin)):
        if not run(["test", "-x", program]).ok:
            raise LabError(
                f"{program} does not exist, so this host could not return to its system by itself.",
                "A system of NixOS has it; look at what /run/current-system is.",
            )
    if is_running(run):
        raise LabError("This host is returning to its old system just now.", "Wait for its end, and look again.")
    remove(run)
    check(run(["mkdir", "-p", DIRECTORY]), doing="Making the directory for units")
    for name, text in _revert_units.texts(origin, live, seconds, timeout).items():
        check(run(["tee", f"{DIRECTORY}/{name}"], data=text), doing=f"Writing {name}")
    check(run(["systemctl", "daemon-reload"]), doing="Loading the units of the revert")


def guard(run: Run, stage: Stage) -> None:
    """From now on it is the time of C(stage) that counts; raises when the revert has begun already."""
    wanted = _revert_units.timer(stage)
    # a timer that runs counts from its first start
    check(run(["systemctl", "restart", wanted]), doing=f"Starting {wanted}")
    run(["systemctl", "stop", *(_revert_units.timer(other) for other in STAGES if other != stage)])
    if has_begun(run):
        raise LabError("This host has begun to return to its old system: nobody confirmed the new one in time.")


def disarm(run: Run) -> bool:
    """Stop the timers. False when the revert has begun: then its outcome is what counts."""
    # no timer can start the service after this, so what is seen then stays true
    run(["systemctl", "stop", *map(_revert_units.timer, STAGES)])
    return not (has_begun(run) or is_armed(run))


def revert(run: Run, timeout: float) -> dict[str, str]:
    """Start the installed revert now, or join one that runs, and wait for its end; returns the state of its unit.

    When it fails, the host reboots.
    """
    if not has_begun(run):
        check(run(["systemctl", "start", "--no-block", REVERT]), doing="Starting the return to the old system")
    return wait(run, timeout)


def wait(run: Run, timeout: float) -> dict[str, str]:
    """Wait for the end of a revert."""
    end = time.monotonic() + timeout + _GRACE
    while True:
        state = show(run)
        if not _runs(state) and not _is_queued(run):
            return state
        if time.monotonic() > end:
            raise LabError(
                f"The return to the old system still runs after {timeout + _GRACE:g} s.",
                f"Look at journalctl --unit={REVERT} on the host.",
            )
        time.sleep(_POLL)


def is_installed(run: Run) -> bool:
    """Whether the units are there; a reboot forgets them."""
    return show(run).get("LoadState") == "loaded"


def is_armed(run: Run) -> bool:
    """Whether a timer runs."""
    done = run(["systemctl", "is-active", *map(_revert_units.timer, STAGES)])
    return "active" in done.stdout.split()


def has_begun(run: Run) -> bool:
    """Whether the revert runs, or ran since it was installed. One that was skipped has not begun."""
    return show(run).get("ActiveState", "inactive") != "inactive" or _is_queued(run)


def is_running(run: Run) -> bool:
    """Whether the revert runs just now."""
    return _runs(show(run))


def remove(run: Run) -> None:
    """Leave nothing of the units; the running system stays what it is. A revert that runs is waited for."""
    disarm(run)
    if is_running(run):
        # stopped, it would count as failed, and reboot the host
        wait(run, _LONGEST)
    names = [REVERT, *map(_revert_units.timer, STAGES)]
    run(["systemctl", "stop", *names])
    run(["systemctl", "reset-failed", *names])
    check(run(["rm", "-f", "--", *(f"{DIRECTORY}/{name}" for name in names)]), doing="Removing the units of the revert")
    check(run(["systemctl", "daemon-reload"]), doing="Forgetting the units of the revert")


def show(run: Run) -> dict[str, str]:
    """The state of the revert's service, in systemd's words."""
    return _activation_unit.show(run, REVERT)


def _runs(state: Mapping[str, str]) -> bool:
    return state.get("ActiveState") in ("activating", "deactivating", "reloading")


def _is_queued(run: Run) -> bool:
    return REVERT in run(["systemctl", "list-jobs", "--no-legend", "--no-pager"]).stdout
