"""A guest of the lab that is a controller: Ansible, a copy of this clone, an inventory as seen from there, its nights.

Guests have no network out, so what they need of PyPI is fetched here, once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.fleet import Night, until
from tests.lab import Lab
from tests.lab._system import CACHE, locked
from tests.lab.image import _make

ROOT = Path(__file__).parents[2]
PLACE = "/srv/controller"
CLONE = f"{PLACE}/homelab"
PYTHON = "/run/current-system/sw/bin/python3"
UNIT = "night.service"
# for the Python of the guests' Debian, whatever runs here
PYTHON_VERSION = "3.13"
REQUIREMENTS = ("ansible-core==2.19.14", "jmespath==1.0.1")

# As the wrappers of Nix are: a file that is run as it is, and finds its libraries by itself.
LAUNCHER = f"""\
#!{PYTHON}
import sys
sys.path.insert(0, "{PLACE}/lib")
from ansible.cli.playbook import main
if __name__ == "__main__":
    sys.exit(main())
"""


def packages() -> Path:
    """Ansible for a guest, from the cache or fetched now."""
    recipe = "\0".join((PYTHON_VERSION, *REQUIREMENTS))
    target = CACHE / f"controller-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locked(CACHE / "controller.lock"):
        if not target.is_dir():
            _make(target, _fetch)
    return target


def _fetch(directory: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--target", str(directory / "lib"), "--python-version", PYTHON_VERSION, "--only-binary=:all:"),
            *REQUIREMENTS,
        ],
        check=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


class Controller:
    """A guest that runs nights itself, by a unit of its own as a timer would start it."""

    def __init__(self, lab: Lab, host: str = "builder") -> None:
        self.lab = lab
        self.host = host
        root, _ = lab._disk(host, "/")
        place = root / PLACE.lstrip("/")
        shutil.copytree(packages() / "lib", place / "lib", symlinks=True)
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            if (ROOT / name).exists() and not name.startswith("tests/"):
                target = place / "homelab" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target, follow_symlinks=False)
        (place / "bin").mkdir()
        (place / "bin/ansible-playbook").write_text(LAUNCHER)
        (place / "bin/ansible-playbook").chmod(0o755)
        self.inventory()

    def inventory(self, **own: Any) -> None:
        """Write the inventory as it is seen from the guest; C(own) are variables of the guest itself."""
        hosts: dict[str, dict[str, Any]] = {}
        for host, data in self.lab.settings()["hosts"].items():
            hosts[host] = {"ansible_host": data["address"], "lab_stage": data.get("stage", "")}
        hosts[self.host] = own or {"ansible_connection": "local"}
        shared = {
            "ansible_user": "root",
            "lab_flake_host": "builder",
            "lab_push_key": "/root/.ssh/id_ed25519",
            "lab_stages": ["development", "infrastructure", "critical"],
            "lab_min_uptime": 0,
            # faults and visitors are what labs are for
            "lab_max_bad": 1000,
            "lab_defer_for_users": False,
            "lab_reboot_delay": 0,
        }
        self.lab.write(self.host, f"{PLACE}/inventory.json", json.dumps({"all": {"vars": shared, "hosts": hosts}}))

    def begin(self, *arguments: str, **settings: Any) -> None:
        """Start C(ansible-playbook nightly.yml) in a unit of its own."""
        for name in ("night.log", "night.rc"):
            self.lab.write(self.host, f"{PLACE}/{name}", None)
        self.lab.write(self.host, f"{PLACE}/settings.json", json.dumps(settings))
        command = [
            *("systemd-run", f"--unit={UNIT}", "--collect", "--quiet", f"--working-directory={CLONE}"),
            *("--setenv=PATH=/run/wrappers/bin:/run/current-system/sw/bin", "--setenv=ANSIBLE_NOCOLOR=1"),
            f"--property=StandardOutput=append:{PLACE}/night.log",
            "--property=StandardError=inherit",
            # what a unit that reports would be told
            f"--property=ExecStopPost=/bin/sh -c 'echo $EXIT_STATUS > {PLACE}/night.rc'",
            *(f"{PLACE}/bin/ansible-playbook", "nightly.yml", "-i", f"{PLACE}/inventory.json"),
            *("-e", f"@{PLACE}/settings.json", *arguments),
        ]
        self.lab.run(self.host, command, check=True)

    def output(self) -> str:
        return self.lab.read(self.host, f"{PLACE}/night.log") or ""

    def wait(self, timeout: float = 300) -> Night:
        """Wait until the night has ended, as its unit saw it."""
        try:
            seconds = until(lambda: (self.lab.read(self.host, f"{PLACE}/night.rc") or "").endswith("\n"), timeout)
        except AssertionError as error:
            raise AssertionError(f"the night took longer than {timeout:g} s:\n{self.output()}") from error
        return Night(int(self.lab.read(self.host, f"{PLACE}/night.rc") or ""), self.output(), seconds)

    def night(self, *arguments: str, timeout: float = 300, **settings: Any) -> Night:
        self.begin(*arguments, **settings)
        return self.wait(timeout)

    def last(self) -> Mapping[str, Any]:
        """How the last change of this guest ended, by its own record."""
        return json.loads(self.lab.read(self.host, "/var/lib/lab-auto-update/last.json") or "{}")
