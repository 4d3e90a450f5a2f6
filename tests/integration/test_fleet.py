"""Ten guests in three stages, night after night: an order that is safe, and a stop that works.

The scenarios follow each other, as nights do: what one leaves is what the next finds.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils._settings import worst_case

from tests.integration.fleet import ROOT, Fleet, Host, Night, until, untouched, window_in
from tests.lab import Lab

pytestmark = pytest.mark.lab

DEVELOPMENT = ("dev", "host5")
INFRASTRUCTURE = ("dns", "nas", "web", "host6")
CRITICAL = ("host7", "host8", "host9", "host10")
DEFAULTS = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
STAGES = {"development": DEVELOPMENT, "infrastructure": INFRASTRUCTURE, "critical": CRITICAL}
HOSTS = (*DEVELOPMENT, *INFRASTRUCTURE, *CRITICAL)
# whom each host needs
NEEDS = {"web": ["dns", "nas"], "host7": ["dns"], "host8": ["web"]}
# host8 needs the web server, which needs the DNS server
NEED_DNS = ("web", "host7", "host8")
OWN: dict[str, dict[str, Any]] = {
    "dev": {"lab_canary": True},
    "host10": {"lab_optional": True},
    **{host: {"lab_depends_on": needs} for host, needs in NEEDS.items()},
}
# waits as short as ten busy guests on two cores allow
QUICK = {
    "lab_batch": {"infrastructure": 2, "critical": 4},
    "lab_critical_stages": ["critical"],
    "lab_max_bad": 1,
    "lab_never_together": [["dns", "nas"]],
    "lab_defer_for_users": True,
    "lab_settle": 4,
    "lab_activation_timeout": 240,
    "lab_confirm_timeout": 90,
    "lab_reboot_timeout": 120,
    "lab_boot_confirm_timeout": 100,
}


class TenGuests(Fleet):
    """The fleet with its stages, and what its owner said of single hosts."""

    def own(self, **hosts: dict[str, Any]) -> None:
        """What the owner says of single hosts tonight, beside what always holds for them."""
        always = {host: {"lab_stage": stage, **OWN.get(host, {})} for stage in STAGES for host in STAGES[stage]}
        self.says(QUICK, {host: {**always[host], **hosts.get(host, {})} for host in HOSTS})

    def logins(self, host: str) -> int:
        """How often somebody has logged in, by the host's own journal."""
        return self.lab.journal(host, "--identifier=sshd-session", "--identifier=sshd").count("Accepted publickey")


@pytest.fixture(scope="module")
def fleet() -> Iterator[TenGuests]:
    with Lab.temporary(10, prefix="fleet") as lab:
        fleet = TenGuests(lab)
        fleet.own()
        yield fleet


@pytest.mark.soak
def test_when_the_canary_fails_nothing_else_is_touched(fleet: TenGuests):
    fleet.lab.move()
    fleet.faults(dev="unit-fails")
    before = fleet.looks()
    night = fleet.night()
    assert night.rc == 2, night.output
    assert night.outcomes == {**dict.fromkeys(HOSTS, "held"), "dev": "rolled_back"}
    assert "dev" in night.reason("web")
    assert fleet.looks() == before
    for host in HOSTS[1:]:
        assert fleet.activations(host, fleet.target(host)) == 0
    # the plan was printed first, and the canary is alone in it
    assert re.search(r"\bdev\b.*canary|canary.*\bdev\b", night.output)


