# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build a system, activate it, and make it the boot default: nix, nix-env and switch-to-configuration, driven directly.

nixos-rebuild is not used: it moves the profile before it activates, re-executes the target's version of itself, and
passes the exit codes of several programs through as one.

Whatever changes a host does so under a claim. The order is that of docs/safety.md: each step is written down before it
begins, the host's own revert is armed before the new system is activated, and disarmed only when it was verified.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack, cast

from ansible_collections.homelab.nixos.plugins.module_utils import (
    _activation_unit,
    _boot_once,
    _closures,
    _host,
    _revert,
    _transaction,
)
from ansible_collections.homelab.nixos.plugins.module_utils._activation import UNTOUCHED, Ending, Units, Verdict
from ansible_collections.homelab.nixos.plugins.module_utils._activation_unit import (
    BOOT,
    Activation,
    require_program,
    switch_to_configuration,
)
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed, Run, check, first_error
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._nix import (
    FROM_ROOT,
    GC_ROOTS,
    NIX,
    TARGET_ROOT,
    installable,
    option_args,
    store_path,
    store_paths,
)
from ansible_collections.homelab.nixos.plugins.module_utils._revert_units import ACTIVATION, STAGES, Stage
from ansible_collections.homelab.nixos.plugins.module_utils._roots import set_root
from ansible_collections.homelab.nixos.plugins.module_utils._state import State
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Systems, name, reboot_reasons
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Transaction

# from the first of these on, a host may be another than before
_TOUCHING = ("systemd-run", "nix-env")
_OUTPUT_LINES = 50
# between the note of an activation and its start lie a few programs
_PATIENCE = 10.0
_POLL = 0.2

Action = Literal["build", "dry_activate", "test", "boot", "boot_once", "rollback"]
Phase = Literal["activate", "follow", "confirm"]
# these change what a host runs or boots
_CLAIMED = ("test", "boot", "boot_once", "rollback")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_VERIFIED_AT = ("verification", "reboot_verification")


@dataclass(frozen=True)
class Request:
    """What nixos_rebuild was asked for; its options, which it documents. Times are in seconds."""

    action: Action
    system: str | None = None
    flake: str | None = None
    attribute: str | None = None
    specialisation: str | None = None
    install_bootloader: bool = False
    ignored_units: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 1800
    confirm_timeout: float = 120
    verify_timeout: float = 600
    settle: float = 30
    require_python: bool = True
    controller: str = ""
    run_id: str = ""
    phase: Phase = "activate"
    check_mode: bool = False


@dataclass(frozen=True)
class Change:
    """A change of systems as people are told of it, whatever becomes of it."""

    system: str
    live: str
    before: str
    reasons: list[str]
    packages: dict[str, object]
    unknown_lines: list[str]


_NOTHING = Activation(Verdict(Ending.OK, "There was nothing to do.", touched=False), Units(), "")


class _Begun(LabError):
    """Somebody else carries out the same activation."""


def request(
    *,
    action: str,
    system: str | None,
    options: Mapping[str, object],
    ignored_units: Sequence[str],
    phase: str | None,
    run_id: str | None,
    controller: str | None,
    check_mode: bool,
    **rest: Any,
) -> Request:
    """Check the options of nixos_rebuild. Raises L(LabError) with the option's name."""
    if action == "switch":
        raise LabError(
            "action switch was called without the action plugin of nixos_rebuild, which carries it out.",
            "Call homelab.nixos.nixos_rebuild, or set action_plugins beside library in ansible.cfg.",
        )
    if action in _CLAIMED and not check_mode and not (run_id and controller and (phase or action != "test")):
        raise LabError(
            f"action {action} was called without the action plugin of nixos_rebuild, which claims the host and sees"
            " whether it answers.",
            "Call homelab.nixos.nixos_rebuild, or set action_plugins beside library in ansible.cfg.",
        )
    for option in ("timeout", "confirm_timeout", "verify_timeout"):
        if rest[option] < 1:
            raise LabError(f"{option} is {rest[option]}.", "It is a number of seconds, at least 1.")
    if rest["settle"] < 0:
        raise LabError(f"settle is {rest['settle']}.", "It is a number of seconds, at least 0.")
    specialisation = rest["specialisation"]
    if specialisation is not None and not _FILE_NAME.fullmatch(specialisation):
        raise LabError(
            f"specialisation is {specialisation!r}.", "Use the name of one, as in specialisation.<name> of the system."
        )
    return Request(
        action=cast(Action, action),
        system=None if system is None else store_path(system, "system"),
        ignored_units=tuple(ignored_units),
        options={key: str(value) for key, value in options.items()},
        controller=controller or "",
        run_id=run_id or "",
        phase=cast(Phase, phase or "activate"),
        check_mode=check_mode,
        **rest,
    )


