"""`python3 -m tests.lab`: start, use and stop labs of NixOS-like hosts."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

from ._system import LabError, fail
from .image import SUITES
from .lab import FAULTS, MOVING, PACKAGE_FAULTS, Lab


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.lab",
        description="A lab of small NixOS-like hosts that really boot, in a network of their own (docs/testing.md).",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="demo", metavar="LAB", help="which lab (default: %(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, summary: str, **more: object) -> argparse.ArgumentParser:
        return verbs.add_parser(name, parents=[common], help=summary, description=summary, **more)  # type: ignore[arg-type]

    up = verb("up", "start a lab of N hosts and their flake host; a lab of the same name is replaced")
    up.add_argument("count", type=int, metavar="N", help="how many managed hosts: dev, web, nas, dns, host5, …")
    up.add_argument(
        "--nix", default="trixie", choices=sorted(SUITES), help="Debian release: trixie has Nix 2.26, forky 2.34"
    )
    up.add_argument(
        "--without-python", nargs="+", action="extend", default=[], metavar="HOST", help="hosts that have no Python"
    )
    up.add_argument(
        "--without-guard", nargs="+", action="extend", default=[], metavar="HOST", help="hosts that have no boot guard"
    )
    down = verb("down", "stop a lab and leave nothing of it")
    down.add_argument("--all", action="store_true", help="every lab of this machine")
    status = verb("status", "show where everything is")
    status.add_argument("--json", action="store_true", help="as JSON, for programs")
    execute = verb("exec", "run a command in the lab's network namespace")
    execute.add_argument("command", nargs="+", metavar="CMD", help="after '--'")
    shell = verb("shell", "log in to a host, or run a command there")
    shell.add_argument("host", metavar="HOST")
    shell.add_argument("command", nargs="*", metavar="CMD", help="after '--'")
    move = verb("move", "give an input of the flake a new commit, with newer packages")
    move.add_argument(
        "input",
        nargs="?",
        default="packages",
        metavar="INPUT",
        help=f"one of {', '.join(MOVING)} (default: %(default)s)",
    )
    move.add_argument(
        "--package",
        nargs="+",
        action="extend",
        default=[],
        metavar="PACKAGE",
        help="these instead of the ordinary ones",
    )
    spoil = verb(
        "spoil",
        "give an input a new commit in which a package has a fault; no fault heals",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {name:24}{meaning}" for name, meaning in PACKAGE_FAULTS.items()),
    )
    spoil.add_argument("package", metavar="PACKAGE")
    spoil.add_argument("fault", nargs="?", default="", metavar="FAULT")
    fault = verb(
        "fault",
        "say what a host's next system suffers from; no fault clears",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {name:24}{meaning}" for name, meaning in FAULTS.items()),
    )
    fault.add_argument("host", metavar="HOST")
    fault.add_argument("faults", nargs="*", metavar="FAULT")
    stop = verb("stop", "cut a host's power")
    stop.add_argument("host", metavar="HOST")
    start = verb("start", "switch a host on again")
    start.add_argument("host", metavar="HOST")
    start.add_argument("--wait", action="store_true", help="until it has booted")
    choose = verb("choose", "at the next boot only, somebody at the console picks this entry")
    choose.add_argument("host", metavar="HOST")
    choose.add_argument("entry", metavar="ENTRY", help="an entry's name, or a pattern: the newest that matches")
    firmware = verb("firmware", "what a host's boot loader can do; without an option, everything")
    firmware.add_argument("host", metavar="HOST")
    firmware.add_argument("--without-one-shot", action="store_true", help="it does not know one-shot entries")
    cut = verb("cut", "pull a host's network cable; it stays out through reboots")
    cut.add_argument("host", metavar="HOST")
    mend = verb("mend", "plug a host's network cable in again")
    mend.add_argument("host", metavar="HOST")
    read = verb("read", "print a host's file, also of a host that is off or out of reach")
    read.add_argument("host", metavar="HOST")
    read.add_argument("path", metavar="PATH")
    journal = verb("journal", "print a host's journal, also of a host that is off or out of reach")
    journal.add_argument("host", metavar="HOST")
    journal.add_argument("options", nargs="*", metavar="OPTION", help="journalctl's own, after '--'")
    return parser


def _status(lab: Lab, as_json: bool) -> None:
    status = lab.status()
    if as_json:
        print(json.dumps(status, indent=2))
        return
    for key in ("name", "nix", "netns", "inventory", "ssh_config"):
        print(f"{key:12}{status[key]}")
    print(f"{'flake':12}{status['flake_host']}:{status['flake']}")
    for host, data in status["hosts"].items():
        python = "" if data["python"] else "  (no Python)"
        print(f"  {host:10}{data['address']:14}{data['state']:9}{data['pid'] or '-':<9}{data['console']}{python}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    arguments = _parser().parse_args(argv)
    lab = Lab(arguments.name)
    match arguments.verb:
        case "up":
            begun = time.monotonic()
            Lab.up(arguments.count, arguments.name, arguments.nix, arguments.without_python, arguments.without_guard)
            print(
                f"lab '{lab.name}' is up after {time.monotonic() - begun:.1f} s: ansible -i {lab.inventory} all -m ping"
            )
        case "down":
            for each in Lab.all() if arguments.all else [lab]:
                each.down()
        case "status":
            _status(lab, arguments.json)
        case "exec":
            lab.settings()
            sys.stdout.flush()
            os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{lab.netns}", *arguments.command])
        case "shell":
            lab.known(arguments.host)
            os.execvp("ssh", ["ssh", "-F", str(lab.ssh_config), arguments.host, *arguments.command])
        case "move":
            for package, (old, new) in lab.move(arguments.input, arguments.package).items():
                print(f"{package}: {old} → {new}")
        case "spoil":
            lab.spoil(arguments.package, arguments.fault)
        case "fault":
            lab.fault(arguments.host, *arguments.faults)
        case "stop":
            lab.stop(arguments.host)
        case "start":
            lab.start(arguments.host, wait=arguments.wait)
        case "choose":
            lab.choose(arguments.host, arguments.entry)
        case "firmware":
            lab.firmware(arguments.host, one_shot=not arguments.without_one_shot)
        case "cut":
            lab.cut(arguments.host)
        case "mend":
            lab.mend(arguments.host)
        case "read":
            text = lab.read(arguments.host, arguments.path)
            if text is None:
                fail(f"'{arguments.host}' has no file '{arguments.path}'.")
            print(text, end="")
        case "journal":
            print(lab.journal(arguments.host, *arguments.options), end="")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
