# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hosts, groups and variables from what a flake says: its nixosConfigurations, and its output lab. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

_LAB_KEYS = ("stages", "vars", "hosts", "groups")
_HOST_KEYS = ("address", "user", "port", "stage", "depends_on", "tags", "managed", "vars")
_GROUP_KEYS = ("vars",)
# what each key of a host is to Ansible
_VARIABLES = {
    "address": "ansible_host",
    "user": "ansible_user",
    "port": "ansible_port",
    "stage": "lab_stage",
    "depends_on": "lab_depends_on",
    "tags": "lab_tags",
    "managed": "lab_managed",
}
_STAGES = "lab_stages"
# whoever set these for many hosts at once would contradict the groups of stages and tags
_OF_HOSTS_ONLY = {variable: key for key, variable in _VARIABLES.items() if key in ("stage", "tags")}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# anything else means something in a pattern of Ansible, and --limit could not name it
_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PLAIN_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_'-]*")
_RESERVED = ("all", "ungrouped")


@dataclass(frozen=True)
class Outputs:
    """What the flake says: the names of its nixosConfigurations, and its output lab, C(None) when it has none."""

    configurations: tuple[str, ...]
    lab: object = None


@dataclass(frozen=True)
class Group:
    hosts: tuple[str, ...]
    variables: Mapping[str, object]


@dataclass(frozen=True)
class Inventory:
    """What Ansible is told. C(variables) are those of all hosts."""

    variables: Mapping[str, object]
    hosts: Mapping[str, Mapping[str, object]]
    groups: Mapping[str, Group]

    def variables_of(self, host: str) -> dict[str, object]:
        """All variables of a host, merged as Ansible does: groups in the order of their names."""
        merged = dict(self.variables)
        for name in sorted(self.groups):
            if host in self.groups[name].hosts:
                merged |= self.groups[name].variables
        return merged | dict(self.hosts[host])


@dataclass(frozen=True)
class _Host:
    """An entry of lab.hosts, every value of its type; C(None) is a key that is not there."""

    variables: Mapping[str, object]
    stage: str | None
    tags: tuple[str, ...]
    depends_on: tuple[str, ...]


def inventory(outputs: Outputs, safe: Callable[[str], str]) -> Inventory:
    """The inventory that a flake describes. C(safe) turns a name into one that a group may have, as Ansible does."""
    lab = _attributes(outputs.lab if outputs.lab is not None else {}, "lab", _LAB_KEYS)
    stages = _names(lab["stages"], "lab.stages") if "stages" in lab else ()
    listed = _mapping(lab.get("hosts", {}), "lab.hosts")
    entries = {name: _host(value, _at("lab.hosts", name)) for name, value in listed.items()}
    _refuse_unknown_hosts(entries, outputs.configurations)
    names = tuple(sorted({*outputs.configurations, *entries}))
    for name in names:
        if not _HOST_NAME.fullmatch(name) or name in _RESERVED:
            raise LabError(
                f"{name!r} in nixosConfigurations cannot be the name of a host in Ansible.",
                "Name it with letters, digits, dots, dashes and underscores, and not all or ungrouped.",
            )
    groups = _groups(stages, entries, names, safe)
    group_variables = _group_variables(lab.get("groups", {}), groups, safe)
    variables = _variables(lab.get("vars", {}), "lab.vars", {_STAGES: "lab.stages", **_per_host()})
    if "stages" in lab:
        variables[_STAGES] = list(stages)
    hosts: dict[str, Mapping[str, object]] = {name: {} for name in names}
    for name, entry in entries.items():
        hosts[name] = entry.variables
        if entry.depends_on:
            needed = [_needed(name, other, hosts, groups, safe) for other in entry.depends_on]
            hosts[name] = {**entry.variables, _VARIABLES["depends_on"]: needed}
    return Inventory(
        variables,
        hosts,
        {name: Group(members, group_variables.get(name, {})) for name, members in groups.items()},
    )


def _host(value: object, at: str) -> _Host:
    entry = _attributes(value, at, _HOST_KEYS)
    for key in ("address", "user", "stage"):
        if key in entry and (not isinstance(entry[key], str) or not entry[key]):
            raise _wrong(f"{at}.{key}", entry[key], "a text that is not empty")
    if "port" in entry:
        port = entry["port"]
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise _wrong(f"{at}.port", port, "a number from 1 to 65535")
    if "managed" in entry and not isinstance(entry["managed"], bool):
        raise _wrong(f"{at}.managed", entry["managed"], "true or false")
    tags = _names(entry.get("tags", []), f"{at}.tags")
    depends_on = _names(entry.get("depends_on", []), f"{at}.depends_on")
    given = {_VARIABLES[key]: entry[key] for key in _VARIABLES if key in entry}
    own = {variable: f"{at}.{key}" for key, variable in _VARIABLES.items()}
    stage = entry.get("stage")
    return _Host(
        {**_variables(entry.get("vars", {}), f"{at}.vars", own), **given},
        stage if isinstance(stage, str) else None,
        tags,
        depends_on,
    )


