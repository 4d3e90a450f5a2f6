# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a change of systems means, as lines for people. Pure; takes the results of nixos_rebuild."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_UNIT_WORDS = ("stopped", "started", "restarted", "reloaded", "skipped", "failed")


def package_words(packages: Mapping[str, Any]) -> list[str]:
    """One short text for each package that differs, the kernel first: C(linux 6.12.1 → 6.12.2)."""

    def versions(values: Sequence[str]) -> str:
        return ", ".join(value or "(no version)" for value in values)

    words = [
        (one["name"], f"{one['name']} {versions(one['before'])} → {versions(one['after'])}")
        for one in packages.get("changed", ())
    ]
    words += [(one["name"], f"{one['name']} {versions(one['after'])} added") for one in packages.get("added", ())]
    words += [(one["name"], f"{one['name']} {versions(one['before'])} removed") for one in packages.get("removed", ())]
    # the system's own path changes whenever anything does, and says nothing
    words = [(name, text) for name, text in words if not name.startswith("nixos-system-")]
    return [text for name, text in sorted(words, key=lambda word: (word[0] != "linux", word[0]))]


def rebuild_diff(result: Mapping[str, Any]) -> str:
    """What nixos_rebuild changed or would change: systems, packages, units, and why a reboot is due."""
    before, after = result["before"]["system"], result["after"]["system"]
    if before == after:
        return ""
    lines = [f"- {before}", f"+ {after}"]
    lines += [f"  package {text}" for text in package_words(result["packages"])]
    for word in _UNIT_WORDS:
        lines += [f"  unit {unit} {word}" for unit in result["units"].get(word, ())]
    lines += [f"  reboot needed: {reason}" for reason in result["reboot_reasons"]]
    return "\n".join(lines) + "\n"
