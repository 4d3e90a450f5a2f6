"""Whoever takes, renews, dies and settles, in whatever order: a host has one holder, and nobody skips the settling."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from ansible_collections.homelab.nixos.plugins.module_utils import _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Systems
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import (
    STEPS,
    ClaimLost,
    Held,
    Process,
    Torn,
    Transaction,
    Unsettled,
)
from hypothesis import given
from hypothesis import strategies as st

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
BOOT = "5c5b9cf9-0a3c-4a57-9b1e-1f2d8a1c2b3d"
START = 1795312800

system = st.sampled_from([OLD, NEW, None])
whole = st.integers(0, 2**63)
time = st.integers(0, 253402300799)
words = st.text(min_size=1, max_size=20).filter(str.isprintable)
transactions = st.builds(
    Transaction,
    controller=st.from_regex(r"[!-~]{1,64}", fullmatch=True),
    controller_name=words,
    run_id=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    process=st.none() | st.builds(Process, whole, whole, words, whole),
    since=time,
    deadline=time,
    step=st.sampled_from(STEPS),
    boot_id=words,
    origin=system,
    target=system,
    failed_units=st.lists(words, max_size=3).map(tuple),
    verified=st.booleans(),
    guard_seconds=st.none() | whole,
    guard_until=st.none() | st.floats(0, 1e11),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
runs = st.tuples(st.sampled_from(["tower", "laptop"]), st.sampled_from(["one", "two"]))
moves = st.lists(
    st.tuples(
        st.sampled_from(["take", "renew", "settle", "release", "tear"]),
        runs,
        st.integers(0, 900),
        st.integers(1, 600),
        st.none() | st.sampled_from(["one", "two"]),
        st.sampled_from(STEPS),
    ),
    max_size=25,
)


@given(transactions)
def test_what_is_written_is_what_is_read(transaction: Transaction):
    assert _transaction.parse(_transaction.dump(transaction)) == transaction


def read(text: str) -> None:
    """Nothing but a transaction, or Unreadable."""
    try:
        found = _transaction.parse(text)
    except Unreadable as error:
        assert error.what.isascii()
    else:
        assert _transaction.parse(_transaction.dump(found)) == found
        assert _transaction.held_sentence(found, START)


@given(st.text())
def test_any_text_is_unreadable_and_nothing_worse(text: str):
    read(text)


@given(transactions, st.sampled_from(list(Transaction.__annotations__)), json_values)
def test_any_value_in_any_field_is_unreadable_or_right(transaction: Transaction, field: str, value: object):
    data = transaction.as_result()
    data["from" if field == "origin" else field] = value
    read(_transaction.lines(data))


@given(transactions, st.integers(0, 700), st.integers(0, 700), st.text(max_size=10))
def test_a_damaged_file_is_unreadable_or_right(transaction: Transaction, begin: int, end: int, instead: str):
    text = _transaction.dump(transaction)
    read(text[:begin] + instead + text[end:])


@given(transactions, st.integers(0, 2000))
def test_a_file_cut_short_is_unreadable(transaction: Transaction, cut: int):
    text = _transaction.dump(transaction).rstrip()
    if cut < len(text):
        try:
            _transaction.parse(text[:cut])
        except Unreadable:
            return
        raise AssertionError("half a file was read as a whole one")


@given(moves)
def test_there_is_one_holder_and_nobody_takes_over_what_was_not_settled(played: list[tuple]):
    """A play of what hosts and runs do, against the rule in its shortest form."""
    found: Transaction | Torn | None = None
    now = START
    for verb, (controller, run_id), later, seconds, dead, step in played:
        now += later
        before = found
        ours = isinstance(found, Transaction) and (found.controller, found.run_id) == (controller, run_id)
        who = {"controller": controller, "run_id": run_id, "now": now, "seconds": seconds, "boot_id": BOOT}
        if verb == "take":
            try:
                found = _transaction.take(
                    found, **who, controller_name="somebody", process=None, dead_run=None if dead == run_id else dead
                )
                assert before is None or ours
                assert found.deadline >= now + seconds
            except Held as error:
                assert isinstance(before, Transaction) and not ours
                assert now < before.deadline
                assert before.run_id != dead or before.controller != controller
                assert error.data["held_by"] == before.as_result()
            except Unsettled:
                assert isinstance(before, Torn) or (
                    isinstance(before, Transaction)
                    and not ours
                    and (now >= before.deadline or (before.run_id, before.controller) == (dead, controller))
                )
        elif verb == "renew":
            try:
                found = _transaction.renew(found, **who, step=step)
                assert ours and isinstance(before, Transaction)
                assert found == replace(before, deadline=now + seconds, step=step)
            except ClaimLost:
                assert not ours
        elif verb == "settle":
            if isinstance(found, Torn) or (found is not None and _transaction.is_over(found, now, None)):
                found = None
        elif verb == "release":
            found = None if ours else found
        else:
            found = None if found is None else Torn("it is empty.")


@given(transactions, st.builds(Systems, system, system, system, system))
def test_settling_believes_what_the_host_shows(transaction: Transaction, systems: Systems):
    way = _transaction.settle(transaction, systems)
    assert way in get_args(_transaction.Settling)
    if way == "finish":
        assert transaction.verified and systems.current == transaction.target is not None
    if way == "reverted":
        assert {systems.current, systems.profile, systems.boot_default} == {transaction.origin}
    assert (way == "untouched") == (transaction.step == "claimed")
