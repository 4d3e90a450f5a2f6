"""No secret in anything that is written or shown, and no word from outside that does anything: one lab of two hosts.

Each secret is a canary, a word that is nowhere else. Their owner keeps them in the flake, in the vault and in the
inventory; every other place is searched for them after nights that fail in as many ways as there are secrets.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fleet import Fleet, Night, until
from tests.lab import Lab
from tests.lab._system import wait_for

pytestmark = pytest.mark.lab

FLAKE = "/etc/nixos"
PORT = 8099
EXTRA = "/srv/extra"
PASSWORD = "the password of the vault"
# Where each secret is to begin with. Ansible, Nix and the hosts have to be given them; nobody else has to keep them.
KINDS = (
    *("user_of_input", "query_of_input", "access_token", "substituter", "alerts_user", "alerts_query"),
    *("become_password", "vault", "command", "echoed", "page", "webhook", "receiver", "ping", "silence"),
)
CANARIES = {kind: f"c4n{secrets.token_hex(12)}" for kind in KINDS}
# What the owner wrote himself stays: the flake, its lock, and what Nix and git keep of both (docs/security.md).
SEARCHED = "/var/lib/lab-auto-update /var/log /run/systemd /run/user /tmp /var/tmp /root/.ansible /home"
MARKER = "/tmp/lab-hostile"
HOSTILE = f"$(touch {MARKER}); touch {MARKER} {{{{ 7*7 }}}}"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(2, prefix="secrets") as lab:
        yield Fleet(lab)


def out(lab: Lab, host: str, script: str, *arguments: str) -> str:
    done = lab.run(host, ["sh", "-c", script, "sh", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(night: Night) -> str:
    return " ".join(night.output.split())


def vaulted(secret: str) -> str:
    from ansible.parsing.vault import VaultLib, VaultSecret

    made: bytes = VaultLib([("default", VaultSecret(PASSWORD.encode()))]).encrypt(secret)
    return made.decode()


def serve_an_input(lab: Lab) -> None:
    """Give the flake an input from a server that wants a password and a token, both of them in its address."""
    out(
        lab, "builder", f"mkdir -p {EXTRA}/extra; echo 1 > {EXTRA}/extra/number; cd {EXTRA}; tar czf extra.tar.gz extra"
    )
    python = "/run/current-system/sw/bin/python3"
    serve = [python, "-m", "http.server", str(PORT), "--bind", "127.0.0.1", "--directory", EXTRA]
    # it would log what it is asked for
    lab.run("builder", ["systemd-run", "--quiet", "--unit=extra", "--property=StandardError=null", *serve], check=True)
    probe = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), 1)"
    assert wait_for(lambda: lab.run("builder", [python, "-c", probe]).returncode == 0, 10)
    secret = f"user:{CANARIES['user_of_input']}@127.0.0.1:{PORT}/extra.tar.gz?token={CANARIES['query_of_input']}"
    extra = f'inputs.extra = {{ url = "tarball+http://{secret}"; flake = false; }};'
    flake = lab.read("builder", f"{FLAKE}/flake.nix") or ""
    flake = flake.replace("  inputs.tools = {", f"  {extra}\n  inputs.tools = {{")
    lab.write("builder", f"{FLAKE}/flake.nix", flake.replace("packages, tools }:", "packages, tools, extra }:"))
    out(lab, "builder", f"cd {FLAKE}; nix flake lock --quiet; git commit --quiet --all --message 'one more input'")


def unsafe(value: Any) -> Any:
    """A value as an owner writes it that is none of Ansible's templates."""
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, list):
        return [unsafe(one) for one in value]
    return {name: unsafe(one) for name, one in value.items()} if isinstance(value, dict) else value


