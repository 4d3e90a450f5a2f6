# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a change of systems means, as lines for people. Pure; takes the results of nixos_rebuild."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._closures import grouped, size_words

_UNIT_WORDS = ("stopped", "started", "restarted", "reloaded", "skipped", "failed")


def package_words(packages: Mapping[str, Any], most: int | None = None, most_names: int | None = None) -> list[str]:
    """The packages that differ, the kernel first: C(linux 6.12.1 → 6.12.2), C(added: zlib 1.3), C(closure +12.6 MiB).

    Packages with the very same versions are one text. At most so many texts have versions, and at most so many names
    are in one; what is left out is counted.
    """
    groups = grouped(one for one in packages.get("changed", ()) if _says_something(one))
    shown = groups[:most]
    words = [
        f"{_some(group['names'], most_names)} {_versions(group['before'])} → {_versions(group['after'])}"
        for group in shown
    ]
    more = sum(len(group["names"]) for group in groups[len(shown) :])
    words += [f"and {more} more"] if more else []
    for what, side in (("added", "after"), ("removed", "before")):
        names = [f"{one['name']} {_versions(one[side])}" for one in packages.get(what, ()) if _says_something(one)]
        words += [f"{what}: {_some(names, most)}"] if names else []
    delta = packages.get("closure_delta")
    return words if delta is None else [*words, f"closure {size_words(delta)}"]


def rebuild_diff(result: Mapping[str, Any]) -> str:
    """What nixos_rebuild changed or would change: systems, packages, units, and why a reboot is due."""
    before, after = result["before"]["system"], result["after"]["system"]
    if before == after:
        return ""
    lines = [f"- {before}", f"+ {after}"]
    lines += [f"  {text}" for text in package_words(result["packages"])]
    for word in _UNIT_WORDS:
        lines += [f"  unit {unit} {word}" for unit in result["units"].get(word, ())]
    lines += [f"  reboot needed: {reason}" for reason in result["reboot_reasons"]]
    return "\n".join(lines) + "\n"


def _says_something(package: Mapping[str, Any]) -> bool:
    """The system's own path changes whenever anything does, and says nothing."""
    return not str(package["name"]).startswith("nixos-system-")


def _versions(versions: Sequence[str]) -> str:
    return ", ".join(version or "(no version)" for version in versions)


def _some(names: Sequence[str], most: int | None) -> str:
    more = 0 if most is None else len(names) - most
    return f"{', '.join(names[:most])} and {more} more" if more > 0 else ", ".join(names)
