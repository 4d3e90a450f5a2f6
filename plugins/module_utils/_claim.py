# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The verbs of lab_claim: take, renew, settle and release the transaction of this host."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

from ansible_collections.homelab.nixos.plugins.module_utils import (
    _host,
    _resume,
    _revert,
    _roots,
    _settle,
    _state,
    _transaction,
)
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import ON_TARGET, Word
from ansible_collections.homelab.nixos.plugins.module_utils._state import State
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Process, Step, Torn, Transaction

_UPTIME = "/proc/uptime"
OUTCOMES: tuple[Word, ...] = get_args(Word)
# the outcomes after which a system is not one that failed here
_GOOD = ("updated", "pending")
# which states an option goes with; it would be ignored by others
_OPTIONS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("renewed",): ("step", "guard_seconds", "resume"),
    ("renewed", "released"): ("proven",),
    ("released",): ("remember", "rebooted"),
    ("released", "noted"): ("outcome", "reason"),
    ("noted",): ("deferral",),
}


@dataclass(frozen=True)
class Claimant:
    """A run that wants this host, or holds it. With C(dry_run) nothing is written."""

    controller: str
    controller_name: str
    run_id: str
    process: Process | None
    seconds: int
    dead_run: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Ending:
    """How a transaction ends, and what is kept of it."""

    outcome: str
    reason: str = ""
    remember: bool = False
    proven: bool = False
    rebooted: bool = False


def claimant(params: Mapping[str, Any], dry_run: bool) -> Claimant:
    """Check the options that say who is asking, as the module takes them."""
    if not params["controller"]:
        raise LabError(
            "lab_claim was called without its action plugin, and nobody said which controller asks.",
            "Call homelab.nixos.lab_claim, or set action_plugins beside library in ansible.cfg.",
        )
    for state, options in _OPTIONS.items():
        for name in options:
            if params["state"] not in state and params[name] not in (None, False, ""):
                wanted = " or ".join(state)
                raise LabError(f"{name} goes with state={wanted}, not with {params['state']}.", "Leave it out.")
    return Claimant(
        controller=_transaction.controller_id(params["controller"]),
        controller_name=params["controller_name"] or params["controller"],
        run_id=_transaction.checked_run_id(params["run_id"]),
        process=None if params["process"] is None else _transaction.process(params["process"]),
        seconds=params["seconds"],
        dead_run=params["dead_run"],
        dry_run=dry_run,
    )


def ending(params: Mapping[str, Any]) -> Ending:
    """How it ends, of the options of the module that say so."""
    words = (params["outcome"] or "", params["reason"])
    return Ending(*words, params["remember"], params["proven"], params["rebooted"])


def take(run: Run, state: State, who: Claimant) -> dict[str, object]:
    """Become the holder, or stay it."""
    boot_id = _host.boot_id(run)
    with _locked(state, who):
        found = state.transaction()
        now = time.time()
        taken = _taken(found, who, now, boot_id)
        # one more minute for the same holder is no change
        had_it = isinstance(found, Transaction) and not _transaction.is_over(found, now, None)
        if taken != found and not who.dry_run:
            if not had_it:
                # before all else: a host that cannot keep a record of what is done to it is left alone
                state.log.write(state.record(who.run_id, "claim", "begun", details={"controller": who.controller}))
            state.write(taken)
        return {"changed": not had_it, "transaction": taken.as_result()}


def renew(
    run: Run,
    state: State,
    who: Claimant,
    step: Step | None = None,
    guard_seconds: int | None = None,
    proven: bool = False,
    resume: str | None = None,
) -> dict[str, object]:
    """Move the deadline, and say which step begins now, or that the running system is proven.

    C(resume) says what finishes the night after a reboot that takes its controller along.
    """
    if resume is not None and step != "reboot":
        raise LabError(f"resume goes with step=reboot, not with {step}.", "Leave it out.")
    boot_id = _host.boot_id(run)
    changes: _transaction.Changes = {}
    if step is not None:
        changes["step"] = step
    if step in ("reboot", "reboot_verification"):
        # what was verified is not the boot that comes now
        changes["verified"] = False
    if step == "reboot_verification":
        # by the clock that the boot guard has, which nobody sets
        changes["guard_until"] = _uptime(run) + who.seconds
    if guard_seconds is not None:
        changes["guard_seconds"] = guard_seconds
    with _locked(state, who):
        if step == "reboot_verification" and state.guard_acted(who.run_id):
            raise LabError(
                "The boot guard has begun to put this host back, because nobody had confirmed its boot in time.",
                data={"claim_lost": True, "reverted": True},
            )
        renewed = _transaction.renew(
            state.transaction(),
            controller=who.controller,
            run_id=who.run_id,
            now=time.time(),
            seconds=who.seconds,
            boot_id=boot_id,
            **changes,
        )
        if resume is not None:
            left = _left(run, who.run_id, renewed.target, resume)
            if not who.dry_run:
                # before the step: a boot that is counted on finds it
                state.leave(left)
        if not who.dry_run:
            if proven:
                prove(run)
            state.write(renewed)
        return {"changed": True, "transaction": renewed.as_result()}


