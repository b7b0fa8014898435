# SPDX-License-Identifier: GPL-3.0-or-later
"""Only what a topology made is changed or removed by it; what is somebody else's is named, and stays."""

from __future__ import annotations

import json
import re
import typing as t

import pytest
from sandbox import Sandbox
from steps import Recycled, assert_same, converged, refused, removed, settled, store_files

VETH = {"name": "v0", "kind": "veth", "peer": {"name": "v1"}}
NIC = """
ip link add nic0 type veth peer name far0
ip link set nic0 up; ip link set far0 up
ip address add 192.0.2.1/24 dev nic0
ip address add 2001:db8::1/64 dev nic0 nodad
"""


@pytest.fixture(scope="module")
def hosts() -> t.Iterator[Recycled]:
    with Recycled(NIC) as recycled:
        yield recycled


@pytest.fixture
def host(hosts: Recycled) -> t.Iterator[Sandbox]:
    """A host that the test gives back as it was."""
    yield from hosts.use()


# --- links and namespaces that are in the way ------------------------------------------------------------------------

# What is there, what is wanted, whose it is said to be, the actions with adopt (None: adopt does not help).
HELD: t.Dict[str, t.Tuple[str, t.Dict[str, t.Any], str, t.Optional[t.List[str]]]] = {
    "same kind": (
        "ip link add v0 type veth peer name v1",
        {"link": [VETH]},
        r"link\[0\]: link v0 exists and was not made by cnf.ebpf \(it is a veth link\); .*adopt: true",
        ["change link v0 (up false -> true, peer.up false -> true)"],
    ),
    "other kind": (
        "ip link add v0 type bridge",
        {"link": [{**VETH, "recreate": True}]},
        r"link\[0\]: link v0 exists and was not made by cnf.ebpf \(it is a bridge link\); .*adopt: true",
        ["delete link v0 (rebuilt)", "create link v0 (missing)"],
    ),
    "by the far end of a pair": (
        "ip link add x0 type veth peer name v0",
        {"link": [{"name": "v0", "kind": "veth", "peer": {"name": "x0"}}]},
        r"link\[0\]: link v0 exists and was not made by cnf.ebpf",
        ["change link v0 (up false -> true, peer.up false -> true)"],
    ),
    "in the way of the peer": (
        "ip link add v1 type bridge",
        {"link": [VETH]},
        r"link\[0\]: link v1 exists and was not made for this; choose another name or remove it first",
        None,
    ),
    "in the way of the peer in a namespace": (
        "ip netns add red; ip -n red link add eth0 type bridge",
        {"netkit_link": [{"name": "nk0", "fallback": "veth", "peer": {"name": "eth0", "netns": "red"}}]},
        r"netkit_link\[0\]: link eth0 in netns red exists and was not made for this",
        None,
    ),
    "namespace": (
        "ip netns add red",
        {"netns": [{"name": "red"}]},
        r"netns\[0\]: netns red exists and was not made by cnf.ebpf; choose another name or set adopt: true",
        ["change netns red (lo_up false -> true)"],
    ),
    "already as wanted": (
        "ip link add br0 type bridge; ip link set br0 up",
        {"link": [{"name": "br0", "kind": "bridge"}]},
        r"link br0 exists and was not made by cnf.ebpf \(it is a bridge link\)",
        ["change link br0 (taken over (adopt))"],
    ),
}


@pytest.mark.parametrize(("setup", "document", "line", "adopted"), HELD.values(), ids=HELD)
def test_a_name_held_by_somebody_else(
    box: Sandbox, setup: str, document: t.Dict[str, t.Any], line: str, adopted: t.Optional[t.List[str]]
) -> None:
    empty = box.state()
    box.sh(setup)
    for check in (True, False):
        assert re.search(line, refused(box, document, check=check))
    if adopted is None:
        assert re.search(line, refused(box, document, adopt=True))
        return
    predicted = converged(box, document, adopt=True, check=True)
    done = converged(box, document, adopt=True)
    assert predicted["actions"] == done["actions"] == adopted
    settled(box, document)  # ours now: adopt need not be said again
    removed(box)
    assert_same(box.state(), empty)


def test_adopt_may_be_said_for_one_item_only(box: Sandbox) -> None:
    box.sh("ip netns add red; ip netns add blue")
    items = [{"name": "red", "adopt": True}, {"name": "blue"}]
    assert refused(box, {"netns": items}).startswith("netns[1]: netns blue exists")
    assert converged(box, {"netns": items[:1]})["actions"] == ["change netns red (lo_up false -> true)"]


