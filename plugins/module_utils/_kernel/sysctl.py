# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Values below /proc/sys/net, of the network namespace that the process is in (namespaces.entered)."""

from __future__ import annotations

import errno
import os
import typing as t

from .._errors import KernelError

ROOT = "/proc/sys"


def path_of(key: str) -> str:
    """The file of ``net/ipv4/conf/eth0/forwarding``; parts are separated by slashes because device names hold dots."""
    return os.path.join(ROOT, key)


def read(key: str) -> t.Optional[str]:
    """The value without its line end; None when the kernel has no such key (a device that is gone, a protocol not built)."""
    try:
        with open(path_of(key), encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None
    except OSError as problem:
        if problem.errno in (errno.ENOTDIR, errno.ENODEV):
            return None
        raise KernelError(problem.errno or 0, "", f"sysctl {key}: read") from problem


def write(key: str, value: str) -> None:
    try:
        descriptor = os.open(path_of(key), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", f"sysctl {key} = {value}") from problem


def interfaces(family: str) -> t.List[str]:
    """The names that have a ``net/<family>/conf/`` directory, without ``all`` and ``default``."""
    try:
        return sorted(set(os.listdir(path_of(f"net/{family}/conf"))) - {"all", "default"})
    except OSError:
        return []
