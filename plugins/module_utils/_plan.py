# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which order, and with how many at once, hosts are updated. Pure.

Sets of hosts are integers with a bit for each host here: what a host needs, and what that needs, is then one C(|).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

_DEPENDS_ON, _HYPERVISOR_OF, _NEVER_TOGETHER = "lab_depends_on", "lab_hypervisor_of", "lab_never_together"
_BATCH, _MAX_BAD, _CRITICAL, _STAGES = "lab_batch", "lab_max_bad", "lab_critical_stages", "lab_stages"
# what a bound for the whole run is called among those of stages
_RUN = "all"
_HEADINGS = ("STAGE", "BATCH", "AT ONCE", "HOSTS")


@dataclass(frozen=True)
class Host:
    """A host as its owner describes it.

    C(seconds) is the worst case of its turn, C(window_closes) a Unix time. One that is C(last) goes alone after all
    others, and one that does not come is in no batch, but others may need it.
    """

    name: str
    stage: str = ""
    canary: bool = False
    depends_on: tuple[str, ...] = ()
    hypervisor_of: tuple[str, ...] = ()
    seconds: int = 0
    window_closes: float | None = None
    last: bool = False
    comes: bool = True

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Host:
        """A host of the inventory, whose values may be as a person, or a survey, has typed them."""
        name = str(raw.get("name") or "")
        if not name:
            raise LabError(f"A host without a name cannot be planned: {dict(raw)}.")
        closes = raw.get("window_closes")
        return cls(
            name,
            str(raw.get("stage") or ""),
            truth(raw.get("canary", False), f"lab_canary of {name}"),
            names(raw.get("depends_on"), f"{_DEPENDS_ON} of {name}"),
            names(raw.get("hypervisor_of"), f"{_HYPERVISOR_OF} of {name}"),
            math.ceil(number(raw.get("seconds") or 0, f"The worst case of {name}")),
            None if closes is None else number(closes, f"The end of the window of {name}"),
            truth(raw.get("last", False), f"The place of {name}"),
            truth(raw.get("comes", True), f"The part of {name}"),
        )


@dataclass(frozen=True)
class Batch:
    """Hosts that go at once.

    C(seconds) is the worst case of them all, C(turns) that of each, and C(providers) has all hosts of the night that
    each of them needs, also by way of others.
    """

    stage: str
    hosts: tuple[str, ...]
    canary: bool = False
    last: bool = False
    seconds: int = 0
    turns: Mapping[str, int] = field(default_factory=dict)
    providers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Batch:
        """A batch from what L(as_result) made of it."""
        turns, providers = raw.get("turns"), raw.get("providers")
        hosts = names(raw.get("hosts"), "The plan")
        if not hosts or not isinstance(turns, Mapping) or not isinstance(providers, Mapping):
            raise LabError(f"This is no batch of a plan: {dict(raw)}.", "The filter plan makes them.")
        return cls(
            str(raw.get("stage") or ""),
            hosts,
            truth(raw.get("canary", False), "The plan"),
            truth(raw.get("last", False), "The plan"),
            math.ceil(number(raw.get("seconds") or 0, "The plan")),
            {host: math.ceil(number(turns.get(host), "The plan")) for host in hosts},
            {host: names(providers.get(host), "The plan") for host in hosts},
        )

    def as_result(self) -> dict[str, object]:
        return {
            "stage": self.stage,
            "hosts": list(self.hosts),
            "canary": self.canary,
            "last": self.last,
            "seconds": self.seconds,
            "turns": dict(self.turns),
            "providers": {host: list(providers) for host, providers in self.providers.items()},
        }


@dataclass(frozen=True)
class Amount:
    """A number of hosts, or a percentage of some."""

    number: int
    percent: bool = False

    def of(self, hosts: int) -> int:
        return hosts * self.number // 100 if self.percent else self.number

    def __str__(self) -> str:
        return f"{self.number}%" if self.percent else str(self.number)


