# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run at a time on this controller: the note of the run that is going on, taken and let go of."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import NamedTuple

from ansible_collections.homelab.nixos.plugins.module_utils import _run_lock, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._run_lock import Holder
from ansible_collections.homelab.nixos.plugins.module_utils._state import RUN, State
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller


class Taken(NamedTuple):
    """The path of the note, empty where none could be written, and what to warn of."""

    lock: str
    warnings: list[str]


def holder(run_id: str, controller: str, began: float, log: str) -> Holder:
    """This very run, as seen from one of its workers; without a C(log), where its output goes."""
    me = _controller.identity(controller)
    pid = os.getppid()
    return Holder(
        run_id=_transaction.checked_run_id(run_id),
        controller=me.controller,
        controller_name=me.name,
        machine=_controller.machine_id() or "",
        process=_controller.process(pid),
        began=int(began),
        log=log or _controller.output(pid),
        command=_run_lock.shown_command(_controller.command(pid)),
    )


def take(setting: str, mine: Holder) -> Taken:
    """Note that this run is going on, unless another one is.

    A directory that nobody has chosen and that cannot be written is a warning, as in a container whose home is
    read-only: the claims on the hosts keep runs apart there, too. One that was chosen was meant.
    """
    state = State(_controller.state_directory(setting))
    try:
        with state.locked():
            warnings = _judge(state, mine)
            state.put(RUN, _run_lock.dump(mine))
    except (_run_lock.Busy, Unreadable):
        raise
    except LabError as error:
        if setting:
            raise LabError(error.what, f"lab_state_directory is {setting}: {_remedy(state)}") from error
        words = f"It is not noted on this controller that a run is going on. {error.what}"
        return Taken("", [f"{words} Set lab_state_directory, or else only the claims on hosts keep two runs apart."])
    return Taken(state.path(RUN), warnings)


def let_go(lock: str, run_id: str) -> list[str]:
    """This run is not going on any more. What to warn of: it is over all the same, and its process ends."""
    directory, name = os.path.split(lock)
    state = State(directory)
    try:
        with state.locked():
            found = _read(state)
            # somebody who could not tell whether this one lives may have gone on
            if found is not None and found.run_id == run_id:
                state.remove(name)
    except LabError as error:
        return [f"{error.what} The note that this run is going on stays; it ends with this process."]
    return []


def _judge(state: State, mine: Holder) -> list[str]:
    try:
        found = _read(state)
    except Unreadable:
        if not _is_older_than_this_boot(state.path(RUN)):
            raise
        # whoever has written it did not live to see the boot
        return []
    if found is None:
        return []
    match _run_lock.standing(found, mine, is_dead=_is_dead(found)):
        case "going_on":
            raise _run_lock.Busy(found)
        case "unknown":
            words = "Another run may be going on, elsewhere or in another container, and only the claims on hosts keep"
            return [f"{words} the two apart. {_run_lock.holder_sentence(found)}"]
        case "own" | "over":
            return []


def _read(state: State) -> Holder | None:
    path = state.path(RUN)
    try:
        text = state.text(RUN)
        return None if text is None else _run_lock.parse(text)
    except (Unreadable, OSError) as error:
        why = error.what if isinstance(error, Unreadable) else f"{error.strerror}."
        raise Unreadable(
            f"{path} cannot be read, so nobody can tell whether another run is going on: {why}",
            f"See that there is none (pgrep -af ansible-playbook), and remove it: rm {path}",
        ) from error


def _is_dead(found: Holder) -> bool:
    if found.process is None:
        return False
    same_machine = (found.machine, found.controller_name) == (_controller.machine_id(), _controller.name())
    return _controller.is_dead(asdict(found.process), same_machine=same_machine)


def _is_older_than_this_boot(path: str) -> bool:
    booted = _controller.booted()
    try:
        return booted is not None and os.stat(path).st_mtime < booted
    except OSError:
        return False


def _remedy(state: State) -> str:
    return f"let this user write {state.directory}, or name another directory."
