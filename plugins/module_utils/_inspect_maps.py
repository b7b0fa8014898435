# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Maps as people ask for them: found by pin, by object or by id, their entries and layouts in the human form."""

from __future__ import annotations

import os
import re
import sys
import typing as t

from ._bpf import btf, maps, mark, objects, pins
from ._errors import KernelError, PlanError, SpecError, UnsupportedError
from ._kernel import bpf, bpffs

# Which map: what bpf_map_info and bpf_trace share. `map` is the path of a pin or, with `object`, a name.
PLACE_SPEC: t.Dict[str, t.Any] = {
    "map": {"type": "str"},
    "topology": {"type": "str", "default": "tasks"},
    "object": {"type": "str"},
    "id": {"type": "int"},
}
ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    **PLACE_SPEC,
    "keys": {"type": "list", "elements": "raw", "no_log": False},
    "limit": {"type": "int", "default": 1000},
}
BATCHED_BYTES = 64 << 20  # of a map whose values may be read only to count them
COUNTERS = "counters"
COUNTER_NAMES, COUNTER_ENUM = "counter_names", "counter_index"  # files/bpf/lib/counters.h

# Their keys cannot be listed, or their values not be read.
_WITHOUT_ENTRIES = (
    bpf.MapType.PERF_EVENT_ARRAY,
    bpf.MapType.XSKMAP,
    bpf.MapType.QUEUE,
    bpf.MapType.STACK,
    bpf.MapType.RINGBUF,
    bpf.MapType.BLOOM_FILTER,
)
_ARRAYS = (bpf.MapType.ARRAY, bpf.MapType.PERCPU_ARRAY)
_HASHES = (
    bpf.MapType.HASH,
    bpf.MapType.PERCPU_HASH,
    bpf.MapType.LRU_HASH,
    bpf.MapType.LRU_PERCPU_HASH,
    bpf.MapType.LPM_TRIE,
    bpf.MapType.HASH_OF_MAPS,
    bpf.MapType.DEVMAP_HASH,
)
# A key for each index, whether something is there or not.
_SPARSE = (
    bpf.MapType.PROG_ARRAY,
    bpf.MapType.ARRAY_OF_MAPS,
    bpf.MapType.DEVMAP,
    bpf.MapType.CPUMAP,
)
# What is read of them is the id of a map or a program, four bytes.
_OF_IDS = (bpf.MapType.PROG_ARRAY, bpf.MapType.ARRAY_OF_MAPS, bpf.MapType.HASH_OF_MAPS)


# --- Which map ----------------------------------------------------------------------------------------------------


def open_map(params: t.Mapping[str, t.Any]) -> int:
    """A descriptor, the caller's to close, of the map that the options of PLACE_SPEC name.

    SpecError says which maps there are instead; UnsupportedError that a second bpffs hides the pins.
    """
    if params["id"] is not None:
        return _by_id(params["id"])
    if "/" in params["map"]:
        return _by_path(params["map"])
    if not params["object"]:
        raise SpecError("map", f"{params['map']!r} is a name: give its object, or the path of a pin")
    return _by_object(params["topology"], params["object"], params["map"])


def _by_id(number: int) -> int:
    try:
        return bpf.map_by_id(number)
    except KernelError as problem:
        if problem.name not in ("ENOENT", "EINVAL"):
            raise
    raise SpecError("id", f"there is no map {number}; `bpftool map` lists those there are")


def _by_path(path: str) -> int:
    try:
        fd = bpf.get_pinned(path)
    except KernelError as problem:
        if problem.name in ("EACCES", "EINVAL"):  # what is not on a bpffs, or a directory there
            raise SpecError("map", f"{path} is not a pin; {_maps_in(_directory_of(path))}") from None
        if problem.name not in ("ENOENT", "ENOTDIR"):
            raise
    else:
        kind = object_kind(fd)
        if kind == "map":
            return fd
        os.close(fd)
        raise SpecError("map", f"{path} is a {kind}, not a map; {_maps_in(os.path.dirname(path))}")
    bpffs.mounts()  # tells when a second bpffs hides the pins
    raise SpecError("map", f"there is no pin {path}; {_maps_in(os.path.dirname(path))}")


def _directory_of(path: str) -> str:
    return path if os.path.isdir(path) else os.path.dirname(path)


def _maps_in(directory: str) -> str:
    found = []
    for name in bpffs.list_pins(directory):
        try:
            with objects.pinned(os.path.join(directory, name)) as fd:
                if object_kind(fd) == "map":
                    found.append(name)
        except KernelError:
            continue  # not a pin, or gone
    return f"maps in {directory}: {', '.join(found) or 'none'}"


