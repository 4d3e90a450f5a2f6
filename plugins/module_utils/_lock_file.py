# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A flake.lock as data, and two of them compared by input path. Pure.

Node keys get suffixes such as C(_2) that move between updates, so nothing here compares keys. An input is named by
its path from the root, V(dep/nixpkgs), as C(nix flake update) names it. An input that follows another one has no lock
of its own and shows up under the path that it follows.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._sources import Source, compare_link, source

LOCK_VERSION = 7
# a lock file of a lab has tens of inputs; one that has more than this is a bomb or broken
_MOST_INPUTS = 10_000
# from an input to what it follows in the end
_MOST_STEPS = 100
_INPUT_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_'-]*(?:/[A-Za-z_][A-Za-z0-9_'-]*)*")
_SECONDS_PER_DAY = 86_400
_DROPPED_BY_URL = frozenset(
    {"type", "rev", "narHash", "lastModified", "revCount", "owner", "repo", "url", "path", "__final"}
)


@dataclass(frozen=True)
class Locked:
    """What one input is locked to."""

    url: str
    rev: str | None
    last_modified: int | None
    nar_hash: str | None
    source: Source

    def as_dict(self) -> dict[str, object]:
        return {
            "url": redact(self.url),
            "rev": self.rev,
            "last_modified": self.last_modified,
            "nar_hash": self.nar_hash,
        }


@dataclass(frozen=True)
class Node:
    """One node: what it is locked to (the root is not), and its inputs, each a node key or a path from the root."""

    locked: Locked | None
    inputs: Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class LockFile:
    root: str
    nodes: Mapping[str, Node]


@dataclass(frozen=True)
class InputChange:
    """An input whose lock changed; None is an input that is not there, or that follows another one."""

    path: str
    before: Locked | None
    after: Locked | None

    @property
    def compare(self) -> str | None:
        """A page that shows what changed, where the forge has one."""
        return compare_link(self.before.source, self.after.source) if self.before and self.after else None

    def as_dict(self) -> dict[str, object]:
        return {
            "path": self.path,
            "before": self.before.as_dict() if self.before else None,
            "after": self.after.as_dict() if self.after else None,
            "compare": self.compare,
        }


@dataclass(frozen=True)
class Vanished:
    """An input that has no lock of its own any more, and the input that it follows now, V("") for none at all.

    None as C(follows) is an input that is gone.
    """

    path: str
    follows: str | None


EMPTY = LockFile("root", {"root": Node(None, {})})


