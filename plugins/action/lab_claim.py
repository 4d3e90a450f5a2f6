# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction, patience_of

_MODULE = "homelab.nixos.lab_claim"
_SECONDS = 600  # the default of the module
_FILLED_IN = ("controller_name", "process", "dead_run")


class ActionModule(LabAction):
    """Tells the host who asks; and, of a run of this controller that holds it, whether that one is dead."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        given = dict(self._task.args)
        patience = patience_of(given)
        if given.keys() & set(_FILLED_IN):
            raise LabError(
                f"{', '.join(_FILLED_IN)} are filled in on the controller.", "Leave them out; see controller."
            )
        me = _controller.identity(given.get("controller"))
        args = {**given, "controller": me.controller, "controller_name": me.name, "process": me.process}

        def ask() -> dict[str, Any]:
            result = self.run_module(_MODULE, args, task_vars)
            held_by = result.get("held_by")
            if given.get("state", "taken") in ("taken", "settled") and held_by and _is_dead(held_by, me):
                return self.run_module(_MODULE, {**args, "dead_run": held_by["run_id"]}, task_vars)
            return result

        # whether the first question arrived, nobody knows: for the same run, once more is no change
        result = self.patiently(ask, patience)
        if given.get("state") == "settled" and result.get("connection_lost"):
            # what it settles may restart the network, or the host
            seconds = 2 * float(given.get("seconds", _SECONDS))
            return self.until(ask, lambda each: not each.get("connection_lost"), seconds)
        return result


def _is_dead(held_by: Mapping[str, Any], me: _controller.Identity) -> bool:
    if held_by["controller"] != me.controller:
        return False
    # one name may be given to many machines, and copied machines share an id: only both together are this machine
    same_machine = me.controller == _controller.machine_id() and held_by["controller_name"] == me.name
    return _controller.is_dead(held_by["process"], same_machine=same_machine)
