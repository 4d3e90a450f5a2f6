# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets leave no trace: the one place that knows what a secret looks like in text. Pure.

Every error passes here when it is made, and every result of a module before anybody sees it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_HIDDEN = "***"
_CUT = " …"
# what a name ends with whose value is a secret
_NAMES = r"(?:password|passwd|passphrase|secret|token|credential|(?:api|access|private)[-_]?key)"
_VALUE = r"(?P<value>\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s&\"']+)"
# of what may be a word of a command line, or of a list that was printed
_BEFORE, _NEXT_WORD = r"(?<![\w.-])", r"[\"']?(?:\s*,\s*|\s+)"


def _user_of_url(found: re.Match[str]) -> str:
    """A password, or a token in the place of a user; a bare user name before a host of ssh is no secret."""
    if ":" in found["user"] or "%3a" in found["user"].lower() or re.search(r"https?\Z", found["scheme"], re.IGNORECASE):
        return f"{found['scheme']}{found['slashes']}{_HIDDEN}@"
    return found[0]


def _value(found: re.Match[str]) -> str:
    value = found["value"]
    opening = value[:1] if value[0] in "\"'" else ""
    closing = opening if len(value) > 1 and value.endswith(opening) else ""
    return f"{found['head']}{opening}{_HIDDEN}{closing}"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


# Whole pages come through here, so none may go over the same text again and again: a run of characters begins where
# none of them is before it.
_PATTERNS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_pattern(r"-----BEGIN [a-z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [a-z0-9 ]*PRIVATE KEY-----|\Z)"), _HIDDEN),
    # https://user:secret@host, where the secret may not be encoded as it should be; digits before a slash are a port
    (
        _pattern(
            r"(?P<scheme>(?<![a-z0-9+.-])[a-z0-9+.-]+)(?P<slashes>:?\\?/\\?/)"
            r"[^\s/?#\"\[@:]*:(?![0-9]*[/?#])[^\s\"]{0,500}@"
        ),
        rf"\g<scheme>\g<slashes>{_HIDDEN}@",
    ),
    # https://token@host, and what is left of the former, misspelt too
    (
        _pattern(r"(?P<scheme>(?<![a-z0-9+.-])[a-z0-9+.-]+)(?P<slashes>:?\\?/\\?/)(?P<user>[^\s/?#\"]*)@"),
        _user_of_url,
    ),
    # ?token=secret, &access_token=secret, and the like
    (
        _pattern(
            rf"(?P<head>[?&;](?:[\w.~-]*(?:{_NAMES}|key|signature|auth)|pass|pwd|sig|jwt)=)[^&\s\"']+",
        ),
        rf"\g<head>{_HIDDEN}",
    ),
    # webhooks, whose address is the secret
    (
        _pattern(
            r"(?P<head>https?://(?:hooks\.slack\.com/[a-z]+/|(?:[a-z]+\.)?discord(?:app)?\.com/api/webhooks/[0-9]+/"
            r"|api\.telegram\.org/bot|hc-ping\.com/|[a-z0-9.-]+\.webhook\.office\.com/|ntfy\.sh/"
            r"|[a-z0-9.:-]+/(?:api/push/|ping/(?=[0-9a-f]{8}-))))[^\s?#\"']+"
        ),
        rf"\g<head>{_HIDDEN}",
    ),
    # nix.conf: access-tokens = github.com=ghp_… other.example=…
    (
        _pattern(r"(?P<head>\baccess-tokens[\"']?[\s,:=]+[\"']?)[^\s\"'=]+=[^\s\"']+(?:[ \t]+[^\s\"'=]+=[^\s\"']+)*"),
        rf"\g<head>{_HIDDEN}",
    ),
    # Authorization: Bearer …, and cookies
    (
        _pattern(
            r"(?P<head>\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|digest|negotiate|token|apikey)[ \t]+)?)"
            r"[^\s\"']+"
        ),
        rf"\g<head>{_HIDDEN}",
    ),
    (_pattern(r"(?P<head>\bcookie[\"']?:\s*[\"']?)[^\r\n\"']+"), rf"\g<head>{_HIDDEN}"),
    # password=secret
    (_pattern(rf"(?P<head>{_BEFORE}[\w.-]*{_NAMES}[\"']?\s?=\s?){_VALUE}"), _value),
    # "password": "secret", X-Auth-Token: secret, and `password: secret` on a line of its own; no sentence has these
    (_pattern(rf"(?P<head>[\"'][\w.-]*{_NAMES}[\"']\s?:\s?){_VALUE}"), _value),
    (_pattern(rf"(?P<head>(?<![\w./-])(?=[\w.]*[_-])[\w.-]*{_NAMES}\s?:\s?){_VALUE}"), _value),
    (_pattern(rf"(?P<head>(?:^|[{{\n,])[ \t-]*{_NAMES}:[ \t]*){_VALUE}"), _value),
    # --password secret
    (_pattern(rf"(?P<head>{_BEFORE}-[\w-]*{_NAMES}{_NEXT_WORD})(?!-){_VALUE}"), _value),
    # what is a secret by its looks: tokens of forges and others, a secret key of Nix or of age
    (
        re.compile(
            r"\b(?:gh[opsru]_\w{20,}|github_pat_\w{20,}|gl(?:pat|dt|ft|rt|cbt|ptt)-[\w-]{16,}|xox[a-z]-[\w-]{10,}"
            r"|hvs\.[\w-]{20,}|tskey-[\w-]{10,}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+|AGE-SECRET-KEY-1[0-9A-Z]{40,})"
            r"|(?<=:)[A-Za-z0-9+/]{86}=="
        ),
        _HIDDEN,
    ),
)
# results that go by names of hosts, inputs and stages, which are their owner's: nothing follows from such a name
_BY_NAMES = ("closed", "current", "failed_systems", "rejected_inputs", "systems")
_SECRET_NAME = _pattern(rf"[\w.-]*(?:{_NAMES}|access-tokens|authorization)")
_PIECES = re.compile(r"[\s=:,;\"']+")
# shorter words are no secrets, and would be found everywhere
_SHORTEST = 4


