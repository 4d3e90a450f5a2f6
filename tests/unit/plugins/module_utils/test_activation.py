"""What switch-to-configuration says, and what its exit codes mean."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _activation
from ansible_collections.homelab.nixos.plugins.module_utils._activation import Ending, Units

INHIBITED = """There are changes to critical components of the system:
dbus-implementation: broker -> dbus
Pre-switch check 'switchInhibitors' failed
"""


@pytest.mark.parametrize(
    ("rc", "output", "before", "after", "ending", "touched"),
    [
        (0, "", [], [], Ending.OK, True),
        (4, "", ["old.service"], ["old.service"], Ending.OK, True),
        (4, "", [], [], Ending.OK, True),
        (4, "warning: the following units failed: dns.service\n", [], [], Ending.UNITS_FAILED, True),
        (4, "warning: the following units failed: old.service\n", ["old.service"], [], Ending.OK, True),
        (4, "", ["old.service"], ["new.service", "old.service"], Ending.UNITS_FAILED, True),
        (2, "Failed to set up /etc\n", [], [], Ending.ACTIVATE_FAILED, True),
        (100, "", [], [], Ending.REBOOT_NEEDED, False),
        (1, INHIBITED, [], [], Ending.REBOOT_NEEDED, False),
        (1, "Pre-switch check 'disk-layout' failed\n", [], [], Ending.REFUSED, False),
        (1, "Failed to install bootloader\n", [], [], Ending.FAILED, True),
        (127, "", [], [], Ending.FAILED, True),
    ],
)
def test_exit_codes(rc, output, before, after, ending, touched):
    verdict = _activation.verdict(rc, output, before, after)
    assert (verdict.ending, verdict.touched) == (ending, touched)
    assert verdict.ok is (ending is Ending.OK)


def test_only_units_that_were_not_failed_before_are_blamed():
    sentence = _activation.verdict(4, "", ["old.service"], ["new.service", "old.service"]).sentence
    assert "new.service" in sentence
    assert "old.service" not in sentence


@pytest.mark.parametrize(
    ("state", "ending"),
    [
        ({"Result": "success", "ExecMainStatus": "0"}, Ending.OK),
        ({"Result": "exit-code", "ExecMainStatus": "2"}, Ending.ACTIVATE_FAILED),
        ({"Result": "timeout", "ExecMainStatus": "15"}, Ending.TIMED_OUT),
        ({"Result": "signal", "ExecMainStatus": "9"}, Ending.KILLED),
        ({"Result": "oom-kill", "ExecMainStatus": "9"}, Ending.KILLED),
        ({}, Ending.FAILED),
    ],
)
def test_the_unit_that_ran_it_tells_how_it_ended(state, ending):
    assert _activation.unit_verdict(state, "", (), (), 60).ending is ending


def test_units_of_a_real_activation():
    text = """activating the configuration...
setting up /etc...
stopping the following units: old.service
reloading the following units: dbus.service
restarting the following units: nginx.service, web.service
starting the following units: timer.timer
the following new units were started: fresh.service
NOT restarting the following changed units: getty@tty1.service
warning: the following units failed: web.service
"""
    assert _activation.units(text) == Units(
        stopped=("old.service",),
        reloaded=("dbus.service",),
        restarted=("nginx.service", "web.service"),
        started=("timer.timer", "fresh.service"),
        skipped=("getty@tty1.service",),
        failed=("web.service",),
    )


def test_units_of_a_dry_activation():
    text = """would stop the following units: a.service
would NOT stop the following changed units: b.service
would activate the configuration...
would restart systemd
would reload the following units: c.service
would restart the following units: d.service, e.service
would start the following units: f.service
"""
    assert _activation.units(text) == Units(
        stopped=("a.service",),
        skipped=("b.service",),
        reloaded=("c.service",),
        restarted=("d.service", "e.service"),
        started=("f.service",),
    )


def test_an_activation_that_says_nothing_changed_no_unit():
    assert _activation.units("activating the configuration...\n") == Units()
