"""Metrics, alerts and dashboard in Debian's Prometheus and node_exporter, and in promtool."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _metrics, _state

from tests.integration.fleet import ROOT
from tests.unit.plugins.module_utils.test_metrics import HOSTILE, QUERIES, host, look, moved, night

ALERTS = ROOT / "monitoring/alerts.yml"
# until a program that was started answers
SECONDS = 30


def program(name: str) -> str:
    """Where set-up has put a program, or where it is installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is not there: run `make setup`"
    return found


def promtool(*words: str | Path, text: str | None = None) -> str:
    done = subprocess.run(
        [program("promtool"), *map(str, words)],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def nights() -> str:
    """Each metric, of a night that has just ended, with names that nobody would give."""
    now = int(time.time())
    spans = [{"step": step, "began": now - 300, "seconds": 9.5} for step in _metrics.PHASES]
    tonight = night(
        {
            "web": host("updated", rebooted=True, durations={"activation": 2.9}, spans=spans),
            "nas": host("rolled_back", reason="x"),
            "dns": host("deferred", reason="kim (pts/0) is logged in."),
            HOSTILE: host("pending"),
        },
        began=now - 600,
        inputs=[moved("nixpkgs", None, now - 86400), moved(HOSTILE, None, 5)],
    )
    looks = {
        "web": look(proven_since=now - 300),
        "nas": look(reboot_required=True, reboot_reasons=["kernel"]),
        "dns": look(transaction={"run_id": "other", "since": now - 8 * 3600}),
    }
    return _metrics.text([tonight], looks)


def test_promtool_finds_nothing_to_say_of_the_metrics():
    assert promtool("check", "metrics", text=nights()) == ""


def test_promtool_finds_nothing_wrong_with_the_rules():
    assert re.search(r"SUCCESS: \d+ rules found", promtool("check", "rules", ALERTS))


def test_each_alert_fires_when_it_should_and_not_before():
    assert "SUCCESS" in promtool("test", "rules", "tests/monitoring/alerts.yml")


class Server:
    """A program with a page, until the end of the test."""

    def __init__(self, argv: list[str | Path], port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        with log.open("wb") as file:
            self.process = subprocess.Popen(list(map(str, argv)), stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        self.log = log

    def get(self, path: str) -> str:
        """A page, waited for until the program has it."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                with urllib.request.urlopen(self.url + path, timeout=5) as page:
                    text: str = page.read().decode()
                    return text
            except urllib.error.HTTPError as error:
                # not ready yet is 503; a query that is wrong is an answer
                if error.code != 503 or time.monotonic() > end:
                    raise AssertionError(f"{path}: {error.read().decode()}") from error
            except OSError as error:
                assert self.process.poll() is None and time.monotonic() < end, f"{error}\n{self.log.read_text()}"
            time.sleep(0.1)

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = json.loads(self.get(f"/api/v1/query?{urlencode({'query': expression})}"))
        assert answer["status"] == "success"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prometheus that scrapes the node_exporter of a controller after a night."""
    directory = tmp_path_factory.mktemp("monitoring")
    textfiles = directory / "textfiles"
    textfiles.mkdir()
    _state.publish(str(textfiles / _metrics.FILE), nights())
    # what the community's scripts write of the controller itself
    own = (
        "# HELP node_reboot_required Node reboot is required for software updates.\n# TYPE node_reboot_required gauge\n"
    )
    (textfiles / "apt.prom").write_text(f"{own}node_reboot_required 0.0\n")
    ports = free_port(), free_port()
    shutil.copy(ALERTS, directory / "alerts.yml")
    (directory / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        "rule_files: [alerts.yml]\n"
        f"scrape_configs: [{{job_name: node, static_configs: [{{targets: ['127.0.0.1:{ports[0]}']}}]}}]\n"
    )
    exporter = Server(
        [
            *(
                program("prometheus-node-exporter"),
                f"--web.listen-address=127.0.0.1:{ports[0]}",
                "--collector.disable-defaults",
            ),
            *("--collector.textfile", f"--collector.textfile.directory={textfiles}"),
        ],
        ports[0],
        directory / "exporter.log",
    )
    server = Server(
        [
            *(
                program("prometheus"),
                f"--web.listen-address=127.0.0.1:{ports[1]}",
                f"--storage.tsdb.path={directory / 'data'}",
            ),
            f"--config.file={directory / 'prometheus.yml'}",
        ],
        ports[1],
        directory / "prometheus.log",
    )
    try:
        server.get("/-/ready")
        end = time.monotonic() + SECONDS
        while not server.query("lab_auto_update_run_success"):
            assert time.monotonic() < end, exporter.get("/metrics")
            time.sleep(0.1)
        yield server
    finally:
        server.stop()
        exporter.stop()


def test_the_collector_takes_the_file_beside_those_of_others(prometheus: Server):
    (error,) = prometheus.query("node_textfile_scrape_error")
    assert error["value"][1] == "0"
    assert {one["metric"]["host"] for one in prometheus.query("lab_auto_update_host_rebooted")} == {
        *("web", "nas", "dns", HOSTILE)
    }
    assert {one["metric"].get("host"): one["value"][1] for one in prometheus.query("node_reboot_required")} == {
        None: "0",
        "web": "0",
        "nas": "1",
        "dns": "0",
        HOSTILE: "1",
    }


@pytest.mark.parametrize("title", QUERIES)
def test_each_panel_of_the_dashboard_has_something_to_show(prometheus: Server, title: str):
    # as Grafana puts in all of them, and then one
    for chosen in ("(web|nas|dns)", "web"):
        found = prometheus.query(QUERIES[title].replace("$host", chosen))
        assert found or chosen == "web"
        assert chosen != "web" or {one["metric"].get("host", "web") for one in found} <= {"web"}


def test_each_rule_is_evaluated_and_those_fire_that_should(prometheus: Server):
    expected = {"LabUpdateRolledBack", "LabUpdateClaimedTooLong"}
    firing: set[str] = set()
    end = time.monotonic() + SECONDS
    # the first round of rules may come before the first scrape
    while firing != expected and time.monotonic() < end:
        time.sleep(0.1)
        (group,) = json.loads(prometheus.get("/api/v1/rules"))["data"]["groups"]
        firing = {rule["name"] for rule in group["rules"] if rule["state"] == "firing"}
    assert firing == expected
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
