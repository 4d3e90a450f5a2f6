"""The life of a candidate: git is real, Nix is a stand-in that writes the lock files it is told to write."""

import fcntl
import functools
import json
import os
import re
import shutil
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
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
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
        self.update_fails = "packages"
        # whether Nix moves other inputs than those it was asked to, as it does where flake.nix has changed
        self.moves_more = False
        self.build_stderr = ""
        # attributes that share a derivation, those that do not evaluate, with which inputs, and what does not build
        self.derivations = {WEB: "web", DB: "db"}
        self.broken: set[str] = set()
        self.spoilt: dict[str, str] = {}
        # and which attributes these spoil; all, if none are named
        self.spoils: set[str] = set()
        self.unbuildable: set[str] = set()
        # Nix 2.26 gives up the others when one derivation is for another platform
        self.foreign: set[str] = set()
        self.built: set[str] = set()
        self.requisites: dict[str, list[str]] = {}
        self.evaluated: list[str] = []
        self.starving = 0
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

    def untouched_but_for_the_worktree(self, head: str) -> bool:
        return (self.lock.read_text(), self.head(), self.git("status", "--porcelain")) == (lock_text(), head, "")

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
            asked = words[words.index("--") + 1 :]
            if self.update_rc and (not asked or asked == [self.update_fails]):
                return Completed(tuple(argv), self.update_rc, "", self.update_stderr)
            lock = self._directory(words[words.index("--flake") + 1]) / "flake.lock"
            if asked and lock.exists() and not self.moves_more:
                old, new = json.loads(lock.read_text()), json.loads(self.new_lock)
                old["nodes"] |= {name: new["nodes"][name] for name in asked if name in new["nodes"]}
                lock.write_text(json.dumps(old, indent=2) + "\n")
            else:
                lock.write_text(self.new_lock)
            return Completed(tuple(argv), 0, "", self.update_stderr)
        wanted = words[words.index("--") + 1 :] if "--" in words else []
        if words[0] == "prlimit" and words[2:4] == ["nix", "path-info"] and "--derivation" in words:
            flake, _, attribute = wanted[0].partition("#")
            self.evaluated.append(unquote(attribute))
            if words[1] == f"--as={self.starving << 20}":
                return Completed(
                    tuple(argv), 1, "", "GC Warning: Failed to expand heap by 512 KiB\nerror: out of memory\n"
                )
            text = (self._directory(flake) / "flake.lock").read_text()
            spoilt = [name for name, rev in self.spoilt.items() if f'"{rev * 40}"' in text]
            if self.spoils and unquote(attribute) not in self.spoils:
                spoilt = []
            if unquote(attribute) in self.broken or spoilt:
                missing = spoilt[0] if spoilt else "x"
                words_of_nix = f"error:\n  … while calling\n\n  error: attribute '{missing}' missing\n"
                return Completed(tuple(argv), 1, "", words_of_nix)
            return Completed(tuple(argv), 0, store("drv", self.derivations[unquote(attribute)]) + "\n", "")
        if words[:2] == ["nix", "build"] and "--keep-going" not in words:
            return Completed(tuple(argv), 0, "", "")
        if words[:2] == ["nix", "build"]:
            self.while_building()
            names = [re.sub(r".*/[a]{32}-|\.drv\^out$", "", one) for one in wanted]
            if not self.foreign & set(names):
                self.built |= {one for one in names if one not in self.unbuildable}
            bad = (self.unbuildable | self.foreign) & set(names)
            return Completed(tuple(argv), 1 if bad else 0, "", self.build_stderr if bad else "")
        if words[:2] == ["nix", "path-info"]:
            name = re.sub(r".*/[a]{32}-|\.drv\^out$", "", wanted[0])
            rc = 0 if name in self.built else 1
            return Completed(tuple(argv), rc, "" if rc else store("out", name) + "\n", "")
        if words[:2] == ["nix-store", "--query"]:
            return Completed(tuple(argv), 0, "\n".join([words[-1], *self.requisites.get(words[-1], [])]), "")
        if words[:2] == ["nix-store", "--realise"]:
            link = Path(words[-1])
            link.unlink(missing_ok=True)
            link.symlink_to(words[2])
            return Completed(tuple(argv), 0, "", "")
        if words[:3] == ["nix", "store", "sign"]:
            return Completed(tuple(argv), 0, "", "")
        raise AssertionError(f"nobody expected {argv}")

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1"}

    @staticmethod
    def _directory(flake: str) -> Path:
        path, _, query = re.sub(r"^(git\+file://|path:)", "", flake).partition("?")
        subdirectory = re.search(r"dir=([^&]*)", query)
        return Path(unquote(path)) / (unquote(subdirectory[1]) if subdirectory else "")


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """A flake in a directory of its checkout, the harder case; where a test asks for it, at the top, as on the lab."""
    return World(tmp_path, getattr(request, "param", "sub dir"))


