# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Receivers are told of a night, through apprise, and whoever cannot be told is told by a later run.

A message is written down before it is sent, and forgotten when it was: whatever happens in between, it is never lost,
and comes twice at the worst.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import repeat
from typing import Any, NamedTuple

from ansible_collections.homelab.nixos.plugins.module_utils import _notify
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._night import PLAYBOOK
from ansible_collections.homelab.nixos.plugins.module_utils._notify import Message, Mode, Receiver
from ansible_collections.homelab.nixos.plugins.module_utils._state import State
from ansible_collections.homelab.nixos.plugins.plugin_utils import _child, _controller

DIRECTORY = "notifications"
_PROGRAM = "_child_apprise.py"
# loading all that apprise can do takes a second, on a machine that does nothing else
_CHECK_SECONDS = 120.0


class Sent(NamedTuple):
    """The runs of which a receiver was told, and why it was not told of the others."""

    run_ids: list[str]
    why: str


def installed() -> bool:
    """Whether apprise is there, for the Python that runs Ansible."""
    return importlib.util.find_spec("apprise") is not None


def check(urls: Sequence[str]) -> None:
    """Refuse what cannot be told anything, without a word of it."""
    for number, url in enumerate(urls, 1):
        if not _notify.is_url(url):
            raise _misunderstood(number)
    if urls:
        wrong = _misunderstood_of(tuple(urls))
        if wrong:
            raise _misunderstood(wrong)


def tell(
    urls: Sequence[str],
    mode: Mode,
    result: Mapping[str, Any],
    former: Sequence[Mapping[str, Any]] = (),
    *,
    lab: str = "",
    state_directory: str = "",
    timeout: float = 60,
    zone: datetime.tzinfo = datetime.UTC,
    playbook: str = PLAYBOOK,
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """Tell all receivers of a night, if it is worth it, and of those before it that they missed.

    C(state_directory) is the setting. All are told at once, and for no longer than C(timeout) seconds.
    """
    if result.get("dry_run") is True:
        # which changes nothing, and leaves what waits where it is
        return {"receivers": [], "warnings": []}
    now = time.time()
    warnings: list[str] = []
    messages: list[Message] = []
    try:
        if urls and _notify.due(mode, result):
            said = _notify.message(result, former, now=now, lab=lab, zone=zone, playbook=playbook, optional=optional)
            messages.append(said)
    except Unreadable as error:
        warnings.append(f"Nobody is told of this night. {error}")
    spool = _Spool(_controller.state_directory(state_directory))
    receivers = _notify.receivers(urls)
    warnings += spool.forget_others([receiver.key for receiver in receivers])
    queues = []
    for receiver in receivers:
        queue, told = spool.queue(receiver, messages, now)
        queues.append(queue)
        warnings += told
    with ThreadPoolExecutor(max(1, len(receivers))) as executor:
        sent = list(executor.map(_send, receivers, queues, repeat(timeout)))
    results = []
    for receiver, queue, (run_ids, why) in zip(receivers, queues, sent, strict=True):
        warnings += spool.remove(receiver, run_ids)
        left = [one.run_id for one in queue if one.run_id not in run_ids]
        waiting = [run_id for run_id in left if spool.has(receiver, run_id)]
        if left:
            warnings.append(
                f"{_count(len(left))} for {receiver} {_was(len(left))} not delivered: {why}. "
                f"{len(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for the next run."
            )
        results.append({"name": receiver.name, "delivered": len(run_ids), "spooled": len(waiting), "error": why})
    return {"receivers": results, "warnings": warnings}


class _Spool:
    """The messages that wait, each in a file of its own."""

    def __init__(self, directory: str) -> None:
        self._state = State(os.path.join(directory, DIRECTORY), mode=0o700)

    def forget_others(self, keys: Collection[str]) -> list[str]:
        """Whoever is not told any more leaves nothing behind."""
        names = [name for name in self._names() if _notify.key_of_file(name) not in keys]
        warnings = [warning for name in names for warning in self._remove(name)]
        gone = len(names) - len(warnings)
        if gone:
            warnings.append(f"{_count(gone)} for receivers that are not in lab_notify any more {_was(gone)} dropped.")
        return warnings

    def queue(self, receiver: Receiver, new: Sequence[Message], now: float) -> tuple[list[Message], list[str]]:
        """What a receiver is to be told, the oldest first, with C(new) written down; and what to warn of."""
        waiting, warnings = self._read(receiver)
        again = {one.run_id for one in new}
        kept, dropped = _notify.kept([*(one for one in waiting if one.run_id not in again), *new], now)
        for one in dropped:
            warnings += self._remove(_notify.file_name(receiver.key, one.run_id))
        if dropped:
            count = len(dropped)
            warnings.append(
                f"{_count(count)} for {receiver} {_was(count)} dropped: more than {_notify.MOST}, or older than "
                f"{_notify.DAYS} days."
            )
        for one in new:
            try:
                self._state.put(_notify.file_name(receiver.key, one.run_id), _notify.dump(one))
            except LabError as error:
                warnings.append(f"What {receiver} is not told now, it is never told. {error}")
        return kept, warnings

    def has(self, receiver: Receiver, run_id: str) -> bool:
        return os.path.exists(self._state.path(_notify.file_name(receiver.key, run_id)))

    def remove(self, receiver: Receiver, run_ids: Sequence[str]) -> list[str]:
        """Forget what was delivered."""
        names = [_notify.file_name(receiver.key, run_id) for run_id in run_ids if self.has(receiver, run_id)]
        return [warning for name in names for warning in self._remove(name)]

    def _read(self, receiver: Receiver) -> tuple[list[Message], list[str]]:
        messages, warnings = [], []
        for name in self._names():
            if _notify.key_of_file(name) == receiver.key:
                try:
                    messages.append(_notify.parse(self._state.text(name) or ""))
                except Unreadable as error:
                    warnings.append(f"A message for {receiver} cannot be read, and is dropped: {error}")
                    warnings += self._remove(name)
                except OSError as error:
                    warnings.append(f"A message for {receiver} cannot be read, and waits: {error.strerror}.")
        return messages, warnings

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._state.directory) if _notify.key_of_file(name))
        except OSError:
            # nothing has ever waited here, or nothing can: that is told where something has to
            return []

    def _remove(self, name: str) -> list[str]:
        try:
            self._state.remove(name)
        except LabError as error:
            return [f"A message may come again. {error}"]
        return []


