# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host that its owner holds: why, and until when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check

NAME = "hold:inventory"
_REMEDY = "Give it a reason and, if you like, until, as 2026-12-24; or the reason alone."


@dataclass(frozen=True)
class Hold:
    """C(until) is when it is not held any more: a day begins at midnight of the controller's own time."""

    reason: str
    until: datetime | None = None


def parse(given: object, setting: str = "lab_hold") -> Hold | None:
    """The owner's hold, C(None) when there is none."""
    if given is None or given == "" or given == {}:
        return None
    if isinstance(given, str):
        return Hold(_reason(given, setting))
    if not isinstance(given, Mapping):
        raise LabError(f"{setting} is {given!r}.", _REMEDY)
    unknown = [str(name) for name in given if name not in ("reason", "until")]
    if unknown:
        raise LabError(f"{setting} has {', '.join(unknown)}, which it does not know.", _REMEDY)
    until = given.get("until")
    return Hold(_reason(given.get("reason"), setting), None if until is None else _moment(until, setting))


def judge(hold: Hold, now: datetime) -> Check:
    """Whether the host is held; C(now) has a time zone."""
    until = "" if hold.until is None else f" until {_told(hold.until)}"
    if hold.until is not None and now >= hold.until.astimezone():
        return Check(NAME, "ok", f"held{until}", "not held", f"It was held{until}: {hold.reason}")
    return Check(NAME, "fail", f"held{until}", "not held", f"It is held{until}: {hold.reason}")


def _reason(given: object, setting: str) -> str:
    reason = " ".join(given.split()) if isinstance(given, str) else ""
    if not reason:
        raise LabError(f"{setting} has no reason.", _REMEDY)
    return reason if reason[-1] in ".!?" else f"{reason}."


def _moment(given: object, setting: str) -> datetime:
    if isinstance(given, datetime):
        return given
    if isinstance(given, date):
        return datetime(given.year, given.month, given.day)
    # only the form with dashes, which people can tell from a number
    if isinstance(given, str) and given.strip()[4:5] == "-":
        with suppress(ValueError):
            return datetime.fromisoformat(given.strip())
    raise LabError(f"{setting} is until {given!r}, which is no date.", "Write it as 2026-12-24.")


def _told(moment: datetime) -> str:
    at_midnight = moment.tzinfo is None and (moment.hour, moment.minute, moment.second) == (0, 0, 0)
    return moment.strftime("%Y-%m-%d" if at_midnight else "%Y-%m-%d %H:%M %Z").strip()
