# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run switch-to-configuration in a systemd unit of its own, wait for its end, and judge it.

The unit outlives a lost connection, which would kill a child of ours in the middle of the activation
(nixpkgs#462179). It is kept until its result was read: no C(--collect), and C(RemainAfterExit) for the good end.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils import _host
from ansible_collections.homelab.nixos.plugins.module_utils._activation import (
    Ending,
    Units,
    Verdict,
    properties,
    unit_verdict,
    units,
    verdict,
)
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._revert_units import (
    ACTIVATION,
    STOP_SECONDS,
    systemctl,
    timer,
)

# a unit of its own: a revert stops activations, and no boot loader may be left half installed
BOOT = "lab-auto-update-boot.service"
OUTPUT_DIR = "/run/lab-auto-update"
# the unit's own time-out ends it; this much longer is waited for systemd to say so
GRACE = 2 * STOP_SECONDS
_POLL = 0.2
# a unit that failed has settled when it has stayed up for so long, in seconds
_HOLD = 5.0
_PROPERTIES = "--property=LoadState,ActiveState,SubState,Result,ExecMainStatus,ExecMainCode"


@dataclass(frozen=True)
class Activation:
    """How an activation went: the judgement, what happened to units, and what switch-to-configuration printed."""

    verdict: Verdict
    units: Units
    output: str


class Gone(LabError):
    """The unit of the activation is not there, and neither is its result."""


def switch_to_configuration(system: str, specialisation: str | None = None) -> str:
    """The program that activates C(system), or its specialisation."""
    base = f"{system}/specialisation/{specialisation}" if specialisation else system
    return f"{base}/bin/switch-to-configuration"


def require_program(run: Run, program: str) -> None:
    """Refuse a path that is not a system of NixOS, or one that is not on this host, before anything is touched."""
    if not run(["test", "-x", program]).ok:
        raise LabError(f"{program} is not on this host.", "Build or copy the system to this host first, see nix_copy.")


def dry_activate(run: Run, program: str, timeout: float) -> Activation:
    """Say what an activation would do to units."""
    done = run([program, "dry-activate"], timeout=timeout)
    output = done.stdout + done.stderr
    return Activation(verdict(done.rc, output, (), ()), units(output), output)


def start(
    run: Run,
    unit: str,
    program: str,
    action: str,
    timeout: float,
    *,
    guarded_by: str | None = None,
    install_bootloader: bool = False,
) -> None:
    """Start C(program action) in C(unit).

    C(guarded_by) is the system whose armed revert counts the time of the confirmation from the end of this unit on,
    however it ends, and whoever still watches.
    """
    free(run, unit)
    wanted = [
        # the time-out of a oneshot, which RuntimeMaxSec= does not end
        f"TimeoutStartSec={timeout:g}",
        f"TimeoutStopSec={STOP_SECONDS}",
        # truncate: would begin anew with ExecStartPost
        f"StandardOutput=append:{_output(unit)}",
        "StandardError=inherit",
    ]
    if guarded_by is not None:
        confirmation = timer("confirmation")
        wanted += [
            f"ExecStartPost={systemctl(guarded_by)} start --no-block {confirmation}",
            f"OnFailure={confirmation}",
        ]
    check(run(["mkdir", "-p", OUTPUT_DIR]), doing="Making the directory for the output of the activation")
    check(run(["rm", "-f", "--", _output(unit)]), doing="Removing the output of an earlier activation")
    check(
        run(
            [
                "systemd-run",
                f"--unit={unit}",
                f"--description={program} {action}",
                "--service-type=oneshot",
                "--remain-after-exit",
                "--no-block",
                "--no-ask-password",
                "--quiet",
                *(f"--property={each}" for each in wanted),
                *(["--setenv=NIXOS_INSTALL_BOOTLOADER=1"] if install_bootloader else []),
                "--",
                program,
                action,
            ]
        ),
        doing="Starting the activation",
    )


def finish(
    run: Run, unit: str, timeout: float, failed_before: Collection[str], ignored: Sequence[str] = (), settle: float = 0
) -> Activation:
    """Wait for the end of C(unit) and judge it; it may have been started by somebody whose connection was lost.

    C(failed_before) are the units that were failed before, C(ignored) those that may be. Others that failed get
    C(settle) seconds to come up again, and to stay up.
    """
    state = wait(run, unit, timeout)
    output = _host.read_files(run, [_output(unit)]).get(_output(unit), "")
    said = units(output)
    excused = {*failed_before, *ignored}
    new = _new_failures(run, excused, said.failed)
    judged = unit_verdict(state, output, excused, new, timeout)
    if judged.ending is Ending.UNITS_FAILED and settle > 0:
        new = _settled_failures(run, excused, said.failed, settle)
        # those that have come up again are no longer held against it
        judged = unit_verdict(state, output, {*excused, *said.failed} - set(new), new, timeout)
    return Activation(
        judged, Units(said.stopped, said.started, said.restarted, said.reloaded, said.skipped, tuple(new)), output
    )


def show(run: Run, unit: str = ACTIVATION) -> dict[str, str]:
    """The state of C(unit), in systemd's words."""
    patience = time.monotonic() + GRACE
    while True:
        done = run(["systemctl", "show", unit, _PROPERTIES])
        if done.ok:
            return properties(done.stdout)
        # nobody answers while systemd executes itself anew (systemd#25542)
        if time.monotonic() > patience:
            check(done, doing=f"Looking at {unit}")
        time.sleep(_POLL)


def is_known(state: Mapping[str, str]) -> bool:
    """Whether there is such a unit, running or with a result to be read."""
    return state.get("LoadState") == "loaded"


def runs(state: Mapping[str, str]) -> bool:
    """Whether it has not ended yet."""
    return is_known(state) and state.get("SubState") not in ("exited", "failed", "dead")


def free(run: Run, unit: str = ACTIVATION) -> None:
    """Make the unit's name free: a read result is thrown away, a running activation is somebody else's."""
    state = show(run, unit)
    if runs(state):
        raise LabError(
            "Another activation is running on this host.", f"Wait for its end: journalctl --follow --unit={unit}."
        )
    if is_known(state):
        run(["systemctl", "stop", unit])
        run(["systemctl", "reset-failed", unit])


def boot(
    run: Run, program: str, timeout: float, ignored: Sequence[str] = (), install_bootloader: bool = False
) -> Activation:
    """Run C(program boot) to its end in a unit of its own."""
    failed_before = _host.failed_units(run)
    start(run, BOOT, program, "boot", timeout, install_bootloader=install_bootloader)
    done = finish(run, BOOT, timeout, failed_before, ignored)
    free(run, BOOT)
    return done


def wait(run: Run, unit: str, timeout: float) -> dict[str, str]:
    """Wait until C(unit) has ended, and return its state."""
    # polled, not waited for over the bus: an activation may restart both the bus and systemd
    end = time.monotonic() + timeout + GRACE
    while True:
        state = show(run, unit)
        if state.get("ActiveState") == "failed" or state.get("SubState") == "exited":
            return state
        if not is_known(state):
            raise Gone(
                "The unit of the activation is gone, and its result with it.",
                f"Look at journalctl --unit={unit} on the host.",
            )
        if time.monotonic() > end:
            raise LabError(
                f"The activation still runs after {timeout + GRACE:g} s.",
                f"Look at journalctl --unit={unit} on the host.",
            )
        time.sleep(_POLL)


def _new_failures(run: Run, excused: Collection[str], suspects: Collection[str]) -> list[str]:
    """The failed units that are not C(excused), and those of the C(suspects) that try to start just now."""
    failed = set(_host.failed_units(run)) - {ACTIVATION, BOOT}
    listed = run(["systemctl", "list-units", "--state=activating", "--plain", "--no-legend", "--full", "--no-pager"])
    starting = {line.split()[0] for line in listed.stdout.splitlines() if line.strip()} & set(suspects)
    return sorted((failed | starting) - set(excused))


def _settled_failures(run: Run, excused: Collection[str], suspects: Collection[str], settle: float) -> list[str]:
    """What is still failed when nothing was for a while, or after C(settle) seconds."""
    suspects = [*suspects, *_new_failures(run, excused, suspects)]
    end = time.monotonic() + settle
    well_since: float | None = None
    while True:
        failures = _new_failures(run, excused, suspects)
        now = time.monotonic()
        if failures:
            well_since = None
            if now >= end:
                return failures
        else:
            well_since = now if well_since is None else well_since
            if now - well_since >= min(_HOLD, settle):
                return []
        time.sleep(_POLL)


def _output(unit: str) -> str:
    return f"{OUTPUT_DIR}/{unit.removesuffix('.service')}.log"
