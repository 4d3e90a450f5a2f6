"""A silence during a reboot, in Debian's Alertmanager, and with servers that are none."""

from __future__ import annotations

import json
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _silence
from ansible_collections.homelab.nixos.plugins.module_utils._silence import Steps
from ansible_collections.homelab.nixos.plugins.plugin_utils import _silencer
from ansible_collections.homelab.nixos.plugins.plugin_utils._silencer import Silencer

from tests.integration.test_monitoring import SECONDS, Server, free_port, program
from tests.servers import serving

RUN = "20261122T020000Z-7f3a"
SILENCES, ALERTS = "/api/v2/silences", "/api/v2/alerts"
QUICK = Steps(length=6, renewal=0.3, retry=0.1)


# what set-up has unpacked of Debian's package is not where its program looks for it
SHARE = Path(sys.prefix) / "share"
IN_PLACE = ("unshare", "--map-root-user", "--mount", "sh", "-euc", 'mount --bind "$0" /usr/share; exec "$@"', SHARE)


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    """An Alertmanager that tells nobody."""
    config = directory / "alertmanager.yml"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    port = free_port()
    argv = [
        *(IN_PLACE if (SHARE / "prometheus").exists() else ()),
        *(program("prometheus-alertmanager"), f"--config.file={config}", "--cluster.listen-address="),
        *(f"--web.listen-address=127.0.0.1:{port}", f"--storage.path={directory / 'data'}"),
    ]
    server = Server(argv, port, directory / "alertmanager.log")
    try:
        server.get("/-/ready")
        yield server
    finally:
        server.stop()


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path) as server:
        yield server


def silencer(url: str, steps: Steps = QUICK, **labels: str) -> Silencer:
    return Silencer(_silence.silence(url, labels or None, "web", RUN), steps)


