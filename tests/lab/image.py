"""What guests are made of, made once and kept: a Debian tree, and layers with the first system of every host."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ._system import CACHE, fail, in_root, locked, run

FLAKE = Path(__file__).resolve().parent / "flake"
# of the guests' Python
SITE = Path(__file__).with_name("sitecustomize.py")
# the units of the hosts' module, which are no stand-ins
NIX = Path(__file__).resolve().parents[2] / "nix"
GUARD = (NIX / "boot-guard.sh", NIX / "resume.sh")

SUITES = {"trixie": "trixie", "forky": "forky"}

# Whose programs are on a guest's PATH, as on NixOS; the rest of Debian stays out of sight.
USERLAND = (
    "bash",
    "bsdutils",
    "busybox-static",
    "bzip2",
    "coreutils",
    "curl",
    "dash",
    "dbus",
    "dbus-bin",
    "diffutils",
    "findutils",
    "gawk",
    "git",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "libc-bin",
    "login",
    "login.defs",
    "mount",
    "ncurses-bin",
    "netcat-openbsd",
    "nftables",
    "nix-bin",
    "openssh-client",
    "openssh-server",
    "passwd",
    "procps",
    "sed",
    "sysvinit-utils",
    "systemd",
    "systemd-sysv",
    "tar",
    "util-linux",
    "util-linux-extra",
    "xz-utils",
)
PACKAGES = (
    "bzip2",
    "ca-certificates",
    "coreutils",
    "curl",
    "dbus",
    "dbus-bin",
    "diffutils",
    "gawk",
    "git",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "libpam-systemd",
    "netcat-openbsd",
    "nftables",
    "nix-bin",
    "nix-setup-systemd",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
    "util-linux-extra",
    "xz-utils",
    "busybox-static",
)

# Run inside the new tree: Python and a few more pieces move into the Nix store, Debian's own set-up goes.
CUSTOMIZE = r"""
set -eu
cd /
userland=$1
export NIX_CONFIG='experimental-features = nix-command flakes
substituters =
build-users-group ='

python=$(readlink /usr/bin/python3)
version=$(python3 -c 'import platform; print(platform.python_version())')
mkdir -p /tmp/s/python3-$version/bin /tmp/s/python3-$version/lib
find /usr/lib/$python -name __pycache__ -prune -exec rm -rf {} +
rm -f /usr/lib/$python/sitecustomize.py
printf '%s' "$2" > /usr/lib/$python/sitecustomize.py
# store paths have no times, so no byte code may be checked against any, that of compileall's own imports included
python3 -m compileall -q -f --invalidation-mode unchecked-hash -s /usr -p / /usr/lib/$python || true
mv /usr/lib/$python /tmp/s/python3-$version/lib/
mv /usr/bin/$python /tmp/s/python3-$version/bin/
ln -s $python /tmp/s/python3-$version/bin/python3
rm -rf /usr/bin/python3 /usr/bin/py3* /usr/bin/pydoc3* /usr/bin/pygettext3* /usr/lib/python3 /usr/share/python3

mkdir -p /tmp/s/debian-userland/bin /tmp/s/debian-userland/units
for package in $userland; do
  dpkg -L $package 2>/dev/null || true
done | grep -E '^(/usr)?/s?bin/[^/]+$' | grep -vE '/(py|apt|dpkg|deb)[^/]*$' | while read -r program; do
  [ -e "$program" ] || continue
  ln -sfn "/usr/${program#/usr}" "/tmp/s/debian-userland/bin/${program##*/}"
done
for program in awk nc which; do
  [ ! -e /usr/bin/$program ] || ln -sfn /usr/bin/$program /tmp/s/debian-userland/bin/$program
done
cp /usr/lib/systemd/system/systemd-networkd.service /tmp/s/debian-userland/units/

mkdir -p /tmp/s/busybox-static/bin
cp /usr/bin/busybox /tmp/s/busybox-static/bin/
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox /tmp/s/busybox-static/bin/$applet
done

mkdir -p /nix/var/nix/gcroots/stand-ins /nix/store
for tree in /tmp/s/*; do
  path=$(nix-store --add-fixed --recursive sha256 $tree)
  name=${tree##*/}
  case $name in python3-*) key=python3 ;; debian-*) key=userland ;; busybox-*) key=busybox ;; esac
  ln -s $path /nix/var/nix/gcroots/stand-ins/$key
  printf '%s %s %s\n' $key $name "$(nix-store -q --hash $path)"
