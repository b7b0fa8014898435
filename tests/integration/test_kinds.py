# SPDX-License-Identifier: GPL-3.0-or-later
"""Each kind of resource in four steps and gone again, with what was made read by iproute2; and equal spellings are equal."""

from __future__ import annotations

import typing as t

import pytest
from sandbox import Sandbox
from steps import Recycled, assert_holds, assert_same, converged, four_steps, removed, settled

# What the host has before: a device of somebody else's with both families, in the host and in a namespace.
HOST = """
ip link add nic0 address 02:00:00:00:00:a0 type veth peer name far0 address 02:00:00:00:00:a1
ip link set nic0 up; ip link set far0 up
ip address add 192.0.2.1/24 dev nic0
ip address add 2001:db8::1/64 dev nic0 nodad
ip netns add site
ip -n site link set lo up
ip -n site link add in0 type veth peer name in1
ip -n site link set in0 up; ip -n site link set in1 up
ip -n site address add 192.0.2.1/24 dev in0
ip -n site address add 2001:db8::1/64 dev in0 nodad
"""

PAIR = {
    "name": "nk0",
    "mtu": 1400,
    "addresses": ["10.0.0.1/24", "fd00::1/64"],
    "peer": {
        "name": "eth0",
        "netns": "ns1",
        "mtu": 1300,
        "up": False,
        "addresses": ["10.0.0.2/24", "fd00::2/64"],
    },
}


class Case(t.NamedTuple):
    """A document, the actions it takes, and what `[netns:]ip words` shall then show (a subset of the fields)."""

    document: t.Dict[str, t.Any]
    actions: t.List[str]
    look: t.Dict[str, t.Any]


def addresses(*rows: t.Dict[str, t.Any]) -> t.List[t.Dict[str, t.Any]]:
    return [{"addr_info": list(rows)}]


