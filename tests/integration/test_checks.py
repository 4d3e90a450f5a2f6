"""What the controller checks of a host, the owner's own checks, and patience, against real guests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.conftest import ROOT, Module
from tests.lab import Lab
from tests.lab._system import wait_for
from tests.servers import prometheus, serving

pytestmark = pytest.mark.lab

HOST = "web"
RUN_ID = "20261124T210000Z-0001"
# a connection of its own: one that is kept would only hang while the cable is out
ALONE = {"ansible_ssh_args": "-o ConnectTimeout=2"}


@pytest.fixture(scope="module")
def page(lab: Lab) -> Iterator[str]:
    """A directory of the host that it serves on port 8080."""
    lab.run(HOST, ["mkdir", "-p", "/srv/page"], check=True)
    lab.write(HOST, "/srv/page/health", '{"status": "ok", "workers": [1, 2]}')
    python = "/run/current-system/sw/bin/python3"
    serve = [python, "-m", "http.server", "8080", "--bind", "127.0.0.1", "--directory", "/srv/page"]
    lab.run(HOST, ["systemd-run", "--unit=page", *serve], check=True)
    probe = "import socket; socket.create_connection(('127.0.0.1', 8080), 1)"
    assert wait_for(lambda: lab.run(HOST, [python, "-c", probe]).returncode == 0, 10)
    yield "http://localhost:8080/health"
    lab.run(HOST, ["systemctl", "stop", "page"])


def status(result: dict[str, Any], kind: str = "check") -> dict[str, str]:
    return {
        check["name"].partition(":")[2] or check["name"]: check["status"]
        for check in result["checks"]
        if check["name"].partition(":")[0] == kind
    }


def test_the_owners_checks_are_made_from_the_host_and_from_the_controller(lab: Lab, module: Module, page: str):
    with serving({"/": (200, '{"replicas": 0}'), "/bad": (503, "")}) as here:
        checks: list[dict[str, Any]] = [
            {"name": "ssh", "kind": "tcp", "port": "22"},
            {"name": "no-port", "kind": "tcp", "port": 1},
            {"name": "page", "kind": "http", "url": page, "body": "wor.ers"},
            {"name": "no-match", "kind": "http", "url": page, "body": "errors"},
            {"name": "json", "kind": "http", "url": page, "json": "status == 'ok' && length(workers) > `1`"},
            {"name": "no-json", "kind": "http", "url": page, "json": "workers[5]"},
            {"name": "no-page", "kind": "http", "url": f"{page}y", "json": "status"},
            {"name": "command", "kind": "command", "argv": ["grep", "-q", "NAME", "/etc/os-release"]},
            {"name": "no-command", "kind": "command", "argv": ["no-such-program"]},
            {"name": "on-host", "kind": "command", "argv": ["test", "-e", "/srv/page/health"]},
            {
                "name": "on-controller",
                "kind": "command",
                "from": "controller",
                "argv": ["test", "-e", f"{ROOT}/README.md"],
            },
            {"name": "tcp-controller", "kind": "tcp", "from": "controller", "host": "127.0.0.1", "port": here.port},
            {"name": "http-controller", "kind": "http", "from": "controller", "url": here.url("/bad"), "status": [503]},
            {"name": "json-controller", "kind": "http", "from": "controller", "url": here.url("/"), "json": "replicas"},
        ]
        result = module(HOST, "lab_health_check", {"checks": checks})
    assert status(result) == {
        **dict.fromkeys(("ssh", "page", "json", "command", "on-host", "on-controller"), "ok"),
        **dict.fromkeys(("tcp-controller", "http-controller"), "ok"),
        **dict.fromkeys(("no-port", "no-match", "no-json", "no-page", "json-controller"), "fail"),
        "no-command": "unknown",
    }
    assert not result["healthy"]
    assert f"The check no-json: workers[5] of {page} is null." in result["msg"]
    assert "bodies" not in result
    assert "status == 'ok'" in next(check["expected"] for check in result["checks"] if check["name"] == "check:json")


def test_a_check_that_is_only_wanted_lets_the_host_be_healthy(module: Module):
    checks = [{"name": "no-port", "kind": "tcp", "port": 1, "level": "wanted"}]
    assert module(HOST, "lab_health_check", {"checks": checks})["healthy"]
    result = module(HOST, "lab_health_check", {"checks": checks, "levels": {"check:no-port": "required"}})
    assert result["msg"] == "The check no-port: port 1 of localhost: connection refused."


def test_json_that_becomes_right_in_time_is_waited_for(lab: Lab, module: Module, page: str):
    lab.write(HOST, "/srv/page/late", '{"up": false}')
    check = {"name": "late", "kind": "http", "url": page.replace("health", "late"), "json": "up"}
    assert not module(HOST, "lab_health_check", {"checks": [{**check, "retries": 1, "interval": 0}]})["healthy"]
    mended = threading.Timer(3, lab.write, (HOST, "/srv/page/late", '{"up": true}'))
    mended.start()
    result = module(HOST, "lab_health_check", {"checks": [check], "settle": 20})
    mended.join()
    assert result["healthy"], result["msg"]


def test_a_malformed_check_is_named_before_anything_is_asked(lab: Lab, module: Module):
    began = time.monotonic()
    checks = [{"name": "dns", "kind": "tcp", "prot": 53}]
    # nobody is there
    result = module(HOST, "lab_health_check", {"checks": checks}, ansible_host="198.18.0.99")
    assert result["msg"].startswith("checks: the check dns has an option 'prot', which is none.")
    assert (result["healthy"], result["checks"]) == (False, [])
    assert time.monotonic() - began < 8


def test_windows_holds_and_alerts_are_asked_on_the_controller(module: Module):
    day = time.gmtime(time.time() + 3 * 86400)
    closed = f"{('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun')[day.tm_wday]} 10:00-11:00 UTC"
    with serving({"/api/v1/query": (200, prometheus())}) as monitoring:
        asked: dict[str, Any] = {"window": "00:00-24:00", "alerts_url": monitoring.url()}
        assert module(HOST, "lab_health_check", asked)["healthy"]
        query = monitoring.queries()[0]["query"]
        assert query == [f'ALERTS{{alertstate="firing",instance=~"{HOST}(:[0-9]+)?"}}']

        monitoring.pages["/api/v1/query"] = (200, prometheus("HostDown"))
        hold = {"reason": "New disks", "until": "2999-12-24"}
        result = module(HOST, "lab_health_check", {**asked, "window": closed, "hold": hold})
        assert result["failed"]
        assert [check["name"] for check in result["checks"][:3]] == ["window", "hold:inventory", "alerts"]
        assert {check["status"] for check in result["checks"][:3]} == {"fail"}
        assert result["msg"].endswith("It is held until 2999-12-24: New disks. Alerts that fire for it: HostDown.")

    # nobody listens there any more
    result = module(HOST, "lab_health_check", asked)
    assert status(result, "alerts") == {"alerts": "unknown"}
    assert not result["healthy"]


def test_a_password_in_a_url_leaves_no_trace(lab: Lab, module: Module):
    url = "http://me:hunter2@localhost:1/?token=hunter2"
    here = {"kind": "http", "url": url}
    checks = [{"name": "host", **here}, {"name": "controller", "from": "controller", **here}]
    result = module(HOST, "lab_health_check", {"checks": checks, "alerts_url": url.replace("localhost", "127.0.0.1")})
    assert status(result) == {"host": "fail", "controller": "fail"}
    # what was asked of Ansible by hand, it repeats
    assert "hunter2" not in json.dumps(
        {name: said for name, said in result.items() if name not in ("printed", "warned")}
    )
    assert "hunter2" not in lab.journal(HOST, "--since=-2min")


def test_a_host_that_is_lost_is_lost_whatever_the_controller_thinks(lab: Lab, module: Module):
    lab.cut(HOST)
    try:
        result = module(HOST, "lab_health_check", {"hold": "New disks"}, **ALONE)
    finally:
        lab.mend(HOST)
    assert result["connection_lost"]
    assert (result["healthy"], result["checks"]) == (False, [])


def test_with_patience_a_host_that_is_away_for_a_while_is_asked_again(lab: Lab, module: Module):
    questions: list[tuple[str, dict[str, Any]]] = [
        ("nixos_info", {"patience": 120}),
        ("lab_health_check", {"patience": 120}),
        ("lab_claim", {"patience": 120, "run_id": RUN_ID}),
    ]
    lab.cut(HOST)
    try:
        with ThreadPoolExecutor(len(questions)) as pool:
            asked = [pool.submit(module, HOST, name, args, **ALONE) for name, args in questions]
            # whoever asks without patience has begun after the others, and is through first
            impatient = module(HOST, "nixos_info", {}, **ALONE)
            lab.mend(HOST)
            info, health, claim = [one.result() for one in asked]
    finally:
        lab.mend(HOST)
    assert impatient["connection_lost"]
    assert info["systems"]["current"]
    assert health["healthy"]
    assert claim["transaction"]["run_id"] == RUN_ID
    # once more is no change
    again = module(HOST, "lab_claim", {"run_id": RUN_ID})
    assert not again["changed"]
    released = {"run_id": RUN_ID, "state": "released", "outcome": "unchanged", "patience": 5}
    assert module(HOST, "lab_claim", released)["changed"]
    assert not module(HOST, "lab_claim", released)["changed"]


def test_patience_has_an_end(lab: Lab, module: Module):
    began = time.monotonic()
    result = module(HOST, "nixos_info", {"patience": 2}, ansible_host="198.18.0.99", **ALONE)
    assert result["connection_lost"]
    assert time.monotonic() - began < 15