done
[ -e /nix/var/nix/gcroots/profiles ] || ln -s /nix/var/nix/profiles /nix/var/nix/gcroots/profiles

rm -rf /tmp/s /etc/systemd/system /etc/systemd/network /etc/machine-id /etc/hostname /etc/hosts /etc/resolv.conf \
  /etc/ssh/ssh_host_* /var/lib/apt/lists/* /var/cache/apt/* \
  /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info \
  /usr/share/doc-base /usr/share/lintian /usr/share/binfmts /usr/share/pixmaps /usr/share/applications \
  /usr/lib/binfmt.d /usr/lib/valgrind /usr/local/lib/python3* /usr/share/gcc
rm -rf /etc/python3* /etc/apt /etc/nix/nix.conf /etc/ssh/sshd_config /etc/os-release /etc/profile
mkdir -p /var/log/journal /root/.ssh /etc/systemd
chmod 700 /root/.ssh
touch /etc/NIXOS
cat > /etc/sudoers <<'SUDOERS'
Defaults secure_path="/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin"
root ALL=(ALL:ALL) SETENV: ALL
%wheel ALL=(ALL:ALL) NOPASSWD: SETENV: ALL
SUDOERS
chmod 440 /etc/sudoers
groupadd --system wheel
useradd --create-home --groups wheel --shell /bin/bash admin
# nothing is left for a first boot to do
touch /etc/.updated /var/.updated
"""

# Run once per host: its profile, its boot file system, and nothing in its store that it does not need.
FIRST_SYSTEM = r"""
set -eu
host=$1 toplevel=$2
mkdir -p /etc/nix
echo 'build-users-group =' > /etc/nix/nix.conf
printf '%s' lab-$host | md5sum | cut -c 1-32 > /etc/machine-id
nix-env --profile /nix/var/nix/profiles/system --set $toplevel
if [ $host != builder ]; then
  rm -rf /nix/var/nix/gcroots/stand-ins
  nix-collect-garbage --quiet > /dev/null 2>&1
fi
installer=$(sed -n 's|.*! \(/nix/store/[^ ]*install-systemd-boot.sh\) .*|\1|p' $toplevel/bin/switch-to-configuration)
$installer $toplevel
rm /etc/nix/nix.conf
"""

BUILD_SYSTEMS = r"""
set -eu
export GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z
export NIX_CONFIG='experimental-features = nix-command flakes
substituters =
flake-registry =
sandbox = false
build-users-group ='
git config --global user.name 'Lab owner'
git config --global user.email owner@builder
git config --global init.defaultBranch main
for repository in /srv/packages /srv/tools /etc/nixos; do
  cd $repository
  git init --quiet
  git add --all
  if [ -e flake.nix ] && [ $repository != /srv/packages ]; then nix flake lock --quiet; git add flake.lock; fi
  git commit --quiet --message 'First version'
done
for host in $(jq -r 'keys[]' hosts.json); do
  toplevel=/etc/nixos#nixosConfigurations.$host.config.system.build.toplevel
  printf '%s %s\n' $host "$(nix build --no-link --print-out-paths $toplevel)"
done
"""


@dataclass(frozen=True)
class Systems:
    """Layers for guests: `lower(host)` lists them, topmost first."""

    image: Path
    path: Path
    toplevels: dict[str, str]

    def lower(self, host: str) -> list[Path]:
        return [self.path / "hosts" / host / "upper", self.path / "upper", self.image / "root"]

    def boot(self, host: str) -> Path:
        return self.path / "hosts" / host / "boot"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _make(target: Path, fill: object) -> None:
    """Fill a directory under another name, so that it exists whole or not at all."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for stale in CACHE.glob(f"tmp-{target.name}-*"):
        shutil.rmtree(stale)
    unfinished = Path(tempfile.mkdtemp(prefix=f"tmp-{target.name}-", dir=CACHE))
    unfinished.chmod(0o755)
    try:
        fill(unfinished)  # type: ignore[operator]
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(target)


def image(nix: str) -> Path:
    """The base image of a Debian release, from the cache or made now."""
    if nix not in SUITES:
        fail(f"'{nix}' is not a base of the lab; choose one of {', '.join(SUITES)}.")
    target = CACHE / f"image-{nix}-{_digest(CUSTOMIZE, SITE.read_text(), ' '.join(USERLAND), ' '.join(PACKAGES))}"
    with locked(CACHE / f"image-{nix}.lock"):
        if not target.is_dir():
            _make(target, lambda directory: _fill_image(directory, nix))
    return target


def _fill_image(directory: Path, nix: str) -> None:
    root = directory / "root"
    run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            '--aptopt=Acquire::Check-Valid-Until "false"',
            '--aptopt=Acquire::Retries "3"',
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            SUITES[nix],
            root,
            _mirror(),
        ],
        timeout=900,
    )
    root.chmod(0o755)
    pieces = in_root(root, ["bash", "-c", CUSTOMIZE, "bash", " ".join(USERLAND), SITE.read_text()])
    stand_ins = {}
    for line in pieces.splitlines():
        key, name, digest = line.split()
        stand_ins[key] = {"name": name, "hash": digest}
    (directory / "stand-ins.json").write_text(json.dumps(stand_ins, indent=2, sort_keys=True) + "\n")


def _mirror() -> str:
    """The mirror that this machine's apt uses for Debian."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for source in sources:
        if source.suffix not in {".list", ".sources"} or not source.is_file():
            continue
        for line in source.read_text().splitlines():
            words = line.split()
            if words[:1] in (["deb"], ["URIs:"]):
                for word in words[1:]:
                    if word.startswith("http") and word.rstrip("/").endswith("/debian"):
                        return word
    return "http://deb.debian.org/debian"


def systems(base: Path, hosts: dict[str, dict[str, object]]) -> Systems:
    """The first system of every host, built by Nix on the base image, from the cache or made now."""
    sources = "".join(
        f"{path.relative_to(FLAKE)}\0{path.read_text()}\0"
        for path in sorted(FLAKE.rglob("*"))
        if path.is_file() and path.name != "hosts.json"
    )
    sources += "".join(script.read_text() for script in GUARD)
    hosts_text = hosts_json(hosts)
    # a base image made again may hold other versions under the same recipe
    pieces = (base / "stand-ins.json").read_text()
    target = CACHE / f"systems-{_digest(base.name, pieces, sources, hosts_text, BUILD_SYSTEMS, FIRST_SYSTEM)}"
    with locked(CACHE / "systems.lock"):
        if not target.is_dir():
            _make(target, lambda directory: _fill_systems(directory, base, hosts_text))
    return Systems(base, target, json.loads((target / "toplevels.json").read_text()))


def hosts_json(hosts: dict[str, dict[str, object]]) -> str:
    """One host a line, so that a change of one host is one line in git."""
    lines = [f"  {json.dumps(name)}: {json.dumps(host)}" for name, host in hosts.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _fill_systems(directory: Path, base: Path, hosts_text: str) -> None:
    merged, work, upper = directory / "merged", directory / "work", directory / "upper"
    for path in (merged, work, upper):
        path.mkdir()
    for source, place in (("nixos", "etc/nixos"), ("packages", "srv/packages"), ("tools", "srv/tools")):
        shutil.copytree(FLAKE / source, upper / place)
    for script in GUARD:
        shutil.copy(script, upper / "etc/nixos/scripts")
    (upper / "etc/nixos/hosts.json").write_text(hosts_text)
    shutil.copy(base / "stand-ins.json", upper / "etc/nixos/stand-ins.json")
    built = in_root(merged, ["bash", "-c", BUILD_SYSTEMS], lower=[base / "root"], upper=upper, work=work)
    toplevels = dict(line.split() for line in built.splitlines())
    # the flake host alone has the sources
    builder = directory / "hosts" / "builder" / "upper"
    for place in ("etc/nixos", "srv", "root"):
        (builder / place).parent.mkdir(parents=True, exist_ok=True)
        (upper / place).rename(builder / place)
    for host, toplevel in toplevels.items():
        layer = directory / "hosts" / host / "upper"
        layer.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work)
        work.mkdir()
        in_root(
            merged,
            ["bash", "-c", FIRST_SYSTEM, "bash", host, toplevel],
            lower=[upper, base / "root"],
            upper=layer,
            work=work,
        )
        (layer / "boot").rename(layer.parent / "boot")
    shutil.rmtree(work)
    merged.rmdir()
    (directory / "toplevels.json").write_text(json.dumps(toplevels, indent=2) + "\n")
    os.sync()
