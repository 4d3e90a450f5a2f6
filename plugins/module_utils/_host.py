# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at a NixOS host, and change nothing. Every question goes through the L(Run) that is passed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils import _boot_loader as loaders
from ansible_collections.homelab.nixos.plugins.module_utils._boot_loader import SYSTEMD_BOOT, Entry
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import is_store_path
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Parts, Systems, inhibitors, name

CURRENT = "/run/current-system"
BOOTED = "/run/booted-system"
PROFILE = "/nix/var/nix/profiles/system"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

_LINKED_PARTS = ("kernel", "initrd", "kernel-modules", "systemd")
_WRITTEN_PARTS = ("kernel-params", "switch-inhibitors", "init-interface-version")
_GRUB = "/boot/grub/grub.cfg"
_EXTLINUX = "/boot/extlinux/extlinux.conf"
_VARIABLE = "/sys/firmware/efi/efivars/{}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_ONE_SHOT_VARIABLE = _VARIABLE.format("LoaderEntryOneShot")
_DEFAULT_VARIABLE = _VARIABLE.format("LoaderEntryDefault")


@dataclass(frozen=True)
class BootDefault:
    """The loader that was found (C(systemd-boot), C(grub), C(extlinux) or C(unknown)), and the system it starts.

    C(next_boot) is another than C(system) while an entry is set for the next boot only, which C(one_shot) loaders can
    do; C(once) is the id that is set so. C(entry) is the default's, C(entries) are all that could be read.
    """

    loader: str
    system: str | None
    next_boot: str | None = None
    one_shot: bool = False
    entry: Entry | None = None
    once: str | None = None
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Described:
    """A system as people know it. C(generation) is the newest of the system profile that holds it."""

    system: str | None
    generation: int | None
    nixos_version: str | None
    kernel: str | None

    def as_result(self) -> dict[str, object]:
        return dict(vars(self))


def read_files(run: Run, paths: Sequence[str]) -> dict[str, str]:
    """The contents of the text files that exist among C(paths); one that does not exist is not in the answer."""
    # one process for all of them; the name in front of each line says which file it is from
    wanted = list(dict.fromkeys(paths))
    done = run(["grep", "--no-messages", "--text", "--with-filename", "", "--", *wanted])
    if done.rc > 2:
        check(done, doing="Reading files")
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        for path in wanted:
            if line.startswith(f"{path}:"):
                found.setdefault(path, []).append(line[len(path) + 1 :])
                break
    return {path: "\n".join(lines) + "\n" for path, lines in found.items()}


def resolve(run: Run, paths: Sequence[str]) -> list[str | None]:
    """Where each of C(paths) leads in the Nix store, in their order; C(None) for what leads anywhere else."""
    done = check(run(["realpath", "--canonicalize-missing", "--", *paths]), doing="Resolving links")
    lines = done.stdout.splitlines()
    if len(lines) != len(paths):
        raise Unreadable(f"realpath gave {len(lines)} lines for {len(paths)} paths.")
    return [line if line.startswith("/nix/store/") else None for line in lines]


def read_systems(run: Run) -> tuple[Systems, str]:
    """The four systems of the host, and the name of its boot loader. A host that is not NixOS is an error."""
    systems, default = read_boot(run)
    return systems, default.loader


def read_boot(run: Run) -> tuple[Systems, BootDefault]:
    """The four systems of the host, and all that its boot loader says."""
    current, booted, profile = resolve(run, [CURRENT, BOOTED, PROFILE])
    if current is None:
        raise LabError(
            f"{CURRENT} does not lead to a system.", "This host does not run NixOS; take it out of the inventory."
        )
    default = boot_default(run)
    return Systems(current, booted, profile, default.system), default


