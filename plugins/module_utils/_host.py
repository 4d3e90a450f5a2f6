# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at a NixOS host, and change nothing. Every question goes through the L(Run) that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils import _boot_loader as loaders
from ansible_collections.homelab.nixos.plugins.module_utils._command import Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import is_store_path, store_path
from ansible_collections.homelab.nixos.plugins.module_utils._systems import (
    Parts,
    Systems,
    drift,
    inhibitors,
    name,
    reboot_reasons,
)

CURRENT = "/run/current-system"
BOOTED = "/run/booted-system"
PROFILE = "/nix/var/nix/profiles/system"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

_LINKED_PARTS = ("kernel", "initrd", "kernel-modules", "systemd")
_WRITTEN_PARTS = ("kernel-params", "switch-inhibitors", "init-interface-version")
_GRUB = "/boot/grub/grub.cfg"
_EXTLINUX = "/boot/extlinux/extlinux.conf"


@dataclass(frozen=True)
class BootDefault:
    """The loader that was found (C(systemd-boot), C(grub), C(extlinux) or C(unknown)), and the system it starts."""

    loader: str
    system: str | None


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
    current, booted, profile = resolve(run, [CURRENT, BOOTED, PROFILE])
    if current is None:
        raise LabError(
            f"{CURRENT} does not lead to a system.", "This host does not run NixOS; take it out of the inventory."
        )
    default = boot_default(run)
    return Systems(current, booted, profile, default.system), default.loader


def boot_default(run: Run) -> BootDefault:
    """Ask the boot loader which system it starts by default."""
    # bootctl exits non-zero where there is no EFI system partition
    listed = run(["bootctl", "list", "--json=short", "--no-pager"])
    if listed.ok and (system := loaders.from_bootctl(listed.stdout)):
        return BootDefault("systemd-boot", system)
    texts = read_files(run, [_GRUB, _EXTLINUX])
    if _GRUB in texts:
        return BootDefault("grub", loaders.from_grub(texts[_GRUB]))
    if _EXTLINUX in texts:
        return BootDefault("extlinux", loaders.from_extlinux(texts[_EXTLINUX]))
    return BootDefault("systemd-boot" if listed.ok and listed.stdout.strip() not in ("", "[]") else "unknown", None)


def parts(run: Run, systems: Sequence[str]) -> list[Parts]:
    """What of each of C(systems) takes effect at boot only."""
    links = resolve(run, [f"{system}/{part}" for system in systems for part in _LINKED_PARTS])
    texts = read_files(
        run, [f"{system}/{part}" for system in systems for part in _WRITTEN_PARTS]
    )
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
    version = read_files(run, [f"{system}/nixos-version"]).get(f"{system}/nixos-version", "").strip()
    kernel = parts(run, [system])[0].kernel
    number = next((one["generation"] for one in generations(run) if one["system"] == system), None)
    return Described(
        system,
        int(str(number)) if number is not None else None,
        version or None,
        name(kernel) if kernel is not None else None,
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


def look(run: Run, target: str | None) -> dict[str, object]:
    """Everything that nixos_info returns. C(target) is a system to compare with, the running one by default."""
    systems, loader = read_systems(run)
    # read_systems refuses a host without a current system
    current = str(systems.current)
    aim = current if target is None else store_path(target, "target")
    reasons = reboot_reasons(*parts(run, [systems.booted or current, current, aim]))
    return {
        "systems": dict(vars(systems)),
        "drift": drift(systems),
        "boot_loader": loader,
        "boot_id": boot_id(run),
        "current": describe(run, current).as_result(),
        "generations": generations(run),
        "failed_units": failed_units(run),
        "reboot_required": bool(reasons),
        "reboot_reasons": reasons,
    }
