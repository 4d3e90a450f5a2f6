"""Whatever is seen of a host, and in whatever combination: good words need good evidence."""

from __future__ import annotations

from ansible_collections.homelab.nixos.plugins.module_utils import _outcome
from hypothesis import given, settings
from hypothesis import strategies as st

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"

system = st.sampled_from([OLD, NEW, None])
looks = st.builds(
    lambda current, profile, boot_default, reasons, drift: {
        "systems": {"current": current, "profile": profile, "boot_default": boot_default, "booted": current},
        "reboot_reasons": reasons,
        "reboot_required": bool(reasons),
        "drift": drift,
    },
    system,
    system,
    system,
    st.sampled_from([[], ["kernel"]]),
    st.sampled_from([[], ["drift"]]),
)
trouble = st.sampled_from(
    [
        {},
        {"skipped": True},
        {"failed": True, "msg": "no"},
        {"failed": True, "connection_lost": True, "msg": "gone"},
        {"unreachable": True, "msg": "gone"},
    ]
)
checks = st.sampled_from([{"healthy": True}, {"healthy": False, "failed": True, "msg": "ill"}])
changes = st.sampled_from(
    [
        {"changed": True, "ending": "ok", "activated": True},
        {"changed": True, "failed": True, "ending": "units_failed", "msg": "units"},
        {"changed": False, "failed": True, "ending": "reboot_needed", "msg": "inhibited"},
        {"changed": False, "rebooted": True},
        {"changed": False, "rebooted": False, "later": True},
    ]
)
KINDS = {
    **dict.fromkeys(("probe", "look_again", "proof", "rollback_proof"), looks),
    **{step: checks for step in _outcome.STEPS if step.startswith("gate") or step.endswith("verification")},
}
evidences = st.fixed_dictionaries(
    {}, optional={step: st.one_of(KINDS.get(step, changes), trouble) for step in _outcome.STEPS}
)


def proven(look: dict, system: str) -> bool:
    return {(look.get("systems") or {}).get(key) for key in ("current", "profile", "boot_default")} == {system}


@settings(max_examples=500, deadline=None)
@given(evidences)
def test_a_good_word_needs_a_look_at_the_host_that_shows_it(evidence):
    told = _outcome.outcome(evidence, NEW)
    # a host that is its own controller proves itself after the night
    later = told.word == "pending" and evidence.get("reboot", {}).get("later")
    if later:
        assert evidence["gate_again"]["healthy"]
        assert not any(evidence.get(step, {}).get("failed") for step in ("verification", "commit", "boot_once"))
    if told.word in ("updated", "pending") and not later:
        assert proven(evidence["proof"], NEW)
        assert evidence["gate"]["healthy"]
        assert any(evidence.get(step, {}).get("healthy") for step in ("verification", "reboot_verification"))
    if told.word == "updated":
        assert not evidence["proof"]["reboot_reasons"]
    if told.word == "unchanged":
        assert proven(evidence["probe"], NEW)
    if told.word == "rolled_back":
        assert proven(evidence["rollback_proof"], evidence["probe"]["systems"]["current"])
    if told.remember:
        assert told.word == "rolled_back"
        assert evidence["rollback_verification"]["healthy"]


@settings(max_examples=500, deadline=None)
@given(evidences)
def test_every_host_has_exactly_one_outcome_with_a_reason_unless_all_is_well(evidence):
    told = _outcome.outcome(evidence, NEW)
    assert told.bad is (told.word in _outcome.BAD)
    assert told.reason or told.word in ("updated", "unchanged", "unreachable", "lost", "failed", "held")


@settings(max_examples=300, deadline=None)
@given(evidences)
def test_a_host_that_was_changed_and_never_seen_again_is_lost(evidence):
    evidence = {
        **evidence,
        "probe": {
            "systems": dict.fromkeys(("current", "profile", "boot_default"), OLD),
            "drift": [],
            "reboot_required": False,
        },
        "gate": {"healthy": True},
        "prepare": {},
        "copy": {},
        "settle": {},
        "claim": {"changed": True},
        "rollback": {},
        "look_again": {"systems": dict.fromkeys(("current", "profile", "boot_default"), OLD)},
        "gate_again": {"healthy": True},
        "activation": {"changed": True, "ending": "ok"},
        "goodbye": {"failed": True, "connection_lost": True, "msg": "gone"},
    }
    assert _outcome.outcome(evidence, NEW).word == "lost"
