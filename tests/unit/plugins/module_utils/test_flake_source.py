"""How a flake is asked, and what its answers and failures mean. Answers are those of Nix 2.26.3 and 2.34.8."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _flake_source
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._flake_source import Machine

HERE = Machine()
BUILDER = Machine("root@builder", ("-F", "a file"))
GIT: dict[str, Any] = {
    "fingerprint": "67f9015d5708182fd01383247548a816ea1d3b8a87707f405c8b4d31489d8685",
    "locked": {
        "lastModified": 1767225600,
        "narHash": "sha256-zhcIzXcvDHQZVcwuuqSJuHQJlcOtpOlY2dL09gyYNNw=",
        "ref": "refs/heads/main",
        "rev": "9991f81620060a77dd12442b6ecab4bb29edf883",
        "type": "git",
        "url": "file:///etc/nixos",
    },
    "locks": {
        "nodes": {
            "packages": {"locked": {"narHash": "sha256-a", "rev": "635c040", "type": "git"}},
            "root": {"inputs": {"packages": "packages"}},
        },
        "root": "root",
        "version": 7,
    },
    "url": "git+file:///etc/nixos?ref=refs/heads/main&rev=9991f81620060a77dd12442b6ecab4bb29edf883",
}


def identity(**changes: Any) -> str | None:
    return _flake_source.flake(json.dumps(GIT | changes)).identity


def with_input(**locked: Any) -> dict[str, Any]:
    return {"nodes": {"root": {"inputs": {"packages": "packages"}}, "packages": {"locked": locked}}}


# ---- what a cache may trust -----------------------------------------------------------------------------------------
def test_the_identity_changes_with_the_commit_and_with_each_lock():
    found = {
        identity(),
        identity(locked=GIT["locked"] | {"rev": "another"}),
        identity(locks=with_input(narHash="sha256-b", rev="635c041")),
        identity(locks=with_input(narHash="sha256-b", rev="635c042")),
    }
    assert None not in found
    assert len(found) == 4


def test_the_locked_reference_is_what_is_evaluated():
    assert _flake_source.flake(json.dumps(GIT)).url == GIT["url"]


def test_a_plain_directory_is_known_by_its_hash_as_nix_2_26_gives_it_no_fingerprint():
    locked = {"lastModified": 1795622442, "narHash": "sha256-z", "path": "/tmp/plain", "type": "path"}
    assert identity(locked=locked) not in (None, identity(locked=locked | {"narHash": "sha256-y"}))


@pytest.mark.parametrize(
    "changes",
    [
        # what has a hash, but is nobody's commit
        {"locked": {"dirtyRev": "9991f81-dirty", "narHash": "sha256-J", "type": "git", "url": "file:///etc/nixos"}},
        {"locked": {"type": "git", "url": "file:///etc/nixos"}},
        # a repository without a commit
        {"locked": {"type": "git", "url": "file:///etc/nixos", "narHash": "sha256-J"}},
        {"locks": with_input(type="git", url="file:///srv/packages")},
        {"locks": with_input(type="git", dirtyRev="635c040-dirty", narHash="sha256-a")},
        {"locks": with_input(type="path", path="/srv/packages")},
    ],
)
def test_what_is_not_locked_has_no_identity(changes: dict[str, Any]):
    assert identity(**changes) is None


def test_an_input_within_the_flake_is_locked_with_it():
    assert identity(locks=with_input(type="path", path="./modules"))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps(GIT | {"locks": None})])
def test_metadata_that_is_none_is_unreadable(text: str):
    with pytest.raises(Unreadable):
        _flake_source.flake(text)


# ---- the answer -----------------------------------------------------------------------------------------------------
def test_a_missing_output_is_no_failure():
    found = _flake_source.read_outputs(_flake_source.outputs('{"hosts":["dev"],"lab":null}'), "/etc/nixos")
    assert (found.configurations, found.lab) == (("dev",), None)


def test_a_flake_without_hosts_is_named():
    with pytest.raises(LabError, match=r"^/srv/other has no nixosConfigurations\. Set flake to"):
        _flake_source.read_outputs({"hosts": None, "lab": 1}, "/srv/other")


# ---- the question ---------------------------------------------------------------------------------------------------
def test_nix_never_writes_a_lock_file_and_looks_at_names_only():
    metadata = _flake_source.metadata_command("/etc/nixos", {"tarball-ttl": 0})
    question = _flake_source.outputs_command("git+file:///etc/nixos?rev=1", {})
    assert metadata[-5:] == ["--no-write-lock-file", "--option", "tarball-ttl", "0", "/etc/nixos"]
    assert "--no-write-lock-file" in question
    assert question[-3] == "git+file:///etc/nixos?rev=1#."
    assert "toplevel" not in question[-1]


def test_over_ssh_the_command_is_one_word_that_any_shell_takes_apart_again():
    command = ["nix", "eval", "a b", "$(reboot)", 'it\'s; "x"']
    argv = BUILDER.argv(command, 120)
    assert argv[0] == "ssh"
    assert argv[-3:-1] == ["--", "root@builder"]
    assert argv[argv.index("-F") + 1] == "a file"
    words = shlex.split(argv[-1])
    assert words[-5:] == command
    assert words[0] == "env"
    assert words[3:6] == ["timeout", "--kill-after=10", "120"]
    assert HERE.argv(command, 120) == command


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("-F '/a b' -v", ("-F", "/a b", "-v")),
        (["-F", "/a b"], ("-F", "/a b")),
        ([], ()),
        (None, ()),
    ],
)
def test_ssh_args_are_a_list_or_a_text(given: object, words: tuple[str, ...]):
    assert _flake_source.machine("root@builder", given).ssh_args == words


@pytest.mark.parametrize(
    ("ssh", "ssh_args", "sentence"),
    [
        ("-oProxyCommand=reboot", [], "ssh is '-oProxyCommand=reboot', which is no address"),
        ("root@a b", [], "ssh is 'root@a b', which is no address"),
        ("builder", "-F 'x", "ssh_args cannot be read: No closing quotation"),
        ("builder", [1], r"ssh_args is \[1\]"),
        ("builder", {"F": "x"}, "ssh_args is {'F': 'x'}"),
        ("", "-F x", "ssh_args is set, and ssh is not"),
    ],
)
def test_an_address_that_is_none_is_refused(ssh: str, ssh_args: object, sentence: str):
    with pytest.raises(LabError, match=sentence):
        _flake_source.machine(ssh, ssh_args)


@pytest.mark.parametrize(
    ("flake", "reference"),
    [
        ("/etc/nixos", "/etc/nixos"),
        (".", "/home/me/lab"),
        ("../nixos", "/home/me/nixos"),
        ("nixos", "/home/me/lab/nixos"),
        ("github:me/lab", "github:me/lab"),
        ("git+file:///etc/nixos?dir=lab", "git+file:///etc/nixos?dir=lab"),
    ],
)
def test_a_relative_directory_is_below_that_of_the_source(flake: str, reference: str):
    assert _flake_source.reference(flake, HERE, "/home/me/lab") == reference


@pytest.mark.parametrize("flake", ["", "--impure", "/etc/nixos#lab", "/etc\n/nixos"])
def test_a_flake_is_no_option_and_no_attribute(flake: str):
    with pytest.raises(LabError, match="neither a directory nor a flake reference"):
        _flake_source.reference(flake, HERE, "/")


@pytest.mark.parametrize("flake", ["nixos", "~/nixos"])
def test_on_another_machine_a_directory_is_absolute(flake: str):
    with pytest.raises(LabError, match=r"which is no place on root@builder\. Write a path that begins with /"):
        _flake_source.reference(flake, BUILDER, "/home/me")


# ---- failures -------------------------------------------------------------------------------------------------------
THROWN = """\
error:
       … while evaluating attribute 'lab'
         at «string»:1:116:

       … while evaluating attribute 'x'
         at /nix/store/f6g08xa246rakxrds8vpswxcsh3gy42f-source/flake.nix:1:91:

       error: the stage is https://me:***@host/x
