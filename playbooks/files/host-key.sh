#!/bin/sh
# What ssh asks, as its KnownHostsCommand, when playbooks/bootstrap.yml was told the fingerprint of a host key: the key that
# has it is that host's, and is written down for the next time.
#   host-key.sh EXPECTED FILE FINGERPRINT HOST TYPE KEY      the last four are ssh's %f %H %t %K; FILE may be /dev/null
# ssh asks for the order of its algorithms, too, before there is any key.
[ "$1" = "$3" ] || exit 0
line="$4 $5 $6"
printf "%s\n" "$line"
[ "$2" != /dev/null ] || exit 0
# the file may have its names hashed
if ! ssh-keygen -F "$4" -f "$2" 2> /dev/null | grep -qF "$5 $6"; then
  umask 077
  mkdir -p "${2%/*}" && printf "%s\n" "$line" >> "$2"
fi
