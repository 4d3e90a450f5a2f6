# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether anybody is to be told of a night, and what; and what waits for receivers that could not be told. Pure.

The URL of a receiver is a secret, as a whole and in pieces. None of it is in a message, in what waits, or in what is
said of the receiver, but for the host where that is certain to be one.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qs, urlsplit, urlunsplit

from ansible_collections.homelab.nixos.plugins.module_utils import _letter, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._night import PLAYBOOK, Verdict, clipped, headline, read
from ansible_collections.homelab.nixos.plugins.module_utils._night import subject as subject_of

Mode = Literal["always", "on_change", "on_reboot_or_error", "on_error"]
Ping = Literal["start", "success", "fail"]

VERSION = 1
# what waits for a receiver at the most
MOST = 50
DAYS = 30
# of a text; two of them fit into what is read of a file, whatever characters they have
_LONGEST = 50_000
_LONGEST_SUBJECT = 240
_LONGEST_PING = 10_000

_SCHEME = re.compile(r"([a-z][a-z0-9+-]*)://", re.IGNORECASE)
# where others have a host, some services have their token, or a topic that whoever knows it may read
_WITH_HOST = ("form", "gotify", "http", "json", "mailto", "matrix", "ntfy", "xml")
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+|[0-9a-f]*:[0-9a-f:.]+", re.IGNORECASE)
_FILE = re.compile(r"(?P<key>[0-9a-f]{32})\.(?P<run_id>[A-Za-z0-9_.-]+)\.json")
_TYPES: Mapping[Verdict, str] = {"good": "success", "mixed": "warning", "bad": "failure"}
# What of a library's words is passed on, in ours: its own may have anything in them.
_CAUSES = (
    (re.compile(r"error=(\d{3})\b"), "it answers {0}"),
    (re.compile(r"\((\d{3}), b['\"]|was refused: (\d{3})\b"), "it refuses the mail with {0}"),
    (re.compile(r"Connection refused", re.IGNORECASE), "connection refused"),
    (re.compile(r"timed out|time-?out", re.IGNORECASE), "no answer in time"),
    (re.compile(r"CERTIFICATE_VERIFY_FAILED"), "its certificate is not accepted"),
    (re.compile(r"name resolution|NameResolution|Name or service|getaddrinfo"), "its name cannot be resolved"),
    (re.compile(r"No route to host|Network is unreachable"), "there is no way to it"),
    (re.compile(r"Connection (?:unexpectedly closed|reset|aborted)|Remote ?Disconnected"), "it closes the connection"),
)


@dataclass(frozen=True)
class Message:
    """What is said of a night, in two ways, and when (Unix time)."""

    run_id: str
    time: int
    verdict: Verdict
    subject: str
    plain: str
    markdown: str


@dataclass(frozen=True)
class Receiver:
    """Who is told: its number in the list, what may be said of it, and by what its messages are found."""

    number: int
    name: str
    key: str
    url: str = field(repr=False)

    def __str__(self) -> str:
        return f"receiver {self.number} of lab_notify ({self.name})"


class Kept(NamedTuple):
    """The messages that go on waiting, the oldest first, and those that do not."""

    kept: list[Message]
    dropped: list[Message]


# ---- a night ---------------------------------------------------------------------------------------------------------
def due(mode: Mode, result: Mapping[str, Any]) -> bool:
    """Whether anybody is to be told of the night that C(result) is of. Of a dry run nobody is: it changed nothing."""
    night = read(result)
    if night.dry_run:
        return False
    wrong = night.verdict == "bad" or bool(result.get("warned"))
    rebooted = any(host.rebooted for host in night.hosts)
    match mode:
        case "always":
            return True
        case "on_change":
            return wrong or rebooted or bool(night.inputs) or any(host.changed for host in night.hosts)
        case "on_reboot_or_error":
            return wrong or rebooted
        case "on_error":
            return wrong


def message(
    result: Mapping[str, Any],
    former: Sequence[Mapping[str, Any]] = (),
    *,
    now: float,
    lab: str = "",
    zone: datetime.tzinfo = datetime.UTC,
    playbook: str = PLAYBOOK,
    optional: Collection[str] = (),
) -> Message:
    """What to say of a night; C(former) are the results of those before it, the newest last."""
    night = read(result, optional)
    plain, markdown = (
        write(result, former, zone=zone, playbook=playbook, optional=optional)
        for write in (_letter.plain, _letter.markdown)
    )
    return Message(
        run_id=night.run_id,
        time=int(now),
        verdict=night.verdict,
        subject=clipped(subject_of(night, lab, zone), _LONGEST_SUBJECT),
        plain=clipped(plain, _LONGEST),
        markdown=clipped(markdown, _LONGEST),
    )


def dump(waiting: Message) -> str:
    """The text of the file in which a message waits."""
    return _transaction.lines({"version": VERSION, **asdict(waiting)})


