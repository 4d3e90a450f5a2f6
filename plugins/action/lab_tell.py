# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_args

from ansible_collections.homelab.nixos.plugins.module_utils import _metrics, _night, _notify, _state, _summary
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._notify import Mode, Ping
from ansible_collections.homelab.nixos.plugins.module_utils._record import Record
from ansible_collections.homelab.nixos.plugins.plugin_utils import _archive, _controller, _notifier, _ping, _zones
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
                "notify": {"type": "list", "elements": "str", "default": [], "no_log": True},
                "notify_on": {"type": "str", "choices": list(get_args(Mode)), "default": "on_reboot_or_error"},
                "notify_timeout": {"type": "int", "default": 60},
                "ping_url": {"type": "str", "default": "", "no_log": True},
            }
        )
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

        # once for all that tell of them: there may be many
        @cache
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
            return archive.write_pages(result, former(), args["name"], zone, playbook, optional)

        def metrics() -> str:
            if not args["metrics_directory"]:
                return ""
            text = _metrics.text([*former(), result], args["knows"], hosts=args["hosts"] or None)
            path = os.path.join(args["metrics_directory"], _metrics.FILE)
            if text:
                _state.publish(path, text)
            return path if text else ""

        def notify() -> list[dict[str, Any]]:
            sent = _notifier.tell(
                args["notify"],
                args["notify_on"],
                result,
                former(),
                lab=args["name"],
                state_directory=args["state_directory"],
                timeout=args["notify_timeout"],
                zone=zone,
                playbook=playbook,
                optional=optional,
            )
            self._warnings.extend(sent["warnings"])
            return list(sent["receivers"])

        def ping() -> str:
            if not args["ping_url"]:
                return ""
            what: Ping = "fail" if result["failed"] else "success"
            try:
                body = _notify.ping_body(result, args["name"], zone, optional)
            except LabError as error:
                # that it ended, and how, is known all the same
                body = f"Run {result['run_id']}.\n{error}\n"
            warnings = _ping.ping(args["ping_url"], what, str(result["run_id"]), body)
            self._warnings.extend(warnings)
            return "" if warnings else what

        if self._task.check_mode:
            # every run leaves a record, and a dry run nothing else
            told: dict[str, Any] = {"log": self._part("The dry run is not in the log", log)}
            return {"changed": False, "told": told, "record": {}, "warnings": [*self._warnings, *log_file.warnings]}
        told = {
            "log": self._part("The night is not in the log", log),
            "result": self._part("The result of the night was not kept", keep),
            "page": self._part("The night has no page", page),
            "metrics": self._part("The metrics are those of a former night", metrics),
            "receivers": self._part("Nobody was told of the night", notify) or [],
            "ping": self._part("The end of the run was not reported", ping),
        }
        warnings = [*self._warnings, *log_file.warnings]
        return {"changed": True, "told": told, "record": record, "warnings": warnings}

    def _part(self, without: str, tell: Callable[[], Any]) -> Any:
        """Tell one thing of the night; C(without) says what is missing when that fails."""
        try:
            return tell()
        except LabError as error:
            self._warnings.append(f"{without}: {error}")
        except Exception as error:
            # a defect of ours in one of them takes none of the others along, nor the night
            self._warnings.append(f"{without}, because of a defect: {type(error).__name__}: {error}")
        return ""
