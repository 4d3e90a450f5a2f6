# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let the next boot, and no other, start a new system; and see that what a boot starts is really there.

NixOS's boot loaders get entries for profiles only, so the new system becomes one: a candidate, which is nobody's
default. Whatever resets the host after its next boot brings it back to the system it came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils import _boot_loader, _host
from ansible_collections.homelab.nixos.plugins.module_utils._activation_unit import Activation
from ansible_collections.homelab.nixos.plugins.module_utils._boot_loader import SYSTEMD_BOOT, Entry
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._host import BootDefault
from ansible_collections.homelab.nixos.plugins.module_utils._nix import STORE_DIR
from ansible_collections.homelab.nixos.plugins.module_utils._systems import name

PROFILES = "/nix/var/nix/profiles/system-profiles"
CANDIDATE = "lab-candidate"
_LINK = re.compile(rf"{CANDIDATE}(?:-\d+-link)?")
_BOOT = "/boot"
_ROOM = (
    "Make room: set boot.loader.systemd-boot.configurationLimit (or that of your loader) to fewer generations, run"
    " nix-collect-garbage --delete-older-than 14d, and then /run/current-system/bin/switch-to-configuration boot."
)

# runs a switch-to-configuration with the action boot, to its end
Install = Callable[[str], Activation]


@dataclass(frozen=True)
class Space:
    """The bytes that a system needs on the boot file system in C(directory) beyond what is there, and the free ones."""

    needed: int
    free: int
    directory: str

    @property
    def is_enough(self) -> bool:
        return self.needed <= self.free


def prepare(run: Run, target: str, origin: str, install: Install) -> str:
    """Let the next boot start C(target), while C(origin) stays the default; returns the id of the entry.

    C(install) runs the C(switch-to-configuration boot) that it is given. When anything is not as it has to be, nothing
    of it is left but an entry that nothing starts, and L(LabError) says what it was.
    """
    if target == origin:
        raise LabError(f"{name(target)} is what the next boot starts anyway.")
    before = _host.boot_default(run)
    if not before.one_shot:
        raise LabError(
            f"The boot loader of this host ({before.loader}) cannot start an entry once.",
            "Make the system the boot default before the reboot (action: boot).",
        )
    _require_default(before, origin)
    require_space(run, target, before)
    # an older candidate is no candidate any more
    drop(run)
    try:
        return _prepare(run, target, origin, install)
    except LabError as error:
        try:
            drop(run)
        except LabError as worse:
            raise LabError(
                f"{error.what} And what was prepared could not be taken back: {worse.what}", worse.remedy, error.data
            ) from error
        raise


def _prepare(run: Run, target: str, origin: str, install: Install) -> str:
    check(run(["mkdir", "-p", PROFILES]), doing="Making the directory of system profiles")
    check(
        run(["nix-env", "--profile", f"{PROFILES}/{CANDIDATE}", "--set", target]),
        doing="Making the new system a candidate",
    )
    done = install(f"{origin}/bin/switch-to-configuration")
    if not done.verdict.ok:
        raise LabError(f"The boot loader was not given the new system: {done.verdict.sentence}")
    written = _host.boot_default(run)
    _require_default(written, origin)
    entry = _boot_loader.entry_for(written.entries, target, CANDIDATE)
    if entry is None:
        raise LabError(f"The boot loader step ended well, but there is no entry for {name(target)}.", _ROOM)
    if missing := _missing(run, entry, target):
        raise LabError(missing, _ROOM)
    check(
        run(["bootctl", "set-oneshot", entry.id]),
        doing="Setting the entry of the next boot",
        remedy="Make the system the boot default before the reboot (action: boot).",
    )
    seen = _host.boot_default(run)
    _require_default(seen, origin)
    if seen.next_boot != target:
        raise LabError(
            f"bootctl set-oneshot ended well, but the next boot starts {seen.next_boot or 'an unknown system'}.",
            "Look at bootctl status on the host.",
        )
    return entry.id


def drop(run: Run) -> bool:
    """Forget the candidate, and the order to boot it next; whether there was anything of it.

    Its entry goes when the boot loader is installed next; so call this before that. May be called at any time.
    """
    links = _links(run)
    boot = _host.boot_default(run)
    candidates = {system for system in _host.resolve(run, links) if system is not None} if links else set()
    ordered = boot.once is not None and _is_candidate(boot, boot.once, candidates)
    if ordered:
        check(run(["bootctl", "set-oneshot", ""]), doing="Forgetting the entry of the next boot")
    if links:
        check(run(["rm", "-f", "--", *links]), doing="Removing the candidate")
    return ordered or bool(links)


