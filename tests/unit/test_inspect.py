# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that look into BPF make of what the kernel says: devices, objects, netkit, layouts and sums."""

from __future__ import annotations

import struct
import sys

import pytest
from test_btf import Builder, Types

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect_bpf, _inspect_maps
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import maps
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.btf import Btf, Kind, MapTypes
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.mark import Mark
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import PlanError, SpecError
from ansible_collections.cnf.ebpf.plugins.module_utils._inspect_bpf import Hook, Kernel, Row
from ansible_collections.cnf.ebpf.plugins.module_utils._inspect_maps import Program
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, rtnl
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.bpf import MapType
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.host import Links

BOOTED = 1_700_000_000.0  # 2023-11-14T22:13:20Z


def program(number, name="theirs", told=None, kind=bpf.ProgType.SCHED_CLS):
    info = bpf.ProgInfo(number, kind, name, f"{number:016x}", 90 * 10**9, 0, (), 0, 0, 5000, 10, 0, 0)
    return Program(info, told)


def mark(name, topology="edge", obj="count", loaded=1.0):
    return Mark(
        topology, obj, name, "count.bpf.c", "count.bpf.c", "c0de", "clang 19", "", "b", {}, {}, (), loaded
    )


def kernel(hooks=(), programs=(), links=(), pins=None, sampled=None, seconds=0.0):
    known = {row.info.id: row for row in programs}
    return Kernel(hooks, known, links, pins or {}, [], BOOTED, sampled or {}, seconds)


def hook(name="tcx ingress", *rows, device="eth0", ifindex=2, netns="", mode="", revision=1):
    return Hook(netns, device, ifindex, name, mode, revision, rows)


def test_an_attachment_in_all_its_fields():
    state = kernel(
        [hook("tcx ingress", Row(7, 70), revision=4)],
        [program(7, "count", mark("count"))],
        pins={("link", 70): ["/sys/fs/bpf/b", "/sys/fs/bpf/a"], ("program", 7): ["/sys/fs/bpf/p"]},
        sampled={7: (30, 6000)},
        seconds=2.0,
    )
    (device,) = _inspect_bpf.devices_of(state)
    assert (device["netns"], device["link"], device["ifindex"]) == ("", "eth0", 2)
    (found,) = device["hooks"]
    assert (found["hook"], found["mode"], found["revision"]) == ("tcx ingress", None, 4)
    assert found["programs"] == [
        {
            "id": 7,
            "name": "count",
            "tag": "0000000000000007",
            "type": "sched_cls",
            "link_id": 70,
            "pin": "/sys/fs/bpf/a",
            "priority": None,
            "topology": "edge",
            "object": "count",
            "program": "count",
            "since": "2023-11-14T22:14:50Z",
            "run_count": 10,
            "run_time_ns": 5000,
            "runs_per_second": 15.0,
            "ns_per_run": 200.0,
        }
    ]


def test_lists_keep_their_order_and_devices_of_one_name_stay_apart():
    state = kernel(
        [
            hook("tcx ingress", Row(2), Row(1), Row(3)),
            hook("tcx egress", Row(1)),
            hook("tcx ingress", Row(3), netns="red"),
        ],
        [program(number) for number in (1, 2, 3)],
    )
    devices = _inspect_bpf.devices_of(state)
    assert [(row["netns"], row["link"]) for row in devices] == [("", "eth0"), ("red", "eth0")]
    assert [row["hook"] for row in devices[0]["hooks"]] == ["tcx ingress", "tcx egress"]
    assert [row["id"] for row in devices[0]["hooks"][0]["programs"]] == [2, 1, 3]


def test_a_filter_of_another_kind_and_a_program_that_has_just_gone():
    state = kernel([hook("clsact egress", Row(0, 0, 9, "flower"), Row(5, 0, 10, "bpf"), revision=None)])
    flower, gone = _inspect_bpf.devices_of(state)[0]["hooks"][0]["programs"]
    assert (flower["id"], flower["type"], flower["priority"], flower["since"]) == (None, "flower", 9, None)
    assert (gone["id"], gone["type"], gone["name"], gone["run_count"]) == (5, "bpf", None, None)


