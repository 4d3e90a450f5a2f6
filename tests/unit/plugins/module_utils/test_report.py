"""The summary of a night."""

from __future__ import annotations

from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _report

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
ACTIVATION = {
    "before": {"system": OLD, "nixos_version": "26.05.1"},
    "after": {"system": NEW, "nixos_version": "26.05.2"},
    "packages": {
        "added": [{"name": "zlib", "after": ["1.3"]}],
        "removed": [{"name": "curl", "before": ["8.0"]}],
        "changed": [
            {"name": "hello", "before": ["1.0"], "after": ["1.1"]},
            {"name": "linux", "before": ["6.12.1"], "after": ["6.12.2"]},
            {"name": "nixos-system-web", "before": ["26.05.1"], "after": ["26.05.2"]},
        ],
        "closure_delta": 13_212_057,
    },
    "reboot_required": True,
    "reboot_reasons": ["kernel"],
}
NIGHTS = {
    "web": {
        "outcome": "updated",
        "reason": "",
        "evidence": {
            "probe": {"systems": {"current": OLD}},
            "activation": ACTIVATION,
            "reboot": {"rebooted": True},
        },
    },
    "nas": {"outcome": "unreachable", "reason": "No route to host", "evidence": {"probe": {"failed": True}}},
}
SEEN = {"probe": {"systems": {"current": OLD}}}
PREPARE = {
    "inputs": [
        {
            "path": "nixpkgs",
            "before": {"rev": "1a2b3c4d5e", "last_modified": 1795219200, "nar_hash": "sha256-x"},
            "after": {"rev": None, "last_modified": 1795305600, "nar_hash": "sha256-abcdefgh"},
            "compare": "https://github.com/NixOS/nixpkgs/compare/1a2b3c4d5e...abcdefgh",
        },
        {"path": "old", "before": {"rev": "1a2b3c4d5e", "last_modified": None}, "after": None, "compare": None},
    ]
}


def test_the_table_says_who_became_what_and_why():
    text = _report.table(NIGHTS, PREPARE, "20261122T020000Z-7f3a", 72.4, False)
    assert text.splitlines() == [
        "Night 20261122T020000Z-7f3a · 2 hosts: 1 unreachable, 1 updated · 1 min 12 s",
        "Input nixpkgs 2026-11-21 1a2b3c4 → 2026-11-22 abcdefg",
        "      https://github.com/NixOS/nixpkgs/compare/1a2b3c4d5e...abcdefgh",
        "Input old 1a2b3c4 → (none)",
        "",
        "HOST  OUTCOME      OLD SYSTEM       NEW SYSTEM       REBOOT",
        "web   updated      26.05.1 6gdlyhm  26.05.2 xnpa2vc  yes: kernel",
        "      linux 6.12.1 → 6.12.2; hello 1.0 → 1.1; added: zlib 1.3; removed: curl 8.0; closure +12.6 MiB",
        "nas   unreachable  not seen",
        "      No route to host",
    ]


def test_a_long_list_of_packages_is_cut_and_what_is_left_out_is_counted():
    def text(packages: dict[str, Any]) -> str:
        made = {"probe": {"systems": {"current": OLD}}, "activation": {**ACTIVATION, "packages": packages}}
        whole = _report.table({"web": {**NIGHTS["web"], "evidence": made}}, {}, "x", 1, False)
        return " ".join(whole.split()).partition("kernel ")[2]

    together = [{"name": f"kde{number:02}", "before": ["6.1"], "after": ["6.2"]} for number in range(80)]
    alone = [{"name": f"one{number:02}", "before": ["1"], "after": [f"2.{number}"]} for number in range(14)]
    cut = text({"changed": together + alone, "added": [{"name": f"new{n:02}", "after": ["1"]} for n in range(14)]})
    assert cut.startswith("kde00, kde01, kde02, kde03 and 76 more 6.1 → 6.2; one00 1 → 2.0; ")
    assert "; one10 1 → 2.10; and 3 more; added: new00 1, " in cut
    assert cut.endswith(", new11 1 and 2 more")


def test_a_date_that_no_calendar_has_does_not_spoil_the_summary():
    inputs = [{"path": "x\ny", "before": None, "after": {"rev": "1a2b3c4d5e", "last_modified": 10**20}}]
    assert _report.input_words(inputs) == ["x\N{REPLACEMENT CHARACTER}y (none) → @100000000000000000000 1a2b3c4"]


def test_a_dry_run_says_so():
    assert "nothing was changed" in _report.table(NIGHTS, {}, "x", 1, True)


def test_a_reboot_that_was_not_made_is_due():
    night = {**NIGHTS["web"], "evidence": {"probe": {"systems": {"current": OLD}}, "activation": ACTIVATION}}
    assert "due: kernel" in _report.table({"web": night}, {}, "x", 1, False)


