"""lab_claim: one run at a time changes a host, and the host itself knows which; against real guests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller

from tests.integration.conftest import ROOT, Module
from tests.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("free")]

HOST = "web"
STATE = "/var/lib/lab-auto-update"
NOTE = f"{STATE}/transaction.json"
PROVEN = "/nix/var/nix/gcroots/lab-auto-update/proven"
US = {"controller": "tower", "run_id": "night-1"}
THEM = {"controller": "laptop", "run_id": "night-2"}
# how `ansible` prints the result of one host
RESULT = re.compile(r"^(\S+) \| (\S+) => (\{.*?^\})", re.MULTILINE | re.DOTALL)


@pytest.fixture
def free(lab: Lab) -> Iterator[None]:
    """The host is nobody's and remembers nothing, before and afterwards."""

    def forget() -> None:
        lab.run(HOST, ["rm", "-rf", "--", STATE, PROVEN], check=True)

    forget()
    yield
    forget()


def read(lab: Lab, path: str) -> str:
    return lab.run(HOST, ["cat", "--", path], check=True).stdout


def note(lab: Lab) -> dict[str, Any]:
    """The note as it is on the host, not as the code under test sees it."""
    found: dict[str, Any] = json.loads(read(lab, NOTE))
    return found


def write(lab: Lab, path: str, text: str) -> None:
    lab.run(HOST, ["tee", "--", path], stdin=text, check=True)


def files(lab: Lab) -> str:
    """Every file of the host's state, with its contents."""
    return lab.run(HOST, ["sh", "-c", f"test -e {STATE} && grep -r '' {STATE}"]).stdout


def test_a_host_is_taken_once_and_whoever_comes_then_is_told_by_whom_and_since_when(lab: Lab, module: Module):
    assert module(HOST, "lab_claim", US, check=True)["changed"]
    assert not files(lab)

    taken = module(HOST, "lab_claim", US)
    assert taken["changed"], taken
    assert note(lab) == taken["transaction"]
    assert (taken["transaction"]["controller"], taken["transaction"]["run_id"]) == ("tower", "night-1")
    assert taken["transaction"]["step"] == "claimed"
    assert taken["transaction"]["boot_id"] == read(lab, "/proc/sys/kernel/random/boot_id").strip()
    assert taken["transaction"]["controller_name"] == _controller.name()
    assert taken["transaction"]["process"]["pid_namespace"] == os.stat("/proc/self/ns/pid").st_ino

    again = module(HOST, "lab_claim", US)
    assert not again["changed"]
    assert again["transaction"]["since"] == taken["transaction"]["since"]

    before = files(lab)
    held = module(HOST, "lab_claim", THEM)
    assert held["failed"]
    assert held["held_by"] == note(lab)
    assert re.match(
        r"Another run is changing this host\. It is held by \S+ \(controller tower\), run night-1, "
        r"since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC, until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC at most\. ",
        held["msg"],
    )
    assert files(lab) == before


def test_a_claim_outlives_a_power_cut_of_the_host(lab: Lab, module: Module):
    taken = module(HOST, "lab_claim", US)
    lab.stop(HOST)
    lab.start(HOST, wait=True)
    assert note(lab) == taken["transaction"]
    assert module(HOST, "lab_claim", THEM)["held_by"] == taken["transaction"]


def test_a_step_is_written_with_its_bound_and_its_boot(lab: Lab, module: Module):
    taken = module(HOST, "lab_claim", {**US, "seconds": 60})["transaction"]
    wanted = {**US, "state": "renewed", "step": "reboot", "seconds": 900, "guard_seconds": 120}
    renewed = module(HOST, "lab_claim", wanted)["transaction"]
    assert note(lab) == renewed
    assert (renewed["step"], renewed["guard_seconds"], renewed["since"]) == ("reboot", 120, taken["since"])
    assert 900 <= renewed["deadline"] - taken["since"] <= 960

    lost = module(HOST, "lab_claim", {**THEM, "state": "renewed", "step": "rollback"})
    assert lost["failed"]
    assert lost["msg"].startswith("Run night-2 does not hold this host. It is held by")
    assert note(lab) == renewed


def test_a_host_is_released_once_by_its_holder_alone_and_keeps_what_it_learned(lab: Lab, module: Module):
    current = lab.run(HOST, ["readlink", "-f", "/run/current-system"], check=True).stdout.strip()
    module(HOST, "lab_claim", US)
    target = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
    write(lab, NOTE, json.dumps({**note(lab), "target": target}))

    before = files(lab)
    ending = {"state": "released", "outcome": "rolled_back", "reason": "web.service is failed.", "remember": True}
    foreign = module(HOST, "lab_claim", {**THEM, **ending})
    assert "Run night-2 does not hold this host. It is held by" in foreign["msg"]
    assert foreign["held_by"]["run_id"] == "night-1"
    assert files(lab) == before

    assert module(HOST, "lab_claim", {**US, **ending})["changed"]
    last = json.loads(read(lab, f"{STATE}/last.json"))
    assert (last["run_id"], last["outcome"], last["reason"]) == ("night-1", "rolled_back", "web.service is failed.")
    failed = json.loads(read(lab, f"{STATE}/failed.json"))["systems"]
    assert failed[target]["reason"] == "web.service is failed."
    assert lab.run(HOST, ["test", "-e", NOTE]).returncode == 1
    after = files(lab)
    assert not module(HOST, "lab_claim", {**US, **ending})["changed"]
    nobodys = module(HOST, "lab_claim", {**THEM, **ending})
    assert nobodys["failed"]
    assert "does not hold this host. Nobody holds it." in nobodys["msg"]
    assert files(lab) == after

    # the same system, and now it went well
    module(HOST, "lab_claim", THEM)
    write(lab, NOTE, json.dumps({**note(lab), "target": target}))
    module(HOST, "lab_claim", {**THEM, "state": "released", "outcome": "updated", "proven": True})
    assert json.loads(read(lab, f"{STATE}/failed.json"))["systems"] == {}
    assert lab.run(HOST, ["readlink", PROVEN], check=True).stdout.strip() == current
    kept = ["failed.json", "last.json", "lock", "log.json"]
    assert lab.run(HOST, ["sh", "-c", f"ls {STATE}"]).stdout.split() == kept


