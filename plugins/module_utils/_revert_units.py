# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The units by which a host puts itself back when nobody confirms its new system. Pure.

One service activates the old system, by store path, without a shell and without Python. Three timers start it, one for
each time in which something has to happen: the end of the activation, the first answer after it, the verification.
They are files in C(/run/systemd/system): switch-to-configuration leaves units outside C(/etc/systemd/system) alone,
and a reboot forgets them, when the boot default is the old system anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Stage = Literal["activation", "confirmation", "verification"]
STAGES: tuple[Stage, ...] = ("activation", "confirmation", "verification")

DIRECTORY = "/run/systemd/system"
ACTIVATION = "lab-auto-update-activation.service"
REVERT = "lab-auto-update-revert.service"
# what a stopped activation gets to end by itself
STOP_SECONDS = 20


def timer(stage: Stage) -> str:
    """The timer of C(stage)."""
    return f"lab-auto-update-revert-{stage}.timer"


def systemctl(system: str) -> str:
    """The systemctl of C(system), which is there whatever becomes of the PATH."""
    return f"{system}/systemd/bin/systemctl"


def test(system: str) -> str:
    """The test(1) of C(system)."""
    return f"{system}/sw/bin/test"


def texts(origin: str, live: str, seconds: Mapping[Stage, float], timeout: float) -> dict[str, str]:
    """The files of the units, by name.

    C(origin) is the system to go back to, C(live) what the running system is once the new one was activated,
    C(seconds) the time of each stage, C(timeout) what going back may take before the host is rebooted.
    """
    # exit code 1 of the condition skips the service: somebody has activated a third system, it is not ours to undo.
    # The old system counts as well: an activation that hangs has changed much before it changes that link.
    service = f"""[Unit]
Description=Return to {origin}, because nobody confirmed the new system
FailureAction=reboot

[Service]
Type=oneshot
RemainAfterExit=yes
ExecCondition={test(origin)} /run/current-system -ef {live} -o /run/current-system -ef {origin}
ExecStartPre=-{systemctl(origin)} stop {ACTIVATION}
ExecStartPre=-{origin}/sw/bin/bootctl set-oneshot ""
ExecStart={origin}/bin/switch-to-configuration test
SuccessExitStatus=4
TimeoutStartSec={timeout:g}
TimeoutStopSec={STOP_SECONDS}
"""
    files = {REVERT: service}
    for stage in STAGES:
        files[timer(stage)] = f"""[Unit]
Description=The end of the {stage} of the new system

[Timer]
OnActiveSec={seconds[stage]:g}
AccuracySec=1s
Unit={REVERT}
"""
    return files
