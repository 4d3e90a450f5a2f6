"""Whatever the fleet, whatever is set and whatever goes wrong: the order is safe, and a stop works.

A night is simulated as the playbook runs it: batch by batch, each in as many rounds as the breaker wants. What is right
is told here from the fleet itself, in other ways than the code does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._breaker import Ended, Rollout, breaker, stop
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD
from ansible_collections.homelab.nixos.plugins.module_utils._plan import Batch, Host, bounds, plan
from hypothesis import given, settings
from hypothesis import strategies as st

STAGES = ["dev", "infra", "critical"]
GOOD = ("updated", "pending", "unchanged", "deferred", "held")
WORDS = sorted(BAD)


@dataclass
class Fleet:
    """Hosts and settings, drawn by a seed: hypothesis chooses how many and how wild, and shrinks that."""

    seed: int
    size: int
    edges: int
    batch: Any
    max_bad: Any
    critical: list[str]
    hosts: list[Host] = field(init=False)
    others: list[Host] = field(init=False)
    groups: dict[str, list[str]] = field(init=False)
    apart: list[list[str]] = field(init=False)
    # all that a host needs
    needs: dict[str, set[str]] = field(init=False)

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        absent = chance.randrange(3)
        stages = chance.sample([*STAGES, ""], chance.randint(1, 4))
        names = [f"h{number}" for number in range(self.size + absent)]
        chance.shuffle(names)
        self.groups = {"all": names, "some": names[: len(names) // 4], "few": names[:2]}
        self.needs = {}
        direct: dict[str, set[str]] = {}
        hypervisors: dict[str, list[str]] = {}
        drawn = []
        for place, name in enumerate(names):
            earlier = names[:place]
            wanted = chance.sample(earlier, min(chance.randint(0, self.edges), place))
            direct[name] = set(wanted)
            known = [group for group, them in self.groups.items() if set(them) <= set(earlier) and them]
            if known and chance.random() < 0.05 * self.edges:
                group = chance.choice(known)
                direct[name] |= set(self.groups[group])
                wanted.append(group)
            if self.edges and place and chance.random() < 0.05:
                under = chance.choice(earlier)
                hypervisors.setdefault(under, []).append(name)
                direct[name].add(under)
            self.needs[name] = direct[name].union(*(self.needs[other] for other in direct[name]))
            drawn.append((name, wanted))
        every = [
            Host(
                name,
                chance.choice(stages),
                canary=chance.random() < 0.1,
                depends_on=tuple(wanted),
                hypervisor_of=tuple(hypervisors.get(name, ())),
                seconds=chance.randint(0, 900),
                window_closes=chance.choice([None, None, float(chance.randint(1, 99))]),
                comes=chance.random() < 0.9,
            )
            for name, wanted in drawn
        ]
        chance.shuffle(every)
        self.others, self.hosts = every[:absent], every[absent:]
        if chance.random() < 0.3:
            self.hosts[-1] = replace(self.hosts[-1], last=True)
        self.apart = [chance.sample(names, min(len(names), chance.randint(1, 5))) for _ in range(chance.randint(0, 3))]

    @property
    def coming(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts if host.comes}

    def plan(self) -> list[Batch]:
        return plan(
            self.hosts,
            STAGES,
            self.batch,
            self.max_bad,
            self.critical,
            self.apart,
            self.groups,
            self.others,
            allow_empty=True,
        )


amounts = st.one_of(st.integers(1, 9), st.integers(1, 9).map(str), st.integers(1, 100).map(lambda part: f"{part}%"))
tolerances = st.one_of(st.integers(0, 9), st.integers(0, 100).map(lambda part: f"{part}%"))
fleets = st.builds(
    Fleet,
    seed=st.integers(0, 2**32),
    size=st.one_of(st.integers(1, 12), st.integers(1, 12), st.integers(1, 60), st.integers(1, 200)),
    edges=st.integers(0, 3),
    batch=st.one_of(amounts, st.dictionaries(st.sampled_from(STAGES), amounts)),
    max_bad=st.one_of(
        tolerances,
        st.dictionaries(st.sampled_from([*STAGES, "all"]), tolerances),
        # a run that bears more than each of its stages
        st.fixed_dictionaries({"all": st.integers(9, 30), **dict.fromkeys(STAGES, st.integers(0, 4))}),
    ),
    critical=st.lists(st.sampled_from(STAGES), unique=True),
)


def share(raw: Any, hosts: int) -> int:
    text = str(raw)
    return int(text[:-1]) * hosts // 100 if text.endswith("%") else int(text)


def allowed(fleet: Fleet) -> tuple[int, dict[str, int]]:
    """How many may end badly: in the run, and in each stage."""
    counts = Counter(host.stage for host in fleet.coming.values())
    total = sum(counts.values())
    raw = fleet.max_bad
    if not isinstance(raw, dict):
        run = share(raw, total)
        each = dict.fromkeys(counts, run)
    elif "all" in raw:
        run = share(raw["all"], total)
        each = {stage: share(raw[stage], count) if stage in raw else run for stage, count in counts.items()}
    else:
        each = {stage: share(raw.get(stage, 1), count) for stage, count in counts.items()}
        run = max(1, *each.values()) if each else 1
    return run, {stage: 0 if stage in fleet.critical else most for stage, most in each.items()}


@settings(max_examples=2500, deadline=None)
@given(fleets)
def test_every_plan_is_safe(fleet: Fleet) -> None:
    planned = fleet.plan()
    coming = fleet.coming
    run, each = allowed(fleet)
    counts = Counter(host.stage for host in coming.values())

    # everybody exactly once, the stages in order, what comes last in the end and alone
    assert sorted(name for batch in planned for name in batch.hosts) == sorted(coming)
    ranks = [len(STAGES) + 1 if batch.last else [*STAGES, ""].index(batch.stage) for batch in planned]
    assert ranks == sorted(ranks)
    place = {name: number for number, batch in enumerate(planned) for name in batch.hosts}
    for number, batch in enumerate(planned):
        assert {coming[name].stage for name in batch.hosts} == {batch.stage}
        raw = fleet.batch.get(batch.stage, 1) if isinstance(fleet.batch, dict) else fleet.batch
        assert len(batch.hosts) <= max(1, share(raw, counts[batch.stage]))
        assert len(batch.hosts) <= min(run, each[batch.stage]) + 1
        if batch.last or batch.canary:
            assert len(batch.hosts) == 1
        assert batch.canary == any(coming[name].canary for name in batch.hosts)
        assert batch.seconds == max(batch.turns.values())
        for name in batch.hosts:
            assert set(batch.providers[name]) == fleet.needs[name] & {host.name for host in fleet.hosts}
            # nobody goes with, or in its stage before, what it needs
            assert fleet.needs[name].isdisjoint(batch.hosts)
            if not (batch.canary or batch.last):
                rivals = [other for other in fleet.needs[name] & coming.keys() if coming[other].stage == batch.stage]
                assert all(place[other] < number or coming[other].last for other in rivals)
        for one, other in combinations(batch.hosts, 2):
            assert not any(one in them and other in them for them in fleet.apart)
    # canaries first
    for before, after in pairwise(planned):
        if after.canary and not after.last:
            assert before.canary or before.stage != after.stage


@dataclass
class Night:
    """A rollout as the playbook makes it, in which hosts end as chance wants."""

    fleet: Fleet
    chance: random.Random
    planned: list[Batch]
    closed: dict[str, str]
    ends: float
    now: float = 1000.0
    ended: dict[str, Ended] = field(default_factory=dict)
    begun: list[list[str]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)

    def rounds(self) -> Iterator[tuple[Batch, list[str], Rollout]]:
        """Every round: its batch, the hosts that begin in it, and what was known then."""
        blind = self.chance.choice([0, 0, 0.5])
        stages = Counter(batch.stage for batch in self.planned for _ in batch.hosts)
        most = bounds(self.fleet.max_bad, self.fleet.critical, STAGES, stages)
        # those that do not come had their outcome before the rollout
        for host in self.fleet.hosts:
            if not host.comes:
                self.ended[host.name] = Ended(self.chance.choice([*GOOD, *WORDS, "unreachable"]), began=False)
        for batch in self.planned:
            waiting = list(batch.hosts)
            while waiting:
                trouble = {name: "ill" for name in self.fleet.needs if self.chance.random() < 0.01}
                known = Rollout(
                    self.planned, dict(self.ended), most, self.fleet.critical, self.closed, trouble, self.now, self.ends
                )
                verdicts = breaker(waiting, known)
                assert list(verdicts) == waiting
                begin = [name for name in waiting if verdicts[name].verdict == "begins"]
                for name, verdict in verdicts.items():
                    if verdict.verdict == "held":
                        assert verdict.reason
                        self.held[name] = verdict.reason
                        self.ended[name] = Ended("held", began=False)
                waiting = [name for name in waiting if verdicts[name].verdict == "waits"]
                assert begin or not waiting
                yield batch, begin, known
                # none, one or all of them: what a bound is hurt by
                bads = self.chance.sample(begin, min(len(begin), self.chance.choice([0, 0, 0, 1, 1, len(begin)])))
                for name in begin:
                    bad = name in bads
                    seen = self.chance.random() >= blind
                    self.ended[name] = Ended(self.chance.choice(WORDS if bad else GOOD), True, seen or not bad)
                self.begun.append(begin)
                self.now += max((self.chance.uniform(0, batch.turns[name]) for name in begin), default=0)


# where a stage bears less than the run, and hosts go in numbers: the rounds of its later batches are the smaller ones
strained = st.builds(
    Fleet,
    seed=st.integers(0, 2**32),
    size=st.integers(10, 40),
    edges=st.just(0),
    batch=st.just(9),
    max_bad=st.integers(2, 4).map(lambda most: {"all": 30, **dict.fromkeys(STAGES, most)}),
    critical=st.just([]),
)


@settings(max_examples=2100, deadline=None)
@given(fleets, st.integers(0, 2**32), st.booleans(), st.booleans())
def test_whatever_fails_the_rollout_stops_in_time_and_everybody_has_one_verdict(
    fleet: Fleet, seed: int, ends: bool, closes: bool
) -> None:
    go_through(fleet, seed, ends, closes)


@settings(max_examples=400, deadline=None)
@given(strained, st.integers(0, 2**32))
def test_a_stage_that_bears_less_than_the_run_is_not_hurt_by_more_than_one_too_many(fleet: Fleet, seed: int) -> None:
    go_through(fleet, seed, ends=False, closes=False)


def go_through(fleet: Fleet, seed: int, ends: bool, closes: bool) -> None:
    chance = random.Random(seed)
    closed = {chance.choice([*STAGES, ""]): "It soaks."} if closes else {}
    night = Night(fleet, chance, fleet.plan(), closed, 1000.0 + chance.randint(0, 9000) if ends else 0)
    coming = fleet.coming
    run, each = allowed(fleet)
    stopped = False
    for batch, begin, known in night.rounds():
        bad = [name for name, how in known.ended.items() if how.counted and how.began and how.outcome in BAD]
        in_stage = Counter(coming[name].stage for name in bad)
        # once stopped, stopped for good
        stopped = (
            stopped
            or (len(bad) > 0 and len(bad) >= run)
            or any(count >= each[stage] for stage, count in in_stage.items())
            or any(coming[name].canary for name in bad)
        )
        assert (stop(known) is not None) == stopped
        assert not (stopped and begin)
        for name in begin:
            assert batch.stage not in closed
            assert not (batch.last and "" in closed)
            # nobody begins who needs somebody that is not well, or who might not be done in time
            for provider in fleet.needs[name]:
                how = known.ended.get(provider)
                assert how is None or how.outcome != "lost"
                assert how is None or not (how.began and how.outcome in BAD)
                assert provider not in known.trouble or provider not in {host.name for host in fleet.hosts}
            assert not ends or known.now + coming[name].seconds <= known.ends

    begun = [name for names in night.begun for name in names]
    bad = [name for name in begun if night.ended[name].counted and night.ended[name].outcome in BAD]
    assert len(bad) <= run + 1
    for stage, count in Counter(coming[name].stage for name in bad).items():
        assert count <= each[stage] + 1
    # exactly one verdict for everybody
    assert sorted([*begun, *night.held]) == sorted(coming)
