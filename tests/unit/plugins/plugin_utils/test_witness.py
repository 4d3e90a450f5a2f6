"""Only who was there before can be missed. With real connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from ansible_collections.homelab.nixos.plugins.plugin_utils import _witness
from ansible_collections.homelab.nixos.plugins.plugin_utils._witness import Witness


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_host_is_a_witness_while_it_takes_connections(listener: socket.socket):
    port = listener.getsockname()[1]
    hostvars = {
        "gone": {"ansible_host": "127.0.0.1", "ansible_port": 1},
        "here": {"ansible_host": "127.0.0.1", "ansible_port": port},
    }
    found = _witness.answering(["gone", "here"], hostvars)
    assert found == [Witness("here", "127.0.0.1", port)]
    gone, here = _witness.known(["gone", "here"], hostvars)
    assert _witness.missing([gone, here]) == ""
    assert "cannot reach gone any more" in _witness.missing([gone])
    listener.close()
    assert "cannot reach gone, here any more" in _witness.missing([gone, here])


def test_where_nobody_answered_before_nobody_is_missed():
    assert _witness.answering(["gone"], {"gone": {"ansible_host": "127.0.0.1", "ansible_port": 1}}) == []
    assert _witness.missing([]) == ""


def test_a_host_without_an_address_is_asked_by_its_name_where_sshd_is():
    assert _witness.known(["web"], {"web": {}}) == [Witness("web", "web", 22)]
