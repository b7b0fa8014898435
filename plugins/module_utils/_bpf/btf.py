# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Map entries by the names of their C fields, from the type information (BTF) that comes with an object and its maps.

Keys and values go in and out as plain data: structs and unions are dicts, arrays are lists, arrays of characters are
text, other arrays of bytes are bytes, enums are their constants' names, booleans are booleans, integers are integers.
A field whose type is called ``__be16``, ``__be32`` or ``__be64`` is a number whose bytes are in network byte order. The
members of an anonymous struct or union count as members of what it is in, as in C. Format: Documentation/bpf/btf.rst,
linux/btf.h.

The human form (``show``, ``read``) is the same for people and for JSON: a ``__be32`` is an IPv4 address, 16 bytes whose
field is called like an address are an IPv6 address, other bytes are ``00:1a:ff``.
"""

from __future__ import annotations

import enum
import re
import socket
import struct
import sys
import typing as t

from .._errors import CnfError
from .._kernel import bpf

MAGIC = 0xEB9F
SECTION = ".BTF"
MAPS_SECTION = ".maps"
BIG_ENDIAN_NAMES = ("__be16", "__be32", "__be64")
POINTER_BYTES = 8  # BPF is a 64-bit machine everywhere


# Fields that hold addresses, by a part of their names: saddr, ip6_src, next_hop, v6
_ADDRESS = re.compile(
    r"(?:^|_)(?:[sd]?addr(?:ess)?|source|destination|ip(?:v?[46])?|v6|nh|next_?hop|gateway|gw|src|dst)[0-9]?(?:_|$)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|[0-9]+)", re.IGNORECASE)
IPV6_BYTES = 16
IN6_ADDR = "in6_addr"  # the struct of linux/in6.h


class BtfError(CnfError):
    """Type information is missing or broken, or a value does not have the form that a type asks for."""


class Kind(enum.IntEnum):
    """BTF_KIND_..."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


ALIASES = (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
_SIGNED, _CHAR, _BOOL = 1, 2, 4  # encoding of an integer

_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")  # name, info, size or type
# Bytes that follow the common part: (fixed, for each member)
_TAIL = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}


class Type(t.NamedTuple):
    """One type. ``size`` is in bytes, or the id of the type it refers to; ``tail`` are the words that follow it."""

    name: str
    kind: Kind
    flag: bool
    size: int
    tail: t.Tuple[int, ...]


class Member(t.NamedTuple):
    """A member of a struct or union; offsets and ``bits`` (0: not a bit field) in bits."""

    name: str
    type_id: int
    bit_offset: int
    bits: int


class Variable(t.NamedTuple):
    """A variable in a section; bytes."""

    name: str
    type_id: int
    offset: int
    size: int


