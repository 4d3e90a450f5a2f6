# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which names are settings, and whether what is set can be meant. Pure.

All that is wrong with a run is found at once. C(settings) of a host are complete, and of the types that the
specification gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from ansible_collections.homelab.nixos.plugins.module_utils import _literal, _nix
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

PREFIX = "lab_"
# no settings of a night, and ours all the same: facts, also of another job, and what comes from the inventory plugin
FACTS = (
    "lab_bootstrap",
    "lab_left",
    "lab_night",
    "lab_night_result",
    "lab_rollback",
    "lab_rollout_batches",
    "lab_tags",
)
# what the other playbooks take
OF_OTHER_PLAYBOOKS = (
    "lab_bootstrap_host_keys",
    "lab_bootstrap_known_hosts",
    "lab_bootstrap_python",
    "lab_bootstrap_timeout",
    "lab_controller_hosts",
    "lab_format",
    "lab_output",
    "lab_query",
    "lab_rollback_reboot",
    "lab_rollback_to",
    "lab_since",
    "lab_yes",
)

# there is one for the night: tasks that run once take them, and would take whatever their first host has
ONE_FOR_THE_NIGHT = (
    "lab_allow_downgrade",
    "lab_batch",
    "lab_build_failure",
    "lab_build_timeout",
    "lab_cache",
    "lab_commit",
    "lab_controller",
    "lab_critical_stages",
    "lab_deadline",
    "lab_delivery",
    "lab_eval_memory",
    "lab_fallback",
    "lab_fetch_timeout",
    "lab_flake",
    "lab_flake_become",
    "lab_flake_host",
    "lab_flake_pull",
    "lab_flake_push",
    "lab_inputs",
    "lab_max_bad",
    "lab_max_input_age",
    "lab_metrics_directory",
    "lab_never_together",
    "lab_nix_options",
    "lab_notify",
    "lab_notify_on",
    "lab_notify_timeout",
    "lab_ping_url",
    "lab_report_directory",
    "lab_report_keep",
    "lab_resume",
    "lab_signing_key",
    "lab_silence_url",
    "lab_soak",
    "lab_stages",
    "lab_state_directory",
    "lab_title",
)

# Takes the value of a setting that has a language of its own apart; raises LabError for one that cannot be meant.
Parser = Callable[[object], object]

# a name as short as this, without its prefix, has too many neighbours two steps away
_SHORT = 7
_LOCAL = ("localhost", "127.0.0.1", "::1")
# in which secrets of any look may be: their values are never shown
_SECRET = ("lab_checks", "lab_nix_options", "lab_notify", "lab_ping_url")
# in which there may be scripts, or a reason in sentences
_OF_LINES = ("lab_checks", "lab_hold", "lab_nix_options")
# the path of a key, and no other word that ssh or Nix could take for something else
_KEYS = ("lab_push_key", "lab_signing_key")
_SHOWN_HOSTS = 8


