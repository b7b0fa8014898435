# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Persistent tun and tap devices: the one kind of link that rtnetlink cannot make (linux/if_tun.h)."""

from __future__ import annotations

import fcntl
import os
import struct

from .._errors import KernelError, UnsupportedError

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
FLAGS = {"tun": 0x0001, "tap": 0x0002}
IFF_NO_PI = 0x1000  # packets without the four bytes of packet information, as `ip tuntap` makes them
IFF_TUN_EXCL = 0x8000  # never attach to a device that is already there
IFREQ = struct.Struct("16sH22x")


def available() -> bool:
    return os.path.exists(DEVICE)


def create(name: str, mode: str) -> None:
    """Make a device in the current network namespace; it stays until it is deleted."""
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as problem:
        raise UnsupportedError(
            f"{DEVICE}: {problem.strerror}; the kernel lacks CONFIG_TUN or its module"
        ) from problem
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, IFREQ.pack(name.encode(), FLAGS[mode] | IFF_NO_PI | IFF_TUN_EXCL))
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", f"{mode} device {name}") from problem
    finally:
        os.close(descriptor)
