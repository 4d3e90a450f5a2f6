# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What all action plugins of this collection share: a lost connection is a result, and no result has a secret in it.

Ansible skips C(rescue) for unreachable hosts, and with C(ignore_unreachable) goes on to the next task as if all was
well. A module that failed because its host went away has to fail like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redacted_results
from ansible_collections.homelab.nixos.plugins.plugin_utils._orders import without_orders

_POLL = 1.0


class LabAction(ActionBase):
    """Base of our action plugins; on its own it runs the module of the same name."""

    _supports_check_mode = True
    _supports_async = False
    # whether its result is for people; one that later steps work with whole is never shown
    _is_for_people = True
    # whether the task may have the option patience, where asking again is right whatever became of the first question
    _is_patient = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        began, clock = time.time(), time.monotonic()
        try:
            # a module begins by writing its options into the host's journal, and nobody knows what is in them
            found = self.perform({**(task_vars or {}), "ansible_no_target_syslog": True})
            result.update(redacted_results(found) if self._is_for_people else found)
        except LabError as error:
            result.update({"changed": False, **error.data, "failed": True, "msg": str(error)})
        except RecursionError:
            # an answer without an end
            result.update({"changed": False, "failed": True, "msg": "The host's answer cannot be read."})
        # for the report of the night: when the step began, in seconds since 1970, and how long it took
        result["span"] = {"began": round(began, 1), "seconds": round(time.monotonic() - clock, 1)}
        return result

    def cleanup(self, force: bool = False) -> None:
        """Remove what a module left in the host's temporary directory, where the host still answers."""
        try:
            super().cleanup(force)
        except AnsibleConnectionFailure as error:
            # else a lost connection would end as unreachable after all
            self._display.vv(f"Temporary files were left behind: {error}")

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """What the plugin does; on its own, run the module that the task names with the task's arguments."""
        args = dict(self._task.args)
        patience = patience_of(args) if self._is_patient else 0
        return self.patiently(lambda: self.run_module(self._task.action, args, task_vars), patience)

    def patiently(self, ask: Callable[[], dict[str, Any]], patience: float) -> dict[str, Any]:
        """Ask; and when the connection is lost, again over new ones, for that many seconds more."""
        result = ask()
        if patience and result.get("connection_lost"):
            return self.until(ask, lambda each: not each.get("connection_lost"), patience)
        return result

    def run_module(self, name: str, args: Mapping[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Run one module on the task's host; a lost connection ends as C(failed) and C(connection_lost)."""
        try:
            result: dict[str, Any] = self._execute_module(module_name=name, module_args=dict(args), task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            return connection_lost(str(error))
        if result.pop("unreachable", False):
            return connection_lost(str(result.get("msg", "")))
        return without_orders(result)

    def claim(self, args: Mapping[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Run lab_claim with its action plugin, which knows this controller."""
        task = self._task.copy()
        task.args = dict(args)
        plugin = self._shared_loader_obj.action_loader.get(
            "homelab.nixos.lab_claim",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        result: dict[str, Any] = plugin.run(task_vars=task_vars)
        return result

    def until(
        self, ask: Callable[[], dict[str, Any]], good: Callable[[dict[str, Any]], bool], seconds: float
    ) -> dict[str, Any]:
        """Ask, each time over a new connection, until the answer is C(good) or C(seconds) have passed."""
        end = time.monotonic() + seconds
        while True:
            self.fresh_connection()
            result = ask()
            if good(result) or time.monotonic() > end:
                return result
            time.sleep(_POLL)

    def fresh_connection(self) -> None:
        """Throw the persistent connection away, so that the next command has to log in again."""
        self._connection.reset()


def patience_of(args: dict[str, Any]) -> int:
    """Take the option patience, which is not the module's, off the arguments of a task."""
    given = args.pop("patience", None)
    try:
        # as Ansible reads a number
        patience = 0 if given in (None, "") else int(str(given))
    except ValueError:
        patience = -1
    if patience < 0:
        raise LabError(f"patience is {given!r}.", "It is a number of seconds, 0 or more.")
    return patience


def check_seconds(args: Mapping[str, Any], options: Sequence[str]) -> None:
    """Refuse a time that is none, by the name of its option."""
    for option in options:
        if args[option] < 1:
            raise LabError(f"{option} is {args[option]}.", "It is a number of seconds, at least 1.")


def connection_lost(words: str) -> dict[str, Any]:
    """The result of a step whose host went away; C(words) are ssh's."""
    return {
        "changed": False,
        "failed": True,
        "connection_lost": True,
        "msg": f"The connection to the host was lost or could not be made: {words}",
    }