def _refuse_unknown_hosts(entries: Mapping[str, _Host], configurations: Sequence[str]) -> None:
    for name, entry in entries.items():
        if name not in configurations and entry.variables.get(_VARIABLES["managed"]) is not False:
            known = ", ".join(configurations) or "none"
            raise LabError(
                f"{_at('lab.hosts', name)} is not in nixosConfigurations ({known}).",
                "Correct the name, or set managed = false for a machine that this flake does not configure.",
            )


def _groups(
    stages: Sequence[str], entries: Mapping[str, _Host], hosts: Sequence[str], safe: Callable[[str], str]
) -> dict[str, tuple[str, ...]]:
    """The members of each group. A group is one stage or one tag, never two of them and never a host."""
    source: dict[str, str] = {}
    members: dict[str, list[str]] = {}

    def group(name: str, what: str) -> str:
        safe_name = safe(name)
        if safe_name in _RESERVED or safe_name in hosts:
            whose = "a host" if safe_name in hosts else "one of Ansible's own groups"
            raise LabError(f"{what} makes a group {safe_name}, which is the name of {whose}.", "Choose another name.")
        if source.setdefault(safe_name, what) != what:
            raise LabError(f"{source[safe_name]} and {what} make the same group {safe_name}.", "Rename one of them.")
        members.setdefault(safe_name, [])
        return safe_name

    for stage in stages:
        group(stage, f"Stage {stage!r}")
    for name, entry in entries.items():
        if entry.stage is not None:
            if entry.stage not in stages:
                known = ", ".join(stages) or "empty"
                raise LabError(
                    f"{_at('lab.hosts', name)}.stage is {entry.stage!r}, which lab.stages ({known}) does not name.",
                    "Add it to lab.stages where it belongs in the order, or correct it.",
                )
            members[group(entry.stage, f"Stage {entry.stage!r}")].append(name)
        for tag in entry.tags:
            members[group(tag, f"Tag {tag!r}")].append(name)
    return {name: tuple(found) for name, found in members.items()}


def _group_variables(
    value: object, groups: Mapping[str, Sequence[str]], safe: Callable[[str], str]
) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for name, entry in _mapping(value, "lab.groups").items():
        at = _at("lab.groups", name)
        safe_name = safe(name)
        if safe_name not in groups:
            known = ", ".join(groups) or "none"
            raise LabError(f"{at} is no group: no stage and no tag has that name.", f"The groups are: {known}.")
        if safe_name in found:
            raise LabError(f"{at} names the group {safe_name} once more.", "Say it all in one place.")
        variables = _attributes(entry, at, _GROUP_KEYS).get("vars", {})
        found[safe_name] = _variables(variables, f"{at}.vars", {_STAGES: "lab.stages", **_per_host()})
    return found


def _needed(
    host: str, other: str, hosts: Mapping[str, object], groups: Mapping[str, object], safe: Callable[[str], str]
) -> str:
    """The host or group that C(depends_on) names, as Ansible calls it."""
    at = f"{_at('lab.hosts', host)}.depends_on"
    if other == host:
        raise LabError(f"{at} names the host itself.", "Name the hosts and groups that it needs.")
    if other in hosts:
        return other
    if safe(other) in groups:
        return safe(other)
    raise LabError(
        f"{at} names {other!r}, which is neither a host nor a group.",
        f"There are: {', '.join([*hosts, *groups])}.",
    )


def _per_host() -> dict[str, str]:
    return {variable: f"{key} of each host" for variable, key in _OF_HOSTS_ONLY.items()}


def _variables(value: object, at: str, elsewhere: Mapping[str, str]) -> dict[str, object]:
    """Variables as they are; C(elsewhere) are those that have a key of their own, which is checked."""
    variables = _mapping(value, at)
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise LabError(
                f"{_at(at, name)} cannot be a variable of Ansible.", "Use letters, digits and underscores in its name."
            )
        if name in elsewhere:
            raise LabError(f"{_at(at, name)} has a place of its own.", f"Set {elsewhere[name]} instead.")
    return variables


def _attributes(value: object, at: str, known: Sequence[str]) -> dict[str, object]:
    found = _mapping(value, at)
    for key in found:
        if key not in known:
            raise LabError(f"{_at(at, key)} is not known.", f"The keys of {at} are: {', '.join(known)}.")
    return found


def _mapping(value: object, at: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise _wrong(at, value, "an attribute set")
    return {str(key): item for key, item in value.items()}


def _names(value: object, at: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise _wrong(at, value, "a list of names")
    for name in value:
        if value.count(name) > 1:
            raise LabError(f"{at} names {name!r} more than once.", "Name it once.")
    return tuple(value)


def _wrong(at: str, value: object, expected: str) -> LabError:
    return LabError(f"{at} is {redact(repr(value))[:80]}.", f"It has to be {expected}.")


def _at(above: str, name: str) -> str:
    """An attribute as Nix would show it."""
    return f"{above}.{name}" if _PLAIN_ATTRIBUTE.fullmatch(name) else f'{above}."{name}"'
