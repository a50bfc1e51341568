#!/bin/busybox sh
# PID 1 of the lab's guest, in the initramfs: load modules, build the root, hand over to the agent.
# What it prints goes to the serial console, which the host shows only when something went wrong.

fail() { echo "klasy-lab: init: $*"; sleep 1; reboot -f; }

/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /lower /rw /newroot
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

for word in $(cat /proc/cmdline); do
    case $word in klasy.*) eval "${word#klasy.}" ;; esac
done
release=$(uname -r)

while read -r module; do
    insmod "/modules/$module" || fail "module $module"
done < /modules/order

mount -t tmpfs -o size=75%,mode=755 rw /rw || fail "tmpfs"
mkdir /rw/upper /rw/work
mount -t 9p -o "trans=virtio,version=9p2000.L,ro,$p9options" host /lower || fail "the host's file system"
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /newroot || fail "overlay"
cd /newroot || fail "no new root"

mkdir -p proc sys dev run tmp "lib/modules/$release"
mount --move /proc proc
mount --move /sys sys
mount --move /dev dev
mkdir -p dev/pts dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t securityfs securityfs sys/kernel/security
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=700 bpf sys/fs/bpf || fail "bpffs"
mount -t tracefs tracefs sys/kernel/tracing || fail "tracefs"
mount -t debugfs debugfs sys/kernel/debug
mount --bind "/newroot$modules" "lib/modules/$release" || fail "the kernel's modules"
for file in config System.map; do
    [ -e "boot/$file-$release" ] || { mkdir -p boot; cp "/newroot${modules%/lib/modules/*}/boot/$file-$release" boot/; }
done
ip link set lo up || fail "lo"
hostname klasy-lab

mkdir -p run/klasy
cp /bin/busybox /agent.sh run/klasy/
exec switch_root /newroot /run/klasy/busybox sh /run/klasy/agent.sh
