# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.homelab.nixos.plugins.module_utils import _reboot, _resume
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._nix import store_path
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller, _silencer, _witness
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction, check_seconds

# what a login and the start of Python may take on a busy host
_GRACE = 60
# what a night may go on for after the turn of its last host
_CLOSE = 900
_PHASES = ("all", "prepare", "order", "confirm")


class ActionModule(LabAction):
    """Announce, reboot, wait, look at what was booted, and tell the host that somebody saw it."""

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        _spec, args = self.validate_argument_spec(
            argument_spec={
                "expected_system": {"type": "path", "required": True},
                "timeout": {"type": "int", "default": 600},
                "delay": {"type": "int", "default": 120},
                "msg": {"type": "str", "default": "Auto-update completed - rebooting"},
                "run_id": {"type": "str"},
                "controller": {"type": "str"},
                "confirm_timeout": {"type": "int", "default": 300},
                "verify_timeout": {"type": "int", "default": 600},
                "patience": {"type": "int", "default": 0},
                "phase": {"type": "str", "choices": list(_PHASES), "default": "all"},
                "witnesses": {"type": "list", "elements": "str", "default": []},
                "night": {"type": "dict", "default": {}},
                "silence_url": {"type": "str", "default": "", "no_log": True},
                "silence_labels": {"type": "dict"},
            }
        )
        check_seconds(args, ("timeout", "confirm_timeout", "verify_timeout"))
        if args["phase"] != "all" and not args["run_id"]:
            raise LabError(
                f"phase is {args['phase']}, and run_id is not set.", "Only a claim outlives a reboot: set it."
            )
        self._task_vars = task_vars
        silencer = _silencer.of(args["silence_url"], args["silence_labels"], self._host, args["run_id"] or "")
        reboot = self._confirm_boot(args) if args["phase"] == "confirm" else self._carry_out(args, silencer)
        changed = reboot.rebooted or (self._task.check_mode and not reboot.failed)
        return {"changed": changed, **vars(reboot), "warnings": silencer.warnings}

    @property
    def _host(self) -> str:
        return str(self._task_vars["inventory_hostname"])

    def _carry_out(self, args: dict[str, Any], silencer: _silencer.Silencer) -> _reboot.Reboot:
        expected = store_path(args["expected_system"], "expected_system")
        info = self.patiently(
            lambda: self.run_module("homelab.nixos.nixos_info", {}, self._task_vars), args["patience"]
        )
        before = self._look()
        if before is None or info.get("failed"):
            words = f"The host was not rebooted, it could not be looked at: {info.get('msg', 'no answer')}"
            return _reboot.not_begun(words, connection_lost=bool(info.get("connection_lost", before is None)))
        following = info["next_boot"]
        if following != expected:
            what = "boot default is" if following == info["systems"]["boot_default"] else "next boot starts"
            return _reboot.not_begun(
                f"The host was not rebooted: its {what} {following or 'unknown'}, and not {expected}.", before
            )
        if self._task.check_mode:
            return _reboot.not_begun("The host would be rebooted.", before, failed=False)

        minutes = math.ceil(args["delay"] / 60)
        when = f"+{minutes}" if minutes else "now"
        if args["phase"] == "order":
            return self._order(args, info, before, when)
        bound = args["timeout"] + 60 * minutes
        later = args["phase"] == "prepare"
        # the way back stays the way back: no boot guard has to watch it, and nobody may take it for the way forward
        back = (info["transaction"] or {}).get("step") == "rollback"
        before_it: dict[str, Any] = {} if back else {"step": "reboot", "guard_seconds": args["confirm_timeout"]}
        after_it = {} if back else {"step": "reboot_verification"}
        if later and not back:
            bound += _CLOSE
            before_it["resume"] = self._resume(args)
        if args["run_id"]:
            # written before the host goes down: the boot guard reads it
            claim = self._claim(
                args, seconds=bound + args["confirm_timeout"] + _GRACE, patience=args["patience"], **before_it
            )
            if claim.get("failed"):
                return _reboot.not_begun(
                    f"The host was not rebooted: {claim.get('msg', '')}",
                    before,
                    connection_lost=bool(claim.get("connection_lost")),
                )
        if later:
            return _reboot.not_begun("It reboots when the night has closed.", before, failed=False, later=True)
        with silencer:
            return self._go_through(args, before, expected, when, bound, after_it)

    def _go_through(
        self,
        args: dict[str, Any],
        before: _reboot.Seen,
        expected: str,
        when: str,
        bound: float,
        after_it: dict[str, Any],
    ) -> _reboot.Reboot:
        """Order the reboot, wait for it, and confirm the new boot."""
        asked = self._command(_reboot.order(when, args["msg"]))
        # a host that goes down takes the connection with it
        if asked.get("failed") and not asked.get("connection_lost"):
            return _reboot.not_begun(f"The host refused to reboot: {asked.get('stderr') or asked.get('msg')}", before)
        reboot = _reboot.wait(self._look, before, expected, bound, clock=time.monotonic, sleep=time.sleep)
        if not reboot.rebooted and not reboot.connection_lost:
            # or it comes when nobody watches any more
            self._command([_reboot.SHUTDOWN, "-c"])
        if reboot.failed or not args["run_id"]:
            return reboot
        return _reboot.confirm(
            lambda: self._confirm(args, reboot, **after_it),
            self._look,
            before,
            reboot,
            args["confirm_timeout"],
            clock=time.monotonic,
            sleep=time.sleep,
        )

    def _resume(self, args: dict[str, Any]) -> str:
        """What the host has to run after its reboot, with all that this takes of here."""
        witnesses = _witness.answering(args["witnesses"], self._task_vars["hostvars"])
        collections = C.config.get_config_value("COLLECTIONS_PATHS")
        left = {
            "argv": _resume.command(os.path.abspath(sys.argv[0]), sys.executable, self._host),
            "environment": _resume.environment(os.environ, C.CONFIG_FILE, [str(path) for path in collections]),
            "night": {**args["night"], "witnesses": [witness._asdict() for witness in witnesses]},
        }
        return json.dumps(left, default=str)

    def _order(self, args: dict[str, Any], info: dict[str, Any], before: _reboot.Seen, when: str) -> _reboot.Reboot:
        """Order the reboot for when this run has ended."""
        found = info["transaction"]
        if found is not None and found.get("run_id") != args["run_id"]:
            words = "The host was not rebooted: another run has taken it."
            return _reboot.not_begun(words, before)
        process = _controller.identity(args["controller"]).process
        if process is None:
            return _reboot.not_begun("The host was not rebooted: the process of this run could not be told.", before)
        asked = self._command(_resume.order(int(process["pid"]), when, args["msg"]))
        if asked.get("failed"):
            why = asked.get("stderr") or asked.get("msg")
            return _reboot.not_begun(f"The reboot could not be ordered: {why}", before)
        return _reboot.not_begun("It reboots when this run has ended.", before, failed=False, later=True)

    def _confirm_boot(self, args: dict[str, Any]) -> _reboot.Reboot:
        """The rest of a reboot whose first half another run has seen, on the host itself."""
        expected = store_path(args["expected_system"], "expected_system")
        info = self.run_module("homelab.nixos.nixos_info", {}, self._task_vars)
        found = info.get("transaction") or {}
        if info.get("failed") or not found.get("boot_id"):
            return _reboot.not_begun(f"This boot cannot be confirmed: {info.get('msg', 'no run waits for it.')}")
        before = _reboot.Seen(found["boot_id"], str(found["from"]))
        booted = _reboot.wait(self._look, before, expected, 1.0, clock=time.monotonic, sleep=time.sleep)
        if booted.failed:
            return booted
        witnesses = _witness.known(args["witnesses"], self._task_vars["hostvars"])

        def attempt() -> _reboot.Attempt:
            words = _witness.missing(witnesses)
            return _reboot.Attempt(words) if words else self._confirm(args, booted, step="reboot_verification")

        return _reboot.confirm(
            attempt,
            self._look,
            before,
            booted,
            # there has to be time to go back before the boot guard does, which does not remember why
            args["confirm_timeout"] / 2,
            clock=time.monotonic,
            sleep=time.sleep,
        )

    def _confirm(self, args: dict[str, Any], booted: _reboot.Reboot, **step: str) -> _reboot.Attempt:
        """Tell the host that it was reached, by all that this takes: ssh, become and Python of the new system."""
        self.fresh_connection()
        claim = self._claim(args, seconds=args["verify_timeout"], **step)
        if not claim.get("failed"):
            # a step is written down with the boot that it was written in
            if step and claim["transaction"]["boot_id"] != booted.boot_id_after:
                return _reboot.Attempt("it was another boot by then.", final=True)
            return _reboot.Attempt()
        return _reboot.Attempt(claim.get("msg") or "no answer", final=bool(claim.get("claim_lost")))

    def _claim(self, args: dict[str, Any], **change: Any) -> dict[str, Any]:
        """Renew the transaction with lab_claim and its action plugin, which knows this controller."""
        who = {name: args[name] for name in ("run_id", "controller") if args[name]}
        return self.claim({"state": "renewed", **who, **change}, self._task_vars)

    def _command(self, argv: list[str]) -> dict[str, Any]:
        return self.run_module("ansible.legacy.command", {"argv": argv, "expand_argument_vars": False}, self._task_vars)

    def _look(self) -> _reboot.Seen | None:
        try:
            self.fresh_connection()
            done = self._low_level_execute_command(_reboot.QUESTION, sudoable=False)
        except AnsibleConnectionFailure:
            return None
        return _reboot.answer(done.get("stdout", ""))
