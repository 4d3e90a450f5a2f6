"""The units by which a host puts itself back: no shell, no Python, nothing of the new system, and a reboot at worst."""

from __future__ import annotations

import configparser
import re

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _revert_units
from ansible_collections.homelab.nixos.plugins.module_utils._revert_units import REVERT, STAGES, timer

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
TEXTS = _revert_units.texts(OLD, NEW, {"activation": 1020, "confirmation": 120, "verification": 420}, 900)


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(TEXTS[name])
    return parser


def test_the_revert_runs_programs_of_the_old_system_only_and_no_shell():
    service = unit(REVERT)["Service"]
    programs = re.findall(r"^Exec\w+=-?(\S+)", TEXTS[REVERT], re.MULTILINE)
    assert len(programs) == 4
    assert all(program.startswith(f"{OLD}/") for program in programs)
    assert service["ExecStart"] == f"{OLD}/bin/switch-to-configuration test"
    assert not any(word in TEXTS[REVERT] for word in ("sh -c", "bash", "python", NEW + "/bin"))


def test_a_revert_that_fails_ends_in_a_reboot_and_other_failed_units_are_no_failure():
    assert unit(REVERT)["Unit"]["FailureAction"] == "reboot"
    assert unit(REVERT)["Service"]["SuccessExitStatus"] == "4"
    assert unit(REVERT)["Service"]["TimeoutStartSec"] == "900"


def test_an_activation_that_still_runs_is_stopped_first_because_it_holds_the_lock():
    assert "/systemd/bin/systemctl stop lab-auto-update-activation.service\n" in TEXTS[REVERT]


def test_a_third_system_is_not_reverted():
    condition = unit(REVERT)["Service"]["ExecCondition"].split(maxsplit=1)[1]
    assert condition == f"/run/current-system -ef {NEW} -o /run/current-system -ef {OLD}"


@pytest.mark.parametrize(
    ("stage", "seconds"), [("activation", "1020"), ("confirmation", "120"), ("verification", "420")]
)
def test_each_stage_has_a_timer_that_keeps_its_second(stage, seconds):
    found = unit(timer(stage))["Timer"]
    assert (found["OnActiveSec"], found["AccuracySec"], found["Unit"]) == (seconds, "1s", REVERT)


def test_there_is_a_unit_for_every_stage_and_nothing_else():
    assert set(TEXTS) == {REVERT, *map(timer, STAGES)}
