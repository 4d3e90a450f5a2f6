"""What fetching a closure runs, in which order, and what it makes of the answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._realise import NotFetched, Request, realise
from ansible_collections.homelab.nixos.plugins.module_utils._space import NoSpace

SYSTEM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
ROOT = [("mkdir", 0, "", ""), ("ln", 0, "", ""), ("mv", 0, "", "")]
ABSENT = ("nix-store", 1, "", f"error: path '{SYSTEM}' is not valid\n")
PLAN = f"this path will be fetched (5.7 KiB download, 17.5 KiB unpacked):\n  {SYSTEM}\n"
DRY = ("nix-store", 0, "", PLAN)
STAT = ("stat", 0, "4096 66053021 60140377 20685084 16777216 16334826\n", "")
FULL = ("stat", 0, "4096 1000 4 4 1000 500\n", "")
DONE = ("nix-store", 0, f"{SYSTEM}\n", "warning: you did not specify '--add-root'\n")
NOBODY = ("nix-store", 0, "", f"don't know how to build these paths:\n  {SYSTEM}\n")


class Script:
    """Answers in a fixed order; nothing else may be run."""

    def __init__(self, *answers: tuple[str, int, str, str]) -> None:
        self.answers = list(answers)
        self.calls: list[list[str]] = []

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
        self.calls.append(list(argv))
        return Completed(tuple(argv), rc, stdout, stderr, timed_out=rc == 124, seconds=timeout)


def fetch(*answers: tuple[str, int, str, str], **more: Any) -> tuple[dict[str, object], Script]:
    script = Script(*answers)
    try:
        return realise(script, Request(**{"path": SYSTEM, **more})), script
    finally:
        assert script.answers == []


def test_the_root_and_the_room_come_before_the_first_byte() -> None:
    result, script = fetch(*ROOT, ABSENT, DRY, STAT, DONE, substituters=["http://a", "http://b"])

    assert (result["changed"], result["fetched"], result["store_path"]) == (True, 1, SYSTEM)
    _, link, _, _, dry, _, real = script.calls
    assert link[:4] == ["ln", "-sfn", "--", SYSTEM]
    assert link[4].startswith("/nix/var/nix/gcroots/lab-auto-update/target.new")
    assert [word for word in dry if word != "--dry-run"] == real
    assert real[:2] == ["nix-store", "--realise"]
    assert real[-1] == SYSTEM
    assert real[-7:-1] == ["--option", "max-jobs", "0", "--option", "builders", ""]
    words = " ".join(real)
    for option in ("connect-timeout 10", "stalled-download-timeout 30", "download-attempts 3", "fallback true"):
        assert f"--option {option} " in words
    assert "--option substituters http://a http://b " in words


def test_the_hosts_own_substituters_are_asked_unless_others_are_named() -> None:
    _, script = fetch(*ROOT, ABSENT, DRY, STAT, DONE, options={"connect-timeout": 1})
    assert "substituters" not in script.calls[-1]
    assert "--option connect-timeout 1 " in " ".join(script.calls[-1])


def test_a_path_that_is_there_is_not_fetched_again() -> None:
    result, _ = fetch(*ROOT, ("nix-store", 0, "", ""))
    assert (result["changed"], result["fetched"]) == (False, 0)


def test_a_store_that_is_too_small_is_left_alone() -> None:
    with pytest.raises(NoSpace, match=r"/nix/store has no room for .*KiB are needed and 16\.0 KiB are free") as failure:
        fetch(*ROOT, ABSENT, DRY, FULL)
    assert failure.value.data["no_space"] is True


def test_words_of_nix_that_are_not_known_touch_nothing() -> None:
    with pytest.raises(Unreadable):
        fetch(*ROOT, ABSENT, ("nix-store", 0, "", "fetching 1 path\n"))
    with pytest.raises(Unreadable):
        fetch(*ROOT, ABSENT, DRY, ("stat", 0, "much\n", ""))


@pytest.mark.parametrize("path", ["--help", "/etc", SYSTEM + ".drv"])
def test_only_a_store_path_that_needs_no_build_is_fetched(path: str) -> None:
    with pytest.raises(LabError, match=r"not a store path|is a derivation"):
        fetch(path=path)


def test_the_substituter_that_failed_is_named_with_a_remedy() -> None:
    stderr = (
        "warning: unable to download 'http://***@a/nix-cache-info': HTTP error 500\n"
        f"don't know how to build these paths:\n  {SYSTEM}\n"
    )
    with pytest.raises(NotFetched, match=r"the substituter http://\*\*\*@a failed: HTTP error 500\..*lab_substituters"):
        fetch(*ROOT, ABSENT, ("nix-store", 0, "", stderr))


def test_a_fetch_that_fails_in_the_middle_is_told_as_well() -> None:
    stderr = f"{PLAN}error: file 'nar/0q.nar.zst' does not exist in binary cache 'http://a'\n"
    with pytest.raises(NotFetched, match="the substituter http://a failed: it has no nar/0q") as failure:
        fetch(*ROOT, ABSENT, DRY, STAT, ("nix-store", 1, "", stderr))
    assert failure.value.data["failing_substituters"] == ["http://a"]


def test_a_missing_signature_has_the_remedy() -> None:
    stderr = f"warning: ignoring substitute for '{SYSTEM}' from 'http://a', as it's not signed by any of the keys in\n"
    with pytest.raises(NotFetched, match=r"http://a has it without a signature .*lab_signing_key.*trusted-public-keys"):
        fetch(*ROOT, ABSENT, DRY, STAT, ("nix-store", 1, "", stderr))


def test_what_no_substituter_has_is_said_with_whom_was_asked() -> None:
    with pytest.raises(NotFetched, match="no substituter has it, asked were http://a"):
        fetch(*ROOT, ABSENT, NOBODY, substituters=["http://a"])
    with pytest.raises(NotFetched, match=r"asked were https://\*\*\*@b"):
        fetch(*ROOT, ABSENT, NOBODY, ("nix", 0, "https://me:secret@b\n", ""))
    with pytest.raises(NotFetched, match="there is no substituter to ask"):
        fetch(*ROOT, ABSENT, NOBODY, ("nix", 0, "\n", ""))


def test_a_fetch_that_takes_too_long_says_whom_it_waited_for() -> None:
    stderr = "warning: unable to download 'http://a/nix-cache-info': Timeout; retrying in 10 ms (attempt 1/5)\n"
    with pytest.raises(NotFetched, match=r"took longer than 1800 s, waiting for http://a\. Raise timeout"):
        fetch(*ROOT, ABSENT, ("nix-store", 124, "", stderr))


def test_a_user_who_is_not_root_is_told_so() -> None:
    with pytest.raises(LabError, match=r"Permission denied.*with become"):
        fetch(("mkdir", 1, "", "mkdir: cannot create directory '/nix/var': Permission denied\n"))


def test_a_substituter_is_one_url() -> None:
    with pytest.raises(LabError, match="not a substituter"):
        fetch(substituters=["http://a http://b"])
