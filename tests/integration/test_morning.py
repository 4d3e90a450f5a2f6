"""The morning after a night that had everything: whoever tells of it says the same of each host.

Every outcome there is comes from a fault, as in life. Then the log is asked, the page, and the metrics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD, Word
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.fleet import ACTIVATION_BROKEN, BOOT_BROKEN, Fleet, Meanwhile, Night, once_live, until
from tests.integration.receivers import Got, Server
from tests.lab import Lab

pytestmark = pytest.mark.lab

LOG = "/var/log/lab-auto-update.log"
OUTCOMES: dict[str, Word] = {
    "dev": "updated",
    "web": "rolled_back",
    "nas": "unreachable",
    "dns": "held",
    "host5": "unchanged",
    "host6": "pending",
    "host7": "deferred",
    "host8": "failed",
    "host9": "rollback_failed",
    "host10": "lost",
}
FAULTS: dict[str, str | tuple[str, ...]] = {
    "dev": "slow-activation=5",
    "web": "unit-fails",
    "dns": "slow-activation=1",
    "host6": "kernel-changed",
    "host7": "slow-activation=1",
    "host8": "python-gone",
    "host9": "unit-fails",
    "host10": ("kernel-changed", "boot-fails"),
}
# what has no room left for the log, and when
FULL = {"host7": "before", "dev": "during", "host6": "after"}
# all hosts at once, and short waits for those that do not come back
SETTINGS: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": len(OUTCOMES),
    "lab_max_bad": len(OUTCOMES),
    "lab_settle": 6,
    "lab_confirm_timeout": 30,
    "lab_activation_timeout": 120,
    "lab_boot_confirm_timeout": 20,
    "lab_reboot_timeout": 45,
}


class Morning:
    """What is left of the night, on the controller and on hosts, and what receivers were told of it."""

    def __init__(self, fleet: Fleet, night: Night, mail: list[Got], pings: list[Got]) -> None:
        self.fleet = fleet
        self.night = night
        self.mail = mail
        self.pings = pings
        self.nights = fleet.lab.directory / "state" / "nights"
        (page,) = self.nights.glob("night-*.html")
        self.page = page.read_text()
        self.result = json.loads(page.with_suffix(".json").read_text())
        self.run_id: str = self.result["run_id"]

    def log(self, host: str) -> list[dict[str, Any]]:
        """The records of this night in the log of a host, which may be off."""
        return records(self.fleet.lab.read(host, LOG) or "", self.run_id)

    def status(self) -> dict[str, Any]:
        """What playbooks/status.yml says, for programs."""
        file = self.fleet.lab.directory / "status.json"
        done = self.fleet.night(playbook="playbooks/status.yml", lab_format="json", lab_output=str(file))
        assert done.rc == 0, done.output
        told: dict[str, Any] = json.loads(file.read_text())
        return told

    def metrics(self) -> dict[str, dict[str, float]]:
        """The samples of each metric that are of hosts, by host."""
        text = (self.fleet.lab.directory / "metrics" / "lab_auto_update.prom").read_text()
        return {
            family.name: {sample.labels["host"]: sample.value for sample in family.samples if "host" in sample.labels}
            for family in text_string_to_metric_families(text)
        }


class Rows(HTMLParser):
    """The rows of tables, each cell as its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def records(text: str, run_id: str) -> list[dict[str, Any]]:
    return [record for record in map(json.loads, text.splitlines()) if record["run_id"] == run_id]


def fill_the_log(lab: Lab, host: str) -> None:
    """There is no room for one byte more; a file system would have some where the last block of a file is not full."""
    lab.run(host, ["ln", "-sfn", "/dev/full", LOG], check=True)


