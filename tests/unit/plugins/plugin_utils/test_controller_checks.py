"""What lab_health_check asks on the controller."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller_checks

from tests.servers import Server, alertmanager, prometheus, serving

QUERY, LIST = "/api/v1/query", "/api/v2/alerts"
NOTHING: dict[str, Any] = {
    "window": None,
    "hold": None,
    "alerts_url": "",
    "alerts_api": "prometheus",
    "alerts_labels": None,
    "ignored_alerts": [],
    "checks": [],
    "timeout": 5,
}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({QUERY: (200, prometheus()), LIST: (200, alertmanager())}) as running:
        yield running


def parse(**options: Any) -> _controller_checks.Asked:
    return _controller_checks.parse({**NOTHING, **options}, "web")


def gate(**options: Any) -> Check:
    (check,) = parse(**options).gates()
    return check


def own(**check: Any) -> Check:
    (found,) = parse(checks=[{"name": "it", "from": "controller", **check}]).own()
    return found


def test_what_is_not_wanted_is_not_asked():
    asked = parse()
    assert not asked.here
    assert (asked.gates(), asked.own()) == ([], [])
    assert not parse(checks=[{"name": "ssh", "kind": "tcp", "port": 22}]).here


def test_a_closed_window_fails_and_says_when_it_opens():
    now = time.gmtime()
    tomorrow, day_after = (("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[(now.tm_wday + n) % 7] for n in (2, 3))
    check = gate(window=[f"{tomorrow} 22:00-06:00 UTC", f"{day_after} 22:00-06:00 UTC"])
    assert (check.name, check.status) == ("window", "fail")
    assert "the next opens " in check.message
    check = gate(window="00:00-24:00")
    assert (check.status, check.message) == ("ok", "Its window is open.")


def test_a_host_that_is_held_fails():
    assert gate(hold="New disks").message == "It is held: New disks."
    assert gate(hold={"reason": "New disks", "until": "2020-01-01"}).status == "ok"


def test_an_alert_that_fires_fails_the_check_with_both_apis(server: Server):
    for api, path, fires in (
        ("prometheus", QUERY, prometheus("HostDown")),
        ("alertmanager", LIST, alertmanager(HostDown="active", Old="suppressed")),
    ):
        assert gate(alerts_url=server.url(), alerts_api=api).status == "ok"
        server.pages[path] = (200, fires)
        check = gate(alerts_url=server.url(), alerts_api=api)
        assert (check.name, check.status, check.observed) == ("alerts", "fail", "HostDown")
        assert gate(alerts_url=server.url(), alerts_api=api, ignored_alerts=["HostDown"]).status == "ok"
    assert server.queries()[0]["query"] == ['ALERTS{alertstate="firing",instance=~"web(:[0-9]+)?"}']
    gate(alerts_url=server.url(), alerts_labels={"host": "w.b"})
    assert server.queries()[-1]["query"] == ['ALERTS{alertstate="firing",host=~"w.b"}']


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, ""), "it answers 500."),
        ((302, "/"), "it answers 302."),
        ((401, ""), "it answers 401."),
        ((200, "<html>"), "it is not JSON."),
        ((200, "[]"), "not as the API is documented"),
        ((200, prometheus(*["HostDown"] * 40_000)), "it answers more than 4 MiB."),
    ],
)
def test_alerts_of_which_nobody_can_tell_block(server: Server, answer, says):
    server.pages[QUERY] = answer
    check = gate(alerts_url=server.url("", "me:hunter2"))
    assert check.status == "unknown"
    assert says in check.message
    assert "hunter2" not in str(check)


def test_a_server_of_alerts_that_refuses_or_hangs_blocks(server: Server):
    assert gate(alerts_url="http://127.0.0.1:1").status == "unknown"
    # its path is below the URL, and so is this one
    for path in ("/hangs", "/drips"):
        began = time.monotonic()
        check = _controller_checks.alerts(
            _controller_checks.Alerts(server.url(), server.url(path), "prometheus", (), 0.3)
        )
        assert (check.status, time.monotonic() - began < 2) == ("unknown", True)


def test_checks_from_the_controller_are_made_here(server: Server):
    server.pages["/"] = (200, '{"state": "up", "lag": 0}')
    assert own(kind="tcp", host="127.0.0.1", port=server.port).status == "ok"
    assert own(kind="command", argv=["true"]).status == "ok"
    assert own(kind="command", argv=["false"]).status == "fail"
    assert own(kind="http", url=server.url("/"), json="state == 'up' && lag < `5`").status == "ok"
    check = own(kind="http", url=server.url("/"), json="lag")
    assert (check.status, check.message) == ("fail", f"The check it: lag of {server.url('/')} is 0.")


def test_a_body_that_is_no_json_fails_and_one_that_is_too_long_is_unknown(server: Server):
    server.pages |= {"/": (200, "up"), "/long": (200, f'"{"x" * 70_000}"')}
    assert own(kind="http", url=server.url("/"), json="state").status == "fail"
    assert own(kind="http", url=server.url("/long"), json="@").status == "unknown"
    server.pages["/deep"] = (200, "[" * 60_000)
    assert own(kind="http", url=server.url("/deep"), json="@").status == "fail"


def test_an_expression_that_does_not_fit_the_document_is_unknown(server: Server):
    server.pages["/"] = (200, '{"lag": "much"}')
    check = own(kind="http", url=server.url("/"), json="abs(lag) < `5`")
    assert check.status == "unknown"
    assert "its expression cannot be evaluated" in check.message


def test_an_expression_that_is_asked_again_may_become_true(server: Server):
    server.pages["/"] = (200, '{"up": false}')
    check = own(kind="http", url=server.url("/"), json="up", retries=2, interval=0.01)
    assert (check.status, len(server.asked)) == ("fail", 3)


def test_an_expression_that_is_none_is_refused_before_anybody_is_asked(server: Server):
    with pytest.raises(LabError, match="the check it has json 'state ==': "):
        own(kind="http", url=server.url("/"), json="state ==")
    assert server.asked == []


def test_a_missing_library_is_named_with_its_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jmespath", None)
    with pytest.raises(LabError, match=r"the check it has json, and jmespath is not installed on this controller"):
        own(kind="http", url="http://localhost", json="state")


def test_what_the_action_plugin_tells_the_module_is_no_option_of_a_task():
    with pytest.raises(LabError, match="the check it has keep_body"):
        own(kind="http", url="http://localhost", keep_body=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": "late"}, "window has 'late'"),
        ({"window": "01:00-02:00 Mars/Base"}, "This controller knows no time zone Mars/Base"),
        ({"hold": {"until": "2026-12-24"}}, "hold has no reason"),
        ({"alerts_url": "monitoring"}, "alerts_url is 'monitoring'"),
        ({"checks": [{"name": "it"}]}, "checks: the check it has no kind"),
    ],
)
def test_options_that_are_none_are_named(options, says):
    with pytest.raises(LabError) as raised:
        parse(**options)
    assert says in str(raised.value)