def object_kind(fd: int) -> str:
    """``map``, ``program`` or ``link``, as the descriptor itself says."""
    found = re.match(r"anon_inode:\[?bpf[-_](\w+)", os.readlink(f"/proc/self/fd/{fd}"))
    kind = found[1] if found else "thing of another kind"
    return "program" if kind == "prog" else kind


def _by_object(topology: str, name: str, map_name: str) -> int:
    """By its pin, and by the marks of the programs that use it when there is no pin to be seen."""
    try:
        return bpf.get_pinned(pins.map_pin(topology, name, map_name))
    except KernelError as problem:
        if problem.name not in ("ENOENT", "EACCES"):
            raise
    known: t.Dict[str, int] = {}
    for row in programs():
        if row.mark is not None and (row.mark.topology, row.mark.object) == (topology, name):
            known.update({found: number for number, found in maps_of(row).items()})
    if map_name in known:
        return _by_id(known[map_name])
    if known or os.path.isdir(pins.object_directory(topology, name)):
        names = sorted({*known, *objects.map_names(topology, name)})
        raise SpecError(
            "map", f"bpf_object {topology}/{name} has no map {map_name}; it has {', '.join(names) or 'none'}"
        )
    others = ", ".join(pins.objects(topology)) or "none"
    raise SpecError("object", f"topology {topology} has no object {name} on this host; it has {others}")


class Program(t.NamedTuple):
    """A program in the kernel; ``mark`` None: not one of ours."""

    info: bpf.ProgInfo
    mark: t.Optional[mark.Mark]


def programs() -> t.List[Program]:
    """All programs in the kernel."""
    found = []
    for number in bpf.prog_ids():
        try:
            with bpf.closing(bpf.prog_by_id(number)) as fd:
                info = bpf.prog_info(fd)
        except KernelError as problem:
            if problem.name != "ENOENT":  # it has just gone
                raise
            continue
        found.append(Program(info, mark.read(info)))
    return found


def maps_of(program: Program) -> t.Dict[int, str]:
    """The maps of a program of ours, whole name by id; the kernel keeps 15 characters. Without those of global variables."""
    names = {name[: bpf.NAME_BYTES - 1]: name for name in (program.mark.pinned if program.mark else ())}
    found = {}
    for number in program.info.map_ids:
        try:
            with bpf.closing(bpf.map_by_id(number)) as fd:
                short = bpf.map_info(fd).name
        except KernelError:
            continue  # the program has just gone
        if short in names:
            found[number] = names[short]
    return found


# --- Types --------------------------------------------------------------------------------------------------------


class Types:
    """Type information by its id, each parsed once."""

    def __init__(self) -> None:
        self._known: t.Dict[int, t.Optional[btf.Btf]] = {}

    def get(self, btf_id: int) -> t.Optional[btf.Btf]:
        """None for id 0, and for what cannot be read."""
        if btf_id and btf_id not in self._known:
            try:
                self._known[btf_id] = btf.Btf(bpf.btf_by_id(btf_id))
            except (KernelError, btf.BtfError):  # gone meanwhile, or of a kind that is newer than this code
                self._known[btf_id] = None
        return self._known.get(btf_id)

    def of_map(self, info: bpf.MapInfo) -> t.Optional[btf.MapTypes]:
        """As btf.map_types."""
        found = self.get(info.btf_id) if info.btf_value_type_id else None
        if found is None:
            return None
        return btf.MapTypes(info.name, found, info.btf_key_type_id, info.btf_value_type_id)

    def around(self, info: bpf.MapInfo) -> t.List[btf.Btf]:
        """The type information of a map, then that of the programs that use it."""
        numbers = [info.btf_id]
        numbers += [row.info.btf_id for row in programs() if info.id in row.info.map_ids]
        found = [self.get(number) for number in dict.fromkeys(numbers)]
        return [types for types in found if types is not None]


def find_type(types: btf.Btf, name: str) -> t.Optional[int]:
    """The id of a struct, union or typedef by its name; ``struct event`` and ``event`` are the same."""
    plain = name.split()[-1]
    kinds = (btf.Kind.STRUCT, btf.Kind.UNION, btf.Kind.TYPEDEF)
    for number, row in enumerate(types.types):
        if row.name == plain and row.kind in kinds:
            return number
    return None