class Btf:
    """The types of one object; ids count from 1, 0 is void."""

    def __init__(self, raw: bytes) -> None:
        try:
            magic, _version, _flags, header, types, type_bytes, strings, string_bytes = _HEADER.unpack_from(
                raw
            )
            if magic != MAGIC:
                raise BtfError("type information of another byte order, or none at all")
            self._strings = raw[header + strings : header + strings + string_bytes]
            self.types = [Type("void", Kind.VOID, False, 0, ())]
            self._parse(raw, header + types, header + types + type_bytes)
        except (struct.error, ValueError) as problem:
            raise BtfError(f"broken type information: {problem}") from problem

    def _parse(self, raw: bytes, offset: int, end: int) -> None:
        while offset < end:
            name, info, size = _TYPE.unpack_from(raw, offset)
            offset += _TYPE.size
            kind = Kind(info >> 24 & 0x1F)
            fixed, each = _TAIL.get(kind, (0, 0))
            length = fixed + each * (info & 0xFFFF)
            tail = struct.unpack_from(f"={length // 4}I", raw, offset)
            offset += length
            self.types.append(Type(self._string(name), kind, bool(info >> 31), size, tail))

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode("utf-8", "replace")

    # What a type is

    def resolve(self, type_id: int) -> t.Tuple[Type, str]:
        """The type behind typedefs and qualifiers, and the network-order or else last typedef's name (may be empty)."""
        alias = ""
        found = self.types[type_id]
        while found.kind in ALIASES:
            if found.kind == Kind.TYPEDEF and alias not in BIG_ENDIAN_NAMES:
                alias = found.name
            found = self.types[found.size]
        return found, alias

    def size(self, type_id: int) -> int:
        """Bytes that a value of the type takes."""
        found, _alias = self.resolve(type_id)
        if found.kind == Kind.PTR:
            return POINTER_BYTES
        if found.kind == Kind.ARRAY:
            return self.size(found.tail[0]) * found.tail[2]
        if found.kind in (Kind.VOID, Kind.FWD, Kind.FUNC, Kind.FUNC_PROTO):
            raise BtfError(f"type {found.name or found.kind.name} has no size")
        return found.size

    def members(self, found: Type) -> t.List[Member]:
        rows = zip(found.tail[::3], found.tail[1::3], found.tail[2::3])
        if found.flag:  # bit fields: eight bits of width, then 24 of offset
            return [
                Member(self._string(name), kind, place & 0xFFFFFF, place >> 24) for name, kind, place in rows
            ]
        return [Member(self._string(name), kind, place, 0) for name, kind, place in rows]

    def fields(self, found: Type, base: int = 0) -> t.Dict[str, Member]:
        """The members by name, those of anonymous ones among them; offsets count from the outermost struct's begin."""
        known: t.Dict[str, Member] = {}
        for member in self.members(found):
            placed = member._replace(bit_offset=base + member.bit_offset)
            if member.name:
                known[member.name] = placed
            else:
                inner, _alias = self.resolve(member.type_id)
                if inner.kind in (Kind.STRUCT, Kind.UNION):
                    known.update(self.fields(inner, placed.bit_offset))
        return known

    def constants(self, found: Type) -> t.Dict[str, int]:
        """The constants of an enum by name; negative ones if it is signed."""
        bits = 64 if found.kind == Kind.ENUM64 else 32
        words = 3 if bits == 64 else 2
        known = {}
        for start in range(0, len(found.tail), words):
            value = found.tail[start + 1] | (found.tail[start + 2] << 32 if words == 3 else 0)
            if found.flag and value >> (bits - 1):
                value -= 1 << bits
            known[self._string(found.tail[start])] = value
        return known

    def variables(self, section: str) -> t.Dict[str, Variable]:
        """The variables of a section, such as ``.rodata``; empty when there is no such section."""
        found: t.Dict[str, Variable] = {}
        for kind in self.types:
            if kind.kind == Kind.DATASEC and kind.name == section:
                for type_id, offset, size in zip(kind.tail[::3], kind.tail[1::3], kind.tail[2::3]):
                    variable = self.types[type_id]
                    found[variable.name] = Variable(variable.name, variable.size, offset, size)
        return found

    # Values

    def encode(self, type_id: int, value: object, path: str = "") -> bytes:
        """The bytes of a value. Members that are not given are zero; bytes of the right length are taken as they are.

        Raises BtfError that names the field and what it could be.
        """
        size = self.size(type_id)
        if isinstance(value, (bytes, bytearray)) and len(value) == size:
            return bytes(value)
        found, alias = self.resolve(type_id)
        if found.kind in (Kind.STRUCT, Kind.UNION):
            return self._encode_struct(found, value, size, path)
        if found.kind == Kind.ARRAY:
            return self._encode_array(found, value, size, path)
        if found.kind in (Kind.ENUM, Kind.ENUM64) and isinstance(value, str):
            known = self.constants(found)
            if value not in known:
                raise BtfError(f"{_at(path)}{value!r} is none of {', '.join(known)}")
            value = known[value]
        return _encode_number(value, size, alias, path)

    def _encode_struct(self, found: Type, value: object, size: int, path: str) -> bytes:
        if not isinstance(value, t.Mapping):
            raise BtfError(f"{_at(path)}{_title(found)} is given as fields, not as {_describe(value)}")
        known = self.fields(found)
        image, written = bytearray(size), bytearray(size)
        for name, part in value.items():
            if name not in known:
                raise BtfError(f"{_at(path)}{_title(found)} has no field {name!r}; it has {', '.join(known)}")
            member, inside = known[name], f"{path}.{name}" if path else str(name)
            if member.bits:
                put_bits(image, member, _encode_bits(part, member.bits, inside))
                continue
            data = self.encode(member.type_id, part, inside)
            start = member.bit_offset // 8
            for offset, byte in enumerate(data, start):
                if written[offset] and image[offset] != byte:
                    raise BtfError(
                        f"{_at(inside)}contradicts another member of the union; give one of them only"
                    )
                image[offset], written[offset] = byte, 1
        return bytes(image)

    def _encode_array(self, found: Type, value: object, size: int, path: str) -> bytes:
        element, _index, count = found.tail
        if isinstance(value, str) and self._is_text(element):
            data = value.encode()
            if len(data) > size:
                raise BtfError(f"{_at(path)}{value!r} is longer than {size} bytes")
            return data.ljust(size, b"\0")
        if not isinstance(value, (list, tuple)):
            raise BtfError(f"{_at(path)}needs {count} elements ({size} bytes), not {_describe(value)}")
        if len(value) > count:
            raise BtfError(f"{_at(path)}{len(value)} elements, but there is room for {count}")
        parts = [self.encode(element, part, f"{path}[{index}]") for index, part in enumerate(value)]
        return b"".join(parts).ljust(size, b"\0")

    def decode(self, type_id: int, data: bytes) -> t.Any:
        """The value of some bytes, in the form that ``encode`` takes; of a union every member's view."""
        found, alias = self.resolve(type_id)
        size = self.size(type_id)
        if len(data) < size:
            raise BtfError(f"{_title(found)}: {len(data)} bytes, but it has {size}")
        if found.kind in (Kind.STRUCT, Kind.UNION):
            return {name: self._decode_member(member, data) for name, member in self.fields(found).items()}
        if found.kind == Kind.ARRAY:
            return self._decode_array(found, data[:size])
        number = int.from_bytes(data[:size], _order(alias), signed=self.is_signed(found))
        if found.kind in (Kind.ENUM, Kind.ENUM64):
            names = {value: name for name, value in self.constants(found).items()}
            return names.get(number, number)
        if _is_bool(found):
            return bool(number)
        return number

    def _decode_member(self, member: Member, data: bytes) -> t.Any:
        if member.bits:
            return get_bits(data, member)
        return self.decode(member.type_id, data[member.bit_offset // 8 :])

    def _decode_array(self, found: Type, data: bytes) -> t.Any:
        element, _index, count = found.tail
        if self._is_text(element):
            return data.split(b"\0")[0].decode("utf-8", "replace")
        inner, _alias = self.resolve(element)
        if inner.kind == Kind.INT and inner.size == 1 and not _is_bool(inner):
            return data
        step = self.size(element)
        return [self.decode(element, data[index * step :]) for index in range(count)]

    @staticmethod
    def is_signed(found: Type) -> bool:
        """Whether a number of the type may be negative."""
        if found.kind in (Kind.ENUM, Kind.ENUM64):
            return found.flag
        return found.kind == Kind.INT and bool(found.tail[0] >> 24 & _SIGNED)

    def _is_text(self, type_id: int) -> bool:
        found, alias = self.resolve(type_id)
        return found.kind == Kind.INT and found.name == "char" and not alias

    # The human form

    def show(self, type_id: int, data: bytes, address: bool = False) -> t.Any:
        """Some bytes as ``read`` takes them, plain enough for JSON; ``address``: the field is called like one.

        Nothing but padding is lost. A view of a union that would lose some of it is left out.
        """
        found, alias = self.resolve(type_id)
        data = data[: self.size(type_id)]
        if _is_in6_addr(found):
            return socket.inet_ntop(socket.AF_INET6, data)
        if found.kind in (Kind.STRUCT, Kind.UNION):
            return self._show_struct(found, data, address)
        if found.kind == Kind.ARRAY:
            return self._show_array(found, data, address)
        if alias == "__be32":
            return socket.inet_ntop(socket.AF_INET, data)
        number = int.from_bytes(data, sys.byteorder)
        return number if _is_bool(found) and number > 1 else self.decode(type_id, data)

    def _show_struct(self, found: Type, data: bytes, address: bool) -> t.Dict[str, t.Any]:
        known = self.fields(found)
        shared = _sharing(self, known)
        shown = {}
        for name, member in known.items():
            if member.bits:
                number = get_bits(data, member)
                names = {value: text for text, value in self.enumerators(member.type_id).items()}
                shown[name] = names.get(number, number)
                continue
            start = member.bit_offset // 8
            part = data[start : start + self.size(member.type_id)]
            view = self.show(member.type_id, part, address or bool(_ADDRESS.search(name)))
            if name not in shared or self.read(member.type_id, view) == part:
                shown[name] = view
        return shown

    def _show_array(self, found: Type, data: bytes, address: bool) -> t.Any:
        element, _index, count = found.tail
        if self._is_text(element):
            text = _text_of(data)
            return list(data) if text is None else text
        if address and len(data) == IPV6_BYTES and self._could_be_ipv6(element):
            return socket.inet_ntop(socket.AF_INET6, data)
        if self._is_byte(element):
            return data.hex(":")
        step = self.size(element)
        return [self.show(element, data[index * step :], address) for index in range(count)]

    def enumerators(self, type_id: int) -> t.Dict[str, int]:
        """The constants of a type that may be an enum, by name; none if it is not."""
        found, _alias = self.resolve(type_id)
        return self.constants(found) if found.kind in (Kind.ENUM, Kind.ENUM64) else {}

    def all_enumerators(self) -> t.Dict[str, int]:
        """The constants of all enums by name."""
        known: t.Dict[str, int] = {}
        for number in range(1, len(self.types)):
            known.update(self.enumerators(number))
        return known

    def is_number(self, type_id: int) -> bool:
        """Whether values are single integers, among them those of enums."""
        return self.resolve(type_id)[0].kind in (Kind.INT, Kind.ENUM, Kind.ENUM64)

    def _is_byte(self, type_id: int) -> bool:
        found, _alias = self.resolve(type_id)
        return found.kind == Kind.INT and found.size == 1 and not _is_bool(found)

    def _could_be_ipv6(self, element: int) -> bool:
        return self._is_byte(element) or self.resolve(element)[1] == "__be32"

    def read(self, type_id: int, value: object, path: str = "") -> bytes:
        """The bytes of a value in the human form or in that of ``encode``; BtfError names the field."""
        return self.encode(type_id, self._plain(type_id, value, path), path)

    def _plain(self, type_id: int, value: object, path: str) -> object:
        """The human form as ``encode`` takes it; what is neither is left for ``encode`` to refuse."""
        found, _alias = self.resolve(type_id)
        if isinstance(value, str):
            return self._plain_text(type_id, value, path)
        if isinstance(value, t.Mapping) and found.kind in (Kind.STRUCT, Kind.UNION):
            known = self.fields(found)
            return {
                name: self._plain_member(known[name], part, f"{path}.{name}" if path else name)
                if name in known
                else part
                for name, part in value.items()
            }
        if isinstance(value, (list, tuple)) and found.kind == Kind.ARRAY:
            element = found.tail[0]
            return [self._plain(element, part, f"{path}[{index}]") for index, part in enumerate(value)]
        return value

    def _plain_member(self, member: Member, value: object, path: str) -> object:
        if not member.bits or not isinstance(value, str):
            return self._plain(member.type_id, value, path)
        known = self.enumerators(member.type_id)
        if known and value not in known and not _NUMBER.fullmatch(value):
            raise BtfError(f"{_at(path)}{value!r} is none of {', '.join(known)}")
        return known[value] if value in known else _number(value)

    def _plain_text(self, type_id: int, value: str, path: str) -> object:
        found, alias = self.resolve(type_id)
        size = self.size(type_id)
        if _is_in6_addr(found):
            return _bytes_of_text(value, size, path)
        if found.kind == Kind.ARRAY:
            element = found.tail[0]
            if self._is_text(element):
                return value
            binary = self._is_byte(element) or (size == IPV6_BYTES and self._could_be_ipv6(element))
            return _bytes_of_text(value, size, path) if binary else value
        if alias == "__be32" and not _NUMBER.fullmatch(value):
            try:
                return socket.inet_pton(socket.AF_INET, value)
            except (OSError, ValueError):
                raise BtfError(f"{_at(path)}needs an IPv4 address or a number, not {value!r}") from None
        return value if value in self.enumerators(type_id) else _number(value)

    # Layouts

    def describe(self, type_id: int) -> str:
        """The type in a few words that do not depend on typedefs: ``u32``, ``be16``, ``struct action[4]``."""
        found, alias = self.resolve(type_id)
        if found.kind == Kind.ARRAY:
            return f"{self.describe(found.tail[0])}[{found.tail[2]}]"
        if found.kind == Kind.INT:
            if alias in BIG_ENDIAN_NAMES:
                return alias.strip("_")
            if _is_bool(found):
                return "bool"
            if found.name == "char" and not alias:
                return "char"
            return f"{'s' if found.tail[0] >> 24 & _SIGNED else 'u'}{found.size * 8}"
        if found.kind == Kind.PTR:
            return "pointer"
        return _title(found)

    def flatten(self, type_id: int, path: str, offset: int = 0) -> t.List[Field]:
        """The fields of a type in order of place; structs and unions by their members, arrays of them by the first."""
        found, _alias = self.resolve(type_id)
        if found.kind in (Kind.STRUCT, Kind.UNION):
            rows: t.List[Field] = []
            for name, member in self.fields(found).items():
                inside, at = f"{path}.{name}", offset + member.bit_offset // 8
                if member.bits:
                    kind = f"{member.bits} bits from bit {member.bit_offset % 8}"
                    rows.append(Field(inside, at, (member.bit_offset % 8 + member.bits + 7) // 8, kind))
                else:
                    rows.extend(self.flatten(member.type_id, inside, at))
            return rows
        here = Field(path, offset, self.size(type_id), self.describe(type_id))
        if found.kind == Kind.ARRAY and self.resolve(found.tail[0])[0].kind in (Kind.STRUCT, Kind.UNION):
            return [here, *self.flatten(found.tail[0], f"{path}[]", offset)]
        return [here]


def _title(found: Type) -> str:
    words = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum"}
    return f"{words.get(found.kind, found.kind.name.lower())} {found.name or '(without name)'}"


def _is_in6_addr(found: Type) -> bool:
    return found.kind == Kind.STRUCT and found.name == IN6_ADDR and found.size == IPV6_BYTES


def _is_bool(found: Type) -> bool:
    return found.kind == Kind.INT and bool(found.tail[0] >> 24 & _BOOL)


def _order(alias: str) -> t.Literal["little", "big"]:
    return "big" if alias in BIG_ENDIAN_NAMES else sys.byteorder


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _describe(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    return f"{value!r}" if isinstance(value, (int, str)) else type(value).__name__


def _number(value: str) -> object:
    """The integer in a decimal or 0x text, which templates make of numbers; any other text as it is."""
    if not _NUMBER.fullmatch(value):
        return value
    return int(value, 16 if "x" in value.lower() else 10)


def _text_of(data: bytes) -> t.Optional[str]:
    """The text of an array of characters; None if encoding it would not give the same bytes."""
    try:
        text = data.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _bytes_of_text(value: str, size: int, path: str) -> bytes:
    digits = value.replace(":", "")
    pairs = re.fullmatch(r"(?:[0-9a-fA-F]{2}(?::|$))*", value) and not value.endswith(":")
    if len(digits) == 2 * size and (pairs or re.fullmatch(r"[0-9a-fA-F]*", value)):
        return bytes.fromhex(digits)
    if size == IPV6_BYTES:
        try:
            return socket.inet_pton(socket.AF_INET6, value)
        except (OSError, ValueError):
            raise BtfError(
                f"{_at(path)}needs an IPv6 address or 16 bytes in hexadecimal, not {value!r}"
            ) from None
    raise BtfError(f"{_at(path)}needs {size} bytes in hexadecimal such as 00:1a:ff, not {value!r}")


def _sharing(btf: Btf, known: t.Mapping[str, Member]) -> t.Set[str]:
    """The fields that share bytes with others, as the members of a union do."""
    places = {}
    for name, member in known.items():
        if not member.bits:
            start = member.bit_offset // 8
            places[name] = range(start, start + btf.size(member.type_id))
    rows = sorted(places.items(), key=lambda row: row[1].start)
    found: t.Set[str] = set()
    furthest, end = "", 0
    for name, place in rows:
        if place.start < end and place:
            found.update((name, furthest))
        if place.stop > end:
            furthest, end = name, place.stop
    return found


def _encode_bits(value: object, bits: int, path: str) -> int:
    if not isinstance(value, int):
        raise BtfError(f"{_at(path)}needs an integer, not {_describe(value)}")
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise BtfError(f"{_at(path)}{value} does not fit {bits} bits")
    return value % (1 << bits)


def _encode_number(value: object, size: int, alias: str, path: str) -> bytes:
    return _encode_bits(value, 8 * size, path).to_bytes(size, _order(alias))


def _bit_place(member: Member) -> t.Tuple[int, int, int]:
    """First byte, number of bytes and shift of a bit field; bits count from the least significant on little endian."""
    first, inside = divmod(member.bit_offset, 8)
    count = (inside + member.bits + 7) // 8
    return first, count, inside if sys.byteorder == "little" else 8 * count - inside - member.bits


def get_bits(data: bytes, member: Member) -> int:
    """The bits of a bit field as a number without sign."""
    first, count, shift = _bit_place(member)
    return int.from_bytes(data[first : first + count], sys.byteorder) >> shift & ((1 << member.bits) - 1)


def put_bits(image: bytearray, member: Member, value: int) -> None:
    """Set a bit field; ``value`` without sign, of at most its width."""
    first, count, shift = _bit_place(member)
    word = int.from_bytes(image[first : first + count], sys.byteorder)
    word = word & ~(((1 << member.bits) - 1) << shift) | value << shift
    image[first : first + count] = word.to_bytes(count, sys.byteorder)


# --- Maps ---------------------------------------------------------------------------------------------------------


class MapTypes(t.NamedTuple):
    """Key and value of one map: ``encode_key({"addr": 1})``, ``decode_value(b"...")``."""

    name: str
    btf: Btf
    key_type: int
    value_type: int

    def encode_key(self, value: object) -> bytes:
        return self.btf.encode(self.key_type, value, f"{self.name} key")

    def decode_key(self, data: bytes) -> t.Any:
        return self.btf.decode(self.key_type, data)

    def encode_value(self, value: object) -> bytes:
        return self.btf.encode(self.value_type, value, f"{self.name} value")

    def decode_value(self, data: bytes) -> t.Any:
        return self.btf.decode(self.value_type, data)

    def show_key(self, data: bytes) -> t.Any:
        """A key in the human form, which ``read_key`` takes back."""
        return self.btf.show(self.key_type, data)

    def show_value(self, data: bytes) -> t.Any:
        """A value (of one CPU, in a per-CPU map) in the human form, which ``read_value`` takes back."""
        return self.btf.show(self.value_type, data)

    def read_key(self, value: object) -> bytes:
        return self.btf.read(self.key_type, value, f"{self.name} key")

    def read_value(self, value: object) -> bytes:
        return self.btf.read(self.value_type, value, f"{self.name} value")

    def decode_percpu(self, data: bytes) -> t.List[t.Any]:
        """The values of each CPU of an entry of a per-CPU map."""
        parts = bpf.split_percpu(data, self.btf.size(self.value_type))
        return [self.decode_value(part) for part in parts]


def map_types(fd: int) -> t.Optional[MapTypes]:
    """The types of a map in the kernel; None when it was made without (or has neither key nor value types)."""
    info = bpf.map_info(fd)
    if not info.btf_id or not info.btf_value_type_id:
        return None
    return MapTypes(info.name, Btf(bpf.btf_by_id(info.btf_id)), info.btf_key_type_id, info.btf_value_type_id)


class Definition(t.NamedTuple):
    """A map as an object's source declares it, before it is loaded. ``types`` is None if it has no key or value type.

    Sizes of key and value in bytes.
    """

    name: str
    type: int
    max_entries: int
    flags: int
    types: t.Optional[MapTypes]
    key_size: int = 0
    value_size: int = 0


def definitions(btf: Btf) -> t.Dict[str, Definition]:
    """The maps of an object's section .maps: each a struct whose members point to arrays (numbers) or types."""
    found = {}
    for name, variable in btf.variables(MAPS_SECTION).items():
        members = btf.fields(btf.resolve(variable.type_id)[0])
        pointed = {key: btf.resolve(member.type_id)[0].size for key, member in members.items()}
        numbers = {
            key: btf.resolve(pointed[key])[0].tail[2]
            for key in ("type", "max_entries", "map_flags", "key_size", "value_size")
            if key in pointed
        }
        sizes = {key: btf.size(pointed[key]) for key in ("key", "value") if key in pointed}
        types = (
            MapTypes(name, btf, pointed["key"], pointed["value"])
            if "key" in pointed and "value" in pointed
            else None
        )
        found[name] = Definition(
            name,
            numbers.get("type", 0),
            numbers.get("max_entries", 0),
            numbers.get("map_flags", 0),
            types,
            sizes.get("key", numbers.get("key_size", 0)),
            # The entries of a map of maps are declared by their type only; libbpf gives them these four bytes.
            sizes.get("value", numbers.get("value_size", 4 if "values" in pointed else 0)),
        )
    return found


def object_btf(path: str) -> Btf:
    """The type information in an ELF object."""
    with open(path, "rb") as file:
        return Btf(elf_section(file.read(), SECTION))


def elf_section(raw: bytes, name: str) -> bytes:
    """The content of a section of a 64-bit ELF file in host byte order. Raises BtfError without such a section."""
    try:
        if raw[:5] != b"\x7fELF\x02":
            raise BtfError("not a 64-bit ELF object")
        (table,) = struct.unpack_from("=Q", raw, 0x28)
        size, count, names = struct.unpack_from("=HHH", raw, 0x3A)
        headers = [struct.unpack_from("=IIQQQQ", raw, table + index * size) for index in range(count)]
        strings = headers[names][4]
        for header in headers:
            start = strings + header[0]
            if raw[start : raw.index(b"\0", start)] == name.encode():
                return raw[header[4] : header[4] + header[5]]
    except (struct.error, ValueError, IndexError) as problem:
        raise BtfError(f"broken ELF object: {problem}") from problem
    raise BtfError(f"the object has no section {name}; compile it with -g")


class Field(t.NamedTuple):
    """A field of a map's key or value; bytes from the begin of the key or value. Of arrays of structs the first's."""

    path: str
    offset: int
    size: int
    kind: str


class Difference(t.NamedTuple):
    """How a field of two layouts differs: ``added``, ``removed``, ``moved``, ``resized`` or ``changed`` (its kind)."""

    change: str
    path: str
    old: t.Optional[Field]
    new: t.Optional[Field]

    def text(self) -> str:
        if self.old is None or self.new is None:
            return f"{self.path} is {self.change}"
        if self.change == "moved":
            return f"{self.path} is moved from byte {self.old.offset} to {self.new.offset}"
        if self.change == "resized":
            return f"{self.path} is resized from {self.old.size} to {self.new.size} bytes"
        return f"{self.path} is changed from {self.old.kind} to {self.new.kind}"


def layout_of(types: MapTypes) -> t.List[Field]:
    """The fields of a map's key (a Bloom filter has none) and value, as ``key.addr`` and ``value.nh[].ifindex``."""
    return [
        *(types.btf.flatten(types.key_type, "key") if types.key_type else []),
        *types.btf.flatten(types.value_type, "value"),
    ]


def compare_layouts(old: t.Iterable[Field], new: t.Iterable[Field]) -> t.List[Difference]:
    """What differs, field by field in the new order; empty when entries of the one are entries of the other.

    A field that is both moved and resized counts as resized: its name matters, its place follows from the others.
    """
    before, after = {row.path: row for row in old}, {row.path: row for row in new}
    found = [Difference("removed", path, row, None) for path, row in before.items() if path not in after]
    for path, row in after.items():
        was = before.get(path)
        if was is None:
            found.append(Difference("added", path, None, row))
        elif was.size != row.size:
            found.append(Difference("resized", path, was, row))
        elif was.offset != row.offset:
            found.append(Difference("moved", path, was, row))
        elif was.kind != row.kind:
            found.append(Difference("changed", path, was, row))
    return found
