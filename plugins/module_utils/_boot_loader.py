# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which system a boot loader starts by default, read from the loader's own words. Pure.

Never inferred from the system profile: the builder of a boot loader can fail, be skipped, or run out of space
(nixpkgs#189966). Each function returns the store path of the system, or C(None) when the text does not tell.
"""

from __future__ import annotations

import json
import re

# NixOS starts stage 2 with init=/nix/store/…-nixos-system-…/init on the kernel's command line, whatever the loader
_INIT = re.compile(r"(?:^|\s)init=(/nix/store/[0-9a-z]{32}-[^\s/]+)/init(?:\s|$)")


def from_command_line(text: str) -> str | None:
    """The system that a kernel command line starts."""
    found = _INIT.search(text)
    return found[1] if found else None


def from_bootctl(text: str) -> str | None:
    """The default of systemd-boot, from C(bootctl list --json=short)."""
    try:
        entries = json.loads(text)
    except ValueError:
        return None
    if not isinstance(entries, list):
        return None
    for entry in entries:
        if isinstance(entry, dict) and entry.get("isDefault"):
            return from_command_line(str(entry.get("options") or ""))
    return None


def from_grub(text: str) -> str | None:
    """The default of GRUB, from the C(grub.cfg) that NixOS writes: a number, counting entries and submenus from 0."""
    # the branch for a one-time entry sets a variable, the other one the number
    numbers = re.findall(r"^\s*set default=\"?(\d+)\"?\s*$", text, re.MULTILINE)
    if len(set(numbers)) != 1:
        return None
    blocks = re.split(r"^(?:menuentry|submenu)\b", text, flags=re.MULTILINE)[1:]
    wanted = int(numbers[0])
    return from_command_line(blocks[wanted]) if wanted < len(blocks) else None


def from_extlinux(text: str) -> str | None:
    """The default of an C(extlinux.conf) as the generic-extlinux-compatible builder writes it."""
    default = re.search(r"^\s*DEFAULT\s+(\S+)\s*$", text, re.MULTILINE)
    if default is None:
        return None
    for block in re.split(r"^\s*LABEL\s+", text, flags=re.MULTILINE)[1:]:
        label, _newline, rest = block.partition("\n")
        if label.strip() == default[1]:
            return from_command_line(rest)
    return None
