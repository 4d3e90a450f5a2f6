"""A program at a terminal: a pseudo terminal of a given size, and what one would see there."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b")
# Ansible's own questions end with these, which terminals pass over
_BROKEN_OFF = re.compile(r"\x1b\[(?=[\r\x1b])")
# how long one look at it may take, in seconds
_AT_MOST = 0.2
_BEGUN = re.compile(r"\x1b(\[[0-9;?]*)?\Z")


class Screen:
    """Rows of letters and a cursor; a sequence that it does not know is an error, and not passed over."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""]
        self.row = self.column = 0
        self.wrapped = self.sequences = 0

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            if found := _BROKEN_OFF.match(text, at):
                at = found.end()
            elif found := _SEQUENCE.match(text, at):
                self._do(found)
                at = found.end()
            else:
                self._put(text[at])
                at += 1

    def resize(self, columns: int, rows: int) -> None:
        """Wrap anew what has become too wide, as terminals do; the cursor stays with what it was on."""
        pieces = [[line[at : at + columns] for at in range(0, max(len(line), 1), columns)] for line in self.lines]
        self.row = sum(map(len, pieces[: self.row]))
        self.lines = [piece for line in pieces for piece in line]
        self.columns, self.rows = columns, rows

    def shown(self) -> list[str]:
        """What is to be seen of it, without the empty end of lines."""
        return [line.rstrip() for line in self.lines[-self.rows :]]

    def text(self) -> str:
        """All of it, with what has left the screen at its top."""
        return "\n".join(line.rstrip() for line in self.lines)

    def _do(self, found: re.Match[str]) -> None:
        self.sequences += 1
        number, letter = found[1], found[2]
        if letter == "A":
            top = max(len(self.lines) - self.rows, 0)
            assert self.row - int(number) >= top, "the cursor would leave the screen"
            self.row -= int(number)
        elif letter == "J" and not number:
            self.lines[self.row :] = [self.lines[self.row][: self.column]]
        elif letter == "K" and not number:
            self.lines[self.row] = self.lines[self.row][: self.column]
        else:
            assert letter == "m", f"unknown sequence {found.string[found.start() : found.end() + 8]!r}"

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        else:
            assert letter.isprintable(), f"{letter!r} is shown raw"
            if self.column >= self.columns:
                self.wrapped += 1
                self.column = 0
                self._put("\n")
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1


class Terminal:
    """A program that runs at one, until the end of the C(with)."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        self.screen = Screen(columns, rows)
        self.raw = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._rest = ""
        self._fd, inner = os.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            argv,
            env={**env, "TERM": env.get("TERM", "xterm-256color")},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(inner)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(columns, rows)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def see(self, what: Callable[[], bool], typing: str = "", seconds: float = 60) -> None:
        """Wait until it is so, and type this again and again until then."""
        end = time.monotonic() + seconds
        while not what():
            if typing:
                self.type(typing)
            assert time.monotonic() < end, self.screen.text()
            assert self._read() or what(), self.screen.text()

    def wait(self, seconds: float = 120) -> int:
        """The exit code, once all was read."""
        end = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < end, self.screen.text()
        return self.process.wait(max(end - time.monotonic(), 1))

    def _read(self) -> bool:
        if not select.select([self._fd], [], [], _AT_MOST)[0]:
            return True
        try:
            data = os.read(self._fd, 4096)
        except OSError:
            # how a terminal says that nobody has it open any more
            return False
        self.raw += data
        text = self._rest + self._decoder.decode(data)
        # a sequence may be cut in two
        whole = _BEGUN.sub("", text)
        self._rest = text[len(whole) :]
        self.screen.feed(whole)
        return bool(data)
