# SPDX-License-Identifier: GPL-3.0-or-later
"""Exact bytes of requests: the same from every release of pyroute2 that we support. Layouts: linux/rtnetlink.h, little endian."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("pyroute2", reason="requests are encoded by pyroute2, which is not installed")
if sys.byteorder != "little":
    pytest.skip("the recorded bytes are of a little-endian host", allow_module_level=True)

from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import messages


def kind(name, *data):
    return ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", name), ("IFLA_INFO_DATA", {"attrs": list(data)})]})


RULE = {"family": 2, "tos": 0, "table": 0, "action": 1, "flags": 2, "src_len": 24, "dst_len": 16}
ROUTE = {
    "family": 2,
    "dst_len": 16,
    "src_len": 0,
    "tos": 0,
    "table": 254,
    "proto": 207,
    "scope": 0,
    "type": 1,
    "flags": 4,
}

CASES = {
    "netkit pair with its peer in another namespace": (
        lambda: messages.link(
            [
                ("IFLA_IFNAME", "nk0"),
                ("IFLA_MTU", 1400),
                kind(
                    "netkit",
                    ("IFLA_NETKIT_MODE", 1),
                    ("IFLA_NETKIT_POLICY", 2),
                    ("IFLA_NETKIT_HEADROOM", 64),
                    ("IFLA_NETKIT_PEER_INFO", {"attrs": [("IFLA_IFNAME", "nk1"), ("IFLA_NET_NS_FD", 7)]}),
                ),
            ],
            up=True,
        ),
        (
            "00000000000000000100000001000000080003006e6b30000800040078050000500012000b0001006e65746b69740000"
            "400002000800050001000000080003000200000006000800400000002400010000000000000000000000000000000000"
            "080003006e6b310008001c0007000000"
        ),
    ),
    "veth pair": (
        lambda: messages.link(
            [
                ("IFLA_IFNAME", "v0"),
                ("IFLA_ADDRESS", "02:00:00:00:00:01"),
                kind("veth", ("VETH_INFO_PEER", {"attrs": [("IFLA_IFNAME", "v1"), ("IFLA_MTU", 1400)]})),
            ]
        ),
        (
            "0000000000000000000000000000000007000300763000000a0001000200000000010000380012000900010076657468"
            "0000000028000200240001000000000000000000000000000000000007000300763100000800040078050000"
        ),
    ),
    "link by index, down": (
        lambda: messages.link([], 5, up=False),
        "00000000050000000000000001000000",
    ),
    "altname": (
        lambda: messages.link(
            [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", "cnf-edge-0123456789ab")]})], 5
        ),
        "00000000050000000000000000000000200034801a003500636e662d656467652d303132333435363738396162000000",
    ),
    "IPv4 address with our protocol number": (
        lambda: messages.address(
            2, 24, 5, 0, [("IFA_LOCAL", "10.0.0.1"), ("IFA_ADDRESS", "10.0.0.1"), ("IFA_PROTO", 207)]
        ),
        "0218000005000000080002000a000001080001000a00000105000b00cf000000",
    ),
    "IPv6 address with flags and protocol": (
        lambda: messages.address(
            10,
            64,
            5,
            0,
            [("IFA_LOCAL", "fd00::1"), ("IFA_ADDRESS", "fd00::1"), ("IFA_FLAGS", 0x202), ("IFA_PROTO", 207)],
        ),
        (
            "0a4000000500000014000200fd00000000000000000000000000000114000100fd000000000000000000000000000001"
            "080008000202000005000b00cf000000"
        ),
    ),
    "managed neighbour": (
        lambda: messages.neighbor(
            10, 5, 0, 0, [("NDA_DST", "fd00::5"), ("NDA_FLAGS_EXT", 1), ("NDA_PROTOCOL", 207)]
        ),
        "0a000000050000000000000014000100fd00000000000000000000000000000508000f000100000005000c00cf000000",
    ),
    "permanent neighbour": (
        lambda: messages.neighbor(
            2,
            5,
            0x80,
            0,
            [("NDA_DST", "10.0.0.5"), ("NDA_LLADDR", "02:00:00:00:00:99"), ("NDA_PROTOCOL", 207)],
        ),
        "020000000500000080000000080001000a0000050a000200020000000099000005000c00cf000000",
    ),
    "rule with ports": (
        lambda: messages.rule(
            RULE,
            [
                ("FRA_PRIORITY", 100),
                ("FRA_SRC", "10.0.0.0"),
                ("FRA_DST", "10.1.0.0"),
                ("FRA_TABLE", 1000),
                ("FRA_IIFNAME", "lo"),
                ("FRA_FWMARK", 16),
                ("FRA_FWMASK", 255),
                ("FRA_IP_PROTO", 6),
                ("FRA_SPORT_RANGE", "443:443"),
                ("FRA_DPORT_RANGE", "1000:2000"),
                ("FRA_PROTOCOL", 207),
            ],
        ),
        (
            "0210180000000001020000000800060064000000080002000a000000080001000a01000008000f00e803000007000300"
            "6c6f000008000a001000000008001000ff000000050016000600000008001700bb01bb0108001800e803d00705001500"
            "cf000000"
        ),
    ),
    "IPv4 route via an IPv6 next hop": (
        lambda: messages.route(
            ROUTE,
            [
                ("RTA_TABLE", 254),
                ("RTA_DST", "10.7.0.0"),
                ("RTA_OIF", 5),
                ("RTA_VIA", {"family": 10, "addr": "fd00::9"}),
            ],
        ),
        (
            "02100000fecf00010400000008000f00fe000000080001000a0700000800040005000000160012000a00fd0000000000"
            "000000000000000000090000"
        ),
    ),
    "IPv6 route in a table above 255": (
        lambda: messages.route(
            {**ROUTE, "family": 10, "dst_len": 48, "flags": 0},
            [
                ("RTA_TABLE", 1000),
                ("RTA_DST", "fd07::"),
                ("RTA_PRIORITY", 1024),
                ("RTA_OIF", 5),
                ("RTA_PREFSRC", "fd00::1"),
                ("RTA_GATEWAY", "fd00::9"),
            ],
        ),
        (
            "0a300000fecf00010000000008000f00e803000014000100fd0700000000000000000000000000000800060000040000"
            "080004000500000014000700fd00000000000000000000000000000114000500fd000000000000000000000000000009"
        ),
    ),
    "bridge": (
        lambda: messages.link(
            [("IFLA_IFNAME", "br0"), kind("bridge", ("IFLA_BR_STP_STATE", 1), ("IFLA_BR_AGEING_TIME", 30000))]
        ),
        (
            "000000000000000000000000000000000800030062723000240012000b00010062726964676500001400020008000500"
            "010000000800040030750000"
        ),
    ),
    "vxlan over IPv6": (
        lambda: messages.link(
            [
                ("IFLA_IFNAME", "vx0"),
                kind(
                    "vxlan",
                    ("IFLA_VXLAN_ID", 42),
                    ("IFLA_VXLAN_LOCAL6", "fd00::1"),
                    ("IFLA_VXLAN_PORT", 4789),
                    ("IFLA_VXLAN_LEARNING", 0),
                ),
            ]
        ),
        (
            "000000000000000000000000000000000800030076783000400012000a00010076786c616e0000003000020008000100"
            "2a00000014001100fd00000000000000000000000000000106000f0012b500000500070000000000"
        ),
    ),
    "vlan 802.1ad": (
        lambda: messages.link(
            [
                ("IFLA_IFNAME", "vl7"),
                ("IFLA_LINK", 3),
                kind("vlan", ("IFLA_VLAN_ID", 7), ("IFLA_VLAN_PROTOCOL", 0x88A8)),
            ]
        ),
        (
            "0000000000000000000000000000000008000300766c370008000500030000002400120009000100766c616e00000000"
            "1400020006000100070000000600050088a80000"
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_request_has_exactly_these_bytes(name):
    build, expected = CASES[name]
    assert build().hex() == expected


def test_state_is_left_alone_unless_it_is_told():
    flags = {up: messages.link([], 1, up=up)[8:16].hex() for up in (None, True, False)}
    assert flags == {None: "0000000000000000", True: "0100000001000000", False: "0000000001000000"}


def test_numbers_that_pyroute2_counts_are_written_out():
    assert messages._explicit([("A", "none"), ("B", "uint8")]) == [(0, "A", "none"), (1, "B", "uint8")]
    assert messages._explicit([(7, "A", "none")]) == [(7, "A", "none")]


def test_a_class_that_knows_all_attributes_is_taken_as_it_is():
    class Message:
        nla_map = (("A", "none"), ("B", "uint8"))

    assert messages._extended(Message, [(1, "B", "uint8")]) is Message
    assert messages._extended(Message, [(9, "C", "uint32")]).nla_map == (
        (0, "A", "none"),
        (1, "B", "uint8"),
        (9, "C", "uint32"),
    )
