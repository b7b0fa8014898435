# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as plain data: merging, comparing, describing, and the way back from a file."""

from __future__ import annotations

import json

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.policy import (
    LENGTH,
    Action,
    Condition,
    NextHop,
    Policy,
    interned,
)
from ansible_collections.cnf.ebpf.plugins.module_utils._engine import model
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import (
    CHANGE,
    CREATE,
    DELETE,
    Key,
    Operation,
)
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import (
    KINDS,
    _ends,
    address,
    bpf_map_entry,
    bpf_object,
    bpf_policy_entry,
    bpf_pool,
    existing_link,
    link,
    neighbor,
    netkit_attach,
    netns,
    port,
    revive,
    route,
    rule,
    sysctl,
    sysctl_file,
    tcx_attach,
    xdp_attach,
)

PAIR = link.Value(
    "v0",
    "",
    "netkit",
    up=True,
    mtu=1500,
    mac="02:00:00:00:00:01",
    options={"mode": "l2", "policy": "forward"},
    peer=_ends.End("v1", "red", False, 1500, "02:00:00:00:00:02"),
    owner="edge",
)
VALUES = [
    PAIR,
    link.Value("moved", "blue", "dummy", up=False, mtu=1500, mac="02:00:00:00:00:01", id=("", "d0")),
    netns.Value("red", True, "edge", ("eth0", "eth1")),
    netns.Value("blue", False, None, ()),
    existing_link.Value("eth1", "", True, 1500, "02:00:00:00:00:07", ("red", "eth1")),
    port.Value("v0", "", "br0"),
    port.Value("v0", "", ""),
    sysctl.Value("net/ipv4/conf/all/forwarding", "red", "1", {"eth0": "0"}),
    address.Value("v0", "", "10.0.0.1", 24, "", "global", False, False, "*", None),
    neighbor.Value("v0", "red", "fd00::9", "", True, "*"),
    route.Value("::/0", "red", 254, 1024, "unicast", "fd00::1", "v1", "global", "", False, None, "bird"),
    rule.Value(100, "red", "inet", source="10.0.0.0/8", invert=True, table=7, owner="*"),
    sysctl_file.Value("edge", "net/ipv4/conf/all/forwarding", "1", "edge"),
    bpf_object.Value(
        "count",
        "count.bpf.c",
        "ab12",
        "clang 19",
        {"a": 1},
        {"m": 2},
        {"count": "tc"},
        "ok",
        "edge",
        None,
        ("count=1",),
    ),
    bpf_map_entry.Value("fw", "rules", '{"port":1}', "red", {"verdict": 2}, "edge"),
    bpf_pool.Value("r", "edge", "web", {"10.0.0.1%eth0": 2}, "flow", True, "red", "ok", "ok", "*"),
    bpf_policy_entry.Value(
        "r",
        "edge",
        Policy(
            {
                "sources4": {LENGTH.pack(8) + bytes([10, 0, 0, 0]): interned(Action("drop"))},
                "conditions": {Condition(6, 80, 80, 0, bytes(16)): interned(Action("pool", pool="web"))},
                "defaults": {
                    6: interned(Action("next_hops", (NextHop("eth0", "fd00::1"),), "", True, False))
                },
            },
            {Condition(6, 80, 80, 0, bytes(16)): -1},
            {("sources4", LENGTH.pack(8) + bytes([10, 0, 0, 0])): "why"},
        ),
        "red",
        "ok",
        "ok",
        "*",
    ),
    tcx_attach.Value(
        "count",
        "count",
        "eth0",
        "",
        "ingress",
        "tcx",
        None,
        "after",
        "edge/fw:filter",
        "ok",
        "edge",
        3,
        "first",
    ),
    netkit_attach.Value(
        "count", "count", "nk0", "red", "peer", "netkit", None, "first", None, "ok", "edge", 0, ""
    ),
    xdp_attach.Value("count", "count_xdp", "eth0", "", "xdp", None, "native", None, None, "ok", "edge"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value.key()))
def test_a_value_survives_a_file(value):
    stored = json.loads(json.dumps(model.describe(value)))
    revived = revive(value.key().kind, stored)
    assert revived == value
    assert revived.key() == value.key()


def test_every_kind_is_among_them():
    assert {value.key().kind for value in VALUES} == set(KINDS)


def test_describing_leaves_out_what_is_not_declared():
    value = link.Value("v0", "", "veth", up=False, peer=_ends.End("v1", "red"), options={})
    assert model.describe(value) == {
        "name": "v0",
        "netns": "",
        "kind": "veth",
        "up": False,
        "peer": {"name": "v1", "netns": "red"},
    }


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Key("netns", "", "red"), "netns red"),
        (Key("link", "", "v0"), "link v0"),
        (Key("link", "red", "v0"), "link v0 in netns red"),
    ],
)
def test_text_of_a_key(key, text):
    assert str(key) == text