def struct_names(types: btf.Btf) -> t.List[str]:
    return sorted({row.name for row in types.types if row.kind == btf.Kind.STRUCT and row.name})


def counter_names(types: btf.Btf) -> t.Dict[int, str]:
    """Names of the indexes of ``counters``: the enum of the constant ``counter_names``, or ``enum counter_index``."""
    variable = types.variables(".rodata").get(COUNTER_NAMES)
    known = types.enumerators(variable.type_id) if variable else {}
    if not known:
        for number, row in enumerate(types.types):
            if row.name == COUNTER_ENUM:
                known = types.enumerators(number)
    return {value: name for name, value in known.items()}


def layout_text(types: t.Optional[btf.MapTypes], part: str, size: int) -> str:
    """The key or the value of a map in words: ``prefixlen u32, address be32``; its bytes where its type is not known."""
    if types is None or not (types.key_type if part == "key" else types.value_type):
        return f"{size} bytes" if size else "none"
    words = []
    for row in btf.layout_of(types):
        if row.path == part:
            words.append(row.kind)
        elif row.path.startswith(f"{part}."):
            words.append(f"{row.path[len(part) + 1 :]} {row.kind}")
    return ", ".join(words)


def about(info: bpf.MapInfo, types: t.Optional[btf.MapTypes]) -> t.Dict[str, t.Any]:
    """What is told of a map beside its entries."""
    return {
        "id": info.id,
        "name": info.name,
        "type": maps.type_name(info.type),
        "max_entries": info.max_entries,
        "key": layout_text(types, "key", info.key_size),
        "value": layout_text(types, "value", info.value_size),
    }


# --- Entries ------------------------------------------------------------------------------------------------------


def count_entries(fd: int, info: bpf.MapInfo) -> t.Optional[int]:
    """How many entries a map has, of an array its size; None for types that cannot tell.

    Reading in batches, values and all, is six times as fast as keys alone, which come one by one.
    """
    if info.type in _ARRAYS:
        return info.max_entries
    if info.type not in (*_HASHES, *_SPARSE):
        return None
    if info.type in _SPARSE or info.max_entries * (info.key_size + bpf.entry_size(info)) <= BATCHED_BYTES:
        return len(bpf.map_items(fd, info))
    count = 0
    key = bpf.map_next_key(fd, None, info.key_size)
    # The bound is for a map that changes meanwhile: behind a deleted key the kernel starts over.
    while key is not None and count < info.max_entries:
        count += 1
        key = bpf.map_next_key(fd, key, info.key_size)
    return count


def check_has_entries(info: bpf.MapInfo) -> None:
    if info.type in _WITHOUT_ENTRIES:
        kind = maps.type_name(info.type)
        hint = "; cnf.ebpf.bpf_trace reads it" if info.type == bpf.MapType.RINGBUF else ""
        raise PlanError(f"map {info.name}: the entries of a {kind} cannot be read by key{hint}")


def first_entries(fd: int, info: bpf.MapInfo, limit: int) -> t.Tuple[t.List[bpf.Entry], bool]:
    """Up to ``limit`` entries in the kernel's order, and whether there are more."""
    if info.max_entries <= limit:
        return bpf.map_items(fd, info), False
    size = bpf.entry_size(info)
    found: t.Dict[bytes, bytes] = {}
    key = bpf.map_next_key(fd, None, info.key_size)
    while key is not None and key not in found:  # met again: a deletion made the kernel start over
        value = bpf.map_lookup(fd, key, size)
        if value is not None:
            if len(found) == limit:
                return list(found.items()), True
            found[key] = value
        key = bpf.map_next_key(fd, key, info.key_size)
    return list(found.items()), False


def read_key(info: bpf.MapInfo, types: t.Optional[btf.MapTypes], value: t.Any, path: str) -> bytes:
    """The bytes of a key in the human form. SpecError names the option and the field."""
    if types is not None and types.key_type:
        try:
            return types.read_key(value)
        except btf.BtfError as problem:
            layout = layout_text(types, "key", info.key_size)
            raise SpecError(path, f"{problem} (the key is {layout})") from None
    digits = re.sub("[: ]", "", value) if isinstance(value, str) else ""
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * info.key_size}}}", digits):
        return bytes.fromhex(digits)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 8 * info.key_size:
        return value.to_bytes(info.key_size, sys.byteorder)
    raise SpecError(
        path, f"map {info.name} has no type information: its keys are {info.key_size} bytes in hexadecimal"
    )


def shown_key(types: t.Optional[btf.MapTypes], data: bytes) -> t.Any:
    return types.show_key(data) if types is not None and types.key_type else data.hex(":")


