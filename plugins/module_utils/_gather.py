# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""From what the kernel has to a document in the input's own schema, and to text for people."""

from __future__ import annotations

import dataclasses
import typing as t

from ._engine.model import CREATE, Key, Operation
from ._kernel import rtnl
from ._kernel.host import Host
from ._resources import (
    BPF_NAMES,
    KINDS,
    SECTIONS,
    address,
    existing_link,
    link,
    link_kinds,
    neighbor,
    netns,
    port,
    route,
    rule,
    sysctl,
    sysctl_forwarding,
)

Document = t.Dict[str, t.List[t.Dict[str, t.Any]]]

DEFAULT_RULES = (0, 32766, 32767)
SWITCHES = tuple(sysctl.SPREADING)


def host_values(host: Host) -> t.Dict[Key, t.Any]:
    """Everything on the host that the input can say: the kernel's own doing (link-local, connected, learnt) is left out."""
    found: t.Dict[Key, t.Any] = {}
    for space in ("", *sorted(host.namespaces())):
        found.update(namespace_values(host, space))
    return found


def namespace_values(host: Host, space: str) -> t.Dict[Key, t.Any]:
    """The same for one namespace."""
    found: t.List[t.Any] = []
    if space:
        found += netns.observe(host, {Key("netns", "", space): None}, "", ()).values()
    found += _links_of(host, space)
    found += _tables_of(host, space)
    return {value.key(): value for value in found}


def link_states(host: Host, space: str) -> t.List[t.Dict[str, t.Any]]:
    """The links of a namespace, each with its addresses and its other end, loopback included."""
    found = []
    for record in host.links(space).by_name.values():
        value = link.observe_one(host, space, record)
        rows = host.addresses(space).get(record.ifindex, ())
        found.append(
            {
                "name": record.name,
                "kind": value.kind,
                "topology": netns.owner_of_link(host, space, record),
                "up": value.up,
                "mtu": record.mtu,
                "mac": record.mac,
                "master": host.name_of(space, record.master),
                "peer": {"name": value.peer.name, "netns": value.peer.netns} if value.peer else None,
                "options": value.options or {},
                "addresses": [f"{row.local}/{row.prefixlen}" for row in rows],
                "altnames": list(record.altnames),
            }
        )
    return found


def _links_of(host: Host, space: str) -> t.List[t.Any]:
    found: t.List[t.Any] = []
    for record in host.links(space).by_name.values():
        kind = link_kinds.name_of_kind(record.kind, record.data)
        if record.name != "lo" and record.name not in netns.FALLBACK_DEVICES:
            if kind in link_kinds.KINDS:
                value = link.observe_one(host, space, record)
                if _is_near_end(value):
                    found.append(value)
            elif kind != "netkit peer":
                up = bool(record.flags & rtnl.IFF_UP)
                found.append(
                    existing_link.Value(record.name, space, up, record.mtu, record.mac, (space, record.name))
                )
            if record.master:
                found.append(port.Value(record.name, space, host.name_of(space, record.master)))
        for row in host.addresses(space).get(record.ifindex, ()):
            observed = address.observed_value(space, record.name, row)
            if observed.made_by is None and record.name != "lo":
                found.append(observed)
    return found


def _is_near_end(value: link.Value) -> bool:
    """Of a pair whose ends are both seen, one is told: a netkit's primary, a veth's marked or first end."""
    peer = value.peer
    if value.kind != "veth" or peer is None or peer.netns == link.UNNAMED or value.owner:
        return True
    return (value.netns, value.name) < (peer.netns, peer.name)


def _tables_of(host: Host, space: str) -> t.List[t.Any]:
    found: t.List[t.Any] = []
    for family in (rtnl.AF_INET, rtnl.AF_INET6):
        for record in host.routes(space, family, 0):
            if record.protocol not in route.KERNEL_MADE and not record.multipath:
                found.append(route.observed_value(host, space, record))
        for row in host.rules(space, family):
            if row.priority not in DEFAULT_RULES:
                found.append(rule.observed_value(space, row))
    found += [neighbor.observed_value(host, space, row) for row in host.neighbors(space)]
    values = host.sysctls(space, SWITCHES)
    found += [sysctl.Value(name, space, text) for name, text in values.items() if text is not None]
    return [value for value in found if value is not None and getattr(value, "dev", None) != "lo"]


