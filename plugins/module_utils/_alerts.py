# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Alerts that fire: how a Prometheus or an Alertmanager is asked for those of a host, and what it answers. Pure.

What cannot be understood raises L(Unreadable): a host of whose alerts nothing is known is not well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, cast, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit

from ansible_collections.homelab.nixos.plugins.module_utils import _health
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

Api = Literal["prometheus", "alertmanager"]
APIS: tuple[Api, ...] = get_args(Api)

NAME = "alerts"
_EXPECTED = "none"
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PATHS: Mapping[Api, str] = {"prometheus": "/api/v1/query", "alertmanager": "/api/v2/alerts"}


def own_labels(host: str) -> dict[str, str]:
    """The labels by which a host's alerts are known when its owner has not said any."""
    return {"instance": f"{re.escape(host)}(:[0-9]+)?"}


def question(url: str, api: Api, labels: Mapping[str, object]) -> str:
    """The URL to fetch. Values of C(labels) are regular expressions for whole values, both APIs anchor them."""
    matchers = [matcher(name, value) for name, value in labels.items()]
    if api == "prometheus":
        selected = ",".join(['alertstate="firing"', *matchers])
        query = [("query", f"ALERTS{{{selected}}}")]
    else:
        states = [("active", "true"), ("silenced", "false"), ("inhibited", "false"), ("unprocessed", "true")]
        query = [*states, *(("filter", matcher) for matcher in matchers)]
    return below(url, _PATHS[api], query)


def below(url: str, path: str, query: Sequence[tuple[str, str]] = (), option: str = "alerts_url") -> str:
    """The URL of a C(path) of the API at C(url)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise LabError(f"{option} is {url!r}.", "Write it as http://monitoring:9090.")
    asked = "&".join(filter(None, [parts.query, urlencode(query)]))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, asked, ""))


def firing(api: Api, text: str) -> list[str]:
    """The names of the alerts in an answer, each once."""
    try:
        answer = json.loads(text)
    # the second: lists in lists in lists …
    except (ValueError, RecursionError) as error:
        raise Unreadable("it is not JSON.") from error
    names = _of_prometheus(answer) if api == "prometheus" else _of_alertmanager(answer)
    return sorted(set(names))


def judge(names: Collection[str], ignored: Collection[str]) -> Check:
    """The check, from the names of the alerts that fire."""
    found = [name for name in names if name not in ignored]
    if found:
        return Check(NAME, "fail", ", ".join(found), _EXPECTED, f"Alerts that fire for it: {', '.join(found)}.")
    excused = [name for name in names if name in ignored]
    said = f"No alert fires for it but {', '.join(excused)}." if excused else "No alert fires for it."
    return Check(NAME, "ok", ", ".join(excused) or "none", _EXPECTED, said)


def untold(url: str, why: str) -> Check:
    """The check of which nobody could tell."""
    return _health.unknown(NAME, _EXPECTED, redact(f"{url} was asked: {why}"))


def matcher(label: str, value: object) -> str:
    """What selects alerts by one label; a value is quoted as both APIs read it."""
    text = expression(label, value)
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{label}=~"{quoted}"'


def expression(label: str, value: object, option: str = "alerts_labels") -> str:
    """The regular expression for a label."""
    if not _LABEL.fullmatch(label):
        raise LabError(f"{option} has {label!r}, which is no label.", "Labels are letters, digits and _.")
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise LabError(f"{option} has {value!r} for {label}.", "It is a regular expression, and not empty.")
    return str(value)


def _of_prometheus(answer: object) -> list[str]:
    """Names, from the answer to an instant query."""
    whole = _mapping(answer, "it")
    if whole.get("status") != "success":
        raise Unreadable(f"it says {whole.get('error') or whole.get('status') or 'nothing'}.")
    if whole.get("warnings"):
        # some of the servers behind it did not answer
        raise Unreadable(f"it warns that not all may be there: {whole['warnings']}.")
    data = _mapping(whole.get("data"), "its data")
    result = data.get("result")
    if data.get("resultType") != "vector" or not isinstance(result, list):
        raise Unreadable("its result is no vector.")
    series = [_mapping(_mapping(one, "a series").get("metric"), "a metric") for one in result]
    return [_name(labels) for labels in series]


def _of_alertmanager(answer: object) -> list[str]:
    """Names, from a list of alerts; silenced and inhibited ones are C(suppressed)."""
    if not isinstance(answer, list):
        raise Unreadable("it is no list of alerts.")
    names = []
    for one in answer:
        alert = _mapping(one, "an alert")
        state = _mapping(alert.get("status"), "its status").get("state")
        if state not in ("active", "unprocessed", "suppressed"):
            raise Unreadable(f"an alert is {state!r}.")
        if state != "suppressed":
            names.append(_name(_mapping(alert.get("labels"), "its labels")))
    return names


def _name(labels: Mapping[str, object]) -> str:
    name = labels.get("alertname")
    if not isinstance(name, str) or not name:
        raise Unreadable("an alert has no name.")
    return name


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is not as the API is documented.")
    return cast("Mapping[str, object]", value)
