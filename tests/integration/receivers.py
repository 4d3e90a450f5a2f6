"""Who is told of a night: a mail server and a web server of the test's own, which work, refuse, hang, or err."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiosmtpd.smtp import SMTP, AuthResult, Envelope

# in every address of theirs
SECRET = "c4n4ry"


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
