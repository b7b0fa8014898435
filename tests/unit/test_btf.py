# SPDX-License-Identifier: GPL-3.0-or-later
"""Type information: reading it, values by field name, layouts and how they differ."""

from __future__ import annotations

import json
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import btf
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.btf import Btf, BtfError, Field, Kind, MapTypes

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the expected bytes are little-endian")


class Builder:
    """Writes type information as a compiler does; each method returns the new type's id."""

    def __init__(self):
        self.strings, self.types, self.count = b"\0", b"", 0

    def text(self, name):
        if not name:
            return 0
        offset = len(self.strings)
        self.strings += name.encode() + b"\0"
        return offset

    def add(self, kind, name="", size=0, tail=(), members=0, flag=0):
        info = int(kind) << 24 | members | flag << 31
        self.types += struct.pack(f"=III{len(tail)}I", self.text(name), info, size, *tail)
        self.count += 1
        return self.count

    def integer(self, name, size, encoding=0):
        return self.add(Kind.INT, name, size, [encoding << 24 | size * 8])

    def typedef(self, name, target):
        return self.add(Kind.TYPEDEF, name, target)

    def pointer(self, target):
        return self.add(Kind.PTR, "", target)

    def array(self, element, count):
        return self.add(Kind.ARRAY, "", 0, [element, 1, count])

    def composite(self, kind, name, size, *members, flag=0):
        """``members`` are (name, type, offset in bits) or, with the flag, (name, type, width << 24 | offset)."""
        tail = [word for row in members for word in (self.text(row[0]), row[1], row[2])]
        return self.add(kind, name, size, tail, len(members), flag)

    def enumeration(self, name, constants, size=4, flag=0):
        tail = [word for key, value in constants.items() for word in (self.text(key), value & 0xFFFFFFFF)]
        return self.add(Kind.ENUM, name, size, tail, len(constants), flag)

    def section(self, name, *variables):
        """``variables`` are (name, type, offset, size)."""
        ids = [self.add(Kind.VAR, row[0], row[1], [1]) for row in variables]
        tail = [word for number, row in zip(ids, variables) for word in (number, row[2], row[3])]
        return self.add(Kind.DATASEC, name, 0, tail, len(variables))

    def raw(self):
        header = struct.pack(
            "=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return header + self.types + self.strings


class Types(Builder):
    """Types by the words of ``describe``: ``u32``, ``be16``, ``char[8]``, or a dict of fields for a struct."""

    ENCODINGS = {"u": 0, "s": 1}

    def of(self, what):
        """(id, bytes) of a type."""
        if isinstance(what, dict):
            return self.struct(what)
        if isinstance(
            what, tuple
        ):  # ("array", of, count), ("union", fields), ("enum", constants), ("bits", u8 fields)
            return getattr(self, what[0])(*what[1:])
        if what.endswith("]"):
            element, count = what[:-1].split("[")
            return self.array_of(element, int(count))
        if what == "char":
            return self.integer("char", 1, 1), 1
        if what == "bool":
            return self.integer("_Bool", 1, 4), 1
        if what == "pointer":
            return self.pointer(0), 8
        size = int(what.lstrip("bseu")) // 8
        number = self.integer("number", size, self.ENCODINGS.get(what[0], 0))
        return (self.typedef(f"__{what}", number) if what.startswith("be") else number), size

    def array_of(self, element, count):
        number, size = self.of(element)
        return self.array(number, count), size * count

    def enum(self, constants):
        return self.enumeration("verdict", constants), 4

    def struct(self, fields):
        rows, offset = [], 0
        for name, what in fields.items():
            number, size = self.of(what)
            rows.append((name, number, offset * 8))
            offset += size
        return self.composite(Kind.STRUCT, "s", offset, *rows), offset

    def union(self, fields):
        rows = [(name, *self.of(what)) for name, what in fields.items()]
        size = max(row[2] for row in rows)
        return self.composite(
            Kind.UNION, "", size, *((name, number, 0) for name, number, _size in rows)
        ), size

    def bits(self, widths):
        """A struct of one byte."""
        byte, rows, place = self.integer("byte", 1), [], 0
        for name, width in widths.items():
            rows.append((name, byte, width << 24 | place))
            place += width
        return self.composite(Kind.STRUCT, "bits", 1, *rows, flag=1), 1


def policy():
    """struct policy { enum verdict verdict; u16 low:3, high:9; union { __be32 v4; u8 v6[16]; }; struct hop hops[2];
    char name[8]; bool on; s16 balance; }"""
    b = Builder()
    u32 = b.typedef("__u32", b.integer("unsigned int", 4))
    u16 = b.integer("unsigned short", 2)
    u8 = b.typedef("__u8", b.integer("unsigned char", 1))
    s16, char, boolean = b.integer("short", 2, 1), b.integer("char", 1, 1), b.integer("_Bool", 1, 4)
    be32, be16 = b.typedef("__be32", u32), b.typedef("port_t", b.typedef("__be16", u16))
    verdict = b.enumeration("verdict", {"NEXT": -1, "PASS": 0, "DROP": 2}, flag=1)
    address = b.composite(Kind.UNION, "", 16, ("v4", be32, 0), ("v6", b.array(u8, 16), 0))
    hop = b.composite(
        Kind.STRUCT, "hop", 12, ("ifindex", u32, 0), ("mac", b.array(u8, 6), 32), ("port", be16, 80)
    )
    whole = b.composite(
        Kind.STRUCT,
        "policy",
        60,
        ("verdict", verdict, 0),
        ("low", u16, 3 << 24 | 32),
        ("high", u16, 9 << 24 | 35),
        ("", address, 64),
        ("hops", b.array(hop, 2), 192),
        ("name", b.array(char, 8), 384),
        ("on", boolean, 448),
        ("balance", s16, 464),
        flag=1,
    )
    key = b.composite(Kind.STRUCT, "key", 8, ("plen", u32, 0), ("addr", be32, 32))
    return MapTypes("policies", Btf(b.raw()), key, whole)


POLICY = policy()


@pytest.mark.parametrize(
    ("value", "offset", "encoded"),
    [
        ({}, 0, "00" * 60),
        ({"verdict": "NEXT"}, 0, "ffffffff"),
        ({"verdict": 2}, 0, "02000000"),
        ({"low": 5, "high": 300}, 4, "6509"),
        ({"high": 511}, 4, "f80f"),
        ({"v4": 0x0A000001}, 8, "0a000001"),
        ({"v4": bytes([10, 0, 0, 1])}, 8, "0a000001"),
        ({"v6": bytes(range(16))}, 8, bytes(range(16)).hex()),
        ({"v6": [255, 1]}, 8, "ff01" + "00" * 14),
        ({"hops": [{"ifindex": 3, "port": 80}]}, 24, "03000000" + "00" * 6 + "0050" + "00" * 12),
        ({"hops": [{}, {"port": 0x1234}]}, 46, "1234"),
        ({"name": "abc"}, 48, "6162630000000000"),
        ({"on": True, "balance": -5}, 56, "0100fbff"),
    ],
)
def test_value_is_encoded_by_field_name(value, offset, encoded):
    data = POLICY.encode_value(value)
    assert len(data) == 60
    assert data[offset : offset + len(encoded) // 2].hex() == encoded


def test_value_of_every_kind_comes_back():
    value = {
        "verdict": "DROP",
        "low": 5,
        "high": 300,
        "v4": 0x0A000001,
        "v6": bytes([10, 0, 0, 1]) + bytes(12),
        "hops": [
            {"ifindex": 3, "mac": b"\1\2\3\4\5\6", "port": 80},
            {"ifindex": 0, "mac": bytes(6), "port": 0},
        ],
        "name": "abc",
        "on": True,
        "balance": -5,
    }
    data = POLICY.encode_value(value)
    assert POLICY.decode_value(data) == value
    assert POLICY.encode_value(POLICY.decode_value(data)) == data


def test_constant_without_a_name_is_a_number():
    assert POLICY.decode_value(POLICY.encode_value({"verdict": 9}))["verdict"] == 9


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"verdikt": 1},
            "policies value: struct policy has no field 'verdikt'; it has verdict, low, high, v4",
        ),
        ({"verdict": "MAYBE"}, "policies value.verdict: 'MAYBE' is none of NEXT, PASS, DROP"),
        ({"v4": 1 << 32}, "policies value.v4: 4294967296 does not fit 32 bits"),
        ({"low": 8}, "policies value.low: 8 does not fit 3 bits"),
        ({"hops": [{}, {"port": "http"}]}, "policies value.hops[1].port: needs an integer, not 'http'"),
        ({"hops": [{}, {}, {}]}, "policies value.hops: 3 elements, but there is room for 2"),
        ({"v6": bytes(4)}, "policies value.v6: needs 16 elements (16 bytes), not 4 bytes"),
        ({"name": "far too long"}, "policies value.name: 'far too long' is longer than 8 bytes"),
        ({"v4": 1, "v6": bytes(16)}, "policies value.v6: contradicts another member of the union"),
        (7, "policies value: struct policy is given as fields, not as 7"),
    ],
)
def test_wrong_value_is_refused_with_the_place(value, message):
    with pytest.raises(BtfError) as caught:
        POLICY.encode_value(value)
    assert str(caught.value).startswith(message)