def perform(run: Run, state: State, request: Request) -> dict[str, Any]:
    """Carry out C(request) and return the module's result; C(failed) is in it, because a failure has much to tell.

    Where a L(LabError) comes instead, its data say whether the host may have been changed by then.
    """
    touching: list[str] = []

    def watched(argv: Sequence[str], **options: Any) -> Completed:
        if argv[0] in _TOUCHING:
            touching.append(argv[0])
        return run(argv, **options)

    try:
        if request.action == "rollback":
            return roll_back(watched, state, request)
        if request.phase == "confirm":
            return confirm(watched, state, request)
        return _perform(watched, state, request)
    except LabError as error:
        begun = bool(touching) or _was_begun(state, request)
        error.data.setdefault("changed", begun)
        error.data.setdefault("ending", Ending.UNKNOWN.value if begun else Ending.NOT_BEGUN.value)
        raise


def _was_begun(state: State, request: Request) -> bool:
    """Whether the activation may have been begun by another process of the same run."""
    if request.action != "test" or request.check_mode:
        return False
    try:
        step = owned(state, request).step
    except _transaction.ClaimLost:
        return request.phase == "follow"
    return step == "activation" or (request.phase == "follow" and step != "claimed")


def _perform(run: Run, state: State, request: Request) -> dict[str, Any]:
    began = time.monotonic()
    durations: dict[str, float] = {}
    claimed = request.action in _CLAIMED and not request.check_mode
    found = owned(state, request) if claimed else None
    # a connection that was lost before anything was begun leaves nothing to follow, whoever says so
    following = found is not None and request.action == "test" and found.step == "activation"
    system = found.target if found is not None and following else request.system
    if system is None:
        system = build(run, str(request.flake), str(request.attribute), request.options, request.timeout)
        durations["build"] = round(time.monotonic() - began, 1)
    program = switch_to_configuration(system, request.specialisation)
    require_program(run, program)
    if claimed and request.action != "test":
        # one whose connection was lost: what is read of the host before its end is not worth anything
        await_boot(run, request.timeout)
    if claimed and request.system is not None and not following:
        set_root(run, TARGET_ROOT, system)
    (live,) = _host.resolve(run, [program.removesuffix("/bin/switch-to-configuration")])
    systems, _loader = _host.read_systems(run)
    # read_systems refuses a host without a current system
    before = str(found.origin if found is not None and following else systems.current)
    change = _change(run, systems, before, system, live or system)

    began = time.monotonic()
    changed = failed = False
    done, message = _NOTHING, _NOTHING.verdict.sentence
    is_live, is_default = systems.current == change.live, systems.profile == systems.boot_default == system
    if request.action == "build":
        message = f"{name(system)} is built."
    elif not claimed:
        changed = request.check_mode and not (is_default if request.action in ("boot", "boot_once") else is_live)
        if not is_live and request.action in ("dry_activate", "test"):
            done = _activation_unit.dry_activate(run, program, request.timeout)
            # a dry run is refused like the real one; it then says that a reboot is needed, and that is no failure
            failed = not done.verdict.ok and done.verdict.ending is not Ending.REBOOT_NEEDED
            message = done.verdict.sentence
    elif request.action == "test":
        # a host that runs it already is only rebooted: what it booted last is the way back from that
        origin = str(systems.booted or before) if is_live else before
        done = _watch(run, state, request) if following else _activate(run, state, request, program, change, origin)
        (after,) = _host.resolve(run, [_host.CURRENT])
        is_live, changed = after == change.live, done.verdict.touched
        failed, message = not (done.verdict.ok and is_live), done.verdict.sentence
        if done.verdict.ok and not is_live:
            message = f"switch-to-configuration ended well, but {_host.CURRENT} is {after}."
    elif request.action == "boot" and (not is_default or request.install_bootloader):
        done, is_default = _commit(run, state, request, change, systems)
        changed, failed, message = True, not is_default, done.verdict.sentence
    elif request.action == "boot":
        _write_commit(run, state, request, change, systems)
        if missing := _boot_once.missing_files(run, system):
            is_default, failed, message = False, True, missing
        else:
            clean_up(run)
    elif request.action == "boot_once":
        _prepare_boot(run, state, request, change)
        changed, message = True, f"The next boot, and no other, starts {name(system)}."
    durations[request.action] = round(time.monotonic() - began, 1)
    return _result(
        run,
        change,
        done,
        changed=changed,
        failed=failed,
        msg=message,
        activated=is_live,
        boot_default=is_default,
        durations=durations,
    )


