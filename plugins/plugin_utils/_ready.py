# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Imported for what it does: loads what every worker needs. Pays for runs over many hosts.

A run's main process imports the plugin of a task before it forks its workers, one for each task of each host, and they
inherit what it has. Otherwise each would compile our filters and load all that Ansible has to use one of them, which
took a fifth and a tenth of a night.
"""

from __future__ import annotations

import importlib
import pkgutil

from ansible.plugins.loader import filter_loader, test_loader
from ansible_collections.homelab.nixos.plugins import filter as filters

for _filter in pkgutil.iter_modules(filters.__path__):
    importlib.import_module(f"{filters.__name__}.{_filter.name}")
for _loader in (filter_loader, test_loader):
    list(_loader.all())
