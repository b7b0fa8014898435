# SPDX-License-Identifier: GPL-3.0-or-later
"""Items of each section: what becomes of them, and the exact place and words of a refusal."""

from __future__ import annotations

import pytest
from fakes import parsed, with_defaults

from ansible_collections.cnf.ebpf.plugins.module_utils._engine import model
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import Claim, Desired, Key
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import KINDS, SECTIONS, gather, link, netns

PEER = {"name": "v1"}


def parse(section, item, path="it"):
    spec = SECTIONS[section].ARGUMENT_SPEC
    return SECTIONS[section].parse(with_defaults(spec, item), path, "edge")


def described(section, item):
    return {str(found.key): model.describe(found.value) for found in parse(section, item)}


ACCEPTED = {
    "namespace": ("netns", {"name": "red"}, {"netns red": {"name": "red", "lo_up": True, "owner": "edge"}}),
    "veth with belongings": (
        "link",
        {
            "name": "v0",
            "kind": "veth",
            "master": "br0",
            "peer": {"name": "v1", "netns": "red", "addresses": ["fd00::1"]},
        },
        {
            "link v0": {
                "name": "v0",
                "netns": "",
                "kind": "veth",
                "up": True,
                "peer": {"name": "v1", "netns": "red", "up": True},
                "owner": "edge",
            },
            "port v0": {"link": "v0", "netns": "", "master": "br0"},
            "address v1 fd00::1 in netns red": {
                "dev": "v1",
                "netns": "red",
                "address": "fd00::1",
                "prefixlen": 128,
                "owner": "*",
            },
        },
    ),
    "bridge with ports": (
        "link",
        {"name": "br0", "netns": "red", "kind": "bridge", "ports": ["a", "b"], "stp": False},
        {
            "link br0 in netns red": {
                "name": "br0",
                "netns": "red",
                "kind": "bridge",
                "up": True,
                "options": {"stp": False},
                "owner": "edge",
            },
            "port a in netns red": {"link": "a", "netns": "red", "master": "br0"},
            "port b in netns red": {"link": "b", "netns": "red", "master": "br0"},
        },
    ),
    "existing link keeps what is not declared": (
        "link",
        {"name": "eth1", "kind": "existing", "netns": "red", "mtu": 9000},
        {
            "existing_link eth1 in netns red": {
                "name": "eth1",
                "netns": "red",
                "mtu": 9000,
                "id": ("red", "eth1"),
            }
        },
    ),
    "vxlan with defaults": (
        "link",
        {"name": "vx0", "kind": "vxlan", "vni": 0, "remote": "FD00:0::2"},
        {
            "link vx0": {
                "name": "vx0",
                "netns": "",
                "kind": "vxlan",
                "up": True,
                "options": {"vni": 0, "remote": "fd00::2", "port": 4789},
                "owner": "edge",
            }
        },
    ),
    "netkit": (
        "netkit_link",
        {"name": "nk0", "mode": "l2", "mac": "02-00-00-00-00-01", "policy": "blackhole", "peer": PEER},
        {
            "link nk0": {
                "name": "nk0",
                "netns": "",
                "kind": "netkit",
                "up": True,
                "mac": "02:00:00:00:00:01",
                "options": {"mode": "l2", "policy": "blackhole"},
                "peer": {"name": "v1", "netns": "", "up": True},
                "owner": "edge",
            }
        },
    ),
    "address": (
        "address",
        {"dev": "v0", "address": "10.0.0.1/32", "peer": "10.0.0.2", "scope": "link", "noprefixroute": True},
        {
            "address v0 10.0.0.1/32": {
                "dev": "v0",
                "netns": "",
                "address": "10.0.0.1",
                "prefixlen": 32,
                "peer": "10.0.0.2",
                "scope": "link",
                "noprefixroute": True,
                "owner": "*",
            }
        },
    ),
    "managed neighbour": (
        "neighbor",
        {"dev": "v0", "address": "FD00::9", "managed": True},
        {
            "neighbor v0 fd00::9": {
                "dev": "v0",
                "netns": "",
                "address": "fd00::9",
                "managed": True,
                "owner": "*",
            }
        },
    ),
    "default route of the next hop's family": (
        "route",
        {"destination": "default", "via": "fd00::1", "table": "7"},
        {
            "route ::/0 table 7 metric 1024": {
                "destination": "::/0",
                "netns": "",
                "table": 7,
                "metric": 1024,
                "type": "unicast",
                "via": "fd00::1",
                "owner": "*",
            }
        },
    ),
    "IPv4 default over an IPv6 next hop": (
        "route",
        {"destination": "default", "family": "inet", "via": "fd00::1", "dev": "v0", "onlink": True},
        {
            "route 0.0.0.0/0 table main metric 0": {
                "destination": "0.0.0.0/0",
                "netns": "",
                "table": 254,
                "metric": 0,
                "type": "unicast",
                "via": "fd00::1",
                "dev": "v0",
                "onlink": True,
                "owner": "*",
            }
        },
    ),
    "blackhole": (
        "route",
        {"destination": "10.1.2.3/8", "type": "blackhole", "metric": 0},
        {
            "route 10.0.0.0/8 table main metric 0": {
                "destination": "10.0.0.0/8",
                "netns": "",
                "table": 254,
                "metric": 0,
                "type": "blackhole",
                "via": "",
                "owner": "*",
            }
        },
    ),
    "forwarding in a namespace": (
        "sysctl_forwarding",
        {"netns": "red", "ipv4": True, "rp_filter": "loose"},
        {
            "sysctl net/ipv4/conf/all/forwarding in netns red": {
                "name": "net/ipv4/conf/all/forwarding",
                "netns": "red",
                "value": "1",
            },
            "sysctl net/ipv4/conf/all/rp_filter in netns red": {
                "name": "net/ipv4/conf/all/rp_filter",
                "netns": "red",
                "value": "2",
            },
        },
    ),
    "forwarding kept over a boot": (
        "sysctl_forwarding",
        {"interface": "eth0.7", "ipv6": False, "persist": True},
        {
            "sysctl net/ipv6/conf/eth0.7/forwarding": {
                "name": "net/ipv6/conf/eth0.7/forwarding",
                "netns": "",
                "value": "0",
            },
            "sysctl_file /etc/sysctl.d/60-cnf-ebpf-edge.conf net/ipv6/conf/eth0.7/forwarding": {
                "topology": "edge",
                "name": "net/ipv6/conf/eth0.7/forwarding",
                "value": "0",
                "owner": "edge",
            },
        },
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_item_becomes_values(name):
    section, item, expected = ACCEPTED[name]
    assert described(section, item) == expected


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ({"priority": 100, "table": "main"}, "inet 100 from all lookup main"),
        ({"priority": 1, "table": "7", "family": "inet6"}, "inet6 1 from all lookup 7"),
        ({"priority": 1, "table": "7", "source": "fd00::1"}, "inet6 1 from fd00::1/128 lookup 7"),
        ({"priority": 1, "table": "7", "source": "0.0.0.0/0"}, "inet 1 from all lookup 7"),
        ({"priority": 1, "table": "7", "source": "all"}, "inet 1 from all lookup 7"),
        (
            {"priority": 1, "action": "prohibit", "invert": True, "iif": "v0"},
            "inet 1 not from all iif v0 prohibit",
        ),
        (
            {
                "priority": 1,
                "table": "7",
                "protocol": "tcp",
                "destination_port": "80-80",
                "fwmark": "0xff/0xff",
            },
            "inet 1 from all fwmark 0xff/0xff ipproto tcp dport 80 lookup 7",
        ),
    ],
)
def test_rule_is_its_own_identity(item, key):
    (found,) = parse("rule", item)
    assert found.key == Key("rule", "", key)


