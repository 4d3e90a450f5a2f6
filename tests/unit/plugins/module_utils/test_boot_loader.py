"""The boot default, as each loader tells it."""

from __future__ import annotations

import json

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _boot_loader as loaders

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"


def entry(system: str, default: bool) -> dict[str, object]:
    return {"id": "nixos.conf", "isDefault": default, "options": f"init={system}/init loglevel=4"}


def test_systemd_boot_starts_the_entry_that_is_default_not_the_newest():
    assert loaders.from_bootctl(json.dumps([entry(NEW, False), entry(OLD, True)])) == OLD


@pytest.mark.parametrize(
    "text",
    [
        *("", "garbage", "{}", "[]", json.dumps([entry(NEW, False)])),
        *('[{"isDefault": true}]', '[{"isDefault": true, "options": null}]'),
    ],
)
def test_systemd_boot_that_does_not_tell_is_unknown(text):
    assert loaders.from_bootctl(text) is None


def test_another_operating_system_as_default_is_no_system():
    assert loaders.from_bootctl(json.dumps([{"isDefault": True, "options": "root=/dev/sda2 rw"}])) is None


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
  linux ($drive1)/nix/store/6gdl-linux-6.12/bzImage init=%s/init loglevel=4
  initrd ($drive1)/nix/store/6gdl-initrd/initrd
}
submenu "NixOS - All configurations" --class submenu {
menuentry "NixOS - Configuration 1" {
  linux ($drive1)/nix/store/6gdl-linux-6.11/bzImage init=%s/init
}
}
"""


def test_grub_starts_the_numbered_entry():
    assert loaders.from_grub(GRUB % ("0", NEW, OLD)) == NEW


@pytest.mark.parametrize("default", ["saved", "7"])
def test_grub_with_a_default_that_is_not_in_the_menu_is_unknown(default):
    assert loaders.from_grub(GRUB % (default, NEW, OLD)) is None


EXTLINUX = f"""
DEFAULT nixos-default
TIMEOUT 50
LABEL nixos-default
  MENU LABEL NixOS - Default
  LINUX ../nixos/6gdl-linux-6.12-Image
  APPEND init={NEW}/init loglevel=4

LABEL nixos-1-default
  APPEND init={OLD}/init loglevel=4
"""


def test_extlinux_starts_the_label_that_is_named():
    assert loaders.from_extlinux(EXTLINUX) == NEW
    assert loaders.from_extlinux(EXTLINUX.replace("DEFAULT nixos-default", "DEFAULT nixos-1-default")) == OLD


@pytest.mark.parametrize("text", ["", "DEFAULT nowhere\n", "LABEL nixos-default\n"])
def test_extlinux_without_a_default_is_unknown(text):
    assert loaders.from_extlinux(text) is None


def test_only_a_system_in_the_store_is_a_system():
    assert loaders.from_command_line("init=/bin/sh") is None
    assert loaders.from_command_line(f"noinit={OLD}/init") is None
