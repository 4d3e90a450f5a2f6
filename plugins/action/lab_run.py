# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ansible import constants as C
from ansible_collections.homelab.nixos.plugins.module_utils import (
    _alerts,
    _copy,
    _health,
    _hold,
    _lock_file,
    _nix,
    _notify,
    _realise,
    _settings,
    _transaction,
    _user_checks,
    _windows,
)
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._record import Record
from ansible_collections.homelab.nixos.plugins.module_utils._settings import Host, Problem
from ansible_collections.homelab.nixos.plugins.plugin_utils import (
    _controller,
    _controller_checks,
    _notifier,
    _ping,
    _ready,
    _runs,
    _specification,
)
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction
from ansible_collections.homelab.nixos.plugins.plugin_utils._zones import zone

_ready.load()

# Settings with a language of their own, by what takes them apart.
_LANGUAGES: dict[str, Callable[[Any], object]] = {
    "lab_window": lambda value: _windows.parse(value, zone),
    "lab_hold": _hold.parse,
    "lab_alerts_labels": lambda value: [_alerts.matcher(*each) for each in value.items()],
    "lab_attribute": lambda value: _nix.installable(".", value),
    "lab_cache": lambda value: value and _copy.store_url(value, "lab_cache"),
    "lab_check_levels": _health.levels,
    "lab_controller": lambda value: value and _transaction.controller_id(value),
    "lab_inputs": _lock_file.check_input_names,
    "lab_nix_options": _nix.option_args,
    "lab_notify": _notifier.check,
    "lab_ping_url": _notify.check_ping,
    "lab_substituters": lambda value: [_realise.substituter(each) for each in value],
    "lab_checks": lambda value: _controller_checks.check_expressions(_user_checks.parse(value, "lab_checks")),
}


class ActionModule(LabAction):
    """All of it happens here, on the controller: no host is contacted."""

    _is_for_people = False

    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        _spec, args = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["open", "check", "close"], "default": "open"},
                "hosts": {"type": "dict"},
                "run_id": {"type": "str"},
                "lock": {"type": "str", "default": ""},
            },
            required_if=[
                ("state", "open", ("hosts",)),
                ("state", "check", ("hosts",)),
                ("state", "close", ("run_id",)),
            ],
        )
        if args["state"] == "close":
            warnings = _runs.let_go(args["lock"], args["run_id"]) if args["lock"] else []
            return {"changed": False, "warnings": warnings}

        try:
            hosts, warnings = self._check(args["hosts"], task_vars)
        except LabError as error:
            if args["state"] == "open" and not self._task.check_mode:
                _leave_record(args["hosts"], error)
            raise
        shared = _settings.one_for_the_night([host for host in hosts if host.managed])
        began = time.time()
        result: dict[str, Any] = {
            "changed": False,
            "id": "",
            "began": began,
            "lock": "",
            "shared": shared,
            "others": _others(args["hosts"], task_vars),
            "seconds": {host.name: _settings.worst_case(host.settings) for host in hosts if host.managed},
            # a night's settings may have tokens in URLs, and later steps need them
            "_ansible_no_log": True,
        }
        if args["state"] == "open":
            run_id = _run_id(began)
            mine = _runs.holder(run_id, str(shared["lab_controller"]), began, str(C.DEFAULT_LOG_PATH or ""))
            taken = _runs.take(str(shared["lab_state_directory"]), mine)
            result.update({"id": run_id, "lock": taken.lock})
            warnings += taken.warnings
            if not self._task.check_mode:
                body = f"Run {run_id} of {len(hosts)} hosts.\n"
                warnings += _ping.ping(str(shared["lab_ping_url"]), "start", run_id, body)
        return {**result, "warnings": warnings}

    def _check(
        self, given: Mapping[str, Mapping[str, Any]], task_vars: Mapping[str, Any]
    ) -> tuple[list[Host], list[str]]:
        """The hosts with settings of the right types, and what to warn of; all that is wrong is told at once."""
        used = _names_of_variables(list(given), task_vars)
        known = [*_specification.options(), *_specification.options("controller", "main")]
        problems, strangers = _settings.check_names(used, known)
        hostvars = task_vars["hostvars"]
        hosts = []
        for name, settings in given.items():
            found = _specification.typed(settings)
            problems += [Problem((name,), "", words, "") for words in found.problems]
            if not found.problems:
                hosts.append(Host(name, bool(found.settings["lab_managed"]), found.settings))
        # who builds may have no part in this night, and is connected to
        builders = {str(host.settings["lab_flake_host"]) for host in hosts} & set(hostvars)
        connected = dict.fromkeys([*given, *sorted(builders)])
        problems += _settings.check_hosts({name: hostvars.raw_get(name).get("ansible_host") for name in connected})
        if len(hosts) == len(given):
            problems += _settings.check_values(hosts, list(task_vars["hostvars"]), _LANGUAGES)
        if problems:
            raise LabError(_settings.sentences(_settings.merged(problems), list(given)))
        return hosts, [_settings.strangers_sentence(strangers)] if strangers else []


def _leave_record(hosts: Mapping[str, Mapping[str, Any]], error: LabError) -> None:
    """A night that cannot even begin is noticed as well: in the log, and by whoever waits for its end."""
    # as far as they can be meant; there is one of each for the night
    first = next((_specification.typed(settings).settings for settings in hosts.values()), {})
    run_id = _run_id(time.time())
    log = _controller.log(str(first.get("lab_state_directory", "")))
    log.note(Record(run_id, time.time(), "", "open", "failed", details={"reason": str(error)}))
    with suppress(LabError):
        url = str(first.get("lab_ping_url", ""))
        _notify.check_ping(url)
        _ping.ping(url, "fail", run_id, str(error))


def _run_id(now: float) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}-{random.randrange(1 << 16):04x}"


def _names_of_variables(hosts: Sequence[str], task_vars: Mapping[str, Any]) -> dict[str, list[str]]:
    """The hosts by the names of their variables; no value is looked at, for some may need what is not there yet."""
    found: dict[str, list[str]] = {}
    for host in hosts:
        for name in task_vars["hostvars"].raw_get(host):
            found.setdefault(str(name), []).append(host)
    # those of plays and roles, which are everybody's
    for name in task_vars:
        found.setdefault(str(name), list(hosts))
    return found


def _others(hosts: Collection[str], task_vars: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The hosts that have no part in this night, of which others may still speak, and what they need themselves."""
    hostvars = task_vars["hostvars"]
    needs = ("lab_depends_on", "lab_hypervisor_of")
    found = []
    for name in task_vars["groups"]["all"]:
        if name not in hosts:
            needed = _specification.typed({need: hostvars[name].get(need) for need in needs}).settings
            managed = _specification.typed({"lab_managed": hostvars[name].get("lab_managed", True)}).settings
            told = {need.removeprefix("lab_"): needed[need] for need in needs}
            found.append({"name": name, "managed": managed.get("lab_managed", True), **told})
    return found
