"""Where inputs come from, and the pages that show what changed there."""

from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._sources import compare_link, source

OLD, NEW = "a" * 40, "b" * 40


def link(old: dict[str, Any], new: dict[str, Any] | None = None) -> str | None:
    """The link between two locks; of one lock, with the revision moved on."""
    moved = {name: value.replace(OLD, NEW) for name, value in old.items()}
    return compare_link(source({"rev": OLD, **old}), source({"rev": NEW, **(moved if new is None else new)}))


@pytest.mark.parametrize(
    ("locked", "page"),
    [
        ({"type": "github", "owner": "NixOS", "repo": "nixpkgs"}, "github.com/NixOS/nixpkgs/compare"),
        (
            {"type": "github", "owner": "a", "repo": "b", "host": "git.Example.org:8443"},
            "git.example.org:8443/a/b/compare",
        ),
        ({"type": "gitlab", "owner": "a", "repo": "b"}, "gitlab.com/a/b/-/compare"),
        ({"type": "gitlab", "owner": "a%2Fb", "repo": "c"}, "gitlab.com/a/b/c/-/compare"),
        ({"type": "gitlab", "owner": "a", "repo": "b", "host": "git.example.org"}, "git.example.org/a/b/-/compare"),
        ({"type": "git", "url": "https://github.com/a/b.git"}, "github.com/a/b/compare"),
        ({"type": "git", "url": "https://bob:hunter2@github.com:443/a/b/"}, "github.com/a/b/compare"),
        ({"type": "git", "url": "ssh://git@github.com/a/b"}, "github.com/a/b/compare"),
        ({"type": "git", "url": "ssh://git@gitlab.com:22/a/b/c/d.git"}, "gitlab.com/a/b/c/d/-/compare"),
        ({"type": "git", "url": "https://codeberg.org/a/b"}, "codeberg.org/a/b/compare"),
        ({"type": "git", "url": "https://gitea.com/a/b.git"}, "gitea.com/a/b/compare"),
        ({"type": "github", "owner": "a", "repo": "b\ud800"}, "github.com/a/b%3F/compare"),
        ({"type": "github", "owner": "a b", "repo": "c?d#e@f\n"}, "github.com/a%20b/c%3Fd%23e%40f%0A/compare"),
        (
            {"type": "tarball", "url": f"https://github.com/a/b/archive/{OLD}.tar.gz", "rev": ""},
            "github.com/a/b/compare",
        ),
        (
            {"type": "tarball", "url": f"https://gitlab.com/a/b/c/-/archive/{OLD}/c-{OLD}.tar.gz", "rev": ""},
            "gitlab.com/a/b/c/-/compare",
        ),
        (
            {"type": "tarball", "url": f"https://codeberg.org/api/v1/repos/a/b/archive/{OLD}.tar.gz?token=hunter2"},
            "codeberg.org/a/b/compare",
        ),
        (
            {"type": "tarball", "url": "https://releases.nixos.org/nixos/unstable/nixos-26.11pre1/nixexprs.tar.xz"},
            "github.com/NixOS/nixpkgs/compare",
        ),
    ],
)
def test_known_forges_show_what_changed(locked: dict[str, Any], page: str) -> None:
    assert link(locked) == f"https://{page}/{OLD}...{NEW}"


