"""The NixOS modules: evaluated by Nix alone, and the units that they make loaded and run by a guest's systemd."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import ROOT
from tests.integration.controller import CLONE, PLACE, Controller
from tests.integration.fleet import until
from tests.lab import Lab

pytestmark = pytest.mark.lab

BUILDER, HOST = "builder", "web"
SERVICE, TIMER = "lab-auto-update.service", "lab-auto-update.timer"
GUARD, RESUME = "lab-auto-update-boot-guard.service", "lab-auto-update-resume.service"
STATE = "/var/lib/lab-auto-update"
UNITS = "/run/systemd/system"
FILES = "/srv/modules"  # of the builder
CONTROLLER = 'services.lab-auto-update = { enable = true; inventory = [ "/etc/nixos/lab" ]; };'
MANAGED = "services.lab-auto-update-host.enable = true;"
KEY = 'services.lab-auto-update-host.authorizedKeys = [ "ssh-ed25519 AAAA controller" ];'


class Nixos:
    """What the builder's Nix makes of a configuration with the modules of this clone."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.lab = controller.lab
        root, below = self.lab._disk(BUILDER, CLONE)
        shutil.copytree(ROOT / "tests/nixos", root / below.lstrip("/") / "tests/nixos")
        (root / FILES.lstrip("/") / "bin").mkdir(parents=True)

    def run(self, *argv: str, host: str = BUILDER) -> str:
        done = self.lab.run(host, argv)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _evaluate(self, configuration: str, wanted: str, release: str, pkgs: str) -> Any:
        text = f"""
          with import {CLONE}/tests/nixos/evaluate.nix {{
            release = "{release}";
            pkgs = {pkgs};
            configuration = {{ {configuration} }};
          }};
          {wanted}
        """
        # or what a unit names would not be in the store
        argv = ["nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "-"]
        return self.lab.run(BUILDER, argv, stdin=text)

    def config(self, configuration: str, wanted: str, release: str = "26.05", pkgs: str = "{ }") -> Any:
        """The value of an expression, in which C(config), C(options), C(lib) and C(pkgs) are those of the system."""
        done = self._evaluate(configuration, wanted, release, pkgs)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, configuration: str, release: str = "26.05", pkgs: str = "{ }") -> str:
        """Why there is no such system."""
        done = self._evaluate(configuration, "[ config.made config.users ]", release, pkgs)
        assert done.returncode != 0, done.stdout
        return " ".join(done.stderr.split())

    def unit(self, name: str, configuration: str, **options: str) -> str:
        text: str = self.config(configuration, f'config.made.units."{name}".text', **options)
        return text


@pytest.fixture(scope="module")
def nixos(lab: Lab) -> Nixos:
    controller = Controller(lab, BUILDER)
    # it is not one of its hosts here
    controller.inventory(ansible_connection="local", lab_managed=False)
    return Nixos(controller)


@pytest.fixture
def loaded(nixos: Nixos) -> Iterator[dict[str, str]]:
    """Units on the builder for the time of a test, by name; they are removed with their state."""
    texts: dict[str, str] = {}
    yield texts
    for name in texts:
        nixos.lab.run(BUILDER, ["systemctl", "stop", name])
        nixos.lab.write(BUILDER, f"{UNITS}/{name}", None)
    nixos.run("systemctl", "daemon-reload")
    nixos.lab.run(BUILDER, ["systemctl", "reset-failed"])


def load(nixos: Nixos, loaded: dict[str, str], texts: dict[str, str]) -> None:
    loaded.update(texts)
    for name, text in texts.items():
        nixos.lab.write(BUILDER, f"{UNITS}/{name}", text)
    nixos.run("systemctl", "daemon-reload")


