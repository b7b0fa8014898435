# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of link options: words to attributes and back, and what can be changed later."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.rtnl import decode_link
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import _ends, link, link_kinds
from ansible_collections.cnf.ebpf.plugins.module_utils._resources.link_kinds import (
    KINDS,
    decode_options,
    encode_options,
)

MUTABLE = {
    ("netkit", "policy"),
    ("netkit", "peer_policy"),
    ("bridge", "stp"),
    ("bridge", "vlan_filtering"),
    ("bridge", "ageing_time"),
    ("bridge", "forward_delay"),
    ("vxlan", "remote"),
    ("vxlan", "learning"),
    ("macvlan", "macvlan_mode"),
}
OPTIONS = [(kind, name) for kind, row in KINDS.items() for name in row.options]


@pytest.mark.parametrize(
    ("kind", "name", "value", "attribute", "encoded", "payload"),
    [
        ("netkit", "mode", "l2", "IFLA_NETKIT_MODE", 0, "00000000"),
        ("netkit", "mode", "l3", "IFLA_NETKIT_MODE", 1, "01000000"),
        ("netkit", "policy", "blackhole", "IFLA_NETKIT_POLICY", 2, "02000000"),
        ("netkit", "scrub", "none", "IFLA_NETKIT_SCRUB", 0, "00000000"),
        ("netkit", "headroom", 64, "IFLA_NETKIT_HEADROOM", 64, "4000"),
        ("bridge", "stp", True, "IFLA_BR_STP_STATE", 1, "01000000"),
        ("bridge", "vlan_filtering", True, "IFLA_BR_VLAN_FILTERING", 1, "01"),
        ("bridge", "ageing_time", 300, "IFLA_BR_AGEING_TIME", 30000, "30750000"),
        ("bridge", "forward_delay", 15, "IFLA_BR_FORWARD_DELAY", 1500, "dc050000"),
        ("vlan", "vlan_id", 7, "IFLA_VLAN_ID", 7, "0700"),
        ("vlan", "vlan_protocol", "802.1ad", "IFLA_VLAN_PROTOCOL", 0x88A8, "88a8"),
        ("vxlan", "vni", 42, "IFLA_VXLAN_ID", 42, "2a000000"),
        ("vxlan", "port", 4789, "IFLA_VXLAN_PORT", 4789, "12b5"),
        ("vxlan", "local", "192.0.2.1", "IFLA_VXLAN_LOCAL", "192.0.2.1", "c0000201"),
        ("vxlan", "local", "fd00::1", "IFLA_VXLAN_LOCAL6", "fd00::1", "fd000000000000000000000000000001"),
        ("vxlan", "remote", "fd00::2", "IFLA_VXLAN_GROUP6", "fd00::2", "fd000000000000000000000000000002"),
        ("vxlan", "learning", False, "IFLA_VXLAN_LEARNING", 0, "00"),
        ("vrf", "table", 100000, "IFLA_VRF_TABLE", 100000, "a0860100"),
        ("macvlan", "macvlan_mode", "passthru", "IFLA_MACVLAN_MODE", 8, "08000000"),
    ],
)
def test_option_to_attribute_and_back(kind, name, value, attribute, encoded, payload):
    assert encode_options(kind, {name: value}) == [(attribute, encoded)]
    option = KINDS[kind].options[name]
    number = option.number6 if attribute == option.name6 else option.number
    assert decode_options(kind, {number: bytes.fromhex(payload)}) == {name: value}


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_only_what_the_kernel_can_change_is_changed_in_place(kind, name):
    before = link.Value("x0", "", kind, options={name: "had"})
    after = dataclasses.replace(before, options={name: "has"})
    assert link.fixed(before, after) == ([] if (kind, name) in MUTABLE else [name])


def test_kind_and_parent_are_fixed_while_ends_are_not():
    pair = link.Value("v0", "", "veth", True, 1500, peer=_ends.End("v1", "", True, 1500))
    assert link.fixed(pair, dataclasses.replace(pair, kind="netkit")) == ["kind"]
    assert (
        link.fixed(
            pair, dataclasses.replace(pair, mtu=9000, up=False, peer=_ends.End("v2", "red", False, 9000))
        )
        == []
    )
    vlan = link.Value("v0.7", "", "vlan", parent="v0")
    assert link.fixed(vlan, dataclasses.replace(vlan, parent="v1")) == ["parent"]


def test_what_a_new_link_has_anyway_is_not_sent():
    assert encode_options("bridge", {"vlan_filtering": False}, creating=True) == []
    assert encode_options("bridge", {"vlan_filtering": False}) == [("IFLA_BR_VLAN_FILTERING", 0)]
    assert encode_options("vxlan", {"vni": 0, "local": "", "ttl": None}) == [("IFLA_VXLAN_ID", 0)]


def test_a_word_that_we_do_not_know_is_read_as_its_number():
    assert decode_options("macvlan", {1: struct.pack("=I", 16)}) == {"macvlan_mode": "16"}


def test_kinds_without_options_have_none():
    assert decode_options("dummy", {1: b"\1\0\0\0"}) == {}
    assert decode_options("no such kind", {1: b"\1\0\0\0"}) == {}


@pytest.mark.parametrize(
    ("kind", "data", "word"),
    [
        ("", {}, "physical"),
        ("veth", {}, "veth"),
        ("tun", {3: b"\1"}, "tun"),
        ("tun", {3: b"\2"}, "tap"),
        ("netkit", {2: b"\1"}, "netkit"),
        ("netkit", {2: b"\0"}, "netkit peer"),
        ("wireguard", {}, "wireguard"),
    ],
)
def test_word_of_a_kernel_kind(kind, data, word):
    assert link_kinds.name_of_kind(kind, data) == word


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "l3", "peer_policy": "blackhole"}, "mode l3 peer policy blackhole"),
        ({"stp": True, "vlan_filtering": False}, "stp_state 1 vlan_filtering 0"),
        ({"ageing_time": 300}, "ageing_time 30000"),
        ({"vni": 42, "port": 4789, "learning": False}, "id 42 dstport 4789 nolearning"),
        ({"learning": True}, "learning"),
        ({"vlan_id": 7, "vlan_protocol": "802.1ad"}, "id 7 protocol 802.1ad"),
        ({"macvlan_mode": "bridge", "table": 7}, "mode bridge table 7"),
    ],
)
def test_spelling_of_iproute2(options, words):
    assert " ".join(link_kinds.iproute_options(options)) == words


def test_vlan_of_a_recording():
    payload = "0000010006000000021000000000000008000300766c370008000500030000002400120009000100766c616e000000001400020006000100070000000600050081000000"
    record = decode_link(bytes.fromhex(payload))
    assert (record.name, record.kind, record.link) == ("vl7", "vlan", 3)
    assert decode_options("vlan", record.data) == {"vlan_id": 7, "vlan_protocol": "802.1q"}
