# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies as people mean them: what input becomes of, what contradicts itself, and which of several conditions decides."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import policy, policy_input
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.policy import (
    LENGTH,
    Action,
    Condition,
    NextHop,
    Policy,
    PolicyError,
    interned,
)
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError

quick = examples(150)


def entry(**item):
    return policy_input.entry_of(item, "entries[0]")


def policy_from(*items):
    builder = policy_input.Builder()
    for number, item in enumerate(items):
        builder.add(policy_input.entry_of(item, f"entries[{number}]"), f"entries[{number}]")
    return builder.policy()


def packed(text):
    return ipaddress.ip_address(text).packed


def hop(interface, address=""):
    return NextHop(interface, address)


# --- input ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "matches"),
    [
        ({"source": "10.0.0.7"}, [("sources4_exact", packed("10.0.0.7"))]),
        ({"source": "10.0.0.7/32"}, [("sources4_exact", packed("10.0.0.7"))]),
        ({"source": "10.0.0.0/8"}, [("sources4", LENGTH.pack(8) + packed("10.0.0.0"))]),
        ({"source": "0.0.0.0/0"}, [("sources4", LENGTH.pack(0) + bytes(4))]),
        ({"source": "fd00::7"}, [("sources6_exact", packed("fd00::7"))]),
        ({"source": "FD00:0::/8"}, [("sources6", LENGTH.pack(8) + packed("fd00::"))]),
        ({"destination": "192.0.2.0/24"}, [("destinations4", LENGTH.pack(24) + packed("192.0.2.0"))]),
        ({"destination": "2001:db8::1"}, [("destinations6_exact", packed("2001:db8::1"))]),
        (
            {"source": "10.0.0.0/8", "protocol": "TCP", "destination_port": "80"},
            [("conditions", Condition(6, 80, 80, 8, packed("10.0.0.0")))],
        ),
        (
            {"source": "10.0.0.1", "protocol": 17, "destination_port": "8000-8099"},
            [("conditions", Condition(17, 8000, 8099, 32, packed("10.0.0.1")))],
        ),
        (
            {"protocol": "udp", "destination_port": 53},
            [
                ("conditions", Condition(17, 53, 53, 0, bytes(4))),
                ("conditions", Condition(17, 53, 53, 0, bytes(16))),
            ],
        ),
        ({"protocol": "icmp"}, [("conditions", Condition(1, 0, 0, 0, bytes(4)))]),
        ({"protocol": "icmpv6"}, [("conditions", Condition(58, 0, 0, 0, bytes(16)))]),
        ({"protocol": "gre", "family": "ipv6"}, [("conditions", Condition(47, 0, 0, 0, bytes(16)))]),
        ({}, [("defaults", 4), ("defaults", 6)]),
        ({"family": "ipv6"}, [("defaults", 6)]),
    ],
)
def test_what_an_entry_matches(item, matches):
    assert list(entry(**item, action="drop").matches) == matches


def test_an_entry_for_any_source_is_for_the_family_of_its_next_hops():
    assert entry(interface="eth1", next_hop="10.0.0.1").matches == (("defaults", 4),)
    assert entry(interface="eth1", next_hop="fd00::1").matches == (("defaults", 4), ("defaults", 6))
    assert entry(interface="eth1").matches == (("defaults", 4), ("defaults", 6))


