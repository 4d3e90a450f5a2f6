# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every worker needs, loaded before there are any. Pays for runs over many hosts."""

from __future__ import annotations

import importlib
import pkgutil

from ansible.plugins.loader import filter_loader, test_loader
from ansible_collections.homelab.nixos.plugins import filter as filters


def load() -> None:
    """To be called where the plugin of a run's first task is imported.

    Its main process does that before it forks its workers, one for each task of each host, and they inherit what it
    has. Otherwise each would compile our filters and load all that Ansible has to use one of them, which took a fifth
    and a tenth of a night.
    """
    for found in pkgutil.iter_modules(filters.__path__):
        importlib.import_module(f"{filters.__name__}.{found.name}")
    for loader in (filter_loader, test_loader):
        list(loader.all())
