# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far the rollout of a flake has come, over nights: what is written down on the flake's own host. Pure.

It is kept where the lock is, so that every controller that comes there finds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import json_object, lines, utc

Status = Literal["done", "soaking", "stopped"]
VERSION = 1


@dataclass(frozen=True)
class Record:
    """How the rollout stood at the end of a night.

    C(stages) are those that nobody may touch while it is stopped. C(revision) is what the flake was: a commit by its
    owner changes it. C(current) has for each host when it was last seen to run what the flake gives it (Unix time).
    """

    status: Status = "done"
    reason: str = ""
    stages: tuple[str, ...] = ()
    revision: str = ""
    run_id: str = ""
    time: int = 0
    current: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """What a record means for the night that finds it: whether it C(may_update) the inputs, and who is C(closed)."""

    may_update: bool = True
    closed: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Ending:
    """How a night has ended: C(stop) says why, if it hit a critical stage; C(soaking) why stages wait.

    C(whole): all hosts of the inventory were in it.
    """

    run_id: str
    revision: str
    stop: str = ""
    critical_stages: tuple[str, ...] = ()
    soaking: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True


def file_name(path: str) -> str:
    """The name of the record of the flake in directory C(path)."""
    return f"rollout-{hashlib.sha256(path.encode()).hexdigest()[:12]}.json"


def standing(record: Record, revision: str, *, resume: bool, soak: int) -> Standing:
    """What C(record) means while the flake is C(revision). C(resume): its owner says to go on."""
    if is_stopped(record, revision, resume=resume):
        reason = (
            f"Stopped since {utc(record.time)} (run {record.run_id}): {record.reason} It goes on when somebody commits "
            "to the flake, or with -e lab_resume=true."
        )
        return Standing(False, dict.fromkeys(record.stages, reason), reason)
    if record.status == "soaking" and soak > 0:
        return Standing(False, {}, f"The inputs are left alone while stages soak: {record.reason}")
    return Standing()


def is_stopped(record: Record, revision: str, *, resume: bool) -> bool:
    """Whether a stop is still in force."""
    return record.status == "stopped" and record.revision == revision and not resume


def ended(
    record: Record, ending: Ending, now: int, hosts: Collection[str], current: Collection[str], *, resume: bool
) -> Record:
    """The record after a night. C(hosts) took part in it, and C(current) of them run what the flake gives them."""
    # of a host that nobody has seen yet, time counts from now
    times = {**record.current, **{host: now for host in hosts if host in current or host not in record.current}}
    stopped = is_stopped(record, ending.revision, resume=resume)
    if ending.stop:
        stages = dict.fromkeys([*(record.stages if stopped else ()), *ending.critical_stages])
        return Record("stopped", ending.stop, tuple(stages), ending.revision, ending.run_id, now, times)
    # who was not in this night has shown nothing
    if stopped or (record.status == "soaking" and not ending.whole and not ending.soaking):
        return Record(**{**vars(record), "current": times})
    if ending.soaking:
        reason = next(iter(ending.soaking.values()))
        return Record("soaking", reason, (), ending.revision, ending.run_id, now, times)
    return Record("done", "", (), ending.revision, ending.run_id, now, times)


def dump(record: Record) -> str:
    return lines({"version": VERSION, **vars(record)})


def parse(text: str) -> Record:
    """Read a record; one that cannot be read may be of a rollout that was stopped."""
    data: dict[str, Any] = json_object(text)
    if data.pop("version", None) != VERSION:
        raise Unreadable("it is not a record of a known version.")
    wanted = {"status": str, "reason": str, "stages": list, "revision": str, "run_id": str, "time": int}
    found = {name: type(value) for name, value in data.items() if name != "current"}
    current = data.get("current")
    if found != wanted or data["status"] not in get_args(Status) or not isinstance(current, dict):
        raise Unreadable("its fields are not those of a record.")
    if not all(isinstance(stage, str) for stage in data["stages"]):
        raise Unreadable("its stages are not names.")
    if not all(isinstance(when, int) and not isinstance(when, bool) for when in current.values()):
        raise Unreadable("its times are not numbers.")
    return Record(**{**data, "stages": tuple(data["stages"])})
