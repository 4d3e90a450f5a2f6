"""Runs linters and tests side by side and ends with the line `N passed, M failed`.

    python -m tests.tools.check          everything but the long tests
    python -m tests.tools.check lint     the linters alone
    python -m tests.tools.check soak     the long tests alone

Each step's output is in tests/output/STEP.log, and is shown when the step fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from tests.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tests" / "output"
VENV = ROOT / ".venv" / "bin"
KEPT = OUTPUT / "kept"
TOOLS = ("tests/tools/demo", "tests/tools/sanity", "tests/tools/setup")
PLAYBOOK_SCRIPTS = tuple(f"playbooks/files/{name}.sh" for name in ("bootstrap", "host-key", "rollback"))
SCRIPTS = (".ci/run", "nix/boot-guard.sh", "nix/resume.sh", *PLAYBOOK_SCRIPTS, *TOOLS)
CACHES = ("tests/output", ".ansible", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")
MINUTES = 60  # the end of any step but a soak
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Step:
    name: str
    argv: tuple[str, ...]
    minutes: int = MINUTES
    nix: str = "trixie"  # whose Nix the guests of the contract tests have

    @property
    def log(self) -> Path:
        return OUTPUT / f"{self.name}.log"

    @property
    def report(self) -> Path:
        return OUTPUT / f"{self.name}.xml"


@dataclass
class Count:
    """Tests that ran; a step without tests of its own counts as one."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: Count) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def pytest(name: str, *arguments: str, minutes: int = MINUTES, nix: str = "trixie") -> Step:
    return Step(name, ("pytest", f"--junit-xml={OUTPUT / name}.xml", *arguments), minutes, nix)


LINT = (
    Step("ruff", ("ruff", "check", ".")),
    Step("mypy", ("mypy",)),
    Step("shellcheck", ("shellcheck", *SCRIPTS)),
    Step("ansible-lint", ("ansible-lint",)),
    Step("sanity", ("tests/tools/sanity",)),
)
# In a copy without git, molecule would not find its base by itself.
MOLECULE = Step("molecule", ("molecule", "-c", ".config/molecule/config.yml", "test", "--all", "--no-command-borders"))
CORE = pytest("core", "tests/unit", "tests/property")
# What people and their tools are told, by real programs of theirs and without a lab.
TOLD_FILES = tuple(
    f"tests/integration/test_{name}.py"
    for name in ("live", "monitoring", "notifications", "orders", "page", "silence", "told")
)
TOLD = pytest("told", *TOLD_FILES)
# The modules that speak to Nix have a lab to themselves; those of hosts share another one.
NIX_TESTS = tuple(f"tests/integration/test_nix_{name}.py" for name in ("flake_update", "copy", "realise"))
NIX = pytest("nix", *NIX_TESTS)
NEWER_NIX = pytest("nix-forky", *NIX_TESTS, nix="forky")
# Each of these boots a lab of its own.
ROLLBACK = "rollback_playbook"
SCENARIOS = (
    "lab",
    "nightly",
    "prepare",
    "delivery",
    "inventory",
    "reverts",
    "recovery",
    "reboots",
    "two_controllers",
    "fleet",
    "stages",
    "secrets",
    "own_controller",
    "controller_role",
    ROLLBACK,
    "interrupted",
    "forty",
    "bootstrap",
    "awx",
    "status",
    "morning",
)
FILES = {name: f"tests/integration/test_{name}.py" for name in SCENARIOS}
OTHERS = tuple(f"--ignore={file}" for file in FILES.values())
HOSTS = pytest("hosts", "tests/integration", *OTHERS, *(f"--ignore={file}" for file in (*NIX_TESTS, *TOLD_FILES)))


def scenarios(*names: str) -> tuple[Step, ...]:
    return tuple(pytest(name, FILES[name]) for name in names)


def soak(name: str, *paths: str) -> Step:
    return pytest(f"soak-{name}", "-m", "soak", *paths, minutes=120)


def long_scenarios(*names: str) -> tuple[Step, ...]:
    return tuple(soak(name, FILES[name]) for name in names)


# The longest first, so that all end at about the same time.
STEPS: dict[str, tuple[Step, ...]] = {
    "all": (
        *LINT[:3],
        *scenarios("fleet", "nightly"),
        NIX,
        HOSTS,
        *scenarios("recovery", "delivery", "prepare", "reverts", "stages", "secrets", "controller_role"),
        *scenarios("morning", "lab", "reboots", "own_controller", "status"),
        TOLD,
        CORE,
        *scenarios("two_controllers", "inventory", ROLLBACK, "bootstrap", "awx"),
        MOLECULE,
        *LINT[3:],
    ),
    "lint": LINT,
    "soak": (
        *long_scenarios("forty", "interrupted"),
        NEWER_NIX,
        *long_scenarios("reboots", ROLLBACK, "two_controllers", "lab", "recovery", "fleet", "stages", "own_controller"),
        *long_scenarios("nightly", "prepare"),
        soak("others", "tests", *OTHERS),
    ),
}
# Tests on the lab mostly wait, so there are more of them than cores.
AT_ONCE = {"all": 3, "lint": 1, "soak": 3}

