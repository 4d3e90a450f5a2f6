# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How an emergency rollback stands on a host, by what playbooks/files/rollback.sh said there. Pure.

A host is back only when it says so over a connection made afterwards: it runs the system, its profile leads there, and
so does its boot loader. Whatever else was seen, or was not, is a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ansible_collections.homelab.nixos.plugins.module_utils import _boot_loader as loaders
from ansible_collections.homelab.nixos.plugins.module_utils._activation import Ending, units, verdict
from ansible_collections.homelab.nixos.plugins.module_utils._nix import is_store_path
from ansible_collections.homelab.nixos.plugins.module_utils._raw import complaint, last, said_in, stdout
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._systems import name, short

Outcome = Literal["unchanged", "rolled_back", "rollback_failed", "failed", "unreachable", "held"]
BAD: frozenset[Outcome] = frozenset({"rollback_failed", "failed", "unreachable"})

# timeout(1): ended by SIGTERM, or by SIGKILL
_TIMED_OUT = (124, 137)


@dataclass(frozen=True)
class Seen:
    """One look at a host. C(system) is where the rollback leads, C(generations) those of the system profile."""

    boot_id: str
    current: str | None
    booted: str | None
    profile: str | None
    boot_default: str | None
    next_boot: str | None
    wanted: str
    system: str | None
    generations: Mapping[int, str]
    reboot_due: tuple[str, ...]
    log: str

    def is_on(self, system: str) -> bool:
        """Whether this host runs C(system), and boots it from now on."""
        return self.current == self.profile == self.boot_default == self.next_boot == system


@dataclass(frozen=True)
class Log:
    """What the unit on the host wrote: exit codes of its steps as far as it came, and what the activation printed."""

    run_id: str | None
    set_profile: int | None
    set_boot: int | None
    activation: int | None
    output: str


@dataclass(frozen=True)
class Standing:
    """How the rollback ended on a host, or stands: C(due) when it is still to be done, from C(current) to C(system)."""

    outcome: Outcome
    reason: str
    system: str | None = None
    current: str | None = None

    @property
    def bad(self) -> bool:
        return self.outcome in BAD

    @property
    def due(self) -> bool:
        return self.outcome == "held"

    def as_result(self) -> dict[str, object]:
        # what the activation printed is in it, and nothing else has looked at that
        return {**vars(self), "reason": redact(self.reason), "bad": self.bad, "due": self.due}


def standing(evidence: Mapping[str, Any], run_id: str, reboot: bool, dry_run: bool) -> Standing:
    """Judge the registered results of the steps C(look), C(start), C(follow), C(look_again) and C(close)."""
    look, start = last(evidence.get("look")), last(evidence.get("start"))
    before = seen(stdout(look))
    if before is None:
        if look.get("unreachable") or not look:
            return Standing("unreachable", f"It did not answer: {complaint(look)}")
        return Standing("failed", f"It could not be looked at: {complaint(look)}")
    if before.system is None:
        return Standing("failed", no_system(before), None, before.current)
    change = f"from {_named(before.current)} to {_named(before.system)}"
    due = Standing("held", f"It is to go back {change}.", before.system, before.current)
    if before.is_on(before.system):
        return replace(due, outcome="unchanged", reason="It runs this system and boots it already.")
    if dry_run:
        return replace(due, outcome="unchanged", reason=f"Dry run: it would go back {change}.")
    if not start:
        return due
    again = last(evidence.get("look_again"))
    after = seen(stdout(again))
    if after is None:
        words = complaint(again or last(evidence.get("follow")) or start)
        outcome, reason = _not_seen(words)
    else:
        outcome, reason = _ended(before, after, before.system, read_log(after.log, run_id), start, reboot)
    close = last(evidence.get("close"))
    if outcome == "rolled_back" and (close.get("unreachable") or close.get("failed")):
        reason += " Its transaction is still open; the next night settles it."
    return replace(due, outcome=outcome, reason=reason)


def seen(text: str) -> Seen | None:
    """Read what the script said to C(look); C(None) unless it said all of it."""
    said = said_in(text)
    if "end" not in said or "boot_id" not in said:
        return None

    def first(key: str) -> str:
        return said.get(key, [""])[0]

    def system(key: str) -> str | None:
        return first(key) if is_store_path(first(key)) else None

    default, following = _boot(said)
    generations = [one.partition(" ") for one in said.get("generation", [])]
    return Seen(
        boot_id=first("boot_id"),
        current=system("current"),
        booted=system("booted"),
        profile=system("profile"),
        boot_default=default,
        next_boot=following,
        wanted=first("wanted"),
        system=system("system") if first("ready") == "yes" else None,
        generations={
            int(number): path for number, _at, path in generations if number.isdigit() and is_store_path(path)
        },
        reboot_due=tuple(said.get("reboot_due", ())),
        log="\n".join(said.get("log", ())),
    )


