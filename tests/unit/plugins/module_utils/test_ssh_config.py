"""The ssh_config of one host; ssh itself says what it understood."""

import subprocess
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._ssh_config import (
    alias,
    connection,
    ssh_arguments,
    ssh_config,
)


def test_the_whole_file() -> None:
    assert ssh_config(
        "web", host_name="198.18.0.12", port=2222, user="root", identity_file="/root/.ssh/id_ed25519"
    ) == (
        "Host web\n"
        "  HostName 198.18.0.12\n"
        "  Port 2222\n"
        "  User root\n"
        "  IdentityFile /root/.ssh/id_ed25519\n"
        "  IdentitiesOnly yes\n"
        "  BatchMode yes\n"
        "  ControlMaster no\n"
        "  ControlPath none\n"
        "  ConnectTimeout 10\n"
        "  ServerAliveInterval 15\n"
        "  ServerAliveCountMax 4\n"
        "Match all\n"
        "  Include ~/.ssh/config\n"
        "  Include /etc/ssh/ssh_config\n"
    )


def test_host_keys_are_checked_as_ever() -> None:
    text = ssh_config("web", host_name="web.example.org")
    assert "HostKey" not in text
    assert "KnownHosts" not in text
    assert "IdentitiesOnly" not in text


def understood(tmp_path: Path, text: str, host: str) -> dict[str, str]:
    file = tmp_path / "config"
    file.write_text(text)
    done = subprocess.run(["ssh", "-G", "-F", file, "--", host], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_ssh_reads_what_was_meant(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("Host web\n  ProxyCommand nc -X 5 %h %p\n  User somebody\n")
    arguments = ["-F", str(other), "-o", "ControlMaster=auto", "-oControlPath=/tmp/x", "-o", "ConnectTimeout 3"]
    text = ssh_config("web", host_name="fe80::1%eth0", user="root", identity_file="/keys/my key#1", arguments=arguments)

    found = understood(tmp_path, text, "web")

    assert found["hostname"] == "fe80::1%eth0"
    assert found["user"] == "root"
    assert found["identityfile"] == "/keys/my key#1"
    assert found["identitiesonly"] == "yes"
    assert found["batchmode"] == "yes"
    assert found["controlmaster"] == "false"
    assert "controlpath" not in found
    assert found["connecttimeout"] == "3"
    assert found["serveraliveinterval"] == "15"
    assert found["proxycommand"] == "nc -X 5 %h %p"
    assert found["stricthostkeychecking"] != "false"


def test_the_arguments_of_the_inventory_become_lines() -> None:
    variables = {
        "ansible_ssh_common_args": "-o ProxyCommand='ssh -W %h:%p jump' -J bastion -i /keys/a -C",
        "ansible_ssh_extra_args": "-F /lab/ssh_config -F none",
    }
    text = ssh_config("web", host_name="web", arguments=ssh_arguments(variables))
    assert "  ProxyCommand ssh -W %h:%p jump\n" in text
    assert "  ProxyJump bastion\n" in text
    assert "  IdentityFile /keys/a\n" in text
    assert "  Compression yes\n" in text
    assert text.endswith("Match all\n  Include /lab/ssh_config\n")


@pytest.mark.parametrize("words", ["-v", "-L 80:a:80", "host", "-o =x", "-o", "-i"])
def test_arguments_that_cannot_go_into_a_file_are_refused(words: str) -> None:
    with pytest.raises(LabError, match="inventory"):
        ssh_config("web", host_name="web", arguments=words.split(" ", 1))


@pytest.mark.parametrize("value", ["a\nProxyCommand evil", "a\r", "a\x00", "a\x1b[2J"])
def test_a_value_cannot_become_a_second_line(value: str) -> None:
    for bad in (
        {"host_name": value},
        {"host_name": "a", "user": value},
        {"host_name": "a", "identity_file": value},
        {"host_name": "a", "arguments": ["-o", f"ProxyCommand={value}"]},
        {"host_name": "a", "arguments": ["-F", value]},
    ):
        with pytest.raises(LabError, match="control character"):
            ssh_config("web", **bad)


def test_a_value_cannot_end_its_quotes() -> None:
    with pytest.raises(LabError, match="quote"):
        ssh_config("web", host_name='a" b')


@pytest.mark.parametrize(
    ("name", "expected"),
    [("web", "web"), ("web-1.example.org", "web-1.example.org"), ("a b*?!", "a-b---"), ("-oX", "oX")],
)
def test_an_alias_is_neither_a_pattern_nor_an_option(name: str, expected: str) -> None:
    assert alias(name) == expected


def test_what_the_inventory_says_of_the_connection() -> None:
    assert connection({}) == (None, None, None)
    assert connection({"ansible_host": "a", "ansible_port": 22, "ansible_user": "root"}) == ("a", 22, "root")
    assert connection({"ansible_host": "a", "ansible_ssh_host": "b"})[0] == "b"
    for port in ("ssh", "0", "70000", "-1"):
        with pytest.raises(LabError, match="not a port"):
            connection({"ansible_port": port})


def test_unbalanced_quotes_in_the_inventory_are_named() -> None:
    with pytest.raises(LabError, match="ansible_ssh_common_args"):
        ssh_arguments({"ansible_ssh_common_args": "-o ProxyCommand='x"})
