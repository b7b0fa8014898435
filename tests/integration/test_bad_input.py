# SPDX-License-Identifier: GPL-3.0-or-later
"""A wrong document is refused in one line that names the place and the remedy, before anything is touched."""

from __future__ import annotations

import re
import typing as t

import pytest
from sandbox import Sandbox
from steps import refused

VETH = {"name": "v0", "kind": "veth", "peer": {"name": "v1"}}
PAIR = {"name": "nk0", "peer": {"name": "nk1"}}
LONG = "sixteen-bytes-xy"

Item = t.Dict[str, t.Any]


def one(section: str, **item: t.Any) -> t.Dict[str, t.List[Item]]:
    return {section: [item]}


# Document, the path that the line starts with, what else it says.
WRONG: t.Dict[str, t.Tuple[t.Dict[str, t.Any], str, str]] = {
    # types and keys
    "text for a number": (one("link", **VETH, mtu="big"), "link[0]", "mtu.*int"),
    "text for a switch": (one("netns", name="a", lo_up="perhaps"), "netns[0]", "lo_up.*bool"),
    "a list for a mapping": (
        one("netkit_link", name="a", peer=["b"]),
        "netkit_link[0].peer",
        "list.*mapping",
    ),
    "a number for a list": (
        one("link", **VETH, addresses=7),
        "link[0].addresses[0]",
        "'7' is not an address",
    ),
    "unknown key": (
        one("route", destination="default", gateway="10.0.0.1"),
        "route[0]",
        "([Uu]nsupported|[Uu]nknown).*gateway.*via",
    ),
    "unknown key of a peer": (
        one("netkit_link", name="a", peer={"name": "b", "color": 1}),
        "netkit_link[0].peer",
        "([Uu]nsupported|[Uu]nknown).*color.*mtu",
    ),
    "second item": ({"netns": [{"name": "a"}, {"nom": "b"}]}, "netns[1]", "name"),
    "name missing": (one("netns", lo_up=True), "netns[0]", "name"),
    "kind missing": (one("link", name="v0"), "link[0].kind", "missing; say which kind"),
    "kind unknown": (one("link", name="v0", kind="vethh"), "link[0]", "kind.*veth, bridge.*vethh"),
    "mode typo": (one("netkit_link", **PAIR, mode="L2"), "netkit_link[0]", "mode.*l2, l3.*L2"),
    "policy typo": (
        one("netkit_link", **PAIR, policy="drop"),
        "netkit_link[0]",
        "policy.*forward, blackhole.*drop",
    ),
    "peer missing": (one("netkit_link", name="nk0"), "netkit_link[0].peer", "missing"),
    "veth without peer": (
        one("link", name="v0", kind="veth"),
        "link[0].peer",
        "missing; a veth link needs it",
    ),
    "vxlan without vni": (
        one("link", name="vx", kind="vxlan"),
        "link[0].vni",
        "missing; a vxlan link needs it",
    ),
    "macvlan without parent": (
        one("link", name="mv", kind="macvlan"),
        "link[0].parent",
        "missing; a macvlan link needs it",
    ),
    # names
    "long name": (one("link", name=LONG, kind="tun"), "link[0].name", "16 bytes.*1 to 15, shorten it"),
    "long name of UTF-8": (one("link", name="ééééééé-é", kind="tun"), "link[0].name", "17 bytes.*shorten"),
    "long peer name": (
        one("netkit_link", name="a", peer={"name": LONG}),
        "netkit_link[0].peer.name",
        "16 bytes",
    ),
    "empty name": (one("link", name="", kind="tun"), "link[0].name", "0 bytes"),
    "name with a slash": (one("link", name="a/b", kind="tun"), "link[0].name", "printable"),
    "name with a blank": (one("link", name="a b", kind="tun"), "link[0].name", "printable"),
    "namespace with a slash": (one("netns", name="../a"), "netns[0].name", "file name"),
    "namespace without name": (one("netns", name=""), "netns[0].name", "needs a name"),
    "long port name": (one("link", name="br0", kind="bridge", ports=[LONG]), "link[0].ports[0]", "shorten"),
    "topology with a blank": ({"name": "my edge"}, "name", "'my edge' is not a topology name"),
    "topology with a slash": ({"name": "../etc"}, "name", "is not a topology name"),
    "topology of tasks": ({"name": "tasks"}, "name", "choose another name"),
    # numbers
    "MTU too small": (
        one("link", **VETH, mtu=67),
        "link[0].mtu",
        "67 is out of range; give 68 to 65535 bytes",
    ),
    "MTU too large": (one("link", **VETH, mtu=65536), "link[0].mtu", "give 68 to 65535 bytes"),
    "MTU of a peer": (
        one("netkit_link", name="a", peer={"name": "b", "mtu": 0}),
        "netkit_link[0].peer.mtu",
        "0 is out",
    ),
    "vni too large": (one("link", name="vx", kind="vxlan", vni=1 << 24), "link[0].vni", "give 0 to 16777215"),
    "port zero": (one("link", name="vx", kind="vxlan", vni=1, port=0), "link[0].port", "give 1 to 65535"),
    "VLAN 4095": (
        one("link", name="v", kind="vlan", parent="lo", vlan_id=4095),
        "link[0].vlan_id",
        "give 1 to 4094",
    ),
    "headroom": (
        one("netkit_link", **PAIR, headroom=65536),
        "netkit_link[0].headroom",
        "give 0 to 65535 bytes",
    ),
    "metric": (one("route", destination="default", dev="lo", metric=-1), "route[0].metric", "out of range"),
    "priority zero": (one("rule", priority=0, table="7"), "rule[0].priority", "0 is out of range"),
    # addresses
    "bad prefix": (
        one("route", destination="10.0.0.0/33", dev="lo"),
        "route[0].destination",
        "not a prefix, such as 10.0.0.0/8",
    ),
    "bad address": (
        one("address", dev="lo", address="10.0.0.256/24"),
        "address[0].address",
        "such as 10.0.0.1/24",
    ),
    "bad second address": (
        one("link", **VETH, addresses=["10.0.0.1/24", "fd00::g/64"]),
        "link[0].addresses[1]",
        "such as",
    ),
    "bad address of a peer": (
        one("netkit_link", name="a", peer={"name": "b", "addresses": ["x"]}),
        "netkit_link[0].peer.addresses[0]",
        "such as",
    ),
    "bad next hop": (
        one("route", destination="default", via="10.0.0.1/24"),
        "route[0].via",
        "not an IP address",
    ),
    "bad source of a rule": (
        one("rule", priority=1, source="ten", table="7"),
        "rule[0].source",
        "not a prefix",
    ),
    "group hardware address": (one("link", **VETH, mac="01:00:5e:00:00:01"), "link[0].mac", "unicast"),
    "short hardware address": (
        one("link", **VETH, mac="02:00:00:00:01"),
        "link[0].mac",
        "such as 02:00:00:00:00:01",
    ),
    "remote of a vxlan": (
        one("link", name="vx", kind="vxlan", vni=1, remote="peer"),
        "link[0].remote",
        "not an IP address",
    ),
    "families of a rule": (
        one("rule", priority=1, source="10.0.0.0/8", destination="fd00::/8", table="7"),
        "rule[0]",
        "one address family",
    ),
    "family of a route": (
        one("route", destination="10.0.0.0/8", family="inet6", dev="lo"),
        "route[0].destination",
        "family",
    ),
    "IPv4 next hop of IPv6": (
        one("route", destination="::/0", via="10.0.0.1"),
        "route[0].via",
        "give an IPv6 address",
    ),
    "source of another family": (
        one("route", destination="::/0", dev="lo", source="10.0.0.1"),
        "route[0].source",
        "family",
    ),
    "scope of an IPv6 address": (
        one("address", dev="lo", address="fd00::1/64", scope="link"),
        "address[0].scope",
        "leave it out",
    ),
    "nodad of an IPv4 address": (
        one("address", dev="lo", address="10.0.0.1/24", nodad=True),
        "address[0].nodad",
        "leave it out",
    ),
    # what does not go together
    "vni of a veth": (
        one("link", **VETH, vni=5),
        "link[0].vni",
        "does not apply to a veth link; it takes peer",
    ),
    "ports of a veth": (one("link", **VETH, ports=["a"]), "link[0].ports", "does not apply to a veth link"),
    "peer of a bridge": (
        one("link", name="b", kind="bridge", peer={"name": "c"}),
        "link[0].peer",
        "does not apply to a bridge",
    ),
    "stp of a tun": (
        one("link", name="b", kind="tun", stp=True),
        "link[0].stp",
        "does not apply to a tun link",
    ),
    "parent of a tap": (
        one("link", name="b", kind="tap", parent="lo"),
        "link[0].parent",
        "does not apply to a tap link",
    ),
    "vlan_id of existing": (
        one("link", name="lo", kind="existing", vlan_id=1),
        "link[0].vlan_id",
        "does not apply",
    ),
    "MAC of an l3 netkit": (
        one("netkit_link", **PAIR, mac="02:00:00:00:00:01"),
        "netkit_link[0].mac",
        "leave it out or use mode: l2",
    ),
    "MAC of an l3 netkit's peer": (
        one("netkit_link", name="a", peer={"name": "b", "mac": "02:00:00:00:00:01"}),
        "netkit_link[0].peer.mac",
        "leave it out or use mode: l2",
    ),
    "route without next hop": (
        one("route", destination="default"),
        "route[0]",
        "give via, dev or both, or another type",
    ),
    "blackhole with next hop": (
        one("route", destination="default", type="blackhole", via="10.0.0.1"),
        "route[0].via",
        "leave it out",
    ),
    "onlink without device": (
        one("route", destination="default", via="10.0.0.1", onlink=True),
        "route[0].onlink",
        "needs dev",
    ),
    "route to nowhere": (one("route", dev="lo"), "route[0].destination", "missing"),
    "table typo": (
        one("route", destination="default", dev="lo", table="mian"),
        "route[0].table",
        "give main, local, default or a number",
    ),
    "rule without table": (
        one("rule", priority=1, source="10.0.0.0/8"),
        "rule[0].table",
        "needed for action lookup",
    ),
    "rule with table and action": (
        one("rule", priority=1, action="prohibit", table="7"),
        "rule[0].table",
        "only for it",
    ),
    "rule without priority": (one("rule", table="7"), "rule[0].priority", "missing"),
    "mark": (one("rule", priority=1, fwmark="red", table="7"), "rule[0].fwmark", "such as 0x10"),
    "ports": (
        one("rule", priority=1, source_port="2000-1000", table="7"),
        "rule[0].source_port",
        "such as 443 or 1000-2000",
    ),
    "neighbor both": (
        one("neighbor", dev="lo", address="10.0.0.1", mac="02:00:00:00:00:01", managed=True),
        "neighbor[0].mac",
        "either mac",
    ),
    "neighbor neither": (one("neighbor", dev="lo", address="10.0.0.1"), "neighbor[0].mac", "either mac"),
    "nothing to set": (
        one("sysctl_forwarding", interface="lo"),
        "sysctl_forwarding[0]",
        "give one of ipv4, ipv6",
    ),
    "persist in a namespace": (
        {"netns": [{"name": "a"}], "sysctl_forwarding": [{"netns": "a", "ipv4": True, "persist": True}]},
        "sysctl_forwarding[0].persist",
        "own namespace only",
    ),
    # references
    "namespace undeclared": (
        one("address", netns="red", dev="lo", address="10.0.0.1/24"),
        "address[0]",
        "lo in netns red.*declare it",
    ),
    "peer in no namespace": (
        one("netkit_link", name="a", fallback="veth", peer={"name": "b", "netns": "red"}),
        "netkit_link[0]",
        "'red' is neither declared nor present.*declare it under netns",
    ),
    "device undeclared": (
        one("route", destination="default", dev="eth9"),
        "route[0]",
        "link eth9 is neither declared nor present",
    ),
    "route in no namespace": (
        one("route", netns="red", destination="default", via="10.0.0.1"),
        "route[0]",
        "'red'.*declare it under netns",
    ),
    "existing that is not": (
        one("link", name="eth9", kind="existing"),
        "link[0]",
        "eth9 is not there.*correct the name",
    ),
    "port that is not": (
        one("link", name="br0", kind="bridge", ports=["eth9"]),
        "link[0].ports[0]",
        "link eth9",
    ),
    "master that is not": (one("link", **VETH, master="br9"), "link[0].master", "link br9"),
    "interface that is not": (
        one("sysctl_forwarding", interface="eth9", ipv4=True),
        "sysctl_forwarding[0]",
        "eth9",
    ),
    "loop of parents": (
        {
            "link": [
                {"name": "a", "kind": "macvlan", "parent": "b"},
                {"name": "b", "kind": "macvlan", "parent": "a"},
            ]
        },
        "link[0]",
        "needs itself, directly or through others; remove the loop",
    ),
    # said twice
    "namespace twice": (
        {"netns": [{"name": "a"}, {"name": "a"}]},
        "netns[1]",
        "netns a is already declared by netns\\[0\\]",
    ),
    "link twice": (
        {"link": [VETH, VETH]},
        "link[1]",
        "link v0 is already declared by link\\[0\\]; name each resource once",
    ),
    "link in both sections": (
        {"netkit_link": [PAIR], "link": [{"name": "nk0", "kind": "tun"}]},
        "link[0]",
        "declared by netkit_link\\[0\\]",
    ),
    "peer name is a link's": (
        {"netkit_link": [PAIR], "link": [{"name": "nk1", "kind": "tun"}]},
        "link[0]",
        "link nk1.*netkit_link\\[0\\]",
    ),
    "peer named like its link": (
        one("link", name="v0", kind="veth", peer={"name": "v0"}),
        "link[0].peer.name",
        "v0",
    ),
    "peer name of two": (
        {"netkit_link": [PAIR], "link": [{"name": "v0", "kind": "veth", "peer": {"name": "nk1"}}]},
        "link[0]",
        "link nk1",
    ),
    "address twice": (
        one("link", **VETH, addresses=["fd00::1/64", "FD00:0::1/64"]),
        "link[0].addresses[1]",
        "addresses\\[0\\]",
    ),
    "address in two sections": (
        {
            "link": [{**VETH, "addresses": ["10.0.0.1/24"]}],
            "address": [{"dev": "v0", "address": "10.0.0.1/24"}],
        },
        "address[0]",
        "link\\[0\\].addresses\\[0\\]",
    ),
    "default route twice": (
        {"route": [{"destination": "default", "dev": "lo"}, {"destination": "0.0.0.0/0", "via": "10.0.0.1"}]},
        "route[1]",
        "route\\[0\\]",
    ),
    "sysctl twice": (
        {"sysctl_forwarding": [{"ipv4": True}, {"interface": "all", "ipv4": False}]},
        "sysctl_forwarding[1]",
        "sysctl_forwarding\\[0\\]",
    ),
    "two masters": (
        {
            "link": [
                {"name": "br0", "kind": "bridge", "ports": ["v0"]},
                {"name": "br1", "kind": "bridge"},
                {**VETH, "master": "br1"},
            ]
        },
        "link[2].master",
        "link\\[0\\].ports\\[0\\]",
    ),
    # what this kernel lacks
    "no netkit": (one("netkit_link", **PAIR), "netkit_link[0]", "CONFIG_NETKIT.*fallback: veth"),
    "no vlan": (
        one("link", name="v", kind="vlan", parent="lo", vlan_id=5),
        "link[0]",
        "CONFIG_VLAN_8021Q or the module",
    ),
    "no vrf": (one("link", name="v", kind="vrf", table=5), "link[0]", "CONFIG_NET_VRF or the module"),
    "no dummy": (one("link", name="v", kind="dummy"), "link[0]", "CONFIG_DUMMY or the module"),
}


