"""Lock files and what differs between two of them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _lock_file
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import LockFile, diff, parse_lock

DAY = 86_400


def git(rev: str, modified: int = 20_000 * DAY, **more: Any) -> dict[str, Any]:
    return {
        "type": "git",
        "url": "file:///srv/packages",
        "rev": rev * 40,
        "lastModified": modified,
        "narHash": f"sha256-{rev}",
        **more,
    }


def lock(nodes: dict[str, Any], root: str = "root") -> LockFile:
    return parse_lock(json.dumps({"nodes": nodes, "root": root, "version": 7}))


def node(locked: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"inputs": inputs} if inputs else {}
    return made | ({"locked": locked} if locked else {})


BASE = {
    "root": node(dep="dep", packages="packages"),
    "dep": node(git("d"), packages="packages_2", alias=["packages"], nothing=[]),
    "packages": node(git("a")),
    "packages_2": node(git("b")),
}


MORE: dict[str, Any] = {"dep": "dep", "packages": "packages", "tools": "tools"}


def test_inputs_are_named_by_their_path() -> None:
    found = _lock_file.locked_inputs(lock(BASE))
    assert {path: (one.rev or "")[0] for path, one in found.items()} == {
        "dep": "d",
        "dep/packages": "b",
        "packages": "a",
    }
    assert _lock_file.input_paths(lock(BASE)) == ["dep", "dep/alias", "dep/nothing", "dep/packages", "packages"]


def test_renumbered_keys_are_no_change() -> None:
    renumbered = {
        "top": node(dep="dep_7", packages="packages_2"),
        "dep_7": node(git("d"), packages="packages", alias=["packages"], nothing=[]),
        "packages_2": node(git("a")),
        "packages": node(git("b")),
    }
    assert diff(lock(BASE), lock(renumbered, root="top")) == []


def test_a_nested_input_that_moves_is_one_change() -> None:
    changes = diff(lock(BASE), lock(BASE | {"packages_2": node(git("c"))}))
    assert [change.path for change in changes] == ["dep/packages"]
    assert changes[0].as_dict() == {
        "path": "dep/packages",
        "before": {
            "url": "git+file:///srv/packages",
            "rev": "b" * 40,
            "last_modified": 20_000 * DAY,
            "nar_hash": "sha256-b",
        },
        "after": {
            "url": "git+file:///srv/packages",
            "rev": "c" * 40,
            "last_modified": 20_000 * DAY,
            "nar_hash": "sha256-c",
        },
        "compare": None,
    }


def test_an_input_that_starts_to_follow_another_loses_its_own_lock() -> None:
    (change,) = diff(lock(BASE), lock(BASE | {"dep": node(git("d"), packages=["packages"], alias=["packages"])}))
    assert (change.path, change.after) == ("dep/packages", None)


def test_added_and_removed_inputs_have_one_side() -> None:
    more = BASE | {"root": node(dep="dep", packages="packages", tools="tools"), "tools": node(git("e"))}
    (added,) = diff(lock(BASE), lock(more))
    (removed,) = diff(lock(more), lock(BASE))
    assert (added.path, added.before, removed.path, removed.after) == ("tools", None, "tools", None)


def test_a_missing_revision_is_told_apart_by_hash() -> None:
    old = {"type": "tarball", "url": "https://example.org/a.tar.gz", "narHash": "sha256-one", "lastModified": 5}
    nodes = {"root": node(files="files"), "files": node(old)}
    (change,) = diff(lock(nodes), lock(nodes | {"files": node(old | {"narHash": "sha256-two"})}))
    assert change.before is not None
    assert change.before.rev is None
    assert "1970-01-01 sha256-one" in _lock_file.describe(change.path, change.before)


def test_cycles_are_walked_once() -> None:
    nodes = {
        "root": node(a="a", loop=["loop"], one=["two"], two=["one"]),
        "a": node(git("a"), b="b"),
        "b": node(git("b"), a="a", self="b", up="root"),
    }
    assert "a/b/a" in _lock_file.input_paths(lock(nodes))


def test_a_lock_file_that_explodes_is_refused() -> None:
    nodes: dict[str, Any] = {"root": node(a="n0")}
    for number in range(40):
        nodes[f"n{number}"] = node(git("a"), left=f"n{number + 1}", right=f"n{number + 1}")
    nodes["n40"] = node(git("a"))
    with pytest.raises(Unreadable, match="more than"):
        _lock_file.locked_inputs(lock(nodes))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not valid JSON"),
        ('{"nodes": {', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not an object"),
        ('{"version": 8, "root": "root", "nodes": {"root": {}}}', "version 8"),
        ('{"root": "root", "nodes": {"root": {}}}', "version None"),
        ('{"version": 7, "root": "root", "nodes": {}}', "root node is missing"),
        ('{"version": 7, "root": ["root"], "nodes": {"root": {}}}', "root node is missing"),
        ('{"version": 7, "root": "root", "nodes": {"root": {"inputs": {"a": "b"}}}}', "'b' is missing"),
        ('{"version": 7, "root": "root", "nodes": {"root": {"inputs": {"a": 3}}}}', "leads nowhere"),
        ('{"version": 7, "root": "root", "nodes": {"root": {"locked": "x"}}}', "not an object"),
    ],
)
def test_a_torn_lock_file_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        parse_lock(text)


@pytest.mark.parametrize(
    ("locked", "url"),
    [
        ({"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": "a"}, "github:NixOS/nixpkgs"),
        ({"type": "gitlab", "owner": "a", "repo": "b", "host": "git.example.org"}, "gitlab:a/b?host=git.example.org"),
        (
            {
                "type": "git",
                "url": "ssh://git@example.org/x",
                "ref": "refs/heads/main",
                "dir": "sub",
                "submodules": True,
            },
            "git+ssh://git@example.org/x?dir=sub&ref=refs/heads/main&submodules=true",
        ),
        ({"type": "git", "url": "https://bob:hunter2@example.org/x"}, "git+https://***@example.org/x"),
        ({"type": "path", "path": "/srv/x"}, "path:/srv/x"),
        ({"type": "tarball", "url": "https://example.org/x.tgz?token=abc"}, "https://example.org/x.tgz?token=***"),
        ({}, "unknown"),
    ],
)
def test_sources_read_as_nix_prints_them_and_without_secrets(locked: dict[str, Any], url: str) -> None:
    (only,) = _lock_file.locked_inputs(lock({"root": node(x="x"), "x": {"locked": locked}})).values()
    assert only.as_dict()["url"] == url
    assert url in _lock_file.describe("x", only)


def test_going_back_in_time_is_noticed_for_every_path() -> None:
    older = BASE | {
        "packages_2": node(git("c", modified=19_000 * DAY)),
        "packages": node(git("e", modified=21_000 * DAY)),
    }
    changes = diff(lock(BASE), lock(older))
    assert [change.path for change in changes] == ["dep/packages", "packages"]
    assert [change.path for change in _lock_file.downgrades(lock(BASE), lock(older))] == ["dep/packages"]


def test_an_input_that_comes_to_follow_an_older_one_goes_back_in_time_too() -> None:
    nodes = {
        "root": node(dep="dep", packages="packages"),
        "dep": node(git("d"), packages="packages_2"),
        "packages": node(git("a", modified=19_000 * DAY)),
        "packages_2": node(git("b", modified=20_000 * DAY)),
    }
    follows = {**nodes, "dep": node(git("d"), packages=["packages"])}
    (back,) = _lock_file.downgrades(lock(nodes), lock(follows))
    assert (back.path, back.after and back.after.rev) == ("dep/packages", git("a")["rev"])
    assert _lock_file.downgrades(lock(follows), lock(nodes)) == []
    endless = {**nodes, "dep": node(git("d"), packages=["dep", "packages"])}
    assert _lock_file.downgrades(lock(nodes), lock(endless)) == []


def warned(before: dict[str, Any], after: dict[str, Any], asked: Sequence[str] = ()) -> list[str]:
    new = lock(after)
    return _lock_file.remarks(diff(lock(before), new), new, asked)


def test_an_update_that_moves_what_it_should_is_not_worth_a_word() -> None:
    moved = BASE | {"packages": node(git("e")), "packages_2": node(git("c")), "root": node(**MORE)}
    assert warned(BASE, BASE) == []
    assert warned(BASE, moved | {"tools": node(git("f"))}) == []


def test_an_input_that_is_gone_is_named_without_its_own_inputs() -> None:
    gone = {key: one for key, one in BASE.items() if key in ("root", "packages")} | {"root": node(packages="packages")}
    assert warned(BASE, gone) == ["The input 'dep' is gone."]


@pytest.mark.parametrize(("follows", "words"), [(["packages"], "'packages'"), (["a", "b"], "'a/b'"), ([], "nothing")])
def test_an_input_that_follows_another_now_is_told_apart_from_one_that_is_gone(follows: list[str], words: str) -> None:
    after = BASE | {"dep": node(git("d"), packages=follows, alias=["packages"], nothing=[])}
    assert warned(BASE, after) == [f"The input 'dep/packages' now follows {words}."]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            {"type": "github", "owner": "NixOS", "repo": "nixpkgs"},
            {"type": "github", "owner": "evil", "repo": "nixpkgs"},
            "github:NixOS/nixpkgs to github:evil/nixpkgs",
        ),
        (
            {"type": "github", "owner": "a", "repo": "b"},
            {"type": "github", "owner": "a", "repo": "b", "host": "git.example.org"},
            "github:a/b to github:a/b?host=git.example.org",
        ),
        (
            {"type": "git", "url": "https://bob:hunter2@example.org/a"},
            {"type": "git", "url": "https://bob:hunter2@example.org/b\n"},
            "git+https://***@example.org/a to git+https://***@example.org/b\N{REPLACEMENT CHARACTER}",
        ),
    ],
)
def test_an_input_that_comes_from_elsewhere_is_named(before: dict[str, Any], after: dict[str, Any], words: str) -> None:
    root = {"root": node(x="x")}
    sentence = f"The input 'x' moved from {words}."
    assert warned(root | {"x": node(before)}, root | {"x": node(after)}) == [sentence]


def test_inputs_that_nobody_asked_for_are_named_when_they_move() -> None:
    moved = BASE | {"packages": node(git("e")), "packages_2": node(git("c")), "root": node(**MORE)}
    moved |= {"tools": node(git("f"))}
    assert warned(BASE, moved, ["packages"]) == [
        "The input 'dep/packages' moved, although only 'packages' was to be updated."
    ]
    assert warned(BASE, moved, ["packages", "dep"]) == []
    assert warned(BASE, moved, ["dep/packages", "dep/alias"]) == [
        "The input 'packages' moved, although only 'dep/packages' and 'dep/alias' were to be updated."
    ]


def test_only_the_flakes_own_inputs_can_be_too_old() -> None:
    nodes = BASE | {"dep": node(git("d", modified=20_005 * DAY), packages="packages_2")}
    assert _lock_file.older_than(lock(nodes), 7, now=20_010.5 * DAY) == [("packages", 10)]
    assert _lock_file.older_than(lock(nodes), 10, now=20_010.5 * DAY) == []


@pytest.mark.parametrize("name", ["nixpkgs", "dep/nixpkgs", "a-b_c", "_x"])
def test_names_of_inputs_are_taken(name: str) -> None:
    _lock_file.check_input_names([name])


@pytest.mark.parametrize("name", ["", "--flake", "-x", "a b", "a/", "/a", "a//b", "a\n", "a;b", "$(id)"])
def test_what_nix_could_misread_is_refused_as_an_input(name: str) -> None:
    with pytest.raises(LabError, match="not the name of a flake input"):
        _lock_file.check_input_names([name])


def test_an_unknown_input_names_the_known_ones() -> None:
    _lock_file.check_inputs_exist(["dep/alias", "packages"], lock(BASE))
    with pytest.raises(LabError, match=r"no input 'nope'.*dep/packages, packages"):
        _lock_file.check_inputs_exist(["packages", "nope"], lock(BASE))
    with pytest.raises(LabError, match="no inputs at all"):
        _lock_file.check_inputs_exist(["nope"], _lock_file.EMPTY)


def test_a_diff_has_a_line_for_each_input_that_changed() -> None:
    more = BASE | {"root": node(dep="dep", tools="tools"), "tools": node(git("e")), "packages_2": node(git("c"))}
    before, after = _lock_file.describe_changes(diff(lock(BASE), lock(more)))
    assert before == (
        "dep/packages  2024-10-04 bbbbbbb  git+file:///srv/packages\n"
        "packages      2024-10-04 aaaaaaa  git+file:///srv/packages\n"
    )
    assert after == (
        "dep/packages  2024-10-04 ccccccc  git+file:///srv/packages\n"
        "tools         2024-10-04 eeeeeee  git+file:///srv/packages\n"
    )


def test_a_link_stands_below_the_new_lock() -> None:
    def at(rev: str) -> dict[str, Any]:
        github = {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": rev * 40, "lastModified": 20_000 * DAY}
        return {"root": node(dep="dep", nixpkgs="nixpkgs"), "dep": node(git(rev)), "nixpkgs": node(github)}

    changes = diff(lock(at("a")), lock(at("b")))
    link = f"https://github.com/NixOS/nixpkgs/compare/{'a' * 40}...{'b' * 40}"
    assert [change.as_dict()["compare"] for change in changes] == [None, link]
    assert _lock_file.describe_changes(changes)[1] == (
        "dep      2024-10-04 bbbbbbb  git+file:///srv/packages\n"
        "nixpkgs  2024-10-04 bbbbbbb  github:NixOS/nixpkgs\n"
        f"         {link}\n"
    )
    assert _lock_file.message_lines(changes) == [
        "- dep  2024-10-04 aaaaaaa  git+file:///srv/packages",
        "+ dep  2024-10-04 bbbbbbb  git+file:///srv/packages",
        "- nixpkgs  2024-10-04 aaaaaaa  github:NixOS/nixpkgs",
        "+ nixpkgs  2024-10-04 bbbbbbb  github:NixOS/nixpkgs",
        f"  {link}",
    ]


def test_a_lock_file_cannot_add_lines_to_what_people_read() -> None:
    odd = {
        "root": {"inputs": {"x\ny": "x"}},
        "x": node({"type": "git", "url": "ssh://h/\x1b[2J\ud800", "dir": "\ud800"}),
    }
    before, after = _lock_file.describe_changes(diff(lock({"root": node()}), lock(odd)))
    assert (before, after.count("\n"), after.rstrip("\n").isprintable()) == ("", 1, True)
