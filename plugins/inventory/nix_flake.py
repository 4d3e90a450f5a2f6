# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: nix_flake
short_description: Hosts of a flake
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Lists every host below C(nixosConfigurations) of a flake, with the groups and variables of its output C(lab), so
    that nobody keeps a second list. No system is evaluated, only names and C(lab).
  - The source is a file whose name ends with C(.nix_flake.yml) or C(.nix_flake.yaml).
  - C(lab) is optional, and so is everything in it. C(lab.stages) is a list of names, in the order in which they are
    updated; it becomes C(lab_stages), and each is a group. C(lab.vars) are variables of all hosts, and
    C(lab.groups.NAME.vars) those of a group.
  - In C(lab.hosts.NAME), C(address), C(user) and C(port) become C(ansible_host), C(ansible_user) and C(ansible_port),
    and C(vars) are further variables of the host. C(stage) is one of C(lab.stages); it becomes C(lab_stage), and the
    host joins the group of that name. C(tags) is a list of names, each a group that the host joins; it becomes
    C(lab_tags). C(depends_on) is a list of hosts and groups that the host needs; it becomes C(lab_depends_on).
    C(managed=false) becomes C(lab_managed), and is for hosts that are here for another reason, as a builder; only such
    a host may be missing in C(nixosConfigurations).
  - A key that is not known, a stage that C(lab.stages) does not name, a dependency that is neither a host nor a group
    and a group that has the name of a host are errors. Names of groups are changed as Ansible does it, for example
    C(front-end) to C(front_end).
  - Values are templates, as in any other inventory.
options:
  plugin:
    description: Says that this file is for this plugin.
    type: str
    required: true
    choices: [homelab.nixos.nix_flake]
  flake:
    description:
      - Directory of the flake, or a flake reference. A relative directory is below that of the source.
      - Of a flake that is fetched from elsewhere Nix remembers for a while which commit is the newest, an hour unless
        C(tarball-ttl) in O(nix_options) says otherwise.
    type: str
    required: true
  ssh:
    description:
      - Machine that is asked instead of this controller, as V(root@builder). It has Nix, and O(flake) is a place there.
      - Nobody is there to answer a question, so its host key has to be known, and login must not need a password.
    type: str
    default: ""
  ssh_args:
    description: More arguments for ssh, a list or one text as on a command line.
    type: raw
    default: []
  timeout:
    description: How long asking the flake may take, in seconds.
    type: int
    default: 120
  nix_options:
    description: Settings of C(nix.conf) for asking the flake.
    type: dict
    default: {}
  cache:
    description:
      - Whether the answer is kept, until the flake or its C(flake.lock) change.
      - What a checkout with uncommitted changes says is never kept. C(--flush-cache) asks anew.
    type: bool
    default: true
    env:
      - name: ANSIBLE_INVENTORY_CACHE
    ini:
      - section: inventory
        key: cache
  cache_plugin:
    description: Cache plugin that keeps it.
    type: str
    default: ansible.builtin.jsonfile
    env:
      - name: ANSIBLE_INVENTORY_CACHE_PLUGIN
    ini:
      - section: inventory
        key: cache_plugin
  cache_connection:
    description: Where the cache plugin keeps it, a directory for V(ansible.builtin.jsonfile).
    type: str
    default: ~/.cache/homelab.nixos/inventory
    env:
      - name: ANSIBLE_INVENTORY_CACHE_CONNECTION
    ini:
      - section: inventory
        key: cache_connection
  cache_timeout:
    description: For how long it may be kept, in seconds; V(0) has no end, as it cannot become stale.
    type: int
    default: 0
    env:
      - name: ANSIBLE_INVENTORY_CACHE_TIMEOUT
    ini:
      - section: inventory
        key: cache_timeout
  cache_prefix:
    description: What the names of cache files begin with.
    type: str
    default: nix_flake_
    env:
      - name: ANSIBLE_INVENTORY_CACHE_PLUGIN_PREFIX
    ini:
      - section: inventory
        key: cache_prefix
extends_documentation_fragment:
  - ansible.builtin.constructed
notes:
  - Ansible only warns of a source that it cannot read, goes on without its hosts, and ends green when none are left.
    Set C(unparsed_is_failed) and C(any_unparsed_is_failed) to V(true) in the section C(inventory) of C(ansible.cfg), as
    that of this collection's repository does. Then it stops.
  - In a flake in git, Nix sees what git tracks, and uncommitted changes too.
"""

EXAMPLES = r"""
# lab.nix_flake.yml in the directory of the flake, on a controller that has Nix
plugin: homelab.nixos.nix_flake
flake: .

---
# lab.nix_flake.yml on a controller without Nix: the builder is asked
plugin: homelab.nixos.nix_flake
flake: /etc/nixos
ssh: root@builder.example
ssh_args: -i ~/.ssh/id_ansible -o HostKeyAlias=builder
# what the flake does not know
strict: true
compose:
  ansible_ssh_common_args: "'-J jump.example'"
keyed_groups:
  - key: lab_tags
    prefix: tag

