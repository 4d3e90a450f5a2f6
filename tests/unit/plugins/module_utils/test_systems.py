"""Reboot reasons, drift and the names of systems."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _systems
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Parts, Systems

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
PARTS = Parts(
    kernel="/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-linux-6.12/bzImage",
    initrd="/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-initrd/initrd",
    kernel_modules="/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-modules/lib/modules",
    systemd="/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-systemd-257",
    init_interface="systemd 2",
    kernel_params="quiet loglevel=4",
    inhibitors={"dbus-implementation": "broker"},
)


def changed(**parts: object) -> Parts:
    return Parts(**{**vars(PARTS), **parts})


def test_the_same_parts_need_no_reboot():
    assert _systems.reboot_reasons(PARTS, PARTS, PARTS) == []


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"kernel": "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-linux-6.13/bzImage"}, "kernel"),
        ({"kernel": None}, "kernel"),
        ({"initrd": "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-initrd/initrd"}, "initrd"),
        ({"kernel_modules": None}, "kernel-modules"),
        ({"kernel_params": "quiet"}, "kernel-params"),
        ({"systemd": "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-systemd-258"}, "systemd"),
        ({"init_interface": "systemd 3"}, "init-interface"),
        ({"inhibitors": {"dbus-implementation": "dbus"}}, "switch-inhibitor dbus-implementation"),
    ],
)
def test_every_part_that_takes_effect_at_boot_is_a_reason(parts, reason):
    assert _systems.reboot_reasons(PARTS, PARTS, changed(**parts)) == [reason]


def test_what_was_booted_counts_for_the_kernel_and_what_runs_for_inhibitors():
    target = changed(kernel_params="quiet", inhibitors={"dbus-implementation": "dbus"})
    assert _systems.reboot_reasons(PARTS, target, target) == ["kernel-params"]


def test_white_space_in_kernel_params_is_no_reason():
    assert _systems.reboot_reasons(PARTS, PARTS, changed(kernel_params="quiet  loglevel=4\n")) == []


def test_an_inhibitor_that_only_one_system_has_inhibits_nothing():
    assert _systems.inhibited({"a": "1"}, {"b": "2"}) == []


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "{", '"x"'])
def test_unreadable_inhibitors_are_an_error_and_not_none(text):
    with pytest.raises(Unreadable):
        _systems.inhibitors(text)


def test_systems_without_inhibitors_have_none():
    assert _systems.inhibitors("\n") == {}


def test_no_drift_when_all_agree_even_if_an_older_system_was_booted():
    assert _systems.drift(Systems(current=NEW, booted=OLD, profile=NEW, boot_default=NEW)) == []


@pytest.mark.parametrize(
    ("systems", "words"),
    [
        (Systems(NEW, NEW, OLD, NEW), "the system profile is"),
        (Systems(NEW, NEW, NEW, OLD), "the boot default is"),
        (Systems(NEW, NEW, NEW, None), "the boot default cannot be read"),
        (Systems(None, NEW, NEW, NEW), "/run/current-system cannot be read"),
    ],
)
def test_every_disagreement_is_drift_and_so_is_not_knowing(systems, words):
    (sentence,) = _systems.drift(systems)
    assert sentence.startswith(words)


def test_names_for_people():
    assert _systems.name(OLD) == "nixos-system-web-26.05.1"
    assert _systems.name(str(PARTS.kernel)) == "linux-6.12"
    assert _systems.short(OLD) == "6gdlyhm"
