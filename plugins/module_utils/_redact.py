# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets leave no trace: the one place that knows what a secret looks like in text. Pure."""

from __future__ import annotations

import re

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # https://user:secret@host and https://token@host; a bare user name before ssh hosts is no secret
    (re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://)[^\s/@'\"]*:[^\s/@'\"]*@", re.IGNORECASE), r"\g<head>***@"),
    (re.compile(r"(?P<head>https?://)[^\s/@:'\"]+@", re.IGNORECASE), r"\g<head>***@"),
    # ?token=secret, &access_token=secret, and the like
    (
        re.compile(
            r"(?P<head>[?&](?:[a-z_-]*token|[a-z_-]*key|password|passwd|secret|sig|signature)=)[^&\s'\"]+", re.I
        ),
        r"\g<head>***",
    ),
    # nix.conf: access-tokens = github.com=ghp_… other.example=…
    (re.compile(r"(?P<head>\baccess-tokens\s*=?\s*)[^\n'\"]+", re.IGNORECASE), r"\g<head>***"),
    # Authorization: Bearer …
    (re.compile(r"(?P<head>\bauthorization:\s*\w+\s+)\S+", re.IGNORECASE), r"\g<head>***"),
)


def redact(text: str) -> str:
    """Return C(text) with credentials in URLs, tokens in queries and Nix access tokens replaced by C(***)."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
