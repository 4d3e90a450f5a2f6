"""nix_copy from the lab's flake host to its guests, with real Nix and real ssh."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration import caches
from tests.lab import Lab

pytestmark = pytest.mark.lab

Module = Callable[..., dict[str, Any]]
KEY = "/root/.ssh/id_ed25519"
TARGET = "/nix/var/nix/gcroots/lab-auto-update/target"


def out(lab: Lab, host: str, script: str) -> str:
    done = lab.run(host, ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def system(lab: Lab) -> Iterator[str]:
    """A system for web that only the builder has."""
    lab.move()
    path = out(
        lab,
        "builder",
        "cd /etc/nixos; nix flake update --quiet; nix build --no-link --print-out-paths "
        "'.#nixosConfigurations.web.config.system.build.toplevel'; git checkout --quiet flake.lock",
    )
    assert lab.run("web", ["nix-store", "--check-validity", path]).returncode != 0
    yield path


@pytest.fixture
def copy(module: Module) -> Callable[..., dict[str, Any]]:
    def call(path: str, host: str = "web", name: str = "nix_copy", check: bool = False, **more: Any) -> dict[str, Any]:
        variables = more.pop("variables", {})
        args = {"path": path, "host": host, "ssh_key": KEY, **more}
        return module("builder", name, args, check=check, **variables)

    return call


def test_the_closure_arrives_and_stays(lab: Lab, copy: Any, system: str) -> None:
    result = copy(system, name="homelab.nixos.nix_copy")

    assert result["changed"]
    assert result["store_path"] == system
    assert out(lab, "web", f"readlink {TARGET}") == system
    out(lab, "web", "nix-collect-garbage")
    out(lab, "web", f"nix-store --verify-path $(nix-store --query --requisites {system})")
    assert not copy(system, name="nix_copy")["changed"]


def test_check_mode_copies_too(lab: Lab, copy: Any, system: str) -> None:
    assert copy(system, check=True)["changed"]
    out(lab, "web", f"nix-store --check-validity {system}")


def test_the_root_is_there_before_the_path(lab: Lab, copy: Any, system: str) -> None:
    # a host that takes no path: the root has to be there all the same
    out(lab, "web", "mount --bind /bin/false $(readlink -f $(command -v nix-daemon))")
    try:
        result = copy(system)
    finally:
        out(lab, "web", "umount $(readlink -f $(command -v nix-daemon))")
    assert result["failed"]
    assert "web" in result["msg"]
    assert out(lab, "web", f"readlink {TARGET}") == system


def test_a_host_that_is_off_is_named_and_nobody_waits_for_long(lab: Lab, copy: Any, system: str) -> None:
    lab.stop("web")
    began = time.monotonic()
    try:
        result = copy(system)
    finally:
        took = time.monotonic() - began
        lab.start("web", wait=True)
    assert result["failed"]
    assert not result["unreachable"]
    assert result["host_reachable"] is False
    assert result["msg"].startswith("The builder cannot reach web: ssh: connect to host")
    # far from the two minutes and more after which TCP gives up
    assert took < 45


def test_a_lost_builder_is_a_failure_and_not_an_unreachable_host(copy: Any, system: str) -> None:
    result = copy(system, variables={"ansible_host": "198.18.0.99", "ansible_ssh_timeout": 2})
    assert result["failed"]
    assert result["connection_lost"] is True
    assert not result["unreachable"]


def test_a_host_with_another_key_is_not_trusted(lab: Lab, copy: Any, system: str) -> None:
    known = "$(ls /root/.ssh/known_hosts /etc/ssh/ssh_known_hosts 2>/dev/null | head -1)"
    file = out(lab, "builder", f"echo {known}")
    assert file
    out(lab, "builder", f"mv {file} /root/known_hosts.away")
    try:
        result = copy(system)
    finally:
        out(lab, "builder", f"mv /root/known_hosts.away {file}")
    assert result["failed"]
    assert result["host_reachable"] is False
    assert "host key" in result["msg"].lower()
    assert "ssh-keyscan" in result["msg"]
    assert lab.run("web", ["nix-store", "--check-validity", system]).returncode != 0


def test_wrong_words_fail_before_anything_is_contacted(copy: Any, system: str) -> None:
    assert "not a store path" in copy(f"{system}; reboot")["msg"]
    assert "no host 'nobody'" in copy(system, host="nobody")["msg"]
    assert "no ssh key /none" in copy(system, ssh_key="/none")["msg"]
    assert "made from the inventory" in copy(system, ssh_config="Host *")["msg"]
    absent = system.replace(system[11:43], "0" * 32)
    assert "not in the store of the builder" in copy(absent)["msg"]


@pytest.mark.parametrize(
    ("options", "words"),
    [("size=64k", "iB are needed and 64.0 KiB are free."), ("size=64m,nr_inodes=12", " inodes are needed and ")],
)
def test_a_store_that_is_too_small_is_told_before_the_first_byte(
    lab: Lab, copy: Any, system: str, options: str, words: str
) -> None:
    before = caches.store_names(lab, "web")
    caches.shrink_store(lab, "web", options)
    try:
        result = copy(system)
        after = caches.store_names(lab, "web")
    finally:
        caches.restore_store(lab, "web")
    assert result["failed"]
    assert result["no_space"] is True
    assert result["msg"].startswith("The store of web has no room for ")
    assert words in result["msg"]
    assert "nix-collect-garbage" in result["msg"]
    assert set(result["space"]) == {"needed_bytes", "free_bytes", "needed_inodes", "free_inodes"}
    assert after == before
    assert lab.run("web", ["nix-store", "--check-validity", system]).returncode != 0
    # and with room it goes through, needing no more than was said
    room = copy(system)
    assert room["changed"]
    if "size=64k" in options:
        arrived = caches.store_names(lab, "web") - before
        used = out(lab, "web", f"cd /nix/store; du --summarize --bytes --total {' '.join(arrived)} | tail -1")
        assert int(used.split()[0]) <= result["space"]["needed_bytes"] * 1.5


@pytest.fixture
def signed_for_admin(lab: Lab) -> Iterator[str]:
    """The path of the builder's secret key, of which web trusts the public half; gone from both afterwards."""
    secret, public = caches.signing_key(lab)
    caches.trust(lab, "web", public)
    yield secret
    caches.trust(lab, "web", None)


