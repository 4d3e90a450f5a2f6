# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module that all of ours are: what leaves the host has no secret in it.

Redaction on the controller would come too late: at C(-vvv), ssh shows what a module has printed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.nixos.plugins.module_utils._redact import (
    redact,
    redacted,
    redacted_results,
)


class LabModule(AnsibleModule):
    """It returns no option that is C(unshown) or C(no_log), and leaves results that are C(whole), used and not read."""

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
        # Ansible itself looks for their values, and would not find one that has changed here
        unshown = {*self._unshown, *(name for name, option in self.argument_spec.items() if option.get("no_log"))}
        arguments = {name: redacted(value) for name, value in self.params.items() if name not in unshown}
        whole = {name: result[name] for name in self._whole if name in result}
        return {**redacted_results(result), **whole, "invocation": {"module_args": arguments}}
