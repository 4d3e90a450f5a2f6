"""What holds for every pair of lock files."""

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _flake_update, _lock_file
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import diff, locked_inputs, parse_lock
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

SECRET = "hunter2"
# nobody looks at the pair that is found, so it need not be the smallest
ANY_PAIR = settings(max_examples=2000, database=None, phases=[Phase.generate])
NAMES = st.sampled_from(["nixpkgs", "packages", "tools", "dep"])
REVS = st.text("0123456789abcdef", min_size=40, max_size=40)
PINNED = {
    "rev": REVS,
    "lastModified": st.sampled_from([0, 1, 1_700_000_000, 1_800_000_000]),
    "narHash": st.sampled_from(["sha256-a", "sha256-b"]),
}
ORIGIN = st.sampled_from(
    [
        {"type": "git", "url": "file:///srv/a"},
        {"type": "git", "url": "https://github.com/a/b.git"},
        {"type": "github", "owner": "a", "repo": "b"},
        {"type": "github", "owner": "evil", "repo": "b"},
    ]
)
# a tarball or a path may lack any of them
PINS = st.one_of(
    st.fixed_dictionaries(PINNED), st.fixed_dictionaries(PINNED), st.fixed_dictionaries({}, optional=PINNED)
)
LOCKED = st.builds(lambda origin, pins: origin | pins, ORIGIN, PINS)
FOLLOWS = st.lists(NAMES, max_size=3)
# what no honest lock file holds: any character there is, half a surrogate pair too
ODD = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["..", "a%2Fb", "a/b", "a@b", "a:b@c", "a b", "a?b#c", "\x1b[2J", "a\nb", "\ud800", "%2e%2e%2f", "a%0ab"]
)
USER = st.sampled_from(["", "git@", f"bob:{SECRET}@", f"{SECRET}@", f":{SECRET}@", f"bob:{SECRET}/x@"])
FORGE = st.sampled_from(["github.com", "gitlab.com", "codeberg.org"])
HOST = FORGE | st.sampled_from(["git.sr.ht", "releases.nixos.org", "[::1", ""]) | ODD
PATH = st.lists(NAMES | ODD | st.sampled_from(["-", "archive", "api", "v1", "repos"]), max_size=5).map("/".join)
SCHEME = st.sampled_from(["https", "ssh", "http", "file", "git+https"])
FORGE_URL = st.builds("{}://{}{}/a/{}".format, SCHEME, USER, FORGE, NAMES | ODD) | st.builds(
    "https://{}{}/a/{}/archive/{}.tar.gz?token={}".format, USER, FORGE, NAMES | ODD, REVS, st.just(SECRET)
)
ODD_URL = ODD | FORGE_URL | st.builds("{}://{}{}/{}?token={}".format, SCHEME, USER, HOST, PATH, st.just(SECRET))
ODD_HOST = st.builds("{}{}".format, USER, HOST)
ODD_LOCKED = st.fixed_dictionaries(
    {"type": st.sampled_from(["github", "gitlab", "sourcehut", "git", "hg", "tarball", "file", "path"]) | ODD},
    optional={
        "url": ODD_URL,
        "path": ODD,
        "owner": NAMES | ODD,
        "repo": NAMES | ODD,
        "host": ODD_HOST,
        "rev": REVS | ODD,
        "lastModified": st.integers() | ODD,
        "narHash": ODD | st.booleans(),
        "dir": ODD,
    },
)


LINKABLE = st.one_of(
    ODD_LOCKED,
    st.fixed_dictionaries({"type": st.sampled_from(["git", "tarball"]), "url": FORGE_URL}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["github", "gitlab"]), "owner": NAMES | ODD, "repo": NAMES | ODD},
        optional={"host": ODD_HOST},
    ),
)


@st.composite
def locks(draw: Any, names: Any = NAMES, locked: Any = LOCKED) -> dict[str, Any]:
    """Any lock file: shared nodes, cycles of nodes, cycles of follows, follows that lead nowhere."""
    keys = ["root", *(f"{draw(NAMES)}_{number}" for number in range(draw(st.integers(0, 5))))]
    # two of three inputs have a node of their own, and the root is not to blame for a lock file that holds nothing
    targets = st.one_of(st.sampled_from(keys[1:] or keys), st.sampled_from(keys), FOLLOWS)
    nodes = {
        key: {
            "inputs": draw(st.dictionaries(names, targets, min_size=2 * (key == "root"), max_size=3)),
            **({"locked": draw(locked)} if key != "root" else {}),
        }
        for key in keys
    }
    return {"nodes": nodes, "root": "root", "version": 7}


