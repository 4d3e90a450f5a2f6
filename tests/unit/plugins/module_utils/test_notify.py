"""Who is told of which night, what waits, and what is said of a receiver."""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from typing import Any, get_args

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _notify
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD, Word

from tests import nights

DAY = 86400
URL = "json://lab:c4n4ry@hooks.example/c4n4ry?+X-Token=c4n4ry"


def of(*words: str, rebooted: bool = False, **change: Any) -> dict[str, Any]:
    """A night in which these were the outcomes, and no input moved."""
    hosts = {f"h{place}": nights.host(f"h{place}", word, rebooted=rebooted) for place, word in enumerate(words)}
    return nights.night(hosts, **{"inputs": [], **change})


def message(number: int = 0, **change: Any) -> _notify.Message:
    made = _notify.message(nights.of_all_words(number), now=nights.BEGAN - number * DAY)
    return dataclasses.replace(made, **change)


# ---- when ------------------------------------------------------------------------------------------------------------
# from how many modes on, in this order, a night is told
MODES: tuple[_notify.Mode, ...] = ("on_error", "on_reboot_or_error", "on_change", "always")


@pytest.mark.parametrize(
    ("night", "first"),
    [
        (of("unchanged"), "always"),
        (of("deferred", "held", "unreachable"), "always"),
        (of("unchanged", inputs=nights.of_all_words()["inputs"]), "on_change"),
        (of("updated"), "on_change"),
        (of("pending"), "on_change"),
        (of("updated", rebooted=True), "on_reboot_or_error"),
        (of("unchanged", warned={"h0": "stale"}), "on_error"),
        (of("deferred", warned={"h0": "deferred"}), "on_error"),
        (of("unchanged", failed=True), "on_error"),
        *((of("unchanged", word), "on_error") for word in sorted(BAD)),
    ],
)
def test_a_night_is_told_from_the_mode_on_that_it_is_worth(night: dict[str, Any], first: str):
    assert [mode for mode in MODES if _notify.due(mode, night)] == list(MODES[MODES.index(first) :])


def test_the_modes_are_all_and_every_outcome_is_judged():
    assert set(MODES) == set(get_args(_notify.Mode))
    for word in get_args(Word):
        assert _notify.due("on_error", of(word)) == (word in BAD)


def test_nobody_is_told_of_a_dry_run():
    assert not any(_notify.due(mode, of("failed", failed=True, dry_run=True)) for mode in MODES)


def test_a_night_that_cannot_be_read_is_told_as_such():
    with pytest.raises(Unreadable):
        _notify.due("always", {"version": 2})


# ---- what ------------------------------------------------------------------------------------------------------------
def test_a_message_has_the_subject_and_both_letters():
    said = _notify.message(nights.of_all_words(), [nights.of_all_words(1)], now=7.9, lab="attic")
    assert said.subject.startswith("[attic] Bad night of 2026-11-22: ")
    assert (said.run_id, said.time, said.verdict) == ("20261122T020000Z-0000", 7, "bad")
    assert said.plain.startswith("Bad night of 2026-11-22\n---")
    assert said.markdown.startswith("## Bad night")
    # of the night before
    assert "2026-11-21 02:00 bad" in said.plain


def test_a_message_of_a_crowd_fits_into_what_is_read_of_a_file():
    hosts = {f"h{place}": nights.host(f"h{place}", "failed", reason="ü\U0001f600" * 400) for place in range(300)}
    said = _notify.message(nights.night(hosts), now=1, lab="ü" * 4000)
    assert len(said.subject) < 250
    text = _notify.dump(said)
    assert len(text.encode()) < 1 << 20
    assert _notify.parse(text) == said


def test_what_waits_is_read_as_it_was_written():
    assert _notify.parse(_notify.dump(message())) == message()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[" * 100_000,
        _notify.dump(message())[:-40],
        *(json.dumps(json.loads(_notify.dump(message())) | change) for change in (
            {"version": 2}, {"time": "1"}, {"plain": None}, {"more": 1}, {"verdict": "x"}, {"run_id": "../../x"},
        )),
    ],
)  # fmt: skip
def test_what_is_no_message_is_not_taken_for_one(text: str):
    with pytest.raises(Unreadable):
        _notify.parse(text)


