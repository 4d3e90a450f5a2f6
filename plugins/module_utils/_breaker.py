# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may begin now, who waits, and who is left alone tonight. Pure.

Asked before each round of a batch. A round never has more hosts than may still end badly, and one: so whatever becomes
of them, no more than one host too many has ended badly when the rollout stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD
from ansible_collections.homelab.nixos.plugins.module_utils._plan import Batch, Bounds, bounds, names, number, truth
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import utc


@dataclass(frozen=True)
class Ended:
    """How a host's night ended. It is counted unless it was we who could not see."""

    outcome: str
    began: bool = True
    counted: bool = True

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Ended:
        return cls(
            str(raw.get("outcome") or ""),
            truth(raw.get("began", True), "Whether a turn began"),
            truth(raw.get("counted", True), "Whether an outcome is counted"),
        )

    @property
    def counts(self) -> bool:
        return self.began and self.counted and self.outcome in BAD

    @property
    def is_trouble(self) -> bool:
        """Whether those who need the host had better not be touched."""
        return (self.began and self.outcome in BAD) or self.outcome == "lost"


@dataclass(frozen=True)
class Rollout:
    """Where the rollout stands: its plan, all hosts of the night whose outcome is final, and what else is known now.

    C(closed_stages) says why a stage may not begin, C(trouble) what is the matter with a host that others need, and
    C(blind) whether the controller can reach nobody just now.
    C(now) and C(ends) are Unix times; a night without an end has 0.
    """

    plan: Sequence[Batch]
    ended: Mapping[str, Ended]
    bounds: Bounds
    critical_stages: Sequence[str] = ()
    closed_stages: Mapping[str, str] = field(default_factory=dict)
    trouble: Mapping[str, str] = field(default_factory=dict)
    now: float = 0
    ends: float = 0
    blind: bool = False

    @cached_property
    def places(self) -> Mapping[str, Batch]:
        return {host: batch for batch in self.plan for host in batch.hosts}

    @cached_property
    def bad(self) -> Sequence[str]:
        """The hosts that count, in the order of the plan."""
        bad = {host for host, ended in self.ended.items() if ended.counts}
        return [host for host in self.places if host in bad] if bad else []

    def why_closed(self, batch: Batch) -> str:
        # what comes last comes after all stages, whichever is its own
        return self.closed_stages.get(batch.stage) or (self.closed_stages.get("") if batch.last else "") or ""


@dataclass(frozen=True)
class Verdict:
    verdict: Literal["begins", "waits", "held"]
    reason: str = ""


@dataclass(frozen=True)
class Stop:
    """In which stage the rollout has stopped, and why.

    C(critical_stages) are those that it hit: a host of theirs ended badly, or was kept from its turn.
    """

    stage: str
    reason: str
    critical_stages: tuple[str, ...] = ()


def rollout(
    plan: Sequence[Mapping[str, object]],
    ended: Mapping[str, Mapping[str, object]],
    stages: Sequence[str] = (),
    max_bad: object = 1,
    critical_stages: Sequence[str] = (),
    closed_stages: Mapping[str, str] | None = None,
    trouble: Mapping[str, str] | None = None,
    now: object = 0,
    ends: object = 0,
    blind: bool = False,
) -> Rollout:
    """Where a rollout stands, from plain data."""
    batches = [Batch.of(batch) for batch in plan]
    critical = names(critical_stages, "lab_critical_stages")
    counts: Counter[str] = Counter()
    for batch in batches:
        counts[batch.stage] += len(batch.hosts)
    return Rollout(
        batches,
        {host: Ended.of(how) for host, how in ended.items()},
        bounds(max_bad, critical, names(stages, "lab_stages"), counts),
        critical,
        closed_stages or {},
        trouble or {},
        number(now, "The time"),
        number(ends or 0, "The end of the night"),
        blind,
    )


