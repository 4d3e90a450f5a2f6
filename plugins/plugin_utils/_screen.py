# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to a terminal: lines at its foot that are drawn anew, below whatever else is written."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from ansible_collections.homelab.nixos.plugins.module_utils._live import columns, rows_taken

# What is drawn for a width and a height: each line as it is, and with its colours.
Draw = Callable[[int, int], list[tuple[str, str]]]

_USUAL = (80, 24)


class Ticker:
    """Calls something every so many seconds, in a thread of its own, until it is stopped."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds, self._call = seconds, call
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="homelab.nixos.night", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                self._call()
            except OSError:
                # nobody reads any more; whoever writes next learns of it
                return


class Screen:
    """The cursor stays visible, at the start of a line below what is drawn: a killed run leaves nothing to mend."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        # a signal may come while its handler's thread writes, and the handler writes too
        self._lock = threading.RLock()
        self._fd = sys.stdout.fileno()
        self._widths: list[int] = []
        self._paused = self._unfinished = False
        self._streams = {name: getattr(sys, name) for name in ("stdout", "stderr") if getattr(sys, name).isatty()}
        for name, stream in self._streams.items():
            stream.flush()
            setattr(sys, name, _Above(stream, self._above))
        os.register_at_fork(after_in_child=self._leave)

    def refresh(self) -> None:
        """Draw what there is to draw now, unless somebody is being asked, or is in the middle of a line."""
        with self._lock:
            if self._paused or self._unfinished:
                return
            width, height = self._size()
            # the cursor has a line of its own, and what is written above some place
            drawn = self._draw(width, max(height - 2, 1))
            frame = self._top(width) + "".join(f"{coloured}\x1b[K\n" for plain, coloured in drawn) + "\x1b[J"
            self._widths = [columns(plain) for plain, coloured in drawn]
            _write(self._fd, frame.encode("utf-8", "replace"))

    def pause(self, paused: bool) -> None:
        """Leave the terminal to somebody else, or take it again."""
        with self._lock:
            self._paused = paused
            if paused:
                self._clear()

    def close(self) -> None:
        """Take away what was drawn, and be out of the way of those who write."""
        with self._lock:
            self._paused = True
            try:
                self._clear()
            finally:
                for name, stream in self._streams.items():
                    setattr(sys, name, stream)

    def _above(self, fd: int, text: bytes) -> None:
        with self._lock:
            self._clear()
            _write(fd, text)
            self._unfinished = not text.endswith(b"\n")

    def _clear(self) -> None:
        if self._widths:
            _write(self._fd, (self._top(self._size()[0]) + "\x1b[J").encode())
            self._widths = []

    def _top(self, width: int) -> str:
        rows = rows_taken(self._widths, width)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _size(self) -> tuple[int, int]:
        size = os.get_terminal_size(self._fd)
        return size.columns or _USUAL[0], size.lines or _USUAL[1]

    def _leave(self) -> None:
        """A process that was forked off has no part in it, and no lock that a thread of the other one held."""
        self._lock = threading.RLock()
        self._widths = []
        self._paused = True


class _Above:
    """A stream that writes above what is drawn. It takes no lock of its stream: whoever writes may hold one already."""

    def __init__(self, stream: TextIO, write: Callable[[int, bytes], None]) -> None:
        self._stream, self._above = stream, write

    def write(self, text: str) -> int:
        if text:
            self._above(self._stream.fileno(), text.encode(self._stream.encoding, "replace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            # a prompt has made the terminal so, for its input
            select.select([], [fd], [])
