"""Packs the collection that it is given, a clone or an installed one, into an archive, and prints the digest of that.

The same files make the same archive, on whichever machine and whenever.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

# What a night needs, and what tells people what it is. A clone has more, and an installed collection its lists.
CONTENTS = ("LICENSE", "README.md", "docs", "galaxy.yml", "MANIFEST.json", "meta", "playbooks", "plugins", "roles")


def files(root: Path) -> Iterator[Path]:
    """The files of the collection, without what Python and editors leave beside them."""
    for name in CONTENTS:
        place = root / name
        for file in [place] if place.is_file() else sorted(place.rglob("*")):
            below = file.relative_to(root).parts
            if file.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in below):
                yield file


def pack(root: Path) -> bytes:
    """The archive, to be unpacked below a directory of C(collections_path)."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files(root):
            entry = tarfile.TarInfo(f"ansible_collections/homelab/nixos/{file.relative_to(root)}")
            content = file.read_bytes()
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def main(root: str, target: str) -> int:
    archive = pack(Path(root))
    Path(target).write_bytes(archive)
    print(hashlib.sha256(archive).hexdigest())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
