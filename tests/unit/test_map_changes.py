# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps whose definition has changed: what is decided, and what becomes of a value."""

from __future__ import annotations

import mmap
import struct
import sys

import pytest
from test_btf import Builder, Types

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import btf, maps
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.btf import Btf, Kind, MapTypes
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.maps import FRESH, MIGRATE, REUSE, MapError, Shape
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.bpf import MapType

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the expected bytes are little-endian")


def shape(value="u32", key="u32", kind=MapType.HASH, max_entries=10, flags=0):
    types = Types()
    (key_id, key_size), (value_id, value_size) = types.of(key), types.of(value)
    known = MapTypes("rules", Btf(types.raw()), key_id, value_id)
    return Shape(kind, key_size, value_size, max_entries, flags, known)


def blank(key_size=4, value_size=4, kind=MapType.HASH, max_entries=10, flags=0):
    return Shape(kind, key_size, value_size, max_entries, flags, None)


def decided(old, new, policy="migrate"):
    return maps.decide({"rules": old}, {"rules": new}, policy)["rules"]


RULE = {"port": "be16", "pad": "u16", "hits": "u32"}


@pytest.mark.parametrize(
    ("old", "new", "decision"),
    [
        (shape(RULE), shape(RULE), REUSE),
        (shape(RULE), blank(value_size=8), REUSE),
        (blank(), blank(), REUSE),
        (shape(RULE), shape(RULE, max_entries=11), MIGRATE),
        (blank(), blank(max_entries=9), MIGRATE),
        (shape(RULE), shape({**RULE, "more": "u64"}), MIGRATE),
        (shape(RULE), shape({"hits": "u64", "port": "be16", "pad": "u16"}), MIGRATE),
        (shape("u32"), shape("u64"), MIGRATE),
        (shape("u32"), shape("s32"), MIGRATE),
        (shape({"a": "u8[4]"}), shape({"a": "u8[6]"}), MIGRATE),
        (shape({"a": "u32[4]"}), shape({"a": "u64[2]"}), MIGRATE),
        (shape({"v": ("enum", {"A": 0, "B": 1})}), shape({"v": ("enum", {"A": 0, "B": 2})}), MIGRATE),
        (
            shape({"v": ("enum", {"A": 0, "B": 1})}),
            shape({"v": ("enum", {"A": 0, "B": 1, "C": 2})}),
            REUSE,
        ),
        (shape(("union", {"v4": "be32"})), shape(("union", {"v4": "be32", "v6": "u8[16]"})), MIGRATE),
        (shape(kind=MapType.RINGBUF), shape(kind=MapType.RINGBUF, max_entries=20), FRESH),
        (shape(kind=MapType.PROG_ARRAY), shape(kind=MapType.PROG_ARRAY, max_entries=20), FRESH),
        (shape(kind=MapType.QUEUE), shape("u64", kind=MapType.QUEUE), FRESH),
        (
            blank(kind=MapType.PERF_EVENT_ARRAY, max_entries=2),
            blank(kind=MapType.PERF_EVENT_ARRAY, max_entries=0),
            REUSE,
        ),
        (blank(kind=MapType.DEVMAP), blank(kind=MapType.DEVMAP, max_entries=20), MIGRATE),
    ],
)
def test_decision(old, new, decision):
    assert decided(old, new) == decision


def test_new_map_is_fresh_and_an_old_one_may_go():
    assert maps.decide({"gone": shape()}, {"rules": shape()}, "migrate") == {"rules": FRESH}