def test_one_that_fails_stops_the_rollout_before_the_critical_stage(fleet: TenGuests):
    fleet.lab.move()
    fleet.faults(nas="unit-fails")
    before = fleet.looks()
    logins: dict[str, int] = {}

    run = fleet.begin()
    until(lambda: fleet.last("nas").get("outcome") == "rolled_back", 400, "nas is back on its old system")
    logins = {host: fleet.logins(host) for host in CRITICAL}
    night = run.wait()
    assert {host: fleet.logins(host) for host in CRITICAL} == logins, "a held host was contacted after the stop"
    targets, after = fleet.targets(), fleet.looks()
    assert night.rc == 2, night.output
    assert {night.outcomes[host] for host in CRITICAL} == {"held"}
    assert untouched(before, after, CRITICAL)
    assert {night.outcomes[host] for host in DEVELOPMENT} == {"updated"}
    assert all(after[host].is_on(targets[host]) for host in DEVELOPMENT)
    assert night.outcomes["nas"] == "rolled_back"
    # it goes before those that need it
    assert night.outcomes["web"] == "held"
    assert "nas" in night.reason("host9")
    # at most one more than was allowed had begun
    assert sum(outcome == "rolled_back" for outcome in night.outcomes.values()) <= 2


@dataclass(frozen=True)
class Seen:
    """A night of all ten, and the lock and the hosts before and after it."""

    night: Night
    locked: tuple[str, str]
    before: dict[str, Host]
    after: dict[str, Host]


OFF = ("host6", "host9", "host10")


@pytest.fixture(scope="module")
def stopped(fleet: TenGuests) -> Seen:
    """The night after a stop, in which three are off, one of them a laptop."""
    fleet.lab.move()
    before, locked = fleet.looks(), fleet.locked()
    for host in OFF:
        fleet.lab.stop(host)
    night = fleet.night()
    for host in OFF:
        fleet.lab.start(host, wait=True)
    return Seen(night, (locked, fleet.locked()), before, fleet.looks())


def test_the_night_after_neither_updates_the_lock_nor_touches_what_was_stopped(stopped: Seen):
    night = stopped.night
    assert night.rc == 0, night.output
    assert stopped.locked[0] == stopped.locked[1]
    assert {night.outcomes[host] for host in CRITICAL if host not in OFF} == {"held"}
    assert "lab_resume=true" in night.reason("host7")
    assert night.outcomes["nas"] == "held"
    assert "failed here" in night.reason("nas")
    assert untouched(stopped.before, stopped.after, ("nas", "host7", "host8"))


def test_absent_hosts_cost_one_connect_timeout_and_a_laptop_that_is_off_is_no_news(stopped: Seen):
    night = stopped.night
    assert night.rc == 0, night.output
    assert {host for host, outcome in night.outcomes.items() if outcome == "unreachable"} == set(OFF)
    # all of them together in the one task that is for all hosts at once, and nobody waits for them again
    for host in OFF:
        assert night.failed_tasks(host) == ["homelab.nixos.update : Look at the host"]
    assert "connection" in night.reason("host6").lower()
    table, _, rest = night.output.rpartition("not seen\n")
    assert re.search(r"\n *host10 +unreachable +$", table)
    assert "host10" not in rest.partition("PLAY RECAP")[0]


@contextmanager
def blind(fleet: TenGuests, seconds: float, begun: str) -> Iterator[None]:
    """While the host C(begun) is being changed, nobody can be reached for a while."""
    failures: list[BaseException] = []

    def cut() -> None:
        try:
            until(lambda: fleet.step(begun) == "activation", 400, f"{begun} is being activated", 0.02)
            for host in (*HOSTS, "builder"):
                fleet.lab.cut(host)
            time.sleep(seconds)  # the length of the cut is what is tested
        except BaseException as error:  # told by the test, below
            failures.append(error)
        finally:
            for host in (*HOSTS, "builder"):
                fleet.lab.mend(host)

    cutter = threading.Thread(target=cut)
    cutter.start()
    yield
    cutter.join()
    assert not failures, failures


def test_a_commit_resumes_it_and_half_a_minute_without_network_puts_nobody_back(fleet: TenGuests):
    # healing nas is a commit of the owner
    fleet.faults()
    with blind(fleet, 30, "nas"):
        night = fleet.night()
    assert night.rc == 0, night.output
    assert "rolled_back" not in night.outcomes.values()
    assert set(night.outcomes.values()) <= {"updated", "unchanged"}
    targets, after = fleet.targets(), fleet.looks()
    assert all(after[host].is_on(targets[host]) for host in HOSTS)
    assert fleet.activations("nas", targets["nas"]) == 1


