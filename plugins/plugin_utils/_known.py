# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What this controller knows of the lab without asking any host, for those who want to know how it stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _entries, _hold, _log, _log_files, _notify, _status
from ansible_collections.homelab.nixos.plugins.module_utils._activation import properties
from ansible_collections.homelab.nixos.plugins.module_utils._entries import Entry
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._status import Controller, Wanted
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller, _notifier, _process, _specification

Query = Callable[[Mapping[str, Any]], Any]

_FORMATS = ("table", "json")
_TIMER = (
    *("systemctl", "show", "--timestamp=unix", "--property=LoadState,NextElapseUSecRealtime"),
    _status.TIMER,
)


@dataclass(frozen=True)
class Lab:
    """The hosts to tell of, by what the inventory says; C(hold_files) are theirs."""

    hosts: Mapping[str, Wanted]
    hold_files: Mapping[str, str]
    flake_host: str
    state_directory: str


def lab(names: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]], now: float) -> Lab:
    """What the inventory says of the hosts of these names."""
    settings = {name: _settings(name, hostvars[name]) for name in names}
    managed = {name: given for name, given in settings.items() if given["lab_managed"]}
    # there is one for the night
    shared = next(iter(managed.values()), {"lab_flake_host": "localhost", "lab_state_directory": ""})
    return Lab(
        hosts={
            name: Wanted(int(given["lab_stale_after"]), _held(name, given["lab_hold"], now))
            for name, given in managed.items()
        },
        hold_files={name: str(given["lab_hold_file"]) for name, given in managed.items()},
        flake_host=str(shared["lab_flake_host"]),
        state_directory=str(shared["lab_state_directory"]),
    )


def controller(state_directory: str, since: float) -> Controller:
    """What is known on this machine."""
    directory = _controller.state_directory(state_directory)
    records: list[Entry] = []
    skipped = 0
    # whoever asks, the nights may be those of a service; a directory that was chosen has its log in it
    others = () if state_directory else (_log.PATH, os.path.join(_controller.LOGS, os.path.basename(_log.PATH)))
    for path in dict.fromkeys((_controller.log(state_directory).path, *others)):
        found, wrong = _log_files.read(path, since, _status.ENTRIES_SHOWN)
        # of hosts only hosts speak, also where this machine is one of them
        records += [replace(entry, host="") for entry in found if entry.operation in _entries.OF_A_RUN]
        skipped += wrong
    has_timer, following = _timer()
    return Controller(
        records=_entries.worth_telling(records, since, _status.ENTRIES_SHOWN),
        skipped=skipped,
        has_timer=has_timer,
        next_run=following,
        undelivered=_undelivered(os.path.join(directory, _notifier.DIRECTORY)),
    )


def checked_format(given: str) -> str:
    """Return C(given) if it is a form in which the lab can be told of."""
    if given not in _FORMATS:
        raise LabError(f"lab_format is {given[:60]!a}.", f"It is {' or '.join(_FORMATS)}.")
    return given


def query(expression: str) -> Query | None:
    """What takes C(expression) out of something; C(None) for an empty one."""
    if not expression:
        return None
    try:
        import jmespath
    except ImportError as error:
        raise LabError(
            "lab_query needs jmespath, which is not installed on this controller.",
            "Install it for the Python that runs Ansible, or use lab_format=json.",
        ) from error

    def asked(what: Callable[[], Any]) -> Any:
        try:
            return what()
        except jmespath.exceptions.JMESPathError as error:
            words = " ".join(str(error).split())
            raise LabError(
                f"lab_query is {expression[:200]!a}, which is no question that can be answered: {words.rstrip('.')}.",
                "It is a JMESPath expression, see https://jmespath.org.",
            ) from error

    compiled = asked(lambda: jmespath.compile(expression))
    return lambda told: asked(lambda: compiled.search(told))


def _settings(name: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    wanted = ("lab_managed", "lab_stale_after", "lab_hold", "lab_hold_file", "lab_flake_host", "lab_state_directory")
    defaults = _specification.defaults()
    typed = _specification.typed({setting: variables.get(setting, defaults[setting]) for setting in wanted})
    if typed.problems:
        raise LabError(f"{name}: {' '.join(typed.problems)}")
    return typed.settings


def _held(name: str, given: object, now: float) -> str:
    """Why the inventory holds a host; empty when it does not."""
    try:
        hold = _hold.parse(given)
    except LabError as error:
        raise LabError(f"{name}: {error.what}", error.remedy) from error
    if hold is None:
        return ""
    check = _hold.judge(hold, datetime.fromtimestamp(now, UTC).astimezone())
    return check.message if check.status == "fail" else ""


def _timer() -> tuple[bool, float | None]:
    try:
        return _status.timer(properties(_process.run(_TIMER, timeout=10).stdout))
    except LabError:
        # no systemd, as in a container
        return False, None


def _undelivered(directory: str) -> int:
    """How many notifications wait there for the next run, each for one receiver."""
    with suppress(OSError):
        return sum(bool(_notify.key_of_file(name)) for name in os.listdir(directory))
    return 0
