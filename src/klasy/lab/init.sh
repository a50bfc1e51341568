#!/bin/busybox sh
# PID 1 of the lab's guest, in the initramfs: load modules, build the root, hand over to the agent.
# What it prints goes to the serial console, which the host shows only when something went wrong.

fail() { echo "klasy-lab: init: $*"; sleep 1; reboot -f; }

/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run /lower /rw /newroot
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf -o mode=700 bpf /sys/fs/bpf || fail "bpffs"
mount -t tracefs tracefs /sys/kernel/tracing || fail "tracefs"
mount -t debugfs debugfs /sys/kernel/debug
ip link set lo up || fail "lo"
hostname klasy-lab

while read -r module; do
    [ "$module" = virtio_blk.ko ] && continue # later, see below
    insmod "/modules/$module" || fail "module $module"
done < /modules/order

mount -t tmpfs -o size=75%,mode=755 rw /rw || fail "tmpfs"
mkdir /rw/upper /rw/work

# The agent runs from /run, where the new root finds it too.
mkdir -p /run/klasy/applets
cp /bin/busybox /agent.sh /run/klasy/
/run/klasy/busybox --install -s /run/klasy/applets
. /run/klasy/agent.sh
open_ports

# The guest is the same for everyone up to here: the host may keep this state and begin later guests with it.
# From here on it is one user's: time, options, files.
echo loaded >&3
read -r now medium p9options modules <&3 || fail "no word from the host"
date -s "@$now" > /dev/null
release=$(uname -r)

root_of_host_files() {
    mount -t 9p -o "trans=virtio,version=9p2000.L,ro,$p9options" host /lower || fail "the host's file system"
    mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /newroot || fail "overlay"
    cd /newroot || fail "no new root"
    mkdir -p proc sys dev run tmp boot "lib/modules/$release"
    mount --bind "/newroot$modules" "lib/modules/$release" || fail "the kernel's modules"
    for file in config System.map; do
        [ -e "boot/$file-$release" ] || cp "/newroot${modules%/lib/modules/*}/boot/$file-$release" boot/
    done
}

root_of_archive() { # a tar archive, on a disk that must not be looked at before: each guest has another
    insmod /modules/virtio_blk.ko || fail "module virtio_blk"
    mount --bind /rw/upper /newroot || fail "no new root"
    cd /newroot || fail "no new root"
    tar -x -f /dev/vda || fail "unpacking klasy"
    mkdir -p proc sys dev run root
    mkdir -p -m 1777 tmp
    cp /bin/busybox usr/bin/
    chroot . /usr/bin/busybox --install -s /usr/bin 2> /dev/null # what the archive brought stays
}

case $medium in
    9p) root_of_host_files ;;
    tar) root_of_archive ;;
    *) fail "no medium $medium" ;;
esac
for tree in proc sys dev run; do
    mount --move /$tree $tree
done
exec /bin/switch_root /newroot /run/klasy/busybox sh -c '. /run/klasy/agent.sh; serve'