def confirm(run: Run, state: State, request: Request) -> dict[str, Any]:
    """Somebody has reached the host over a new connection: from now on the revert waits for the verification."""
    found = owned(state, request)
    if _revert.has_begun(run):
        raise _reverted(run, request)
    (live,) = _host.resolve(run, [_live(str(request.system), request.specialisation)])
    (current,) = _host.resolve(run, [_host.CURRENT])
    _require_live(current, live)
    advance(run, state, request, request.verify_timeout, step="verification")
    # where it ran already, nothing was activated and nothing is armed
    if found.step == "activation" or _revert.is_installed(run):
        _revert.guard(run, "verification")
    _activation_unit.free(run)
    return {"changed": False, "failed": False, "confirmed": True, "msg": "The host answers with its new system."}


def roll_back(run: Run, state: State, request: Request) -> dict[str, Any]:
    """Return to the system that the open transaction came from."""
    found = owned(state, request)
    if found.origin is None:
        raise LabError("Nothing was activated under this claim, there is nothing to roll back.")
    systems, _loader = _host.read_systems(run)
    change = _change(run, systems, str(systems.current), found.origin, found.origin)
    began = time.monotonic()
    try:
        advance(run, state, request, 3 * request.timeout + request.verify_timeout, step="rollback")
    except _transaction.ClaimLost:
        raise
    except LabError as error:
        # a note that cannot be written, on a full disk, is no reason to stay on a system that does not work
        change.unknown_lines.append(str(error))
    after, message = put_back(run, found, request.timeout)
    return _result(
        run,
        change,
        _NOTHING,
        changed=True,
        failed=not (after.current == after.profile == after.boot_default == found.origin),
        msg=message,
        activated=after.current == found.origin,
        boot_default=after.profile == after.boot_default == found.origin,
        durations={"rollback": round(time.monotonic() - began, 1)},
        reverted=True,
    )


def put_back(run: Run, found: Transaction, timeout: float) -> tuple[Systems, str]:
    """Make a host what it was when C(found) began; returns what it is then, and a sentence.

    First the boot default: a power cut from then on lands on the old system. Then the very unit by which the host
    would have put itself back, which reboots it if the activation of the old system fails.
    """
    origin = str(found.origin)
    complaint = ""
    # whoever announced a reboot is not there any more to take it back
    run(["shutdown", "-c", "--no-wall"])
    try:
        await_boot(run, timeout)
        systems, _loader = _host.read_systems(run)
        _boot_once.drop(run)
        if not systems.profile == systems.boot_default == origin:
            done, default = make_boot_default(run, origin, timeout)
            if not (done.verdict.ok and default.system == origin):
                complaint = f"The boot default is {default.system or 'unknown'}, it could not be made {origin}."
    except LabError as error:
        # the running system can go back all the same
        complaint = str(error)
    systems, _loader = _host.read_systems(run)
    # an activation that was stopped may have changed much, and the link to the running system not yet
    if systems.current != origin or _revert.is_installed(run):
        if not _revert.is_installed(run):
            run(["systemctl", "stop", ACTIVATION])
            live = str(systems.current)
            _revert.install(run, origin, live, dict.fromkeys(STAGES, timeout), timeout)
        _revert.revert(run, timeout)
    systems, _loader = _host.read_systems(run)
    if systems.current == origin:
        _revert.disarm(run)
        clean_up(run)
    elif not complaint:
        complaint = f"The running system is {systems.current}, the host did not return to {origin}."
    return systems, complaint or f"Back on {name(origin)}."


