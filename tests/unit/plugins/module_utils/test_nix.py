"""What goes on Nix's command line, and what its words mean."""

import re

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _nix
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable

SYSTEM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"


def test_a_store_path_is_taken_as_it_is() -> None:
    assert _nix.store_path(SYSTEM) == SYSTEM


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/nix/store",
        SYSTEM + "\n",
        SYSTEM + "/bin/sh",
        SYSTEM + "; reboot",
        " " + SYSTEM,
        "--help",
        SYSTEM.replace("/nix", "/tmp"),
        SYSTEM.replace("6gdl", "6gel"),
        "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-.hidden",
        "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-../../etc",
    ],
)
def test_anything_else_is_refused_as_a_store_path(text: str) -> None:
    with pytest.raises(LabError, match="not a store path"):
        _nix.store_path(text)


def test_printed_paths_keep_their_order_and_their_repetitions() -> None:
    other = SYSTEM.replace("web", "db")
    assert _nix.store_paths(f"{SYSTEM}\n{other}\n{SYSTEM}\n") == [SYSTEM, other, SYSTEM]
    with pytest.raises(Unreadable):
        _nix.store_paths("warning: hello\n")


def test_options_are_two_words_each() -> None:
    assert _nix.option_args({"cores": 2, "sandbox": False, "substituters": ""}) == [
        *("--option", "cores", "2"),
        *("--option", "sandbox", "false"),
        *("--option", "substituters", ""),
    ]
    with pytest.raises(LabError):
        _nix.option_args({"--impure": "x"})
    with pytest.raises(LabError, match="secret") as failure:
        _nix.option_args({"access-tokens": "github.com=hunter2"})
    assert "hunter2" not in str(failure.value)


def test_an_installable_is_one_flake_and_one_attribute() -> None:
    assert _nix.installable("/etc/nixos", 'a."b.c".d') == '/etc/nixos#a."b.c".d'
    assert _nix.installable(".", 'a."50%{"') == '.#a."50%25%7B"'
    for attribute in ("", "a#b", "a^doc", "a\nb", "--expr"):
        with pytest.raises(LabError):
            _nix.installable(".", attribute)


def test_a_flake_url_survives_odd_directories() -> None:
    assert _nix.flake_url("/srv/a b?c", "sub dir", shallow=True) == "git+file:///srv/a%20b%3Fc?dir=sub%20dir&shallow=1"
    assert _nix.flake_url("/etc/nixos") == "git+file:///etc/nixos"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-rf", "a b", "a\n", "x" * 200])
def test_a_gc_root_is_a_file_name(name: str) -> None:
    with pytest.raises(LabError):
        _nix.root_name(name)


# recorded from Nix 2.26.3 and 2.34.8
BUILD_FAILED = [
    """\
error: builder for '/nix/store/sbmhq53rs0ng0915z7pqajrk861h8911-c-2.drv' failed with exit code 1;
       last 2 log lines:
       > one
       > boom
       For full logs, run:
         nix log /nix/store/sbmhq53rs0ng0915z7pqajrk861h8911-c-2.drv
error: 1 dependencies of derivation '/nix/store/nbd1rbssi6s3agn52gnbw0kyinws9svg-web.drv' failed to build
""",
    """\
error: Cannot build '/nix/store/sbmhq53rs0ng0915z7pqajrk861h8911-c-2.drv'.
       Reason: builder failed with exit code 1.
       Output paths:
         /nix/store/8dl77pra5kr63d81nw78wd1nlng5xa5d-c-2
       Last 2 log lines:
       > one
       > boom
       For full logs, run:
         nix log /nix/store/sbmhq53rs0ng0915z7pqajrk861h8911-c-2.drv
""",
]


@pytest.mark.parametrize("stderr", BUILD_FAILED)
def test_the_derivation_that_failed_and_its_last_words_are_found(stderr: str) -> None:
    causes = [error for error in _nix.build_errors(stderr) if not error.consequence]
    assert [error.derivation for error in causes] == ["/nix/store/sbmhq53rs0ng0915z7pqajrk861h8911-c-2.drv"]
    assert re.search(r"exit code \d, its last words: 'boom'$", causes[0].words)


# Nix 2.26.3 and 2.34.8, 2026-11-25: a derivation for aarch64-linux that another one needs, on x86_64-linux
@pytest.mark.parametrize(
    "stderr",
    [
        "error: a 'aarch64-linux' with features {} is required to build "
        "'/nix/store/j63x7ixlf6l9n2cj6w529s94l9cf8cxr-arm.drv', but I am a 'x86_64-linux' with features {uid-range}\n",
        "error: Cannot build '/nix/store/j63x7ixlf6l9n2cj6w529s94l9cf8cxr-arm.drv'.\n"
        "       Reason: platform mismatch\n"
        "       Required system: 'aarch64-linux'\n       Current system: 'x86_64-linux'\n"
        "error: Cannot build '/nix/store/z9vw0ris3iwwkbpfpmnr9qf68qid87j0-armtop.drv'.\n"
        "       Reason: 1 dependency failed.\n       Output paths:\n         /nix/store/w5sz-armtop\n",
    ],
)
def test_a_derivation_for_another_platform_is_found_with_both_platforms(stderr: str) -> None:
    first, *others = _nix.build_errors(stderr)
    assert first.derivation == "/nix/store/j63x7ixlf6l9n2cj6w529s94l9cf8cxr-arm.drv"
    assert not first.consequence
    assert "'aarch64-linux'" in first.words
    assert "'x86_64-linux'" in first.words
    assert all(error.consequence for error in others)
    assert "nix.buildMachines" in _nix.remedy(first.words)


def test_the_innermost_input_is_the_one_that_failed() -> None:
    stderr = "error:\n  … while updating the flake input 'dep'\n\n  … while updating the flake input 'dep/inner'\n"
    assert _nix.failing_input(stderr) == "dep/inner"
    assert _nix.failing_input("error: something else") is None


def test_a_mere_warning_of_an_unknown_input_is_heard() -> None:
    stderr = "warning: Git tree '/x' is dirty\nwarning: 'nope' does not match any input of this flake\n"
    assert _nix.unknown_inputs(stderr) == ["nope"]


def test_an_older_copy_is_noticed() -> None:
    stderr = (
        "warning: could not update local clone of Git repository 'git://h/r'; continuing with the most recent version"
    )
    assert _nix.stale_fetches(f"{stderr}\nwarning: x\n") == [stderr]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("fatal: detected dubious ownership in repository at '/etc/nixos'", "become_user"),
        ("error: repository path '/srv/x' is not owned by current user", "become_user"),
        ("HTTP error 403: API rate limit exceeded for 192.0.2.1", "access-tokens"),
        ("error: Path 'web.nix' in the repository \"/etc/nixos\" is not tracked by Git.", "git add"),
        ("fatal: unable to auto-detect email address (got 'root@vm.(none)')", "git config user.name"),
        ("error: writing to file: No space left on device", "nix-collect-garbage"),
        ("error: cannot add path '/nix/store/x' because it lacks a signature by a trusted key", "trusted-public-keys"),
    ],
)
def test_what_people_can_mend_has_a_remedy(words: str, remedy: str) -> None:
    assert remedy in _nix.remedy(words)