def test_bytes_of_the_right_length_are_taken_as_they_are():
    assert POLICY.encode_key(b"12345678") == b"12345678"


def test_short_data_is_refused():
    with pytest.raises(BtfError, match="struct key: 3 bytes, but it has 8"):
        POLICY.decode_key(b"abc")


def test_percpu_values_lose_their_padding():
    b = Builder()
    number = b.integer("unsigned int", 4)
    counters = MapTypes("counters", Btf(b.raw()), number, number)
    assert counters.decode_percpu(struct.pack("=IIII", 7, 0, 9, 0)) == [7, 9]


def test_variables_of_a_section():
    b = Builder()
    number = b.integer("unsigned int", 4)
    b.section(".rodata", ("limit", number, 0, 4), ("mac", b.array(number, 2), 8, 8))
    found = Btf(b.raw()).variables(".rodata")
    assert [(row.name, row.offset, row.size) for row in found.values()] == [("limit", 0, 4), ("mac", 8, 8)]
    assert Btf(b.raw()).variables(".data") == {}


def typed(what):
    """Types whose value, and whose key too, is described by ``what`` (see Types)."""
    types = Types()
    number, _size = types.of(what)
    return MapTypes("m", Btf(types.raw()), number, number)


@pytest.mark.parametrize(
    ("what", "data", "shown"),
    [
        ("u32", "05000000", 5),
        ("s16", "fbff", -5),
        ("be16", "0050", 80),
        ("be32", "0a000001", "10.0.0.1"),
        ("be64", "0000000000000001", 1),
        ("bool", "01", True),
        ("bool", "03", 3),
        ("u8[6]", "001aff000001", "00:1a:ff:00:00:01"),
        ("u8[16]", "00" * 16, ":".join(["00"] * 16)),
        ("char[8]", "6162630000000000", "abc"),
        ("char[4]", "61006200", [0x61, 0, 0x62, 0]),
        ("char[2]", "ff61", [0xFF, 0x61]),
        ("u32[2]", "0100000002000000", [1, 2]),
        ({"next_hop": "u8[16]"}, "fd" + "00" * 14 + "01", {"next_hop": "fd00::1"}),
        ({"saddr": "be32[4]"}, "fd" + "00" * 14 + "01", {"saddr": "fd00::1"}),
        ({"uuid": "u8[16]"}, "01" * 16, {"uuid": ":".join(["01"] * 16)}),
        ({"addr": {"bytes": "u8[16]"}}, "00" * 15 + "01", {"addr": {"bytes": "::1"}}),
        ({"address": "u8[6]"}, "00" * 6, {"address": "00:00:00:00:00:00"}),
        ({"nh": ("array_of", "u8[16]", 1)}, "00" * 15 + "01", {"nh": ["::1"]}),
        (("enum", {"PASS": 0, "DROP": 2}), "02000000", "DROP"),
        (("enum", {"PASS": 0, "DROP": 2}), "07000000", 7),
        (
            ("union", {"v4": "be32", "v6": "u8[16]"}),
            "0a000001" + "00" * 12,
            {"v4": "10.0.0.1", "v6": "a00:1::"},
        ),
        (("bits", {"a": 3, "b": 5}), "fa", {"a": 2, "b": 31}),
    ],
)
def test_human_form(what, data, shown):
    types = typed(what)
    raw = bytes.fromhex(data)
    assert types.show_key(raw) == shown
    assert types.show_value(raw) == shown
    assert json.loads(json.dumps(shown)) == shown
    assert types.read_key(shown) == types.read_value(shown) == raw