both_places = pytest.mark.parametrize("world", ["", "sub dir"], indirect=True)


@pytest.fixture
def plain(tmp_path: Path) -> World:
    return World(tmp_path, git=False)


# ---- in git


@both_places
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


@both_places
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
    calls = [call[call.index("nix") :] for call in world.calls if "nix" in call]
    update_call, eval_call, _roots, build_call, _asked = calls
    assert update_call[-2:] == ["--", "packages"]
    for call in (eval_call, build_call):
        assert call[-2] == "--"
        assert call[call.index("cores") - 1 : call.index("cores") + 2] == ["--option", "cores", "1"]
        # nobody waits for a substituter for ever
        assert "stalled-download-timeout" in call
    assert eval_call[-1].endswith(f"#{WEB}")
    assert build_call[-1] == f"{store('drv', 'web')}^out"


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
    with pytest.raises(LabError, match=r"Updating the input 'packages': .*error: opening '/srv/packages': refused"):
        world.update()
    assert world.untouched(head)


def test_an_older_copy_of_an_input_is_not_good_enough(world: World) -> None:
    head = world.head()
    world.update_stderr = "warning: could not update local clone of 'x'; continuing with the most recent version\n"
    with pytest.raises(LabError, match="older copy"):
        world.update()
    assert world.untouched(head)


def test_a_system_that_does_not_evaluate_is_named_with_the_input_that_moved(world: World) -> None:
    head = world.head()
    world.broken = {DB}
    with pytest.raises(LabError) as failure:
        world.update(must_build={"web": WEB, "db": DB})
    words = "With the new 'packages', the system of 'db' did not evaluate: error: attribute 'x' missing."
    assert str(failure.value) == words
    assert failure.value.data["failed_systems"] == {"db": "Its system did not evaluate: error: attribute 'x' missing."}
    assert world.untouched(head)


def test_a_system_whose_dependency_does_not_build_is_named(world: World) -> None:
    head = world.head()
    world.unbuildable = {"web"}
    world.build_stderr = (
        f"error: Cannot build '{store('drv', 'nginx')}'.\n       Reason: builder failed with exit code 1.\n"
        "       Last 1 log lines:\n       > boom\n"
        f"error: Cannot build '{store('drv', 'web')}'.\n       Reason: 1 dependency failed.\n"
    )
    world.requisites = {store("drv", "web"): [store("drv", "nginx")]}
    with pytest.raises(LabError, match=r"system of 'web' did not build: .*nginx.*exit code 1.*boom") as failure:
        world.update(must_build={"web": WEB, "db": DB})
    assert list(failure.value.data["failed_systems"]) == ["web"]  # type: ignore[call-overload]
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


def test_every_system_is_evaluated_exactly_once(world: World) -> None:
    attributes = {f"host{number}": f"nixosConfigurations.host{number}" for number in range(12)}
    world.derivations |= {attribute: name for name, attribute in attributes.items()}
    world.update(must_build={**attributes, "again": attributes["host0"]})
    assert sorted(world.evaluated) == sorted(attributes.values())


