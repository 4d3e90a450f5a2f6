# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.homelab.nixos.plugins.module_utils import _info, _resume
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _bare, _controller
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction, connection_lost


class ActionModule(LabAction):
    """Runs the module of the same name, patiently if asked to, and tells whether it is this controller."""

    _is_patient = True

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        info = super().perform(task_vars)
        if "boot_id" in info:
            info["is_controller"] = _resume.is_controller(info["boot_id"], _controller.boot_id())
        return info

    def run_module(self, name: str, args: Mapping[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        interpreter = self._interpreter(task_vars) if args.get("log") else ""
        if not interpreter:
            return super().run_module(name, args, task_vars)
        _result, wanted = self.validate_argument_spec({**_info.ARGUMENTS, "patience": {"type": "int"}})
        question = _bare.question({option: wanted[option] for option in _info.ARGUMENTS})
        try:
            done = self._low_level_execute_command(_bare.command(interpreter), in_data=question)
        except AnsibleConnectionFailure as error:
            return connection_lost(str(error))
        if done["rc"] != 0:
            words = (done["stderr"] or done["stdout"]).strip().splitlines()[-1:]
            raise LabError(f"{interpreter} on the host ended with exit code {done['rc']}: {' '.join(words)}")
        return _bare.answer(done["stdout"])

    def _interpreter(self, task_vars: dict[str, Any]) -> str:
        """The host's Python, if its path is set and our code can be handed to it; else empty."""
        found = self._templar.template(C.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars))
        return found if found.startswith("/") and self._connection.is_pipelining_enabled() else ""
