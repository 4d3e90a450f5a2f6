# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a host's night ended, told from the evidence alone. Pure.

Evidence are the results of the steps, by the names of L(STEPS); a step that was not made, or was skipped, is not there.
An outcome starts pessimistic and gets better by positive evidence only: what nobody saw did not happen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ansible_collections.homelab.nixos.plugins.module_utils._activation import UNTOUCHED, Ending
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import utc

Word = Literal[
    "updated",
    "pending",
    "unchanged",
    "deferred",
    "held",
    "unreachable",
    "failed",
    "rolled_back",
    "rollback_failed",
    "lost",
]
BAD: frozenset[str] = frozenset({"failed", "rolled_back", "rollback_failed", "lost"})
# A host that ended so runs what the flake gives it. No set: hosts are asked for the word, and it may be anything.
ON_TARGET: tuple[Word, ...] = ("updated", "pending", "unchanged")

STEPS = (
    "probe",
    "settle",
    "gate",
    "prepare",
    "copy",
    "admission",
    "claim",
    "look_again",
    "gate_again",
    "activation",
    "verification",
    "members",
    "reboot_gate",
    "commit",
    "boot_once",
    "reboot",
    "reboot_verification",
    "reboot_members",
    "commit_booted",
    "proof",
    "witness",
    "rollback",
    "rollback_reboot",
    "rollback_verification",
    "rollback_proof",
    "release",
    "goodbye",
)
# in these the host is changed, so a host that goes away during one of them is lost
_NOT_CHANGING = ("members", "reboot_gate", "reboot_members", "witness", "release")
_CHANGING = tuple(step for step in STEPS[STEPS.index("activation") :] if step not in _NOT_CHANGING)
# the answers of these are no failures of the host
_ASKING = ("admission", "reboot_gate", "witness")
# after these an untouched host may boot something else all the same
_BOOTING = ("commit", "boot_once")

Evidence = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """One outcome word of the night and why.

    C(decided): nothing that is still to be done tonight can change it. C(remember): it was the system that failed here,
    and it is not tried again until it changes. C(counted): it says something about the update, and not only about a
    controller that saw nobody. C(deferral): the host asked not to be touched, or not to be rebooted.
    """

    word: Word
    reason: str = ""
    decided: bool = True
    remember: bool = False
    counted: bool = True
    deferral: bool = False

    @property
    def bad(self) -> bool:
        return self.word in BAD


def outcome(
    evidence: Mapping[str, Any],
    target: str | None,
    build_failure: str = "",
    adopt_drift: bool = False,
    dry_run: bool = False,
    retry_failed: bool = False,
    closed: str = "",
    rebooted_below: bool = False,
) -> Outcome:
    """The outcome of a host for which C(target) is the system wanted, C(None) when none was built.

    C(build_failure) says why there is none for this host, where there are some for others. C(closed) says why nobody
    may touch its stage tonight. C(rebooted_below): the machine that it runs on was rebooted tonight, and it with it.
    """
    made = steps(evidence)
    told = _before_the_rollout(made, target, build_failure, adopt_drift, retry_failed, closed)
    if told is None:
        # without a target, every way through the steps before the rollout ends in an outcome
        told = _of_the_rollout(made, str(target), dry_run, rebooted_below)
    if nobody(made.get("witness", {}).get("results") or ()):
        told = _unseen(told)
    return replace(told, deferral=True) if told.word == "deferred" else told


def went_away(evidence: Mapping[str, Any]) -> bool:
    """Whether the host could not be reached in one of its steps since its turn began."""
    made = steps(evidence)
    if made.get("goodbye", {}).get("failed"):
        return True
    return any(_lost(made[step]) for step in STEPS[STEPS.index("claim") :] if step in made)


def steps(evidence: Mapping[str, Any]) -> Evidence:
    """The steps that were made: registered results of skipped tasks are no evidence."""
    return {step: evidence[step] for step in STEPS if evidence.get(step) and not evidence[step].get("skipped")}


