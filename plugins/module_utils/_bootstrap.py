# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a host can be managed, by what playbooks/files/bootstrap.sh and our modules said there. Pure.

It can when a module of ours has run there and looked at it. What is missing is said in the words of its configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ansible_collections.homelab.nixos.plugins.module_utils._command import first_error
from ansible_collections.homelab.nixos.plugins.module_utils._nix import PYTHON_ROOT, is_store_path, remedy
from ansible_collections.homelab.nixos.plugins.module_utils._raw import complaint, last, said_in, stdout
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

Outcome = Literal["manageable", "pending", "left_alone", "failed", "unreachable"]
BAD: frozenset[Outcome] = frozenset({"failed", "unreachable"})

SYSTEM_PYTHON = "/run/current-system/sw/bin/python3"
ROOTED_PYTHON = f"{PYTHON_ROOT}/bin/python3"
NIX = (2, 26)
SYSTEMD = (250,)
# what building or fetching a Python may take, with the nixpkgs that it comes from, in MiB
ROOM = 1024
# the one that every NixOS trusts is nobody's own
_NOBODYS_KEYS = "cache.nixos.org-"
_GRADES = {
    "automatic": "by itself",
    "on_reset": "by any reset, which nobody makes",
    "manual": "only by a person at its console",
}
_BECOME = (
    "Give that user sudo without a password (security.sudo.extraRules with NOPASSWD), or ansible_become_password,"
    " or log in as root."
)
_UPDATERS = {
    "nixos-upgrade": "system.autoUpgrade.enable = false;",
    "comin": "services.comin.enable = false;",
}


@dataclass(frozen=True)
class Owner:
    """What the owner says of a host: its interpreter, what a Python is built from, whether it fetches its systems.

    C(needed) is whether a night has anything to do with it.
    """

    interpreter: str
    installable: str
    pulls: bool
    needed: bool = True


@dataclass(frozen=True)
class Seen:
    """One look at a host."""

    uid: str
    nixos: str
    nix: str
    systemd: str
    store_free: int | None
    trusted_users: tuple[str, ...]
    trusted_keys: tuple[str, ...]
    system_python: str
    useless_python: str
    rooted_python: str
    store_python: str
    store_python_version: str
    nixpkgs: str


@dataclass(frozen=True)
class Report:
    """How it stands with a host.

    C(due) is whether a Python is still to be put there, C(take) where one is in its store, C(python) the interpreter
    that works now. C(found) are sentences, C(inventory) and C(configuration) the lines that are missing there.
    """

    outcome: Outcome
    reason: str
    due: bool = False
    take: str = ""
    python: str = ""
    found: tuple[str, ...] = ()
    inventory: tuple[str, ...] = ()
    configuration: tuple[str, ...] = ()

    def as_result(self) -> dict[str, object]:
        return {**vars(self), "bad": self.outcome in BAD}


def report(evidence: Mapping[str, Any], owner: Owner, dry_run: bool) -> Report:
    """Judge the registered results of the steps C(greet), C(look), C(python), C(info) and C(health)."""
    greet, look, python, info = (last(evidence.get(step)) for step in ("greet", "look", "python", "info"))
    greeting = said_in(stdout(greet))
    if "end" not in greeting:
        if greet.get("unreachable") or not greet:
            return Report("unreachable", f"Nobody could log in: {_no_login(greet)}")
        return Report("failed", f"It lets somebody in, and answers nothing: {complaint(greet)}")
    user, groups = (greeting.get(key, ["?"])[0] for key in ("user", "groups"))
    host = seen(stdout(look))
    if host is None:
        if look.get("unreachable"):
            return Report("unreachable", f"It went away: {complaint(look)}")
        return Report("failed", f"{user} may log in, and cannot become root: {complaint(look)} {_BECOME}")
    if not host.nixos and not owner.needed:
        return Report("left_alone", "It is no NixOS, and lab_managed is false: no night has anything to do with it.")
    if refused := _refused(host, user):
        return Report("failed", refused, found=(_is(host, user),))
    made = said_in(stdout(python))
    if "end" in made:
        host = replace(host, rooted_python=made.get("rooted_python", [""])[0].partition(" ")[0])
    told = Report(
        "pending",
        "It has no Python yet.",
        due=not host.system_python and not host.rooted_python,
        take=host.store_python,
        python=_interpreter(host),
        found=(_is(host, user), *_python(host, owner)),
        inventory=_inventory(host, owner),
        configuration=_configuration(host, owner, _is_trusted(host, user, groups.split())),
    )
    if told.due:
        told = _without_python(told, host, owner, python, dry_run)
    return _with_modules(told, info, last(evidence.get("health"))) if info else told