"""


def sentence(where: Machine, rc: int, stderr: str, command: str = "eval", timed_out: bool = False) -> str:
    done = Completed(("nix", command), rc, "", stderr, timed_out)
    return str(_flake_source.failure(done, "/etc/nixos", where, 120))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            sentence(HERE, 1, THROWN),
            "Asking the flake /etc/nixos on this controller: nix ended with exit code 1: "
            "error: the stage is https://***@host/x. Mend the flake; nix flake check shows more.",
        ),
        (
            sentence(BUILDER, 255, "ssh: connect to host builder port 22: No route to host\n"),
            "ssh does not get to root@builder: ssh: connect to host builder port 22: No route to host. "
            "Make this work without a password: ssh -F 'a file' root@builder true",
        ),
        (
            sentence(BUILDER, 127, "timeout: failed to run command 'nix': No such file or directory\n"),
            "root@builder has no nix in its PATH. Set ssh to a machine that has Nix.",
        ),
        (
            sentence(BUILDER, 124, "", timed_out=True),
            "Asking the flake /etc/nixos on root@builder took longer than 120 s. "
            "Raise timeout, or find out what hangs there.",
        ),
        (
            sentence(HERE, 1, 'error: getting status of "/etc/nixos": No such file or directory\n', "metadata"),
            'There is no flake /etc/nixos on this controller: error: getting status of "/etc/nixos": '
            "No such file or directory. Set flake to the directory that has flake.nix, or to a flake reference.",
        ),
        (
            sentence(HERE, 1, "error: getting status of '/nix/store/x-source/y': No such file or directory\n"),
            "Asking the flake /etc/nixos on this controller: nix ended with exit code 1: error: getting status of "
            "'/nix/store/x-source/y': No such file or directory. "
            "A flake in git sees only what git knows: git add the file and commit it.",
        ),
        (
            sentence(
                HERE,
                1,
                "path '/etc' does not contain a 'flake.nix', searching up\nerror: could not find a flake.nix file\n",
                "metadata",
            ),
            "There is no flake /etc/nixos on this controller: error: could not find a flake.nix file. "
            "Set flake to the directory that has flake.nix, or to a flake reference.",
        ),
        (
            sentence(HERE, 1, "error: path '/nix/store/0-source/flake.nix' does not exist\n", "metadata"),
            "There is no flake /etc/nixos on this controller: "
            "error: path '/nix/store/0-source/flake.nix' does not exist. "
            "Set flake to the directory that has flake.nix, or to a flake reference.",
        ),
        (
            sentence(
                HERE,
                1,
                "error:\n       … while fetching the input 'git+file:///etc/nixos'\n\n"
                '       error: opening Git repository "/etc/nixos": '
                "repository path '/etc/nixos' is not owned by current user\n",
                "metadata",
            ),
            '/etc/nixos on this controller belongs to somebody else: error: opening Git repository "/etc/nixos": '
            "repository path '/etc/nixos' is not owned by current user. "
            "Run Ansible as its owner, set ssh to log in as its owner, or see safe.directory in git-config(1).",
        ),
        (
            str(_flake_source.no_nix(HERE)),
            "This controller has no nix, and the inventory needs it to ask the flake. "
            "Set ssh to a machine that has Nix and the flake, for example root@builder.",
        ),
    ],
)
def test_a_failure_is_one_sentence_with_a_remedy(said: str, expected: str):
    assert said == expected


def test_a_secret_in_the_reference_is_not_printed():
    flake = "git+https://me:hunter2@example.org/lab"
    done = Completed(("nix", "flake", "metadata"), 1, "", "error: unable to download\n")
    with pytest.raises(LabError) as without_hosts:
        _flake_source.read_outputs({"hosts": None}, flake)
    with pytest.raises(LabError) as no_flake:
        _flake_source.reference(f"{flake}#lab", HERE, "/")
    told = [without_hosts.value, no_flake.value, _flake_source.failure(done, flake, HERE, 1)]
    assert not any("hunter2" in str(error) for error in told)