def test_the_link_of_an_xdp_program_is_that_of_its_device():
    links = [
        bpf.LinkInfo(1, bpf.LinkType.XDP, 7, 3, bpf.XDP),
        bpf.LinkInfo(2, bpf.LinkType.TCX, 7, 2, bpf.TCX_INGRESS),
        bpf.LinkInfo(3, bpf.LinkType.XDP, 7, 2, bpf.XDP),
    ]
    state = kernel([hook("xdp", Row(7), mode="native", revision=None)], [program(7)], links)
    found = _inspect_bpf.devices_of(state)[0]["hooks"][0]
    assert (found["mode"], found["programs"][0]["link_id"]) == ("native", 3)
    without = _inspect_bpf.devices_of(state._replace(links=links[:2]))[0]["hooks"][0]
    assert without["programs"][0]["link_id"] is None


DIRECTORY = "/sys/fs/bpf/cnf/edge/count"
PINS = {
    ("program", 7): [
        f"{DIRECTORY}/programs/count",
        f"{DIRECTORY}/links/count/ingress@eth0@red@clsact",
        f"{DIRECTORY}/links/count/ingress@eth0@@clsact",
    ],
}


@pytest.mark.parametrize(
    ("where", "path"),
    [
        (hook("clsact ingress"), f"{DIRECTORY}/links/count/ingress@eth0@@clsact"),
        (hook("clsact ingress", netns="red"), f"{DIRECTORY}/links/count/ingress@eth0@red@clsact"),
        (hook("clsact egress"), f"{DIRECTORY}/links/count/ingress@eth0@@clsact"),
    ],
)
def test_of_several_pins_of_a_program_the_one_that_means_the_place_is_told(where, path):
    assert _inspect_bpf.pin_of(PINS, where, 7, 0) == path


def test_an_attachment_whose_pin_is_hidden_has_none():
    assert _inspect_bpf.pin_of({}, hook(), 7, 0) is None
    assert _inspect_bpf.pin_of(PINS, hook(), 7, 70) is None  # a link is not kept by its program's pin


def test_links_that_no_list_shows_are_noted():
    links = [
        bpf.LinkInfo(1, bpf.LinkType.TCX, 7, 2, bpf.TCX_INGRESS),
        bpf.LinkInfo(2, bpf.LinkType.TCX, 7, 9, bpf.TCX_EGRESS),
        bpf.LinkInfo(3, bpf.LinkType.NETKIT, 8, 0, bpf.NETKIT_PEER),
        bpf.LinkInfo(4, 2, 9, 0, 0),  # a tracing link
        bpf.LinkInfo(5, bpf.LinkType.XDP, 9, 0, bpf.XDP),
    ]
    state = kernel([hook("tcx ingress", Row(7, 1))], [program(7, "count", mark("count")), program(8)], links)
    assert _inspect_bpf.elsewhere(state) == [
        "link 2 (tcx egress, edge/count:count) is on device 9 of a network namespace without a name",
        "link 3 (netkit peer, program 8 theirs) is left over: its device is gone",
        "link 5 (xdp, program 9) is left over: its device is gone",
    ]


def test_the_text():
    state = kernel(
        [
            hook("xdp", Row(9), mode="generic", revision=None),
            hook("tcx ingress", Row(7, 70), Row(8), revision=3),
            hook(
                "clsact egress", Row(0, 0, 5, "u32"), Row(8, 0, 6), netns="red", device="eth1", revision=None
            ),
        ],
        [program(7, "count", mark("count")), program(8), program(9, "x")],
        sampled={7: (4, 1000)},
        seconds=1.0,
    )
    maps = [{"name": "counters", "type": "percpu_array", "entries": 32, "max_entries": 32}]
    maps.append({"name": "events", "type": "ringbuf", "entries": None, "max_entries": 4096})
    owned = {
        "topology": "edge",
        "object": "count",
        "source": "count.bpf.c",
        "compiler": "clang 19",
        "maps": maps,
    }
    bare = {"topology": "edge", "object": "old", "source": None, "compiler": None, "maps": []}
    netkit = [
        {
            "netns": "",
            "link": "nk0",
            "ifindex": 4,
            "end": "primary",
            "peer": {"name": "nk1", "netns": "red"},
            "mode": "l3",
            "policy": "forward",
        }
    ]
    objects = [{**owned, "attachments": [{}]}, {**bare, "attachments": []}]
    text = _inspect_bpf.text_of(_inspect_bpf.devices_of(state), objects, netkit, ["beware"])
    assert text.splitlines() == [
        "[host]",
        "  eth0 xdp generic",
        "    1. x (foreign), program 9, 0.0 runs/s",
        "  eth0 tcx ingress revision 3",
        "    1. edge/count:count, program 7, link 70, 4.0 runs/s, 250.0 ns each",
        "    2. theirs (foreign), program 8, 0.0 runs/s",
        "[red]",
        "  eth1 clsact egress",
        "    1. u32 filter, priority 5",
        "    2. theirs (foreign), program 8, priority 6, 0.0 runs/s",
        "netkit",
        "  host:nk0 primary mode l3 policy forward <-> red:nk1",
        "objects",
        "  edge/count: count.bpf.c, clang 19, attached 1 times",
        "    map counters percpu_array 32/32",
        "    map events ringbuf 4096",
        "  edge/old: (no program left), attached 0 times",
        "note: beware",
    ]
    assert _inspect_bpf.text_of([], [], [], []) == "no BPF program at any hook of the network\n"


