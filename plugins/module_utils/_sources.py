# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a locked input comes from: whose it is, and the page on which its forge shows what changed. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

Forge = Literal["github", "gitlab", "forgejo"]

# forges by their host, where a git or tarball URL does not say what it leads to; git.sr.ht shows no comparisons
_FORGES: Mapping[str, Forge] = {
    "github.com": "github",
    "gitlab.com": "gitlab",
    "codeberg.org": "forgejo",
    "code.forgejo.org": "forgejo",
    "gitea.com": "forgejo",
    "git.lix.systems": "forgejo",
}
_COMPARE: Mapping[Forge, str] = {"github": "compare", "gitlab": "-/compare", "forgejo": "compare"}
# the host of an input of such a type that names none
_HOSTS = {"github": "github.com", "gitlab": "gitlab.com", "sourcehut": "git.sr.ht"}
_CHANNELS = ("channels.nixos.org", "releases.nixos.org")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_PLAIN_URL = re.compile(r"[!-\[\]-~]+")
_REV = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_ARCHIVE = re.compile(r"(?P<rev>[0-9a-f]{40})(?:\.tar\.gz|\.zip)?")
_PORTS = {"https": 443, "http": 80, "ssh": 22}


@dataclass(frozen=True)
class Source:
    """What stays the same when an input moves on: the host, and what on it.

    C(forge) is None where nobody knows a page for two revisions, C(rev) where the forge's revision is not known.
    """

    host: str
    path: tuple[str, ...]
    forge: Forge | None = None
    rev: str | None = None

    def is_at(self, other: Source) -> bool:
        """Whether both are the same place. Forges do not tell upper from lower case, file systems do."""
        return self._place() == other._place()

    def _place(self) -> tuple[str, tuple[str, ...]]:
        return self.host, tuple(step.lower() for step in self.path) if self.host else self.path


def source(locked: Mapping[str, object]) -> Source:
    """The source of the C(locked) part of a node, by whichever of its names. Never raises."""
    kind, url, rev = (_text(locked.get(name)) for name in ("type", "url", "rev"))
    if kind in _HOSTS:
        found = _named(kind, locked)
    elif kind in ("git", "hg"):
        found = _repository(url)
    elif kind in ("tarball", "file"):
        found = _archive(url)
    else:
        # a path, or something that is not known yet
        found = Source("", (url or _text(locked.get("path")) or _text(locked.get("id")),))
    if found.forge is None:
        return found
    named = rev or found.rev or ""
    return Source(found.host, found.path, found.forge, named if _REV.fullmatch(named) else None)


def compare_link(before: Source, after: Source) -> str | None:
    """The page that shows what happened between two revisions of one repository, where there is one."""
    if after.forge is None or before.forge != after.forge or not before.is_at(after):
        return None
    if before.rev is None or after.rev is None or before.rev == after.rev:
        return None
    # a lock file may hold anything: not even a control character or a user's name gets through
    path = "/".join(quote(step, safe="", errors="replace") for step in after.path)
    return f"https://{after.host}/{path}/{_COMPARE[after.forge]}/{before.rev}...{after.rev}"


def _named(kind: str, locked: Mapping[str, object]) -> Source:
    """An input that is named by owner and repository."""
    owner, repo = _text(locked.get("owner")), _text(locked.get("repo"))
    host = (_text(locked.get("host")) or _HOSTS[kind]).lower()
    # a group within a group is written as group%2Fsubgroup
    path = (*(unquote(owner).split("/") if kind == "gitlab" else (owner,)), repo)
    if not _HOST.fullmatch(host):
        return Source(host, path)
    if kind == "github":
        return _on_forge(host, path, "github")
    if kind == "gitlab":
        return _on_forge(host, path, "gitlab")
    return Source(host, path)


def _repository(url: str) -> Source:
    """A git repository: whether by https or by ssh, and as whom, makes no difference."""
    parts = _split(url)
    if parts is None:
        return Source("", (url.removeprefix("file://"),))
    *groups, repo = parts.path
    forge = _FORGES.get(parts.host) if parts.scheme in ("https", "ssh") else None
    return _on_forge(parts.host, (*groups, repo.removesuffix(".git")), forge)


def _archive(url: str) -> Source:
    """A tarball: its URL often is another one for each version, so only what is known of a host's URLs counts."""
    parts = _split(url)
    if parts is None:
        return Source("", (url.removeprefix("file://"),))
    host, path = parts.host, parts.path
    if host in _CHANNELS and path[-1].startswith("nixexprs.tar."):
        return Source("github.com", ("NixOS", "nixpkgs"), "github")
    if host == "api.flakehub.com" and path[0] == "f":
        # f/OWNER/REPO/VERSION.tar.gz, locked as f/pinned/OWNER/REPO/VERSION/ID/source.tar.gz
        return Source(host, tuple(path[2:4] if path[1:2] == ["pinned"] else path[1:3]))
    forge = _FORGES.get(host) if parts.scheme == "https" else None
    if forge is None:
        return Source(host, ())
    if forge == "forgejo" and path[:3] == ["api", "v1", "repos"]:
        path = path[3:]
    where = path.index("-") if forge == "gitlab" and "-" in path else 2
    found = _on_forge(host, tuple(path[:where]), forge)
    # archive/REV.tar.gz, and on GitLab -/archive/REV/NAME-REV.tar.gz
    rest = [step for step in path[where:] if step != "-"]
    named = _ARCHIVE.fullmatch(rest[1]) if rest[:1] == ["archive"] and len(rest) > 1 else None
    return Source(found.host, found.path, found.forge, named["rev"]) if named else found


def _on_forge(host: str, path: tuple[str, ...], forge: Forge | None) -> Source:
    """A repository, if the path is one of a repository on that forge; only GitLab has groups within groups."""
    whole = all(step.strip() not in ("", ".", "..") for step in path)
    fits = len(path) >= 2 if forge == "gitlab" else len(path) == 2
    return Source(host, path, forge if whole and fits else None)


@dataclass(frozen=True)
class _Url:
    scheme: str
    host: str
    path: list[str]


def _split(url: str) -> _Url | None:
    """A URL that leads to a host, without the user and a port that goes without saying."""
    # two programs may see two hosts in a URL with anything else in it
    if not _PLAIN_URL.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host:
        return None
    if port not in (None, _PORTS.get(parts.scheme)):
        host = f"{host}:{port}"
    return _Url(parts.scheme, host, [unquote(step) for step in parts.path.strip("/").split("/")])


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