@pytest.mark.parametrize(
    ("item", "action"),
    [
        ({"interface": "eth1"}, Action("next_hops", (hop("eth1"),))),
        ({"interface": "eth1", "next_hop": "10.0.0.1"}, Action("next_hops", (hop("eth1", "10.0.0.1"),))),
        ({"next_hop": "FD00::0:1%eth1"}, Action("next_hops", (hop("eth1", "fd00::1"),))),
        (
            {"interface": "a", "next_hops": ["10.0.0.1", "10.0.1.1%b", "%c", {"address": "fd00::1"}]},
            Action("next_hops", (hop("a", "10.0.0.1"), hop("b", "10.0.1.1"), hop("c"), hop("a", "fd00::1"))),
        ),
        (
            {"next_hops": "10.0.0.1%a 10.0.0.2%a"},
            Action("next_hops", (hop("a", "10.0.0.1"), hop("a", "10.0.0.2"))),
        ),
        ({"pool": "web", "strict": "yes", "liveness": "false"}, Action("pool", (), "web", True, False)),
        ({"action": "pass"}, Action("pass")),
        ({"action": "exempt", "liveness": ""}, Action("exempt")),
    ],
)
def test_what_an_entry_does(item, action):
    assert entry(source="10.0.0.1", **item).action is interned(action)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"source": "10.0.0.1/8", "action": "drop"},
            r"entries\[0\].source: 10.0.0.1/8 has host bits; write 10.0.0.0/8",
        ),
        ({"source": "10.0.0.0/33", "action": "drop"}, "source: '10.0.0.0/33' is not a prefix"),
        ({"source": "10.0.0", "action": "drop"}, "source: '10.0.0' is not a prefix"),
        ({"source": "fd00::/8/8", "action": "drop"}, "is not a prefix"),
        ({"source": "10.0.0.0/-1", "action": "drop"}, "is not a prefix"),
        ({"source": "10.0.0.1", "destination": "10.0.0.2", "action": "drop"}, "destination: goes alone"),
        ({"destination": "10.0.0.2", "protocol": "tcp", "action": "drop"}, "destination: goes alone"),
        ({"destination_port": "80", "action": "drop"}, "protocol: missing; ports belong to a protocol"),
        ({"protocol": "icmp", "destination_port": "80", "action": "drop"}, "destination_port: only tcp"),
        ({"protocol": "ttp", "action": "drop"}, "protocol: 'ttp' is neither 0 to 255 nor"),
        ({"protocol": "256", "action": "drop"}, "protocol: '256'"),
        ({"protocol": "tcp", "destination_port": "0", "action": "drop"}, "out of range; give 1 to 65535"),
        ({"protocol": "tcp", "destination_port": "9-8", "action": "drop"}, "out of range"),
        ({"protocol": "tcp", "destination_port": "http", "action": "drop"}, "neither a port nor a range"),
        ({"source": "10.0.0.1"}, r"entries\[0\]: says not what to do"),
        ({"source": "10.0.0.1", "next_hop": "10.0.0.9"}, r"next_hop: which device leads to 10.0.0.9\?"),
        ({"source": "10.0.0.1", "next_hop": "gw", "interface": "e"}, "next_hop: 'gw' is not an IP address"),
        ({"source": "10.0.0.1", "next_hop": "224.0.0.1%e"}, "no neighbour's address"),
        ({"source": "10.0.0.1", "next_hop": "0.0.0.0%e"}, "no neighbour's address"),
        ({"source": "10.0.0.1", "next_hop": "10.0.0.9%a b"}, "is not a device name"),
        ({"source": "10.0.0.1", "pool": "a", "action": "drop"}, "action: cannot stand beside pool"),
        ({"source": "10.0.0.1", "pool": "a", "interface": "e"}, "interface: says nothing beside pool"),
        ({"source": "10.0.0.1", "pool": "a:b"}, "not a pool's name"),
        ({"source": "10.0.0.1", "pool": "x" * 32}, "not a pool's name"),
        ({"source": "10.0.0.1", "action": "drop", "strict": True}, "strict: says nothing beside action"),
        ({"source": "10.0.0.1", "action": "reject"}, "action: 'reject' is none of pass, drop, exempt"),
        (
            {"source": "10.0.0.1", "next_hops": ["10.0.0.9%e"] * 2},
            r"next_hops\[1\]: 10.0.0.9%e is there already",
        ),
        (
            {"source": "10.0.0.1", "next_hops": [f"10.0.0.{n}%e" for n in range(1, 8)]},
            "has 7; the router takes 6",
        ),
        ({"source": "10.0.0.1", "next_hops": 5}, "next_hops: is int; a list is needed"),
        (
            {"source": "10.0.0.1", "next_hops": [{"address": "10.0.0.9", "dev": "e"}]},
            "unsupported option dev",
        ),
        ({"source": "10.0.0.1", "action": "drop", "priority": 1}, "priority: decides nothing here"),
        ({"protocol": "tcp", "action": "drop", "priority": "high"}, "priority: 'high' is not a number"),
        ({"source": "10.0.0.1", "action": "drop", "comment": "x" * 112}, "comment: has 112 bytes"),
        (
            {"source": "10.0.0.1", "action": "drop", "comment": "a\nb"},
            "comment: has signs that cannot be printed",
        ),
        ({"action": "drop", "family": "ipv5"}, "family: 'ipv5' is none of"),
        ({"source": "10.0.0.1", "action": "drop", "family": "ipv5"}, "family: 'ipv5' is none of"),
        ({"source": "10.0.0.1", "action": "drop", "family": "ipv6"}, "ipv6 is not that of the address"),
        ({"source": "fd00::1", "action": "drop", "family": "ipv4"}, "ipv4 is not that of the address"),
        (
            {"source": "fd00::/8", "next_hop": "10.0.0.1", "interface": "e"},
            "IPv6 packet cannot take the IPv4 next hop",
        ),
        (
            {"family": "ipv6", "next_hop": "10.0.0.1", "interface": "e"},
            "IPv6 packet cannot take the IPv4 next hop",
        ),
        (
            {"family": "both", "next_hop": "10.0.0.1", "interface": "e"},
            "IPv6 packet cannot take the IPv4 next hop",
        ),
        (
            {"source": "fd00::/8", "protocol": "icmp", "action": "drop"},
            "protocol: icmp never matches in IPv6",
        ),
        (
            {"source": "10.0.0.1", "protocol": "icmpv6", "action": "drop"},
            "protocol: ipv6-icmp never matches in IPv4",
        ),
        ({"protocol": "ah", "family": "ipv6", "action": "drop"}, "protocol: ah never matches in IPv6"),
        ({"source": "10.0.0.1", "action": "drop", "liveness": "maybe"}, "neither true nor false"),
    ],
)
def test_what_is_refused_and_how(item, message):
    with pytest.raises(SpecError, match=message):
        entry(**item)


