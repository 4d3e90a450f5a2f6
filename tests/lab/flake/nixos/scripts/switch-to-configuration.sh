#!/bin/bash
# Stand-in for NixOS's switch-to-configuration: the same actions, order, messages and exit codes (see docs/testing.md).
set -uo pipefail
export PATH=@userland@/bin
toplevel=@out@
action=${1-}

case $action in
  check | switch | boot | test | dry-activate) ;;
  *)
    cat >&2 <<USAGE
Usage: switch-to-configuration [check|switch|boot|test|dry-activate]
check:        run pre-switch checks and exit
switch:       make the configuration the boot default and activate now
boot:         make the configuration the boot default
test:         activate the configuration, but don't make it the boot default
dry-activate: show what would be done if this configuration were activated
USAGE
    exit 1
    ;;
esac
if [ "$(id -u)" != 0 ]; then echo "switch-to-configuration must be run as the root user" >&2; exit 1; fi

export NIXOS_ACTION=$action
mkdir -p /run/nixos
exec 9> /run/nixos/switch-to-configuration.lock
flock 9

# ---- pre-switch checks ---------------------------------------------------------------------------------------------
inhibited() {
  local new=$toplevel/switch-inhibitors old=/run/current-system/switch-inhibitors
  [ "$action" != boot ] && [ -f "$new" ] && [ -f "$old" ] || return 1
  ! jq -en --slurpfile old "$old" --slurpfile new "$new" \
    '$old[0] as $o | $new[0] | to_entries | all(. as $e | ($o | has($e.key) | not) or $o[$e.key] == $e.value)' > /dev/null
}
if [ "${NIXOS_NO_CHECK-}" != 1 ]; then
  if inhibited; then
    echo "There are changes to critical components of the system; boot the new configuration instead." >&2
    echo "Pre-switch check 'switchInhibitors' failed" >&2
    exit 1
  fi
fi
[ "$action" != check ] || exit 0

# ---- boot loader ---------------------------------------------------------------------------------------------------
if [ "$action" = switch ] || [ "$action" = boot ]; then
  [ -z '@loaderSeconds@' ] || sleep '@loaderSeconds@'
  if [ -n '@loaderFails@' ]; then echo "Failed to install bootloader" >&2; exit 1; fi
  if [ -z '@espFull@' ] && ! @installBootLoader@ "$toplevel"; then
    echo "Failed to install bootloader" >&2
    exit 1
  fi
  [ "${NIXOS_NO_SYNC-}" = 1 ] || sync -f /nix/store
fi
[ "$action" != boot ] || exit 0

if [ "$(cat /run/current-system/init-interface-version)" != "$(cat $toplevel/init-interface-version)" ]; then
  echo "Warning: the new NixOS configuration has an 'init' that is incompatible with the current configuration.  The new configuration won't take effect until you reboot the system." >&2
  exit 100
fi

# ---- which units change --------------------------------------------------------------------------------------------
current=/etc/systemd/system
new=$toplevel/etc/systemd/system
declare -A stop=() start=() reload=() restart=() skip=() hidden=() states=()

