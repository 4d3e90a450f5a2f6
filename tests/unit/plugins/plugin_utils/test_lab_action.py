"""What the action plugins share."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _controller_side
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import patience_of


@pytest.mark.parametrize(("given", "expected"), [(None, 0), ("", 0), (0, 0), (60, 60), ("60", 60)])
def test_patience_is_taken_off_the_arguments(given: Any, expected: int):
    args = {"target": "/nix/store/x", "patience": given}
    assert patience_of(args) == expected
    assert args == {"target": "/nix/store/x"}
    assert patience_of(args) == 0


@pytest.mark.parametrize("given", [-1, "-1", "long", 1.5, [60], True])
def test_patience_that_is_none_is_refused(given: Any):
    with pytest.raises(LabError, match="patience is "):
        patience_of({"patience": given})


def test_a_module_alone_refuses_what_its_action_plugin_answers():
    _controller_side.refuse("nixos_info", {"patience": 0, "target": "x"}, ["patience"])
    with pytest.raises(LabError, match="patience is for the controller, and nixos_info was called without its action"):
        _controller_side.refuse("nixos_info", {"patience": 5}, ["patience"])
