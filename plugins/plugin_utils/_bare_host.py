# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What runs on a host when nixos_info is asked without Ansible's machinery. Its imports are what that costs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _info
from ansible_collections.homelab.nixos.plugins.module_utils._command import FHS_PATH, PATH, Completed
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redacted_results
from ansible_collections.homelab.nixos.plugins.module_utils._state import State
from ansible_collections.homelab.nixos.plugins.plugin_utils import _process

# a login shell may say something before, and something after
BEGIN, END = "lab-auto-update<<<", ">>>lab-auto-update"


def main(question: bytes) -> None:
    """Answer a question of C(_bare.py)."""
    os.environ["PATH"] = f"{PATH}:{FHS_PATH}"
    found = redacted_results(_info.answer(_run, State(), **json.loads(question)))
    sys.stdout.write(f"{BEGIN}{json.dumps(found)}{END}\n")


def _run(argv: Sequence[str], **options: Any) -> Completed:
    """A program that is not there ends as it does in a module."""
    if not _process.found(argv[0]):
        return Completed(tuple(argv), 127, "", f"{argv[0]}: not found")
    return _process.run(argv, **options)
