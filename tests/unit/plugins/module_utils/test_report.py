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
        },
        {"path": "old", "before": {"rev": "1a2b3c4d5e", "last_modified": None}, "after": None},
    ]
}


def test_the_table_says_who_became_what_and_why():
    text = _report.table(NIGHTS, PREPARE, "20261122T020000Z-7f3a", 72.4, False)
    assert text.splitlines() == [
        "Night 20261122T020000Z-7f3a · 2 hosts: 1 unreachable, 1 updated · 1 min 12 s",
        "Input nixpkgs 2026-11-21 1a2b3c4 → 2026-11-22 abcdefg",
        "Input old 1a2b3c4 → (none)",
        "",
        "HOST  OUTCOME      OLD SYSTEM       NEW SYSTEM       REBOOT",
        "web   updated      26.05.1 6gdlyhm  26.05.2 xnpa2vc  yes: kernel",
        "      linux 6.12.1 → 6.12.2, curl 8.0 removed, hello 1.0 → 1.1, zlib 1.3 added",
        "nas   unreachable  not seen",
        "      No route to host",
    ]


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
