"""`nix store diff-closures`, as it really printed."""

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._closures import (
    PackageChange,
    grouped,
    packages,
    parse_diff,
    size_words,
)

# recorded from Nix 2.26.3 (Debian trixie), 2026-11
NIX_2_26 = """\
blob: 1 → 2, \x1b[32;1m-87.9 KiB\x1b[0m
curl: 8.0 → 8.2
firmware: \x1b[31;1m+39.1 KiB\x1b[0m
fresh: ∅ → ε
glibc: 2.40-61 → 2.40-66
gone: 3 → ∅
hello: 1.0, 1.1 → 1.2, \x1b[31;1m+12.6 KiB\x1b[0m
huge: ∅ → 3, \x1b[31;1m+4882.9 KiB\x1b[0m
nixos-system-web: 26.05.1 → 26.05.2
noversion: ε → ∅
"""
# recorded from Nix 2.34.8 (Debian forky), 2026-11
NIX_2_34 = """\
blob: 1 → 2, \x1b[32;1m-87.9 KiB\x1b[0m
firmware: \x1b[31;1m39.1 KiB\x1b[0m
huge: ∅ → 3, \x1b[31;1m4.8 MiB\x1b[0m
"""
# written from the source of Nix after 2.34
NIX_LATER = """\
blob: 1 → 2, \x1b[32;1m-87.9 KiB\x1b[0m
fresh: (no version) added
gone: 3 removed
huge: 3, 4 added, \x1b[31;1m4.8 MiB\x1b[0m
"""


def test_what_2_26_prints_is_read_in_full() -> None:
    parsed = parse_diff(NIX_2_26)

    assert parsed.unknown_lines == ()
    assert parsed.changes == (
        PackageChange("blob", ("1",), ("2",), -90010),
        PackageChange("curl", ("8.0",), ("8.2",), None),
        PackageChange("firmware", (), (), 40038),
        PackageChange("fresh", (), ("",), None),
        PackageChange("glibc", ("2.40-61",), ("2.40-66",), None),
        PackageChange("gone", ("3",), (), None),
        PackageChange("hello", ("1.0", "1.1"), ("1.2",), 12902),
        PackageChange("huge", (), ("3",), 5000090),
        PackageChange("nixos-system-web", ("26.05.1",), ("26.05.2",), None),
        PackageChange("noversion", ("",), (), None),
    )


def test_growth_without_a_sign_and_larger_units_are_read() -> None:
    parsed = parse_diff(NIX_2_34)

    assert parsed.unknown_lines == ()
    assert [change.size_delta for change in parsed.changes] == [-90010, 40038, 5033165]


def test_the_words_that_came_after_2_34_mean_the_same() -> None:
    parsed = parse_diff(NIX_LATER)

    assert parsed.unknown_lines == ()
    assert parsed.changes[1:] == (
        PackageChange("fresh", (), ("",), None),
        PackageChange("gone", ("3",), (), None),
        PackageChange("huge", (), ("3", "4"), 5033165),
    )


@pytest.mark.parametrize(
    "line", ["warning: something new", "hello", "hello: ", "hello: 1.0 → 1.1 → 1.2", "hello: 1.0 became 1.1", ": 1 → 2"]
)
def test_an_unknown_line_is_kept_and_the_others_are_read(line: str) -> None:
    parsed = parse_diff(f"curl: 8.0 → 8.2\n{line}\n")

    assert parsed.changes == (PackageChange("curl", ("8.0",), ("8.2",), None),)
    assert parsed.unknown_lines == (line.strip(),)


def test_packages_are_sorted_into_added_removed_and_changed() -> None:
    assert packages(parse_diff(NIX_2_26)) == {
        "added": [{"name": "fresh", "after": [""]}, {"name": "huge", "after": ["3"]}],
        "removed": [{"name": "gone", "before": ["3"]}, {"name": "noversion", "before": [""]}],
        "changed": [
            {"name": "blob", "before": ["1"], "after": ["2"]},
            {"name": "curl", "before": ["8.0"], "after": ["8.2"]},
            {"name": "glibc", "before": ["2.40-61"], "after": ["2.40-66"]},
            {"name": "hello", "before": ["1.0", "1.1"], "after": ["1.2"]},
            {"name": "nixos-system-web", "before": ["26.05.1"], "after": ["26.05.2"]},
        ],
        "grouped": [
            {"names": ["blob"], "before": ["1"], "after": ["2"]},
            {"names": ["curl"], "before": ["8.0"], "after": ["8.2"]},
            {"names": ["glibc"], "before": ["2.40-61"], "after": ["2.40-66"]},
            {"names": ["hello"], "before": ["1.0", "1.1"], "after": ["1.2"]},
            {"names": ["nixos-system-web"], "before": ["26.05.1"], "after": ["26.05.2"]},
        ],
        "closure_delta": -90010 + 40038 + 12902 + 5000090,
    }


def test_packages_that_move_together_are_grouped_and_the_kernel_is_first() -> None:
    found = packages(parse_diff("a: 1 → 2\nb: 1 → 3\ninitrd: 6.1 → 6.2\nlinux: 6.1 → 6.2\nz: 1 → 2\nε: ε → 1\n"))
    assert found["grouped"] == [
        {"names": ["linux", "initrd"], "before": ["6.1"], "after": ["6.2"]},
        {"names": ["a", "z"], "before": ["1"], "after": ["2"]},
        {"names": ["b"], "before": ["1"], "after": ["3"]},
        {"names": ["ε"], "before": [""], "after": ["1"]},
    ]
    assert found["changed"][0]["name"] == "linux"
    assert grouped([]) == []


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "+0 B"),
        (-1, "-1 B"),
        (1023, "+1023 B"),
        (1024, "+1.0 KiB"),
        (-90010, "-87.9 KiB"),
        (1048575, "+1.0 MiB"),
        (13212057, "+12.6 MiB"),
        (3 << 30, "+3.0 GiB"),
        (5000 << 40, "+5000.0 TiB"),
    ],
)
def test_sizes_read_in_the_unit_that_fits(size: int, words: str) -> None:
    assert size_words(size) == words


def test_no_sizes_is_not_a_size_of_nothing() -> None:
    assert packages(parse_diff("curl: 8.0 → 8.2\n"))["closure_delta"] is None
    assert packages(parse_diff(""))["closure_delta"] is None
