#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs once in the guest before its state is saved: every machine that starts
# from the state finds these files in the page cache and these modules loaded.
timeout 60 systemctl is-system-running --wait >/dev/null 2>&1

# netkit is built in where it exists. A module that this kernel lacks is not an
# error here: the test that needs it says so far better.
for module in dummy vrf veth bridge vxlan 8021q macvlan tun wireguard \
    sch_ingress cls_bpf sch_netem nf_tables; do
    modprobe -q "$module"
done

# What Ansible's module payloads import, and pyroute2 (four seconds when cold).
# As root, so that missing .pyc files are written too.
python3 - <<'PYTHON'
import importlib
import pkgutil

NAMES = """
__future__ ast base64 ctypes datetime email fcntl fnmatch glob grp hashlib io
ipaddress json locale logging multiprocessing os platform pwd queue re runpy
selectors shlex shutil signal socket stat struct subprocess syslog tempfile
textwrap threading time traceback types typing urllib.request uuid zipfile
pyroute2 pyroute2.netns pyroute2.ndb.main pytest
""".split()
for name in NAMES:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"not warmed: {error}")
import pyroute2.netlink

for module in pkgutil.walk_packages(pyroute2.netlink.__path__, "pyroute2.netlink."):
    try:
        importlib.import_module(module.name)
    except Exception as error:  # optional parts of pyroute2 miss their own dependencies
        print(f"not warmed: {module.name}: {error}")
with pyroute2.IPRoute() as netlink:
    netlink.get_links()
PYTHON

# A whole compile and load, by the compiler that the image has.
work=$(mktemp -d)
cat >"$work/warm.c" <<'PROGRAM'
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int warm(struct __sk_buff *skb) { return skb->protocol == bpf_htons(ETH_P_IP); }
char _license[] SEC("license") = "GPL";
PROGRAM
if command -v clang >/dev/null; then
    clang -O2 -g -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -c "$work/warm.c" -o "$work/warm.o" &&
        bpftool prog load "$work/warm.o" /sys/fs/bpf/warm && rm -f /sys/fs/bpf/warm
else
    python3 -c 'import bcc'
fi
bpftool btf dump file /sys/kernel/btf/vmlinux format raw >/dev/null
rm -rf "$work"

ip netns add warm && ip netns exec warm ip -j link show >/dev/null && ip netns del warm
tc -V >/dev/null
nft list ruleset >/dev/null
sudo -n -u ops sudo -n true
systemd-run --quiet --on-active=1 --unit=warm true
/usr/lib/openssh/sftp-server -h >/dev/null 2>&1
sync
sleep 2
exit 0
