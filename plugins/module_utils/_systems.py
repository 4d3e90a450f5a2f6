# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Systems: which ones a host has, whether they agree, and what of a new one only a reboot brings. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable

_HASH_LENGTH = 32
_STORE = "/nix/store/"


@dataclass(frozen=True)
class Systems:
    """The four systems of a host, each an absolute store path, or C(None) where it cannot be told."""

    current: str | None
    booted: str | None
    profile: str | None
    boot_default: str | None


@dataclass(frozen=True)
class Parts:
    """What of a system takes effect at boot only, as resolved paths; C(None) where it has no such part."""

    kernel: str | None = None
    initrd: str | None = None
    kernel_modules: str | None = None
    systemd: str | None = None
    init_interface: str = ""
    kernel_params: str = ""
    inhibitors: Mapping[str, str] = field(default_factory=dict)


def drift(systems: Systems) -> list[str]:
    """Why this host is not in the state an update starts from: one sentence for each disagreement, none when all agree.

    What was booted does not count: after a switch without a reboot it is older, and that is a pending reboot.
    """
    if systems.current is None:
        return ["/run/current-system cannot be read"]
    sentences = []
    for what, system in (("the system profile", systems.profile), ("the boot default", systems.boot_default)):
        if system is None:
            sentences.append(f"{what} cannot be read")
        elif system != systems.current:
            sentences.append(f"{what} is {name(system)}, but {name(systems.current)} is running")
    return sentences


def reboot_reasons(booted: Parts, current: Parts, target: Parts) -> list[str]:
    """What of C(target) needs a reboot to take effect, in the words of NixOS; empty when nothing does.

    C(system.autoUpgrade) compares kernel, initrd and kernel-modules only; parameters and systemd matter as much.
    """
    reasons = [
        word
        for word, before, after in (
            ("kernel", booted.kernel, target.kernel),
            ("initrd", booted.initrd, target.initrd),
            ("kernel-modules", booted.kernel_modules, target.kernel_modules),
            ("kernel-params", booted.kernel_params.split(), target.kernel_params.split()),
            ("systemd", booted.systemd, target.systemd),
            ("init-interface", booted.init_interface, target.init_interface),
        )
        if before != after
    ]
    return reasons + [f"switch-inhibitor {key}" for key in inhibited(current.inhibitors, target.inhibitors)]


def inhibited(running: Mapping[str, str], target: Mapping[str, str]) -> list[str]:
    """The switch inhibitors that forbid going from the running system to C(target) without a reboot.

    As in switch-to-configuration: only keys that both systems have are compared.
    """
    return sorted(key for key in running.keys() & target.keys() if running[key] != target[key])


def inhibitors(text: str) -> dict[str, str]:
    """Read a C(switch-inhibitors) file: a flat JSON object of strings, or nothing at all in older systems."""
    if not text.strip():
        return {}
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Unreadable(f"switch-inhibitors is not JSON: {error}.") from error
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise Unreadable("switch-inhibitors is not a flat JSON object of strings.")
    return data


def name(path: str) -> str:
    """The name of a store path without directory and hash: C(linux-6.12) of C(/nix/store/…-linux-6.12/bzImage)."""
    if not path.startswith(_STORE):
        return path
    return path[len(_STORE) :].split("/", 1)[0][_HASH_LENGTH + 1 :]


def short(path: str) -> str:
    """How people tell two systems apart: the first seven letters of the hash, as with a git commit."""
    return path[len(_STORE) :][:7] if path.startswith(_STORE) else path