class Spaces:
    """Links by namespace, as Host has them; ids are those that the namespaces know each other by."""

    def __init__(self, spaces, ids):
        self.spaces, self.ids = spaces, ids

    def links(self, space):
        return Links(self.spaces[space])

    def namespace_of_id(self, space, number):
        return self.ids.get((space, number))


def netkit(ifindex, name, primary, link, netnsid=None, **options):
    numbers = {"mode": 5, "policy": 3, "peer_policy": 4, "scrub": 6}
    data = {numbers[key]: struct.pack("=I", value) for key, value in options.items()}
    return rtnl.LinkRecord(
        ifindex, name, 1, 1500, "", "netkit", {**data, 2: bytes([primary])}, 0, link, netnsid, ()
    )


def test_netkit_devices_tell_their_settings_and_other_ends():
    spaces = {
        "": [netkit(4, "nk0", 1, 2, 0, mode=1, policy=0, peer_policy=2, scrub=1), netkit(5, "nk9", 1, 8, 3)],
        "red": [netkit(2, "nk1", 0, 4, 1, mode=1)],
    }
    host = Spaces(spaces, {("", 0): "red", ("red", 1): ""})
    assert _inspect_bpf.netkit_of(host, "", None) == [
        {
            "netns": "",
            "link": "nk0",
            "ifindex": 4,
            "end": "primary",
            "peer": {"name": "nk1", "netns": "red"},
            "mode": "l3",
            "policy": "forward",
            "peer_policy": "blackhole",
            "scrub": "default",
        },
        {"netns": "", "link": "nk9", "ifindex": 5, "end": "primary", "peer": None},
    ]
    (peer,) = _inspect_bpf.netkit_of(host, "red", None)
    assert (peer["end"], peer["peer"]) == ("peer", {"name": "nk0", "netns": ""})
    assert [row["link"] for row in _inspect_bpf.netkit_of(host, "", "nk9")] == ["nk9"]


# --- maps -------------------------------------------------------------------------------------------------------------------


def map_info(kind=MapType.HASH, key_size=4, value_size=4, name="table"):
    return bpf.MapInfo(1, kind, key_size, value_size, 8, 0, name, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([1, 2, 3], 6),
        ([{"packets": 1, "bytes": 60}, {"packets": 2, "bytes": 0}], {"packets": 3, "bytes": 60}),
        ([{"n": 1, "addr": "10.0.0.1", "on": True}, {"n": 2, "addr": "10.0.0.2", "on": False}], {"n": 3}),
        ([{"a": {"b": [1, 2]}}, {"a": {"b": [3, 4]}}], {"a": {"b": [4, 6]}}),
        (["00:01", "00:02"], None),
        ([{"name": "x"}], None),
        ([True, False], None),
        ([1, "ENUMERATOR"], None),
        ([[1, "x"], [2, "y"]], None),
        ([[], []], None),
        ([], None),
    ],
)
def test_totals_add_up_what_is_an_integer(values, total):
    assert _inspect_maps.total_of(values) == total


