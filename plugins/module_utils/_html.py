# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""HTML in which every text is escaped, unless it was made here. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = ("link", "meta")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(element: str, /, *children: str, **attributes: object) -> Html:
    """An element. C(class_) and C(aria_hidden) are C(class) and C(aria-hidden); C(False) and C(None) leave one out."""
    given = "".join(
        f' {key.strip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    opened = f"<{element}{given}>"
    return Html(opened) if element in _VOID else Html(f"{opened}{join(children)}</{element}>")


def join(children: Iterable[str]) -> Html:
    """One after the other, each escaped unless it is HTML."""
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))


def escaped(text: str) -> Html:
    """C(text) as it is to be read, in an element or an attribute."""
    return Html(html.escape(visible(text), quote=True))


def visible(text: str) -> str:
    """C(text) without what moves, hides or turns other text; blanks are spaces, and lines stay lines."""
    return "".join(map(_visible, text.replace("\r\n", "\n")))


def _visible(letter: str) -> str:
    if letter == "\n" or letter.isprintable():
        return letter
    return " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}"