LPM = {"prefixlen": "u32", "addr": "be32"}


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        (shape(RULE), shape({**RULE, "port": "u16"}), "value.port is changed from be16 to u16"),
        (shape({"port": "be16"}), shape({"port": "u32"}), "value.port is changed from be16 to u32"),
        (shape(RULE), shape({"port": "be16"}), "value.pad is removed"),
        (shape({"a": {"b": "u32"}}), shape({"a": "u32"}), "value.a is changed from struct s to u32"),
        (shape({"a": "u32[4]"}), shape({"a": "be32[4]"}), "value.a[] is changed from u32 to be32"),
        (shape({"a": "u32[4]"}), shape({"a": "u32"}), "value.a is changed from u32[4] to u32"),
        (shape({"a": "pointer"}), shape({"a": "u64"}), "value.a is changed from pointer to u64"),
        (shape(key=LPM), shape(key={**LPM, "vlan": "u32"}), "key.vlan is added"),
        (shape(key="u32"), shape(key="u64"), "key is resized from 4 to 8 bytes"),
        (shape(key="u32"), shape(key="be32"), "key is changed from u32 to be32"),
        (
            shape(key={"v": ("enum", {"A": 0, "B": 1})}),
            shape(key={"v": ("enum", {"A": 1, "B": 1})}),
            "key.v: A is changed from 0 to 1",
        ),
        (blank(), blank(key_size=8), "key is resized from 4 to 8 bytes"),
        (
            shape("u32"),
            blank(value_size=8),
            "value is resized from 4 to 8 bytes, and its fields are not known",
        ),
        (shape(), shape(kind=MapType.LRU_HASH), "type is changed from hash to lru_hash"),
        (shape(), shape(kind=MapType.RINGBUF), "type is changed from hash to ringbuf"),
        (shape(), shape(flags=1), "flags are changed from 0x0 to 0x1"),
        (
            shape(kind=MapType.HASH_OF_MAPS),
            shape(kind=MapType.HASH_OF_MAPS, max_entries=9),
            "max_entries is changed from 10 to 9, and maps in maps cannot be carried over",
        ),
        (
            shape(("union", {"v4": "be32", "v6": "u8[16]"})),
            shape({"v4": "be32", "v6": "u8[16]"}),
            "value.v6 shares its place with value.v4, and they do not change alike",
        ),
        (
            shape(("union", {"v4": "u32", "v6": "u8[16]"})),
            shape(("union", {"v4": "u64", "v6": "u8[16]"})),
            "value.v6 shares its place with value.v4, and they do not change alike",
        ),
    ],
)
def test_what_cannot_be_migrated_is_refused_with_the_field(old, new, difference):
    for policy in ("migrate", "refuse"):
        with pytest.raises(MapError) as caught:
            decided(old, new, policy)
        assert (
            str(caught.value) == f"map rules: {difference}; set incompatible_maps: replace to start it empty"
        )
    assert decided(old, new, "replace") == FRESH


@pytest.mark.parametrize(
    ("new", "difference"),
    [
        (shape(RULE, max_entries=11), "max_entries is changed from 10 to 11"),
        (shape({**RULE, "more": "u64"}, max_entries=11), "value.more is added"),
        (shape({**RULE, "hits": "u64"}), "value.hits is resized from 4 to 8 bytes"),
    ],
)
def test_policies_for_what_could_be_migrated(new, difference):
    with pytest.raises(MapError) as caught:
        decided(shape(RULE), new, "refuse")
    assert str(caught.value) == (
        f"map rules: {difference}; set incompatible_maps: migrate to carry its entries over, "
        "or replace to start it empty"
    )
    assert decided(shape(RULE), new, "replace") == FRESH
    assert decided(shape(RULE), shape(RULE), "refuse") == REUSE
    assert maps.decide({}, {"rules": new}, "refuse") == {"rules": FRESH}


# --- Values -------------------------------------------------------------------------------------------------------


def carried(old, new, data):
    before, after = shape(old), shape(new)
    return maps.carry(maps.moves(before.types, after.types), data, after.value_size)


@pytest.mark.parametrize(
    ("old", "new", "data", "result"),
    [
        ("u32", "u64", "01020304", "0102030400000000"),
        ("u64", "u32", "0102030400000000", "01020304"),
        ("s16", "s64", "feff", "feffffffffffffff"),
        ("u32", "s32", "ffffff7f", "ffffff7f"),
        ("be16", "be32", "0050", "00000050"),
        ("be32", "be16", "00000050", "0050"),
        ("u8", "u16", "50", "5000"),
        ("bool", "u32", "01", "01000000"),
        ("u32", "bool", "01000000", "01"),
        (RULE, {"hits": "u64", "port": "be16", "pad": "u16"}, "0050ffff07000000", "07000000000000000050ffff"),
        (RULE, {"new": "u32", **RULE}, "0050000007000000", "000000000050000007000000"),
        ("u8[4]", "u8[6]", "01020304", "010203040000"),
        ("char[4]", "char[2]", "61620000", "6162"),
        ("u16[2]", "u32[3]", "0100ff00", "01000000ff00000000000000"),
        (
            ("array_of", {"a": "u8", "b": "u8"}, 2),
            ("array_of", {"b": "u8", "a": "u16"}, 2),
            "01020304",
            "020100040300",
        ),
        (("enum", {"A": 0, "B": 1}), ("enum", {"A": 0, "N": 1, "B": 2}), "01000000", "02000000"),
        (("enum", {"A": 0, "B": 1}), ("enum", {"A": 0, "N": 1, "B": 2}), "07000000", "07000000"),
        (("enum", {"A": 0, "B": 1}), "u8", "01000000", "01"),
        (("bits", {"a": 3, "b": 5}), ("bits", {"b": 6, "a": 2}), "fa", "9f"),
        (
            {"kind": "u8", "nh": ("union", {"v4": "be32", "v6": "u8[8]"})},
            {"kind": "u16", "nh": ("union", {"v4": "be32", "v6": "u8[8]"}), "more": "u8"},
            "010a00000100000002",
            "01000a0000010000000200",
        ),
        ({"a": "pointer"}, {"b": "u8", "a": "pointer"}, "0102030405060708", "000102030405060708"),
    ],
)
def test_value_goes_over_by_field(old, new, data, result):
    assert carried(old, new, bytes.fromhex(data)).hex() == result