def _send(receiver: Receiver, messages: Sequence[Message], timeout: float) -> Sent:
    if not messages:
        return Sent([], "")
    request = {
        "url": _notify.with_bounds(receiver.url, timeout),
        "messages": [_notify.sendable(one, receiver.url) for one in messages],
    }
    said, trouble = _child.ask(_PROGRAM, request, timeout)
    delivered = [answer["run_id"] for answer in said if answer.get("delivered")]
    if len(delivered) == len(messages):
        return Sent(delivered, "")
    if any("not_understood" in answer for answer in said):
        return Sent([], "apprise does not understand its URL")
    if trouble and not installed():
        return Sent(delivered, _missing().what.rstrip("."))
    return Sent(delivered, trouble or _notify.cause(words for answer in said for words in answer["said"]))


@cache
def _misunderstood_of(urls: tuple[str, ...]) -> int:
    """The number of the first URL that apprise does not understand, 0 where it understands all."""
    if not installed():
        raise _missing()
    said, trouble = _child.ask(_PROGRAM, {"urls": urls}, _CHECK_SECONDS)
    if trouble:
        # whoever cannot be told keeps no night from going on; that they were not is told at its end
        return 0
    return next((number for number, answer in enumerate(said, 1) if not answer["understood"]), 0)


def _misunderstood(number: int) -> LabError:
    return LabError(
        f"lab_notify has a URL, number {number}, that apprise does not understand.",
        "See docs/notifications.md for its form; some services need another Python package.",
    )


def _missing() -> LabError:
    return LabError(
        "lab_notify is set, and apprise is not installed for the Python that runs Ansible.",
        f"Install it with `{sys.executable} -m pip install apprise`, or leave lab_notify empty.",
    )


def _count(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
