# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What lab_health_check asks on the controller: windows, holds, alerts, and those of the owner's checks made here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import (
    _alerts,
    _ask_checks,
    _hold,
    _network,
    _user_checks,
    _windows,
)
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.module_utils._hold import Hold
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import Http, UserCheck
from ansible_collections.homelab.nixos.plugins.module_utils._windows import Window
from ansible_collections.homelab.nixos.plugins.plugin_utils import _process
from ansible_collections.homelab.nixos.plugins.plugin_utils._zones import zone

# what a server of alerts may answer at most, in bytes
_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Alerts:
    """Whom to ask for alerts, and which of them may fire."""

    url: str
    question: str
    api: _alerts.Api
    ignored: Sequence[str]
    timeout: float


@dataclass(frozen=True)
class Asked:
    """What is asked here, checked as far as it can be without asking."""

    windows: tuple[Window, ...]
    hold: Hold | None
    alerts: Alerts | None
    checks: tuple[UserCheck, ...]

    @property
    def here(self) -> bool:
        """Whether there is anything to ask here."""
        mine = any(check.place == "controller" for check in self.checks)
        return bool(self.windows or self.hold or self.alerts or mine)

    def of_json(self) -> list[UserCheck]:
        """The owner's checks that a host makes, and of which the controller judges what it got."""
        return [
            check
            for check in self.checks
            if check.place == "host" and isinstance(check.what, Http) and check.what.json is not None
        ]

    def gates(self) -> list[Check]:
        """Whether its owner lets it be changed now, as far as the controller knows."""
        found = []
        now = time.time()
        if self.windows:
            found.append(window(self.windows, now))
        if self.hold is not None:
            found.append(_hold.judge(self.hold, datetime.fromtimestamp(now, UTC)))
        if self.alerts is not None:
            found.append(alerts(self.alerts))
        return found

    def own(self) -> list[Check]:
        """The owner's checks that are made from here."""
        found = []
        for check in self.checks:
            if check.place == "controller":
                asked = _own(check)
                for _attempt in range(check.retries):
                    if asked.status == "ok":
                        break
                    time.sleep(check.interval)
                    asked = _own(check)
                found.append(asked)
        return found


def parse(options: Mapping[str, Any], host: str) -> Asked:
    """Check the options; C(host) is the name that alerts have where no labels are given."""
    checks = _user_checks.parse(options["checks"])
    check_expressions(checks)
    return Asked(
        windows=_windows.parse(options["window"], zone, "window"),
        hold=_hold.parse(options["hold"], "hold"),
        alerts=_alerts_of(options, host) if options["alerts_url"] else None,
        checks=checks,
    )


def check_expressions(checks: Sequence[UserCheck]) -> None:
    """Refuse JMESPath expressions that are none, and what only the action plugin may say."""
    for check in checks:
        if isinstance(check.what, Http) and check.what.keep_body:
            raise LabError(f"checks: the check {check.name} has {_user_checks.KEEP_BODY}.", "Leave it out.")
        if isinstance(check.what, Http) and check.what.json is not None:
            _compiled(check)


def window(windows: Sequence[Window], now: float) -> Check:
    """Whether the host may be changed at this time of the day."""
    expected = ", ".join(one.text for one in windows)
    following = _windows.opens(windows, now)
    if following is not None:
        said = f"Its window is not open, the next opens {_windows.told(following)} ({expected})."
        return Check("window", "fail", "closed", expected, said)
    end = _windows.closes(windows, now)
    return Check("window", "ok", "open", expected, f"Its window is open{_until(end)}.")


def alerts(asked: Alerts) -> Check:
    """Whether an alert fires."""
    try:
        page = _network.get(asked.question, asked.timeout, limit=_LIMIT)
        if page.status != 200:
            return _alerts.untold(asked.url, f"it answers {page.status}.")
        if page.body is None:
            return _alerts.untold(asked.url, f"it answers more than {_LIMIT // 1024 // 1024} MiB.")
        return _alerts.judge(_alerts.firing(asked.api, page.body), asked.ignored)
    except LabError as error:
        return _alerts.untold(asked.url, error.what)


def judge_json(check: UserCheck, body: str) -> Check:
    """What the JMESPath expression of a check finds in a body."""
    from jmespath.exceptions import JMESPathError

    try:
        return _user_checks.value(check, _compiled(check).search(_user_checks.document(body)))
    except LabError as error:
        return _user_checks.no_answer(check, "fail", error.what)
    except JMESPathError as error:
        # a function that the document has no right type for
        return _user_checks.no_answer(check, "unknown", f"its expression cannot be evaluated: {error}")


def _own(check: UserCheck) -> Check:
    bodies: dict[str, str] = {}
    (found,) = _ask_checks.ask_all(_process.run, _process.search_path(), [_once(check)], bodies)
    if check.name in bodies and isinstance(check.what, Http) and check.what.json is not None:
        return judge_json(check, bodies[check.name])
    return found


def _once(check: UserCheck) -> UserCheck:
    return UserCheck(check.name, check.what, check.place, check.level, check.timeout)


def _compiled(check: UserCheck) -> Any:
    """The JMESPath expression of a check, which is one of HTTP."""
    expression = check.what.json if isinstance(check.what, Http) else None
    try:
        import jmespath
    except ImportError as error:
        raise LabError(
            f"checks: the check {check.name} has json, and jmespath is not installed on this controller.",
            "Install it for the Python that runs Ansible, as requirements.txt has it.",
        ) from error
    try:
        return jmespath.compile(expression)
    except jmespath.exceptions.JMESPathError as error:
        words = " ".join(str(error).split())
        raise LabError(
            f"checks: the check {check.name} has json {expression!r}: {words}",
            "It is a JMESPath expression, see https://jmespath.org.",
        ) from error


def _alerts_of(options: Mapping[str, Any], host: str) -> Alerts:
    labels = options["alerts_labels"]
    return Alerts(
        url=options["alerts_url"],
        question=_alerts.question(
            options["alerts_url"], options["alerts_api"], _alerts.own_labels(host) if labels is None else labels
        ),
        api=options["alerts_api"],
        ignored=tuple(options["ignored_alerts"]),
        timeout=options["timeout"],
    )


def _until(end: float | None) -> str:
    return "" if end is None else f" until {_windows.told(end)}"
