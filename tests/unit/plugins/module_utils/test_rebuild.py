"""What nixos_rebuild says of an activation when everything it asks the host fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _rebuild, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._state import State

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"


def nothing_works(argv: Sequence[str], **_options: Any) -> Completed:
    return Completed(tuple(argv), 1, "", "error: no\n")


@pytest.mark.parametrize(
    ("step", "phase", "holder", "ending"),
    [
        ("claimed", "activate", "r1", "not_begun"),
        ("claimed", "follow", "r1", "not_begun"),
        # begun by the process whose connection was lost, and maybe live by now
        ("activation", "follow", "r1", "unknown"),
        ("activation", "activate", "r1", "unknown"),
        # somebody took the host over from that process
        ("rollback", "follow", "r2", "unknown"),
        ("rollback", "activate", "r2", "not_begun"),
    ],
)
def test_what_may_have_been_begun_is_never_called_untouched(
    tmp_path: Path, step: _transaction.Step, phase: _rebuild.Phase, holder: str, ending: str
):
    state = State(str(tmp_path / "lab"))
    note = _transaction.Transaction(
        "c", "c", holder, None, since=0, deadline=2**31, step=step, boot_id="b", origin=OLD, target=NEW
    )
    with state.locked():
        state.write(note)
    request = _rebuild.Request("test", system=NEW, controller="c", run_id="r1", phase=phase)
    with pytest.raises(LabError) as failure:
        _rebuild.perform(nothing_works, state, request)
    assert (failure.value.data["ending"], failure.value.data["changed"]) == (ending, ending == "unknown")
