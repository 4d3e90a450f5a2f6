"""A guest of the lab that plays a Debian machine, to be made a controller by the role of that name.

Guests have no network out, so what they need of PyPI and Debian is fetched here, once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.fleet import Fleet, Night, Running
from tests.lab._system import CACHE, locked, run
from tests.lab.image import _make, _mirror

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "roles/controller/files/requirements.txt"
PIP = "pip==26.3"
# for the Python of the guests' Debian, whatever runs here
PYTHON_VERSION = "3.13"
LOGROTATE = ("usr/sbin/logrotate", "usr/lib/x86_64-linux-gnu/libpopt.so.0")

WHEELS = "/srv/wheels"
INVENTORY = "/srv/inventory.json"
PROGRAM = "/usr/local/bin/lab-auto-update"
UNIT = "lab-auto-update.service"
USER = "lab-auto-update"

# What the lab's stand-in for NixOS has and Debian has not, and the other way round.
PREPARE = """
set -eu
rm /etc/NIXOS
python=$(readlink -f /run/current-system/sw/bin/python3)
version=${python##*/}
cp "$python" /usr/bin
ln -s "$version" /usr/bin/python3
ln -s "${python%/bin/*}/lib/$version" /usr/lib/
cp -rL /etc/systemd/system /etc/systemd/system.new
rm /etc/systemd/system
mv /etc/systemd/system.new /etc/systemd/system
systemctl stop lab-auto-update-boot-guard.service lab-auto-update-resume.service
rm -r /etc/systemd/system/lab-auto-update-* /etc/systemd/system/*/lab-auto-update-* /var/lib/lab-auto-update
mkdir -p /usr/local/bin /etc/logrotate.d /var/lib/systemd/timers
cat > /etc/systemd/system/tell@.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo %i >> /srv/told'
UNIT
systemctl daemon-reload
"""
# Every file and directory, its owner and mode, and what the databases of users hold. Left out is what others write
# meanwhile, as the journal, Nix, Ansible in root's home, and the copies that useradd keeps.
SNAPSHOT = r"""
find / -xdev \( -path /proc -o -path /run -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp -o -path /nix \
  -o -path /srv -o -path /root -o -path /var/log/journal -o -path /var/cache/python-zip -o -path /var/log/wtmp.db \
  -o -path /var/lib/wtmpdb \) -prune -o ! -path '/etc/*-' ! -path /etc/.pwd.lock -printf '%p %y %U:%G %m\n' | sort
cat /etc/passwd /etc/group /etc/shadow
systemctl list-unit-files --no-legend 'lab-auto-update*'; systemctl list-units --all --no-legend 'lab-auto-update.*'
"""


def _cached(name: str, recipe: str, fill: Any) -> Path:
    target = CACHE / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locked(CACHE / f"{name}.lock"):
        if not target.is_dir():
            _make(target, fill)
    return target


def wheels() -> Path:
    """All that the role installs, as wheels."""

    def fetch(directory: Path) -> None:
        target = ["--python-version", PYTHON_VERSION, "--only-binary=:all:", "--dest", str(directory)]
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *target]
        run([*words, "--requirement", REQUIREMENTS, PIP], timeout=600)

    return _cached("wheels", "\0".join((PYTHON_VERSION, PIP, REQUIREMENTS.read_text())), fetch)


def logrotate() -> Path:
    """Debian's logrotate with what it needs beside the guests' libraries."""

    def fetch(directory: Path) -> None:
        tree = directory / "tree"
        words = ["mmdebstrap", "--quiet", "--variant=extract", "--include=logrotate"]
        run([*words, '--aptopt=Acquire::Check-Valid-Until "false"', "trixie", tree, _mirror()], timeout=600)
        for name in LOGROTATE:
            (directory / name).parent.mkdir(parents=True)
            shutil.copy(tree / name, directory / name)
        shutil.rmtree(tree)

    return _cached("logrotate", "\0".join(("trixie", *LOGROTATE)), fetch)


class Debian:
    """Such a guest; the others of its lab are the hosts of its nights."""

    def __init__(self, fleet: Fleet, host: str) -> None:
        self.lab, self.fleet, self.host = fleet.lab, fleet, host
        root, _ = self.lab._disk(host, "/")
        shutil.copytree(wheels(), root / WHEELS.lstrip("/"))
        for name in LOGROTATE:
            shutil.copy(logrotate() / name, root / name)
        self.sh(PREPARE)
        hosts = self.lab.settings()["hosts"]
        shared = {
            "ansible_user": "root",
            "lab_flake_host": "builder",
            "lab_push_key": "/root/.ssh/id_ed25519",
            "lab_min_uptime": 0,
            "lab_defer_for_users": False,
            "lab_reboot_delay": 0,
        }
        known: dict[str, dict[str, Any]] = {
            name: {"ansible_host": data["address"], "lab_managed": name != "builder"}
            for name, data in hosts.items()
            if name != host
        }
        self.lab.write(host, INVENTORY, json.dumps({"all": {"vars": shared, "hosts": known}}))

    def sh(self, script: str) -> str:
        """What a script says that root runs there."""
        done = self.lab.run(self.host, ["sh", "-c", script], timeout=300)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def role(self, *arguments: str, **options: Any) -> Running:
        """Start the playbook of the role, as its owner would."""
        places = {
            "lab_controller_hosts": self.host,
            "lab_controller_inventory": INVENTORY,
            "lab_wheelhouse": WHEELS,
        }
        return self.fleet.begin(*arguments, playbook="playbooks/controller.yml", **{**places, **options})

    def known_hosts(self) -> list[str]:
        return (self.lab.directory / "known_hosts").read_text().splitlines()

    def snapshot(self) -> set[str]:
        return set(self.sh(SNAPSHOT).splitlines())

    def writable(self, user: str) -> set[str]:
        """Every file and directory of the machine's disk that a user may write."""
        script = f"runuser -u {user} -- find / -xdev ! -type l -writable -print 2> /dev/null || true"
        return set(self.sh(script).splitlines())

    def show(self, *properties: str, unit: str = UNIT) -> dict[str, str]:
        """Properties of a unit, as systemd has them."""
        text = self.sh(f"systemctl show {unit} --property={','.join(properties)}")
        return dict(line.split("=", 1) for line in text.splitlines())

    def start(self) -> Night:
        """Run the service as the timer would, and wait for its end."""
        done = self.lab.run(self.host, ["systemctl", "start", UNIT], timeout=300)
        invocation = self.show("InvocationID")["InvocationID"]
        self.sh("journalctl --sync")
        said = self.sh(f"journalctl --output=cat --no-pager _SYSTEMD_INVOCATION_ID={invocation}")
        return Night(done.returncode, said, 0)

    def again(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook by hand, as somebody who does not know of the timer."""
        return self.lab.run(self.host, [PROGRAM, *words], timeout=120)


def changed(night: Night) -> int:
    """How many tasks have changed something."""
    return sum(map(int, re.findall(r"\bchanged=(\d+)", night.output)))
