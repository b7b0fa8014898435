# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Entries of the maps of objects: what programs are told, by field name and in human form.

``link:NAME`` as a text anywhere in a key or a value stands for the interface index of that device. The index is looked up
again in each run, so an entry for a device that was made anew is written anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import typing as t

from .._bpf import btf, maps, objects, pins
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import KernelError, PlanError, SpecError
from .._kernel import bpf, namespaces
from .._kernel.host import Host
from . import _attach, _fields, bpf_object

NAME = SECTION = "bpf_map_entry"
RANK = 84  # before the programs that read it are attached
BORROWED = False
LINGERS = True

LINK = "link:"
ALWAYS_THERE = (bpf.MapType.ARRAY, bpf.MapType.PERCPU_ARRAY, bpf.MapType.DEVMAP, bpf.MapType.CPUMAP)

DEVICE_MAPS = (bpf.MapType.DEVMAP, bpf.MapType.DEVMAP_HASH)

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "object": {"type": "str"},
    "map": {"type": "str"},
    "key": {"type": "raw", "no_log": False},
    "value": {"type": "raw"},
    "netns": {"type": "str"},
}
REQUIRED = ("object", "map", "key")
ALONE = ("key", "value")  # what entries say for themselves; the rest may hold for all of them


@dataclasses.dataclass(frozen=True)
class Value:
    """An entry. ``map_key`` is the key as the user gave it, as canonical JSON; ``value`` in the form that was given."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("object", "map", "map_key")

    object: str
    map: str
    map_key: str
    netns: str
    value: t.Any = None
    owner: t.Optional[str] = None

    def key(self) -> Key:
        return Key(NAME, self.netns, f"{self.owner}/{self.object}:{self.map} {self.map_key}")

    def needs(self) -> t.Tuple[Key, ...]:
        links = {*_links(json.loads(self.map_key)), *_links(self.value)}
        return (
            bpf_object.key_of(self.owner or "", self.object),
            *(Key("link", self.netns, name) for name in sorted(links)),
        )

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def stands_on(key: Key) -> t.Tuple[Key, ...]:
    """The object that the entry goes with, also when the entry is not looked at."""
    return (Key(bpf_object.NAME, "", key.id.partition(":")[0]),)


def _links(given: t.Any) -> t.Iterator[str]:
    """The names of devices in a key or value."""
    if isinstance(given, str) and given.startswith(LINK):
        yield given[len(LINK) :]
    elif isinstance(given, dict):
        for part in given.values():
            yield from _links(part)
    elif isinstance(given, list):
        for part in given:
            yield from _links(part)


def resolved(given: t.Any, index_of: t.Callable[[str], int]) -> t.Any:
    """The key or value with numbers in the place of devices."""
    if isinstance(given, str) and given.startswith(LINK):
        return index_of(given[len(LINK) :])
    if isinstance(given, dict):
        return {name: resolved(part, index_of) for name, part in given.items()}
    if isinstance(given, list):
        return [resolved(part, index_of) for part in given]
    return given


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    value = _named(item, path, owner)
    if item.get("value") is None:
        raise SpecError(f"{path}.value", "missing; it is required")
    for place, given in (("key", item["key"]), ("value", item["value"])):
        for name in _links(given):
            _fields.ifname(name, f"{path}.{place}")
    return [Desired(dataclasses.replace(value, value=item["value"]), path)]


def _named(item: t.Mapping[str, t.Any], path: str, owner: str) -> Value:
    _fields.require(item, REQUIRED, path)
    return Value(
        bpf_object.object_name(item["object"], f"{path}.object"),
        bpf_object.program_name(item["map"], f"{path}.map"),
        json.dumps(item["key"], sort_keys=True, separators=(",", ":")),
        _fields.netns(item.get("netns"), f"{path}.netns"),
        owner=owner,
    )


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [_named(item, path, _fields.TASKS).key()]


# --- what there is --------------------------------------------------------------------------------------------------------


class _Numbers:
    """Types of maps of devices: the kernel takes no type information for them (map_check_no_btf), and both are 32-bit numbers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read_key(self, given: t.Any) -> bytes:
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 1 << 32:
            raise btf.BtfError(f"{self.name}: {given!r} is neither a number of 32 bits nor link:NAME")
        return given.to_bytes(4, sys.byteorder)

    read_value = read_key

    def show_key(self, data: bytes) -> int:
        return int.from_bytes(data, sys.byteorder)

    show_value = show_key


