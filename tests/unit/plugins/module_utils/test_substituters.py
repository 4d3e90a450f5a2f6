"""Which substituter failed, by what Nix says of it: recorded from Nix 2.26.3 and 2.34.8, bodies of answers cut."""

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _nix

DOWN_2_26 = """\
warning: error: unable to download 'http://builder:8084/nix-cache-info': Could not connect to server (7) Failed to \
connect to builder port 8084 after 0 ms: Could not connect to server; retrying in 292 ms
warning: unable to download 'http://builder:8084/nix-cache-info': Could not connect to server (7) Failed to connect to \
builder port 8084 after 0 ms: Could not connect to server
don't know how to build these paths:
  /nix/store/9cppy9h2c8gqwc0h3i11g0hb5jnxmxbb-nixos-system-web-26.11.20261125.420233e
error: build of '/nix/store/9cppy9h2c8gqwc0h3i11g0hb5jnxmxbb-nixos-system-web-26.11.20261125.420233e' failed
"""
DOWN_2_34 = """\
warning: unable to download 'http://builder:8084/nix-cache-info': Could not connect to server (7) Failed to connect to \
builder:8084 after 1 ms: Could not connect to server; retrying in 281 ms (attempt 1/2)
warning: unable to download 'http://builder:8084/nix-cache-info': Could not connect to server (7) Failed to connect to \
builder:8084 after 0 ms: Could not connect to server
don't know how to build these paths:
  /nix/store/kl43aqxqhrdsw7x8b0k8q6p7qnq4gl3x-nixos-system-web-26.11.20261125.c142ee0
error: path '/nix/store/kl43aqxqhrdsw7x8b0k8q6p7qnq4gl3x-nixos-system-web-26.11.20261125.c142ee0' is required, but \
there is no substituter that can build it
"""
HANGS_2_26 = """\
warning: error: unable to download 'http://builder:8083/nix-cache-info': Timeout was reached (28) Operation too slow. \
Less than 1 bytes/sec transferred the last 8 seconds; retrying in 337 ms
warning: unable to download 'http://builder:8083/nix-cache-info': Timeout was reached (28) Operation too slow. Less \
than 1 bytes/sec transferred the last 8 seconds
"""
HANGS_2_34 = """\
warning: unable to download 'http://builder:8083/nix-cache-info': Timeout was reached (28) Operation too slow. Less \
than 1 bytes/sec transferred the last 8 seconds; retrying in 332 ms (attempt 1/2)
warning: unable to download 'http://builder:8083/nix-cache-info': Timeout was reached (28) Operation too slow. Less \
than 1 bytes/sec transferred the last 8 seconds
"""
ERROR_500_2_26 = """\
warning: error: unable to download 'http://builder:8088/9cppy9h2c8gqwc0h3i11g0hb5jnxmxbb.narinfo': HTTP error 500

       response body:

       <!DOCTYPE HTML>
       </html>; retrying in 308 ms
disabling binary cache 'http://builder:8088' for 60 seconds
error: unable to download 'http://builder:8088/9cppy9h2c8gqwc0h3i11g0hb5jnxmxbb.narinfo': HTTP error 500

       response body:

       <!DOCTYPE HTML>
       </html>
"""
ERROR_500_2_34 = """\
warning: unable to download 'http://builder:8088/kl43aqxqhrdsw7x8b0k8q6p7qnq4gl3x.narinfo': HTTP error 500

response body:

<!DOCTYPE HTML>
</html>; retrying in 308 ms (attempt 1/2)
error: unable to download 'http://builder:8088/kl43aqxqhrdsw7x8b0k8q6p7qnq4gl3x.narinfo': HTTP error 500

       response body:

       <!DOCTYPE HTML>
       </html>
"""
HALF_A_FILE_2_26 = """\
copying path '/nix/store/3j5d37866h341ha7rp0kf2bzp5gvyam9-etc' from 'http://builder:8086'...
error: unable to download 'http://builder:8086/nar/1qjn67y915g9pbn7cipznqib10g07v9rvrkk7z8sl19wxvyv1rdv.nar.zst': \
HTTP error 200 (curl error: Timeout was reached)
"""
GONE_2_26 = """\
error: file 'nar/0qzs886id8iic96fip4wvw1l5aa8c3935sdz3kif0lrf0dbyz1c6.nar.zst' does not exist in binary cache \
'http://builder:8090'
"""
GONE_2_34 = """\
warning: file 'nar/1ygr2dh8qbqiyg92kpzxdfc388a24j7m80xw54jvs58l5hh91r5f.nar.zst' does not exist in binary cache \
'http://builder:8090'
"""