@dataclass(frozen=True)
class Host:
    """A host of the night and all its settings."""

    name: str
    managed: bool
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a setting, for these hosts, and what to do about it; C(what) has the value."""

    hosts: tuple[str, ...]
    setting: str
    what: str
    remedy: str


class Bounds(NamedTuple):
    """What a number counts, and between which it is."""

    unit: str
    low: int
    high: int | None = None

    def __str__(self) -> str:
        reach = f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"
        return f"It is {self.unit}, {reach}."


_STEP = Bounds("a number of seconds", 1, 21600)
_DELIVERY = Bounds("a number of seconds", 1, 86400)
_WAIT = Bounds("a number of seconds", 0, 21600)
_PERCENT = Bounds("a percentage", 1, 100)
BOUNDS = {
    "lab_activation_timeout": _STEP,
    "lab_boot_confirm_timeout": _STEP,
    "lab_build_timeout": _DELIVERY,
    "lab_confirm_timeout": _STEP,
    "lab_connect_timeout": _STEP,
    "lab_copy_parallel": Bounds("a number of hosts", 1),
    "lab_copy_timeout": _DELIVERY,
    "lab_deadline": Bounds("a number of seconds", 0),
    "lab_defer_warn_after": Bounds("a number of nights", 0),
    "lab_eval_memory": Bounds("a number of MiB", 256),
    "lab_fetch_timeout": _DELIVERY,
    "lab_max_disk_percent": _PERCENT,
    "lab_max_inode_percent": _PERCENT,
    "lab_max_input_age": Bounds("a number of days", 0),
    "lab_min_boot_free": Bounds("a number of MiB", 0),
    "lab_min_memory": Bounds("a number of MiB", 0),
    "lab_min_uptime": Bounds("a number of minutes", 0),
    "lab_notify_timeout": Bounds("a number of seconds", 1, 600),
    "lab_reboot_delay": _WAIT,
    "lab_reboot_timeout": _STEP,
    "lab_settle": _WAIT,
    "lab_report_keep": Bounds("a number of nights", 1),
    "lab_soak": Bounds("a number of seconds", 0),
    "lab_stale_after": Bounds("a number of days", 1),
    "lab_user_idle": Bounds("a number of minutes", 0),
}


# ---- names ----------------------------------------------------------------------------------------------------------
def check_names(used: Mapping[str, Collection[str]], settings: Collection[str]) -> tuple[list[Problem], list[str]]:
    """What is wrong with the names of variables, and those that begin as ours do and mean nothing to us.

    C(used) has the hosts that have a variable of a name, C(settings) the names of all settings, and of options of other
    roles. Owners have variables of their own; only one that is close to a name of ours is taken for a misspelt one.
    """
    typed = (*settings, *OF_OTHER_PLAYBOOKS)
    problems, strangers = [], []
    for name in sorted(used.keys() - set(typed) - set(FACTS)):
        meant = suggestions(name, typed)
        if meant:
            problems.append(
                Problem(
                    tuple(used[name]),
                    name,
                    f"There is no setting {name}.",
                    f"Did you mean {' or '.join(meant)}? A variable of your own needs a name that is less like it.",
                )
            )
        elif name.startswith(PREFIX):
            strangers.append(name)
    return problems, strangers


def strangers_sentence(names: Sequence[str]) -> str:
    """The one warning for all names that mean nothing to us."""
    return (
        f"No setting has one of these names that begin with {PREFIX}, a variable of your own may: {', '.join(names)}."
    )


def suggestions(name: str, known: Iterable[str]) -> list[str]:
    """The names that C(name) is close to, the closest only."""
    # capitals and dashes are no names of ours, however many of them there are
    plain = name.lower().replace("-", "_")
    near = [each for each in known if abs(len(each) - len(plain)) <= 2]
    if plain in near:
        return [plain]
    one = [each for each in near if _is_one_edit(plain, each)]
    if one or not plain.startswith(PREFIX):
        return one
    return [
        each
        for each in near
        if min(len(plain), len(each)) > len(PREFIX) + _SHORT and each.startswith(PREFIX) and _distance(plain, each) <= 2
    ]


def _is_one_edit(one: str, other: str) -> bool:
    """Whether a character was left out, put in, or mistaken, or two have changed places."""
    begin = 0
    while begin < min(len(one), len(other)) and one[begin] == other[begin]:
        begin += 1
    one, other = one[begin:], other[begin:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) == 1 or (len(one) == 2 and one == other[::-1])


def _distance(one: str, other: str) -> int:
    """Optimal string alignment: how many such edits lead from one to the other, none of them within another."""
    last: list[int] = []
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, 1):
        before_last, last, row = last, row, [i]
        for j, its in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (mine != its))
            if i > 1 and j > 1 and mine == other[j - 2] and one[i - 2] == its:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def check_hosts(addresses: Mapping[str, object]) -> list[Problem]:
    """What is wrong with the names of hosts and with their addresses, where they have one: ssh is handed both."""
    problems = []
    for name, address in addresses.items():
        for setting, text in (("", name), ("ansible_host", "" if address is None else str(address))):
            if text.startswith("-") or _literal.why_not(text):
                what = f"The address of {name}" if setting else "The name of a host"
                remedy = "ssh would take it for something else: correct the inventory."
                problems.append(Problem((name,), setting, f"{what} is {_literal.shown(text)}.", remedy))
    return problems


# ---- values ---------------------------------------------------------------------------------------------------------
def check_values(
    hosts: Sequence[Host], inventory: Collection[str], languages: Mapping[str, Parser] | None = None
) -> list[Problem]:
    """What is wrong with what is set; C(inventory) are the names of all hosts that there are."""
    problems = [problem for host in hosts for problem in _check_host(host)]
    problems += [problem for host in hosts for problem in _check_languages(host, languages or {})]
    managed = [host for host in hosts if host.managed]
    if managed:
        problems += _check_night(managed, inventory)
    elif hosts:
        names = tuple(host.name for host in hosts)
        what = f"No host is to be updated: lab_managed is false for {', '.join(names)}."
        problems.append(Problem(names, "lab_managed", what, "Correct --limit, or lab_managed in the inventory."))
    return merged(problems)


def one_for_the_night(hosts: Sequence[Host]) -> dict[str, object]:
    """The settings of which there is one for all; C(hosts) have been checked."""
    return {name: hosts[0].settings[name] for name in ONE_FOR_THE_NIGHT}


def worst_case(settings: Mapping[str, object]) -> int:
    """How many seconds a host's turn may take, from its claim to its release, when all goes wrong at its end."""
    activation, settle = _number(settings, "lab_activation_timeout"), _number(settings, "lab_settle")
    reboot = _number(settings, "lab_reboot_timeout") + settle
    # two looks at the host and the gate before, and the proof after
    forward = 180 + 2 * activation + _number(settings, "lab_confirm_timeout") + settle
    if settings["lab_reboot"] != "never":
        # what can be booted once is installed twice
        forward += _number(settings, "lab_reboot_delay") + reboot + activation
        forward += _number(settings, "lab_boot_confirm_timeout")
    return forward + activation + reboot