def test_the_same_match_twice_names_both_places():
    with pytest.raises(
        SpecError, match=r"entries\[1\]: source 10.0.0.7/32 is there already \(entries\[0\]\)"
    ):
        policy_from({"source": "10.0.0.7", "action": "drop"}, {"source": "10.0.0.7/32", "action": "pass"})


# --- files ----------------------------------------------------------------------------------------------------------------

CSV = """\
# customers of the north
source,protocol,destination_port,interface,next_hop,next_hops,action,comment

10.1.0.0/16,,,eth1,10.0.1.1,,,
10.1.0.7,,,eth1,10.0.1.1,,,
10.1.0.8,,,eth1,10.0.1.1,,,"a, b"
fd00:1::7,,,,,fd00::1%eth1 fd00::2%eth2,,
10.2.0.0/16,tcp,80-81,,,,drop,
"""


def test_csv_and_json_lines_say_the_same_as_items(tmp_path):
    items = [
        {"source": "10.1.0.0/16", "interface": "eth1", "next_hop": "10.0.1.1"},
        {"source": "10.1.0.7", "interface": "eth1", "next_hop": "10.0.1.1"},
        {"source": "10.1.0.8", "interface": "eth1", "next_hop": "10.0.1.1", "comment": "a, b"},
        {"source": "fd00:1::7", "next_hops": ["fd00::1%eth1", "fd00::2%eth2"]},
        {"source": "10.2.0.0/16", "protocol": "tcp", "destination_port": "80-81", "action": "drop"},
    ]
    csv, lines = tmp_path / "p.csv", tmp_path / "p.jsonl"
    csv.write_text(CSV)
    lines.write_text("".join(f"{__import__('json').dumps(item)}\n" for item in items))
    wanted = policy_from(*items)
    assert len(wanted) == 5
    assert policy_input.read_file(str(csv), "p.csv") == wanted
    assert policy_input.read_file(str(lines), "p.jsonl") == wanted


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.csv",
            "source,action\n10.0.0.1,drop\n10.0.0.1/8,drop\n",
            "p.csv line 3.source: 10.0.0.1/8 has host bits",
        ),
        (
            "p.csv",
            "source,action\n10.0.0.1,drop\n10.0.0.1,drop\n",
            "p.csv line 3: source 10.0.0.1/32 is there already",
        ),
        ("p.csv", "source,verdict\n10.0.0.1,drop\n", "p.csv line 1: unsupported option verdict"),
        ("p.csv", "source,source\n10.0.0.1,drop\n", "p.csv line 1: names a column twice"),
        ("p.csv", "source,action\n10.0.0.1\n", "p.csv line 2: has 1 fields, the first line names 2"),
        ("p.csv", 'source,action\n"10.0.0.1,drop\n', "is not CSV"),
        ("p.csv", "source,action\n10.0.0.1,\n", "p.csv line 2: says not what to do"),
        ("p.jsonl", '{"source": "10.0.0.1", "action": "drop"}\n{"source"\n', "p.jsonl line 2: is not JSON"),
        ("p.jsonl", "[1]\n", "p.jsonl line 1: is not an object"),
        ("p.jsonl", '{"sauce": 1}\n', "p.jsonl line 1: unsupported option sauce"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        policy_input.read_file(str(path), name)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "p.csv").write_bytes(b"source,action\n\xff,drop\n")
    with pytest.raises(SpecError, match="is not UTF-8"):
        policy_input.read_file(str(tmp_path / "p.csv"), "p.csv")
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        policy_input.read_file(str(tmp_path / "q.csv"), "q.csv")


