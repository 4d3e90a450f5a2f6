# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What C(nix-store --realise --dry-run) says it would do. It has no JSON, and its units differ by version. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils._closures import UNITS
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import is_store_path

# Nix 2.26 prints MiB with two decimals always, 2.34 the fitting unit with one
_SIZE = r"(\d+)(?:\.(\d+))? (bytes|B|[KMGTPE]iB)"
_FETCH = re.compile(
    rf"(?:this path|these (?P<count>\d+) paths) will be fetched \({_SIZE} download, {_SIZE} unpacked\):"
)
_FETCHES = re.compile(r"^(?:this|these) .*\bfetched\b", re.MULTILINE)
_BUILDS = re.compile(r"^(?:this|these) .*\bwill be built", re.MULTILINE)
_UNKNOWN = re.compile(r"don't know how to build (?:this path|these paths)\b.*:")


@dataclass(frozen=True)
class Plan:
    """What would be fetched; C(unpacked) bytes in the store, at least what Nix rounded. C(unknown) nobody has."""

    paths: tuple[str, ...]
    unpacked: int
    unknown: tuple[str, ...]


def parse_plan(text: str) -> Plan:
    """Read what Nix said on stderr; anything but a clear answer is an error, for then nothing may be begun."""
    if _BUILDS.search(text):
        raise LabError("Nix would build something, and not only fetch it.", "Name a store path, not a derivation.")
    paths: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    unpacked, seen = 0, False
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if _UNKNOWN.fullmatch(line):
            unknown += _listed(lines[number + 1 :])
            seen = True
        match = _FETCH.fullmatch(line)
        if match:
            paths = _listed(lines[number + 1 :])
            if len(paths) != int(match["count"] or 1):
                raise Unreadable(f"Nix named {len(paths)} paths below {line!r}.")
            unpacked, seen = _size(*match.groups()[4:]), True
        elif _FETCHES.search(line):
            raise Unreadable(f"Nix said what it would fetch in words that are not known: {line!r}.")
    if not seen:
        raise Unreadable(f"Nix did not say what it would fetch: {text.strip()[-200:]!r}.")
    return Plan(paths, unpacked, unknown)


def _listed(lines: list[str]) -> tuple[str, ...]:
    """The store paths at the beginning of C(lines), indented, one on a line."""
    found: list[str] = []
    for line in lines:
        if not (line.startswith("  ") and is_store_path(line.strip())):
            break
        found.append(line.strip())
    return tuple(found)


def _size(whole: str, decimals: str | None, unit: str) -> int:
    """The largest size that is printed so."""
    digits = len(decimals or "")
    half = 0 if unit in ("bytes", "B") else 0.5 / 10**digits
    return math.ceil((float(f"{whole}.{decimals or 0}") + half) * UNITS[unit])
