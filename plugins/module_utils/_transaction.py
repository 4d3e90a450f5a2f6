# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host's own note of who is changing it and how far they got: who may hold it, and what a dead holder left. Pure.

At step C(claimed) it is a lease and nothing more. It ends at the deadline of the step in progress and is renewed at
each step; whoever takes over settles first, by what the host shows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, NoReturn, TypedDict, Unpack, get_args

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import is_store_path
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Systems

VERSION = 1
Step = Literal["claimed", "activation", "verification", "commit", "reboot", "reboot_verification", "rollback"]
# in the order of a night; a step is written before what it names begins
STEPS: tuple[Step, ...] = get_args(Step)
Settling = Literal["untouched", "reverted", "finish", "superseded", "put_back"]

# no step takes longer, so a deadline further away was written by a clock that was wrong
LONGEST = 86400

_CONTROLLER = re.compile(r"[!-~]{1,64}")
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# the last second that has a date
LAST_TIME = 253402300799


@dataclass(frozen=True)
class Process:
    """The main process of a run, told apart from every other of its machine: a pid alone is reused."""

    pid: int
    start: int
    boot_id: str
    pid_namespace: int


@dataclass(frozen=True)
class Transaction:
    """The note itself; C(origin) is I(from), and C(boot_id) the boot in which the step was written."""

    controller: str
    controller_name: str
    run_id: str
    process: Process | None
    since: int
    deadline: int
    step: Step
    boot_id: str
    origin: str | None = None
    target: str | None = None
    failed_units: tuple[str, ...] = ()
    verified: bool = False
    guard_seconds: int | None = None
    guard_until: float | None = None

    def as_result(self) -> dict[str, object]:
        """The note as plain values, by the names that the file has."""
        return {
            "version": VERSION,
            "controller": self.controller,
            "controller_name": self.controller_name,
            "run_id": self.run_id,
            "process": None if self.process is None else dict(vars(self.process)),
            "since": self.since,
            "deadline": self.deadline,
            "step": self.step,
            "boot_id": self.boot_id,
            "from": self.origin,
            "target": self.target,
            "failed_units": list(self.failed_units),
            "verified": self.verified,
            "guard_seconds": self.guard_seconds,
            "guard_until": self.guard_until,
        }


@dataclass(frozen=True)
class Torn:
    """There is a note, and it cannot be read: somebody is changing this host, and nobody knows who."""

    reason: str


class Changes(TypedDict, total=False):
    """What a holder may change of its note, beside its deadline."""

    step: Step
    origin: str | None
    target: str | None
    failed_units: tuple[str, ...]
    verified: bool
    guard_seconds: int | None
    guard_until: float | None


class Held(LabError):
    """Somebody else is changing this host."""

    def __init__(self, found: Transaction, now: float) -> None:
        super().__init__(
            f"Another run is changing this host. {held_sentence(found, now)}",
            "Wait for its end; a run that died is taken over from that time on.",
            {"held_by": found.as_result()},
        )


class Unsettled(LabError):
    """What a dead run left has to be brought to an end first."""

    def __init__(self, found: Transaction | Torn) -> None:
        if isinstance(found, Torn):
            what = f"Somebody was changing this host, and it is not known who: {found.reason}"
            data: dict[str, object] = {"transaction": None, "torn": found.reason}
        else:
            what = f"A run that did not end has left this host at step {found.step}. It was {_holder(found)}"
            data = {"transaction": found.as_result()}
        remedy = "Run lab_claim with state=settled first, as the probe of every night does."
        super().__init__(what, remedy, {"unsettled": True, **data})


class ClaimLost(LabError):
    """The caller acts as the holder of this host and is not."""

    def __init__(self, found: Transaction | Torn | None, run_id: str, now: float) -> None:
        data: dict[str, object] = {}
        if found is None:
            why = "Nobody holds it."
        elif isinstance(found, Torn):
            why, data = found.reason, {"torn": found.reason}
        else:
            why, data = held_sentence(found, now), {"held_by": found.as_result()}
        super().__init__(
            f"Run {run_id} does not hold this host. {why}",
            "Do nothing more to this host in this run; the next one settles what is left.",
            {"claim_lost": True, **data},
        )


