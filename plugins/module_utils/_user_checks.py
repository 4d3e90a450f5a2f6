# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of the owner's own: what they ask for, and what an answer is worth. Pure; L(_ask_checks) asks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed, first_error
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check, Level, Status
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact, redacted, without

Place = Literal["host", "controller"]

KIND = "check"
# what is read of a page
LIMIT = 64 * 1024
# what the action plugin asks the module for, and no owner does
KEEP_BODY = "keep_body"

_COMMON = ("name", "kind", "from", "level", "timeout", "retries", "interval")
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "tcp": ("host", "port"),
    "http": ("url", "status", "body", "json", "validate_certs", "ca_path"),
    "command": ("argv", "rc"),
}
# how long a command that was told to end may still take, in seconds
_MERCY = 10
# what env(1) says of a program that it cannot run
_CANNOT_RUN = (126, 127)
_SHOWN = 100


@dataclass(frozen=True)
class Page:
    """What a URL answered. C(body) is C(None) where it is longer than was asked for."""

    status: int
    body: str | None


@dataclass(frozen=True)
class Tcp:
    """A port that has to take connections."""

    host: str
    port: int


@dataclass(frozen=True)
class Http:
    """A page that has to have a status and perhaps a body. C(json) is a JMESPath expression, for the controller."""

    url: str
    status: tuple[int, ...] = (200,)
    body: str | None = None
    json: str | None = None
    validate_certs: bool = True
    ca_path: str | None = None
    keep_body: bool = False

    @property
    def reads(self) -> bool:
        """Whether its body matters."""
        return self.keep_body or self.body is not None or self.json is not None


@dataclass(frozen=True)
class Command:
    """A program that has to end with an exit code."""

    argv: tuple[str, ...]
    rc: int = 0


@dataclass(frozen=True)
class UserCheck:
    """One check. C(level) is C(None) where its owner leaves that to the levels of all checks."""

    name: str
    what: Tcp | Http | Command
    place: Place = "host"
    level: Level | None = None
    timeout: float = 10
    retries: int = 0
    interval: float = 1

    @property
    def id(self) -> str:
        return f"{KIND}:{self.name}"

    @property
    def seconds(self) -> float:
        """How long it may take."""
        mercy = _MERCY if isinstance(self.what, Command) else 0
        return (self.retries + 1) * (self.timeout + mercy + self.interval)


def parse(given: object, setting: str = "checks") -> tuple[UserCheck, ...]:
    """The owner's checks, as C(lab_checks) and the option C(checks) have them."""
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise LabError(f"{setting} is {given!r}.", "It is a list of checks.")
    checks = tuple(_check(one, number, setting) for number, one in enumerate(given, 1))
    names = [check.name for check in checks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"{setting} has more than one check {', '.join(twice)}.", "Give each a name of its own.")
    return checks


def for_the_host(checks: Sequence[UserCheck]) -> Sequence[UserCheck]:
    """Refuse what the action plugin of lab_health_check keeps to itself, where it did not."""
    for check in checks:
        if check.place == "controller" or (isinstance(check.what, Http) and check.what.json is not None):
            raise LabError(
                f"The check {check.name} is for the controller, and lab_health_check was called without its action "
                "plugin.",
                "Call homelab.nixos.lab_health_check, or set action_plugins beside library in ansible.cfg.",
            )
    return checks


def levels(checks: Sequence[UserCheck]) -> dict[str, Level]:
    """The levels that checks say themselves, as C(levels) of lab_health_check has them."""
    return {check.id: check.level for check in checks if check.level is not None}


def judge(check: UserCheck, answer: Page | Completed | None) -> Check:
    """The check, from a page, from how a program ended, or from a connection, which is all that can be said of it."""
    if isinstance(check.what, Http) and isinstance(answer, Page):
        return _page(check, check.what, answer)
    if isinstance(check.what, Command) and isinstance(answer, Completed):
        return _program(check, check.what, answer)
    return _told(check, "ok", "connected", f"{_target(check)} takes connections")


def no_answer(check: UserCheck, status: Status, why: str) -> Check:
    """The check that got no answer, C(why) is a sentence."""
    return _told(check, status, why.rstrip("."), f"{_target(check)}: {why.rstrip('.')}")


def value(check: UserCheck, found: object) -> Check:
    """The check, from what its JMESPath expression gave."""
    shown = json.dumps(found, ensure_ascii=False)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    expression = check.what.json if isinstance(check.what, Http) else None
    said = f"{expression} of {_target(check)} is {shown}"
    return _told(check, "ok" if found else "fail", shown, said)


