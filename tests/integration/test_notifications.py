"""Receivers that work, refuse, hang or answer with an error: none changes anything, and each is told in the end.

Servers of the test's own, for mail and for HTTP, on ports of this machine; no lab of guests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import parse_qs, urlsplit

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from ansible_collections.homelab.nixos.plugins.module_utils import _night, _notify
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _child, _notifier, _ping

from tests import nights
from tests.integration.fleet import ROOT
from tests.lab._system import start_time, wait_for

SECRET = "c4n4ry"
# for all receivers of a night; the interpreter of each takes its part of it
TIMEOUT = 25.0
# until processes have begun and ended
SLACK = 15.0
KINDS = ("mail", "webhook")
TROUBLES = {
    "works": dict.fromkeys(KINDS, ""),
    "refuses": dict.fromkeys(KINDS, "connection refused"),
    "hangs": dict.fromkeys(KINDS, "no answer in time"),
    "errs": {"mail": "it refuses the mail with 451", "webhook": "it answers 500"},
}


class Got(NamedTuple):
    """What a server was handed: of a request its path, of a mail its recipient."""

    to: str
    subject: str
    body: str


class Server:
    """A port, and who is there: nobody, somebody who says nothing, or a server that takes what it is handed or not."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.got: list[Got] = []
        self.errs = False
        self._running = ExitStack()
        self._socket = self._bound(0)
        self.port = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        if self.kind == "webhook":
            return f"json://lab:{SECRET}-password@127.0.0.1:{self.port}/{SECRET}/hook?+X-Token={SECRET}-header"
        return f"mailto://{SECRET}-user:{SECRET}-pw@127.0.0.1:{self.port}/?from=lab@lab.example&to=me@lab.example"

    def hangs(self) -> None:
        """The kernel takes connections, and nobody looks at them."""
        self._socket.listen(16)

    def works(self, *, errs: bool = False) -> None:
        self.errs = errs
        self._socket.close()
        serve = _serving_mail if self.kind == "mail" else _serving_http
        self._running.enter_context(serve(self, self._bound(self.port)))

    def close(self) -> None:
        self._running.close()
        self._socket.close()

    @property
    def subjects(self) -> list[str]:
        return [one.subject for one in self.got]

    @staticmethod
    def _bound(port: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        return made


@contextmanager
def _serving_http(server: Server, bound: socket.socket) -> Iterator[None]:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            path = urlsplit(self.path).path
            if path == "/drips":
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
                while not over.wait(0.05):
                    self.wfile.write(b"x")
                return
            is_letter = self.headers["Content-Type"] == "application/json" and not server.errs
            subject = json.loads(body)["title"] if is_letter else "refused" if server.errs else ""
            server.got.append(Got(self.path, subject, body))
            status = 302 if path == "/moved/start" else 500 if server.errs else 200
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    class Listening(ThreadingHTTPServer):
        def handle_error(self, *_words: Any) -> None:
            """Whoever is killed closes its connection."""

    listening = Listening(bound.getsockname(), Handler, bind_and_activate=False)
    listening.socket.close()
    listening.socket = bound
    listening.server_activate()
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        listening.shutdown()
        thread.join()
        listening.server_close()


@contextmanager
def _serving_mail(server: Server, bound: socket.socket) -> Iterator[None]:
    class Handler:
        async def handle_DATA(self, _server: SMTP, _session: object, envelope: Envelope) -> str:
            if server.errs:
                return "451 4.7.1 Come back later"
            assert isinstance(envelope.content, bytes)
            mail = message_from_bytes(envelope.content)
            parts = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
            body = parts[0].get_payload(decode=True) if parts else b""
            assert isinstance(body, bytes)
            subject = str(make_header(decode_header(mail["Subject"])))
            server.got.append(Got(envelope.rcpt_tos[0] or "", subject, body.decode()))
            return "250 OK"

    def speak() -> SMTP:
        def know(*_words: object) -> AuthResult:
            return AuthResult(success=True)

        return SMTP(Handler(), hostname="mail.test", authenticator=know, auth_require_tls=False, loop=loop)

    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(loop.create_server(speak, sock=bound))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def bad(number: int = 0) -> dict[str, Any]:
    return nights.night({"web": nights.host("web", "lost"), "nas": nights.host("nas", "updated")}, number)


def good(number: int = 0) -> dict[str, Any]:
    return nights.night({"web": nights.host("web", "unchanged")}, number, inputs=[])


def subject(result: dict[str, Any]) -> str:
    return _night.subject(_night.read(result), "attic")


def tell(urls: list[str], result: dict[str, Any], state: Path, timeout: float = TIMEOUT) -> dict[str, Any]:
    return _notifier.tell(urls, "on_error", result, lab="attic", state_directory=str(state), timeout=timeout)


def without_secret(*told: object, state: Path | None = None) -> bool:
    kept = [] if state is None else [path for path in state.rglob("*") if path.is_file()]
    texts = [json.dumps(told), *map(str, kept), *(path.read_text() for path in kept)]
    return not any(SECRET in text for text in texts)


# ---- receivers -------------------------------------------------------------------------------------------------------
class Story(NamedTuple):
    """Three nights: a bad one with receivers in trouble, a good one when the trouble is over, and another good one."""

    servers: dict[tuple[str, str], Server]
    told: list[dict[tuple[str, str], dict[str, Any]]]
    warnings: list[list[str]]
    got: list[dict[tuple[str, str], list[Got]]]
    seconds: list[float]
    clean: list[bool]
    words: list[list[str]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    state = tmp_path_factory.mktemp("state")
    servers = {(kind, trouble): Server(kind) for kind in KINDS for trouble in TROUBLES}
    for (_kind, trouble), server in servers.items():
        if trouble == "hangs":
            server.hangs()
        elif trouble != "refuses":
            server.works(errs=trouble == "errs")
    try:
        made = Story(servers, [], [], [], [], [], [])
        urls = [server.url for server in servers.values()]
        for result in (bad(2), good(1), good(0)):
            for (_kind, trouble), server in servers.items():
                if made.told and trouble in ("hangs", "refuses") and len(made.told) == 1:
                    server.works()
                elif made.told:
                    server.errs = False
            words: list[str] = []
            over = threading.Event()
            watcher = threading.Thread(target=watch, args=(words, over))
            watcher.start()
            began = time.monotonic()
            told = tell(urls, result, state)
            made.seconds.append(time.monotonic() - began)
            over.set()
            watcher.join()
            made.words.append(words)
            made.told.append(dict(zip(servers, told["receivers"], strict=True)))
            made.warnings.append(told["warnings"])
            made.got.append(
                {name: [one for one in server.got if one.subject != "refused"] for name, server in servers.items()}
            )
            made.clean.append(without_secret(told, state=state))
        yield made
    finally:
        for server in servers.values():
            server.close()


def watch(words: list[str], over: threading.Event) -> None:
    """The command lines of all programs that send, while they run."""
    while not over.wait(0.05):
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = place.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if "_child_apprise" in line:
                words.append(line)


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_is_told_at_once_or_by_the_next_run_and_exactly_once(story: Story, kind: str, trouble: str):
    name = (kind, trouble)
    first, second, third = (told[name] for told in story.told)
    works = trouble == "works"
    assert (first["delivered"], first["spooled"]) == ((1, 0) if works else (0, 1))
    assert (second["delivered"], second["spooled"]) == ((0, 0) if works else (1, 0))
    assert third == {"name": first["name"], "delivered": 0, "spooled": 0, "error": ""}
    counts = [len(got[name]) for got in story.got]
    assert counts == ([1, 1, 1] if works else [0, 1, 1])
    assert story.servers[name].got[-1].subject == subject(bad(2))


@pytest.mark.parametrize("trouble", [trouble for trouble in TROUBLES if trouble != "works"])
@pytest.mark.parametrize("kind", KINDS)
def test_why_a_receiver_was_not_told_is_told(story: Story, kind: str, trouble: str):
    words = TROUBLES[trouble][kind]
    told = story.told[0][kind, trouble]
    # where this machine is slow, the whole time may be over before the second attempt is
    assert told["error"] == words or (trouble == "hangs" and told["error"] == f"it was given up after {TIMEOUT:g} s")
    number = list(story.servers).index((kind, trouble)) + 1
    (warning,) = [warning for warning in story.warnings[0] if f"receiver {number} of lab_notify" in warning]
    assert warning.endswith(f"was not delivered: {told['error']}. 1 waits for the next run.")
    assert story.told[1][kind, trouble]["error"] == ""


def test_it_never_takes_longer_than_it_may(story: Story):
    assert story.seconds[0] < TIMEOUT + SLACK
    # nothing to tell: no process is started
    assert story.seconds[2] < 1
    assert story.warnings[1:] == [[], []]


def test_no_address_is_in_what_is_told_kept_or_seen_by_other_users(story: Story):
    assert story.clean == [True, True, True]
    assert story.words[0]
    assert not any(SECRET in line for line in story.words[0] + story.words[1])
    assert {told["name"] for told in story.told[0].values()} == {"json://127.0.0.1", "mailto://127.0.0.1"}


def test_a_mail_and_a_webhook_have_the_letter_in_them(story: Story):
    mail, webhook = (story.servers[kind, "works"].got[0] for kind in KINDS)
    assert (mail.to, mail.subject) == ("me@lab.example", subject(bad(2)))
    assert webhook.to == f"/{SECRET}/hook"
    body = json.loads(webhook.body)
    assert body["type"] == "failure"
    for text in (mail.body.replace("\r\n", "\n"), body["message"]):
        assert text.startswith("Bad night of 2026-11-20\n")
        assert "ansible-playbook playbooks/rollback.yml --limit web" in text


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server("webhook")
    try:
        yield made
    finally:
        made.close()


def test_what_was_missed_comes_first_and_the_oldest_before_all(server: Server, tmp_path: Path):
    for number in (3, 2):
        told = tell([server.url], bad(number), tmp_path)
    assert told["receivers"][0]["spooled"] == 2
    server.works()
    told = tell([server.url], bad(1), tmp_path)
    assert told == {
        "receivers": [{"name": "json://127.0.0.1", "delivered": 3, "spooled": 0, "error": ""}],
        "warnings": [],
    }
    assert server.subjects == [subject(bad(number)) for number in (3, 2, 1)]


def test_a_server_that_never_comes_to_an_end_is_given_up(server: Server, tmp_path: Path):
    server.works()
    began = time.monotonic()
    told = tell([f"json://127.0.0.1:{server.port}/drips"], bad(), tmp_path, timeout=6)
    assert time.monotonic() - began < 6 + SLACK
    assert told["receivers"] == [
        {"name": "json://127.0.0.1", "delivered": 0, "spooled": 1, "error": "it was given up after 6 s"}
    ]


def test_whoever_is_not_told_any_more_leaves_nothing_behind(server: Server, tmp_path: Path):
    other = Server("webhook")
    try:
        tell([server.url, other.url], bad(), tmp_path)
        told = tell([other.url], good(), tmp_path)
        assert told["receivers"][0]["spooled"] == 1
        assert told["warnings"][0] == "1 message for receivers that are not in lab_notify any more was dropped."
        assert tell([], good(), tmp_path)["receivers"] == []
        assert [path.name for path in (tmp_path / _notifier.DIRECTORY).iterdir()] == ["lock"]
        server.works()
        assert tell([server.url], good(), tmp_path)["receivers"][0]["delivered"] == 0
    finally:
        other.close()


def test_what_waits_is_the_owners_alone_and_bounded(server: Server, tmp_path: Path):
    tell([server.url], bad(), tmp_path)
    directory = tmp_path / _notifier.DIRECTORY
    assert directory.stat().st_mode & 0o777 == 0o700
    (waiting,) = directory.glob("*.json")
    entry = json.loads(waiting.read_text())
    for number in range(60):
        entry |= {"run_id": f"r{number:02}", "time": int(time.time()) - 3600 - number}
        (directory / f"{waiting.name.partition('.')[0]}.r{number:02}.json").write_text(json.dumps(entry))
    told = tell([server.url], good(), tmp_path)
    assert told["receivers"][0]["spooled"] == _notify.MOST
    assert told["warnings"][0] == (
        "11 messages for receiver 1 of lab_notify (json://127.0.0.1) were dropped: more than 50, or older than 30 days."
    )
    assert len(list(directory.glob("*.json"))) == _notify.MOST


def test_a_message_that_cannot_be_read_is_dropped_and_keeps_no_other_back(server: Server, tmp_path: Path):
    tell([server.url], bad(), tmp_path)
    (waiting,) = (tmp_path / _notifier.DIRECTORY).glob("*.json")
    (waiting.parent / waiting.name.replace("-0000", "-0009")).write_text("{")
    server.works()
    told = tell([server.url], good(), tmp_path)
    assert told["receivers"][0]["delivered"] == 1
    (warning,) = told["warnings"]
    assert warning.startswith(
        "A message for receiver 1 of lab_notify (json://127.0.0.1) cannot be read, and is dropped"
    )
    assert not list(waiting.parent.glob("*.json"))


def test_a_dry_run_tells_nobody_and_leaves_what_waits(server: Server, tmp_path: Path):
    tell([server.url], bad(), tmp_path)
    server.works()
    for urls in ([server.url], []):
        assert tell(urls, bad() | {"dry_run": True}, tmp_path) == {"receivers": [], "warnings": []}
    assert server.got == []
    assert tell([server.url], good(), tmp_path)["receivers"][0]["delivered"] == 1


def test_where_nothing_can_be_kept_a_receiver_is_told_all_the_same(server: Server, tmp_path: Path):
    (tmp_path / _notifier.DIRECTORY).write_text("in the way")
    told = tell([server.url], bad(), tmp_path)
    assert (told["receivers"][0]["delivered"], told["receivers"][0]["spooled"]) == (0, 0)
    assert told["warnings"][-1].endswith("was not delivered: connection refused. 0 wait for the next run.")
    server.works()
    told = tell([server.url], bad(), tmp_path)
    assert told["receivers"][0]["delivered"] == 1
    assert told["warnings"][0].startswith(
        "What receiver 1 of lab_notify (json://127.0.0.1) is not told now, it is never"
    )


def test_a_message_outlives_a_run_that_is_killed_while_it_is_sent(server: Server, tmp_path: Path):
    server.hangs()
    program = (
        "import json, sys; sys.path[:0] = ['collections', '.']\n"
        "from tests.integration.test_notifications import bad, tell; from pathlib import Path\n"
        "tell([sys.stdin.read()], bad(), Path(sys.argv[1]), 20)"
    )
    run = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, text=True)
    assert run.stdin is not None
    run.stdin.write(server.url)
    run.stdin.close()
    assert wait_for(lambda: any((tmp_path / _notifier.DIRECTORY).glob("*.json")) and children(run.pid) != [], 60)
    (child,) = children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    # nobody is there to end it
    assert wait_for(lambda: start_time(child) is None, 60)
    server.works()
    assert tell([server.url], good(), tmp_path)["receivers"][0]["delivered"] == 1
    assert server.subjects == [subject(bad())]


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_a_result_that_nobody_understands_is_told_and_keeps_nothing_back(server: Server, tmp_path: Path):
    tell([server.url], bad(), tmp_path)
    server.works()
    told = tell([server.url], {"version": 7}, tmp_path)
    assert told["receivers"][0]["delivered"] == 1
    assert told["warnings"][0].startswith("Nobody is told of this night. The result of a night has version 7")


# ---- settings --------------------------------------------------------------------------------------------------------
def test_services_of_the_page_are_understood_and_others_named_by_their_number():
    page = (ROOT / "docs/notifications.md").read_text()
    urls = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and "://" in line.split("`")[1]]
    assert len(urls) >= 5
    _notifier.check(urls)
    _notifier.check([_notify.with_bounds(url, 60) for url in urls])
    with pytest.raises(LabError, match=r"lab_notify has a URL, number 2, that apprise does not understand") as raised:
        _notifier.check([urls[0], f"{SECRET}://{SECRET}"])
    assert SECRET not in str(raised.value)