def test_what_another_topology_made_is_named_and_left(box: Sandbox) -> None:
    mine = {
        "name": "mine",
        "netns": [{"name": "red"}],
        "link": [VETH],
        "address": [{"dev": "v0", "address": "10.0.0.1/24"}],
        "route": [{"destination": "10.9.0.0/16", "via": "10.0.0.9"}],
    }
    converged(box, mine)
    theirs: t.Dict[str, t.Dict[str, t.Any]] = {
        "link v0": {"link": [{**VETH, "mtu": 1400}]},
        "netns red": {"netns": [{"name": "red", "lo_up": False}]},
        "route 10.9.0.0/16": {"route": [{"destination": "10.9.0.0/16", "via": "10.0.0.8"}]},
    }
    for what, document in theirs.items():
        line = refused(box, {"name": "theirs", **document})
        assert what in line and "belongs to topology 'mine'" in line and "adopt: true" in line
    settled(box, mine)


def test_two_topologies_of_a_host_do_not_see_each_other(box: Sandbox) -> None:
    empty = box.state()
    documents = [
        {
            "name": name,
            "netns": [{"name": f"ns{n}"}],
            "netkit_link": [
                {
                    "name": f"nk{n}",
                    "fallback": "veth",
                    "addresses": [f"10.0.{n}.1/24", f"fd00:{n}::1/64"],
                    "peer": {"name": "eth0", "netns": f"ns{n}"},
                }
            ],
            "route": [{"destination": f"10.9.{n}.0/24", "via": f"10.0.{n}.2"}],
            "rule": [{"priority": 100 + n, "source": f"10.0.{n}.0/24", "table": "100"}],
            "sysctl_forwarding": [{"interface": f"nk{n}", "rp_filter": "loose"}],
        }
        for n, name in ((1, "edge"), (2, "edge-2"))
    ]
    one, two = documents
    converged(box, one)
    with_one = box.state()
    converged(box, two)
    for document in documents:
        settled(box, document)
    assert converged(box, {"name": "edge", "netns": one["netns"]})["changed"]
    settled(box, two)
    converged(box, one)
    removed(box, "edge-2")
    settled(box, one)
    assert_same(box.state(), with_one)
    removed(box, "edge")
    assert_same(box.state(), empty)


# --- addresses, routes, rules and neighbours -------------------------------------------------------------------------

SAME = [
    ("ip address add 10.1.0.1/24 dev nic0", "address", {"dev": "nic0", "address": "10.1.0.1/24"}),
    ("ip address add fd01::1/64 dev nic0", "address", {"dev": "nic0", "address": "fd01::1/64"}),
    ("ip route add 10.1.0.0/24 via 192.0.2.9", "route", {"destination": "10.1.0.0/24", "via": "192.0.2.9"}),
    ("ip route add 10.1.0.0/24 dev nic0", "route", {"destination": "10.1.0.0/24", "dev": "nic0"}),
    (
        "ip -6 route add default via 2001:db8::9 dev nic0",
        "route",
        {"destination": "::/0", "via": "2001:db8::9"},
    ),
    (
        "ip route add blackhole 10.1.0.0/24 table 7",
        "route",
        {"destination": "10.1.0.0/24", "type": "blackhole", "table": "7"},
    ),
    (
        "ip rule add priority 9 from 10.1.0.0/24 lookup 7",
        "rule",
        {"priority": 9, "source": "10.1.0.0/24", "table": "7"},
    ),
    (
        "ip neigh add 192.0.2.9 dev nic0 lladdr 02:00:00:00:00:09 nud permanent",
        "neighbor",
        {"dev": "nic0", "address": "192.0.2.9", "mac": "02:00:00:00:00:09"},
    ),
]


@pytest.mark.parametrize(("setup", "section", "item"), SAME, ids=[row[0] for row in SAME])
def test_what_is_exactly_as_wanted_is_enough_and_stays_whose_it_is(
    host: Sandbox, setup: str, section: str, item: t.Dict[str, t.Any]
) -> None:
    undo = setup.replace(" add ", " del ").split(" nud ")[0]
    host.sh(setup)
    before = host.state()
    for _run in range(2):
        settled(host, {section: [item]})
    assert_same(host.state(), before)
    assert removed(host)["actions"] == []
    assert_same(host.state(), before)
    host.sh(undo)


