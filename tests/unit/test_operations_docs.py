"""docs/operations.md has each outcome, and the commands that page and mail show for it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _night
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import Word
from ansible_collections.homelab.nixos.plugins.module_utils._report import WORST_FIRST

from tests import nights

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/operations.md").read_text()
OUTCOMES = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL))
RECORD = {
    "version": 1,
    "run_id": "20261122T020000Z-7f3a",
    "seq": 7,
    "time": "2026-11-22T02:03:04.123Z",
    "host": "web",
    "operation": "outcome",
    "status": "rolled_back",
    "seconds": None,
    "details": {"reason": "Its check failed."},
}
NIGHT: dict[str, Any] = RECORD | {
    "host": "",
    "operation": "night",
    "status": "bad",
    "details": {"failure": "Ended badly: web (rolled_back).", "reasons": {"web": "Its check failed."}},
}


def blocks(text: str) -> list[str]:
    """What is to be typed, without comments."""
    found = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line for line in block.splitlines() if not line.startswith("#")) for block in found]


def night(word: str, **change: Any) -> _night.Night:
    return _night.read(nights.night({"web": nights.host("web", word)}, **change))


def test_each_outcome_has_its_section_the_worst_first():
    assert tuple(OUTCOMES) == WORST_FIRST
    assert set(OUTCOMES) == set(get_args(Word))


@pytest.mark.parametrize("word", get_args(Word))
def test_an_outcome_has_the_meaning_and_the_commands_that_page_and_mail_show(word: str):
    meaning = _night.MEANINGS[word]
    told = re.search(r"^\*\*(.*?)\*\*$", OUTCOMES[word], re.MULTILINE)
    assert told is not None
    assert told[1].rstrip(".").lower().removeprefix("it ") == meaning.lower().removeprefix("it ")
    shown = night(word)
    assert blocks(OUTCOMES[word]) == [command.line for command in _night.commands(shown.hosts, shown)]
    for part in ("How", "Safe to assume", "Do"):
        assert f"\n- *{part}*: " in OUTCOMES[word]


def test_a_command_for_a_host_is_marked_as_such():
    for word, text in OUTCOMES.items():
        shown = night(word)
        for command in _night.commands(shown.hosts, shown):
            assert (f"```\n# on web\n{command.line}\n```" in text) == bool(command.host)


def test_a_run_that_failed_by_itself_has_the_command_that_page_and_mail_show():
    section = TEXT.split("\n## The night as a whole\n")[1].split("\n## ")[0]
    assert blocks(section) == [command.line for command in _night.of_the_run(night("unchanged", failed=True))]


def test_the_table_of_contents_leads_to_each_section_and_nowhere_else():
    contents, rest = TEXT.split("\n## ", 1)
    headings = re.findall(r"^#{2,3} (.*)$", f"## {rest}", re.MULTILINE)
    anchors = [heading.lower().replace("`", "").replace(" ", "-") for heading in headings]
    assert sorted(re.findall(r"\]\(#([\w-]+)\)", contents)) == sorted(set(anchors) - {"outcomes"})
    assert set(re.findall(r"\]\(#([\w-]+)\)", rest)) <= set(anchors)


def test_the_settings_that_are_named_are_settings():
    rows = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\blab_\w+", TEXT))
    # what is only given to a playbook
    given = {"lab_since", "lab_format", "lab_query", "lab_rollback_to", "lab_controller_writable"}
    assert {name for name in named - given if f"| `{name}` |" not in rows} == set()


def test_the_filters_for_the_log_find_what_they_say(tmp_path: Path):
    log = tmp_path / "lab-auto-update.log"
    log.write_text(f"{json.dumps(RECORD)}\n{json.dumps(NIGHT)}\n")
    section = TEXT.split("\n## The log\n")[1].split("\n## ")[0]
    lines = [line for line in blocks(section) if "jq " in line]
    found = []
    for line in lines:
        words = line.replace("/var/log/lab-auto-update.log", str(log))
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.splitlines())
    assert shutil.which("jq")
    assert [len(each) for each in found] == [1, 2, 1, 1]
    assert found[0] == ["2026-11-22T02:03:04.123Z\trolled_back\tIts check failed."]
    assert json.loads(found[2][0])[1:] == ["bad", NIGHT["details"]["failure"], NIGHT["details"]["reasons"]]
    # a torn line is passed over
    log.write_text(f"{json.dumps(RECORD)[:40]}\n{json.dumps(RECORD)}\n")
    words = lines[3].replace("/var/log/lab-auto-update.log", str(log))
    assert subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True).stdout.count("\n") == 1
