#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Nothing of it runs on a host: it is plugins/action/lab_status.py.

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_status
short_description: Tell how a lab stands, and how its nights went
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Puts together what hosts say of themselves, see M(homelab.nixos.nixos_info), what the flake's host and this
    controller know of whole nights, and the timer of this controller. No host is contacted.
  - The settings of O(hosts) are read from their variables. Those with C(lab_managed=false) are left out.
  - Fails when none of O(hosts) has answered, and not because something is wrong with them.
options:
  state:
    description:
      - V(check) checks what is wanted before anybody is asked, and says what to ask.
      - V(told) tells.
    type: str
    choices: [check, told]
    default: told
  hosts:
    description: Their names in the inventory.
    type: list
    elements: str
    required: true
  looks:
    description:
      - By host, the result of M(homelab.nixos.nixos_info) with O(homelab.nixos.nixos_info#module:log); of the flake's
        host as well.
    type: dict
    default: {}
  since:
    description: From when on nights are counted, as V(12h), V(30d), V(4w) or the day V(2026-11-01).
    type: str
    default: 30d
  format:
    description: What RV(lab_text) is, V(table) or V(json); V(json) with O(query) in any case.
    type: str
    default: table
  query:
    description: A JMESPath expression over RV(status), whose result RV(lab_text) is.
    type: str
    default: ""
  output:
    description: A file on the controller that gets RV(lab_text), as a whole.
    type: str
    default: ""
requirements:
  - jmespath on the controller, for O(query)
attributes:
  check_mode:
    support: full
    description: Does the same.
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
- name: Ask the hosts
  homelab.nixos.nixos_info:
    log:
      since: "{{ now(utc=true).timestamp() - 30 * 86400 }}"
  become: true
  register: look
  failed_when: false

- name: Tell
  homelab.nixos.lab_status:
    hosts: "{{ ansible_play_hosts_all }}"
    looks: "{{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all | map('extract', hostvars, 'look'))) }}"
  run_once: true
"""

RETURN = r"""
status:
  description: How the lab stands, as C(docs/status.md) describes it.
  returned: with O(state=told)
  type: dict
lab_text:
  description: The same for people, or for programs, as O(format) and O(query) say.
  returned: with O(state=told), when a host has answered
  type: str
since:
  description: As it was given, like RV(format), RV(query) and RV(output), for the task that tells.
  returned: with O(state=check)
  type: str
  sample: 30d
format:
  description: As it was given.
  returned: with O(state=check)
  type: str
  sample: table
query:
  description: As it was given.
  returned: with O(state=check)
  type: str
  sample: ""
output:
  description: As it was given.
  returned: with O(state=check)
  type: str
  sample: ""
logs_since:
  description: How far back the logs are to be read, in seconds since 1970.
  returned: with O(state=check)
  type: float
  sample: 1792720800.0
hold_files:
  description: By the hosts that are to be asked, their C(lab_hold_file).
  returned: with O(state=check)
  type: dict
  sample:
    web: /var/lib/lab-auto-update/hold
flake_host:
  description: The host that has the flake.
  returned: with O(state=check)
  type: str
  sample: builder
elsewhere:
  description: The same where it is to be asked beside O(hosts), else empty.
  returned: with O(state=check)
  type: str
  sample: builder
"""
