# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whom to ask whether a host is gone, or the controller sees nobody. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD

# one may have gone for reasons of its own
MOST = 3


def witnesses(nights: Mapping[str, Mapping[str, Any]], batch: Collection[str], others: Sequence[str] = ()) -> list[str]:
    """Up to three hosts that answered tonight, are not changed just now, and did not end badly.

    Those that nobody has changed tonight come first. C(nights) has, for each host, C(seen), C(began) and C(outcome);
    C(others) are hosts that take no part in the night.
    """
    well = [
        host
        for host, night in nights.items()
        if night.get("seen")
        and host not in batch
        and not (night.get("began") and night.get("outcome") in BAD)
        # it always reaches itself
        and not ((night.get("evidence") or {}).get("probe") or {}).get("is_controller")
    ]
    apart = [host for host in others if host not in nights]
    return [*apart, *sorted(well, key=lambda host: bool(nights[host].get("began")))][:MOST]