class _Map(t.NamedTuple):
    """An open map with its types, and of a trie its entries by prefix: a look-up would answer with the prefix around."""

    fd: int
    info: bpf.MapInfo
    types: t.Union[btf.MapTypes, _Numbers]
    prefixes: t.Optional[t.Dict[t.Tuple[int, int], bytes]]

    def get(self, key: bytes) -> t.Optional[bytes]:
        if self.prefixes is not None:
            return self.prefixes.get(maps.prefix_of(key))
        return bpf.map_lookup(self.fd, key, self.info.value_size)


@contextlib.contextmanager
def _opened(owner: str, name: str, map_name: str) -> t.Iterator[t.Optional[_Map]]:
    """The map of an object; None when it is not there (yet)."""
    try:
        fd = bpf.get_pinned(pins.map_pin(owner, name, map_name))
    except KernelError as problem:
        if problem.name != "ENOENT":
            raise
        yield None
        return
    with bpf.closing(fd):
        types: t.Union[btf.MapTypes, _Numbers, None] = btf.map_types(fd)
        info = bpf.map_info(fd)
        if types is None and info.type in DEVICE_MAPS and info.value_size == 4:
            types = _Numbers(map_name)
        what = f"map {map_name} of object {owner}/{name}"
        if types is None:
            raise PlanError(
                f"{what} has no type information, so its fields have no names; compile the object with -g"
            )
        if info.type in bpf.PERCPU_TYPES:
            raise PlanError(f"{what} is per CPU: programs write it, it cannot be declared")
        prefixes = None
        if info.type == bpf.MapType.LPM_TRIE:
            prefixes = {maps.prefix_of(key): value for key, value in bpf.map_items(fd, info)}
        yield _Map(fd, info, types, prefixes)


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    groups: t.Dict[t.Tuple[str, str, str], t.List[Key]] = {}
    for key in wanted:
        if key.kind == NAME:
            whole, _blank, _key = key.id.partition(" ")
            owner, _slash, rest = whole.partition("/")
            name, _colon, map_name = rest.partition(":")
            groups.setdefault((owner, name, map_name), []).append(key)
    if groups:
        _attach.check_pins()
    found: t.Dict[Key, Value] = {}
    for place, asked in groups.items():
        with _opened(*place) as opened:
            if opened is None:
                continue
            kept = {_raw_key(host, opened, key) for key in asked if wanted[key] is not None}
            for key in asked:
                if wanted[key] is None and _raw_key(host, opened, key) in kept:
                    continue  # the same entry, now spelled otherwise
                value = _observe_one(host, opened, place, key, wanted[key], key in claimed)
                if value is not None:
                    found[key] = value
    return found


def _observe_one(
    host: Host,
    opened: _Map,
    place: t.Tuple[str, str, str],
    key: Key,
    wanted: t.Optional[Value],
    is_claimed: bool,
) -> t.Optional[Value]:
    owner, name, map_name = place
    map_key = key.id.partition(" ")[2]
    index_of = _finder(host, key.netns)
    raw_key = _raw_key(host, opened, key)
    data = opened.get(raw_key) if raw_key is not None else None
    if data is None:
        return None
    value = opened.types.show_value(data)
    if wanted is not None:
        with contextlib.suppress(_Missing, btf.BtfError):  # its fields may come with a changed object
            if _merged(opened, data, resolved(wanted.value, index_of)) == data:
                value = wanted.value
    if opened.info.type in ALWAYS_THERE and not any(data) and not (wanted and value == wanted.value):
        return None
    return Value(name, map_name, map_key, key.netns, value, owner)


def _raw_key(host: Host, opened: _Map, key: Key) -> t.Optional[bytes]:
    return _encoded(host, opened.types, key)


def key_of_device(host: Host, key: Key) -> t.Optional[bytes]:
    """The bytes of the key of an entry in a map of devices, without the map; None when the device that it names is not there."""
    return _encoded(host, _Numbers(""), key)