def must_be_put_back(evidence: Mapping[str, Any], target: str | None) -> bool:
    """Whether the host may run, or boot, something else than the system it came from."""
    made = steps(evidence)
    if "activation" not in made or (target is not None and _is_well(made, target)):
        return False
    systems = made.get("look_again", {}).get("systems", {})
    if systems.get("current") == target:
        # it has had the target before tonight: only a boot of it leads away from what it had
        reboot = made.get("reboot", {})
        return systems.get("booted") != target and (bool(reboot.get("rebooted")) or _lost(reboot))
    return not _is_untouched(made["activation"]) or any(step in made for step in _BOOTING)


def reboots_later(evidence: Mapping[str, Any], target: str | None) -> str | None:
    """The system that a host reboots into when the night has closed, because its controller is on it."""
    made = steps(evidence)
    if made.get("rollback_reboot", {}).get("later"):
        return str(made["rollback"]["system"])
    return target if made.get("reboot", {}).get("later") and "rollback" not in made else None


def _went_wrong(made: Evidence) -> bool:
    """Whether a step that changes a host failed, other than an activation that a reboot makes up for."""
    return any(
        made[step].get("failed") and made[step].get("ending") != Ending.REBOOT_NEEDED.value
        for step in _CHANGING
        if step in made
    )


def _before_the_rollout(
    made: Evidence, target: str | None, build_failure: str, adopt_drift: bool, retry_failed: bool, closed: str
) -> Outcome | None:
    probe, gate, prepare = made.get("probe", {}), made.get("gate", {}), made.get("prepare", {})
    if not probe or _lost(probe):
        return Outcome("unreachable", _message(probe))
    if "systems" not in probe:
        return Outcome("deferred", f"The host could not be looked at: {_message(probe)}")
    if made.get("settle", {}).get("failed"):
        return _unsettled(made["settle"])
    if _lost(gate):
        return Outcome("unreachable", _message(gate))
    if not gate.get("healthy"):
        return Outcome("deferred", _message(gate) or "Its health could not be told.")
    if probe["drift"] and not adopt_drift:
        return Outcome("deferred", f"Drift: {'; '.join(probe['drift'])}.")
    if target is None and build_failure and not prepare.get("failed"):
        return Outcome("failed", build_failure)
    if prepare.get("failed") or target is None:
        return Outcome("held", f"Nothing was built: {_message(prepare)}")
    systems = probe["systems"]
    same = systems["current"] == systems["profile"] == systems["boot_default"] == target
    if same and not probe["reboot_required"]:
        return Outcome("unchanged")
    failed_systems = probe.get("failed_systems", {})
    if "torn" in failed_systems:
        return Outcome("deferred", str(failed_systems["torn"]))
    failed_before = failed_systems.get(target)
    if failed_before and not retry_failed:
        return Outcome(
            "held",
            f"This system failed here in run {failed_before['run_id']}: {failed_before['reason']}"
            " It is tried again when it changes, or with lab_retry_failed.",
        )
    if closed:
        return Outcome("held", closed)
    copy = made.get("copy", {})
    if copy.get("failed") and copy.get("no_space"):
        return Outcome("deferred", _message(copy))
    if copy.get("failed"):
        return Outcome("failed", f"The new system did not reach the host: {_message(copy)}")
    return None