def expected(check: UserCheck) -> str:
    """What would be right."""
    what = check.what
    if isinstance(what, Tcp):
        return "connected"
    if isinstance(what, Command):
        return f"exit code {what.rc}"
    wanted = [_any(what.status)]
    if what.body is not None:
        wanted.append(f"a body that matches {what.body}")
    if what.json is not None:
        wanted.append(what.json)
    return redact(", ".join(wanted))


def document(text: str) -> object:
    """A body as JSON."""
    try:
        return cast(object, json.loads(text))
    # the second: lists in lists in lists …
    except (ValueError, RecursionError) as error:
        raise LabError("what it answers is not JSON.") from error


def _page(check: UserCheck, what: Http, page: Page) -> Check:
    url = _target(check)
    answered = f"{page.status}"
    if page.status not in what.status:
        return _told(check, "fail", answered, f"{url} answers {page.status}, and not {_any(what.status)}")
    if what.reads and page.body is None:
        return _told(check, "unknown", f"{answered}, too long", f"{url} answers more than {LIMIT // 1024} KiB")
    if what.body is not None and not re.search(what.body, page.body or ""):
        return _told(check, "fail", f"{answered}, no match", f"what {url} answers does not match {what.body}")
    return _told(check, "ok", answered, f"{url} answers {page.status}")


def _program(check: UserCheck, what: Command, done: Completed) -> Check:
    if done.timed_out:
        return no_answer(check, "unknown", f"no end within {check.timeout:g} s.")
    words = without(first_error(done.stderr), what.argv[1:])[:_SHOWN]
    said = f"{_target(check)} ends with exit code {done.rc}"
    if done.rc == what.rc:
        return _told(check, "ok", f"exit code {done.rc}", said)
    status: Status = "unknown" if done.rc in _CANNOT_RUN else "fail"
    return _told(check, status, f"exit code {done.rc}", f"{said}, and not {what.rc}{f': {words}' if words else ''}")


def _told(check: UserCheck, status: Status, observed: str, said: str) -> Check:
    message = redact(f"The check {check.name}: {said.rstrip('.')}.")
    return Check(check.id, status, redact(observed), expected(check), message, level=check.level or "required")


def _target(check: UserCheck) -> str:
    what = check.what
    if isinstance(what, Tcp):
        return f"port {what.port} of {what.host}"
    return redact(what.url) if isinstance(what, Http) else what.argv[0]


def _shown(option: str, given: object) -> str:
    """What was given, for people: of a command the program only, any other word may be a secret."""
    words = list(given) if isinstance(given, list | tuple) else str(given).split()
    if option == "argv" and len(words) > 1:
        return f"{words[0]!r} and other words"
    return repr(redacted(given))