def test_a_plain_user_brings_what_is_signed_and_nothing_else(
    lab: Lab, copy: Any, system: str, signed_for_admin: str
) -> None:
    for check_signatures in (False, True):
        refused = copy(system, user="admin", check_signatures=check_signatures)
        assert refused["failed"]
        assert "signature by a trusted key" in refused["msg"]
        assert "lab_signing_key" in refused["msg"]
        assert "trusted-public-keys" in refused["msg"]
    assert out(lab, "web", f"readlink {TARGET}") == system
    # root may bring anything, and does not when it was told to look
    assert "signature" in copy(system, check_signatures=True)["msg"]
    assert lab.run("web", ["nix-store", "--check-validity", system]).returncode != 0

    out(lab, "builder", f"nix store sign --recursive --key-file {signed_for_admin} {system}")
    result = copy(system, user="admin", check_signatures=True)
    assert result["changed"], result
    out(lab, "web", f"nix-store --verify-path $(nix-store --query --requisites {system})")
    out(lab, "web", "nix-collect-garbage")
    assert not copy(system, user="admin", check_signatures=True)["changed"]


def test_a_user_without_sudo_is_told_what_is_missing(lab: Lab, copy: Any, system: str) -> None:
    out(lab, "web", "gpasswd --delete admin wheel")
    try:
        result = copy(system, user="admin")
    finally:
        out(lab, "web", "usermod --append --groups wheel admin")
    assert result["failed"]
    assert result["msg"].startswith("Making the GC root on web")
    assert "sudo without a password" in result["msg"]


def test_a_store_that_is_no_hosts_gets_all_paths_at_once(lab: Lab, module: Module, system: str) -> None:
    other = out(lab, "builder", "readlink -f /run/current-system")
    out(lab, "builder", "rm -rf /srv/cache")
    args = {"path": [system, other], "store": "file:///srv/cache?compression=zstd&secret-key=/root/none"}
    refused = module("builder", "nix_copy", args)
    assert refused["failed"]
    assert "to file:///srv/cache" in refused["msg"]
    assert "/root/none" not in refused["invocation"]["module_args"]["store"]

    args["store"] = "file:///srv/cache?compression=zstd"
    result = module("builder", "nix_copy", args)
    assert result["changed"], result
    assert result["store_paths"] == [system, other]
    for path in (system, other):
        out(lab, "builder", f"nix path-info --recursive --store file:///srv/cache {path}")
    assert not module("builder", "nix_copy", args)["changed"]
    # what was swept comes back
    out(lab, "builder", f"rm /srv/cache/{system.split('/')[3][:32]}.narinfo")
    assert module("builder", "nix_copy", args)["changed"]


def test_a_host_and_a_store_exclude_each_other(module: Module, system: str) -> None:
    both = {"path": system, "host": "web", "store": "s3://x"}
    assert "mutually exclusive" in module("builder", "nix_copy", both)["msg"]
    assert "required" in module("builder", "nix_copy", {"path": system})["msg"]
