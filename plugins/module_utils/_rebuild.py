# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build a system, activate it, and make it the boot default: nix, nix-env and switch-to-configuration, driven directly.

nixos-rebuild is not used: it moves the profile before it activates, re-executes the target's version of itself, and
passes the exit codes of several programs through as one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ansible_collections.homelab.nixos.plugins.module_utils import _closures, _host
from ansible_collections.homelab.nixos.plugins.module_utils._activation import (
    Ending,
    Units,
    Verdict,
    properties,
    unit_verdict,
    units,
    verdict,
)
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._nix import (
    GC_ROOTS,
    NIX,
    TARGET_ROOT,
    installable,
    option_args,
    store_path,
    store_paths,
)
from ansible_collections.homelab.nixos.plugins.module_utils._systems import name, reboot_reasons

UNIT = "lab-auto-update-activation.service"
OUTPUT_DIR = "/run/lab-auto-update"
OUTPUT = f"{OUTPUT_DIR}/activation.log"
# the unit's own time-out ends it; this much longer is waited for systemd to say so
_GRACE = 30
_POLL = 0.2
# from the first of these on, a host may be another than before
_TOUCHING = ("systemd-run", "nix-env")
_OUTPUT_LINES = 50


Action = Literal["build", "dry_activate", "test", "boot"]
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Request:
    """What nixos_rebuild was asked for; its options, which it documents. C(timeout) is in seconds."""

    action: Action
    system: str | None = None
    flake: str | None = None
    attribute: str | None = None
    specialisation: str | None = None
    install_bootloader: bool = False
    ignored_units: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 1800
    check_mode: bool = False


@dataclass(frozen=True)
class Activation:
    """How an activation went: the judgement, what happened to units, and what switch-to-configuration printed."""

    verdict: Verdict
    units: Units
    output: str


def request(
    *,
    action: str,
    system: str | None,
    flake: str | None,
    attribute: str | None,
    specialisation: str | None,
    install_bootloader: bool,
    ignored_units: Sequence[str],
    options: Mapping[str, object],
    timeout: int,
    guarded: bool,
    check_mode: bool,
) -> Request:
    """Check the options of nixos_rebuild. Raises L(LabError) with the option's name."""
    if action in ("test", "switch") and not guarded:
        raise LabError(
            f"action {action} was called without the action plugin of nixos_rebuild, which sees"
            " whether the host answers.",
            "Call homelab.nixos.nixos_rebuild, or set action_plugins beside library in ansible.cfg.",
        )
    if action == "switch":
        raise LabError("action switch is carried out by the action plugin of nixos_rebuild.")
    if timeout < 1:
        raise LabError(f"timeout is {timeout}.", "It is a number of seconds, at least 1.")
    if specialisation is not None and not _FILE_NAME.fullmatch(specialisation):
        raise LabError(
            f"specialisation is {specialisation!r}.", "Use the name of one, as in specialisation.<name> of the system."
        )
    return Request(
        action=cast(Action, action),
        system=None if system is None else store_path(system, "system"),
        flake=flake,
        attribute=attribute,
        specialisation=specialisation,
        install_bootloader=install_bootloader,
        ignored_units=tuple(ignored_units),
        options={key: str(value) for key, value in options.items()},
        timeout=timeout,
        check_mode=check_mode,
    )


def perform(run: Run, request: Request) -> dict[str, Any]:
    """Carry out C(request) and return the module's result; C(failed) is in it, because a failure has much to tell.

    Where a L(LabError) comes instead, its data say whether the host may have been changed by then.
    """
    touching: list[str] = []

    def watched(argv: Sequence[str], **options: Any) -> Completed:
        if argv[0] in _TOUCHING:
            touching.append(argv[0])
        return run(argv, **options)

    try:
        return _perform(watched, request)
    except LabError as error:
        error.data["changed"] = bool(touching)
        error.data["ending"] = Ending.UNKNOWN.value if touching else Ending.NOT_BEGUN.value
        raise


