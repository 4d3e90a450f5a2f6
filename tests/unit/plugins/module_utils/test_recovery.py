"""Whether a host comes back by itself: what cannot be told speaks for a person at the console."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _recovery


@pytest.mark.parametrize(
    ("one_shot", "passphrase", "guard", "watchdog"), list(itertools.product((False, True), repeat=4))
)
def test_every_grade(one_shot: bool, passphrase: bool, guard: bool, watchdog: bool) -> None:
    grade = _recovery.grade(one_shot=one_shot, passphrase=passphrase, guard=guard, watchdog=watchdog)
    if passphrase or not one_shot:
        assert grade == "manual"
    else:
        assert grade == ("automatic" if guard and watchdog else "on_reset")


def device(name: str, type: str, *mounts: str | None, fstype: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type, "fstype": fstype, "mountpoints": list(mounts), **more}


def disk(*children: dict[str, Any]) -> str:
    """A disk with a plain /boot, as `lsblk --json` of util-linux 2.41 shows it, and what is beside that."""
    boot = device("nvme0n1p1", "part", "/boot", fstype="vfat")
    return json.dumps({"blockdevices": [device("nvme0n1", "disk", None, children=[boot, *children])]})


def crypt(*mounts: str | None, children: list[dict[str, Any]] | None = None, fstype: str = "ext4") -> dict[str, Any]:
    below = {"children": children} if children is not None else {}
    inner = device("crypted", "crypt", *mounts, fstype=fstype, **below)
    return device("nvme0n1p2", "part", None, fstype="crypto_LUKS", children=[inner])


PLAIN = disk(device("nvme0n1p2", "part", "/nix/store", "/", fstype="ext4"))
# recorded in a guest of the test lab: its root is an overlay, and what else is seen is the outer machine's
GUEST = """
{
   "blockdevices": [
      {
         "name": "zram0",
         "type": "disk",
         "fstype": null,
         "mountpoints": []
      },{
         "name": "vda",
         "type": "disk",
         "fstype": null,
         "mountpoints": [
             "/run/host/os-release", "/run/host/os-release"
         ]
      }
   ]
}
"""


@pytest.mark.parametrize(
    ("lsblk", "asks"),
    [
        (PLAIN, False),
        (GUEST, False),
        ('{"blockdevices": []}', False),
        (disk(crypt("/nix/store", "/")), True),
        (disk(crypt(children=[device("vg-root", "lvm", "/")], fstype="LVM2_member")), True),
        (disk(crypt("/var/lib")), True),
        # a part of a pool, or of a file system on several disks, is not seen to be mounted
        (disk(crypt(None, fstype="zfs_member")), True),
        (disk(crypt(fstype="btrfs")), True),
        # known not to be needed by the boot
        (disk(crypt("/home")), False),
        (disk(crypt("[SWAP]", fstype="swap")), False),
        (disk(crypt(children=[device("vg-media", "lvm", "/srv/media")], fstype="LVM2_member")), False),
        (disk(crypt(children=[device("vg-home", "lvm", "/home"), device("vg-nix", "lvm", "/nix")])), True),
    ],
)
def test_an_encrypted_disk_that_the_boot_needs_asks_for_a_passphrase(lsblk: str, asks: bool) -> None:
    assert _recovery.asks_for_passphrase(lsblk) is asks


@pytest.mark.parametrize("text", ["", "lsblk: unknown column: MOUNTPOINTS", "[]", "{}", '{"blockdevices": {}}'])
def test_what_is_no_answer_is_none(text: str) -> None:
    assert _recovery.asks_for_passphrase(text) is None


def test_zfs_is_asked_itself() -> None:
    assert _recovery.has_zfs(disk(device("nvme0n1p2", "part", None, fstype="zfs_member")))
    assert not _recovery.has_zfs(PLAIN)
    assert not _recovery.has_zfs("garbage")
    assert _recovery.zfs_asks_for_passphrase("none\nnone\nprompt\nnone\n")
    assert not _recovery.zfs_asks_for_passphrase("none\nfile:///etc/zfs/key\n")


FED = {
    "RuntimeWatchdogUSec": "30s",
    "WatchdogDevice": "/dev/watchdog0",
    "WatchdogLastPingTimestampMonotonic": "81532642",
}


def test_a_watchdog_that_is_fed_is_in_use_also_with_the_time_of_the_hardware() -> None:
    assert _recovery.watchdog_in_use(FED)
    assert _recovery.watchdog_in_use({**FED, "RuntimeWatchdogUSec": "infinity"})


@pytest.mark.parametrize(
    "properties",
    [
        {},
        # recorded in a guest of the test lab, systemd 257
        {
            "RuntimeWatchdogUSec": "0",
            "WatchdogDevice": "",
            "WatchdogLastPingTimestampMonotonic": "18446744073709551615",
        },
        {**FED, "RuntimeWatchdogUSec": "0"},
        {**FED, "WatchdogDevice": ""},
        # configured, and not there
        {**FED, "WatchdogLastPingTimestampMonotonic": "18446744073709551615"},
        {**FED, "WatchdogLastPingTimestampMonotonic": "0"},
        {**FED, "WatchdogLastPingTimestampMonotonic": "n/a"},
    ],
)
def test_any_other_watchdog_is_none(properties: dict[str, str]) -> None:
    assert not _recovery.watchdog_in_use(properties)
