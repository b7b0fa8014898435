#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# /init of the initial RAM disk: mount the root disk and hand over.
#
# Debian's cloud kernels have the disk's driver as a module, so a busybox and a
# few modules are enough; initramfs-tools would cost seconds of emulated CPU at
# every boot. The network driver is loaded here, too, because udev never replays
# the boot-time uevents (systemd-udev-trigger is masked).
B=/bin/busybox
$B mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do # numbered in the order they need each other
    $B insmod "$module"
done
tries=0
while [ ! -b /dev/vda ] && [ "$tries" -lt 500 ]; do
    tries=$((tries + 1))
    $B usleep 20000
done
$B mount -t ext4 -o rw,noatime /dev/vda /newroot
$B mount --move /dev /newroot/dev
exec $B switch_root /newroot /sbin/init
