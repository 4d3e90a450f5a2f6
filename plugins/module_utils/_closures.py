# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What C(nix store diff-closures) says, as data: it has no JSON, and its words change between versions. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LINE = re.compile(r"(?P<name>[^\s:]+): (?P<rest>\S.*)")
# Nix 2.26 prints KiB and a sign always, 2.34 the fitting unit and no sign on growth
_SIZE = re.compile(r"(?P<sign>[+-]?)(?P<number>\d+(?:\.\d+)?) (?P<unit>bytes|B|[KMGTPE]iB)")
_ABSENT = ("∅", "(absent)")
_NO_VERSION = ("ε", "(no version)")
# how Nix writes sizes
UNITS = {"bytes": 1, "B": 1} | {f"{letter}iB": 1 << 10 * (power + 1) for power, letter in enumerate("KMGTPE")}

KERNEL = "linux"


@dataclass(frozen=True)
class PackageChange:
    """One package of a closure. Versions that are on both sides are in neither tuple; an empty version is V("").

    C(size_delta) is in bytes, and None where Nix did not print it (a difference below 8 KiB).
    """

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    size_delta: int | None


@dataclass(frozen=True)
class ParsedDiff:
    """The packages that differ, and the lines that nobody understood, for a warning."""

    changes: tuple[PackageChange, ...]
    unknown_lines: tuple[str, ...]


def parse_diff(text: str) -> ParsedDiff:
    """Read the output of C(nix store diff-closures BEFORE AFTER)."""
    changes: list[PackageChange] = []
    unknown: list[str] = []
    for raw in _ANSI.sub("", text).splitlines():
        line = raw.strip()
        if not line:
            continue
        change = _parse_line(line)
        if change is None:
            unknown.append(line)
        else:
            changes.append(change)
    return ParsedDiff(tuple(changes), tuple(unknown))


def packages(parsed: ParsedDiff) -> dict[str, Any]:
    """For people: packages C(added), C(removed) and C(changed), and C(closure_delta), the sum of the sizes Nix printed.

    C(grouped) has the packages of C(changed) again, those with the very same versions together. The kernel is first.
    A package of which only the contents changed appears in none of the three lists, as on Nix's own terms it has the
    same version; its size still counts. None as C(closure_delta) means that Nix printed no size.
    """
    added: list[dict[str, Any]] = []
    removed: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for change in parsed.changes:
        if change.before and change.after:
            changed.append({"name": change.name, "before": list(change.before), "after": list(change.after)})
        elif change.after:
            added.append({"name": change.name, "after": list(change.after)})
        elif change.before:
            removed.append({"name": change.name, "before": list(change.before)})
    for some in (added, removed, changed):
        some.sort(key=lambda one: one["name"] != KERNEL)
    sizes = [change.size_delta for change in parsed.changes if change.size_delta is not None]
    return {
        "added": added,
        "removed": removed,
        "changed": changed,
        "grouped": grouped(changed),
        "closure_delta": sum(sizes) if sizes else None,
    }


def grouped(changed: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Packages that changed from the very same versions to the very same versions, each group with all its C(names).

    In the order of their names, but for the kernel, which is first wherever it is.
    """
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for one in sorted(changed, key=lambda one: (one["name"] != KERNEL, one["name"])):
        groups.setdefault((tuple(one["before"]), tuple(one["after"])), []).append(one["name"])
    return [{"names": names, "before": list(before), "after": list(after)} for (before, after), names in groups.items()]


def size_words(size: int) -> str:
    """A difference of sizes for people, in the largest unit that keeps it above one: V(+12.6 MiB)."""
    sign = "-" if size < 0 else "+"
    unit, number = "B", float(abs(size))
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        # what would be rounded up to 1024.0 is one of the next
        if round(number, 1) < 1024:
            break
        unit, number = larger, number / 1024
    return f"{sign}{number:.0f} {unit}" if unit == "B" else f"{sign}{number:.1f} {unit}"


def _parse_line(line: str) -> PackageChange | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    versions, _comma, last = match["rest"].rpartition(", ")
    size = _parse_size(last)
    if size is None:
        versions = match["rest"]
    elif not versions:
        return PackageChange(match["name"], (), (), size)
    both = _parse_versions(versions)
    return None if both is None else PackageChange(match["name"], *both, size)


def _parse_versions(text: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    if text.count(" → ") == 1:
        before, after = text.split(" → ")
        sides = _split(before), _split(after)
    elif text.endswith(" added"):
        sides = (), _split(text.removesuffix(" added"))
    elif text.endswith(" removed"):
        sides = _split(text.removesuffix(" removed")), ()
    else:
        return None
    return None if sides[0] is None or sides[1] is None else (sides[0], sides[1])


def _split(text: str) -> tuple[str, ...] | None:
    if text in _ABSENT:
        return ()
    versions = tuple("" if word in _NO_VERSION else word for word in text.split(", "))
    # a version is part of a store path's name, so it has no blanks
    return None if any(" " in version for version in versions) else versions


def _parse_size(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    size = round(float(match["number"]) * UNITS[match["unit"]])
    return -size if match["sign"] == "-" else size