@pytest.mark.parametrize(
    ("length", "address", "bits"),
    [(0, "0a420102", 0), (8, "0a420102", 0x0A), (12, "0a420102", 0xA4), (32, "0a420102", 0x0A420102)],
)
def test_prefixes_are_compared_by_their_leading_bits(length, address, bits):
    assert maps.prefix_of(struct.pack("=I", length) + bytes.fromhex(address)) == (length, bits)


little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the expected bytes are little-endian")


@little_endian
def test_layouts_in_words():
    types = Types()
    key = types.of({"prefixlen": "u32", "addr": "be32"})[0]
    value = types.of({"nh": {"ifindex": "u32", "mac": "u8[6]"}, "hits": "u64"})[0]
    known = MapTypes("routes", Btf(types.raw()), key, value)
    assert _inspect_maps.layout_text(known, "key", 8) == "prefixlen u32, addr be32"
    assert _inspect_maps.layout_text(known, "value", 24) == "nh.ifindex u32, nh.mac u8[6], hits u64"
    assert _inspect_maps.layout_text(known._replace(key_type=0), "key", 0) == "none"
    assert _inspect_maps.layout_text(None, "value", 6) == "6 bytes"


@little_endian
@pytest.mark.parametrize("form", ["variable", "enum"])
def test_counters_are_named_by_the_constant_or_by_the_enum(form):
    builder = Builder()
    number = builder.enumeration("counter_index" if form == "enum" else "mine", {"TOTAL": 0, "LOST": 1})
    if form == "variable":
        builder.section(".rodata", ("counter_names", builder.typedef("names", number), 0, 4))
    assert _inspect_maps.counter_names(Btf(builder.raw())) == {0: "TOTAL", 1: "LOST"}
    assert _inspect_maps.counter_names(Btf(Builder().raw())) == {}


@little_endian
def test_types_are_found_by_name():
    builder = Builder()
    word = builder.integer("unsigned int", 4)
    event = builder.composite(Kind.STRUCT, "event", 4, ("number", word, 0))
    other = builder.typedef("event_t", event)
    types = Btf(builder.raw())
    assert _inspect_maps.find_type(types, "event") == _inspect_maps.find_type(types, "struct event") == event
    assert _inspect_maps.find_type(types, "event_t") == other
    assert _inspect_maps.find_type(types, "number") is None
    assert _inspect_maps.struct_names(types) == ["event"]


def test_keys_without_types():
    info = map_info(key_size=3)
    for text in ("0a:0b:0c", "0A0B0C", "0a 0b 0c"):
        assert _inspect_maps.read_key(info, None, text, "keys[0]") == b"\x0a\x0b\x0c"
    assert _inspect_maps.read_key(info, None, 1, "keys[0]") == (1).to_bytes(3, sys.byteorder)
    for wrong in ("0a:0b", "0a:0b:0g", 1 << 24, -1, None, ["0a"], True):
        with pytest.raises(SpecError) as problem:
            _inspect_maps.read_key(info, None, wrong, "keys[4]")
        assert str(problem.value) == (
            "keys[4]: map table has no type information: its keys are 3 bytes in hexadecimal"
        )


def test_entries_without_types():
    assert _inspect_maps.shown_entry(map_info(), None, (b"\1\2\3\4", b"\5\6\7\x08"), {}) == {
        "key": "01:02:03:04",
        "value": "05:06:07:08",
    }
    per_cpu = map_info(MapType.PERCPU_ARRAY, name="counters")
    key, value = (1).to_bytes(4, sys.byteorder), b"\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"
    assert _inspect_maps.shown_entry(per_cpu, None, (key, value), {1: "LOST"}) == {
        "key": key.hex(":"),
        "name": "LOST",
        "per_cpu": ["01:00:00:00", "02:00:00:00"],
        "total": None,
    }
    inner = _inspect_maps.shown_entry(
        map_info(MapType.HASH_OF_MAPS), None, (b"abcd", (7).to_bytes(4, sys.byteorder)), {}
    )
    assert inner["value"] == 7


@pytest.mark.parametrize("kind", [MapType.RINGBUF, MapType.QUEUE, MapType.BLOOM_FILTER, MapType.XSKMAP])
def test_maps_without_readable_entries(kind):
    with pytest.raises(PlanError, match="cannot be read by key"):
        _inspect_maps.check_has_entries(map_info(kind))
