"""How a lab stands, told by playbooks/status.yml in the morning; by a controller that never ran a night as well."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fleet import TRANSACTION, Fleet, Night
from tests.integration.nowhere import Nowhere
from tests.lab import Lab

pytestmark = pytest.mark.lab

PLAYBOOK = "playbooks/status.yml"
HOLD = "/var/lib/lab-auto-update/hold"
QUICK: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": 3,
    "lab_max_bad": 3,
    "lab_settle": 6,
    "lab_confirm_timeout": 20,
}
# what belongs to the controller that is asked
OWN = ("time", "timer", "undelivered")


@pytest.fixture(scope="module")
def morning() -> Iterator[Fleet]:
    """After a night: dev is updated and on hold, a run has died on web, which was put back before, and nas is off."""
    with Lab.temporary(3, prefix="status") as lab:
        fleet = Fleet(lab)
        lab.move()
        fleet.faults(web="unit-fails")
        night = fleet.night(**QUICK)
        assert night.outcomes == {"dev": "updated", "web": "rolled_back", "nas": "updated"}, night.output
        lab.write("dev", HOLD, "Until the disk is replaced\nand not before\n")
        lab.write("web", TRANSACTION, json.dumps(left(fleet, "web")))
        lab.stop("nas")
        yield fleet


def left(fleet: Fleet, host: str) -> dict[str, Any]:
    """What a run that was killed has left."""
    seen = fleet.look(host)
    return {
        "version": 1,
        "controller": "another",
        "controller_name": "laptop",
        "run_id": "20261122T020000Z-dead",
        "process": None,
        "since": int(time.time()) - 7200,
        "deadline": int(time.time()) - 3600,
        "step": "verification",
        "boot_id": seen.boot_id,
        "from": seen.current,
        "target": seen.current,
        "failed_units": [],
        "verified": False,
        "guard_seconds": None,
        "guard_until": None,
    }


def ask(fleet: Fleet, *arguments: str, **variables: Any) -> Night:
    return fleet.begin(*arguments, playbook=PLAYBOOK, **variables).wait(120)


def told(fleet: Fleet, directory: Path, *arguments: str, **variables: Any) -> dict[str, Any]:
    """What is told for programs."""
    path = directory / "status.json"
    night = ask(fleet, *arguments, lab_format="json", lab_output=str(path), **variables)
    assert night.rc == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def words(night: Night) -> str:
    return " ".join(night.output.split())


def test_people_see_what_became_of_each_host_and_what_is_due(morning: Fleet):
    night = ask(morning)
    # however bad it is
    assert night.rc == 0
    said = words(night)
    assert "3 hosts: 1 rolled_back, 2 updated" in said
    assert night.outcomes == {"web": "rolled_back", "dev": "updated", "nas": "updated"}
    assert "On hold: Until the disk is replaced" in night.reason("dev")
    assert "Was left at step verification by laptop, run 20261122T020000Z-dead" in night.reason("web")
    assert "its time is over" in night.reason("web")
    assert f"Failed here: {morning.target('web')[11:18]}" in night.reason("web")
    assert "It does not answer: " in night.reason("nas")
    assert "Inputs: packages 0 days old" in said
    assert "1 night, 0 good (0 %)" in said
    assert "(the night): night bad" in said


def test_programs_get_the_same_and_what_they_ask_for(morning: Fleet, tmp_path: Path):
    status = told(morning, tmp_path)
    hosts = {host["name"]: host for host in status["hosts"]}
    assert list(hosts) == ["web", "dev", "nas"]
    assert {name: host["answered"] for name, host in hosts.items()} == {"dev": True, "web": True, "nas": False}
    for name in ("dev", "web"):
        assert hosts[name]["system"] == morning.look(name).current
        assert hosts[name]["generation"] is not None
        assert hosts[name]["boot_recovery"] == "on_reset"
    assert hosts["web"]["transaction"]["expired"] is True
    assert [failed["system"] for failed in hosts["web"]["failed_systems"]] == [morning.target("web")]
    assert hosts["nas"]["outcome"] == "updated"
    assert status["statistics"]["nights"] == 1
    assert status["timer"]["unit"] == "lab-auto-update.timer"
    assert len(status["entries"]) == 10

    asked = tmp_path / "asked"
    night = ask(morning, lab_query="hosts[?outcome=='rolled_back'].name", lab_output=str(asked))
    assert (night.rc, json.loads(asked.read_text())) == (0, ["web"])
    night = ask(morning, lab_query="sum(hosts)")
    assert night.rc == 2
    assert "lab_query is 'sum(hosts)', which is no question that can be answered" in words(night)


def test_another_controller_that_never_ran_a_night_tells_the_same(
    morning: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # a period that begins when somebody asks is never the same
    since = (date.today() - timedelta(days=2)).isoformat()
    first = told(morning, tmp_path, lab_since=since)
    (tmp_path / "home").mkdir()
    inventory = shutil.copy(morning.lab.inventory, tmp_path / "hosts.yml")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "second.json"
    program = ["ansible-playbook", PLAYBOOK, "-i", str(inventory)]
    own = {"lab_state_directory": str(tmp_path / "state")}
    wanted = {"lab_since": since, "lab_format": "json", "lab_output": str(path)}
    assert morning.run([*program, "-e", json.dumps(own | wanted)]).wait(120).rc == 0
    second = json.loads(path.read_text())
    assert {key: value for key, value in second.items() if key not in OWN} == {
        key: value for key, value in first.items() if key not in OWN
    }
    # nor does asking make it one that did
    assert not (tmp_path / "state").exists()


def test_nothing_is_changed_also_in_check_mode_and_while_a_night_is_going_on(morning: Fleet, tmp_path: Path):
    state = morning.lab.directory / "state"
    look = ["sh", "-c", "cd /var/lib/lab-auto-update && ls -l --full-time . && cat *; cat /var/log/lab-auto-update.log"]
    before = {host: morning.lab.run(host, look, check=True).stdout for host in ("dev", "web", "builder")}
    # the note of a run that lives
    (state / "run.json").write_text((state / "run.json").read_text() if (state / "run.json").exists() else "torn")
    files = sorted((path.name, path.stat().st_mtime_ns) for path in state.rglob("*"))
    night = ask(morning)
    (tmp_path / "real").mkdir()
    assert told(morning, tmp_path, "--check")["hosts"] == told(morning, tmp_path / "real")["hosts"]
    assert night.rc == 0
    assert "changed=0" in night.output
    assert "changed=1" not in night.output
    assert {host: morning.lab.run(host, look, check=True).stdout for host in before} == before
    assert sorted((path.name, path.stat().st_mtime_ns) for path in state.rglob("*")) == files
    (state / "run.json").unlink()


def test_of_some_hosts_alone_the_flakes_host_is_asked_beside_them(morning: Fleet, tmp_path: Path):
    status = told(morning, tmp_path, "--limit", "dev")
    assert [host["name"] for host in status["hosts"]] == ["dev"]
    assert status["statistics"]["nights"] == 1
    assert [one["path"] for one in status["inputs"]] == ["packages"]


def test_without_an_answer_it_fails_with_a_sentence(tmp_path: Path):
    hosts = Nowhere(tmp_path, {"dev": {}, "web": {}})
    night = hosts.begin(PLAYBOOK).wait(60)
    assert night.rc == 2
    assert "No host answered. dev: The connection to the host was lost or could not be made" in words(night)


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("lab_since=soon", "lab_since is 'soon', which is no time that has passed. Write it as 12h, 30d, 4w"),
        ("lab_query=hosts[", "lab_query is 'hosts[', which is no question that can be answered"),
        ("lab_format=xml", "lab_format is 'xml'. It is table or json."),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence_before_anybody_is_asked(
    tmp_path: Path, variable: str, sentence: str
):
    hosts = Nowhere(tmp_path, {"dev": {}, "web": {}})
    night = hosts.begin(PLAYBOOK, "-e", variable).wait(60)
    assert night.rc == 2
    assert sentence in words(night)
    assert hosts.contacts() == 0
