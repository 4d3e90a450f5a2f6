# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The time zones that this controller knows."""

from __future__ import annotations

import datetime
import os
import re
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

# NixOS has them in /etc, where a Python that is not from nixpkgs does not look
PLACES = ("/etc/zoneinfo", "/usr/share/zoneinfo")
_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def local() -> datetime.tzinfo:
    """The time zone that this controller is in; UTC where it does not say."""
    named = os.environ.get("TZ", "").removeprefix(":")
    with suppress(LabError):
        if named:
            return zone(named)
    with suppress(OSError, ValueError), open("/etc/localtime", "rb") as file:
        return ZoneInfo.from_file(file)
    return datetime.UTC


def zone(name: str) -> ZoneInfo:
    """The time zone of that name."""
    if _NAME.fullmatch(name):
        # a directory, no zone at all, or not where Python looks for it
        with suppress(OSError, ValueError, ZoneInfoNotFoundError):
            return ZoneInfo(name)
        for place in PLACES:
            with suppress(OSError, ValueError), (Path(place) / name).open("rb") as file:
                return ZoneInfo.from_file(file, key=name)
    raise LabError(
        f"This controller knows no time zone {name}.",
        f"Correct it, as Europe/Vienna; or install tzdata, it is looked for in {' and '.join(PLACES)}, too.",
    )