# --- random policies ------------------------------------------------------------------------------------------------------

ACTIONS = [
    interned(action)
    for action in (
        Action("drop"),
        Action("pass"),
        Action("exempt"),
        Action("next_hops", (hop("eth1", "10.0.1.1"), hop("eth1", "fd00::2"))),
        Action("next_hops", (hop("eth1", "fd00::1"), hop("eth2")), "", True),
        Action("pool", (), "web", False, False),
    )
]
PREFIXES = [
    (packed(text.partition("/")[0]), int(text.partition("/")[2]))
    for text in (
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3/32",
        "0.0.0.0/0",
        "fd00::/8",
        "fd00::1/128",
        "::/0",
    )
]
PORTS = [(0, 0), (80, 80), (80, 81), (79, 90), (443, 443), (60, 100)]


@st.composite
def policies(draw):
    tables = {}
    priorities, comments = {}, {}
    for side in (policy.SOURCES, policy.DESTINATIONS):
        for address, length in draw(st.lists(st.sampled_from(PREFIXES), unique=True, max_size=5)):
            table, key = policy.address_match(side, address, length)
            tables.setdefault(table, {})[key] = draw(st.sampled_from(ACTIONS))
            if draw(st.booleans()):
                comments[table, key] = draw(st.sampled_from(["one", "zwei ü"]))
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from([6, 17]), st.sampled_from(PORTS), st.sampled_from(PREFIXES)),
            unique=True,
            max_size=6,
        )
    )
    for protocol, (first, last), (address, length) in rows:
        condition = Condition(protocol, first, last, length, address)
        tables.setdefault(policy.CONDITIONS, {})[condition] = draw(st.sampled_from(ACTIONS))
        priority = draw(st.sampled_from([0, 0, -5, 7]))
        if priority:
            priorities[condition] = priority
    for version in draw(st.sets(st.sampled_from([4, 6]))):
        tables.setdefault(policy.DEFAULTS, {})[version] = draw(st.sampled_from(ACTIONS))
    return Policy(tables, priorities, comments)


@quick
@given(policies())
def test_a_policy_survives_the_way_to_a_host(one):
    assert Policy.from_text(one.to_text()) == one
    assert Policy.from_text(one.to_text()).digest() == one.digest()


@pytest.mark.parametrize("text", ["", "x", "AAAA", Policy().to_text()[:-8]])
def test_a_damaged_policy_is_refused(text):
    with pytest.raises(PolicyError, match="its content is damaged"):
        Policy.from_text(text)


@quick
@given(policies(), policies())
def test_equal_digests_are_equal_policies(one, two):
    assert (one.digest() == two.digest()) == (one == two)


@quick
@given(policies(), policies())
def test_the_difference_leads_from_one_to_the_other(one, two):
    found = policy.difference(one, two)
    assert bool(found) == (one != two)
    put = [*found.added, *found.changed]
    tables = {}
    for table, key in put:
        tables.setdefault(table, {})[key] = two.tables[table][key]
    part = Policy(
        tables,
        {key: two.priorities[key] for _table, key in put if key in two.priorities},
        {match: two.comments[match] for match in put if match in two.comments},
    )
    assert one.patched(part, found.removed) == two
    assert not set(found.added) & set(found.changed)


@quick
@given(policies())
def test_an_entry_said_in_words_is_the_same_entry(one):
    builder = policy_input.Builder()
    for match in policy.matches(one):
        item = policy.entry_item(one, *match)
        builder.add(policy_input.entry_of(item, "x"), "x")
    assert builder.policy() == one


def test_what_a_host_has_can_be_put_back_though_a_device_is_gone():
    gone = Action("next_hops", (NextHop("7 (gone)", "10.0.0.9"),))
    one = Policy({"sources4_exact": {packed("10.0.0.1"): gone}}, {}, {})
    assert Policy.from_text(one.to_text()) == one
    for name in ("7 (left)", "a (gone)", "7 (gone) x", " 7 (gone)"):
        other = Action("next_hops", (NextHop(name, "10.0.0.9"),))
        with pytest.raises(PolicyError, match="damaged"):
            Policy.from_text(Policy({"sources4_exact": {packed("10.0.0.1"): other}}, {}, {}).to_text())


