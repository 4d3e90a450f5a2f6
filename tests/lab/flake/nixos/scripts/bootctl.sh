#!/bin/bash
# Stand-in for bootctl: reads /boot/loader; the firmware's variables are files in a directory of the machine.
set -euo pipefail
export PATH=@userland@/bin
firmware=/var/lib/firmware
vars=$firmware/efivars
entries=/boot/loader/entries
declare -A field

known() { [ -e "$entries/$1" ]; }
withoutOneShot() { [ -e $firmware/without-one-shot ]; }
setVariable() { # NAME VALUE: an empty value removes it
  mkdir -p $vars
  if [ -z "$2" ]; then rm -f "$vars/$1"; else printf '%s' "$2" > "$vars/$1.tmp"; mv "$vars/$1.tmp" "$vars/$1"; fi
}
defaultEntry() {
  local pattern entry
  pattern=$(variable LoaderEntryDefault)
  [ -n "$pattern" ] || pattern=$(sed -n 's/^default  *//p' /boot/loader/loader.conf 2>/dev/null | head -n 1)
  for entry in $entries/*.conf; do
    # shellcheck disable=SC2053
    if [[ ${entry##*/} == $pattern ]]; then echo "${entry##*/}"; return; fi
  done
}
calledDefault() { # while it is set, the entry for the next boot is called the default by the real one, too
  local once
  once=$(variable LoaderEntryOneShot)
  if [ -n "$once" ]; then echo "$once"; else defaultEntry; fi
}
# Both without a process: every step of an update asks several times.
variable() { [ ! -s "$vars/$1" ] || printf '%s' "$(<"$vars/$1")"; }
fieldsOf() { # ENTRY: sets `field`
  local key value
  field=([title]='' [version]='' [options]='' [linux]='' [initrd]='' [machine-id]='' [sort-key]='')
  known "$1" || return 0
  while read -r key value || [ -n "$key" ]; do
    if [ -n "$key" ] && [ -z "${field[$key]:-}" ]; then field[$key]=$value; fi
  done < "$entries/$1"
}
target() { # the special names that bootctl knows
  case $1 in
    '') ;;
    @current) variable LoaderEntrySelected ;;
    @default) defaultEntry ;;
    @oneshot) variable LoaderEntryOneShot ;;
    *) echo "$1" ;;
  esac
}

verb=status json=
words=()
for word in "$@"; do
  case $word in
    --json=*) json=${word#--json=} ;;
    --no-pager | --quiet | -q | --esp-path=* | --boot-path=*) ;;
    -p | --print-esp-path | -x | --print-boot-path) echo /boot; exit 0 ;;
    -*) echo "bootctl: unrecognized option '$word'" >&2; exit 1 ;;
    *) words+=("$word") ;;
  esac
done
if [ ${#words[@]} -gt 0 ]; then verb=${words[0]}; fi

case $verb in
  is-installed)
    if [ -e /boot/loader/loader.conf ]; then echo yes; else echo no; exit 1; fi
    ;;
  status)
    echo "System:"
    echo "      Firmware: UEFI 2.70 (stand-in)"
    echo " Firmware Arch: x64"
    echo "   Secure Boot: disabled"
    echo
    echo "Current Boot Loader:"
    echo "      Product: systemd-boot (stand-in)"
    yes=✓ no=✗
    # no locale at all counts as UTF-8
    case ${LC_ALL:-${LC_CTYPE:-${LANG:-UTF-8}}} in *[Uu][Tt][Ff]8 | *[Uu][Tt][Ff]-8) ;; *) yes=+ no=- ;; esac
    oneShot=$yes
    if withoutOneShot; then oneShot=$no; fi
    echo "     Features: $yes Boot counting"
    echo "               $yes Menu timeout control"
    echo "               $yes One-shot menu timeout control"
    echo "               $yes Default entry control"
    echo "               $oneShot One-shot entry control"
    echo "               $yes Support Type #1 sort-key field"
    echo "    Partition: n/a"
    echo "       Loader: └─/boot//EFI/systemd/systemd-bootx64.efi"
    # the variables, as they are: the default of loader.conf is not among them
    for name in Selected:Current Default:Default OneShot:OneShot; do
      value=$(variable "LoaderEntry${name%:*}")
      if [ -n "$value" ]; then echo "${name#*:} Entry: $value"; fi
    done
    echo
    default=$(calledDefault)
    if [ -n "$default" ]; then
      echo "Default Boot Loader Entry:"
      echo "         type: Boot Loader Specification Type #1 (.conf)"
      fieldsOf "$default"
      echo "        title: ${field[title]} (${field[version]})"
      echo "           id: $default"
      echo "       source: $entries/$default"
      echo "        linux: /boot/${field[linux]}"
      echo "      options: ${field[options]}"
    fi
    ;;
  list)
    default=$(calledDefault) selected=$(variable LoaderEntrySelected)
    for entry in $entries/*.conf; do
      [ -e "$entry" ] || continue
      id=${entry##*/}
      fieldsOf "$id"
      printf '%s\n' "$id" "$entry" "${field[title]}" "${field[version]}" "${field[options]}" "${field[linux]}" \
        "${field[initrd]}" "${field[machine-id]}" "${field[sort-key]}"
    done | jq -cnR --arg default "$default" --arg selected "$selected" '
      [inputs] | . as $lines | range(0; length; 9) | $lines[.:. + 9]
        | . as [$id, $path, $title, $version, $options, $linux, $initrd, $machineId, $sortKey]
        | {type: "type1", id: $id, path: $path, root: "/boot", title: $title, showTitle: "\($title) (\($version))",
          sortKey: $sortKey, version: $version, machineId: $machineId, options: $options, linux: $linux, initrd: [$initrd],
          isReported: true, isDefault: ($id == $default), isSelected: ($id == $selected)}
    ' | if [ -n "$json" ] && [ "$json" != off ]; then
      if [ "$json" = pretty ]; then jq -s .; else jq -cs .; fi
    else
      jq -r '"         type: Boot Loader Specification Type #1 (.conf)\n        title: \(.title)" + (if .isDefault then " (default)" else "" end)
        + (if .isSelected then " (selected)" else "" end) + "\n           id: \(.id)\n       source: \(.path)\n      version: \(.version)\n        linux: /boot/\(.linux)\n      options: \(.options)\n"'
    fi
    ;;
  set-default | set-oneshot)
    if [ ${#words[@]} -ne 2 ]; then echo "bootctl: $verb takes one argument" >&2; exit 1; fi
    id=$(target "${words[1]}")
    name=LoaderEntryDefault
    if [ "$verb" = set-oneshot ]; then
      name=LoaderEntryOneShot
      if withoutOneShot; then
        echo "Failed to set EFI variable '$name': Operation not supported" >&2
        exit 1
      fi
    fi
    setVariable $name "$id"
    ;;
  *)
    echo "Unknown command verb $verb." >&2
    exit 1
    ;;
esac
