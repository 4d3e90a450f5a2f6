# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A controller's own note of which run is going on: who may go on when there is one already. Pure.

It is about the processes of one machine. What runs elsewhere is kept apart by the claims on the hosts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ansible_collections.homelab.nixos.plugins.module_utils import _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Process

VERSION = 1
Standing = Literal["own", "over", "going_on", "unknown"]

_COMMAND = 300
# -e and what begins with it, also at the end of a group of flags; --extra-vars may be cut short
_EXTRA = re.compile(r"(?P<option>-[A-Za-z]*?e|--e[a-z-]*)(?P<value>=?.*)", re.DOTALL)


@dataclass(frozen=True)
class Holder:
    """The run that is going on. C(machine) is the id of its machine, C(log) where its words go; each may be empty."""

    run_id: str
    controller: str
    controller_name: str
    machine: str
    process: Process | None
    began: int
    log: str
    command: str

    def as_result(self) -> dict[str, object]:
        """The note as plain values, by the names that the file has."""
        return {
            "version": VERSION,
            **vars(self),
            "process": None if self.process is None else dict(vars(self.process)),
        }


class Busy(LabError):
    """Another run is going on."""

    def __init__(self, found: Holder) -> None:
        pid = found.process.pid if found.process else 0
        super().__init__(
            f"Another run is going on, and no host was contacted. {holder_sentence(found)}",
            f"Wait for its end, or end it (kill {pid}); nothing has to be cleared away then.",
            {"held_by": found.as_result()},
        )


def holder_sentence(found: Holder) -> str:
    """Who is running, since when, and where that can be followed, for people."""
    process = f" as process {found.process.pid}" if found.process else ""
    log = f" Its log is {found.log}." if found.log else " It keeps no log."
    command = f" It was started by `{found.command}`." if found.command else ""
    return (
        f"It is run {found.run_id} of {found.controller_name} (controller {found.controller}){process}, "
        f"since {_transaction.utc(found.began)}.{log}{command}"
    )


def parse(text: str) -> Holder:
    """Read the file; whatever is not exactly such a file is L(Unreadable)."""
    data = _transaction.json_object(text)
    version = data.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        raise Unreadable(f"it has version {version!a}, and only {VERSION} is known.")
    words: dict[str, str] = {}
    for name in ("run_id", "controller", "controller_name", "machine", "log", "command"):
        value = data.get(name)
        if not isinstance(value, str):
            raise Unreadable(f"it has no {name}.")
        words[name] = value
    began, process = data.get("began"), data.get("process")
    if not isinstance(began, int) or isinstance(began, bool) or not 0 <= began <= _transaction.LAST_TIME:
        raise Unreadable("it does not say when the run began.")
    return Holder(
        **words | {"run_id": _transaction.checked_run_id(words["run_id"])},
        process=None if process is None else _transaction.process(process),
        began=began,
    )


def dump(holder: Holder) -> str:
    """The text of the file."""
    return _transaction.lines(holder.as_result())


def standing(found: Holder, mine: Holder, *, is_dead: bool) -> Standing:
    """What the run that is noted means to C(mine); C(is_dead) when that is certain.

    Of a process in another container, on another machine or where processes have no identity, nobody here can tell
    whether it lives: it cannot block every night after it was killed.
    """
    if is_dead:
        return "over"
    if found.process is None or mine.process is None:
        return "unknown"
    if found.process == mine.process:
        return "own"
    here = (mine.process.boot_id, mine.process.pid_namespace)
    return "going_on" if (found.process.boot_id, found.process.pid_namespace) == here else "unknown"


def shown_command(words: Sequence[str]) -> str:
    """A command line for people: without the values of extra variables, which may be secrets."""
    shown: list[str] = []
    hidden = False
    for word in words:
        extra = _EXTRA.fullmatch(word)
        if hidden:
            shown.append("***")
            hidden = False
        elif extra and extra["value"]:
            shown.append(f"{extra['option']} ***")
        else:
            shown.append(word)
            hidden = extra is not None
    text = redact(" ".join(shown))
    # a line, whatever somebody has made of the words
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= _COMMAND else f"{text[: _COMMAND - 3]}..."
