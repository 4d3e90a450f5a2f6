# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""When a host may be changed: windows, each on some days of the week and in a time zone. Pure.

A window is open from the first moment at which the clocks of its zone show its begin, or more, to the last at which
they show less than its end. So a time that the clocks leave out on a day is the first that comes after it, and of an
hour that comes twice both are inside. A window belongs to the day on which it opens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

# finds a time zone by its name, or raises a LabError
Zone = Callable[[str], tzinfo]

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FORM = re.compile(
    r"(?:(?P<days>[a-z][a-z., ]*?) +)?(?P<begin>\d{1,2}:\d{2}) *- *(?P<end>\d{1,2}:\d{2})(?: +(?P<zone>\S+))?",
    re.IGNORECASE,
)
_REMEDY = "Write it as 22:00-06:00, Mon..Fri 23:00-05:30, or Sat,Sun 01:00-09:00 Europe/Vienna."
_DAY = 24 * 60
# weeks repeat, but on one day in a year an hour, and what began or ended in it, is left out
_ALWAYS = 15


@dataclass(frozen=True)
class Window:
    """One window. C(begin) and C(end) are minutes after midnight; C(end) is after C(begin), on the next day or not.

    C(zone) is C(None) for the controller's own time.
    """

    days: frozenset[int]
    begin: int
    end: int
    zone: tzinfo | None
    text: str


def parse(given: object, zone: Zone, setting: str = "lab_window") -> tuple[Window, ...]:
    """The owner's windows, one string or a list of them; none means that it is always open."""
    if given is None or given == "":
        return ()
    texts = given if isinstance(given, list | tuple) else [given]
    return tuple(_window(text, zone, setting) for text in texts)


def is_open(windows: Sequence[Window], now: float) -> bool:
    """Whether one of them is open, or there is none."""
    return not windows or _span(windows, now)[0] <= now


def closes(windows: Sequence[Window], now: float) -> float | None:
    """When it closes, with those that open in time; C(None) if never. While none is open, when the next one closes."""
    if not windows:
        return None
    end = _span(windows, now)[1]
    return end if end <= now + _ALWAYS * 86400 else None


def opens(windows: Sequence[Window], now: float) -> float | None:
    """When the next one opens; C(None) while one is open."""
    return None if is_open(windows, now) else _span(windows, now)[0]


def _window(text: object, zone: Zone, setting: str) -> Window:
    found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise LabError(f"{setting} has {text!r}, which is no window.", _REMEDY)
    begin, end = _minutes(found["begin"], setting), _minutes(found["end"], setting)
    if begin == _DAY:
        raise LabError(f"{setting} has {text!r}: no day begins at 24:00.", "Let it begin at 00:00, on the next day.")
    if begin == end:
        raise LabError(f"{setting} has {text!r}: it ends when it begins.", "Write 00:00-24:00 for the whole day.")
    try:
        where = None if found["zone"] is None else zone(found["zone"])
    except LabError as error:
        raise LabError(f"{setting} has {text!r}: {error.what}", error.remedy) from error
    return Window(
        days=frozenset(range(7)) if found["days"] is None else frozenset(_days(found["days"], setting)),
        begin=begin,
        end=end if end > begin else end + _DAY,
        zone=where,
        text=found[0],
    )


def _minutes(text: str, setting: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY:
        raise LabError(f"{setting} has the time {text}, which no clock shows.", "Times are from 00:00 to 24:00.")
    return hours * 60 + minutes


def _days(text: str, setting: str) -> Iterator[int]:
    for part in text.split(","):
        first, dots, last = (word.strip() for word in part.partition(".."))
        begin = _day(first, setting)
        end = _day(last, setting) if dots else begin
        yield from ((begin + step) % 7 for step in range((end - begin) % 7 + 1))


def _day(word: str, setting: str) -> int:
    for number, name in enumerate(_DAYS):
        if word.lower() in (name, name[:3]):
            return number
    raise LabError(f"{setting} has the day {word!r}.", "Days are Mon, Tue, Wed, Thu, Fri, Sat and Sun.")


def _span(windows: Sequence[Window], now: float) -> tuple[int, int]:
    """Begin and end of the stretch, made of one or more windows, that is open now or opens next."""
    spans = sorted(span for window in windows for span in _spans(window, now))
    begin, end = spans[0]
    for following, its_end in spans[1:]:
        if following <= end:
            end = max(end, its_end)
        elif end <= now:
            begin, end = following, its_end
        else:
            break
    return begin, end


def _spans(window: Window, now: float) -> Iterator[tuple[int, int]]:
    """When a window opens and closes, from the day before yesterday on, as long as it matters."""
    today = _wall(window.zone, int(now)).replace(hour=0, minute=0, second=0)
    for number in range(-2, _ALWAYS + 3):
        day = today + timedelta(days=number)
        if day.weekday() in window.days:
            begin = _first(window.zone, day + timedelta(minutes=window.begin))
            end = _last(window.zone, day + timedelta(minutes=window.end))
            # all of it is in an hour that is left out
            if begin < end:
                yield begin, end


def _first(zone: tzinfo | None, wall: datetime) -> int:
    """The first moment at which clocks show C(wall) or more."""
    found = _unix(zone, wall, 0)
    if _wall(zone, found) == wall:
        return found
    # it is left out: look for the moment at which the clocks are put forward
    before, after = _unix(zone, wall, 1), found
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if _wall(zone, middle) >= wall else (middle, after)
    return after


def _last(zone: tzinfo | None, wall: datetime) -> int:
    """The moment from which on clocks never show less than C(wall)."""
    found = _unix(zone, wall, 1)
    if _wall(zone, found) != wall:
        return _first(zone, wall)
    # a time with which the repeated hour begins is reached before, and not undercut
    return found if _wall(zone, found - 1) < wall else _unix(zone, wall, 0)


def _unix(zone: tzinfo | None, wall: datetime, fold: int) -> int:
    # without a zone, both directions take the controller's own
    return int(wall.replace(tzinfo=zone, fold=fold).timestamp())


def _wall(zone: tzinfo | None, unix: int) -> datetime:
    return datetime.fromtimestamp(unix, zone).replace(tzinfo=None, fold=0)


def told(moment: float) -> str:
    """A moment for people, in the controller's own time."""
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%a %Y-%m-%d %H:%M %Z")
