# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction


class ActionModule(LabAction):
    """Runs the module of the same name; a lost connection is a result."""