def _without_python(told: Report, host: Seen, owner: Owner, python: Mapping[str, Any], dry_run: bool) -> Report:
    """What becomes of a host that has no Python that stays."""
    if python:
        return replace(told, outcome="failed", due=False, python="", reason=_not_made(python))
    if not host.store_python and host.store_free is not None and host.store_free < ROOM:
        reason = f"{host.store_free} MiB are free in /nix/store, and a Python and what it is made from may need {ROOM}."
        return replace(told, outcome="failed", due=False, reason=f"{reason} Make room with nix-collect-garbage -d.")
    source = host.store_python or f"that of {owner.installable or host.nixpkgs}"
    return replace(told, reason=f"Dry run: its Python would be {source}.") if dry_run else told


def _with_modules(told: Report, info: Mapping[str, Any], health: Mapping[str, Any]) -> Report:
    """What our modules saw; that they did is what makes a host manageable."""
    if "systems" not in info:
        words = f"Python is there, and a module that looks at the host fails: {complaint(info)}"
        return replace(told, outcome="failed", due=False, reason=words)
    grade = str(info["boot_recovery"])
    found = [*told.found, f"A boot that goes wrong is put right {_GRADES[grade]} (boot recovery: {grade})."]
    found += [f"A night would leave it alone: {sentence}" for sentence in info["drift"]]
    configuration = [*told.configuration]
    if not info["boot_guard"]:
        configuration.append("services.lab-auto-update-host.enable = true;")
    checks = health.get("checks", [])
    for check in checks:
        if check["status"] != "ok" and check["level"] == "required":
            found.append(f"A night would leave it alone: {check['message']}")
        if check["name"] == "updater" and check["status"] == "fail":
            configuration += [line for unit, line in _UPDATERS.items() if unit in check["observed"]]
    if not checks:
        found.append(f"It could not be asked how well it is: {complaint(health)}")
    told = replace(told, found=tuple(found), configuration=tuple(configuration))
    if told.due:
        return told
    return replace(told, outcome="manageable", reason="A module of ours has looked at it.")


def seen(text: str) -> Seen | None:
    """Read what the script said to C(look); C(None) unless it said all of it."""
    said = said_in(text)
    if "end" not in said or "uid" not in said:
        return None

    def first(key: str) -> str:
        return said.get(key, [""])[0].strip()

    version, _blank, path = first("store_python").partition(" ")
    return Seen(
        uid=first("uid"),
        nixos=first("nixos"),
        nix=first("nix"),
        systemd=first("systemd"),
        store_free=int(first("store_free")) if first("store_free").isdigit() else None,
        trusted_users=tuple(first("trusted_users").split()),
        trusted_keys=tuple(first("trusted_keys").split()),
        system_python=first("system_python"),
        useless_python=first("system_python_useless"),
        rooted_python=first("rooted_python").partition(" ")[0],
        store_python=path if is_store_path(path) else "",
        store_python_version=version,
        nixpkgs=first("nixpkgs"),
    )


def _no_login(greet: Mapping[str, Any]) -> str:
    """What ssh said, and what to do where it was about its key."""
    words, everything = complaint(greet), str(greet.get("msg") or "")
    if "HOST IDENTIFICATION HAS CHANGED" in everything:
        return (
            f"{words} It shows another key than it did. If it was installed anew, compare the fingerprint at its"
            " console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) and forget the old key with ssh-keygen -R."
        )
    if "Host key verification failed" in everything:
        return (
            f"{words} Its key is not among the known ones, or not the expected one. Set lab_bootstrap_host_keys to the"
            " fingerprint that its console shows (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub)."
        )
    return words


