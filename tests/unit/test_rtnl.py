# SPDX-License-Identifier: GPL-3.0-or-later
"""Decoding what a kernel (6.18) answered; attributes that no decoder looks at were cut out of the recordings."""

from __future__ import annotations

import errno

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import rtnl
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.netlink import attribute
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import link_kinds, rule

LOOPBACK = (
    "00000403010000004900010000000000070003006c6f000008000d00e803000005001000000000000a00010000000000000000000400"
    "3e8004004180"
)
# ip link add v0 mtu 1400 type veth ...; its peer in another namespace, a bridge as master, two altnames
VETH = (
    "00000100030000000310000000000000070003007630000008000400780500000a00010002000000000100001000120009000100766574"
    "680000000008000a0004000000080025000000000008000500020000003000348"
    "01a003500636e662d656467652d303132333435363738396162000000100035007365636f6e642d6e616d6500"
)
VXLAN_DATA = (
    "080001002a00000008000200c000020208000400c00002010500050000000000050007000100000006000f0012b50000"
)


class Recorded:
    """A socket that answers dumps with recorded payloads, and queries with the first of them."""

    def __init__(self, *payloads, error=None):
        self.payloads = [bytes.fromhex(payload) for payload in payloads]
        self.error = error
        self.asked = []

    def dump(self, kind, payload):
        self.asked.append((kind, payload))
        if self.error:
            raise KernelError(self.error)
        return self.payloads

    def query(self, kind, payload):
        self.asked.append((kind, payload))
        return self.payloads[0] if self.payloads else None


def test_loopback_has_no_kind():
    assert rtnl.decode_link(bytes.fromhex(LOOPBACK)) == rtnl.LinkRecord(
        1, "lo", 0x10049, 0, "00:00:00:00:00:00", "", {}, 0, 0, None, ()
    )


def test_veth_end_with_its_peer_in_another_namespace():
    assert rtnl.decode_link(bytes.fromhex(VETH)) == rtnl.LinkRecord(
        ifindex=3,
        name="v0",
        flags=0x1003,
        mtu=1400,
        mac="02:00:00:00:00:01",
        kind="veth",
        data={},
        master=4,
        link=2,
        link_netnsid=0,
        altnames=("cnf-edge-0123456789ab", "second-name"),
    )


def test_options_of_a_vxlan_are_read_back():
    data = rtnl.attributes(bytes.fromhex(VXLAN_DATA))
    assert link_kinds.decode_options("vxlan", data) == {
        "vni": 42,
        "local": "192.0.2.1",
        "remote": "192.0.2.2",
        "port": 4789,
        "learning": True,
        "ttl": 0,
    }


def test_links_are_asked_for_without_statistics():
    netlink = Recorded(LOOPBACK, VETH)
    assert [record.name for record in rtnl.links(netlink)] == ["lo", "v0"]
    assert netlink.asked == [(18, bytes(16) + bytes.fromhex("08001d0008000000"))]


def test_a_link_is_found_by_its_altname():
    netlink = Recorded(VETH)
    assert rtnl.link_by_altname(netlink, "abc").name == "v0"
    assert netlink.asked == [(18, bytes(16) + bytes.fromhex("0800350061626300"))]
    assert rtnl.link_by_altname(Recorded(), "abc") is None


@pytest.mark.parametrize(
    ("payload", "record"),
    [
        (
            "020880fe01000000080001007f000001080002007f0000010800080080000000",
            rtnl.AddressRecord(1, 2, "127.0.0.1", "", 8, 254, 0x80, 0),
        ),
        (
            "0220800004000000080001000a090002080002000a0900010800080080000000",
            rtnl.AddressRecord(4, 2, "10.9.0.1", "10.9.0.2", 32, 0, 0x80, 0),
        ),
        (
            "0a4082000400000014000100fd0000000000000000000000000000010800080082000000",
            rtnl.AddressRecord(4, 10, "fd00::1", "", 64, 0, 0x82, 0),
        ),
        (
            "0218800005000000080002000a000001080001000a00000105000b00cf000000",
            rtnl.AddressRecord(5, 2, "10.0.0.1", "", 24, 0, 0x80, 207),
        ),
    ],
    ids=["loopback", "point to point", "IPv6 takes flags of 32 bits", "with our protocol number"],
)
def test_addresses(payload, record):
    assert rtnl.addresses(Recorded(payload)) == [record]


