# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps the alerts of a host silent while it reboots. It may fail in any way, and what it is kept for goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from threading import Event, Thread
from types import TracebackType
from urllib.error import HTTPError, URLError

from ansible.module_utils import urls
from ansible_collections.homelab.nixos.plugins.module_utils import _silence
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import printable
from ansible_collections.homelab.nixos.plugins.module_utils._night import clipped
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._silence import Silence, Steps

# what an answer may take, in seconds and in bytes
_TIMEOUT = 3.0
_LIMIT = 64 * 1024
# what a reboot waits at its begin and at its end, in seconds: a name that is looked up, or an answer that comes byte
# by byte, takes as long as it likes
_PATIENCE = 5.0
_FORGOTTEN = 404
_SHOWN = 200


class Silencer:
    """The alerts are silent within C(with); without a silence, it does nothing."""

    def __init__(self, silence: Silence | None, steps: Steps | None = None) -> None:
        self._silence = silence
        self._steps = steps or Steps()
        self._name = ""
        self._trouble = ""
        self._begun, self._over = Event(), Event()
        # a request that never ends keeps nobody from ending
        self._thread = Thread(target=self._keep, daemon=True)

    @property
    def warnings(self) -> list[str]:
        """What went wrong, once."""
        if self._silence is None or not self._trouble:
            return []
        whose = f"The alerts of {self._silence.host} were not all silenced as they should while it rebooted"
        return [redact(f"{whose}: {self._silence.url} was asked: {self._trouble}")]

    def __enter__(self) -> Silencer:
        if self._silence is not None:
            self._thread.start()
            if not self._begun.wait(_PATIENCE):
                self._note(f"it did not answer within {_PATIENCE:g} s.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._silence is not None:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                self._note(f"it did not answer within {_PATIENCE:g} s.")

    def _keep(self) -> None:
        silence = self._silence
        if silence is None:
            return
        while not self._over.is_set():
            renewed = self._tried(self._renew, silence)
            self._begun.set()
            self._over.wait(self._steps.due(renewed=renewed))
        if self._name:
            self._tried(self._expire, silence)

    def _tried(self, ask: Callable[[Silence], None], silence: Silence) -> bool:
        try:
            ask(silence)
        except HTTPError as error:
            if error.code == _FORGOTTEN:
                # it was begun anew, or lost its memory: so is the silence
                self._name = ""
            self._note(f"it answers {error.code}.")
        except LabError as error:
            self._note(error.what)
        except (OSError, HTTPException, ValueError, urls.ConnectionError) as error:
            why = error.reason if isinstance(error, URLError) else error
            self._note(clipped(printable(str(why)), _SHOWN) or type(error).__name__)
        else:
            return True
        return False

    def _renew(self, silence: Silence) -> None:
        request = silence.request(time.time(), self._steps.length, self._name)
        self._name = _silence.name_of(_ask("POST", silence.silences, request))

    def _expire(self, silence: Silence) -> None:
        _ask("DELETE", silence.one(self._name))

    def _note(self, words: str) -> None:
        self._trouble = self._trouble or words


def of(url: str, labels: Mapping[str, object] | None, host: str, run_id: str = "") -> Silencer:
    """From the options of a task; raises L(LabError) for those that cannot be meant."""
    return Silencer(_silence.silence(url, labels, host, run_id) if url else None)


def _ask(method: str, url: str, body: bytes | None = None) -> bytes:
    with urls.open_url(
        url,
        method=method,
        data=body,
        headers={"Content-Type": "application/json"},
        timeout=_TIMEOUT,
        http_agent="homelab.nixos",
        force_basic_auth=True,
        # nobody else is told the silence, or the password
        follow_redirects="none",
        use_proxy=False,
        use_netrc=False,
    ) as answer:
        found: bytes = answer.read(_LIMIT)
        return found
