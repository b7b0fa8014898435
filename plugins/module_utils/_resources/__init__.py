# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The registry: every section of the input and every kind of resource, and the way from a document to desired values."""

from __future__ import annotations

import os
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

BPF_NAMES = (
    "bpf_object",
    "bpf_map_entry",
    "bpf_pool",
    "bpf_policy_entry",
    "tcx_attach",
    "netkit_attach",
    "xdp_attach",
)
BPF_DIRECTORY = "/sys/fs/bpf/cnf"  # _bpf.pins.ROOT


class Registry(t.Mapping[str, t.Any]):
    """Modules by name. Those for BPF are imported when one is asked for: they are as large as all others together."""

    def __init__(self, modules: t.Mapping[str, types.ModuleType], later: t.Sequence[str]) -> None:
        self._modules: t.Dict[str, types.ModuleType] = dict(modules)
        self._later = tuple(later)

    def __getitem__(self, name: str) -> types.ModuleType:
        if name in self._later and name not in self._modules:
            self._modules.update(_bpf_modules())
        return self._modules[name]

    def __iter__(self) -> t.Iterator[str]:
        return iter(dict.fromkeys((*self._modules, *self._later)))

    def __len__(self) -> int:
        return len({*self._modules, *self._later})


def _bpf_modules() -> t.Dict[str, types.ModuleType]:
    from . import (
        bpf_map_entry,
        bpf_object,
        bpf_policy_entry,
        bpf_pool,
        netkit_attach,
        tcx_attach,
        xdp_attach,
    )

    modules = (
        bpf_object,
        bpf_map_entry,
        bpf_pool,
        bpf_policy_entry,
        tcx_attach,
        netkit_attach,
        xdp_attach,
    )
    return {module.NAME: module for module in modules}


SECTIONS: t.Mapping[str, types.ModuleType] = Registry(
    {
        module.SECTION: module
        for module in (netns, netkit_link, link, sysctl_forwarding, address, neighbor, route, rule)
    },
    BPF_NAMES,
)
KINDS: t.Mapping[str, t.Any] = Registry(
    {
        module.NAME: module
        for module in (netns, link, existing_link, port, sysctl, address, neighbor, route, rule, sysctl_file)
    },
    BPF_NAMES,
)


def kinds_for(keys: t.Iterable[Key]) -> t.Mapping[str, t.Any]:
    """The kinds that a run about these keys needs: those for BPF only where there are objects, or shall be."""
    if os.path.isdir(BPF_DIRECTORY) or any(key.kind in BPF_NAMES for key in keys):
        return KINDS
    return {name: KINDS[name] for name in KINDS if name not in BPF_NAMES}


def revive(kind: str, data: t.Mapping[str, t.Any]) -> t.Any:
    """A value from its described form (model.describe), as it lies in generations and journals."""
    fields = dict(data)
    if fields.get("peer") and kind == link.NAME:
        fields["peer"] = _ends.End(**fields["peer"])
    for name in ("id", "strangers"):
        if name in fields:
            fields[name] = tuple(fields[name])
    if kind == "bpf_policy_entry":
        from .._bpf.policy import Policy

        fields["policy"] = Policy.from_text(fields["policy"])
    return KINDS[kind].Value(**fields)


def gather(found: t.Iterable[Desired]) -> t.List[Desired]:
    """Desired values of one topology; raises SpecError when two items declare the same resource, naming both places.

    Of kinds whose values are declared in parts (``joined``) the parts are put together first.
    """
    desired: t.List[Desired] = []
    parts: t.Dict[Key, t.List[Desired]] = {}
    for item in found:
        if hasattr(KINDS[item.key.kind], "joined"):
            parts.setdefault(item.key, []).append(item)
        else:
            desired.append(item)
    desired += [KINDS[key.kind].joined(items) for key, items in parts.items()]
    names: t.Dict[Key, Desired] = {}
    for item in desired:
        for key in item.value.provides():
            other = names.setdefault(key, item)
            if other is not item:
                raise SpecError(
                    item.path, f"{key} is already declared by {other.path}; name each resource once"
                )
    return desired
