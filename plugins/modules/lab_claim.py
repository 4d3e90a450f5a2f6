#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_claim
short_description: Say on a host who is changing it, and how far they got
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Takes, renews and releases the transaction of a host, a note in C(/var/lib/lab-auto-update) by which one run at a
    time changes it. The note survives a reboot of the host and the death of the controller.
  - The holder is a run of a controller. Taking what one holds already is no change.
  - A transaction ends by itself at the bound of the step in progress. Whoever comes next settles what is left before
    they take the host, by what the host shows.
  - A note that cannot be read is somebody's, and is never taken for nobody's.
options:
  state:
    description:
      - V(taken) makes this run the holder, or fails and tells in RV(held_by) who is.
      - V(renewed) moves the end of the transaction, and tells which O(step) begins.
      - V(settled) brings what a run left that did not end to exactly one outcome, and lets go of the host. One whose
        time is not up is its holder's, and makes this fail as with V(taken).
      - V(released) ends the transaction, which becomes the last one.
      - V(noted) tells the host's log how this run ended for it, where that was not told when it was released. With
        O(deferral), it is counted that the host asked not to be touched, once per run; the count ends with an outcome
        of V(updated), V(pending) or V(unchanged). The host need not be this run's, and stays whose it is.
    type: str
    choices: [taken, renewed, settled, released, noted]
    default: taken
  run_id:
    description: The run, 1 to 64 letters, digits, dots, dashes and underscores.
    type: str
    required: true
  controller:
    description:
      - The controller, 1 to 64 printable ASCII characters without spaces; its machine id when it is not set,
        and its host name where it has none.
      - Set it where controllers have no machine id, or share one, such as containers and copied machines.
    type: str
  seconds:
    description:
      - What comes next takes so long at most, in seconds, 1 to 86400.
      - With O(state=settled), what each activation on the way may take.
    type: int
    default: 600
  step:
    description: With O(state=renewed), the step that begins.
    type: str
    choices: [claimed, activation, verification, commit, reboot, reboot_verification, rollback]
  guard_seconds:
    description: With O(state=renewed), how long after its own start the boot guard waits for a confirmation.
    type: int
  resume:
    description:
      - With O(state=renewed) and O(step=reboot), what the host runs at its next boot to finish the night, because its
        controller goes down with it. JSON of an object with C(argv), C(environment) and C(night).
      - Filled in by the action plugin of M(homelab.nixos.nixos_reboot).
    type: str
  outcome:
    description: With O(state=released) or O(state=noted), how it ended.
    type: str
    choices: [updated, pending, unchanged, deferred, held, unreachable, failed, rolled_back, rollback_failed, lost]
  reason:
    description: With O(state=released) or O(state=noted), a sentence for people that says why.
    type: str
    default: ""
  deferral:
    description: With O(state=noted), whether the host asked not to be touched.
    type: bool
    default: false
  rebooted:
    description: With O(state=released), whether the host was rebooted, for its log.
    type: bool
    default: false
  remember:
    description:
      - With O(state=released), whether the target of the transaction is one that failed on this host.
      - A target whose outcome is V(updated) or V(pending) is forgotten as such.
    type: bool
    default: false
  proven:
    description:
      - With O(state=renewed) or O(state=released), whether the running system passed verification. A GC root keeps it,
        C(/nix/var/nix/gcroots/lab-auto-update/proven).
    type: bool
    default: false
  patience:
    description:
      - How long, in seconds, the host is asked again, each time over a new connection, when the connection to it was
        lost or cannot be made.
      - Nobody knows then whether the first question arrived. Taking, renewing and releasing once more, by the same
        run, is no change, so asking again is right.
    type: int
    default: 0
  controller_name:
    description: The controller's host name, for people. Filled in by the action plugin.
    type: str
  process:
    description: The process of the run on the controller. Filled in by the action plugin.
    type: dict
  dead_run:
    description: A run of the same controller that is known to be dead. Filled in by the action plugin.
    type: str
requirements:
  - NixOS with Python 3.11 or newer
attributes:
  check_mode:
    support: full
    description: Says whether it would succeed, and writes nothing.
  diff_mode:
    support: none
    description: Has nothing to show.
  platform:
    support: full
    platforms: linux
    description: NixOS.
  action:
    support: full
    description: Tells the host which controller and which process it is that asks.
notes:
  - Run it with C(become).
"""

EXAMPLES = r"""
- name: Take the host
  homelab.nixos.lab_claim:
    run_id: 20261122T020000Z-7f3a
    seconds: 900
  become: true

- name: Say that the reboot begins
  homelab.nixos.lab_claim:
    state: renewed
    run_id: 20261122T020000Z-7f3a
    step: reboot
    seconds: 1200
    guard_seconds: 300
  become: true

- name: Note that it did not want to be touched
  homelab.nixos.lab_claim:
    state: noted
    run_id: 20261122T020000Z-7f3a
    outcome: deferred
    deferral: true
    reason: kim (pts/0, from 192.0.2.7) is logged in.
  become: true
  register: asked

- name: Warn when that happens every night
  ansible.builtin.debug:
    msg: "Left alone for {{ asked.deferrals.nights }} nights."
  when: asked.deferrals.nights >= 3

- name: Let go of the host
  homelab.nixos.lab_claim:
    state: released
    run_id: 20261122T020000Z-7f3a
    outcome: rolled_back
    reason: The service web.service is failed.
    remember: true
  become: true
