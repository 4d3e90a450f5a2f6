# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The nights that this controller has seen: their results, and a page for each, in one directory."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _metrics, _night, _page, _state
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable

INDEX = "index.html"
_RESULT = re.compile(r"night-[A-Za-z0-9._-]{1,64}\.json")
_MOST = 1 << 24


class Archive:
    """The directory, of which the C(keep) newest nights stay."""

    def __init__(self, directory: str, keep: int) -> None:
        self.directory = Path(directory)
        self._keep = keep

    def former(self, run_id: str) -> list[dict[str, Any]]:
        """The results of the nights before C(run_id), the newest last, as far as they can be read."""
        mine = _result_name(run_id)
        found = [_read(self.directory / name) for name in self._names() if name < mine]
        return [result for result in found if result is not None]

    def keep(self, result: Mapping[str, Any]) -> str:
        """Keep the result of a night, and let go of those that are too old. Returns its path."""
        path = str(self.directory / _result_name(str(result["run_id"])))
        _state.publish(path, json.dumps(result) + "\n")
        for name in self._names()[: -self._keep]:
            for old in (name, f"{name.removesuffix('.json')}.html"):
                with suppress(FileNotFoundError):
                    (self.directory / old).unlink()
        return path

    def write_pages(
        self,
        result: Mapping[str, Any],
        former: Sequence[Mapping[str, Any]],
        lab: str,
        zone: datetime.tzinfo,
        playbook: str,
        optional: Collection[str],
    ) -> str:
        """Write the page of a night, and the index of all that have one. Returns the path of the page.

        C(former) are the results of the nights before it, as L(former) has them.
        """
        run_id = str(result["run_id"])
        page = _page.page(result, former, lab=lab, zone=zone, playbook=playbook, optional=optional)
        path = str(self.directory / _night.page_name(run_id))
        _state.publish(path, page)
        listed = [one for one in (*former, result) if (self.directory / _night.page_name(one["run_id"])).exists()]
        _state.publish(str(self.directory / INDEX), _page.index(listed, lab=lab, zone=zone, optional=optional))
        return path

    def _names(self) -> list[str]:
        """The files of results, the oldest first: a run is named by when it began."""
        try:
            return sorted(path.name for path in self.directory.iterdir() if _RESULT.fullmatch(path.name))
        except OSError:
            # whoever could not keep them has said so, and others are told all the same
            return []


def _result_name(run_id: str) -> str:
    return f"{_night.page_name(run_id).removesuffix('.html')}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """A result that page and metrics can work with; another version may have left one that they cannot."""
    try:
        if not path.is_file():
            return None
        with path.open(encoding="utf-8") as file:
            result = json.loads(file.read(_MOST))
        _night.read(result)
        _metrics.text([result], {})
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, Unreadable, ValueError):
        return None
    return dict(result)


def prepare(directory: str, chosen: bool) -> None:
    """Make the directory, unless somebody has chosen another one: that one was meant to be there."""
    if not chosen:
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        except OSError as error:
            raise LabError(
                f"{directory} cannot be made: {error.strerror}.", "Set lab_report_directory to another one."
            ) from error
    elif not os.path.isdir(directory):
        raise LabError(
            f"lab_report_directory is {directory}, and this is no directory on this controller.",
            "Make it, and let the user of the nights write it.",
        )