OTHER = [
    ("ip route add 10.1.0.0/24 via 192.0.2.9 proto {}", {"destination": "10.1.0.0/24", "via": "192.0.2.8"}),
    (
        "ip -6 route add fd01::/64 via 2001:db8::9 proto {}",
        {"destination": "fd01::/64", "via": "2001:db8::8"},
    ),
]


@pytest.mark.parametrize(
    ("protocol", "whose"),
    [
        ("kernel", "the kernel"),
        ("boot", r"hand \(ip route\)"),
        ("static", "an administrator"),
        ("ra", "a router advertisement"),
        ("dhcp", "a DHCP client"),
        ("bird", "bird"),
        ("bgp", "BGP"),
        ("99", "routing protocol 99"),
    ],
)
@pytest.mark.parametrize(("setup", "item"), OTHER, ids=["IPv4", "IPv6"])
def test_another_route_to_the_same_destination_is_named_with_its_maker(
    host: Sandbox, protocol: str, whose: str, setup: str, item: t.Dict[str, t.Any]
) -> None:
    empty = host.state()
    host.sh(setup.format(protocol))
    line = refused(host, {"route": [item]})
    assert re.match(
        rf"route\[0\]: route .* exists and was made by {whose}, not by cnf.ebpf; .*adopt: true$", line
    ), line
    done = converged(host, {"route": [item]}, adopt=True)
    assert len(done["actions"]) == 1
    settled(host, {"route": [item]})
    six = "-6" if ":" in item["destination"] else "-4"
    rows = host.ip(f"{six} route show {item['destination']}")
    assert [(row["gateway"], row["protocol"]) for row in rows] == [(item["via"], "207")]
    removed(host)
    assert_same(host.state(), empty)


def test_another_neighbour_and_address_of_the_same_key(box: Sandbox) -> None:
    box.sh(
        NIC
        + "ip neigh add 192.0.2.9 dev nic0 lladdr 02:00:00:00:00:09 nud permanent; ip address add fd01::1/64 dev nic0"
    )
    neighbor = {"neighbor": [{"dev": "nic0", "address": "192.0.2.9", "mac": "02:00:00:00:00:08"}]}
    address = {"address": [{"dev": "nic0", "address": "fd01::1/128"}]}
    assert "neighbor nic0 192.0.2.9 exists and was not made by cnf.ebpf" in refused(box, neighbor)
    assert "address nic0 fd01::1 exists and was not made by cnf.ebpf" in refused(box, address)
    assert len(converged(box, {**neighbor, **address}, adopt=True)["actions"]) == 2
    settled(box, {**neighbor, **address})


# --- names that look alike, and many of others -----------------------------------------------------------------------


def test_names_that_contain_each_other_are_apart(box: Sandbox) -> None:
    box.sh(
        "ip netns add red-test; ip netns add re; ip link add nk10 type veth peer name nk100; ip link add nk type bridge"
    )
    before = box.state()
    document = {
        "netns": [{"name": "red"}, {"name": "red2"}],
        "netkit_link": [{"name": "nk1", "fallback": "veth", "peer": {"name": "nk11", "netns": "red"}}],
        "link": [{"name": "v0", "netns": "red2", "kind": "veth", "peer": {"name": "nk1", "netns": "red"}}],
    }
    converged(box, document)
    settled(box, document)
    assert converged(box, {"netns": document["netns"][:1], "netkit_link": document["netkit_link"]})[
        "actions"
    ] == [
        "delete link v0 in netns red2 (no longer declared)",
        "delete netns red2 (no longer declared)",
    ]
    assert box.namespaces() == ["re", "red", "red-test"]
    removed(box)
    assert_same(box.state(), before)


def test_a_thousand_links_of_others_stay_out_of_it(box: Sandbox) -> None:
    lines = "\n".join(f"link add foreign{n} type veth peer name alien{n}" for n in range(500))
    box.sh(f"ip netns add big; printf '%s\n' '{lines}' | ip -n big -batch -")
    indexes = {link["ifname"]: link["ifindex"] for link in box.ip("link", "big")}
    assert len(indexes) == 1001
    document = {"link": [{**VETH, "peer": {"name": "eth0", "netns": "big", "addresses": ["10.0.0.2/24"]}}]}
    answers = [converged(box, document, check=True), converged(box, document), converged(box, document)]
    with_ours = {link["ifname"]: link["ifindex"] for link in box.ip("link", "big")}
    assert {name: with_ours[name] for name in indexes} == indexes and len(with_ours) == 1002
    answers += [removed(box)]
    assert not re.search("foreign|alien", json.dumps(answers))
    assert {link["ifname"]: link["ifindex"] for link in box.ip("link", "big")} == indexes


