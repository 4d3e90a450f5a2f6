"""Time zones, where this Python looks for them and where NixOS has them."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _zones


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place with Vienna alone, and a Python that looks nowhere."""
    (place := tmp_path / "etc/zoneinfo").mkdir(parents=True)
    (place / "Europe").mkdir()
    (place / "Europe/Vienna").write_bytes(Path("/usr/share/zoneinfo/Europe/Vienna").read_bytes())
    (place / "Europe/Broken").write_text("no zone")
    monkeypatch.setattr(_zones, "PLACES", (str(place),))
    zoneinfo.reset_tzpath(to=[])
    zoneinfo.ZoneInfo.clear_cache()
    yield place
    zoneinfo.reset_tzpath()


def test_a_zone_is_found_where_nixos_has_it(elsewhere: Path):
    summer = datetime(2026, 7, 1, tzinfo=_zones.zone("Europe/Vienna"))
    assert str(summer.utcoffset()) == "2:00:00"


@pytest.mark.parametrize("name", ["Europe/Broken", "Europe", "Europe/Rome", "../zoneinfo/Europe/Vienna", "/etc/passwd"])
def test_a_zone_that_is_not_there_or_none_is_named(elsewhere: Path, name: str):
    with pytest.raises(LabError, match=r"This controller knows no time zone .* install tzdata"):
        _zones.zone(name)


def test_a_zone_is_found_where_this_python_looks():
    assert _zones.zone("UTC").key == "UTC"
