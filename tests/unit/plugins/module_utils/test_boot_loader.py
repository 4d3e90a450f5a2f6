"""What a boot starts by default and next, as each loader tells it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _boot_loader as loaders
from ansible_collections.homelab.nixos.plugins.module_utils._boot_loader import Entry, Status

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
KERNEL = "0c5m8vzkdvbcw6bmpzgkrx1n1hq8y6rl-linux-6.12.1-bzImage"
INITRD = "1d6n9wzkdvbcw6bmpzgkrx1n1hq8y6rl-initrd-linux-6.12.1-initrd"


def listed(number: int, system: str, default: bool = False, profile: str = "") -> dict[str, object]:
    """An entry in the form that systemd 257 gives it."""
    conf = f"nixos-{profile + '-' if profile else ''}generation-{number}.conf"
    title = f"NixOS [{profile}]" if profile else "NixOS"
    return {
        "type": "type1",
        "source": "esp",
        "id": conf,
        "path": f"/boot//loader/entries/{conf}",
        "root": "/boot",
        "title": title,
        "showTitle": f"{title} (Generation {number})",
        "sortKey": "nixos",
        "version": f"Generation {number} NixOS Yarara 26.05.1 (Linux 6.12.1), built on 2026-11-20",
        "machineId": "3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d",
        "options": f"init={system}/init loglevel=4",
        "linux": f"/EFI/nixos/{KERNEL}.efi",
        "initrd": [f"/EFI/nixos/{INITRD}.efi"],
        "isReported": True,
        "isDefault": default,
        "isSelected": default,
        "addons": None,
        "cmdline": f"init={system}/init loglevel=4",
    }


# a unified image, what only the firmware knows, and what is no operating system: none has all the fields
UNIFIED: dict[str, object] = {
    "type": "type2",
    "source": "esp",
    "id": "nixos-generation-9.efi",
    "path": "/boot//EFI/Linux/nixos-generation-9+2-1.efi",
    "root": "/boot",
    "title": "NixOS 26.05 (Yarara)",
    "options": f"init={NEW}/init loglevel=4",
    "linux": "EFI/Linux/nixos-generation-9+2-1.efi",
    "triesLeft": 2,
    "triesDone": 1,
    "isDefault": False,
}
REPORTED: dict[str, object] = {"type": "loader", "id": "old.efi", "showTitle": "old.efi", "isDefault": False}
FIRMWARE: dict[str, object] = {"type": "auto", "id": "auto-reboot-to-firmware-setup", "title": "Firmware Interface"}


def entries(*found: dict[str, object]) -> list[Entry]:
    return loaders.entries_of(json.dumps(found))


def test_an_entry_tells_its_system_and_where_its_files_are():
    (entry,) = entries(listed(7, OLD, default=True))
    assert entry == Entry(
        id="nixos-generation-7.conf",
        system=OLD,
        linux=f"/boot/EFI/nixos/{KERNEL}.efi",
        initrds=(f"/boot/EFI/nixos/{INITRD}.efi",),
        title="NixOS",
        is_default=True,
    )


def test_entries_that_are_no_files_of_nixos_are_read_as_far_as_they_go():
    unified, reported, firmware = entries(UNIFIED, REPORTED, FIRMWARE)
    assert (unified.unified, unified.system) == (True, NEW)
    assert (unified.linux, unified.initrds) == ("/boot/EFI/Linux/nixos-generation-9+2-1.efi", ())
    assert (reported.system, reported.linux, firmware.system, firmware.linux) == (None, None, None, None)


@pytest.mark.parametrize("text", ["", "garbage", "{}", "[]", "null", "[1]", '[{"isDefault": true}]'])
def test_what_is_no_list_of_entries_has_none(text):
    assert loaders.entries_of(text) == []


def test_systemd_boot_starts_the_entry_that_is_default_not_the_newest():
    found = entries(listed(8, NEW), listed(7, OLD, default=True))
    default, following = loaders.default_and_next(found, Status(), "")
    assert default is following is found[1]


def test_systemd_boot_that_does_not_tell_its_default_is_unknown():
    assert loaders.default_and_next(entries(listed(8, NEW)), Status(), "default nixos-*\n") == (None, None)
    assert loaders.default_and_next([], Status(one_shot="nixos-generation-8.conf"), "") == (None, None)


def test_before_systemd_253_the_default_is_in_the_status_only():
    found = [replace(entry, is_default=False) for entry in entries(listed(8, NEW), listed(7, OLD))]
    status = Status(listed_default="nixos-generation-7.conf")
    assert loaders.default_and_next(found, status, "") == (found[1], found[1])


CANDIDATE = "lab-candidate"
# as long as the candidate is next, bootctl marks it as the default
ONCE = entries(listed(8, OLD), listed(1, NEW, default=True, profile=CANDIDATE), listed(7, OLD))


@pytest.mark.parametrize(
    ("status", "configuration", "default"),
    [
        (Status(), "timeout 5\ndefault nixos-generation-8.conf\nconsole-mode keep\n", 0),
        (Status(), "default nixos-generation-7.conf\n", 2),
        (Status(), "default NixOS-*\n", 0),
        (Status(), "default nixos-generation-7.conf\npreferred nixos-generation-8.conf\n", 0),
        (Status(default="nixos-generation-7.conf"), "default nixos-generation-8.conf\n", 2),
        (Status(default="gone.conf"), "default nixos-generation-7.conf\n", 2),
        (Status(preferred="nixos-generation-7.conf", default="nixos-generation-8.conf"), "", 2),
        (Status(current="nixos-generation-7.conf"), "default @saved\n", 2),
        (Status(), "", 0),
    ],
)
def test_what_is_started_next_only_is_not_the_default_whatever_bootctl_says(status, configuration, default):
    status = replace(status, one_shot="nixos-lab-candidate-generation-1.conf")
    assert loaders.default_and_next(ONCE, status, configuration) == (ONCE[default], ONCE[1])


def test_an_entry_for_the_next_boot_that_is_gone_changes_nothing():
    found = entries(listed(8, OLD, default=True))
    assert loaders.default_and_next(found, Status(one_shot="gone.conf"), "") == (found[0], found[0])


def test_the_entry_of_the_candidate_comes_before_others_of_the_same_system():
    found = entries(listed(9, NEW), listed(1, NEW, profile=CANDIDATE), listed(8, OLD))
    assert loaders.entry_for(found, NEW, CANDIDATE) is found[1]
    assert loaders.entry_for(found, OLD, CANDIDATE) is found[2]
    assert loaders.entry_for(found[:1], NEW, CANDIDATE) is found[0]
    assert loaders.entry_for(found[2:], NEW, CANDIDATE) is None


def test_an_entry_that_is_named_after_its_contents_is_known_by_its_title():
    name = {"id": "nixos-0f1e2d3c4b5a69788796a5b4c3d2e1f0.conf"}
    plain, candidate = entries({**listed(9, NEW), **name}, {**listed(1, NEW, profile=CANDIDATE), **name})
    assert loaders.entry_for([plain, candidate], NEW, CANDIDATE) is candidate
    assert not loaders.is_of_profile(plain, CANDIDATE)


# as systemd 257 prints it in the C locale; with another, the marks are ticks and crosses
STATUS = """\
System:
      Firmware: UEFI 2.70 (American Megatrends 5.19)
 Firmware Arch: x64
   Secure Boot: disabled (setup)
  TPM2 Support: yes
  Measured UKI: no
  Boot into FW: supported

