"""A name or a value that cannot be meant is told with its hosts, its value and the remedy, and all of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import _settings
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._settings import Host, Problem

ROOT = Path(__file__).parents[4]


def options(role: str, entry_point: str) -> dict[str, dict[str, Any]]:
    specification = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = specification["argument_specs"][entry_point]["options"]
    return found


OPTIONS = options("update", "open")
DEFAULTS = {name: option["default"] for name, option in OPTIONS.items()}
KNOWN = (*DEFAULTS, *_settings.OF_OTHER_PLAYBOOKS)

# what owners may call variables of their own
OWN = re.findall(
    r"\w+",
    """
    lab_address lab_admin lab_alert lab_arch lab_backup lab_backups lab_borg lab_branch lab_bridge lab_ca lab_cert
    lab_channel lab_children lab_cidr lab_class lab_cluster lab_color lab_contact lab_count lab_cpu lab_data lab_dataset
    lab_description lab_disk lab_disks lab_dns lab_domain lab_email lab_env lab_floor lab_gateway lab_gpu lab_grafana
    lab_group lab_groups lab_home lab_host lab_hostname lab_hosts lab_id lab_index lab_interface lab_ip lab_ipv6
    lab_kernel lab_key lab_keys lab_keymap lab_kind lab_lang lab_locale lab_location lab_login lab_loki lab_mac
    lab_machine lab_machines lab_mail lab_memory lab_mirror lab_monitoring lab_mtu lab_name lab_nas lab_network lab_nfs
    lab_notes lab_ntp lab_number lab_os lab_owner lab_parent lab_password lab_path lab_pool lab_port lab_power
    lab_prefix lab_prometheus lab_proxy lab_purpose lab_rack lab_ram lab_region lab_registry lab_repo lab_report
    lab_restic lab_result lab_role lab_roles lab_room lab_root lab_router lab_secret lab_service_port lab_shell lab_site
    lab_size lab_smb lab_snapshot lab_ssh_key lab_status lab_storage lab_subnet lab_suffix lab_swap lab_timezone
    lab_token lab_type lab_uplink lab_ups lab_url lab_user lab_users lab_version lab_vlan lab_vm lab_vms lab_vpn lab_zfs
    lab_zone lab_zones
    """,
)


def host(name: str = "web", /, **settings: Any) -> Host:
    managed: bool = settings.pop("managed", True)
    return Host(name, managed, DEFAULTS | settings)


def problems(*hosts: Host, inventory: tuple[str, ...] = ()) -> list[Problem]:
    return _settings.check_values(hosts, inventory)


def words(*hosts: Host, inventory: tuple[str, ...] = ()) -> str:
    return _settings.sentences(problems(*hosts, inventory=inventory), [each.name for each in hosts])


def mutations(name: str) -> Iterator[str]:
    """Every single slip: a character left out, put in, mistaken, or two that have changed places."""
    for at in range(len(name) + 1):
        for other in "aez_-9":
            yield name[:at] + other + name[at:]
            if at < len(name):
                yield name[:at] + other + name[at + 1 :]
        yield name[:at] + name[at + 1 :]
        if at + 1 < len(name):
            yield name[:at] + name[at + 1] + name[at] + name[at + 2 :]


# ---- names ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KNOWN)
def test_every_slip_in_a_name_is_caught_and_the_name_suggested(name: str):
    slips = set(mutations(name)) - set(KNOWN)
    assert len(slips) > 50
    for slip in slips:
        found, strangers = _settings.check_names({slip: ["web"]}, DEFAULTS)
        assert (len(found), strangers) == (1, []), slip
        assert found[0].hosts == ("web",)
        assert slip in found[0].what
        assert re.search(rf"Did you mean .*\b{name}\b.*\?", found[0].remedy), (slip, found[0].remedy)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lab_satge", "lab_stage"),
        ("lba_stage", "lab_stage"),
        ("labstage", "lab_stage"),
        ("lab-stage", "lab_stage"),
        ("LAB-MAX-BAD", "lab_max_bad"),
        ("lab_cofirm_timeuot", "lab_confirm_timeout"),
        ("lab_depend_son", "lab_depends_on"),
        ("lab_rolback_to", "lab_rollback_to"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(name: str, meant: str):
    found, _strangers = _settings.check_names({name: ["web", "dns"]}, DEFAULTS)
    assert [problem.hosts for problem in found] == [("web", "dns")]
    assert f"Did you mean {meant}?" in _settings.sentences(found, ["web", "dns", "nas"])


def test_variables_of_owners_are_one_warning_and_no_error():
    used = {name: ["web"] for name in (*OWN, "ansible_host", "stage", "my_stage", "labels", "inventory_hostname")}
    found, strangers = _settings.check_names(used, DEFAULTS)
    assert found == []
    assert strangers == sorted(OWN)
    assert all(name in _settings.strangers_sentence(strangers) for name in OWN)


def test_every_variable_of_ours_is_known():
    """Whoever gives playbooks or the role another variable adds it to those that are no settings."""
    files = [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]
    used = set()
    for file in files:
        text = re.sub(r"(?m)^\s*#.*$", "", file.read_text())
        # as a key, and in an expression; not names of modules, groups and files
        used |= set(re.findall(r"(?m)^ *(?:- )?(lab_\w+):", text))
        used |= set(re.findall(r"(?<![\w.'-])(lab_\w+)(?![\w'])", "".join(re.findall(r"\{\{.*?\}\}", text, re.DOTALL))))
    assert used > {"lab_night", "lab_rollback_to", "lab_stage"}
    assert _settings.check_names({name: ["web"] for name in used}, [*DEFAULTS, *options("controller", "main")]) == (
        [],
        [],
    )


# ---- values ---------------------------------------------------------------------------------------------------------
def test_the_defaults_can_be_meant():
    assert problems(host("web"), host("dns"), host("builder", managed=False)) == []


def test_every_number_has_bounds():
    assert _settings.BOUNDS.keys() == {name for name, option in OPTIONS.items() if option["type"] == "int"}


@pytest.mark.parametrize("name", _settings.BOUNDS)
def test_a_number_out_of_its_bounds_is_told_with_them(name: str):
    bounds = _settings.BOUNDS[name]
    assert bounds.low <= DEFAULTS[name]
    for value in [bounds.low - 1] + ([] if bounds.high is None else [bounds.high + 1]):
        found = [each for each in problems(host(**{name: value})) if each.what == f"{name} is {value}."]
        assert [(each.hosts, each.remedy) for each in found] == [(("web",), str(bounds))]
    for value in [bounds.low, *([] if bounds.high is None else [bounds.high])]:
        assert not [each for each in problems(host(**{name: value})) if each.what == f"{name} is {value}."]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"lab_commit": False, "lab_flake_push": True},
            "lab_commit is false, and lab_flake_pull or lab_flake_push is true: only commits can be pulled",
        ),
        (
            {"lab_commit": False, "lab_flake_pull": True},
            "lab_commit is false, and lab_flake_pull or lab_flake_push is true: only commits can be pulled",
        ),
        ({"lab_cache": "file:///srv/cache"}, "lab_delivery is push, so no host asks a cache. Set it to pull"),
        ({"lab_substituters": ["file:///srv"]}, "lab_delivery is push, so no host asks a cache. Set it to pull"),
        ({"lab_boot_confirm_timeout": 600}, "lab_boot_confirm_timeout is 600, and lab_reboot_timeout 600: a host"),
        ({"lab_stage": "dev"}, "lab_stage is 'dev', which lab_stages (empty) does not name. Add it to lab_stages"),
        ({"lab_stage": "b", "lab_stages": ["a", "c"]}, "lab_stage is 'b', which lab_stages (a, c) does not name."),
        ({"lab_critical_stages": ["b"], "lab_stages": ["a"]}, "lab_critical_stages has 'b', which lab_stages (a) does"),
        ({"lab_stages": ["a", "b", "a"]}, "lab_stages has 'a' more than once."),
        ({"lab_stages": ["all"]}, "lab_stages has 'all'. Name that stage otherwise: lab_max_bad means the whole run"),
        ({"lab_stages": [""]}, "lab_stages has ''. Name that stage otherwise: hosts without a stage come last"),
        (
            {"lab_flake_host": "biulder"},
            "lab_flake_host is 'biulder', which is not in the inventory. Did you mean builder?",
        ),
        ({"lab_flake_host": "nowhere"}, "lab_flake_host is 'nowhere', which is not in the inventory. Add it there"),
        ({"lab_deadline": 60}, "lab_deadline is 60, and a host's turn may take 5610 s: it would never begin. Raise"),
        ({"lab_mounts": ["/", "srv"]}, "lab_mounts has 'srv'. It is an absolute path."),
        ({"lab_state_directory": "state"}, "lab_state_directory has 'state'. It is an absolute path."),
        ({"lab_hold_file": "hold"}, "lab_hold_file has 'hold'. It is an absolute path."),
        (
            {"lab_alerts_url": "prometheus:9090"},
            "lab_alerts_url is prometheus:9090. It is an address that begins with http:// or https://",
        ),
        ({"lab_alerts_url": "http://u:ab/cd@mon:9090"}, "lab_alerts_url is http://***@mon:9090. It is an address"),
        ({"lab_silence_url": "http://u:pw@"}, "lab_silence_url is http://***@. It is an address that begins with"),
        ({"lab_silence_url": "http://mon itor"}, "lab_silence_url is http://mon itor. It is an address that begins"),
    ],
)
def test_what_cannot_be_meant_is_told_with_the_setting_its_value_and_the_remedy(settings: dict[str, Any], told: str):
    assert words(host(**settings), inventory=("web", "builder")).startswith(f"web: {told}")


@pytest.mark.parametrize(
    "settings",
    [
        {"lab_commit": False},
        {"lab_delivery": "pull", "lab_cache": "file:///srv/cache", "lab_substituters": ["file:///srv"]},
        {"lab_stage": "a", "lab_stages": ["a", "b"], "lab_critical_stages": ["b"]},
        {"lab_flake_host": "builder"},
        {"lab_deadline": 5610},
        {"lab_deadline": 3690, "lab_reboot": "never"},
        {"lab_canary": True},
        {"lab_state_directory": "~/state"},
        {"lab_alerts_url": "https://prometheus.lab"},
        {"lab_silence_url": "https://u:pw@alertmanager.lab:9093/am"},
    ],
)
def test_what_can_be_meant_is_nobodys_business(settings: dict[str, Any]):
    assert problems(host(**settings), inventory=("builder",)) == []


def test_a_canary_that_is_not_updated_is_a_contradiction():
    told = words(host(), host("dev", managed=False, lab_canary=True))
    assert told.startswith("dev: lab_canary is true, and lab_managed false: nothing would go before the others")


def test_a_stage_is_nobodys_of_whom_is_not_updated():
    assert problems(host(), host("builder", managed=False, lab_stage="nowhere")) == []


def test_a_night_without_hosts_is_none():
    told = words(host(managed=False), host("dns", managed=False))
    assert told.startswith("all hosts: No host is to be updated: lab_managed is false for web, dns. Correct --limit")


@pytest.mark.parametrize("name", _settings.ONE_FOR_THE_NIGHT)
def test_what_is_one_for_the_night_is_the_same_for_all(name: str):
    assert name in DEFAULTS
    other = host("dns", **{name: {"another": "value"}})
    found = list(_settings._differing([host("web"), host("nas"), other]))
    assert [(each.hosts, each.setting) for each in found] == [(("dns",), name)]
    assert found[0].what.startswith(f"Not the same for all hosts, though there is one for the night: {name}.")
    assert not list(_settings._differing([host("web"), host("nas")]))


def test_what_differs_is_told_with_the_values_of_all_and_no_token():
    told = words(host("web"), host("nas"), host("dns", lab_flake="/srv/other"))
    assert (
        "the night: lab_flake. It is /etc/nixos for web, nas and /srv/other for dns. Set it for the group all" in told
    )
    secret = {"lab_nix_options": {"access-tokens": "github.com=ghp_secret"}}
    assert "secret" not in words(host("web"), host("dns", **secret))
    assert "secret" not in words(host("web", lab_alerts_url="ftp://user:secret@prometheus"))


def test_everything_that_is_wrong_is_told_at_once_with_whose_it_is():
    bad = {"lab_settle": -1, "lab_commit": False, "lab_flake_push": True}
    told = words(host("web", **bad, lab_max_disk_percent=101), host("dns", **bad), host("nas", **bad))
    lines = told.splitlines()
    assert lines[0] == "3 settings cannot be meant, and no host was contacted."
    assert [line.split(":")[0] for line in lines[1:]] == ["web", "all hosts", "all hosts"]


def test_a_crowd_is_counted_and_not_listed():
    many = [host(f"host{number}", lab_settle=-1) for number in range(40)]
    assert words(*many, host("web")).startswith(
        "host0, host1, host2, host3, host4, host5, host6, host7 and 32 more: lab"
    )


def test_a_setting_with_a_language_of_its_own_is_judged_by_its_parser():
    def parse(value: object) -> None:
        if value != []:
            raise LabError(f"{value!r} is no window.", "Write it as 22:00-06:00.")

    hosts = [host(), host("dns", lab_window="at night"), host("nas", lab_window="at night")]
    names = [each.name for each in hosts]
    assert _settings.check_values(hosts[:1], names, {"lab_window": parse}) == []
    told = _settings.sentences(_settings.check_values(hosts, names, {"lab_window": parse}), names)
    assert told == "dns, nas: lab_window: 'at night' is no window. Write it as 22:00-06:00."