def test_the_run_fails_for_bad_hosts_for_nothing_built_and_for_nobody_there():
    def night(outcome: str) -> dict[str, Any]:
        return {"outcome": outcome, "evidence": {} if outcome == "unreachable" else SEEN}

    good = {word: night(word) for word in ("updated", "pending", "unchanged", "deferred", "held", "unreachable")}
    assert _report.verdict(good, {}) == ""
    for word in ("failed", "rolled_back", "rollback_failed", "lost"):
        assert f"web ({word})" in _report.verdict({**good, "web": night(word)}, {})
    assert "no such input" in _report.verdict(good, {"failed": True, "msg": "no such input"})
    assert _report.verdict({"a": night("unreachable"), "b": night("unreachable")}, {}) == "No host could be reached."
    blind = {**night("deferred"), "evidence": {"probe": {"failed": True}}}
    assert _report.verdict({"a": blind, "b": night("unreachable")}, {}) == "No host could be looked at."
    assert "turn of web" in _report.verdict({**good, "web": {**night("held"), "decided": False}}, {})


def test_what_could_not_be_updated_or_built_is_said_once():
    why = "Its system did not build: boom."
    prepare = {"rejected_inputs": {"tools": "It went back in time."}, "failed_systems": {"web": why, "nas": why}}
    nights = {
        "web": {"outcome": "failed", "reason": why, "evidence": SEEN},
        "nas": {"outcome": "deferred", "reason": "The disk is full.", "evidence": SEEN},
    }
    text = _report.table(nights, prepare, "x", 1, False)
    assert "\nInput tools was left alone: It went back in time.\n" in text
    assert text.count(why) == 2
    assert f"The disk is full.\n      {why}" in text
    # where nothing was adopted, one sentence says it for all
    assert "boom" not in _report.table({"nas": nights["nas"]}, {**prepare, "failed": True}, "x", 1, False)


NOW = 1795305600.0
DAY = 86400


def told(night: dict[str, Any], host: dict[str, Any], **rollout: Any) -> list[str]:
    return _report.notes({"web": night}, _report.Rollout(hosts=[{"name": "web", **host}], now=NOW, **rollout))


def test_a_host_is_warned_of_when_it_has_not_been_updated_for_long_enough():
    off = {"outcome": "unreachable"}
    seen = {"current": {"web": int(NOW) - 14 * DAY}}
    assert told(off, {"stale_after": 14}, noted=seen) == ["web has not been updated for 14 days, since 2026-11-08."]
    assert told(off, {"stale_after": 15}, noted=seen) == []
    assert told(off, {"stale_after": 14}, noted={"current": {}}) == []


def test_a_host_is_warned_of_when_it_was_left_alone_often_enough():
    night = {"outcome": "deferred", "deferral": True}
    counted = {"web": {"deferrals": {"nights": 3, "since": int(NOW)}}}
    words = ["web was left alone in 3 nights in a row, since 2026-11-22."]
    assert told(night, {"defer_warn_after": 3}, deferrals=counted) == words
    assert told(night, {"defer_warn_after": 4}, deferrals=counted) == []
    assert told(night, {"defer_warn_after": 0}, deferrals=counted) == []
    assert told({"outcome": "updated"}, {"defer_warn_after": 3}, deferrals=counted) == []


def test_a_canary_that_took_no_part_is_named():
    assert told({"outcome": "deferred"}, {"canary": True}) == ["The canary web did not take part, it was deferred."]
    assert told({"outcome": "updated"}, {"canary": True}) == []


def test_why_it_stopped_and_why_the_inputs_stayed_is_said():
    assert told({"outcome": "held"}, {}, stop={"reason": "Stopped."}, reason="The inputs are left alone.") == [
        "Stopped.",
        "The inputs are left alone.",
    ]


def test_a_stop_that_the_next_night_would_not_know_of_fails_the_run():
    nights = {"web": {**NIGHTS["web"], "outcome": "held"}}
    lost = _report.Rollout(stop={"reason": "Stopped.", "critical": True}, noted={"failed": True, "msg": "Disk full."})
    assert "could not be written down: Disk full." in _report.verdict(nights, {}, lost)
    passing = _report.Rollout(stop={"reason": "Stopped.", "critical": False}, noted=lost.noted)
    assert _report.verdict(nights, {}, passing) == ""


def test_nothing_is_wrong_with_a_laptop_that_is_off():
    rollout = _report.Rollout(hosts=[{"name": "nas", "optional": True}])
    text = _report.table(NIGHTS, {}, "a", 1, False, rollout)
    assert "nas   unreachable" in text
    assert "No route to host" not in text
    assert "No route to host" in _report.table(NIGHTS, {}, "a", 1, False, _report.Rollout(hosts=[{"name": "nas"}]))
