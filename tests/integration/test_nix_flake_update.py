"""nix_flake_update on the lab's flake host, with real git and real Nix."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import Lab

pytestmark = pytest.mark.lab

Module = Callable[..., dict[str, Any]]
FLAKE = "/etc/nixos"
ROOTS = "/nix/var/nix/gcroots/lab-auto-update/builder"


def attribute(host: str) -> str:
    return f'nixosConfigurations."{host}".config.system.build.toplevel'


BOTH = {"dev": attribute("dev"), "web": attribute("web")}


def out(lab: Lab, script: str) -> str:
    done = lab.run("builder", ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(lab: Lab, directory: str = FLAKE) -> str:
    """Everything that a failure and check mode leave as it was."""
    return out(
        lab,
        f"cd {directory}; sha256sum flake.lock; git rev-parse HEAD; git symbolic-ref HEAD; git status --porcelain;"
        " git worktree list; git for-each-ref; ls .git/lab-auto-update; ls -A",
    )


@pytest.fixture
def update(module: Module) -> Callable[..., dict[str, Any]]:
    def call(check: bool = False, **more: Any) -> dict[str, Any]:
        return module(
            "builder", "nix_flake_update", {"path": FLAKE, "must_build": BOTH, **more}, check=check, diff=True
        )

    return call


@pytest.fixture
def moved(lab: Lab) -> str:
    """A flake host with an input that has moved since the last night; returns its state."""
    lab.move()
    return state(lab)


def test_check_mode_tells_what_would_change_and_changes_nothing(lab: Lab, update: Any, moved: str) -> None:
    checked = update(check=True)

    assert state(lab) == moved
    assert checked["changed"]
    assert checked["commit"] is None
    (packages,) = checked["inputs"]
    assert packages["path"] == "packages"
    assert packages["before"]["rev"] != packages["after"]["rev"] == out(lab, "git -C /srv/packages rev-parse HEAD")
    assert packages["after"]["url"] == "git+file:///srv/packages?ref=main"
    assert packages["after"]["nar_hash"].startswith("sha256-")
    for sign, side in (("-", "before"), ("+", "after")):
        assert f"\n{sign}packages  20" in checked["printed"]
        assert f" {packages[side]['rev'][:7]}  git+file:///srv/packages?ref=main\n" in checked["printed"]


def test_what_was_built_is_what_is_deployed(lab: Lab, update: Any, moved: str) -> None:
    result = update()

    assert result["changed"]
    assert result["commit"] == out(lab, f"git -C {FLAKE} rev-parse main")
    assert result["lock_hash"] == out(lab, f"sha256sum < {FLAKE}/flake.lock").split()[0]
    assert out(lab, f"git -C {FLAKE} show --format= --name-only") == "flake.lock"
    assert out(lab, f"git -C {FLAKE} status --porcelain") == ""
    assert out(lab, f"git -C {FLAKE} worktree list | wc -l") == "1"
    for host, system in result["systems"].items():
        assert f"-nixos-system-{host}-" in system
        assert system == out(lab, f"nix build --no-link --print-out-paths '{FLAKE}#{attribute(host)}'")
        assert system == out(lab, f"readlink {ROOTS}/{host}")

    again = update()
    assert not again["changed"]
    assert again["inputs"] == []
    assert again["systems"] == result["systems"]


def test_what_was_built_outlives_the_garbage_collector(lab: Lab, update: Any, moved: str) -> None:
    systems = update(check=True)["systems"]
    out(lab, "nix-collect-garbage")
    for system in systems.values():
        out(lab, f"nix-store --check-validity {system}")


def test_only_the_inputs_that_were_asked_for_move(lab: Lab, update: Any, moved: str) -> None:
    lab.move("tools")
    assert [change["path"] for change in update(inputs=["tools"])["inputs"]] == ["tools"]
    assert [change["path"] for change in update()["inputs"]] == ["packages"]


def test_an_unknown_input_is_an_error(lab: Lab, update: Any, moved: str) -> None:
    result = update(inputs=["packages", "nope"])
    assert result["failed"]
    assert result["known_inputs"] == ["packages", "tools", "tools/packages"]
    assert "no input 'nope'" in result["msg"]
    assert state(lab) == moved


@pytest.mark.parametrize("fault", ["eval-fails", "build-fails"])
def test_one_host_that_does_not_build_stops_the_update_and_is_named(
    lab: Lab, update: Any, moved: str, fault: str
) -> None:
    lab.fault("web", fault)
    before = state(lab)

    result = update()

    assert state(lab) == before
    lab.fault("web")
    assert result["failed"]
    assert result["failed_systems"] == ["web"]
    assert "'web' did not build" in result["msg"]
    assert "error: " in result["msg"]


def test_systems_that_share_a_derivation_keep_their_names(lab: Lab, update: Any, moved: str) -> None:
    builds = {"web": BOTH["web"], "same": BOTH["web"].replace('"', ""), "dev": BOTH["dev"], "twice": BOTH["dev"]}
    systems = update(must_build=builds)["systems"]
    assert systems["web"] == systems["same"] != systems["dev"] == systems["twice"]
    assert "-nixos-system-dev-" in systems["dev"]


def test_a_source_that_is_gone_is_named(lab: Lab, update: Any, moved: str) -> None:
    out(lab, "mv /srv/packages /srv/away")
    try:
        result = update()
    finally:
        out(lab, "mv /srv/away /srv/packages")
    assert result["failed"]
    assert "Updating the input 'packages'" in result["msg"]
    assert state(lab) == moved


def test_an_input_does_not_go_back_in_time(lab: Lab, update: Any, moved: str) -> None:
    out(lab, "cd /srv/packages; GIT_COMMITTER_DATE=2020-09-13T12:00Z git commit --quiet --allow-empty --message old")
    result = update()
    assert result["failed"]
    assert "back in time: 'packages' from 20" in result["msg"]
    assert state(lab) == moved


def test_a_dirty_or_torn_lock_stops_the_run(lab: Lab, update: Any, moved: str) -> None:
    for change, words in (("echo >> flake.lock", "uncommitted changes"), ("truncate -s 100 flake.lock", "torn")):
        out(lab, f"cd {FLAKE}; {change}")
        dirty = state(lab)
        result = update()
        assert result["failed"]
        assert words in result["msg"]
        assert state(lab) == dirty
        # the remedy is the message's own last sentence
        out(lab, f"git -C {FLAKE} {result['msg'].rsplit(f'git -C {FLAKE} ')[1].rstrip('.')}")
        assert state(lab) == moved


def test_without_commit_the_lock_is_left_uncommitted(lab: Lab, update: Any, moved: str) -> None:
    head = out(lab, f"git -C {FLAKE} rev-parse HEAD")
    result = update(commit=False)
    try:
        assert result["changed"]
        assert out(lab, f"git -C {FLAKE} status --porcelain") == "M flake.lock"
        assert out(lab, f"git -C {FLAKE} rev-parse HEAD") == head
        assert result["systems"]["web"] == out(
            lab, f"nix build --no-link --print-out-paths '{FLAKE}#{attribute('web')}'"
        )
        assert update()["failed"]
    finally:
        out(lab, f"git -C {FLAKE} checkout --quiet .")


def test_a_hook_that_refuses_is_named(lab: Lab, update: Any, moved: str) -> None:
    hook = f"{FLAKE}/.git/hooks/pre-commit"
    out(lab, f"mkdir -p {FLAKE}/.git/hooks; printf '#!/bin/sh\\necho no; exit 1\\n' > {hook}; chmod +x {hook}")
    try:
        result = update()
    finally:
        out(lab, f"rm {hook}")
    assert result["failed"]
    assert "hook pre-commit refused" in result["msg"]
    assert state(lab) == moved


def test_the_checkout_of_somebody_else_is_refused_with_the_remedy(lab: Lab, update: Any, moved: str) -> None:
    out(lab, f"chown -R nobody {FLAKE}")
    try:
        result = update()
    finally:
        out(lab, f"chown -R root {FLAKE}")
    assert result["failed"]
    assert "belongs to nobody" in result["msg"]
    assert "become_user: nobody" in result["msg"]
    assert state(lab) == moved


def test_a_plain_directory_works_the_same(lab: Lab, update: Any, moved: str) -> None:
    out(lab, f"rm -rf /srv/plain; cp -r {FLAKE} /srv/plain; rm -rf /srv/plain/.git")
    try:
        lock = out(lab, "cat /srv/plain/flake.lock")
        assert update(path="/srv/plain", check=True)["changed"]
        assert out(lab, "cat /srv/plain/flake.lock") == lock
        result = update(path="/srv/plain")
        assert result["changed"]
        assert result["commit"] is None
        assert result["lock_hash"] == out(lab, "sha256sum < /srv/plain/flake.lock").split()[0]
        assert result["systems"]["web"] == out(
            lab, f"nix build --no-link --print-out-paths 'path:/srv/plain#{attribute('web')}'"
        )
        assert out(lab, "ls -A /srv/plain; ls -d /tmp/lab-auto-update-* 2>/dev/null || true") == out(
            lab, f"cd {FLAKE}; git ls-files | cut -d/ -f1 | sort -u"
        )
    finally:
        out(lab, "rm -rf /srv/plain")


def test_the_time_out_holds(lab: Lab, update: Any, moved: str) -> None:
    # a source that accepts and says nothing
    out(
        lab,
        "systemd-run --quiet --unit=silence python3 -c 'import socket,time; s=socket.create_server"
        '(("127.0.0.1",9418)); time.sleep(60)\'',
    )
    out(lab, f"cd {FLAKE}; sed -i 's#git+file:///srv/tools#git://127.0.0.1/tools#' flake.nix; git commit -qam silent")
    before = state(lab)
    try:
        result = update(timeout=5)
    finally:
        out(lab, "systemctl stop silence")
        out(lab, f"git -C {FLAKE} reset --quiet --hard HEAD^")
    assert result["failed"]
    # of the whole time-out, the steps before the one that hangs have had their share
    assert re.search(r"took longer than [1-5] s\. Raise timeout\.", result["msg"])
    assert before.splitlines()[0] == state(lab).splitlines()[0]
    assert state(lab) == moved
