# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters for variables that hold lists. Each is documented in the YAML file of its name."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible.errors import AnsibleFilterError


def as_list(value: t.Any) -> t.List[t.Any]:
    """The list that a module's option of type list would make of the value."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, (list, tuple)):
        return list(value)
    raise AnsibleFilterError(f"{value!r} is neither a list nor a text of items with commas between")


def outside(addresses: t.Any, prefixes: t.Any) -> t.List[str]:
    """The addresses that are in none of the prefixes; prefixes of the other family hold none of them."""
    try:
        networks = [ipaddress.ip_network(str(prefix), strict=False) for prefix in as_list(prefixes)]
        return [
            address
            for address in as_list(addresses)
            if not any(ipaddress.ip_address(str(address)) in network for network in networks)
        ]
    except ValueError as problem:
        raise AnsibleFilterError(f"outside: {problem}") from problem


class FilterModule:
    """Names of the filters."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"as_list": as_list, "outside": outside}
