"""What the boot guard decides, on a root of its own: every program that changes something is a recorder, sleep too."""

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "nix" / "boot-guard.sh"
OLD = f"/nix/store/{'0' * 32}-nixos-system-web-26.05"
NEW = f"/nix/store/{'1' * 32}-nixos-system-web-26.11"
THIS_BOOT = "11111111-1111-4111-8111-111111111111"
OLD_BOOT = "00000000-0000-4000-8000-000000000000"
RUN = "20261122T020000Z-7f3a"
STATE = "var/lib/lab-auto-update"
CANDIDATES = "nix/var/nix/profiles/system-profiles"

# Each says how it was called, and does then what the test has put in its place: HOOKS/NAME, or nothing.
RECORDER = """#!/bin/bash
name=${0##*/}
[ "$name" != switch-to-configuration ] || name=stc
echo "$name $*${NIXOS_NO_CHECK:+ unchecked}" >> "$ROOT/record"
if [ "$name" = sleep ]; then
  read -r seconds _ < "$ROOT/proc/uptime"
  echo "$((${seconds%.*} + $1)).40 1.00" > "$ROOT/proc/uptime"
fi
[ ! -e "$ROOT/hooks/$name" ] || . "$ROOT/hooks/$name"
"""


class Host:
    """A host after its boot, at an uptime of 1000 s."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file("proc/uptime", "1000.40 1.00\n")
        self.file("proc/sys/kernel/random/boot_id", f"{THIS_BOOT}\n")
        self.file(f"{CANDIDATES}/lab-candidate", "")
        self.file(f"{CANDIDATES}/lab-candidate-3-link", "")
        self.file(f"{CANDIDATES}/other", "")
        (root / STATE).mkdir(parents=True)
        self.booted(NEW)
        self.program(OLD.lstrip("/") + "/bin/switch-to-configuration")
        for name in ("nix-env", "systemctl", "sleep"):
            self.program(f"bin/{name}")

    def file(self, path: str, text: str) -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def program(self, path: str) -> None:
        self.file(path, RECORDER).chmod(0o755)

    def hook(self, name: str, script: str) -> None:
        self.file(f"hooks/{name}", script)

    def booted(self, system: str) -> None:
        link = self.root / "run/booted-system"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(system)

    def transaction(self, **changes: object) -> str:
        text = json.dumps({**TRANSACTION, **changes}, indent=2)
        self.file(f"{STATE}/transaction.json", text)
        return text

    def guard(self) -> subprocess.CompletedProcess[str]:
        root = str(self.root)
        return subprocess.run(
            ["bash", SCRIPT],
            env={"PATH": f"{root}/bin:{os.environ['PATH']}", "ROOT": root, "BOOT_GUARD_ROOT": root},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    @property
    def record(self) -> list[str]:
        path = self.root / "record"
        return path.read_text().replace(str(self.root), "").splitlines() if path.exists() else []

    @property
    def marker(self) -> str | None:
        path = self.root / STATE / "boot-guard"
        return path.read_text() if path.is_file() else None


TRANSACTION: dict[str, object] = {
    "version": 1,
    "controller": "c0ffee",
    "controller_name": "controller",
    "run_id": RUN,
    "process": {"pid": 7, "start": 8, "boot_id": OLD_BOOT, "pid_namespace": 9},
    "since": 1800000000,
    "deadline": 1800000600,
    "step": "reboot",
    "boot_id": OLD_BOOT,
    "from": OLD,
    "target": NEW,
    "failed_units": ["a\tb.service"],
    "verified": False,
    "guard_seconds": 3,
    "guard_until": None,
}
DEFAULT_AGAIN = [f"nix-env --profile /nix/var/nix/profiles/system --set {OLD}", "stc boot"]
PUT_BACK = [*DEFAULT_AGAIN, "systemctl reboot"]
LIVE = [*DEFAULT_AGAIN, "stc test unchecked"]


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def left_alone(host, done, said):
    assert (done.returncode, done.stderr, host.record, host.marker) == (0, "", [], None)
    assert said in done.stdout and done.stdout.count("\n") == (1 if said else 0)


# ---- nothing to do -------------------------------------------------------------------------------------------------
def test_no_transaction(host):
    left_alone(host, host.guard(), "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\0\0\0",
        '{"version": 1, "step": "reb',
        "[]",
        '"reboot"',
        "{}",
        json.dumps({**TRANSACTION, "version": 2}),
        json.dumps({**TRANSACTION, "step": None}),
        json.dumps({**TRANSACTION, "step": ""}),
        json.dumps({**TRANSACTION, "guard_seconds": "3"}),
        json.dumps({**TRANSACTION, "guard_until": True, "step": "reboot_verification"}),
        json.dumps({**TRANSACTION, "from": [OLD]}),
    ],
)
def test_a_torn_or_unknown_transaction_is_named_and_left_to_the_next_run(host, text):
    host.file(f"{STATE}/transaction.json", text)
    left_alone(host, host.guard(), "transaction.json cannot be read")


@pytest.mark.parametrize("step", ["claimed", "activation", "verification", "commit", "rollback"])
def test_only_a_reboot_concerns_it(host, step):
    host.transaction(step=step)
    left_alone(host, host.guard(), "")


def test_a_host_that_is_still_to_be_rebooted(host):
    host.transaction(boot_id=THIS_BOOT)
    left_alone(host, host.guard(), "")


@pytest.mark.parametrize("step", ["reboot", "reboot_verification"])
def test_a_host_that_booted_its_former_system(host, step):
    host.transaction(step=step)
    host.booted(OLD)
    left_alone(host, host.guard(), f"back on {OLD}")


NOT_A_SYSTEM = f"/nix/store/{'2' * 32}-source"


@pytest.mark.parametrize(
    "origin", [None, "", "/", "/etc", f"{OLD}/../../../etc", f"{OLD} x", f"{OLD}\n", "$(reboot)", NOT_A_SYSTEM]
)
def test_a_former_system_that_is_none(host, origin):
    host.transaction(**{"from": origin})
    left_alone(host, host.guard(), "as the system to go back to, which is none")


# ---- waiting -------------------------------------------------------------------------------------------------------
def test_without_a_confirmation_the_host_goes_back_and_reboots(host):
    host.transaction()
    host.hook("nix-env", 'cat "$ROOT/var/lib/lab-auto-update/boot-guard" >> "$ROOT/record"')
    host.hook("stc", 'ls "$ROOT/nix/var/nix/profiles/system-profiles" >> "$ROOT/record"')
    done = host.guard()
    # the marker before anything else, and the candidate gone before the boot loader is written
    setting, booting, rebooting = PUT_BACK
    assert host.record == ["sleep 3", setting, RUN, booting, "other", rebooting]
    assert (done.returncode, done.stderr, host.marker) == (0, "", f"{RUN}\n")
    assert done.stdout.splitlines() == [
        f"Run {RUN} has 3 s to confirm this boot; then this host goes back to {OLD}.",
        f"Run {RUN} did not confirm this boot in time; going back to {OLD}.",
        f"{OLD} is the boot default again.",
        "Rebooting.",
    ]
    assert not list((host.root / STATE).glob("*.new"))


@pytest.mark.parametrize(
    "waited, changes",
    [
        (0, {"guard_seconds": 0}),
        # confirmed in this boot: the time that the verification was given
        (5, {"step": "reboot_verification", "boot_id": THIS_BOOT, "guard_until": 1004.5}),
        (0, {"step": "reboot_verification", "boot_id": THIS_BOOT, "guard_until": 999.9}),
        # what a former boot was given is counted in its uptime, which is over
        (3, {"step": "reboot_verification", "guard_until": 5000.0}),
        (3, {"step": "reboot_verification", "boot_id": THIS_BOOT}),
    ],
)
def test_how_long_it_waits(host, waited, changes):
    host.transaction(**changes)
    assert host.guard().returncode == 0
    slept = [int(line.split()[1]) for line in host.record if line.startswith("sleep")]
    assert (sum(slept), max(slept, default=0) <= 5) == (waited, True)
    assert host.record[len(slept) :] == PUT_BACK


def test_how_long_it_waits_when_nobody_said(host):
    host.transaction(guard_seconds=None)
    host.hook("sleep", f'rm "$ROOT/{STATE}/transaction.json"')
    assert " has 300 s " in host.guard().stdout


@pytest.mark.parametrize(
    "change",
    [
        lambda file: f"rm {file}",
        lambda file: f"""sed -i 's/"step": "reboot"/"step": "commit"/' {file}""",
        lambda file: f"""sed -i 's/"step": "reboot"/"step": "rollback"/' {file}""",
        lambda file: f": > {file}",
    ],
)
@pytest.mark.parametrize("when", ["sleep", "flock"])
def test_a_transaction_that_goes_on_ends_the_wait(host, change, when):
    """Also when it does so while the guard waits for the lock."""
    host.transaction(guard_seconds=1)
    host.program("bin/flock")
    host.hook(when, change(f'"$ROOT/{STATE}/transaction.json"'))
    done = host.guard()
    assert (done.returncode, host.record[0], host.marker) == (0, "sleep 1", None)
    assert len(host.record) == (1 if when == "sleep" else 2)
    assert "has confirmed this boot" in done.stdout or "cannot be read" in done.stdout


@pytest.mark.parametrize("when", ["sleep", "flock"])
def test_a_confirmation_gives_the_verification_its_time(host, when):
    text = host.transaction(step="reboot_verification", boot_id=THIS_BOOT, guard_until=1003)
    host.file("later", text)
    host.transaction(guard_seconds=1)
    host.program("bin/flock")
    host.hook(when, f'[ ! -e "$ROOT/later" ] || mv "$ROOT/later" "$ROOT/{STATE}/transaction.json"')
    host.guard()
    waited = [line for line in host.record if line.startswith("sleep")]
    assert (waited, host.record[-3:]) == (["sleep 1", "sleep 2"], PUT_BACK)


# ---- going back ----------------------------------------------------------------------------------------------------
def test_it_looks_and_marks_under_the_lock_and_changes_the_host_without_it(host):
    """What the controller does under the same lock comes before all of it, or finds the marker."""
    host.transaction(guard_seconds=0)
    script = f"""
        echo "marker $(cat "$ROOT/{STATE}/boot-guard" 2> /dev/null), lock $(
          flock --nonblock "$ROOT/{STATE}/lock" echo free || echo held)" >> "$ROOT/record"
    """
    host.program("bin/sync")
    host.hook("sync", script)
    host.hook("nix-env", script)
    host.guard()
    assert [line for line in host.record if line.startswith("marker")] == [
        "marker , lock held",
        f"marker {RUN}, lock held",
        f"marker {RUN}, lock free",
    ]


def test_a_host_on_which_a_reboot_did_not_help_is_put_back_as_it_runs(host):
    host.transaction(guard_seconds=0)
    host.file(f"{STATE}/boot-guard", f"{RUN}\n")
    done = host.guard()
    assert (done.returncode, host.record) == (0, LIVE)
    assert "A reboot has been tried" in done.stdout


def test_the_marker_of_another_run_means_nothing(host):
    host.transaction(guard_seconds=0)
    host.file(f"{STATE}/boot-guard", "20261121T020000Z-0000\n")
    host.guard()
    assert (host.record, host.marker) == (PUT_BACK, f"{RUN}\n")


def test_without_a_marker_there_is_no_reboot(host):
    host.transaction(guard_seconds=0)
    host.file(f"{STATE}/boot-guard/in-the-way", "")
    done = host.guard()
    assert (done.returncode, host.record) == (0, LIVE)
    assert "Could not write" in done.stdout


@pytest.mark.parametrize("failing, record", [("nix-env", [LIVE[0], LIVE[2]]), ("stc", LIVE)])
def test_a_boot_default_that_cannot_be_set(host, failing, record):
    host.transaction(guard_seconds=0)
    host.hook(failing, '[ "$1" = test ] || exit 1')
    done = host.guard()
    assert (done.returncode, host.record) == (0, record)
    assert f"Could not make {OLD} the boot default" in done.stdout


@pytest.mark.parametrize("code, ending", [(0, 0), (4, 0), (2, 1), (1, 1), (100, 1)])
def test_how_the_last_resort_ends(host, code, ending):
    host.transaction(guard_seconds=0)
    host.hook("stc", f'[ "$1" = test ] || exit 1; exit {code}')
    done = host.guard()
    assert (done.returncode, "needs a person" in done.stdout) == (ending, ending == 1)


def test_a_lock_that_is_held_for_ever_does_not_stop_it(host):
    host.transaction(guard_seconds=0)
    host.program("bin/flock")
    host.hook("flock", "exit 1")
    done = host.guard()
    assert host.record[1:] == PUT_BACK
    assert "going on without it" in done.stdout


def test_a_lock_that_cannot_be_opened_does_not_stop_it_either(host):
    host.transaction(guard_seconds=0)
    host.file(f"{STATE}/lock/in-the-way", "")
    host.guard()
    assert host.record == PUT_BACK


def test_a_reboot_that_is_refused_is_forced(host):
    host.transaction(guard_seconds=0)
    host.hook("systemctl", '[ "$#" -eq 2 ]')
    assert host.guard().returncode == 0
    assert host.record == [*PUT_BACK, "systemctl reboot --force"]
