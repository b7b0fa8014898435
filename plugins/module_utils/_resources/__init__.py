# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The registry: every section of the input and every kind of resource, and the way from a document to desired values."""

from __future__ import annotations

import types
import typing as t

from .._engine.model import Desired, Key
from .._errors import SpecError
from . import (
    _ends,
    address,
    existing_link,
    link,
    neighbor,
    netkit_link,
    netns,
    port,
    route,
    rule,
    sysctl,
    sysctl_file,
    sysctl_forwarding,
)

SECTIONS: t.Dict[str, types.ModuleType] = {
    module.SECTION: module
    for module in (netns, netkit_link, link, sysctl_forwarding, address, neighbor, route, rule)
}
KINDS: t.Dict[str, t.Any] = {
    module.NAME: module
    for module in (netns, link, existing_link, port, sysctl, address, neighbor, route, rule, sysctl_file)
}


def revive(kind: str, data: t.Mapping[str, t.Any]) -> t.Any:
    """A value from its described form (model.describe), as it lies in generations and journals."""
    fields = dict(data)
    if fields.get("peer") and kind == link.NAME:
        fields["peer"] = _ends.End(**fields["peer"])
    for name in ("id", "strangers"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return KINDS[kind].Value(**fields)


def gather(found: t.Iterable[Desired]) -> t.List[Desired]:
    """Desired values of one topology; raises SpecError when two items declare the same resource, naming both places."""
    desired = list(found)
    names: t.Dict[Key, Desired] = {}
    for item in desired:
        for key in item.value.provides():
            other = names.setdefault(key, item)
            if other is not item:
                raise SpecError(
                    item.path, f"{key} is already declared by {other.path}; name each resource once"
                )
    return desired
