#!/bin/sh
# What playbooks/rollback.yml runs on a host: POSIX sh and what every system of NixOS has. No Python, no network, no
# evaluation. Lines that begin with @ are the answer; plugins/module_utils/_rollback.py reads them.
#   look TO                            tell what the host runs and would boot, and where TO leads; changes nothing
#   start SYSTEM RUN SECONDS REBOOT    begin in a unit of its own, which needs no controller any more
#   go    SYSTEM RUN SECONDS REBOOT    what that unit does
#   wait                               tell how far it is; comes back when it ended, after 20 s at most
#   close RUN                          end what `go` has opened
# TO is proven, previous, the number of a generation, or a system; SYSTEM is a store path, RUN the id of the run.
roots=/nix/var/nix/gcroots/lab-auto-update
profiles=/nix/var/nix/profiles
state=/var/lib/lab-auto-update
run=/run/lab-auto-update
units=/run/systemd/system
unit=lab-auto-update-rollback.service
revert=lab-auto-update-revert
activation=lab-auto-update-activation.service
boot_step=lab-auto-update-boot.service
boot_guard=lab-auto-update-boot-guard.service
resume=lab-auto-update-resume.service
reboot=lab-auto-update-reboot.service
log=$run/rollback.log
rebooting=$run/rebooting

umask 022
export LC_ALL=C SYSTEMD_COLORS=0 SYSTEMD_PAGER=cat HOME="${HOME:-/root}"

