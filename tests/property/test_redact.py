"""No secret of a known kind comes through, wherever it stands; and what is none stays as it is."""

from __future__ import annotations

import string
import time

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._redact import (
    redact,
    redacted,
    redacted_argv,
    redacted_results,
    without,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# as a secret stands in a URL or a header, and one that no other text has by chance
ALPHABET = string.ascii_letters + string.digits + "-._~+"
SECRETS = st.text(ALPHABET, min_size=8, max_size=60).map(lambda text: f"s3{text}")
# what a password may have in a URL, badly encoded as people do it
PASSWORDS = st.text(ALPHABET + "!$&'()*,;=:@%/?#", min_size=8, max_size=60).map(lambda text: f"s3{text}")
NAMES = st.sampled_from(["password", "token", "secret", "api_key", "lab_webhook_token", "ANSIBLE_BECOME_PASSWORD"])
KINDS = {
    "user and password in a URL": (PASSWORDS, "fetching 'https://user:{}@example.org/x.tar.gz' failed"),
    "password of an ssh URL": (PASSWORDS, "git+ssh://git:{}@example.org/repo"),
    "token in the place of a user": (SECRETS, "git+https://{}@example.org/repo?ref=main"),
    "URL in JSON with escaped slashes": (SECRETS, '{{"url": "https:\\/\\/user:{}@example.org"}}'),
    "first of a query": (SECRETS, "https://example.org/x?token={}&ref=main"),
    "last of a query": (SECRETS, "'https://example.org/x?ref=main&access_token={}': HTTP error 404"),
    "signature in a query": (SECRETS, "https://s3.example.org/x?X-Amz-Signature={}"),
    "api key in a query": (SECRETS, "http://example.org/api?apikey={}"),
    "access-tokens": (SECRETS, "access-tokens = github.com=x other.example={}"),
    "access-tokens as an option": (SECRETS, "nix --option access-tokens github.com={} flake update"),
    "access-tokens in a list": (SECRETS, "['--option', 'access-tokens', 'github.com={}']"),
    "bearer": (SECRETS, "Authorization: Bearer {}"),
    "authorization of no scheme": (SECRETS, "'Authorization': '{}'"),
    "private token": (SECRETS, "curl -H 'PRIVATE-TOKEN: {}' https://example.org"),
    "cookie": (SECRETS, "Set-Cookie: session={}; HttpOnly"),
    "assignment": (SECRETS, "LAB_TOKEN={} was not accepted"),
    "JSON": (SECRETS, '{{"user": "lab", "password": "{}"}}'),
    "printed dictionary": (SECRETS, "{{'user': 'lab', 'client_secret': '{}'}}"),
    "YAML": (SECRETS, "user: lab\n  password: {}\n"),
    "option of a program": (SECRETS, "mysqladmin --password {} ping"),
    "option with =": (SECRETS, "mysqladmin --password={} ping"),
    "option in a list": (SECRETS, "['mysqladmin', '--password', '{}', 'ping']"),
    "slack": (SECRETS, "https://hooks.slack.com/services/T0/B0/{}"),
    "discord": (SECRETS, "https://discord.com/api/webhooks/1234/{}"),
    "telegram": (SECRETS, "https://api.telegram.org/bot{}/sendMessage"),
    "healthchecks": (SECRETS, "https://hc-ping.com/{}/fail"),
    "healthchecks of one's own": (SECRETS, "https://hc.example.org/ping/0b7a2c1d-{}"),
    "Teams": (SECRETS, "https://lab.webhook.office.com/webhookb2/{}"),
    "Uptime Kuma": (SECRETS, "http://kuma.example.org:3001/api/push/{}?status=up"),
    "ntfy": (SECRETS, "https://ntfy.sh/{}"),
    "github": (st.text(string.ascii_letters + string.digits, min_size=20, max_size=40).map("ghp_{}".format), "not {}."),
    "gitlab": (st.text(string.ascii_letters + string.digits, min_size=20, max_size=40).map("glpat-{}".format), "({})"),
    "signing key of Nix": (
        st.text(string.ascii_letters + string.digits + "+/", min_size=86, max_size=86).map("{}==".format),
        "the key lab-1:{} is not",
    ),
    "private key": (SECRETS, "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----"),
    "half a private key": (SECRETS, "-----BEGIN PRIVATE KEY-----\nAAAA\n{}"),
}
# what programs and this collection say, and nothing of it is a secret
PLAIN = (
    "ssh-ng://root@web",
    "http://mon:9090/alerts@web",
    "/run/secrets/db-password: No such file or directory",
    "git+ssh://git@example.org/repo?ref=main&rev=1a2b3c",
    "https://example.org/nixpkgs/archive/nixos-unstable.tar.gz?narHash=sha256-AAAA%3D",
    "error: attribute 'web' missing",
    "2026-11-22T02:00:00Z user@host: well",
    "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-token-1.0",
    "systemd-ask-password-wall.service",
    "access-tokens is a secret and cannot be an option. Put it into nix.conf, or a file included there.",
    "Wait for an hour, or give Nix a token: access-tokens in nix.conf.",
    "lab_signing_key has '/root/lab.secret'.",
    "lab-1:Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm8=",
    "sha512-" + "A" * 86 + "==",
    "nas, web",
    "",
    "\n",
)
SENTENCES = st.lists(st.sampled_from(PLAIN), max_size=6).map(" ".join)


@settings(max_examples=400)
@given(st.data())
def test_no_secret_of_a_known_kind_comes_through(data: st.DataObject):
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    secrets, template = KINDS[kind]
    secret = data.draw(secrets)
    text = f"{data.draw(SENTENCES)} {template.format(secret)} {data.draw(SENTENCES)}"
    clean = redact(text if kind != "YAML" else template.format(secret))
    assert secret not in clean
    # nor a piece of it that would be of use
    assert all(secret[at : at + 8] not in clean for at in range(len(secret) - 7))
    assert "***" in clean


@given(st.one_of(st.text(), *(st.builds(template.format, secrets) for secrets, template in KINDS.values())))
def test_once_is_enough(text: str):
    assert redact(redact(text)) == redact(text)


@given(SENTENCES)
def test_what_is_no_secret_stays_the_very_object(text: str):
    assert redact(text) is text


@given(SECRETS, NAMES)
def test_in_data_a_secret_is_known_by_its_name_and_nothing_else_changes(secret: str, name: str):
    data = {
        "checks": [{name: secret, "url": f"https://user:{secret}@example.org"}],
        f"https://user:{secret}@example.org": ("fine", 3, None, True),
        "count": 7,
        "log": None,
    }
    clean = redacted(data)
    assert secret not in repr(clean)
    assert isinstance(clean, dict)
    assert (clean["count"], clean["log"]) == (7, None)
    assert ("fine", 3, None, True) in clean.values()
    assert redacted(clean) == clean


@pytest.mark.parametrize("host", ["vault-secret", "token", "access-tokens"])
def test_the_name_of_a_host_hides_nothing(host: str):
    results = {"systems": {host: "/nix/store/x"}, "current": {host: 1795312200}, "failed_systems": {host: "?token=x"}}
    assert redacted_results(results) == {**results, "failed_systems": {host: "?token=***"}}


@given(SECRETS, st.sampled_from(["access-tokens", "--password", "extra-access-tokens", "--api-key"]))
def test_on_a_command_line_a_secret_is_known_by_the_word_before_it(secret: str, name: str):
    assert redacted_argv(["nix", "--option", name, secret, "web"]) == ["nix", "--option", name, "***", "web"]


@given(SECRETS)
def test_what_its_owner_calls_secret_is_hidden_whatever_it_looks_like(secret: str):
    said = without(f"unknown option --pin={secret}, and {secret} neither", [f"--pin={secret}", "-v"])
    assert said == "unknown option ***, and *** neither"


@pytest.mark.parametrize("run", ["a", "_", "-", ":", "@", "a_", "://", "'", '"', "x=", "token", "token=", "cookie: "])
def test_hostile_text_costs_no_more_time_than_its_length(run: str):
    began = time.process_time()
    redact(run * (200_000 // len(run)))
    assert time.process_time() - began < 2