@pytest.mark.parametrize(
    ("old", "new", "data", "problem"),
    [
        ({"a": "u32"}, {"a": "u16"}, "00000100", "value.a: 65536 is not within 0 to 65535"),
        ({"a": "u16"}, {"a": "s16"}, "ffff", "value.a: 65535 is not within -32768 to 32767"),
        ({"a": "s16"}, {"a": "u16"}, "ffff", "value.a: -1 is not within 0 to 65535"),
        ({"a": "u8"}, {"a": "bool"}, "02", "value.a: 2 is not within 0 to 1"),
        (
            {"a": "u8[4]"},
            {"a": "u8[2]"},
            "00000001",
            "value.a does not fit: elements that are not zero would be cut off",
        ),
        (("bits", {"a": 4}), ("bits", {"a": 3}), "08", "value.a: 8 is not within 0 to 7"),
        (
            {"v": ("enum", {"A": 0, "B": 1})},
            {"v": ("enum", {"A": 0, "C": 1})},
            "01000000",
            "value.v: B is none of A, C",
        ),
    ],
)
def test_value_that_does_not_fit(old, new, data, problem):
    with pytest.raises(MapError) as caught:
        carried(old, new, bytes.fromhex(data))
    assert str(caught.value) == problem


def test_neighbours_go_over_in_one_piece():
    before, after = shape(RULE), shape({**RULE, "more": "u64"})
    assert maps.moves(before.types, after.types) == [maps.Copy("value.port", 0, 0, 8)]


# --- Shapes -------------------------------------------------------------------------------------------------------


def test_shape_of_a_definition_has_the_size_that_is_asked_for():
    found = btf.Definition("rules", MapType.HASH, 10, 1, None, 4, 8)
    assert maps.shape_of_definition(found, None) == Shape(MapType.HASH, 4, 8, 10, 1, None)
    assert maps.shape_of_definition(found, 7).max_entries == 7


@pytest.mark.parametrize(("asked", "pages"), [(1, 1), (4096, 1), (4097, 2), (3 * 4096, 4), (0, 0)])
def test_ring_buffer_has_a_power_of_two_of_pages(asked, pages):
    found = btf.Definition("events", MapType.RINGBUF, asked * mmap.PAGESIZE // 4096, 0, None)
    assert maps.shape_of_definition(found, None).max_entries == pages * mmap.PAGESIZE


def test_definition_by_sizes_only():
    b = Builder()
    number = b.integer("int", 4, 1)
    rows = {"type": 4, "key_size": 4, "value_size": 8}
    pointers = [
        (name, b.pointer(b.array(number, count)), 64 * i) for i, (name, count) in enumerate(rows.items())
    ]
    b.section(".maps", ("events", b.composite(Kind.STRUCT, "", 24, *pointers), 0, 24))
    found = btf.definitions(Btf(b.raw()))["events"]
    assert found == btf.Definition("events", 4, 0, 0, None, 4, 8)


def test_flag_that_the_kernel_adds_is_no_difference():
    info = bpf.MapInfo(1, MapType.DEVMAP, 4, 4, 1, 0x80, "m", 0, 0, 0, 0)
    assert maps.defined_flags(info) == 0
    assert maps.defined_flags(info._replace(type=MapType.HASH)) == 0x80


def test_key_in_an_error_is_in_human_form():
    found = shape(key=LPM)
    key = struct.pack("=I", 32) + bytes([10, 0, 0, 1])
    assert maps._show_key(found, key) == '{"prefixlen": 32, "addr": "10.0.0.1"}'
    assert maps._show_key(blank(), key) == "20:00:00:00:0a:00:00:01"