"""

RETURN = r"""
transaction:
  description: The transaction as it is now, V(null) when the host is nobody's.
  returned: success, but for O(state=noted)
  type: dict
  contains:
    version:
      description: The version of this note.
      type: int
    controller:
      description: The controller whose run holds the host.
      type: str
    controller_name:
      description: Its host name, for people.
      type: str
    run_id:
      description: The run that holds the host.
      type: str
    process:
      description: The run's process on the controller, or V(null).
      type: dict
    since:
      description: When it was taken, in seconds since 1970 by the clock of the host.
      type: int
    deadline:
      description: When it ends at the latest.
      type: int
    step:
      description: The step in progress.
      type: str
    boot_id:
      description: The boot of the host in which the step began.
      type: str
    from:
      description: The system that the host comes from and returns to, or V(null) as long as nothing was activated.
      type: str
    target:
      description: The system wanted, or V(null).
      type: str
    failed_units:
      description: The units that were failed before.
      type: list
      elements: str
    verified:
      description: Whether the target passed verification.
      type: bool
    guard_seconds:
      description: How long after its start the boot guard waits, or V(null).
      type: int
    guard_until:
      description: Until when the boot guard waits, in seconds of C(/proc/uptime), or V(null).
      type: float
  sample:
    boot_id: 5c5b9cf9-0a3c-4a57-9b1e-1f2d8a1c2b3d
    controller: 3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d
    controller_name: controller
    deadline: 1795313100
    failed_units: []
    from: null
    guard_seconds: null
    guard_until: null
    process:
      boot_id: 0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09
      pid: 4711
      pid_namespace: 4026531836
      start: 885421
    run_id: 20261122T020000Z-7f3a
    since: 1795312200
    step: claimed
    target: null
    verified: false
    version: 1
outcome:
  description: With O(state=settled), how the run ended that had left the host, V(null) when there was none.
  returned: with O(state=settled)
  type: str
  sample: rolled_back
reason:
  description: With O(state=settled), a sentence for people that says why.
  returned: with O(state=settled)
  type: str
  sample: Run 20261122T020000Z-7f3a ended at step claimed, before anything was activated.
left_by:
  description: With O(state=settled), the transaction that was left, as in RV(transaction), or V(null).
  returned: with O(state=settled)
  type: dict
deferrals:
  description: The nights in a row in which the host asked not to be touched, V(null) when there are none.
  returned: with O(state=noted)
  type: dict
  contains:
    nights:
      description: How many they are; a run counts once.
      type: int
    since:
      description: When the first of them was counted, in seconds since 1970 by the clock of the host.
      type: int
    reason:
      description: Why the host was not touched in the last of them.
      type: str
    run_id:
      description: The last of them.
      type: str
  sample:
    nights: 2
    reason: kim (pts/0, from 192.0.2.7) is logged in.
    run_id: 20261122T020000Z-7f3a
    since: 1795226700
held_by:
  description: The transaction of the run that holds the host, as in RV(transaction).
  returned: when another run holds it
  type: dict
  sample:
    boot_id: 5c5b9cf9-0a3c-4a57-9b1e-1f2d8a1c2b3d
    controller: laptop
    controller_name: laptop
    deadline: 1795313100
    failed_units: []
    from: null
    guard_seconds: null
    guard_until: null
    process: null
    run_id: 20261122T015500Z-a1b2
    since: 1795312200
    step: claimed
    target: null
    verified: false
    version: 1
"""

from ansible_collections.homelab.nixos.plugins.module_utils import _claim, _controller_side, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule
from ansible_collections.homelab.nixos.plugins.module_utils._state import State


def main() -> None:
    module = LabModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["taken", "renewed", "settled", "released", "noted"],
                "default": "taken",
            },
            "run_id": {"type": "str", "required": True},
            "controller": {"type": "str"},
            "seconds": {"type": "int", "default": 600},
            "step": {"type": "str", "choices": list(_transaction.STEPS)},
            "guard_seconds": {"type": "int"},
            # the settings of an owner are in it, and the journal of the host is not the place for them
            "resume": {"type": "str", "no_log": True},
            "outcome": {"type": "str", "choices": list(_claim.OUTCOMES)},
            "reason": {"type": "str", "default": ""},
            "deferral": {"type": "bool", "default": False},
            "rebooted": {"type": "bool", "default": False},
            "remember": {"type": "bool", "default": False},
            "proven": {"type": "bool", "default": False},
            "patience": {"type": "int", "default": 0},
            "controller_name": {"type": "str"},
            "process": {"type": "dict"},
            "dead_run": {"type": "str"},
        },
        required_if=[("state", "released", ("outcome",)), ("state", "noted", ("outcome",))],
        supports_check_mode=True,
    )
    params = module.params
    state = State()
    state.log.warn = module.warn
    try:
        _controller_side.refuse("lab_claim", params, ["patience"])
        who = _claim.claimant(params, module.check_mode)
        run = door(module)
        ending = _claim.ending(params)
        if params["state"] == "taken":
            result = _claim.take(run, state, who)
        elif params["state"] == "renewed":
            result = _claim.renew(
                *(run, state, who),
                *(params["step"], params["guard_seconds"], params["proven"], params["resume"]),
            )
        elif params["state"] == "settled":
            result = _claim.settle(run, state, who)
        elif params["state"] == "noted":
            result = _claim.note(state, who, ending, params["deferral"])
        else:
            result = _claim.release(run, state, who, ending)
    except LabError as error:
        module.fail_json(msg=str(error), **error.data)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