def owned(state: State, request: Request) -> Transaction:
    """The open transaction, which has to be that of C(request)."""
    return _transaction.own(state.transaction(), controller=request.controller, run_id=request.run_id, now=time.time())


def advance(run: Run, state: State, request: Request, seconds: float, **changes: Unpack[_transaction.Changes]) -> None:
    """Write down which step begins, and that the claim lasts for it."""
    boot_id = _host.boot_id(run)
    with state.locked():
        found = state.transaction()
        begun = changes.get("step") == "activation" and isinstance(found, Transaction) and found.step == "activation"
        # under the lock that the boot guard takes before it decides
        taken_back = changes.get("step") == "commit" and state.guard_acted(request.run_id)
        if not (begun or taken_back):
            state.write(
                _transaction.renew(
                    found,
                    controller=request.controller,
                    run_id=request.run_id,
                    now=time.time(),
                    seconds=seconds,
                    boot_id=boot_id,
                    **changes,
                )
            )
    if begun:
        raise _Begun("This activation was begun already, over a connection that was lost.")
    if taken_back:
        raise _reverted(run, request)


def _activate(run: Run, state: State, request: Request, program: str, change: Change, origin: str) -> Activation:
    """Activate a system with the host's own revert armed, and judge how it went."""
    if request.require_python and not run(["test", "-x", f"{change.live}/sw/bin/python3"]).ok:
        raise LabError(
            f"{change.live} has no sw/bin/python3, so nobody could look after this host any more.",
            "Add python3 to environment.systemPackages, or set require_python to false if its Python is elsewhere.",
        )
    _boot_once.require_space(run, change.system)
    bound = request.timeout + request.confirm_timeout + _activation_unit.GRACE
    failed_units = tuple(_host.failed_units(run))
    _activation_unit.free(run)
    try:
        advance(
            run,
            state,
            request,
            bound,
            step="claimed" if change.before == change.live else "activation",
            origin=origin,
            target=change.system,
            failed_units=failed_units,
            verified=False,
        )
    except _Begun:
        return _watch(run, state, request)
    set_root(run, FROM_ROOT, origin)
    if change.before == change.live:
        return _NOTHING
    seconds: dict[Stage, float] = {
        "activation": request.timeout + request.confirm_timeout,
        "confirmation": request.confirm_timeout,
        "verification": request.verify_timeout,
    }
    with _nothing_left(run):
        _revert.arm(run, change.before, change.live, seconds, request.timeout)
    # it took a while: somebody who found nothing running may have gone back meanwhile
    if owned(state, request).step != "activation" or not _revert.is_armed(run):
        raise LabError(
            "The activation was not started: this run has given it up over another connection.",
            data={"ending": Ending.UNKNOWN.value, "changed": True},
        )
    with _nothing_left(run):
        _activation_unit.start(run, ACTIVATION, program, "test", request.timeout, guarded_by=change.before)
    return _watch(run, state, request)


@contextmanager
def _nothing_left(run: Run) -> Iterator[None]:
    """Leave no revert behind by a step that fails before there is an activation."""
    try:
        yield
    except LabError as error:
        if not _activation_unit.is_known(_activation_unit.show(run)):
            _revert.remove(run)
            error.data |= {"ending": Ending.NOT_BEGUN.value, "changed": False}
        raise


