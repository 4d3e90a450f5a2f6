# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to the network: a connection, or a page, with an end.

Ansible's own client follows redirects, asks proxies and reads C(.netrc) unless told otherwise, and every run of a
module that may need it would carry it to the host.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import LIMIT, Page

_T = TypeVar("_T")

_HEADERS = {"User-Agent": "homelab.nixos", "Accept": "*/*", "Cache-Control": "no-cache", "Connection": "close"}
# what has a meaning in a URL stays as it is
_KEPT = "!$%&'()*+,/:;=?@[]~"


class Refused(LabError):
    """Somebody, or the way to them, said no."""


class Silent(LabError):
    """Nobody answered, so nothing can be told."""


def connect(host: str, port: int, timeout: float) -> None:
    """Open a connection, and close it."""

    def work() -> None:
        socket.create_connection((host, port), timeout).close()

    _ended(work, timeout)


def get(
    url: str,
    timeout: float,
    *,
    limit: int = LIMIT,
    validate_certs: bool = True,
    ca_path: str | None = None,
) -> Page:
    """Fetch a page; one with any status is an answer. With C(limit) 0 its body is not read, and empty."""
    parts = urlsplit(url)
    host = parts.hostname or ""

    def work() -> Page:
        if parts.scheme == "https":
            trusted = ssl.create_default_context(cafile=ca_path)
            if not validate_certs:
                trusted.check_hostname = False
                trusted.verify_mode = ssl.CERT_NONE
            connection: HTTPConnection = HTTPSConnection(host, parts.port, timeout=timeout, context=trusted)
        else:
            connection = HTTPConnection(host, parts.port, timeout=timeout)
        with closing(connection):
            target = quote(parts.path or "/", _KEPT) + (f"?{quote(parts.query, _KEPT)}" if parts.query else "")
            connection.request("GET", target, headers={**_HEADERS, **_credentials(parts)})
            answer = connection.getresponse()
            body = answer.read(limit + 1) if limit else b""
            return Page(answer.status, body.decode("utf-8", "replace") if len(body) <= limit else None)

    return _ended(work, timeout)


def _credentials(parts: SplitResult) -> dict[str, str]:
    """What a user and a password in a URL are sent as."""
    if parts.username is None:
        return {}
    both = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(both.encode()).decode()}"}


def _ended(work: Callable[[], _T], timeout: float) -> _T:
    """Do something that may take any time, as a time-out of sockets is one for each of many steps, and looks up names.

    What does not end is left behind: it ends with this process.
    """
    answers: queue.SimpleQueue[_T | Exception] = queue.SimpleQueue()

    def carry_out() -> None:
        try:
            answers.put(work())
        except Exception as error:  # raised again, where somebody waits for it
            answers.put(error)

    threading.Thread(target=carry_out, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise Silent(f"no answer within {timeout:g} s.") from None
    if isinstance(answer, Exception):
        raise _sentence(answer, timeout) from answer
    return answer


def _sentence(error: Exception, timeout: float) -> Exception:
    words = redact(str(error)).rstrip(".")
    if isinstance(error, TimeoutError):
        return Silent(f"no answer within {timeout:g} s.")
    if isinstance(error, socket.gaierror):
        return Silent(f"its name cannot be resolved: {error.strerror}.")
    if isinstance(error, ConnectionRefusedError):
        return Refused("connection refused.")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not accepted: {error.verify_message}.")
    if isinstance(error, HTTPException):
        return Refused(f"what answers does not speak HTTP: {words or type(error).__name__}.")
    if isinstance(error, OSError):
        return Refused(f"{error.strerror or words}.")
    # a URL that turns out to be none, a certificate file that is not there
    return Silent(f"it cannot be asked: {words}.") if isinstance(error, ValueError) else error
