# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of a changed object in this kernel: kept, migrated with their entries, or refused."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import btf, libbpf, maps
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.maps import FRESH, MIGRATE, REUSE, MapError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, namespaces
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.bpf import MapType

HEAD = """\
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#define MAP(name, kind, entries, flags, key_type, value_type) struct { __uint(type, kind); \
    __uint(max_entries, entries); __uint(map_flags, flags); __type(key, key_type); __type(value, value_type); \
} name SEC(".maps");
struct prefix { __u32 prefixlen; __be32 addr; };
"""
TAIL = """
enum verdict { PASS, DROP = 2 };
struct place { __be32 addr; __u16 port; __u8 mac[6]; };
volatile const enum verdict verdict = PASS;
volatile const __u32 plain = 0;
volatile const _Bool enabled = 0;
volatile const __be32 gateway = 0;
volatile const struct place place = {};
volatile const __u16 ports[4] = {};
volatile const char label[8] = "";
SEC("tc") int reply(struct __sk_buff *skb)
{
    return verdict + plain + enabled + gateway + place.port + ports[0] + label[0];
}
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def define(loaded, tmp_path):
    """``define(maps, structs="", **options)``: the loaded object of these map definitions."""

    def get(definitions, structs="", **options):
        path = tmp_path / "maps.bpf.c"
        path.write_text(f"{HEAD}{structs}{definitions}{TAIL}")
        return loaded(path, **options)

    return get


def decided(first, second, policy="migrate"):
    """What is decided of the maps of two loaded objects."""
    return maps.decide(*(shapes(found) for found in (first, second)), policy)


def shapes(found):
    return {name: maps.shape_of(fd) for name, fd in found.maps.items() if not name.startswith(".")}


def migrated(first, second, name="rules"):
    old, new = first.maps[name], second.maps[name]
    return maps.migrate(old, maps.shape_of(old), new, maps.shape_of(new))


def fill(found, name, entries):
    types = btf.map_types(found.maps[name])
    for key, value in entries.items():
        bpf.map_update(found.maps[name], types.read_key(key), types.read_value(value))


def content(found, name="rules"):
    """Key and value in the order of keys, in the human form."""
    types = btf.map_types(found.maps[name])
    rows = bpf.map_items(found.maps[name], bpf.map_info(found.maps[name]))
    return [(types.show_key(key), types.show_value(value)) for key, value in sorted(rows)]


OLD = "struct rule { __be16 port; __u16 weight; __u32 hits; };\n"
NEW = "struct rule { __u64 hits; __be16 port; __u16 weight; __u32 added; };\n"
KINDS = {
    "BPF_MAP_TYPE_HASH": "0",
    "BPF_MAP_TYPE_LRU_HASH": "0",
    "BPF_MAP_TYPE_ARRAY": "0",
    "BPF_MAP_TYPE_LPM_TRIE": "BPF_F_NO_PREALLOC",
}


def rules(kind, entries=8, key="__u32"):
    key = "struct prefix" if "LPM" in kind else key
    return f"MAP(rules, {kind}, {entries}, {KINDS.get(kind, '0')}, {key}, struct rule)\n"


@pytest.mark.parametrize("kind", KINDS)
def test_values_go_over_by_field_name(define, kind):
    first = define(rules(kind), OLD)
    lpm = "LPM" in kind
    keys = [{"prefixlen": 24, "addr": "10.1.2.0"}, {"prefixlen": 32, "addr": "10.0.0.1"}] if lpm else [0, 5]
    types = btf.map_types(first.maps["rules"])
    for key, value in zip(keys, [{"port": 80, "weight": 1, "hits": 0xFFFFFFFF}, {"port": 443}]):
        bpf.map_update(first.maps["rules"], types.read_key(key), types.read_value(value))
    second = define(rules(kind, 16), NEW)
    assert decided(first, second) == {"rules": MIGRATE}
    assert migrated(first, second) == (8 if kind == "BPF_MAP_TYPE_ARRAY" else 2)
    expected = [
        (keys[0], {"hits": 0xFFFFFFFF, "port": 80, "weight": 1, "added": 0}),
        (keys[1], {"hits": 0, "port": 443, "weight": 0, "added": 0}),
    ]
    assert [row for row in content(second) if row[1]["port"]] == expected
    assert len(content(second)) == (16 if kind == "BPF_MAP_TYPE_ARRAY" else 2)


@pytest.mark.parametrize(
    "kind", ["BPF_MAP_TYPE_PERCPU_HASH", "BPF_MAP_TYPE_PERCPU_ARRAY", "BPF_MAP_TYPE_LRU_PERCPU_HASH"]
)
def test_values_of_each_cpu_go_over(define, kind):
    first = define(f"MAP(rules, {kind}, 64, 0, __u32, struct count)\n", "struct count { __u32 packets; };\n")
    second = define(
        f"MAP(rules, {kind}, 64, 0, __u32, struct count)\n", "struct count { __u32 more; __u64 packets; };\n"
    )
    cpus = bpf.possible_cpus()
    value = b"".join(struct.pack("=II", 100 + number, 0) for number in range(cpus))
    bpf.map_update(first.maps["rules"], struct.pack("=I", 3), value)
    assert decided(first, second) == {"rules": MIGRATE}
    migrated(first, second)
    info = bpf.map_info(second.maps["rules"])
    types = btf.map_types(second.maps["rules"])
    found = dict(bpf.map_items(second.maps["rules"], info))[struct.pack("=I", 3)]
    assert types.decode_percpu(found) == [{"more": 0, "packets": 100 + number} for number in range(cpus)]


def test_definition_is_decided_as_what_is_loaded(define, compiled, tmp_path):
    """Every type of map once: what the object says is what the kernel tells of it."""
    structs = OLD + "struct both { __u32 ifindex; int fd; };\n"
    definitions = "".join(
        [
            rules("BPF_MAP_TYPE_HASH"),
            "MAP(trie, BPF_MAP_TYPE_LPM_TRIE, 8, BPF_F_NO_PREALLOC, struct prefix, struct rule)\n",
            "MAP(counts, BPF_MAP_TYPE_PERCPU_ARRAY, 8, 0, __u32, __u64)\n",
            "MAP(devices, BPF_MAP_TYPE_DEVMAP, 8, 0, __u32, __u32)\n",
            "MAP(hashed, BPF_MAP_TYPE_DEVMAP_HASH, 8, 0, __u32, struct both)\n",
            "MAP(cpus, BPF_MAP_TYPE_CPUMAP, 8, 0, __u32, __u32)\n",
            'struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 5000); } events SEC(".maps");\n',
            "struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); }",
            ' perf SEC(".maps");\n',
            "struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4);",
            ' __uint(value_size, 4); } jumps SEC(".maps");\n',
            "struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 4); __type(value, __u32); }",
            ' queue SEC(".maps");\n',
            "struct { __uint(type, BPF_MAP_TYPE_BLOOM_FILTER); __uint(max_entries, 4); __type(value, __u32); }",
            ' bloom SEC(".maps");\n',
            "struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32);",
            " __type(value, __u32); };\n",
            "struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 4); __type(key, __u32);",
            ' __array(values, struct inner); } outer SEC(".maps");\n',
        ]
    )
    first = define(definitions, structs)
    path = str(compiled(tmp_path / "maps.bpf.c"))
    declared = {
        name: maps.shape_of_definition(row, None)
        for name, row in btf.definitions(btf.object_btf(path)).items()
    }
    decisions = maps.decide(shapes(first), declared, "refuse")
    assert decisions == dict.fromkeys(shapes(first), REUSE)
    assert len(decisions) == 12
    second = libbpf.load(path, reuse={name: first.maps[name] for name in decisions})
    with second:
        for name in decisions:
            assert bpf.map_info(second.maps[name]).id == bpf.map_info(first.maps[name]).id


def test_incompatible_map_is_refused_with_the_field(define):
    first = define(rules("BPF_MAP_TYPE_HASH"), OLD)
    second = define(rules("BPF_MAP_TYPE_HASH"), OLD.replace("__be16 port", "__u32 port"))
    with pytest.raises(MapError) as caught:
        decided(first, second)
    assert str(caught.value) == (
        "map rules: value.port is changed from be16 to u32; set incompatible_maps: replace to start it empty"
    )
    assert decided(first, second, "replace") == {"rules": FRESH}


def test_value_that_does_not_fit_is_told_with_its_key_and_nothing_is_written(define):
    first = define(rules("BPF_MAP_TYPE_LPM_TRIE"), OLD)
    fill_trie = {"port": 1, "weight": 1}
    types = btf.map_types(first.maps["rules"])
    for number in range(8):
        key = types.read_key({"prefixlen": 32, "addr": f"10.0.0.{number}"})
        bpf.map_update(
            first.maps["rules"], key, types.read_value({**fill_trie, "hits": 70000 * (number == 6)})
        )
    second = define(rules("BPF_MAP_TYPE_LPM_TRIE"), OLD.replace("__u32 hits", "__u16 hits"))
    assert decided(first, second) == {"rules": MIGRATE}
    with pytest.raises(MapError) as caught:
        migrated(first, second)
    assert str(caught.value) == (
        'map rules: key {"prefixlen": 32, "addr": "10.0.0.6"}: value.hits: 70000 is not within 0 to 65535; '
        "set incompatible_maps: replace to start it empty"
    )
    assert content(second) == []


def test_smaller_hash_must_have_room(define):
    first = define(rules("BPF_MAP_TYPE_HASH"), OLD)
    fill(first, "rules", {number: {"hits": number} for number in range(5)})
    second = define(rules("BPF_MAP_TYPE_HASH", 4), OLD)
    with pytest.raises(MapError) as caught:
        migrated(first, second)
    assert str(caught.value) == (
        "map rules: has 5 entries, more than the new max_entries of 4; set incompatible_maps: replace to start it empty"
    )
    assert content(second) == []
    third = define(rules("BPF_MAP_TYPE_HASH", 5), OLD)
    assert migrated(first, third) == 5
    assert content(third) == content(first)


def test_smaller_array_must_not_lose_anything(define):
    first = define(rules("BPF_MAP_TYPE_ARRAY"), OLD)
    fill(first, "rules", {2: {"hits": 2}, 3: {"hits": 3}})
    second = define(rules("BPF_MAP_TYPE_ARRAY", 3), OLD)
    with pytest.raises(MapError) as caught:
        migrated(first, second)
    assert str(caught.value) == (
        "map rules: key 3 is in use, beyond the new max_entries of 3; "
        "set incompatible_maps: replace to start it empty"
    )
    third = define(rules("BPF_MAP_TYPE_ARRAY", 4), OLD)
    assert migrated(first, third) == 4
    assert [row[1]["hits"] for row in content(third)] == [0, 0, 2, 3]


def test_maps_without_types_go_over_as_bytes(keep):
    old = keep(bpf.map_create(MapType.HASH, 3, 5, 4, name="raw"))
    bpf.map_update(old, b"key", b"value")
    new = keep(bpf.map_create(MapType.HASH, 3, 5, 9, name="raw"))
    assert maps.decide({"raw": maps.shape_of(old)}, {"raw": maps.shape_of(new)}, "migrate") == {
        "raw": MIGRATE
    }
    assert maps.migrate(old, maps.shape_of(old), new, maps.shape_of(new)) == 1
    assert bpf.map_items(new, bpf.map_info(new)) == [(b"key", b"value")]


@pytest.mark.parametrize("kind", [MapType.DEVMAP, MapType.DEVMAP_HASH])
@pytest.mark.parametrize("with_program", [False, True])
def test_devices_go_over_with_their_programs(network, keep, loaded, tmp_path, kind, with_program):
    path = tmp_path / "device.bpf.c"
    path.write_text(
        '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nSEC("xdp/devmap") int on(struct xdp_md *c) { return 1; }\n'
        'char _license[] SEC("license") = "GPL";\n'
    )
    program = loaded(path).programs["on"]
    size = 8 if with_program else 4
    old, new = (keep(bpf.map_create(kind, 4, size, entries, name="devices")) for entries in (8, 4))
    bpf.map_update(old, struct.pack("=I", 3), struct.pack("=Ii", 1, program)[:size])  # lo
    bpf.map_update(old, struct.pack("=I", 2), struct.pack("=Ii", 1, -1)[:size])
    homes = {struct.pack("=I", 3): "", struct.pack("=I", 2): ""}
    assert maps.migrate(old, maps.shape_of(old), new, maps.shape_of(new), lambda: homes) == 2
    expected = bpf.map_items(old, bpf.map_info(old))
    assert sorted(bpf.map_items(new, bpf.map_info(new))) == sorted(expected)
    number = bpf.prog_info(program).id
    assert (struct.pack("=I", 3), struct.pack("=II", 1, number)[:size]) in expected


@pytest.fixture
def devices(network, keep):
    """A device map with ``lo`` here and two of another namespace, one of which has an index that is free here."""
    far = f"far{os.getpid()}"
    subprocess.run(["ip", "netns", "add", far], check=True)
    try:
        subprocess.run(["ip", "-n", far, "link", "add", "d0", "index", "50", "type", "bridge"], check=True)
        old, new = (keep(bpf.map_create(MapType.DEVMAP, 4, 4, entries, name="devices")) for entries in (3, 4))
        bpf.map_update(old, number(0), number(1))
        with namespaces.entered(far):
            bpf.map_update(old, number(1), number(1))
            bpf.map_update(old, number(2), number(50))
        yield (
            far,
            lambda homes: maps.migrate(old, maps.shape_of(old), new, maps.shape_of(new), lambda: homes),
            new,
        )
    finally:
        subprocess.run(["ip", "netns", "del", far], check=False)


def number(value):
    return struct.pack("=I", value)


def entries_of(fd):
    return sorted((key[0], value[0]) for key, value in bpf.map_items(fd, bpf.map_info(fd)))


def test_devices_of_other_namespaces_go_over(devices):
    far, migrate, new = devices
    assert migrate({number(0): "", number(1): far, number(2): far}) == 3
    assert entries_of(new) == [(0, 1), (1, 1), (2, 50)]
    # The kernel drops entries with their devices, so it tells whose they are.
    subprocess.run(["ip", "-n", far, "link", "del", "d0"], check=True)
    assert entries_of(new) == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("known", "key"),
    [((), 0), ((0,), 1), ((0, 1), 2)],
    ids=["none", "here", "an index that is another's here"],
)
def test_devices_of_unknown_namespaces_are_refused(devices, known, key):
    """Also where the index is that of a device here: it would become an entry for that one."""
    far, migrate, _new = devices
    places = {0: "", 1: far}
    with pytest.raises(MapError) as caught:
        migrate({number(each): places[each] for each in known})
    assert str(caught.value) == (
        f"map devices: cannot tell which device the entry with key {key} is for; "
        "set incompatible_maps: replace to write only what is declared"
    )


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_device_that_is_not_where_it_should_be_is_refused(devices, place):
    far, migrate, _new = devices
    with pytest.raises(MapError, match="the entry with key 2 is for"):
        migrate({number(0): "", number(1): far, number(2): place})


def test_device_beyond_the_end_is_refused(network, keep):
    old, new = (keep(bpf.map_create(MapType.DEVMAP, 4, 4, entries, name="devices")) for entries in (8, 4))
    bpf.map_update(old, struct.pack("=I", 4), struct.pack("=I", 1))
    with pytest.raises(
        MapError, match=r"^map devices: key 04:00:00:00 is in use, beyond the new max_entries of 4; "
    ):
        maps.migrate(old, maps.shape_of(old), new, maps.shape_of(new))


def test_processor_map_goes_over(keep):
    old, new = (keep(bpf.map_create(MapType.CPUMAP, 4, 8, entries, name="cpus")) for entries in (1, 2))
    bpf.map_update(old, bytes(4), struct.pack("=II", 192, 0))
    assert maps.migrate(old, maps.shape_of(old), new, maps.shape_of(new)) == 1
    assert bpf.map_items(new, bpf.map_info(new)) == [(bytes(4), struct.pack("=II", 192, 0))]


def test_million_entries_go_over_unread(keep):
    count = 1_000_000
    old, new = (keep(bpf.map_create(MapType.HASH, 4, 8, entries)) for entries in (count, 2 * count))
    keys = [struct.pack("=I", number) for number in range(count)]
    bpf.map_update_batch(old, keys, [key + key for key in keys])
    assert maps.migrate(old, maps.shape_of(old), new, maps.shape_of(new)) == count
    assert dict(bpf.map_items(new, bpf.map_info(new))) == {key: key + key for key in keys}


def test_map_of_bcc_serves_an_object_of_clang(loaded, tmp_path):
    """The decision is by layout, whichever compiler made it; it is taken before BCC's programs are loaded."""
    path = tmp_path / "either.bpf.c"
    path.write_text(
        """\
#ifdef BCC_SEC
#include <linux/types.h>
struct rule { __be16 port; __u16 pad; MORE };
BPF_TABLE("hash", __u32, struct rule, rules, RULES_ENTRIES);
int reply(struct __sk_buff *skb) { __u32 zero = 0; return rules.lookup(&zero) ? 1 : 2; }
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct rule { __be16 port; __u16 pad; MORE };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, struct rule); }
rules SEC(".maps");
SEC("tc") int reply(struct __sk_buff *skb) { __u32 zero = 0; return bpf_map_lookup_elem(&rules, &zero) ? 1 : 2; }
char _license[] SEC("license") = "GPL";
#endif
"""
    )
    first = loaded(path, defines={"MORE": ""})
    fill(first, "rules", {0: {"port": 80}})
    decisions = {}

    def with_bcc(more, old=first):
        def choose(fresh):
            new = {name: maps.shape_of(fd) for name, fd in fresh.items()}
            decisions.update(maps.decide(shapes(old), new, "migrate"))
            return {name: old.maps[name] for name, what in decisions.items() if what == REUSE}

        options = {"programs": {"reply": bpf.ProgType.SCHED_CLS}, "map_sizes": {"rules": 4}, "choose": choose}
        return loaded(path, "bcc", defines={"MORE": more}, **options)

    second = with_bcc("")
    assert decisions == {"rules": REUSE}
    assert bpf.map_info(second.maps["rules"]).id == bpf.map_info(first.maps["rules"]).id
    assert bpf.test_run(second.programs["reply"], bytes(64)).retval == 1
    third = with_bcc("__u32 hits;")
    assert decisions == {"rules": MIGRATE}
    assert bpf.test_run(third.programs["reply"], bytes(64)).retval == 2
    assert migrated(first, third) == 1
    assert content(third) == [(0, {"port": 80, "pad": 0, "hits": 0})]
    assert bpf.test_run(third.programs["reply"], bytes(64)).retval == 1
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(MapError, match=r"^map rules: value.hits is removed; set incompatible_maps: replace"):
        with_bcc("", third)
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- Constants ----------------------------------------------------------------------------------------------------