# --- pruning and removal ---------------------------------------------------------------------------------------------


def test_a_namespace_with_links_of_others_is_not_removed(box: Sandbox) -> None:
    document = {"netns": [{"name": "red"}], "link": [{**VETH, "peer": {"name": "eth0", "netns": "red"}}]}
    converged(box, document)
    box.sh("ip -n red link add theirs0 type veth peer name theirs1")
    for options in ({"state": "absent"}, {}):
        line = refused(box, {} if options else {"link": [VETH]}, **options)
        assert (
            "netns red: holds links that are not ours (theirs0, theirs1); " in line and "adopt: true" in line
        )
    assert (
        "delete netns red (no longer declared)" in converged(box, {}, state="absent", adopt=True)["actions"]
    )
    assert box.namespaces() == []


def test_pruning_removes_what_was_declared_and_nothing_else(box: Sandbox) -> None:
    box.sh(NIC + "ip route add 10.8.0.0/24 via 192.0.2.9; ip rule add priority 8 from 10.8.0.0/24 lookup 8")
    before = box.state()
    rest = {"netns": [{"name": "keep"}], "address": [{"dev": "nic0", "address": "10.2.0.1/24"}]}
    converged(box, rest)
    kept = box.state()
    converged(
        box,
        {
            "netns": [*rest["netns"], {"name": "red"}],
            "link": [VETH, {"name": "br0", "kind": "bridge", "ports": ["far0"]}],
            "address": [
                *rest["address"],
                {"dev": "nic0", "address": "10.1.0.1/24"},
                {"dev": "nic0", "address": "fd01::1/64"},
            ],
            "route": [
                {"destination": "10.9.0.0/24", "via": "192.0.2.9"},
                {"destination": "fd09::/64", "via": "2001:db8::9"},
            ],
            "rule": [{"priority": 9, "source": "10.9.0.0/24", "table": "9"}],
            "neighbor": [{"dev": "nic0", "address": "192.0.2.9", "mac": "02:00:00:00:00:09"}],
            "sysctl_forwarding": [{"ipv4": True, "persist": True}],
        },
    )
    pruned = converged(box, rest)
    assert sorted(pruned["actions"]) == [
        "change port far0 (no longer declared: the value found before)",
        "change sysctl net/ipv4/conf/all/forwarding (no longer declared: the value found before)",
        "delete address nic0 10.1.0.1/24 (no longer declared)",
        "delete address nic0 fd01::1 (no longer declared)",
        "delete link br0 (no longer declared)",
        "delete link v0 (no longer declared)",
        "delete neighbor nic0 192.0.2.9 (no longer declared)",
        "delete netns red (no longer declared)",
        "delete route 10.9.0.0/24 table main metric 0 (no longer declared)",
        "delete route fd09::/64 table main metric 1024 (no longer declared)",
        "delete rule inet 9 from 10.9.0.0/24 lookup 9 (no longer declared)",
        "delete sysctl_file /etc/sysctl.d/60-cnf-ebpf-edge.conf net/ipv4/conf/all/forwarding (no longer declared)",
    ]
    assert_same(box.state(), kept)
    removed(box)
    assert_same(box.state(), before)


def test_what_is_gone_already_is_no_work_to_remove(box: Sandbox) -> None:
    empty = box.state()
    document = {
        "netns": [{"name": "red"}],
        "link": [{**VETH, "netns": "red", "peer": {"name": "v1"}, "addresses": ["10.0.0.1/24"]}],
    }
    converged(box, document)
    box.sh("ip netns delete red; while ip link show v1 2>/dev/null; do :; done")  # the pair goes with it
    assert removed(box)["actions"] == []
    assert_same(box.state(), empty)


def test_a_link_that_replaced_ours_under_its_name_is_left_at_removal(box: Sandbox) -> None:
    converged(box, {"link": [VETH]})
    box.sh("ip link delete v0; ip link add v0 type bridge")
    before = box.state()
    done = converged(box, {}, state="absent")
    assert (done["actions"], len(done["notes"])) == ([], 1)
    assert "link v0: left alone, it was not made by cnf.ebpf" in done["notes"][0]
    assert_same(box.state(), before)


# --- the store -------------------------------------------------------------------------------------------------------