def settings(text: str) -> dict[str, list[str]]:
    """The lines of a unit by their names; what differs with the store and with nothing else is left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name not in ("Environment", "ExecStart"):
            found.setdefault(name, []).append({"no": "false", "yes": "true"}.get(value, value))
    return found


# ---- the flake and its defaults ------------------------------------------------------------------------------------
def test_every_file_parses_and_the_flake_has_both_modules_and_one_for_all(nixos: Nixos):
    files = nixos.run("find", CLONE, "-name", "*.nix").split()
    assert {f"{CLONE}/{name}" for name in ("flake.nix", "nix/host.nix", "nix/controller.nix")} < set(files)
    nixos.run("nix-instantiate", "--parse", *files)
    expression = f"builtins.attrNames ((import {CLONE}/flake.nix).outputs {{ self = null; }}).nixosModules"
    found = nixos.run("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression)
    assert json.loads(found) == ["controller", "default", "host"]


def test_imported_and_not_enabled_they_change_nothing(nixos: Nixos):
    wanted = "{ inherit (config) made boot users; packages = config.environment.systemPackages; }"
    found = nixos.config("", wanted)
    assert found.pop("made") == {"units": {}, "logrotate": "", "sudoers": "", "fstab": ""}
    assert found["boot"]["kernelParams"] == found["packages"] == []
    assert found["boot"]["loader"]["grub"]["configurationLimit"] == 100
    assert list(found["users"]["users"]) == ["root"]


def test_every_default_of_the_plan_is_a_default_of_the_controllers_module(nixos: Nixos):
    values = "config.services.lab-auto-update"
    found = nixos.config(CONTROLLER, f'removeAttrs {values} [ "package" "collection" "inventory" ]')
    assert found == {
        "enable": True,
        "schedule": "02:00",
        "randomizedDelay": "30min",
        "accuracy": "1min",
        "persistent": True,
        "flakePath": None,
        "autoReboot": True,
        "logRetentionDays": 30,
        # half an hour in the plan, in which no host could be updated with its default time limits
        "startTimeout": 4 * 60 * 60,
        "stopTimeout": 5 * 60,
        "memoryMax": "2G",
        "cpuQuota": "50%",
        "user": "root",
        "limits": [],
        "extraArguments": [],
        "onFailure": [],
    }
    assert nixos.config(CONTROLLER, "options.services.lab-auto-update.enable.default") is False
    assert nixos.config(CONTROLLER, f"{values}.package.meta.has") == ["ansible-core", "apprise", "jmespath"]

    service = settings(nixos.unit(SERVICE, CONTROLLER))
    assert (
        service.items()
        >= {
            "Wants": ["network-online.target"],
            "After": ["network-online.target"],
            "Type": ["oneshot"],
            "MemoryMax": ["2G"],
            "CPUQuota": ["50%"],
            "PrivateTmp": ["true"],
            "TimeoutStartSec": ["14400"],
            "TimeoutStopSec": ["300"],
            "User": ["root"],
            "X-RestartIfChanged": ["false"],
            "X-StopOnRemoval": ["false"],
        }.items()
    )
    assert settings(nixos.unit(TIMER, CONTROLLER)) == {
        "Description": ["When the lab's NixOS hosts are updated"],
        "OnCalendar": ["02:00"],
        "RandomizedDelaySec": ["30min"],
        "AccuracySec": ["1min"],
        "Persistent": ["true"],
    }


def test_every_option_is_described_and_has_a_type(nixos: Nixos):
    wanted = """
      let of = name: lib.filterAttrs (_: each: each.description or "" == "" || !(each ? type)) options.services.${name};
      in map (name: builtins.attrNames (of name)) [ "lab-auto-update" "lab-auto-update-host" ]
    """
    assert nixos.config("", wanted) == [[], []]
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/nixos.md").read_text(), re.MULTILINE))
    names = 'map (name: builtins.attrNames options.services.${name}) [ "lab-auto-update" "lab-auto-update-host" ]'
    controller, host = nixos.config("", names)
    assert {*controller, *host} == documented


def test_the_flake_that_the_documentation_shows_is_one(nixos: Nixos):
    (example,) = re.findall(r"```nix\n(.*?)```", (ROOT / "docs/nixos.md").read_text(), re.DOTALL)
    for name, text in (("flake", example), ("web", "{ }"), ("controller", "{ }")):
        nixos.lab.write(BUILDER, f"{FILES}/{name}.nix", text)
    expression = f"""
      let
        modules = ((import {CLONE}/flake.nix).outputs {{ self.nixosModules = modules; }}).nixosModules;
        outputs = (import {FILES}/flake.nix).outputs {{
          lab-auto-update.nixosModules = modules;
          nixpkgs.lib.nixosSystem = {{ modules }}:
            import {CLONE}/tests/nixos/evaluate.nix {{ configuration.imports = modules; }};
        }};
      in
      builtins.mapAttrs (_: system: builtins.attrNames system.config.made.units) outputs.nixosConfigurations
    """
    found = nixos.run("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression)
    assert json.loads(found) == {"web": [GUARD, RESUME], "controller": [GUARD, RESUME, SERVICE, TIMER]}


ROTATION = ["compress", "create 0644", "delaycompress", "daily", "missingok", "notifempty"]


def test_logs_are_rotated_by_rename_each_day_and_kept_for_as_long_as_was_said(nixos: Nixos):
    def sections(configuration: str) -> dict[str, list[str]]:
        text = nixos.config(configuration, "config.made.logrotate")
        found = re.findall(r'^"([^"]*)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL)
        return {name: [line.strip() for line in body.splitlines()] for name, body in found}

    record, rest = "/var/log/lab-auto-update.log", "/var/log/lab-auto-update/*.log"
    assert sections(CONTROLLER) == {record: [*ROTATION, "rotate 30"], rest: [*ROTATION, "rotate 30"]}
    assert sections(MANAGED) == {record: [*ROTATION, "rotate 30"]}
    days = "services.lab-auto-update.logRetentionDays = 7;"
    assert sections(CONTROLLER + MANAGED + days) == {record: [*ROTATION, "rotate 7"], rest: [*ROTATION, "rotate 7"]}
    user = 'services.lab-auto-update.user = "lab-auto-update";'
    assert sections(CONTROLLER + user)[rest][-1] == "su lab-auto-update lab-auto-update"


# ---- the controller's units ----------------------------------------------------------------------------------------
def test_a_systemd_finds_nothing_wrong_with_the_units_and_lists_the_next_night(nixos: Nixos, loaded: dict[str, str]):
    ansible = f'services.lab-auto-update.package = {{ type = "derivation"; name = "ansible"; outPath = "{PLACE}"; }};'
    units = nixos.config(CONTROLLER + MANAGED + ansible, "config.made.units")
    assert set(units) == {SERVICE, TIMER, GUARD, RESUME}
    assert units[TIMER]["wantedBy"] == ["timers.target"]
    load(nixos, loaded, {name: units[name]["text"] for name in (SERVICE, TIMER)})
    for name in (GUARD, RESUME):
        nixos.lab.write(BUILDER, f"{FILES}/{name}", units[name]["text"])
    files = [*(f"{UNITS}/{name}" for name in (SERVICE, TIMER)), *(f"{FILES}/{name}" for name in (GUARD, RESUME))]
    verified = nixos.lab.run(BUILDER, ["systemd-analyze", "verify", "--man=no", *files])
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")

    nixos.run("systemctl", "start", TIMER)
    (timer,) = json.loads(nixos.run("systemctl", "list-timers", "--output=json", TIMER))
    assert timer["activates"] == SERVICE
    first, last = (int(nixos.run("date", "--date", f"02:00 {day}", "+%s")) for day in ("today", "tomorrow"))
    assert any(0 <= timer["next"] / 1e6 - begin <= 31 * 60 for begin in (first, last))

    names = "Type,TimeoutStartUSec,TimeoutStopUSec,MemoryMax,CPUQuotaPerSecUSec,PrivateTmp,OOMPolicy"
    shown = dict(
        line.split("=", 1) for line in nixos.run("systemctl", "show", f"--property={names}", SERVICE).splitlines()
    )
    assert shown == {
        "Type": "oneshot",
        "TimeoutStartUSec": "4h",
        "TimeoutStopUSec": "5min",
        "MemoryMax": str(2 << 30),
        "CPUQuotaPerSecUSec": "500ms",
        "PrivateTmp": "yes",
        "OOMPolicy": "continue",
    }


# Writes down what it is called with; it stands where Ansible is, because the way there is what is tested.
RECORDER = f"""\
#!/run/current-system/sw/bin/python3
import json, os, sys
with open("{FILES}/recorded.json", "w") as file:
    json.dump({{"argv": sys.argv[1:], "environment": dict(os.environ)}}, file)
