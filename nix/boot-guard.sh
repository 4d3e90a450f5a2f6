#!/usr/bin/env bash
# The boot guard of lab-auto-update: it puts a host back that was rebooted into a new system and then not confirmed.
#
# Run early in every boot, it reads the transaction that the controller left. Unless that is closed or goes past the
# reboot before its limit, the system from before becomes the boot default again, and the host reboots into it.
# Needs bash, coreutils, jq, flock, nix-env and systemctl. Whatever it cannot know it leaves to the next run.
set -uo pipefail

root=${BOOT_GUARD_ROOT-} # tests have a root of their own
state=$root/var/lib/lab-auto-update
transaction=$state/transaction.json
marker=$state/boot-guard
profiles=$root/nix/var/nix/profiles

default_seconds=300 # when the transaction names no limit
poll_seconds=5
lock_seconds=30
profile_seconds=120
activation_seconds=600

leave() { # SENTENCE…: nothing is to be done, which is no failure
  [ $# -eq 0 ] || echo "$@"
  exit 0
}

uptime() { # in whole seconds
  local seconds
  read -r seconds _ < "$root/proc/uptime" && echo "${seconds%%.*}"
}

# Sets step, written_in, from, run_id, seconds and until; null is a dash. Fails unless the file is whole and known.
read_transaction() {
  local fields
  fields=$(jq -er '
    def number: if . == null then . elif type == "number" then ceil else error("not a number") end;
    select(.version == 1 and (.step | type == "string" and . != ""))
    | [.step, .boot_id, .from, .run_id, (.guard_seconds | number), (.guard_until | number)]
    | map(if . == null or . == "" then "-" else . end) | @tsv' "$transaction" 2> /dev/null) && [ -n "$fields" ] || return 1
  IFS=$'\t' read -r step written_in from run_id seconds until <<< "$fields"
}

# Ends the guard, with this sentence, unless the transaction still asks for it.
still_unconfirmed() {
  [ -e "$transaction" ] || leave "$@"
  read_transaction ||
    leave "$transaction cannot be read, so what to go back to is unknown; the next run settles it."
  case $step in
    reboot | reboot_verification) ;;
    *) leave "$@" ;;
  esac
}

# The uptime at which the wait ends; a limit that a former boot was given counts for nothing now.
limit() {
  if [ "$step" = reboot_verification ] && [ "$written_in" = "$boot_id" ] && [ "$until" != - ]; then
    echo "$until"
  elif [ "$seconds" != - ]; then
    echo $((started + seconds))
  else
    echo $((started + default_seconds))
  fi
}

write_marker() {
  echo "$run_id" > "$marker.new" && sync "$marker.new" && mv -T "$marker.new" "$marker" && sync "$state"
}

make_default() {
  timeout --kill-after=10 "$profile_seconds" nix-env --profile "$profiles/system" --set "$from" &&
    rm -f "$profiles"/system-profiles/lab-candidate* &&
    timeout --kill-after=10 "$activation_seconds" "$root$from/bin/switch-to-configuration" boot
}

# The last resort, where a reboot does not help. Inhibitors have nothing left to protect.
activate_live() {
  echo "Activating $from in the running system."
  NIXOS_NO_CHECK=1 timeout --kill-after=10 "$activation_seconds" "$root$from/bin/switch-to-configuration" test
  case $? in
    0 | 4) leave "$from is active; the next run settles the rest." ;; # 4: some unit failed
    *)
      echo "Could not activate $from; this host needs a person."
      exit 1
      ;;
  esac
}

started=$(uptime)
boot_id=$(cat "$root/proc/sys/kernel/random/boot_id")

still_unconfirmed
if [ "$step" = reboot ] && [ "$written_in" = "$boot_id" ]; then leave; fi # it is still to be rebooted
if [ "$(readlink "$root/run/booted-system")" = "$from" ]; then
  leave "This host is back on $from; nothing to put back."
fi
if ! [[ $from =~ ^/nix/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+$ && -x $root$from/bin/switch-to-configuration ]]; then
  leave "Run $run_id names '$from' as the system to go back to, which is none; the next run settles it."
fi

echo "Run $run_id has $(($(limit) - started)) s to confirm this boot; then this host goes back to $from."
while :; do
  while remaining=$(($(limit) - $(uptime))) && [ "$remaining" -gt 0 ]; do
    sleep $((remaining < poll_seconds ? remaining : poll_seconds))
    still_unconfirmed "Run $run_id has confirmed this boot."
  done
  # the controller confirms under the same lock, and finds the marker there if it comes too late
  exec 9>> "$state/lock"
  flock --timeout "$lock_seconds" 9 || echo "$state/lock is held for more than $lock_seconds s; going on without it."
  still_unconfirmed "Run $run_id has confirmed this boot."
  [ "$(limit)" -gt "$(uptime)" ] || break
  exec 9>&- # the limit was moved at the last moment
done
echo "Run $run_id did not confirm this boot in time; going back to $from."
reboot=1
if [ "$(cat "$marker" 2> /dev/null)" = "$run_id" ]; then
  echo "A reboot has been tried and did not lead there."
  reboot=
elif ! write_marker; then
  # without it, a host that cannot come back would reboot for ever
  echo "Could not write $marker, so there will be no reboot."
  reboot=
fi
exec 9>&-

was=$(readlink -f "$root$profiles/system")
if make_default; then
  echo "$from is the boot default again."
elif [ "$was" = "$from" ]; then
  echo "Could not install the boot loader, but $from never ceased to be the system profile."
else
  echo "Could not make $from the boot default."
  reboot=
fi
[ -n "$reboot" ] || activate_live
echo "Rebooting."
systemctl reboot || systemctl reboot --force || activate_live