def merged(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, with all hosts that have it."""
    hosts: dict[tuple[str, str, str], dict[str, None]] = {}
    for each in problems:
        hosts.setdefault((each.setting, each.what, each.remedy), {}).update(dict.fromkeys(each.hosts))
    return [Problem(tuple(names), *rest) for rest, names in hosts.items()]


def sentences(problems: Sequence[Problem], hosts: Collection[str]) -> str:
    """All that is wrong, for a person: one line each, with whose it is."""
    lines = [f"{_whose(problem.hosts, hosts)}: {problem.what} {problem.remedy}".strip() for problem in problems]
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} settings cannot be meant, and no host was contacted.", *lines])


def _whose(names: Sequence[str], hosts: Collection[str]) -> str:
    if set(names) >= set(hosts):
        return "all hosts" if len(hosts) > 1 else ", ".join(names)
    more = len(names) - _SHOWN_HOSTS
    return ", ".join(names[:_SHOWN_HOSTS]) + (f" and {more} more" if more > 0 else "")


class _Wrong(NamedTuple):
    setting: str
    what: str
    remedy: str


def _check_host(host: Host) -> Iterator[Problem]:
    for check in (_texts, _numbers, _paths, _urls, _flake_source, _caches, _guard, _canary):
        for wrong in check(host):
            yield Problem((host.name,), *wrong)


def _texts(host: Host) -> Iterator[_Wrong]:
    """What no program can be handed as it is, in any setting, and words that are none."""
    for name, value in host.settings.items():
        for text, (what, remedy) in _unspeakable(name, value).items():
            given = "a text" if name in _SECRET else _literal.shown(text)
            yield _Wrong(name, f"{name} has {given} {what}.", remedy)
        # of stages, more is said below
        if isinstance(value, list) and "" in value and name != "lab_stages":
            yield _Wrong(name, f"{name} has an empty word in it.", "Leave it out; a list without any is [].")


def _unspeakable(name: str, value: object) -> dict[str, tuple[str, str]]:
    found = {text: _literal.why_not(text, lines=name in _OF_LINES) for text in _literal.texts(value)}
    return {text: wrong for text, wrong in found.items() if wrong is not None}


def _numbers(host: Host) -> Iterator[_Wrong]:
    for name, bounds in BOUNDS.items():
        value = _number(host.settings, name)
        if value < bounds.low or (bounds.high is not None and value > bounds.high):
            yield _Wrong(name, f"{name} is {value}.", str(bounds))


def _paths(host: Host) -> Iterator[_Wrong]:
    wanted = {name: [_text(host.settings, name)] for name in ("lab_flake", "lab_hold_file")}
    wanted["lab_mounts"] = _words(host.settings, "lab_mounts")
    for name in ("lab_metrics_directory", "lab_report_directory", "lab_state_directory", *_KEYS):
        if path := _text(host.settings, name):
            wanted[name] = [path]
    for name, paths in wanted.items():
        for path in paths:
            if not path.startswith(("/", "~", "$")):
                yield _Wrong(name, f"{name} has {_literal.shown(path)}.", "It is an absolute path.")


def _urls(host: Host) -> Iterator[_Wrong]:
    for name in ("lab_alerts_url", "lab_silence_url"):
        url = _text(host.settings, name)
        if url and not _is_address(url):
            what = f"{name} is {redact(url)}."
            remedy = (
                "It is an address that begins with http:// or https://, with a port that is a number, or is left empty."
            )
            yield _Wrong(name, what, remedy)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.split() == [url]
    except ValueError:
        return False


def _flake_source(host: Host) -> Iterator[_Wrong]:
    settings = host.settings
    if not settings["lab_commit"] and (settings["lab_flake_pull"] or settings["lab_flake_push"]):
        yield _Wrong(
            "lab_commit",
            "lab_commit is false, and lab_flake_pull or lab_flake_push is true: only commits can be pulled and pushed.",
            "Set lab_commit to true, or the others to false.",
        )


def _caches(host: Host) -> Iterator[_Wrong]:
    settings = host.settings
    if settings["lab_delivery"] != "pull" and (settings["lab_cache"] or settings["lab_substituters"]):
        what = f"lab_delivery is {settings['lab_delivery']}, so no host asks a cache."
        yield _Wrong("lab_delivery", what, "Set it to pull, or leave lab_cache and lab_substituters out.")


def _guard(host: Host) -> Iterator[_Wrong]:
    guard, reboot = (_number(host.settings, name) for name in ("lab_boot_confirm_timeout", "lab_reboot_timeout"))
    if guard >= reboot:
        yield _Wrong(
            "lab_boot_confirm_timeout",
            f"lab_boot_confirm_timeout is {guard}, and lab_reboot_timeout {reboot}: a host that went back by itself "
            "would be given up before.",
            "Raise lab_reboot_timeout, or lower the other.",
        )


def _canary(host: Host) -> Iterator[_Wrong]:
    if host.settings["lab_canary"] and not host.managed:
        yield _Wrong(
            "lab_canary",
            "lab_canary is true, and lab_managed false: nothing would go before the others of its stage.",
            "Make another host the canary, or let this one be updated.",
        )


def _check_languages(host: Host, languages: Mapping[str, Parser]) -> Iterator[Problem]:
    for name, parse in languages.items():
        if _unspeakable(name, host.settings[name]):
            continue
        try:
            parse(host.settings[name])
        except LabError as error:
            what = error.what if name in error.what else f"{name}: {error.what}"
            yield Problem((host.name,), name, what, error.remedy)


def _check_night(hosts: Sequence[Host], inventory: Collection[str]) -> Iterator[Problem]:
    """C(hosts) are those that are updated."""
    differing = list(_differing(hosts))
    yield from differing
    yield from _names_of_roots(hosts)
    names = tuple(host.name for host in hosts)
    for wrong in _stages(hosts[0].settings):
        yield Problem(names, *wrong)
    if "lab_stages" not in [problem.setting for problem in differing]:
        yield from _stage_of_each(hosts)
    flake_host = _text(hosts[0].settings, "lab_flake_host")
    if flake_host not in (*inventory, *_LOCAL):
        what = f"lab_flake_host is {flake_host!r}, which is not in the inventory."
        meant = " or ".join(name for name in inventory if _is_one_edit(flake_host, name))
        remedy = f"Did you mean {meant}?" if meant else "Add it there, with lab_managed false, or correct it."
        yield Problem(names, "lab_flake_host", what, remedy)
    yield from _deadline(hosts)


def _names_of_roots(hosts: Sequence[Host]) -> Iterator[Problem]:
    """The builder keeps the system of each host by a link of the host's name."""
    for host in hosts:
        try:
            _nix.root_name(host.name)
        except LabError as error:
            yield Problem((host.name,), "", f"The host {error.what}", error.remedy)


def _differing(hosts: Sequence[Host]) -> Iterator[Problem]:
    for name in ONE_FOR_THE_NIGHT:
        values: list[tuple[object, list[str]]] = []
        for host in hosts:
            value = host.settings[name]
            having = next((names for other, names in values if other == value), None)
            if having is None:
                values.append((value, [host.name]))
            else:
                having.append(host.name)
        if len(values) > 1:
            told = "" if name in _SECRET else f" It is {_told(values)}."
            yield Problem(
                tuple(host for _value, names in values[1:] for host in names),
                name,
                f"Not the same for all hosts, though there is one for the night: {name}.{told}",
                "Set it for the group all, and use --limit for hosts of another flake.",
            )


def _told(values: Sequence[tuple[object, Sequence[str]]]) -> str:
    words = [f"{redact(str(value)) or 'empty'} for {_whose(names, ())}" for value, names in values[:3]]
    return ", ".join(words[:-1]) + f" and {words[-1]}"


def _stages(settings: Mapping[str, object]) -> Iterator[_Wrong]:
    stages = _words(settings, "lab_stages")
    for stage in sorted({stage for stage in stages if stages.count(stage) > 1}):
        yield _Wrong("lab_stages", f"lab_stages has {stage!r} more than once.", "Name each stage where its turn is.")
    taken = {"": "hosts without a stage come last by themselves", "all": "lab_max_bad means the whole run by it"}
    for stage in sorted(taken.keys() & set(stages)):
        yield _Wrong("lab_stages", f"lab_stages has {stage!r}.", f"Name that stage otherwise: {taken[stage]}.")
    for stage in _words(settings, "lab_critical_stages"):
        if stage not in stages:
            yield _Wrong(
                "lab_critical_stages",
                f"lab_critical_stages has {stage!r}, which lab_stages ({_listed(stages)}) does not name.",
                "Add it to lab_stages where it belongs in the order, or correct it.",
            )


def _stage_of_each(hosts: Sequence[Host]) -> Iterator[Problem]:
    stages = _words(hosts[0].settings, "lab_stages")
    for host in hosts:
        stage = _text(host.settings, "lab_stage")
        if stage and stage not in stages:
            yield Problem(
                (host.name,),
                "lab_stage",
                f"lab_stage is {stage!r}, which lab_stages ({_listed(stages)}) does not name.",
                "Add it to lab_stages where it belongs in the order, or correct it.",
            )


def _deadline(hosts: Sequence[Host]) -> Iterator[Problem]:
    for host in hosts:
        deadline, longest = _number(host.settings, "lab_deadline"), worst_case(host.settings)
        if 0 < deadline < longest:
            yield Problem(
                (host.name,),
                "lab_deadline",
                f"lab_deadline is {deadline}, and a host's turn may take {longest} s: it would never begin.",
                "Raise lab_deadline, or lower lab_activation_timeout and lab_reboot_timeout.",
            )


def _listed(stages: Sequence[str]) -> str:
    return ", ".join(stages) or "empty"


def _number(settings: Mapping[str, object], name: str) -> int:
    value = settings[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is not a number")
    return value


def _text(settings: Mapping[str, object], name: str) -> str:
    value = settings[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not a string")
    return value


def _words(settings: Mapping[str, object], name: str) -> list[str]:
    value = settings[name]
    if not isinstance(value, list):
        raise TypeError(f"{name} is not a list")
    return [str(each) for each in value]
