"""nix_flake_update on the lab's flake host, with real git and real Nix."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration import caches
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
    assert list(result["failed_systems"]) == ["web"]
    assert "the system of 'web' did not" in result["msg"]
    assert f"has the fault {fault}" in result["msg"]


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


@contextlib.contextmanager
def silent_server(lab: Lab) -> Iterator[None]:
    """A server at the port of git that accepts and says nothing, for a minute at most."""
    program = 'import socket,time; s=socket.create_server(("127.0.0.1",9418)); time.sleep(60)'
    listens = "ss -tlnH 'sport = :9418' | grep -q ."
    out(
        lab,
        f"systemd-run --quiet --unit=silence --collect python3 -c '{program}';"
        f"for i in $(seq 50); do {listens} && exit; sleep 0.1; done; exit 1",
    )
    try:
        yield
    finally:
        out(lab, "systemctl stop silence")


def test_the_time_out_holds(lab: Lab, update: Any, moved: str) -> None:
    out(lab, f"cd {FLAKE}; sed -i 's#git+file:///srv/tools#git://127.0.0.1/tools#' flake.nix; git commit -qam silent")
    before = state(lab)
    try:
        with silent_server(lab):
            for bounds, remedy in (({"timeout": 5}, "Raise timeout"), ({"fetch_timeout": 3}, "Raise fetch_timeout")):
                result = update(**bounds)
                assert result["failed"]
                # of the whole time-out, the steps before the one that hangs have had their share
                assert re.search(rf"'tools': nix took longer than [1-5] s\b.* {remedy}", result["msg"])
                assert before == state(lab)
    finally:
        out(lab, f"git -C {FLAKE} reset --quiet --hard HEAD^")
    assert state(lab) == moved


def test_twelve_systems_are_evaluated_once_each_and_their_memory_is_told(lab: Lab, update: Any, moved: str) -> None:
    """Counted in what Nix itself says, by a program in its place that keeps a copy of that."""
    # twelve hosts of one flake, each with a name of its own
    hosts = [f"host{number}" for number in range(12)]
    out(
        lab,
        f"cd {FLAKE}; jq '. as $all | reduce range(12) as $n ($all; .[\"host\\($n)\"] = .dev)' hosts.json > new;"
        "mv new hosts.json; git commit --quiet --all --message twelve",
    )
    lab.write(
        "builder",
        "/run/wrappers/bin/nix",
        '#!/bin/sh\n/run/current-system/sw/bin/nix "$@" 2> /run/said.$$; rc=$?; cat /run/said.$$ >&2; exit $rc\n',
    )
    out(lab, "chmod +x /run/wrappers/bin/nix")
    try:
        result = update(must_build={host: attribute(host) for host in hosts})
        said = out(lab, "cat /run/said.*")
    finally:
        out(lab, f"rm -f /run/wrappers/bin/nix /run/said.*; git -C {FLAKE} reset --quiet --hard {moved.split()[2]}")
    assert sorted(re.findall(r"trace: evaluating (\w+)", said)) == sorted(hosts)
    assert set(result["systems"]) == set(hosts)
    assert 10 < result["evaluation"]["peak_memory"] < 4096
    print(result["evaluation"], result["durations"])


def test_an_evaluation_that_runs_out_of_memory_is_named_and_no_other(lab: Lab, update: Any, moved: str) -> None:
    lab.fault("web", "eval-hungry")
    before = state(lab)
    result = update(eval_memory=1000)
    lab.fault("web")
    assert result["failed"]
    assert list(result["failed_systems"]) == ["web"]
    assert "out of memory, of which it may have 1000 MiB (eval_memory)" in result["msg"]
    assert before.splitlines()[0] == state(lab).splitlines()[0]


def test_a_system_that_does_not_build_can_be_left_out(lab: Lab, update: Any, moved: str) -> None:
    for fault, words in (("build-fails", "has the fault build-fails"), ("foreign-platform", "aarch64-linux")):
        lab.move()
        lab.fault("web", fault)
        result = update(build_failure="skip")
        lab.fault("web")
        assert result["changed"], result
        assert list(result["systems"]) == ["dev"]
        assert words in result["failed_systems"]["web"]
        assert result["lock_hash"] == out(lab, f"sha256sum < {FLAKE}/flake.lock").split()[0]


@pytest.fixture
def remote(lab: Lab) -> Iterator[str]:
    """A remote that the checkout follows, with somebody's commit."""
    out(
        lab,
        f"rm -rf /srv/remote /srv/theirs; git clone --quiet --bare {FLAKE} /srv/remote; cd {FLAKE};"
        "git remote add origin /srv/remote; git fetch --quiet origin; git branch --quiet --set-upstream-to=origin/main;"
        "git clone --quiet /srv/remote /srv/theirs; cd /srv/theirs; echo hello > README;"
        "git add README; git commit --quiet --message theirs; git push --quiet",
    )
    yield out(lab, "git -C /srv/theirs rev-parse HEAD")
    out(lab, f"git -C {FLAKE} remote remove origin; rm -rf /srv/remote /srv/remote.away /srv/theirs")


