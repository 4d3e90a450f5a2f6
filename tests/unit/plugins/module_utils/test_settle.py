"""What settling tells of a run that has left a host; the rest is on the lab, in test_interrupted.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _settle
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import STEPS, Step, Transaction

LEFT = Transaction("tower", "tower", "run-1", None, 1795312800, 1795313400, "claimed", "boot-1")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2"])
def test_a_reboot_is_the_runs_own_from_the_step_on_in_which_it_ordered_one(step: Step, boot_id: str):
    found = replace(LEFT, step=step)
    mine = replace(LEFT, run_id="run-2", boot_id=boot_id)
    came = step == "reboot_verification" or (step in ("reboot", "rollback") and boot_id == "boot-2")
    assert _settle._was_rebooted(found, mine) == came