class Searched:
    """Nights that tell everything, and a search through all that is kept of them."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self._fleet = fleet
        self._kept = directory / "kept"
        self.state = self._kept / "state"
        self.state.mkdir(parents=True)
        self.log = self._kept / "ansible.log"
        # what is the owner's
        self.inventory = directory / "owners.json"
        self._vault = directory / "vault"
        self._vault.write_text(PASSWORD)

    def run(self, playbook: str, *arguments: str, **settings: Any) -> Night:
        os.environ |= {"ANSIBLE_LOG_PATH": str(self.log), "ANSIBLE_VAULT_PASSWORD_FILE": str(self._vault)}
        try:
            words = ["-vvv", "-i", str(self.inventory), "-e", f"lab_state_directory={self.state}", *arguments]
            running = self._fleet.begin(*words, playbook=playbook, **settings)
        finally:
            del os.environ["ANSIBLE_LOG_PATH"], os.environ["ANSIBLE_VAULT_PASSWORD_FILE"]
        number = len(list(self._kept.iterdir()))
        if playbook == "nightly.yml":
            # gone when the run ends
            until(lambda: (self.state / "run.json").exists(), 240, "the note of the run")
            (self._kept / f"run-{number}.json").write_text((self.state / "run.json").read_text())
        night = running.wait()
        (self._kept / f"output-{number}").write_text(night.output)
        return night

    def places(self, word: str) -> list[str]:
        """Where a word is found, of all that is kept of what was done."""
        lab = self._fleet.lab
        mine = [self._kept, Path.home() / ".ansible/tmp"]
        found = [
            str(path)
            for directory in mine
            for path in directory.rglob("*")
            if path.is_file() and word.encode() in path.read_bytes()
        ]
        for host in (*self._fleet.hosts, "builder"):
            search = f"grep -r --files-with-matches --text --fixed-strings --file=- {SEARCHED} 2> /dev/null; true"
            files = lab.run(host, ["sh", "-c", search], stdin=f"{word}\n", check=True).stdout.split()
            found += [f"{host}: {file}" for file in files]
            if word in lab.journal(host):
                found.append(f"{host}: journal")
        if word in out(lab, "builder", f"cd {FLAKE}; git log --format=%B; git reflog; git for-each-ref"):
            found.append("builder: git log")
        return found


def test_no_canary_is_found_anywhere_after_nights_that_fail_in_many_ways(fleet: Fleet, tmp_path: Path):
    lab = fleet.lab
    serve_an_input(lab)
    first, second = fleet.hosts
    searched = Searched(fleet, tmp_path)

    # one host is reached by a user whose sudo wants a password
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"],
        input=CANARIES["become_password"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    script = """
    /usr/sbin/useradd --create-home --shell /bin/bash --password "$1" deploy
    cp -r /root/.ssh ~deploy; chown -R deploy ~deploy/.ssh
    # as docs/security.md has it
    sed -i 's|^ssh-|from="198.18.0.0/15",restrict ssh-|' ~deploy/.ssh/authorized_keys
    echo 'deploy ALL=(ALL:ALL) ALL' >> /etc/sudoers
    """
    out(lab, second, script, hashed)
    checks: list[dict[str, Any]] = [
        {"name": "vaulted", "kind": "command", "argv": ["test", "-n", "--token={{ vaulted_token }}"]},
        {"name": "silent", "kind": "command", "argv": ["test", CANARIES["command"], "=", "no"], "level": "wanted"},
        {"name": "echoing", "kind": "command", "argv": ["cat", f"/no/{CANARIES['echoed']}"], "level": "wanted"},
        {
            "name": "page",
            "kind": "http",
            "url": f"http://u:{CANARIES['page']}@127.0.0.1:1/?token={CANARIES['page']}",
            "level": "wanted",
        },
    ]
    checks.append({**checks[-1], "name": "hook", "url": f"http://127.0.0.1:1/api/push/{CANARIES['webhook']}?status=up"})
    # where docs/security.md has it
    lab.write("builder", "/etc/nix/local.conf", f"access-tokens = example.org={CANARIES['access_token']}\n")
    nix = {"substituters": f"http://u:{CANARIES['substituter']}@127.0.0.1:1"}
    inventory = {
        "all": {
            "vars": {
                "vaulted_token": "VAULTED",
                "lab_max_bad": 1000,
                "lab_settle": 2,
                "lab_nix_options": nix,
                "lab_checks": checks,
                # nobody is there
                "lab_notify": [f"json://u:{CANARIES['receiver']}@127.0.0.1:1/{CANARIES['receiver']}"],
                "lab_ping_url": f"http://127.0.0.1:1/{CANARIES['ping']}",
                "lab_silence_url": f"http://u:{CANARIES['silence']}@127.0.0.1:1",
            },
            "hosts": {second: {"ansible_user": "deploy", "ansible_become_password": CANARIES["become_password"]}},
        }
    }
    secret = json.dumps({"__ansible_vault": vaulted(CANARIES["vault"])})
    searched.inventory.write_text(json.dumps(inventory).replace('"VAULTED"', secret))

    # refused before anybody is contacted, and told by name
    options = {"access-tokens": f"example.org={CANARIES['access_token']}"}
    refused = searched.run("playbooks/validate.yml", lab_nix_options=options)
    assert refused.rc == 2
    assert "lab_nix_options: access-tokens is a secret" in said(refused)

    # an input moves, one host is updated, the other one cannot be given anything without a password
    lab.move()
    out(lab, "builder", f"cd {EXTRA}; echo 2 > extra/number; tar czf extra.tar.gz extra")
    mixed = searched.run("nightly.yml")
    assert mixed.rc == 2
    assert mixed.outcomes == {first: "updated", second: "failed"}
    assert f"127.0.0.1:{PORT}/extra.tar.gz" in mixed.output
    assert "substituter http://***@127.0.0.1:1 of the builder did not help" in said(mixed)
    for words in ("The start of this run was not reported", "The bad end of this run was not reported"):
        assert words in said(mixed)
    assert "receiver 1 of lab_notify" in said(mixed)
    assert len(list(searched.state.glob("notifications/*.json"))) == 1

    # the server of the input is gone, and nobody can ask for alerts
    lab.run("builder", ["systemctl", "stop", "extra"], check=True)
    lab.move()
    alerts = f"http://u:{CANARIES['alerts_user']}@127.0.0.1:1/?token={CANARIES['alerts_query']}"
    broken = searched.run("nightly.yml", lab_alerts_url=alerts)
    assert broken.rc == 2
    assert "extra" in broken.output
    assert "http://***@127.0.0.1:1/?token=*** was asked" in said(broken)

    unhealthy = searched.run("playbooks/health.yml", lab_checks=[{**check, "level": "required"} for check in checks])
    assert unhealthy.rc == 2
    for words in ("The check silent", "The check echoing", "The check page", "No such file or directory"):
        assert words in said(unhealthy)
    assert searched.run("playbooks/rollback.yml", "--limit", first, lab_yes=True, lab_rollback_to="previous").rc == 0

    # the search finds what is there
    assert any(place.endswith("ansible.log") for place in searched.places(f"127.0.0.1:{PORT}/extra.tar.gz"))
    assert any(place.startswith(f"{first}: /var/lib/lab-auto-update/") for place in searched.places('"outcome"'))
    assert f"{first}: journal" in searched.places("lab-auto-update-activation.service")
    assert "builder: git log" in searched.places("flake.lock: update")
    assert any(place.endswith(".json") for place in searched.places('"command"'))
    assert CANARIES["user_of_input"] in out(lab, "builder", f"cat {FLAKE}/flake.lock")
    # and no canary
    assert {kind: places for kind, word in CANARIES.items() if (places := searched.places(word))} == {}


def test_words_from_outside_are_words_and_nothing_else(fleet: Fleet, tmp_path: Path):
    """What is passed literally, and what hosts say, does nothing: no marker appears, and it is shown as it is."""
    lab, (host, other) = fleet.lab, fleet.hosts
    lab.move()
    odd = f"/srv/$(touch {MARKER.replace('/', '_')}) flake"
    script = """
    git clone --quiet /etc/nixos "$1"; cd "$1"; git checkout --quiet -b "$2"
    git config user.name lab; git config user.email lab@example.org
    """
    out(lab, "builder", script, odd, f"$(touch${{IFS}}{MARKER})")
    lab.write(other, "/var/lib/lab-auto-update/hold", HOSTILE)
    settings: dict[str, Any] = {
        "lab_settle": 2,
        # the only one whose source is still there
        "lab_inputs": ["packages"],
        "lab_flake": odd,
        "lab_busy_units": ["--help", "-Hroot@127.0.0.1"],
        "lab_ignored_units": [HOSTILE, "--version"],
        "lab_ignored_users": [HOSTILE, "-u"],
        "lab_mounts": ["/..", "/var/../"],
        "lab_reboot": "always",
        # were it an option, nothing would reboot
        "lab_reboot_message": f"--help $HOME $(touch {MARKER})",
        "lab_checks": [{"name": "{{ 7*7 }}", "kind": "command", "argv": ["echo", f"$(touch {MARKER})", "--help"]}],
    }
    inventory = tmp_path / "owners.json"
    inventory.write_text(json.dumps({"all": {"vars": {name: unsafe(value) for name, value in settings.items()}}}))
    night = fleet.night("-i", str(inventory), "-v")
    assert night.outcomes == {host: "updated", other: "deferred"}
    for words in ("$(touch", "{{ 7*7 }}"):
        assert words in night.reason(other)
    assert "check:{{ 7*7 }}" in night.output
    for place in (*fleet.hosts, "builder"):
        assert lab.run(place, ["test", "-e", MARKER]).returncode == 1, place
    assert not Path(MARKER).exists()