"""
HOSTILE = [
    "--extra-vars",
    "a=$HOME %h %% ${PATH}",
    "quoted \"twice\" \\ and 'once'",
    "; touch /tmp/owned",
    "{{ 7*7 }}",
    "",
]


def test_all_that_was_set_reaches_ansible_word_for_word(nixos: Nixos, loaded: dict[str, str]):
    nixos.lab.write(BUILDER, f"{FILES}/bin/ansible-playbook", RECORDER)
    nixos.run("chmod", "+x", f"{FILES}/bin/ansible-playbook")
    nix = "[ " + " ".join(json.dumps(word).replace("${", "\\${") for word in HOSTILE) + " ]"
    text = nixos.unit(
        SERVICE,
        f"""
          services.lab-auto-update = {{
            enable = true;
            inventory = [ "/etc/nixos/lab" "/etc/nixos/my hosts.yml" ];
            limits = [ "infrastructure" "!nas" ];
            flakePath = "/srv/flake";
            autoReboot = false;
            startTimeout = 7200;
            extraArguments = {nix};
            onFailure = [ "mail-owner.service" ];
            package = {{ type = "derivation"; name = "recorder"; outPath = "{FILES}"; }};
          }};
        """,
    )
    assert settings(text)["OnFailure"] == ["mail-owner.service"]
    load(nixos, loaded, {SERVICE: text})
    nixos.run("systemctl", "start", SERVICE)
    recorded = json.loads(nixos.lab.read(BUILDER, f"{FILES}/recorded.json") or "")
    playbook, *argv = recorded["argv"]
    assert playbook == "homelab.nixos.nightly"
    assert argv[:4] == ["--inventory", "/etc/nixos/lab", "--inventory", "/etc/nixos/my hosts.yml"]
    assert argv[4] == "--extra-vars"
    assert json.loads(argv[5]) == {"lab_deadline": 6900, "lab_flake": "/srv/flake", "lab_reboot": "never"}
    assert argv[6:] == ["--limit", "infrastructure,!nas", *HOSTILE]
    environment = recorded["environment"]
    assert environment["PATH"].split(":")[0] == "/run/wrappers/bin"
    assert environment["ANSIBLE_LOG_PATH"] == "/var/log/lab-auto-update/ansible.log"
    assert nixos.lab.read(BUILDER, environment["ANSIBLE_CONFIG"]) == (ROOT / "ansible.cfg").read_text()
    # nothing of the repository but what a night runs
    source = environment["ANSIBLE_CONFIG"].rpartition("/")[0]
    assert set(nixos.run("ls", source).split()) == {
        *("LICENSE", "ansible.cfg", "collections", "galaxy.yml", "meta", "playbooks", "plugins", "roles")
    }


def test_a_night_that_the_unit_starts_builds_by_sudo_and_nix_and_updates_a_host_by_ssh(
    nixos: Nixos, loaded: dict[str, str]
):
    nixos.lab.move()
    text = nixos.unit(
        SERVICE,
        f"""
          services.lab-auto-update = {{
            enable = true;
            inventory = [ "{PLACE}/inventory.json" ];
            limits = [ "{HOST}" ];
            package = {{ type = "derivation"; name = "ansible"; outPath = "{PLACE}"; }};
          }};
        """,
    )
    load(nixos, loaded, {SERVICE: text})
    before = nixos.run("readlink", "-f", "/run/current-system", host=HOST)
    nixos.run("systemctl", "start", "--no-block", SERVICE)
    until(lambda: nixos.lab.run(BUILDER, ["systemctl", "is-active", SERVICE]).stdout.strip() != "activating", 300)
    said = nixos.lab.journal(BUILDER, "--unit", SERVICE, "--output=cat")
    result = nixos.run("systemctl", "show", "--property=Result,ExecMainStatus", SERVICE)
    assert set(result.splitlines()) == {"Result=success", "ExecMainStatus=0"}, said
    assert re.search(rf"^\s*{HOST}\s+updated\b", said, re.MULTILINE), said
    assert nixos.run("readlink", "-f", "/run/current-system", host=HOST) != before
    log = nixos.lab.read(BUILDER, "/var/log/lab-auto-update/ansible.log") or ""
    assert f"{HOST} " in log and "updated" in log


def test_a_user_of_its_own_is_made_and_has_no_way_to_root_on_the_controller(nixos: Nixos):
    configuration = CONTROLLER + 'services.lab-auto-update.user = "lab-auto-update";'
    user = nixos.config(configuration, "config.users.users.lab-auto-update")
    assert (user["isSystemUser"], user["group"]) == (True, "lab-auto-update")
    # that of a host is root's
    assert user["home"] == f"{STATE}-controller"
    text = nixos.unit(SERVICE, configuration)
    nixos.lab.write(BUILDER, f"{FILES}/{SERVICE}", text)
    nixos.run("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=40", f"{FILES}/{SERVICE}")
    unit = settings(text)
    assert (unit["User"], unit["NoNewPrivileges"]) == (["lab-auto-update"], ["true"])
    assert unit["CapabilityBoundingSet"] == [""]
    other = CONTROLLER + 'services.lab-auto-update.user = "alice"; users.users.alice.isNormalUser = true;'
    assert list(nixos.config(other, "config.users.users")) == ["alice", "root"]


# ---- a managed host ------------------------------------------------------------------------------------------------
def test_the_units_of_the_hosts_module_are_those_of_the_lab(nixos: Nixos):
    programs = {GUARD: ["nix", "jq", "util-linux"], RESUME: ["jq"]}
    scripts = {GUARD: "nix/boot-guard.sh", RESUME: "nix/resume.sh"}
    units = nixos.config(MANAGED, "config.made.units")
    assert set(units) == set(scripts)
    for name, script in scripts.items():
        own = nixos.lab.read(HOST, f"/etc/systemd/system/{name}")
        assert own is not None
        assert settings(own) == settings(units[name]["text"])
        assert units[name]["wantedBy"] == ["multi-user.target"]
        assert nixos.lab.read(HOST, f"/etc/systemd/system/multi-user.target.wants/{name}") is not None
        path = f"map (each: each.name) config.systemd.services.{name.removesuffix('.service')}.path"
        assert nixos.config(MANAGED, path) == programs[name]
        for host, text in ((HOST, own), (BUILDER, units[name]["text"])):
            (start,) = re.findall(r"^ExecStart=\S+/bash (\S+)$", text, re.MULTILINE)
            assert nixos.lab.read(host, start) == (ROOT / script).read_text()


BOOT = """
  {
    inherit (config.boot) kernelParams;
    limits = [
      config.boot.loader.systemd-boot.configurationLimit
      config.boot.loader.grub.configurationLimit
      config.boot.loader.generic-extlinux-compatible.configurationLimit
    ];
    counting = config.boot.loader.systemd-boot.bootCounting.enable or null;
    watchdog = config.systemd.settings.Manager.RuntimeWatchdogSec or config.systemd.watchdog.runtimeTime or null;
  }
