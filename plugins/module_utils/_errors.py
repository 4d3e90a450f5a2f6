# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can go wrong, as types. Only a module's ``main()`` turns one of them into ``fail_json``."""

from __future__ import annotations

from collections.abc import Mapping


class LabError(Exception):
    """One sentence for a person: what went wrong, and what to do next.

    ``data`` is returned beside ``msg`` by the module, as plain values.
    """

    def __init__(self, what: str, remedy: str = "", data: Mapping[str, object] | None = None) -> None:
        self.what = what
        self.remedy = remedy
        self.data: dict[str, object] = dict(data or {})
        super().__init__(f"{what} {remedy}".strip())


class Unreadable(LabError):
    """The output of a program, or a file, is not what it is documented to be."""