def space(run: Run, target: str, boot: BootDefault | None = None) -> Space:
    """What C(target) needs on the boot file system, and what is free there; C(boot) is what the loader said, if asked.

    Kernel and initrd are copied there only when it is not the file system of the store, and once for all systems that
    have the same. What the loader has no entry for is not there, whatever runs.
    """
    boot = boot or _host.boot_default(run)
    directory = _directory(run, boot.loader)
    devices = check(
        run(["stat", "--format=%d", "--", directory, STORE_DIR]), doing="Looking at the boot file system"
    ).stdout.split()
    free = check(run(["df", "--block-size=1", "--output=avail", "--", directory]), doing="Measuring the free space")
    try:
        # below the heading
        available = int(free.stdout.split()[-1])
    except (ValueError, IndexError) as error:
        raise Unreadable(f"df printed {free.stdout!r} for {directory}.") from error
    if len(set(devices)) == 1:
        return Space(0, available, directory)
    installed = sorted({entry.system for entry in boot.entries if entry.system is not None})
    wanted, *there = _parts(run, [target, *installed])
    if f"{target}/kernel" in wanted:
        raise LabError(f"{target} is not on this host, or has no kernel.", "Bring it to the host first, see nix_copy.")
    missing = sorted(wanted - {part for parts in there for part in parts})
    return Space(sum(_sizes(run, missing).values()), available, directory)


def require_space(run: Run, target: str, boot: BootDefault | None = None) -> None:
    """Refuse a system that the boot file system has no room for, before anything is touched."""
    found = space(run, target, boot)
    if not found.is_enough:
        raise LabError(
            f"{found.directory} has {found.free} bytes free, and {name(target)} needs {found.needed}.",
            _ROOM,
            {"boot_space": {"needed": found.needed, "free": found.free}},
        )


def missing_files(run: Run, system: str) -> str:
    """What is not there of the files by which the boot loader starts C(system) by default; empty if all is well.

    Boot loaders have ended well on a full disk (nixpkgs#189966).
    """
    boot = _host.boot_default(run)
    if boot.system != system or boot.entry is None:
        return f"The default of the boot loader is {boot.system or 'unknown'}, and not {system}."
    return _missing(run, boot.entry, system)


def _require_default(boot: BootDefault, origin: str) -> None:
    if boot.system != origin:
        raise LabError(
            f"The boot default is {boot.system or 'unknown'}, and not {origin}, which the host has to fall back to.",
            "Make that the boot default first.",
        )


def _is_candidate(boot: BootDefault, wanted: str, candidates: Collection[str]) -> bool:
    """Whether the entry with that id, if there still is one, starts the candidate."""
    entry = next((entry for entry in boot.entries if entry.id == wanted), Entry(wanted, None, None))
    return _boot_loader.is_of_profile(entry, CANDIDATE) or entry.system in candidates


def _missing(run: Run, entry: Entry, system: str) -> str:
    kernel, initrd = f"{system}/kernel", f"{system}/initrd"
    linux = (entry.linux,) if entry.linux else ()
    sizes = _sizes(run, [*linux, *entry.initrds, kernel, initrd])
    if kernel not in sizes:
        return f"{kernel} cannot be read."
    if entry.unified:
        # its parts are inside, or found by their hashes
        return "" if any(sizes.get(path) for path in linux) else f"{entry.linux or entry.id} is not there."
    for what, files in ((kernel, linux), (initrd, entry.initrds)):
        # a system may be without an initrd; secrets make one longer than it is in the store
        there, whole = sum(sizes.get(path, 0) for path in files), sizes.get(what, 0)
        absent = [path for path in files if path not in sizes]
        if absent or there < whole:
            where = ", ".join(absent or files) or f"the entry {entry.id}"
            return f"Of {what} the boot loader has {there} of {whole} bytes ({where}): is the boot file system full?"
    return ""


def _links(run: Run) -> list[str]:
    """The links of the candidate profile: itself, and its generations."""
    if not run(["test", "-d", PROFILES]).ok:
        return []
    found = check(
        run(["find", PROFILES, "-maxdepth", "1", "-name", f"{CANDIDATE}*", "-printf", "%f\n"]),
        doing="Looking for a candidate",
    )
    return sorted(f"{PROFILES}/{link}" for link in found.stdout.splitlines() if _LINK.fullmatch(link))


def _directory(run: Run, loader: str) -> str:
    """Where the boot loader has its kernels."""
    if loader == SYSTEMD_BOOT:
        printed = run(["bootctl", "--print-boot-path"])
        if printed.ok and printed.stdout.startswith("/"):
            return printed.stdout.strip()
    return _BOOT


def _parts(run: Run, systems: Sequence[str]) -> list[set[str]]:
    """The kernel and initrd of each of C(systems), as paths in the store; a link that leads nowhere is itself."""
    found = _host.resolve(run, [f"{system}/{part}" for system in systems for part in ("kernel", "initrd")])
    return [
        # a system may be without an initrd
        {part for part in found[at : at + 2] if part is not None and part != f"{systems[at // 2]}/initrd"}
        for at in range(0, len(found), 2)
    ]


def _sizes(run: Run, paths: Sequence[str]) -> dict[str, int]:
    """The sizes of those of C(paths) that exist."""
    if not paths:
        return {}
    # it complains of the others
    done = run(["stat", "--dereference", "--format=%s %n", "--", *dict.fromkeys(paths)])
    sizes = {}
    for line in done.stdout.splitlines():
        size, _space, path = line.partition(" ")
        if size.isdigit():
            sizes[path] = int(size)
    return sizes