def test_merge_takes_declared_fields_only():
    wanted = link.Value(
        "v0", "", "netkit", mtu=9000, options={"policy": "blackhole"}, peer=_ends.End("v1", "blue", up=True)
    )
    merged = model.merge(PAIR, wanted)
    assert (merged.mtu, merged.up, merged.mac, merged.owner) == (9000, True, "02:00:00:00:00:01", "edge")
    assert merged.options == {"mode": "l2", "policy": "blackhole"}
    assert merged.peer == _ends.End("v1", "blue", True, 1500, "02:00:00:00:00:02")


def test_merge_of_nothing_new_is_the_same_object():
    assert model.merge(PAIR, link.Value("v0", "", "netkit")) is PAIR


def test_empty_is_declared_and_none_is_not():
    had = address.Value("v0", "", "10.0.0.1", 24, peer="10.0.0.2")
    assert model.merge(had, address.Value("v0", "", "10.0.0.1", 24, peer="")).peer == ""
    assert model.merge(had, address.Value("v0", "", "10.0.0.1", 24, peer=None)).peer == "10.0.0.2"


def test_project_shows_what_is_declared():
    wanted = link.Value(
        "v0",
        "",
        "netkit",
        mtu=9000,
        options={"policy": "blackhole", "scrub": "none"},
        peer=_ends.End("v1", "red", up=True),
    )
    shown = model.project(PAIR, wanted)
    assert (shown.mtu, shown.up, shown.mac) == (1500, None, None)
    assert shown.options == {"policy": "forward", "scrub": None}
    assert shown.peer == _ends.End("v1", "red", False)


def test_differences_name_nested_fields_and_options():
    after = model.merge(
        PAIR,
        link.Value(
            "v0", "", "netkit", mtu=9000, options={"policy": "blackhole"}, peer=_ends.End("v9", "red")
        ),
    )
    assert model.differences(PAIR, after) == [
        ("mtu", 1500, 9000),
        ("policy", "forward", "blackhole"),
        ("peer.name", "v1", "v9"),
    ]
    assert model.differences(PAIR, PAIR) == []


def test_inverse_reads_an_operation_backwards():
    create = Operation(CREATE, PAIR.key(), None, PAIR, "missing")
    assert create.inverse() == Operation(DELETE, PAIR.key(), PAIR, None, "undo: missing")
    change = Operation(CHANGE, PAIR.key(), PAIR, VALUES[1], "mtu", PAIR.key())
    assert (change.inverse().verb, change.inverse().before, change.inverse().after) == (
        CHANGE,
        VALUES[1],
        PAIR,
    )
    assert change.inverse().within == PAIR.key()
    assert (create.value, create.inverse().value) == (PAIR, PAIR)
    assert str(create) == "create link v0 (missing)"


@pytest.mark.parametrize(
    ("value", "needs", "provides"),
    [
        (PAIR, [("netns", "", "red")], [("link", "", "v0"), ("link", "red", "v1")]),
        (
            link.Value("v0.7", "red", "vlan", parent="v0"),
            [("netns", "", "red"), ("link", "red", "v0")],
            [("link", "red", "v0.7")],
        ),
        (
            link.Value("v0", "", "veth", peer=_ends.End(link.UNNAMED, link.UNNAMED)),
            [],
            [("link", "", "v0"), ("link", link.UNNAMED, link.UNNAMED)],
        ),
        (netns.Value("red"), [], [("netns", "", "red"), ("link", "red", "lo")]),
        (VALUES[4], [], [("existing_link", "red", "eth1"), ("link", "", "eth1")]),
        (
            port.Value("v0", "red", "br0"),
            [("link", "red", "v0"), ("link", "red", "br0")],
            [("port", "red", "v0")],
        ),
        (port.Value("v0", "red", ""), [("link", "red", "v0")], [("port", "red", "v0")]),
        (
            sysctl.Value("net/ipv4/conf/all/rp_filter", "", "1"),
            [],
            [("sysctl", "", "net/ipv4/conf/all/rp_filter")],
        ),
        (
            sysctl.Value("net/ipv4/conf/eth0.7/rp_filter", "red", "1"),
            [("netns", "", "red"), ("link", "red", "eth0.7")],
            [("sysctl", "red", "net/ipv4/conf/eth0.7/rp_filter")],
        ),
        (
            route.Value("10.0.0.0/8", "red", 7, 5, "blackhole"),
            [("netns", "", "red")],
            [("route", "red", "10.0.0.0/8 table 7 metric 5")],
        ),
        (
            address.Value("v0", "red", "fd00::1", 64),
            [("link", "red", "v0")],
            [("address", "red", "v0 fd00::1")],
        ),
        (
            sysctl_file.Value("edge", "a/b", "1"),
            [],
            [("sysctl_file", "", "/etc/sysctl.d/60-cnf-ebpf-edge.conf a/b")],
        ),
    ],
)
def test_what_a_value_needs_and_provides(value, needs, provides):
    assert [tuple(key) for key in value.needs()] == needs
    assert [tuple(key) for key in value.provides()] == provides
