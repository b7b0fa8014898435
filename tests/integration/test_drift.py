# SPDX-License-Identifier: GPL-3.0-or-later
"""What was changed by hand is put right by one run that does just that; what was not declared stays changed."""

from __future__ import annotations

import subprocess
import typing as t

import pytest
from sandbox import Sandbox
from steps import assert_same, converged, refused, removed, settled

BASE: t.Dict[str, t.Any] = {
    "netns": [{"name": "ns1"}, {"name": "ns2"}],
    "netkit_link": [
        {
            "name": "nk0",
            "fallback": "veth",
            "mtu": 1400,
            "addresses": ["10.0.0.1/24", "fd00::1/64"],
            "peer": {"name": "eth0", "netns": "ns1", "mtu": 1400, "addresses": ["10.0.0.2/24"]},
        }
    ],
    "link": [
        {"name": "br0", "kind": "bridge", "ports": ["v0"], "stp": False},
        {"name": "v0", "kind": "veth", "peer": {"name": "v1"}, "addresses": ["10.5.0.1/24"]},
        {"name": "vx0", "kind": "vxlan", "vni": 42, "remote": "10.0.0.9"},
        {"name": "tun0", "kind": "tun"},
    ],
    "route": [
        {"destination": "10.9.0.0/16", "via": "10.0.0.2"},
        {"destination": "fd09::/16", "via": "fd00::2"},
        {"destination": "10.8.0.0/16", "type": "blackhole"},
    ],
    "rule": [{"priority": 9, "source": "10.9.0.0/16", "table": "9"}],
    "neighbor": [{"dev": "nk0", "address": "10.0.0.7", "mac": "02:00:00:00:00:07"}],
    "sysctl_forwarding": [{"ipv4": True}, {"interface": "v0", "rp_filter": "loose"}],
}

NK0_LOST_ROUTES = [
    "create route 10.9.0.0/16 table main metric 0 (missing)",
    "create route fd09::/16 table main metric 1024 (missing)",
]
NK0_LOST_ADDRESSES = ["create address nk0 10.0.0.1/24 (missing)", "create address nk0 fd00::1 (missing)"]
NK0_LOST_NEIGHBOR = ["create neighbor nk0 10.0.0.7 (missing)"]
ETH0_LOST_ADDRESS = ["create address eth0 10.0.0.2/24 in netns ns1 (missing)"]
NK0_ANEW = [
    "create link nk0 (missing)",
    *NK0_LOST_ADDRESSES,
    *ETH0_LOST_ADDRESS,
    *NK0_LOST_NEIGHBOR,
    *NK0_LOST_ROUTES,
]