---
# and this in the flake, beside nixosConfigurations:
#
#   outputs = { self, nixpkgs }: {
#     nixosConfigurations = { … };
#     lab = {
#       stages = [ "development" "infrastructure" "critical" ];
#       vars = {
#         ansible_user = "root";
#         lab_flake_host = "builder";
#       };
#       hosts = {
#         builder = { address = "192.0.2.2"; managed = false; };
#         dev = { address = "192.0.2.11"; stage = "development"; };
#         web = {
#           address = "192.0.2.12";
#           stage = "infrastructure";
#           tags = [ "public" ];
#           depends_on = [ "nas" ];
#           vars.lab_services = [ "nginx.service" ];
#         };
#         nas = { address = "192.0.2.13"; stage = "infrastructure"; };
#         dns = { address = "192.0.2.14"; stage = "critical"; tags = [ "public" ]; };
#       };
#       groups.public.vars.lab_reboot = "never";
#     };
#   };
"""

import os
import re
import time
from typing import Any

from ansible.errors import AnsibleError, AnsibleOptionsError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.homelab.nixos.plugins.module_utils import _flake_inventory, _flake_source
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _process

_SUFFIX = re.compile(r"(?:.*\.)?nix_flake\.ya?ml")
# ssh and timeout(1) on the other machine end by themselves; this long after they should have, they are ended
_SLACK = 15


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "homelab.nixos.nix_flake"
    # who writes the flake is root on every host of it
    trusted_by_default = True

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and _SUFFIX.fullmatch(os.path.basename(path)) is not None

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._configure(path)
        try:
            found = self._inventory(path, cache)
        except LabError as error:
            raise AnsibleParserError(str(error)) from error
        # everything is checked by now: an inventory is whole, or it is not there
        self._fill(found)

    def _configure(self, path: str) -> None:
        try:
            config = self._read_config_data(path)
        except (AnsibleOptionsError, AnsibleParserError):
            raise
        except AnsibleError as error:
            # options are set by now, and what comes after them is the cache: nobody misses a host for want of it
            self.display.warning(f"The inventory {path} is not cached: {error}")
            return
        unknown = [key for key in config if key not in self._options]
        if unknown:
            known = ", ".join(sorted(self._options))
            raise AnsibleParserError(f"{unknown[0]} is not an option of nix_flake. The options are: {known}.")

    def _inventory(self, path: str, cache: bool) -> _flake_inventory.Inventory:
        where = _flake_source.machine(self.get_option("ssh"), self.get_option("ssh_args"))
        name: str = self.get_option("flake")
        directory = os.path.dirname(os.path.abspath(path))
        reference = _flake_source.reference(name if where.ssh else os.path.expanduser(name), where, directory)
        data = self._outputs(_Nix(where, reference, self.get_option("timeout")), path, cache)
        return _flake_inventory.inventory(_flake_source.read_outputs(data, reference), self._sanitize_group_name)

    def _outputs(self, nix: _Nix, path: str, cache: bool) -> dict[str, object]:
        options: dict[str, object] = self.get_option("nix_options")
        flake = _flake_source.flake(nix.ask(_flake_source.metadata_command(nix.reference, options)))
        key = self.get_cache_key(path)
        identity = flake.identity and _flake_source.digest(flake.identity, nix.reference, nix.where.ssh, options)
        if cache and identity:
            kept = self._kept(key)
            if kept.get("identity") == identity and isinstance(kept.get("outputs"), dict):
                return kept["outputs"]
        # the locked reference: what is answered is what was looked at, whoever commits meanwhile
        answer = _flake_source.outputs(nix.ask(_flake_source.outputs_command(flake.url, options)))
        if identity and self._has_cache():
            # one entry for each source, so that nothing piles up
            self._cache[key] = {"identity": identity, "outputs": answer}
        return answer

    def _has_cache(self) -> bool:
        return getattr(self, "_cache", None) is not None

    def _kept(self, key: str) -> dict[str, Any]:
        if not self._has_cache():
            return {}
        try:
            kept = self._cache.get(key)
        except Exception as error:
            # whatever a cache plugin makes of a damaged entry: it is about to be written anew
            self.display.vvv(f"What was kept of the inventory cannot be read: {error}")
            return {}
        return kept if isinstance(kept, dict) else {}

    def _fill(self, found: _flake_inventory.Inventory) -> None:
        for name, value in found.variables.items():
            self.inventory.set_variable("all", name, value)
        for host, variables in found.hosts.items():
            self.inventory.add_host(host)
            for name, value in variables.items():
                self.inventory.set_variable(host, name, value)
        for group, has in found.groups.items():
            self.inventory.add_group(group)
            for host in has.hosts:
                self.inventory.add_child(group, host)
            for name, value in has.variables.items():
                self.inventory.set_variable(group, name, value)
        strict = self.get_option("strict")
        for host in found.hosts:
            variables = {**found.variables_of(host), "inventory_hostname": host}
            self._set_composite_vars(self.get_option("compose"), variables, host, strict)
            self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict)


class _Nix:
    """Nix, on whichever machine, with an end for all calls together."""

    def __init__(self, where: _flake_source.Machine, reference: str, timeout: int) -> None:
        if timeout < 1:
            raise LabError(f"timeout is {timeout}.", "It is a number of seconds, at least 1.")
        self.where = where
        self.reference = reference
        self._timeout = timeout
        self._end = time.monotonic() + timeout

    def ask(self, command: list[str]) -> str:
        if not self.where.ssh and not _process.found(command[0]):
            raise _flake_source.no_nix(self.where)
        left = max(1.0, self._end - time.monotonic())
        argv = self.where.argv(command, left)
        done = _process.run(argv, timeout=left + _SLACK if self.where.ssh else left)
        if done.rc != 0:
            late = done.timed_out or (bool(self.where.ssh) and done.rc in (124, 137))
            told = Completed(tuple(command), done.rc, done.stdout, done.stderr, late, done.seconds)
            raise _flake_source.failure(told, self.reference, self.where, self._timeout)
        return done.stdout
