# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring what a dead run has left on a host to exactly one outcome, by looking at the host and never by guessing."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from ansible_collections.homelab.nixos.plugins.module_utils import (
    _activation_unit,
    _boot_once,
    _host,
    _info,
    _rebuild,
    _revert,
    _revert_units,
    _roots,
    _transaction,
)
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import FROM_ROOT, PROVEN_ROOT
from ansible_collections.homelab.nixos.plugins.module_utils._state import State
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Systems, drift, name, reboot_reasons
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Step, Torn, Transaction

Word = Literal["failed", "rolled_back", "updated", "pending", "rollback_failed"]
_UNCONFIRMED = "nobody confirmed its new system in time"


class Undecided(LabError):
    """Which system is the good one is for a person to say; the note stays as it is."""


def settle(run: Run, state: State, mine: Transaction, seconds: float, dead_run: str | None) -> dict[str, object]:
    """End the open transaction, unless somebody is still at it; C(mine) is what the caller would hold.

    Returns C(outcome) and C(reason) of the run that had left it, and C(left_by); no outcome when nothing was open.
    C(seconds) is what an activation may take on the way.
    """
    with state.locked():
        found = state.transaction()
        if found is None:
            return {"outcome": None, "reason": "", "left_by": None}
        if isinstance(found, Transaction):
            own = _transaction.is_own(found, mine.controller, mine.run_id)
            # a controller that goes down with its host is dead, and has left to the boot what is to be done
            dead = dead_run if found.controller == mine.controller and not state.is_left(found.run_id) else None
            if not own and not _transaction.is_over(found, time.time(), dead):
                raise _transaction.Held(found, time.time())
            if state.guard_acted(found.run_id) and run(["systemctl", "is-active", "--quiet", _info.BOOT_GUARD]).ok:
                raise LabError("The boot guard is putting this host back just now.", "Look again after its reboot.")
            # from here on it is ours to bring to an end, and not the boot guard's
            state.write(
                replace(
                    found,
                    step=_step(found),
                    controller=mine.controller,
                    controller_name=mine.controller_name,
                    run_id=mine.run_id,
                    process=mine.process,
                    since=mine.since,
                    deadline=mine.deadline,
                )
            )
    try:
        _still(run, found, seconds)
        word, reason = _end_unknown(run, found, seconds) if isinstance(found, Torn) else _end(run, found, seconds)
        _rebuild.clean_up(run)
    except Undecided:
        raise
    except LabError as error:
        # it was touched, and is on none of its systems for sure
        error.data |= {"outcome": "rollback_failed", "changed": True}
        raise
    if word == "rollback_failed":
        # the note stays, so that the next run tries again and nobody takes the host for one that is well
        raise LabError(reason, "Look at the host, and see playbooks/rollback.yml.", {"outcome": word, "changed": True})
    left_by = {"torn": found.reason} if isinstance(found, Torn) else found.as_result()
    with state.locked():
        if word in ("updated", "pending") and isinstance(found, Transaction) and found.target is not None:
            # a list that cannot be read is named by the gate
            with suppress(Unreadable):
                state.forget_failed(found.target)
        # the record is of the run that did all this
        ended = found if isinstance(found, Transaction) else None
        state.close(word, reason, time.time(), ended, rebooted=ended is not None and _was_rebooted(ended, mine))
    return {"outcome": word, "reason": reason, "left_by": left_by}


def _was_rebooted(found: Transaction, mine: Transaction) -> bool:
    """Whether the run that has left a host has rebooted it; before that step, it would have been somebody else."""
    if found.step == "reboot_verification":
        return True
    return found.step in ("reboot", "rollback") and found.boot_id != mine.boot_id


def _step(found: Transaction) -> Step:
    """The step to be noted while it is settled."""
    if found.step in ("claimed", "rollback"):
        return found.step
    return "commit" if found.verified else "rollback"


def _still(run: Run, found: Transaction | Torn, seconds: float) -> None:
    """Wait until nothing moves any more: a boot loader that is being installed, and a revert, which is hurried on."""
    if isinstance(found, Torn) or found.step not in ("claimed", "activation", "verification"):
        # a reboot that was announced; before these steps it would be a person's
        run(["shutdown", "-c", "--no-wall"])
    _rebuild.await_boot(run, seconds)
    if _revert.is_running(run) or _revert.is_armed(run):
        _revert.revert(run, seconds)
    if _activation_unit.runs(_activation_unit.show(run)):
        # the revert that ends it is gone
        run(["systemctl", "stop", _revert_units.ACTIVATION])


def _end(run: Run, found: Transaction, seconds: float) -> tuple[Word, str]:
    systems, _loader = _host.read_systems(run)
    run_was = f"Run {found.run_id} ended at step {found.step}"
    match _transaction.settle(found, systems):
        case "untouched":
            return "failed", f"{run_was}, before anything was activated."
        case "reverted":
            return "rolled_back", f"{run_was}; the host is on {name(str(found.origin))}, because {_UNCONFIRMED}."
        case "finish":
            if _finish(run, systems, str(found.target), seconds):
                booted, now, new = _host.parts(run, [str(systems.booted), str(systems.current), str(found.target)])
                word: Word = "pending" if reboot_reasons(booted, now, new) else "updated"
                if word == "updated":
                    _roots.set_proven(run, str(found.target))
                return word, f"{run_was}, after the verification of its new system; that was finished."
        case "superseded":
            return "failed", f"{run_was}; somebody has activated {name(str(systems.current))} since, which stays."
        case "put_back":
            pass
    if found.origin is None:
        return "rollback_failed", f"{run_was}, and it is not known which system the host came from."
    after, sentence = _rebuild.put_back(run, found, seconds)
    if after.current == after.profile == after.boot_default == found.origin:
        return "rolled_back", f"{run_was}, and {_UNCONFIRMED}. {sentence}"
    return "rollback_failed", f"{run_was}. {sentence}"


def _finish(run: Run, systems: Systems, target: str, seconds: float) -> bool:
    """Make the verified system the boot default, if it is not yet."""
    if not systems.profile == systems.boot_default == target:
        done, default = _rebuild.make_boot_default(run, target, seconds)
        if not (done.verdict.ok and default.system == target):
            return False
    return not _boot_once.missing_files(run, target)


def _end_unknown(run: Run, found: Torn, seconds: float) -> tuple[Word, str]:
    """Nobody knows how far it got: only a host whose systems agree, or one with a system known to be good, is ended."""
    systems, _loader = _host.read_systems(run)
    proven, origin = _host.resolve(run, [PROVEN_ROOT, FROM_ROOT])
    if drift(systems):
        good = systems.boot_default
        if good is None or good not in (proven, origin):
            raise Undecided(
                f"{found.reason} {' and '.join(drift(systems))}, and none of them is known to be good.",
                "Decide which one it shall be: playbooks/rollback.yml goes to it and ends this.",
                {"torn": found.reason},
            )
        lost = Transaction("", "", "", None, 0, 0, "rollback", "", origin=good, target=systems.current)
        systems, sentence = _rebuild.put_back(run, lost, seconds)
        word: Word = "rollback_failed" if drift(systems) else "rolled_back"
        return word, f"{found.reason} {sentence}"
    # the gate says next whether it is well with that
    word = "rolled_back" if systems.current == origin != proven else "failed"
    return word, f"{found.reason} All of its systems are {name(str(systems.current))}."