def _perform(run: Run, request: Request) -> dict[str, Any]:
    began = time.monotonic()
    durations: dict[str, float] = {}
    system = request.system
    if system is None:
        system = build(run, str(request.flake), str(request.attribute), request.options, request.timeout)
        durations["build"] = round(time.monotonic() - began, 1)
    program = switch_to_configuration(system, request.specialisation)
    require_program(run, program)
    if not request.check_mode:
        if request.action in ("test", "boot") and _runs(_show(run)):
            # one whose connection was lost: what is read of the host before its end is not worth anything
            _wait_for_the_unit(run, request.timeout)
        if request.system is not None:
            keep(run, system)
    (live,) = _host.resolve(run, [program.removesuffix("/bin/switch-to-configuration")])
    systems, _loader = _host.read_systems(run)
    # read_systems refuses a host without a current system
    current = str(systems.current)
    booted_parts, current_parts, target_parts = _host.parts(run, [systems.booted or current, current, live or system])
    reasons = reboot_reasons(booted_parts, current_parts, target_parts)
    packages, unknown = package_changes(run, current, system)
    before = _host.describe(run, current)

    is_live, is_default = current == live, systems.profile == systems.boot_default == system
    done = Activation(Verdict(Ending.OK, "There was nothing to do.", touched=False), Units(), "")
    changed = failed = False
    message = done.verdict.sentence
    began = time.monotonic()
    if request.action == "build":
        message = f"{name(system)} is built."
    elif request.check_mode or request.action == "dry_activate":
        changed = request.check_mode and not (is_default if request.action == "boot" else is_live)
        if not is_live and request.action != "boot":
            done = dry_activate(run, program, request.timeout)
            # a dry run is refused like the real one; it then says that a reboot is needed, and that is no failure
            failed = not done.verdict.ok and done.verdict.ending is not Ending.REBOOT_NEEDED
            message = done.verdict.sentence
    elif request.action == "test" and not is_live:
        done = activate(run, program, "test", request.timeout, request.ignored_units)
        (current_after,) = _host.resolve(run, [_host.CURRENT])
        is_live, changed = current_after == live, done.verdict.touched
        failed, message = not (done.verdict.ok and is_live), done.verdict.sentence
        if done.verdict.ok and not is_live:
            message = f"switch-to-configuration ended well, but {_host.CURRENT} is {current_after}."
    elif request.action == "boot" and (not is_default or request.install_bootloader):
        done, default = make_boot_default(run, system, request)
        is_default, changed, message = default.system == system, True, done.verdict.sentence
        failed = not done.verdict.ok or not is_default
        if done.verdict.ok and not is_default:
            message = f"The boot loader was installed, but its default is {default.system or 'unknown'}: is /boot full?"
    durations[request.action] = round(time.monotonic() - began, 1)

    return {
        "changed": changed,
        "failed": failed,
        "msg": message,
        "system": system,
        "ending": done.verdict.ending.value,
        "activated": is_live,
        "boot_default": is_default,
        "before": before.as_result(),
        "after": _host.describe(run, system).as_result(),
        "packages": packages,
        "units": done.units.as_result(),
        "reboot_required": bool(reasons),
        "reboot_reasons": reasons,
        "reverted": False,
        "output": done.output.splitlines()[-_OUTPUT_LINES:],
        "durations": durations,
        "unknown_lines": unknown,
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


def keep(run: Run, system: str) -> None:
    """Root C(system) as this host's target, so that a garbage collection leaves it alone."""
    check(run(["mkdir", "-p", GC_ROOTS]), doing="Making the directory for GC roots")
    check(run(["ln", "-sfn", "--", system, TARGET_ROOT]), doing="Making the GC root of the target")


def package_changes(run: Run, before: str, after: str) -> tuple[dict[str, object], list[str]]:
    """What packages differ between two systems, and the lines of Nix that nobody understood."""
    if before == after:
        return _closures.packages(_closures.parse_diff("")), []
    done = check(run([*NIX, "store", "diff-closures", before, after], timeout=300), doing="Comparing the closures")
    parsed = _closures.parse_diff(done.stdout)
    return _closures.packages(parsed), list(parsed.unknown_lines)


def switch_to_configuration(system: str, specialisation: str | None) -> str:
    """The program that activates C(system), or its specialisation."""
    base = f"{system}/specialisation/{specialisation}" if specialisation else system
    return f"{base}/bin/switch-to-configuration"


def require_program(run: Run, program: str) -> None:
    """Refuse a path that is not a system of NixOS, or one that is not on this host, before anything is touched."""
    if not run(["test", "-x", program]).ok:
        raise LabError(f"{program} is not on this host.", "Build or copy the system to this host first, see nix_copy.")


def dry_activate(run: Run, program: str, timeout: float) -> Activation:
    """Say what an activation would do to units."""
    done = run([program, "dry-activate"], timeout=timeout)
    output = done.stdout + done.stderr
    return Activation(verdict(done.rc, output, (), ()), units(output), output)


def activate(
    run: Run, program: str, action: str, timeout: float, ignored: Sequence[str] = (), install_bootloader: bool = False
) -> Activation:
    """Run C(program action) in a systemd unit of its own and wait for its end.

    The unit outlives a lost connection, which would kill a child of ours in the middle of the activation
    (nixpkgs#462179). It is kept until its result was read: no C(--collect), and C(RemainAfterExit) for the good end.
    """
    failed_before = [*_host.failed_units(run), *ignored]
    _free_the_unit(run)
    environment = ["--setenv=NIXOS_INSTALL_BOOTLOADER=1"] if install_bootloader else []
    check(run(["mkdir", "-p", OUTPUT_DIR]), doing="Making the directory for the output of the activation")
    check(
        run(
            [
                "systemd-run",
                f"--unit={UNIT}",
                "--description=Activation of a NixOS system by lab-auto-update",
                "--service-type=exec",
                "--no-ask-password",
                "--quiet",
                "--remain-after-exit",
                f"--property=RuntimeMaxSec={timeout:g}",
                f"--property=StandardOutput=truncate:{OUTPUT}",
                "--property=StandardError=inherit",
                *environment,
                "--",
                program,
                action,
            ]
        ),
        doing="Starting the activation",
    )
    state = _wait_for_the_unit(run, timeout)
    output = _host.read_files(run, [OUTPUT]).get(OUTPUT, "")
    _free_the_unit(run)
    failed_after = _host.failed_units(run)
    said = units(output)
    new = tuple(sorted({*failed_after, *said.failed} - set(failed_before)))
    return Activation(
        unit_verdict(state, output, failed_before, failed_after, timeout),
        Units(said.stopped, said.started, said.restarted, said.reloaded, said.skipped, new),
        output,
    )


def make_boot_default(run: Run, system: str, request: Request) -> tuple[Activation, _host.BootDefault]:
    """Set the system profile to C(system), install the boot loader, and ask the loader whether it really took it.

    A profile that the loader did not follow is put back, so that no generation stands for a system that never boots.
    """
    (before,) = _host.resolve(run, [_host.PROFILE])
    _set_profile(run, system)
    program = switch_to_configuration(system, None)
    done = activate(run, program, "boot", request.timeout, request.ignored_units, request.install_bootloader)
    default = _host.boot_default(run)
    if before is not None and before != system and not (done.verdict.ok and default.system == system):
        _set_profile(run, before)
    return done, default


def _set_profile(run: Run, system: str) -> None:
    check(run(["nix-env", "--profile", _host.PROFILE, "--set", system]), doing="Setting the system profile")


def _show(run: Run) -> dict[str, str]:
    done = run(
        ["systemctl", "show", UNIT, "--property=LoadState,ActiveState,SubState,Result,ExecMainStatus,ExecMainCode"]
    )
    return properties(done.stdout) if done.ok else {}


def _runs(state: Mapping[str, str]) -> bool:
    known = state.get("LoadState") not in (None, "not-found")
    return known and state.get("SubState") not in ("exited", "failed", "dead")


def _free_the_unit(run: Run) -> None:
    """Make the unit's name free: read results are thrown away, a running activation is somebody else's."""
    state = _show(run)
    if _runs(state):
        raise LabError(
            "Another activation is running on this host.", f"Wait for its end: journalctl --follow --unit={UNIT}."
        )
    if state.get("LoadState") not in (None, "not-found"):
        run(["systemctl", "stop", UNIT])
        run(["systemctl", "reset-failed", UNIT])


def _wait_for_the_unit(run: Run, timeout: float) -> dict[str, str]:
    # polled, not waited for over the bus: an activation may restart both the bus and systemd
    end = time.monotonic() + timeout + _GRACE
    while True:
        state = _show(run)
        if state.get("ActiveState") == "failed" or state.get("SubState") == "exited":
            return state
        if state.get("LoadState") == "not-found":
            raise LabError(
                "The unit of the activation is gone, and its result with it.",
                f"Look at journalctl --unit={UNIT} on the host.",
            )
        if time.monotonic() > end:
            raise LabError(
                f"The activation still runs after {timeout + _GRACE:g} s.",
                f"Look at journalctl --unit={UNIT} on the host.",
            )
        time.sleep(_POLL)