# What is done by hand; the actions that heal it; the links that may then have another index.
DRIFTS: t.Dict[str, t.Tuple[str, t.List[str], t.Set[str]]] = {
    "address deleted": (
        "ip -n ns1 address delete 10.0.0.2/24 dev eth0",
        ETH0_LOST_ADDRESS,
        set(),
    ),
    "IPv6 address deleted": ("ip address delete fd00::1/64 dev nk0", NK0_LOST_ADDRESSES[1:], set()),
    "route deleted": ("ip route delete 10.9.0.0/16", NK0_LOST_ROUTES[:1], set()),
    "IPv6 route deleted": ("ip -6 route delete fd09::/16", NK0_LOST_ROUTES[1:], set()),
    "blackhole deleted": (
        "ip route delete 10.8.0.0/16",
        ["create route 10.8.0.0/16 table main metric 0 (missing)"],
        set(),
    ),
    "route led elsewhere": (
        "ip route replace 10.9.0.0/16 via 10.0.0.3 proto 207",
        ["change route 10.9.0.0/16 table main metric 0 (via 10.0.0.3 -> 10.0.0.2)"],
        set(),
    ),
    "rule deleted": (
        "ip rule delete priority 9",
        ["create rule inet 9 from 10.9.0.0/16 lookup 9 (missing)"],
        set(),
    ),
    "neighbour deleted": ("ip neigh delete 10.0.0.7 dev nk0", NK0_LOST_NEIGHBOR, set()),
    "neighbour changed": (
        "ip neigh change 10.0.0.7 dev nk0 lladdr 02:00:00:00:00:08",
        ["change neighbor nk0 10.0.0.7 (mac 02:00:00:00:00:08 -> 02:00:00:00:00:07)"],
        set(),
    ),
    "forwarding off": (
        "sysctl -qw net.ipv4.conf.all.forwarding=0",
        ["change sysctl net/ipv4/conf/all/forwarding (value 0 -> 1)"],
        set(),
    ),
    "rp_filter of one": (
        "sysctl -qw net.ipv4.conf.v0.rp_filter=1",
        ["change sysctl net/ipv4/conf/v0/rp_filter (value 1 -> 2)"],
        set(),
    ),
    "link down": ("ip link set tun0 down", ["change link tun0 (up false -> true)"], set()),
    "loopback down": ("ip -n ns2 link set lo down", ["change netns ns2 (lo_up false -> true)"], set()),
    "peer down": ("ip link set v1 down", ["change link v0 (peer.up false -> true)"], set()),
    "MTU changed": ("ip link set nk0 mtu 1300", ["change link nk0 (mtu 1300 -> 1400)"], set()),
    "MTU of the peer changed": (
        "ip -n ns1 link set eth0 mtu 1300",
        ["change link nk0 (peer.mtu 1300 -> 1400)"],
        set(),
    ),
    "bridge option changed": (
        "ip link set br0 type bridge stp_state 1",
        ["change link br0 (stp true -> false)"],
        set(),
    ),
    "vxlan remote changed": (
        "ip link set vx0 type vxlan remote 10.0.0.8",
        ["change link vx0 (remote 10.0.0.8 -> 10.0.0.9)"],
        set(),
    ),
    "primary renamed": ("ip link set nk0 name odd0", ["change link nk0 (name odd0 -> nk0)"], set()),
    "peer renamed": (
        "ip -n ns1 link set eth0 name odd0",
        ["change link nk0 (peer.name odd0 -> eth0)"],
        set(),
    ),
    "single link renamed": ("ip link set tun0 name odd0", ["change link tun0 (name odd0 -> tun0)"], set()),
    "both ends renamed": (
        "ip link set nk0 name odd0; ip -n ns1 link set eth0 name odd0",
        ["change link nk0 (name odd0 -> nk0, peer.name odd0 -> eth0)"],
        set(),
    ),
    "primary in another namespace": (
        "ip link set nk0 netns ns2",
        [
            "change link nk0 (netns ns2 -> none, up false -> true)",
            *NK0_LOST_ADDRESSES,
            *NK0_LOST_NEIGHBOR,
            *NK0_LOST_ROUTES,
        ],
        {"nk0"},
    ),
    "peer in another namespace": (
        "ip -n ns1 link set eth0 netns ns2",
        ["change link nk0 (peer.netns ns2 -> ns1, peer.up false -> true)", *ETH0_LOST_ADDRESS],
        {"eth0"},
    ),
    "peer in the host": (
        "ip -n ns1 link set eth0 netns 1",
        ["change link nk0 (peer.netns none -> ns1, peer.up false -> true)", *ETH0_LOST_ADDRESS],
        {"eth0"},
    ),
    "pair deleted": ("ip link delete nk0", NK0_ANEW, {"nk0", "eth0"}),
    "pair deleted by its peer": ("ip -n ns1 link delete eth0", NK0_ANEW, {"nk0", "eth0"}),
    "namespace deleted": (
        "ip netns delete ns1; while ip link show nk0 2>/dev/null; do :; done",
        ["create netns ns1 (missing)", *NK0_ANEW],
        {"nk0", "eth0"},
    ),
    "port removed from its bridge": (
        "ip link set v0 nomaster",
        ["change port v0 (master none -> br0)"],
        set(),
    ),
    "bridge deleted": (
        "ip link delete br0",
        ["create link br0 (missing)", "change port v0 (master none -> br0)"],
        {"br0"},
    ),
}


def indexes(box: Sandbox) -> t.Dict[str, int]:
    return {
        link["ifname"]: link["ifindex"]
        for netns in ("", "ns1", "ns2")
        for link in box.ip("link", netns)
        if link["ifname"] != "lo"
    }


@pytest.fixture(scope="module")
def hosts() -> t.Iterator[t.List[Sandbox]]:
    kept: t.List[Sandbox] = []
    yield kept
    for box in kept:
        box.__exit__()


@pytest.fixture
def host(hosts: t.List[Sandbox]) -> t.Iterator[Sandbox]:
    """A converged host, used again as long as each test brings it back there."""
    if not hosts:
        hosts.append(Sandbox())
        # Routes of the host's own way out, so that a link that goes down and up does not decide for others.
        hosts[0].sh("sysctl -qw net.ipv6.conf.default.accept_dad=0")
        converged(hosts[0], BASE)
    before = hosts[0].state()
    yield hosts[0]
    if hosts[0].state() != before or hosts[0].topology(BASE, check=True).get("changed") is not False:
        hosts.pop().__exit__()