def test_the_oldest_go_first_and_those_that_are_too_old_or_too_many_go_away():
    newest = message(0)
    now = newest.time + 0.5
    waiting = [message(number) for number in (0, 40, 2, 30, 1)]
    found = _notify.kept(waiting, now)
    assert [one.time for one in found.kept] == [message(number).time for number in (2, 1, 0)]
    assert found.dropped == [message(40), message(30)]
    crowd = [dataclasses.replace(newest, run_id=f"r{number:03}", time=newest.time - number) for number in range(60)]
    found = _notify.kept(crowd, now)
    assert (len(found.kept), found.kept[-1].run_id, found.kept[0].run_id) == (_notify.MOST, "r000", "r049")
    assert len(found.dropped) == 10


# ---- to whom ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "name"),
    [
        (URL, "json://hooks.example"),
        ("mailtos://lab:c4n4ry@mail.example:587/?from=lab@mail.example&to=me@mail.example", "mailtos://mail.example"),
        ("mailto://mail.example/me@mail.example", "mailto://"),
        ("matrixs://lab:c4n4ry@chat.example/#lab", "matrixs://chat.example"),
        ("ntfys://ntfy.example/c4n4ry", "ntfys://ntfy.example"),
        ("ntfy://c4n4ry", "ntfy://"),
        ("gotify://[fd00::1]:8080/c4n4ry", "gotify://fd00::1"),
        ("JSON://hooks.example", "json://hooks.example"),
        # what is in the place of a host is a token there
        ("tgram://123:c4n4ry/1", "tgram://"),
        ("pbul://o.c4n4ry", "pbul://"),
        ("slack://xoxb-c4n4ry/#lab", "slack://"),
        ("matrixs://c4n4ry/?mode=t2bot", "matrixs://"),
        ("https://hooks.slack.com/services/T1/B1/c4n4ry", "https://hooks.slack.com"),
        # passwords that are not encoded
        ("json://c4n4ry.x:a/b@hooks.example", "json://"),
        ("json://c4n4ry.x:1/b@hooks.example", "json://"),
        ("json://c4n4ry.x:a?b@hooks.example", "json://"),
        ("json://c4n4ry.x:a#b@hooks.example", "json://"),
        ("json://c4n4ry.x#b@hooks.example/", "json://"),
        ("json://c4n4ry.x:1?5@hooks.example", "json://"),
        ("mailto://c4n4ry.x:12?p@mail.example", "mailto://"),
        ("json://[c4n4ry", "json://"),
        ("c4n4ry", "no URL"),
    ],
)  # fmt: skip
def test_a_receiver_is_named_by_scheme_and_host_where_that_is_certain_to_be_one(url: str, name: str):
    (receiver,) = _notify.receivers([url])
    assert receiver.name == name
    assert "c4n4ry" not in f"{receiver} {receiver!r}"


def test_a_receiver_is_told_once_and_keeps_its_number():
    found = _notify.receivers(["json://a.example", "json://a.example", "json://b.example"])
    assert [(one.number, one.name) for one in found] == [(1, "json://a.example"), (3, "json://b.example")]
    assert str(found[1]) == "receiver 3 of lab_notify (json://b.example)"


def test_what_waits_is_found_by_a_digest_of_the_url():
    key = _notify.key_of(URL)
    assert re.fullmatch("[0-9a-f]{32}", key)
    assert key != _notify.key_of(f"{URL}x")
    assert _notify.key_of_file(_notify.file_name(key, "20261122T020000Z-0000")) == key
    for name in ("lock", f"{key}.json", f"{key}.x.json.new", f"{key}.a/b.json", "x.y.json"):
        assert _notify.key_of_file(name) == ""
    with pytest.raises(LabError):
        _notify.file_name(key, "../x")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("json://h", "json://h?overflow=truncate&cto=20&rto=20&retry=1&wait=2"),
        ("json://h/?x=1", "json://h/?x=1&overflow=truncate&cto=20&rto=20&retry=1&wait=2"),
        ("json://h/?Retry=3&rto=5&", "json://h/?Retry=3&rto=5&overflow=truncate&cto=20&wait=2"),
        ("json://h?overflow=split&cto=1&rto=1&retry=&wait=0", "json://h?overflow=split&cto=1&rto=1&retry=&wait=0"),
    ],
)
def test_what_the_owner_says_of_a_receiver_stands(url: str, wanted: str):
    assert _notify.with_bounds(url, 60) == wanted


