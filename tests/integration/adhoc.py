"""The program C(ansible), begun sooner: a process that has loaded it already forks for each call.

Most of a call is the loading, and the contract tests make hundreds. `python -m tests.integration.adhoc SOCKET` serves
them, with the environment that it was started with.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALLBACKS = {
    "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"),
    "ANSIBLE_CALLBACKS_ENABLED": "record",
    "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
}
# what a call imports of Ansible
LOADED = (
    "cli.adhoc",
    "executor.process.worker",
    "executor.task_executor",
    "module_utils.connection",
    *(f"plugins.callback.{name}" for name in ("default", "junit", "minimal", "oneline", "tree")),
    *(f"plugins.inventory.{name}" for name in ("auto", "host_list", "ini", "script", "toml", "yaml")),
    "plugins.connection.ssh",
    "plugins.shell.sh",
    "plugins.strategy.linear",
    "plugins.vars.host_group_vars",
)
SECONDS = 300

_starting = threading.Lock()


@dataclass(frozen=True)
class Called:
    """How a call of C(ansible) ended; C(record) is the last result of its task as the callback wrote it down."""

    returncode: int
    stdout: str
    stderr: str
    record: str


def call(*arguments: str) -> Called:
    """Run C(ansible) with these arguments in the clone."""
    with _starting:
        server = _server()
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as connection:
        files = [Path(name, each) for each in ("stdout", "stderr", "record")]
        for file in files:
            file.touch()
        connection.settimeout(SECONDS)
        connection.connect(server)
        connection.sendall(json.dumps([["ansible", *arguments], *map(str, files)]).encode() + b"\n")
        with connection.makefile() as answer:
            code = answer.readline()
        return Called(int(code), *(file.read_text() for file in files))


@functools.cache
def _server() -> str:
    directory = tempfile.TemporaryDirectory()
    path = str(Path(directory.name, "socket"))
    command = [sys.executable, "-m", "tests.integration.adhoc", path]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | CALLBACKS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )

    def stop() -> None:
        process.terminate()
        process.wait()
        directory.cleanup()

    atexit.register(stop)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return path


class _Call(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        from ansible.cli import adhoc

        arguments, stdout, stderr, record = json.loads(self.rfile.readline())
        os.environ["RECORD"] = record
        for file, number in ((stdout, 1), (stderr, 2)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
        code: object = 250
        try:
            adhoc.main(arguments)
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        self.wfile.write(f"{code}\n".encode())


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    pass


if __name__ == "__main__":
    for loaded in LOADED:
        importlib.import_module(f"ansible.{loaded}")

    with _Server(sys.argv[1], _Call) as server:
        print("ready", flush=True)
        server.serve_forever()