def _of_the_rollout(made: Evidence, target: str, dry_run: bool, rebooted_below: bool) -> Outcome:
    claim, look, gate, activation = (made.get(step, {}) for step in ("claim", "look_again", "gate_again", "activation"))
    if not claim:
        admission = made.get("admission", {})
        if admission.get("verdict") == "held":
            return Outcome("held", str(admission["reason"]))
        return Outcome("held", "Its turn did not come.", decided=False)
    if _lost(claim) or _lost(look):
        return Outcome("failed", "It stopped answering before anything was activated.")
    if claim.get("failed"):
        return Outcome("deferred", _message(claim) or "It could not be claimed.")
    systems = made["probe"]["systems"]
    # what a host booted last is its way back where it runs the target already
    origin = systems.get("booted") if systems["current"] == target else systems["current"]
    same_boot = rebooted_below or look.get("boot_id") == made["probe"].get("boot_id")
    # it may have booted what it only ran before
    anew = {"booted": ""} if rebooted_below else {}
    if {**look.get("systems", {}), **anew} != {**systems, **anew} or not same_boot:
        unseen = _message(look) or "It could not be looked at again."
        return Outcome("deferred", _who_came_between(made["probe"], look) if look.get("systems") else unseen)
    if not gate.get("healthy"):
        if _lost(gate):
            return Outcome("failed", "It stopped answering before anything was activated.")
        return Outcome("deferred", _message(gate) or "Its health could not be told.")
    if dry_run and activation:
        failed = activation.get("failed")
        return Outcome("failed", _message(activation)) if failed else Outcome("unchanged", "It would be updated.")

    reboot = made.get("reboot", {})
    if reboot.get("later") and "rollback" not in made and not _went_wrong(made):
        due = ", ".join(activation.get("reboot_reasons") or ()) or "asked for"
        return Outcome("pending", f"It is its own controller, and reboots when the night has closed: {due}.")
    if _is_well(made, target) and not made.get("goodbye", {}).get("failed"):
        reasons = made["proof"]["reboot_reasons"]
        if reboot and not reboot.get("rebooted"):
            return Outcome("pending", _message(reboot) or "It was not rebooted.")
        if reasons:
            kept = made.get("reboot_gate", {})
            due = f"A reboot is due: {', '.join(reasons)}."
            return (
                Outcome("pending", f"{_message(kept)} {due}".strip(), deferral=True)
                if _refuses(kept)
                else Outcome("pending", due)
            )
        return Outcome("updated")

    failure = _first_failure(made)
    why = _message(failure)
    if "rollback" in made:
        back = _is_proven(made.get("rollback_proof", {}), origin)
        if back and not made.get("goodbye", {}).get("failed"):
            return _of_the_rollback(made, why)
        # one that was reachable until it was to go back has failed to go back
        word: Word = "lost" if _lost_in_the_end(made) and (back or _lost(failure)) else "rollback_failed"
        return Outcome(word, f"{why} {_message(made['rollback'])}".strip())
    if activation.get("ending") == "reboot_needed" and not any(step in made for step in _BOOTING):
        if _refuses(made.get("reboot_gate", {})):
            return Outcome("deferred", f"It can only be updated with a reboot. {_message(made['reboot_gate'])}")
        return Outcome("held", f"{why} It may not be rebooted: see lab_reboot.")
    if _lost_in_the_end(made):
        return Outcome("lost", why)
    if not activation:
        return Outcome("failed", why or "Nothing was activated.", decided=False)
    if _is_untouched(activation) or systems["current"] == target:
        return Outcome("failed", why or "It was not activated.")
    return Outcome("lost", why or "Nobody saw how its update ended.", decided=False)


def _of_the_rollback(made: Evidence, why: str) -> Outcome:
    """What to say of a host that was seen back on its old system."""
    check = made.get("rollback_verification", {})
    if not check.get("healthy"):
        said = "Not caused by the update, the old system fails its checks, too"
        if not check.get("checks"):
            said = "Whether the old system is healthy could not be told"
        return Outcome("rolled_back", f"{why} {said}: {_message(check) or 'nobody asked.'}")
    due = made["rollback_proof"]["reboot_reasons"]
    reason = f"{why} A reboot is due: {', '.join(due)}." if due else why
    return Outcome("rolled_back", reason, remember=_is_to_blame(made))


def _is_to_blame(made: Evidence) -> bool:
    """Whether it was the new system that failed, and not its boot loader, a reboot that was refused, or we."""
    result = _first_failure(made)
    step = next((step for step, each in made.items() if each is result), "")
    if step == "activation":
        return _lost(result) or result.get("ending") not in (None, Ending.UNKNOWN.value)
    if step == "reboot":
        return _lost(result) or bool(result.get("rebooted"))
    return step in ("verification", "members", "reboot_verification", "reboot_members")


