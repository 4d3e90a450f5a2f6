"""What pushing a closure runs, in which order, and what it makes of the answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._copy import HostOutOfReach, Request, copy
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

SYSTEM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
VALID = ("nix-store", 0, "", "")
NIX = ["nix", "--extra-experimental-features", "nix-command flakes"]


class Script:
    """Answers in a fixed order; nothing else may be run."""

    def __init__(self, *answers: tuple[str, int, str, str]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[list[str], Mapping[str, str] | None]] = []

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        data: str | None = None,
    ) -> Completed:
        program, rc, stdout, stderr = self.answers.pop(0)
        assert argv[0] == program
        self.calls.append((list(argv), env))
        return Completed(tuple(argv), rc, stdout, stderr, timed_out=rc == 124, seconds=timeout)


def push(*answers: tuple[str, int, str, str], **more: Any) -> tuple[dict[str, object], Script]:
    script = Script(*answers)
    settings: dict[str, Any] = {"path": SYSTEM, "host": "web", "config": "/tmp/ssh_config"}
    try:
        return copy(script, Request(**{**settings, **more})), script
    finally:
        assert script.answers == []


def test_the_root_is_made_before_the_copy() -> None:
    result, script = push(VALID, ("ssh", 0, "Welcome!\nlab-auto-update:absent\n", ""), ("nix", 0, "", ""))

    assert result["changed"] is True
    assert result["store_path"] == SYSTEM
    (_, _), (ssh, _), (nix, env) = script.calls
    assert ssh[:5] == ["ssh", "-F", "/tmp/ssh_config", "--", "web"]
    assert len(ssh) == 6
    assert f"ln -sfn {SYSTEM} /nix/var/nix/gcroots/lab-auto-update/target.new" in ssh[5]
    assert nix == [*NIX, "copy", "--to", "ssh-ng://web", "--no-check-sigs", "--", SYSTEM]
    assert env == {"NIX_SSHOPTS": "-F /tmp/ssh_config"}


def test_a_path_that_is_there_is_not_copied_again() -> None:
    result, _ = push(VALID, ("ssh", 0, "lab-auto-update:present\n", ""))
    assert result["changed"] is False


def test_signatures_are_checked_on_demand() -> None:
    _, script = push(
        VALID,
        ("ssh", 0, "lab-auto-update:absent\n", ""),
        ("nix", 0, "", ""),
        check_signatures=True,
        options={"max-jobs": 1},
    )
    assert script.calls[2][0] == [*NIX, "copy", "--option", "max-jobs", "1", "--to", "ssh-ng://web", "--", SYSTEM]


def test_a_path_that_the_builder_lacks_is_not_announced() -> None:
    with pytest.raises(LabError, match="not in the store of the builder"):
        push(("nix-store", 1, "", "error: path is not valid\n"))


@pytest.mark.parametrize("path", ["--help", "/etc", SYSTEM + "; reboot"])
def test_only_store_paths_are_pushed(path: str) -> None:
    with pytest.raises(LabError, match="not a store path"):
        push(path=path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no ssh key /.*none.*ssh-keygen"):
        push(ssh_key=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("ssh: connect to host 198.18.0.12 port 22: No route to host\n", "No route to host"),
        ("Warning: banner\nroot@198.18.0.12: Permission denied (publickey).\n", "Permission denied (publickey)."),
        (
            "No ED25519 host key is known for 198.18.0.12 and you have requested strict checking.\n"
            "Host key verification failed.\n",
            "No ED25519 host key is known",
        ),
        ("", "ssh said nothing"),
    ],
)
def test_a_host_out_of_reach_is_one_sentence_with_the_words_of_ssh(stderr: str, words: str) -> None:
    with pytest.raises(HostOutOfReach) as failure:
        push(VALID, ("ssh", 255, "", stderr))
    assert str(failure.value).startswith("The builder cannot reach web: ")
    assert words in str(failure.value)
    assert failure.value.data["host_reachable"] is False


def test_an_unknown_host_key_has_a_remedy() -> None:
    with pytest.raises(HostOutOfReach, match="ssh-keyscan"):
        push(VALID, ("ssh", 255, "", "Host key verification failed.\n"))


def test_a_host_that_hangs_is_out_of_reach() -> None:
    with pytest.raises(HostOutOfReach, match="no answer within"):
        push(VALID, ("ssh", 124, "", ""))


def test_a_host_that_goes_away_before_the_copy_is_out_of_reach() -> None:
    stderr = (
        "ssh: connect to host 198.18.0.12 port 22: Connection refused\nerror: failed to start SSH connection to 'web'\n"
    )
    with pytest.raises(HostOutOfReach, match="Connection refused"):
        push(VALID, ("ssh", 0, "lab-auto-update:absent\n", ""), ("nix", 1, "", stderr))


def test_a_user_without_rights_is_told_what_is_missing() -> None:
    with pytest.raises(LabError, match=r"GC root on web: .*Permission denied.*such as root"):
        push(VALID, ("ssh", 1, "", "mkdir: cannot create directory '/nix/var': Permission denied\n"))
    stderr = "error: cannot add path '/nix/store/x' because it lacks a signature by a trusted key\n"
    with pytest.raises(LabError, match="trusted-public-keys"):
        push(VALID, ("ssh", 0, "lab-auto-update:absent\n", ""), ("nix", 1, "", stderr))


def test_a_copy_that_takes_too_long_says_so() -> None:
    with pytest.raises(LabError, match=r"Copying 6gd.* to web: nix took longer than .*Raise timeout"):
        push(VALID, ("ssh", 0, "lab-auto-update:absent\n", ""), ("nix", 124, "", ""))


def test_an_answer_that_is_none_is_not_a_yes() -> None:
    with pytest.raises(LabError, match="did not say"):
        push(VALID, ("ssh", 0, "Welcome!\n", ""))