def test_without_apprise_a_setting_that_needs_it_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    _notifier.check([])
    with pytest.raises(LabError, match=rf"Install it with `{sys.executable} -m pip install apprise`"):
        _notifier.check([f"json://without.example/{SECRET}"])


def test_this_process_never_loads_apprise(tmp_path: Path, server: Server):
    program = (
        "import sys; sys.path[:0] = ['collections', '.']\n"
        "from tests.integration.test_notifications import bad, tell; from pathlib import Path\n"
        "tell([sys.argv[1]], bad(), Path(sys.argv[2])); print('apprise' in sys.modules)"
    )
    argv = [sys.executable, "-c", program, server.url, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


# ---- start and end ---------------------------------------------------------------------------------------------------
def test_start_and_end_are_reported_with_the_run_and_what_it_was(server: Server):
    server.works()
    url = f"http://127.0.0.1:{server.port}/ping/{SECRET}"
    body = _notify.ping_body(bad(), "attic")
    for what in get_args(_notify.Ping):
        assert _ping.ping(url, what, bad()["run_id"], body if what == "fail" else "") == []
    paths = [urlsplit(one.to) for one in server.got]
    assert [one.path for one in paths] == [f"/ping/{SECRET}{more}" for more in ("/start", "", "/fail")]
    (rid,) = {parse_qs(one.query)["rid"][0] for one in paths}
    assert len(rid) == 36
    assert [one.body for one in server.got] == ["", "", body]
    assert _ping.ping("", "start", "x") == []


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("refuses", "connection refused"),
        ("hangs", "no answer in time"),
        ("errs", "it answers 500"),
        ("drips", "it was given up after 9 s"),
    ],
)
def test_a_ping_that_fails_is_told_and_has_an_end(server: Server, trouble: str, why: str):
    if trouble == "hangs":
        server.hangs()
    elif trouble != "refuses":
        server.works(errs=trouble == "errs")
    began = time.monotonic()
    path = "drips" if trouble == "drips" else SECRET
    (warning,) = _ping.ping(f"http://{SECRET}:x@127.0.0.1:{server.port}/{path}", "success", "x", seconds=9)
    assert time.monotonic() - began < 9 + SLACK
    assert warning == f"The good end of this run was not reported to lab_ping_url: {why}."
    # once more, and no oftener
    assert len(server.got) == (2 if trouble == "errs" else 0)


