"""The owner's checks, with real programs and servers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _ask_checks, _user_checks
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.plugin_utils import _process

from tests.servers import Server, serving

PATH = os.environ["PATH"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/": (200, '{"state": "up"}'), "/large": (200, "x" * 70000)}) as running:
        yield running


def ask(**given: Any) -> tuple[Check, dict[str, str]]:
    bodies: dict[str, str] = {}
    checks = _user_checks.parse([{"name": "it", **given}])
    (check,) = _ask_checks.ask_all(_process.run, PATH, checks, bodies)
    return check, bodies


def test_a_port_is_asked(server: Server):
    assert ask(kind="tcp", host="127.0.0.1", port=server.port)[0].status == "ok"
    assert ask(kind="tcp", host="127.0.0.1", port=1)[0].status == "fail"


def test_a_page_is_asked_and_its_body_kept_only_where_it_is_wanted(server: Server):
    check, bodies = ask(kind="http", url=server.url("/"))
    assert (check.status, bodies) == ("ok", {})
    check, bodies = ask(kind="http", url=server.url("/"), keep_body=True)
    assert (check.status, bodies) == ("ok", {"it": '{"state": "up"}'})
    assert ask(kind="http", url=server.url("/none"), keep_body=True)[1] == {}


def test_of_a_body_that_is_too_long_nothing_can_be_told_and_nothing_need_be(server: Server):
    assert ask(kind="http", url=server.url("/large"))[0].status == "ok"
    for wanted in ({"keep_body": True}, {"body": "x"}):
        check, bodies = ask(kind="http", url=server.url("/large"), **wanted)
        assert (check.status, bodies) == ("unknown", {})


def test_nobody_who_answers_is_unknown_and_ends(server: Server):
    began = time.monotonic()
    check, _bodies = ask(kind="http", url=server.url("/hangs"), timeout=0.3, retries=1, interval=0)
    assert (check.status, check.message) == (
        "unknown",
        f"The check it: {server.url('/hangs')}: no answer within 0.3 s.",
    )
    assert time.monotonic() - began < 3


def test_a_program_sees_nothing_of_who_asks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "hunter2")
    script = 'test "$(env | grep -cv "^\\(PATH\\|LC_ALL\\|PWD\\|SHLVL\\|_\\)=")" = 0 && test "$LC_ALL" = C'
    assert ask(kind="command", argv=["sh", "-c", script])[0].status == "ok"


def test_a_program_is_no_line_for_a_shell(tmp_path):
    ask(kind="command", argv=["echo", f"; touch {tmp_path}/file", f"$(touch {tmp_path}/file)"])
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_not_there_or_does_not_end_is_unknown():
    assert ask(kind="command", argv=["no-such-program"])[0].status == "unknown"
    check, _bodies = ask(kind="command", argv=["sleep", "60"], timeout=0.2)
    assert (check.status, check.message) == ("unknown", "The check it: sleep: no end within 0.2 s.")


def test_it_is_asked_again_as_often_as_its_owner_wants_and_no_more(tmp_path):
    script = f"echo >> {tmp_path}/count; test $(wc -l < {tmp_path}/count) = 3"
    wanted = {"kind": "command", "argv": ["sh", "-c", script], "interval": 0.01}
    assert ask(**wanted, retries=1)[0].status == "fail"
    assert ask(**wanted, retries=5)[0].status == "ok"
    assert (tmp_path / "count").read_text().count("\n") == 3