def parse_lock(text: str) -> LockFile:
    """Read the text of a flake.lock; raise L(Unreadable) for anything that is not a whole lock file of version 7."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"flake.lock is torn: it is not valid JSON ({error}).") from error
    version = _mapping(data, "flake.lock").get("version")
    if version != LOCK_VERSION:
        raise Unreadable(f"flake.lock has version {version!r}, and only version {LOCK_VERSION} is understood.")
    root = data.get("root")
    nodes = {key: _node(key, value) for key, value in _mapping(data.get("nodes"), "nodes").items()}
    if not isinstance(root, str) or root not in nodes:
        raise Unreadable("flake.lock is torn: its root node is missing.")
    for node in nodes.values():
        for target in node.inputs.values():
            if isinstance(target, str) and target not in nodes:
                raise Unreadable(f"flake.lock is torn: node {target!r} is missing.")
    return LockFile(root, nodes)


def locked_inputs(lock: LockFile) -> dict[str, Locked]:
    """Every input that has a lock of its own, by its path."""
    found: dict[str, Locked] = {}
    for path, target in _walk(lock):
        locked = lock.nodes[target].locked if isinstance(target, str) else None
        if locked is not None:
            found[path] = locked
    return found


def input_paths(lock: LockFile) -> list[str]:
    """Every input by its path, those included that follow another one or nothing."""
    return sorted(path for path, _target in _walk(lock))


def own_inputs(lock: LockFile) -> list[str]:
    """The inputs of the flake itself that have a lock of their own, in the order of their names."""
    return sorted(path for path in locked_inputs(lock) if "/" not in path)


def diff(before: LockFile, after: LockFile) -> list[InputChange]:
    """The inputs whose lock differs, in the order of their paths."""
    old, new = locked_inputs(before), locked_inputs(after)
    return [
        InputChange(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def downgrades(before: LockFile, after: LockFile) -> list[InputChange]:
    """The inputs that go back in time, those included that follow another one before or after."""
    back: list[InputChange] = []
    for path in sorted(locked_inputs(before).keys() | locked_inputs(after).keys()):
        old, new = _effective(before, path), _effective(after, path)
        if old is None or new is None or old.last_modified is None or new.last_modified is None:
            continue
        if new.last_modified < old.last_modified:
            back.append(InputChange(path, old, new))
    return back


def vanished(changes: Sequence[InputChange], after: LockFile) -> list[Vanished]:
    """The inputs that were locked and are not any more; of one that is gone with all its inputs, only itself."""
    # Nix writes no input that is the flake itself; one that is has no lock either, and is not gone
    follows = {path: "/".join(target) if isinstance(target, tuple) else "" for path, target in _walk(after)}
    lost = {change.path for change in changes if change.before is not None and change.after is None}
    return [
        Vanished(path, follows.get(path)) for path in sorted(lost) if not any(above in lost for above in _above(path))
    ]


def relocated(changes: Sequence[InputChange]) -> list[InputChange]:
    """The inputs that come from another owner, repository or host than before."""
    return [
        change
        for change in changes
        if change.before is not None
        and change.after is not None
        and not change.before.source.is_at(change.after.source)
    ]


def not_asked_for(changes: Sequence[InputChange], asked: Sequence[str]) -> list[InputChange]:
    """The inputs that moved although only others were asked for, with what lies below them; none if all were."""
    return [
        change
        for change in changes
        if asked
        and change.before is not None
        and change.after is not None
        and not any(path in asked for path in (change.path, *_above(change.path)))
    ]


def remarks(changes: Sequence[InputChange], after: LockFile, asked: Sequence[str]) -> list[str]:
    """What a person should look at in an update of the inputs C(asked) for, one sentence each."""
    sentences = []
    for one in vanished(changes, after):
        if one.follows is None:
            sentences.append(f"The input '{one.path}' is gone.")
        else:
            followed = f"'{one.follows}'" if one.follows else "nothing"
            sentences.append(f"The input '{one.path}' now follows {followed}.")
    sentences += [
        f"The input '{change.path}' moved from {redact(change.before.url)} to {redact(change.after.url)}."
        for change in relocated(changes)
        if change.before is not None and change.after is not None
    ]
    sentences += [
        f"The input '{change.path}' moved, although only {_quoted(asked)} {'was' if len(asked) == 1 else 'were'}"
        " to be updated."
        for change in not_asked_for(changes, asked)
    ]
    return [printable(sentence) for sentence in sentences]


def older_than(lock: LockFile, days: int, now: float) -> list[tuple[str, int]]:
    """The flake's own inputs (not those of its inputs) that are older than so many days, with their age in days."""
    old: list[tuple[str, int]] = []
    for path, locked in sorted(locked_inputs(lock).items()):
        if "/" in path or locked.last_modified is None:
            continue
        age = int((now - locked.last_modified) // _SECONDS_PER_DAY)
        if age > days:
            old.append((path, age))
    return old


def check_input_names(names: Sequence[str]) -> None:
    """Raise L(LabError) for a name that Nix could take for anything else than the path of an input."""
    for name in names:
        if not _INPUT_PATH.fullmatch(name):
            raise LabError(f"{name!r} is not the name of a flake input.", "Write it as in nixpkgs or dep/nixpkgs.")


def check_inputs_exist(names: Sequence[str], lock: LockFile) -> None:
    """Raise L(LabError) if the flake has no input of one of the names, because Nix only warns."""
    known = input_paths(lock)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LabError(
            f"The flake has no input {_quoted(unknown)}.",
            f"Its inputs are {', '.join(known)}." if known else "It has no inputs at all.",
            {"unknown_inputs": unknown, "known_inputs": known},
        )


def describe(path: str, locked: Locked, width: int = 0) -> str:
    """One line for people: path, date, revision, source."""
    date = iso_date(locked.last_modified) if locked.last_modified is not None else "no date   "
    version = locked.rev[:7] if locked.rev else (locked.nar_hash or "no hash")[:14]
    return printable(f"{path:<{width}}  {date} {version}  {redact(locked.url)}")


def describe_changes(changes: Sequence[InputChange]) -> tuple[str, str]:
    """The two sides of a diff for people: a line for each changed input, and its link below the new one."""
    width = max((len(change.path) for change in changes), default=0)
    before = [describe(change.path, change.before, width) for change in changes if change.before is not None]
    after = []
    for change in changes:
        after += [describe(change.path, change.after, width)] if change.after is not None else []
        after += [f"{'':<{width}}  {change.compare}"] if change.compare else []
    return "".join(f"{line}\n" for line in before), "".join(f"{line}\n" for line in after)


def message_lines(changes: Sequence[InputChange]) -> list[str]:
    """The body of a commit's message: each changed input as it was and as it is, and its link."""
    lines = []
    for change in changes:
        lines += [f"- {describe(change.path, change.before)}"] if change.before is not None else []
        lines += [f"+ {describe(change.path, change.after)}"] if change.after is not None else []
        lines += [f"  {change.compare}"] if change.compare else []
    return lines


def iso_date(seconds: int) -> str:
    """The day of a time stamp, in UTC as in the output of Nix."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return f"@{seconds}"


def printable(text: str) -> str:
    """One line that a terminal shows as it is: what a lock file holds was written by the authors of the inputs."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _walk(lock: LockFile) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Each input path with its node key, or with the path that it follows, and no further down there."""
    stack: list[tuple[str, str, frozenset[str]]] = [("", lock.root, frozenset({lock.root}))]
    count = 0
    while stack:
        prefix, key, above = stack.pop()
        for name, target in lock.nodes[key].inputs.items():
            count += 1
            if count > _MOST_INPUTS:
                raise Unreadable(f"flake.lock has more than {_MOST_INPUTS} inputs.")
            path = f"{prefix}{name}"
            yield path, target
            # Nix writes no cycles; a lock file that has one is walked once around
            if isinstance(target, str) and target not in above:
                stack.append((f"{path}/", target, above | {target}))


def _effective(lock: LockFile, path: str) -> Locked | None:
    """What an input is locked to, whichever inputs it follows; C(None) for one that is not there or follows nothing."""
    key, steps, left = lock.root, path.split("/"), _MOST_STEPS
    while steps:
        # a path that follows itself has no end
        left -= 1
        target = lock.nodes[key].inputs.get(steps[0]) if left > 0 else None
        if target is None or target == ():
            return None
        if isinstance(target, str):
            key, steps = target, steps[1:]
        else:
            key, steps = lock.root, [*target, *steps[1:]]
    return lock.nodes[key].locked


def _node(key: str, value: object) -> Node:
    data = _mapping(value, f"node {key!r}")
    inputs: dict[str, str | tuple[str, ...]] = {}
    for name, target in _mapping(data.get("inputs", {}), f"inputs of {key!r}").items():
        if isinstance(target, str):
            inputs[name] = target
        elif isinstance(target, list) and all(isinstance(step, str) for step in target):
            inputs[name] = tuple(str(step) for step in target)
        else:
            raise Unreadable(f"flake.lock is torn: input {name!r} of node {key!r} leads nowhere.")
    locked = data.get("locked")
    return Node(None if locked is None else _locked(_mapping(locked, f"lock of {key!r}")), inputs)


def _locked(data: Mapping[str, object]) -> Locked:
    rev, modified, nar_hash = data.get("rev"), data.get("lastModified"), data.get("narHash")
    return Locked(
        url=_url(data),
        rev=rev if isinstance(rev, str) else None,
        last_modified=modified if isinstance(modified, int) and not isinstance(modified, bool) else None,
        nar_hash=nar_hash if isinstance(nar_hash, str) else None,
        source=source(data),
    )


def _url(data: Mapping[str, object]) -> str:
    """The flake reference of a locked input as Nix prints it, without what pins it."""
    kind = str(data.get("type", "unknown"))
    if kind in ("github", "gitlab", "sourcehut"):
        base = f"{kind}:{data.get('owner', '')}/{data.get('repo', '')}"
    elif kind == "path":
        base = f"path:{data.get('path', '')}"
    elif kind in ("git", "hg"):
        base = f"{kind}+{data.get('url', '')}"
    else:
        base = str(data.get("url") or data.get("path") or kind)
    more = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in sorted(data.items())
        if name not in _DROPPED_BY_URL and isinstance(value, (str, int))
    }
    if not more:
        return base
    return f"{base}{'&' if '?' in base else '?'}{urlencode(more, safe='/:', errors='replace')}"


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Unreadable(f"flake.lock is torn: {what} is not an object.")
    return value


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)


def _above(path: str) -> list[str]:
    """The inputs whose input this is: V(a/b) and V(a) for V(a/b/c)."""
    steps = path.split("/")
    return ["/".join(steps[:count]) for count in range(len(steps) - 1, 0, -1)]
