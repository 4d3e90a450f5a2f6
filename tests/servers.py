"""Servers of the tests' own: pages that are right, and ways to be wrong."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Server:
    """What it has been asked, and by whom; C(pages) may be changed while it runs."""

    port: int
    pages: dict[str, tuple[int, str]]
    asked: list[str] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def url(self, path: str = "", user: str = "") -> str:
        return f"http://{user}{'@' if user else ''}127.0.0.1:{self.port}{path}"

    def queries(self) -> list[dict[str, list[str]]]:
        return [parse_qs(urlsplit(path).query) for path in self.asked]


@contextmanager
def serving(
    pages: dict[str, tuple[int, str]], address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve C(pages), by path. C(/hangs) never answers, C(/drips) says a byte of a header every 50 ms, for ever, and
    C(/endless) has a body that never ends.
    """
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            server.asked.append(self.path)
            server.credentials.append(self.headers["Authorization"])
            with suppress(ConnectionError):
                if path == "/hangs":
                    over.wait()
                elif path == "/drips":
                    self._drip()
                elif path == "/endless":
                    self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
                    while not over.is_set():
                        self.wfile.write(b"x" * 4096)
                else:
                    status, body = server.pages.get(path, (404, ""))
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header("Location", body)
                    self.end_headers()
                    self.wfile.write(body.encode())

        def do_POST(self) -> None:
            server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        do_DELETE = do_GET

        def _drip(self) -> None:
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
            while not over.wait(0.05):
                self.wfile.write(b"x")

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer((address, 0), Handler)
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    server = Server(listening.server_address[1], pages)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        over.set()
        listening.shutdown()
        listening.server_close()


def prometheus(*alerts: str) -> str:
    """What Prometheus answers to an instant query when these alerts fire."""
    series = ",".join(
        f'{{"metric":{{"__name__":"ALERTS","alertname":"{name}","alertstate":"firing","instance":"web:9100",'
        f'"job":"node","severity":"critical"}},"value":[1795312200.123,"1"]}}'
        for name in alerts
    )
    return f'{{"status":"success","data":{{"resultType":"vector","result":[{series}]}}}}'


def alertmanager(**alerts: str) -> str:
    """What Alertmanager answers when these alerts, by name, are in these states."""
    listed = ",".join(
        f'{{"annotations":{{"summary":"s"}},"endsAt":"2026-11-25T20:04:00.000Z","fingerprint":"6f1c1d7b0c1c2f5a",'
        f'"receivers":[{{"name":"mail"}}],"startsAt":"2026-11-25T19:00:00.000Z","status":{{"inhibitedBy":[],'
        f'"silencedBy":[],"state":"{state}"}},"updatedAt":"2026-11-25T20:00:00.000Z",'
        f'"generatorURL":"http://prometheus/graph","labels":{{"alertname":"{name}","instance":"web:9100"}}}}'
        for name, state in alerts.items()
    )
    return f"[{listed}]"