REFUSED = [
    ("netns", {"name": ""}, "it.name", "a namespace needs a name"),
    ("netkit_link", {"name": "nk0"}, "it.peer", "missing; a pair needs the name of its other end"),
    (
        "netkit_link",
        {"name": "nk0", "peer": {"name": "nk1", "mac": "02:00:00:00:00:01"}},
        "it.peer.mac",
        "an l3 netkit has no hardware address; leave it out or use mode: l2",
    ),
    (
        "netkit_link",
        {"name": "nk0", "peer": PEER, "headroom": 65536},
        "it.headroom",
        "65536 is out of range; give 0 to 65535 bytes",
    ),
    (
        "netkit_link",
        {"name": "nk0", "peer": {"name": "nk1", "addresses": ["10.0.0.1/24", "x"]}},
        "it.peer.addresses[1]",
        "'x' is not an address with prefix length, such as 10.0.0.1/24 or fd00::1/64",
    ),
    (
        "link",
        {"name": "x"},
        "it.kind",
        "missing; say which kind of link to make, or existing to configure one that is there",
    ),
    ("link", {"name": "x", "kind": "veth"}, "it.peer", "missing; a veth link needs it"),
    ("link", {"name": "x", "kind": "vlan", "parent": "y"}, "it.vlan_id", "missing; a vlan link needs it"),
    ("link", {"name": "x", "kind": "dummy", "stp": True}, "it.stp", "does not apply to a dummy link"),
    (
        "link",
        {"name": "x", "kind": "vrf", "table": 7, "vni": 1},
        "it.vni",
        "does not apply to a vrf link; it takes table",
    ),
    (
        "link",
        {"name": "x", "kind": "vlan", "parent": "y", "vlan_id": 4095},
        "it.vlan_id",
        "4095 is out of range; give 1 to 4094",
    ),
    (
        "link",
        {"name": "x", "kind": "existing", "ports": ["a"]},
        "it.ports",
        "does not apply to an existing link",
    ),
    (
        "link",
        {"name": "x", "kind": "vxlan", "vni": 1 << 24},
        "it.vni",
        "16777216 is out of range; give 0 to 16777215",
    ),
    ("address", {"address": "10.0.0.1/24"}, "it.dev", "missing; it is required"),
    (
        "address",
        {"dev": "x", "address": "10.0.0.1/24", "nodad": True},
        "it.nodad",
        "applies to IPv6 only: IPv4 has no duplicate address detection; leave it out",
    ),
    (
        "address",
        {"dev": "x", "address": "fd00::1/64", "scope": "link"},
        "it.scope",
        "the kernel derives the scope of an IPv6 address from the address; leave it out",
    ),
    (
        "neighbor",
        {"dev": "x", "address": "10.0.0.1"},
        "it.mac",
        "give either mac (a permanent entry) or managed: true (the kernel resolves it)",
    ),
    (
        "neighbor",
        {"dev": "x", "address": "10.0.0.1", "mac": "02:00:00:00:00:01", "managed": True},
        "it.mac",
        "give either mac (a permanent entry) or managed: true (the kernel resolves it)",
    ),
    ("route", {}, "it.destination", "missing; it is required"),
    (
        "route",
        {"destination": "10.0.0.0/8"},
        "it",
        "a unicast route needs a next hop or a device; give via, dev or both, or another type",
    ),
    (
        "route",
        {"destination": "fd00::/8", "via": "10.0.0.1"},
        "it.via",
        "10.0.0.1 cannot be the next hop of an IPv6 route; give an IPv6 address",
    ),
    (
        "route",
        {"destination": "10.0.0.0/8", "via": "10.0.0.1", "onlink": True},
        "it.onlink",
        "needs dev: the kernel cannot look the device up for an on-link next hop",
    ),
    (
        "route",
        {"destination": "10.0.0.0/8", "type": "blackhole", "dev": "x"},
        "it.dev",
        "does not apply to a blackhole route; leave it out",
    ),
    (
        "route",
        {"destination": "10.0.0.0/8", "dev": "x", "source": "fd00::1"},
        "it.source",
        "fd00::1 is not of the destination's family; a packet has addresses of one family",
    ),
    (
        "route",
        {"destination": "10.0.0.0/8", "family": "inet6", "dev": "x"},
        "it.destination",
        "'10.0.0.0/8' is not of family inet6; correct one of the two",
    ),
    ("rule", {"priority": 1}, "it.table", "needed for action lookup, and only for it"),
    (
        "rule",
        {"priority": 1, "table": "7", "action": "blackhole"},
        "it.table",
        "needed for action lookup, and only for it",
    ),
    ("rule", {"priority": 0, "table": "7"}, "it.priority", "0 is out of range; give 1 to 4294967295"),
    (
        "rule",
        {"priority": 1, "table": "7", "source": "10.0.0.1", "destination": "fd00::1"},
        "it",
        "source, destination and family are not of one address family; correct one of them",
    ),
    (
        "sysctl_forwarding",
        {"netns": "red"},
        "it",
        "nothing to set; give one of ipv4, ipv6, rp_filter, proxy_arp, proxy_ndp, accept_ra",
    ),
    (
        "sysctl_forwarding",
        {"netns": "red", "ipv4": True, "persist": True},
        "it.persist",
        "works in the host's own namespace only; a named one does not outlive a boot",
    ),
]