CASES: t.Dict[str, Case] = {
    "netns": Case(
        {"netns": [{"name": "ns1"}, {"name": "ns2", "lo_up": False}]},
        ["create netns ns1 (missing)", "create netns ns2 (missing)"],
        {"ns1:link show up": [{"ifname": "lo"}], "ns2:link show up": [], "ns2:link": [{"ifname": "lo"}]},
    ),
    "netkit_link falling back to veth": Case(
        {"netns": [{"name": "ns1"}], "netkit_link": [{**PAIR, "fallback": "veth"}]},
        [
            "create netns ns1 (missing)",
            "create link nk0 (missing)",
            "create address nk0 10.0.0.1/24 (missing)",
            "create address nk0 fd00::1 (missing)",
            "create address eth0 10.0.0.2/24 in netns ns1 (missing)",
            "create address eth0 fd00::2 in netns ns1 (missing)",
        ],
        {
            "-d link show nk0": [{"mtu": 1400, "linkinfo": {"info_kind": "veth"}}],
            "ns1:-d link show eth0": [{"mtu": 1300, "operstate": "DOWN", "linkinfo": {"info_kind": "veth"}}],
            "ns1:link show up dev eth0": [],
            "-4 address show nk0": addresses({"local": "10.0.0.1", "prefixlen": 24, "scope": "global"}),
            "-6 address show nk0 scope global": addresses({"local": "fd00::1", "prefixlen": 64}),
            "ns1:-4 address show eth0": addresses({"local": "10.0.0.2", "prefixlen": 24}),
        },
    ),
    "link veth inside one namespace": Case(
        {
            "link": [
                {
                    "name": "v0",
                    "netns": "site",
                    "kind": "veth",
                    "mac": "02-00-00-00-00-0A",
                    "up": False,
                    "peer": {"name": "v1", "netns": "site", "mac": "02:00:00:00:00:0b", "mtu": 9000},
                }
            ]
        },
        ["create link v0 in netns site (missing)"],
        {
            "site:link show v0": [
                {"address": "02:00:00:00:00:0a", "link": "v1", "mtu": 1500, "operstate": "DOWN"}
            ],
            "site:link show v1": [
                {"address": "02:00:00:00:00:0b", "link": "v0", "mtu": 9000, "altnames": ...}
            ],
        },
    ),
    "link veth between two namespaces": Case(
        {
            "netns": [{"name": "ns1"}],
            "link": [{"name": "v0", "netns": "site", "kind": "veth", "peer": {"name": "v0", "netns": "ns1"}}],
        },
        ["create netns ns1 (missing)", "create link v0 in netns site (missing)"],
        {
            "site:link show v0": [{"operstate": "UP"}],
            "ns1:link show v0": [{"operstate": "UP"}],
            "link": [{}] * 3,
        },
    ),
    "link bridge with ports": Case(
        {
            "link": [
                {
                    "name": "br0",
                    "kind": "bridge",
                    "stp": True,
                    "ageing_time": 100,
                    "forward_delay": 4,
                    "ports": ["v0"],
                },
                {"name": "v0", "kind": "veth", "peer": {"name": "v1", "master": "br1"}},
                {"name": "br1", "kind": "bridge", "mac": "02:00:00:00:00:0c", "addresses": ["10.9.0.1/24"]},
            ]
        },
        [
            "create link br0 (missing)",
            "create link v0 (missing)",
            "create link br1 (missing)",
            "create port v0 (missing)",
            "create port v1 (missing)",
            "create address br1 10.9.0.1/24 (missing)",
        ],
        {
            "-d link show br0": [
                {
                    "linkinfo": {
                        "info_kind": "bridge",
                        "info_data": {"stp_state": 1, "ageing_time": 10000, "forward_delay": 400},
                    }
                }
            ],
            "-d link show br1": [
                {"address": "02:00:00:00:00:0c", "linkinfo": {"info_data": {"stp_state": 0}}}
            ],
            "link show v0": [{"master": "br0"}],
            "link show v1": [{"master": "br1"}],
        },
    ),
    "link vxlan over IPv4": Case(
        {
            "link": [
                {
                    "name": "vx4",
                    "kind": "vxlan",
                    "vni": 42,
                    "local": "192.0.2.1",
                    "remote": "192.0.2.9",
                    "learning": False,
                    "ttl": 9,
                    "parent": "nic0",
                    "mtu": 1450,
                }
            ]
        },
        ["create link vx4 (missing)"],
        {
            "-d link show vx4": [
                {
                    "mtu": 1450,
                    "linkinfo": {
                        "info_kind": "vxlan",
                        "info_data": {
                            "id": 42,
                            "port": 4789,
                            "local": "192.0.2.1",
                            "remote": "192.0.2.9",
                            "learning": False,
                            "ttl": 9,
                            "link": "nic0",
                        },
                    },
                }
            ]
        },
    ),
    "link vxlan over IPv6 in a namespace": Case(
        {
            "link": [
                {
                    "name": "vx6",
                    "netns": "site",
                    "kind": "vxlan",
                    "vni": 0,
                    "remote": "2001:DB8::0:9",
                    "port": 8472,
                }
            ]
        },
        ["create link vx6 in netns site (missing)"],
        {
            "site:-d link show vx6": [
                {
                    "linkinfo": {
                        "info_data": {"id": 0, "port": 8472, "remote6": "2001:db8::9", "learning": True}
                    }
                }
            ]
        },
    ),
    "link macvlan": Case(
        {
            "link": [
                {"name": "mv0", "kind": "macvlan", "parent": "nic0", "mac": "02:00:00:00:00:0d"},
                {
                    "name": "mv1",
                    "netns": "site",
                    "kind": "macvlan",
                    "parent": "in0",
                    "macvlan_mode": "private",
                    "up": False,
                },
            ]
        },
        ["create link mv0 (missing)", "create link mv1 in netns site (missing)"],
        {
            "-d link show mv0": [
                {
                    "link": "nic0",
                    "address": "02:00:00:00:00:0d",
                    "linkinfo": {"info_data": {"mode": "bridge"}},
                }
            ],
            "site:-d link show mv1": [
                {"link": "in0", "operstate": "DOWN", "linkinfo": {"info_data": {"mode": "private"}}}
            ],
        },
    ),
    "link tun and tap": Case(
        {
            "link": [
                {"name": "tun0", "kind": "tun", "mtu": 1380, "addresses": ["10.8.0.1/24", "fd08::1/64"]},
                {"name": "tap0", "kind": "tap", "netns": "site", "mac": "02:00:00:00:00:0e", "up": False},
            ]
        },
        [
            "create link tun0 (missing)",
            "create link tap0 in netns site (missing)",
            "create address tun0 10.8.0.1/24 (missing)",
            "create address tun0 fd08::1 (missing)",
        ],
        {
            "-d link show tun0": [
                {"mtu": 1380, "linkinfo": {"info_data": {"type": "tun", "persist": True, "pi": False}}}
            ],
            "site:-d link show tap0": [
                {
                    "address": "02:00:00:00:00:0e",
                    "linkinfo": {"info_data": {"type": "tap", "persist": True, "pi": False}},
                }
            ],
            "site:link show up dev tap0": [],
        },
    ),
    "existing where it is": Case(
        {
            "link": [
                {
                    "name": "nic0",
                    "kind": "existing",
                    "mtu": 1400,
                    "mac": "02:00:00:00:00:bb",
                    "addresses": ["10.7.0.1/24"],
                }
            ]
        },
        [
            "change existing_link nic0 (mtu 1500 -> 1400, mac 02:00:00:00:00:a0 -> 02:00:00:00:00:bb)",
            "create address nic0 10.7.0.1/24 (missing)",
        ],
        {"link show nic0": [{"mtu": 1400, "address": "02:00:00:00:00:bb", "altnames": ...}]},
    ),
    "existing into a namespace": Case(
        {
            "link": [
                {
                    "name": "nic0",
                    "netns": "site",
                    "kind": "existing",
                    "up": True,
                    "addresses": ["10.7.0.1/24"],
                }
            ]
        },
        [
            "change existing_link nic0 in netns site (netns none -> site)",
            "create address nic0 10.7.0.1/24 in netns site (missing)",
        ],
        {
            "link": [{"ifname": "lo"}, {"ifname": "far0"}],
            "site:-4 address show nic0 up": addresses({"local": "10.7.0.1"}),
        },
    ),
    "address": Case(
        {
            "address": [
                {"dev": "nic0", "address": "10.1.0.1/24"},
                {"dev": "nic0", "address": "10.1.0.2/24"},
                {"dev": "nic0", "address": "10.2.0.1", "peer": "10.2.0.2"},
                {"dev": "lo", "address": "10.3.0.1/32", "scope": "host"},
                {"dev": "nic0", "address": "fd01::1/64", "noprefixroute": True, "nodad": True},
                {"dev": "in0", "netns": "site", "address": "fd02::1/128"},
            ]
        },
        [
            "create address nic0 10.1.0.1/24 (missing)",
            "create address nic0 10.1.0.2/24 (missing)",
            "create address nic0 10.2.0.1/32 (missing)",
            "create address lo 10.3.0.1/32 (missing)",
            "create address nic0 fd01::1 (missing)",
            "create address in0 fd02::1 in netns site (missing)",
        ],
        {
            "-4 address show nic0": addresses(
                {"local": "192.0.2.1"},
                {"local": "10.1.0.1", "prefixlen": 24},
                {"local": "10.2.0.1", "address": "10.2.0.2", "prefixlen": 32},
                {"local": "10.1.0.2", "prefixlen": 24, "secondary": True},
            ),
            "address show lo to 10.3.0.1": addresses({"local": "10.3.0.1", "scope": "host", "prefixlen": 32}),
            "-6 address show nic0 to fd01::/64": addresses(
                {"local": "fd01::1", "noprefixroute": True, "nodad": True}
            ),
            "-6 route show fd01::/64": [],
            "site:-6 address show in0 to fd02::/64": addresses({"local": "fd02::1", "prefixlen": 128}),
        },
    ),
    "route IPv4": Case(
        {
            "route": [
                {"destination": "default", "via": "192.0.2.254"},
                {"destination": "10.20.0.0/16", "dev": "nic0"},
                {
                    "destination": "10.21.0.0/16",
                    "dev": "nic0",
                    "scope": "host",
                    "source": "192.0.2.1",
                    "metric": 7,
                },
                {
                    "destination": "10.22.0.0/16",
                    "via": "203.0.113.9",
                    "dev": "nic0",
                    "onlink": True,
                    "table": "1000",
                },
                {"destination": "10.23.0.0/16", "type": "blackhole"},
                {"destination": "10.24.0.0/16", "type": "unreachable", "table": "250"},
                {"destination": "10.25.0.0/16", "type": "prohibit", "netns": "site"},
                {"destination": "10.26.0.0/16", "via": "2001:db8::9", "dev": "nic0"},
            ]
        },
        [
            "create route 0.0.0.0/0 table main metric 0 (missing)",
            "create route 10.20.0.0/16 table main metric 0 (missing)",
            "create route 10.21.0.0/16 table main metric 7 (missing)",
            "create route 10.22.0.0/16 table 1000 metric 0 (missing)",
            "create route 10.23.0.0/16 table main metric 0 (missing)",
            "create route 10.24.0.0/16 table 250 metric 0 (missing)",
            "create route 10.25.0.0/16 table main metric 0 in netns site (missing)",
            "create route 10.26.0.0/16 table main metric 0 (missing)",
        ],
        {
            "-4 -d route show proto 207": [
                {
                    "type": "unicast",
                    "dst": "default",
                    "gateway": "192.0.2.254",
                    "dev": "nic0",
                    "scope": "global",
                },
                {"type": "unicast", "dst": "10.20.0.0/16", "dev": "nic0", "scope": "link", "gateway": ...},
                {"dst": "10.21.0.0/16", "scope": "host", "prefsrc": "192.0.2.1", "metric": 7},
                {"type": "blackhole", "dst": "10.23.0.0/16", "dev": ...},
                {"dst": "10.26.0.0/16", "via": {"family": "inet6", "host": "2001:db8::9"}, "dev": "nic0"},
            ],
            "-4 route show table 1000": [
                {"dst": "10.22.0.0/16", "gateway": "203.0.113.9", "flags": ["onlink"]}
            ],
            "-4 route show table 250": [{"type": "unreachable", "dst": "10.24.0.0/16", "protocol": "207"}],
            "site:-4 route show proto 207": [{"type": "prohibit", "dst": "10.25.0.0/16"}],
        },
    ),
    "route IPv6": Case(
        {
            "route": [
                {"destination": "::/0", "via": "2001:db8::fe"},
                {"destination": "fd20::/16", "dev": "nic0", "source": "2001:db8::1"},
                {
                    "destination": "fd21::/16",
                    "via": "fd99::9",
                    "dev": "nic0",
                    "onlink": True,
                    "metric": 7,
                    "table": "1000",
                },
                {"destination": "fd22::/16", "type": "unreachable"},
                {
                    "destination": "default",
                    "family": "inet6",
                    "type": "blackhole",
                    "netns": "site",
                    "metric": 4096,
                },
            ]
        },
        [
            "create route ::/0 table main metric 1024 (missing)",
            "create route fd20::/16 table main metric 1024 (missing)",
            "create route fd21::/16 table 1000 metric 7 (missing)",
            "create route fd22::/16 table main metric 1024 (missing)",
            "create route ::/0 table main metric 4096 in netns site (missing)",
        ],
        {
            "-6 -d route show proto 207": [
                {
                    "type": "unicast",
                    "dst": "fd20::/16",
                    "dev": "nic0",
                    "prefsrc": "2001:db8::1",
                    "metric": 1024,
                },
                {"type": "unreachable", "dst": "fd22::/16"},
                {"type": "unicast", "dst": "default", "gateway": "2001:db8::fe", "dev": "nic0"},
            ],
            "-6 route show table 1000": [
                {"dst": "fd21::/16", "gateway": "fd99::9", "metric": 7, "flags": ["onlink"]}
            ],
            "site:-6 route show proto 207": [{"type": "blackhole", "dst": "default", "metric": 4096}],
        },
    ),
    "rule": Case(
        {
            "rule": [
                {"priority": 100, "source": "10.1.0.0/16", "destination": "10.2.0.0/16", "table": "100"},
                {
                    "priority": 101,
                    "iif": "nic0",
                    "oif": "later0",
                    "fwmark": "16/0xFF",
                    "table": "main",
                    "invert": True,
                },
                {
                    "priority": 102,
                    "protocol": "tcp",
                    "source_port": "1000-2000",
                    "destination_port": "443",
                    "table": "5000",
                },
                {"priority": 103, "source": "fd01::/16", "action": "prohibit"},
                {"priority": 104, "family": "inet6", "fwmark": "0x10", "table": "100", "netns": "site"},
                {"priority": 105, "action": "blackhole", "source": "198.51.100.0/24"},
                {"priority": 105, "action": "unreachable", "source": "198.51.101.0/24"},
            ]
        },
        [
            "create rule inet 100 from 10.1.0.0/16 to 10.2.0.0/16 lookup 100 (missing)",
            "create rule inet 101 not from all iif nic0 oif later0 fwmark 0x10/0xff lookup main (missing)",
            "create rule inet 102 from all ipproto tcp sport 1000-2000 dport 443 lookup 5000 (missing)",
            "create rule inet6 103 from fd01::/16 prohibit (missing)",
            "create rule inet6 104 from all fwmark 0x10 lookup 100 in netns site (missing)",
            "create rule inet 105 from 198.51.100.0/24 blackhole (missing)",
            "create rule inet 105 from 198.51.101.0/24 unreachable (missing)",
        ],
        {
            "-4 rule": [
                {"priority": 0},
                {
                    "priority": 100,
                    "src": "10.1.0.0",
                    "srclen": 16,
                    "dst": "10.2.0.0",
                    "dstlen": 16,
                    "table": "100",
                },
                {
                    "priority": 101,
                    "not": None,
                    "iif": "nic0",
                    "oif": "later0",
                    "fwmark": "0x10",
                    "fwmask": "0xff",
                },
                {"priority": 102, "ipproto": "tcp", "table": "5000", "protocol": "207"},
                {"priority": 105, "src": "198.51.100.0", "action": "blackhole"},
                {"priority": 105, "src": "198.51.101.0", "action": "unreachable"},
                {"priority": 32766},
                {"priority": 32767},
            ],
            "-6 rule": [
                {"priority": 0},
                {"priority": 103, "src": "fd01::", "srclen": 16, "action": "prohibit"},
                {"priority": 32766},
            ],
            "site:-6 rule": [
                {"priority": 0},
                {"priority": 104, "fwmark": "0x10", "table": "100"},
                {"priority": 32766},
            ],
        },
    ),
    "neighbor": Case(
        {
            "neighbor": [
                {"dev": "nic0", "address": "192.0.2.9", "mac": "02-00-00-00-00-99"},
                {"dev": "nic0", "address": "2001:DB8::99", "mac": "02:00:00:00:00:9A"},
                {"dev": "nic0", "address": "192.0.2.10", "managed": True},
                {"dev": "in0", "netns": "site", "address": "2001:db8::10", "managed": True},
            ]
        },
        [
            "create neighbor nic0 192.0.2.9 (missing)",
            "create neighbor nic0 2001:db8::99 (missing)",
            "create neighbor nic0 192.0.2.10 (missing)",
            "create neighbor in0 2001:db8::10 in netns site (missing)",
        ],
        {
            "-4 neigh show nud permanent": [
                {"dst": "192.0.2.9", "lladdr": "02:00:00:00:00:99", "protocol": "207"}
            ],
            "-6 neigh show nud permanent": [{"dst": "2001:db8::99", "lladdr": "02:00:00:00:00:9a"}],
            "-4 neigh show to 192.0.2.10 nud all": [{"dev": "nic0", "managed": None, "protocol": "207"}],
            "site:-6 neigh show to 2001:db8::10 nud all": [{"dev": "in0", "protocol": "207"}],
        },
    ),
    "sysctl_forwarding": Case(
        {
            "sysctl_forwarding": [
                {"ipv4": True, "ipv6": True},
                {"interface": "nic0", "rp_filter": "loose", "proxy_arp": True, "accept_ra": "always"},
                {
                    "interface": "in0",
                    "netns": "site",
                    "ipv6": True,
                    "ipv4": True,
                    "rp_filter": "strict",
                    "accept_ra": "never",
                },
            ]
        },
        [
            "change sysctl net/ipv4/conf/all/forwarding (value 0 -> 1)",
            "change sysctl net/ipv6/conf/all/forwarding (value 0 -> 1)",
            "change sysctl net/ipv4/conf/nic0/rp_filter (value 0 -> 2)",
            "change sysctl net/ipv4/conf/nic0/proxy_arp (value 0 -> 1)",
            "change sysctl net/ipv6/conf/nic0/accept_ra (value 1 -> 2)",
            "change sysctl net/ipv4/conf/in0/forwarding in netns site (value 0 -> 1)",
            "change sysctl net/ipv6/conf/in0/forwarding in netns site (value 0 -> 1)",
            "change sysctl net/ipv4/conf/in0/rp_filter in netns site (value 0 -> 1)",
            "change sysctl net/ipv6/conf/in0/accept_ra in netns site (value 1 -> 0)",
        ],
        {},
    ),
}


