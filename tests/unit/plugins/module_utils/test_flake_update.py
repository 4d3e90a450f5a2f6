"""The life of a candidate: git is real, Nix is a stand-in that writes the lock files it is told to write."""

import fcntl
import functools
import json
import os
import re
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _flake_places, _flake_update
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._flake_update import Outcome, Request, update

WEB = 'nixosConfigurations."web".config.system.build.toplevel'
DB = 'nixosConfigurations."db".config.system.build.toplevel'


def lock_text(rev: str = "a", modified: int = 1_700_000_000, **more: str) -> str:
    inputs = {"packages": rev, **more}
    nodes: dict[str, Any] = {"root": {"inputs": {name: name for name in inputs}}}
    for name, one in inputs.items():
        locked = {"type": "git", "url": f"file:///srv/{name}", "rev": one * 40, "lastModified": modified}
        nodes[name] = {"locked": locked}
    return json.dumps({"nodes": nodes, "root": "root", "version": 7}, indent=2) + "\n"


def store(kind: str, name: str) -> str:
    return f"/nix/store/{'a' * 32}-{name}{'.drv' if kind == 'drv' else ''}"


class World:
    """A directory with a flake, and the programs that a module would find on its host."""

    def __init__(self, top: Path, subdirectory: str = "", git: bool = True) -> None:
        self.top = top / "checkout"
        self.flake = self.top / subdirectory if subdirectory else self.top
        self.flake.mkdir(parents=True)
        self.roots = top / "roots"
        self.lock = self.flake / "flake.lock"
        self.lock.write_text(lock_text())
        (self.flake / "flake.nix").write_text("{ }\n")
        self.home = top / "home"
        self.home.mkdir()
        self.new_lock = lock_text("b")
        self.update_stderr = ""
        self.update_rc = 0
        self.build_rc = 0
        self.build_stderr = ""
        # attributes that share a derivation, and those that do not evaluate
        self.derivations = {WEB: "web", DB: "db"}
        self.broken: set[str] = set()
        self.requisites: dict[str, list[str]] = {}
        self.calls: list[list[str]] = []
        self.while_building: Callable[[], object] = lambda: None
        if git:
            self.git("init", "--quiet", "--initial-branch=main")
            self.git("config", "user.name", "Test")
            self.git("config", "user.email", "test@example.org")
            self.commit("first")

    # ---- for the tests
    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.top), *words], capture_output=True, text=True, check=True, env=self._env()
        )
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def hook(self, name: str, script: str) -> None:
        path = self.top / ".git/hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def update(self, **more: Any) -> Outcome:
        settings: dict[str, Any] = {"path": str(self.flake), "gc_roots": str(self.roots), "must_build": {"web": WEB}}
        return update(self.run, Request(**{**settings, **more}))

    def untouched(self, head: str) -> bool:
        return self.lock.read_text() == lock_text() and self.head() == head and self.clean()

    def clean(self) -> bool:
        """Nothing of ours is left but an empty directory."""
        ours = self.top / ".git/lab-auto-update"
        return (
            self.git("worktree", "list", "--porcelain").count("worktree ") == 1
            and list(ours.iterdir()) == []
            and self.git("for-each-ref", "refs/lab-auto-update") == ""
            and self.git("status", "--porcelain") == ""
        )

    # ---- for the module
    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        data: str | None = None,
    ) -> Completed:
        self.calls.append(list(argv))
        words = [word for word in argv if word not in ("--extra-experimental-features", "nix-command flakes")]
        if argv[0] == "git":
            done = subprocess.run(argv, capture_output=True, text=True, env=self._env() | dict(env or {}), check=False)
            return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)
        if words[:3] == ["nix", "flake", "update"]:
            if self.update_rc == 0:
                (self._directory(words[words.index("--flake") + 1]) / "flake.lock").write_text(self.new_lock)
            return Completed(tuple(argv), self.update_rc, "", self.update_stderr)
        installables = words[words.index("--") + 1 :] if "--" in words else []
        attributes = [unquote(one.partition("#")[2]) for one in installables]
        if words[:2] == ["nix", "build"]:
            self.while_building()
            names = [self.derivations[one] for one in attributes if one not in self.broken]
            if self.build_rc or self.broken & set(attributes):
                return Completed(tuple(argv), self.build_rc or 1, "", self.build_stderr)
            entries = [{"drvPath": store("drv", one), "outputs": {"out": store("out", one)}} for one in names]
            # as Nix 2.26 does it
            repeated = [entry for entry, one in zip(entries, names, strict=True) for _ in range(names.count(one))]
            return Completed(tuple(argv), 0, json.dumps(repeated), "")
        if words[:2] == ["nix", "path-info"]:
            if attributes[0] in self.broken:
                return Completed(tuple(argv), 1, "", "error:\n  … while calling\n\n  error: attribute 'x' missing\n")
            return Completed(tuple(argv), 0, store("drv", self.derivations[attributes[0]]) + "\n", "")
        if words[:2] == ["nix-store", "--query"]:
            return Completed(tuple(argv), 0, "\n".join([words[-1], *self.requisites.get(words[-1], [])]), "")
        if words[:2] == ["nix-store", "--realise"]:
            link = Path(words[-1])
            link.unlink(missing_ok=True)
            link.symlink_to(words[2])
            return Completed(tuple(argv), 0, "", "")
        raise AssertionError(f"nobody expected {argv}")

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1"}

    @staticmethod
    def _directory(flake: str) -> Path:
        path, _, query = re.sub(r"^(git\+file://|path:)", "", flake).partition("?")
        subdirectory = re.search(r"dir=([^&]*)", query)
        return Path(unquote(path)) / (unquote(subdirectory[1]) if subdirectory else "")


