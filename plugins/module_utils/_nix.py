# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How Nix is spoken to: argv, store paths and attributes, checked before they get near a command line. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable

# a host that never enabled flakes is updated all the same
NIX: tuple[str, ...] = ("nix", "--extra-experimental-features", "nix-command flakes")

STORE_DIR = "/nix/store"

# Nix waits for minutes, five times over, for a substituter that takes a connection and says nothing
BOUNDED: Mapping[str, object] = {"connect-timeout": 10, "stalled-download-timeout": 30, "download-attempts": 3}

# Nix's base 32 has no e, o, t and u; names are those that Nix accepts, and never begin with a dot
_STORE_PATH = re.compile(r"/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9A-Za-z+_?=-][0-9A-Za-z+._?=-]{0,210}")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
# what Nix takes literally after the #; anything else is percent-encoded for it
_FRAGMENT_SAFE = "!$&'()*+,;=:@/?\"._~ -"
_ROOT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

_STALE = re.compile(r"continuing with the most recent version|; using cached version")
_ERROR = re.compile(r"error: (?P<words>\S.*)")
_DERIVATION = re.compile(r"'(/nix/store/[^'^]+\.drv)")
_TELLING = re.compile(r"\b(?:error|fatal)\b|No space left", re.IGNORECASE)
_LOG_LINE = re.compile(r"\s*> ?(?P<words>.*)")
# 2.34 tells in lines of their own what 2.26 has in the first one
_REASON = re.compile(r"\s+(?:Reason|Required system|Current system): .*")
_CONSEQUENCE = re.compile(r"\d+ dependenc(?:y|ies)\b.* failed|^build of '")
_FAILING_INPUT = re.compile(r"while updating the flake input '([^']+)'")
_UNKNOWN_INPUT = re.compile(r"^warning: '([^']+)' does not match any input of this flake", re.MULTILINE)
# where a program of Nix goes on to say something else
_NEW_MESSAGE = re.compile(
    r"(?:warning|error|note): |copying (?:path |\d+ )|don't know how |(?:this|these) .* will be |disabling binary "
)
_RETRYING = re.compile(r"; retrying in \d+ ms")
# only what a binary cache has; a flake input is none
_DOWNLOAD = re.compile(
    r"(?:warning: |error: )+unable to download '(?P<url>[^']+?)"
    r"/(?:nix-cache-info|[0-9a-z]{32}\.(?:narinfo|ls)|(?:nar|realisations|log)/[^']*)':\s*(?P<words>.*)"
)
_ABSENT_FILE = re.compile(
    r"(?:warning: |error: )+file '(?P<words>[^']+)' does not exist in binary cache '(?P<url>[^']+)'"
)
_NO_CACHE = re.compile(r"(?:warning: |error: )+'(?P<url>[^']+)' (?P<words>does not appear to be a binary cache)")
_NO_SSH = re.compile(
    r"(?:warning: |error: )+(?P<words>failed to start SSH connection|cannot connect) to '(?P<url>[^']+)'"
)
_NO_SCHEME = re.compile(
    r"(?:warning: |error: )+(?P<words>don't know how to open Nix store with scheme) '(?P<url>[^']+)'"
)
_UNSIGNED = re.compile(r"ignoring substitute for '[^']+' from '([^']+)', as it's not signed")
_REMEDIES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"not owned by current user|dubious ownership"),
        "Run the task as the owner of that checkout (become_user), or make this user its owner with chown -R.",
    ),
    (re.compile(r"API rate limit"), "Wait for an hour, or give Nix a token: access-tokens in nix.conf."),
    (
        re.compile(r"is not tracked by Git|getting status of '[^']+': No such file"),
        "A flake in git sees only what git knows: git add the file and commit it.",
    ),
    (
        re.compile(r"Please tell me who you are|unable to auto-detect email|empty ident name"),
        "Tell git who commits: git config user.name NAME and git config user.email ADDRESS in the checkout.",
    ),
    (
        re.compile(r"failed to sign the data|signing failed"),
        "Make signing work for this user, or switch it off in git.",
    ),
    (
        re.compile(r"is required to build '|platform mismatch"),
        "Give the builder a remote builder for that platform (nix.buildMachines), or emulation of it"
        " (boot.binfmt.emulatedSystems).",
    ),
    (
        re.compile(r"unable to (?:connect|access)|(?:not|n't) resolve host|Connection (?:refused|timed out)|hung up"),
        "Look at that source, and at the network on the way to it.",
    ),
    (re.compile(r"No space left on device"), "Make room, for instance with nix-collect-garbage."),
    (re.compile(r"index\.lock': File exists"), "Wait for the other git process; if there is none, remove that file."),
    (
        re.compile(r"Host key verification failed|host key is known"),
        "Make the host's key known to the machine that connects, see programs.ssh.knownHosts or ssh-keyscan.",
    ),
    (
        re.compile(r"lacks a (?:signature by a trusted|valid signature)|not signed by any of the keys"),
        "Sign what the builder builds (lab_signing_key) and add its public key to trusted-public-keys of the host,"
        " or push as root or a trusted user.",
    ),
)

