#!/usr/bin/python
# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Nothing of it runs on a host: it is plugins/action/lab_tell.py.

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_tell
short_description: Tell people and their tools how a night went
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Writes the record of the night into the controller's log, keeps its result, writes its page and the index of all
    nights, and the file for Prometheus. Then it sends messages, and reports the end of the run.
  - Nothing of it changes how the night ended. What cannot be written is a warning, and all else is written.
  - Everything happens on the controller, and no host is contacted.
options:
  result:
    description: The result of the night, RV(homelab.nixos.report#filter:_value) has it as V(result).
    type: dict
    required: true
  knows:
    description: By host, what M(homelab.nixos.nixos_info) has told of it last.
    type: dict
    default: {}
  hosts:
    description: All hosts that nights are for, also those that are not in this one. Those of the night if it is empty.
    type: list
    elements: str
    default: []
  optional:
    description: The hosts of which nobody minds that they are off.
    type: list
    elements: str
    default: []
  name:
    description: What the owner calls the lab.
    type: str
    default: ""
  state_directory:
    description: Where the controller keeps what it has to remember, as C(lab_state_directory).
    type: str
    default: ""
  report_directory:
    description:
      - Where results and pages are kept. It has to be there.
      - Without it, C(nights) in the state directory.
    type: str
    default: ""
  report_keep:
    description: How many nights are kept there.
    type: int
    default: 90
  metrics_directory:
    description: The directory of the textfile collector of Prometheus's node_exporter; none is written without it.
    type: str
    default: ""
  notify:
    description: Who is told, as C(lab_notify). What could not be delivered is kept for the next run.
    type: list
    elements: str
    default: []
  notify_on:
    description: Of which nights they are told.
    type: str
    choices: [always, on_change, on_reboot_or_error, on_error]
    default: on_reboot_or_error
  notify_timeout:
    description: How long it may take to tell all of them, in seconds.
    type: int
    default: 60
  ping_url:
    description: To whom the end of the run is reported, as C(lab_ping_url); to nobody when it is empty.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Writes the record of the log, which says that it was a dry run, and nothing else.
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
- name: Tell how the night went
  homelab.nixos.lab_tell:
    result: "{{ lab_night_result }}"
    metrics_directory: /var/lib/prometheus/node-exporter
  run_once: true
"""

RETURN = r"""
record:
  description: The night as a record of the log, for other logs. It has V(status), V(seconds) and V(details), and
    nothing in check mode.
  returned: success
  type: dict
told:
  description: Where each thing was written, empty where it was not.
  returned: success
  type: dict
  contains:
    log:
      description: The path of the log.
      type: str
    result:
      description: The path of the result.
      type: str
    page:
      description: The path of the page.
      type: str
    metrics:
      description: The path of the file for Prometheus.
      type: str
    receivers:
      description: For each receiver its V(name), how many messages were V(delivered) and V(spooled), and an V(error).
      type: list
      elements: dict
    ping:
      description: What was reported, V(success) or V(fail); empty where nothing was.
      type: str
  sample:
    log: /var/log/lab-auto-update.log
    metrics: ""
    page: /var/lib/lab-auto-update/nights/night-20261122T020000Z-7f3a.html
    ping: success
    receivers:
      - delivered: 1
        error: ""
        name: ntfys://ntfy.example
        spooled: 0
    result: /var/lib/lab-auto-update/nights/night-20261122T020000Z-7f3a.json
"""
