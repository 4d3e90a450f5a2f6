"""Nights that stop, or go on without somebody, before any host is touched: one lab of four hosts.

What an update breaks is broken by the input itself, as in life: a package of it no longer evaluates or builds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration import caches
from tests.integration.fleet import Fleet, Night
from tests.lab import Lab

pytestmark = pytest.mark.lab

FLAKE = "/etc/nixos"
# what a failed preparation may not change on the flake host
FLAKE_STATE = f"""
cd {FLAKE}; sha256sum flake.lock; git rev-parse HEAD; git symbolic-ref HEAD; git status --porcelain
git worktree list; git for-each-ref; ls -A .git/lab-auto-update 2> /dev/null || true
"""
# and what on the others: more than a look at them would show in one of these
HOST_STATE = """
ls /nix/store; readlink /nix/var/nix/gcroots/lab-auto-update/*; cat /proc/sys/kernel/random/boot_id
find /var/lib/lab-auto-update -type f -exec sha256sum {} +; journalctl --unit='lab-auto-update-*' --output=cat
journalctl --grep='Accepted publickey for .* from 198.18.0.2 ' --output=cat
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(4, prefix="prepare") as lab:
        yield Fleet(lab)


def out(lab: Lab, script: str, host: str = "builder") -> str:
    done = lab.run(host, ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(fleet: Fleet) -> dict[str, str]:
    hosts = {host: fleet.lab.run(host, ["sh", "-c", HOST_STATE]).stdout for host in fleet.hosts}
    return {**hosts, "builder": out(fleet.lab, FLAKE_STATE)}


def stops_before_anything_is_touched(fleet: Fleet, *words: str, **settings: Any) -> Night:
    before = state(fleet)
    night = fleet.night(**settings)
    assert state(fleet) == before
    assert (night.rc, set(night.outcomes.values())) == (2, {"held"})
    for host in fleet.hosts:
        for word in words:
            assert word in night.reason(host)
    return night


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(
            "eval-fails", "did not evaluate: error: unbound 1.24.1 has the fault eval-fails", marks=pytest.mark.soak
        ),
        ("build-fails", "its last words: 'unbound 1.24.1 has the fault build-fails'"),
    ],
)
def test_an_update_that_breaks_the_system_of_one_host_is_named_with_the_host_and_the_input(
    fleet: Fleet, fault: str, words: str
):
    fleet.lab.spoil("unbound", fault)
    stops_before_anything_is_touched(fleet, "With the new 'packages', the system of 'dns' did not", words)


def test_a_build_that_takes_too_long_is_named_and_does_not_go_on(fleet: Fleet):
    fleet.lab.spoil("unbound", "build-hangs")
    words = "With the new 'packages', the system of 'dns' did not build within 25 s. Raise timeout."
    stops_before_anything_is_touched(fleet, words, lab_build_timeout=25)
    assert "sleep 600" not in out(fleet.lab, "ps -eo args")


def test_a_disk_that_fills_up_while_building_is_named(fleet: Fleet):
    fleet.lab.spoil("unbound", "fills-disk")
    caches.shrink_store(fleet.lab, "builder", "size=32m")
    try:
        stops_before_anything_is_touched(
            fleet, "With the new 'packages', the system of 'dns' did not build", "No space left on device", "Make room"
        )
    finally:
        caches.restore_store(fleet.lab, "builder")
        # Nix has noted what went with the small store
        out(fleet.lab, "nix-store --verify --quiet")


@pytest.mark.soak
def test_a_git_hook_that_refuses_stops_the_night(fleet: Fleet):
    fleet.lab.spoil("unbound")
    fleet.lab.move()
    hook = f"{FLAKE}/.git/hooks/pre-commit"
    out(fleet.lab, f"mkdir -p {FLAKE}/.git/hooks; printf '#!/bin/sh\\necho no; exit 1\\n' > {hook}; chmod +x {hook}")
    try:
        stops_before_anything_is_touched(fleet, "The git hook pre-commit refused the commit of the new flake.lock")
    finally:
        out(fleet.lab, f"rm {hook}")


def test_of_three_inputs_the_bad_one_is_left_alone_and_the_other_two_reach_the_hosts(fleet: Fleet):
    lab = fleet.lab
    out(
        lab,
        "mkdir /srv/third; cd /srv/third; echo '{ outputs = { self }: { }; }' > flake.nix;"
        "git init --quiet; git add --all; git commit --quiet --message first;"
        f'cd {FLAKE}; sed -i \'s#^  inputs.tools = #  inputs.third.url = "git+file:///srv/third?ref=main";\\n&#;'
        "s#self, packages, tools }:#self, packages, tools, third }:#' flake.nix;"
        "nix flake lock --quiet; git commit --quiet --all --message third;"
        "cd /srv/third; git commit --quiet --allow-empty --message second",
    )
    lab.move("tools")
    lab.spoil("unbound", "eval-fails")
    old = out(lab, f"jq -r .nodes.packages.locked.rev {FLAKE}/flake.lock")
    night = fleet.night(lab_fallback="per_input", lab_batch=4)
    assert (night.rc, night.outcomes) == (0, dict.fromkeys(fleet.hosts, "updated"))
    # what would have shown before, had somebody been contacted
    assert all("from 198.18.0.2 " in seen for host, seen in state(fleet).items() if host != "builder")
    revisions = f"for node in packages tools third; do jq -r .nodes.$node.locked.rev {FLAKE}/flake.lock; done"
    new = out(lab, "for input in tools third; do git -C /srv/$input rev-parse HEAD; done")
    assert out(lab, revisions) == f"{old}\n{new}"
    assert "Input packages was left alone: With the new 'packages', the system of 'dns' did not" in night.output
    assert all(fleet.look(host).is_on(fleet.target(host)) for host in fleet.hosts)

    again = fleet.night(lab_fallback="per_input")
    assert (again.rc, again.outcomes) == (0, dict.fromkeys(fleet.hosts, "unchanged"))
    assert "Input packages was left alone" in again.output


def test_hosts_that_cannot_be_built_for_fail_alone_where_that_is_wanted(fleet: Fleet):
    lab = fleet.lab
    lab.spoil("unbound")
    lab.move()
    lab.fault("nas", "build-fails")
    lab.fault("dns", "foreign-platform")
    before = fleet.looks()
    night = fleet.night(lab_build_failure="skip", lab_batch=4)
    for host in ("nas", "dns"):
        lab.fault(host)
    assert (night.rc, night.outcomes) == (2, {"dev": "updated", "web": "updated", "nas": "failed", "dns": "failed"})
    assert "its last words: 'this system has the fault build-fails'" in night.reason("nas")
    assert "aarch64-linux" in night.reason("dns")
    assert "boot.binfmt.emulatedSystems" in night.reason("dns")
    after = fleet.looks()
    assert {host: after[host] for host in ("nas", "dns")} == {host: before[host] for host in ("nas", "dns")}
    assert all(after[host] != before[host] for host in ("dev", "web"))


def test_a_system_that_knows_its_revision_is_the_one_that_was_built(fleet: Fleet):
    """With C(configurationRevision = self.rev) a system that is built before the commit is another one after it."""
    lab = fleet.lab
    out(lab, f"cd {FLAKE}; sed -i 's/revision = null;/revision = self.rev;/' flake.nix; git commit -qam revision")
    lab.move()
    night = fleet.night("--limit", "dev")
    assert (night.rc, night.outcomes) == (0, {"dev": "updated"})
    head = out(lab, f"git -C {FLAKE} rev-parse HEAD")
    assert out(lab, "cat /run/current-system/configuration-revision", "dev") == head
    assert fleet.look("dev").is_on(fleet.target("dev"))
    again = fleet.night("--limit", "dev")
    assert (again.rc, again.outcomes) == (0, {"dev": "unchanged"})