def settle(run: Run, state: State, who: Claimant) -> dict[str, object]:
    """Bring what a run left that did not end to exactly one outcome; says which, and who had left it."""
    boot_id = _host.boot_id(run)
    if who.dry_run:
        found = state.transaction()
        with suppress(_transaction.Unsettled):
            _taken(found, who, time.time(), boot_id)
        left_by = found.as_result() if isinstance(found, Transaction) else None
        return {"changed": found is not None, "transaction": left_by, "outcome": None, "reason": "", "left_by": left_by}
    # it may take a wait, a boot loader, an activation and another boot loader
    mine = _taken(None, replace(who, seconds=min(4 * who.seconds, _transaction.LONGEST)), time.time(), boot_id)
    try:
        told = _settle.settle(run, state, mine, who.seconds, who.dead_run)
    except LabError as error:
        if "held_by" not in error.data:
            status = str(error.data.get("outcome", "failed"))
            state.log.note(state.record(who.run_id, "settle", status, details={"reason": error.what}))
        raise
    if told["left_by"] is not None:
        state.log.note(state.record(who.run_id, "settle", str(told["outcome"]), details={"reason": told["reason"]}))
    return {"changed": told["left_by"] is not None, "transaction": None, **told}


def release(run: Run, state: State, who: Claimant, ending: Ending) -> dict[str, object]:
    """Let go of the host. It was released before when the last transaction is this run's and none is open."""
    if ending.remember and ending.outcome in _GOOD:
        raise LabError(
            f"remember goes with a system that failed, and the outcome is {ending.outcome}.", "Leave remember out."
        )
    with _locked(state, who):
        found = state.transaction()
        if found is None and _was_released(state, who):
            return {"changed": False, "transaction": None}
        now = time.time()
        held = _transaction.own(found, controller=who.controller, run_id=who.run_id, now=now)
        if not who.dry_run:
            # the transaction ends last: what is killed before is settled by the next run
            if ending.outcome in _GOOD:
                _let_it_stay(run)
            if ending.proven:
                prove(run)
            if held.target is not None:
                _keep(state, held.target, who, ending, now)
            if ending.outcome == "updated":
                # a count that stays where it is stops nobody
                with suppress(LabError):
                    state.clear_deferrals()
            state.close(ending.outcome, ending.reason, now, rebooted=ending.rebooted)
        return {"changed": True, "transaction": None}


def note(state: State, who: Claimant, ending: Ending, deferral: bool) -> dict[str, object]:
    """Tell the host how this run ended for it, whoever holds it; and count that it asked not to be touched."""
    before = after = state.deferrals()
    now = time.time()
    if deferral:
        after = _state.deferred(before, ending.reason, who.run_id, now)
    elif ending.outcome in ON_TARGET:
        after = None
    if not who.dry_run:
        if after is None and before is not None:
            state.clear_deferrals()
        elif after is not None and after != before:
            state.defer(ending.reason, who.run_id, now)
        if not _has_its_record(state, who):
            state.log.note(state.record(who.run_id, "outcome", ending.outcome, details={"reason": ending.reason}))
    return {"changed": after != before, "deferrals": None if after is None else dict(vars(after))}


def _let_it_stay(run: Run) -> None:
    """Nothing may take back a system that is said to be well; without a commit its revert is armed still."""
    if _revert.is_installed(run):
        if not _revert.disarm(run):
            raise LabError("This host has begun to return to its old system.", data={"reverted": True})
        _revert.remove(run)


def prove(run: Run) -> None:
    """Make the running system the one that passed verification last."""
    (current,) = _host.resolve(run, [_host.CURRENT])
    if current is None:
        raise LabError(f"{_host.CURRENT} does not lead to a system.", "Look at the host: this is not a running NixOS.")
    _roots.set_proven(run, current)


def _left(run: Run, run_id: str, target: str | None, resume: str) -> _resume.Note:
    """The note for the next boot, if that can make something of it."""
    left = _resume.note(run_id, resume)
    if not run(["test", "-x", left.argv[0]]).ok:
        raise LabError(
            f"{left.argv[0]} does not exist on this host, so nobody could finish the night after its reboot.",
            "Is the controller in a container on it? Then reboot this host by hand, and set lab_reboot to never.",
        )
    if not run(["test", "-e", f"{target}/etc/systemd/system/{_resume.UNIT}"]).ok:
        raise LabError(
            f"Its new system has no {_resume.UNIT}, which finishes the night after the reboot of its own controller.",
            "Set services.lab-auto-update-host.enable in its configuration, or reboot it by hand.",
        )
    return left


def _uptime(run: Run) -> float:
    text = _host.read_files(run, [_UPTIME]).get(_UPTIME, "")
    try:
        return float(text.split()[0])
    except (ValueError, IndexError) as error:
        raise Unreadable(f"{_UPTIME} holds {text!r}.") from error


def _taken(found: Transaction | Torn | None, who: Claimant, now: float, boot_id: str) -> Transaction:
    return _transaction.take(
        found,
        controller=who.controller,
        controller_name=who.controller_name,
        run_id=who.run_id,
        process=who.process,
        now=now,
        seconds=who.seconds,
        boot_id=boot_id,
        dead_run=who.dead_run,
    )


def _keep(state: State, target: str, who: Claimant, ending: Ending, now: float) -> None:
    if ending.remember:
        state.remember_failed(target, ending.reason or ending.outcome, who.run_id, now)
    elif ending.outcome in _GOOD:
        # a list that cannot be read is named by the next gate; this update went well
        with suppress(Unreadable):
            state.forget_failed(target)


def _has_its_record(state: State, who: Claimant) -> bool:
    """Whether the log has the end of this run, or will have it when the run lets go of this host."""
    found = state.transaction()
    holds = isinstance(found, Transaction) and _transaction.is_own(found, who.controller, who.run_id)
    return holds or _was_released(state, who)


def _was_released(state: State, who: Claimant) -> bool:
    last = state.last() or {}
    return (last.get("controller"), last.get("run_id")) == (who.controller, who.run_id)


@contextmanager
def _locked(state: State, who: Claimant) -> Iterator[None]:
    """The lock of the state; a dry run leaves not even a lock file behind."""
    if who.dry_run:
        yield
    else:
        with state.locked():
            yield