"""


@pytest.mark.parametrize(("release", "counting"), [("24.11", None), ("25.11", None), ("26.05", None), ("26.11", True)])
def test_a_host_comes_back_from_a_boot_that_goes_wrong_as_far_as_its_release_can(
    nixos: Nixos, release: str, counting: bool | None
):
    loader = MANAGED + "boot.loader.systemd-boot.enable = true;"
    assert nixos.config(loader, BOOT, release) == {
        "kernelParams": ["panic=60"],
        "limits": [10, 10, 10],
        "counting": counting,
        "watchdog": "30s",
    }


def test_each_way_back_can_be_turned_off_and_yields_to_what_the_owner_says(nixos: Nixos):
    off = """
      services.lab-auto-update-host = {
        enable = true;
        configurationLimit = null;
        bootCounting = false;
        watchdog = null;
        panicTimeout = null;
      };
      boot.loader.systemd-boot.enable = true;
    """
    found = nixos.config(off, BOOT, "26.11")
    assert found == {"kernelParams": [], "limits": [None, 100, 20], "counting": False, "watchdog": None}
    own = """
      boot.loader.systemd-boot = { enable = true; configurationLimit = 5; bootCounting.enable = false; };
      systemd.settings.Manager.RuntimeWatchdogSec = "15s";
    """
    found = nixos.config(MANAGED + own, BOOT, "26.11")
    assert (found["limits"][0], found["counting"], found["watchdog"]) == (5, False, "15s")
    # GRUB does not count
    assert nixos.config(MANAGED, BOOT, "26.11")["counting"] is False


def test_a_host_has_a_python_and_a_user_whom_sudo_makes_root_and_nobody_else(nixos: Nixos):
    wanted = """
      {
        packages = map (each: { inherit (each) name; inherit (each.meta) priority; }) config.environment.systemPackages;
        inherit (config) users;
        inherit (config.made) sudoers;
        inherit (config.nix) settings;
      }
    """
    bare = nixos.config(MANAGED, wanted)
    assert bare["packages"] == [{"name": "python3", "priority": 10}]
    assert (list(bare["users"]["users"]), bare["sudoers"]) == (["root"], "")
    assert bare["settings"] == {"trusted-public-keys": [], "trusted-users": ["root"]}

    more = 'services.lab-auto-update-host = { trustedPublicKeys = [ "lab-1:x" ]; trustUser = true; };'
    found = nixos.config(MANAGED + KEY + more, wanted)
    user = found["users"]["users"]["lab-deploy"]
    assert user["openssh"]["authorizedKeys"]["keys"] == ["ssh-ed25519 AAAA controller"]
    assert (user["isSystemUser"], user["useDefaultShell"], user["extraGroups"]) == (True, True, [])
    assert found["settings"]["trusted-public-keys"] == ["lab-1:x"]
    assert set(found["settings"]["trusted-users"]) == {"root", "lab-deploy"}

    # what sudo itself makes of that rule
    lab = nixos.lab
    sudoers = lab.read(HOST, "/etc/sudoers") or ""
    nixos.run("useradd", "--system", "--create-home", "lab-deploy", host=HOST)
    try:
        lab.write(HOST, "/etc/sudoers", f"{sudoers}{found['sudoers']}\n")
        nixos.run("chmod", "440", "/etc/sudoers", host=HOST)
        as_user = ["runuser", "-u", "lab-deploy", "--", "/run/wrappers/bin/sudo", "-H", "-n", "-u"]
        assert nixos.run(*as_user, "root", "/bin/sh", "-c", "id -u", host=HOST) == "0"
        assert "password is required" in lab.run(HOST, [*as_user, "nobody", "true"]).stderr
    finally:
        lab.write(HOST, "/etc/sudoers", sudoers)
        nixos.run("chmod", "440", "/etc/sudoers", host=HOST)
        nixos.run("userdel", "--remove", "lab-deploy", host=HOST)

    root = nixos.config(MANAGED + KEY + 'services.lab-auto-update-host.user = "root";', wanted)
    assert (list(root["users"]["users"]), root["sudoers"]) == (["root"], "")
    assert root["users"]["users"]["root"]["openssh"]["authorizedKeys"]["keys"] == ["ssh-ed25519 AAAA controller"]
    wheel = nixos.config(MANAGED + KEY + "security.sudo.execWheelOnly = true;", wanted)
    assert wheel["users"]["users"]["lab-deploy"]["extraGroups"] == ["wheel"]


def test_notes_that_are_elsewhere_are_there_before_the_boot_guard_reads_them(nixos: Nixos):
    """As with / in memory: after the boot only what is elsewhere is left, and the guard finds it."""
    elsewhere = f'services.lab-auto-update-host.stateDirectory = "/persist{STATE}";'
    memory = 'fileSystems."/" = { device = "none"; fsType = "tmpfs"; };'
    lines = nixos.config(MANAGED + elsewhere + memory, "config.made.fstab").splitlines()
    assert len(lines) == 2
    lab = nixos.lab
    text = "{ torn\n"
    # it is not there when it is mounted for the first time
    lab.write(HOST, "/etc/fstab", f"{next(line for line in lines if 'bind' in line)}\n")
    nixos.run("systemctl", "daemon-reload", host=HOST)
    try:
        mount = nixos.run("systemd-escape", "--path", "--suffix=mount", STATE, host=HOST)
        nixos.run("systemctl", "start", mount, host=HOST)
        nixos.run("sh", "-c", f"echo '{text.strip()}' > {STATE}/transaction.json; sync", host=HOST)
        assert lab.read(HOST, f"/persist{STATE}/transaction.json") == text
        boots = lab.boots(HOST)
        lab.run(HOST, ["systemctl", "reboot"])
        until(lambda: lab.boots(HOST) > boots, 60)
        lab.wait_ready([HOST])
        until(lambda: "cannot be read" in lab.journal(HOST, "-b", f"--unit={GUARD}"), 30)
        # systemctl quotes what has a backslash
        needed = nixos.run("systemctl", "show", "--property=Requires", "--value", GUARD, host=HOST)
        assert mount.replace("\\", "\\\\") in needed
        # and the file system of what is mounted there comes first
        needed = nixos.run("systemctl", "show", "--property=RequiresMountsFor", "--value", mount, host=HOST)
        assert f"/persist{STATE}" in needed.split()
    finally:
        lab.write(HOST, "/etc/fstab", None)
        nixos.run("sh", "-c", f"umount {STATE}; rm -rf /persist; systemctl daemon-reload", host=HOST)


# ---- wrong values --------------------------------------------------------------------------------------------------
MEMORY = 'fileSystems."/" = { device = "none"; fsType = "tmpfs"; };'


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ("services.lab-auto-update.enable = true;", "services.lab-auto-update.inventory is empty"),
        (CONTROLLER + "services.lab-auto-update.startTimeout = 599;", "startTimeout is 599 seconds"),
        (CONTROLLER + "services.lab-auto-update.startTimeout = 0;", "`services.lab-auto-update.startTimeout' is not"),
        (CONTROLLER + 'services.lab-auto-update.schedule = " ";', "`services.lab-auto-update.schedule' is not of type"),
        (CONTROLLER + 'services.lab-auto-update.user = "alice";', "user is alice, who does not exist"),
        ('services.lab-auto-update = { enable = true; inventory = [ "lab" ]; };', "is not of type `absolute path'"),
        (CONTROLLER + "services.lab-auto-update.flakePath = ./.;", "`services.lab-auto-update.flakePath' is not"),
        (CONTROLLER + "services.lab-auto-update.logRetentionDays = -1;", "logRetentionDays' is not of type"),
        (CONTROLLER + "services.lab-auto-update.limit = [ ];", "`services.lab-auto-update.limit' does not exist"),
        (MANAGED + KEY + "security.sudo.enable = false;", "user is lab-deploy, who has to become root by sudo"),
        (MANAGED + "services.lab-auto-update-host.trustUser = true;", "nobody may log in as lab-deploy"),
        (MANAGED + MEMORY, f"{STATE} is on /, which is in memory"),
        (
            MANAGED + 'fileSystems."/".fsType = "ext4"; fileSystems."/var" = { fsType = "tmpfs"; };',
            f"{STATE} is on /var, which is in memory",
        ),
        (MANAGED + 'services.lab-auto-update-host.authorizedKeys = [ "a\\nb" ];', "authorizedKeys' is not of type"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_before_anything_is_built(nixos: Nixos, configuration: str, words: str):
    assert words in nixos.refusal(configuration)


def test_a_release_that_is_too_old_is_named(nixos: Nixos):
    assert "has ansible-core 2.17.6, and 2.19 is needed" in nixos.refusal(CONTROLLER, release="24.11")
    own = 'services.lab-auto-update.package = { type = "derivation"; name = "ansible"; outPath = "/srv/ansible"; };'
    assert "/srv/ansible/bin/ansible-playbook" in nixos.unit(SERVICE, CONTROLLER + own, release="24.11")
    old = '{ python3 = { type = "derivation"; name = "python3"; outPath = "/old"; pythonVersion = "3.10"; }; }'
    assert "python is Python 3.10, and 3.11 is needed" in nixos.refusal(MANAGED, pkgs=old)


@pytest.mark.parametrize("place", ["/var", "/var/lib", STATE])
def test_a_file_system_of_its_own_keeps_the_notes_of_a_root_in_memory(nixos: Nixos, place: str):
    kept = f'fileSystems."{place}" = {{ device = "/persist"; fsType = "none"; options = [ "bind" ]; }};'
    assert GUARD in nixos.config(MANAGED + MEMORY + kept, "builtins.attrNames config.made.units")
    mount = f'systemd.mounts = [ {{ where = "{place}"; }} ];'
    assert GUARD in nixos.config(MANAGED + MEMORY + mount, "builtins.attrNames config.made.units")