def shown_entry(
    info: bpf.MapInfo, types: t.Optional[btf.MapTypes], entry: bpf.Entry, names: t.Mapping[int, str]
) -> t.Dict[str, t.Any]:
    """An entry with its value, or the values of all CPUs and their sum; with a name where ``names`` has the index."""
    key, value = entry
    row: t.Dict[str, t.Any] = {"key": shown_key(types, key)}
    name = names.get(int.from_bytes(key, sys.byteorder))
    if name is not None:
        row["name"] = name
    if info.type in bpf.PERCPU_TYPES:
        values = [_shown_value(info, types, part) for part in bpf.split_percpu(value, info.value_size)]
        return {**row, "per_cpu": values, "total": total_of(values)}
    return {**row, "value": _shown_value(info, types, value)}


def _shown_value(info: bpf.MapInfo, types: t.Optional[btf.MapTypes], data: bytes) -> t.Any:
    if info.type in _OF_IDS:
        return int.from_bytes(data, sys.byteorder)
    return types.show_value(data) if types is not None else data.hex(":")


def total_of(values: t.Sequence[t.Any]) -> t.Any:
    """The sum of integers, field by field and index by index; None where there is nothing to add up."""
    first = values[0] if values else None
    if isinstance(first, dict):
        parts = {name: total_of([value.get(name) for value in values]) for name in first}
        return {name: part for name, part in parts.items() if part is not None} or None
    if isinstance(first, list):
        if any(not isinstance(value, list) or len(value) != len(first) for value in values):
            return None
        found = [total_of([value[index] for value in values]) for index in range(len(first))]
        return None if any(part is None for part in found) or not found else found
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values) and values:
        return sum(values)
    return None


def names_for(info: bpf.MapInfo, types: Types) -> t.Dict[int, str]:
    """The names of the entries of a map of counters; none for other maps."""
    if info.name != COUNTERS or info.type not in _ARRAYS:
        return {}
    for found in types.around(info):
        names = counter_names(found)
        if names:
            return names
    return {}


def read_map(params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """The answer of bpf_map_info. Raises SpecError, PlanError, KernelError."""
    if params["limit"] < 1:
        raise SpecError("limit", f"{params['limit']} is not a number of entries; give 1 or more")
    with bpf.closing(open_map(params)) as fd:
        info = bpf.map_info(fd)
        check_has_entries(info)
        known = Types()
        types = known.of_map(info)
        missing: t.List[t.Any] = []
        truncated = False
        if params["keys"] is None:
            rows, truncated = first_entries(fd, info, params["limit"])
        else:
            rows, missing = _looked_up(fd, info, types, params["keys"])
        names = names_for(info, known)
        return {
            "map": about(info, types),
            "entries": [shown_entry(info, types, row, names) for row in rows],
            "missing": missing,
            "truncated": truncated,
            "notes": [] if types is not None else [f"map {info.name} has no type information"],
        }


def _looked_up(
    fd: int, info: bpf.MapInfo, types: t.Optional[btf.MapTypes], keys: t.Sequence[t.Any]
) -> t.Tuple[t.List[bpf.Entry], t.List[t.Any]]:
    """The entries of some keys, and the keys that have none."""
    wanted = [read_key(info, types, key, f"keys[{number}]") for number, key in enumerate(keys)]
    find = _prefix_finder(fd, info) if info.type == bpf.MapType.LPM_TRIE else _finder(fd, info)
    rows = [(data, find(data)) for data in wanted]
    missing = [shown_key(types, data) for data, value in rows if value is None]
    return [(data, value) for data, value in rows if value is not None], missing


Finder = t.Callable[[bytes], t.Optional[bytes]]


def _finder(fd: int, info: bpf.MapInfo) -> Finder:
    size = bpf.entry_size(info)
    return lambda key: bpf.map_lookup(fd, key, size)


def _prefix_finder(fd: int, info: bpf.MapInfo) -> Finder:
    """By the very prefix: the kernel's own lookup would answer with a shorter one that covers it."""
    stored = {maps.prefix_of(key): value for key, value in bpf.map_items(fd, info)}
    return lambda key: stored.get(maps.prefix_of(key))


def check_ring(info: bpf.MapInfo) -> None:
    if info.type != bpf.MapType.RINGBUF:
        raise UnsupportedError(
            f"map {info.name} is no ring buffer but of type {maps.type_name(info.type)}; cnf.ebpf.bpf_map_info reads it"
        )
