#!/bin/bash
# Stand-in for NixOS's systemd-boot builder: entries and the default only for generations of profiles.
set -euo pipefail
export PATH=@userland@/bin
wanted=$(realpath "$1")
boot=/boot
entries=$boot/loader/entries
mkdir -p $entries $boot/EFI/nixos

write() { # PATH: standard input becomes the file, whole or not at all
  cat > "$1.tmp"
  mv "$1.tmp" "$1"
}

copied() { # STORE-PATH: prints its place on the boot file system
  local source name
  source=$(realpath "$1")
  name=${source#/nix/store/}
  printf '/EFI/nixos/%s.efi' "${name//\//-}"
}

kept=()
default=
add() { # PROFILE LINK
  local number link=$2 toplevel id prefix=nixos kernel initrd
  number=${link##*-link}; number=${link%-link}; number=${number##*-}
  toplevel=$(realpath "$link")
  [ -x "$toplevel/init" ] || return 0
  [ "$1" = system ] || prefix=nixos-$1
  id=$prefix-generation-$number.conf
  for source in kernel initrd; do
    local target
    target=$(copied "$toplevel/$source")
    kept+=("$boot$target")
    if [ ! -e "$boot$target" ]; then
      if ! cp "$toplevel/$source" "$boot$target.tmp"; then
        rm -f "$boot$target.tmp"
        return 1
      fi
      mv "$boot$target.tmp" "$boot$target"
    fi
  done
  kernel=$(copied "$toplevel/kernel")
  initrd=$(copied "$toplevel/initrd")
  write "$entries/$id" <<ENTRY
title NixOS
sort-key nixos
version Generation $number NixOS $(cat "$toplevel/nixos-version"), built on $(date -d "@$(stat -c %Y "$link")" +%F)
linux $kernel
initrd $initrd
options init=$toplevel/init $(cat "$toplevel/kernel-params")
machine-id $(cat /etc/machine-id)
ENTRY
  kept+=("$entries/$id")
  if [ "$toplevel" = "$wanted" ]; then default=$id; fi
}

profiles=/nix/var/nix/profiles
links() { # PROFILE-PATH: its generations, oldest first
  find "${1%/*}" -maxdepth 1 -regex "$1-[0-9]+-link" | sort -V
}
while read -r link; do add system "$link"; done < <(links $profiles/system)
if [ -d $profiles/system-profiles ]; then
  for profile in $profiles/system-profiles/*; do
    case $profile in *-link | *'*') continue ;; esac
    while read -r link; do add "${profile##*/}" "$link"; done < <(links "$profile")
  done
fi
if [ -n "$default" ]; then
  printf 'timeout 5\ndefault %s\nconsole-mode keep\n' "$default" | write $boot/loader/loader.conf
fi
for file in $entries/nixos-*.conf $boot/EFI/nixos/*; do
  [ -e "$file" ] || continue
  case " ${kept[*]} " in *" $file "*) ;; *) rm -f "$file" ;; esac
done