@pytest.mark.parametrize(
    ("what", "value", "data"),
    [
        ("be32", 0x0A000001, "0a000001"),
        ("be32", "167772161", "0a000001"),
        ("be32", b"\x0a\0\0\1", "0a000001"),
        ("u16", "80", "5000"),
        ("u16", "0x50", "5000"),
        ("s16", "-1", "ffff"),
        ("u8[6]", "001AFF000001", "001aff000001"),
        ("u8[6]", [1, 2], "010200000000"),
        ("u8[16]", "fd00::1", "fd" + "00" * 14 + "01"),
        ({"v6": "u8[16]"}, {"v6": "00112233445566778899aabbccddeeff"}, "00112233445566778899aabbccddeeff"),
        ("char[4]", "12", "31320000"),
        (("enum", {"PASS": 0, "DROP": 2}), "DROP", "02000000"),
        (("enum", {"PASS": 0, "DROP": 2}), "7", "07000000"),
        ({"a": "u8", "b": "u8"}, {"b": 1}, "0001"),
    ],
)
def test_human_form_is_read_leniently(what, value, data):
    assert typed(what).read_value(value).hex() == data


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ({"a": "be32"}, {"a": "10.0.0"}, "m value.a: needs an IPv4 address or a number, not '10.0.0'"),
        ({"a": "be32"}, {"a": "fd00::1"}, "m value.a: needs an IPv4 address or a number, not 'fd00::1'"),
        ({"a": "u16"}, {"a": "http"}, "m value.a: needs an integer, not 'http'"),
        ({"a": "u16"}, {"a": "70000"}, "m value.a: 70000 does not fit 16 bits"),
        (
            {"a": "u8[16]"},
            {"a": "10.0.0.1"},
            "m value.a: needs an IPv6 address or 16 bytes in hexadecimal, not '10.0.0.1'",
        ),
        (
            {"a": "u8[6]"},
            {"a": "00:11"},
            "m value.a: needs 6 bytes in hexadecimal such as 00:1a:ff, not '00:11'",
        ),
        (
            {"a": "u8[2]"},
            {"a": "0:011"},
            "m value.a: needs 2 bytes in hexadecimal such as 00:1a:ff, not '0:011'",
        ),
        ({"a": ("enum", {"A": 0, "B": 1})}, {"a": "C"}, "m value.a: 'C' is none of A, B"),
        ({"a": "u8"}, {"b": 1}, "m value: struct s has no field 'b'; it has a"),
        (
            {"a": ("array_of", "be32", 2)},
            {"a": [1, "x"]},
            "m value.a[1]: needs an IPv4 address or a number, not 'x'",
        ),
    ],
)
def test_wrong_human_form_is_refused_with_the_place(what, value, message):
    with pytest.raises(BtfError) as caught:
        typed(what).read_value(value)
    assert str(caught.value) == message