def parse(text: str) -> Transaction:
    """Read the file of a transaction; whatever is not exactly such a file is L(Unreadable)."""
    data = json_object(text)
    version = data.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        raise Unreadable(f"it has version {_quoted(version)}, and only {VERSION} is known.")
    fields = set(_FIELDS)
    if data.keys() != fields:
        wrong = sorted(data.keys() ^ fields)
        raise Unreadable(f"it lacks or should not have {', '.join(map(_quoted, wrong[:5]))}.")
    return Transaction(
        controller=controller_id(data["controller"]),
        controller_name=_words(data["controller_name"], "controller_name"),
        run_id=checked_run_id(data["run_id"]),
        process=None if data["process"] is None else process(data["process"]),
        since=_whole(data["since"], "since", LAST_TIME),
        deadline=_whole(data["deadline"], "deadline", LAST_TIME),
        step=_step(data["step"]),
        boot_id=_words(data["boot_id"], "boot_id"),
        origin=_system(data["from"], "from"),
        target=_system(data["target"], "target"),
        failed_units=_units(data["failed_units"]),
        verified=_truth(data["verified"], "verified"),
        guard_seconds=None if data["guard_seconds"] is None else _whole(data["guard_seconds"], "guard_seconds"),
        guard_until=_seconds(data["guard_until"]),
    )


def dump(transaction: Transaction) -> str:
    """The text of the file. Each field is a line of its own, for the boot guard, which has only a shell to read it."""
    return lines(transaction.as_result())


def lines(data: Mapping[str, object]) -> str:
    """A JSON object, each of its members on one line."""
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()) + "\n}\n"


def take(
    found: Transaction | Torn | None,
    *,
    controller: str,
    controller_name: str,
    run_id: str,
    process: Process | None,
    now: float,
    seconds: float,
    boot_id: str,
    dead_run: str | None = None,
) -> Transaction:
    """The note after a run took the host, or took it again; raises for what is somebody else's, or was.

    C(dead_run) is a run of this controller of which the controller knows that it is dead.
    """
    deadline = _deadline(now, seconds)
    if found is None:
        return Transaction(
            controller=controller_id(controller),
            controller_name=_words(controller_name, "controller_name"),
            run_id=checked_run_id(run_id),
            process=process,
            since=int(now),
            deadline=deadline,
            step="claimed",
            boot_id=boot_id,
        )
    if isinstance(found, Torn):
        raise Unsettled(found)
    if is_own(found, controller, run_id):
        # a longer step may be in progress, which a second take does not cut short
        kept = 0 if is_over(found, now, None) else found.deadline
        return replace(found, deadline=max(kept, deadline), process=process or found.process)
    if is_over(found, now, dead_run if found.controller == controller else None):
        raise Unsettled(found)
    raise Held(found, now)


def renew(
    found: Transaction | Torn | None,
    *,
    controller: str,
    run_id: str,
    now: float,
    seconds: float,
    boot_id: str,
    **changes: Unpack[Changes],
) -> Transaction:
    """The note with a new deadline and C(changes), for its holder; for anybody else L(ClaimLost)."""
    found = own(found, controller=controller, run_id=run_id, now=now)
    if "step" in changes:
        _step(changes["step"])
    # a boot in which nothing was written is not named: by this one a reboot is told from none
    boot = boot_id if changes.keys() & {"step", "guard_until"} else found.boot_id
    return replace(found, deadline=_deadline(now, seconds), boot_id=boot, **changes)


def own(found: Transaction | Torn | None, *, controller: str, run_id: str, now: float) -> Transaction:
    """C(found) if it is this run's, else L(ClaimLost)."""
    if not isinstance(found, Transaction) or not is_own(found, controller, run_id):
        raise ClaimLost(found, run_id, now)
    return found


def is_own(found: Transaction, controller: str, run_id: str) -> bool:
    """Whether that run of that controller is the holder."""
    return (found.controller, found.run_id) == (controller, run_id)


def is_over(transaction: Transaction, now: float, dead_run: str | None) -> bool:
    """Whether its holder has no claim any more: its time is up, or it is known to be dead."""
    return not now < transaction.deadline < now + 2 * LONGEST or transaction.run_id == dead_run


def held_sentence(transaction: Transaction, now: float) -> str:
    """Who holds a host, since when and until when, for people."""
    return f"It {'was' if is_over(transaction, now, None) else 'is'} {_holder(transaction)}"


