"""What a change of systems means, as lines for people."""

from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._closures import packages, parse_diff
from ansible_collections.homelab.nixos.plugins.module_utils._diff import package_words, rebuild_diff

# as Nix 2.26 prints it
CLOSURES = """\
fresh: ∅ → ε
gcc: 14.2, 14.3 → 14.4, +12.6 KiB
glibc: 2.40-61 → 2.40-66
glibc-locales: 2.40-61 → 2.40-66
gone: 3 → ∅
initrd-linux: 6.12.1 → 6.12.2, -4.0 KiB
linux: 6.12.1 → 6.12.2
nixos-system-web: 26.05.1 → 26.05.2
zlib: ∅ → 1.3
"""


def changed(*names: str) -> dict[str, Any]:
    return {"changed": [{"name": name, "before": ["1"], "after": [f"2{name[0]}"]} for name in names]}


def test_the_kernel_comes_first_then_versions_then_what_came_and_went_and_what_it_takes() -> None:
    assert package_words(packages(parse_diff(CLOSURES))) == [
        "linux, initrd-linux 6.12.1 → 6.12.2",
        "gcc 14.2, 14.3 → 14.4",
        "glibc, glibc-locales 2.40-61 → 2.40-66",
        "added: fresh (no version), zlib 1.3",
        "removed: gone 3",
        "closure +8.6 KiB",
    ]


def test_a_size_that_nix_did_not_print_is_not_told() -> None:
    assert package_words(packages(parse_diff("curl: 8.0 → 8.2\n"))) == ["curl 8.0 → 8.2"]
    assert package_words(packages(parse_diff("a: -4.0 KiB\nb: +4.0 KiB\n"))) == ["closure +0 B"]
    assert package_words(packages(parse_diff(""))) == package_words({}) == []


@pytest.mark.parametrize(
    ("most", "most_names", "words"),
    [
        (None, None, ["a1, a2, a3 1 → 2a", "b1 1 → 2b", "c1, c2 1 → 2c"]),
        (3, 3, ["a1, a2, a3 1 → 2a", "b1 1 → 2b", "c1, c2 1 → 2c"]),
        (1, 2, ["a1, a2 and 1 more 1 → 2a", "and 3 more"]),
    ],
)
def test_what_is_not_shown_is_counted(most: int | None, most_names: int | None, words: list[str]) -> None:
    assert package_words(changed("a1", "a2", "a3", "b1", "c1", "c2"), most, most_names) == words


def test_a_diff_names_systems_packages_units_and_reboot_reasons() -> None:
    result = {
        "before": {"system": "/nix/store/old"},
        "after": {"system": "/nix/store/new"},
        "packages": packages(parse_diff(CLOSURES)),
        "units": {"restarted": ["web.service"], "stopped": []},
        "reboot_reasons": ["kernel"],
    }
    assert rebuild_diff(result) == (
        "- /nix/store/old\n"
        "+ /nix/store/new\n"
        "  linux, initrd-linux 6.12.1 → 6.12.2\n"
        "  gcc 14.2, 14.3 → 14.4\n"
        "  glibc, glibc-locales 2.40-61 → 2.40-66\n"
        "  added: fresh (no version), zlib 1.3\n"
        "  removed: gone 3\n"
        "  closure +8.6 KiB\n"
        "  unit web.service restarted\n"
        "  reboot needed: kernel\n"
    )
    assert rebuild_diff({**result, "after": result["before"]}) == ""
