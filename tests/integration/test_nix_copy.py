"""nix_copy from the lab's flake host to its guests, with real Nix and real ssh."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
    assert "to web" in result["msg"]
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