def silences(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(server.get(SILENCES))
    return found


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def states(server: Server) -> list[str]:
    return sorted(one["status"]["state"] for one in silences(server))


def fire(server: Server, *instances: str) -> None:
    alerts = [{"labels": {"alertname": "HostDown", "instance": instance}} for instance in instances]
    request = Request(server.url + ALERTS, json.dumps(alerts).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=5):
        pass


def silenced(server: Server) -> dict[str, list[str]]:
    """By which silences each alert that fires is silent."""
    return {one["labels"]["instance"]: one["status"]["silencedBy"] for one in json.loads(server.get(ALERTS))}


def until(said: Any, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not said():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_alerts_of_the_host_are_silent_meanwhile_and_no_others_and_none_afterwards(alertmanager: Server):
    fire(alertmanager, "web:9100", "web2:9100", "my-web:9100")
    until(lambda: len(silenced(alertmanager)) == 3, "all alerts fire")
    began = time.time()
    with silencer(alertmanager.url, Steps()) as keeper:
        # from the first moment on
        (one,) = silences(alertmanager)
        assert one["status"]["state"] == "active"
        assert (one["createdBy"], one["comment"]) == ("homelab.nixos", f"web reboots, in run {RUN}")
        assert 290 < moment(one["endsAt"]) - began <= 305
        until(lambda: silenced(alertmanager)["web:9100"] == [one["id"]], "the alert is silent")
        assert silenced(alertmanager) == {"web:9100": [one["id"]], "web2:9100": [], "my-web:9100": []}
    assert keeper.warnings == []
    assert states(alertmanager) == ["expired"]
    until(lambda: silenced(alertmanager)["web:9100"] == [], "the alert is silent no more")


def test_it_is_renewed_for_longer_than_a_step_and_no_silence_is_left(alertmanager: Server):
    fire(alertmanager, "web:9100")
    with silencer(alertmanager.url) as keeper:
        end = time.monotonic() + QUICK.length + 1
        until(lambda: silenced(alertmanager).get("web:9100"), "the alert is silent")
        while time.monotonic() < end:
            assert silenced(alertmanager)["web:9100"]
            assert states(alertmanager).count("active") == 1
            time.sleep(0.05)
    assert keeper.warnings == []
    assert set(states(alertmanager)) == {"expired"}


def test_of_a_controller_that_dies_no_more_than_a_step_is_left(alertmanager: Server):
    keeper = silencer(alertmanager.url, Steps(length=2, renewal=600, retry=600))
    keeper.__enter__()
    assert states(alertmanager) == ["active"]
    # nothing is asked any more, and nothing was expired
    until(lambda: states(alertmanager) == ["expired"], "the silence has ended by itself")


def test_an_alertmanager_that_has_lost_its_memory_gets_a_new_silence(alertmanager: Server):
    with silencer(alertmanager.url) as keeper:
        (first,) = {one["id"] for one in silences(alertmanager) if one["status"]["state"] == "active"}
        keeper._name = "00000000-0000-4000-8000-000000000000"
        until(lambda: states(alertmanager).count("active") == 2, "there is another one beside the forgotten one")
    assert [one["id"] for one in silences(alertmanager) if one["status"]["state"] == "active"] == [first]
    (warning,) = keeper.warnings
    assert warning.endswith("it answers 404.")


def test_an_alertmanager_that_comes_to_itself_is_told_then():
    with serving({}) as nobody, silencer(nobody.url()) as keeper:
        until(lambda: len(nobody.asked) > 1, "it is asked again")
        nobody.pages[SILENCES] = (200, '{"silenceID": "c0ffee"}')
        nobody.pages["/api/v2/silence/c0ffee"] = (200, "")
        until(lambda: keeper._name == "c0ffee", "the silence is there")
    assert nobody.asked[-1] == "/api/v2/silence/c0ffee"
    assert len(keeper.warnings) == 1


def test_an_alertmanager_refuses_a_label_that_it_cannot_read_and_that_is_told(alertmanager: Server):
    with silencer(alertmanager.url, instance="web(") as keeper:
        pass
    (warning,) = keeper.warnings
    assert warning == (
        "The alerts of web were not all silenced as they should while it rebooted: "
        f"{alertmanager.url} was asked: it answers 400."
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, ""), "it answers 500."),
        ((401, ""), "it answers 401."),
        ((302, "http://127.0.0.1:1/"), "it answers 302."),
        ((200, "<html>"), "it says nothing that is JSON."),
        ((200, "{}"), "it gives the silence no name."),
    ],
)
def test_whatever_is_answered_is_told_once_and_without_the_password(answer: tuple[int, str], says: str):
    with serving({SILENCES: answer}) as server:
        began = time.monotonic()
        with silencer(server.url("", "me:hunter2%21")) as keeper:
            until(lambda: len(server.asked) > 2, "it is asked again")
        assert time.monotonic() - began < 5
    (warning,) = keeper.warnings
    assert warning.endswith(f"http://***@127.0.0.1:{server.port} was asked: {says}")
    assert "hunter2" not in warning
    # at once, and with what was meant
    assert server.credentials[0] == f"Basic {b64encode(b'me:hunter2!').decode()}"


def test_one_that_refuses_keeps_nobody():
    began = time.monotonic()
    with silencer(f"http://127.0.0.1:{free_port()}") as keeper:
        pass
    assert time.monotonic() - began < 1
    (warning,) = keeper.warnings
    assert "Connection refused" in warning


@pytest.mark.parametrize(("path", "most"), [("/hangs", 5), ("/drips", 11)])
def test_one_that_hangs_keeps_nobody_for_longer_than_promised(path: str, most: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_silence.Silence, "silences", property(lambda self: self.url + path))
    with serving({}) as server:
        began = time.monotonic()
        with silencer(server.url()) as keeper:
            begun = time.monotonic() - began
        took = time.monotonic() - began
    assert begun < _silencer._PATIENCE + 1
    assert took < most
    assert len(keeper.warnings) == 1


def test_without_a_silence_nobody_is_asked_anything():
    with _silencer.of("", {"a b": "no label"}, "web") as keeper:
        assert not keeper._thread.is_alive()
    assert keeper.warnings == []