# GC roots of ours, one directory per purpose; Nix follows links below gcroots to any depth
GC_ROOTS = "/nix/var/nix/gcroots/lab-auto-update"
BUILDER_ROOTS = f"{GC_ROOTS}/builder"
TARGET_ROOT = f"{GC_ROOTS}/target"
FROM_ROOT = f"{GC_ROOTS}/from"
PROVEN_ROOT = f"{GC_ROOTS}/proven"
PYTHON_ROOT = f"{GC_ROOTS}/python"


def is_store_path(text: str) -> bool:
    """Whether C(text) is exactly the path of a store object, with nothing before or after it."""
    return _STORE_PATH.fullmatch(text) is not None


def store_path(text: str, what: str = "path") -> str:
    """Return C(text) if it is the path of a store object; C(what) names the setting in the complaint."""
    if not is_store_path(text):
        raise LabError(
            f"{what} is {text!r}, which is not a store path.", "It has the form /nix/store/<32 characters>-<name>."
        )
    return text


def store_paths(stdout: str) -> list[str]:
    """The store paths that a program printed, one on a line, in its order and with repetitions."""
    found = [line.strip() for line in stdout.splitlines() if line.strip()]
    for line in found:
        if not is_store_path(line):
            raise Unreadable(f"Nix printed {line!r} where a store path was expected.")
    return found


def option_args(options: Mapping[str, object]) -> list[str]:
    """C(--option name value) for each setting of C(nix.conf) that the caller overrides."""
    args: list[str] = []
    for name, value in options.items():
        if not _OPTION.fullmatch(name):
            raise LabError(f"{name!r} is not the name of a Nix option.", "See nix.conf(5) for the names.")
        if name.removeprefix("extra-") == "access-tokens":
            # a command line is there for every process to read, and Ansible logs options
            raise LabError(
                f"{name} is a secret and cannot be an option.", "Put it into nix.conf, or a file included there."
            )
        args += ["--option", name, str(value).lower() if isinstance(value, bool) else str(value)]
    return args


def bounded_options(options: Mapping[str, object]) -> dict[str, object]:
    """C(options), and an end for every wait for a substituter that they leave open."""
    return {**BOUNDED, **options}


def installable(flake: str, attribute: str) -> str:
    """C(flake#attribute) for a command line; the attribute may not smuggle in an option, a flake or an output."""
    if not attribute or re.search(r"[\x00-\x1f\x7f#^\ud800-\udfff]", attribute) or attribute.startswith("-"):
        raise LabError(
            f"{attribute!r} is not an attribute of a flake.",
            'Write it as in nixosConfigurations."web".config.system.build.toplevel, without the flake.',
        )
    return f"{flake}#{quote(attribute, safe=_FRAGMENT_SAFE)}"


