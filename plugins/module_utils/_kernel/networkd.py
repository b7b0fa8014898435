# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Whether systemd-networkd runs on this host and removes routes and rules that it did not make (networkd.conf(5))."""

from __future__ import annotations

import glob
import os
import typing as t

RUNNING = "/run/systemd/netif/state"
CONFIGURATION = ("/etc/systemd/networkd.conf", "/etc/systemd/networkd.conf.d", "/run/systemd/networkd.conf.d")
FALSE = ("no", "false", "0", "off")


def manages_foreign(option: str) -> bool:
    """Whether the running networkd has ``ManageForeignRoutes`` or ``ManageForeignRoutingPolicyRules`` on: its default."""
    return os.path.exists(RUNNING) and setting(_texts(), option) not in FALSE


def setting(texts: t.Iterable[str], option: str) -> str:
    """The last value of an option in configuration texts, in lower case; empty when it is nowhere."""
    found = ""
    for text in texts:
        for line in text.splitlines():
            name, equals, value = line.partition("=")
            if equals and name.strip() == option:
                found = value.strip().lower()
    return found


def _texts() -> t.Iterator[str]:
    for path in CONFIGURATION:
        for name in sorted(glob.glob(os.path.join(path, "*.conf"))) if os.path.isdir(path) else [path]:
            try:
                with open(name, encoding="utf-8", errors="replace") as file:
                    yield file.read()
            except OSError:
                continue
