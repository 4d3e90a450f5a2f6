"""What a controller knows of a lab without asking anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _notify
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._status import Wanted
from ansible_collections.homelab.nixos.plugins.plugin_utils import _known

from tests.unit.plugins.module_utils.test_entries import NOON, record


def test_the_hosts_to_tell_of_are_those_that_are_managed():
    hostvars: dict[str, dict[str, Any]] = {
        "web": {"lab_stale_after": "30", "lab_flake_host": "builder"},
        "nas": {"lab_hold": {"reason": "Its disk is replaced", "until": "2099-01-01"}, "lab_hold_file": "/etc/hold"},
        "old": {"lab_hold": {"reason": "Long ago", "until": "2001-01-01"}},
        "builder": {"lab_managed": "no"},
    }
    lab = _known.lab(list(hostvars), hostvars, NOON)
    assert lab.hosts["web"] == Wanted(stale_after=30)
    assert "Its disk is replaced." in lab.hosts["nas"].hold
    assert lab.hosts["old"] == Wanted()
    assert lab.flake_host == "builder"
    assert lab.hold_files == {
        "web": "/var/lib/lab-auto-update/hold",
        "nas": "/etc/hold",
        "old": "/var/lib/lab-auto-update/hold",
    }
    assert _known.lab(["builder"], hostvars, NOON).hosts == {}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("lab_stale_after", "soon"), ("lab_hold", {"until": "2099-01-01"}), ("lab_managed", "perhaps")],
)
def test_a_setting_that_cannot_be_meant_is_named_with_its_host(setting: str, value: object):
    with pytest.raises(LabError, match=f"^web: .*{setting}"):
        _known.lab(["web"], {"web": {setting: value}}, NOON)


def test_the_log_of_a_controller_is_in_its_state_directory(tmp_path: Path):
    night = record(host="", operation="night", status="good")
    (tmp_path / "lab-auto-update.log").write_text(json.dumps(night) + "\ntorn\n")
    (tmp_path / "notifications").mkdir()
    for name in (
        _notify.file_name(_notify.receivers(["json://localhost"])[0].key, "20261122T020000Z-7f3a"),
        "lock",
        "x.new",
    ):
        (tmp_path / "notifications" / name).touch()
    known = _known.controller(str(tmp_path), 0)
    assert [one.as_result() for one in known.records] == [night]
    assert (known.skipped, known.undelivered) == (1, 1)
    nothing = _known.controller(str(tmp_path / "none"), 0)
    assert (nothing.records, nothing.skipped, nothing.undelivered) == ([], 0, 0)


def test_a_controller_that_is_a_host_too_speaks_of_runs_alone(tmp_path: Path):
    ran = [
        record(operation="open", status="failed", host=""),
        record(operation="night", status="good", host="nas"),
        *(record(host=host, seq=seq) for seq, host in enumerate(("web", "nas", *["laptop"] * 20))),
    ]
    (tmp_path / "lab-auto-update.log").write_text("".join(f"{json.dumps(one)}\n" for one in ran))
    known = _known.controller(str(tmp_path), 0)
    # and of no host, whatever is in there; however much was written since
    assert [(one.operation, one.host) for one in known.records] == [("open", ""), ("night", "")]


def test_a_question_is_answered_or_refused_in_a_sentence():
    status = {"hosts": [{"name": "web", "outcome": "lost"}, {"name": "nas", "outcome": "updated"}]}
    asked = _known.query("hosts[?outcome=='lost'].name")
    assert asked is not None
    assert asked(status) == ["web"]
    assert _known.query("") is None
    with pytest.raises(LabError, match=r"^lab_query is 'hosts\[', which is no question .* https://jmespath.org\.$"):
        _known.query("hosts[")
    wrong = _known.query("sum(hosts)")
    assert wrong is not None
    with pytest.raises(LabError, match=r"^lab_query is 'sum\(hosts\)', which is no question"):
        wrong(status)