def test_an_evaluation_that_wants_more_memory_than_it_may_have_is_named(world: World) -> None:
    head = world.head()
    world.starving = 300
    with pytest.raises(
        LabError, match=r"'web' did not evaluate: its evaluation ran out of memory, .* 300 MiB .*Raise eval_memory"
    ):
        world.update(eval_memory=300)
    assert world.untouched(head)
    with pytest.raises(LabError, match="eval_memory is 100"):
        world.update(eval_memory=100)


def test_a_host_whose_system_is_not_there_is_skipped_where_that_is_wanted(world: World) -> None:
    world.broken = {DB}
    outcome = world.update(must_build={"web": WEB, "db": DB}, build_failure="skip")
    assert outcome.systems == {"web": store("out", "web")}
    assert outcome.failed_systems == {"db": "Its system did not evaluate: error: attribute 'x' missing."}
    assert world.lock.read_text() == world.new_lock
    assert [path.name for path in world.roots.iterdir()] == ["web"]


def test_nothing_is_adopted_where_no_system_is_left(world: World) -> None:
    head = world.head()
    world.broken = {WEB, DB}
    with pytest.raises(LabError, match="systems of 'web' and 'db' did not evaluate"):
        world.update(must_build={"web": WEB, "db": DB}, build_failure="skip")
    assert world.untouched(head)


def test_a_host_of_another_platform_does_not_take_the_others_with_it(world: World) -> None:
    world.foreign = {"db"}
    foreign = (
        f"a 'aarch64-linux' with features {{}} is required to build '{store('drv', 'db')}', but I am a 'x86_64-linux'"
    )
    world.build_stderr = f"error: {foreign} with features {{}}\n"
    outcome = world.update(must_build={"web": WEB, "db": DB}, build_failure="skip")
    assert outcome.systems == {"web": store("out", "web")}
    assert "aarch64-linux" in outcome.failed_systems["db"]
    assert "boot.binfmt.emulatedSystems" in outcome.failed_systems["db"]


# ---- input by input


def three_inputs(world: World) -> str:
    """An update of three inputs."""
    world.lock.write_text(lock_text("a", services="a", tools="a"))
    world.commit("three inputs")
    world.new_lock = lock_text("b", services="c", tools="d")
    return world.head()


def revisions(world: World) -> dict[str, str]:
    nodes = json.loads(world.lock.read_text())["nodes"]
    return {name: node["locked"]["rev"][0] for name, node in nodes.items() if name != "root"}


@pytest.mark.parametrize("bad", ["packages", "services", "tools"])
def test_of_three_inputs_the_bad_one_is_left_alone_and_named(world: World, bad: str) -> None:
    head = three_inputs(world)
    new = {"packages": "b", "services": "c", "tools": "d"}
    world.spoilt = {bad: new[bad]}
    outcome = world.update(fallback="per_input")
    assert revisions(world) == {**new, bad: "a"}
    assert list(outcome.rejected_inputs) == [bad]
    words = f"With the new '{bad}', the system of 'web' did not evaluate: error: attribute '{bad}' missing."
    assert words == outcome.rejected_inputs[bad].replace("'packages' and ", "").replace("'services' and ", "")
    assert {change.path for change in outcome.changes} == new.keys() - {bad}
    assert world.git("rev-parse", "HEAD^") == head
    # the whole, and each input, but for what is the whole once more
    assert len(world.evaluated) <= 4
    assert world.clean()


def test_an_input_that_cannot_be_fetched_is_left_alone_too(world: World) -> None:
    three_inputs(world)
    world.update_rc = 1
    world.update_stderr = "error:\n  … while updating the flake input 'packages'\n\n  error: refused\n"
    outcome = world.update(fallback="per_input")
    assert revisions(world) == {"packages": "a", "services": "c", "tools": "d"}
    assert "Updating the input 'packages'" in outcome.rejected_inputs["packages"]


