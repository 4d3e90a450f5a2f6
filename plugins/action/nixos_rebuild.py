# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from typing import Any

from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction


class ActionModule(LabAction):
    """Runs the module, and after an activation makes sure that the host still lets somebody in."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        args = {"action": "switch", **self._task.args}
        if args["action"] not in ("test", "switch"):
            return self.run_module(self._task.action, args, task_vars)

        tested = self.run_module(self._task.action, {**args, "action": "test", "guarded": True}, task_vars)
        if self._task.check_mode and args["action"] == "switch" and not tested.get("failed"):
            tested["changed"] = tested["changed"] or not tested["boot_default"]
        if self._task.check_mode or tested.get("failed"):
            return tested

        # a connection that was open before the activation proves nothing: sshd, become and Python all have to work anew
        self.fresh_connection()
        answer = self.run_module("homelab.nixos.nixos_info", {}, task_vars)
        if answer.get("failed"):
            return {**tested, **answer, "changed": True}
        if args["action"] == "test":
            return tested

        default = self.run_module(self._task.action, {**args, "action": "boot"}, task_vars)
        merged = {**tested, **default}
        for key in ("before", "packages", "units", "output", "diff"):
            merged[key] = tested[key]
        merged["changed"] = tested["changed"] or default["changed"]
        merged["durations"] = {**tested["durations"], **default.get("durations", {})}
        return merged
