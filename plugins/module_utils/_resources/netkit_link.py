# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The input of netkit pairs; the link itself is of kind ``link`` like every other pair."""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine.model import Claim, Desired, Key
from .._errors import SpecError
from . import _fields, link
from ._ends import END_SPEC, End, belongings, near_end
from .link_kinds import KINDS

SECTION = "netkit_link"

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    **END_SPEC,
    "peer": {"type": "dict", "options": END_SPEC},
    "mode": {"type": "str", "choices": ["l2", "l3"], "default": "l3"},
    "policy": {"type": "str", "choices": ["forward", "blackhole"]},
    "peer_policy": {"type": "str", "choices": ["forward", "blackhole"]},
    "scrub": {"type": "str", "choices": ["none", "default"]},
    "peer_scrub": {"type": "str", "choices": ["none", "default"]},
    "headroom": {"type": "int"},
    "tailroom": {"type": "int"},
    "fallback": {"type": "str", "choices": ["none", "veth"], "default": "none"},
    "recreate": {"type": "bool", "default": False},
}


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    if not item.get("peer"):
        raise SpecError(f"{path}.peer", "missing; a pair needs the name of its other end")
    for name in ("headroom", "tailroom"):
        _fields.whole(item.get(name), 0, 65535, f"{path}.{name}", "bytes")
    if item["mode"] == "l3":
        for end, end_path in ((item, path), (item["peer"], f"{path}.peer")):
            if end.get("mac"):
                raise SpecError(
                    f"{end_path}.mac", "an l3 netkit has no hardware address; leave it out or use mode: l2"
                )
    value = link.Value(
        kind="netkit",
        **near_end(item, path),
        options={name: item[name] for name in KINDS["netkit"].options if item.get(name) is not None},
        peer=End(**near_end(item["peer"], f"{path}.peer")),
        owner=owner,
    )
    link.check_ends(value, path)
    veth = dataclasses.replace(value, kind="veth", options=None) if item["fallback"] == "veth" else None
    main = Desired(value, path, bool(item["recreate"]), bool(item.get("adopt")), alternative=veth)
    return [main, *belongings(item, path, owner)]


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return link.keys(item, path, claims)