@pytest.fixture(scope="module")
def host() -> t.Iterator[Sandbox]:
    """One host for all: nothing may happen to it."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.mark.parametrize(("document", "path", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_document_is_refused_by_path_and_remedy(
    host: Sandbox, document: t.Dict[str, t.Any], path: str, words: str
) -> None:
    foretold = host.topology(document, check=True)
    line = refused(host, document)
    assert foretold.get("error") == line
    assert line.startswith(f"{path}: "), line
    assert re.search(words, line), line
    assert len(line) < 400


def test_one_wrong_item_spoils_the_whole_document(host: Sandbox) -> None:
    good = {
        "netns": [{"name": "a"}],
        "link": [{"name": "v0", "kind": "veth", "peer": {"name": "v1", "netns": "a"}}],
    }
    assert refused(host, {**good, "route": [{"destination": "nowhere", "dev": "v0"}]}).startswith(
        "route[0].destination: "
    )


@pytest.mark.parametrize("absent", [False, True])
def test_an_item_to_be_absent_is_not_declared(host: Sandbox, absent: bool) -> None:
    item = {"name": "a", **({"state": "absent"} if absent else {})}
    answer = host.topology({"netns": [item]}, check=True)
    assert answer["actions"] == ([] if absent else ["create netns a (missing)"])
