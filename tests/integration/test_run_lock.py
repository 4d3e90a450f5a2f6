"""One run at a time on a controller, by whole runs of Ansible. Without a lab: the first run hangs at its hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fleet import Running, until
from tests.integration.nowhere import Nowhere

EMPTY = "- hosts: all\n  gather_facts: false\n  tasks: [{ansible.builtin.meta: noop}]\n"
QUIET = 1.5  # seconds that it takes where nothing else runs


@pytest.fixture
def hosts(tmp_path: Path) -> Nowhere:
    return Nowhere(tmp_path, {"dev": {}, "web": {}})


@pytest.fixture
def first(hosts: Nowhere) -> Iterator[Running]:
    """A night that has come as far as its hosts, and waits for them to answer."""
    hosts.hang()
    running = hosts.begin("nightly.yml", "-e", "lab_push_key=/secret", ANSIBLE_LOG_PATH=str(hosts.directory / "log"))
    until(lambda: hosts.contacts() > 0, 300, "the first run contacts its hosts", 0.05)
    yield running
    if running.process.poll() is None:
        running.kill()


def test_a_second_run_ends_at_once_with_the_holders_name_start_and_log(hosts: Nowhere, first: Running):
    note = hosts.run()
    assert note is not None
    assert note["process"]["pid"] == first.process.pid
    assert "secret" not in (hosts.state / "run.json").read_text()
    contacts = hosts.contacts()
    empty = hosts.directory / "empty.yml"
    empty.write_text(EMPTY)
    seconds: list[float] = []
    # three seconds of a quiet machine; a busy one is as slow with the empty play just before and after
    bound = 0.0
    while min(seconds, default=bound) >= bound and len(seconds) < 5:
        around = [hosts.begin(str(empty)).wait(300).seconds]
        night = hosts.begin("nightly.yml").wait(300)
        around.append(hosts.begin(str(empty)).wait(300).seconds)
        bound = 3 * max(1, max(around) / QUIET)
        seconds.append(night.seconds)
        told = " ".join(night.output.split())
        assert night.rc == 2
        assert f"Another run is going on, and no host was contacted. It is run {note['run_id']} of" in told
        assert f"as process {first.process.pid}, since 20" in told
        assert f"Its log is {hosts.directory / 'log'}." in told
        assert "in this order" not in told
    assert min(seconds) < bound
    assert hosts.contacts() == contacts
    # the settings can be checked all the same, and nobody has taken the first run's place
    assert hosts.begin("playbooks/validate.yml").wait(300).rc == 0
    assert hosts.run() == note
    dry = hosts.begin("nightly.yml", "--check").wait(300)
    assert "Another run is going on" in dry.output
    # another controller, as one in a container, has a directory of its own
    hosts.hang(False)
    elsewhere = hosts.begin("nightly.yml", "-e", f"lab_state_directory={hosts.directory / 'elsewhere'}").wait(300)
    assert set(elsewhere.outcomes.values()) == {"unreachable"}


def test_a_run_that_was_killed_is_in_nobodys_way(hosts: Nowhere, first: Running):
    note = hosts.run()
    first.kill()
    assert hosts.run() == note
    hosts.hang(False)
    night = hosts.begin("nightly.yml").wait(300)
    assert set(night.outcomes.values()) == {"unreachable"}
    assert "WARNING" not in night.output
    # and nothing is left of either
    assert hosts.run() is None