path() { # SYSTEM: where programs are; when those of the running system are broken, that one's serve
  PATH=/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin
  PATH=$PATH:$1/sw/bin:$1/systemd/bin:/run/booted-system/sw/bin:/run/booted-system/systemd/bin
  export PATH
}
link() { # TO
  case $1 in
    proven) echo "$roots/proven" ;;
    previous) echo "$roots/from" ;;
    /*) echo "$1" ;;
    *) echo "$profiles/system-$1-link" ;;
  esac
}
say() { printf "@%s %s\n" "$1" "$2"; }
show() { # KEY: each line of the standard input
  tr -cd "[:print:]\n" | while IFS= read -r line || [ -n "$line" ]; do say "$1" "$line"; done
}
content() { # KEY FILE: nothing when there is none
  if [ -r "$2" ]; then show "$1" < "$2"; fi
}
bounded() { timeout -k 5 "$@"; }
quiet() { bounded 150 "$@" > /dev/null 2>&1; }
property() { bounded 30 systemctl show --property="$1" "$2" | sed "s/^$1=//"; }
put() { # FILE: the standard input becomes its contents, whole or not at all, and on the disk
  cat > "$1.new" && sync "$1.new" && mv -f "$1.new" "$1" && sync "${1%/*}"
}
same() { [ "$1" -ef "$2" ] || [ "$(cat "$1" 2> /dev/null)" = "$(cat "$2" 2> /dev/null)" ]; }

show_log() {
  for file in "$log" "$state/rollback.log"; do
    if [ -r "$file" ]; then tail -c 200000 "$file" | show log; return; fi
  done
}

look() { # TO
  wanted=$(link "$1")
  path "$wanted"
  system=$(readlink -e "$wanted")
  say boot_id "$(cat /proc/sys/kernel/random/boot_id)"
  say current "$(readlink -e /run/current-system)"
  say booted "$(readlink -e /run/booted-system)"
  say profile "$(readlink -e $profiles/system)"
  say wanted "$wanted"
  say system "$system"
  if [ -n "$system" ] && [ -x "$system/bin/switch-to-configuration" ]; then say ready yes; fi
  for generation in "$profiles"/system-*-link; do
    number=${generation#"$profiles/system-"}
    say generation "${number%-link} $(readlink -e "$generation")"
  done
  # what of it only a boot brings
  for part in kernel initrd kernel-modules systemd; do
    [ "/run/booted-system/$part" -ef "$system/$part" ] || say reboot_due "$part"
  done
  same /run/booted-system/kernel-params "$system/kernel-params" || say reboot_due kernel-params
  list=$(bounded 30 bootctl list --json=short --no-pager 2> /dev/null) && printf "%s\n" "$list" | show bootctl_list
  bounded 30 bootctl status --no-pager 2> /dev/null | show bootctl_status
  content loader_conf "$(bounded 30 bootctl --print-esp-path 2> /dev/null)/loader/loader.conf"
  for name in OneShot Default; do
    content "efi_$name" /sys/firmware/efi/efivars/LoaderEntry$name-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
  done
  content grub /boot/grub/grub.cfg
  content extlinux /boot/extlinux/extlinux.conf
  show_log
  say end
}

start() { # SYSTEM RUN SECONDS REBOOT; $lab_script is the text of this file
  path "$1"
  mine="Emergency rollback $2 by lab-auto-update"
  found=$(property ActiveState $unit)
  # asked again, because the connection was lost in the middle
  if [ "$found" != inactive ] && [ "$(property Description $unit)" = "$mine" ]; then say end; return; fi
  case $found in
    activating | deactivating)
      echo "Another rollback is running on this host." >&2
      return 1
      ;;
  esac
  quiet systemctl stop $unit
  quiet systemctl reset-failed $unit
  # shellcheck disable=SC2154
  mkdir -p $run && rm -f $rebooting "$log" && printf "%s\n" "$lab_script" > $run/rollback.sh || return 1
  systemd-run --unit=$unit --description="$mine" --service-type=oneshot \
    --remain-after-exit --no-block --no-ask-password --quiet --property=TimeoutStartSec=$(($3 * 2 + 1200)) \
    --property=StandardOutput=truncate:"$log" --property=StandardError=inherit \
    /bin/sh $run/rollback.sh go "$@" || return 1
  say end
}

go() { # SYSTEM RUN SECONDS REBOOT
  system=$1
  path "$system"
  say run "$2"
  claim "$@"
  stop_updates
  # first of all: from here on a power cut leads there
  profile=0
  if ! [ $profiles/system -ef "$system" ]; then
    bounded 300 nix-env --profile $profiles/system --set "$system"
    profile=$?
  fi
  say set_profile $profile
  bounded "$3" "$system/bin/switch-to-configuration" boot
  boot=$?
  say set_boot $boot
  bounded "$3" "$system/bin/switch-to-configuration" test
  ended=$?
  say activation $ended
  case $ended in 0 | 4) [ /run/current-system -ef "$system" ] || ended=1 ;; esac
  case $ended in
    0 | 4) ;;
    *) if [ "$4" = yes ] && [ $profile = 0 ] && [ $boot = 0 ]; then : > $rebooting; fi ;;
  esac
  # a reboot forgets /run
  put "$state/rollback.log" < "$log"
  if [ -e $rebooting ]; then bounded 60 systemctl reboot || rm -f $rebooting; fi
}

claim() { # SYSTEM RUN SECONDS: whoever held this host is told so at their next step; a night that comes meanwhile waits
  mkdir -p $state
  {
    flock -w 10 9
    if [ -e $state/transaction.json ]; then
      echo "Took over from:"
      cat $state/transaction.json
    fi
    now=$(date +%s)
    put $state/transaction.json << JSON
{
  "version": 1,
  "controller": "rollback.yml",
  "controller_name": "playbooks/rollback.yml",
  "run_id": "$2",
  "process": null,
  "since": $now,
  "deadline": $((now + $3 * 2 + 1200)),
  "step": "rollback",
  "boot_id": "$(cat /proc/sys/kernel/random/boot_id)",
  "from": "$1",
  "target": "$1",
  "failed_units": [],
  "verified": false,
  "guard_seconds": null,
  "guard_until": null
}
JSON
  } 9>> $state/lock
}

stop_timers() { for stage in activation confirmation verification; do quiet systemctl stop $revert-$stage.timer; done; }

stop_updates() {
  if [ -e $units/$revert.service ]; then
    # a revert that is stopped counts as failed, and that would reboot the host
    mkdir -p $units/$revert.service.d
    printf "[Unit]\nFailureAction=none\n" > $units/$revert.service.d/rollback.conf
    quiet systemctl daemon-reload
  fi
  stop_timers
  # a boot loader is not left half installed
  end=$(($(date +%s) + 120))
  while [ "$(property ActiveState $boot_step)" = activating ] && [ "$(date +%s)" -lt $end ]; do sleep 0.2; done
  for each in $resume $boot_guard $boot_step $activation $reboot; do
    quiet systemctl stop "$each"
    quiet systemctl reset-failed "$each"
  done
  # once more: the failure of an activation starts one of them
  stop_timers
  quiet systemctl stop $revert.service
  quiet systemctl reset-failed $revert.service
  if [ -e $units/$revert.service ]; then
    rm -rf $units/$revert.service.d $units/$revert.service $units/$revert-*.timer
    quiet systemctl daemon-reload
  fi
  quiet shutdown -c --no-wall
  quiet bootctl set-oneshot ""
  rm -f $profiles/system-profiles/lab-candidate $profiles/system-profiles/lab-candidate-*-link
  rm -f $state/resume.json $state/resuming.json
}

wait_for_end() {
  path $profiles/system
  end=$(($(date +%s) + 20))
  while :; do
    # no answer, as while systemd starts anew, is not the end
    case $(property ActiveState $unit) in inactive | active | failed) running=no ;; *) running=yes ;; esac
    [ ! -e $rebooting ] || running=yes
    if [ $running = no ] || [ "$(date +%s)" -ge $end ]; then break; fi
    sleep 0.2
  done
  say running "$running"
  say end
}

close() { # RUN
  path $profiles/system
  {
    flock -w 10 9 || return 1
    if grep -qF "\"run_id\": \"$1\"" $state/transaction.json; then
      sed "\$d" $state/transaction.json | sed "\$s/\$/,/" > $state/last.json.part &&
        printf "  \"outcome\": \"%s\",\n  \"reason\": \"%s\",\n  \"ended\": %s\n}\n" \
          rolled_back "Asked for with playbooks/rollback.yml." "$(date +%s)" >> $state/last.json.part &&
        put $state/last.json < $state/last.json.part && rm -f $state/transaction.json $state/last.json.part && sync $state
    fi
  } 9>> $state/lock || return 1
  quiet systemctl stop $unit
  say end
}

case $1 in
  look) look "$2" ;;
  start) start "$2" "$3" "$4" "$5" ;;
  go) go "$2" "$3" "$4" "$5" ;;
  wait) wait_for_end ;;
  close) close "$2" ;;
esac
