"""Whatever a flake says: it is refused in one sentence, or it is an inventory that holds together."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._flake_inventory import Outputs, inventory
from hypothesis import event, given, settings
from hypothesis import strategies as st

# few names, so that they meet
names = st.sampled_from(["a", "b", "c", "x", "y-z", "y_z", "all", "no name"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
lists = st.lists(names, max_size=2, unique=True)
host = st.fixed_dictionaries(
    {}, optional={"stage": names, "tags": lists, "depends_on": lists, "managed": st.booleans(), "port": st.just(22)}
)
labs = st.fixed_dictionaries(
    {},
    optional={
        "stages": lists,
        "hosts": st.dictionaries(st.sampled_from(["a", "b", "c"]), host | anything, max_size=3),
        "vars": st.just({"w": 1}) | anything,
        "groups": st.dictionaries(names, st.just({"vars": {"v": 1}}), max_size=1),
    },
)
outputs = st.builds(Outputs, st.just(("a", "b")), labs | anything)


def safe(name: str) -> str:
    return re.sub(r"^[\d\W]|[^\w]", "_", name)


@settings(max_examples=400, deadline=None)
@given(outputs)
def test_an_inventory_holds_together_or_is_refused(given_outputs: Outputs):
    try:
        found = inventory(given_outputs, safe)
    except LabError as error:
        event("refused")
        assert error.what.endswith(".") and error.remedy
        return
    event("made")
    # nobody is lost, and nobody is made up but a machine that is not managed
    assert set(given_outputs.configurations) <= set(found.hosts)
    for name in set(found.hosts) - set(given_outputs.configurations):
        assert found.hosts[name]["lab_managed"] is False
    assert not {"all", "ungrouped", *found.hosts} & set(found.groups)
    for name in found.hosts:
        variables: dict[str, Any] = found.variables_of(name)
        groups = {group for group, has in found.groups.items() if name in has.hosts}
        stage = variables.get("lab_stage")
        assert stage is None or stage in variables["lab_stages"]
        assert groups == {safe(each) for each in [*([stage] if stage else []), *variables.get("lab_tags", [])]}
        assert set(variables.get("lab_depends_on", [])) <= {*found.hosts, *found.groups} - {name}
    for group in found.groups.values():
        assert set(group.hosts) <= set(found.hosts)
