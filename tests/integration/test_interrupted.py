"""Nights that are cut off at every step of the protocol: the controller dies, the guest loses its power, or both.

Nine guests side by side, each in a night of its own and with a moment of its own. Then one run over all of them.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _transaction

from tests.integration.fleet import LAST, TRANSACTION, Fleet, Host, Night, Running, until
from tests.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.soak]

FAILED = "/var/lib/lab-auto-update/failed.json"
GUARD = 40


@dataclass(frozen=True)
class Moment:
    """When a night is cut off: as soon as C(step) is written down, or with C(live) once the new system runs, too."""

    step: str
    faults: tuple[str, ...] = ()
    live: bool = False


REBOOTS = "kernel-changed"
MOMENTS = {
    "dev": Moment("claimed"),
    "web": Moment("activation", ("slow-activation=2",)),
    "nas": Moment("activation", live=True),
    "dns": Moment("verification"),
    "host5": Moment("commit"),
    "host6": Moment("reboot", (REBOOTS,)),
    "host7": Moment("reboot_verification", (REBOOTS,)),
    "host8": Moment("commit", (REBOOTS,)),
    "host9": Moment("rollback", ("unit-fails",)),
}
# all hosts at once; only the boot guard is waited for to its end
QUICK: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": len(MOMENTS),
    "lab_settle": 3,
    "lab_confirm_timeout": 120,
    "lab_activation_timeout": 120,
    "lab_boot_confirm_timeout": GUARD,
    "lab_reboot_timeout": 120,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(len(MOMENTS), prefix="cutoff") as lab:
        yield Fleet(lab)


class Watch:
    """Looks from outside, many times a second, at what hosts run, would boot and note; and acts at their moments."""

    def __init__(self, fleet: Fleet) -> None:
        self.cut: dict[str, dict[str, Any]] = {}
        self.unverified: set[tuple[str, str]] = set()
        self._fleet = fleet
        self._good = {host: {fleet.boot_default(host)} for host in fleet.hosts}
        self._running: dict[str, list[tuple[float, str | None]]] = {host: [] for host in fleet.hosts}
        self._moments: dict[str, Moment] = {}
        self._act: Callable[[str], None] = lambda _host: None
        self._acting: dict[str, Future[None]] = {}
        self._pool = ThreadPoolExecutor(len(fleet.hosts) + 1)
        self._end = threading.Event()
        self._looking = self._pool.submit(self._run)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._pool.shutdown()
        self._looking.result()

    def cut_off(self, moments: dict[str, Moment], act: Callable[[str], None], runs: dict[str, Running]) -> None:
        """Act at each host's moment, and return when it was done to all of them."""
        self._act, self._moments = act, dict(moments)

        end = time.monotonic() + 900
        while moments.keys() != self._acting.keys():
            time.sleep(0.2)
            for host in moments.keys() - self.cut.keys():
                late = runs[host].process.poll() is not None or time.monotonic() > end
                assert not late, f"{host} never came to {moments[host]}:\n{runs[host].output()}"
        for each in self._acting.values():
            each.result()

    def running(self, host: str, at: float) -> str | None:
        """What a host ran at a point in time."""
        return next((system for since, system in reversed(self._running[host]) if since < at), None)

    def _run(self) -> None:
        while not self._end.wait(0.05):
            for host in self._fleet.hosts:
                self._look(host)

    def _look(self, host: str) -> None:
        fleet = self._fleet
        current = fleet.link(host, "/run/current-system")
        seen = self._running[host]
        if not seen or seen[-1][1] != current:
            seen.append((time.time(), current))
        # the boot default first: its reason has to be there before it
        default = fleet.boot_default(host)
        note = _parsed(fleet.lab.read(host, TRANSACTION))
        if note.get("verified"):
            self._good[host].add(note["target"])
        if default is not None and default not in self._good[host]:
            last = _parsed(fleet.lab.read(host, LAST))
            if last.get("verified") and last["target"] == default:
                self._good[host].add(default)
            else:
                self.unverified.add((host, default))
        moment = self._moments.get(host)
        if moment is None or host in self.cut or note.get("step") != moment.step:
            return
        if not moment.live or current == note["target"]:
            self.cut[host] = note
            self._acting[host] = self._pool.submit(self._act, host)


def _parsed(text: str | None) -> dict[str, Any]:
    try:
        return dict(json.loads(text or "{}"))
    except ValueError:
        return {}