def document_of(values: t.Mapping[Key, t.Any]) -> Document:
    """Observed values as sections of a topology document; what belongs to one link is told in one item."""
    document: Document = {name: [] for name in SECTIONS}
    items: t.Dict[t.Tuple[str, str], t.Dict[str, t.Any]] = {}
    for key, value in values.items():
        told = KINDS[key.kind].to_item(value)
        if told is None:
            continue
        section, item = told
        if isinstance(item, list):  # one value of many items
            document[section] += item
            continue
        document[section].append(item)
        for end in (item, item.get("peer") or {}) if section in ("link", "netkit_link") else ():
            if end:
                items[end.get("netns") or "", end["name"]] = end
    _tell_masters(values, document, items)
    document["sysctl_forwarding"] = sysctl_forwarding.items_of(
        value for key, value in values.items() if key.kind == sysctl.NAME
    )
    return {name: rows for name, rows in document.items() if rows}


def _tell_masters(
    values: t.Mapping[Key, t.Any], document: Document, items: t.Mapping[t.Tuple[str, str], t.Dict[str, t.Any]]
) -> None:
    for key, value in values.items():
        if key.kind == port.NAME and value.master:
            end = items.get((value.netns, value.link))
            if end is None:
                end = {"name": value.link, "kind": "existing"}
                if value.netns:
                    end["netns"] = value.netns
                document["link"].append(end)
            end["master"] = value.master


# --- text ---------------------------------------------------------------------------------------------------------------

Place = t.Tuple[str, str]  # (namespace, link)


def text_of(values: t.Mapping[Key, t.Any], title: str) -> str:
    """A topology as text: one block per namespace, one line per link with its addresses and the other end, then the rest."""
    spaces: t.Dict[str, t.List[str]] = {"": []}
    notes: t.Dict[Place, t.List[str]] = {}
    for value in values.values():
        if isinstance(value, netns.Value):
            spaces.setdefault(value.name, [])
        elif isinstance(value, address.Value):
            notes.setdefault((value.netns, value.dev), []).append(f"{value.address}/{value.prefixlen}")
        elif isinstance(value, port.Value) and value.master:
            notes.setdefault((value.netns, value.link), []).append(f"in {value.master}")
    for value in values.values():
        for space, line in _lines_of(value, notes):
            spaces.setdefault(space, []).append(line)
    blocks = [title]
    for space in sorted(spaces):
        if spaces[space] or space:
            blocks.append(f"  [{space or 'host'}]")
            blocks += [f"    {line}" for line in spaces[space]]
    return "\n".join(blocks) + "\n"


def _lines_of(value: t.Any, notes: t.Mapping[Place, t.List[str]]) -> t.Iterator[t.Tuple[str, str]]:
    if isinstance(value, link.Value):
        kind = f"{value.kind} {(value.options or {}).get('mode', '')}".strip()
        yield value.netns, _link_line(value, kind, value.peer, notes)
        if value.peer is not None:
            yield value.peer.netns, _link_line(value.peer, kind, value, notes)
    elif isinstance(value, existing_link.Value):
        yield value.netns, _link_line(value, "existing", None, notes)
    elif isinstance(value, (route.Value, rule.Value, neighbor.Value)):
        yield value.netns, _command_words(value)
    elif isinstance(value, sysctl.Value):
        yield value.netns, f"{sysctl.dotted(value.name)} = {value.value}"
    elif value.key().kind in BPF_NAMES:
        line = KINDS[value.key().kind].line_of(value)
        yield getattr(value, "netns", "") or "", line


def _command_words(value: t.Any) -> str:
    """A route, rule or neighbour as iproute2 would say it, without the verb."""
    operation = Operation(CREATE, value.key(), None, _spoken(value), "")
    words = KINDS[value.key().kind].commands(operation)[0].split()
    kept = [word for word in words[1:] if word not in ("add", "replace", "-6")]
    return " ".join(kept[2:] if kept[0] == "-n" else kept)


def _spoken(value: t.Any) -> t.Any:
    """The value without what goes without saying in a sentence about it."""
    quiet = {"owner": None, **({"scope": None} if isinstance(value, route.Value) else {})}
    return dataclasses.replace(value, **quiet)


def _link_line(end: t.Any, kind: str, peer: t.Any, notes: t.Mapping[Place, t.List[str]]) -> str:
    words = [f"{end.name:<15}", f"{kind:<10}", f"mtu {end.mtu}", f"{'up' if end.up else 'down':<4}"]
    words += notes.get((end.netns, end.name), [])
    if peer is not None:
        words.append(f"<-> {peer.netns or 'host'}:{peer.name}")
    return " ".join(words).rstrip()
