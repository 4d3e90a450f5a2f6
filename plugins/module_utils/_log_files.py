# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to the log for those who read it: the file, and what it was rotated to, as far back as is asked for."""

from __future__ import annotations

import gzip
import os
import zlib
from contextlib import suppress

from ansible_collections.homelab.nixos.plugins.module_utils._entries import Entry, records

# a year of nights of sixty hosts
_MOST = 8 << 20


def read(path: str, since: float, newest: int) -> tuple[list[Entry], int]:
    """The records at C(path) since then, but at least the C(newest) if there are so many; and how many lines are none.

    There may be older ones among them. A log that cannot be read has no records, as one that is not there.
    """
    found: list[Entry] = []
    skipped = 0
    left = _MOST
    for modified, size, name in _files(path):
        if left <= 0 or (modified < since and len(found) >= newest):
            break
        try:
            data = _read(name, left)
        except (OSError, EOFError, zlib.error):
            skipped += 1
            continue
        left -= max(len(data), size)
        more, wrong = records(data.decode("utf-8", "replace").split("\n"))
        found += more
        skipped += wrong
    return found, skipped


def _files(path: str) -> list[tuple[float, int, str]]:
    """The log and what it was rotated to: when each was written last, its size and path; the newest first."""
    directory, name = os.path.split(path)
    found = []
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            rotated = entry.name.startswith((f"{name}.", f"{name}-"))
            with suppress(OSError):
                if (rotated or entry.name == name) and entry.is_file():
                    found.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    return sorted(found, reverse=True)


def _read(path: str, most: int) -> bytes:
    """The end of a file, in whole lines; the beginning of a compressed one, whose end is known after all of it."""
    if path.endswith(".gz"):
        with gzip.open(path) as file:
            data = file.read(most)
        return data if len(data) < most else data.rpartition(b"\n")[0]
    with open(path, "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - most, 0))
        data = file.read(most)
    return data if len(data) < most else data.partition(b"\n")[2]