def redact(text: str) -> str:
    """Return C(text) with credentials in URLs, tokens, passwords and keys replaced by C(***)."""
    clean = text
    for pattern, replacement in _PATTERNS:
        clean = pattern.sub(replacement, clean)
    # the very object where there was nothing: Ansible's strings know where they come from
    return text if clean == text else clean


def redacted(value: object) -> object:
    """C(value) with all texts in it redacted, and with C(***) for what has the name of a secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redacted(name): _named(name, one) for name, one in value.items()}
    if isinstance(value, list):
        return [redacted(one) for one in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(redacted(one) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Ansible's own, as those of warnings and tracebacks
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        changed = {name: clean for name, one in fields.items() if (clean := redacted(one)) != one}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def plain(value: Any, longest: int | None = None) -> Any:
    """Plain values of what may be values of Ansible's, texts redacted and, beyond C(longest) characters, cut off."""
    if isinstance(value, Mapping):
        return {str(name): plain(one, longest) for name, one in value.items()}
    if isinstance(value, str):
        text = redact(str(value))
        return text if longest is None or len(text) <= longest else text[: longest - len(_CUT)] + _CUT
    if isinstance(value, Sequence):
        return [plain(one, longest) for one in value]
    return value


def redacted_results(results: Mapping[str, object]) -> dict[str, object]:
    """The results of a step, redacted."""
    return {
        name: {redacted(key): redacted(one) for key, one in value.items()}
        if name in _BY_NAMES and isinstance(value, Mapping)
        else redacted(value)
        for name, value in results.items()
    }


def without(text: str, words: Iterable[str]) -> str:
    """C(text) without C(words), which are secret whatever they look like, nor any piece of them."""
    parts = {part for word in words for part in (word, *_PIECES.split(word)) if len(part) >= _SHORTEST}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, _HIDDEN)
    return text


def redacted_argv(argv: Iterable[str]) -> list[str]:
    """A command line, each word redacted, and what follows a word that is the name of a secret."""
    shown: list[str] = []
    name = ""
    for word in argv:
        # as after --no-ask-password
        shown.append(redact(word) if not name or word.startswith("-") else _HIDDEN)
        name = word if _SECRET_NAME.fullmatch(word) else ""
    return shown


def _named(name: object, value: object) -> object:
    if value and isinstance(value, str | int) and not isinstance(value, bool) and isinstance(name, str):
        return _HIDDEN if _SECRET_NAME.fullmatch(name) else redacted(value)
    return redacted(value)
