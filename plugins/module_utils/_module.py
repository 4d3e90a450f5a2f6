# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module that all of ours are: what leaves the host has no secret in it.

Redaction on the controller would come too late: at C(-vvv), ssh shows what a module has printed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact, redacted


class LabModule(AnsibleModule):
    """It returns no option that is C(unshown), and leaves results as they are that are C(whole), used and not read."""

    def __init__(self, *, unshown: Collection[str] = (), whole: Collection[str] = (), **rest: Any) -> None:
        self._unshown = unshown
        self._whole = whole
        super().__init__(**rest)

    def exit_json(self, **result: Any) -> None:
        super().exit_json(**self._told(result))

    def fail_json(self, msg: str, **result: Any) -> None:
        super().fail_json(redact(str(msg)), **self._told(result))

    def warn(self, warning: str, **rest: Any) -> None:
        super().warn(redact(warning), **rest)

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        arguments = {name: redacted(value) for name, value in self.params.items() if name not in self._unshown}
        told = {name: value if name in self._whole else redacted(value) for name, value in result.items()}
        return {**told, "invocation": {"module_args": arguments}}
