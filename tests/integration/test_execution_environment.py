"""The image for AWX: what ansible-builder makes of its definition, and of the built collection. Without building it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.integration.fleet import ROOT

BIN = Path(sys.executable).parent
DEFINITION = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
BINDEP = (ROOT / "bindep.txt").read_text()


def run(*words: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> str:
    variables = {**os.environ, **(environment or {})}
    argv = list(map(str, words))
    done = subprocess.run(argv, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pinned(file: str) -> set[str]:
    lines = (ROOT / file).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-"))}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("image") / "context"
    run(BIN / "ansible-builder", "create", "--file", "execution-environment.yml", "--context", directory)
    return directory


def test_the_context_has_what_the_controller_needs_and_its_requirements_install(context: Path, tmp_path: Path):
    build = context / "_build"
    # as the build does it
    introspect: list[str | Path] = [
        sys.executable,
        build / "scripts/introspect.py",
        "introspect",
        "--user-pip=requirements.txt",
    ]
    files = {"pip": tmp_path / "requirements.txt", "bindep": tmp_path / "bindep.txt"}
    written = [f"--write-{kind}={file}" for kind, file in files.items()]
    run(*introspect, "--user-bindep=bindep.txt", *written, tmp_path, cwd=build)
    wanted = {line.split("#")[0].strip() for line in files["pip"].read_text().splitlines()}
    assert wanted == pinned("requirements.txt")

    # as in an environment without anything, for the Python of the image
    needed = DEFINITION["dependencies"]
    version = needed["python_interpreter"]["package_system"].removeprefix("python")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--report=-"]
    python = [f"--python-version={version}", "--only-binary=:all:", f"--target={tmp_path / 'site'}"]
    runner = needed["ansible_runner"]["package_pip"]
    report = json.loads(run(*pip, *python, "-r", files["pip"], runner))
    assert all((tmp_path / "site" / name).is_dir() for name in ("ansible", "apprise", "jmespath", "ansible_runner"))
    installed = {f"{each['metadata']['name']}=={each['metadata']['version']}" for each in report["install"]}
    assert {*wanted, runner} <= installed


def test_what_is_pinned_twice_is_pinned_alike():
    assert DEFINITION["dependencies"]["ansible_runner"]["package_pip"] in pinned("requirements-dev.txt")


def test_system_packages_are_those_of_debian_where_the_image_is_debian():
    bindep = (BIN / "bindep", "--file", ROOT / "bindep.txt", "--list_all", "newline")
    names = set(run(*bindep).split())
    assert names == {"openssh-client", "tzdata"}
    assert set(run(*bindep, "flake-host").split()) == {*names, "git"}
    shown = run("apt-cache", "show", "--no-all-versions", *names, "git")
    assert all(f"Package: {name}\n" in shown for name in (*names, "git"))


def test_the_built_collection_asks_for_the_same(tmp_path: Path):
    (tmp_path / "ansible.cfg").touch()
    own = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)}
    run(BIN / "ansible-galaxy", "collection", "build", "--output-path", tmp_path, environment=own)
    (built,) = tmp_path.glob("*.tar.gz")
    run(
        BIN / "ansible-galaxy",
        "collection",
        "install",
        "--offline",
        "--no-deps",
        "-p",
        tmp_path,
        built,
        environment=own,
    )
    told = yaml.safe_load(run(BIN / "ansible-builder", "introspect", tmp_path))
    # ansible-core is left to the image
    needs = {line.split("#")[0].strip() for line in told["python"]}
    assert needs == {line for line in pinned("requirements.txt") if not line.startswith("ansible-core==")}
    system = [line.split("#")[0].strip() for line in told["system"]]
    assert system == [line for line in BINDEP.splitlines() if not line.startswith("#")]
