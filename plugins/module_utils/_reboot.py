# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting for a host through its reboot, and judging what came back. Pure but for the callables it is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ansible_collections.homelab.nixos.plugins.module_utils._systems import name

SHUTDOWN = "/run/current-system/sw/bin/shutdown"
# a shell that is half up cannot print what this pattern wants: an answer is proof
_ANSWER = re.compile(
    r"^lab-boot-id=(?P<boot_id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\s+"
    r"lab-booted=(?P<booted>/nix/store/[0-9a-z]{32}-\S+)\s*$",
    re.MULTILINE,
)
# constant: no value from outside is in it; needs a shell and coreutils, but neither Python nor the right PATH
QUESTION = (
    "PATH=/run/current-system/sw/bin:$PATH; "
    'echo "lab-boot-id=$(cat /proc/sys/kernel/random/boot_id)"; echo "lab-booted=$(readlink -f /run/booted-system)"'
)
_POLL = 1.0


@dataclass(frozen=True)
class Seen:
    """One answer of a host."""

    boot_id: str
    booted: str


@dataclass(frozen=True)
class Attempt:
    """How one attempt to confirm a boot went: C(words) say why it did not, and C(final) that none ever will."""

    words: str = ""
    final: bool = False

    @property
    def ok(self) -> bool:
        return not self.words


@dataclass(frozen=True)
class Reboot:
    """How a reboot went, every field always set; C(failed) unless the expected system was booted by a new boot.

    C(went_back): the new boot is of the system that was booted before. C(confirmed): the host knows that it was seen.
    C(later): it is to be ordered when the night has closed, because the controller goes down with the host.
    """

    rebooted: bool
    boot_id_before: str | None
    boot_id_after: str | None
    booted_system: str | None
    elapsed: float
    connection_lost: bool
    failed: bool
    msg: str
    went_back: bool = False
    confirmed: bool = False
    later: bool = False


def order(when: str, message: str) -> list[str]:
    """The command that reboots a host; a message that begins with a dash is no option."""
    return [SHUTDOWN, "-r", "--", when, message]


def answer(text: str) -> Seen | None:
    """What a host said to L(QUESTION), or C(None) when that is no answer."""
    found = _ANSWER.search(text)
    return Seen(found["boot_id"], found["booted"]) if found else None


def wait(
    look: Callable[[], Seen | None],
    before: Seen,
    expected: str,
    timeout: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Reboot:
    """Look until the host shows a new boot, for C(timeout) seconds of C(clock).

    A host that answers with the old boot id has not gone down yet, and is not what is waited for.
    """
    began = clock()
    last: Seen | None = before
    while clock() - began < timeout:
        last = look()
        if last is not None and last.boot_id != before.boot_id:
            good = last.booted == expected
            return Reboot(
                rebooted=True,
                boot_id_before=before.boot_id,
                boot_id_after=last.boot_id,
                booted_system=last.booted,
                elapsed=clock() - began,
                connection_lost=False,
                failed=not good,
                msg=f"Booted {name(last.booted)}." if good else f"{_what(last, before)}, and not {expected}.",
                went_back=not good and last.booted == before.booted,
            )
        sleep(_POLL)
    waited = f"{timeout:g} s after it was told to reboot"
    message = (
        f"The host did not answer {waited}."
        if last is None
        else f"The host still ran its old boot {waited}: it never went down."
    )
    return Reboot(False, before.boot_id, None, None, clock() - began, last is None, True, message)


def confirm(
    attempt: Callable[[], Attempt],
    look: Callable[[], Seen | None],
    before: Seen,
    booted: Reboot,
    timeout: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Reboot:
    """Try to confirm the boot that C(booted) saw, for C(timeout) seconds, which is as long as the host waits for it.

    A host that was not confirmed is looked at again: its boot guard may have put it back meanwhile, and then it is
    another boot that would be confirmed.
    """
    began = clock()
    while True:
        done = attempt()
        if done.ok:
            return replace(booted, confirmed=True, elapsed=booted.elapsed + clock() - began)
        last = look()
        again = last is not None and last.boot_id != booted.boot_id_after
        if done.final or again or clock() - began >= timeout:
            break
        sleep(_POLL)
    words = " ".join(done.words.split())
    unconfirmed = f"The host booted {booted.booted_system}, but that could not be confirmed: {words.rstrip('.')}."
    if last is None:
        message = f"{unconfirmed} It does not answer any more."
    elif again:
        message = f"{unconfirmed} It has rebooted since then. {_what(last, before)}."
    else:
        message = f"{unconfirmed} If it has a boot guard, it goes back by itself."
    return replace(
        booted,
        failed=True,
        msg=message,
        elapsed=booted.elapsed + clock() - began,
        connection_lost=last is None,
        boot_id_after=last.boot_id if last is not None else booted.boot_id_after,
        booted_system=last.booted if last is not None else booted.booted_system,
        went_back=again and last is not None and last.booted == before.booted,
    )


def not_begun(
    message: str,
    before: Seen | None = None,
    *,
    connection_lost: bool = False,
    failed: bool = True,
    later: bool = False,
) -> Reboot:
    """The result of a reboot that was not asked for."""
    boot_id = before.boot_id if before else None
    return Reboot(False, boot_id, None, None, 0.0, connection_lost, failed, message, later=later)


def _what(seen: Seen, before: Seen) -> str:
    """What was booted, of which system nobody wanted that."""
    if seen.booted == before.booted:
        return f"Booted {seen.booted}, the system from before: the boot loader or the boot guard went back to it"
    return f"Booted {seen.booted}: the boot loader fell back, or was told otherwise"
