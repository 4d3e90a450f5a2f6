# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a store has room for what is to come, told before the first byte of it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable

# for stat --file-system: size of a block; blocks in all, free, and free for others than root; inodes in all and free
STAT_FORMAT = "%S %b %f %a %c %d"
# ZFS calls its record a block, which is many times what a small file takes
_LARGEST_BLOCK = 4096
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class FileSystem:
    """What a file system has, in bytes and inodes; C(inodes) is 0 where it does not count them, as btrfs."""

    block: int
    used: int
    free: int
    inodes: int
    free_inodes: int


@dataclass(frozen=True)
class Need:
    """What is to come: C(size) in bytes, and how many C(files), directories and links included."""

    size: int
    files: int
    # the number of files was not counted
    estimated: bool = False


class NoSpace(LabError):
    """There is no room, and nothing was begun."""


def parse_stat(text: str) -> FileSystem:
    """Read what C(stat --file-system --format=STAT_FORMAT) said."""
    words = text.split()
    if len(words) != 6 or not all(word.isdecimal() for word in words):
        raise Unreadable(f"stat said {text[-200:]!r} of the file system of the store.")
    block, blocks, free, available, inodes, free_inodes = map(int, words)
    if block == 0 or blocks == 0:
        raise Unreadable(f"stat said {text.strip()!r} of the file system of the store, which has no size.")
    return FileSystem(block, (blocks - free) * block, available * block, inodes, free_inodes)


def estimate(size: int, system: FileSystem) -> Need:
    """How many files there will be, if they are as large as those that the file system has."""
    used = system.inodes - system.free_inodes
    files = math.ceil(size * used / system.used) if system.inodes and system.used else 0
    return Need(size, files, estimated=True)


def check(need: Need, system: FileSystem, what: str, where: str) -> dict[str, object]:
    """Raise L(NoSpace) unless there is room for C(what) in C(where); returns both sides as plain values."""
    # the last block of each file is half empty
    size = need.size + need.files * min(system.block, _LARGEST_BLOCK) // 2
    space: dict[str, object] = {
        "needed_bytes": size,
        "free_bytes": system.free,
        "needed_inodes": need.files if system.inodes else None,
        "free_inodes": system.free_inodes if system.inodes else None,
    }
    short = []
    if size > system.free:
        short.append(f"{readable(size)} are needed and {readable(system.free)} are free")
    if system.inodes and need.files > system.free_inodes:
        about = "about " if need.estimated else ""
        short.append(f"{about}{need.files} inodes are needed and {system.free_inodes} are free")
    if short:
        raise NoSpace(
            f"{where} has no room for {what}: {', and '.join(short)}.",
            "Make room there, for instance with nix-collect-garbage.",
            {"no_space": True, "space": space},
        )
    return space


def readable(size: int) -> str:
    """A size for people."""
    power = min(int(math.log2(size) / 10) if size else 0, len(_UNITS) - 1)
    return f"{size} bytes" if power == 0 else f"{size / 1024**power:.1f} {_UNITS[power]}"
