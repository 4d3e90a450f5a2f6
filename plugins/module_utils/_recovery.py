# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a host comes back by itself from a system that does not boot, or that nobody can reach. Pure.

Every question fails closed: what cannot be told speaks for a person at the console.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Literal

Grade = Literal["automatic", "on_reset", "manual"]

# the file systems that NixOS mounts before it starts anything, and those of the boot loader
_NEEDED = frozenset(
    {
        *("/", "/boot", "/boot/efi", "/efi", "/etc", "/nix", "/nix/store", "/usr"),
        *("/var", "/var/lib", "/var/lib/nixos", "/var/log"),
    }
)
_ZFS = "zfs_member"
# what systemd says of a time stamp that never was
_NEVER = (0, 2**64 - 1)


def grade(*, one_shot: bool, passphrase: bool, guard: bool, watchdog: bool) -> Grade:
    """How a host recovers from a boot that goes wrong.

    V(automatic): it reboots by itself into the system it came from. V(on_reset): somebody has to reset it if it hangs.
    V(manual): somebody has to be there in any case.
    """
    if passphrase or not one_shot:
        return "manual"
    return "automatic" if guard and watchdog else "on_reset"


def asks_for_passphrase(lsblk: str) -> bool | None:
    """Whether a disk that the boot needs is encrypted, from C(lsblk --json --output NAME,TYPE,FSTYPE,MOUNTPOINTS).

    Conservative: a key in a TPM or in a file cannot be told from a passphrase, and an encrypted device that nobody is
    seen to have mounted may be a part of the root. One that is known to be needed later only (C(/home), swap) does not
    count. C(None) when C(lsblk) is no such output.
    """
    devices = _devices(lsblk)
    if devices is None:
        return None
    return any(device.get("type") == "crypt" and _may_be_needed(device) for device in devices)


def has_zfs(lsblk: str) -> bool:
    """Whether there is ZFS, whose own encryption lsblk does not show."""
    return any(device.get("fstype") == _ZFS for device in _devices(lsblk) or [])


def zfs_asks_for_passphrase(keylocations: str) -> bool:
    """Whether a ZFS data set wants one typed in, from C(zfs get -H -o value keylocation)."""
    return "prompt" in keylocations.split()


def watchdog_in_use(properties: Mapping[str, str]) -> bool:
    """Whether systemd feeds a hardware watchdog, from the C(systemctl show) of the manager.

    A timeout of C(infinity) is that of the hardware. A device that is configured may still have failed to open, so only
    a ping that was made counts.
    """
    ping = properties.get("WatchdogLastPingTimestampMonotonic", "")
    return (
        properties.get("RuntimeWatchdogUSec", "0") not in ("", "0")
        and properties.get("WatchdogDevice", "") != ""
        and ping.isdigit()
        and int(ping) not in _NEVER
    )


def _devices(lsblk: str) -> list[Mapping[str, object]] | None:
    try:
        found = json.loads(lsblk)
    except ValueError:
        return None
    devices = found.get("blockdevices") if isinstance(found, dict) else None
    return [each for device in devices for each in _tree(device)] if isinstance(devices, list) else None


def _tree(device: object) -> Iterator[Mapping[str, object]]:
    """A device and all that is built on it."""
    if isinstance(device, dict):
        yield device
        children = device.get("children")
        for child in children if isinstance(children, list) else []:
            yield from _tree(child)


def _may_be_needed(device: Mapping[str, object]) -> bool:
    mounts: set[str] = set()
    for each in _tree(device):
        points = each.get("mountpoints")
        mounts |= {str(point) for point in points if point} if isinstance(points, list) else set()
    return not mounts or bool(mounts & _NEEDED)
