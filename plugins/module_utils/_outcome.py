# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a host's night ended, told from the evidence alone. Pure.

Evidence are the results of the steps, by the names of L(STEPS); a step that was not made, or was skipped, is not there.
An outcome starts pessimistic and gets better by positive evidence only: what nobody saw did not happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ansible_collections.homelab.nixos.plugins.module_utils._activation import UNTOUCHED
from ansible_collections.homelab.nixos.plugins.module_utils._systems import name

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

STEPS = (
    "probe",
    "gate",
    "prepare",
    "copy",
    "look_again",
    "gate_again",
    "activation",
    "verification",
    "commit",
    "reboot",
    "reboot_verification",
    "proof",
    "rollback",
    "rollback_reboot",
    "rollback_verification",
    "rollback_proof",
    "goodbye",
)
# in these the host is changed, so a host that goes away during one of them is lost
_CHANGING = STEPS[STEPS.index("activation") :]

Evidence = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """One outcome word of the night and why; C(decided): nothing that is still to be done tonight can change it."""

    word: Word
    reason: str = ""
    decided: bool = True

    @property
    def bad(self) -> bool:
        return self.word in BAD


def outcome(
    evidence: Mapping[str, Any], target: str | None, adopt_drift: bool = False, dry_run: bool = False
) -> Outcome:
    """The outcome of a host for which C(target) is the system wanted, C(None) when none was built."""
    made = steps(evidence)
    early = _before_the_rollout(made, target, adopt_drift)
    # without a target, every way through the steps before the rollout ends in an outcome
    return early if early is not None else _of_the_rollout(made, str(target), dry_run)


def steps(evidence: Mapping[str, Any]) -> Evidence:
    """The steps that were made: registered results of skipped tasks are no evidence."""
    return {step: evidence[step] for step in STEPS if evidence.get(step) and not evidence[step].get("skipped")}


def must_be_put_back(evidence: Mapping[str, Any], target: str | None) -> bool:
    """Whether the host may run, or boot, something else than the system it came from."""
    made = steps(evidence)
    if made.get("look_again", {}).get("systems", {}).get("current") == target:
        # it has had the target before tonight, and going back to that would be no way back
        return False
    return "activation" in made and (not _is_untouched(made["activation"]) or "commit" in made)


def _before_the_rollout(made: Evidence, target: str | None, adopt_drift: bool) -> Outcome | None:
    probe, gate, prepare = made.get("probe", {}), made.get("gate", {}), made.get("prepare", {})
    if not probe or _lost(probe):
        return Outcome("unreachable", _message(probe))
    if "systems" not in probe:
        return Outcome("deferred", f"The host could not be looked at: {_message(probe)}")
    if _lost(gate):
        return Outcome("unreachable", _message(gate))
    if not gate.get("healthy"):
        return Outcome("deferred", _message(gate) or "Its health could not be told.")
    if probe["drift"] and not adopt_drift:
        return Outcome("deferred", f"Drift: {'; '.join(probe['drift'])}.")
    if prepare.get("failed") or target is None:
        return Outcome("held", f"Nothing was built: {_message(prepare)}")
    systems = probe["systems"]
    same = systems["current"] == systems["profile"] == systems["boot_default"] == target
    if same and not probe["reboot_required"]:
        return Outcome("unchanged")
    copy = made.get("copy", {})
    if copy.get("failed"):
        return Outcome("failed", f"The new system did not reach the host: {_message(copy)}")
    return None


def _of_the_rollout(made: Evidence, target: str, dry_run: bool) -> Outcome:
    look, gate, activation = (made.get(step, {}) for step in ("look_again", "gate_again", "activation"))
    if not look:
        return Outcome("held", "Its turn did not come.", decided=False)
    if _lost(look):
        return Outcome("failed", "It stopped answering before anything was activated.")
    origin = made["probe"]["systems"]["current"]
    if look.get("systems") != made["probe"]["systems"] or look.get("boot_id") != made["probe"].get("boot_id"):
        return Outcome("deferred", _message(look) or "Somebody else changed or rebooted it since the night began.")
    if not gate.get("healthy"):
        if _lost(gate):
            return Outcome("failed", "It stopped answering before anything was activated.")
        return Outcome("deferred", _message(gate) or "Its health could not be told.")
    if dry_run and activation:
        failed = activation.get("failed")
        return Outcome("failed", _message(activation)) if failed else Outcome("unchanged", "It would be updated.")

    reboot = made.get("reboot", {})
    if _is_well(made, target) and not made.get("goodbye", {}).get("failed"):
        reasons = made["proof"]["reboot_reasons"]
        if reboot and not reboot.get("rebooted"):
            return Outcome("pending", _message(reboot) or "It was not rebooted.")
        return Outcome("pending", f"A reboot is due: {', '.join(reasons)}.") if reasons else Outcome("updated")

    why = next((_message(result) for result in made.values() if result.get("failed")), "")
    if "rollback" in made:
        well = made.get("rollback_verification", {}).get("healthy")
        if _is_proven(made.get("rollback_proof", {}), origin) and not made.get("goodbye", {}).get("failed"):
            if not well:
                return Outcome("rollback_failed", f"{why} Back on {name(origin)}, which is not healthy either.")
            due = made["rollback_proof"]["reboot_reasons"]
            return Outcome("rolled_back", f"{why} A reboot is due: {', '.join(due)}." if due else why)
        word: Word = "lost" if _lost_in_the_end(made) else "rollback_failed"
        return Outcome(word, f"{why} {_message(made['rollback'])}".strip())
    if activation.get("ending") == "reboot_needed" and "commit" not in made:
        return Outcome("held", f"{why} lab_reboot is never.")
    if _lost_in_the_end(made):
        return Outcome("lost", why)
    if activation and (_is_untouched(activation) or origin == target):
        return Outcome("failed", why or "It was not activated.")
    return Outcome("lost", why or "Nobody saw how its update ended.", decided=False)


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


def _lost(result: Mapping[str, Any]) -> bool:
    # a task that is not ours still reports unreachable
    return bool(result.get("connection_lost") or result.get("unreachable"))


def _message(result: Mapping[str, Any]) -> str:
    return str(result.get("msg") or "").strip()