def test_markdown_is_for_whom_it_is_asked_for():
    assert _notify.sendable(message(), "ntfy://h/t")["body"] == message().plain
    sent = _notify.sendable(message(), "ntfy://h/t?Format=Markdown")
    assert sent == {
        "run_id": message().run_id,
        "title": message().subject,
        "body": message().markdown,
        "body_format": "markdown",
        "notify_type": "failure",
    }


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Failed to send JSON POST notification: Internal Server Error, error=500.", "it answers 500"),
        ("Socket Exception: (451, b'4.7.1 c4n4ry')", "it refuses the mail with 451"),
        ("SMTP recipient c4n4ry was refused: 550 c4n4ry", "it refuses the mail with 550"),
        ("Socket Exception: with url: /c4n4ry ([Errno 111] Connection refused)", "connection refused"),
        ("Socket Exception: HTTPConnectionPool(host='c4n4ry', port=1): Read timed out.", "no answer in time"),
        ("TimeoutError: c4n4ry", "no answer in time"),
        ("Socket Exception: [SSL: CERTIFICATE_VERIFY_FAILED] c4n4ry", "its certificate is not accepted"),
        ("Socket Exception: [Errno -3] Temporary failure in name resolution", "its name cannot be resolved"),
        ("Socket Exception: Connection unexpectedly closed", "it closes the connection"),
        ("c4n4ry", "it could not be told, and nothing says why"),
    ],
)  # fmt: skip
def test_why_is_told_in_words_of_our_own(said: str, words: str):
    assert _notify.cause(["Something went wrong.", said]).startswith(words)
    assert "c4n4ry" not in _notify.cause([said])


# ---- start and end ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "what", "wanted"),
    [
        ("https://hc-ping.com/x", "start", "https://hc-ping.com/x/start?rid="),
        ("https://hc-ping.com/x/", "success", "https://hc-ping.com/x?rid="),
        ("https://me:pw@hc.example/ping/key/lab?create=1", "fail", "https://me:pw@hc.example/ping/key/lab/fail?create=1&rid="),
    ],
)  # fmt: skip
def test_start_and_end_of_a_run_have_its_id(url: str, what: _notify.Ping, wanted: str):
    found = _notify.ping_url(url, what, "20261122T020000Z-0000")
    start, rid = found[: len(wanted)], found[len(wanted) :]
    assert start == wanted
    assert uuid.UUID(rid).version == 5
    assert _notify.ping_url(url, what, "20261122T020000Z-0000") == found
    assert _notify.ping_url(url, what, "20261122T020000Z-0001") != found


def test_what_is_reported_of_a_night_says_which_and_how_it_went():
    assert _notify.ping_body(of("updated", "lost"), "attic") == (
        "[attic] Bad night of 2026-11-22: h1 lost; 1 updated\n"
        "Run 20261122T020000Z-0000\n"
        "1 of 2 hosts ended badly: h1 lost.\n"
    )
    assert len(_notify.ping_data("ü" * 10_000).encode()) == 10_000
    assert _notify.ping_data("aü" * 9_000).endswith("üa")


def test_an_address_for_pings_is_one_of_http():
    for url in ("", "http://10.0.0.1:8000/ping/x", "https://hc-ping.com/x"):
        _notify.check_ping(url)
    for url in (
        "hc-ping.com/c4n4ry",
        "ftp://c4n4ry",
        "https:///c4n4ry",
        "http://c4n4ry:x",
        "http://[c4n4ry",
        "http://c4n4ry:0",
    ):
        with pytest.raises(LabError, match=r"^lab_ping_url is no address that can be asked\. It begins with") as raised:
            _notify.check_ping(url)
        assert "c4n4ry" not in str(raised.value)