def ip(box: Sandbox, words: str) -> t.Any:
    """`netns:words` or `words` as JSON, without the empty objects that iproute2 prints for what a filter left out."""
    netns, _colon, rest = (
        words.partition(":") if words.split(":")[0].isalnum() and ":" in words else ("", "", words)
    )
    rows = [row for row in box.ip(rest, netns) if row]
    return [
        {**row, "addr_info": [part for part in row["addr_info"] if part]} if "addr_info" in row else row
        for row in rows
    ]


@pytest.fixture(scope="module")
def hosts() -> t.Iterator[Recycled]:
    with Recycled(HOST) as recycled:
        yield recycled


@pytest.fixture
def host(hosts: Recycled) -> t.Iterator[Sandbox]:
    """A host that the test gives back as it was."""
    yield from hosts.use()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_made_as_foretold_once_and_gone_without_trace(host: Sandbox, case: Case) -> None:
    before = host.state()
    done = four_steps(host, case.document)
    assert done["actions"] == case.actions
    for words, expected in case.look.items():
        assert_holds(ip(host, words), expected, words)
    gone = removed(host)
    assert gone["changed"]
    assert gone["after"].keys() <= {
        "existing_link",
        "sysctl",
        "address",
    }  # what was borrowed is there again, and what was on it
    assert_same(host.state(), before)
    assert host.sh("ls -A /var/lib/cnf-ebpf").split() == ["lock"]


