# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A silence in an Alertmanager while a host reboots: what is asked of its API, and when. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from ansible_collections.homelab.nixos.plugins.module_utils import _alerts
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable

_AUTHOR = "homelab.nixos"
_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class Steps(NamedTuple):
    """How long a silence is, when it is renewed, and when that is tried again where it failed; in seconds."""

    length: float = 300.0
    renewal: float = 120.0
    retry: float = 30.0

    def due(self, *, renewed: bool) -> float:
        """In how many seconds it is to be renewed next."""
        return self.renewal if renewed else self.retry


@dataclass(frozen=True)
class Silence:
    """The alerts of a host, and whose Alertmanager silences them; labels have regular expressions for whole values."""

    url: str
    labels: Mapping[str, str]
    host: str
    run_id: str = ""

    def request(self, now: float, length: float, renews: str = "") -> bytes:
        """What is sent to make a silence, or to renew the one that C(renews) names, which may get another name."""
        comment = f"{self.host} reboots" + (f", in run {self.run_id}" if self.run_id else "")
        silence: dict[str, object] = {
            # Alertmanager anchors them itself
            "matchers": [{"name": name, "value": value, "isRegex": True} for name, value in self.labels.items()],
            "startsAt": _time(now),
            "endsAt": _time(now + length),
            "createdBy": _AUTHOR,
            "comment": comment,
        }
        return json.dumps({**silence, **({"id": renews} if renews else {})}).encode()

    @property
    def silences(self) -> str:
        """Where silences are made and renewed."""
        return _below(self.url, "/api/v2/silences")

    def one(self, name: str) -> str:
        """Where a silence ends, when it is deleted there."""
        return _below(self.url, f"/api/v2/silence/{name}")


def silence(url: str, labels: Mapping[str, object] | None, host: str, run_id: str = "") -> Silence:
    """Take the options of a silence apart; raises L(LabError) for those that cannot be meant."""
    wanted = _alerts.own_labels(host) if labels is None else labels
    found = {name: _alerts.expression(name, value, "silence_labels") for name, value in wanted.items()}
    _below(url, "")
    return Silence(url, found, host, run_id)


def name_of(answer: bytes) -> str:
    """The name that a silence was given."""
    try:
        told = json.loads(answer)
    # the second: lists in lists in lists …
    except (ValueError, RecursionError) as error:
        raise Unreadable("it says nothing that is JSON.") from error
    name = told.get("silenceID") if isinstance(told, dict) else None
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise Unreadable("it gives the silence no name.")
    return name


def _below(url: str, path: str) -> str:
    return _alerts.below(url, path, option="silence_url")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
