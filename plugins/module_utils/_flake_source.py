# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a flake is asked what it says, here or on another machine: command lines, answers and failures. Pure."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils import _nix
from ansible_collections.homelab.nixos.plugins.module_utils._command import (
    FHS_PATH,
    PATH,
    CommandFailed,
    Completed,
    first_error,
)
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._flake_inventory import Outputs
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

# Names and the output lab, never the systems themselves. With the attribute path "." Nix hands over all outputs: one
# call, and an output that is missing is told from one that fails.
QUESTION = (
    "outputs: { hosts = if outputs ? nixosConfigurations then builtins.attrNames outputs.nixosConfigurations else null;"
    " lab = outputs.lab or null; }"
)
_ALL_OUTPUTS = "#."
# a reference such as github:owner/repo or git+file:///etc/nixos; anything else is a directory
_REFERENCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_COMMITTED = ("git", "hg")
_SSH_FAILED = 255
_NOT_FOUND = (126, 127)
_CONNECT_TIMEOUT = 10
_NO_FLAKE = re.compile(r"could not find a flake\.nix|flake\.nix['\"] does not exist|getting status of .*: No such file")
_NOT_OWNED = re.compile(r"not owned by current user|dubious ownership")


@dataclass(frozen=True)
class Machine:
    """Where Nix runs: on this controller, or on another machine by ssh."""

    ssh: str = ""
    ssh_args: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.ssh or "this controller"

    def argv(self, command: Sequence[str], timeout: float) -> list[str]:
        """The command line that runs C(command) there."""
        if not self.ssh:
            return list(command)
        # the program ends on its machine, too, when it takes too long; any login shell can read a line so quoted
        limit = ("timeout", "--kill-after=10", f"{timeout:.0f}")
        remote = shlex.join(["env", "LC_ALL=C", f"PATH={PATH}:{FHS_PATH}", *limit, *command])
        options = ("BatchMode=yes", f"ConnectTimeout={_CONNECT_TIMEOUT}", "ServerAliveInterval=15")
        return [
            "ssh",
            "-T",
            # a master connection would be left behind, with our pipes in its hands
            *("-o", "ControlMaster=no"),
            *self.ssh_args,
            *(word for option in options for word in ("-o", option)),
            "--",
            self.ssh,
            remote,
        ]


@dataclass(frozen=True)
class Flake:
    """A flake at one moment: its locked reference, and what is the same only when all that it says is."""

    url: str
    identity: str | None


def machine(ssh: object, ssh_args: object) -> Machine:
    """The machine that the options C(ssh) and C(ssh_args) name."""
    if not ssh:
        if ssh_args:
            raise LabError("ssh_args is set, and ssh is not.", "Set ssh to the machine that has Nix, or drop ssh_args.")
        return Machine()
    if not isinstance(ssh, str) or ssh.startswith("-") or re.search(r"\s", ssh) or _CONTROL.search(ssh):
        raise LabError(f"ssh is {ssh!r}, which is no address.", "Write it as for ssh, for example root@builder.")
    return Machine(ssh, _words(ssh_args))


def _words(ssh_args: object) -> tuple[str, ...]:
    words: object = ssh_args or []
    if isinstance(words, str):
        try:
            words = shlex.split(words)
        except ValueError as error:
            raise LabError(f"ssh_args cannot be read: {error}.", "Quote it as on a command line.") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise LabError(f"ssh_args is {ssh_args!r}.", "It is a list of words, or one text as on a command line.")
    return tuple(str(word) for word in words)


def reference(flake: str, where: Machine, directory: str) -> str:
    """The flake as Nix takes it; a relative directory is below C(directory), that of the inventory source."""
    if not flake or flake.startswith("-") or "#" in flake or _CONTROL.search(flake):
        raise LabError(
            f"flake is {flake!r}, which is neither a directory nor a flake reference.",
            "Write it as /etc/nixos or git+ssh://host/repository, without an attribute.",
        )
    if _REFERENCE.fullmatch(flake) or flake.startswith("/"):
        return flake
    if where.ssh:
        raise LabError(f"flake is {flake!r}, which is no place on {where.ssh}.", "Write a path that begins with /.")
    return posixpath.normpath(posixpath.join(directory, flake))


def metadata_command(flake: str, options: Mapping[str, object]) -> list[str]:
    """Looks at the flake and its lock file, and evaluates nothing. An inventory never writes a lock file."""
    return [*_nix.NIX, "flake", "metadata", "--json", "--no-write-lock-file", *_nix.option_args(options), flake]