def _watch(run: Run, state: State, request: Request) -> Activation:
    """Wait for the end of the activation that this claim has begun, and judge it."""
    found = owned(state, request)
    # the host reverts when it was not confirmed in time, however well its units settle after that
    settle = min(request.settle, request.confirm_timeout / 2)
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            done = _activation_unit.finish(
                run, ACTIVATION, request.timeout, found.failed_units, request.ignored_units, settle
            )
            break
        except _activation_unit.Gone:
            if _revert.has_begun(run):
                raise _reverted(run, request) from None
            if _host.boot_id(run) != found.boot_id:
                raise LabError(
                    "The host rebooted in the middle of the activation, and with that into its boot default.",
                    data={"ending": Ending.UNKNOWN.value, "changed": True},
                ) from None
            # whoever has begun it may be about to start it, and keeps the revert that is armed for that
            if time.monotonic() > patience:
                raise LabError(
                    "The activation was begun over a connection that was lost, and never started.",
                    data={"ending": Ending.UNKNOWN.value, "changed": True},
                ) from None
        time.sleep(_POLL)
    if done.verdict.ending.value in UNTOUCHED:
        _revert.remove(run)
    return done


def _reverted(run: Run, request: Request) -> LabError:
    """What to raise when the host has put itself back, once it has."""
    _revert.wait(run, request.timeout)
    return LabError(
        "The host has put itself back on its old system, because nobody had confirmed the new one in time.",
        data={"ending": Ending.REVERTED.value, "reverted": True, "changed": True},
    )


def _commit(run: Run, state: State, request: Request, change: Change, systems: Systems) -> tuple[Activation, bool]:
    """Make the system the profile and the boot default, once nothing can take it back any more."""
    _write_commit(run, state, request, change, systems)
    done, default = make_boot_default(
        run, change.system, request.timeout, request.ignored_units, request.install_bootloader
    )
    sentence, missing = done.verdict.sentence, ""
    if done.verdict.ok and default.system != change.system:
        sentence = f"The boot loader was installed, but its default is {default.system or 'unknown'}: is /boot full?"
    elif done.verdict.ok:
        missing = _boot_once.missing_files(run, change.system)
        sentence = missing or sentence
    good = done.verdict.ok and default.system == change.system and not missing
    if good:
        clean_up(run)
    elif _revert.is_installed(run):
        # until somebody has put the host back, it is its own affair again
        _revert.guard(run, "verification")
    verdict = Verdict(done.verdict.ending, sentence, done.verdict.touched)
    return Activation(verdict, done.units, done.output), good


def _write_commit(run: Run, state: State, request: Request, change: Change, systems: Systems) -> None:
    found = owned(state, request)
    if found.step in _VERIFIED_AT:
        # or a power cut after it was confirmed has taken it away, and what was verified since is another system
        _require_live(systems.current, change.live)
    verified = found.verified or found.step in _VERIFIED_AT
    advance(
        run,
        state,
        request,
        request.timeout + request.verify_timeout,
        # one that nobody has seen running is up to the boot guard
        step="commit" if verified else "reboot",
        origin=found.origin or systems.current,
        target=change.system,
        verified=verified,
    )
    if not _revert.disarm(run):
        raise _reverted(run, request)


def _require_live(current: str | None, live: str | None) -> None:
    if current != live:
        raise LabError(f"The running system is {current}, and not {live}.", "Look at the host: it may have rebooted.")


def _prepare_boot(run: Run, state: State, request: Request, change: Change) -> None:
    """Let the next boot, and no other, start the system."""
    found = owned(state, request)
    origin = found.origin or change.before
    if _revert.is_installed(run):
        # it stays armed until the reboot forgets it
        _revert.guard(run, "verification")
    advance(
        run,
        state,
        request,
        request.timeout + request.verify_timeout,
        # from here on a boot may start it, and the boot guard has to know
        step="reboot",
        origin=origin,
        target=change.system,
    )

    def install(program: str) -> Activation:
        return _activation_unit.boot(run, program, request.timeout)

    _boot_once.prepare(run, change.system, origin, install)