@pytest.fixture(scope="module")
def morning() -> Iterator[Morning]:
    with (
        Lab.temporary(len(OUTCOMES), prefix="morning") as lab,
        closing(Server("mail")) as mail,
        closing(Server("webhook")) as pings,
    ):
        mail.works()
        pings.works()
        fleet = Fleet(lab)
        fleet.faults(**FAULTS)
        (lab.directory / "metrics").mkdir()
        for host in FULL:
            lab.run(host, ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/srv/log", "--mkdir"], check=True)
            lab.run(host, ["ln", "-sf", "/srv/log/lab-auto-update.log", LOG], check=True)
        # so full that no file can begin
        lab.run("host7", ["dd", "if=/dev/zero", "of=/srv/log/filler", "bs=512"])
        fleet.says(
            {
                "lab_title": "attic",
                "lab_metrics_directory": str(lab.directory / "metrics"),
                "lab_notify": [mail.url],
                "lab_ping_url": f"http://127.0.0.1:{pings.port}/check",
            },
            {"dns": {"lab_depends_on": ["nas"]}, "host6": {"lab_reboot": "never"}},
        )
        before, targets = fleet.look("host9"), fleet.targets()
        lab.stop("nas")

        def break_the_way_back() -> None:
            for path in (ACTIVATION_BROKEN, BOOT_BROKEN):
                lab.write("host9", path, f"{before.current}\n")

        def fill_during_the_activation() -> None:
            until(lambda: fleet.step("dev") == "activation", 240, "dev is being activated", 0.05)
            fill_the_log(lab, "dev")

        with Meanwhile() as meanwhile:
            meanwhile.do(once_live, fleet, "host9", targets["host9"], break_the_way_back)
            meanwhile.do(once_live, fleet, "host6", targets["host6"], lambda: fill_the_log(lab, "host6"))
            meanwhile.do(fill_during_the_activation)
            night = fleet.night(**SETTINGS)
        yield Morning(fleet, night, mail.got, pings.got)


def test_every_outcome_there_is_came_of_its_fault(morning: Morning):
    assert morning.night.outcomes == OUTCOMES
    assert morning.night.rc == 2


def test_the_result_has_each_host_with_its_reason_and_its_steps(morning: Morning):
    hosts = morning.result["hosts"]
    assert {host: told["outcome"] for host, told in hosts.items()} == OUTCOMES
    assert all(told["reason"] for host, told in hosts.items() if OUTCOMES[host] not in ("updated", "unchanged"))
    steps = {host: [span["step"] for span in told["spans"]] for host, told in hosts.items()}
    assert steps["dev"] == ["probe", "copy", "activation", "verification"]
    assert steps["host5"] == ["probe"]
    assert steps["web"][-1] == "rollback"
    assert [span["step"] for span in morning.result["spans"]] == ["update", "build"]
    began, end = morning.result["began"], morning.result["began"] + morning.result["durations"]["total"]
    for told in hosts.values():
        for span in told["spans"]:
            assert began - 1 <= span["began"] <= span["began"] + span["seconds"] <= end + 1


def test_the_page_says_the_same_of_each_host(morning: Morning):
    rows = {row[0]: row[1] for row in Rows(morning.page).rows if len(row) == 3 and row[0] in OUTCOMES}
    assert {host: re.sub(r"\W", "", word) for host, word in rows.items()} == OUTCOMES
    assert all(f"--limit {host}" in morning.page for host, word in OUTCOMES.items() if word in BAD)
    assert "attic" in morning.page
    assert Path(morning.nights / "index.html").read_text().count(morning.run_id) == 1


def test_the_mail_says_the_same_of_each_host(morning: Morning):
    (mail,) = morning.mail
    assert mail.subject.startswith("[attic] Bad night of ")
    for host, word in OUTCOMES.items():
        if word in BAD:
            assert f"{host} {word}" in mail.subject or "more" in mail.subject
    hosts = mail.body.replace("\r\n", "\n").partition("\nHosts\n")[2].partition("\n\n")[0]
    said = dict(re.findall(r"^  (\w+): ([a-z_]+), ", hosts, re.MULTILINE))
    assert said == OUTCOMES


def test_begin_and_bad_end_were_reported_as_those_of_one_run(morning: Morning):
    began, ended = morning.pings
    (first, run), (last, same) = (ping.to.split("?") for ping in (began, ended))
    assert (first, last) == ("/check/start", "/check/fail")
    assert run == same
    assert morning.run_id in began.body
    assert morning.run_id in ended.body


def test_the_status_says_the_same_of_each_host(morning: Morning):
    told = morning.status()
    assert {host["name"]: host["outcome"] for host in told["hosts"]} == OUTCOMES
    assert told["statistics"]["nights"] == 1


def test_the_metrics_say_the_same_of_each_host(morning: Morning):
    text = (morning.fleet.lab.directory / "metrics" / "lab_auto_update.prom").read_text()
    (family,) = (one for one in text_string_to_metric_families(text) if one.name == "lab_auto_update_host_outcome")
    said = {sample.labels["host"]: sample.labels["outcome"] for sample in family.samples if sample.value == 1}
    assert said == OUTCOMES
    metrics = morning.metrics()
    assert {host for host, due in metrics["node_reboot_required"].items() if due} == {"host6"}
    assert set(metrics["lab_auto_update_host_deferred_nights"]) == {"host7"}
    # of a host that is hung or off, nobody knows who holds it by now
    assert {host for host, held in metrics["lab_auto_update_host_claimed"].items() if held} <= {"host9", "host10"}


def test_each_host_that_could_be_told_has_its_end_in_its_log(morning: Morning):
    ends = {
        host: [record["status"] for record in morning.log(host) if record["operation"] == "outcome"]
        for host in OUTCOMES
        if host not in FULL
    }
    assert ends == {
        "web": ["rolled_back"],
        "nas": [],
        # nobody logs in to tell a host that it was left alone by us
        "dns": [],
        "host5": ["unchanged"],
        "host8": ["failed"],
        "host9": [],
        "host10": [],
    }
    # what was begun and has no end is somebody's to look at
    assert [record["operation"] for record in morning.log("host10")][:2] == ["claim", "activation"]
    (record,) = (record for record in morning.log("web") if record["operation"] == "outcome")
    assert record["details"]["reason"] == morning.result["hosts"]["web"]["reason"]
    assert [record["seq"] for record in morning.log("web")] == list(range(1, len(morning.log("web")) + 1))


def test_the_controller_and_the_host_of_the_flake_have_the_night_in_their_logs(morning: Morning):
    state = morning.fleet.lab.directory / "state"
    (mine,) = records((state / "lab-auto-update.log").read_text(), morning.run_id)
    (other,) = morning.log("builder")
    for record in (mine, other):
        assert (record["operation"], record["status"]) == ("night", "bad")
        assert record["details"]["outcomes"] == OUTCOMES
        assert record["details"]["failed"]


def test_a_host_whose_log_had_no_room_before_its_update_was_left_alone(morning: Morning):
    reason = morning.result["hosts"]["host7"]["reason"]
    assert f"{LOG} cannot be written: No space left on device." in reason
    assert morning.fleet.transaction("host7") is None


@pytest.mark.parametrize("host", ["dev", "host6"])
def test_a_host_whose_log_had_no_room_any_more_was_updated_and_its_journal_has_the_rest(morning: Morning, host: str):
    lab = morning.fleet.lab
    text = lab.run(host, ["cat", "/srv/log/lab-auto-update.log"], check=True).stdout
    written = records(text, morning.run_id)
    words = ["journalctl", "--output=json", "--no-pager", f"LAB_RUN_ID={morning.run_id}"]
    entries = [json.loads(line) for line in lab.run(host, words, check=True).stdout.splitlines()]
    told = [json.loads(entry["LAB_RECORD"]) for entry in entries]
    assert [record["seq"] for record in told] == list(range(1, len(told) + 1))
    assert written == told[: len(written)]
    assert 0 < len(written) < len(told)
    assert (told[-1]["operation"], told[-1]["status"]) == ("outcome", OUTCOMES[host])
    assert f"{LOG} cannot be written" in morning.night.output
    assert morning.fleet.look(host).current == morning.fleet.target(host)
