# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The input of forwarding switches; each option is one value of kind ``sysctl``, persist: true one line of a ``sysctl_file``."""

from __future__ import annotations

import re
import typing as t

from .._engine.model import Claim, Desired, Key
from .._errors import SpecError
from . import _fields, sysctl, sysctl_file

SECTION = "sysctl_forwarding"

REVERSE_PATH = {"off": "0", "strict": "1", "loose": "2"}

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "netns": {"type": "str"},
    "interface": {"type": "str", "default": "all"},
    "ipv4": {"type": "bool"},
    "ipv6": {"type": "bool"},
    "rp_filter": {"type": "str", "choices": list(REVERSE_PATH)},
    "proxy_arp": {"type": "bool"},
    "proxy_ndp": {"type": "bool"},
    "accept_ra": {"type": "str", "choices": ["never", "host", "always"]},
    "persist": {"type": "bool", "default": False},
}

ACCEPT_RA = {"never": "0", "host": "1", "always": "2"}
FIELDS: t.Dict[str, t.Tuple[str, str, t.Callable[[t.Any], str]]] = {
    "ipv4": ("ipv4", "forwarding", lambda value: str(int(value))),
    "ipv6": ("ipv6", "forwarding", lambda value: str(int(value))),
    "rp_filter": ("ipv4", "rp_filter", REVERSE_PATH.__getitem__),
    "proxy_arp": ("ipv4", "proxy_arp", lambda value: str(int(value))),
    "proxy_ndp": ("ipv6", "proxy_ndp", lambda value: str(int(value))),
    "accept_ra": ("ipv6", "accept_ra", ACCEPT_RA.__getitem__),
}


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    space, interface = _place(item, path)
    values = {
        f"net/{family}/conf/{interface}/{field}": encode(item[option])
        for option, (family, field, encode) in FIELDS.items()
        if item.get(option) is not None
    }
    if not values:
        raise SpecError(path, f"nothing to set; give one of {', '.join(FIELDS)}")
    found = [Desired(sysctl.Value(name, space, text), path) for name, text in values.items()]
    if item.get("persist"):
        if space:
            raise SpecError(
                f"{path}.persist",
                "works in the host's own namespace only; a named one does not outlive a boot",
            )
        if re.search(r"[*?\[=]", interface):
            raise SpecError(
                f"{path}.persist", f"sysctl.d(5) would read {interface!r} as a pattern; leave persist out"
            )
        adopt = bool(item.get("adopt"))
        for name, text in values.items():
            found.append(Desired(sysctl_file.Value(owner, name, text, owner), f"{path}.persist", adopt=adopt))
    return found


def _place(item: t.Mapping[str, t.Any], path: str) -> t.Tuple[str, str]:
    interface = item.get("interface") or "all"
    return _fields.netns(item.get("netns"), f"{path}.netns"), _fields.ifname(interface, f"{path}.interface")


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    """The named options, or every one that was ever set on this interface when none is named."""
    space, interface = _place(item, path)
    named = [option for option in FIELDS if item.get(option) is not None] or list(FIELDS)
    wanted = [
        Key(sysctl.NAME, space, f"net/{family}/conf/{interface}/{field}")
        for option, (family, field, _encode) in FIELDS.items()
        if option in named
    ]
    files = [
        key
        for key in claims
        if key.kind == sysctl_file.NAME and key.id.split(" ", 1)[1] in {name.id for name in wanted}
    ]
    return [key for key in wanted if key in claims] + (files if not space else [])


def items_of(values: t.Iterable[sysctl.Value]) -> t.List[t.Dict[str, t.Any]]:
    """Observed values gathered into items, one per namespace and interface."""
    words = {
        "rp_filter": {v: k for k, v in REVERSE_PATH.items()},
        "accept_ra": {v: k for k, v in ACCEPT_RA.items()},
    }
    items: t.Dict[t.Tuple[str, str], t.Dict[str, t.Any]] = {}
    for value in values:
        interface = sysctl.interface_of(value.name)
        item = items.setdefault((value.netns, interface), {"netns": value.netns, "interface": interface})
        for option, (family, field, _encode) in FIELDS.items():
            if value.name == f"net/{family}/conf/{interface}/{field}":
                item[option] = (
                    words[option].get(value.value, value.value) if option in words else value.value != "0"
                )
    for item in items.values():
        if not item["netns"]:
            del item["netns"]
        if item["interface"] == "all":
            del item["interface"]
    return list(items.values())