def _any(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


class _Options:
    """The options of one check, each taken once, with errors that name the check and the option."""

    def __init__(self, given: Mapping[str, object], setting: str) -> None:
        self._given = given
        self._setting = setting
        self.name = "?"

    def wrong(self, option: str, remedy: str) -> LabError:
        said = f"has {option} {_shown(option, self._given[option])}" if option in self._given else f"has no {option}"
        return LabError(f"{self._setting}: the check {self.name} {said}.", remedy)

    def text(self, option: str, remedy: str, default: str | None = None) -> str:
        found = self._given.get(option, default)
        if not isinstance(found, str) or not found.strip():
            raise self.wrong(option, remedy)
        return found

    def optional(self, option: str, remedy: str) -> str | None:
        return None if self._given.get(option) is None else self.text(option, remedy)

    def number(self, option: str, remedy: str, default: float | None, low: float, high: float) -> float:
        number = _number(self._given.get(option, default))
        if number is None or not low <= number <= high:
            raise self.wrong(option, remedy)
        return number

    def whole(self, option: str, remedy: str, default: int | None, low: int, high: int) -> int:
        number = self.number(option, remedy, default, low, high)
        if number != int(number):
            raise self.wrong(option, remedy)
        return int(number)

    def flag(self, option: str, remedy: str, default: bool) -> bool:
        found = self._given.get(option, default)
        word = found.lower() if isinstance(found, str) else found
        if word in (True, "true", "yes", "on"):
            return True
        if word in (False, "false", "no", "off"):
            return False
        raise self.wrong(option, remedy)

    def items(self, option: str, default: object) -> Sequence[object]:
        """A list, or one value for a list of one."""
        found = self._given.get(option, default)
        return found if isinstance(found, list | tuple) else [found]

    def words(self, option: str, remedy: str) -> tuple[str, ...]:
        """A list of words, numbers among them; never one string."""
        found = self._given.get(option)
        good = isinstance(found, list | tuple) and all(
            isinstance(word, str | int | float) and not isinstance(word, bool) for word in found
        )
        if not good or not found:
            raise self.wrong(option, remedy)
        return tuple(str(word) for word in cast("Sequence[object]", found))


def _check(one: object, number: int, setting: str) -> UserCheck:
    if not isinstance(one, Mapping):
        raise LabError(f"{setting} has {one!r} in place {number}.", "A check is a dictionary with name and kind.")
    given = cast("Mapping[str, object]", one)
    options = _Options(given, setting)
    options.name = f"in place {number}"
    name = " ".join(options.text("name", "Give it a name, which says what is checked.").split())
    options.name = name
    kind = options.text("kind", f"Its kind is one of {', '.join(_OPTIONS)}.")
    if kind not in _OPTIONS:
        raise options.wrong("kind", f"Its kind is one of {', '.join(_OPTIONS)}.")
    known = (*_COMMON, *_OPTIONS[kind], *([KEEP_BODY] if kind == "http" else []))
    for option in given:
        if option not in known:
            # whose value may be anything
            raise LabError(
                f"{setting}: the check {name} has an option {option!r}, which is none.",
                f"A check of kind {kind} knows {', '.join(name for name in known if name != KEEP_BODY)}.",
            )
    place = options.text("from", "It is made from host or controller.", "host")
    if place not in get_args(Place):
        raise options.wrong("from", "It is made from host or controller.")
    level = options.optional("level", "A level is required or wanted.")
    if level not in (None, "required", "wanted"):
        raise options.wrong("level", "A level is required or wanted.")
    readers: Mapping[str, Callable[[_Options, Place], Tcp | Http | Command]]
    readers = {"tcp": _tcp, "http": _http, "command": _command}
    return UserCheck(
        name=name,
        what=readers[kind](options, cast(Place, place)),
        place=cast(Place, place),
        level=cast("Level | None", level),
        timeout=options.number("timeout", "It is a number of seconds, more than 0 and at most 600.", 10, 0.01, 600),
        retries=options.whole("retries", "It is a whole number from 0 to 100.", 0, 0, 100),
        interval=options.number("interval", "It is a number of seconds from 0 to 600.", 1, 0, 600),
    )


def _tcp(options: _Options, place: Place) -> Tcp:
    # to the controller, a host has no name but the one that its owner says
    host = options.text("host", "Say to which host or address.", "localhost" if place == "host" else None)
    return Tcp(host.strip(), options.whole("port", "A port is a number from 1 to 65535.", None, 1, 65535))


def _http(options: _Options, place: Place) -> Http:
    url = options.text("url", "Write it as http://localhost:8080/health.")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or re.search(r"[\s\x00-\x1f]", url):
        raise options.wrong("url", "Write it as http://localhost:8080/health.")
    numbers = [_number(one) for one in options.items("status", 200)]
    if not numbers or not all(one is not None and one == int(one) and 100 <= one <= 599 for one in numbers):
        raise options.wrong("status", "It is a status of HTTP, as 200, or a list of these.")
    body = options.optional("body", "It is a regular expression that is searched in what is answered.")
    try:
        re.compile(body or "")
    except re.error as error:
        raise options.wrong("body", f"It is no regular expression: {error}.") from error
    return Http(
        url=url,
        status=tuple(int(one) for one in numbers if one is not None),
        body=body,
        json=options.optional("json", "It is a JMESPath expression that is true when all is well."),
        validate_certs=options.flag("validate_certs", "It is true or false.", True),
        ca_path=options.optional("ca_path", "It is the path of a file with certificates."),
        keep_body=options.flag(KEEP_BODY, "Leave it out.", False),
    )


def _command(options: _Options, place: Place) -> Command:
    remedy = "It is a list of words, the program first; there is no shell."
    argv = options.words("argv", remedy)
    # a program with = in its name would be taken for a variable
    if not argv[0] or "=" in argv[0] or any("\0" in word for word in argv):
        raise options.wrong("argv", remedy)
    return Command(argv, options.whole("rc", "An exit code is a number from 0 to 255.", 0, 0, 255))


def _number(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return None
    try:
        number = float(given)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