def test_a_torn_note_is_named_and_nobody_takes_the_host(lab: Lab, module: Module):
    module(HOST, "lab_claim", US)
    for text in ("", '{"version": 1, "controller": "tow'):
        write(lab, NOTE, text)
        result = module(HOST, "lab_claim", US)
        assert result["failed"]
        assert f"{NOTE} cannot be used: it " in result["msg"]
        assert read(lab, NOTE) == text


def test_a_dead_run_of_this_controller_is_settled_at_once_and_a_live_one_is_not(lab: Lab, module: Module):
    """The process that takes the host here has ended when the next one comes."""
    taken = module(HOST, "lab_claim", {"run_id": "night-1"})["transaction"]
    assert taken["controller"] == Path("/etc/machine-id").read_text().strip()

    alive = _controller.process(os.getpid())
    assert alive is not None
    write(lab, NOTE, json.dumps({**taken, "process": asdict(alive)}))
    for state in ("taken", "settled"):
        result = module(HOST, "lab_claim", {"run_id": "night-2", "state": state})
        assert result["held_by"]["run_id"] == "night-1", result

    write(lab, NOTE, json.dumps(taken))
    # another controller knows nothing of processes here
    assert "held_by" in module(HOST, "lab_claim", {"run_id": "night-2", "controller": "tower"})
    unsettled = module(HOST, "lab_claim", {"run_id": "night-2"})
    assert unsettled["failed"]
    assert "A run that did not end has left this host at step claimed" in unsettled["msg"]
    settled = module(HOST, "lab_claim", {"run_id": "night-2", "state": "settled"})
    assert settled["changed"], settled
    assert settled["outcome"] == "failed"
    assert settled["left_by"]["run_id"] == "night-1"
    assert not module(HOST, "lab_claim", {"run_id": "night-2", "state": "settled"})["changed"]
    assert module(HOST, "lab_claim", {"run_id": "night-2"})["changed"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"run_id": "../x"}, "run_id is '../x'"),
        ({"controller": "a b"}, "Set lab_controller to"),
        ({"seconds": 0}, "seconds is 0"),
        ({"dead_run": "night-0"}, "are filled in on the controller"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(lab: Lab, module: Module, args: dict, words: str):
    result = module(HOST, "lab_claim", {**US, **args})
    assert result["failed"]
    assert words in result["msg"]
    assert not files(lab)


def test_the_bare_module_does_not_know_who_asks(lab: Lab):
    """`library` alone finds the module and not its action plugin."""
    env = {
        **os.environ,
        "ANSIBLE_ACTION_PLUGINS": "/nowhere",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(lab.directory / "cp"),
    }
    ansible = Path(sys.executable).parent / "ansible"
    done = subprocess.run(
        [ansible, HOST, "-i", lab.inventory, "-m", "lab_claim", "-a", "run_id=night-1"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "without its action plugin" in " ".join(done.stdout.split())


@pytest.mark.soak
def test_of_fifty_controllers_that_take_one_host_at_once_exactly_one_wins(lab: Lab, tmp_path: Path):
    address = lab.settings()["hosts"][HOST]["address"]
    names = [f"controller-{number}" for number in range(50)]
    variables = {
        "ansible_host": address,
        "ansible_host_key_alias": HOST,
        # each has a connection of its own, as controllers have
        "ansible_ssh_args": "-o ControlMaster=no -o ControlPath=none",
    }
    inventory = tmp_path / "fifty.json"
    inventory.write_text(
        json.dumps({"fifty": {"hosts": {name: {**variables, "controller_id": name} for name in names}}})
    )
    ansible = str(Path(sys.executable).parent / "ansible")
    for turn in range(3):
        done = subprocess.run(
            [
                *(ansible, "fifty", "-i", str(lab.inventory), "-i", str(inventory), "--forks", "50"),
                *("-m", "lab_claim", "-a", json.dumps({"controller": "{{ controller_id }}", "run_id": f"run-{turn}"})),
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        told = {name: (word, json.loads(result)) for name, word, result in RESULT.findall(done.stdout)}
        assert sorted(told) == sorted(names), done.stdout + done.stderr
        winners = [name for name, (word, _result) in told.items() if word == "CHANGED"]
        assert len(winners) == 1, done.stdout
        assert note(lab)["controller"] == winners[0]
        for name in set(names) - set(winners):
            word, result = told[name]
            assert word == "FAILED!", result
            assert result["held_by"]["controller"] == winners[0], result
            assert f"(controller {winners[0]}), run run-{turn}, since " in result["msg"]
        lab.run(HOST, ["rm", "--", NOTE], check=True)
