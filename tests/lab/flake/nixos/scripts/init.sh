#!/bin/sh
# Stand-in for the second stage of NixOS's boot: PID 1 until systemd takes over.
systemConfig=@out@
export PATH=@userland@/bin

echo "<<< NixOS Stage 2 >>> $systemConfig"
# the system has the fault, or the host is damaged: for every system, or for those that the file names
broken=/var/lib/boot-broken
if [ -n '@bootFails@' ] || { [ -e $broken ] && { [ ! -s $broken ] || grep -qxF $systemConfig $broken; }; }; then
  echo 'this system never gets as far as systemd'
  while :; do sleep 3600; done
fi

mkdir -p /run/nixos /run/wrappers
# a file system of its own, because /run does not honour set-uid bits
mount -t tmpfs -o nodev,mode=755 wrappers /run/wrappers

if [ -n '@networkLostAfterBoot@' ]; then
  mkdir -p /run/systemd/network
  printf '[Match]\nName=host0\n\n[Network]\nAddress=198.19.255.1/32\n' > /run/systemd/network/00-lost.network
fi

if [ -n '@emergencyMode@' ]; then
  mkdir -p /run/systemd/system/local-fs.target.requires
  printf '[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\n\n[Mount]\nWhat=/dev/null\nWhere=/srv/data\nType=ext4\n' \
    > /run/systemd/system/srv-data.mount
  ln -s ../srv-data.mount /run/systemd/system/local-fs.target.requires/
fi

$systemConfig/activate || echo 'activation failed, booting all the same'
ln -sfn $systemConfig /run/booted-system
exec $systemConfig/systemd/lib/systemd/systemd "$@"
