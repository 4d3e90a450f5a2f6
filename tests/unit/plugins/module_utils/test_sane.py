"""One odd answer of one host takes no report of the night along."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.filter.report import report
from ansible_collections.homelab.nixos.plugins.module_utils import _letter, _metrics, _night, _page, _sane, _summary

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
SYSTEMS = {"current": OLD, "booted": OLD, "profile": OLD, "boot_default": OLD}
ODD: list[Any] = [None, -5, float("nan"), 1e300, 5, 1.5, "x", ["x"], {"x": "y"}, {5: 5}]
GOOD: dict[str, dict[str, Any]] = {
    "probe": {"systems": SYSTEMS, "span": {"began": 1795312801.0, "seconds": 1.0}, "last": {"outcome": "updated"}},
    "copy": {"durations": {"total": 3.2}},
    "activation": {
        "activated": True,
        "before": {"system": OLD, "nixos_version": "26.05.1"},
        "after": {"system": NEW, "nixos_version": "26.05.2"},
        "durations": {"test": 2.1},
        "reboot_required": True,
        "reboot_reasons": ["kernel"],
        "packages": {"changed": [{"name": "hello", "before": ["1"], "after": ["2"]}], "closure_delta": 5},
    },
    "reboot": {"rebooted": True, "elapsed": 31.4},
}
LOST = {"outcome": "lost", "reason": "It did not come back.", "evidence": GOOD}


@pytest.mark.parametrize(("step", "key"), [(step, key) for step, result in GOOD.items() for key in result])
def test_a_night_is_told_whatever_one_host_has_answered(step: str, key: str):
    for odd in ODD:
        evil = {**LOST, "evidence": {**GOOD, step: {**GOOD[step], key: odd}}}
        hosts = [{"name": name, "stale_after": 1, "defer_warn_after": 1} for name in ("evil", "good")]
        told = report(
            {"evil": evil, "good": LOST}, run_id="20261122T020000Z-7f3a", seconds=42, hosts=hosts, now=1795312842
        )
        assert "evil" in told["text"]
        result = json.loads(json.dumps(told["result"], allow_nan=False))
        assert {host: one["outcome"] for host, one in result["hosts"].items()} == {"evil": "lost", "good": "lost"}
        assert _night.read(result).verdict == "bad"
        details = _summary.summary(result)["details"]
        assert (details["outcomes"], details["failed"]) == ({"evil": "lost", "good": "lost"}, True)
        for write in (_page.page, _letter.plain, _letter.markdown):
            assert "evil" in write(result)
        assert 'host="evil",outcome="lost"} 1' in _metrics.text([result], told["knows"])


def test_what_is_right_stays_as_it_is():
    assert _sane.evidence(GOOD) == GOOD
    assert _sane.count({"deferrals": {"nights": 3, "since": 1795312800, "reason": "x"}})["deferrals"]["nights"] == 3


def test_a_count_that_is_none_warns_of_nothing():
    for odd in ODD:
        for count in (
            {"deferrals": odd},
            {"deferrals": {"nights": odd, "since": 5}},
            {"deferrals": {"nights": 5, "since": odd}},
        ):
            night = {**LOST, "outcome": "deferred", "deferral": True}
            hosts = [{"name": "web", "stale_after": 0, "defer_warn_after": 3}]
            told = report(
                {"web": night}, run_id="run-1", seconds=1, hosts=hosts, now=1795312842, deferrals={"web": count}
            )
            assert "web" in told["text"]


def test_a_clock_that_is_set_back_makes_a_night_of_no_length():
    assert report({"web": LOST}, run_id="run-1", seconds=-5, now=1795312842)["result"]["durations"]["total"] == 0