@dataclass(frozen=True)
class Bound:
    """How many hosts may end badly, and the owner's words for it."""

    hosts: int
    said: str


@dataclass(frozen=True)
class Bounds:
    """How many hosts may end badly: in the whole run, and in each stage that has hosts."""

    run: Bound
    stages: Mapping[str, Bound]

    def of(self, stage: str) -> int:
        return min(self.run.hosts, self.stages[stage].hosts)


def plan(
    hosts: Sequence[Host],
    stages: Sequence[str] = (),
    batch: object = 1,
    max_bad: object = 1,
    critical_stages: Sequence[str] = (),
    never_together: object = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    others: Sequence[Host] = (),
    allow_empty: bool = False,
) -> list[Batch]:
    """The batches of a night, from its hosts in the order of the inventory.

    C(groups) and C(others) are those of the whole inventory: a host may be needed though it is not in this night.
    """
    hosts = _checked(hosts, stages, allow_empty)
    present = {host.name for host in hosts}
    fleet = _Fleet([*hosts, *(host for host in others if host.name not in present)], groups or {})
    above = fleet.providers()
    apart = _apart(never_together, fleet)
    coming = [host for host in hosts if host.comes]
    counts = Counter(host.stage for host in coming)
    sizes = _by_stage(batch, _BATCH, stages, least=1)
    most = bounds(max_bad, critical_stages, stages, counts)

    planned: list[list[Host]] = []
    for stage in dict.fromkeys([*stages, ""]):
        members = [host for host in coming if host.stage == stage and not host.last]
        size = max(1, sizes.get(stage, sizes.get("", Amount(1))).of(counts[stage]))
        # one host more than may end badly would never be let in at once
        size = min(size, most.of(stage) + 1) if members else size
        planned += _filled([host for host in members if host.canary], 1, fleet, above, apart)
        planned += _filled([host for host in members if not host.canary], size, fleet, above, apart)
    planned += [[host] for host in coming if host.last]

    night = fleet.set_of(host.name for host in hosts)
    return [
        _batch(members, {host.name: fleet.names(above[host.name] & night) for host in members}) for members in planned
    ]


def bounds(max_bad: object, critical_stages: Sequence[str], stages: Sequence[str], counts: Mapping[str, int]) -> Bounds:
    """How many hosts may end badly, where C(counts) says how many each stage has.

    A stage that a dictionary does not name has the bound of C(all), or 1; without C(all) the whole run has the largest.
    """
    for stage in critical_stages:
        _known_stage(stage, _CRITICAL, stages)
    amounts = _by_stage(max_bad, _MAX_BAD, stages, least=0, run=True)
    total = sum(counts.values())
    default = amounts.get(_RUN, amounts.get("", Amount(1)))
    of_all = _bound(default, total)
    each = {
        stage: _bound(amounts[stage], count) if stage and stage in amounts else of_all
        for stage, count in counts.items()
    }
    named = isinstance(max_bad, Mapping) and _RUN not in amounts
    run = max([of_all, *each.values()], key=lambda bound: bound.hosts) if named else of_all
    critical = {stage: Bound(0, f"0, {stage} is one of {_CRITICAL}") for stage in counts if stage in critical_stages}
    return Bounds(run, {**each, **critical})


