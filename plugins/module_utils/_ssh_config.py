# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An ssh_config for one host, from what the inventory says about it. Pure.

Nix splits NIX_SSHOPTS at blanks and an ssh URL has no place for a ProxyCommand, so all of it goes into a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_ALIAS = re.compile(r"[^A-Za-z0-9_.-]")
# the rest of the line belongs to these, so they are not quoted
_RAW = ("proxycommand", "localcommand", "remotecommand", "knownhostscommand", "setenv", "sendenv", "match")
_FLAGS = {"-4": ("AddressFamily", "inet"), "-6": ("AddressFamily", "inet6"), "-C": ("Compression", "yes")}
_LETTERS = {
    "-i": "IdentityFile",
    "-J": "ProxyJump",
    "-l": "User",
    "-p": "Port",
    "-b": "BindAddress",
    "-B": "BindInterface",
}


def alias(name: str) -> str:
    """The name of a host in its ssh_config and in the URL of its store: the inventory's, as far as both can hold it."""
    return _ALIAS.sub("-", name).lstrip("-") or "host"


def ssh_config(
    name: str,
    *,
    host_name: str,
    port: int | None = None,
    user: str | None = None,
    identity_file: str | None = None,
    connect_timeout: int = 10,
    arguments: Sequence[str] = (),
) -> str:
    """The text of an ssh_config for host C(name).

    C(arguments) are what Ansible would give to ssh on its command line, where the same machine connects.
    """
    lines = [("HostName", host_name)]
    if port is not None:
        lines.append(("Port", str(port)))
    if user:
        lines.append(("User", user))
    if identity_file:
        lines += [("IdentityFile", identity_file), ("IdentitiesOnly", "yes")]
    # ssh takes the first value that it sees, so these hold whatever the inventory says: a shared connection hangs
    # nix copy, and nobody is there to answer a question
    lines += [
        ("BatchMode", "yes"),
        ("ControlMaster", "no"),
        ("ControlPath", "none"),
    ]
    options, includes, complete = _from_arguments(arguments)
    lines += options
    # and these hold unless the inventory says otherwise
    lines += [
        ("ConnectTimeout", str(connect_timeout)),
        ("ServerAliveInterval", "15"),
        ("ServerAliveCountMax", "4"),
    ]
    text = [f"Host {alias(name)}"] + [f"  {keyword} {_value(keyword, value)}" for keyword, value in lines]
    text.append("Match all")
    # with -F ssh leaves out its usual files; without a file named in the inventory they count as ever
    files = includes if complete else [*includes, "~/.ssh/config", "/etc/ssh/ssh_config"]
    text += [f"  Include {_value('Include', path)}" for path in files]
    return "".join(f"{line}\n" for line in text)


def connection(variables: Mapping[str, object]) -> tuple[str | None, int | None, str | None]:
    """Address, port and user of a host, in Ansible's order of names."""
    host = _first(variables, "ansible_ssh_host", "ansible_host")
    user = _first(variables, "ansible_ssh_user", "ansible_user")
    port = _first(variables, "ansible_ssh_port", "ansible_port")
    if host is not None and host.startswith("-"):
        raise LabError(f"ansible_host is {host!r}, which ssh would take for an option.", "Mend the inventory.")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        raise LabError(f"ansible_port is {port!r}, which is not a port.", "Set it to a number from 1 to 65535.")
    return host, int(port) if port is not None else None, user


def ssh_arguments(variables: Mapping[str, object]) -> list[str]:
    """What Ansible adds to the command line of ssh for a host."""
    arguments: list[str] = []
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        value = variables.get(name)
        if not value:
            continue
        try:
            arguments += shlex.split(str(value))
        except ValueError as error:
            raise LabError(f"{name} cannot be read: {error}.", "Quote it as on a command line.") from error
    return arguments


def _first(variables: Mapping[str, object], *names: str) -> str | None:
    for name in names:
        value = variables.get(name)
        if value is not None and str(value) != "":
            return str(value)
    return None


def _from_arguments(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str], bool]:
    """Options, files to include, and whether these files replace the usual ones."""
    options: list[tuple[str, str]] = []
    includes: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in _FLAGS:
            options.append(_FLAGS[word])
            continue
        letter, attached = word[:2], word[2:]
        if letter not in ("-o", "-F", *_LETTERS):
            raise LabError(
                f"The ssh argument {word!r} of the inventory has no place in a file.",
                "Write it as -o Keyword=value, or put it into a file and name that with -F.",
            )
        value = attached or next(words, "")
        if not value:
            raise LabError(f"The ssh argument {letter} of the inventory has no value.")
        if letter == "-F":
            includes.append(value)
        elif letter == "-o":
            keyword, _sign, setting = re.sub(r"^\s*(\w+)\s*[=\s]\s*", r"\1=", value).partition("=")
            if not _KEYWORD.fullmatch(keyword):
                raise LabError(f"The ssh option {value!r} of the inventory cannot be read.", "Write Keyword=value.")
            options.append((keyword, setting))
        else:
            options.append((_LETTERS[letter], value))
    return options, [path for path in includes if path != "none"], bool(includes)


def _value(keyword: str, value: str) -> str:
    if _CONTROL.search(value):
        raise LabError(f"{keyword} has a line break or a control character in it: {value!r}.", "Mend the inventory.")
    if keyword.lower() in _RAW:
        return value
    if '"' in value:
        raise LabError(f"{keyword} has a quote in it, which ssh_config cannot hold: {value!r}.", "Mend the inventory.")
    if keyword == "HostName":
        value = value.replace("%", "%%")
    return f'"{value}"' if re.search(r"[\s#='\\]", value) or not value else value