def rodata(found, name):
    fd = found.maps[".rodata"]
    types = btf.map_types(fd)
    variable = types.btf.variables(".rodata")[name]
    value = bpf.map_lookup(fd, bytes(4), bpf.map_info(fd).value_size)
    return value[variable.offset : variable.offset + variable.size]


@pytest.mark.parametrize(
    ("name", "value", "data"),
    [
        ("verdict", "DROP", "02000000"),
        ("plain", "DROP", "02000000"),
        ("plain", "0x10", "10000000"),
        ("plain", True, "01000000"),
        ("enabled", True, "01"),
        ("gateway", "10.0.0.1", "0a000001"),
        ("place", {"addr": "10.0.0.1", "port": 80, "mac": "00:1a:ff:00:00:01"}, "0a0000015000001aff000001"),
        ("place", {"port": 80}, "00000000" + "5000" + "00" * 6),
        ("ports", [80, 443], "5000bb0100000000"),
        ("ports", bytes(range(8)), "0001020304050607"),
        ("label", "abc", "6162630000000000"),
    ],
)
def test_constant_by_its_type(define, name, value, data):
    assert rodata(define("", constants={name: value}), name).hex() == data


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("verdict", "DORP", "enum verdict: 'DORP' is neither a number nor one of PASS, DROP"),
        ("plain", "DORP", "u32: 'DORP' is neither a number nor one of PASS, DROP"),
        ("ports", [1, 2, 3, 4, 5], "u16[4]: 5 elements, but there is room for 4"),
        ("ports", {"a": 1}, "u16[4]: needs 4 elements (8 bytes), not dict"),
        ("place", {"prot": 80}, "struct place: struct place has no field 'prot'; it has addr, port, mac"),
        ("place", {"port": 1 << 16}, "struct place: port: 65536 does not fit 16 bits"),
        ("gateway", "10.0.0", "be32: needs an IPv4 address or a number, not '10.0.0'"),
        ("label", "far too long", "char[8]: 'far too long' is longer than 8 bytes"),
    ],
)
def test_wrong_constant_tells_its_type_and_the_names(define, name, value, problem):
    with pytest.raises(libbpf.LoadError) as caught:
        define("", constants={name: value})
    assert str(caught.value).endswith(f": constant {name}: {problem}")