def breaker(hosts: Sequence[str], rollout: Rollout) -> dict[str, Verdict]:
    """What becomes of the hosts of one batch that have not ended."""
    asked = {host for host in hosts if host not in rollout.ended}
    if not asked:
        return {}
    batches = [batch for batch in rollout.plan if not asked.isdisjoint(batch.hosts)]
    if len(batches) != 1 or not asked.issubset(batches[0].hosts):
        raise LabError(f"{', '.join(sorted(asked))} are not of one batch of the plan.", "Ask for one batch at a time.")
    batch = batches[0]
    stopped = stop(rollout)
    room = _room(batch, rollout)
    verdicts = {}
    for host in batch.hosts:
        if host not in asked:
            continue
        why = stopped.reason if stopped else _why_not(host, batch, rollout)
        if why:
            verdicts[host] = Verdict("held", why)
        elif room > 0:
            verdicts[host] = Verdict("begins")
            room -= 1
        else:
            verdicts[host] = Verdict("waits", "Others go first, to see how they end.")
    return verdicts


def stop(rollout: Rollout) -> Stop | None:
    """Whether nobody else may begin tonight; nothing that happens later changes that."""
    found = _stopped(rollout)
    if found is None:
        return None
    stage, why = found
    hit = dict.fromkeys(
        batch.stage
        for batch in rollout.plan
        if batch.stage in rollout.critical_stages and any(_is_hit(host, batch, rollout) for host in batch.hosts)
    )
    return Stop(stage, f"Stopped: {why}", tuple(hit))


def _is_hit(host: str, batch: Batch, rollout: Rollout) -> bool:
    ended = rollout.ended.get(host)
    if ended is not None and ended.began:
        return ended.counts
    # whoever had no turn for another reason was not kept from it by the stop
    return not rollout.why_closed(batch)


def _stopped(rollout: Rollout) -> tuple[str, str] | None:
    bad = rollout.bad
    if not bad:
        return None
    places = rollout.places
    for host in bad:
        batch, outcome = places[host], rollout.ended[host].outcome
        if batch.canary:
            return batch.stage, f"the canary {host} ended badly ({outcome})."
        if batch.stage in rollout.critical_stages:
            return batch.stage, f"{host} ended badly ({outcome}), and its stage {batch.stage} is critical."
    if len(bad) >= rollout.bounds.run.hosts:
        said = f"{_of(len(bad), len(places))} ended badly ({', '.join(bad)}), lab_max_bad is {rollout.bounds.run.said}."
        return places[bad[-1]].stage, said
    for stage, bound in rollout.bounds.stages.items():
        theirs = [host for host in bad if places[host].stage == stage]
        if theirs and len(theirs) >= bound.hosts:
            count = _of(len(theirs), sum(batch.stage == stage for batch in places.values()))
            where = f"of stage {stage}" if stage else "without a stage"
            return stage, f"{count} {where} ended badly ({', '.join(theirs)}), lab_max_bad is {bound.said} there."
    return None


def _room(batch: Batch, rollout: Rollout) -> int:
    """How many hosts may begin at once."""
    of_stage = sum(rollout.places[host].stage == batch.stage for host in rollout.bad)
    left = min(rollout.bounds.run.hosts - len(rollout.bad), rollout.bounds.stages[batch.stage].hosts - of_stage)
    return left + 1


def _why_not(host: str, batch: Batch, rollout: Rollout) -> str:
    if rollout.blind:
        return "The controller can reach nobody, neither those that it was changing nor any other."
    closed = rollout.why_closed(batch)
    if closed:
        return closed
    for provider in batch.providers[host]:
        ended = rollout.ended.get(provider)
        if ended is not None and ended.is_trouble:
            return f"It needs {provider}, which ended badly ({ended.outcome})."
        if provider in rollout.trouble:
            return f"It needs {provider}, which is in trouble: {rollout.trouble[provider]}"
    done = rollout.now + batch.turns[host]
    if rollout.ends and done > rollout.ends:
        return f"out of time: its turn may take until {utc(done)}, and the night ends at {utc(rollout.ends)}."
    return ""


def _of(some: int, every: int) -> str:
    return f"{some} of {every} {'host' if every == 1 else 'hosts'}"
