"""The door to the network, with real servers: whatever they do, it ends."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _network
from ansible_collections.homelab.nixos.plugins.module_utils._network import Refused, Silent
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import LIMIT, Page

from tests.servers import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    pages = {
        "/": (200, "grüß Gott"),
        "/bad": (500, "oh no"),
        "/away": (302, "/"),
        "/large": (200, "x" * (LIMIT + 1)),
        "/just": (200, "x" * LIMIT),
    }
    with serving(pages) as running:
        yield running


@pytest.fixture
def silent() -> Iterator[int]:
    """A port at which nobody takes connections that have come in."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_a_page_with_any_status_is_an_answer(server: Server):
    assert _network.get(server.url("/"), 5) == Page(200, "grüß Gott")
    assert _network.get(server.url("/bad"), 5) == Page(500, "oh no")
    assert _network.get(server.url("/none"), 5).status == 404


def test_redirects_are_not_followed(server: Server):
    assert _network.get(server.url("/away"), 5).status == 302
    assert server.asked == ["/away"]


def test_a_page_that_is_larger_than_asked_for_has_no_body(server: Server):
    assert _network.get(server.url("/large"), 5) == Page(200, None)
    assert len(_network.get(server.url("/just"), 5).body or "") == LIMIT
    assert _network.get(server.url("/large"), 5, limit=0) == Page(200, "")
    # no more is read than is needed to see that
    assert _network.get(server.url("/endless"), 5) == Page(200, None)


@pytest.mark.parametrize("path", ["/hangs", "/drips"])
def test_a_server_that_does_not_come_to_an_end_is_left(server: Server, path: str):
    began = time.monotonic()
    with pytest.raises(Silent, match=r"no answer within 0\.5 s"):
        _network.get(server.url(path), 0.5)
    assert time.monotonic() - began < 2


def test_a_user_and_a_password_are_sent_at_once_and_nothing_of_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    assert _network.get(server.url("/", "me%40home:p%2Fw"), 5).status == 200
    assert _network.get(server.url("/"), 5).status == 200
    assert server.credentials == [f"Basic {b64encode(b'me@home:p/w').decode()}", None]


def test_what_is_asked_arrives_as_it_was_written(server: Server):
    _network.get(server.url("/a%20b/ü?x={y}&z=%7B"), 5)
    assert server.asked == ["/a%20b/%C3%BC?x=%7By%7D&z=%7B"]


def test_a_port_that_is_closed_refuses():
    for ask in (
        lambda port: _network.connect("127.0.0.1", port, 5),
        lambda p: _network.get(f"http://127.0.0.1:{p}", 5),
    ):
        with pytest.raises(Refused, match=r"^connection refused\.$"):
            ask(closed_port())


def test_a_port_that_is_open_takes_connections(silent: int):
    _network.connect("127.0.0.1", silent, 5)
    with pytest.raises(Silent):
        _network.get(f"http://127.0.0.1:{silent}", 0.3)


def test_a_name_that_nobody_knows_tells_nothing():
    with pytest.raises(Silent, match="its name cannot be resolved"):
        _network.connect("no-such-host.invalid", 80, 20)


def test_what_does_not_speak_http_is_no_page():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _address = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Refused, match="does not speak HTTP"):
            _network.get(f"http://127.0.0.1:{listening.getsockname()[1]}", 5)


def test_a_certificate_counts_unless_it_shall_not(tmp_path: Path):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving({"/": (200, "secret")}, tls=context) as server:
        url = server.url("/").replace("http:", "https:")
        with pytest.raises(Refused, match="its certificate is not accepted: self-signed certificate"):
            _network.get(url, 5)
        assert _network.get(url, 5, ca_path=str(certificate)).body == "secret"
        assert _network.get(url, 5, validate_certs=False).body == "secret"
        with pytest.raises(Refused, match="No such file"):
            _network.get(url, 5, ca_path=str(tmp_path / "none"))