def test_commits_of_others_are_built_first_and_the_new_lock_is_pushed(
    lab: Lab, update: Any, moved: str, remote: str
) -> None:
    result = update(push=True)
    assert result["changed"]
    assert out(lab, f"git -C {FLAKE} rev-parse HEAD^") == remote
    assert out(lab, f"git -C {FLAKE} rev-parse HEAD") == out(lab, "git -C /srv/remote rev-parse main")
    assert out(lab, f"cat {FLAKE}/README; git -C {FLAKE} status --porcelain") == "hello"
    assert not update(push=True)["changed"]


def test_a_remote_that_is_down_is_named_within_its_time(lab: Lab, update: Any, moved: str, remote: str) -> None:
    before = state(lab)
    out(lab, "mv /srv/remote /srv/remote.away")
    result = update(pull=True)
    assert "Fetching origin for /etc/nixos" in result["msg"]
    assert "set pull and push to false" in result["msg"]
    assert state(lab) == before
    with silent_server(lab):
        out(lab, f"git -C {FLAKE} remote set-url origin git://127.0.0.1/flake")
        result = update(pull=True, fetch_timeout=3)
    assert re.search(r"git took longer than \d s. Look at the remote, or raise fetch_timeout.", result["msg"])
    assert state(lab) == before


def test_commits_are_signed_where_git_is_set_up_to(lab: Lab, update: Any, moved: str) -> None:
    key = "/root/.ssh/id_ed25519"
    config = f"git -C {FLAKE} config"
    out(lab, f"{config} gpg.format ssh; {config} user.signingKey {key}.pub; {config} commit.gpgSign true")
    try:
        assert update()["changed"]
        out(lab, f'echo "* $(cat {key}.pub)" > /run/signers; {config} gpg.ssh.allowedSignersFile /run/signers')
        # ssh-keygen may be where only Debian's own PATH has it
        out(lab, f"PATH=$PATH:/usr/bin git -C {FLAKE} verify-commit HEAD")
    finally:
        out(lab, f"for name in gpg.format user.signingKey commit.gpgSign; do {config} --unset $name; done")


def test_closures_are_signed_by_the_key_of_the_builder(lab: Lab, update: Any, moved: str) -> None:
    out(lab, "nix key generate-secret --key-name builder-1 > /root/signing-key")
    try:
        systems = update(signing_key="/root/signing-key")["systems"]
        public = out(lab, "nix key convert-secret-to-public < /root/signing-key")
        for system in systems.values():
            check = (
                f"nix store verify --recursive --no-contents --sigs-needed 1 --trusted-public-keys '{public}' {system}"
            )
            out(lab, check)
    finally:
        out(lab, "rm /root/signing-key")
    assert "no signing key /none" in update(signing_key="/none")["msg"]


@pytest.mark.parametrize("kind", ["refuses", "answers_500", "hangs"])
def test_a_substituter_that_fails_is_named_and_does_not_hold_the_build_up(
    lab: Lab, update: Any, moved: str, kind: str
) -> None:
    caches.serve(lab)
    began = time.monotonic()
    bounds = {"connect-timeout": 2, "stalled-download-timeout": 2, "download-attempts": 1}
    try:
        result = update(options={"substituters": caches.url(kind), **bounds})
    finally:
        caches.stop(lab)
    assert time.monotonic() - began < 60
    assert result["changed"]
    assert f"The substituter {caches.url(kind)} of the builder did not help" in result["warned"]


# every step of an adoption, by the git command that begins it
STEPS = ("worktree", "commit", "update-ref", "add", "merge", "update-ref -d")


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if step == "update-ref" else pytest.mark.soak) for step in STEPS]
)
def test_a_run_that_is_killed_while_it_adopts_leaves_the_old_lock_or_the_new_one(
    lab: Lab, update: Any, moved: str, step: str
) -> None:
    """The whole family of the module dies right before git does the step."""
    old, head = moved.splitlines()[:2]
    lab.write(
        "builder",
        "/run/wrappers/bin/git",
        "#!/bin/sh\n"
        f"case \"$*\" in *' {step} '*) [ ! -e /run/armed ] || {{ rm /run/armed;"
        # this program, timeout, and the module
        " kill -9 $(ps -o ppid= -p $PPID) $PPID $$; } ;; esac\n"
        'exec /run/current-system/sw/bin/git "$@"\n',
    )
    out(lab, "chmod +x /run/wrappers/bin/git; touch /run/armed")
    try:
        killed = update()
    finally:
        out(lab, "rm -f /run/wrappers/bin/git")
    assert killed["failed"]
    assert lab.read("builder", "/run/armed") is None, "it was not killed"
    between = state(lab).splitlines()[:2]

    result = update()

    assert not result["failed"], result
    lock, new_head = state(lab).splitlines()[:2]
    assert between[0] in (old, lock)
    assert between[1] in (head, new_head)
    assert lock != old
    assert out(lab, f"git -C {FLAKE} rev-parse HEAD^") == head
    assert out(lab, f"git -C {FLAKE} status --porcelain; git -C {FLAKE} for-each-ref refs/lab-auto-update") == ""
    assert out(lab, f"git -C {FLAKE} worktree list | wc -l") == "1"