def test_where_every_input_is_bad_it_is_as_without_the_fallback(world: World) -> None:
    head = three_inputs(world)
    old = world.lock.read_text()
    world.spoilt = {"packages": "b", "services": "c", "tools": "d"}
    words = r"did not evaluate: .*No set of fewer inputs can be adopted either\."
    with pytest.raises(LabError, match=words) as failure:
        world.update(fallback="per_input")
    assert list(failure.value.data["rejected_inputs"]) == ["packages", "services", "tools"]  # type: ignore[call-overload]
    assert (world.lock.read_text(), world.head()) == (old, head)
    # the whole, and one more for each input
    assert len(world.evaluated) == 4
    assert world.clean()


def test_a_source_that_is_down_is_no_night_without_news(world: World) -> None:
    world.update_rc = 1
    world.update_stderr = "error:\n  … while updating the flake input 'packages'\n\n  error: refused\n"
    with pytest.raises(LabError, match="Updating the input 'packages'"):
        world.update(fallback="per_input")


def test_inputs_that_are_up_to_date_are_no_reason_to_stop_for_one_that_is_bad(world: World) -> None:
    head = three_inputs(world)
    world.new_lock = lock_text("a", services="c", tools="a")
    world.spoilt = {"services": "c"}
    outcome = world.update(fallback="per_input")
    assert not outcome.changed
    assert outcome.systems == {"web": store("out", "web")}
    assert list(outcome.rejected_inputs) == ["services"]
    assert "The input 'services' was left alone: With the new 'services'" in outcome.warnings[0]
    assert world.head() == head


def test_a_host_that_never_builds_is_skipped_with_the_whole_update(world: World) -> None:
    three_inputs(world)
    world.broken = {DB}
    more = {"must_build": {"web": WEB, "db": DB}, "fallback": "per_input", "build_failure": "skip"}
    outcome = world.update(**more)
    assert world.lock.read_text() == world.new_lock
    assert (list(outcome.systems), list(outcome.failed_systems), outcome.rejected_inputs) == (["web"], ["db"], {})


def test_a_host_that_never_builds_does_not_keep_a_bad_input_from_being_found(world: World) -> None:
    three_inputs(world)
    nas = WEB.replace("web", "nas")
    world.derivations[nas] = "nas"
    world.broken = {DB}
    world.spoilt, world.spoils = {"services": "c"}, {WEB}
    builds = {"web": WEB, "db": DB, "nas": nas}
    outcome = world.update(must_build=builds, fallback="per_input", build_failure="skip")
    assert revisions(world) == {"packages": "b", "services": "a", "tools": "d"}
    assert (list(outcome.systems), list(outcome.failed_systems)) == (["web", "nas"], ["db"])
    assert list(outcome.rejected_inputs) == ["services"]


def test_a_plain_directory_is_updated_input_by_input_too(plain: World) -> None:
    plain.lock.write_text(lock_text("a", tools="a"))
    plain.new_lock = lock_text("b", tools="c")
    plain.spoilt = {"packages": "b"}
    assert list(plain.update(fallback="per_input").rejected_inputs) == ["packages"]
    assert revisions(plain) == {"packages": "a", "tools": "c"}


# ---- with a remote


@pytest.fixture
def remote(world: World, tmp_path: Path) -> Path:
    return follow_a_remote(world, tmp_path)


def follow_a_remote(world: World, directory: Path) -> Path:
    """Let the checkout follow a branch of a new remote."""
    path = directory / "remote"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(path)], check=True)
    world.git("remote", "add", "origin", str(path))
    world.git("push", "--quiet", "--set-upstream", "origin", "main")
    return path


