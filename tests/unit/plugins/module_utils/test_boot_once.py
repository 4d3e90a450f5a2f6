"""The next boot starts the candidate and every other the old system, or nothing of the candidate is left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _boot_once, _host
from ansible_collections.homelab.nixos.plugins.module_utils._activation import Ending, Units, Verdict
from ansible_collections.homelab.nixos.plugins.module_utils._activation_unit import Activation
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
# the kernel of each system, and the size of that; its initrd is twice as long
KERNELS = {
    OLD: ("/nix/store/0c5m8vzkdvbcw6bmpzgkrx1n1hq8y6rl-linux-6.12.1", 1000),
    NEW: ("/nix/store/1d6n9wzkdvbcw6bmpzgkrx1n1hq8y6rl-linux-6.12.2", 1200),
}
PROFILES = "/nix/var/nix/profiles/system-profiles"
CANDIDATE = f"{PROFILES}/lab-candidate"
ENTRY = "nixos-lab-candidate-generation-1.conf"
STATUS = """\
Current Boot Loader:
      Product: systemd-boot 257.9
     Features: + Boot counting
               {mark} One-shot entry control
"""


@dataclass
class Host:
    """A host whose boot loader does as it is told. As a L(Run), it knows the programs that may be run, and no other."""

    can_boot_once: bool = True
    tells_one_shot: bool = True
    default: str = "nixos-generation-7.conf"
    one_shot: str = ""
    # by id: the system; each has its kernel and initrd on the boot file system
    entries: dict[str, str] = field(default_factory=lambda: {"nixos-generation-7.conf": OLD})
    # what of the boot file system is shorter than it should be, or not there
    short: dict[str, int | None] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    free: int = 1_000_000
    boot_device: str = "44"
    forgets_one_shot: bool = False
    failing: tuple[str, ...] = ()
    done: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        data: str | None = None,
    ) -> Completed:
        words = tuple(argv)
        if words[:2] in (("bootctl", "set-oneshot"),) or words[0] in ("mkdir", "nix-env", "rm"):
            self.done.append(words)
        if " ".join(words[:2]) in self.failing:
            return Completed(words, 1, "", f"{words[0]}: it cannot be done\n")
        out = self._answer(words)
        return Completed(words, 0, out, "") if out is not None else Completed(words, 1, "", "")

    def _answer(self, words: tuple[str, ...]) -> str | None:
        match words:
            case ("bootctl", "list", "--json=short", "--no-pager"):
                return json.dumps([self._listed(conf) for conf in self.entries])
            case ("bootctl", "status", "--no-pager"):
                mark = "+" if self.can_boot_once else "-"
                told = f"OneShot Entry: {self.one_shot}\n" if self.one_shot and self.tells_one_shot else ""
                return STATUS.format(mark=mark) + told
            case ("bootctl", "--print-boot-path"):
                return "/boot\n"
            case ("bootctl", "set-oneshot", wanted):
                if not self.forgets_one_shot or not wanted:
                    self.one_shot = wanted
                return ""
            case ("grep", *_options, "--", _loader_conf, variable, _default, _grub, _extlinux):
                # its lines are those of read_files
                text = f"/boot/loader/loader.conf:default {self.default}\n"
                raw = "\x07\0\0\0" + "".join(f"{character}\0" for character in f"{self.one_shot}\0")
                return text + (f"{variable}:{raw}\n" if self.one_shot else "")
            case ("realpath", "--canonicalize-missing", "--", *paths):
                return "".join(f"{self._resolved(path)}\n" for path in paths)
            case ("stat", "--format=%d", "--", "/boot", "/nix/store"):
                return f"{self.boot_device}\n42\n"
            case ("stat", "--dereference", "--format=%s %n", "--", *paths):
                sizes = {path: self._size(path) for path in paths}
                return "".join(f"{size} {path}\n" for path, size in sizes.items() if size is not None)
            case ("df", "--block-size=1", "--output=avail", "--", "/boot"):
                return f"   Avail\n{self.free}\n"
            case ("test", "-d", directory):
                assert directory == PROFILES
                return "" if self.links else None
            case ("find", directory, "-maxdepth", "1", "-name", "lab-candidate*", "-printf", "%f\n"):
                assert directory == PROFILES
                return "".join(f"{path.rpartition('/')[2]}\n" for path in self.links)
            case ("mkdir", "-p", directory):
                assert directory == PROFILES
                return ""
            case ("nix-env", "--profile", profile, "--set", system):
                self.links |= {profile: system, f"{profile}-1-link": system}
                return ""
            case ("rm", "-f", "--", *paths):
                for path in paths:
                    del self.links[path]
                return ""
        raise AssertionError(f"nobody said that {words} may be run")

    def install(self, program: str) -> Activation:
        """The boot loader step: entries for all profiles."""
        assert program == f"{OLD}/bin/switch-to-configuration"
        self.done.append((program, "boot"))
        if CANDIDATE in self.links:
            self.entries[ENTRY] = self.links[CANDIDATE]
        return said(Ending.OK)

    def _listed(self, conf: str) -> dict[str, object]:
        candidate = " [lab-candidate]" if "lab-candidate" in conf else ""
        return {
            "type": "type1",
            "id": conf,
            "root": "/boot",
            "title": f"NixOS{candidate}",
            "options": f"init={self.entries[conf]}/init loglevel=4",
            "linux": f"/EFI/nixos/{conf}-kernel",
            "initrd": [f"/EFI/nixos/{conf}-initrd"],
            "isDefault": conf == (self.one_shot if self.one_shot in self.entries else self.default),
        }

    def _resolved(self, path: str) -> str:
        system, _slash, part = path.rpartition("/")
        if part in ("kernel", "initrd") and system in KERNELS:
            return f"{KERNELS[system][0]}/{part}"
        return self.links.get(path, path)

    def _size(self, path: str) -> int | None:
        if path in self.short:
            return self.short[path]
        place, _dash, part = path.rpartition("-" if path.startswith("/boot/") else "/")
        times = {"kernel": 1, "initrd": 2}[part]
        if path.startswith("/boot/"):
            place = self.entries[place.removeprefix("/boot/EFI/nixos/")]
        sizes = {**{system: size for system, (_, size) in KERNELS.items()}, **dict(KERNELS.values())}
        return times * sizes[place] if place in sizes else None


def said(ending: Ending) -> Activation:
    return Activation(Verdict(ending, f"It ended as {ending.value}.", touched=False), Units(), "")


def untouched(host: Host) -> None:
    """Nothing is left of a candidate but the entry, which the next run of the loader removes."""
    assert not host.links
    assert not host.one_shot
    assert host.default == "nixos-generation-7.conf"


PREPARED = [
    ("mkdir", "-p", PROFILES),
    ("nix-env", "--profile", CANDIDATE, "--set", NEW),
    (f"{OLD}/bin/switch-to-configuration", "boot"),
    ("bootctl", "set-oneshot", ENTRY),
]


@pytest.mark.parametrize("tells_one_shot", [True, False])
def test_the_next_boot_starts_the_candidate_and_the_default_stays(tells_one_shot: bool):
    host = Host(tells_one_shot=tells_one_shot)
    assert _boot_once.prepare(host, NEW, OLD, host.install) == ENTRY
    assert host.done == PREPARED
    boot = _host.boot_default(host)
    assert (boot.system, boot.next_boot, boot.once) == (OLD, NEW, ENTRY)


def test_what_was_prepared_before_is_replaced():
    host = Host(
        links={CANDIDATE: OLD, f"{CANDIDATE}-3-link": OLD},
        entries={"nixos-generation-7.conf": OLD, "nixos-lab-candidate-generation-3.conf": OLD},
        one_shot="nixos-lab-candidate-generation-3.conf",
    )
    assert _boot_once.prepare(host, NEW, OLD, host.install) == ENTRY
    gone = [("bootctl", "set-oneshot", ""), ("rm", "-f", "--", CANDIDATE, f"{CANDIDATE}-3-link")]
    assert host.done == gone + PREPARED


@pytest.mark.parametrize(
    ("host", "target", "words"),
    [
        (Host(can_boot_once=False), NEW, "cannot start an entry once"),
        (Host(default="other.conf", entries={"other.conf": NEW}), NEW, "The boot default is"),
        (Host(), OLD, "starts anyway"),
        (Host(free=3599), NEW, "/boot has 3599 bytes free, and nixos-system-web-26.05.2 needs 3600"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(host: Host, target: str, words: str):
    with pytest.raises(LabError, match=words):
        _boot_once.prepare(host, target, OLD, host.install)
    assert host.done == []


FILES = "/boot/EFI/nixos/nixos-lab-candidate-generation-1.conf"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        # a loader that exits with 0 on a full disk
        (Host(short={f"{FILES}-kernel": None}), r"0 of 1200 bytes \(.*-kernel\): is the boot file system full"),
        (Host(short={f"{FILES}-initrd": 2399}), "2399 of 2400 bytes"),
        (Host(short={f"{NEW}/kernel": None}), "/kernel cannot be read"),
        (Host(forgets_one_shot=True), "the next boot starts /nix/store/6gdl"),
        (Host(failing=("nix-env --profile",)), "Making the new system a candidate"),
        (Host(failing=("mkdir -p",)), "Making the directory"),
    ],
)
def test_a_failure_leaves_nothing(host: Host, words: str):
    with pytest.raises(LabError, match=words):
        _boot_once.prepare(host, NEW, OLD, host.install)
    untouched(host)


@pytest.mark.parametrize(
    ("ending", "words"),
    [(Ending.FAILED, "It ended as failed"), (Ending.OK, "there is no entry for nixos-system-web")],
)
def test_a_boot_loader_that_fails_is_believed_and_one_that_does_nothing_is_noticed(ending: Ending, words: str):
    host = Host()
    with pytest.raises(LabError, match=words):
        _boot_once.prepare(host, NEW, OLD, lambda _program: said(ending))
    untouched(host)


def test_a_boot_loader_that_moves_the_default_is_noticed():
    host = Host()

    def install(program: str) -> Activation:
        host.install(program)
        host.default = ENTRY
        return said(Ending.OK)

    with pytest.raises(LabError, match="which the host has to fall back to"):
        _boot_once.prepare(host, NEW, OLD, install)
    assert not host.links


def test_an_activation_that_cannot_be_started_leaves_nothing_either():
    host = Host()

    def install(_program: str) -> Activation:
        raise LabError("Another activation is running on this host.")

    with pytest.raises(LabError, match="Another activation"):
        _boot_once.prepare(host, NEW, OLD, install)
    untouched(host)


def test_what_cannot_be_taken_back_is_said():
    host = Host(failing=("bootctl set-oneshot", "rm -f"))
    with pytest.raises(LabError, match="And what was prepared could not be taken back: Removing the candidate"):
        _boot_once.prepare(host, NEW, OLD, host.install)


def test_dropping_takes_back_all_of_it_and_then_nothing():
    host = Host()
    _boot_once.prepare(host, NEW, OLD, host.install)
    host.done.clear()
    assert _boot_once.drop(host)
    assert host.done == [("bootctl", "set-oneshot", ""), ("rm", "-f", "--", CANDIDATE, f"{CANDIDATE}-1-link")]
    untouched(host)
    host.done.clear()
    assert not _boot_once.drop(host)
    assert host.done == []


def test_an_order_that_outlived_its_entry_or_its_profile_is_taken_back():
    for entries in ({"nixos-generation-7.conf": OLD}, {"nixos-generation-7.conf": OLD, ENTRY: NEW}):
        host = Host(one_shot=ENTRY, entries=entries)
        assert _boot_once.drop(host)
        assert host.done == [("bootctl", "set-oneshot", "")]


def test_what_a_person_chose_for_the_next_boot_stays():
    host = Host(one_shot="windows.conf", entries={"nixos-generation-7.conf": OLD, "windows.conf": "/nix/store/x"})
    assert not _boot_once.drop(host)
    assert host.one_shot == "windows.conf"


def test_other_profiles_are_not_ours():
    host = Host(links={f"{CANDIDATE}s": NEW, f"{CANDIDATE}-old-2-link": NEW, f"{CANDIDATE}-2-link": NEW})
    assert _boot_once.drop(host)
    assert host.done == [("rm", "-f", "--", f"{CANDIDATE}-2-link")]


def test_the_candidate_goes_when_it_has_become_the_default():
    host = Host(
        default="nixos-generation-8.conf",
        entries={"nixos-generation-8.conf": NEW, "nixos-generation-7.conf": OLD, ENTRY: NEW},
        links={CANDIDATE: NEW, f"{CANDIDATE}-1-link": NEW},
    )
    assert _boot_once.drop(host)
    assert host.done == [("rm", "-f", "--", CANDIDATE, f"{CANDIDATE}-1-link")]


# ---- room -----------------------------------------------------------------------------------------------------------
def test_a_system_needs_its_kernel_and_its_initrd():
    assert _boot_once.space(Host(free=5000), NEW) == _boot_once.Space(3600, 5000, "/boot")
    _boot_once.require_space(Host(free=3600), NEW)


def test_what_the_boot_loader_has_is_not_needed_again():
    assert _boot_once.space(Host(), OLD).needed == 0
    both = Host(entries={"nixos-generation-7.conf": OLD, "nixos-generation-8.conf": NEW})
    assert _boot_once.space(both, NEW).needed == 0


def test_a_boot_directory_on_the_disk_of_the_store_needs_nothing():
    assert _boot_once.space(Host(boot_device="42", free=10), NEW) == _boot_once.Space(0, 10, "/boot")


def test_a_full_disk_is_refused_with_bytes_and_a_remedy():
    with pytest.raises(LabError) as failure:
        _boot_once.require_space(Host(free=10), NEW)
    assert failure.value.what == "/boot has 10 bytes free, and nixos-system-web-26.05.2 needs 3600."
    assert "configurationLimit" in failure.value.remedy
    assert "nix-collect-garbage" in failure.value.remedy
    assert failure.value.data == {"boot_space": {"needed": 3600, "free": 10}}


def test_a_system_that_is_not_on_the_host_is_named():
    missing = NEW.replace("xnpa", "ynpa")
    with pytest.raises(LabError, match=f"{missing} is not on this host"):
        _boot_once.space(Host(), missing)


def test_a_question_about_room_that_fails_is_no_room():
    with pytest.raises(CommandFailed):
        _boot_once.space(Host(failing=("df --block-size=1",)), NEW)
    with pytest.raises(CommandFailed):
        _boot_once.space(Host(failing=("stat --format=%d",)), NEW)


# ---- what is there --------------------------------------------------------------------------------------------------
FIRST = "/boot/EFI/nixos/nixos-generation-7.conf"


def test_a_default_with_all_its_files_is_well():
    assert _boot_once.missing_files(Host(), OLD) == ""
    # secrets of the initrd are appended to it
    assert _boot_once.missing_files(Host(short={f"{FIRST}-initrd": 2600}), OLD) == ""


@pytest.mark.parametrize(
    ("short", "words"),
    [
        ({f"{FIRST}-kernel": None}, f"Of {OLD}/kernel the boot loader has 0 of 1000 bytes ({FIRST}-kernel)"),
        ({f"{FIRST}-initrd": 12}, f"Of {OLD}/initrd the boot loader has 12 of 2000 bytes ({FIRST}-initrd)"),
        ({f"{OLD}/kernel": None}, f"{OLD}/kernel cannot be read."),
    ],
)
def test_a_default_that_lacks_something_is_noticed(short: dict[str, int | None], words: str):
    assert _boot_once.missing_files(Host(short=short), OLD).startswith(words)


def test_another_default_is_noticed():
    assert _boot_once.missing_files(Host(), NEW) == f"The default of the boot loader is {OLD}, and not {NEW}."


def test_a_system_may_be_without_an_initrd():
    host = Host(short={f"{OLD}/initrd": None, f"{FIRST}-initrd": 0})
    assert _boot_once.missing_files(host, OLD) == ""
