#!/bin/sh
# What playbooks/bootstrap.yml runs on a host that has no Python yet: POSIX sh and what every system of NixOS has. Lines
# that begin with @ are the answer; plugins/module_utils/_bootstrap.py reads them.
#   greet                               who logs in; without become
#   look                                what the host is, and which Python it has; changes nothing
#   take PATH                           root the Python that is in the store at PATH
#   build SECONDS [INSTALLABLE]         build or fetch a Python, and root it; the host's own nixpkgs has one by default
roots=/nix/var/nix/gcroots/lab-auto-update
root=$roots/python
system=/run/current-system/sw

umask 022
export LC_ALL=C SYSTEMD_COLORS=0 SYSTEMD_PAGER=cat HOME="${HOME:-/root}"
# a host that never enabled flakes has them here all the same
export NIX_CONFIG="extra-experimental-features = nix-command flakes"
PATH=/run/wrappers/bin:$system/bin:/nix/var/nix/profiles/default/bin:$PATH
export PATH

say() { printf "@%s %s\n" "$1" "$2"; }
bounded() { timeout -k 5 "$@"; }
setting() { bounded 30 nix config show "$1" 2> /dev/null | tr "\n" " "; }

# What Ansible and our modules want of it; a minimal build lacks some.
version() { # DIRECTORY
  bounded 30 "$1/bin/python3" -I -c "
import sys
assert sys.version_info >= (3, 11)
import fcntl, hashlib, json, select, ssl, zipfile, zlib
print('%d.%d.%d' % sys.version_info[:3])" 2> /dev/null
}

in_store() { # the newest that works, and is whole
  newest=
  for each in /nix/store/*-python3-3.*; do
    if [ -x "$each/bin/python3" ] && nix-store --check-validity "$each" 2> /dev/null && found=$(version "$each"); then
      newest=$(printf "%s\n%s %s" "$newest" "$found" "$each" | sort -V | tail -n 1)
    fi
  done
  [ -z "$newest" ] || say store_python "$newest"
}

own_nixpkgs() {
  if [ -z "$NIX_PATH" ] && [ -r /etc/set-environment ]; then
    NIX_PATH=$(sh -c ". /etc/set-environment && printf %s \"\$NIX_PATH\"")
    export NIX_PATH
  fi
  bounded 120 nix-instantiate --find-file nixpkgs > /dev/null 2>&1
}

greet() {
  say user "$(id -un)"
  say groups "$(id -Gn)"
  say end
}

look() {
  say uid "$(id -u)"
  if [ -e /etc/NIXOS ]; then say nixos "$(cat /run/current-system/nixos-version)"; fi
  say nix "$(nix --version 2> /dev/null)"
  say systemd "$(systemctl --version 2> /dev/null | head -n 1)"
  say store_free "$(df --output=avail --block-size=1M /nix/store 2> /dev/null | tail -n 1)"
  say trusted_users "$(setting trusted-users)"
  say trusted_keys "$(setting trusted-public-keys)"
  if found=$(version $system); then
    say system_python "$found"
  elif [ -e $system/bin/python3 ]; then
    say system_python_useless "$($system/bin/python3 --version 2>&1 | head -n 1)"
  fi
  rooted
  if [ -z "$found" ]; then
    in_store
    if own_nixpkgs; then say nixpkgs "<nixpkgs>"; else say nixpkgs nixpkgs; fi
  fi
  say end
}

rooted() { # once it is rooted, nobody collects it while it is tried
  if rooted_version=$(version $root); then
    found=$rooted_version
    say rooted_python "$found $(readlink -e $root)"
  fi
}

settle() { # what was made is not the root before it is seen to work
  version $root.new > /dev/null || {
    echo "$(readlink -e $root.new) has no Python of 3.11 or newer with all its modules." >&2
    rm -f $root.new
    return 1
  }
  mv -T $root.new $root && say changed yes && rooted && say end
}

take() { # PATH
  mkdir -p $roots && ln -sfn "$1" $root.new && settle
}

build() { # SECONDS [INSTALLABLE]
  mkdir -p $roots || return 1
  if [ -n "$2" ]; then
    bounded "$1" nix build --out-link $root.new "$2" || return
  elif own_nixpkgs; then
    bounded "$1" nix-build --quiet --out-link $root.new "<nixpkgs>" --attr python3 > /dev/null || return
  else
    bounded "$1" nix build --out-link $root.new "nixpkgs#python3" || return
  fi
  settle
}

case $1 in
  greet) greet ;;
  look) look ;;
  take) take "$2" ;;
  build) build "$2" "$3" ;;
esac
