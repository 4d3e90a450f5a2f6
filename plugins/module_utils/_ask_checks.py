# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask what the owner's own checks want to know, from where this runs: a host, or the controller."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils import _network, _user_checks
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import Http, Tcp, UserCheck


@dataclass(frozen=True)
class Asked:
    """A check and, where it was asked for and there is one, the body of the page."""

    check: Check
    body: str | None = None


def ask(run: Run, path: str, check: UserCheck) -> Asked:
    """Ask until it is well, as often as its owner wants. C(path) is where a program looks for others."""
    for attempt in range(check.retries + 1):
        if attempt:
            time.sleep(check.interval)
        asked = _once(run, path, check)
        if asked.check.status == "ok":
            break
    return asked


def ask_all(run: Run, path: str, checks: Sequence[UserCheck], bodies: dict[str, str]) -> list[Check]:
    """Ask all of C(checks), and put the bodies of pages that are to be kept into C(bodies), by name of the check."""
    found = []
    for check in checks:
        asked = ask(run, path, check)
        if asked.body is not None:
            bodies[check.name] = asked.body
        else:
            bodies.pop(check.name, None)
        found.append(asked.check)
    return found


def _once(run: Run, path: str, check: UserCheck) -> Asked:
    what = check.what
    try:
        if isinstance(what, Tcp):
            _network.connect(what.host, what.port, check.timeout)
            return Asked(_user_checks.judge(check, None))
        if isinstance(what, Http):
            page = _network.get(
                what.url,
                check.timeout,
                limit=_user_checks.LIMIT if what.reads else 0,
                validate_certs=what.validate_certs,
                ca_path=what.ca_path,
            )
            judged = _user_checks.judge(check, page)
            return Asked(judged, page.body if what.reads and judged.status == "ok" else None)
        # nothing of the environment of whoever asks
        clean = ["env", "--ignore-environment", f"PATH={path}", "LC_ALL=C", *what.argv]
        return Asked(_user_checks.judge(check, run(clean, timeout=check.timeout)))
    except _network.Refused as error:
        return Asked(_user_checks.no_answer(check, "fail", error.what))
    except LabError as error:
        return Asked(_user_checks.no_answer(check, "unknown", str(error)))