def boot_default(run: Run) -> BootDefault:
    """Ask the boot loader which system it starts by default, and which next."""
    # bootctl exits non-zero where there is no EFI system partition
    listed = run(["bootctl", "list", "--json=short", "--no-pager"])
    entries = loaders.entries_of(listed.stdout) if listed.ok else []
    # what it could not find out is no reason to keep the rest to itself
    status = loaders.from_status(run(["bootctl", "status", "--no-pager"]).stdout)
    configuration = f"{status.esp or '/boot'}/loader/loader.conf"
    texts = read_files(run, [configuration, _ONE_SHOT_VARIABLE, _DEFAULT_VARIABLE, _GRUB, _EXTLINUX])
    status = loaders.with_variables(status, texts.get(_ONE_SHOT_VARIABLE, ""), texts.get(_DEFAULT_VARIABLE, ""))
    default, following = loaders.default_and_next(entries, status, texts.get(configuration, ""))
    if default is not None and default.system is not None:
        return BootDefault(
            SYSTEMD_BOOT,
            default.system,
            next_boot=following.system if following is not None else None,
            # images are written by other installers than NixOS's, and not for other profiles
            one_shot=status.can_boot_once and not default.unified,
            entry=default,
            once=status.one_shot,
            entries=tuple(entries),
        )
    for loader, path, read in (("grub", _GRUB, loaders.from_grub), ("extlinux", _EXTLINUX, loaders.from_extlinux)):
        if path in texts:
            entry = read(texts[path])
            system = entry.system if entry is not None else None
            return BootDefault(loader, system, system, entry=entry, entries=() if entry is None else (entry,))
    return BootDefault(SYSTEMD_BOOT if entries else "unknown", None, once=status.one_shot, entries=tuple(entries))


def parts(run: Run, systems: Sequence[str]) -> list[Parts]:
    """What of each of C(systems) takes effect at boot only."""
    links = resolve(run, [f"{system}/{part}" for system in systems for part in _LINKED_PARTS])
    texts = read_files(run, [f"{system}/{part}" for system in systems for part in _WRITTEN_PARTS])
    found = []
    for number, system in enumerate(systems):
        kernel, initrd, modules, systemd = (
            # a link that leads nowhere resolves to itself: the system has no such part
            None if link is None or (link.startswith(f"{system}/") and link != system) else link
            for link in links[number * 4 : number * 4 + 4]
        )
        found.append(
            Parts(
                kernel=kernel,
                initrd=initrd,
                kernel_modules=modules,
                systemd=systemd,
                init_interface=texts.get(f"{system}/init-interface-version", "").strip(),
                kernel_params=texts.get(f"{system}/kernel-params", ""),
                inhibitors=inhibitors(texts.get(f"{system}/switch-inhibitors", "")),
            )
        )
    return found


def generations(run: Run) -> list[dict[str, object]]:
    """The generations of the system profile, newest first: number, system, and when it was made (Unix time)."""
    profiles, _slash, base = PROFILE.rpartition("/")
    done = check(
        run(["find", profiles, "-maxdepth", "1", "-name", f"{base}-*-link", "-printf", "%f\t%l\t%T@\n"]),
        doing="Listing generations",
    )
    found = []
    for line in done.stdout.splitlines():
        link, system, when = line.split("\t")
        number = link[len(base) + 1 : -len("-link")]
        if number.isdigit() and is_store_path(system):
            found.append({"generation": int(number), "system": system, "time": int(float(when))})
    return sorted(found, key=lambda generation: -int(str(generation["generation"])))


def describe(run: Run, system: str | None) -> Described:
    """A system with its version, kernel and generation."""
    if system is None:
        return Described(None, None, None, None)
    return described(run, system, parts(run, [system])[0], generations(run))


def described(run: Run, system: str, its: Parts, known: Sequence[Mapping[str, object]]) -> Described:
    """The same of a system whose parts, and a host whose generations, are known."""
    version = read_files(run, [f"{system}/nixos-version"]).get(f"{system}/nixos-version", "").strip()
    number = next((one["generation"] for one in known if one["system"] == system), None)
    return Described(
        system,
        int(str(number)) if number is not None else None,
        version or None,
        name(its.kernel) if its.kernel is not None else None,
    )


def failed_units(run: Run) -> list[str]:
    """The names of all units that are failed, or are about to be restarted because they failed, sorted."""
    done = check(
        run(
            [
                *("systemctl", "list-units", "--state=failed,auto-restart", "--all"),
                *("--plain", "--no-legend", "--full", "--no-pager"),
            ]
        ),
        doing="Listing failed units",
    )
    return sorted(line.split()[0] for line in done.stdout.splitlines() if line.strip())


def boot_id(run: Run) -> str:
    """The kernel's identity of this boot."""
    text = read_files(run, [BOOT_ID]).get(BOOT_ID, "").strip()
    if not text:
        raise Unreadable(f"{BOOT_ID} cannot be read.", "A reboot cannot be told from none without it.")
    return text
