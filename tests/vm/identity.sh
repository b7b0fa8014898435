#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Give this machine its own name and addresses; runs in the guest.
#
# /etc/vm-identity holds the lines name=, mac1= and net1=. It is absent at the
# very first boot and written by machine.py over SSH, because any number of
# machines start from one saved memory image in which the boot is long past.
# The same unit reads it again at a reboot inside the machine.
name='' mac1='' net1=''
# shellcheck source=/dev/null
[ ! -f /etc/vm-identity ] || . /etc/vm-identity

tries=0
while [ ! -e /sys/class/net/eth0 ] && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.05
done

if [ "${1:-boot}" = boot ]; then
    # QEMU's user-mode network is the same for every machine: no DHCP needed.
    printf '%s\n' 'link set lo up' 'link set eth0 up' \
        'addr add 172.31.254.15/24 dev eth0' 'route add default via 172.31.254.2' |
        ip -force -batch -
fi
if [ -n "$mac1" ] && [ -e /sys/class/net/eth1 ]; then
    printf '%s\n' 'link set eth1 down' "link set eth1 address $mac1" \
        'addr flush dev eth1' "addr add $net1 dev eth1" 'link set eth1 up' |
        ip -force -batch -
fi
if [ -n "$name" ]; then
    echo "$name" >/proc/sys/kernel/hostname
    echo "$name" >/etc/hostname
    # An unresolvable own name costs every fact gathering several seconds.
    printf '127.0.0.1 localhost %s\n::1 localhost\n' "$name" >/etc/hosts
fi
exit 0
