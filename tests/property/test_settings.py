"""No slip in the name of a setting goes unnoticed, whatever the character."""

from __future__ import annotations

import string

import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import _settings
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_settings import ROOT

KNOWN = tuple(yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text()))
CHARACTERS = st.sampled_from(string.ascii_letters + string.digits + "_-. é")


@st.composite
def slips(draw: st.DrawFn, name: str) -> str:
    at = draw(st.integers(0, len(name) - 1))
    match draw(st.sampled_from(["left out", "put in", "mistaken", "swapped"])):
        case "left out":
            return name[:at] + name[at + 1 :]
        case "put in":
            return name[:at] + draw(CHARACTERS) + name[at:]
        case "mistaken":
            return name[:at] + draw(CHARACTERS) + name[at + 1 :]
        case _:
            return name[:at] + name[at : at + 2][::-1] + name[at + 2 :]


@given(st.data())
def test_every_slip_is_caught_whatever_the_character(data: st.DataObject):
    name = data.draw(st.sampled_from(KNOWN))
    slip = data.draw(slips(name))
    if slip not in KNOWN:
        problems, strangers = _settings.check_names({slip: ["web"]}, KNOWN)
        assert (len(problems), strangers) == (1, [])


@given(st.sampled_from(KNOWN), st.integers(0, 3), st.data())
def test_the_distance_is_the_same_from_both_ends_and_one_for_a_slip(name: str, count: int, data: st.DataObject):
    other = name
    for _each in range(count):
        other = data.draw(slips(other))
    distance = _settings._distance(name, other)
    assert distance == _settings._distance(other, name)
    assert (distance == 0) == (name == other)
    if count <= 1:
        assert distance <= count
        assert _settings._is_one_edit(name, other) == (distance == 1)


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_one_slip_is_a_distance_of_one(one: str, other: str):
    assert _settings._is_one_edit(one, other) == (_settings._distance(one, other) == 1)
