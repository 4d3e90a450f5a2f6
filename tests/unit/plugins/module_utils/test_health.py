"""Verdicts on a host's health."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _health
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.module_utils._vitals import Wanted, examine

DF = "Mounted on     Use% IUse%\n/              {used}%    {inodes}\n"


def status(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


@pytest.mark.parametrize(("used", "expected"), [(0, "ok"), (90, "ok"), (91, "fail"), (100, "fail")])
def test_disk_at_its_limit_is_well_and_over_it_is_not(used, expected):
    checks = _health.disk("/", DF.format(used=used, inodes="1%"), 90, 90)
    assert status(checks) == {"disk:/": expected, "inodes:/": "ok"}


def test_inodes_have_a_limit_of_their_own_and_some_file_systems_have_none():
    assert status(_health.disk("/", DF.format(used=1, inodes="91%"), 90, 90))["inodes:/"] == "fail"
    assert status(_health.disk("/", DF.format(used=1, inodes="-"), 90, 90))["inodes:/"] == "ok"


@pytest.mark.parametrize("text", ["", "df: /x: No such file", "Mounted on Use% IUse%\n/ many% 1%\n"])
def test_a_df_that_does_not_tell_is_unreadable(text):
    with pytest.raises(Unreadable):
        _health.disk("/", text, 90, 90)


def test_boot_is_checked_where_it_is_a_file_system_of_its_own():
    assert status(_health.boot("/boot", "Mounted on Avail\n/boot   15\n", 16)) == {"boot:/boot": "fail"}
    assert status(_health.boot("/boot", "Mounted on Avail\n/boot   16\n", 16)) == {"boot:/boot": "ok"}
    assert _health.boot("/boot", "Mounted on Avail\n/       1\n", 16) == []


@pytest.mark.parametrize(
    ("state", "failed", "excused", "expected"),
    [
        ("running", [], [], {"systemd": "ok", "failed_units": "ok"}),
        ("degraded", ["a.service"], [], {"systemd": "fail", "failed_units": "fail"}),
        ("degraded", ["a.service"], ["a.service"], {"systemd": "ok", "failed_units": "ok"}),
        ("degraded", ["a.service", "b.service"], ["a.service"], {"systemd": "fail", "failed_units": "fail"}),
        ("starting", [], [], {"systemd": "fail", "failed_units": "ok"}),
        ("maintenance", [], [], {"systemd": "fail", "failed_units": "ok"}),
        ("unknown", [], [], {"systemd": "fail", "failed_units": "ok"}),
    ],
)
def test_degraded_is_well_only_if_every_failed_unit_is_excused(state, failed, excused, expected):
    assert status(_health.systemd(state + "\n", failed, excused)) == expected


def test_a_silent_systemd_is_unreadable():
    with pytest.raises(Unreadable):
        _health.systemd("", [], [])


def test_services_have_to_be_active():
    text = (
        "Id=web.service\nLoadState=loaded\nActiveState=active\nSubState=running\n\n"
        "Id=dns.service\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\n\n"
        "Id=gone.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n"
    )
    checks = _health.services(["web", "dns.service", "gone"], text)
    assert status(checks) == {"service:web": "ok", "service:dns.service": "fail", "service:gone": "fail"}
    assert checks[2].observed == "not found"


def test_uptime_is_that_of_pid_1_and_not_of_the_kernel():
    stat = "1 (a ) b) S " + " ".join(["0"] * 18) + " 90000 0"
    (check,) = _health.uptime("1200.50 99.0\n", stat, 100, 6)
    assert (check.observed, check.status) == ("5 min", "fail")
    (check,) = _health.uptime("1200.50 99.0\n", stat, 100, 5)
    assert check.status == "ok"


def test_memory_and_clock():
    assert status(_health.memory("MemTotal: 1 kB\nMemAvailable: 65536 kB\n", 64)) == {"memory": "ok"}
    assert status(_health.memory("MemAvailable: 65535 kB\n", 64)) == {"memory": "fail"}
    assert status(_health.clock("no\n")) == {"clock": "fail"}
    for question in (lambda: _health.memory("", 64), lambda: _health.clock("")):
        with pytest.raises(Unreadable):
            question()


def test_a_host_of_which_nothing_is_known_is_not_healthy():
    assert not _health.healthy([])
    assert not _health.healthy([_health.unknown("memory", "", "no answer")])


def test_levels_by_kind_and_by_name_and_the_name_wins():
    fail = [
        Check("disk:/srv", "fail", "", "", ""),
        Check("disk:/", "ok", "", "", ""),
        Check("clock", "fail", "", "", ""),
    ]
    assert not _health.healthy(_health.graded(fail, {}))
    assert _health.healthy(_health.graded(fail, {"disk:/srv": "wanted"}))
    assert not _health.healthy(_health.graded(fail, {"disk": "wanted", "disk:/srv": "required"}))
    assert not _health.healthy(_health.graded(fail, {"disk": "wanted", "clock": "required"}))


@pytest.mark.parametrize("levels", [{"disks": "wanted"}, {"disk": "optional"}, {"disk": 1}])
def test_a_misspelt_level_is_refused_by_name(levels):
    with pytest.raises(LabError, match="disk"):
        _health.levels(levels)


def test_a_host_that_answers_no_question_fails_every_check_and_raises_nothing():
    def silent(argv, **_options):
        return Completed(argv=tuple(argv), rc=124, stdout="", stderr="", timed_out=True, seconds=10)

    checks = examine(silent, Wanted(services=["web.service"]))
    assert {check.status for check in checks} == {"unknown"}
    assert {check.kind for check in checks} == {"disk", "boot", "systemd", "service", "uptime", "memory", "clock"}
