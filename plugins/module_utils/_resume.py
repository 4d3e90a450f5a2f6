# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host that is its own controller: how it is told, and the note by which its night ends after its reboot. Pure.

A controller cannot wait through the reboot of the machine it runs on. It leaves a note of what to run, and a unit of
the host's own configuration runs that once, at the next boot; see nix/resume.sh.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils import _reboot
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import lines

VERSION = 1
UNIT = "lab-auto-update-resume.service"
REBOOT_UNIT = "lab-auto-update-reboot.service"
PLAYBOOK = "homelab.nixos.resume"
# what a run of Ansible may depend on; none of it is secret
_KEPT = ("ANSIBLE_HOME", "LANG", "LC_ALL", "LOCALE_ARCHIVE", "PATH", "PYTHONPATH", "TZ")
_PROGRAM = "ansible-playbook"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# of the unit that orders the reboot: programs by path, as a transient unit finds those of systemd only
_BIN = "/run/current-system/sw/bin"
# how long a run may go on after it has ordered the reboot
_LAST_WORDS = 600


@dataclass(frozen=True)
class Note:
    """What is left for the boot: C(argv) is run with C(environment), and reads C(night), all that it has to know."""

    run_id: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    night: Mapping[str, object]


def is_controller(host_boot_id: object, own_boot_id: str) -> bool:
    """Whether a host is the machine that asks: no two machines share a boot, whatever they are called."""
    return own_boot_id != "" and host_boot_id == own_boot_id


def note(run_id: str, text: str) -> Note:
    """Check what a controller left; whatever a line or a variable cannot hold is refused here, and not at the boot."""
    made = "It is made by the action plugin of nixos_reboot, with phase=prepare."
    try:
        left = json.loads(text)
        argv, environment, night = left["argv"], left["environment"], left["night"]
    except (ValueError, KeyError, TypeError) as error:
        raise LabError("resume is not JSON of an object with argv, environment and night.", made) from error
    if not (isinstance(argv, list) and argv and all(isinstance(word, str) and word for word in argv)):
        raise LabError("resume has no argv, a list of words.", made)
    if not (isinstance(environment, dict) and isinstance(night, dict)):
        raise LabError("The environment and the night of resume are not objects.", made)
    for name, value in environment.items():
        if not (isinstance(name, str) and _VARIABLE.fullmatch(name) and isinstance(value, str)):
            raise LabError(f"resume has an environment variable {name!r} that cannot be one.")
    for word in (*argv, *environment.values()):
        if _CONTROL.search(word):
            raise LabError(f"resume has a line break or a control character in {word!r}.", "Rename what is called so.")
    if not argv[0].startswith("/"):
        raise LabError(f"resume would run {argv[0]!r}, which is not an absolute path.")
    return Note(run_id, tuple(argv), environment, night)


def dump(left: Note) -> str:
    """The text of the file, which nix/resume.sh and playbooks/resume.yml read."""
    return lines(
        {
            "version": VERSION,
            "run_id": left.run_id,
            "argv": list(left.argv),
            "environment": dict(left.environment),
            "night": dict(left.night),
        }
    )


def command(program: str, python: str, host: str) -> list[str]:
    """How to run L(PLAYBOOK) for C(host), by the program and the Python of the run that asks.

    C(ansible-playbook) is run as it is, since a wrapper of Nix finds its libraries by itself; anything else by its
    Python.
    """
    start = [program] if program.rpartition("/")[2] == _PROGRAM else [python, "-m", "ansible", "playbook"]
    return [*start, PLAYBOOK, f"--inventory={host},"]


def environment(present: Mapping[str, str], config: str | None, collections: Sequence[str]) -> dict[str, str]:
    """What of the environment of a run the next one needs, with where its configuration and its collections are."""
    kept = {name: present[name] for name in _KEPT if present.get(name)}
    if config:
        kept["ANSIBLE_CONFIG"] = config
    # it runs as root: no files of root in the directories of somebody else
    return {**kept, "ANSIBLE_COLLECTIONS_PATH": ":".join(collections), "PYTHONDONTWRITEBYTECODE": "1"}


def order(pid: int, when: str, message: str) -> list[str]:
    """Order a reboot for when the process C(pid) has ended: whoever waits for it is told how it went before."""
    return [
        *(f"{_BIN}/systemd-run", f"--unit={REBOOT_UNIT}", "--description=Reboot now that the night has closed"),
        *("--service-type=oneshot", "--collect", "--no-block", "--no-ask-password", "--quiet"),
        f"--property=TimeoutStartSec={_LAST_WORDS + 60}",
        # it is rebooted in any case: its end has a bound, and its own timer waits for the reboot
        f"--property=ExecStartPre=-{_BIN}/timeout {_LAST_WORDS} {_BIN}/tail --pid={pid} -f /dev/null",
        # systemd would take what follows a dollar sign for the name of a variable
        *("--", *(word.replace("$", "$$") for word in _reboot.order(when, message))),
    ]
