# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _history, _state, _status
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import (
    _bare,
    _known,
    _ready,
)
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction

_ready.load()

# what this controller knows is read without asking anybody
_LOCAL = ("localhost", "127.0.0.1", "::1")
_DAY = 86400

# made once, for all that are asked after the first task
_bare.archive()


class ActionModule(LabAction):
    """All of it happens here, on the controller: no host is contacted."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        _spec, args = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["check", "told"], "default": "told"},
                "hosts": {"type": "list", "elements": "str", "required": True},
                "looks": {"type": "dict", "default": {}},
                "since": {"type": "str", "default": "30d"},
                "format": {"type": "str", "default": "table"},
                "query": {"type": "str", "default": ""},
                "output": {"type": "str", "default": ""},
            },
        )
        form = _known.checked_format(args["format"])
        now = time.time()
        since = _history.since(args["since"], now)
        query = _known.query(args["query"])
        lab = _known.lab(args["hosts"], task_vars["hostvars"], now)
        # a host that is stale was updated before that
        back = min(since, now - max((host.stale_after + 1 for host in lab.hosts.values()), default=0) * _DAY)
        if args["state"] == "check":
            is_there = lab.flake_host in args["hosts"]
            return {
                "changed": False,
                "since": args["since"],
                "format": form,
                "query": args["query"],
                "output": args["output"],
                "logs_since": back,
                "hold_files": lab.hold_files,
                "flake_host": lab.flake_host,
                "elsewhere": "" if lab.flake_host in _LOCAL or is_there else lab.flake_host,
            }

        controller = _known.controller(lab.state_directory, back)
        told = _status.status(lab.hosts, args["looks"], lab.flake_host, controller, now, since)
        nobody = _status.nobody(told)
        if nobody:
            raise LabError(nobody)
        text = self._text(told, query, form)
        if args["output"]:
            _state.publish(os.path.expanduser(args["output"]), f"{text}\n")
        return {"changed": False, "status": told, "lab_text": text, "msg": text}

    def _text(self, told: Mapping[str, Any], query: _known.Query | None, form: str) -> str:
        if query is None and form == "table":
            return _status.table(told)
        # in ASCII: no terminal takes any of it for anything else
        return json.dumps(told if query is None else query(told), indent=2)