def await_boot(run: Run, timeout: float) -> None:
    """Wait for a boot loader that is being installed: nobody may leave it half way."""
    if _activation_unit.runs(_activation_unit.show(run, BOOT)):
        # whoever started it may have read its result, and thrown the unit away
        with suppress(_activation_unit.Gone):
            _activation_unit.wait(run, BOOT, timeout)


def clean_up(run: Run) -> None:
    """Forget what only a change in progress needs."""
    _revert.remove(run)
    _boot_once.drop(run)
    _activation_unit.free(run)


def _change(run: Run, systems: Systems, before: str, system: str, live: str) -> Change:
    booted, old, new = _host.parts(run, [systems.booted or before, before, live])
    packages, unknown = package_changes(run, before, system)
    return Change(system, live, before, reboot_reasons(booted, old, new), packages, unknown)


def _result(
    run: Run, change: Change, done: Activation, *, durations: Mapping[str, float], reverted: bool = False, **rest: Any
) -> dict[str, Any]:
    return {
        **rest,
        "system": change.system,
        "ending": done.verdict.ending.value,
        "before": _host.describe(run, change.before).as_result(),
        "after": _host.describe(run, change.system).as_result(),
        "packages": change.packages,
        "units": done.units.as_result(),
        "reboot_required": bool(change.reasons),
        "reboot_reasons": change.reasons,
        "reverted": reverted,
        "output": done.output.splitlines()[-_OUTPUT_LINES:],
        "durations": dict(durations),
        "unknown_lines": change.unknown_lines,
    }


def build(run: Run, flake: str, attribute: str, options: Mapping[str, str], timeout: float) -> str:
    """Build C(flake#attribute), keep it from the garbage collector, and return the system's store path."""
    check(run(["mkdir", "-p", GC_ROOTS]), doing="Making the directory for GC roots")
    what = installable(flake, attribute)
    done = run(
        [*NIX, "build", *option_args(options), "--print-out-paths", "--out-link", TARGET_ROOT, "--", what],
        timeout=timeout,
    )
    built = store_paths(check(done, doing=f"Building {what}").stdout)
    if len(built) != 1:
        raise LabError(f"{what} has {len(built)} outputs, a system has one.", "Name the toplevel of one system.")
    return built[0]


def package_changes(run: Run, before: str, after: str) -> tuple[dict[str, object], list[str]]:
    """What packages differ between two systems, and the lines of Nix that nobody understood."""
    if before == after:
        return _closures.packages(_closures.parse_diff("")), []
    done = run([*NIX, "store", "diff-closures", before, after], timeout=300)
    if not done.ok:
        # it is told for people, and nothing hangs on it
        return _closures.packages(_closures.parse_diff("")), [first_error(done.stderr)]
    parsed = _closures.parse_diff(done.stdout)
    return _closures.packages(parsed), list(parsed.unknown_lines)


def make_boot_default(
    run: Run, system: str, timeout: float, ignored: Sequence[str] = (), install_bootloader: bool = False
) -> tuple[Activation, _host.BootDefault]:
    """Set the system profile to C(system), install the boot loader, and ask the loader whether it really took it.

    A profile that the loader did not follow is put back, so that no generation stands for a system that never boots.
    A candidate for the next boot is forgotten, and its entry with it.
    """
    _boot_once.drop(run)
    (before,) = _host.resolve(run, [_host.PROFILE])
    _set_profile(run, system)
    done = _activation_unit.boot(run, switch_to_configuration(system), timeout, ignored, install_bootloader)
    default = _host.boot_default(run)
    if before is not None and before != system and not (done.verdict.ok and default.system == system):
        _set_profile(run, before)
    return done, default


def _set_profile(run: Run, system: str) -> None:
    check(run(["nix-env", "--profile", _host.PROFILE, "--set", system]), doing="Setting the system profile")


def _live(system: str, specialisation: str | None) -> str:
    return switch_to_configuration(system, specialisation).removesuffix("/bin/switch-to-configuration")
