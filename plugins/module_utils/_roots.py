# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""GC roots of ours on the machine that a module runs on."""

from __future__ import annotations

import os

from ansible_collections.homelab.nixos.plugins.module_utils._command import Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._nix import GC_ROOTS, PROVEN_ROOT


def set_root(run: Run, root: str, path: str) -> None:
    """Let the GC root C(root) lead to C(path), which need not be there yet, so that no garbage collection takes it."""
    become = "Run it as root, with become."
    check(run(["mkdir", "-p", GC_ROOTS]), doing="Making the directory for GC roots", remedy=become)
    # by renaming: there is no moment without it; by a name of its own, because another run may be doing the same
    new = f"{root}.new.{os.getpid()}"
    check(run(["ln", "-sfn", "--", path, new]), doing=f"Making {root}", remedy=become)
    check(run(["mv", "-T", "--", new, root]), doing=f"Making {root}", remedy=become)


def set_proven(run: Run, system: str) -> None:
    """Make C(system) the one that passed verification last. The age of the root says since when, so it is kept."""
    if run(["readlink", "--", PROVEN_ROOT]).stdout.strip() != system:
        set_root(run, PROVEN_ROOT, system)
