# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to the network: a connection, or a page, with an end. Without proxies, redirects and C(.netrc)."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable
from http.client import HTTPException
from typing import TypeVar
from urllib.error import HTTPError, URLError

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._user_checks import LIMIT, Page

_T = TypeVar("_T")


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
    # it takes its time, and only these ask for pages
    from ansible.module_utils.urls import open_url

    def work() -> Page:
        try:
            answer = open_url(
                url,
                method="GET",
                timeout=timeout,
                force=True,
                use_proxy=False,
                use_netrc=False,
                follow_redirects="none",
                # or the server would have to ask for it first
                force_basic_auth=True,
                decompress=False,
                http_agent="homelab.nixos",
                validate_certs=validate_certs,
                ca_path=ca_path,
            )
        except HTTPError as error:
            answer = error
        with answer:
            body: bytes = answer.read(limit + 1) if limit else b""
            return Page(int(answer.status), body.decode("utf-8", "replace") if len(body) <= limit else None)

    return _ended(work, timeout)


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
    reason = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    words = redact(str(reason)).rstrip(".")
    if isinstance(reason, TimeoutError):
        return Silent(f"no answer within {timeout:g} s.")
    if isinstance(reason, socket.gaierror):
        return Silent(f"its name cannot be resolved: {reason.strerror}.")
    if isinstance(reason, ConnectionRefusedError):
        return Refused("connection refused.")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not accepted: {reason.verify_message}.")
    if isinstance(reason, HTTPException):
        return Refused(f"what answers does not speak HTTP: {words or type(reason).__name__}.")
    if isinstance(reason, OSError):
        return Refused(f"{reason.strerror or words}.")
    # a URL that turns out to be none, a certificate file that is not there
    return Silent(f"it cannot be asked: {words}.") if isinstance(reason, ValueError) else error
