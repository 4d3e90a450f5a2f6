# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which system a boot loader starts by default and next, read from the loader's own words. Pure.

Never inferred from the system profile: the builder of a boot loader can fail, be skipped, or run out of space
(nixpkgs#189966). What a text does not tell is C(None).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

# NixOS starts stage 2 with init=/nix/store/…-nixos-system-…/init on the kernel's command line, whatever the loader
_INIT = re.compile(r"(?:^|\s)init=(/nix/store/[0-9a-z]{32}-[^\s/]+)/init(?:\s|$)")
ONE_SHOT_FEATURE = "One-shot entry control"
SYSTEMD_BOOT = "systemd-boot"

# bootctl status: a heading of each section, fields, and features with a tick or a cross, ASCII ones in the C locale
_HEADING = re.compile(r"(\S.*):")
_FIELD = re.compile(r"\s*([A-Za-z][A-Za-z -]*): (\S.*)")
_FEATURE = re.compile(r"\s*(?:Features: )?([✓✗+-]) (\S.*)")
_TICKS = "✓+"

_GRUB_COPY = re.compile(r"/kernels/[^/]+$")
_GRUB_STORE = re.compile(r"/([0-9a-z]{32}-[^/]+/.+)$")
_EXTLINUX_DIRECTORY = "/boot/extlinux"


@dataclass(frozen=True)
class Entry:
    """A menu entry: what it starts, and its files as paths of the running system.

    Of a C(unified) image the parts cannot be seen from outside.
    """

    id: str
    system: str | None
    linux: str | None
    initrds: tuple[str, ...] = ()
    title: str = ""
    unified: bool = False
    is_default: bool = False


@dataclass(frozen=True)
class Status:
    """What C(bootctl status) says of the loader that started this boot; entries are named by their ids.

    C(default) is the EFI variable that overrides the configuration, C(listed_default) what bootctl makes of it all.
    """

    product: str = ""
    features: frozenset[str] = frozenset()
    one_shot: str | None = None
    preferred: str | None = None
    default: str | None = None
    current: str | None = None
    listed_default: str | None = None
    esp: str | None = None

    @property
    def can_boot_once(self) -> bool:
        """Whether this loader honours an entry for the next boot only."""
        return self.product.startswith(SYSTEMD_BOOT) and ONE_SHOT_FEATURE in self.features


def from_command_line(text: str) -> str | None:
    """The system that a kernel command line starts."""
    found = _INIT.search(text)
    return found[1] if found else None


def entries_of(text: str) -> list[Entry]:
    """The entries of C(bootctl list --json=short), in its order; none when C(text) is not that."""
    try:
        listed = json.loads(text)
    except ValueError:
        return []
    found = []
    for data in listed if isinstance(listed, list) else []:
        if not isinstance(data, dict) or not isinstance(data.get("id"), str):
            continue
        root, linux, initrds = str(data.get("root") or ""), data.get("linux"), data.get("initrd")
        found.append(
            Entry(
                id=data["id"],
                system=from_command_line(str(data.get("options") or "")),
                linux=_below(root, str(linux)) if linux else None,
                initrds=tuple(_below(root, str(each)) for each in initrds or () if each)
                if isinstance(initrds, list)
                else (),
                title=str(data.get("title") or ""),
                unified=data.get("type") == "type2",
                is_default=data.get("isDefault") is True,
            )
        )
    return found


def entry_for(entries: Sequence[Entry], system: str, profile: str) -> Entry | None:
    """The entry that starts C(system), that of the system profile named C(profile) before any other.

    NixOS names such entries after the profile, or since 26.05 after their contents; the title has it in any case.
    """
    fitting = [entry for entry in entries if entry.system == system]
    return next((entry for entry in fitting if is_of_profile(entry, profile)), fitting[0] if fitting else None)


def is_of_profile(entry: Entry, profile: str) -> bool:
    """Whether NixOS wrote C(entry) for the profile C(profile) in C(system-profiles)."""
    return entry.id.startswith(f"nixos-{profile}-generation-") or f"[{profile}]" in entry.title


def from_status(text: str) -> Status:
    """Read C(bootctl status)."""
    section = ""
    features: set[str] = set()
    fields: dict[tuple[str, str], str] = {}
    for line in text.splitlines():
        if heading := _HEADING.fullmatch(line):
            section = heading[1]
        elif feature := _FEATURE.fullmatch(line):
            # the stub, if there is one, has features too
            if section == "Current Boot Loader" and feature[1] in _TICKS:
                features.add(feature[2].strip())
        elif field := _FIELD.fullmatch(line):
            fields.setdefault((section, field[1]), field[2].strip())
    loader = "Current Boot Loader"
    esp = fields.get(("Available Boot Loaders on ESP", "ESP"), "").split(" ")[0]
    return Status(
        product=fields.get((loader, "Product"), ""),
        features=frozenset(features),
        one_shot=fields.get((loader, "OneShot Entry")),
        preferred=fields.get((loader, "Preferred Entry")),
        default=fields.get((loader, "Default Entry")),
        current=fields.get((loader, "Current Entry")),
        listed_default=fields.get(("Default Boot Loader Entry", "id")),
        esp=esp if esp.startswith("/") else None,
    )


def from_efi_variable(text: str) -> str | None:
    """The string in a file of efivarfs: four bytes of attributes, then UTF-16."""
    return "".join(character for character in text if character.isprintable()) or None


def with_variables(status: Status, one_shot: str, default: str) -> Status:
    """C(status) with what the EFI variables of these names hold, where an older bootctl does not tell of them."""
    return replace(
        status,
        one_shot=status.one_shot or from_efi_variable(one_shot),
        default=status.default or from_efi_variable(default),
    )


def default_and_next(entries: Sequence[Entry], status: Status, configuration: str) -> tuple[Entry | None, Entry | None]:
    """What systemd-boot starts by default, and what it starts next, given its C(loader.conf)."""
    once = _matching(entries, status.one_shot, status)
    if once is None:
        marked = [entry for entry in entries if entry.is_default]
        # before systemd 253 the list does not say which
        marked = marked or [entry for entry in entries if entry.id == status.listed_default]
        default = marked[0] if marked else None
        return default, default
    # as long as it is set, bootctl calls the entry for the next boot the default
    written = dict(re.findall(r"^\s*(\w+)\s+(\S+)\s*$", configuration, re.MULTILINE))
    for pattern in (status.preferred, status.default, written.get("preferred"), written.get("default")):
        if (entry := _matching(entries, pattern, status)) is not None:
            return entry, once
    return entries[0], once


def from_grub(text: str) -> Entry | None:
    """The default of GRUB, from the C(grub.cfg) that NixOS writes: a number, counting entries and submenus from 0."""
    # the branch for a one-time entry sets a variable, the other one the number
    numbers = re.findall(r"^\s*set default=\"?(\d+)\"?\s*$", text, re.MULTILINE)
    if len(set(numbers)) != 1:
        return None
    blocks = re.split(r"^(?:menuentry|submenu)\b", text, flags=re.MULTILINE)[1:]
    wanted = int(numbers[0])
    if wanted >= len(blocks):
        return None
    # a submenu holds the next blocks and has no files of its own
    linux = [_grub_file(word) for word in _words(blocks[wanted], "linux")[:1]]
    initrds = [_grub_file(word) for word in _words(blocks[wanted], "initrd")]
    return Entry(
        id=numbers[0],
        system=from_command_line(blocks[wanted]),
        linux=linux[0] if linux else None,
        initrds=tuple(each for each in initrds if each is not None),
        is_default=True,
    )


def from_extlinux(text: str) -> Entry | None:
    """The default of an C(extlinux.conf) as the generic-extlinux-compatible builder writes it."""
    default = re.search(r"^\s*DEFAULT\s+(\S+)\s*$", text, re.MULTILINE)
    if default is None:
        return None
    for block in re.split(r"^\s*LABEL\s+", text, flags=re.MULTILINE)[1:]:
        label, _newline, rest = block.partition("\n")
        if label.strip() == default[1]:
            linux = [_extlinux_file(word) for word in _words(rest, "LINUX")[:1]]
            return Entry(
                id=default[1],
                system=from_command_line(rest),
                linux=linux[0] if linux else None,
                initrds=tuple(map(_extlinux_file, _words(rest, "INITRD"))),
                is_default=True,
            )
    return None


def _matching(entries: Sequence[Entry], pattern: str | None, status: Status) -> Entry | None:
    """The first entry whose id matches; systemd-boot takes shell patterns, and no notice of case."""
    if pattern == "@saved":
        pattern = status.current
    if not pattern or pattern.startswith("@"):
        return None
    return next((entry for entry in entries if fnmatchcase(entry.id.lower(), pattern.lower())), None)


def _below(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path.lstrip('/')}"


def _words(block: str, key: str) -> list[str]:
    """The words after C(key) in the first line that begins with it."""
    found = re.search(rf"^\s*{key}\s+(\S.*)$", block, re.MULTILINE)
    return found[1].split() if found else []


def _grub_file(word: str) -> str | None:
    """The place of C(($drive1)/store/…/bzImage) or C(($drive2)/kernels/…): they begin with a file system's variable."""
    if copy := _GRUB_COPY.search(word):
        return f"/boot{copy[0]}"
    stored = _GRUB_STORE.search(word)
    return f"/nix/store/{stored[1]}" if stored else None


def _extlinux_file(word: str) -> str:
    return f"/boot{word}" if word.startswith("/") else f"{_EXTLINUX_DIRECTORY}/{word}"