total = Count()
printing = threading.Lock()  # also guards `total`
running: set[subprocess.Popen[bytes]] = set()
interrupted = threading.Event()


def run(step: Step) -> tuple[int, float]:
    """Run a step in a process group of its own, which ends with it."""
    env = os.environ | {
        "PATH": f"{VENV}:{os.environ['PATH']}",
        "LAB_NIX": step.nix,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
    }
    if step.argv[0] == "pytest":
        env |= {"PYTHONPATH": str(ROOT / "tests/tools/kept"), "TESTS_KEPT": str(KEPT)}
    began = time.monotonic()
    with step.log.open("wb") as log:
        process = subprocess.Popen(
            step.argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        running.add(process)
        try:
            rc = process.wait(step.minutes * 60)
        except subprocess.TimeoutExpired:
            log.write(f"\ngiven up after {step.minutes} minutes\n".encode())
            rc = stop(process)
        finally:
            running.discard(process)
    return rc, time.monotonic() - began


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ask a step to end as Ctrl-C would, so that it takes its labs down, and insist after a minute."""
    for sign, seconds in ((signal.SIGINT, 60), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            return process.wait(seconds) or 1
    return 1


def count(step: Step, rc: int) -> Count:
    if not step.report.exists():
        return Count(passed=int(rc == 0), failed=int(rc != 0))
    suite = next(ET.parse(step.report).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    # pytest also fails without a failed test: nothing collected, an error of its own.
    return Count(tests - failed - skipped, failed or int(rc != 0), skipped)


def work(steps: SimpleQueue[Step]) -> None:
    """Take one step after the other, as long as there are any."""
    while not interrupted.is_set():
        try:
            step = steps.get_nowait()
        except Empty:
            return
        step.report.unlink(missing_ok=True)
        rc, seconds = run(step)
        if interrupted.is_set():
            return
        found = count(step, rc)
        with printing:
            total.add(found)
            if rc:
                print(step.log.read_text(errors="replace"))
            print(f"{'ok    ' if rc == 0 else 'FAILED'} {step.name:<14} {seconds:6.1f} s   {found}", flush=True)


def children(*, ended: bool = False) -> list[Path]:
    """What the steps left running, or what ended, as directories of /proc: their subreaper has inherited it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and (state == "Z") == ended:
                found.append(stat.parent)
    return found


def reap(seen: set[int]) -> set[int]:
    """Clear away what was inherited and had ended by the last round; never a step, whose end is its own thread's."""
    ended = {int(process.name) for process in children(ended=True)} - {process.pid for process in list(running)}
    for pid in ended & seen:
        os.waitpid(pid, os.WNOHANG)
    return ended


def describe(process: Path) -> str:
    with contextlib.suppress(OSError):
        return f"process {process.name}: {(process / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}"
    return f"process {process.name}"


def abandoned() -> set[str]:
    """Mounts of labs, and labs of which no process is left. A living one is a child of ours, or somebody else's."""
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    found = {f"mount {point}" for point in points if "homelab" in point and not point.startswith("/run/netns")}
    for lab in Lab.all():
        alive = subprocess.run(["ip", "netns", "pids", lab.netns], capture_output=True, check=False).stdout
        if not alive:
            found.add(f"lab {lab.name}")
    return found


def take_down() -> None:
    """End the labs that interrupted steps had booted."""
    for process in children():
        with contextlib.suppress(OSError):
            if lab := re.search(r"/homelab-lab/([^/\n]+)", (process / "cgroup").read_text()):
                Lab(lab[1]).down()


def main(what: str = "all") -> int:
    KEPT.mkdir(parents=True, exist_ok=True)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = abandoned()
    pool = ThreadPoolExecutor()
    steps: SimpleQueue[Step] = SimpleQueue()
    for step in STEPS[what]:
        steps.put(step)
    futures = [pool.submit(work, steps) for _ in range(AT_ONCE[what])]
    try:
        ended: set[int] = set()
        while wait(futures, timeout=10).not_done:
            ended = reap(ended)
        for future in futures:
            future.result()  # a defect of this runner is raised here
    except KeyboardInterrupt:
        interrupted.set()
        for process in list(running):
            stop(process)
        take_down()
        return 130

    patience = time.monotonic() + 5
    while (processes := children()) and time.monotonic() < patience:
        time.sleep(0.2)
    left = [describe(process) for process in processes] + sorted(abandoned() - before)
    total.add(Count(passed=int(not left), failed=int(bool(left))))
    print(f"{'FAILED' if left else 'ok    '} nothing left behind", *left, sep="\n       ")
    if "SUDO_UID" in os.environ:  # or the next `make lint` could not write them
        made = [ROOT / name for name in CACHES if (ROOT / name).exists()]
        subprocess.run(["chown", "-R", os.environ["SUDO_UID"], *made], check=True)
    print(total)
    return int(total.failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