value() { # FILE SECTION KEY DEFAULT
  local found
  found=$(awk -v section="[$2]" -v key="$3=" '/^\[/ { inside = ($0 == section) } inside && index($0, key) == 1 { print substr($0, length(key) + 1) }' "$1" | tail -n 1)
  echo "${found:-$4}"
}
yes() { case $(value "$@") in 1 | yes | true | on) ;; *) return 1 ;; esac; }
normal() { # FILE PATTERN-OF-IGNORED-KEYS: the settings that matter, in an order that does not
  cat "$1" "$1".d/*.conf 2> /dev/null | awk -v ignored="^($2)=" '
    /^[#;]/ || /^[ \t]*$/ { next }
    /^\[/ { section = $0; next }
    section == "[Install]" { next }
    section == "[Unit]" && $0 ~ ignored { next }
    { print section " " $0 }' | sort -s -k 1,1
}
ignored='Description|Documentation|OnFailure|OnSuccess|OnFailureJobMode|IgnoreOnIsolate|StopWhenUnneeded|RefuseManualStart|RefuseManualStop|AllowIsolate|CollectMode|SourcePath'
compare() { # OLD NEW: prints same, reload or restart
  if [ "$(normal "$1" "$ignored|X-Reload-Triggers")" != "$(normal "$2" "$ignored|X-Reload-Triggers")" ]; then echo restart
  elif [ "$(normal "$1" "$ignored")" != "$(normal "$2" "$ignored")" ]; then echo reload
  else echo same; fi
}
record() { echo "$2" >> "/run/nixos/$1-list"; }

modified() { # UNIT NEW-FILE
  local unit=$1 file=$2 socket sockets activated=
  case $unit in
    sysinit.target | basic.target | multi-user.target | graphical.target | *.path | *.slice | *.socket) return ;;
    *.mount) reload[$unit]=1; record reload "$unit"; return ;;
  esac
  if yes "$file" Service X-ReloadIfChanged false || yes "$file" Unit X-ReloadIfChanged false; then
    reload[$unit]=1; record reload "$unit"
  elif ! yes "$file" Service X-RestartIfChanged true || ! yes "$file" Unit X-RestartIfChanged true \
    || yes "$file" Unit RefuseManualStop false || yes "$file" Unit X-OnlyManualStart false; then
    skip[$unit]=1
  elif ! yes "$file" Service X-StopIfChanged true || ! yes "$file" Unit X-StopIfChanged true; then
    restart[$unit]=1; record restart "$unit"
  else
    case $unit in *.service)
      sockets=$(value "$file" Service Sockets "${unit%.service}.socket")
      for socket in $sockets; do
        if [ -n "${states[$socket]-}" ]; then
          stop[$socket]=1
          if [ -e "$new/$socket" ]; then start[$socket]=1; record start "$socket"; activated=1; fi
        fi
      done
    esac
    if [ -z "$activated" ]; then start[$unit]=1; record start "$unit"; fi
    stop[$unit]=1
  fi
}

for name in start restart reload; do
  [ -e /run/nixos/$name-list ] || continue
  while read -r unit; do
    # what an interrupted switch left undone
    case $name in start) start[$unit]=1 ;; restart) restart[$unit]=1 ;; reload) reload[$unit]=1 ;; esac
  done < /run/nixos/$name-list
done

while read -r unit _ state _; do
  [ "$state" = inactive ] || states[$unit]=$state
done < <(systemctl list-units --all --full --plain --no-legend --no-pager)

for unit in "${!states[@]}"; do
  case ${states[$unit]} in active | activating) ;; *) continue ;; esac
  base=$unit
  if [ ! -e "$current/$unit" ] && [ ! -e "$new/$unit" ]; then
    case $unit in *@*.*) base=${unit%%@*}@.${unit##*.} ;; esac
  fi
  # a unit that is not in /etc/systemd/system is nobody's business: transient ones survive a switch
  [ -e "$current/$base" ] || continue
  if [ ! -e "$new/$base" ] || [ "$(realpath "$new/$base")" = /dev/null ]; then
    if yes "$current/$base" Unit X-StopOnRemoval true; then stop[$unit]=1; fi
  elif [[ $unit == *.target ]]; then
    if ! yes "$new/$base" Unit RefuseManualStart false && ! yes "$new/$base" Unit X-OnlyManualStart false; then
      start[$unit]=1; hidden[$unit]=1; record start "$unit"
    fi
    if yes "$new/$base" Unit X-StopOnReconfiguration false; then stop[$unit]=1; fi
  else
    case $(compare "$current/$base" "$new/$base") in
      restart) modified "$unit" "$new/$base" ;;
      reload) if [ -z "${restart[$unit]-}" ]; then reload[$unit]=1; record reload "$unit"; fi ;;
    esac
  fi
done
# targets of Debian's own are not in /etc/systemd/system, yet new units are wanted by these
for target in multi-user.target sockets.target timers.target; do start[$target]=1; hidden[$target]=1; done

restartSystemd=
if [ "$(readlink -f /run/current-system/systemd)" != "$(readlink -f $toplevel/systemd)" ] \
  || ! cmp -s /etc/systemd/system.conf $toplevel/etc/systemd/system.conf; then
  restartSystemd=1
fi

say() { # TEXT UNIT…: one line, or nothing
  local text=$1 line
  shift
  [ $# -gt 0 ] || return 0
  line=$(printf '%s\n' "$@" | sort -f | paste -sd , | sed 's/,/, /g')
  echo "$text: $line" >&2
}
shown() { local unit; for unit in "$@"; do [ -n "${hidden[$unit]-}" ] || echo "$unit"; done; }

if [ "$action" = dry-activate ]; then
  rm -f /run/nixos/{start,restart,reload}-list
  # shellcheck disable=SC2046
  say "would stop the following units" $(shown "${!stop[@]}")
  say "would NOT stop the following changed units" "${!skip[@]}"
  echo "would activate the configuration..." >&2
  [ -z "$restartSystemd" ] || echo "would restart systemd" >&2
  say "would reload the following units" "${!reload[@]}"
  say "would restart the following units" "${!restart[@]}"
  # shellcheck disable=SC2046
  say "would start the following units" $(shown "${!start[@]}")
  exit 0
fi

# ---- the switch ----------------------------------------------------------------------------------------------------
status=0
if [ ${#stop[@]} -gt 0 ]; then
  # shellcheck disable=SC2046
  say "stopping the following units" $(shown "${!stop[@]}")
  systemctl stop "${!stop[@]}"
fi
say "NOT restarting the following changed units" "${!skip[@]}"

echo "activating the configuration..." >&2
if ! $toplevel/activate "$toplevel" 9>&-; then
  echo "Failed to run activate script" >&2
  status=2
fi

if [ -n "$restartSystemd" ]; then
  echo "restarting systemd..." >&2
  systemctl daemon-reexec
fi
systemctl reset-failed
systemctl daemon-reload
echo "restarting sysinit-reactivation.target" >&2
systemctl restart sysinit-reactivation.target || status=4
start[sysinit-reactivation.target]=1; hidden[sysinit-reactivation.target]=1

job() { # VERB UNIT…
  local verb=$1 unit
  shift
  [ $# -gt 0 ] || return 0
  if ! systemctl "$verb" "$@" 9>&-; then
    for unit in "$@"; do
      systemctl is-active --quiet "$unit" || echo "Failed to $verb $unit" >&2
    done
    status=4
  fi
}
for unit in "${!reload[@]}"; do
  if ! systemctl is-active --quiet "$unit"; then
    unset "reload[$unit]"
    start[$unit]=1
  fi
done
say "reloading the following units" "${!reload[@]}"
job reload "${!reload[@]}"
rm -f /run/nixos/reload-list
say "restarting the following units" "${!restart[@]}"
job restart "${!restart[@]}"
rm -f /run/nixos/restart-list
# shellcheck disable=SC2046
say "starting the following units" $(shown "${!start[@]}")
job start "${!start[@]}"
rm -f /run/nixos/start-list

# settle: no job is running but that of the unit this runs in, and a quarter of a second brings no new one
unit=$(sed -n 's|^0::.*/||p' /proc/self/cgroup)
for _ in $(seq 240); do
  sleep 0.25
  systemctl list-jobs --plain --no-legend --no-pager | awk -v own="$unit" '$2 != own { found = 1 } END { exit !found }' || break
done

failed=() fresh=()
while read -r unit _ state sub _; do
  case $state/$sub in
    failed/*) failed+=("$unit") ;;
    activating/auto-restart*)
      # waiting for its next attempt after a failed one counts as failed
      [ "$(systemctl show -P ExecMainStatus "$unit")" = 0 ] && [ "$(systemctl show -P Result "$unit")" = success ] || failed+=("$unit")
      ;;
    active/*)
      if [ -z "${states[$unit]-}" ] && [ -e "/etc/systemd/system/$unit" ] && [ -z "${start[$unit]-}" ]; then fresh+=("$unit"); fi
      ;;
  esac
done < <(systemctl list-units --all --full --plain --no-legend --no-pager)

say "the following new units were started" "${fresh[@]}"
if [ ${#failed[@]} -gt 0 ]; then
  say "warning: the following units failed" "${failed[@]}"
  for unit in "${failed[@]}"; do systemctl status --no-pager --full "$unit" >&2; done
  status=4
fi
exit $status
