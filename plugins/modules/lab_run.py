#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Nothing of it runs on a host: it is plugins/action/lab_run.py.

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_run
short_description: Check the settings of a night, and let one night at a time go on
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - The first and the last step of a night. Everything happens on the controller, and no host is contacted.
  - All that is wrong with the settings is told at once, with the hosts, the setting, its value and what to do.
  - A variable whose name is close to a setting's is an error, other names that begin with C(lab_) are one warning.
    Looked at are the names of all variables of O(hosts), of the play and of C(-e), and no value but those in O(hosts).
  - A run is noted in C(run.json) in the state directory of the controller. While its process lives, no other run begins
    there. A run that was killed, or ended with its machine, is not in anybody's way.
  - Of a process on another machine or in another container nobody can tell whether it lives. It is warned of, and the
    claims on hosts keep the two apart, see M(homelab.nixos.lab_claim). So they do where the default directory cannot be
    written. One that was set and cannot be written is an error.
options:
  state:
    description:
      - V(open) checks the settings and notes that this run is going on, unless another one is.
      - V(check) checks the settings and nothing else.
      - V(close) says that the run is over.
    type: str
    choices: [open, check, close]
    default: open
  hosts:
    description:
      - All hosts of the night, by their names in the inventory, each with all settings as the role homelab.nixos.update
        has them. Required unless O(state=close).
    type: dict
  run_id:
    description: With O(state=close), the RV(id) of the run.
    type: str
  lock:
    description: With O(state=close), the RV(lock) of the run.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Does the same, so that a dry run and a night do not meet.
  diff_mode:
    support: none
    description: Has nothing to show.
  platform:
    support: full
    platforms: linux
    description: The controller.
  action:
    support: full
    description: All of it.
"""

EXAMPLES = r"""
- name: Check all settings, and begin the run
  homelab.nixos.lab_run:
    hosts:
      web: "{{ settings_of_web }}"
  run_once: true
  register: run

- name: End the run
  homelab.nixos.lab_run:
    state: close
    run_id: "{{ run.id }}"
    lock: "{{ run.lock }}"
  run_once: true
"""

RETURN = r"""
id:
  description: The name of the run, empty with O(state=check).
  returned: with O(state=open) or O(state=check)
  type: str
  sample: 20261122T020000Z-7f3a
began:
  description: When it began, in seconds since 1970.
  returned: with O(state=open) or O(state=check)
  type: float
  sample: 1795312800.25
lock:
  description: Where it is noted, empty where it could not be, and with O(state=check).
  returned: with O(state=open) or O(state=check)
  type: str
  sample: /var/lib/lab-auto-update/run.json
shared:
  description: The settings of which there is one for the night.
  returned: with O(state=open) or O(state=check)
  type: dict
  sample:
    lab_batch: 2
    lab_flake_host: builder
seconds:
  description: How long the turn of each host may take, by its settings.
  returned: with O(state=open) or O(state=check)
  type: dict
  sample:
    web: 4410
held_by:
  description: The run that is going on.
  returned: when another run is
  type: dict
  contains:
    version:
      description: The version of the note.
      type: int
    run_id:
      description: The name of the run.
      type: str
    controller:
      description: The name under which its controller claims hosts.
      type: str
    controller_name:
      description: The host name of its controller, for people.
      type: str
    machine:
      description: The machine id of its controller, or empty.
      type: str
    process:
      description: The run's main process, V(null) where it has no identity.
      type: dict
    began:
      description: When it began, in seconds since 1970.
      type: int
    log:
      description: Where its words can be read, or empty.
      type: str
    command:
      description: Its command line, without the values of extra variables.
      type: str
  sample:
    began: 1795312800
    command: /usr/bin/python3 /usr/bin/ansible-playbook nightly.yml
    controller: 3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d
    controller_name: tower
    log: /var/log/nightly.log
    machine: 3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d
    process:
      boot_id: 0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09
      pid: 4711
      pid_namespace: 4026531836
      start: 885421
    run_id: 20261122T020000Z-7f3a
    version: 1
"""
