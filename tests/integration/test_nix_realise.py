"""nix_realise on the lab's guests, from a binary cache of the flake host that works, or fails in one way or another."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration import caches
from tests.lab import Lab

pytestmark = pytest.mark.lab

TARGET = "/nix/var/nix/gcroots/lab-auto-update/target"
# short waits, so that a cache that hangs costs seconds
SHORT = {"connect-timeout": 3, "stalled-download-timeout": 3, "download-attempts": 2}


def out(lab: Lab, host: str, script: str) -> str:
    done = lab.run(host, ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def cache(lab: Lab) -> Iterator[str]:
    """The lab's cache is served, and web trusts what the builder signs; returns the path of the secret key."""
    secret, public = caches.signing_key(lab)
    caches.serve(lab)
    caches.trust(lab, "web", public)
    yield secret
    caches.trust(lab, "web", None)
    caches.stop(lab)


@pytest.fixture
def system(lab: Lab, cache: str) -> str:
    """A system for web that only the builder has, signed, and in its cache."""
    lab.move()
    path = out(
        lab,
        "builder",
        "cd /etc/nixos; nix flake update --quiet; nix build --no-link --print-out-paths "
        "'.#nixosConfigurations.web.config.system.build.toplevel'; git checkout --quiet flake.lock",
    )
    copy = f"nix copy --to 'file://{caches.DIRECTORY}?compression=zstd&secret-key={cache}' {path}"
    out(lab, "builder", f"rm -rf {caches.DIRECTORY}/*; {copy}")
    assert lab.run("web", ["nix-store", "--check-validity", path]).returncode != 0
    return path


@pytest.fixture
def realise(module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def call(path: str, *kinds: str, name: str = "nix_realise", check: bool = False, **more: Any) -> dict[str, Any]:
        substituters = {"substituters": [caches.url(kind) for kind in kinds]} if kinds else {}
        return module("web", name, {"path": path, "options": SHORT, **substituters, **more}, check=check)

    return call


def is_there(lab: Lab, path: str) -> bool:
    return lab.run("web", ["nix-store", "--check-validity", path]).returncode == 0


def test_the_closure_arrives_from_a_substituter_and_stays(lab: Lab, realise: Any, system: str) -> None:
    result = realise(system, "well", name="homelab.nixos.nix_realise")

    assert result["changed"], result
    assert result["store_path"] == system
    assert result["fetched"] >= 1
    assert result["space"]["needed_bytes"] < result["space"]["free_bytes"]
    assert out(lab, "web", f"readlink {TARGET}") == system
    out(lab, "web", "nix-collect-garbage")
    out(lab, "web", f"nix-store --verify-path $(nix-store --query --requisites {system})")
    again = realise(system, "refuses")
    assert not again["failed"]
    assert not again["changed"]


def test_the_hosts_own_substituters_are_the_default_and_check_mode_fetches_too(
    lab: Lab, realise: Any, system: str
) -> None:
    nobody = realise(system)
    assert nobody["failed"]
    assert "there is no substituter to ask" in nobody["msg"]
    _, public = caches.signing_key(lab)
    caches.trust(lab, "web", public, f"substituters = {caches.url('well')}")
    try:
        assert realise(system, check=True)["changed"]
    finally:
        caches.trust(lab, "web", public)
    assert is_there(lab, system)


@pytest.mark.parametrize(
    ("kind", "words", "seconds"),
    [
        ("refuses", "Could not connect", 0),
        ("answers_500", "HTTP error 500", 0),
        ("has_lost_files", "it has no nar/", 0),
        # two attempts, each of them as long as a stalled download may take
        ("hangs", "Timeout was reached", 2 * 3),
        # and one path after the other
        ("hangs_in_the_middle", "Timeout was reached", 2 * 3),
    ],
)
def test_a_substituter_that_fails_is_named_in_time_and_keeps_no_other_from_helping(
    lab: Lab, realise: Any, system: str, kind: str, words: str, seconds: float
) -> None:
    began = time.monotonic()
    result = realise(system, kind)
    took = time.monotonic() - began
    assert result["failed"]
    assert result["failing_substituters"] == [caches.url(kind)]
    assert f"the substituter {caches.url(kind)} failed: " in result["msg"]
    assert words in result["msg"]
    assert "lab_substituters" in result["msg"]
    # Nix pauses between attempts, and this machine is busy; without a bound it would be many minutes
    assert took < seconds + 30
    assert not is_there(lab, system)
    if not kind.startswith("hangs"):
        assert realise(system, kind, "well")["changed"]
        assert is_there(lab, system)


def test_a_time_out_of_the_task_ends_what_no_bound_of_nix_ends(lab: Lab, realise: Any, system: str) -> None:
    patient = {"connect-timeout": 300, "stalled-download-timeout": 300}
    began = time.monotonic()
    result = realise(system, "hangs", options=patient, timeout=3)
    assert time.monotonic() - began < 3 + 30
    assert result["failed"]
    assert "took longer than 3 s" in result["msg"]


def test_what_no_substituter_has_is_an_error_that_says_whom_was_asked(lab: Lab, realise: Any, system: str) -> None:
    absent = system.replace(system[11:43], "0" * 32)
    result = realise(absent, "well")
    assert result["failed"]
    assert f"no substituter has it, asked were {caches.url('well')}" in result["msg"]
    # once it is there it is found at once: that it was not, a moment ago, is not remembered
    name = system.split("/")[3][:32]
    out(lab, "builder", f"mv {caches.DIRECTORY}/{name}.narinfo /srv/away")
    assert "no substituter has it" in realise(system, "well")["msg"]
    out(lab, "builder", f"mv /srv/away {caches.DIRECTORY}/{name}.narinfo")
    assert realise(system, "well")["changed"]


def test_what_is_not_signed_by_a_trusted_key_is_not_taken(lab: Lab, realise: Any, system: str) -> None:
    caches.trust(lab, "web", "other-1:vDL/bJkgqAGPZTfMZ+QWhnMUCsSBYvmuGjp1J1gyqpA=")
    try:
        result = realise(system, "well")
    finally:
        caches.trust(lab, "web", caches.signing_key(lab)[1])
    assert result["failed"]
    assert f"{caches.url('well')} has it without a signature" in result["msg"]
    assert "trusted-public-keys" in result["msg"]
    assert not is_there(lab, system)


@pytest.mark.parametrize(
    ("options", "files", "words"),
    [("size=64k", 0, "iB are needed and "), ("size=256m,nr_inodes=120", 100, " inodes are needed and ")],
)
def test_a_store_that_is_too_small_is_told_before_the_first_byte(
    lab: Lab, realise: Any, system: str, options: str, files: int, words: str
) -> None:
    before = caches.store_names(lab, "web")
    caches.shrink_store(lab, "web", options, files)
    try:
        result = realise(system, "well")
        after = caches.store_names(lab, "web")
    finally:
        caches.restore_store(lab, "web")
    assert result["failed"]
    assert result["no_space"] is True
    assert result["msg"].startswith("/nix/store has no room for ")
    assert words in result["msg"]
    assert after == before
    assert not is_there(lab, system)


def test_a_derivation_is_refused_and_a_lost_host_is_a_failure(module: Any, realise: Any, system: str) -> None:
    assert "is a derivation" in realise(f"{system}.drv")["msg"]
    assert "not a store path" in realise("nixpkgs#hello")["msg"]
    lost = module("web", "nix_realise", {"path": system}, ansible_host="198.18.0.99", ansible_ssh_timeout=2)
    assert lost["failed"]
    assert lost["connection_lost"] is True
    assert not lost["unreachable"]
