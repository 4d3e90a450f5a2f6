"""What nixos_info asks a host, and what it makes of no answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _info
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed, Run
from ansible_collections.homelab.nixos.plugins.module_utils._state import State

SYSTEM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
LSBLK = ("lsblk", "--json", "--output", "NAME,TYPE,FSTYPE,MOUNTPOINTS")
ZFS = ("zfs", "get", "-H", "-t", "filesystem,volume", "-o", "value", "keylocation")
WATCHDOG = (
    "systemctl",
    "show",
    "--property=RuntimeWatchdogUSec,WatchdogDevice,WatchdogLastPingTimestampMonotonic",
)


def answers(*expected: tuple[tuple[str, ...], int, str]) -> Run:
    """A host that is asked exactly this, in this order: argv, exit code, output."""
    left = list(expected)

    def run(argv, **_options):
        wanted, rc, stdout = left.pop(0)
        assert tuple(argv) == wanted
        return Completed(wanted, rc, stdout, "")

    return run


def disk(fstype: str, kind: str = "part") -> str:
    return json.dumps({"blockdevices": [{"name": "sda2", "type": kind, "fstype": fstype, "mountpoints": ["/"]}]})


@pytest.mark.parametrize(
    ("expected", "asks"),
    [
        ([(LSBLK, 0, disk("ext4"))], False),
        ([(LSBLK, 0, disk("ext4", "crypt"))], True),
        ([(LSBLK, 1, "")], True),
        ([(LSBLK, 0, "garbage")], True),
        ([(LSBLK, 0, disk("zfs_member")), (ZFS, 0, "none\n")], False),
        ([(LSBLK, 0, disk("zfs_member")), (ZFS, 0, "none\nprompt\n")], True),
        # there is a pool, and the programs that know it are not
        ([(LSBLK, 0, disk("zfs_member")), (ZFS, 127, "")], True),
    ],
)
def test_a_passphrase_that_cannot_be_ruled_out_is_one(expected: list, asks: bool):
    assert _info.asks_for_passphrase(answers(*expected)) is asks


def test_a_watchdog_that_cannot_be_told_is_none():
    fed = "RuntimeWatchdogUSec=30s\nWatchdogDevice=/dev/watchdog0\nWatchdogLastPingTimestampMonotonic=815326\n"
    assert _info.has_watchdog(answers((WATCHDOG, 0, fed)))
    assert not _info.has_watchdog(answers((WATCHDOG, 1, fed)))
    assert not _info.has_watchdog(answers((WATCHDOG, 0, "")))


def test_the_boot_guard_is_a_unit_of_the_system():
    unit = f"{SYSTEM}/etc/systemd/system/lab-auto-update-boot-guard.service"
    assert _info.has_boot_guard(answers((("test", "-e", unit), 0, "")), SYSTEM)
    assert not _info.has_boot_guard(answers((("test", "-e", unit), 1, "")), SYSTEM)


def test_looking_at_the_state_makes_nothing(tmp_path: Path):
    directory = tmp_path / "state"
    state = State(str(directory))
    assert _info.transaction(state) is None
    assert _info.failed_systems(state) == {}
    assert not directory.exists()


def test_a_failed_system_is_told_with_its_reason(tmp_path: Path):
    state = State(str(tmp_path))
    state.remember_failed(SYSTEM, "It did not boot.", "run-1", 1795226700.5)
    assert _info.failed_systems(state) == {
        SYSTEM: {"reason": "It did not boot.", "run_id": "run-1", "time": 1795226700}
    }


def test_torn_files_are_told_as_such_and_never_taken_for_nothing(tmp_path: Path):
    (tmp_path / "transaction.json").write_text("{")
    (tmp_path / "failed.json").write_text("")
    state = State(str(tmp_path))
    found = _info.transaction(state)
    assert found is not None
    assert found.keys() == {"torn"}
    assert "failed.json" in str(_info.failed_systems(state)["torn"])


def test_since_when_a_system_is_proven_is_the_age_of_its_root_and_else_unknown():
    stat = ("stat", "--format=%Y", "--", "/nix/var/nix/gcroots/lab-auto-update/proven")
    assert _info.proven_since(answers((stat, 0, "1795375260\n"))) == 1795375260
    assert _info.proven_since(answers((stat, 1, ""))) is None
    assert _info.proven_since(answers((stat, 0, "garbage"))) is None