@pytest.mark.parametrize(("drift", "actions", "renumbered"), DRIFTS.values(), ids=DRIFTS)
def test_one_run_heals_just_what_drifted(
    host: Sandbox, drift: str, actions: t.List[str], renumbered: t.Set[str]
) -> None:
    before, numbers = host.state(), indexes(host)
    host.sh(drift.replace(" netns 1", f" netns {host.process.pid}"))
    drifted = host.state()
    predicted = converged(host, BASE, check=True)
    assert_same(host.state(), drifted)
    healed = converged(host, BASE)
    assert healed["actions"] == actions
    assert (predicted["actions"], predicted["after"]) == (healed["actions"], healed["after"])
    settled(host, BASE)
    assert_same(host.state(), before)
    found = indexes(host)
    assert {name: found[name] for name in numbers if name not in renumbered} == {
        name: number for name, number in numbers.items() if name not in renumbered
    }
    assert found.keys() == numbers.keys()


def test_a_link_that_went_down_gets_back_what_the_kernel_dropped(host: Sandbox) -> None:
    before, numbers = host.state(), indexes(host)
    host.sh("ip link set nk0 down; ip link set nk0 up; ip link set nk0 down")
    healed = converged(host, BASE)
    # IPv4 routes go with a link that goes down, and its permanent neighbours; IPv6 addresses go, too.
    assert healed["actions"][0] == "change link nk0 (up false -> true)"
    assert set(healed["actions"][1:]) <= {*NK0_LOST_ADDRESSES, *NK0_LOST_NEIGHBOR, *NK0_LOST_ROUTES}
    settled(host, BASE)
    assert_same(host.state(), before)
    assert indexes(host) == numbers