def test_forwarding_values_of_all_interfaces_and_of_one(host: Sandbox) -> None:
    converged(host, CASES["sysctl_forwarding"].document)
    root, site = host.sysctls(), host.sysctls("site")
    for family in ("ipv4", "ipv6"):
        assert {
            root[f"{family}/conf/{name}/forwarding"] for name in ("all", "default", "lo", "nic0", "far0")
        } == {"1"}
        assert {name: site[f"{family}/conf/{name}/forwarding"] for name in ("all", "in0", "in1")} == {
            "all": "0",
            "in0": "1",
            "in1": "0",
        }
    assert [root[f"ipv4/conf/nic0/{field}"] for field in ("rp_filter", "proxy_arp")] == ["2", "1"]
    assert [root["ipv6/conf/nic0/accept_ra"], site["ipv6/conf/in0/accept_ra"]] == ["2", "0"]
    assert [root["ipv4/conf/far0/rp_filter"], root["ipv6/conf/far0/accept_ra"]] == ["0", "1"]
    removed(host)


def test_persistent_values_are_in_one_file_below_sysctl_d(box: Sandbox) -> None:
    box.sh("ls -l --time-style=full-iso /etc/sysctl.conf > /run/netns/.before 2>&1 || true")
    before = box.state()
    document = {
        "sysctl_forwarding": [
            {"ipv4": True, "persist": True},
            {"interface": "lo", "rp_filter": "loose", "persist": True},
            {"ipv6": True},
        ]
    }
    assert four_steps(box, document)["actions"] == [
        "change sysctl net/ipv4/conf/all/forwarding (value 0 -> 1)",
        "change sysctl net/ipv6/conf/all/forwarding (value 0 -> 1)",
        "change sysctl net/ipv4/conf/lo/rp_filter (value 0 -> 2)",
        "create sysctl_file /etc/sysctl.d/60-cnf-ebpf-edge.conf net/ipv4/conf/all/forwarding (missing)",
        "create sysctl_file /etc/sysctl.d/60-cnf-ebpf-edge.conf net/ipv4/conf/lo/rp_filter (missing)",
    ]
    assert box.sh("stat -c '%a %U %n' /etc/sysctl.d/*") == "644 root /etc/sysctl.d/60-cnf-ebpf-edge.conf\n"
    lines = box.sh("cat /etc/sysctl.d/60-cnf-ebpf-edge.conf").splitlines()
    assert lines[0].startswith("#")
    assert lines[1:] == ["net.ipv4.conf.all.forwarding = 1", "net.ipv4.conf.lo.rp_filter = 2"]
    box.sh(
        "ls -l --time-style=full-iso /etc/sysctl.conf 2>&1 | diff - /run/netns/.before; rm /run/netns/.before"
    )
    removed(box)
    before["namespaces"] = []
    assert_same(box.state(), before)


