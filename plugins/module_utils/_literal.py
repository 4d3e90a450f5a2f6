# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can be handed to a program as it is, word for word: the characters of a text, and how it is shown. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

# a path has no more, and no name, address or sentence that somebody means
LONGEST = 4096
# execve(2) takes no longer word; a script within a setting has less
LONGEST_OF_LINES = 65536
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHOWN = 60


def texts(value: object) -> Iterator[str]:
    """All texts in plain data, the names in dictionaries among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from texts(name)
            yield from texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)


def why_not(text: str, lines: bool = False) -> tuple[str, str] | None:
    """Why no program can be handed C(text), and what to do about it; C(lines) says whether it may have several."""
    longest = LONGEST_OF_LINES if lines else LONGEST
    if len(text) > longest:
        return f"of {len(text)} characters", f"It has at most {longest}."
    if (_CONTROL_BUT_LINES if lines else _CONTROL).search(text):
        what = "a control character" if lines else "a line break or a control character"
        return f"with {what} in it", "Take it out. In YAML, a text after | has a line break at its end."
    try:
        text.encode()
    except UnicodeEncodeError:
        return "that is not UTF-8", "Save the file as UTF-8, and write the value anew."
    return None


def shown(text: str) -> str:
    """A value for people: in quotes, as ASCII, its beginning only, and nothing in it that is secret."""
    words = ascii(redact(text))
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"