def test_an_address_without_ifa_address_is_left_out():
    assert rtnl.addresses(Recorded("0220800004000000")) == []


ROUTES = {
    "connected": (
        "02200000fe02fd011000000008000f00fe000000080001000a090002080007000a0900010800040004000000",
        rtnl.RouteRecord(2, "10.9.0.2", 32, 254, 2, 253, 1, 16, 4, "", 0, "10.9.0.1", False),
    ),
    "blackhole": (
        (
            "0a300000fecf00060000000008000f00fe00000014000100fd070000000000000000000000000000080006000004000008000400010000"
            "0024000c0000000000000000000000000000000000000000000000000000000000000000000500140000000000"
        ),
        rtnl.RouteRecord(10, "fd07::", 48, 254, 207, 0, 6, 0, 1, "", 1024, "", False),
    ),
    "default": (
        (
            "0a000000fe0300011000000008000f00fe000000080006000004000014000500fd000000000000000000000000000009080004000400"
            "0000"
        ),
        rtnl.RouteRecord(10, "::", 0, 254, 3, 0, 1, 16, 4, "fd00::9", 1024, "", False),
    ),
    "IPv4 over an IPv6 next hop": (
        (
            "02100000fecf00010400000008000f00fe000000080001000a0700000800040005000000160012000a00"
            "fd0000000000000000000000000000090000"
        ),
        rtnl.RouteRecord(2, "10.7.0.0", 16, 254, 207, 0, 1, 4, 5, "fd00::9", 0, "", False),
    ),
    "table above 255": (
        (
            "0a300000fccf00010000000008000f00e803000014000100fd07000000000000000000000000000008000600000400000800040005"
            "00000014000700fd000000000000000000000000000001"
        ),
        rtnl.RouteRecord(10, "fd07::", 48, 1000, 207, 0, 1, 0, 5, "", 1024, "fd00::1", False),
    ),
    "multipath": (
        "02100000fe0300010000000008000f00fe000000080001000a0800000c00090008000000",
        rtnl.RouteRecord(2, "10.8.0.0", 16, 254, 3, 0, 1, 0, 0, "", 0, "", True),
    ),
}


@pytest.mark.parametrize("name", ROUTES)
def test_routes(name):
    payload, record = ROUTES[name]
    assert rtnl.routes(Recorded(payload), record.family, record.table) == [record]


def test_route_request_filters_in_the_kernel():
    netlink = Recorded()
    rtnl.routes(netlink, 10, 1000, protocol=207, oif=5)
    assert netlink.asked == [(26, bytes.fromhex("0a00000000cf00000000000008000f00e80300000800040005000000"))]


def test_routes_of_other_lengths_and_families_are_not_decoded():
    payloads = [ROUTES["connected"][0], ROUTES["default"][0], ROUTES["blackhole"][0]]
    found = rtnl.routes(Recorded(*payloads), 10, 254, prefixlens=frozenset((48, 32)))
    assert [record.destination for record in found] == ["fd07::"]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP])
def test_a_table_or_family_that_is_not_there_has_no_routes(code):
    assert rtnl.routes(Recorded(error=code), 10, 7) == []


def test_other_errors_of_a_route_dump_are_not_hidden():
    with pytest.raises(KernelError):
        rtnl.routes(Recorded(error=errno.EPERM), 2, 254)