def _is(host: Seen, user: str) -> str:
    """What it is, as far as that can be told without Python."""
    free = "unknown" if host.store_free is None else f"{host.store_free / 1024:.1f} GiB"
    nix, systemd = (_dotted(_version(text)) or "unknown" for text in (host.nix, host.systemd))
    return f"NixOS {host.nixos or 'unknown'}, Nix {nix}, systemd {systemd}, {free} free in /nix/store; {user} logs in."


def _refused(host: Seen, user: str) -> str:
    """Why nothing is done with it, all that is wrong at once; empty when there is no reason."""
    wrong = []
    if host.uid != "0":
        wrong.append(f"{user} becomes user {host.uid} there, and not root: see ansible_become_user.")
    if not host.nixos:
        wrong.append("It is no NixOS: there is no /etc/NIXOS.")
    for what, text, least in (("Nix", host.nix, NIX), ("systemd", host.systemd, SYSTEMD)):
        version = _version(text)
        if version < least:
            wrong.append(
                f"It has {what} {_dotted(version) or 'of an unknown version'}, and {_dotted(least)} or newer is needed:"
                " update it by hand once."
            )
    return " ".join(wrong)


def _interpreter(host: Seen) -> str:
    """The Python that works now, though nothing may keep it there."""
    if host.system_python:
        return SYSTEM_PYTHON
    if host.rooted_python:
        return ROOTED_PYTHON
    return f"{host.store_python}/bin/python3" if host.store_python else ""


def _python(host: Seen, owner: Owner) -> Iterator[str]:
    """Which Python there is."""
    if host.useless_python:
        yield f"The Python of its system is of no use: {host.useless_python}."
    if host.system_python:
        yield f"Python {host.system_python} is part of its system."
        if owner.interpreter == ROOTED_PYTHON:
            yield (
                "The inventory does not need ansible_python_interpreter and lab_require_python for it any more. Without"
                f" them, {PYTHON_ROOT} may be removed."
            )
    elif host.rooted_python:
        yield f"Python {host.rooted_python} is kept by {PYTHON_ROOT}; its system has none."
    elif host.store_python:
        yield f"Python {host.store_python_version} is in its store, and nothing of ours keeps it there."
    else:
        yield "Neither its system nor its store has a Python of 3.11 or newer."


def _inventory(host: Seen, owner: Owner) -> tuple[str, ...]:
    if host.system_python or owner.interpreter == ROOTED_PYTHON:
        return ()
    return f"ansible_python_interpreter: {ROOTED_PYTHON}", "lab_require_python: false"


def _configuration(host: Seen, owner: Owner, trusted: bool) -> tuple[str, ...]:
    lines = []
    if not host.system_python:
        lines.append("environment.systemPackages = [ pkgs.python3 ];")
    own_keys = [key for key in host.trusted_keys if not key.startswith(_NOBODYS_KEYS)]
    if not own_keys and (owner.pulls or not trusted):
        lines.append('nix.settings.trusted-public-keys = [ "the public half of lab_signing_key" ];')
    return tuple(lines)


def _is_trusted(host: Seen, user: str, groups: Sequence[str]) -> bool:
    """Whether what C(user) brings needs no signature."""
    return bool({user, "*", *(f"@{group}" for group in groups)} & {"root", *host.trusted_users})


def _not_made(python: Mapping[str, Any]) -> str:
    """Why there is no Python in spite of all."""
    said = str(python.get("stderr") or "")
    words = redact(first_error(said) or complaint(python))
    return " ".join(filter(None, [f"Its Python could not be had: {words.rstrip('.')}.", remedy(said)]))


def _version(text: str) -> tuple[int, ...]:
    """The first number with or without dots in what a program says of itself; empty when there is none."""
    found = re.search(r"\b(\d+(?:\.\d+)*)", text)
    return tuple(map(int, found[1].split("."))) if found else ()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