def read_log(text: str, run_id: str) -> Log:
    """Read what the unit wrote; what another run has left is not it."""
    said = said_in(text)
    if said.get("run") != [run_id]:
        return Log(None, None, None, None, "")

    def code(key: str) -> int | None:
        value = said.get(key, [""])[0]
        return int(value) if value.isdigit() else None

    return Log(run_id, code("set_profile"), code("set_boot"), code("activation"), text)


def no_system(before: Seen) -> str:
    """That there is nothing to go back to, and what there is instead."""
    known = [f"{number} ({_named(before.generations[number])})" for number in sorted(before.generations, reverse=True)]
    there = ", ".join(known) or "none"
    return (
        f"{before.wanted} does not lead to a system of this host, and nothing was touched."
        f" Its generations are: {there}. Choose one with -e lab_rollback_to=NUMBER."
    )


def _boot(said: Mapping[str, Sequence[str]]) -> tuple[str | None, str | None]:
    """The system that the boot loader starts by default, and the one that it starts next."""

    def text(key: str) -> str:
        return "\n".join(said.get(key, ()))

    status = loaders.from_status(text("bootctl_status"))
    status = loaders.with_variables(status, text("efi_OneShot"), text("efi_Default"))
    default, following = loaders.default_and_next(loaders.entries_of(text("bootctl_list")), status, text("loader_conf"))
    if default is None or default.system is None:
        default = loaders.from_grub(text("grub")) if "grub" in said else loaders.from_extlinux(text("extlinux"))
        following = default
    return (default.system if default is not None else None), (following.system if following is not None else None)


def _not_seen(words: str) -> tuple[Outcome, str]:
    return "rollback_failed", (
        f"It was told to go back and could not be looked at since: {words} It goes on by itself, the boot default"
        " first: wait, or look at its console, and run this again."
    )


def _ended(
    before: Seen, after: Seen, system: str, log: Log, start: Mapping[str, Any], reboot: bool
) -> tuple[Outcome, str]:
    """How it ended on a host that answers, and why."""
    booted = after.boot_id != before.boot_id
    # an activation that failed may have made the link all the same; a boot did all of it
    if after.is_on(system) and (booted or log.activation in (0, 4)):
        return "rolled_back", " ".join(_notes(after, log, booted)) or "It runs this system and boots it."
    if log.run_id is None and not booted:
        return "rollback_failed", f"The rollback did not begin: {complaint(start)}"
    sentences = [*_steps(log), *_differences(after, system)]
    if log.activation not in (None, 0, 4) and after.profile == after.boot_default == system:
        sentences.append(_last_resort(booted, reboot))
    return "rollback_failed", " ".join(sentences)


def _notes(after: Seen, log: Log, booted: bool) -> list[str]:
    """What is to be said of a success."""
    notes: list[str] = []
    if booted:
        notes += filter(None, ["It was rebooted into it.", _activation(log)])
    elif log.activation == 4:
        failed = ", ".join(units(log.output).failed)
        notes.append(f"Units are failed: {failed}." if failed else "Units are failed.")
    if after.reboot_due:
        notes.append(f"Only a reboot brings its {', '.join(after.reboot_due)}.")
    return notes


def _last_resort(booted: bool, reboot: bool) -> str:
    """What became of the reboot that follows an activation that did not do."""
    if booted:
        return "It was rebooted, and booted another system."
    if reboot:
        return "It boots this system, but was not seen to have rebooted."
    return "It boots this system: reboot it (lab_rollback_reboot is false)."


def _steps(log: Log) -> list[str]:
    """What went wrong, step by step."""
    if log.run_id is None:
        return ["It booted before it was done."]
    sentences = []
    if log.set_profile:
        sentences.append(f"nix-env could not set the profile (exit code {log.set_profile}).")
    if log.set_boot:
        sentences.append(f"The boot loader could not be installed (exit code {log.set_boot}).")
    if log.activation is None:
        sentences.append("The activation was not seen to end.")
    return [*sentences, *filter(None, [_activation(log)])]


def _activation(log: Log) -> str:
    """Why the activation did not do; empty when it did."""
    if log.activation is None:
        return ""
    if log.activation in _TIMED_OUT:
        return "Its activation did not end in time and was stopped."
    # no matter which units were failed before: whoever rolls back wants to hear of all
    judged = verdict(log.activation, log.output, (), ())
    return "" if judged.ending in (Ending.OK, Ending.UNITS_FAILED) else judged.sentence


def _differences(after: Seen, system: str) -> list[str]:
    found = [
        (what, path)
        for what, path in (
            ("runs", after.current),
            ("has as its system profile", after.profile),
            ("boots", after.boot_default),
        )
        if path != system
    ]
    if not found and after.next_boot != system:
        found = [("boots next", after.next_boot)]
    return [f"It {what} {_named(path)}, and not {_named(system)}." for what, path in found]


def _named(system: str | None) -> str:
    return f"{name(system)} {short(system)}" if system else "something that is no system"