def test_ipv6_struct_of_the_kernel_is_an_address():
    types = Types()
    inner, _size = types.of(("union", {"u6_addr8": "u8[16]", "u6_addr32": "be32[4]"}))
    number = types.composite(Kind.STRUCT, "in6_addr", 16, ("in6_u", inner, 0))
    found = MapTypes("m", Btf(types.raw()), number, number)
    assert found.show_value(bytes(15) + b"\1") == "::1"
    assert found.read_value("fd00::1")[0] == 0xFD


def test_view_of_a_union_that_would_lose_bytes_is_left_out():
    types = Types()
    byte, word = types.integer("byte", 1), types.integer("word", 4)
    view = types.composite(Kind.STRUCT, "padded", 8, ("family", byte, 0), ("v4", word, 32))
    whole = types.composite(Kind.UNION, "", 8, ("a", view, 0), ("b", types.array(byte, 8), 0))
    found = MapTypes("m", Btf(types.raw()), whole, whole)
    assert found.show_value(bytes(range(8))) == {"b": "00:01:02:03:04:05:06:07"}
    assert found.show_value(b"\1" + bytes(7)) == {"a": {"family": 1, "v4": 0}, "b": "01:00:00:00:00:00:00:00"}


SCALARS = ["u8", "u16", "u32", "u64", "s8", "s32", "be16", "be32", "be64", "bool", "pointer"]
ARRAYS = ["char[1]", "char[16]", "u8[4]", "u8[16]", "u8[0]", "s8[3]", "be32[4]", "u16[3]", "bool[2]"]
NAMES = ["addr", "ip6_src", "nh", "next_hop", "mac", "uuid", "port", "v6"]
OTHERS = [("enum", {"PASS": 0, "DROP": 2, "also": 2}), ("bits", {"a": 3, "b": 5})]