@pytest.mark.parametrize(
    "locked",
    [
        {},
        {"type": "sourcehut", "owner": "~a", "repo": "b"},
        {"type": "git", "url": "https://git.sr.ht/~a/b"},
        {"type": "git", "url": "https://example.org/a/b"},
        {"type": "git", "url": "https://github.com.example.org/a/b"},
        {"type": "git", "url": "https://example.org\\@github.com/a/b"},
        {"type": "git", "url": "https://git\thub.com/a/b"},
        {"type": "git", "url": "https://github.com:8443/a/b"},
        {"type": "git", "url": "https://github.com:port/a/b"},
        {"type": "git", "url": "https://[github.com/a/b"},
        {"type": "git", "url": "http://github.com/a/b"},
        {"type": "git", "url": "file:///srv/github.com/a/b"},
        {"type": "git", "url": "https://github.com/a"},
        {"type": "git", "url": "https://github.com/a/b/c"},
        {"type": "git", "url": "https://github.com/../b"},
        {"type": "hg", "url": "ssh://example.org/a/b"},
        {"type": "path", "path": "/srv/a"},
        {"type": "github", "owner": "", "repo": "b"},
        {"type": "github", "owner": "a", "repo": ".."},
        {"type": "github", "owner": "a", "repo": "b", "host": "bob:hunter2@example.org"},
        {"type": "github", "owner": "a", "repo": "b", "host": "example.org/a?b"},
        {"type": "gitlab", "owner": "a%2F..%2Fc", "repo": "b"},
        {"type": "github", "owner": "a", "repo": "b", "rev": ""},
        {"type": "github", "owner": "a", "repo": "b", "rev": "main"},
        {"type": "github", "owner": "a", "repo": "b", "rev": OLD + "\n"},
        {"type": "tarball", "url": "https://github.com/a/b/archive/main.tar.gz", "rev": ""},
        {"type": "tarball", "url": f"https://github.com/a/b/releases/download/{OLD}.tar.gz", "rev": ""},
        {"type": "tarball", "url": "https://example.org/x.tar.gz"},
        {"type": "tarball", "url": "https://channels.nixos.org/nixos-unstable/git-revision"},
    ],
)
def test_there_is_no_link_where_nobody_knows_the_page(locked: dict[str, Any]) -> None:
    assert link(locked) is None


def test_there_is_no_link_between_two_repositories_or_without_a_move() -> None:
    one, other = ({"type": "github", "owner": "a", "repo": repo} for repo in ("b", "c"))
    assert link(one, other) is None
    assert link(one, one | {"rev": OLD}) is None
    assert link({"type": "gitlab", "owner": "a", "repo": "b", "host": "github.com"}, one) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            {"type": "github", "owner": "NixOS", "repo": "nixpkgs"},
            {"type": "github", "owner": "nixos", "repo": "Nixpkgs"},
        ),
        (
            {"type": "github", "owner": "a", "repo": "b"},
            {"type": "git", "url": "ssh://git@github.com/a/b.git", "ref": "main"},
        ),
        (
            {"type": "git", "url": "https://bob:hunter2@example.org/a"},
            {"type": "git", "url": "ssh://git@example.org/a.git"},
        ),
        ({"type": "sourcehut", "owner": "~a", "repo": "b"}, {"type": "git", "url": "https://git.sr.ht/~a/b"}),
        (
            {"type": "tarball", "url": "https://example.org/1/x.tar.gz"},
            {"type": "tarball", "url": "https://example.org/2/x.tar.gz"},
        ),
        (
            {"type": "tarball", "url": "https://api.flakehub.com/f/pinned/a/b/0.1.1/x/source.tar.gz"},
            {"type": "tarball", "url": "https://api.flakehub.com/f/a/b/0.1.2.tar.gz"},
        ),
        (
            {"type": "tarball", "url": "https://channels.nixos.org/nixos-unstable/nixexprs.tar.xz"},
            {"type": "github", "owner": "NixOS", "repo": "nixpkgs"},
        ),
        (
            {"type": "git", "url": "file:///srv/a", "ref": "main"},
            {"type": "git", "url": "file:///srv/a", "ref": "next"},
        ),
    ],
)
def test_two_names_of_one_place_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert source(one).is_at(source(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "github", "owner": "a", "repo": "b"}, {"type": "gitlab", "owner": "a", "repo": "b"}),
        ({"type": "github", "owner": "a", "repo": "b"}, {"type": "github", "owner": "a", "repo": "c"}),
        ({"type": "git", "url": "file:///srv/a"}, {"type": "git", "url": "file:///srv/A"}),
        ({"type": "git", "url": "https://example.org/a"}, {"type": "git", "url": "https://example.org:8443/a"}),
        ({"type": "path", "path": "/srv/a"}, {"type": "path", "path": "/srv/b"}),
        ({"type": "tarball", "url": "https://a.example/x"}, {"type": "tarball", "url": "https://b.example/x"}),
        (
            {"type": "tarball", "url": "https://github.com/a/b/archive/main.tar.gz"},
            {"type": "tarball", "url": "https://github.com/c/b/archive/main.tar.gz"},
        ),
        (
            {"type": "tarball", "url": "https://api.flakehub.com/f/pinned/a/b/0.1.1/x/source.tar.gz"},
            {"type": "tarball", "url": "https://api.flakehub.com/f/pinned/c/b/0.1.2/x/source.tar.gz"},
        ),
    ],
)
def test_another_owner_repository_or_host_is_another_place(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not source(one).is_at(source(other))
