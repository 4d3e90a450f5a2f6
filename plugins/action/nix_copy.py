# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write the ssh_config by which the builder reaches a host, from what only the controller knows about that host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._ssh_config import connection, ssh_arguments, ssh_config
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction


class ActionModule(LabAction):
    def perform(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        args = dict(self._task.args)
        if "ssh_config" in args:
            raise LabError("ssh_config is made from the inventory.", "Set ansible_host, ansible_port or ansible_user.")
        if "local" in args:
            raise LabError("local is told by the inventory.", "Leave it out.")
        if args.get("host") and self._is_builder(str(args["host"]), task_vars):
            args["local"] = True
        elif args.get("host"):
            args["ssh_config"] = self._ssh_config(str(args["host"]), args, task_vars["hostvars"])
        return self.run_module("homelab.nixos.nix_copy", args, task_vars)

    def _is_builder(self, host: str, task_vars: Mapping[str, Any]) -> bool:
        """Whether the task runs on the very host, by whichever of its names."""
        if host == (self._task.delegate_to or task_vars["inventory_hostname"]):
            return True
        if self._connection.transport != "local" or host not in task_vars["hostvars"]:
            return False
        return bool(task_vars["hostvars"][host].get("ansible_connection") == "local")

    def _ssh_config(self, host: str, args: Mapping[str, Any], hostvars: Mapping[str, Mapping[str, Any]]) -> str:
        if host not in hostvars:
            raise LabError(f"There is no host {host!r} in the inventory.", "Set host to an inventory name.")
        variables = hostvars[host]
        host_name, port, user = connection(variables)
        key = args.get("ssh_key")
        arguments: list[str] = []
        if self._connection.transport == "local":
            # only here is the inventory's way to the host also the builder's
            arguments = ssh_arguments(variables)
            key = key or variables.get("ansible_ssh_private_key_file") or variables.get("ansible_private_key_file")
        return ssh_config(
            host,
            host_name=host_name or host,
            port=port,
            user=args.get("user") or user,
            identity_file=str(key) if key else None,
            arguments=arguments,
        )
