# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A program: something is posted to a URL, once more if that fails. See C(_child.py)."""

from __future__ import annotations

import json
import math
import signal
import sys


def main() -> None:
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    signal.alarm(math.ceil(request["seconds"]) + 1)

    from ansible.module_utils.urls import open_url

    said = []
    for _attempt in range(request["attempts"]):
        try:
            open_url(
                request["url"],
                method="POST",
                data=request["data"],
                headers={"Content-Type": "text/plain; charset=utf-8"},
                timeout=request["patience"],
                http_agent="homelab.nixos",
                # the page to which a stranger is sent is no answer
                follow_redirects="none",
                use_netrc=False,
            ).close()
        except Exception as error:  # whatever it is, the next attempt may succeed, and the last one is told
            code = getattr(error, "code", None)
            said.append(f"error={code}" if isinstance(code, int) else f"{type(error).__name__}: {error}")
        else:
            said = []
            break
    print(json.dumps({"delivered": not said, "said": said}))


if __name__ == "__main__":
    main()
