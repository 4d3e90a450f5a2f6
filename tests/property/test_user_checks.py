"""Whatever an owner writes, or a server answers: an error that says so, and no other."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _alerts, _user_checks
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from hypothesis import given, settings
from hypothesis import strategies as st

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
words = st.sampled_from(["tcp", "http", "command", "host", "controller", "required", "http://localhost/", "22", "("])
checks = st.fixed_dictionaries(
    {"name": words | anything, "kind": st.sampled_from(["tcp", "http", "command"]) | anything},
    optional=dict.fromkeys(
        ("from", "level", "timeout", "retries", "interval", "host", "port", "url", "status", "argv", "rc"),
        words | anything,
    ),
)
alerts = st.one_of(
    anything,
    st.lists(st.fixed_dictionaries({}, optional={"labels": anything, "status": anything}), max_size=3),
    st.fixed_dictionaries(
        {"status": st.just("success")},
        optional={
            "data": st.fixed_dictionaries(
                {"resultType": st.just("vector")}, optional={"result": anything | st.lists(anything, max_size=3)}
            )
        },
    ),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(checks | anything, max_size=3) | anything)
def test_what_is_no_check_is_said_to_be_none_and_what_is_one_ends(written: Any):
    with suppress(LabError):
        for check in _user_checks.parse(written):
            assert check.name and check.place in ("host", "controller")
            assert 0 < check.seconds <= 101 * (600 + 10 + 600)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(_alerts.APIS), alerts)
def test_an_answer_names_alerts_or_is_unreadable(api: _alerts.Api, answer: Any):
    with suppress(Unreadable):
        assert all(_alerts.firing(api, json.dumps(answer)))
