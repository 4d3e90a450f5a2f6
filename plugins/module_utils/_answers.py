# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What settings mean that come as text, as surveys and C(-e) give them. Pure.

A list is YAML, JSON, or words with commas or line breaks between them, of lists a line for each; a dictionary is YAML,
JSON, or C(name=value) words; everything else is what Ansible reads of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

# reads YAML, of which JSON is a part; raises a ValueError for what is none
Reader = Callable[[str], object]

_LIST = re.compile(r"\[|-\s")
# its text may be a sentence with a colon in it
_SENTENCES = ("lab_hold",)
_EMPTY: dict[str, object] = {"list": [], "dict": {}, "str": "", "raw": ""}


class Typed(NamedTuple):
    """Settings with the types that their specification gives them, and a sentence for each that cannot have its own."""

    settings: dict[str, object]
    problems: list[str]


def typed(given: Mapping[str, object], options: Mapping[str, Mapping[str, Any]], read: Reader) -> Typed:
    """Give settings their types; one that cannot have it stays as it is. C(options) are those of a specification."""
    settings, problems = {}, []
    for name, value in given.items():
        settings[name] = _rendered(value)
        try:
            readable = meant(name, settings[name], options[name], read)
        except LabError as error:
            problems.append(str(error))
            continue
        # one at a time: of what is wrong it leaves something else behind
        found = ArgumentSpecValidator({name: options[name]}).validate({name: readable})
        problems += [f"{words.rstrip('.')}." for words in found.error_messages]
        if not found.error_messages:
            settings[name] = found.validated_parameters[name]
    return Typed(settings, problems)


def meant(name: str, value: object, option: Mapping[str, Any], read: Reader) -> object:
    """What a value means for a setting, as far as Ansible would not see it by itself."""
    kind = "empty" if "choices" in option else option["type"]
    if value is None or (isinstance(value, str) and not value.strip()):
        # an unanswered question, which some surveys give as null
        if kind not in _EMPTY:
            raise LabError(
                f"{name} is empty.", "Give it a value, or leave it out; a question of a survey needs a default."
            )
        return _EMPTY[kind] if value is None or kind != "str" else value
    if not isinstance(value, str):
        return value
    match kind:
        case "list":
            return _list(name, value.strip(), option.get("elements"), read)
        case "dict":
            return _dictionary(value, read) or value
        case "raw":
            return _any(value.strip(), read, is_sentence=name in _SENTENCES)
        case _:
            return value


def _rendered(value: object) -> object:
    """Plain values: Ansible's containers are templates until somebody looks, and its text has a type of its own."""
    if isinstance(value, Mapping):
        return {name: _rendered(each) for name, each in value.items()}
    if isinstance(value, str):
        return str(value)
    return [_rendered(each) for each in value] if isinstance(value, Sequence) else value


def _list(name: str, text: str, elements: object, read: Reader) -> object:
    if elements == "dict" or _LIST.match(text):
        try:
            return read(text)
        except ValueError as error:
            what = f"{name} begins as a list of YAML or JSON does, and is none."
            raise LabError(what, "Close what it opens, and quote its words.") from error
    if elements == "list":
        return [_words(line) for line in text.splitlines() if line.strip()]
    return _words(text)


def _words(text: str) -> list[str]:
    return [word.strip() for word in re.split(r"[,\n]", text) if word.strip()]


def _any(text: str, read: Reader, *, is_sentence: bool) -> object:
    """A list or a dictionary where the text is one, else its lines, or the text."""
    has_lines = "\n" in text
    if text.startswith("{") or _LIST.match(text):
        with suppress(ValueError):
            return read(text)
    elif has_lines or not is_sentence:
        found = _dictionary(text, read)
        if found is not None:
            return found
    return [line.strip() for line in text.splitlines()] if has_lines and not is_sentence else text


def _dictionary(text: str, read: Reader) -> object:
    try:
        found = read(text)
    except ValueError:
        return None
    return found if isinstance(found, Mapping) else None
