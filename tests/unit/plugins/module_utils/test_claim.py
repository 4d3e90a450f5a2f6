"""The verbs of lab_claim, with files that are real and programs that are not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _claim, _host
from ansible_collections.homelab.nixos.plugins.module_utils._claim import Claimant, Ending
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import PROVEN_ROOT
from ansible_collections.homelab.nixos.plugins.module_utils._state import Deferrals, State
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import (
    ClaimLost,
    Held,
    Process,
    Step,
    Torn,
    Transaction,
    Unsettled,
)

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
US = Claimant("tower", "tower", "run-1", Process(4711, 885421, "boot-0", 4026531836), 600)
THEM = replace(US, controller="laptop", controller_name="laptop")
DRY = replace(US, dry_run=True)


@dataclass
class Programs:
    """A host that runs C(NEW) in boot C(boot-1), and what was asked of it beside reading that."""

    proven: str = OLD
    asked: list[tuple[str, ...]] = field(default_factory=list)
    # the option of the C(test) that finds nothing
    missing: str = ""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        data: str | None = None,
    ) -> Completed:
        known = {_host.BOOT_ID: "boot-1", "/proc/uptime": "12.5 40"}
        read = "".join(f"{path}:{text}\n" for path, text in known.items() if path in argv)
        answer = {"grep": read, "realpath": f"{NEW}\n", "readlink": f"{self.proven}\n"}.get(argv[0])
        if answer is None:
            self.asked.append(tuple(argv))
        return Completed(tuple(argv), int(argv[:2] == ["test", self.missing]), answer or "", "")


@pytest.fixture
def run() -> Programs:
    return Programs()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(str(tmp_path / "lab"))


def held(state: State) -> Transaction:
    found = state.transaction()
    assert isinstance(found, Transaction)
    return found


def test_taking_is_a_change_once(run: Programs, state: State):
    assert _claim.take(run, state, US)["changed"]
    assert (held(state).run_id, held(state).boot_id, held(state).process) == ("run-1", "boot-1", US.process)
    again = _claim.take(run, state, replace(US, seconds=900))
    assert not again["changed"]
    assert again["transaction"] == held(state).as_result()
    assert held(state).deadline >= held(state).since + 900
    state.write(replace(held(state), deadline=held(state).since))
    assert _claim.take(run, state, US)["changed"]


def test_a_dry_run_says_the_same_and_leaves_nothing_behind(run: Programs, state: State):
    assert _claim.take(run, state, DRY)["changed"]
    assert not _claim.settle(run, state, DRY)["changed"]
    with pytest.raises(ClaimLost):
        _claim.renew(run, state, DRY)
    with pytest.raises(ClaimLost):
        _claim.release(run, state, DRY, Ending("updated"))
    assert not os.path.exists(state.directory)

    _claim.take(run, state, US)
    before = held(state)
    assert not _claim.take(run, state, DRY)["changed"]
    assert _claim.renew(run, state, DRY, step="activation", proven=True)["changed"]
    assert _claim.settle(run, state, DRY)["changed"]
    assert _claim.release(run, state, DRY, Ending("updated", proven=True))["changed"]
    for verb in (_claim.take, _claim.settle):
        with pytest.raises(Held):
            verb(run, state, replace(THEM, dry_run=True))
    with pytest.raises(Unsettled):
        _claim.take(run, state, replace(DRY, run_id="run-2", dead_run="run-1"))
    assert _claim.settle(run, state, replace(DRY, run_id="run-2", dead_run="run-1"))["changed"]
    assert held(state) == before
    assert run.asked == []


def test_a_renewal_writes_the_step_and_proves_what_runs(run: Programs, state: State):
    _claim.take(run, state, US)
    _claim.renew(run, state, US, step="reboot", guard_seconds=120)
    assert (held(state).step, held(state).guard_seconds) == ("reboot", 120)
    _claim.renew(run, state, US, proven=True)
    assert (held(state).step, held(state).guard_seconds) == ("reboot", 120)
    # by renaming: there is no moment without a root
    assert [argv[0] for argv in run.asked] == ["mkdir", "ln", "mv"]
    assert run.asked[1][-2] == NEW
    assert run.asked[2][-1] == PROVEN_ROOT


def test_what_is_proven_again_stays_as_old_as_it_was(run: Programs, state: State):
    run.proven = NEW
    _claim.take(run, state, US)
    _claim.renew(run, state, US, proven=True)
    _claim.release(run, state, US, Ending("unchanged", proven=True))
    assert run.asked == []


def leave_alone(state: State, who: Claimant, reason: str) -> dict[str, object]:
    return _claim.note(state, who, Ending("deferred", reason), deferral=True)


def find_right(state: State, who: Claimant) -> dict[str, object]:
    return _claim.note(state, who, Ending("unchanged"), deferral=False)


def records(state: State) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(state.log.path).read_text().splitlines()]


def count(state: State, who: Claimant, reason: str) -> dict[str, Any]:
    found = leave_alone(state, who, reason)["deferrals"]
    assert isinstance(found, dict)
    return found


def test_a_night_in_which_a_host_was_left_alone_counts_once_and_a_good_end_ends_the_row(run: Programs, state: State):
    first = count(state, US, "kim is logged in.")
    assert state.deferrals() == Deferrals(**first)
    assert leave_alone(state, US, "kim is logged in, still.") == {"changed": False, "deferrals": first}
    # it asked not to be touched, and somebody else touches it: both are so
    _claim.take(run, state, THEM)
    second = count(state, replace(US, run_id="run-2"), "A backup runs.")
    assert second == {**first, "nights": 2, "reason": "A backup runs.", "run_id": "run-2"}
    for ending, nights in ((Ending("pending"), 2), (Ending("rolled_back"), 2), (Ending("updated"), None)):
        _claim.take(run, state, THEM)
        _claim.release(run, state, THEM, ending)
        found = state.deferrals()
        assert (found.nights if found else None) == nights
    assert count(state, US, "kim is logged in.")["nights"] == 1
    assert find_right(state, US) == {"changed": True, "deferrals": None}
    assert find_right(state, US) == {"changed": False, "deferrals": None}
    assert state.deferrals() is None


def test_a_dry_run_counts_and_clears_nothing(state: State):
    assert count(state, DRY, "kim is logged in.")["nights"] == 1
    assert not find_right(state, DRY)["changed"]
    assert not os.path.exists(state.directory)
    leave_alone(state, US, "kim is logged in.")
    assert not leave_alone(state, DRY, "kim is logged in.")["changed"]
    assert count(state, replace(DRY, run_id="run-2"), "x")["nights"] == 2
    assert find_right(state, DRY)["changed"]
    found = state.deferrals()
    assert found is not None
    assert found.nights == 1


def test_the_log_has_each_step_that_begins_and_one_end_for_each_run(run: Programs, state: State):
    _claim.take(run, state, US)
    _claim.take(run, state, US)
    for step in ("activation", "activation", "commit"):
        _claim.renew(run, state, US, step)
    _claim.release(run, state, US, Ending("rolled_back", "web.service is failed.", rebooted=True))
    _claim.release(run, state, US, Ending("rolled_back", "web.service is failed."))
    # the night tells every host how it ended
    _claim.note(state, US, Ending("rolled_back", "web.service is failed."), deferral=False)
    leave_alone(state, replace(US, run_id="run-2"), "kim is logged in.")
    told = [(one["run_id"], one["seq"], one["operation"], one["status"]) for one in records(state)]
    assert told == [
        ("run-1", 1, "claim", "begun"),
        ("run-1", 2, "activation", "begun"),
        ("run-1", 3, "commit", "begun"),
        ("run-1", 4, "outcome", "rolled_back"),
        ("run-2", 1, "outcome", "deferred"),
    ]
    assert records(state)[3]["details"] == {
        "reason": "web.service is failed.",
        "from": None,
        "target": None,
        "rebooted": True,
    }
    assert state.log.warnings == []


def test_a_host_that_is_held_has_no_end_of_that_run_yet(run: Programs, state: State):
    _claim.take(run, state, US)
    _claim.note(state, US, Ending("pending"), deferral=False)
    assert [one["operation"] for one in records(state)] == ["claim"]


def test_a_host_that_cannot_keep_a_record_is_not_taken(run: Programs, state: State):
    os.makedirs(state.directory)
    state.log.path = "/dev/full"
    with pytest.raises(LabError, match=r"/dev/full cannot be written: No space left on device\."):
        _claim.take(run, state, US)
    assert state.transaction() is None


def test_a_host_that_has_no_room_for_records_any_more_is_brought_to_its_end(run: Programs, state: State):
    _claim.take(run, state, US)
    state.log.path = "/dev/full"
    _claim.renew(run, state, US, "activation")
    _claim.release(run, state, US, Ending("updated"))
    assert state.transaction() is None
    assert (
        state.log.warnings == ["/dev/full cannot be written: No space left on device. The journal has the record."] * 2
    )


def test_a_count_that_cannot_be_cleared_does_not_keep_a_host_that_was_updated(run: Programs, state: State):
    os.makedirs(state.path("deferrals.json"))
    _claim.take(run, state, US)
    assert _claim.release(run, state, US, Ending("updated"))["changed"]
    assert state.transaction() is None


@pytest.mark.parametrize("step", ["reboot", "reboot_verification"])
def test_what_was_verified_is_not_the_boot_that_comes_next(run: Programs, state: State, step: Step):
    _claim.take(run, state, US)
    state.write(replace(held(state), step="commit", origin=OLD, target=NEW, verified=True))
    _claim.renew(run, state, US, step=step)
    assert not held(state).verified


LEFT = json.dumps({"argv": ["/bin/ansible-playbook", "x"], "environment": {}, "night": {}})


def test_what_finishes_a_night_is_left_before_the_step_that_counts_on_it(run: Programs, state: State):
    _claim.take(run, state, US)
    state.write(replace(held(state), step="verification", origin=OLD, target=NEW))
    _claim.renew(run, state, replace(US, dry_run=True), step="reboot", resume=LEFT)
    assert not state.is_left("run-1")
    _claim.renew(run, state, US, step="reboot", guard_seconds=60, resume=LEFT)
    assert (held(state).step, state.is_left("run-1")) == ("reboot", True)
    assert ("test", "-e", f"{NEW}/etc/systemd/system/lab-auto-update-resume.service") in run.asked
    with pytest.raises(LabError, match="resume goes with step=reboot"):
        _claim.renew(run, state, US, step="commit", resume=LEFT)


@pytest.mark.parametrize(("missing", "words"), [("-x", "in a container"), ("-e", "lab-auto-update-host.enable")])
def test_a_host_that_could_not_finish_its_night_is_not_left_to_do_so(
    run: Programs, state: State, missing: str, words: str
):
    _claim.take(run, state, US)
    state.write(replace(held(state), step="verification", origin=OLD, target=NEW))
    run.missing = missing
    with pytest.raises(LabError, match=words):
        _claim.renew(run, state, US, step="reboot", resume=LEFT)
    assert (held(state).step, state.is_left("run-1")) == ("verification", False)


def test_a_run_that_went_down_with_its_host_is_not_taken_for_dead_while_its_boot_has_to_finish_it(
    run: Programs, state: State
):
    _claim.take(run, state, US)
    state.write(replace(held(state), step="verification", origin=OLD, target=NEW))
    _claim.renew(run, state, US, step="reboot", resume=LEFT)
    with pytest.raises(Held):
        _claim.settle(run, state, replace(US, run_id="run-2", dead_run="run-1"))
    assert held(state).run_id == "run-1"


def test_only_the_holder_releases_and_it_does_so_once(run: Programs, state: State):
    _claim.take(run, state, US)
    with pytest.raises(ClaimLost, match="held by tower"):
        _claim.release(run, state, THEM, Ending("updated", proven=True))
    assert _claim.release(run, state, US, Ending("unchanged"))["changed"]
    assert not _claim.release(run, state, US, Ending("unchanged"))["changed"]
    with pytest.raises(ClaimLost, match="Nobody holds it"):
        _claim.release(run, state, THEM, Ending("unchanged"))
    assert (state.last() or {})["outcome"] == "unchanged"
    assert run.asked == []


def test_a_torn_note_is_nobodys_to_take_renew_or_release(run: Programs, state: State):
    _claim.take(run, state, US)
    Path(state.path("transaction.json")).write_text("{")
    with pytest.raises(Unsettled):
        _claim.take(run, state, US)
    with pytest.raises(ClaimLost):
        _claim.renew(run, state, US)
    with pytest.raises(ClaimLost):
        _claim.release(run, state, US, Ending("unchanged"))
    assert isinstance(state.transaction(), Torn)


def test_a_system_that_failed_is_remembered_until_it_went_well(run: Programs, state: State):
    for ending, remembered in (
        (Ending("rolled_back", "unconfirmed"), []),
        (Ending("rolled_back", "web.service is failed.", remember=True), [NEW]),
        (Ending("held"), [NEW]),
        (Ending("pending"), []),
        (Ending("failed", "", remember=True), [NEW]),
        (Ending("updated"), []),
    ):
        _claim.take(run, state, US)
        state.write(replace(held(state), target=NEW, origin=OLD))
        _claim.release(run, state, US, ending)
        assert list(state.failed_systems()) == remembered
    with pytest.raises(LabError, match="remember goes with a system that failed"):
        _claim.release(run, state, US, Ending("updated", remember=True))


def test_failed_systems_that_cannot_be_told_stop_a_memory_and_not_an_update_that_went_well(run: Programs, state: State):
    _claim.take(run, state, US)
    state.write(replace(held(state), target=NEW))
    Path(state.path("failed.json")).write_text("")
    with pytest.raises(Unreadable):
        _claim.release(run, state, US, Ending("rolled_back", remember=True))
    assert state.transaction() is not None
    assert _claim.release(run, state, US, Ending("updated"))["changed"]


PARAMS: dict[str, Any] = {
    "state": "taken",
    "run_id": "run-1",
    "controller": "tower",
    "controller_name": "tower",
    "process": {"pid": 4711, "start": 885421, "boot_id": "boot-0", "pid_namespace": 4026531836},
    "seconds": 600,
    "dead_run": None,
    "step": None,
    "guard_seconds": None,
    "resume": None,
    "outcome": None,
    "reason": "",
    "remember": False,
    "proven": False,
    "rebooted": False,
    "deferral": False,
}


def test_the_options_say_who_asks():
    assert _claim.claimant(PARAMS, False) == US
    assert _claim.claimant({**PARAMS, "state": "renewed", "step": "reboot", "proven": True}, True) == DRY


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"controller": None}, "without its action plugin"),
        ({"controller": "a b"}, "lab_controller"),
        ({"run_id": "../x"}, r"run_id is '\.\./x'"),
        ({"process": {"pid": 1}}, "process is not"),
        ({"step": "activation"}, "step goes with state=renewed, not with taken"),
        ({"guard_seconds": 5}, "guard_seconds goes with"),
        ({"resume": "{}"}, "resume goes with state=renewed"),
        ({"proven": True}, "proven goes with state=renewed or released"),
        ({"state": "taken", "reason": "x"}, "reason goes with state=released or noted"),
        ({"state": "noted", "remember": True}, "remember goes with state=released"),
        ({"state": "settled", "outcome": "updated"}, "outcome goes with state=released or noted"),
        ({"state": "renewed", "remember": True}, "remember goes with"),
        ({"state": "released", "deferral": True}, "deferral goes with state=noted"),
    ],
)
def test_options_that_contradict_each_other_are_named(change: dict, words: str):
    with pytest.raises(LabError, match=words):
        _claim.claimant({**PARAMS, **change}, False)