BASE = {"link": [{"name": "nic0", "kind": "existing"}]}
SPELLINGS: t.List[t.Tuple[str, t.List[t.Dict[str, t.Any]]]] = [
    (
        "route",
        [
            {"destination": "default", "via": "192.0.2.254"},
            {"destination": "0.0.0.0/0", "via": "192.0.2.254"},
        ],
    ),
    (
        "route",
        [
            {"destination": "default", "via": "2001:db8::fe"},
            {"destination": "::/0", "via": "2001:DB8:0::FE"},
            {"destination": "default", "family": "inet6", "via": "2001:db8::fe", "metric": 1024},
            {"destination": "2001:db8::7/0", "via": "2001:db8::fe", "metric": 0},
        ],
    ),
    (
        "route",
        [
            {"destination": "10.5.0.0/16", "dev": "nic0"},
            {"destination": "10.5.9.9/16", "dev": "nic0", "table": "main"},
            {
                "destination": "10.5.0.0/255.255.0.0",
                "dev": "nic0",
                "table": "254",
                "metric": 0,
                "scope": "link",
            },
        ],
    ),
    (
        "route",
        [
            {"destination": "FD05:0::/32", "dev": "nic0", "table": 77},
            {"destination": "fd05::/32", "dev": "nic0", "table": "77", "type": "unicast"},
        ],
    ),
    (
        "rule",
        [
            {"priority": 9, "source": "10.5.0.0/16", "table": "254"},
            {"priority": 9, "source": "10.5.9.9/16", "table": "main", "action": "lookup"},
            {"priority": "9", "source": "10.5.0.0/16", "destination": "all", "table": 254, "family": "inet"},
        ],
    ),
    (
        "rule",
        [
            {
                "priority": 9,
                "source": "FD05:0::1/16",
                "fwmark": "16",
                "destination_port": "80-80",
                "table": "7",
            },
            {
                "priority": 9,
                "source": "fd05::/16",
                "fwmark": "0x10/0xFFFFFFFF",
                "destination_port": 80,
                "table": "7",
            },
        ],
    ),
    (
        "address",
        [
            {"dev": "nic0", "address": "FD00:0::1/64"},
            {"dev": "nic0", "address": "fd00::1/64"},
            {"dev": "nic0", "address": "fd00:0000::0001/64"},
        ],
    ),
    ("address", [{"dev": "nic0", "address": "10.5.0.1/32"}, {"dev": "nic0", "address": "10.5.0.1"}]),
    (
        "neighbor",
        [
            {"dev": "nic0", "address": "2001:db8::9", "mac": "02:00:00:00:00:0f"},
            {"dev": "nic0", "address": "2001:DB8:0::9", "mac": "02-00-00-00-00-0F"},
        ],
    ),
    (
        "link",
        [
            {"name": "vx", "kind": "vxlan", "vni": 5, "remote": "2001:DB8:0::9", "mac": "02-00-00-00-00-0F"},
            {
                "name": "vx",
                "kind": "vxlan",
                "vni": "5",
                "remote": "2001:db8::9",
                "port": 4789,
                "mac": "02:00:00:00:00:0f",
            },
        ],
    ),
    (
        "sysctl_forwarding",
        [{"ipv4": True}, {"ipv4": "yes", "interface": "all"}, {"ipv4": 1, "netns": ""}],
    ),
    ("netns", [{"name": "ns1"}, {"name": "ns1", "lo_up": "yes"}, {"name": "ns1", "state": "present"}]),
]


