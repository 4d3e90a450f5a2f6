# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._activation import UNTOUCHED
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller, _witness
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction, check_seconds

# what starting Python, and a login, may take on a busy host
_GRACE = 30.0
_CHANGING = ("test", "switch", "boot", "boot_once", "rollback")


class ActionModule(LabAction):
    """Runs the module under a claim, follows it through lost connections, and confirms what it has activated."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        _spec, checked = self.validate_argument_spec(
            argument_spec={
                "action": {"type": "str", "default": "switch"},
                "timeout": {"type": "int", "default": 1800},
                "confirm_timeout": {"type": "int", "default": 120},
                "verify_timeout": {"type": "int", "default": 600},
                "reboot_timeout": {"type": "int", "default": 600},
                "witnesses": {"type": "list", "elements": "str", "default": []},
                **{name: {"type": "raw"} for name in self._task.args if name not in _OWN},
            }
        )
        check_seconds(checked, _TIMEOUTS)
        self._seconds = {name: float(checked[name]) for name in _TIMEOUTS}
        self._task_vars = task_vars
        self._witnesses = checked["witnesses"]
        args = {**self._task.args, "action": checked["action"]}
        args.pop("witnesses", None)
        if args["action"] not in _CHANGING:
            return self._module(args)
        if self._task.check_mode:
            return self._dry(args)
        args["controller"] = _controller.identity(args.get("controller")).controller
        if args.get("run_id"):
            return self._change(args)
        return self._change_under_a_claim_of_our_own(args)

    def _dry(self, args: Mapping[str, Any]) -> dict[str, Any]:
        tested = self._module({**args, "action": "test" if args["action"] == "switch" else args["action"]})
        if args["action"] == "switch" and not tested.get("failed"):
            tested["changed"] = tested["changed"] or not tested["boot_default"]
        return tested

    def _change_under_a_claim_of_our_own(self, args: dict[str, Any]) -> dict[str, Any]:
        args["run_id"] = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        who = {"run_id": args["run_id"], "controller": args["controller"]}
        claim = self._claim({**who, "state": "taken", "seconds": int(self._seconds["timeout"])})
        if claim.get("failed"):
            return {"ending": "not_begun", **claim}
        result = self._change(args)
        released = {**who, "state": "released", "outcome": "updated", "reason": ""}
        if args["action"] != "switch":
            released |= {
                "outcome": "pending",
                "reason": f"Asked for with action {args['action']}, and no more than that.",
            }
        if result.get("failed"):
            if result.get("ending") not in UNTOUCHED:
                back = self._change({**who, "action": "rollback"})
                result["reverted"] = not back.get("failed")
                result["msg"] = f"{result.get('msg', '')} {back.get('msg', '')}".strip()
                result["activated"] = False
                word = "rolled_back" if result["reverted"] else "rollback_failed"
            else:
                word = "failed"
            released |= {"outcome": word, "reason": result.get("msg", "")}
        closed = self._claim(released)
        if closed.get("failed") and not result.get("failed"):
            return {**result, "failed": True, "msg": closed.get("msg", "")}
        return result

    def _change(self, args: dict[str, Any]) -> dict[str, Any]:
        if args["action"] == "rollback":
            return self._persist(args, self._seconds["reboot_timeout"])
        if args["action"] in ("boot", "boot_once"):
            return self._persist(args, self._seconds["verify_timeout"])
        tested = self._test({**args, "action": "test"})
        if tested.get("failed") or args["action"] == "test":
            return tested
        default = self._persist({**_of_system(args, tested), "action": "boot"}, self._seconds["verify_timeout"])
        merged = {**tested, **default}
        for key in ("before", "packages", "units", "output", "diff"):
            merged[key] = tested[key]
        merged["changed"] = tested["changed"] or default.get("changed", True)
        merged["durations"] = {**tested["durations"], **default.get("durations", {})}
        return merged

    def _test(self, args: dict[str, Any]) -> dict[str, Any]:
        """Activate, however often the connection is lost meanwhile, and confirm it over a new one."""
        bound = self._seconds["timeout"] + self._seconds["confirm_timeout"]
        witnesses = _witness.answering(self._witnesses, self._task_vars["hostvars"]) if self._witnesses else []
        result = self._module({**args, "phase": "activate"})
        if not _answered(result):
            result = self.until(lambda: self._module({**args, "phase": "follow"}), _answered, bound + _GRACE)
        args = _of_system(args, result)
        if result.get("failed"):
            # after a loss nobody knows what became of it, and that is what `changed` has to say
            return result if _answered(result) else {**result, "changed": True, "ending": "unknown"}
        # a connection that was open before the activation proves nothing: ssh, become and Python have to work anew
        answer = self.until(
            lambda: self._confirm(args, witnesses),
            lambda answer: not answer.get("failed") or bool(answer.get("reverted") or answer.get("claim_lost")),
            self._seconds["confirm_timeout"],
        )
        if not answer.get("failed"):
            return result
        words = f"The host could not be confirmed over a new connection: {answer.get('msg', '')}"
        ending = "reverted" if answer.get("reverted") else "unconfirmed"
        return {**result, **answer, "ending": ending, "failed": True, "changed": True, "msg": words}

    def _confirm(self, args: Mapping[str, Any], witnesses: Sequence[_witness.Witness]) -> dict[str, Any]:
        words = _witness.missing(witnesses)
        return {"failed": True, "msg": words} if words else self._module({**args, "phase": "confirm"})

    def _persist(self, args: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Run a step that may be run again, until the host has answered how it ended."""
        result = self._module(args)
        return result if _answered(result) else self.until(lambda: self._module(args), _answered, seconds + _GRACE)

    def _module(self, args: Mapping[str, Any]) -> dict[str, Any]:
        return self.run_module(self._task.action, args, self._task_vars)

    def _claim(self, args: Mapping[str, Any]) -> dict[str, Any]:
        return self.claim(args, self._task_vars)


_TIMEOUTS = ("timeout", "confirm_timeout", "verify_timeout", "reboot_timeout")
_OWN = ("action", "witnesses", *_TIMEOUTS)


def _of_system(args: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for what comes after an activation: they name the very system, and not where it came from."""
    kept = {name: value for name, value in args.items() if name not in ("flake", "attribute")}
    return {**kept, "system": result["system"]} if "system" in result else dict(args)


def _answered(result: Mapping[str, Any]) -> bool:
    """Whether the module itself has told how it ended: not where the way to it, its Python or its sudo was gone."""
    return not (result.get("connection_lost") or "module_stdout" in result)
