# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The one family of errors: which object, what is wrong, what to do, in one line each."""

from __future__ import annotations

import errno as _errno
import os
import typing as t


class CnfError(Exception):
    """Base of all errors that the collection raises on purpose; str() is the line for the user."""


class SpecError(CnfError):
    """The input is wrong. ``path`` names the place, such as ``netkit_link[2].peer.netns``."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}" if path else problem)


class PlanError(CnfError):
    """The host cannot be brought to the desired state as asked (a foreign object, a fixed attribute, a missing device)."""


class UnsupportedError(CnfError):
    """The kernel, a library or a permission lacks what the operation needs."""


class StoreError(CnfError):
    """The state directory cannot be used, or another run holds its lock."""


class KernelError(CnfError):
    """The kernel refused a request.

    ``errno`` is positive; ``extack`` is the kernel's own text (netlink extended ACK), often empty.
    """

    def __init__(self, errno: int, extack: str = "", what: str = "") -> None:
        self.errno = errno
        self.extack = extack
        self.what = what
        super().__init__(self.text())

    @property
    def name(self) -> str:
        if self.errno == _errno.EOPNOTSUPP:
            return "EOPNOTSUPP"  # the same number as ENOTSUP, which Python would say
        return _errno.errorcode.get(self.errno, str(self.errno))

    def text(self) -> str:
        parts = [f"{self.name} ({os.strerror(self.errno)})"]
        if self.extack:
            parts.append(f"kernel says: {self.extack}")
        if self.errno in (_errno.EPERM, _errno.EACCES) and not self.extack:
            parts.append("run as root (become: true) with CAP_NET_ADMIN and CAP_SYS_ADMIN")
        line = "; ".join(parts)
        return f"{self.what}: {line}" if self.what else line


class ConvergeError(CnfError):
    """A run that had begun to change the host failed and was undone.

    ``applied`` and ``undone`` are the operations' texts in the order in which they ran, ``failed_action`` the one that failed,
    ``left`` what could not be put back (empty when the host is as before).
    """

    def __init__(
        self,
        message: str,
        applied: t.Sequence[str],
        undone: t.Sequence[str],
        failed_action: str,
        left: t.Sequence[str],
    ) -> None:
        self.applied = list(applied)
        self.undone = list(undone)
        self.failed_action = failed_action
        self.left = list(left)
        super().__init__(message)