@pytest.mark.parametrize(
    ("section", "items"), SPELLINGS, ids=[f"{row[0]} {row[1][0]}"[:50] for row in SPELLINGS]
)
def test_another_spelling_of_the_same_is_no_change(
    host: Sandbox, section: str, items: t.List[t.Dict[str, t.Any]]
) -> None:
    assert len(converged(host, {section: items[:1]})["actions"]) == 1
    before = host.state()
    for item in items[1:]:
        settled(host, {section: [item]})
    assert_same(host.state(), before)
    removed(host)


DIFFERENT = [
    (
        "route",
        {"destination": "10.5.0.0/16", "dev": "nic0"},
        {"destination": "10.5.0.0/16", "via": "192.0.2.9"},
        1,
    ),
    (
        "route",
        {"destination": "10.5.0.0/16", "dev": "nic0"},
        {"destination": "10.5.0.0/16", "type": "blackhole"},
        1,
    ),
    (
        "route",
        {"destination": "10.5.0.0/16", "dev": "nic0"},
        {"destination": "10.5.0.0/16", "dev": "nic0", "metric": 5},
        2,
    ),
    (
        "route",
        {"destination": "fd05::/16", "dev": "nic0"},
        {"destination": "fd05::/16", "via": "2001:db8::9"},
        1,
    ),
    (
        "route",
        {"destination": "fd05::/16", "type": "blackhole"},
        {"destination": "fd05::/16", "dev": "nic0"},
        1,
    ),
    ("rule", {"priority": 9, "table": "7"}, {"priority": 9, "table": "8"}, 2),
    ("address", {"dev": "nic0", "address": "10.5.0.1/24"}, {"dev": "nic0", "address": "10.5.0.1/25"}, 2),
    ("address", {"dev": "nic0", "address": "fd05::1/64"}, {"dev": "nic0", "address": "fd05::1/65"}, 1),
    (
        "neighbor",
        {"dev": "nic0", "address": "192.0.2.9", "managed": True},
        {"dev": "nic0", "address": "192.0.2.9", "mac": "02:00:00:00:00:0f"},
        1,
    ),
    (
        "neighbor",
        {"dev": "nic0", "address": "192.0.2.9", "mac": "02:00:00:00:00:0f"},
        {"dev": "nic0", "address": "192.0.2.9", "managed": True},
        1,
    ),
    (
        "link",
        {"name": "br0", "kind": "bridge", "stp": True},
        {"name": "br0", "kind": "bridge", "stp": False},
        1,
    ),
    (
        "link",
        {"name": "mv", "kind": "macvlan", "parent": "nic0"},
        {"name": "mv", "kind": "macvlan", "parent": "nic0", "macvlan_mode": "vepa"},
        1,
    ),
    (
        "link",
        {"name": "vx", "kind": "vxlan", "vni": 5, "remote": "192.0.2.9"},
        {"name": "vx", "kind": "vxlan", "vni": 5, "remote": "192.0.2.8"},
        1,
    ),
    ("link", {"name": "t", "kind": "tun"}, {"name": "t", "kind": "tun", "mtu": 1300, "up": False}, 1),
    (
        "sysctl_forwarding",
        {"interface": "nic0", "rp_filter": "loose"},
        {"interface": "nic0", "rp_filter": "strict"},
        1,
    ),
    ("netns", {"name": "ns1"}, {"name": "ns1", "lo_up": False}, 1),
]


