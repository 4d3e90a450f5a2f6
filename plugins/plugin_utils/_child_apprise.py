# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A program: whether apprise understands URLs, or messages for one of them, one after the other. See C(_child.py)."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from typing import Any

# a message that a receiver takes offence at does not keep the next one from it; after two of them it is not there
_IN_A_ROW = 2
_SHOWN = 500


class _Listener(logging.Handler):
    """What apprise says, as far as it may tell why something was not delivered."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage()
        # the rest has the message in it, where hosts may have said anything
        if record.levelno >= logging.WARNING or words.startswith("Socket Exception"):
            self.said.append(words[:_SHOWN])


def main() -> None:
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    # whoever has started this may be gone by then
    signal.alarm(math.ceil(request["seconds"]) + 1)
    # what libraries print is no answer
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**told: Any) -> None:
        print(json.dumps(told), file=out, flush=True)

    import apprise

    listener = _Listener()
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(listener)
    asset = apprise.AppriseAsset(app_id="homelab.nixos", app_desc="Nightly updates of NixOS hosts")
    if "urls" in request:
        for url in request["urls"]:
            answer(understood=apprise.Apprise.instantiate(url, asset=asset) is not None)
        return
    service = apprise.Apprise(asset=asset)
    found = apprise.Apprise.instantiate(request["url"], asset=asset)
    if found is None:
        answer(not_understood=True)
        return
    service.add(found)
    failed = 0
    for message in request["messages"]:
        listener.said.clear()
        run_id = message.pop("run_id")
        try:
            delivered = bool(service.notify(**message))
        except Exception as error:  # of any kind: a library that misbehaves keeps no other message from being sent
            delivered = False
            listener.said.append(f"{type(error).__name__}: {error}"[:_SHOWN])
        answer(run_id=run_id, delivered=delivered, said=[] if delivered else listener.said)
        failed = 0 if delivered else failed + 1
        if failed == _IN_A_ROW:
            return


if __name__ == "__main__":
    main()