@st.composite
def updates(draw: Any, names: Any = NAMES, locked: Any = LOCKED) -> tuple[dict[str, Any], dict[str, Any]]:
    """A lock file and what an update may make of it: nodes move, inputs come and go and follow, keys are renumbered."""
    old = draw(locks(names, locked))
    new = json.loads(json.dumps(old))
    for _ in range(draw(st.integers(1, 4))):
        keys = sorted(new["nodes"])
        key = draw(st.sampled_from(keys))
        inputs = new["nodes"][key]["inputs"]
        what = draw(st.sampled_from(["move", "replace", "add", "remove", "follow"]))
        if what == "move":
            for one in set(keys) - {"root"}:
                new["nodes"][one]["locked"] |= {"rev": draw(REVS), "lastModified": draw(PINNED["lastModified"])}
        elif what == "replace" and key != "root":
            new["nodes"][key]["locked"] = draw(locked)
        elif what == "add":
            fresh = f"fresh_{len(keys)}"
            new["nodes"][fresh] = {"inputs": {}, "locked": draw(locked)}
            inputs[draw(names)] = fresh
        elif what == "remove" and inputs:
            del inputs[draw(st.sampled_from(sorted(inputs)))]
        elif what == "follow" and inputs:
            inputs[draw(st.sampled_from(sorted(inputs)))] = draw(FOLLOWS)
    return old, renumbered(new, draw(st.randoms()))


def pairs(names: Any = NAMES, locked: Any = LOCKED) -> Any:
    either = st.tuples(locks(names, locked), locks(names, locked))
    return st.one_of(updates(names, locked), updates(names, locked), either)


def renumbered(lock: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """The same lock file with other keys, as Nix makes them: a name, and a number that goes to whoever comes first."""
    keys = list(lock["nodes"])
    numbers = list(range(1, len(keys) + 1))
    dice.shuffle(numbers)
    new = {key: f"nixpkgs_{number}" for key, number in zip(keys, numbers, strict=True)}
    nodes = {
        new[key]: node
        | {"inputs": {name: new[to] if isinstance(to, str) else to for name, to in node["inputs"].items()}}
        for key, node in lock["nodes"].items()
    }
    return {"version": 7, "root": new[lock["root"]], "nodes": nodes}


def parsed(lock: dict[str, Any]) -> _lock_file.LockFile:
    return parse_lock(json.dumps(lock))


def follows(lock: dict[str, Any]) -> set[str]:
    new = parsed(lock)
    return set(_lock_file.input_paths(new)) - locked_inputs(new).keys()


def keys_of(lock: dict[str, Any]) -> dict[str, str]:
    """The inputs of the root that have a node, by its key."""
    return {name: to for name, to in lock["nodes"][lock["root"]]["inputs"].items() if isinstance(to, str)}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(lambda old, new: locked_inputs(parsed(old)).keys() & follows(new), id="begins to follow"),
        pytest.param(lambda old, new: follows(old) & locked_inputs(parsed(new)).keys(), id="follows no more"),
        pytest.param(
            lambda old, new: set(_lock_file.input_paths(parsed(old))) - set(_lock_file.input_paths(parsed(new))),
            id="is gone",
        ),
        pytest.param(
            lambda old, new: set(_lock_file.input_paths(parsed(new))) - set(_lock_file.input_paths(parsed(old))),
            id="is new",
        ),
        pytest.param(
            lambda old, new: any(
                keys_of(new).get(name, key) != key and locked_inputs(parsed(old)) == locked_inputs(parsed(new)) != {}
                for name, key in keys_of(old).items()
            ),
            id="only its key changes",
        ),
        pytest.param(
            lambda old, new: any(one.after and not one.after.rev for one in diff(parsed(old), parsed(new))),
            id="has no revision",
        ),
        pytest.param(lambda old, new: _lock_file.downgrades(parsed(old), parsed(new)), id="becomes older"),
        pytest.param(lambda old, new: _lock_file.relocated(diff(parsed(old), parsed(new))), id="moves elsewhere"),
        pytest.param(lambda old, new: any(one.compare for one in diff(parsed(old), parsed(new))), id="has a link"),
        pytest.param(
            lambda old, new: any(
                "/" in change.path and change.before and change.after for change in diff(parsed(old), parsed(new))
            ),
            id="moves below another",
        ),
    ],
)
def test_the_pairs_below_have_an_input_that(case: Callable[[Any, Any], object]) -> None:
    find(pairs(), lambda pair: bool(case(*pair)), settings=ANY_PAIR)


