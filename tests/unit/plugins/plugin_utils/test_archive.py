"""The nights that a controller has kept, in whatever state its directory is."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _archive
from ansible_collections.homelab.nixos.plugins.plugin_utils._archive import Archive

from tests import nights


def pages(archive: Archive, number: int) -> str:
    result = nights.of_many(2, number)
    archive.keep(result)
    return archive.write_pages(
        result, archive.former(result["run_id"]), "attic", datetime.UTC, "ansible-playbook {}", ()
    )


def kept(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path), 3)


def test_the_newest_nights_stay_each_with_its_page_and_are_in_the_index(archive: Archive, tmp_path: Path):
    (tmp_path / "mine.html").write_text("the owner's own")
    # the one with the greatest number began last: runs are named by that
    for number in range(5):
        pages(archive, number)
    runs = [f"night-20261122T020000Z-{number:04x}" for number in (2, 3, 4)]
    names = [f"{run}.{kind}" for run in runs for kind in ("html", "json")]
    assert kept(tmp_path) == ["index.html", "mine.html", *names]
    index = (tmp_path / "index.html").read_text()
    assert [f"{run}.html" in index for run in runs] == [True] * 3
    assert "0001.html" not in index
    assert [one["run_id"] for one in archive.former("20261122T020000Z-0004")] == [run[6:] for run in runs[:2]]


def test_what_cannot_be_read_is_no_night_and_keeps_none_back(archive: Archive, tmp_path: Path):
    pages(archive, 1)
    result = nights.of_many(2, 0)
    for number, torn in enumerate(
        ("", "{", "[]", "[" * 100_000, '{"version": 2}', json.dumps({**result, "durations": {}}))
    ):
        (tmp_path / f"night-20261122T020000Z-000{number + 2}.json").write_text(torn)
    os.mkfifo(tmp_path / "night-20261122T020000Z-0009.json")
    assert [one["run_id"] for one in archive.former("20261122T020000Z-000f")] == ["20261122T020000Z-0001"]


def test_where_there_is_no_directory_there_is_no_former_night(tmp_path: Path):
    archive = Archive(str(tmp_path / "none"), 3)
    assert archive.former("20261122T020000Z-000f") == []
    with pytest.raises(LabError, match="cannot be written: No such file or directory"):
        archive.keep(nights.of_many(1))


def test_a_directory_that_was_chosen_has_to_be_there_and_ours_is_made(tmp_path: Path):
    _archive.prepare(str(tmp_path / "state" / "nights"), chosen=False)
    assert (tmp_path / "state" / "nights").is_dir()
    with pytest.raises(LabError, match=r"lab_report_directory is .*/mine, and this is no directory"):
        _archive.prepare(str(tmp_path / "mine"), chosen=True)
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="Set lab_report_directory to another one"):
        _archive.prepare(str(tmp_path / "file" / "nights"), chosen=False)