def test_lines_of_a_change():
    one = policy_from(
        {"source": "10.1.0.0/16", "interface": "eth1", "next_hop": "10.0.1.1"},
        {"source": "10.2.0.0/16", "action": "drop"},
        {"protocol": "tcp", "destination_port": 80, "action": "drop", "family": "ipv4"},
    )
    two = policy_from(
        {
            "source": "10.1.0.0/16",
            "next_hops": ["10.0.1.1%eth1", "%eth2"],
            "strict": True,
            "comment": "ticket 7",
        },
        {"protocol": "tcp", "destination_port": 80, "action": "drop", "family": "ipv4", "priority": -1},
        {"pool": "web", "family": "ipv6", "liveness": False},
    )
    assert policy.change_lines(one, two, 100) == (
        [
            "source 10.1.0.0/16: next_hops 10.0.1.1%eth1",
            "source 0.0.0.0/0 protocol tcp destination_port 80: drop",
            "source 10.2.0.0/16: drop",
        ],
        [
            "source 10.1.0.0/16: next_hops 10.0.1.1%eth1 %eth2 strict # ticket 7",
            "source 0.0.0.0/0 protocol tcp destination_port 80: drop priority -1",
            "default ipv6: pool web without liveness",
        ],
        None,
    )
    assert policy.change_lines(one, two, 1)[2] == "... and 3 more entries"
    assert str(policy.difference(one, two)) == "1 added, 1 removed, 2 changed"


# --- conditions -----------------------------------------------------------------------------------------------------------


def looked_up(found, protocol, port, address):
    """What the router finds: the class of the port, then that of the protocol, and the longest prefix in it."""
    for key in ((protocol, port), (protocol, 0)):
        place = found.ports.get(key)
        if place is None or (key[1] == 0 and not port and key != (protocol, 0)):
            continue
        rows = [
            (length, condition)
            for (around, length), condition in found.rows[place].items()
            if policy.is_within(address, 8 * len(address), around, length)
        ]
        if rows:
            return max(rows, key=lambda row: row[0])[1]
    return None


def declared(conditions, priorities, protocol, port, address):
    """What the documentation says: lowest priority, a port before none, longer prefix, smaller range."""
    fitting = [
        condition
        for condition in conditions
        if condition.protocol == protocol
        and (condition.is_any_port or condition.first <= port <= condition.last)
        and policy.is_within(address, 8 * len(address), condition.address, condition.length)
    ]
    return min(fitting, key=lambda one: policy.rank(one, priorities), default=None)


@examples(400)
@given(policies(), st.data())
def test_the_condition_that_decides_is_the_one_that_was_meant(one, data):
    conditions = one.table(policy.CONDITIONS)
    found = policy.compiled(conditions, one.priorities)
    for _number in range(12):
        protocol = data.draw(st.sampled_from([6, 17, 1]))
        port = data.draw(st.sampled_from([1, 78, 79, 80, 81, 90, 91, 443, 65535]))
        address = data.draw(
            st.sampled_from(
                [packed(a) for a in ("10.1.2.3", "10.1.2.4", "10.9.9.9", "192.0.2.1", "fd00::1", "2001::1")]
            )
        )
        wanted = declared(conditions, one.priorities, protocol, port, address)
        assert looked_up(found, protocol, port, address) == wanted


def test_two_that_would_both_decide_are_refused():
    with pytest.raises(PolicyError, match="have ports in common; give one of them a lower priority"):
        policy.compiled([Condition(6, 1, 10, 0, bytes(4)), Condition(6, 5, 14, 0, bytes(4))], {})
    lower = Condition(6, 5, 14, 0, bytes(4))
    found = policy.compiled([Condition(6, 1, 10, 0, bytes(4)), lower], {lower: -1})
    assert found.rows[found.ports[6, 7]] == {(bytes(4), 0): lower}


def test_a_range_costs_an_entry_for_each_port_and_one_class():
    found = policy.compiled([Condition(6, 8000, 8099, 8, packed("10.0.0.0"))], {})
    assert sorted(found.ports) == [(6, port) for port in range(8000, 8100)]
    assert len(found.rows) == 1


def test_names_of_a_prefix():
    assert policy.prefix_text(socket.inet_aton("10.0.0.0"), 8) == "10.0.0.0/8"
    assert policy.match_text("sources6_exact", packed("fd00::1")) == "source fd00::1/128"