Current Boot Loader:
      Product: systemd-boot 257.9
     Features: + Boot counting
               + Menu timeout control
               + One-shot menu timeout control
               + Default entry control
               + One-shot entry control
               - Multi-Profile UKIs are supported
    Partition: /dev/disk/by-partuuid/9b39b4c4-c48b-4ebf-bfea-a56b2395b7e0
       Loader: `-/EFI/systemd/systemd-bootx64.efi
Current Entry: nixos-generation-7.conf
OneShot Entry: nixos-lab-candidate-generation-1.conf

Current Stub:
      Product: systemd-stub 257.9
     Features: + Stub reports loader partition information
               - Stub understands profile selector

Random Seed:
 System Token: set
       Exists: yes

Available Boot Loaders on ESP:
          ESP: /boot (/dev/disk/by-partuuid/9b39b4c4-c48b-4ebf-bfea-a56b2395b7e0)
         File: |-/EFI/systemd/systemd-bootx64.efi (systemd-boot 257.9)
               `-/EFI/BOOT/BOOTX64.EFI (systemd-boot 257.9)

Boot Loaders Listed in EFI Variables:
        Title: Linux Boot Manager
           ID: 0x0001
       Status: active, boot-order

Boot Loader Entry Locations:
          ESP: /boot (/dev/disk/by-partuuid/9b39b4c4-c48b-4ebf-bfea-a56b2395b7e0, $BOOT)
       config: /boot//loader/loader.conf
        token: nixos

Default Boot Loader Entry:
         type: Boot Loader Specification Type #1 (.conf)
        title: NixOS (Generation 7 NixOS Yarara 26.05.1 (Linux 6.12.1), built on 2026-11-20)
           id: nixos-generation-7.conf
       source: /boot//loader/entries/nixos-generation-7.conf
