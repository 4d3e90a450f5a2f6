"""How alerts are asked for, and what answers are worth."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _alerts
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable

from tests.servers import alertmanager, prometheus


def query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def test_prometheus_is_asked_for_alerts_of_the_host_that_fire():
    url = _alerts.question("http://monitoring:9090", "prometheus", {"instance": "web(:[0-9]+)?", "site": "home"})
    assert url.startswith("http://monitoring:9090/api/v1/query?query=")
    assert query(url)["query"] == ['ALERTS{alertstate="firing",instance=~"web(:[0-9]+)?",site=~"home"}']


def test_alertmanager_is_asked_for_alerts_that_nobody_silenced():
    url = _alerts.question("http://monitoring:9093/", "alertmanager", {"instance": "web", "site": "home"})
    assert url.startswith("http://monitoring:9093/api/v2/alerts?")
    asked = query(url)
    assert asked["filter"] == ['instance=~"web"', 'site=~"home"']
    assert (asked["active"], asked["silenced"], asked["inhibited"]) == (["true"], ["false"], ["false"])


def test_a_path_and_a_query_of_the_url_are_kept():
    url = _alerts.question("https://me:pw@host/prometheus/?tenant=lab", "prometheus", {})
    assert url.startswith("https://me:pw@host/prometheus/api/v1/query?tenant=lab&query=")
    assert query(url)["query"] == ['ALERTS{alertstate="firing"}']


def test_nothing_in_a_label_ends_its_quotes():
    url = _alerts.question("http://m", "prometheus", {"instance": 'a"} or up{b="\\.c\nd'})
    assert query(url)["query"] == ['ALERTS{alertstate="firing",instance=~"a\\"} or up{b=\\"\\\\.c\\nd"}']


def test_the_labels_of_a_host_are_its_name_and_any_port():
    assert _alerts.own_labels("web.lan") == {"instance": "web\\.lan(:[0-9]+)?"}


@pytest.mark.parametrize("url", ["monitoring:9090", "ftp://monitoring", "http://", "http://a b", "http:///api"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(LabError, match="alerts_url is "):
        _alerts.question(url, "prometheus", {})


def test_a_password_is_not_repeated():
    with pytest.raises(LabError) as raised:
        _alerts.question("ftp://me:hunter2@monitoring", "prometheus", {})
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in _alerts.untold("http://me:hunter2@monitoring", "connection refused.").message


@pytest.mark.parametrize("labels", [{"a-b": "x"}, {"": "x"}, {"a": ""}, {"a": None}, {"a": ["x"]}, {"a": True}])
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(LabError, match="alerts_labels has "):
        _alerts.question("http://m", "prometheus", labels)


def test_alerts_that_fire_are_named_once():
    assert _alerts.firing("prometheus", prometheus("HostDown", "DiskFull", "HostDown")) == ["DiskFull", "HostDown"]
    assert _alerts.firing("prometheus", prometheus()) == []
    assert _alerts.firing("alertmanager", alertmanager(HostDown="active", Quiet="suppressed", New="unprocessed")) == [
        *("HostDown", "New")
    ]
    assert _alerts.firing("alertmanager", alertmanager()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>log in</html>",
        "[" * 100_000,
        "null",
        "[]",
        "{}",
        '{"status":"error","errorType":"bad_data","error":"parse error"}',
        '{"status":"success"}',
        '{"status":"success","data":{"resultType":"matrix","result":[]}}',
        '{"status":"success","data":{"resultType":"vector"}}',
        '{"status":"success","data":{"resultType":"vector","result":[{}]}}',
        '{"status":"success","data":{"resultType":"vector","result":[{"metric":{"instance":"web"}}]}}',
        '{"status":"success","warnings":["a store is down"],"data":{"resultType":"vector","result":[]}}',
    ],
)
def test_an_answer_of_prometheus_that_says_nothing_is_unreadable(text):
    with pytest.raises(Unreadable):
        _alerts.firing("prometheus", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        prometheus(),
        "[1]",
        '[{"labels":{"alertname":"A"}}]',
        '[{"labels":{"alertname":"A"},"status":{"state":"odd"}}]',
        '[{"labels":{},"status":{"state":"active"}}]',
        '[{"status":{"state":"active"}}]',
    ],
)
def test_an_answer_of_alertmanager_that_says_nothing_is_unreadable(text):
    with pytest.raises(Unreadable):
        _alerts.firing("alertmanager", text)


def test_any_alert_fails_the_check_unless_it_is_ignored():
    assert _alerts.judge([], []).status == "ok"
    check = _alerts.judge(["DiskFull", "HostDown"], ["DiskFull"])
    assert (check.status, check.message) == ("fail", "Alerts that fire for it: HostDown.")
    check = _alerts.judge(["DiskFull"], ["DiskFull"])
    assert (check.status, check.message) == ("ok", "No alert fires for it but DiskFull.")


def test_the_stand_ins_are_as_the_apis_are_documented():
    assert json.loads(prometheus("A"))["data"]["result"][0]["value"][1] == "1"
    assert json.loads(alertmanager(A="active"))[0]["status"]["state"] == "active"
