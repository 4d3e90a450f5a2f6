"""What Nix would fetch, by its own words: recorded from Nix 2.26.3 and 2.34.8."""

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._fetch import parse_plan

SIX = """\
  /nix/store/3j5d37866h341ha7rp0kf2bzp5gvyam9-etc
  /nix/store/r4v4b6l84ari05q7liis0a6s766wrrhw-hello-1.1
  /nix/store/35jisl5kc7sfmvsffmin0n3488vg8bds-nginx-1.28.1
  /nix/store/9cppy9h2c8gqwc0h3i11g0hb5jnxmxbb-nixos-system-web-26.11.20261125.420233e
  /nix/store/80kalz4jvfxjb54n94d0f26pja1m1ky0-openssl-3.5.5
  /nix/store/d3ipw7pwadnwbgm324wz08hxfm2li6l3-system-path
"""
SYSTEM = "/nix/store/9cppy9h2c8gqwc0h3i11g0hb5jnxmxbb-nixos-system-web-26.11.20261125.420233e"
KIB = 1024


@pytest.mark.parametrize(
    ("text", "count", "real"),
    [
        (f"these 6 paths will be fetched (0.02 MiB download, 0.24 MiB unpacked):\n{SIX}", 6, 252216),
        (f"these 6 paths will be fetched (16.3 KiB download, 246.3 KiB unpacked):\n{SIX}", 6, 252216),
        (f"this path will be fetched (0.01 MiB download, 0.02 MiB unpacked):\n  {SYSTEM}\n", 1, 17912),
        (f"this path will be fetched (5.7 KiB download, 17.5 KiB unpacked):\n  {SYSTEM}\n", 1, 17912),
        (f"warning: x\n\n   body\nthis path will be fetched (1.0 GiB download, 2.5 GiB unpacked):\n  {SYSTEM}\n", 1, 0),
    ],
)
def test_what_is_fetched_is_at_least_as_large_as_it_really_is(text: str, count: int, real: int) -> None:
    plan = parse_plan(text)
    assert len(plan.paths) == count
    assert SYSTEM in plan.paths
    assert plan.unpacked >= real
    # and not much larger: by the last digit
    assert not real or plan.unpacked < real + 11 * KIB


def test_what_nobody_has_is_known() -> None:
    plan = parse_plan(f"don't know how to build these paths:\n  {SYSTEM}\n")
    assert plan.unknown == (SYSTEM,)
    assert plan.paths == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing that anybody knows\n",
        f"these 7 paths will be fetched (0.02 MiB download, 0.24 MiB unpacked):\n{SIX}",
        f"these 6 paths will be fetched (0.24 MiB):\n{SIX}",
        f"these 6 paths will be fetched (0.02 MiB download, 0.24 parsecs unpacked):\n{SIX}",
        f"these 6 paths shall be fetched (0.02 MiB download, 0.24 MiB unpacked):\n{SIX}",
    ],
)
def test_words_that_are_not_known_are_an_error(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_plan(text)


def test_a_build_is_refused() -> None:
    with pytest.raises(LabError, match="would build"):
        parse_plan("this derivation will be built:\n  /nix/store/sbmhq53rs0ng0915z7pqajrk861h8911-c-2.drv\n")