def test_a_peer_in_an_unnamed_namespace_is_built_anew(host: Sandbox) -> None:
    before, numbers = host.state(), indexes(host)
    holder = subprocess.Popen(
        host.command("unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        host.sh(f"ip -n ns1 link set eth0 netns {holder.pid}")
        healed = converged(host, BASE)
        assert healed["actions"] == ["delete link nk0 (rebuilt)", *NK0_ANEW]
        settled(host, BASE)
        assert_same(host.state(), before)
        found = indexes(host)
        assert all(found[name] == number for name, number in numbers.items() if name not in ("nk0", "eth0"))
    finally:
        holder.kill()
        holder.communicate()


def test_a_fixed_attribute_is_changed_only_when_recreate_is_set(host: Sandbox) -> None:
    numbers = indexes(host)
    wanted = {**BASE, "link": [*BASE["link"][:2], {**BASE["link"][2], "vni": 43}, BASE["link"][3]]}
    assert refused(host, wanted) == (
        "link[2]: link vx0 exists and the kernel fixes vni 42 -> 43 at creation; set recreate: true to rebuild it"
    )
    wanted["link"][2]["recreate"] = True
    rebuilt = converged(host, wanted)
    assert rebuilt["actions"] == ["delete link vx0 (rebuilt)", "create link vx0 (missing)"]
    assert host.ip("-d link show vx0")[0]["linkinfo"]["info_data"]["id"] == 43
    settled(host, wanted)
    found = indexes(host)
    assert {name for name in found if found[name] != numbers[name]} == {"vx0"}


def test_what_is_not_declared_stays_as_it_was_set_by_hand(host: Sandbox) -> None:
    host.sh(
        "ip link set v0 mtu 1280; ip link set tun0 mtu 1281 alias mine; ip link set br0 address 02:00:00:00:00:bb;"
        "ip link set br0 type bridge ageing_time 5000; sysctl -qw net.ipv4.conf.v0.proxy_arp=1;"
        "ip link property add dev tun0 altname by-hand"
    )
    before = host.state()
    settled(host, BASE)
    converged(host, {**BASE, "rule": []})
    converged(host, BASE)
    assert_same(host.state(), before)


THEIRS = """
ip address add 10.0.0.50/24 dev nk0
ip address add 10.0.0.51/24 dev nk0
ip address add 10.77.0.1/24 dev nk0
ip address add fd00::50/64 dev nk0 nodad
ip route add 10.66.0.0/16 via 10.0.0.9
ip route add 10.67.0.0/16 via 10.77.0.9
ip -6 route add fd66::/16 via fd00::9
ip neigh add 10.0.0.90 dev nk0 lladdr 02:00:00:00:00:90 nud permanent
ip rule add priority 8 from 10.66.0.0/16 lookup 8
"""


@pytest.mark.parametrize(
    "change",
    [
        {
            "addresses": ["10.0.1.1/24", "fd00::1/64"]
        },  # the first address of the subnet that theirs are secondary in
        {"addresses": ["10.0.0.1/24", "10.0.0.3/24", "fd01::1/64"]},
        {"addresses": ["10.0.0.1/25", "fd00::1/64"]},
        {"mtu": 1300},
        {"up": True, "mac": "02:00:00:00:00:f0"},
    ],
    ids=str,
)
def test_what_others_have_on_our_links_stays_through_our_changes(
    box: Sandbox, change: t.Dict[str, t.Any]
) -> None:
    pair = {**BASE["netkit_link"][0], "mode": "l2"}
    if "mac" in change:
        # Declared in both documents, so that there is something to change back to.
        pair["mac"] = "02:00:00:00:00:0f"
    document = {"netns": BASE["netns"], "netkit_link": [pair]}
    converged(box, document)
    box.sh(THEIRS)
    theirs = their_own(box)
    assert [len(rows) for rows in theirs] == [4, 3, 1, 1]
    for wanted in ({**document, "netkit_link": [{**pair, **change}]}, document):
        assert converged(box, wanted)["changed"]
        assert their_own(box) == theirs
        settled(box, wanted)


def their_own(box: Sandbox) -> t.List[t.Set[str]]:
    """What THEIRS made, as far as it is there."""
    state = box.state()
    addresses = ("nk0 10.0.0.50/24", "nk0 10.0.0.51/24", "nk0 10.77.0.1/24", "nk0 fd00::50/64")
    return [
        {row for row in state["addresses "] if row.startswith(addresses)},
        {
            row
            for six in ("-4", "-6")
            for row in state[f"routes {six} "]
            if row.startswith(('{"dev": "nk0", "dst": "10.6', '{"dev": "nk0", "dst": "fd66'))
        },
        {row for row in state["neighbors "] if row.startswith("10.0.0.90 ")},
        {str(row) for row in state["rules -4 "] if row["priority"] == 8},
    ]


def test_the_last_declared_address_goes_and_theirs_in_its_subnet_stay(box: Sandbox) -> None:
    box.sh("ip link add nic0 type veth peer name far0; ip link set nic0 up; ip link set far0 up")
    before = box.state()
    converged(box, {"address": [{"dev": "nic0", "address": "10.0.0.1/24"}]})
    box.sh("ip address add 10.0.0.50/24 dev nic0; ip route add 10.66.0.0/16 via 10.0.0.9")
    assert removed(box)["actions"] == ["delete address nic0 10.0.0.1/24 (no longer declared)"]
    assert [row["local"] for row in box.ip("-4 address show nic0")[0]["addr_info"]] == ["10.0.0.50"]
    assert [row["dst"] for row in box.ip("-4 route show proto boot")] == ["10.66.0.0/16"]
    assert box.sysctls() == before["sysctls "]
    assert box.sh("cat /proc/sys/net/ipv4/conf/nic0/promote_secondaries") == "0\n"


def test_two_links_that_swapped_their_names_get_them_back(host: Sandbox) -> None:
    before, numbers = host.state(), indexes(host)
    host.sh("ip link set tun0 name odd0; ip link set vx0 name tun0; ip link set odd0 name vx0")
    healed = converged(host, BASE)
    assert sorted(healed["actions"]) == [
        "change link tun0 (name vx0 -> tun0)",
        "change link vx0 (name tun0 -> vx0)",
    ]
    settled(host, BASE)
    assert_same(host.state(), before)
    assert indexes(host) == numbers


@pytest.mark.parametrize(
    "change",
    [
        {
            "up": False
        },  # takes IPv6 addresses, routes and permanent neighbours away; the route cannot come back
        {"mtu": 1279},  # ends IPv6 on the device
    ],
    ids=str,
)
def test_what_the_kernel_dropped_comes_back_when_a_change_fails(
    box: Sandbox, change: t.Dict[str, t.Any]
) -> None:
    document = {"netns": BASE["netns"], **{name: BASE[name] for name in ("netkit_link", "route", "neighbor")}}
    converged(box, document)
    box.sh(THEIRS)
    before = box.state()
    pair = {**BASE["netkit_link"][0], **change}
    addresses = [{"dev": "nk0", "address": text} for text in pair.pop("addresses")]
    answer = box.topology({**document, "netkit_link": [pair], "address": addresses})
    assert (answer.get("type"), answer.get("left")) == ("ConvergeError", [])
    assert_same(box.state(), before)
    settled(box, document)