def somebody_pushes(world: World, remote: Path, tmp_path: Path, name: str = "more.nix", text: str = "new\n") -> str:
    theirs = tmp_path / "theirs"
    if not theirs.exists():
        subprocess.run(["git", "clone", "--quiet", str(remote), str(theirs)], check=True, env=world._env())
    (theirs / name).parent.mkdir(exist_ok=True)
    (theirs / name).write_text(text)
    git = ["git", "-C", str(theirs), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "add", "--all", "--force"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", name], check=True)
    subprocess.run([*git, "push", "--quiet"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@both_places
def test_what_others_pushed_arrives_with_the_new_lock_and_not_before(
    world: World, remote: Path, tmp_path: Path
) -> None:
    head = world.head()
    theirs = somebody_pushes(world, remote, tmp_path)

    def look() -> None:
        assert world.untouched_but_for_the_worktree(head)

    world.while_building = look
    outcome = world.update(pull=True)
    assert outcome.changed
    assert (world.top / "more.nix").read_text() == "new\n"
    assert world.git("rev-parse", "HEAD^") == theirs
    assert world.lock.read_text() == world.new_lock
    assert world.clean()


def test_what_others_pushed_stays_away_where_it_does_not_build(world: World, remote: Path, tmp_path: Path) -> None:
    head = world.head()
    somebody_pushes(world, remote, tmp_path)
    world.broken = {WEB}
    with pytest.raises(LabError, match="did not evaluate"):
        world.update(pull=True)
    assert world.untouched(head)
    assert not (world.top / "more.nix").exists()


def test_without_a_new_lock_the_checkout_follows_all_the_same(world: World, remote: Path, tmp_path: Path) -> None:
    theirs = somebody_pushes(world, remote, tmp_path)
    world.new_lock = lock_text()
    assert world.update(pull=True, check_mode=True).changed
    assert world.head() != theirs
    assert world.update(pull=True).changed
    assert world.head() == theirs
    assert world.clean()
    assert not world.update(pull=True).changed


def test_files_that_are_gone_upstream_go(world: World, remote: Path, tmp_path: Path) -> None:
    (world.top / "old.nix").write_text("old\n")
    world.commit("old")
    world.git("push", "--quiet")
    theirs = tmp_path / "theirs"
    subprocess.run(["git", "clone", "--quiet", str(remote), str(theirs)], check=True)
    (theirs / "old.nix").unlink()
    somebody_pushes(world, remote, tmp_path, "new.nix")
    world.update(pull=True)
    assert not (world.top / "old.nix").exists()
    assert world.clean()


def test_two_histories_are_refused(world: World, remote: Path, tmp_path: Path) -> None:
    somebody_pushes(world, remote, tmp_path)
    (world.top / "mine").write_text("x")
    world.commit("mine")
    head = world.head()
    with pytest.raises(LabError, match="both moved"):
        world.update(pull=True)
    assert world.untouched(head)


def test_uncommitted_work_that_a_fetched_commit_would_overwrite_is_kept(
    world: World, remote: Path, tmp_path: Path
) -> None:
    head = world.head()
    somebody_pushes(world, remote, tmp_path)
    (world.top / "more.nix").write_text("mine\n")
    with pytest.raises(LabError, match=r"uncommitted changes in more\.nix"):
        world.update(pull=True)
    assert (world.top / "more.nix").read_text() == "mine\n"
    assert world.head() == head


def test_ignored_and_hidden_work_that_a_fetched_commit_would_overwrite_is_kept(
    world: World, remote: Path, tmp_path: Path
) -> None:
    (world.top / "config.nix").write_text("old\n")
    (world.top / ".gitignore").write_text("secret*\n")
    world.commit("config")
    world.git("push", "--quiet")
    head = world.head()
    (world.top / "secrets").write_text("mine\n")
    (world.top / "notes").write_text("mine\n")
    (world.top / "config.nix").write_text("mine\n")
    world.git("update-index", "--skip-worktree", "config.nix")
    for name in ("secrets", "notes/x", "config.nix"):
        somebody_pushes(world, remote, tmp_path, name)
        with pytest.raises(LabError, match=r"uncommitted changes in secrets|Bringing .* to "):
            world.update(pull=True)
        subprocess.run(["git", "-C", str(remote), "update-ref", "refs/heads/main", head], check=True)
        shutil.rmtree(tmp_path / "theirs")
        world.git("update-ref", "refs/remotes/origin/main", head)
    assert [(world.top / name).read_text() for name in ("secrets", "notes", "config.nix")] == ["mine\n"] * 3
    assert world.head() == head


def test_files_that_become_directories_and_back_arrive(world: World, remote: Path, tmp_path: Path) -> None:
    (world.top / "hosts").write_text("file\n")
    (world.top / "parts").mkdir()
    (world.top / "parts/a").write_text("a\n")
    world.commit("a file and a directory")
    world.git("push", "--quiet")
    theirs = tmp_path / "theirs"
    subprocess.run(["git", "clone", "--quiet", str(remote), str(theirs)], check=True)
    (theirs / "hosts").unlink()
    shutil.rmtree(theirs / "parts")
    (theirs / "parts").write_text("file\n")
    somebody_pushes(world, remote, tmp_path, "hosts/x")
    assert world.update(push=True).changed
    assert (world.top / "hosts/x").read_text() == "new\n"
    assert (world.top / "parts").read_text() == "file\n"
    assert world.clean()


def test_what_the_owner_has_not_pushed_is_not_published(world: World, remote: Path) -> None:
    pushed = world.head()
    (world.top / "draft").write_text("x")
    world.commit("draft")
    outcome = world.update(push=True)
    assert outcome.changed
    assert "has commits that origin has not" in outcome.warnings[0]
    assert world.git("ls-remote", "origin", "refs/heads/main").split()[0] == pushed


def test_an_older_lock_that_somebody_pushed_is_refused(world: World, remote: Path, tmp_path: Path) -> None:
    head = world.head()
    path = str((world.flake / "flake.lock").relative_to(world.top))
    somebody_pushes(world, remote, tmp_path, path, lock_text("c", modified=1_600_000_000))
    world.new_lock = lock_text("c", modified=1_600_000_000)
    for more in (False, True):
        with pytest.raises(LabError, match="back in time"):
            world.update(pull=True, update=more)
    assert world.untouched(head)


def test_a_branch_that_the_owner_leaves_during_the_update_is_not_moved(world: World) -> None:
    head = world.head()
    world.while_building = lambda: world.git("checkout", "--quiet", "-b", "mine")
    with pytest.raises(LabError, match="Somebody committed"):
        world.update()
    assert world.untouched(head)


def test_a_hook_that_fails_after_the_adoption_is_told_and_takes_nothing_back(world: World) -> None:
    real = world.run

    def run(argv: Sequence[str], **more: Any) -> Completed:
        done = real(argv, **more)
        # killed by its time-out in a hook, when the branch had moved
        return Completed(tuple(argv), 124, "", "", timed_out=True) if "merge" in argv else done

    world.run = run  # type: ignore[method-assign]
    outcome = world.update()
    assert outcome.changed
    assert "is adopted, but git did not end well after that" in outcome.warnings[0]
    assert world.lock.read_text() == world.new_lock
    assert world.clean()


def test_a_remote_that_is_down_is_named_and_nothing_is_touched(world: World, remote: Path) -> None:
    head = world.head()
    remote.rename(remote.parent / "away")
    with pytest.raises(LabError, match=r"Fetching origin for .*set pull and push to false"):
        world.update(pull=True)
    assert world.untouched(head)


def test_a_checkout_that_follows_nothing_cannot_pull(world: World) -> None:
    with pytest.raises(LabError, match="follows no branch of a remote"):
        world.update(pull=True)
    world.git("checkout", "--quiet", "--detach")
    with pytest.raises(LabError, match="on no branch"):
        world.update(push=True)
    with pytest.raises(LabError, match="commit is false"):
        world.update(pull=True, commit=False)


def test_a_directory_without_git_cannot_pull(plain: World) -> None:
    with pytest.raises(LabError, match="not in a git checkout"):
        plain.update(pull=True)


def test_a_new_lock_is_pushed(world: World, remote: Path, tmp_path: Path) -> None:
    theirs = somebody_pushes(world, remote, tmp_path)
    world.update(push=True, check_mode=True)
    assert (
        subprocess.run(["git", "-C", str(remote), "rev-parse", "main"], capture_output=True, text=True).stdout.strip()
        == theirs
    )
    world.update(push=True)
    pushed = subprocess.run(
        ["git", "-C", str(remote), "rev-parse", "main"], capture_output=True, text=True
    ).stdout.strip()
    assert pushed == world.head()
    assert world.git("rev-parse", "@{upstream}") == world.head()
    assert world.git("rev-parse", "HEAD^") == theirs


def test_what_the_remote_refuses_is_not_adopted(world: World, remote: Path) -> None:
    head = world.head()
    hook = remote / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not on sundays >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(LabError, match=r"Pushing the new flake\.lock to origin"):
        world.update(push=True)
    assert world.untouched(head)


# ---- guards


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
    world.moves_more = True
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


@both_places
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


@both_places
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
    with pytest.raises(LabError, match="fetch_timeout is 0"):
        world.update(fetch_timeout=0)
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


@pytest.mark.soak
def test_a_run_that_is_killed_while_it_pulls_and_pushes_is_taken_up_too(tmp_path: Path) -> None:
    """As above, with commits of somebody else in between, and an input that is left alone."""
    steps = 0
    while True:
        directory = tmp_path / str(steps)
        directory.mkdir()
        world = World(directory)
        origin = follow_a_remote(world, directory)
        old = three_inputs(world)
        world.git("push", "--quiet")
        locks = [world.lock.read_text()]
        world.spoilt = {"services": "c"}
        theirs = somebody_pushes(world, origin, directory)
        died = in_child(functools.partial(die_at, world, steps, push=True, fallback="per_input"))
        if world.lock.read_text() != locks[0]:
            assert revisions(world) == {"packages": "b", "services": "a", "tools": "d"}, f"torn at step {steps}"

        outcome = world.update(push=True, fallback="per_input")

        assert revisions(world) == {"packages": "b", "services": "a", "tools": "d"}, f"not adopted after step {steps}"
        assert world.git("rev-parse", "HEAD^", "HEAD^^").split() == [theirs, old], f"another history after step {steps}"
        assert world.head() == world.git("ls-remote", "origin", "refs/heads/main").split()[0]
        assert (world.top / "more.nix").read_text() == "new\n"
        assert list(outcome.rejected_inputs) == ["services"]
        assert world.clean(), f"left something after a kill at step {steps}"
        if not died:
            break
        steps += 1
    assert steps > 50


@both_places
@pytest.mark.parametrize("left", ["", "ne", "new\n"])
def test_a_file_that_a_killed_adoption_has_half_written_is_written_anew(
    world: World, remote: Path, tmp_path: Path, left: str
) -> None:
    theirs = killed_in_the_middle(world, remote, tmp_path)
    (world.top / "more.nix").write_text(left)
    assert world.update().changed
    assert (world.top / "more.nix").read_text() == "new\n"
    assert world.git("rev-parse", "HEAD^") == theirs
    assert world.clean()


def test_what_somebody_wrote_after_a_kill_is_kept(world: World, remote: Path, tmp_path: Path) -> None:
    killed_in_the_middle(world, remote, tmp_path)
    (world.top / "more.nix").write_text("mine\n")
    with pytest.raises(LabError, match=r"Adopting the new flake\.lock: .*untracked"):
        world.update()
    assert (world.top / "more.nix").read_text() == "mine\n"


def test_an_owner_who_went_to_another_branch_after_a_kill_keeps_it(world: World, remote: Path, tmp_path: Path) -> None:
    killed_in_the_middle(world, remote, tmp_path)
    head = world.head()
    world.git("checkout", "--quiet", "-b", "mine")
    world.update(update=False)
    assert world.head() == head


def killed_in_the_middle(world: World, remote: Path, tmp_path: Path) -> str:
    """A run has died while it adopted a commit of somebody else, without a new flake.lock."""
    theirs = somebody_pushes(world, remote, tmp_path)
    world.git("fetch", "--quiet")
    world.git("update-ref", "refs/lab-auto-update/adopting/heads/main", theirs)
    return theirs


def die_at(world: World, step: int, **settings: Any) -> None:
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
    world.update(**settings)


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
    world.git("update-ref", "refs/lab-auto-update/adopting/heads/main", "HEAD")
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
    plain.broken = {WEB}
    with pytest.raises(LabError):
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
