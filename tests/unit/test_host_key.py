"""What ssh is told of a host key whose fingerprint the owner gave, and what is written down."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "playbooks/files/host-key.sh"
EXPECTED = f"SHA256:{'a' * 43}"
# a real one: ssh-keygen reads the file
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIJ1u7yr2sDnrk2yWfBB1bJrV7vN6YH2xJ0Xo4a2Y8w5k"
LINE = f"[web.example]:2222 ssh-ed25519 {KEY}\n"


def ask(file: Path | str, shown: str = EXPECTED, key: str = KEY) -> str:
    """What ssh is told, asked as it asks."""
    words = [EXPECTED, str(file), shown, "[web.example]:2222", "ssh-ed25519", key]
    return subprocess.run(["/bin/sh", str(SCRIPT), *words], capture_output=True, text=True, check=True).stdout


def test_the_key_with_the_fingerprint_is_that_hosts_and_is_written_down_once(tmp_path: Path):
    file = tmp_path / "ssh/known_hosts"
    assert ask(file) == ask(file) == LINE
    assert file.read_text() == LINE
    assert file.parent.stat().st_mode & 0o77 == 0


def test_a_name_that_is_hashed_is_known_all_the_same(tmp_path: Path):
    file = tmp_path / "known_hosts"
    file.write_text(LINE)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], capture_output=True, check=True)
    before = file.read_text()
    assert "web.example" not in before
    assert ask(file) == LINE
    assert file.read_text() == before


@pytest.mark.parametrize("shown", ["NONE", f"SHA256:{'b' * 43}", ""])
def test_any_other_key_is_nobodys(tmp_path: Path, shown: str):
    file = tmp_path / "known_hosts"
    assert ask(file, shown) == ""
    assert not file.exists()


def test_a_dry_run_writes_nothing_down():
    assert ask("/dev/null") == LINE