@contextmanager
def nights_of(fleet: Fleet, moments: dict[str, Moment]) -> Iterator[dict[str, Running]]:
    """A night for each host, side by side; none outlives the block."""
    flakes = fleet.own_flakes(*moments)
    # one run at a time is noted in one directory
    states = {host: str(fleet.lab.directory / "states" / host) for host in moments}
    runs = {
        host: fleet.begin("--limit", host, **QUICK, lab_flake=flakes[host], lab_state_directory=states[host])
        for host in moments
    }
    try:
        yield runs
    finally:
        for run in runs.values():
            if run.process.poll() is None:
                run.kill()


def assert_settled_as_it_was_seen(host: str, run_id: str, night: Night) -> None:
    """The next night says of each host how the run that was cut off has ended there, and it is one thing."""
    ends = re.findall(rf"Run {re.escape(run_id)} ended at step (\w+)(.*)", night.reason(host))
    assert len(ends) == 1, night.reason(host)
    ((step, words),) = ends
    told = {
        "before anything was activated": step == "claimed",
        # a power cut in the middle of a commit may have landed on the old system
        "nobody confirmed its new system": step != "claimed",
        "that was finished": step == "commit",
    }
    assert [may_be for sentence, may_be in told.items() if sentence in words] == [True], (host, step, words)


def assert_settled(fleet: Fleet, host: str) -> None:
    """Nothing is claimed, nothing is left of a change, and the host's systems agree."""
    assert fleet.transaction(host) is None, host
    assert fleet.last(host).get("outcome"), host
    assert not fleet.leftovers(host), host
    look = fleet.look(host)
    assert look.is_on(look.current), (host, look)


def assert_activated_once(fleet: Fleet, watch: Watch, runs: list[tuple[float, float]]) -> None:
    """No run activated a system twice, and nobody activated the one that was running."""
    for host in fleet.hosts:
        times = fleet.activation_times(host)
        for begin, end in runs:
            systems = [system for at, system in times if begin <= at < end]
            assert len(systems) == len(set(systems)), (host, systems)
        for at, system in times:
            if runs[0][0] <= at:
                assert watch.running(host, at) != system, (host, at, system)


def test_every_step_of_the_protocol_is_among_the_moments():
    assert {moment.step for moment in MOMENTS.values()} == set(_transaction.STEPS)


@pytest.mark.parametrize("dies", ["controller", "guest", "both"])
def test_a_night_that_is_cut_off_at_any_step_is_brought_to_one_outcome_by_the_next(fleet: Fleet, dies: str):
    lab = fleet.lab
    lab.move()
    lab.update()
    # every time another kernel: what a reboot is due for has to be new
    kernel = f"{REBOOTS}=6.12.{10 + ['controller', 'guest', 'both'].index(dies)}"
    fleet.faults(
        **{
            host: tuple(kernel if fault == REBOOTS else fault for fault in moment.faults)
            for host, moment in MOMENTS.items()
        }
    )
    before = fleet.looks()
    targets = {host: fleet.target(host) for host in MOMENTS}
    began = time.time()

    def act(host: str) -> None:
        if dies != "controller":
            lab.stop(host)
        if dies != "guest":
            runs[host].kill()
        if dies != "controller":
            lab.start(host)

    with nights_of(fleet, MOMENTS) as runs, Watch(fleet) as watch:
        watch.cut_off(MOMENTS, act, runs)
        cut = time.time()
        print(f"all were cut off within {cut - began:.1f} s")
        nights = {host: run.wait() for host, run in runs.items()} if dies == "guest" else {}
        if dies == "both":
            assert_came_back(fleet, before, targets)
        for host, night in nights.items():
            assert_true(fleet, host, night, before[host], targets[host])
        between = time.time()
        blamed = {host for host in MOMENTS if targets[host] in fleet.failed_systems(host)}
        second = fleet.night(**QUICK)
        after = time.time()
    print(f"nights {between - began:.1f} s, next {after - between:.1f} s")
    assert {host: note["target"] for host, note in watch.cut.items() if note["target"]} == {
        host: target for host, target in targets.items() if MOMENTS[host].step != "claimed"
    }
    assert not watch.unverified
    assert second.outcomes.keys() == set(MOMENTS)
    if dies != "guest":
        for host in MOMENTS:
            assert_settled_as_it_was_seen(host, watch.cut[host]["run_id"], second)
    for host in MOMENTS:
        assert_settled(fleet, host)
        outcome = second.outcomes[host]
        if host in blamed:
            # only a night that lived on may have put down to the new system what it saw
            assert dies == "guest"
            assert (nights[host].outcomes[host], outcome) == ("rolled_back", "held"), host
        elif "unit-fails" in MOMENTS[host].faults:
            # tried again, and seen to fail
            assert outcome == "rolled_back", (host, outcome)
        else:
            assert outcome in ("updated", "unchanged"), (host, outcome)
            assert fleet.look(host).is_on(targets[host]), host
            assert targets[host] not in fleet.failed_systems(host)
    assert second.rc == (2 if "rolled_back" in second.outcomes.values() else 0)
    assert_activated_once(fleet, watch, [(began, between), (between, after)])


