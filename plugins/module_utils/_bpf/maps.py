# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What becomes of an object's maps when the object changes: kept as they are, migrated with their entries, or begun anew.

A map is kept when type, sizes, flags and layout are the same. When only its size or the layout of its values differs, the
entries go over to a new map field by field, by name: numbers by value, what is added is zero. Everything else is refused with
the field that differs, because nobody can tell what an entry would mean.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import mmap
import os
import struct
import sys
import typing as t

from .._errors import CnfError, KernelError
from .._kernel import bpf, namespaces
from . import btf

REUSE, MIGRATE, FRESH = "reuse", "migrate", "fresh"  # what decide() says of a map
REFUSE, REPLACE = "refuse", "replace"  # the other policies beside "migrate"

CHUNK = 1 << 16  # entries that one call writes
F_RDONLY_PROG = 1 << 7

_ARRAYS = (bpf.MapType.ARRAY, bpf.MapType.PERCPU_ARRAY)
_DEVICES = (bpf.MapType.DEVMAP, bpf.MapType.DEVMAP_HASH)
# The index is the key: entries do not compete for room, but those behind a smaller end are cut off.
_INDEXED = (*_ARRAYS, bpf.MapType.DEVMAP, bpf.MapType.CPUMAP)
# Their entries can be read, and written again to another map.
_CARRIED = (
    *_INDEXED,
    bpf.MapType.DEVMAP_HASH,
    bpf.MapType.HASH,
    bpf.MapType.PERCPU_HASH,
    bpf.MapType.LRU_HASH,
    bpf.MapType.LRU_PERCPU_HASH,
    bpf.MapType.LPM_TRIE,
)
_NESTED = (bpf.MapType.ARRAY_OF_MAPS, bpf.MapType.HASH_OF_MAPS)
_CONFIGURED = (
    *_DEVICES,
    bpf.MapType.CPUMAP,
)  # a value may name a program: read as its id, written as a descriptor
_WITH_PROGRAM = struct.Struct("=II")  # struct bpf_devmap_val, bpf_cpumap_val


class MapError(CnfError):
    """A map cannot be kept or migrated. str() names the map and the field, and what to do."""


class Shape(t.NamedTuple):
    """What makes maps alike; sizes in bytes, of one CPU's value in a per-CPU map.

    ``flags`` are those of the definition. ``types`` None: the layouts of key and value are not known. ``max_entries`` 0 in a
    definition leaves it to the kernel (perf event arrays).
    """

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    types: t.Optional[btf.MapTypes]


def defined_flags(info: bpf.MapInfo) -> int:
    """The flags that a map was defined with: device maps get another from the kernel (kernel/bpf/devmap.c)."""
    return info.flags & ~F_RDONLY_PROG if info.type in _DEVICES else info.flags


def shape_of(fd: int) -> Shape:
    """The shape of a map in the kernel."""
    info = bpf.map_info(fd)
    return Shape(
        info.type,
        info.key_size,
        info.value_size,
        info.max_entries,
        defined_flags(info),
        btf.map_types(fd),
    )


def shape_of_definition(definition: btf.Definition, max_entries: t.Optional[int]) -> Shape:
    """The shape that a map will have when it is loaded, with another size than its source says unless that is None."""
    entries = definition.max_entries if max_entries is None else max_entries
    if definition.type == bpf.MapType.RINGBUF:
        entries = _ring_bytes(entries)
    return Shape(
        definition.type,
        definition.key_size,
        definition.value_size,
        entries,
        definition.flags,
        definition.types,
    )


