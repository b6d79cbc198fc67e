#!/bin/sh
# systemd as the first process of a container of its own, with the units of a directory and nothing
# else: `systemd.sh CGROUP RELEASE DEPLOY`. Nobody outside sees what it changes.
set -e
if [ "$4" != inside ]; then
    echo $$ >"$1/cgroup.procs"
    exec unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup sh "$0" "$@" inside
fi
mount --make-rprivate /
mount -t proc proc /proc
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /etc /etc
mount -o remount,bind,ro /etc
for directory in /run /usr/local/bin /usr/local/lib; do mount -t tmpfs tmpfs "$directory"; done
mkdir /run/units /usr/local/lib/web
cp "$2" /usr/local/bin/release
cp "$3/web.py" /usr/local/lib/web/
cp "$3/web.service" "$3/web.socket" /run/units/
for target in default sysinit basic sockets network multi-user shutdown umount; do
    printf '[Unit]\nDefaultDependencies=no\n' >"/run/units/$target.target"
done
ip link set lo up
export container=release SYSTEMD_UNIT_PATH=/run/units
exec /lib/systemd/systemd --system --log-target=null
