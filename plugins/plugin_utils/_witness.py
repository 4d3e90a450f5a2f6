# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether this controller still reaches other machines. For a host that is its own controller nobody else could tell.

Only who answered before can be missed: what is not within reach of a plain connection is no witness.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.homelab.nixos.plugins.module_utils._ssh_config import connection

# some may be off, and each that does not answer costs a wait
_MOST = 5
_ENOUGH = 3
_SECONDS = 3.0


class Witness(NamedTuple):
    """A machine by the name that people know, and where its sshd listens."""

    name: str
    address: str
    port: int


def answering(names: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[Witness]:
    """Those of C(names) that take a connection now, a few at most."""
    found: list[Witness] = []
    for witness in known(names[:_MOST], hostvars):
        if reaches(witness):
            found.append(witness)
        if len(found) == _ENOUGH:
            break
    return found


def known(names: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[Witness]:
    """C(names) with their addresses, as the inventory has them."""
    addresses = [(name, *connection(hostvars[name])) for name in names]
    return [Witness(name, address or name, port or 22) for name, address, port, _user in addresses]


def missing(witnesses: Sequence[Witness]) -> str:
    """What to say when none of C(witnesses) can be reached; empty when one can, and where there is none to ask."""
    if not witnesses or any(map(reaches, witnesses)):
        return ""
    names = ", ".join(witness.name for witness in witnesses)
    return f"this controller, which is the host itself, cannot reach {names} any more."


def reaches(witness: Witness) -> bool:
    """Whether a machine takes a connection."""
    try:
        with socket.create_connection((witness.address, witness.port), _SECONDS):
            return True
    except OSError:
        return False