@pytest.fixture(params=["", "sub dir"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    return World(tmp_path, request.param)


@pytest.fixture
def plain(tmp_path: Path) -> World:
    return World(tmp_path, git=False)


# ---- in git


def test_a_new_lock_is_built_as_a_commit_and_adopted_by_fast_forward(world: World) -> None:
    before = world.head()
    inode = os.stat(world.lock).st_ino

    outcome = world.update(must_build={"web": WEB, "db": DB})

    assert outcome.changed
    assert outcome.commit == world.head() != before
    assert world.git("rev-parse", "HEAD^") == before
    assert world.git("symbolic-ref", "--short", "HEAD") == "main"
    assert world.git("show", "--format=", "--name-only", "HEAD") == os.path.relpath(world.lock, world.top)
    assert world.lock.read_text() == world.new_lock
    assert os.stat(world.lock).st_ino != inode, "it has to be replaced, not rewritten"
    assert outcome.systems == {"web": store("out", "web"), "db": store("out", "db")}
    assert os.readlink(world.roots / "web") == store("out", "web")
    assert [change.path for change in outcome.changes] == ["packages"]
    assert "packages  2023-11-14 bbbbbbb" in world.git("show", "--no-patch", "--format=%b")
    assert (
        outcome.lock_hash == subprocess.run(["sha256sum", world.lock], capture_output=True).stdout.decode().split()[0]
    )
    assert world.clean()


def test_the_candidate_is_built_before_anything_is_adopted(world: World) -> None:
    seen = []

    def look() -> None:
        seen.append((world.lock.read_text(), world.git("status", "--porcelain")))

    world.while_building = look
    world.update()
    assert seen == [(lock_text(), "")]


def test_a_second_run_changes_nothing(world: World) -> None:
    world.update()
    head = world.head()

    outcome = world.update()

    assert not outcome.changed
    assert outcome.commit is None
    assert outcome.changes == ()
    assert outcome.systems == {"web": store("out", "web")}
    assert world.head() == head
    assert world.clean()


def test_check_mode_says_the_same_and_adopts_nothing(world: World) -> None:
    head = world.head()
    checked = world.update(check_mode=True)
    assert world.untouched(head)

    real = world.update()

    assert checked.commit is None
    assert (checked.changed, checked.changes, checked.systems, checked.lock_hash) == (
        real.changed,
        real.changes,
        real.systems,
        real.lock_hash,
    )


def test_without_update_the_locked_systems_are_built(world: World) -> None:
    outcome = world.update(update=False)
    assert not outcome.changed
    assert outcome.systems == {"web": store("out", "web")}
    assert not any("update" in call for call in world.calls if call[0] == "nix")


def test_without_commit_the_new_lock_stays_uncommitted_and_the_next_run_says_what_to_do(world: World) -> None:
    head = world.head()
    outcome = world.update(commit=False)

    assert outcome.changed
    assert outcome.commit is None
    assert world.head() == head
    assert world.lock.read_text() == world.new_lock
    with pytest.raises(LabError, match=r"uncommitted changes.*Commit it, or throw .* git -C"):
        world.update()
    assert world.lock.read_text() == world.new_lock


def test_uncommitted_edits_are_never_built(world: World) -> None:
    (world.flake / "flake.nix").write_text("{ broken")

    def look() -> None:
        (worktree,) = (world.top / ".git/lab-auto-update").glob("*/worktree")
        assert (worktree / os.path.relpath(world.flake, world.top) / "flake.nix").read_text() == "{ }\n"

    world.while_building = look
    outcome = world.update()
    assert len(outcome.warnings) == 1
    assert "uncommitted changes in 1 file; only what is committed is built" in outcome.warnings[0]
    assert (world.flake / "flake.nix").read_text() == "{ broken"


def test_names_cannot_become_options(world: World) -> None:
    for settings in (
        {"inputs": ["--flake"]},
        {"must_build": {"web": "--expr"}},
        {"must_build": {"../web": WEB}},
        {"must_build": {"web": "a#b"}},
    ):
        with pytest.raises(LabError):
            world.update(**settings)
    assert world.calls == []


def test_every_installable_and_input_stands_behind_the_end_of_options(world: World) -> None:
    world.update(inputs=["packages"], options={"cores": 1})
    update_call, build_call = (call for call in world.calls if call[0] == "nix")
    assert update_call[-2:] == ["--", "packages"]
    assert build_call[-2] == "--"
    assert "--no-update-lock-file" in build_call
    assert build_call[4:7] == ["--option", "cores", "1"]


def test_an_unknown_input_is_an_error_that_names_the_known_ones(world: World) -> None:
    head = world.head()
    world.new_lock = lock_text()
    world.update_stderr = "warning: 'nope' does not match any input of this flake\n"
    for stderr in (world.update_stderr, ""):
        world.update_stderr = stderr
        with pytest.raises(LabError, match=r"no input 'nope'\. Its inputs are packages\."):
            world.update(inputs=["nope"])
        assert world.untouched(head)


def test_an_input_that_cannot_be_fetched_is_named_with_the_words_of_nix(world: World) -> None:
    head = world.head()
    world.update_rc = 1
    world.update_stderr = (
        "error:\n       … while updating the flake input 'packages'\n\n       error: opening '/srv/packages': refused\n"
    )
    with pytest.raises(
        CommandFailed, match=r"Updating the input 'packages': .*error: opening '/srv/packages': refused"
    ):
        world.update()
    assert world.untouched(head)


def test_an_older_copy_of_an_input_is_not_good_enough(world: World) -> None:
    head = world.head()
    world.update_stderr = "warning: could not update local clone of 'x'; continuing with the most recent version\n"
    with pytest.raises(LabError, match="older copy"):
        world.update()
    assert world.untouched(head)


def test_a_system_that_does_not_evaluate_is_named(world: World) -> None:
    head = world.head()
    world.broken = {DB}
    world.build_stderr = "error: attribute 'x' missing\n"
    with pytest.raises(CommandFailed, match=r"system of 'db' did not build: .*attribute 'x' missing") as failure:
        world.update(must_build={"web": WEB, "db": DB})
    assert failure.value.data["failed_systems"] == ["db"]
    assert world.untouched(head)


def test_a_system_whose_dependency_does_not_build_is_named(world: World) -> None:
    head = world.head()
    world.build_rc = 1
    world.build_stderr = f"error: Cannot build '{store('drv', 'nginx')}'.\n       Last 1 log lines:\n       > boom\n"
    world.requisites = {store("drv", "web"): [store("drv", "nginx")]}
    with pytest.raises(CommandFailed, match=r"system of 'web' did not build: .*nginx.*boom") as failure:
        world.update(must_build={"web": WEB, "db": DB})
    assert failure.value.data["failed_systems"] == ["web"]
    assert world.untouched(head)


def test_systems_that_are_the_same_do_not_mix_up_the_others(world: World) -> None:
    other = WEB.replace("web", "web2")
    world.derivations[other] = "web"
    systems = world.update(must_build={"db": DB, "web": WEB, "web2": other, "again": DB}).systems
    assert systems == {
        "db": store("out", "db"),
        "web": store("out", "web"),
        "web2": store("out", "web"),
        "again": store("out", "db"),
    }


def test_inputs_do_not_go_back_in_time_unless_that_is_wanted(world: World) -> None:
    head = world.head()
    world.new_lock = lock_text("b", modified=1_600_000_000)
    with pytest.raises(LabError, match=r"back in time: 'packages' from 2023-11-14 to 2020-09-13"):
        world.update()
    assert world.untouched(head)
    assert world.update(allow_downgrade=True).changed


def test_what_a_person_should_look_at_is_a_warning_and_stops_nothing(world: World) -> None:
    world.lock.write_text(lock_text(tools="c"))
    world.commit("more inputs")
    world.new_lock = lock_text("b")
    outcome = world.update()
    assert outcome.warnings == ("The input 'tools' is gone.",)
    assert world.lock.read_text() == world.new_lock


def test_an_update_of_some_inputs_warns_of_others_that_moved(world: World) -> None:
    world.lock.write_text(lock_text(tools="c"))
    world.commit("more inputs")
    world.new_lock = lock_text("b", tools="d")
    (words,) = world.update(inputs=["packages"]).warnings
    assert words == "The input 'tools' moved, although only 'packages' was to be updated."


def test_the_commit_says_what_moved_and_links_to_it(world: World) -> None:
    def at_github(rev: str) -> str:
        github = {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": rev * 40, "lastModified": 1_700_000_000}
        nodes = {"root": {"inputs": {"nixpkgs": "nixpkgs"}}, "nixpkgs": {"locked": github}}
        return json.dumps({"nodes": nodes, "root": "root", "version": 7})

    world.lock.write_text(at_github("a"))
    world.commit("another input")
    world.new_lock = at_github("b")
    (change,) = world.update().changes
    assert world.git("show", "--no-patch", "--format=%B").splitlines() == [
        "flake.lock: update",
        "",
        "- nixpkgs  2023-11-14 aaaaaaa  github:NixOS/nixpkgs",
        "+ nixpkgs  2023-11-14 bbbbbbb  github:NixOS/nixpkgs",
        f"  https://github.com/NixOS/nixpkgs/compare/{'a' * 40}...{'b' * 40}",
    ]
    assert change.compare == world.git("show", "--no-patch", "--format=%B").split()[-1]


def test_old_inputs_are_a_warning(world: World) -> None:
    (words,) = world.update(max_age=30).warnings
    assert re.search(r"'packages' is \d+ days old", words)


def test_a_hook_that_refuses_is_named(world: World) -> None:
    head = world.head()
    world.hook("commit-msg", "echo 'no such ticket' >&2; exit 1")
    world.hook("pre-commit", "exit 0")
    with pytest.raises(LabError, match=r"hook commit-msg refused .*no such ticket"):
        world.update()
    assert world.untouched(head)


@pytest.mark.parametrize(
    ("hook", "script"),
    [
        ("post-commit", "echo more > more"),
        ("pre-commit", "echo more > more; git add more"),
        ("pre-commit", 'find . -name flake.lock -exec sh -c "echo >> {}" ";" -exec git add {} ";"'),
        ("post-commit", 'find . -name flake.nix -exec sh -c "echo >> {}" ";"'),
    ],
)
def test_a_hook_that_changes_more_than_the_lock_is_refused(world: World, hook: str, script: str) -> None:
    head = world.head()
    world.hook(hook, script)
    with pytest.raises(LabError, match="hook changed files"):
        world.update()
    assert world.untouched(head)


def test_a_committer_without_a_name_gets_the_remedy(world: World) -> None:
    head = world.head()
    world.git("config", "--unset", "user.email")
    world.git("config", "user.useConfigOnly", "true")
    with pytest.raises(LabError, match=r"git config user\.name NAME"):
        world.update()
    assert world.untouched(head)


@pytest.mark.parametrize("torn", ["", "{", '{"version": 6, "root": "root", "nodes": {"root": {}}}'])
def test_a_torn_lock_stops_the_run_with_the_remedy(world: World, torn: str) -> None:
    world.lock.write_text(torn)
    with pytest.raises(LabError, match=r"flake\.lock.*Restore it: git -C"):
        world.update()
    assert world.lock.read_text() == torn


def test_a_flake_that_git_does_not_know_is_refused(world: World) -> None:
    world.git("rm", "--quiet", "--cached", os.path.relpath(world.flake / "flake.nix", world.top))
    world.git("commit", "--quiet", "--message", "forgotten")
    with pytest.raises(LabError, match="not committed"):
        world.update()


def test_a_lock_that_git_does_not_know_is_refused(world: World) -> None:
    world.git("rm", "--quiet", "--cached", os.path.relpath(world.lock, world.top))
    world.git("commit", "--quiet", "--message", "forgotten")
    with pytest.raises(LabError, match="is not committed"):
        world.update()
    assert world.lock.read_text() == lock_text()


def test_the_first_lock_of_a_flake_is_committed_too(world: World) -> None:
    world.git("rm", "--quiet", os.path.relpath(world.lock, world.top))
    world.git("commit", "--quiet", "--message", "none yet")
    outcome = world.update()
    assert outcome.commit == world.head()
    assert world.lock.read_text() == world.new_lock
    (change,) = outcome.changes
    assert change.before is None
    assert world.clean()


def test_a_checkout_without_a_commit_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, git=False)
    world.git("init", "--quiet")
    with pytest.raises(LabError, match="no commit yet"):
        world.update()


def test_one_flake_has_one_update_at_a_time_and_the_next_waits_for_its_turn(world: World) -> None:
    ours = world.top / ".git/lab-auto-update"
    ours.mkdir()
    handle = os.open(ours, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    turn = threading.Timer(1, os.close, [handle])
    with pytest.raises(LabError, match=r"Another update of the flake in .* did not end within 0\.2 s"):
        world.update(timeout=0.2)
    turn.start()
    assert world.update().changed


def test_a_commit_of_somebody_else_in_between_is_kept(world: World) -> None:
    def interfere() -> None:
        (world.top / "other").write_text("x")
        world.commit("somebody else")

    world.while_building = interfere
    with pytest.raises(LabError, match="Somebody committed"):
        world.update()
    assert world.lock.read_text() == lock_text()
    assert world.git("log", "-1", "--format=%s") == "somebody else"
    assert world.clean()


def test_a_lock_that_somebody_edits_in_between_is_kept(world: World) -> None:
    world.while_building = lambda: world.lock.write_text(lock_text("f"))
    with pytest.raises(LabError, match="uncommitted changes"):
        world.update()
    assert world.lock.read_text() == lock_text("f")


def test_an_adoption_that_git_refuses_is_taken_back(world: World) -> None:
    head = world.head()
    world.while_building = lambda: (world.top / ".git/index.lock").touch()
    with pytest.raises(LabError, match=r"Adopting the new flake\.lock: .*index\.lock"):
        world.update()
    (world.top / ".git/index.lock").unlink()
    assert world.untouched(head)


def test_a_time_out_is_over_when_it_is_over(world: World) -> None:
    head = world.head()
    with pytest.raises(LabError, match="time-out"):
        world.update(timeout=0)
    assert world.untouched(head)


def test_the_new_lock_is_on_disk_before_it_has_the_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def note(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def noted(*args: Any) -> Any:
            what = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else args[1]
            order.append((name, os.path.basename(what)))
            return real(*args)

        return noted

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, note(name))
    world.update()
    directory = os.path.basename(world.flake)
    assert order == [("fsync", ".flake.lock.lab-auto-update"), ("replace", "flake.lock"), ("fsync", directory)]


def test_the_mode_of_the_lock_is_kept(world: World) -> None:
    world.lock.chmod(0o600)
    world.update()
    assert stat.S_IMODE(world.lock.stat().st_mode) == 0o600


def test_the_worktrees_of_others_are_left_alone(world: World, tmp_path: Path) -> None:
    world.git("worktree", "add", "--quiet", str(tmp_path / "theirs"))
    (tmp_path / "theirs").rename(tmp_path / "unplugged")
    world.update()
    assert str(tmp_path / "theirs") in world.git("worktree", "list", "--porcelain")


def test_a_run_that_is_killed_anywhere_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    """Every moment between two effects is a place to die, and from each the next run gets through on its own."""
    steps = 0
    while True:
        directory = tmp_path / str(steps)
        directory.mkdir()
        world = World(directory)
        old = world.head()
        died = in_child(functools.partial(die_at, world, steps))
        assert world.lock.read_text() in (lock_text(), world.new_lock), f"torn when killed at step {steps}"
        committed = world.git("show", "HEAD:flake.lock") + "\n"
        assert world.head() == old or committed == world.new_lock, f"wrong branch when killed at step {steps}"

        outcome = world.update()

        assert world.lock.read_text() == world.new_lock, f"not adopted after a kill at step {steps}"
        assert world.git("rev-parse", "HEAD^") == old, f"not one commit after a kill at step {steps}"
        assert outcome.systems == {"web": store("out", "web")}
        assert world.clean(), f"left something after a kill at step {steps}"
        if not died:
            break
        steps += 1
    assert steps > 20


def die_at(world: World, step: int) -> None:
    """Run an update whose process is gone before its effect number C(step)."""
    count = 0

    def effect(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            nonlocal count
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return real(*args, **more)

        return counted

    world.run = effect(world.run)  # type: ignore[method-assign]
    for name in ("replace", "fsync", "utime", "unlink"):
        setattr(os, name, effect(getattr(os, name)))
    world.update()


def in_child(function: Callable[[], None]) -> bool:
    """Run a function in a process of its own; say whether that was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_check_mode_does_not_finish_what_a_killed_run_began(world: World) -> None:
    world.git("update-ref", "refs/lab-auto-update/adopting", "HEAD")
    with pytest.raises(LabError, match="next run without check mode"):
        world.update(check_mode=True)


# ---- outside git


def test_a_plain_directory_is_updated_by_one_rename(plain: World) -> None:
    (plain.flake / "result").symlink_to("/nix/store/nowhere")
    inode = os.stat(plain.lock).st_ino

    outcome = plain.update()

    assert outcome.changed
    assert outcome.commit is None
    assert plain.lock.read_text() == plain.new_lock
    assert os.stat(plain.lock).st_ino != inode
    assert sorted(os.listdir(plain.flake)) == ["flake.lock", "flake.nix", "result"]
    assert not any(call[0] == "git" for call in plain.calls)


def test_a_plain_directory_keeps_its_lock_when_the_systems_do_not_build(plain: World) -> None:
    plain.build_rc = 1
    with pytest.raises(CommandFailed):
        plain.update()
    assert plain.lock.read_text() == lock_text()
    assert sorted(os.listdir(plain.flake)) == ["flake.lock", "flake.nix"]


def test_a_plain_directory_is_left_alone_in_check_mode(plain: World) -> None:
    assert plain.update(check_mode=True).changed
    assert plain.lock.read_text() == lock_text()


def test_a_plain_directory_that_somebody_changes_in_between_is_kept(plain: World) -> None:
    plain.while_building = lambda: plain.lock.write_text(lock_text("f"))
    with pytest.raises(LabError, match="changed by somebody else"):
        plain.update()
    assert plain.lock.read_text() == lock_text("f")


def test_what_a_killed_run_left_in_a_plain_directory_goes(plain: World) -> None:
    (plain.flake / ".flake.lock.lab-auto-update").write_text("half")
    plain.update()
    assert sorted(os.listdir(plain.flake)) == ["flake.lock", "flake.nix"]


def test_a_torn_lock_in_a_plain_directory_is_refused(plain: World) -> None:
    plain.lock.write_text("{")
    with pytest.raises(LabError, match="torn"):
        plain.update()


def test_a_directory_without_a_flake_is_refused(plain: World, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no flake\.nix"):
        plain.update(path=str(tmp_path))
    with pytest.raises(LabError, match="no directory"):
        plain.update(path=str(tmp_path / "none"))


def test_the_trace_of_git_names_the_hook() -> None:
    trace = "\n".join(
        json.dumps(event)
        for event in (
            {"event": "child_start", "sid": "1", "child_id": 0, "child_class": "hook", "hook_name": "pre-commit"},
            {"event": "child_exit", "sid": "1/2", "child_id": 0, "code": 1},
            {"event": "child_exit", "sid": "1", "child_id": 0, "code": 0},
            {"event": "child_start", "sid": "1", "child_id": 1, "child_class": "editor"},
            {"event": "child_exit", "sid": "1", "child_id": 1, "code": 1},
            {"event": "child_start", "sid": "1", "child_id": 2, "child_class": "hook", "hook_name": "commit-msg"},
            {"event": "child_exit", "sid": "1", "child_id": 2, "code": 3},
        )
    )
    assert _flake_places.refusing_hook(trace + "\nnot json\n[]") == "commit-msg"
    assert _flake_places.refusing_hook("") is None


def test_a_result_is_plain_data(world: World) -> None:
    assert isinstance(json.dumps(world.update().as_result()), str)
    assert _flake_update.Request(path="/x").gc_roots == "/nix/var/nix/gcroots/lab-auto-update/builder"