def _ring_bytes(asked: int) -> int:
    """As libbpf rounds the size of a ring buffer: pages, and a power of two of them."""
    pages = -(-asked // mmap.PAGESIZE)
    return mmap.PAGESIZE << (pages - 1).bit_length() if pages else 0


# --- What differs, and what to do about it ------------------------------------------------------------------------


class Change(t.NamedTuple):
    """How two shapes differ in one respect, and whether entries can be carried across."""

    text: str
    carried: bool


def decide(old: t.Mapping[str, Shape], new: t.Mapping[str, Shape], policy: str) -> t.Dict[str, str]:
    """REUSE, MIGRATE or FRESH for each new map. Policies for one that differs: ``migrate``, ``refuse`` or ``replace`` it.

    Raises MapError that names the map and the first difference that the policy does not allow.
    """
    return {
        name: _decide(name, old[name], shape, policy) if name in old else FRESH for name, shape in new.items()
    }


def _decide(name: str, old: Shape, new: Shape, policy: str) -> str:
    changes = compare(old, new)
    if not changes:
        return REUSE
    if policy == REPLACE or old.type not in (*_CARRIED, *_NESTED):  # the others hold nothing that lasts
        return FRESH
    for change in changes:
        if not change.carried:
            raise MapError(f"map {name}: {change.text}; set incompatible_maps: replace to start it empty")
    if policy == REFUSE:
        raise MapError(
            f"map {name}: {changes[0].text}; set incompatible_maps: migrate to carry its entries over, "
            "or replace to start it empty"
        )
    return MIGRATE


def compare(old: Shape, new: Shape) -> t.List[Change]:
    """All in which two shapes differ, empty when a map of the one serves as one of the other."""
    found = []
    if old.type != new.type:
        found.append(Change(f"type is changed from {type_name(old.type)} to {type_name(new.type)}", False))
    if old.flags != new.flags:
        found.append(Change(f"flags are changed from {old.flags:#x} to {new.flags:#x}", False))
    found.extend(Change(text, False) for text in _layout_changes(old, new, "key"))
    values = _layout_changes(old, new, "value")
    if values:
        obstacle = _obstacle(old, new)
        found.append(Change(obstacle or values[0], not obstacle))
    if new.max_entries and old.max_entries != new.max_entries:
        text = f"max_entries is changed from {old.max_entries} to {new.max_entries}"
        nested = old.type in _NESTED
        found.append(
            Change(f"{text}, and maps in maps cannot be carried over" if nested else text, not nested)
        )
    return found


def type_name(number: int) -> str:
    """``lpm_trie``; the number where the collection knows no name."""
    try:
        return bpf.MapType(number).name.lower()
    except ValueError:
        return str(number)


def _layout_changes(old: Shape, new: Shape, part: str) -> t.List[str]:
    """How the key or the value differs, in words."""
    sizes = (old.key_size, new.key_size) if part == "key" else (old.value_size, new.value_size)
    resized = [f"{part} is resized from {sizes[0]} to {sizes[1]} bytes"] if sizes[0] != sizes[1] else []
    if old.types is None or new.types is None:
        return resized
    rows = [
        [row for row in btf.layout_of(types) if _belongs(row.path, part)] for types in (old.types, new.types)
    ]
    texts = [row.text() for row in btf.compare_layouts(*rows)]
    return texts or _renumbered(old.types, new.types, part) or resized


def _belongs(path: str, part: str) -> bool:
    return path == part or path.startswith((f"{part}.", f"{part}["))


def _type_of(types: btf.MapTypes, part: str) -> int:
    return types.key_type if part == "key" else types.value_type


def _renumbered(old: btf.MapTypes, new: btf.MapTypes, part: str) -> t.List[str]:
    """Constants of enums that mean another number than before, which no layout tells."""
    now = dict(_enums(new.btf, _type_of(new, part), part))
    return [
        f"{path}: {name} is {'gone' if name not in now[path] else f'changed from {value} to {now[path][name]}'}"
        for path, before in _enums(old.btf, _type_of(old, part), part)
        for name, value in before.items()
        if now.get(path) and now[path].get(name) != value
    ]


def _enums(types: btf.Btf, type_id: int, path: str) -> t.Iterator[t.Tuple[str, t.Dict[str, int]]]:
    """The fields that are enums, with their constants."""
    found, _alias = types.resolve(type_id)
    if found.kind in (btf.Kind.STRUCT, btf.Kind.UNION):
        for name, member in types.fields(found).items():
            yield from _enums(types, member.type_id, f"{path}.{name}")
    elif found.kind == btf.Kind.ARRAY:
        yield from _enums(types, found.tail[0], f"{path}[]")
    elif found.kind in (btf.Kind.ENUM, btf.Kind.ENUM64):
        yield path, types.constants(found)


def _obstacle(old: Shape, new: Shape) -> str:
    """Why the old values cannot become new ones; empty when they can."""
    if old.types is None or new.types is None:
        return (
            f"value is resized from {old.value_size} to {new.value_size} bytes, and its fields are not known"
        )
    try:
        moves(old.types, new.types)
    except _Obstacle as obstacle:
        return str(obstacle)
    return ""


# --- From one layout of values to another -------------------------------------------------------------------------


class _Obstacle(Exception):
    """A field that cannot be carried; str() says how it differs."""


class Copy(t.NamedTuple):
    """Bytes that go over as they are; places and ``size`` in bytes."""

    path: str
    old: int
    new: int
    size: int


class Cut(t.NamedTuple):
    """Bytes of the old value that have no place in the new one, and so must be zero."""

    path: str
    old: int
    size: int


class Slot(t.NamedTuple):
    """A number in a value; place and width in bits. ``field``: a bit field. ``limit`` is the highest that fits."""

    bit: int
    bits: int
    field: bool
    order: str
    signed: bool
    limit: int
    names: t.Mapping[str, int]


class Number(t.NamedTuple):
    """A number that goes over by its value, or by its name if both sides are enums."""

    path: str
    old: Slot
    new: Slot


Move = t.Union[Copy, Cut, Number]


def moves(old: btf.MapTypes, new: btf.MapTypes) -> t.List[Move]:
    """What has to be done to make a new value, zero at first, of an old one. Raises _Obstacle for a field that cannot be carried."""
    found = list(_moves(_Place(old.btf, old.value_type, 0), _Place(new.btf, new.value_type, 0), "value"))
    _check_unions(found)
    return _joined(found)


class _Place(t.NamedTuple):
    """A type somewhere in a value; ``bit`` from its begin, ``bits`` other than 0 for a bit field."""

    types: btf.Btf
    type_id: int
    bit: int
    bits: int = 0

    def member(self, found: btf.Member) -> _Place:
        return _Place(self.types, found.type_id, self.bit + found.bit_offset, found.bits)

    def element(self, index: int) -> _Place:
        element = self.types.resolve(self.type_id)[0].tail[0]
        return _Place(self.types, element, self.bit + 8 * index * self.types.size(element))

    def describe(self) -> str:
        return f"{self.bits} bits" if self.bits else self.types.describe(self.type_id)

    def size(self) -> int:
        return self.types.size(self.type_id)


def _moves(old: _Place, new: _Place, path: str) -> t.Iterator[Move]:
    before, after = old.types.resolve(old.type_id)[0], new.types.resolve(new.type_id)[0]
    composite = [found.kind in (btf.Kind.STRUCT, btf.Kind.UNION) for found in (before, after)]
    arrays = [found.kind == btf.Kind.ARRAY for found in (before, after)]
    if all(composite):
        now = new.types.fields(after)
        for name, member in old.types.fields(before).items():
            if name not in now:
                raise _Obstacle(f"{path}.{name} is removed")
            yield from _moves(old.member(member), new.member(now[name]), f"{path}.{name}")
    elif all(arrays):
        yield from _array_moves(old, new, path)
    elif any(composite) or any(arrays):
        raise _changed(old, new, path)
    else:
        yield _scalar_move(old, new, path)


def _changed(old: _Place, new: _Place, path: str) -> _Obstacle:
    return _Obstacle(f"{path} is changed from {old.describe()} to {new.describe()}")


def _array_moves(old: _Place, new: _Place, path: str) -> t.Iterator[Move]:
    counts = [place.types.resolve(place.type_id)[0].tail[2] for place in (old, new)]
    common = min(counts)
    first, second = old.element(0), new.element(0)
    one = list(_moves(first, second, f"{path}[]")) if common else []
    if len(one) == 1 and isinstance(one[0], Copy) and one[0].size == first.size() == second.size():
        yield Copy(path, old.bit // 8, new.bit // 8, common * first.size())
    else:
        for index in range(common):
            yield from _moves(old.element(index), new.element(index), f"{path}[{index}]")
    if counts[0] > common:
        yield Cut(path, old.element(common).bit // 8, (counts[0] - common) * first.size())


def _scalar_move(old: _Place, new: _Place, path: str) -> Move:
    before, after = _slot(old), _slot(new)
    if before is None or after is None:
        if old.describe() != new.describe() or old.size() != new.size():
            raise _changed(old, new, path)
        return Copy(path, old.bit // 8, new.bit // 8, old.size())
    if before.order != after.order and max(before.bits, after.bits) > 8:
        raise _changed(old, new, path)
    alike = before.bits == after.bits and before.signed == after.signed and before.limit <= after.limit
    renamed = any(after.names.get(name) != value for name, value in before.names.items()) and after.names
    if alike and not renamed and not before.field and not after.field:
        return Copy(path, old.bit // 8, new.bit // 8, before.bits // 8)
    return Number(path, before, after)


def _slot(place: _Place) -> t.Optional[Slot]:
    """Where a number is; None for what is none (pointers, floating point)."""
    found, alias = place.types.resolve(place.type_id)
    if found.kind not in (btf.Kind.INT, btf.Kind.ENUM, btf.Kind.ENUM64):
        return None
    names = place.types.enumerators(place.type_id)
    signed = place.types.is_signed(found)
    bits = place.bits or 8 * found.size
    is_bool = place.types.describe(place.type_id) == "bool"
    limit = 1 if is_bool else (1 << (bits - signed)) - 1
    order = "big" if alias in btf.BIG_ENDIAN_NAMES else sys.byteorder
    return Slot(place.bit, bits, bool(place.bits), order, signed, limit, names)


def _check_unions(found: t.Sequence[Move]) -> None:
    """What shares bytes with something, before or after, must stay together: which of them counts is not known here."""
    for side in ("old", "new"):
        rows = sorted(
            (span, index) for index, move in enumerate(found) for span in [_span(move, side)] if span
        )
        furthest, end = 0, 0
        for (start, stop), index in rows:
            if start < end and not _together(found[furthest], found[index]):
                raise _Obstacle(
                    f"{found[index].path} shares its place with {found[furthest].path}, and they do not change alike"
                )
            if stop > end:
                furthest, end = index, stop


def _span(move: Move, side: str) -> t.Optional[t.Tuple[int, int]]:
    """First bit and the one behind the last."""
    if isinstance(move, Number):
        slot = move.old if side == "old" else move.new
        return slot.bit, slot.bit + slot.bits
    if isinstance(move, Cut) or not move.size:
        return None
    start = 8 * (move.old if side == "old" else move.new)
    return start, start + 8 * move.size


def _together(one: Move, other: Move) -> bool:
    return isinstance(one, Copy) and isinstance(other, Copy) and one.new - one.old == other.new - other.old


def _joined(found: t.Sequence[Move]) -> t.List[Move]:
    """The same with neighbouring copies made one."""
    result: t.List[Move] = []
    for move in found:
        last = result[-1] if result else None
        if (
            isinstance(move, Copy)
            and isinstance(last, Copy)
            and last.old + last.size == move.old
            and _together(last, move)
        ):
            result[-1] = last._replace(size=last.size + move.size)
        else:
            result.append(move)
    return result


def carry(rows: t.Sequence[Move], data: bytes, size: int) -> bytes:
    """The new value of an old one, ``size`` bytes. Raises MapError that names the field whose content does not fit."""
    image = bytearray(size)
    for move in rows:
        if isinstance(move, Copy):
            image[move.new : move.new + move.size] = data[move.old : move.old + move.size]
        elif isinstance(move, Number):
            _put(image, move, _get(data, move.old))
        elif any(data[move.old : move.old + move.size]):
            raise MapError(f"{move.path} does not fit: elements that are not zero would be cut off")
    return bytes(image)


def _get(data: bytes, slot: Slot) -> int:
    if slot.field:
        number = btf.get_bits(data, btf.Member("", 0, slot.bit, slot.bits))
        return number - (1 << slot.bits) if slot.signed and number >> (slot.bits - 1) else number
    start = slot.bit // 8
    order: t.Literal["little", "big"] = "big" if slot.order == "big" else "little"
    return int.from_bytes(data[start : start + slot.bits // 8], order, signed=slot.signed)


def _put(image: bytearray, move: Number, number: int) -> None:
    slot = move.new
    if move.old.names and slot.names:
        name = next((name for name, value in move.old.names.items() if value == number), "")
        if name and name not in slot.names:
            raise MapError(f"{move.path}: {name} is none of {', '.join(slot.names)}")
        number = slot.names.get(name, number)
    lowest = -slot.limit - 1 if slot.signed else 0
    if not lowest <= number <= slot.limit:
        raise MapError(f"{move.path}: {number} is not within {lowest} to {slot.limit}")
    if slot.field:
        btf.put_bits(image, btf.Member("", 0, slot.bit, slot.bits), number % (1 << slot.bits))
        return
    start, size = slot.bit // 8, slot.bits // 8
    order: t.Literal["little", "big"] = "big" if slot.order == "big" else "little"
    image[start : start + size] = number.to_bytes(size, order, signed=slot.signed)


# --- From one map to another --------------------------------------------------------------------------------------


def migrate(
    old_fd: int, old: Shape, new_fd: int, new: Shape, homes: t.Callable[[], t.Mapping[bytes, str]] = dict
) -> int:
    """Write the entries of one map to another, for which ``decide`` has said MIGRATE, and return how many they were.

    Nothing is written unless all of it fits. What programs write to the old map meanwhile may be missed. ``homes``, asked for
    device maps only: by key, the name of the network namespace that the device is in, empty for the caller's.

    Raises MapError, with the key of an entry that does not fit; KernelError.
    """
    info = bpf.map_info(old_fd)
    entries = bpf.map_items(old_fd, info)
    try:
        if new.max_entries < old.max_entries:
            entries = _fitting(entries, old, new)
        if _layout_changes(old, new, "value"):
            entries = _carried(entries, old, new)
    except MapError as problem:
        raise MapError(
            f"map {info.name}: {problem}; set incompatible_maps: replace to start it empty"
        ) from None
    if new.type in _DEVICES:
        _write_devices(info.name, new_fd, entries, homes())
        return len(entries)
    if new.type in _CONFIGURED and new.value_size == _WITH_PROGRAM.size:
        for key, value in entries:
            _write_with_program(new_fd, key, value)
        return len(entries)
    rest = iter(entries)
    for chunk in iter(lambda: list(itertools.islice(rest, CHUNK)), []):
        bpf.map_update_batch(new_fd, [key for key, _value in chunk], [value for _key, value in chunk])
    return len(entries)


def _fitting(entries: t.List[bpf.Entry], old: Shape, new: Shape) -> t.List[bpf.Entry]:
    """The entries that a smaller map takes; MapError when it would lose any."""
    if old.type not in _INDEXED:
        if len(entries) > new.max_entries:
            raise MapError(f"has {len(entries)} entries, more than the new max_entries of {new.max_entries}")
        return entries
    kept = []
    for key, value in entries:
        if int.from_bytes(key, sys.byteorder) < new.max_entries:
            kept.append((key, value))
        elif any(value) or old.type not in _ARRAYS:
            raise MapError(
                f"key {_show_key(old, key)} is in use, beyond the new max_entries of {new.max_entries}"
            )
    return kept


def _carried(entries: t.List[bpf.Entry], old: Shape, new: Shape) -> t.List[bpf.Entry]:
    if old.types is None or new.types is None:
        raise MapError(_obstacle(old, new))
    try:
        rows = moves(old.types, new.types)
    except _Obstacle as problem:
        raise MapError(str(problem)) from None
    per_cpu = old.type in bpf.PERCPU_TYPES
    padding = bytes(-new.value_size % 8) if per_cpu else b""
    result = []
    for key, value in entries:
        parts = bpf.split_percpu(value, old.value_size) if per_cpu else [value]
        try:
            result.append((key, b"".join(carry(rows, part, new.value_size) + padding for part in parts)))
        except MapError as problem:
            raise MapError(f"key {_show_key(old, key)}: {problem}") from None
    return result


def _show_key(shape: Shape, key: bytes) -> str:
    return json.dumps(shape.types.show_key(key)) if shape.types else key.hex(":")


def _write_devices(name: str, fd: int, entries: t.List[bpf.Entry], homes: t.Mapping[bytes, str]) -> None:
    """A device map holds devices, of any namespace, but takes and tells indexes: the kernel looks them up in the writer's.

    So an entry of which nobody knows where its device is could become one for another device, and is refused.
    """
    for key, value in entries:
        place = homes.get(key)
        try:
            if place is None:
                raise KernelError(errno.ENODEV, "", name)
            with namespaces.entered(place):
                if len(value) == _WITH_PROGRAM.size:
                    _write_with_program(fd, key, value)
                else:
                    bpf.map_update(fd, key, value)
        except KernelError as problem:
            if problem.name not in ("EINVAL", "ENODEV", "ENOENT"):
                raise
            raise MapError(
                f"map {name}: cannot tell which device the entry with key {_show_index(key)} is for; "
                "set incompatible_maps: replace to write only what is declared"
            ) from problem


def _show_index(key: bytes) -> int:
    return int.from_bytes(key, sys.byteorder)


def _write_with_program(fd: int, key: bytes, value: bytes) -> None:
    word, program = _WITH_PROGRAM.unpack(value)
    with contextlib.ExitStack() as stack:
        if program:
            descriptor = bpf.prog_by_id(program)
            stack.callback(os.close, descriptor)
            value = _WITH_PROGRAM.pack(word, descriptor)
        bpf.map_update(fd, key, value)


# --- Tries ----------------------------------------------------------------------------------------------------------------


def prefix_of(key: bytes) -> t.Tuple[int, int]:
    """Length and leading bits of a key of struct bpf_lpm_trie_key; the kernel ignores the bits behind the length."""
    length = int.from_bytes(key[:4], sys.byteorder)
    behind = 8 * len(key[4:]) - length
    return length, int.from_bytes(key[4:], "big") >> max(behind, 0)