def parse(text: str) -> Message:
    """The message that waits in a file of this text."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("This is no message that waits.") from error
    if not isinstance(data, dict) or data.pop("version", None) != VERSION:
        raise Unreadable("This is no message of a known version.")
    texts = dict.fromkeys(("run_id", "verdict", "subject", "plain", "markdown"), str)
    if {name: type(value) for name, value in data.items()} != {**texts, "time": int}:
        raise Unreadable("This message has not what a message has.")
    if data["verdict"] not in get_args(Verdict):
        raise Unreadable("This message is of no night.")
    _transaction.checked_run_id(data["run_id"])
    return Message(**data)


def kept(waiting: Iterable[Message], now: float) -> Kept:
    """Those of the messages for a receiver that are not too old, and not too many."""
    ordered = sorted(waiting, key=lambda one: (one.time, one.run_id))
    young = [one for one in ordered if one.time >= now - DAYS * 86400][-MOST:]
    return Kept(young, [one for one in ordered if one not in young])


# ---- receivers -------------------------------------------------------------------------------------------------------
def receivers(urls: Sequence[str]) -> list[Receiver]:
    """Who is told; one that is named twice is told once."""
    numbers: dict[str, int] = {}
    for number, url in enumerate(urls, 1):
        numbers.setdefault(url, number)
    return [Receiver(number, _name(url), key_of(url), url) for url, number in numbers.items()]


def key_of(url: str) -> str:
    """By what the messages for a receiver are found, from which nobody gets to its URL."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def file_name(key: str, run_id: str) -> str:
    """The name of the file in which a message of C(run_id) waits."""
    return f"{key}.{_transaction.checked_run_id(run_id)}.json"


def key_of_file(name: str) -> str:
    """Whose message waits in a file of this name; empty where it is none of ours."""
    found = _FILE.fullmatch(name)
    return found["key"] if found else ""


def is_url(text: str) -> bool:
    """Whether this begins as a URL does; only the library knows more."""
    return _SCHEME.match(text) is not None


def _name(url: str) -> str:
    """The scheme, and the host where that is one."""
    found = _SCHEME.match(url)
    if found is None:
        return "no URL"
    scheme = found[1].lower()
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        # of a user and a password that are not encoded as they should be, the beginning may look like a host and a port
        whole = "@" in parts.netloc or ("@" not in url and parts.port != 0)
    except ValueError:
        return f"{scheme}://"
    shown = whole and scheme.removesuffix("s") in _WITH_HOST and _HOST.fullmatch(host)
    return f"{scheme}://{host}" if shown else f"{scheme}://"


def with_bounds(url: str, seconds: float) -> str:
    """C(url) with what apprise is to do where its owner has not said it.

    A text that is too long for a service is cut, as the service may refuse it. Whoever is slow has a third of the time,
    and is asked twice: an answer that comes too late is a message that comes again.
    """
    given = {name.lower() for name in parse_qs(url.partition("?")[2], keep_blank_values=True)}
    each = f"{max(1.0, seconds / 3):g}"
    wanted = {"overflow": "truncate", "cto": each, "rto": each, "retry": "1", "wait": "2"}
    more = "&".join(f"{name}={value}" for name, value in wanted.items() if name not in given)
    if not more:
        return url
    return f"{url}{'' if url.endswith(('?', '&')) else '&' if '?' in url else '?'}{more}"


def sendable(waiting: Message, url: str) -> dict[str, str]:
    """A message as it is handed to apprise. Markdown is for receivers whose URL asks for it."""
    markdown = parse_qs(url.partition("?")[2].lower()).get("format") == ["markdown"]
    return {
        "run_id": waiting.run_id,
        "title": waiting.subject,
        "body": waiting.markdown if markdown else waiting.plain,
        "body_format": "markdown" if markdown else "text",
        "notify_type": _TYPES[waiting.verdict],
    }


def cause(said: Iterable[str]) -> str:
    """Why something was not delivered, by what a library said of it; none of its words are in it."""
    text = "\n".join(said)
    for pattern, words in _CAUSES:
        found = pattern.search(text)
        if found:
            return words.format(*filter(None, found.groups()))
    return "it could not be told, and nothing says why"


# ---- start and end ---------------------------------------------------------------------------------------------------
def ping_url(url: str, what: Ping, run_id: str) -> str:
    """Where to report the start or the end of a run, so that both are known to be of the same one."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") + ("" if what == "success" else f"/{what}")
    rid = f"rid={uuid.uuid5(uuid.NAMESPACE_URL, f'homelab.nixos:{run_id}')}"
    return urlunsplit((parts.scheme, parts.netloc, path, f"{parts.query}&{rid}" if parts.query else rid, ""))


def ping_body(
    result: Mapping[str, Any],
    lab: str = "",
    zone: datetime.tzinfo = datetime.UTC,
    optional: Collection[str] = (),
) -> str:
    """What is reported of a night at its end."""
    night = read(result, optional)
    return f"{subject_of(night, lab, zone)}\nRun {night.run_id}\n{headline(night)}\n"


def ping_data(body: str) -> str:
    """As much of C(body) as is sent."""
    return body.encode("utf-8", "replace")[:_LONGEST_PING].decode("utf-8", "ignore")


def check_ping(url: str) -> None:
    """Refuse an address for pings that is none, without a word of it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if url and not good:
        raise LabError(
            "lab_ping_url is no address that can be asked.",
            "It begins with http:// or https://, as https://hc-ping.com/… does, or is left empty.",
        )