def nested(inner):
    fields = st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=4)
    return (
        fields
        | st.tuples(st.just("union"), fields)
        | st.tuples(st.just("array_of"), inner, st.integers(0, 3))
    )


WHATEVER = st.recursive(st.sampled_from([*SCALARS, *ARRAYS, *OTHERS]), nested, max_leaves=8)


@given(what=WHATEVER, data=st.data())
def test_human_form_loses_nothing(what, data):
    types = typed(what)
    size = types.btf.size(types.value_type)
    raw = data.draw(st.binary(min_size=size, max_size=size) | st.just(bytes(size)))
    shown = types.show_value(raw)
    assert types.read_value(json.loads(json.dumps(shown))) == raw


def declared_map():
    """struct { int (*type)[11]; int (*max_entries)[100]; struct key *key; u32 *value; } trie SEC(".maps")"""
    b = Builder()
    number = b.integer("int", 4, 1)
    key = b.composite(Kind.STRUCT, "key", 8, ("plen", number, 0), ("addr", number, 32))
    rows = {
        "type": b.pointer(b.array(number, 11)),
        "max_entries": b.pointer(b.array(number, 100)),
        "key": b.pointer(key),
        "value": b.pointer(number),
    }
    whole = b.composite(
        Kind.STRUCT, "", 32, *((name, kind, 64 * i) for i, (name, kind) in enumerate(rows.items()))
    )
    b.section(".maps", ("trie", whole, 0, 32))
    return b.raw()


def test_declared_maps_are_read_without_loading():
    found = btf.definitions(Btf(declared_map()))["trie"]
    assert (found.type, found.max_entries, found.flags) == (11, 100, 0)
    assert found.types.decode_key(struct.pack("=II", 24, 1)) == {"plen": 24, "addr": 1}


