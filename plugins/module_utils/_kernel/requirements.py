# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the target needs before anything is read or changed: pyroute2 in a usable version, and the permissions."""

from __future__ import annotations

import importlib.util
import os
import re
import typing as t

from .._errors import UnsupportedError

LIBRARY = "pyroute2"
OLDEST = (0, 7, 2)
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


class LibraryMissing(UnsupportedError):
    """pyroute2 is not importable by the interpreter that runs the module."""


def installed_version() -> t.Optional[t.Tuple[int, ...]]:
    """The version that the distribution's metadata beside the package tells; None when it tells none.

    Reading a directory name costs microseconds, importing the package 0.1 s.
    """
    spec = importlib.util.find_spec(LIBRARY)
    if spec is None or not spec.origin:
        raise LibraryMissing(LIBRARY)
    site = os.path.dirname(os.path.dirname(spec.origin))
    try:
        entries = os.listdir(site)
    except OSError:
        return None
    for entry in entries:
        found = re.match(rf"{LIBRARY}-(\d+(?:\.\d+)*)[^/]*\.(?:dist|egg)-info$", entry)
        if found:
            return tuple(int(part) for part in found.group(1).split("."))
    return None


def check_library() -> None:
    version = installed_version()
    if version is not None and version < OLDEST:
        raise UnsupportedError(
            f"{LIBRARY} {'.'.join(map(str, version))} is too old: "
            f"{'.'.join(map(str, OLDEST))} or newer is needed (apt install python3-pyroute2)"
        )


def check_permission() -> None:
    """Refuse early and plainly instead of failing half-way with EPERM."""
    effective = 0
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("CapEff:"):
                    effective = int(line.split()[1], 16)
    except OSError:
        return
    missing = [
        name
        for name, bit in (("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_SYS_ADMIN", CAP_SYS_ADMIN))
        if not effective >> bit & 1
    ]
    if missing:
        raise UnsupportedError(f"permission missing: {' and '.join(missing)}; run as root (become: true)")
