"""Whom to ask whether a host is gone."""

from ansible_collections.homelab.nixos.plugins.module_utils._outcome import nobody
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


def test_a_controller_does_not_ask_itself_whether_it_is_blind():
    itself = {"seen": True, "began": False, "outcome": "lost", "evidence": {"probe": {"is_controller": True}}}
    assert witnesses({**NIGHTS, "tower": itself}, ["dns"]) == ["nas", "dev"]
    gone = {"failed": True, "connection_lost": True}
    assert nobody([gone, {"is_controller": True}])
    assert not nobody([gone, {"is_controller": False}])
    assert not nobody([{"is_controller": True}])
    assert not nobody([])