def elf(*sections):
    """A 64-bit ELF file with the given (name, content) sections, the last of them their names."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _content in sections) + b".shstrtab\0"
    body, headers, offset = b"", [bytes(64)], 64
    for name, content in [*sections, (".shstrtab", names)]:
        headers.append(
            struct.pack("=IIQQQQ", names.index(name.encode() + b"\0"), 1, 0, 0, offset, len(content)).ljust(
                64, b"\0"
            )
        )
        body, offset = body + content, offset + len(content)
    head = bytearray(b"\x7fELF\x02\x01\x01".ljust(64, b"\0"))
    struct.pack_into("=Q", head, 0x28, offset)
    struct.pack_into("=HHH", head, 0x3A, 64, len(headers), len(headers) - 1)
    return bytes(head) + body + b"".join(headers)


def test_section_of_an_elf_object(tmp_path):
    path = tmp_path / "x.o"
    path.write_bytes(elf((".text", b"code"), (".BTF", declared_map())))
    assert btf.elf_section(path.read_bytes(), ".text") == b"code"
    assert list(btf.definitions(btf.object_btf(str(path)))) == ["trie"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a 64-bit ELF object"),
        (b"#include <x.h>", "not a 64-bit ELF object"),
        (b"\x7fELF\x02\x01", "broken ELF object"),
        (elf((".text", b"")), "the object has no section .BTF; compile it with -g"),
    ],
)
def test_wrong_object_is_refused(raw, message):
    with pytest.raises(BtfError, match=message):
        btf.elf_section(raw, ".BTF")


@pytest.mark.parametrize("raw", [b"", b"\0" * 24, declared_map()[:40], declared_map()[:-200]])
def test_broken_type_information_is_refused(raw):
    with pytest.raises(BtfError):
        Btf(raw).variables(".maps")


def test_layout_names_every_field():
    rows = [tuple(row) for row in btf.layout_of(POLICY)]
    assert rows == [
        ("key.plen", 0, 4, "u32"),
        ("key.addr", 4, 4, "be32"),
        ("value.verdict", 0, 4, "enum verdict"),
        ("value.low", 4, 1, "3 bits from bit 0"),
        ("value.high", 4, 2, "9 bits from bit 3"),
        ("value.v4", 8, 4, "be32"),
        ("value.v6", 8, 16, "u8[16]"),
        ("value.hops", 24, 24, "struct hop[2]"),
        ("value.hops[].ifindex", 24, 4, "u32"),
        ("value.hops[].mac", 28, 6, "u8[6]"),
        ("value.hops[].port", 34, 2, "be16"),
        ("value.name", 48, 8, "char[8]"),
        ("value.on", 56, 1, "bool"),
        ("value.balance", 58, 2, "s16"),
    ]


OLD = [Field("key", 0, 4, "u32"), Field("value.a", 0, 4, "u32"), Field("value.b", 4, 4, "u32")]


@pytest.mark.parametrize(
    ("new", "texts"),
    [
        (OLD, []),
        ([OLD[0], OLD[1]], ["value.b is removed"]),
        ([*OLD, Field("value.c", 8, 8, "u64")], ["value.c is added"]),
        (
            [OLD[0], Field("value.b", 0, 4, "u32"), Field("value.a", 4, 4, "u32")],
            ["value.b is moved from byte 4 to 0", "value.a is moved from byte 0 to 4"],
        ),
        (
            [OLD[0], Field("value.a", 0, 8, "u64"), Field("value.b", 8, 4, "u32")],
            ["value.a is resized from 4 to 8 bytes", "value.b is moved from byte 4 to 8"],
        ),
        ([*OLD[:2], Field("value.b", 4, 4, "be32")], ["value.b is changed from u32 to be32"]),
    ],
)
def test_layouts_are_compared_field_by_field(new, texts):
    assert [row.text() for row in btf.compare_layouts(OLD, new)] == texts
