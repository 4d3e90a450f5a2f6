"""A night is told by the very plugin, whatever is missing on the controller. Without guests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import nights
from tests.integration.fleet import ROOT
from tests.integration.receivers import SECRET, Server

METRICS = "lab_auto_update.prom"


@pytest.fixture
def mail() -> Iterator[Server]:
    with closing(Server("mail")) as server:
        server.works()
        yield server


def tell(directory: Path, mail: Server, *options: str, **change: Any) -> subprocess.CompletedProcess[str]:
    """What C(ansible) says of it, with all of its words."""
    (directory / "metrics").mkdir(exist_ok=True)
    arguments = {
        "result": nights.of_all_words(),
        "state_directory": str(directory / "state"),
        "metrics_directory": str(directory / "metrics"),
        "notify": [mail.url],
        "notify_timeout": 60,
        **change,
    }
    program = Path(sys.executable).parent / "ansible"
    words = [str(program), "localhost", "-i", "localhost,", "-c", "local", "-m", "homelab.nixos.lab_tell"]
    done = subprocess.run(
        [*words, "-a", json.dumps(arguments), *options],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout
    return done


def test_all_is_told_and_says_where(tmp_path: Path, mail: Server):
    said = tell(tmp_path, mail).stdout
    told = yaml.safe_load(said.partition("=>")[2])["told"]
    assert [Path(told[thing]).exists() for thing in ("log", "result", "page", "metrics")] == [True] * 4
    assert told["receivers"][0]["delivered"] == 1
    assert len(mail.got) == 1


def test_without_a_directory_for_pages_people_are_told_all_the_same(tmp_path: Path, mail: Server):
    done = tell(tmp_path, mail, report_directory=str(tmp_path / "none"))
    assert "lab_report_directory is" in done.stdout + done.stderr
    assert len(mail.got) == 1
    assert (tmp_path / "metrics" / METRICS).exists()


def test_where_nothing_can_be_kept_people_are_told_all_the_same(tmp_path: Path, mail: Server):
    (tmp_path / "state").write_text("in the way")
    tell(tmp_path, mail)
    assert len(mail.got) == 1
    assert (tmp_path / "metrics" / METRICS).exists()


def test_a_dry_run_leaves_its_record_and_nothing_else(tmp_path: Path, mail: Server):
    tell(tmp_path, mail, "--check", result=nights.of_all_words() | {"dry_run": True})
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == []
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["lab-auto-update.log", "log.json"]
    (record,) = (tmp_path / "state" / "lab-auto-update.log").read_text().splitlines()
    assert json.loads(record)["details"]["dry_run"]
    assert mail.got == []
