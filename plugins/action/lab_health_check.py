# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.homelab.nixos.plugins.module_utils import _alerts, _health, _user_checks, _vitals
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import KEEP_BODY, UserCheck
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller_checks
from ansible_collections.homelab.nixos.plugins.plugin_utils._controller_checks import Asked
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction, patience_of

_MODULE = "homelab.nixos.lab_health_check"
_HERE: dict[str, dict[str, Any]] = {
    "window": {"type": "raw"},
    "hold": {"type": "raw"},
    "alerts_url": {"type": "str", "default": ""},
    "alerts_api": {"type": "str", "choices": list(_alerts.APIS), "default": "prometheus"},
    "alerts_labels": {"type": "dict"},
    "ignored_alerts": {"type": "list", "elements": "str", "default": []},
}
# what the module needs, too
_BOTH: dict[str, dict[str, Any]] = {
    "checks": {"type": "list", "elements": "dict", "default": []},
    "levels": {"type": "dict", "default": {}},
    "settle": {"type": "int", "default": 0},
    "timeout": {"type": "int", "default": 10},
}
_POLL = 1.0


class ActionModule(LabAction):
    """Asks the host, and the controller, and makes one answer of both; a lost connection is a result."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        given = dict(self._task.args)
        patience = patience_of(given)
        try:
            options = _options(given)
            levels = _health.levels(options["levels"])
            asked = _controller_checks.parse(options, str(task_vars.get("inventory_hostname", "")))
        except LabError as error:
            error.data |= {"healthy": False, "checks": []}
            raise
        levels = {**_user_checks.levels(asked.checks), **levels}
        args = {name: value for name, value in given.items() if name not in _HERE}
        if "checks" in given:
            args["checks"] = _for_the_host(options["checks"], asked)

        end = time.monotonic() + options["settle"]
        result = self._ask_host(args, asked, end, patience, task_vars)
        if result.get("connection_lost") or not result.get("checks"):
            # nothing is known of the host, whatever the controller thinks
            return {"healthy": False, "checks": [], **result}
        before: list[Check] = []
        after: list[Check] = []

        def look() -> list[Check]:
            before[:] = _health.graded(asked.gates(), levels)
            after[:] = _health.graded(asked.own(), levels)
            return [*before, *after]

        if asked.here:
            _vitals.settled(look, max(0.0, end - time.monotonic()))
        return _answer(result, [*before, *(Check(**check) for check in result["checks"]), *after])

    def _ask_host(
        self, args: dict[str, Any], asked: Asked, end: float, patience: float, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        """The module's answer, with the verdicts on JSON, for which it may have to be asked again."""
        attempt = 0
        while True:
            if "settle" in args:
                args = {**args, "settle": max(0, math.ceil(end - time.monotonic()))}
            result = self.patiently(partial(self.run_module, _MODULE, args, task_vars), patience)
            bodies = result.pop("bodies", {})
            waiting = [check for check in asked.of_json() if not _judge(result, check, bodies)]
            if not result.get("checks") or not waiting:
                return result
            attempt += 1
            retrying = [check.interval for check in waiting if check.retries >= attempt]
            if retrying:
                time.sleep(min(retrying))
            elif time.monotonic() < end:
                time.sleep(_POLL)
            else:
                return result


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the controller looks at, with their types."""
    spec = {**_HERE, **_BOTH}
    checked = ArgumentSpecValidator(spec).validate({name: given[name] for name in spec if name in given})
    if checked.error_messages:
        raise LabError(". ".join(checked.error_messages), "See ansible-doc homelab.nixos.lab_health_check.")
    options: dict[str, Any] = checked.validated_parameters
    return options


def _for_the_host(checks: list[dict[str, Any]], asked: Asked) -> list[dict[str, Any]]:
    """The checks that the host makes. It cannot evaluate JMESPath, so it gives us the body and does not retry."""
    judged_here = asked.of_json()
    found = []
    for given, check in zip(checks, asked.checks, strict=True):
        if check.place == "host":
            one = {name: value for name, value in given.items() if name != "json"}
            found.append({**one, KEEP_BODY: True, "retries": 0} if check in judged_here else one)
    return found


def _judge(result: dict[str, Any], check: UserCheck, bodies: Mapping[str, str]) -> bool:
    """Put the verdict on a body into the result, and say whether all is well with that check."""
    for shown in result.get("checks") or []:
        if shown["name"] == check.id:
            shown["expected"] = _user_checks.expected(check)
            if check.name in bodies:
                judged = _controller_checks.judge_json(check, bodies[check.name])
            elif shown["status"] == "ok":
                judged = _user_checks.no_answer(check, "unknown", "the host gave no body.")
            else:
                return False
            shown.update({**judged.as_result(), "level": shown["level"]})
            return bool(shown["status"] == "ok")
    return False


def _answer(result: dict[str, Any], checks: list[Check]) -> dict[str, Any]:
    healthy = _health.healthy(checks)
    return {
        **result,
        "failed": not healthy,
        "healthy": healthy,
        "checks": [check.as_result() for check in checks],
        "msg": "Healthy." if healthy else _health.complaint(checks),
    }