@pytest.mark.parametrize(("section", "item", "path", "problem"), REFUSED)
def test_refusal_names_place_and_remedy(section, item, path, problem):
    with pytest.raises(SpecError) as caught:
        parse(section, item)
    assert (caught.value.path, caught.value.problem) == (path, problem)


def test_fallback_of_netkit_is_a_plain_veth():
    (found,) = parse("netkit_link", {"name": "nk0", "fallback": "veth", "policy": "forward", "peer": PEER})
    assert (found.value.kind, found.alternative.kind, found.alternative.options) == ("netkit", "veth", None)
    assert parse("netkit_link", {"name": "nk0", "peer": PEER})[0].alternative is None


def test_recreate_and_adopt_belong_to_the_item():
    (main,) = parse("link", {"name": "d0", "kind": "dummy", "recreate": True, "adopt": True})
    assert (main.recreate, main.adopt, main.path) == (True, True, "it")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"netns": [{"name": "red"}, {"name": "red"}]},
            "netns[1]: netns red is already declared by netns[0]; name each resource once",
        ),
        (
            {
                "link": [
                    {"name": "v0", "kind": "veth", "peer": {"name": "v1"}},
                    {"name": "v1", "kind": "dummy"},
                ]
            },
            "link[1]: link v1 is already declared by link[0]; name each resource once",
        ),
        (
            {
                "link": [{"name": "d0", "kind": "dummy", "addresses": ["fd00::1/64"]}],
                "address": [{"dev": "d0", "address": "fd00::1/48"}],
            },
            "address[0]: address d0 fd00::1 is already declared by link[0].addresses[0]; name each resource once",
        ),
        (
            {
                "link": [
                    {"name": "b", "kind": "bridge", "ports": ["p"]},
                    {"name": "p", "kind": "dummy", "master": "c"},
                ]
            },
            "link[1].master: port p is already declared by link[0].ports[0]; name each resource once",
        ),
    ],
)
def test_one_resource_declared_twice_is_refused(document, message):
    with pytest.raises(SpecError) as caught:
        parsed(document)
    assert str(caught.value) == message