def _first_failure(made: Evidence) -> Mapping[str, Any]:
    """The result of the step that went wrong first."""
    return next((result for step, result in made.items() if result.get("failed") and step not in _ASKING), {})


def _refuses(gate: Mapping[str, Any]) -> bool:
    """Whether a gate was asked and does not say that all is well."""
    return bool(gate) and not gate.get("healthy")


def _unseen(told: Outcome) -> Outcome:
    """What to say of a host that went away when the controller reached nobody else either."""
    if told.word == "failed":
        return Outcome(
            "held", f"The controller could reach nobody. Nothing was activated. {told.reason}", counted=False
        )
    if not told.bad:
        return told
    reason = f"Unconfirmed, the controller could reach nobody: {told.reason}"
    return replace(told, reason=reason, remember=False, counted=False)


def _unsettled(settle: Mapping[str, Any]) -> Outcome:
    """What to say of a host that another run has left in the middle of something, or is changing just now."""
    if settle.get("held_by"):
        return Outcome("deferred", _message(settle))
    if _lost(settle):
        return Outcome("lost", f"It went away while the leftovers of another run were settled: {_message(settle)}")
    word: Word = "rollback_failed" if settle.get("outcome") == "rollback_failed" else "deferred"
    return Outcome(word, f"What another run left could not be settled: {_message(settle)}")


def _who_came_between(probe: Mapping[str, Any], look: Mapping[str, Any]) -> str:
    last = look.get("last") or {}
    if not last or last == probe.get("last"):
        return "Somebody else changed or rebooted it since the night began."
    holder = f"{last.get('controller_name')} (controller {last.get('controller')}), run {last.get('run_id')}"
    since = utc(float(last.get("since") or 0))
    return f"Since the night began it was held by {holder}, since {since}, which ended with {last.get('outcome')}."


def _is_untouched(activation: Mapping[str, Any]) -> bool:
    """Whether an activation says that it left the host as it was; one that says nothing may have done anything."""
    return not activation.get("changed") and activation.get("ending") in UNTOUCHED


def _is_well(made: Evidence, target: str) -> bool:
    """Whether the host was seen healthy with the target, and booted with it if it was rebooted tonight."""
    checks = [made[step] for step in ("verification", "reboot_verification") if step in made]
    proof = made.get("proof", {})
    booted = not made.get("reboot", {}).get("rebooted") or (proof.get("systems") or {}).get("booted") == target
    return bool(checks) and bool(checks[-1].get("healthy")) and booted and _is_proven(proof, target)


def _is_proven(look: Mapping[str, Any], system: str) -> bool:
    systems = look.get("systems") or {}
    return bool(systems) and systems["current"] == systems["profile"] == systems["boot_default"] == system


def _lost_in_the_end(made: Evidence) -> bool:
    """Whether the last of the changing steps found nobody there."""
    last = [made[step] for step in _CHANGING if step in made]
    return bool(last) and _lost(last[-1])


def nobody(looks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether none of those that were asked answered; what the controller sees of itself is no answer."""
    others = [look for look in looks if not look.get("is_controller")]
    return bool(others) and all(_lost(look) for look in others)


def _lost(result: Mapping[str, Any]) -> bool:
    # a task that is not ours still reports unreachable
    return bool(result.get("connection_lost") or result.get("unreachable"))


def _message(result: Mapping[str, Any]) -> str:
    """Why a step failed, in its own words; a look that was well, but not what was hoped for, tells what it saw."""
    several = [one for one in result.get("results") or () if one.get("failed")]
    if several:
        return " ".join(f"{one.get('item')}: {_message(one)}" for one in several)
    words = str(result.get("msg") or "").strip()
    # what Ansible puts where a result failed by failed_when alone
    if words and not words.startswith("Task failed: "):
        return words
    systems = result.get("systems") or {}
    names = {"current": "It runs", "profile": "its profile is", "boot_default": "its boot default is"}
    return f"{', '.join(f'{said} {systems[key]}' for key, said in names.items())}." if systems else ""