def outputs_command(url: str, options: Mapping[str, object]) -> list[str]:
    return [
        *(*_nix.NIX, "eval", "--json", "--no-write-lock-file", *_nix.option_args(options)),
        *(url + _ALL_OUTPUTS, "--apply", QUESTION),
    ]


def flake(metadata: str) -> Flake:
    """The flake that C(nix flake metadata --json) describes; it has no identity unless all of it is locked."""
    data = _mapping(_json(metadata, "nix flake metadata"), "nix flake metadata")
    url = data.get("url")
    locked, locks = data.get("locked"), data.get("locks")
    if not isinstance(url, str) or not isinstance(locked, dict) or not isinstance(locks, dict):
        raise Unreadable("nix flake metadata did not say what the flake is locked to.", "Nix 2.26 and newer do.")
    nodes = _mapping(locks.get("nodes"), "nix flake metadata")
    inputs = [node["locked"] for node in nodes.values() if isinstance(node, dict) and "locked" in node]
    if not all(map(_is_locked, [locked, *(entry for entry in inputs if not _is_within(entry))])):
        return Flake(url, None)
    return Flake(url, digest(locked, locks))


def digest(*parts: object) -> str:
    """One short text for plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_locked(locked: object) -> bool:
    if not isinstance(locked, dict) or "dirtyRev" in locked:
        return False
    # what nobody has committed yet has a hash as well
    return "rev" in locked or ("narHash" in locked and locked.get("type") not in _COMMITTED)


def _is_within(locked: object) -> bool:
    """Whether an input is a directory of the flake itself, which its own lock covers."""
    return isinstance(locked, dict) and locked.get("type") == "path" and not str(locked.get("path")).startswith("/")


def outputs(text: str) -> dict[str, object]:
    """What Nix answered to the question, as plain data that a cache can keep."""
    return _mapping(_json(text, "nix eval"), "nix eval")


def read_outputs(data: Mapping[str, object], flake: str) -> Outputs:
    hosts = data.get("hosts")
    if hosts is None:
        raise LabError(f"{flake} has no nixosConfigurations.", "Set flake to the flake that has those of your hosts.")
    if not isinstance(hosts, list) or not all(isinstance(name, str) for name in hosts):
        raise Unreadable("nix eval did not print the names of nixosConfigurations.")
    return Outputs(tuple(hosts), data.get("lab"))


def failure(done: Completed, flake: str, where: Machine, timeout: float) -> LabError:
    """What a call of Nix that did not end well means to a person."""
    words, flake = first_error(done.stderr).rstrip(" .;,"), redact(flake)
    if done.timed_out:
        return LabError(
            f"Asking the flake {flake} on {where.name} took longer than {timeout:g} s.",
            "Raise timeout, or find out what hangs there.",
        )
    if where.ssh and done.rc == _SSH_FAILED:
        by_hand = shlex.join(["ssh", *where.ssh_args, where.ssh, "true"])
        return LabError(f"ssh does not get to {where.ssh}: {words}.", f"Make this work without a password: {by_hand}")
    if done.rc in _NOT_FOUND:
        return no_nix(where)
    if _NOT_OWNED.search(done.stderr):
        return LabError(
            f"{flake} on {where.name} belongs to somebody else: {words}.",
            "Run Ansible as its owner, set ssh to log in as its owner, or see safe.directory in git-config(1).",
        )
    if "metadata" in done.argv and _NO_FLAKE.search(done.stderr):
        return LabError(
            f"There is no flake {flake} on {where.name}: {words}.",
            "Set flake to the directory that has flake.nix, or to a flake reference.",
        )
    remedy = _nix.remedy(done.stderr) or "Mend the flake; nix flake check shows more."
    return CommandFailed(done, remedy, f"Asking the flake {flake} on {where.name}")


def no_nix(where: Machine) -> LabError:
    if where.ssh:
        return LabError(f"{where.ssh} has no nix in its PATH.", "Set ssh to a machine that has Nix.")
    return LabError(
        "This controller has no nix, and the inventory needs it to ask the flake.",
        "Set ssh to a machine that has Nix and the flake, for example root@builder.",
    )


def _json(text: str, program: str) -> object:
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{program} printed something that is not JSON: {error}.") from error
    return data


def _mapping(data: object, program: str) -> dict[str, object]:
    if not isinstance(data, dict):
        raise Unreadable(f"{program} printed something else than expected.")
    return data