@pytest.mark.parametrize(
    ("section", "first", "second", "count"),
    DIFFERENT,
    ids=[f"{number} {row[0]}" for number, row in enumerate(DIFFERENT)],
)
def test_a_changed_item_is_changed_in_as_few_actions(
    host: Sandbox, section: str, first: t.Dict[str, t.Any], second: t.Dict[str, t.Any], count: int
) -> None:
    before = host.state()
    for item in (first, second, first):
        predicted = converged(host, {section: [item]}, check=True)
        done = converged(host, {section: [item]})
        assert predicted["actions"] == done["actions"]
        assert predicted["after"] == done["after"]
        assert len(done["actions"]) == (1 if done["generation"] == 1 else count)
        settled(host, {section: [item]})
    removed(host)
    assert_same(host.state(), before)


def test_forwarding_warns_where_router_advertisements_are_in_use(box: Sandbox) -> None:
    box.sh("ip link add ra0 type veth peer name ra1; ip link set ra0 up; ip link set ra1 up")
    box.sh("ip -6 route add 2001:db8::/32 dev ra0 proto ra")
    document = {"sysctl_forwarding": [{"ipv6": True}]}
    notes = box.topology(document, check=True)["notes"]
    assert len(notes) == 1 and "ra0 has routes from router advertisements" in notes[0]
    document["sysctl_forwarding"].append({"interface": "ra0", "accept_ra": "always"})
    assert box.topology(document, check=True)["notes"] == []