def flake_url(directory: str, subdirectory: str = "", shallow: bool = False) -> str:
    """The reference of a flake in a git working tree."""
    query = [f"dir={quote(subdirectory)}"] if subdirectory else []
    query += ["shallow=1"] if shallow else []
    return f"git+file://{quote(directory)}" + (f"?{'&'.join(query)}" if query else "")


def remedy(text: str) -> str:
    """What to do about the failure that Nix or git describes in C(text); empty if nobody knows."""
    return next((what for pattern, what in _REMEDIES if pattern.search(text)), "")


def stale_fetches(stderr: str) -> list[str]:
    """The lines in which Nix says that it could not fetch something and used an older copy, which is no error to it."""
    return [line.strip() for line in stderr.splitlines() if _STALE.search(line)]


def substituter_failures(stderr: str) -> dict[str, str]:
    """The substituters that Nix gave up, each with the last that Nix said of it.

    While Nix still tries, nobody has failed; but when it was stopped then, whoever it was waiting for has.
    """
    given_up: dict[str, str] = {}
    tried: dict[str, str] = {}
    lines = stderr.splitlines()
    for number, line in enumerate(lines):
        for pattern in (_DOWNLOAD, _ABSENT_FILE, _NO_CACHE, _NO_SSH, _NO_SCHEME):
            match = pattern.match(line.strip())
            if match is None:
                continue
            rest = lines[number + 1 :]
            end = next((index for index, below in enumerate(rest) if _NEW_MESSAGE.match(below)), len(rest))
            retrying = _RETRYING.search("\n".join([line, *rest[:end]]))
            words = _RETRYING.split(match["words"])[0].strip(" .")
            (tried if retrying else given_up)[match["url"]] = f"it has no {words}" if pattern is _ABSENT_FILE else words
    return given_up or tried


def unsigned_substituters(stderr: str) -> list[str]:
    """The substituters that have what was asked for, but not signed by a key that this machine trusts."""
    return list(dict.fromkeys(_UNSIGNED.findall(stderr)))


@dataclass(frozen=True)
class BuildError:
    """A derivation of which Nix says that it did not build, why, and whether only because of another one."""

    derivation: str
    words: str
    consequence: bool


def build_errors(stderr: str) -> list[BuildError]:
    """What Nix says of derivations that did not build, each with a line of its log, in the order it says so."""
    found: list[BuildError] = []
    lines = stderr.splitlines()
    for number, line in enumerate(lines):
        head = _ERROR.fullmatch(line)
        derivation = _DERIVATION.search(line)
        if head is None or derivation is None:
            continue
        words = [line.rstrip(" .;:")]
        log: list[str] = []
        # what belongs to an error is indented below it
        for below in itertools.takewhile(lambda text: text[:1].isspace(), lines[number + 1 :]):
            if _REASON.fullmatch(below):
                words.append(below.strip().removeprefix("Reason: ").rstrip("."))
            elif logged := _LOG_LINE.fullmatch(below):
                log += [logged["words"].strip()] if logged["words"].strip() else []
        if log:
            telling = next((text for text in log if _TELLING.search(text)), log[-1])
            words.append(f"its last words: {telling!r}")
        consequence = any(_CONSEQUENCE.search(text) for text in (head["words"], *words))
        found.append(BuildError(derivation[1], ", ".join(words), consequence))
    return found


def failing_input(stderr: str) -> str | None:
    """The input that Nix was fetching when it failed, the innermost one."""
    found = _FAILING_INPUT.findall(stderr)
    return found[-1] if found else None


def unknown_inputs(stderr: str) -> list[str]:
    """The inputs of which C(nix flake update) says, in a mere warning, that the flake does not have them."""
    return _UNKNOWN_INPUT.findall(stderr)


def root_name(name: str) -> str:
    """Return C(name) if it can be the name of a GC root, which is a file name."""
    if not _ROOT_NAME.fullmatch(name):
        raise LabError(
            f"{name!r} cannot be the name of a GC root.",
            "Use letters, digits, dots, dashes and underscores, and begin with a letter, a digit or an underscore.",
        )
    return name
