"""What holds for all tests of the core: what they tell the journal is not for the one of this machine."""

import socket
import threading
from collections.abc import Iterator

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _log


class Journal:
    """Takes all it is told, as journald does."""

    def __init__(self, path: str) -> None:
        self.entries: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()

    def _take(self) -> None:
        while entry := self._socket.recv(1 << 20):
            self.entries.append(entry)


@pytest.fixture(autouse=True)
def journal(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    path = str(tmp_path_factory.mktemp("journal") / "socket")
    found = Journal(path)
    monkeypatch.setattr(_log, "JOURNAL", path)
    yield found
    found.close()
