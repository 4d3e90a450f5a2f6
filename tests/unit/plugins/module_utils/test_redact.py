"""No secret in any message."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

SECRET = "c4n4ry"


@pytest.mark.parametrize(
    "text",
    [
        f"error: unable to download 'https://user:{SECRET}@example.org/x.tar.gz'",
        f"git+https://{SECRET}@example.org/repo",
        f"git+ssh://git:{SECRET}@example.org/repo",
        f"https://example.org/x?private_token={SECRET}&ref=main",
        f"https://example.org/x?ref=main&access_token={SECRET}",
        f"access-tokens = github.com={SECRET} example.org={SECRET}",
        f"--option access-tokens github.com={SECRET}",
        f"Authorization: Bearer {SECRET}",
    ],
)
def test_secrets_are_taken_out(text):
    assert SECRET not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "ssh-ng://root@web",
        "git+ssh://git@example.org/repo",
        "https://example.org/nixpkgs?ref=nixos-unstable&rev=1a2b3c",
        "error: attribute 'web' missing",
        "2026-11-22T02:00:00Z user@host: well",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text
