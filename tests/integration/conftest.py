"""The lab that the contract tests of the modules share: two guests and the flake host."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import adhoc
from tests.lab import Lab

ROOT = Path(__file__).parents[2]

# calls one module on one host and returns its result
Module = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two guests and their flake host, of the generation of Nix that $LAB_NIX names, as the tool's C(--nix) has it."""
    if os.geteuid() != 0:
        pytest.fail("Lab tests boot guests and need root: run `make test`, or pytest with sudo.", pytrace=False)
    with Lab.temporary(2, "contract", nix=os.environ.get("LAB_NIX", "trixie")) as running:
        yield running


@pytest.fixture(scope="session")
def module(lab: Lab) -> Module:
    """Run a module as C(ansible) does; it takes a host, a module, its arguments, and variables by keyword.

    The result always has C(failed) and C(unreachable), and what Ansible printed as C(printed), its warnings as
    C(warned) in one line.
    """
    return functools.partial(run_module, lab)


def run_module(
    lab: Lab, host: str, name: str, args: dict[str, Any], check: bool = False, diff: bool = False, **variables: Any
) -> dict[str, Any]:
    done = adhoc.call(
        *(host, "-i", str(lab.inventory), "-m", name, "-e", json.dumps(variables)),
        # an empty dictionary would be taken for free-form text
        *(["-a", json.dumps(args)] if args else []),
        *(["--check"] if check else []),
        *(["--diff"] if diff else []),
    )
    assert done.record, f"ansible gave no result:\n{done.stdout}\n{done.stderr}"
    result: dict[str, Any] = json.loads(done.record)
    # the exit code is what a person sees first
    assert (done.returncode != 0) == (result["failed"] or result["unreachable"]), done.stdout
    return result | {"printed": done.stdout, "warned": " ".join(done.stderr.split())}