def test_a_pair_whose_ends_have_one_name_is_refused():
    with pytest.raises(SpecError):
        parsed({"link": [{"name": "v0", "kind": "veth", "peer": {"name": "v0"}}]})


def test_the_same_name_in_two_namespaces_is_two_links():
    assert (
        len(
            parsed(
                {"link": [{"name": "d0", "kind": "dummy"}, {"name": "d0", "netns": "red", "kind": "dummy"}]}
            )
        )
        == 2
    )


def test_gather_keeps_the_order():
    items = [Desired(netns.Value(name), f"netns[{number}]") for number, name in enumerate("cab")]
    assert gather(items) == items


def test_keys_of_a_borrowed_link_bring_what_was_put_on_it():
    claims = {
        Key("existing_link", "red", "eth1"): Claim(),
        Key("address", "red", "eth1 10.0.0.1/24"): Claim(),
        Key("address", "red", "eth10 10.0.0.1/24"): Claim(),
        Key("port", "red", "eth1"): Claim(),
    }
    item = {"name": "eth1", "netns": "red"}
    assert link.keys(item, "link", claims) == [
        Key("existing_link", "red", "eth1"),
        Key("address", "red", "eth1 10.0.0.1/24"),
        Key("port", "red", "eth1"),
    ]
    assert link.keys(item, "link", {}) == [Key("link", "red", "eth1")]


def test_every_section_leads_to_known_kinds_and_every_kind_has_the_functions():
    assert list(SECTIONS) == [
        "netns",
        "netkit_link",
        "link",
        "sysctl_forwarding",
        "address",
        "neighbor",
        "route",
        "rule",
        "bpf_object",
        "bpf_map_entry",
        "bpf_pool",
        "bpf_policy_entry",
        "tcx_attach",
        "netkit_attach",
        "xdp_attach",
    ]
    for kind in KINDS.values():
        missing = [
            name
            for name in ("observe", "fixed", "side_effects", "apply", "commands", "to_item")
            if not hasattr(kind, name)
        ]
        assert missing == [], kind.NAME
