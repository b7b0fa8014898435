# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Programs of netkit pairs: ``primary`` sees what leaves through the primary end, ``peer`` what leaves through the far one.

Both are attached through the primary, in whichever namespace it lives, so what is at the far end cannot remove them.
"""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine.model import Claim, Desired, Key
from .._kernel.host import Host
from . import _attach, _ordered
from ._attach import Value as Attachment

Value = _attach.NetkitValue
NAME = SECTION = "netkit_attach"
RANK = _attach.RANK
BORROWED = False
LINGERS = True
ENUMERATED = True

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    **_attach.COMMON_SPEC,
    "hook": {"type": "str", "choices": ["primary", "peer"], "default": "peer"},
    **_attach.ORDER_SPEC,
    "mechanism": {"type": "str", "choices": ["netkit", "auto"], "default": "netkit"},
}
REQUIRED = ("object", "link")
ALONE = ("link",)  # what entries say for themselves; the rest may hold for all of them


def complete(item: t.Mapping[str, t.Any], path: str, known: _attach.Known) -> t.Mapping[str, t.Any]:
    return _attach.complete(NAME, item, path, known)


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    value = _attach.ordered(_attach.value_of(NAME, item["hook"], item, path, owner), item, path)
    mechanism = None if item["mechanism"] == "auto" else item["mechanism"]
    return [Desired(dataclasses.replace(value, mechanism=mechanism), path)]


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return _attach.task_keys(NAME, item["hook"], item, path, claims)


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Attachment]:
    return _ordered.observe(NAME, host, wanted, topology)


def settled(host: Host, value: Attachment, observed: t.Optional[Attachment]) -> Attachment:
    return _ordered.settled(NAME, host, value)


def fixed(before: Attachment, after: Attachment) -> t.List[str]:
    return []


side_effects = _attach.no_effects
line_of = _attach.line_of
merged = _ordered.merged
apply = _ordered.apply
commands = _ordered.commands


def to_item(value: Attachment) -> t.Tuple[str, t.Dict[str, t.Any]]:
    return SECTION, _ordered.to_item(value)