@pytest.mark.parametrize(
    ("stderr", "url", "words"),
    [
        (DOWN_2_26, "http://builder:8084", "Could not connect to server"),
        (DOWN_2_34, "http://builder:8084", "Could not connect to server"),
        (HANGS_2_26, "http://builder:8083", "Timeout was reached"),
        (HANGS_2_34, "http://builder:8083", "Timeout was reached"),
        (ERROR_500_2_26, "http://builder:8088", "HTTP error 500"),
        (ERROR_500_2_34, "http://builder:8088", "HTTP error 500"),
        (HALF_A_FILE_2_26, "http://builder:8086", "Timeout was reached"),
        (GONE_2_26, "http://builder:8090", "it has no nar/0qzs"),
        (GONE_2_34, "http://builder:8090", "it has no nar/1ygr"),
        (
            "warning: 'http://builder:8091' does not appear to be a binary cache\n",
            "http://builder:8091",
            "does not appear to be a binary cache",
        ),
        (
            "Host key verification failed.\nerror: failed to start SSH connection to 'builder'\n",
            "builder",
            "failed to start SSH connection",
        ),
        ("warning: don't know how to open Nix store with scheme 's3'\n", "s3", "don't know how to open"),
    ],
)
def test_the_substituter_that_failed_is_named_with_its_failure(stderr: str, url: str, words: str) -> None:
    assert list(_nix.substituter_failures(stderr)) == [url]
    assert words in _nix.substituter_failures(stderr)[url]


@pytest.mark.parametrize("stderr", [DOWN_2_26, DOWN_2_34, ERROR_500_2_26, ERROR_500_2_34])
def test_one_that_answered_at_last_has_not_failed(stderr: str) -> None:
    first = stderr.index("retrying in")
    retried = stderr[: stderr.index("\n", first) + 1]
    assert list(_nix.substituter_failures(f"{retried}{GONE_2_26}")) == ["http://builder:8090"]
    # but one that was being tried when the time was over has
    assert len(list(_nix.substituter_failures(retried))) == 1


def test_several_are_named_once_each_in_their_order() -> None:
    stderr = DOWN_2_34 + HANGS_2_34 + DOWN_2_34
    assert list(_nix.substituter_failures(stderr)) == ["http://builder:8084", "http://builder:8083"]


def test_an_input_of_a_flake_is_no_substituter() -> None:
    stderr = "error: unable to download 'https://api.github.com/repos/NixOS/nixpkgs/commits/HEAD': HTTP error 403\n"
    assert list(_nix.substituter_failures(stderr)) == []


def test_a_substituter_without_a_trusted_signature_has_not_failed_but_is_named() -> None:
    stderr = (
        "warning: ignoring substitute for '/nix/store/9cppy9h2c8gqwc0h3i11g0hb5jnxmxbb-nixos-system-web' from "
        "'http://builder:8081', as it's not signed by any of the keys in 'trusted-public-keys'\n"
    )
    assert list(_nix.substituter_failures(stderr)) == []
    assert _nix.unsigned_substituters(stderr) == ["http://builder:8081"]
    assert "trusted-public-keys" in _nix.remedy(stderr)


def test_every_wait_has_an_end_unless_somebody_says_otherwise() -> None:
    bounded = _nix.bounded_options({"connect-timeout": 60, "cores": 2})
    assert bounded == {"connect-timeout": 60, "stalled-download-timeout": 30, "download-attempts": 3, "cores": 2}
