# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which stages may begin by what the earlier ones have shown so far. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD
from ansible_collections.homelab.nixos.plugins.module_utils._plan import number, truth
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import utc

State = Literal["passed", "due", "soaking", "failed"]

# who did not take part proves nothing, and keeps nobody
_ABSENT = ("unreachable", "deferred")


@dataclass(frozen=True)
class Member:
    """A host of the night: C(since) is when the system it runs was verified, C(outcome) is empty until it has one."""

    name: str
    stage: str
    outcome: str
    on_target: bool
    since: float | None
    last: bool = False

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Member:
        name, since = str(raw.get("name") or ""), raw.get("since")
        return cls(
            name,
            str(raw.get("stage") or ""),
            str(raw.get("outcome") or ""),
            truth(raw.get("on_target", False), f"Whether {name} is on its target"),
            None if since is None else number(since, f"When the system of {name} was verified"),
            truth(raw.get("last", False), f"The place of {name}"),
        )


@dataclass(frozen=True)
class Soak:
    """Why stages may not begin yet, by stage, C("") being what comes after all of them; and what is missing.

    C(due): the turn of hosts is still to come, with this lock. C(soaking): time alone. C(failed): it will not pass.
    C(reason) says why; also of hosts of the last stage, whom nobody waits for.
    """

    state: State
    closed: Mapping[str, str]
    reason: str = ""


def closed_by_soak(stages: Sequence[str], hosts: Sequence[Member], soak: float, now: float) -> Soak:
    """What the hosts of the whole night have shown with the present lock."""
    order = [*dict.fromkeys(stages), ""]
    ranks = {stage: [host for host in hosts if _rank(host, order) == stage] for stage in order}
    taken = [stage for stage in order if ranks[stage]]
    for place, stage in enumerate(taken):
        state, why = _judged(stage, ranks[stage], soak, now)
        following = taken[place + 1 :]
        # nobody waits for the last of them to soak
        if state == "soaking" and not following:
            return Soak("passed", {})
        if state != "passed":
            return Soak(state, dict.fromkeys(following, why), why)
    return Soak("passed", {})


def _rank(host: Member, order: Sequence[str]) -> str:
    stage = "" if host.last else host.stage
    if stage not in order:
        raise LabError(
            f"lab_stage of {host.name} is {stage!r}, which lab_stages does not name.", "Correct one of them."
        )
    return stage


def _judged(stage: str, hosts: Sequence[Member], soak: float, now: float) -> tuple[State, str]:
    said = f"Stage {stage}" if stage else "What has no stage"
    present = [host for host in hosts if host.outcome not in _ABSENT]
    if not present:
        names = ", ".join(host.name for host in hosts)
        return (
            "failed",
            f"{said} has shown nothing tonight: {names} could not be reached or did not want to be touched.",
        )
    for host in present:
        if host.outcome in BAD or (host.outcome and not host.on_target):
            return "failed", f"{said} did not pass: {host.name} ended {host.outcome}."
    for host in present:
        if not host.on_target:
            return "due", f"{said} comes first: {host.name} does not run yet what the lock gives it."
    for host in present:
        if host.since is None:
            return "failed", f"{said} did not pass: nobody has noted when the system of {host.name} was verified."
    newest = max(present, key=lambda host: host.since or 0)
    until = (newest.since or 0) + soak
    if now < until:
        return "soaking", f"{said} soaks until {utc(until)}: {newest.name} was verified at {utc(newest.since or 0)}."
    return "passed", ""
