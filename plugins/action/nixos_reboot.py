# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import math
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.homelab.nixos.plugins.module_utils import _reboot
from ansible_collections.homelab.nixos.plugins.module_utils._nix import store_path
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction

_SHUTDOWN = "/run/current-system/sw/bin/shutdown"


class ActionModule(LabAction):
    """Announce, reboot, wait, and look at what was booted."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        _spec, args = self.validate_argument_spec(
            argument_spec={
                "expected_system": {"type": "path", "required": True},
                "timeout": {"type": "int", "default": 600},
                "delay": {"type": "int", "default": 120},
                "msg": {"type": "str", "default": "Auto-update completed - rebooting"},
            }
        )
        reboot = self._carry_out(args, task_vars)
        return {"changed": reboot.rebooted or (self._task.check_mode and not reboot.failed), **vars(reboot)}

    def _carry_out(self, args: dict[str, Any], task_vars: dict[str, Any]) -> _reboot.Reboot:
        expected = store_path(args["expected_system"], "expected_system")
        before = self._look()
        info = self.run_module("homelab.nixos.nixos_info", {}, task_vars)
        if before is None or info.get("failed"):
            words = f"The host was not rebooted, it could not be looked at: {info.get('msg', 'no answer')}"
            return _reboot.not_begun(words, connection_lost=bool(info.get("connection_lost", before is None)))
        default = info["systems"]["boot_default"]
        if default != expected:
            return _reboot.not_begun(
                f"The host was not rebooted: its boot default is {default or 'unknown'}, and not {expected}.", before
            )
        if self._task.check_mode:
            return _reboot.not_begun("The host would be rebooted.", before, failed=False)

        minutes = math.ceil(args["delay"] / 60)
        when = f"+{minutes}" if minutes else "now"
        asked = self.run_module(
            "ansible.legacy.command", {"argv": [_SHUTDOWN, "-r", when, args["msg"]]}, task_vars
        )
        # a host that goes down takes the connection with it
        if asked.get("failed") and not asked.get("connection_lost"):
            return _reboot.not_begun(f"The host refused to reboot: {asked.get('stderr') or asked.get('msg')}", before)
        reboot = _reboot.wait(
            self._look, before, expected, args["timeout"] + 60 * minutes, clock=time.monotonic, sleep=time.sleep
        )
        if not reboot.rebooted and not reboot.connection_lost:
            # or it comes when nobody watches any more
            self.run_module("ansible.legacy.command", {"argv": [_SHUTDOWN, "-c"]}, task_vars)
        return reboot

    def _look(self) -> _reboot.Seen | None:
        try:
            self.fresh_connection()
            done = self._low_level_execute_command(_reboot.QUESTION, sudoable=False)
        except AnsibleConnectionFailure:
            return None
        return _reboot.answer(done.get("stdout", ""))