def assert_came_back(fleet: Fleet, before: dict[str, Host], targets: dict[str, str]) -> None:
    """Without anybody's help each guest is on its old system; on the new one only if it was the boot default."""
    for host, moment in MOMENTS.items():
        if moment.step == "reboot":
            # it was the order to boot the new system next that the power cut has carried out
            on_old = lambda host=host: fleet.link(host, "/run/booted-system") == before[host].current  # noqa: E731
            until(on_old, GUARD + 60, f"the boot guard of {host} has put it back")
        fleet.lab.wait_ready([host])
        look = fleet.look(host)
        assert look.current == look.boot_default, (host, look)
        good = {before[host].current, *([targets[host]] if moment.step == "commit" else [])}
        assert look.current in good, (host, look)


def assert_true(fleet: Fleet, host: str, night: Night, before: Host, target: str) -> None:
    """The one outcome of a night is what its host shows."""
    assert night.outcomes.keys() == {host}, night.output
    look = fleet.look(host)
    match night.outcomes[host]:
        case "updated":
            assert look.is_on(target), (host, look)
        case "rolled_back" | "failed":
            assert look.is_on(before.current), (host, look)
        case "deferred":
            # back before the next look at it, which saw that it had booted anew and left it alone
            assert MOMENTS[host].step == "claimed", host
            assert look.is_on(before.current), (host, look)
        case word:
            assert word == "lost", (host, word)


def nowhere(note: dict[str, Any]) -> str:
    """A note as a dead run leaves it, of systems that are not there."""
    system = "/nix/store/00000000000000000000000000000000-nixos-system-nowhere-26.11"
    other = system.replace("0-nixos", "1-nixos")
    return json.dumps({**note, "step": "verification", "from": system, "target": other, "deadline": note["since"] + 1})


# what becomes of a file whose writer died on another file system, or that somebody else has written
TORN: dict[str, Callable[[dict[str, Any]], str]] = {
    "dev": lambda _note: "",
    "web": lambda note: json.dumps(note)[: len(json.dumps(note)) // 2],
    "nas": lambda _note: "\0" * 400,
    "dns": lambda note: json.dumps({**note, "version": 2}),
    "host5": nowhere,
}
LIVE = {
    "host7": Moment("activation", live=True),
    "host8": Moment("reboot_verification", (f"{REBOOTS}=6.12.30",)),
    "host9": Moment("commit", ("slow-loader=3",)),
}


def test_torn_and_empty_files_are_named_and_never_taken_for_nobodys(fleet: Fleet):
    """Five notes that mean nothing on healthy hosts, one list of failed systems, and three notes of hosts in motion."""
    lab = fleet.lab
    lab.move()
    lab.update()
    fleet.faults(**{host: moment.faults for host, moment in LIVE.items()})
    before = fleet.looks()
    targets = {host: fleet.target(host) for host in MOMENTS}
    began = time.time()

    def act(host: str) -> None:
        runs[host].kill()
        text = json.dumps(watch.cut[host])
        lab.write(host, TRANSACTION, text[: len(text) // 2])

    with Watch(fleet) as watch:
        with nights_of(fleet, LIVE) as runs:
            watch.cut_off(LIVE, act, runs)
        note = watch.cut["host7"]
        for host, tear in TORN.items():
            lab.write(host, TRANSACTION, tear(note))
        # nothing hangs on these two, so they are no reason to stay away
        lab.write("web", LAST, '{"version": 1, "out')
        lab.write("web", f"{TRANSACTION}.new", "half")
        lab.write("host6", FAILED, '{"version": 1, "systems": {"/nix/sto')
        between = time.time()
        night = fleet.night(**QUICK)
        after = time.time()
    assert not watch.unverified
    assert night.outcomes == {
        **dict.fromkeys(targets, "updated"),
        "host6": "deferred",
        "host9": night.outcomes["host9"],
    }
    # its new system was the boot default by then, or was put back and tried again
    assert night.outcomes["host9"] in ("updated", "unchanged")
    assert night.rc == 0
    assert FAILED in night.reason("host6")
    assert fleet.look("host6") == before["host6"]
    for host in (*TORN, *LIVE):
        assert_settled(fleet, host)
        assert fleet.look(host).is_on(targets[host]), host
    for host in (*TORN.keys() - {"host5"}, *LIVE):
        assert TRANSACTION in night.reason(host), host
    assert_activated_once(fleet, watch, [(began, between), (between, after)])
    lab.write("host6", FAILED, None)
