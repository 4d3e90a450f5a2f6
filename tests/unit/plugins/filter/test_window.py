"""The filters window and check_seconds, as playbooks call them."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.filter.check_seconds import check_seconds
from ansible_collections.homelab.nixos.plugins.filter.window import window

# 2026-11-24 21:00 UTC
NOW = 1795554000


def test_a_window_tells_when_it_opens_and_closes():
    assert window("22:00-06:00 UTC", now=NOW) == {"open": False, "opens": NOW + 3600, "closes": NOW + 9 * 3600}
    assert window(["20:00-06:00 UTC"], now=str(NOW)) == {"open": True, "opens": None, "closes": NOW + 9 * 3600}
    assert window([]) == {"open": True, "opens": None, "closes": None}


def test_what_is_no_window_is_an_error_of_the_filter():
    with pytest.raises(AnsibleFilterError, match="lab_window has 'late'"):
        window("late")


def test_the_seconds_of_checks_add_up():
    tcp = {"name": "ssh", "kind": "tcp", "port": 22, "timeout": 1.5, "interval": 1}
    assert check_seconds([]) == 0
    assert check_seconds([tcp, {**tcp, "name": "more", "retries": 1}]) == 8
    with pytest.raises(AnsibleFilterError, match="lab_checks: the check ssh has port 0"):
        check_seconds([{**tcp, "port": 0}])
    with pytest.raises(AnsibleFilterError, match="the check page has json"):
        check_seconds([{"name": "page", "kind": "http", "url": "http://localhost", "json": "=="}])
