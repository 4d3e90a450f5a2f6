"""The order of the rollout."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._plan import batches


def hosts(**stages: str) -> list[dict[str, str]]:
    return [{"name": name, "stage": stage} for name, stage in stages.items()]


def test_stages_follow_their_order_and_hosts_that_of_the_inventory():
    fleet = hosts(dns="critical", web="infra", dev="dev", nas="infra", laptop="")
    assert batches(fleet, ["dev", "infra", "critical"], 2) == [["dev"], ["web", "nas"], ["dns"], ["laptop"]]


def test_a_batch_is_never_larger_than_said_and_never_holds_two_stages():
    assert batches(hosts(a="x", b="x", c="x", d="y"), ["x", "y"], 2) == [["a", "b"], ["c"], ["d"]]


def test_no_hosts_no_batches():
    assert batches([], ["dev"], 1) == []


def test_an_unknown_stage_is_named_with_its_host():
    with pytest.raises(LabError, match=r"lab_stage of web is 'infar', which lab_stages \(dev, infra\) does not name"):
        batches(hosts(web="infar"), ["dev", "infra"], 1)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_without_hosts_is_refused(size):
    with pytest.raises(LabError, match=f"lab_batch is {size}"):
        batches(hosts(web=""), [], size)
