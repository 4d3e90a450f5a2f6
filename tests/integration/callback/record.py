"""Write what a task returned to the file $RECORD, as it was returned: what Ansible prints leaves things out."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "record"

    def _record(self, result: Any, failed: bool, unreachable: bool) -> None:
        with open(os.environ["RECORD"], "w", encoding="utf-8") as file:
            json.dump({**result._result, "failed": failed, "unreachable": unreachable}, file)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._record(result, False, False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._record(result, True, False)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._record(result, False, True)