def test_without_the_store_the_marks_tell_what_is_ours(box: Sandbox) -> None:
    box.sh(NIC + "ip route add 10.8.0.0/24 via 192.0.2.9")
    link = {**VETH, "addresses": ["10.1.0.1/24", "10.2.0.1/24", "fd01::1/64"]}
    document = {
        "netns": [{"name": "red"}],
        "link": [link, {"name": "br0", "kind": "bridge"}],
        "route": [{"destination": "10.9.0.0/24", "via": "10.1.0.9"}],
        "rule": [{"priority": 9, "source": "10.9.0.0/24", "table": "9"}],
    }
    converged(box, document)
    before = box.state()
    box.sh("rm -rf /var/lib/cnf-ebpf/*; ip address add 10.3.0.1/24 dev v0")
    settled(box, document)
    box.sh("rm -rf /var/lib/cnf-ebpf/*")
    # What lies on our links is known by its mark; what lies elsewhere is forgotten, and nothing of others is touched.
    document["link"][0] = {**link, "addresses": ["10.1.0.1/24", "fd01::1/64"]}
    assert converged(box, document)["actions"] == ["delete address v0 10.2.0.1/24 (no longer declared)"]
    assert sorted(set(before["addresses "]) - {"v0 10.2.0.1/24 "}) == sorted(
        set(box.state()["addresses "]) - {"v0 10.3.0.1/24 "}
    )
    assert "v0 10.3.0.1/24 " in box.state()["addresses "]
    settled(box, document)
    removed(box)
    assert [row["dst"] for row in box.ip("-4 route show proto boot")] == ["10.8.0.0/24"]
    assert [link["ifname"] for link in box.ip("link")] == ["lo", "far0", "nic0"]


def test_files_are_for_root_only(box: Sandbox) -> None:
    converged(
        box,
        {"netns": [{"name": "red"}], "sysctl_forwarding": [{"ipv4": True}]},
        state_dir="/var/lib/cnf-ebpf/er",
    )
    found = box.sh("cd /var/lib/cnf-ebpf; find er -printf '%y %m %p\n'").splitlines()
    assert sorted(found) == [
        "d 700 er",
        "d 700 er/edge",
        "d 700 er/edge/generations",
        "f 600 er/edge/generations/000001.json",
        "f 600 er/lock",
    ]


def test_generations_count_confirmed_revisions_and_ten_are_kept(box: Sandbox) -> None:
    names = [f"ns{n}" for n in range(13)]
    for number, name in enumerate(names, 1):
        document = {"netns": [{"name": name}]}
        assert converged(box, document, check=True)["generation"] is None
        assert converged(box, document)["generation"] == number
        assert converged(box, document)["generation"] == number
    assert store_files(box) == [f"./edge/generations/{number:06d}.json" for number in range(4, 14)]
    stored = json.loads(box.sh("cat /var/lib/cnf-ebpf/edge/generations/000013.json"))
    assert (stored["number"], stored["document"]) == (13, {"netns": [{"name": "ns12"}]})
    assert "error" in box.topology({"netns": [{"name": "a"}, {"name": "a"}]})
    assert box.topology({"netns": [{"name": "b"}, {"name": "c"}]}, fail_at=1)["type"] == "ConvergeError"
    assert len(store_files(box)) == 10
    removed(box)
    assert store_files(box) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged"),
        ('{"number": 1', "damaged"),
        ("[]", "not written by this version"),
        ('{"number": 1}', "not written by this version"),
    ],
)
def test_a_damaged_generation_is_named(box: Sandbox, text: str, words: str) -> None:
    document = {"netns": [{"name": "red"}]}
    converged(box, document)
    box.sh(f"printf '%s' '{text}' > /var/lib/cnf-ebpf/edge/generations/000001.json")
    for options in ({}, {"check": True}, {"state": "absent"}):
        line = refused(box, {} if "state" in options else document, **options)
        assert (
            line.startswith("/var/lib/cnf-ebpf/edge/generations/000001.json: ")
            and words in line
            and "move it away" in line
        )
    box.sh("rm /var/lib/cnf-ebpf/edge/generations/000001.json")
    settled(box, document)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"boot_id": 1, "claims": [{}]}'])
def test_a_damaged_journal_is_named(box: Sandbox, text: str) -> None:
    document = {"netns": [{"name": "red"}]}
    converged(box, document)
    box.sh(f"printf '%s' '{text}' > /var/lib/cnf-ebpf/edge/journal.json")
    for options in ({}, {"check": True}, {"state": "absent"}):
        line = refused(box, {} if "state" in options else document, **options)
        assert line.startswith("/var/lib/cnf-ebpf/edge/journal.json: ") and "move it away" in line
    box.sh("rm /var/lib/cnf-ebpf/edge/journal.json")
    settled(box, document)
