# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The start and the end of a run are reported to whoever notices when they stop coming, as healthchecks does."""

from __future__ import annotations

from ansible_collections.homelab.nixos.plugins.module_utils import _notify
from ansible_collections.homelab.nixos.plugins.module_utils._notify import Ping
from ansible_collections.homelab.nixos.plugins.plugin_utils import _child

_ATTEMPTS = 2
_PATIENCE = 5.0
# for both, and for a server that says a byte now and then
SECONDS = 15.0


def ping(url: str, what: Ping, run_id: str, body: str = "", *, seconds: float = SECONDS) -> list[str]:
    """Report the start or the end of a run; what to warn of where that failed. It is not tried again later."""
    if not url:
        return []
    request = {
        "url": _notify.ping_url(url, what, run_id),
        "data": _notify.ping_data(body),
        "attempts": _ATTEMPTS,
        "patience": min(_PATIENCE, seconds / 3),
    }
    said, trouble = _child.ask("_child_post.py", request, seconds)
    if any(answer["delivered"] for answer in said):
        return []
    why = trouble or _notify.cause(words for answer in said for words in answer["said"])
    reported = {"start": "start", "success": "good end", "fail": "bad end"}[what]
    return [f"The {reported} of this run was not reported to lab_ping_url: {why}."]