def settle(transaction: Transaction, systems: Systems) -> Settling:
    """What the host itself shows of a transaction that was left behind, and so what is to be done about it."""
    if transaction.step == "claimed":
        return "untouched"
    target, origin = transaction.target, transaction.origin
    # a rollback that was begun was begun for a reason
    if transaction.verified and transaction.step != "rollback" and target is not None and systems.current == target:
        return "finish"
    if origin is not None and systems.current == systems.profile == systems.boot_default == origin:
        return "reverted"
    agree = systems.current == systems.profile == systems.boot_default
    if agree and systems.current not in (None, origin, transaction.target):
        # a person has helped himself, and is not to be undone
        return "superseded"
    return "put_back"


def utc(seconds: float) -> str:
    """A point in time, for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def controller_id(value: object) -> str:
    """Return C(value) if it can be the id of a controller."""
    if not isinstance(value, str) or not _CONTROLLER.fullmatch(value):
        raise Unreadable(
            f"The controller is {_quoted(value)}, which is not the id of one.",
            "Set lab_controller to 1 to 64 printable ASCII characters without spaces.",
        )
    return value


def checked_run_id(value: object) -> str:
    """Return C(value) if it can be the id of a run."""
    if not isinstance(value, str) or not _RUN_ID.fullmatch(value):
        raise Unreadable(
            f"run_id is {_quoted(value)}, which is not the id of a run.",
            "Use 1 to 64 letters, digits, dots, dashes and underscores.",
        )
    return value


def process(value: object) -> Process:
    """Read the identity of a process."""
    if not isinstance(value, dict) or value.keys() != {"pid", "start", "boot_id", "pid_namespace"}:
        raise Unreadable("process is not pid, start, boot_id and pid_namespace.")
    return Process(
        pid=_whole(value["pid"], "pid"),
        start=_whole(value["start"], "start"),
        boot_id=_words(value["boot_id"], "boot_id"),
        pid_namespace=_whole(value["pid_namespace"], "pid_namespace"),
    )


_FIELDS = (
    *("controller", "controller_name", "run_id", "process", "since", "deadline", "step", "boot_id", "from", "target"),
    *("failed_units", "verified", "guard_seconds", "guard_until"),
)


def _holder(transaction: Transaction) -> str:
    return (
        f"held by {transaction.controller_name} (controller {transaction.controller}), "
        f"run {transaction.run_id}, since {utc(transaction.since)}, until {utc(transaction.deadline)} at most."
    )


def _deadline(now: float, seconds: float) -> int:
    if not 1 <= seconds <= LONGEST:
        raise LabError(f"seconds is {seconds:g}.", f"Set it to what the step may take: 1 to {LONGEST} seconds.")
    # up, so that nobody gets less than was said
    return math.ceil(now + seconds)


def json_object(text: str) -> dict[str, object]:
    if not text.strip("\0 \t\r\n"):
        raise Unreadable("it is empty.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is not JSON: {str(error).rstrip('.')}.") from error
    if not isinstance(data, dict):
        raise Unreadable("it is not a JSON object.")
    return data


def _quoted(value: object) -> str:
    """A value in a sentence: short, and in ASCII whatever it is."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _wrong(what: str, value: object, wanted: str) -> NoReturn:
    raise Unreadable(f"{what} is {_quoted(value)}, which is not {wanted}.")


def _words(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 255:
        _wrong(what, value, "a line of text")
    return value


def _whole(value: object, what: str, most: int = 2**63) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        _wrong(what, value, "a whole number in its range")
    return value


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LAST_TIME:
        _wrong("guard_until", value, "a number of seconds")
    return float(value)


def _truth(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        _wrong(what, value, "true or false")
    return value


def _system(value: object, what: str) -> str | None:
    if value is not None and not (isinstance(value, str) and is_store_path(value)):
        _wrong(what, value, "a store path")
    return value


def _units(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        _wrong("failed_units", value, "a list of units")
    return tuple(_words(unit, "failed_units") for unit in value)


def _step(value: object) -> Step:
    for step in STEPS:
        if value == step:
            return step
    _wrong("step", value, f"one of {', '.join(STEPS)}")