RULE_WITH_PORTS = (
    "02101800fc0000010200000008000f00e803000008000e00ffffffff05001500cf000000070003006c6f0000080006006400000008000a00"
    "1000000008001000ff00000008001700bb01bb01{mask}08001800e803d0070500160006000000080001000a010000080002000a000000"
)


def test_rule_with_every_selector():
    found = rtnl.rules(Recorded(RULE_WITH_PORTS.format(mask="")), 2)
    assert found == [
        rtnl.RuleRecord(
            family=2,
            source="10.0.0.0/24",
            destination="10.1.0.0/16",
            tos=0,
            action=1,
            flags=2,
            table=1000,
            priority=100,
            fwmark=16,
            fwmask=255,
            iif="lo",
            oif="",
            protocol=207,
            ip_proto=6,
            sport=(443, 443),
            dport=(1000, 2000),
            plain=True,
        )
    ]
    value = rule.observed_value("", found[0])
    assert " ".join(value.words()) == (
        "not from 10.0.0.0/24 to 10.1.0.0/16 iif lo fwmark 0x10/0xff ipproto tcp sport 443 dport 1000-2000 lookup 1000"
    )


def test_the_full_port_mask_that_newer_kernels_add_to_a_single_port_is_no_unknown_selector():
    found = rtnl.rules(Recorded(RULE_WITH_PORTS.format(mask="06001c00ffff0000")), 2)
    assert found[0].plain


def test_a_port_mask_that_is_not_full_is_something_that_we_cannot_say():
    found = rtnl.rules(Recorded(RULE_WITH_PORTS.format(mask="06001c00f0ff0000")), 2)
    assert not found[0].plain


def test_rule_with_a_tunnel_id_is_not_one_that_we_could_have_made():
    payload = "02000000fe0000010000000008000f00fe00000008000e00ffffffff050015000000000008000600650000000c000c000000000000000005"
    (found,) = rtnl.rules(Recorded(payload), 2)
    assert (found.plain, found.priority) == (False, 101)
    assert rule.observed_value("", found) is None


def test_kernel_rule_is_named_as_such():
    payload = "02000000fe0000010000000008000f00fe00000008000e00ffffffff050015000200000008000600fe7f0000"
    (found,) = rtnl.rules(Recorded(payload), 2)
    value = rule.observed_value("", found)
    assert (value.priority, value.table, value.made_by, value.owner) == (32766, 254, "the kernel", None)


def test_rules_of_another_family_are_left_out():
    assert rtnl.rules(Recorded("0a000000000000060000000008000f000000000008000600660000" + "00"), 2) == []
    assert rtnl.rules(Recorded(error=errno.EAFNOSUPPORT), 10) == []


def test_permanent_and_managed_neighbors():
    permanent = "020000000400000080000001080001000a0000050a000200020000000099000005000c00cf000000"
    managed = (
        "0a000000040000000100000114000100fd00000000000000000000000000000505000c00cf00000008000f0001000000"
    )
    assert rtnl.neighbors(Recorded(permanent, managed)) == [
        rtnl.NeighborRecord(4, 2, "10.0.0.5", "02:00:00:00:00:99", 0x80, 0, 0, 207),
        rtnl.NeighborRecord(4, 10, "fd00::5", "", 1, 0, 1, 207),
    ]


@pytest.mark.parametrize(
    ("reply", "number"), [(None, -1), (attribute(1, b"\x05\0\0\0"), 5), (attribute(1, b"\xff" * 4), -1)]
)
def test_namespace_id(reply, number):
    netlink = Recorded() if reply is None else Recorded((b"\0" * 4 + reply).hex())
    assert rtnl.nsid(netlink, 9) == number
    assert netlink.asked == [(90, bytes.fromhex("000000000800030009000000"))]


@pytest.mark.parametrize(
    ("data", "text"), [(b"\x0a\0\0\1", "10.0.0.1"), (b"\xfd" + b"\0" * 14 + b"\1", "fd00::1")]
)
def test_address_text_is_canonical(data, text):
    assert rtnl.address_text(data) == text