@pytest.mark.soak
def test_a_night_that_is_too_short_finishes_what_it_begins_and_begins_nothing_that_would_not_fit(
    fleet: TenGuests, monkeypatch: pytest.MonkeyPatch
):
    # a second is one everywhere, and the controller is elsewhere
    monkeypatch.setenv("TZ", "America/New_York")
    fleet.faults()
    fleet.lab.move()
    # the last stage would have had to begin in the first second
    slow = {"lab_activation_timeout": 5400}
    fleet.own(**dict.fromkeys(CRITICAL, slow))
    before = fleet.looks()
    night = fleet.night(lab_deadline=worst_case({**DEFAULTS, **QUICK, "lab_reboot_delay": 0, **slow}) + 1)
    fleet.own()
    assert night.rc == 0, night.output
    expected = {**dict.fromkeys(HOSTS, "updated"), **dict.fromkeys(CRITICAL, "held")}
    assert night.outcomes == expected
    assert all("out of time" in night.reason(host) for host in CRITICAL)
    targets, after = fleet.targets(), fleet.looks()
    assert all(after[host].is_on(targets[host]) for host in (*DEVELOPMENT, *INFRASTRUCTURE))
    assert untouched(before, after, CRITICAL)


class Alerts(BaseHTTPRequestHandler):
    """What Prometheus says: an alert of host6 fires, and of host9 it knows nothing but an error."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query).get("query", [""])[0]
        if "host9" in query:
            self.send_error(500)
            return
        labels = {"alertname": "DiskWillFillUp", "alertstate": "firing", "instance": "host6:9100"}
        result = [{"metric": labels, "value": [time.time(), "1"]}] if "host6" in query else []
        body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def prometheus() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Alerts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def logged_in(fleet: TenGuests, host: str) -> Iterator[None]:
    """Somebody works on a host."""
    ssh = ["ssh", "-F", str(fleet.lab.ssh_config), "-tt", "-o", "ControlMaster=no", "-o", "ControlPath=none", host]
    shell = subprocess.Popen([*ssh, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        terminals = ["sh", "-c", "ls /dev/pts"]
        until(lambda: re.search(r"\d", fleet.lab.run(host, terminals).stdout) is not None, 60, "a terminal of a login")
        yield
    finally:
        shell.kill()
        shell.wait()


def busy(fleet: TenGuests, over: contextlib.ExitStack, host: str, unit: str, *command: str) -> None:
    """A transient unit that runs until it is all over."""
    fleet.lab.run(host, ["systemd-run", "--unit", unit, *command], check=True)
    over.callback(fleet.lab.run, host, ["systemctl", "stop", unit])


def held(fleet: TenGuests, over: contextlib.ExitStack, host: str) -> None:
    """A hold file."""
    fleet.lab.write(host, "/var/lib/lab-auto-update/hold", "Ada looks for a fault.\n")
    over.callback(fleet.lab.write, host, "/var/lib/lab-auto-update/hold", None)


BLOCKS_SHUTDOWN = (
    *("systemd-inhibit", "--what=shutdown", "--who=migration"),
    # a unit finds programs of systemd only
    *("/run/current-system/sw/bin/sleep", "600"),
)
GARBAGE = "#!/bin/sh\necho 'c1 ? seat0'\n"
HANGS = "#!/bin/sh\nexec sleep 300\n"


def test_before_the_switch_every_gate_defers_its_host_with_its_reason_and_nothing_is_touched(
    fleet: TenGuests, prometheus: str
):
    lab = fleet.lab
    # there is something to do
    lab.move()
    alerts, window = {"lab_alerts_url": prometheus}, window_in(3)
    fleet.own(
        web={"lab_busy_units": ["backup-*.service"]},
        host5={"lab_window": window},
        host6=alerts,
        host9=alerts,
        host10={"lab_hold": {"reason": "Its disk is being replaced.", "until": "2999-01-01"}},
    )
    with contextlib.ExitStack() as over:
        over.callback(fleet.own)
        busy(fleet, over, "web", "backup-home", "sleep", "600")
        busy(fleet, over, "dns", "migration", *BLOCKS_SHUTDOWN)
        held(fleet, over, "nas")
        loginctl = "/run/wrappers/bin/loginctl"
        for host, script in (("host7", GARBAGE), ("host8", HANGS)):
            over.callback(lab.run, host, ["rm", "-f", loginctl])
            install = f'printf %s "$1" > {loginctl} && chmod +x {loginctl}'
            lab.run(host, ["sh", "-c", install, "sh", script], check=True)
        before = fleet.looks()
        over.enter_context(logged_in(fleet, "dev"))
        night = fleet.night()
    assert night.rc == 0, night.output
    assert night.outcomes == dict.fromkeys(HOSTS, "deferred")
    words = {
        "dev": "root",
        "host5": window[:5],
        "web": "backup-home.service",
        "dns": "migration",
        "nas": "Ada looks for a fault.",
        "host6": "DiskWillFillUp",
        "host7": "sessions",
        "host8": "sessions",
        "host9": "alerts",
        "host10": "Its disk is being replaced.",
    }
    assert {host: word for host, word in words.items() if word not in night.reason(host)} == {}
    assert fleet.looks() == before


# what each of them says
PENDING = {"nas": "backup-home.service", "host6": "migration", "host9": "Ada looks for a fault.", "host10": "root"}


@pytest.fixture(scope="module")
def mixed(fleet: TenGuests) -> Seen:
    """A night in which dns ends badly, and of four that need a reboot each is closed by another gate before it."""
    lab = fleet.lab
    lab.move()
    fleet.own(nas={"lab_busy_units": ["backup-*.service"]})
    fleet.faults(dns="unit-fails", **dict.fromkeys(PENDING, "kernel-changed"))
    before, locked = fleet.looks(), fleet.locked()
    with contextlib.ExitStack() as over, ThreadPoolExecutor() as pool:
        over.callback(fleet.own)

        def close(host: str) -> None:
            """What comes up while the new system is verified."""
            until(lambda: fleet.step(host) == "verification", 500, f"{host} is being verified", 0.02)
            if host == "nas":
                busy(fleet, over, host, "backup-home", "sleep", "600")
            elif host == "host6":
                busy(fleet, over, host, "migration", *BLOCKS_SHUTDOWN)
            elif host == "host9":
                held(fleet, over, host)
            else:
                over.enter_context(logged_in(fleet, host))

        closing = [pool.submit(close, host) for host in PENDING]
        night = fleet.night(lab_max_bad=3, lab_critical_stages=[])
        for each in closing:
            each.result()
    return Seen(night, (locked, fleet.locked()), before, fleet.looks())


def test_the_lock_moves_again_once_nothing_is_stopped_and_a_provider_that_fails_holds_its_dependants_only(mixed: Seen):
    assert mixed.night.rc == 2, mixed.night.output
    assert mixed.locked[0] != mixed.locked[1]
    assert mixed.night.outcomes == {
        **dict.fromkeys(HOSTS, "updated"),
        **dict.fromkeys(PENDING, "pending"),
        **dict.fromkeys(NEED_DNS, "held"),
        "dns": "rolled_back",
    }
    for host in NEED_DNS:
        assert "dns" in mixed.night.reason(host)
    assert untouched(mixed.before, mixed.after, ("dns", *NEED_DNS))


def test_between_switch_and_reboot_every_gate_leaves_its_host_pending_and_up(fleet: TenGuests, mixed: Seen):
    assert {host: word for host, word in PENDING.items() if word not in mixed.night.reason(host)} == {}
    targets = fleet.targets()
    for host in PENDING:
        assert mixed.night.outcomes[host] == "pending"
        assert mixed.after[host].is_on(targets[host])
        assert mixed.after[host].boot_id == mixed.before[host].boot_id
