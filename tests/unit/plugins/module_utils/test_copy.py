"""What pushing a closure runs, in which order, and what it makes of the answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._copy import HostOutOfReach, Request, copy
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._space import NoSpace

SYSTEM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEEDED = "/nix/store/s89l4g1dk9zry7gbjln9wdafqsfz7n2d-systemd-258.2"
VALID = ("nix-store", 0, "", "")
CLOSURE = ("nix-store", 0, f"{NEEDED}\n{SYSTEM}\n", "")
SIZES = ("nix-store", 0, "3000000\n17912\n", "")


def answer(*missing: str, stat: str = "4096 66053021 60140377 20685084 16777216 16334826") -> tuple[str, int, str, str]:
    lines = ["Welcome!", "lab-auto-update:rooted", "lab-auto-update:missing", *missing, "lab-auto-update:space", stat]
    return ("ssh", 0, "".join(f"{line}\n" for line in lines), "")


ALL = answer(NEEDED, SYSTEM)
NIX = ["nix", "--extra-experimental-features", "nix-command flakes"]


class Script:
    """Answers in a fixed order; nothing else may be run."""

    def __init__(self, *answers: tuple[str, int, str, str]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[list[str], Mapping[str, str] | None]] = []
        self.data: list[str] = []

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
        self.data += [data] if data is not None else []
        return Completed(tuple(argv), rc, stdout, stderr, timed_out=rc == 124, seconds=timeout)


def push(*answers: tuple[str, int, str, str], **more: Any) -> tuple[dict[str, object], Script]:
    script = Script(*answers)
    settings: dict[str, Any] = {"path": [SYSTEM], "host": "web", "config": "/tmp/ssh_config"}
    try:
        return copy(script, Request(**{**settings, **more})), script
    finally:
        assert script.answers == []


def test_the_root_is_made_before_the_copy() -> None:
    result, script = push(VALID, CLOSURE, ALL, SIZES, ("nix", 0, "", ""))

    assert result["changed"] is True
    assert result["store_path"] == SYSTEM
    assert result["space"] == {
        "needed_bytes": 3017912 + 2 * 2048,
        "free_bytes": 20685084 * 4096,
        "needed_inodes": 2,
        "free_inodes": 16334826,
    }
    (_, _), (_, _), (ssh, _), (sizes, _), (nix, env) = script.calls
    assert script.data == [f"{NEEDED}\n{SYSTEM}\n"]
    assert sizes == ["nix-store", "--query", "--size", NEEDED, SYSTEM]
    assert ssh[:5] == ["ssh", "-F", "/tmp/ssh_config", "--", "web"]
    assert len(ssh) == 6
    assert f"ln -sfn {SYSTEM} /nix/var/nix/gcroots/lab-auto-update/target.new" in ssh[5]
    assert nix == [*NIX, "copy", "--to", "ssh-ng://web", "--no-check-sigs", "--", SYSTEM]
    assert env == {"NIX_SSHOPTS": "-F /tmp/ssh_config"}


def test_to_itself_the_builder_copies_nothing() -> None:
    result, script = push(VALID, local=True, config="")
    assert (result["changed"], result["store_path"]) == (False, SYSTEM)
    assert [argv for argv, _ in script.calls] == [["nix-store", "--check-validity", SYSTEM]]


def test_a_path_that_is_there_is_not_copied_again() -> None:
    result, _ = push(VALID, CLOSURE, answer())
    assert result["changed"] is False


@pytest.mark.parametrize(
    ("stat", "words"),
    [
        ("4096 1000 700 700 1000 500", r"2\.9 MiB are needed and 2\.7 MiB are free\."),
        ("4096 9000 8000 8000 1000 1", r": 2 inodes are needed and 1 are free\."),
    ],
)
def test_a_store_that_is_too_small_gets_nothing(stat: str, words: str) -> None:
    with pytest.raises(NoSpace, match=f"^The store of web has no room for 6gd.*{words} Make room") as failure:
        push(VALID, CLOSURE, answer(NEEDED, SYSTEM, stat=stat), SIZES)
    assert failure.value.data["no_space"] is True


def test_only_what_is_missing_needs_room(tmp_path: Path) -> None:
    push(
        VALID,
        CLOSURE,
        answer(SYSTEM, stat="4096 1000 9 9 0 0"),
        ("nix-store", 0, "17912\n", ""),
        ("nix", 0, "", ""),
    )


@pytest.mark.parametrize(
    "words",
    [
        answer("/etc/passwd"),
        answer("/nix/store/pzj8acma7j75h8pcj961main0qp8ip4s-python3-3.13.5"),
        answer(SYSTEM, stat=""),
        ("ssh", 0, "lab-auto-update:rooted\n", ""),
        ("ssh", 0, "", ""),
    ],
)
def test_an_answer_that_is_not_clear_is_not_acted_upon(words: tuple[str, int, str, str]) -> None:
    with pytest.raises(LabError):
        push(VALID, CLOSURE, words)


def test_a_closure_is_copied_to_a_store_of_another_kind_without_asking_it_anything() -> None:
    store = "s3://me:secret@cache?compression=zstd&secret-key=/root/key"
    script = Script(VALID, VALID, ("nix", 1, "", "error: not valid"), ("nix", 0, "", ""))
    result = copy(script, Request(path=[SYSTEM, NEEDED, SYSTEM], store=store))
    assert result["store"] == "s3://***@cache?compression=zstd&secret-key=***"
    assert (result["changed"], result["store_paths"]) == (True, [SYSTEM, NEEDED])
    bounds = ["--option", "connect-timeout", "10", "--option", "stalled-download-timeout", "30"]
    bounds += ["--option", "download-attempts", "3"]
    assert script.calls[3][0] == [
        *(*NIX, "copy", *bounds, "--to", store, "--refresh", "--no-check-sigs", "--", SYSTEM, NEEDED)
    ]


def test_a_store_that_has_everything_is_looked_through_all_the_same() -> None:
    script = Script(VALID, ("nix", 0, "", ""), ("nix", 0, "", ""))
    assert copy(script, Request(path=[SYSTEM], store="file:///srv/cache"))["changed"] is False
    assert script.answers == []


def test_a_store_that_takes_nothing_is_named_without_its_password() -> None:
    script = Script(VALID, ("nix", 1, "", ""), ("nix", 1, "", "error: unable to upload\n"))
    with pytest.raises(LabError, match=r"Copying 6gd.* to https://\*\*\*@cache: .*unable to upload") as failure:
        copy(script, Request(path=[SYSTEM], store="https://me:secret@cache"))
    assert "secret" not in str(failure.value.data)


@pytest.mark.parametrize("store", ["", "--help", "daemon", "/srv/cache", "file:///srv/my cache"])
def test_only_a_url_is_a_store(store: str) -> None:
    with pytest.raises(LabError, match="not the URL of a store"):
        copy(Script(VALID), Request(path=[SYSTEM], store=store))


def test_a_host_gets_one_path() -> None:
    with pytest.raises(LabError, match="one path"):
        push(VALID, VALID, path=[SYSTEM, NEEDED])
    with pytest.raises(LabError, match="at least one"):
        push(path=[])


def test_signatures_are_checked_on_demand() -> None:
    _, script = push(
        VALID,
        CLOSURE,
        ALL,
        SIZES,
        ("nix", 0, "", ""),
        check_signatures=True,
        options={"max-jobs": 1},
    )
    assert script.calls[4][0] == [*NIX, "copy", "--option", "max-jobs", "1", "--to", "ssh-ng://web", "--", SYSTEM]


def test_a_path_that_the_builder_lacks_is_not_announced() -> None:
    with pytest.raises(LabError, match="not in the store of the builder"):
        push(("nix-store", 1, "", "error: path is not valid\n"))


@pytest.mark.parametrize("path", ["--help", "/etc", SYSTEM + "; reboot"])
def test_only_store_paths_are_pushed(path: str) -> None:
    with pytest.raises(LabError, match="not a store path"):
        push(path=[path])


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
        push(VALID, CLOSURE, ("ssh", 255, "", stderr))
    assert str(failure.value).startswith("The builder cannot reach web: ")
    assert words in str(failure.value)
    assert failure.value.data["host_reachable"] is False


def test_an_unknown_host_key_has_a_remedy() -> None:
    with pytest.raises(HostOutOfReach, match="ssh-keyscan"):
        push(VALID, CLOSURE, ("ssh", 255, "", "Host key verification failed.\n"))


def test_a_host_that_hangs_is_out_of_reach() -> None:
    with pytest.raises(HostOutOfReach, match="no answer within"):
        push(VALID, CLOSURE, ("ssh", 124, "", ""))


def test_a_host_that_goes_away_before_the_copy_is_out_of_reach() -> None:
    stderr = (
        "ssh: connect to host 198.18.0.12 port 22: Connection refused\nerror: failed to start SSH connection to 'web'\n"
    )
    with pytest.raises(HostOutOfReach, match="Connection refused"):
        push(VALID, CLOSURE, ALL, SIZES, ("nix", 1, "", stderr))


def test_a_user_without_rights_is_told_what_is_missing() -> None:
    with pytest.raises(LabError, match=r"GC root on web: .*a password is required.*sudo without a password"):
        push(VALID, CLOSURE, ("ssh", 1, "", "sudo: a password is required\n"))
    stderr = "error: cannot add path '/nix/store/x' because it lacks a signature by a trusted key\n"
    with pytest.raises(LabError, match=r"lab_signing_key.*trusted-public-keys"):
        push(VALID, CLOSURE, ALL, SIZES, ("nix", 1, "", stderr))


def test_a_copy_that_takes_too_long_says_so() -> None:
    with pytest.raises(LabError, match=r"Copying 6gd.* to web: nix took longer than .*Raise timeout"):
        push(VALID, CLOSURE, ALL, SIZES, ("nix", 124, "", ""))


def test_an_answer_that_is_none_is_not_a_yes() -> None:
    with pytest.raises(LabError, match="did not say"):
        push(VALID, CLOSURE, ("ssh", 0, "lab-auto-update:rooted\n", ""))
