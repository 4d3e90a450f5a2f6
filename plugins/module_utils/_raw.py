# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a shell script said that was run on a host without any module. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SAID = re.compile(r"@([A-Za-z_]+)(?: (.*))?")


def last(result: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a task registered that did something; of a loop the last round. Empty for none, or one that was skipped."""
    rounds = [one for one in (result or {}).get("results", [result or {}]) if not one.get("skipped")]
    return rounds[-1] if rounds else {}


def said_in(text: str) -> dict[str, list[str]]:
    """Lines of C(@key value) by their keys; a banner of the host has none."""
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := _SAID.fullmatch(line.rstrip("\r")):
            said.setdefault(found[1], []).append(found[2] or "")
    return said


def stdout(result: Mapping[str, Any]) -> str:
    """The text that holds the answer."""
    return str(result.get("stdout") or "")


def complaint(result: Mapping[str, Any]) -> str:
    """The last words of a task that went wrong, as a sentence."""
    lines = [
        line.strip()
        for text in (result.get("stderr"), "" if result.get("rc") is not None else result.get("msg"))
        for line in str(text or "").splitlines()
        if line.strip()
    ]
    words = (lines[-1] if lines else str(result.get("msg") or "no answer")).removeprefix("Task failed: ")
    return words if words.endswith((".", "!", "?")) else f"{words}."
