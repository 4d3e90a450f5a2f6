"""What is asked of an Alertmanager while a host reboots."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _silence
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._silence import Steps

RUN = "20261122T020000Z-7f3a"
URL = "https://me:hunter2@monitoring:9093/am/?tenant=lab"


def test_a_silence_names_the_host_and_the_run_and_ends_soon():
    silence = _silence.silence(URL, {"instance": "web(:[0-9]+)?", "rack": 7}, "web", RUN)
    assert json.loads(silence.request(1795312923.5, 300)) == {
        "matchers": [
            {"name": "instance", "value": "web(:[0-9]+)?", "isRegex": True},
            {"name": "rack", "value": "7", "isRegex": True},
        ],
        "startsAt": "2026-11-22T02:02:03.500Z",
        "endsAt": "2026-11-22T02:07:03.500Z",
        "createdBy": "homelab.nixos",
        "comment": f"web reboots, in run {RUN}",
    }
    assert json.loads(_silence.silence(URL, None, "web").request(0, 1))["comment"] == "web reboots"


def test_a_renewal_says_which_one_it_renews():
    silence = _silence.silence(URL, None, "web")
    assert json.loads(silence.request(0, 300, "c0ffee"))["id"] == "c0ffee"
    assert "id" not in json.loads(silence.request(0, 300))


def test_without_labels_it_is_that_of_the_alerts_of_a_host():
    (matcher,) = json.loads(_silence.silence(URL, None, "web.lan").request(0, 1))["matchers"]
    assert matcher == {"name": "instance", "value": "web\\.lan(:[0-9]+)?", "isRegex": True}


def test_the_api_is_below_the_url_with_its_query():
    silence = _silence.silence(URL, None, "web")
    assert silence.silences == "https://me:hunter2@monitoring:9093/am/api/v2/silences?tenant=lab"
    assert silence.one("c0-ffee") == "https://me:hunter2@monitoring:9093/am/api/v2/silence/c0-ffee?tenant=lab"


def test_a_step_is_renewed_well_before_its_end_even_when_that_fails_at_first():
    steps = Steps()
    assert steps.length == 300
    # three attempts that fail may come between
    assert steps.due(renewed=True) + 3 * steps.due(renewed=False) < steps.length


@pytest.mark.parametrize(
    ("url", "labels", "says"),
    [
        ("monitoring", None, "silence_url is 'monitoring'"),
        ("ftp://me:hunter2@monitoring", None, "silence_url is 'ftp://***@monitoring'"),
        (URL, {"a b": "x"}, "silence_labels has 'a b'"),
        (URL, {"instance": ""}, "silence_labels has '' for instance"),
        (URL, {"instance": ["web"]}, "silence_labels has ['web'] for instance"),
    ],
)
def test_options_that_are_none_are_named(url: str, labels: dict[str, Any] | None, says: str):
    with pytest.raises(LabError) as raised:
        _silence.silence(url, labels, "web")
    assert says in str(raised.value)


def test_the_name_of_a_silence_is_read_and_nothing_else_is_taken_for_one():
    assert _silence.name_of(b'{"silenceID": "4d6b1d7e-4b6e"}') == "4d6b1d7e-4b6e"
    for answer in (b"", b"<html>", b"[]", b"{}", b'{"silenceID": 7}', b'{"silenceID": "../status"}', b"[" * 60_000):
        with pytest.raises(Unreadable):
            _silence.name_of(answer)
