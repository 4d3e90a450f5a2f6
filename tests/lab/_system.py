"""The lab's doors to the machine it runs on: processes, locks, chroots, control groups."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

CACHE = Path("/var/cache/homelab-lab")
STATE = Path("/var/lib/homelab-lab")

# Mounts happen in a namespace of the command's own, so they end with it, however it ends.
_IN_ROOT = """
set -eu
root=$1 lower=$2 upper=$3 work=$4
shift 4
if [ -n "$lower" ]; then
  layers=lowerdir=$lower,upperdir=$upper,workdir=$work
  mount -t overlay overlay -o "$layers,redirect_dir=off,metacopy=off,index=off,volatile" "$root"
fi
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 "$@"
"""


class LabError(Exception):
    """What went wrong and what to do about it, in one sentence for the person at the keyboard."""


def fail(message: str) -> NoReturn:
    """Stop with a sentence."""
    raise LabError(message)


def run(argv: Sequence[str | Path], *, stdin: str | None = None, timeout: float = 300) -> str:
    """Run a command to its end and return its output; a failure carries what the command said."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        fail(f"The program '{words[0]}' is missing on this machine; 'make setup' installs what the lab needs.")
    except subprocess.TimeoutExpired:
        fail(f"'{' '.join(words)}' did not end within {timeout:g} seconds.")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        fail(f"'{' '.join(words)}' failed with exit code {done.returncode}: {said[-4000:]}")
    return done.stdout


def in_root(
    root: Path,
    argv: Sequence[str],
    *,
    lower: Sequence[Path] = (),
    upper: Path | None = None,
    work: Path | None = None,
    stdin: str | None = None,
    timeout: float = 600,
) -> str:
    """Run a command inside a tree, which may be an overlay that exists for this command only."""
    return run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            _IN_ROOT,
            "sh",
            root,
            ":".join(map(str, lower)),
            upper or "",
            work or "",
            *argv,
        ],
        stdin=stdin,
        timeout=timeout,
    )


def wait_for(condition: Callable[[], bool], seconds: float, interval: float = 0.02) -> bool:
    """Poll until the condition holds or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the kernel drops with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                fail(f"Another command works on this lab ({path} is locked); wait for it to end.")
            # the one who had it may have removed the file
            if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
                continue
            yield
            return


def start_time(pid: int) -> int | None:
    """When a process started, in the kernel's ticks: with the pid it names a process for good."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_within(root: Path, path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file as somebody who has changed root would: absolute links and `..` stay inside."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
        while True:
            handle = _LIBC.syscall(_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
            if handle >= 0:
                return int(handle)
            # the kernel gives EAGAIN when something was renamed under its feet
            if (number := ctypes.get_errno()) not in (errno.EAGAIN, errno.EINTR):
                raise OSError(number, os.strerror(number), path)
    finally:
        os.close(directory)


def control_groups() -> list[Path]:
    """Mount points of the hierarchies that guests live in: the unified one, and systemd's own where it exists."""
    unified: list[Path] = []
    legacy: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            unified.append(Path(before.split()[4]))
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            legacy.append(Path(before.split()[4]))
    if not unified:
        fail("No cgroup2 file system is mounted here; mount one on /sys/fs/cgroup/unified.")
    return [unified[0], *legacy[:1]]


def kill_group(group: Path, seconds: float = 10) -> None:
    """End every process of a control group and of those below it, at once, and wait until they are gone."""
    if not group.is_dir():
        return
    (group / "cgroup.kill").write_text("1")
    if not wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text(), seconds):
        fail(f"Processes in {group} do not end; look at them with 'cat {group}/cgroup.procs'.")


def remove_group(group: Path) -> None:
    """Remove an empty control group and those below it."""
    for parent, _, _ in os.walk(group, topdown=False):
        wait_for(lambda path=parent: _rmdir(path), 2)  # type: ignore[misc]


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
