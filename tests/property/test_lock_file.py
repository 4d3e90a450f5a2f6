"""What holds for every pair of lock files."""

import json
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _lock_file
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import diff, locked_inputs, parse_lock
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.sampled_from(["nixpkgs", "packages", "tools", "dep"])
LOCKED = st.fixed_dictionaries(
    {"type": st.just("git"), "url": st.sampled_from(["file:///srv/a", "file:///srv/b"])},
    optional={
        "rev": st.text("0123456789abcdef", min_size=40, max_size=40),
        "lastModified": st.integers(0, 2_000_000_000),
        "narHash": st.sampled_from(["sha256-a", "sha256-b"]),
        "ref": st.sampled_from(["main", "stable"]),
    },
)
FOLLOWS = st.lists(NAMES, max_size=3)


@st.composite
def locks(draw: Any) -> dict[str, Any]:
    """Any lock file: shared nodes, cycles of nodes, cycles of follows, follows that lead nowhere."""
    keys = ["root", *(f"node_{number}" for number in range(draw(st.integers(0, 5))))]
    targets = st.one_of(st.sampled_from(keys), FOLLOWS)
    nodes = {
        key: {
            "inputs": draw(st.dictionaries(NAMES, targets, max_size=3)),
            **({"locked": draw(LOCKED)} if key != "root" else {}),
        }
        for key in keys
    }
    return {"nodes": nodes, "root": "root", "version": 7}


def text(lock: dict[str, Any]) -> str:
    return json.dumps(lock)


@given(locks(), locks())
def test_the_diff_applied_to_the_old_lock_gives_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    a, b = parse_lock(text(old)), parse_lock(text(new))
    result = locked_inputs(a)
    for change in diff(a, b):
        assert result.get(change.path) == change.before
        if change.after is None:
            del result[change.path]
        else:
            result[change.path] = change.after
    assert result == locked_inputs(b)


@given(locks(), st.randoms())
def test_new_keys_for_the_same_nodes_are_no_change(lock: dict[str, Any], random: Any) -> None:
    keys = list(lock["nodes"])
    shuffled = [f"key_{number}" for number in range(len(keys))]
    random.shuffle(shuffled)
    new = dict(zip(keys, shuffled, strict=True))
    renamed = {
        "version": 7,
        "root": new[lock["root"]],
        "nodes": {
            new[key]: node
            | {"inputs": {name: new[to] if isinstance(to, str) else to for name, to in node["inputs"].items()}}
            for key, node in lock["nodes"].items()
        },
    }
    assert diff(parse_lock(text(lock)), parse_lock(text(renamed))) == []


@given(locks(), locks())
def test_the_guard_against_old_inputs_holds_for_every_path(old: dict[str, Any], new: dict[str, Any]) -> None:
    a, b = parse_lock(text(old)), parse_lock(text(new))
    back = {change.path for change in _lock_file.downgrades(diff(a, b))}
    before, after = locked_inputs(a), locked_inputs(b)
    for path in before.keys() & after.keys():
        one, two = before[path].last_modified, after[path].last_modified
        assert (path in back) == (one is not None and two is not None and two < one)


@given(locks())
def test_every_input_can_be_named_on_a_command_line(lock: dict[str, Any]) -> None:
    parsed = parse_lock(text(lock))
    paths = _lock_file.input_paths(parsed)
    _lock_file.check_input_names(paths)
    _lock_file.check_inputs_exist(paths, parsed)
    assert locked_inputs(parsed).keys() <= set(paths)
