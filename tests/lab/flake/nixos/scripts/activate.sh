#!/bin/sh
# Stand-in for NixOS's activation script: /etc, the wrappers, and /run/current-system at the very end.
systemConfig=@out@
export PATH=@userland@/bin
status=0

# NIXOS_ACTION is set by switch-to-configuration only: a boot is never slowed down
if [ -n "$NIXOS_ACTION" ]; then
  # the host is damaged, for every system or for those that the file names: nothing is changed at all
  broken=/var/lib/activation-broken
  if [ -e $broken ] && { [ ! -s $broken ] || grep -qxF $systemConfig $broken; }; then
    echo 'Activation script snippet "lab" failed (1)' >&2
    exit 1
  fi
  [ -z '@activationSeconds@' ] || sleep '@activationSeconds@'
  [ -z '@activationHangs@' ] || while :; do sleep 3600; done
fi

link() {
  ln -sfn "$1" "$2.new" && mv -T "$2.new" "$2"
}

echo 'setting up /etc...' >&2
link "$(readlink -f $systemConfig/etc)" /etc/static
for path in systemd/system systemd/network; do
  mkdir -p "/etc/${path%/*}"
  if [ -d "/etc/$path" ] && [ ! -L "/etc/$path" ]; then rm -rf "/etc/$path"; fi
  link "/etc/static/$path" "/etc/$path"
done
for file in $(cd /etc/static/ && find . -type f ! -path './systemd/system/*' ! -path './systemd/network/*'); do
  file=${file#./}
  mkdir -p "$(dirname "/etc/$file")"
  link "/etc/static/$file" "/etc/$file"
done
# what an older system put there and this one does not have
find /etc -xtype l -lname '/etc/static/*' -delete

mkdir -p /run/wrappers/bin
if [ -n '@sudoGone@' ]; then
  rm -f /run/wrappers/bin/sudo
elif [ ! -e /run/wrappers/bin/sudo ]; then
  install -m 4755 /usr/bin/sudo /run/wrappers/bin/sudo
fi

if [ -n '@activateFails@' ]; then
  echo 'Activation script snippet "lab" failed (1)' >&2
  status=1
fi

mkdir -p /nix/var/nix/gcroots
ln -sfn /run/current-system /nix/var/nix/gcroots/current-system
ln -sfn /run/booted-system /nix/var/nix/gcroots/booted-system
link $systemConfig /run/current-system
exit $status
