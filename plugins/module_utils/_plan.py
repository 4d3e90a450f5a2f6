# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which order, and with how many at once, hosts are updated. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def batches(hosts: Sequence[Mapping[str, str]], stages: Sequence[str], size: int) -> list[list[str]]:
    """Batches of at most C(size) hosts, none across two stages, the stages in the order of C(stages).

    C(hosts) have a C(name) and a C(stage), and are in the order of the inventory, which is kept within a stage. A host
    without a stage, C(""), comes after all others.
    """
    if size < 1:
        raise LabError(f"lab_batch is {size}.", "It is the number of hosts that go at once, at least 1.")
    for host in hosts:
        if host["stage"] and host["stage"] not in stages:
            known = ", ".join(stages) or "empty"
            raise LabError(
                f"lab_stage of {host['name']} is {host['stage']!r}, which lab_stages ({known}) does not name.",
                "Add it to lab_stages where it belongs in the order, or correct it.",
            )
    planned: list[list[str]] = []
    for stage in dict.fromkeys([*stages, ""]):
        names = [host["name"] for host in hosts if host["stage"] == stage]
        planned += [names[begin : begin + size] for begin in range(0, len(names), size)]
    return planned