def describe(batches: Sequence[Batch]) -> str:
    """The plan for people, a line for each batch."""
    if not batches:
        return "No host has a turn."
    rows = [_HEADINGS]
    for place, batch in enumerate(batches, 1):
        once = "last" if batch.last else "canary" if batch.canary else str(len(batch.hosts))
        rows.append((batch.stage or "-", str(place), once, " + ".join(batch.hosts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def names(value: object, at: str) -> tuple[str, ...]:
    """A list of names; a single one, or several with commas between them, is what Ansible calls a list, too."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return tuple(str(name) for name in value)
    raise LabError(f"{at} is {value!r}.", "It is a list of names.")


def number(value: object, at: str) -> float:
    try:
        if isinstance(value, str | int | float) and math.isfinite(float(value)):
            return float(value)
    except ValueError:
        pass  # said below
    raise LabError(f"{at} is {value!r}.", "It is a number of seconds.")


def truth(value: object, at: str) -> bool:
    try:
        return bool(boolean(value))
    except TypeError as error:
        raise LabError(f"{at} is {value!r}.", "It is true or false.") from error


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a name that nobody knows."""
    close = get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else otherwise


class _Fleet:
    """All hosts of the inventory, and sets of them."""

    def __init__(self, hosts: Sequence[Host], groups: Mapping[str, Sequence[str]]) -> None:
        self.hosts = hosts
        # a group may have hosts of which nobody said more than that
        everybody = dict.fromkeys(
            [*(host.name for host in hosts), *(name for them in groups.values() for name in them)]
        )
        self._everybody = list(everybody)
        self._bits = {name: 1 << place for place, name in enumerate(everybody)}
        self._groups = {group: self.set_of(them) for group, them in groups.items()}

    def set_of(self, them: Iterable[str]) -> int:
        combined = 0
        for name in them:
            combined |= self._bits[name]
        return combined

    def names(self, hosts: int) -> tuple[str, ...]:
        found = []
        while hosts:
            lowest = hosts & -hosts
            found.append(self._everybody[lowest.bit_length() - 1])
            hosts ^= lowest
        return tuple(found)

    def meant(self, name: str, at: str) -> int:
        """The hosts that a name in a setting stands for."""
        if name not in self._bits and name not in self._groups:
            remedy = did_you_mean(name, [*self._bits, *self._groups], "Correct it, or add the host to the inventory.")
            raise LabError(f"{at} names {name!r}, which is neither a host nor a group of the inventory.", remedy)
        return self._bits.get(name, 0) | self._groups.get(name, 0)

    def providers(self) -> dict[str, int]:
        """All that each host needs, also by way of others."""
        direct = dict.fromkeys(self._bits, 0)
        for host in self.hosts:
            direct[host.name] |= self._named_by(host, host.depends_on, _DEPENDS_ON)
        needed = dict(direct)
        for host in self.hosts:
            for guest in self.names(self._named_by(host, host.hypervisor_of, _HYPERVISOR_OF)):
                direct[guest] |= self._bits[host.name]
        graph = {name: self.names(hosts) for name, hosts in direct.items()}
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise self._circle(error.args[1], needed) from error
        for name in order:
            for provider in graph[name]:
                direct[name] |= direct[provider]
        return direct

    def _named_by(self, host: Host, them: Iterable[str], setting: str) -> int:
        found = 0
        for name in them:
            if name == host.name and name not in self._groups:
                raise LabError(f"{setting} of {name} names {name} itself.", "Take it out.")
            found |= self.meant(name, f"{setting} of {host.name}")
        # a group of which it is a member means the others
        return found & ~self._bits[host.name]

    def _circle(self, circle: Sequence[str], needed: Mapping[str, int]) -> LabError:
        steps = []
        settings = set()
        # each host of it is needed by the next one
        for host, provider in zip(circle[:0:-1], circle[-2::-1], strict=True):
            depends = bool(needed[host] & self._bits[provider])
            settings.add(_DEPENDS_ON if depends else _HYPERVISOR_OF)
            steps.append(f"{host} {'needs' if depends else 'runs on'} {provider}")
        said = "leads" if len(settings) == 1 else "lead"
        return LabError(
            f"{' and '.join(sorted(settings))} {said} in a circle: {', '.join(steps)}.",
            "None of them could go before the others: take one of these out.",
        )


def _checked(hosts: Sequence[Host], stages: Sequence[str], allow_empty: bool) -> Sequence[Host]:
    if not any(host.comes for host in hosts) and not allow_empty:
        raise LabError("There is no host to plan.", "Correct --limit, or lab_managed in the inventory.")
    twice = [name for name, count in Counter(host.name for host in hosts).items() if count > 1]
    if twice:
        raise LabError(f"To be planned twice: {', '.join(twice)}.", "Name each host once.")
    for host in hosts:
        if host.stage:
            _known_stage(host.stage, f"lab_stage of {host.name}", stages)
    return hosts


def _known_stage(stage: str, at: str, stages: Sequence[str]) -> None:
    if stage not in stages:
        known = ", ".join(stages) or "empty"
        remedy = did_you_mean(stage, stages, f"Add it to {_STAGES} where it belongs in the order, or correct it.")
        raise LabError(f"{at} is {stage!r}, which {_STAGES} ({known}) does not name.", remedy)


def _apart(never_together: object, fleet: _Fleet) -> dict[str, int]:
    """For each host the lists of C(lab_never_together) in which it is, as bits."""
    if not isinstance(never_together, Sequence) or any(isinstance(them, str) for them in never_together):
        raise LabError(
            f"{_NEVER_TOGETHER} is {never_together!r}.", "It is a list of lists of names, as [[dns1, dns2]]."
        )
    apart = {host.name: 0 for host in fleet.hosts}
    for place, them in enumerate(never_together):
        for name in names(them, _NEVER_TOGETHER):
            for member in fleet.names(fleet.meant(name, _NEVER_TOGETHER)):
                apart[member] = apart.get(member, 0) | 1 << place
    return apart


def _filled(
    hosts: Sequence[Host], size: int, fleet: _Fleet, above: Mapping[str, int], apart: Mapping[str, int]
) -> list[list[Host]]:
    """Batches of at most C(size) hosts: providers first, then the window that closes first, then the inventory."""
    waiting = sorted(hosts, key=lambda host: math.inf if host.window_closes is None else host.window_closes)
    unplanned = fleet.set_of(host.name for host in waiting)
    planned = []
    while waiting:
        batch: list[Host] = []
        taken = 0
        for host in waiting:
            if len(batch) == size:
                break
            if not above[host.name] & unplanned and not apart[host.name] & taken:
                batch.append(host)
                taken |= apart[host.name]
        unplanned &= ~fleet.set_of(host.name for host in batch)
        waiting = [host for host in waiting if fleet.set_of([host.name]) & unplanned]
        planned.append(batch)
    return planned


def _batch(members: Sequence[Host], providers: Mapping[str, tuple[str, ...]]) -> Batch:
    turns = {host.name: host.seconds for host in members}
    return Batch(
        members[0].stage, tuple(turns), members[0].canary, members[0].last, max(turns.values()), turns, providers
    )


def _bound(amount: Amount, hosts: int) -> Bound:
    found = amount.of(hosts)
    return Bound(found, f"{amount}, which is {found} of {hosts}" if amount.percent else str(amount))


def _by_stage(raw: object, setting: str, stages: Sequence[str], least: int, run: bool = False) -> dict[str, Amount]:
    """A setting by stage; what counts for those that it does not name is at C("")."""
    if not isinstance(raw, Mapping):
        return {"": _amount(raw, setting, least)}
    amounts = {}
    for stage, one in raw.items():
        if not (run and stage == _RUN):
            _known_stage(str(stage), f"A stage of {setting}", stages)
        amounts[str(stage)] = _amount(one, f"{setting} of {stage}", least)
    return amounts


def _amount(raw: object, at: str, least: int) -> Amount:
    said = re.fullmatch(r"([0-9]{1,9})\s*(%?)", str(raw).strip()) if isinstance(raw, int | str) else None
    if said is not None and not isinstance(raw, bool):
        amount = Amount(int(said[1]), bool(said[2]))
        if least <= amount.number <= (100 if amount.percent else amount.number):
            return amount
    raise LabError(f"{at} is {raw!r}.", f"It is a number of hosts, at least {least}, or a percentage as 25%.")
