#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_log
short_description: Write a record into the log of the updates
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Appends one record to C(/var/log/lab-auto-update.log), a file of JSON Lines, and tells the journal of it, where it
    has the fields C(LAB_RUN_ID), C(LAB_OPERATION), C(LAB_STATUS) and C(LAB_RECORD).
  - What M(homelab.nixos.lab_claim) does on a host is in its log by itself. This one is for what is told of a whole
    night.
options:
  run_id:
    description: The run, 1 to 64 letters, digits, dots, dashes and underscores.
    type: str
    required: true
  operation:
    description: What was done.
    type: str
    required: true
  status:
    description: How that ended.
    type: str
    required: true
  seconds:
    description: How long it took.
    type: float
  details:
    description: Whatever else is to be known of it, plain values.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Writes nothing.
  diff_mode:
    support: none
    description: Has nothing to show.
  platform:
    support: full
    platforms: linux
    description: NixOS, or a controller.
  action:
    support: full
    description: Makes a lost connection a result.
notes:
  - Run it with C(become).
"""

EXAMPLES = r"""
- name: Write down that the owner has been there
  homelab.nixos.lab_log:
    run_id: by-hand
    operation: visit
    status: ok
  become: true
"""

RETURN = r"""
path:
  description: The path of the log.
  returned: success
  type: str
  sample: /var/log/lab-auto-update.log
"""

from ansible_collections.homelab.nixos.plugins.module_utils import _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule
from ansible_collections.homelab.nixos.plugins.module_utils._state import State


def main() -> None:
    module = LabModule(
        argument_spec={
            "run_id": {"type": "str", "required": True},
            "operation": {"type": "str", "required": True},
            "status": {"type": "str", "required": True},
            "seconds": {"type": "float"},
            "details": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    state = State()
    state.log.warn = module.warn
    try:
        run_id = _transaction.checked_run_id(params["run_id"])
        if not module.check_mode:
            told = (params["operation"], params["status"], params["seconds"], params["details"])
            state.log.write(state.record(run_id, *told))
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)
    module.exit_json(changed=True, path=state.log.path)


if __name__ == "__main__":
    main()
