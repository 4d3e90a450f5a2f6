# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A whole night as one record of the log. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._night import clipped, read

# a record is one line, and a datagram for the journal
_REASON_SHOWN = 500


def summary(result: Mapping[str, Any], optional: Collection[str] = ()) -> dict[str, Any]:
    """C(status), C(seconds) and C(details) of the record, from the result of the night.

    C(optional) are hosts of which nobody minds that they are off.
    """
    night = read(result, optional)
    moved = ((one["path"], one["after"]) for one in night.inputs)
    return {
        "status": night.verdict,
        "seconds": night.seconds,
        "details": {
            "failed": night.failed,
            "failure": night.failure,
            "began": night.began,
            "dry_run": night.dry_run,
            "outcomes": {host.name: host.word for host in night.hosts},
            "reasons": {host.name: clipped(host.reason, _REASON_SHOWN) for host in night.hosts if host.reason},
            "rebooted": [host.name for host in night.hosts if host.rebooted],
            "durations": dict(night.durations),
            "inputs": [
                {"path": path, "last_modified": after["last_modified"] if after else None} for path, after in moved
            ],
        },
    }
