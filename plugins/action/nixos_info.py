# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _resume
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction


class ActionModule(LabAction):
    """Runs the module of the same name, patiently if asked to, and tells whether it is this controller."""

    _is_patient = True

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        info = super().perform(task_vars)
        if "boot_id" in info:
            info["is_controller"] = _resume.is_controller(info["boot_id"], _controller.boot_id())
        return info