@given(pairs())
def test_the_diff_applied_to_the_old_lock_gives_the_new_one(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    a, b = map(parsed, pair)
    result = locked_inputs(a)
    changes = diff(a, b)
    for change in changes:
        assert change.before != change.after
        assert result.get(change.path) == change.before
        if change.after is None:
            del result[change.path]
        else:
            result[change.path] = change.after
    assert result == locked_inputs(b)
    assert [change.path for change in changes] == sorted({change.path for change in changes})
    back = {change.path: (change.after, change.before) for change in diff(b, a)}
    assert back == {change.path: (change.before, change.after) for change in changes}


@given(locks(), st.randoms())
def test_new_keys_for_the_same_nodes_are_no_change(lock: dict[str, Any], dice: random.Random) -> None:
    new = renumbered(lock, dice)
    assert diff(parsed(lock), parsed(new)) == []
    assert _lock_file.remarks([], parsed(new), ["nixpkgs"]) == []


@given(pairs())
def test_the_guard_against_old_inputs_holds_for_every_path(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    a, b = map(parsed, pair)
    back = {change.path for change in _lock_file.downgrades(a, b)}
    before, after = locked_inputs(a), locked_inputs(b)
    for path in before.keys() & after.keys():
        one, two = before[path].last_modified, after[path].last_modified
        assert (path in back) == (one is not None and two is not None and two < one)
    # of an input that follows another one, the one that it follows counts
    assert back <= before.keys() | after.keys()
    followed = dict(_lock_file._walk(b))
    for path in before.keys() - after.keys():
        target = followed.get(path)
        other = after.get("/".join(target)) if isinstance(target, tuple) else None
        one, two = before[path].last_modified, other.last_modified if other else None
        assert one is None or two is None or (path in back) == (two < one)


@given(pairs())
def test_no_input_vanishes_without_a_word(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    a, b = map(parsed, pair)
    lost = locked_inputs(a).keys() - locked_inputs(b).keys()
    named = {one.path: one.follows for one in _lock_file.vanished(diff(a, b), b)}
    assert named.keys() <= lost
    for path in lost:
        assert any(path == top or path.startswith(f"{top}/") for top in named)
    for path, target in named.items():
        assert (target is not None) == (path in _lock_file.input_paths(b))


@given(pairs(), st.lists(NAMES | st.just("dep/nixpkgs"), max_size=2))
def test_an_input_that_moves_was_asked_for_or_is_named(
    pair: tuple[dict[str, Any], dict[str, Any]], asked: list[str]
) -> None:
    a, b = map(parsed, pair)
    before, after = locked_inputs(a), locked_inputs(b)
    named = {change.path for change in _lock_file.not_asked_for(diff(a, b), asked)}
    for path in before.keys() | after.keys():
        moved = path in before and path in after and before[path] != after[path]
        covered = not asked or any(f"{path}/".startswith(f"{one}/") for one in asked)
        assert (path in named) == (moved and not covered)


@given(pairs(NAMES | ODD, ODD_LOCKED), st.lists(NAMES, max_size=2), st.none() | st.integers(0, 100))
def test_guards_never_fail_and_say_nothing_that_a_terminal_obeys(
    pair: tuple[dict[str, Any], dict[str, Any]], asked: list[str], max_age: int | None
) -> None:
    a, b = map(parsed, pair)
    changes = diff(a, b)
    request = _flake_update.Request("/etc/nixos", inputs=asked, allow_downgrade=True, max_age=max_age)
    _lock_file.downgrades(a, b)
    words = _flake_update.guards(a, b, request, 1_800_000_000)
    for line in words + _lock_file.message_lines(changes):
        assert line.isprintable()
    for side in _lock_file.describe_changes(changes):
        assert side.replace("\n", "").isprintable()
        assert side.count("\n") <= 2 * len(changes)


@given(LINKABLE, REVS, REVS)
@settings(max_examples=300)
def test_links_hold_no_secret_and_nothing_that_a_browser_or_terminal_could_misread(
    locked: dict[str, Any], old: str, new: str
) -> None:
    def at(rev: str) -> _lock_file.LockFile:
        moved = {**locked, "rev": rev, "narHash": rev}
        return parsed(
            {"version": 7, "root": "r", "nodes": {"r": {"inputs": {"x": "x"}}, "x": {"locked": moved, "inputs": {}}}}
        )

    for change in diff(at(old), at(new)):
        link = change.compare
        if link is not None:
            assert link.isascii()
            assert link.isprintable()
            assert not set(link) & set(" @?#\"'<>\\`{}|^")
            assert SECRET not in link
            assert redact(link) == link
            parts = urlsplit(link)
            assert (parts.scheme, parts.username, parts.query) == ("https", None, "")
            assert not {"", ".", ".."} & set(parts.path[1:].split("/"))
            assert link.endswith(f"/compare/{old}...{new}")


@given(locks())
def test_every_input_can_be_named_on_a_command_line(lock: dict[str, Any]) -> None:
    new = parsed(lock)
    paths = _lock_file.input_paths(new)
    _lock_file.check_input_names(paths)
    _lock_file.check_inputs_exist(paths, new)
    assert locked_inputs(new).keys() <= set(paths)
