# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Named network namespaces (/run/netns, as iproute2 keeps them) and entering them.

A namespace is entered with setns(2) in this single-threaded process and left again; sockets and file descriptors that
are made inside keep working outside. Nothing here ever creates a namespace by looking at it: pyroute2's classes do
that with a mistyped name. The empty name stands for the namespace in which the process was started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import typing as t

from .._errors import KernelError, UnsupportedError

NETNS_DIRECTORY = "/run/netns"
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_SHARED = 1 << 12, 1 << 14, 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> str:
    return os.path.join(NETNS_DIRECTORY, name)


def _setns(descriptor: int, what: str) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise KernelError(ctypes.get_errno(), "", what)


def is_namespace(name: str) -> bool:
    """Whether the file of that name is a mounted namespace, and not what an interrupted creation left behind."""
    try:
        return os.stat(path_of(name)).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def names() -> t.List[str]:
    """The named namespaces of the host, sorted; exact names, whatever they contain."""
    try:
        entries = os.listdir(NETNS_DIRECTORY)
    except OSError:
        return []
    return sorted(name for name in entries if is_namespace(name))


def has_file(name: str) -> bool:
    return os.path.lexists(path_of(name))


def is_empty_file(name: str) -> bool:
    """Whether the name is the mount point that a killed creation leaves behind: an empty plain file."""
    try:
        found = os.lstat(path_of(name))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


@contextlib.contextmanager
def entered(name: str) -> t.Iterator[None]:
    """Run the body inside a namespace; the empty name runs it where the process already is."""
    if not name:
        yield
        return
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            target = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as problem:
            raise KernelError(problem.errno or 0, "", f"netns {name}") from problem
        try:
            _setns(target, f"netns {name}: enter")
        finally:
            os.close(target)
        try:
            yield
        finally:
            _setns(home, "return to the namespace of this process")
    finally:
        os.close(home)


@contextlib.contextmanager
def descriptor(name: str) -> t.Iterator[int]:
    """A file descriptor of the namespace, for attributes such as IFLA_NET_NS_FD; closed at the end of the body."""
    path = path_of(name) if name else "/proc/self/ns/net"
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", f"netns {name}") from problem
    try:
        yield number
    finally:
        os.close(number)


def create(name: str) -> None:
    """Make a namespace and its mount point, visible to ``ip netns`` at once.

    Without a process of its own, which costs a large interpreter ten times what the namespace does.
    """
    if has_file(name) and not is_namespace(name):
        os.unlink(path_of(name))  # a creation that was killed before its mount
    what = f"netns {name}"
    _share_directory(what)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _make_mount_point(path_of(name), what)
        try:
            if _libc.unshare(CLONE_NEWNET) != 0:
                raise KernelError(ctypes.get_errno(), "", f"{what}: unshare")
            try:
                _mount("/proc/self/ns/net", path_of(name), MS_BIND, what)
            finally:
                _setns(home, "return to the namespace of this process")
        except KernelError:
            os.unlink(path_of(name))
            raise
    finally:
        os.close(home)
    if not is_namespace(name):
        raise UnsupportedError(f"netns {name}: the kernel made no namespace; is CONFIG_NET_NS enabled?")


def _share_directory(what: str) -> None:
    """As iproute2 does: mounts below the directory appear in all mount namespaces, so a name that goes, goes everywhere."""
    try:
        os.makedirs(NETNS_DIRECTORY, 0o755, exist_ok=True)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", what) from problem
    try:
        _mount("", NETNS_DIRECTORY, MS_SHARED | MS_REC, what)
    except KernelError:  # it is no mount point yet
        _mount(NETNS_DIRECTORY, NETNS_DIRECTORY, MS_BIND | MS_REC, what)
        _mount("", NETNS_DIRECTORY, MS_SHARED | MS_REC, what)


def _make_mount_point(path: str, what: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o000))
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", what) from problem


def _mount(source: str, target: str, flags: int, what: str) -> None:
    if _libc.mount(source.encode(), target.encode(), b"none", ctypes.c_ulong(flags), None) != 0:
        raise KernelError(ctypes.get_errno(), "", f"{what}: mount")


def keep(name: str) -> int:
    """A descriptor that keeps the namespace alive after its name is removed."""
    return os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)


def restore(name: str, kept: int) -> None:
    """Mount a kept namespace under its name again, and close the descriptor."""
    what = f"netns {name}"
    try:
        _make_mount_point(path_of(name), what)
        _mount(f"/proc/self/fd/{kept}", path_of(name), MS_BIND, what)
    finally:
        os.close(kept)


def remove(name: str) -> None:
    """Unmount and unlink the name; the namespace itself goes when its last process or file does."""
    from pyroute2 import netns as library

    try:
        library.remove(name)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", f"netns {name}") from problem