"""


def test_the_status_tells_features_and_entries():
    status = loaders.from_status(STATUS)
    assert status.product == "systemd-boot 257.9"
    assert loaders.ONE_SHOT_FEATURE in status.features
    assert "Multi-Profile UKIs are supported" not in status.features
    assert "Stub reports loader partition information" not in status.features
    assert status.one_shot == "nixos-lab-candidate-generation-1.conf"
    assert (status.current, status.default, status.preferred) == ("nixos-generation-7.conf", None, None)
    assert (status.listed_default, status.esp) == ("nixos-generation-7.conf", "/boot")
    assert status.can_boot_once


def test_ticks_are_read_like_their_substitutes():
    assert loaders.from_status(STATUS.replace("+ ", "✓ ").replace("- ", "✗ ")) == loaders.from_status(STATUS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "System:\nNot booted with EFI\n\n",
        STATUS.replace("+ One-shot entry control", "- One-shot entry control"),
        STATUS.replace("               + One-shot entry control\n", ""),
        STATUS.replace("Current Boot Loader:\n", "Another Boot Loader:\n"),
        # GRUB speaks of itself by the same variables
        STATUS.replace("Product: systemd-boot 257.9", "Product: GRUB 2.12"),
    ],
)
def test_a_loader_that_does_not_say_so_cannot_boot_an_entry_once(text):
    assert not loaders.from_status(text).can_boot_once


def test_a_variable_of_the_firmware_is_four_bytes_and_then_text():
    raw = b"\x07\0\0\0" + "nixos-generation-7.conf\0".encode("utf-16-le")
    assert loaders.from_efi_variable(raw.decode("utf-8", "replace") + "\n") == "nixos-generation-7.conf"
    assert loaders.from_efi_variable("") is None


# shortened from what install-grub.pl of nixpkgs writes
GRUB = """
if [ "${next_entry}" ]; then
  set default="${next_entry}"
  set next_entry=
  save_env next_entry
  set timeout=1
else
  set default=%s
  set timeout=5
fi
menuentry "NixOS - Default" --class nixos {
  search --set=drive1 --fs-uuid 1234
  linux ($drive1)/store/0c5m8vzkdvbcw6bmpzgkrx1n1hq8y6rl-linux-6.12/bzImage init=%s/init loglevel=4
  initrd ($drive1)/store/1d6n9wzkdvbcw6bmpzgkrx1n1hq8y6rl-initrd/initrd
}
submenu "NixOS - All configurations" --class submenu {
menuentry "NixOS - Configuration 1" {
  linux ($drive2)//kernels/0c5m8vzkdvbcw6bmpzgkrx1n1hq8y6rl-linux-6.11-bzImage init=%s/init
}
}
"""


def test_grub_starts_the_numbered_entry():
    entry = loaders.from_grub(GRUB % ("0", NEW, OLD))
    assert entry is not None
    assert entry.system == NEW
    assert entry.linux == "/nix/store/0c5m8vzkdvbcw6bmpzgkrx1n1hq8y6rl-linux-6.12/bzImage"
    assert entry.initrds == ("/nix/store/1d6n9wzkdvbcw6bmpzgkrx1n1hq8y6rl-initrd/initrd",)


def test_grub_may_have_kernels_of_its_own():
    entry = loaders.from_grub(GRUB % ("2", NEW, OLD))
    assert entry is not None
    assert entry.linux == "/boot/kernels/0c5m8vzkdvbcw6bmpzgkrx1n1hq8y6rl-linux-6.11-bzImage"
    assert entry.initrds == ()


@pytest.mark.parametrize("default", ["saved", "7"])
def test_grub_with_a_default_that_is_not_in_the_menu_is_unknown(default):
    assert loaders.from_grub(GRUB % (default, NEW, OLD)) is None


EXTLINUX = f"""
DEFAULT nixos-default
TIMEOUT 50
LABEL nixos-default
  MENU LABEL NixOS - Default
  LINUX ../nixos/6gdl-linux-6.12-Image
  INITRD ../nixos/6gdl-initrd-linux-6.12-initrd
  APPEND init={NEW}/init loglevel=4

LABEL nixos-1-default
  APPEND init={OLD}/init loglevel=4
"""


def test_extlinux_starts_the_label_that_is_named():
    entry = loaders.from_extlinux(EXTLINUX)
    assert entry is not None
    assert (entry.system, entry.linux) == (NEW, "/boot/extlinux/../nixos/6gdl-linux-6.12-Image")
    assert entry.initrds == ("/boot/extlinux/../nixos/6gdl-initrd-linux-6.12-initrd",)
    older = loaders.from_extlinux(EXTLINUX.replace("DEFAULT nixos-default", "DEFAULT nixos-1-default"))
    assert older is not None
    assert (older.system, older.linux) == (OLD, None)


@pytest.mark.parametrize("text", ["", "DEFAULT nowhere\n", "LABEL nixos-default\n"])
def test_extlinux_without_a_default_is_unknown(text):
    assert loaders.from_extlinux(text) is None


def test_only_a_system_in_the_store_is_a_system():
    assert loaders.from_command_line("init=/bin/sh") is None
    assert loaders.from_command_line(f"noinit={OLD}/init") is None