def _encoded(host: Host, types: t.Union[btf.MapTypes, _Numbers], key: Key) -> t.Optional[bytes]:
    """The bytes of a key; None when a device is not there, or the map has other fields than the key (any more, or yet)."""
    try:
        return types.read_key(resolved(json.loads(key.id.partition(" ")[2]), _finder(host, key.netns)))
    except (_Missing, btf.BtfError):
        return None


def _merged(opened: _Map, data: bytes, given: t.Any) -> bytes:
    """The bytes of an entry with the given fields on top of those that are there."""
    if not isinstance(given, dict):
        return opened.types.read_value(given)
    return opened.types.read_value(_laid_over(opened.types.show_value(data), given))


def _laid_over(below: t.Any, above: t.Any) -> t.Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{name: _laid_over(below.get(name), part) for name, part in above.items()}}
    return above


class _Missing(Exception):
    """A device that a key or value names is not there."""


def _finder(host: Host, netns: str) -> t.Callable[[str], int]:
    def find(name: str) -> int:
        record = host.find_link(netns, name)
        if record is None:
            raise _Missing(name)
        return record.ifindex

    return find


def settled(host: Host, value: Value, observed: t.Optional[Value]) -> Value:
    """Refuse what does not fit the map while nothing has been changed yet; a map that is about to change is not asked."""
    if bpf_object.is_changing(host, str(value.owner), value.object):
        return value
    with _opened(str(value.owner), value.object, value.map) as opened:
        if opened is not None:
            with contextlib.suppress(_Missing):
                opened.types.read_key(resolved(json.loads(value.map_key), _finder(host, value.netns)))
                opened.types.read_value(resolved(value.value, _finder(host, value.netns)))
        elif bpf_object.installed(host, str(value.owner), value.object) is not None:
            raise PlanError(_no_map(value))
    return value


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


# --- changing -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    value = after or before

    def index_of(name: str) -> int:
        return host.link_now(value.netns, name).ifindex

    with _opened(str(value.owner), value.object, value.map) as opened:
        if opened is None:
            if after is None:
                return  # the map went, and its entries with it
            raise PlanError(_no_map(value))
        key = opened.types.read_key(resolved(json.loads(value.map_key), index_of))
        # A device's index is looked up in the namespace of the caller (devmap).
        with namespaces.entered(value.netns):
            if after is None:
                _delete(opened, key)
                return
            data = opened.get(key)
            given = resolved(after.value, index_of)
            new = _merged(opened, data, given) if data is not None else opened.types.read_value(given)
            _update(opened, value, key, new)


def _update(opened: _Map, value: Value, key: bytes, new: bytes) -> None:
    try:
        bpf.map_update(opened.fd, key, new)
    except KernelError as problem:
        if problem.name != "E2BIG":
            raise
        raise PlanError(
            f"map {value.map} of object {value.owner}/{value.object} has room for {opened.info.max_entries} entries, or indexes "
            f"below that; give it more under maps of the object"
        ) from problem


def _delete(opened: _Map, key: bytes) -> None:
    if opened.info.type == bpf.MapType.ARRAY:
        bpf.map_update(opened.fd, key, bytes(opened.info.value_size))
    else:
        bpf.map_delete(opened.fd, key)


def _no_map(value: Value) -> str:
    known = ", ".join(objects.map_names(str(value.owner), value.object))
    return f"object {value.owner}/{value.object} has no map {value.map}; " + (
        f"it has {known}" if known else "it has none"
    )


# --- telling --------------------------------------------------------------------------------------------------------------


def commands(operation: Operation) -> t.List[str]:
    value = operation.after or operation.before
    path = pins.map_pin(str(value.owner), value.object, value.map)
    if operation.after is None:
        return [f"bpftool map delete pinned {path} key {value.map_key}  # by field name"]
    return [
        f"bpftool map update pinned {path} key {value.map_key} value {json.dumps(value.value)}  # by field name"
    ]


def line_of(value: Value) -> str:
    """The entry in a text about a topology."""
    return f"{value.object} {value.map}: {value.map_key} -> {json.dumps(value.value)}"


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item: t.Dict[str, t.Any] = {
        "object": value.object,
        "map": value.map,
        "key": json.loads(value.map_key),
        "value": value.value,
    }
    if value.netns:
        item["netns"] = value.netns
    return SECTION, item
