"""Results of nights, as `_artifacts.py` makes them, for tests of what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from ansible_collections.homelab.nixos.plugins.module_utils._outcome import Word

ROOT = Path(__file__).resolve().parents[1]
BEGAN = 1795312800
DAY = 86400
OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-{}-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-{}-26.05.2"
REASONS = {
    "pending": "A reboot is due: kernel, initrd.",
    "deferred": "Its health check failed: /: 93 % of its space is in use.",
    "held": "dns is in trouble, and this host needs it.",
    "unreachable": "No route to host.",
    "failed": "The new system did not reach the host: error: cannot connect to 'root@host'",
    "rolled_back": "Its check failed: the unit nginx.service has failed.\nnginx: bind() to 0.0.0.0:80 failed",
    "rollback_failed": "The activation ended with 4. The old system could not be activated: timed out after 900 s",
    "lost": "It did not answer for 600 s after its reboot.",
}
LOCKED = {
    "url": "github:NixOS/nixpkgs/nixos-unstable",
    "rev": "1a2b3c4d5e6f70819a0b1c2d3e4f5a6b7c8d9e0f",
    "last_modified": BEGAN - 2 * DAY,
    "nar_hash": "sha256-x",
}


def host(name: str, word: str, began: float = BEGAN, timed: bool = True, **change: Any) -> dict[str, Any]:
    """What became of a host; C(timed) with the times of its steps."""
    changed = word in ("updated", "pending", "rolled_back", "rollback_failed", "lost")
    rebooted = word in ("lost", "rollback_failed") or (word == "updated" and hash_of(name) % 3 == 0)
    spans, now = [], began
    for step, seconds in (
        ("probe", 1.2 + hash_of(name) % 4),
        ("copy", 8.5 if changed else 0),
        ("activation", 4.2 if changed else 0),
        ("reboot", 31 + hash_of(name) % 20 if rebooted else 0),
        ("verification", 2.4 if changed and word != "lost" else 0),
        ("rollback", 6.3 if word.startswith("roll") else 0),
    ):
        spans += [{"step": step, "began": now, "seconds": seconds}] if seconds else []
        now += seconds
    durations = {span["step"]: span["seconds"] for span in spans if span["step"] not in ("probe", "verification")}
    seen = word != "unreachable"
    return {
        "outcome": word,
        "reason": REASONS.get(word, ""),
        "before": OLD.format(name) if seen else None,
        "after": (NEW if word in ("updated", "pending") else OLD).format(name) if seen else None,
        "rebooted": rebooted,
        "changes": ["hello 1.0 → 1.1", "openssl, openssl-dev 3.5.4 → 3.5.5"] if changed else [],
        "closure_delta": 13_212_057 if changed else None,
        "durations": durations,
        **({"spans": spans if seen else []} if timed else {}),
        **change,
    }


def night(hosts: dict[str, dict[str, Any]], number: int = 0, **change: Any) -> dict[str, Any]:
    """The night C(number) nights before the first one."""
    bad = [f"{name} ({one['outcome']})" for name, one in hosts.items() if one["outcome"] in get_args(Word)[6:]]
    began = BEGAN - number * DAY
    end = max(
        (span["began"] + span["seconds"] for one in hosts.values() for span in one.get("spans", ())), default=began
    )
    return {
        "version": 1,
        "run_id": f"20261122T020000Z-{number:04x}",
        "dry_run": False,
        "failed": bool(bad),
        "failure": f"Ended badly: {', '.join(bad)}." if bad else "",
        "began": began,
        "durations": {"update": 1.9, "build": 41.8, "total": round(max(60.0, end - began), 1)},
        "outcomes": {
            word: sorted(name for name, one in hosts.items() if one["outcome"] == word) for word in get_args(Word)
        },
        "hosts": hosts,
        "inputs": [
            {
                "path": "nixpkgs",
                "before": LOCKED,
                "after": {**LOCKED, "rev": "9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c", "last_modified": BEGAN},
                "compare": "https://github.com/NixOS/nixpkgs/compare/1a2b3c4d5e...9f8e7d6c5b",
            },
            {"path": "tools", "before": LOCKED, "after": None, "compare": None},
        ],
        "lock_hash": "9f44" * 16,
        "spans": [
            {"step": "update", "began": began, "seconds": 1.9},
            {"step": "build", "began": began + 1.9, "seconds": 41.8},
        ],
        "notes": ["web has not been updated for 21 days, since 2026-11-01."] if bad else [],
        **change,
    }


def of_all_words(number: int = 0) -> dict[str, Any]:
    """A night in which each outcome has a host of its name."""
    began = BEGAN - number * DAY
    return night({word: host(word, word, began + 44 + 20 * place) for place, word in enumerate(get_args(Word))}, number)


def of_many(count: int, number: int = 0, words: tuple[str, ...] = ("updated",)) -> dict[str, Any]:
    """A night of so many hosts, which have these outcomes in turn."""
    began = BEGAN - number * DAY
    names = [f"app{place:02}" for place in range(count)]
    return night(
        {name: host(name, words[place % len(words)], began + 44 + 20 * place) for place, name in enumerate(names)},
        number,
    )


def hash_of(name: str) -> int:
    return sum(map(ord, name))