def test_a_ping_that_is_sent_elsewhere_was_not_taken(server: Server):
    server.works()
    (warning,) = _ping.ping(f"http://127.0.0.1:{server.port}/moved", "start", "x")
    assert warning == "The start of this run was not reported to lab_ping_url: it answers 302."
    assert {urlsplit(one.to).path for one in server.got} == {"/moved/start"}


# ---- processes -------------------------------------------------------------------------------------------------------
def test_what_a_process_has_said_counts_when_it_is_ended(tmp_path: Path):
    program = tmp_path / "hangs.py"
    program.write_text(
        "import json, sys, time\njson.load(sys.stdin)\nprint('{\"x\": 1}\\n{', flush=True)\ntime.sleep(60)"
    )
    said, trouble = _child.ask(str(program), {}, 3)
    assert (said, trouble) == ([{"x": 1}], "it was given up after 3 s")


def test_a_process_that_fails_is_told_without_its_words(tmp_path: Path):
    program = tmp_path / "fails.py"
    program.write_text(f"raise SystemExit('{SECRET}')")
    assert _child.ask(str(program), {}, 30) == ([], "its process ended with 1")


def test_what_a_library_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that is not apprise, and misbehaves in other ways, too."""
    (tmp_path / "apprise.py").write_text(
        "import os\nos.write(1, b'{\"understood\": true}\\n')\n"
        "class AppriseAsset:\n    def __init__(self, **_): print('7')\n"
        "class Apprise:\n    def __init__(self, asset): pass\n    def add(self, one): pass\n"
        "    instantiate = staticmethod(lambda url, asset: url)\n"
        f"    def notify(self, **_): os.write(1, b'[]'); raise BufferError('{SECRET}')\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    told = tell([f"json://misbehaves.example/{SECRET}"], bad(), tmp_path)
    assert told["receivers"][0]["error"] == "it could not be told, and nothing says why"
    assert without_secret(told)
