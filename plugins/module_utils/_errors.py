# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can go wrong, as types. Only a module's ``main()`` turns one of them into ``fail_json``."""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact, redacted_results


class LabError(Exception):
    """One sentence for a person: what went wrong, and what to do next.

    ``data`` is returned beside ``msg`` by the module, as plain values. What is secret in any of it is taken out.
    """

    def __init__(self, what: str, remedy: str = "", data: Mapping[str, object] | None = None) -> None:
        self.what = redact(what)
        self.remedy = redact(remedy)
        self.data: dict[str, object] = redacted_results(data or {})
        super().__init__(f"{self.what} {self.remedy}".strip())


class Unreadable(LabError):
    """The output of a program, or a file, is not what it is documented to be."""
