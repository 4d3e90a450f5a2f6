"""Room for what is to come."""

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _space
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._space import FileSystem, Need, NoSpace

GIB = 1 << 30
EXT4 = FileSystem(block=4096, used=10 * GIB, free=GIB, inodes=1_000_000, free_inodes=500_000)
BTRFS = FileSystem(block=4096, used=10 * GIB, free=GIB, inodes=0, free_inodes=0)


def test_stat_is_read_as_it_is_asked() -> None:
    assert _space.parse_stat("4096 66053021 60140377 20685084 16777216 16334826\n") == FileSystem(
        block=4096, used=5912644 * 4096, free=20685084 * 4096, inodes=16777216, free_inodes=16334826
    )


@pytest.mark.parametrize("text", ["", "4096 1 2 3 4", "4096 1 2 3 4 ?", "0 1 1 1 1 1", "4096 0 0 0 0 0"])
def test_an_answer_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(Unreadable):
        _space.parse_stat(text)


def test_both_sides_are_told() -> None:
    assert _space.check(Need(1000, 10), EXT4, "web-1", "The store of web") == {
        "needed_bytes": 1000 + 10 * 2048,
        "free_bytes": GIB,
        "needed_inodes": 10,
        "free_inodes": 500_000,
    }


@pytest.mark.parametrize(
    ("need", "system", "words"),
    [
        (Need(GIB, 1), EXT4, "1.0 GiB are needed and 1.0 GiB are free."),
        (Need(3 * GIB, 0), BTRFS, "3.0 GiB are needed and 1.0 GiB are free."),
        # small files take more than their contents
        (Need(0, GIB // 2048 + 1), BTRFS, "are needed"),
        (Need(0, 500_001), FileSystem(512, GIB, GIB, 10**6, 500_000), "500001 inodes are needed and 500000 are free."),
        (Need(0, 3, True), FileSystem(512, GIB, GIB, 9, 2), "about 3 inodes are needed and 2 are free."),
    ],
)
def test_too_little_is_said_with_both_figures(need: Need, system: FileSystem, words: str) -> None:
    with pytest.raises(NoSpace) as failure:
        _space.check(need, system, "web-1", "The store of web")
    assert str(failure.value).startswith("The store of web has no room for web-1: ")
    assert words in str(failure.value)
    assert failure.value.data["no_space"] is True
    assert set(failure.value.data["space"]) == {"needed_bytes", "free_bytes", "needed_inodes", "free_inodes"}  # type: ignore[call-overload]


def test_a_file_system_without_inodes_is_never_short_of_them() -> None:
    space = _space.check(Need(0, 100_000), BTRFS, "web-1", "The store")
    assert (space["needed_inodes"], space["free_inodes"]) == (None, None)
    assert _space.estimate(GIB, BTRFS).files == 0


def test_a_large_block_is_not_what_a_small_file_takes() -> None:
    zfs = FileSystem(block=131072, used=GIB, free=GIB, inodes=10**9, free_inodes=10**9)
    assert _space.check(Need(0, 100_000), zfs, "web-1", "The store")["needed_bytes"] == 100_000 * 2048


def test_files_are_estimated_by_those_that_are_there() -> None:
    assert _space.estimate(GIB, EXT4) == Need(GIB, 50_000, estimated=True)
    assert _space.estimate(GIB, FileSystem(4096, 0, GIB, 10, 9)).files == 0


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (312475648, "298.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_readable(size: int, words: str) -> None:
    assert _space.readable(size) == words
