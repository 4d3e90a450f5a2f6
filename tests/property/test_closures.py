"""What holds for every difference of two closures."""

import re
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._closures import grouped, size_words
from ansible_collections.homelab.nixos.plugins.module_utils._diff import package_words
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.sampled_from(["linux", "initrd-linux", *(f"kde-{number}" for number in range(9)), "nixos-system-web"])
VERSIONS = st.lists(st.sampled_from(["", "1", "2", "6.12.1"]), min_size=1, max_size=2, unique=True)
CHANGED = st.fixed_dictionaries({"name": NAMES, "before": VERSIONS, "after": VERSIONS})
SOME = st.lists(CHANGED, unique_by=lambda one: one["name"], max_size=12)
PACKAGES = st.fixed_dictionaries(
    {"changed": SOME, "added": SOME, "removed": SOME, "closure_delta": st.none() | st.integers()}
)


@given(SOME)
def test_grouping_loses_no_package_and_puts_together_what_moved_together(changed: list[dict[str, Any]]) -> None:
    groups = grouped(changed)
    apart = [
        {"name": name, "before": group["before"], "after": group["after"]}
        for group in groups
        for name in group["names"]
    ]
    assert sorted(apart, key=lambda one: one["name"]) == sorted(changed, key=lambda one: one["name"])
    assert len({(tuple(group["before"]), tuple(group["after"])) for group in groups}) == len(groups)
    if any(one["name"] == "linux" for one in changed):
        assert groups[0]["names"][0] == "linux"


@given(PACKAGES, st.none() | st.integers(1, 5), st.none() | st.integers(1, 5))
def test_every_package_is_shown_or_counted(packages: dict[str, Any], most: int | None, most_names: int | None) -> None:
    words = package_words(packages, most, most_names)
    text = "\n".join(words)
    expected = [one for kind in ("changed", "added", "removed") for one in packages[kind]]
    expected = [one for one in expected if not one["name"].startswith("nixos-system-")]
    shown = re.findall(r"(?<![\w-])(?:linux|initrd-linux|kde-\d)(?![\w-])", text)
    assert len(shown) + sum(int(more) for more in re.findall(r"and (\d+) more", text)) == len(expected)
    if most is None and most_names is None:
        assert "more" not in text
    assert (packages["closure_delta"] is None) == ("closure" not in text)


@given(st.integers(-(1 << 60), 1 << 60))
def test_a_size_for_people_is_off_by_less_than_it_rounds(size: int) -> None:
    number, unit = size_words(size).split()
    scale = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
    assert abs(float(number) * scale - size) <= (0.051 * scale if scale > 1 else 0)
    assert abs(float(number)) < 1024 or unit == "TiB"
