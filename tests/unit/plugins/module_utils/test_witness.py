"""Whom to ask whether a host is gone."""

from ansible_collections.homelab.nixos.plugins.module_utils._witness import witnesses

NIGHTS = {
    "dev": {"seen": True, "began": True, "outcome": "updated"},
    "web": {"seen": True, "began": True, "outcome": "rolled_back"},
    "nas": {"seen": True, "began": False, "outcome": "lost"},
    "dns": {"seen": True, "began": False, "outcome": "deferred"},
    "off": {"seen": False, "began": False, "outcome": "unreachable"},
}


def test_the_untouched_come_first_and_the_batch_the_bad_and_the_absent_not_at_all():
    assert witnesses(NIGHTS, ["dns"]) == ["nas", "dev"]
    assert witnesses(NIGHTS, ["nas", "dns"], ["builder"]) == ["builder", "dev"]
    assert witnesses({host: NIGHTS[host] for host in ("web", "off")}, []) == []


def test_there_are_several_where_there_can_be_and_a_host_of_the_night_is_asked_as_such():
    assert witnesses(NIGHTS, [], ["builder"]) == ["builder", "nas", "dns"]
    assert witnesses(NIGHTS, ["nas"], ["nas"]) == ["dns", "dev"]
