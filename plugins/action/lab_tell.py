# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _metrics, _night, _state, _summary
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._record import Record
from ansible_collections.homelab.nixos.plugins.plugin_utils import _archive, _controller, _zones
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction

# set by the programs with which role and NixOS module run the nights
_PROGRAM = "LAB_AUTO_UPDATE_PROGRAM"


class ActionModule(LabAction):
    """All of it happens here, on the controller. What goes wrong with one part is a warning, and the next one comes."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        _spec, args = self.validate_argument_spec(
            argument_spec={
                "result": {"type": "dict", "required": True},
                "knows": {"type": "dict", "default": {}},
                "hosts": {"type": "list", "elements": "str", "default": []},
                "optional": {"type": "list", "elements": "str", "default": []},
                "name": {"type": "str", "default": ""},
                "state_directory": {"type": "str", "default": ""},
                "report_directory": {"type": "str", "default": ""},
                "report_keep": {"type": "int", "default": 90},
                "metrics_directory": {"type": "str", "default": ""},
            }
        )
        if self._task.check_mode:
            return {"changed": False, "skipped": True, "msg": "A dry run leaves nothing behind."}
        self._warnings: list[str] = []
        log_file = _controller.log(args["state_directory"])
        record: dict[str, Any] = {}
        result: Mapping[str, Any] = args["result"]
        optional = args["optional"]
        state_directory = _controller.state_directory(args["state_directory"])
        chosen = args["report_directory"]
        directory = os.path.expandvars(os.path.expanduser(chosen)) or os.path.join(state_directory, "nights")
        archive = _archive.Archive(directory, args["report_keep"])
        zone = _zones.local()
        program = os.environ.get(_PROGRAM)
        playbook = f"{program} {{}}" if program else _night.PLAYBOOK

        def former() -> list[dict[str, Any]]:
            return archive.former(str(result["run_id"]))

        def log() -> str:
            record.update(_summary.summary(result, optional))
            log_file.write(Record(str(result["run_id"]), time.time(), "", "night", **record))
            return log_file.path

        def keep() -> str:
            _archive.prepare(directory, bool(chosen))
            return archive.keep(result)

        def page() -> str:
            return archive.write_pages(result, args["name"], zone, playbook, optional)

        def metrics() -> str:
            if not args["metrics_directory"]:
                return ""
            text = _metrics.text([*former(), result], args["knows"], hosts=args["hosts"] or None)
            path = os.path.join(args["metrics_directory"], _metrics.FILE)
            if text:
                _state.publish(path, text)
            return path if text else ""

        told = {
            "log": self._part("The night is not in the log", log),
            "result": self._part("The result of the night was not kept", keep),
            "page": self._part("The night has no page", page),
            "metrics": self._part("The metrics are those of a former night", metrics),
        }
        warnings = [*self._warnings, *log_file.warnings]
        return {"changed": True, "told": told, "record": record, "warnings": warnings}

    def _part(self, without: str, tell: Callable[[], str]) -> str:
        """Tell one thing of the night; C(without) says what is missing when that fails."""
        try:
            return tell()
        except LabError as error:
            self._warnings.append(f"{without}: {error}")
        except Exception as error:
            # a defect of ours in one of them takes none of the others along, nor the night
            self._warnings.append(f"{without}, because of a defect: {type(error).__name__}: {error}")
        return ""
