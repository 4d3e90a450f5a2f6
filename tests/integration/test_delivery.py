"""How systems get to hosts: pushed by a plain user, or fetched from a cache. No host builds or evaluates anything.

The nights follow each other on one lab of eight guests, on which a wrapper around Nix notes every call of it. The first
night takes all of them, the others four.
"""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration import caches
from tests.integration.fleet import Fleet, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

CALLS = "/var/log/nix-calls"
# all programs of Nix are links to one, which goes by the name it is called by
WRAPPER = f"""#!/bin/bash
printf '%s\\n' "${{0##*/}} $*" >> {CALLS}
exec -a "${{0##*/}}" /usr/lib/nix-itself "$@"
"""
# what evaluates or builds; of `nix` also all that takes an installable from a flake
PROGRAMS = {"nix-build", "nix-instantiate", "nix-shell", "nix-channel", "nix-prefetch-url"}
COMMANDS = {"build", "eval", "flake", "run", "shell", "develop", "profile", "repl", "bundle", "print-dev-env"}
QUICK: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": 8,
    "lab_copy_parallel": 8,
    "lab_settle": 2,
    "lab_activation_timeout": 120,
    "lab_confirm_timeout": 60,
    "lab_signing_key": caches.SECRET_KEY,
}
CACHE: dict[str, Any] = {
    "lab_delivery": "pull",
    "lab_cache": f"file://{caches.DIRECTORY}?compression=zstd",
    "lab_substituters": [caches.url("well")],
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(8, prefix="delivery", nix=os.environ.get("LAB_NIX", "trixie")) as lab:
        _secret, public = caches.signing_key(lab)
        caches.serve(lab)
        fleet = Fleet(lab)
        for host in fleet.hosts:
            lab.run(host, ["mv", "/usr/bin/nix", "/usr/lib/nix-itself"], check=True)
            lab.write(host, "/usr/bin/nix", WRAPPER)
            lab.run(host, ["sh", "-c", f"chmod 755 /usr/bin/nix; umask 0; : > {CALLS}"], check=True)
            caches.trust(lab, host, public)
        yield fleet


def calls(fleet: Fleet, host: str) -> list[list[str]]:
    """How Nix was called on a host."""
    return [line.split() for line in (fleet.lab.read(host, CALLS) or "").splitlines()]


def builds(call: list[str]) -> bool:
    program, *words = call
    if program == "nix":
        # options with values would be taken for the command, and no value is called like one
        return bool(COMMANDS & set(words)) and "store" not in words
    return program in PROGRAMS or (program == "nix-store" and any(word.endswith(".drv") for word in words))


def targets(fleet: Fleet) -> dict[str, str]:
    """What the flake has for each host, as it is on the builder now."""
    apply = "builtins.mapAttrs (_: host: host.config.system.build.toplevel.outPath)"
    argv = ["nix", "eval", "--json", "/etc/nixos#nixosConfigurations", "--apply", apply]
    built = json.loads(fleet.lab.run("builder", argv, check=True).stdout)
    return {host: built[host] for host in fleet.hosts}


def derivations(fleet: Fleet) -> dict[str, str]:
    """The derivations on each host: whoever evaluates leaves some. Forgets how Nix was called until now."""
    script = f"ls -d /nix/store/*.drv 2> /dev/null; : > {CALLS}"
    return {host: fleet.lab.run(host, ["sh", "-c", script], check=True).stdout for host in fleet.hosts}


def contents(fleet: Fleet, host: str, system: str) -> str:
    """All that a system needs, by path and by hash of what is in it, as a machine itself has it."""
    path = shlex.quote(system)
    script = (
        f"for one in $(nix-store --query --requisites {path} | sort); do "
        "echo $one $(nix-hash --type sha256 --base32 $one); done"
    )
    return fleet.lab.run(host, ["sh", "-c", script], check=True).stdout


def assert_hosts_have_what_the_builder_built(
    fleet: Fleet, hosts: tuple[str, ...], *, came_by: str, not_by: str
) -> None:
    built = targets(fleet)
    assert len(set(built.values())) == len(fleet.hosts)
    for host in hosts:
        made = calls(fleet, host)
        text = [" ".join(call) for call in made]
        assert any(came_by in call for call in text), f"{host}: the wrapper saw no {came_by} in {text}"
        assert not any(not_by in call for call in text), host
        assert [call for call in made if builds(call)] == [], host
        assert fleet.look(host).is_on(built[host]), host
    # one host stands for the others, who have most of its paths
    host = hosts[-1]
    assert contents(fleet, host, built[host]) == contents(fleet, "builder", built[host])


def test_a_night_by_a_plain_user_pushes_what_is_signed(fleet: Fleet):
    fleet.lab.move()
    before = derivations(fleet)
    night = fleet.night(**QUICK, ansible_user="admin")
    assert (night.rc, night.outcomes) == (0, dict.fromkeys(fleet.hosts, "updated"))
    assert_hosts_have_what_the_builder_built(fleet, fleet.hosts, came_by="nix-daemon --stdio", not_by="--realise")
    assert derivations(fleet) == before


def test_a_night_lets_hosts_fetch_what_was_copied_to_the_cache(fleet: Fleet):
    fleet.lab.move()
    before = derivations(fleet)
    hosts = fleet.hosts[:4]
    night = fleet.night("--limit", ",".join(hosts), **QUICK, **CACHE)
    assert (night.rc, night.outcomes) == (0, dict.fromkeys(hosts, "updated"))
    assert_hosts_have_what_the_builder_built(fleet, hosts, came_by="nix-store --realise", not_by="nix-daemon --stdio")
    assert derivations(fleet) == before
    # nobody needs the cache when there is nothing new
    again = fleet.night("--limit", "dev", **QUICK, **(CACHE | {"lab_cache": "file:///proc/none"}))
    assert (again.rc, again.outcomes) == (0, {"dev": "unchanged"})


def test_a_cache_that_takes_nothing_fails_every_host_that_would_have_come_and_touches_none(fleet: Fleet):
    fleet.lab.move()
    hosts = fleet.hosts[:4]
    before = {host: fleet.look(host) for host in hosts}
    derivations(fleet)
    night = fleet.night("--limit", ",".join(hosts), **QUICK, **(CACHE | {"lab_cache": "file:///proc/none"}))
    assert (night.rc, night.outcomes) == (2, dict.fromkeys(hosts, "failed"))
    assert "to file:///proc/none" in night.reason("web")
    assert {host: fleet.look(host) for host in hosts} == before
    for host in hosts:
        assert not any("--realise" in call for call in calls(fleet, host)), host


def test_hosts_without_room_without_a_cache_and_without_power_are_told_apart(fleet: Fleet):
    lab = fleet.lab
    before = {host: fleet.look(host) for host in ("dev", "web", "nas", "dns")}
    caches.shrink_store(lab, "web", "size=64k")
    # dns waits for a cache that says nothing, and its power goes meanwhile; that of nas has lost what it had
    own = {"dns": "hangs", "nas": "has_lost_files"}
    substituters = {host: [caches.url(own.get(host, "well"))] for host in before}
    inventory = lab.directory / "own.yml"
    variables = {host: {"lab_substituters": urls} for host, urls in substituters.items()}
    inventory.write_text(json.dumps({"all": {"hosts": variables}}))

    def cut_the_power_of_dns() -> None:
        until(lambda: "--realise" in (lab.read("dns", CALLS) or ""), 300, "dns asks")
        lab.stop("dns")

    cutter = threading.Thread(target=cut_the_power_of_dns)
    cutter.start()
    settings = {name: value for name, value in CACHE.items() if name != "lab_substituters"}
    try:
        night = fleet.night("-i", str(inventory), "--limit", ",".join(before), **QUICK, **settings)
    finally:
        cutter.join()
        caches.restore_store(lab, "web")
    assert night.rc == 2
    assert night.outcomes == {"dev": "updated", "web": "deferred", "nas": "failed", "dns": "failed"}
    assert "/nix/store has no room for " in night.reason("web")
    assert "64.0 KiB are free" in night.reason("web")
    assert f"the substituter {caches.url('has_lost_files')} failed" in night.reason("nas")
    assert "The connection to the host was lost" in night.reason("dns")
    lab.start("dns", wait=True)
    assert fleet.look("dev").is_on(fleet.target("dev"))
    assert fleet.look("dns").is_on(before["dns"].current)
    for host in ("web", "nas"):
        assert fleet.look(host) == before[host], host
