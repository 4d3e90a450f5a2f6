# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The morning after, as a letter: what the page has, as plain text and as Markdown. Pure.

L(subject) of C(_night.py) is its subject. In Markdown whatever hosts said is escaped; in plain text it is indented, so
that none of it looks like ours.
"""

from __future__ import annotations

import datetime
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ansible_collections.homelab.nixos.plugins.module_utils._html import visible
from ansible_collections.homelab.nixos.plugins.module_utils._night import (
    PLAYBOOK,
    Command,
    Host,
    Night,
    change,
    clipped,
    clock,
    closure,
    commands,
    headline,
    left_to_do,
    of_the_run,
    packages,
    read,
    title,
    took,
    trend,
    tried,
)
from ansible_collections.homelab.nixos.plugins.module_utils._report import duration_words, locked_words

NIGHTS = 7
_WIDTH = 78
_REASON_SHOWN = 1000
# what means something anywhere, addresses of which links would be made, and what does at the beginning of a line
_MARKDOWN = re.compile(r"([\\`*_\[\]<>&!|~$#]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_BEGINNING = re.compile(r"\A(\d*)([-+=.)])")


@dataclass(frozen=True)
class Block:
    """A piece of a letter: C(said) and C(command) belong to the C(item) before them."""

    kind: Literal["heading", "text", "item", "said", "command"]
    text: str


def plain(
    result: Mapping[str, Any],
    former: Sequence[Mapping[str, Any]] = (),
    *,
    zone: datetime.tzinfo = datetime.UTC,
    playbook: str = PLAYBOOK,
    optional: Collection[str] = (),
) -> str:
    """The letter as plain text. The arguments are those of the page."""
    blocks = _blocks(read(result, optional), former, zone, playbook, optional)
    return "\n".join(line for block in blocks for line in _plain(block)).strip() + "\n"


def markdown(
    result: Mapping[str, Any],
    former: Sequence[Mapping[str, Any]] = (),
    *,
    zone: datetime.tzinfo = datetime.UTC,
    playbook: str = PLAYBOOK,
    optional: Collection[str] = (),
) -> str:
    """The letter as Markdown. The arguments are those of the page."""
    blocks = _blocks(read(result, optional), former, zone, playbook, optional)
    return "\n".join(line for block in blocks for line in _markdown(block)).strip() + "\n"


def _blocks(
    night: Night,
    former: Sequence[Mapping[str, Any]],
    zone: datetime.tzinfo,
    playbook: str,
    optional: Collection[str],
) -> Iterator[Block]:
    yield Block("heading", title(night, zone))
    yield Block("text", headline(night))
    if night.dry_run:
        yield Block("text", "A dry run: nothing was changed.")
    last = trend(night, former, optional)
    bad = [host for host in night.hosts if host.bad]
    if bad or night.failed:
        yield Block("heading", "What to do now")
    if of_the_run(night):
        yield Block("item", "The run failed.")
        yield from _asked(night.failure, of_the_run(night, playbook))
    for host in bad:
        streak = last.streak(host.name)
        again = f", {streak} nights in a row" if streak > 1 else ""
        yield Block("item", f"{host.name}: {host.word}{again}")
        yield from _asked("\n".join(filter(None, (host.reason, _line(tried(host))))), commands([host], night, playbook))
    left = left_to_do(night)
    if left:
        yield Block("heading", "Left for another night")
    for hosts in left:
        yield Block("item", f"{', '.join(host.name for host in hosts)}: {hosts[0].word}")
        yield from _asked(hosts[0].reason, commands(hosts, night, playbook))
    if night.notes:
        yield Block("heading", "To know")
    for note in night.notes:
        yield Block("item", clipped(note, _REASON_SHOWN))
    yield Block("heading", "What would change" if night.dry_run else "What changed")
    if not night.inputs:
        yield Block("text", "No input of the flake moved.")
    for one in night.inputs:
        yield Block("item", f"Input {one['path']}: {locked_words(one['before'])} → {locked_words(one['after'])}")
    for text, names in packages(night).items():
        yield Block("item", f"{text} ({', '.join(names)})")
    yield Block("heading", "Hosts")
    for host in night.hosts:
        yield Block("item", _host(host, night))
    yield Block("heading", "Last nights")
    for each in last.newest(NIGHTS).nights:
        counts = ", ".join(f"{count} {word}" for word, count in each.counts.items()) or "no host"
        yield Block("item", f"{clock(each.began, zone):%Y-%m-%d %H:%M} {each.verdict}: {counts}")
    for sentence in last.missing:
        yield Block("item", sentence)
    yield Block("heading", "About this run")
    yield Block("text", f"Run {night.run_id}, {duration_words(night.seconds)}.")


def _asked(reason: str, asked: Sequence[Command]) -> Iterator[Block]:
    if reason:
        yield Block("said", clipped(reason, _REASON_SHOWN))
    for command in asked:
        yield Block("said", _line(f"{command.purpose}{f' (on {command.host})' if command.host else ''}:"))
        yield Block("command", command.line)


def _host(host: Host, night: Night) -> str:
    told = [f"{host.name}: {host.word}", change(host)]
    told += ["rebooted"] if host.rebooted else []
    told += [f"closure {closure(host, night)}"] if closure(host, night) else []
    told += [took(host.spans, host.durations)] if host.spans or host.durations else []
    return ", ".join(told)


def _plain(block: Block) -> list[str]:
    if block.kind == "heading":
        return ["", _line(block.text), "-" * len(_line(block.text))]
    if block.kind == "command":
        # on one line, so that it can be copied
        return [f"        {_line(block.text)}"]
    if block.kind == "said":
        return [line for one in visible(block.text).split("\n") for line in _wrapped(one, "    ", "    ")]
    return _wrapped(_line(block.text), *(("  ", "    ") if block.kind == "item" else ("", "")))


def _wrapped(text: str, first: str, others: str) -> list[str]:
    # paths and names stay whole
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _markdown(block: Block) -> list[str]:
    if block.kind == "heading":
        return ["", f"## {_escaped(block.text)}", ""]
    if block.kind == "command":
        # no name in a command has a backtick, see _night.limit
        return ["", "  ```", f"  {_line(block.text)}", "  ```"]
    if block.kind == "said":
        lines = (_escaped(line.strip()) for line in visible(block.text).split("\n"))
        # two spaces at the end of a line end it
        return ["", *(f"  {line}  " for line in lines if line)]
    return [f"- {_escaped(block.text)}"] if block.kind == "item" else [_escaped(block.text), ""]


def _escaped(text: str) -> str:
    """Text of one line, as Markdown that shows it and nothing else."""
    return _BEGINNING.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", _line(text).strip()))


def _line(text: str) -> str:
    return visible(text).replace("\n", " ")
