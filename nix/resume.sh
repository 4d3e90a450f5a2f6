#!/usr/bin/env bash
# Finish the night of a host that is its own controller: run what that left for this boot, once.
#
# The note says what, for which run. Whatever becomes of it, nothing runs twice: a boot that is not confirmed by it is the
# boot guard's, and the rest the next run's. So it never fails, and is nobody's failed unit. Needs bash, coreutils, jq.
set -uo pipefail

root=${RESUME_ROOT-} # tests have a root of their own
state=$root/var/lib/lab-auto-update
note=$state/resume.json
taken=$state/resuming.json

leave() { # SENTENCE…
  [ $# -eq 0 ] || echo "$@"
  exit 0
}

[ -e "$note" ] || leave
run_id=$(jq -er 'select(.version == 1) | .run_id | strings' "$note" 2> /dev/null) && [ -n "$run_id" ] ||
  leave "$note cannot be read; the next run settles what is open."
fields=$(jq -er '
  select(.version == 1) | [.run_id, .step, .boot_id] | select(all(type == "string" and . != "")) | @tsv
  ' "$state/transaction.json" 2> /dev/null) && [ -n "$fields" ] ||
  leave "Run $run_id left something for this boot, but no transaction of it can be read."
IFS=$'\t' read -r holder step written_in <<< "$fields"
[ "$holder" = "$run_id" ] || leave "Run $run_id left something for this boot, but run $holder has the host now."
[ "$step" = reboot ] || leave "Run $run_id is at step $step, which is no reboot; the next run settles it."
[ "$written_in" != "$(cat "$root/proc/sys/kernel/random/boot_id")" ] || leave # it is still to be rebooted

{ mv -T "$note" "$taken" && sync "$state"; } || leave "$note cannot be taken, and is not run for that."
mapfile -t argv < <(jq -r '.argv[]' "$taken")
mapfile -t environment < <(jq -r '.environment | to_entries[] | "\(.key)=\(.value)"' "$taken")
[ "${#argv[@]}" -gt 0 ] || leave "Run $run_id left nothing to run."
echo "Finishing run $run_id."
env -- "${environment[@]}" "${argv[@]}" ||
  leave "That ended with exit code $?; the boot guard or the next run settles what is open."
