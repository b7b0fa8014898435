# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The BPF file system: where it is mounted, its directories, and pins.

Pins are names for objects, not the truth about attachments: a second bpffs mounted over the first hides every pin while
the programs stay attached, and what looks only at pins then attaches them again (cilium #44194). So such a mount is an
error here. ``ip netns exec`` mounts a new /sys, in which no pin is to be seen: setns(2) alone keeps the mounts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import typing as t

from .._errors import KernelError, UnsupportedError
from . import bpf

MOUNT_POINT = "/sys/fs/bpf"
MOUNTINFO = "/proc/self/mountinfo"
DIRECTORY_MODE = 0o700
REPLACEMENT = "%new"  # names on a bpffs cannot contain a dot, and those of programs and maps no percent sign

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(t.NamedTuple):
    """A line of /proc/<pid>/mountinfo. ``parent`` is the id of the mount that this one lies in or over."""

    id: int
    parent: int
    point: str
    kind: str


def parse_mounts(text: str) -> t.List[Mount]:
    """The mounts in the text of /proc/<pid>/mountinfo (proc_pid_mountinfo(5)); blanks in names are octal there."""
    found = []
    for line in text.splitlines():
        # Any number of optional fields end with a single dash.
        fields, _dash, rest = line.partition(" - ")
        parts = fields.split()
        if len(parts) >= 5 and rest:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), parts[4])
            found.append(Mount(int(parts[0]), int(parts[1]), point, rest.split()[0]))
    return found


def bpf_mounts(mounts: t.Sequence[Mount]) -> t.List[str]:
    """The mount points of the bpffs that paths lead to, sorted; UnsupportedError where one lies over another."""
    known = {mount.id: mount for mount in mounts}
    found = []
    for mount in mounts:
        if mount.kind != "bpf":
            continue
        below = known.get(mount.parent)
        if below is not None and below.kind == "bpf" and below.point == mount.point:
            raise UnsupportedError(
                f"{mount.point}: two BPF file systems are mounted over each other, which hides the pins of the first;"
                f" run `umount {mount.point}` once, and look for what mounts it again (a line in /etc/fstab?)"
            )
        if not _is_hidden(mount, known):
            found.append(mount.point)
    return sorted(found)


def _is_hidden(mount: Mount, known: t.Mapping[int, Mount]) -> bool:
    """Whether another mount lies over this one, or over a directory on the way to it.

    The latter is one with the same parent and a shorter path: had it been there first, it would be the parent.
    """
    if any(other.parent == mount.id and other.point == mount.point for other in known.values()):
        return True
    step: t.Optional[Mount] = mount
    while step is not None:
        for other in known.values():
            if (
                other.parent == step.parent
                and other.point != step.point
                and _is_within(step.point, other.point)
            ):
                return True
        step = known.get(step.parent) if step.parent != step.id else None
    return False


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def mounts() -> t.List[str]:
    """The mount points of bpffs in this process's mount namespace. UnsupportedError as ``bpf_mounts``."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        return bpf_mounts(parse_mounts(file.read()))


def ensure_mounted(point: str = MOUNT_POINT) -> bool:
    """Mount a bpffs where none is, accessible to root only; True when one was missing.

    A point below another bpffs needs none of its own. UnsupportedError when two lie over each other, or the kernel has
    none.
    """
    if any(_is_within(point, found) for found in mounts()):
        return False
    if not os.path.isdir(point):
        if point == MOUNT_POINT:
            raise UnsupportedError(
                f"{point} does not exist: is sysfs mounted, and CONFIG_BPF_SYSCALL enabled?"
            )
        os.makedirs(point, DIRECTORY_MODE)
    if _libc.mount(b"bpf", os.fsencode(point), b"bpf", ctypes.c_ulong(0), b"mode=0700") != 0:
        raise KernelError(ctypes.get_errno(), "", f"{point}: mount a BPF file system")
    return True


def unmount(point: str = MOUNT_POINT) -> None:
    """Undo ``ensure_mounted``; what is still in use there stays mounted."""
    _libc.umount2(os.fsencode(point), 0)


def check_name(name: str) -> str:
    """The name itself if it can be a pin's or a directory's. Raises KernelError (EPERM, EINVAL) as the kernel would."""
    if "." in name:
        raise bpf.BpfError(errno.EPERM, f"pin {name}", "names on a BPF file system cannot contain a dot")
    if not name or "/" in name or len(os.fsencode(name)) > 255:
        raise bpf.BpfError(errno.EINVAL, f"pin {name!r}", "not a file name")
    return name


def ensure_directory(path: str) -> bool:
    """Make a directory and those above it, mode 0700, on a bpffs that is there already; True when any was missing."""
    if not any(_is_within(path, found) for found in mounts()):
        raise UnsupportedError(f"{path} is not on a BPF file system")
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        check_name(os.path.basename(directory))
        try:
            os.mkdir(directory, DIRECTORY_MODE)
        except FileExistsError:
            continue  # another run was faster
        except OSError as problem:
            raise KernelError(problem.errno or 0, "", f"{directory}: make directory") from problem
        os.chmod(directory, DIRECTORY_MODE)  # whatever the umask
    return bool(missing)


def list_pins(directory: str) -> t.List[str]:
    """The names of the pins of a directory, sorted, without its subdirectories; empty when it does not exist."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", f"{directory}: list") from problem


def replace_pin(fd: int, path: str) -> None:
    """Pin an object under a name that may be taken; at no time is the name without an object.

    What was pinned before lives on only if it has another pin, descriptor or attachment. A replacement that a killed run
    left half-way is overwritten.
    """
    check_name(os.path.basename(path))
    fresh = path + REPLACEMENT
    unpin(fresh)
    bpf.pin(fd, fresh)
    try:
        rename(fresh, path)
    except KernelError:
        unpin(fresh)
        raise


def rename(path: str, new: str) -> None:
    """Give a pin another name, in the place of whatever has it."""
    try:
        os.replace(path, new)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", f"{new}: replace pin") from problem


def unpin(path: str) -> bool:
    """Remove a pin; False when there was none.

    A link that loses its last pin is detached a little later (about 16 ms): detach it first (bpf.link_detach) when its
    end must be certain.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", f"{path}: unpin") from problem
    return True


def remove_directory(path: str) -> bool:
    """Remove an empty directory; False when there was none, or it still holds something."""
    try:
        os.rmdir(path)
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise KernelError(problem.errno or 0, "", f"{path}: remove directory") from problem
    return True
