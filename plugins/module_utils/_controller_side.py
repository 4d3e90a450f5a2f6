# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of a module that its action plugin answers, on the controller. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def refuse(module: str, params: Mapping[str, object], options: Sequence[str]) -> None:
    """Fail where one of C(options) came to the module: it would be ignored, and nobody would know."""
    for option in options:
        if params[option]:
            raise LabError(
                f"{option} is for the controller, and {module} was called without its action plugin.",
                f"Call homelab.nixos.{module}, or set action_plugins beside library in ansible.cfg.",
            )
