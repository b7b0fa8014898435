# SPDX-License-Identifier: GPL-3.0-or-later
"""filter.bpf.c: each selector with what matches and what does not, at both kinds of hook, with exact verdicts and counters."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import packets as p

XDP = {p.NEXT: p.XDP_PASS, p.PASS: p.XDP_PASS, p.DROP: p.XDP_DROP}
NAMES = {p.NEXT: "TC_NEXT", p.PASS: "TC_PASS", p.DROP: "TC_DROP"}
RULE = {p.NEXT: "FILTER_RULE_NEXT", p.PASS: "FILTER_RULE_PASS", p.DROP: "FILTER_RULE_DROP"}
PROGRAMS = pytest.mark.parametrize("program", ["filter", "filter_xdp"])
BOTH = pytest.mark.parametrize("compiler", p.COMPILERS)


def add_prefix(filters: p.Loaded, side: str, prefix: str, group: int) -> None:
    """``side``: sources or destinations."""
    address, length = prefix.split("/")
    if ":" in address:
        key = {"prefixlen": int(length), "address": socket.inet_pton(socket.AF_INET6, address)}
        filters.put(f"{side}6", key, group)
    else:
        key = {"prefixlen": int(length), "address": int.from_bytes(socket.inet_aton(address), "big")}
        filters.put(f"{side}4", key, group)


def add_rule(
    filters: p.Loaded,
    verdict: int,
    *,
    source: int = 0,
    destination: int = 0,
    protocol: int = 0,
    port: int = 0,
) -> None:
    key = {"source": source, "destination": destination, "port": port, "protocol": protocol, "pad": 0}
    filters.put("rules", key, NAMES[verdict])


def check(filters: p.Loaded, program: str, frame: bytes, verdict: int, counter: str) -> None:
    before = filters.counters()
    result = filters.run(program, frame)
    assert result == (XDP[verdict] if program == "filter_xdp" else verdict)
    packets, octets = before.get(counter, (0, 0))
    assert filters.counters() == {**before, counter: (packets + 1, octets + len(frame))}


# prefix of source, prefix of destination, protocol, port; then frames that match and that do not
UDP53, TCP53, TCP80 = p.udp(port=53), p.tcp(port=53), p.tcp(port=80)
SELECTORS: t.Dict[str, t.Tuple[t.Tuple[str, str, int, int], t.List[p.Network], t.List[p.Network]]] = {
    "source": (
        ("192.0.2.0/24", "", 0, 0),
        [p.ipv4(UDP53, source="192.0.2.0"), p.ipv4(p.icmp(), source="192.0.2.255")],
        [
            p.ipv4(UDP53, source="192.0.3.0"),
            p.ipv4(UDP53, source="1.2.3.4", destination="192.0.2.1"),
            p.ipv6(UDP53),
        ],
    ),
    "source host": (
        ("192.0.2.1/32", "", 0, 0),
        [p.ipv4(UDP53, source="192.0.2.1")],
        [p.ipv4(UDP53, source="192.0.2.0"), p.ipv4(UDP53, source="193.0.2.1")],
    ),
    "every ipv4 source": (("0.0.0.0/0", "", 0, 0), [p.ipv4(UDP53)], [p.ipv6(UDP53)]),
    "destination": (
        ("", "198.51.100.0/25", 0, 0),
        [p.ipv4(TCP80, destination="198.51.100.127")],
        [
            p.ipv4(TCP80, destination="198.51.100.128"),
            p.ipv4(TCP80, source="198.51.100.1", destination="8.8.8.8"),
        ],
    ),
    "source and destination": (
        ("192.0.2.0/24", "198.51.100.0/24", 0, 0),
        [p.ipv4(UDP53)],
        [p.ipv4(UDP53, source="10.0.0.1"), p.ipv4(UDP53, destination="10.0.0.1")],
    ),
    "source6": (
        ("2001:db8:1::/48", "", 0, 0),
        [p.ipv6(UDP53), p.ipv6(p.icmpv6(), p.hop_by_hop())],
        [
            p.ipv6(UDP53, source="2001:db8:2::1"),
            p.ipv6(UDP53, source="::1", destination="2001:db8:1::1"),
            p.ipv4(UDP53),
        ],
    ),
    "source6 host": (
        ("2001:db8:1::10/128", "", 0, 0),
        [p.ipv6(UDP53)],
        [p.ipv6(UDP53, source="2001:db8:1::11")],
    ),
    "every ipv6 destination": (("", "::/0", 0, 0), [p.ipv6(UDP53)], [p.ipv4(UDP53)]),
    "source6 and destination6": (
        ("2001:db8:1::/64", "2001:db8:2::/65", 0, 0),
        [p.ipv6(UDP53, destination="2001:db8:2:0:7fff::")],
        [p.ipv6(UDP53, destination="2001:db8:2:0:8000::"), p.ipv6(UDP53, source="2001:db8:1:1::")],
    ),
    "protocol": (
        ("", "", p.UDP, 0),
        [
            p.ipv4(UDP53),
            p.ipv6(UDP53),
            p.ipv6(UDP53, p.destination_options(3)),
            p.ipv4(UDP53, options=b"\1" * 40),
        ],
        [p.ipv4(TCP53), p.ipv6(TCP53), p.ipv4(p.icmp()), p.ipv6(TCP53, p.authentication())],
    ),
    "protocol without ports": (("", "", p.ICMP, 0), [p.ipv4(p.icmp())], [p.ipv4(UDP53), p.ipv6(p.icmpv6())]),
    "port": (
        ("", "", p.TCP, 80),
        [p.ipv4(TCP80), p.ipv6(TCP80), p.ipv6(TCP80, p.routing(), p.fragment(0, more=False))],
        [p.ipv4(TCP53), p.ipv4(p.udp(port=80)), p.ipv6(p.tcp(port=443, source_port=80)), p.ipv4(p.icmp())],
    ),
    "all at once": (
        ("192.0.2.0/24", "198.51.100.0/24", p.UDP, 53),
        [p.ipv4(UDP53), p.ipv4(UDP53, options=b"\1" * 4), p.ipv4(UDP53, more=True)],
        [
            p.ipv4(p.udp(port=54)),
            p.ipv4(TCP53),
            p.ipv4(UDP53, source="10.0.0.1"),
            p.ipv4(UDP53, destination="10.0.0.1"),
            p.ipv6(UDP53),
        ],
    ),
}


@BOTH
@PROGRAMS
@pytest.mark.parametrize("verdict", [p.NEXT, p.PASS, p.DROP], ids=["next", "pass", "drop"])
@pytest.mark.parametrize("name", SELECTORS)
def test_selector(compiler: str, program: str, verdict: int, name: str) -> None:
    (source, destination, protocol, port), matches, others = SELECTORS[name]
    default = p.PASS if verdict == p.DROP else p.DROP
    filters = p.load("filter", compiler, default_verdict=default)
    if source:
        add_prefix(filters, "sources", source, 7)
    if destination:
        add_prefix(filters, "destinations", destination, 9)
    add_rule(
        filters,
        verdict,
        source=7 * bool(source),
        destination=9 * bool(destination),
        protocol=protocol,
        port=port,
    )
    for vlans in ((), (100,), (100, 200)):
        for network in matches:
            check(filters, program, p.ethernet(network, vlans=vlans), verdict, RULE[verdict])
        for network in others:
            check(filters, program, p.ethernet(network, vlans=vlans), default, "FILTER_DEFAULT")


@BOTH
@PROGRAMS
def test_most_specific_rule_wins(compiler: str, program: str) -> None:
    """Rules of all twelve forms apply at once; each is taken away after it has won, in the documented order."""
    filters = p.load("filter", compiler, default_verdict=p.NEXT)
    add_prefix(filters, "sources", "192.0.2.0/24", 1)
    add_prefix(filters, "destinations", "198.51.100.0/24", 2)
    pairs = [(1, 2), (1, 0), (0, 2), (0, 0)]
    ports = [(p.UDP, 53), (p.UDP, 0), (0, 0)]
    order = [
        {"source": source, "destination": destination, "protocol": protocol, "port": port}
        for (source, destination), (protocol, port) in itertools.product(pairs, ports)
    ]
    frame = p.ethernet(p.ipv4(UDP53))
    for number in range(len(order), -1, -1):
        filters.clear()
        add_prefix(filters, "sources", "192.0.2.0/24", 1)
        add_prefix(filters, "destinations", "198.51.100.0/24", 2)
        for place, rule in enumerate(order[number:]):
            add_rule(filters, p.DROP if place == 0 else p.PASS, **rule)
        if number < len(order):
            check(filters, program, frame, p.DROP, "FILTER_RULE_DROP")
        else:
            check(filters, program, frame, p.NEXT, "FILTER_DEFAULT")


@BOTH
@PROGRAMS
@pytest.mark.parametrize(
    ("wide", "narrow", "inside", "outside"),
    [
        ("192.0.0.0/16", "192.0.2.0/24", p.ipv4(UDP53), p.ipv4(UDP53, source="192.0.3.1")),
        ("2001:db8::/32", "2001:db8:1::/48", p.ipv6(UDP53), p.ipv6(UDP53, source="2001:db8:9::1")),
    ],
    ids=["ipv4", "ipv6"],
)
def test_longest_prefix_decides(
    compiler: str, program: str, wide: str, narrow: str, inside: p.Network, outside: p.Network
) -> None:
    filters = p.load("filter", compiler)
    add_prefix(filters, "sources", wide, 1)
    add_prefix(filters, "sources", narrow, 2)
    add_rule(filters, p.DROP, source=1)
    check(filters, program, p.ethernet(inside), p.NEXT, "FILTER_DEFAULT")
    check(filters, program, p.ethernet(outside), p.DROP, "FILTER_RULE_DROP")


@BOTH
@PROGRAMS
def test_prefixes_share_a_group(compiler: str, program: str) -> None:
    filters = p.load("filter", compiler)
    for prefix in ("192.0.2.0/24", "10.0.0.0/8", "2001:db8:1::/48"):
        add_prefix(filters, "sources", prefix, 1)
    add_rule(filters, p.DROP, source=1)
    for network in (p.ipv4(UDP53), p.ipv4(UDP53, source="10.9.8.7"), p.ipv6(UDP53)):
        check(filters, program, p.ethernet(network), p.DROP, "FILTER_RULE_DROP")


LATER = [
    p.ipv4(p.Segment(p.UDP, b"\0\x35" * 8), offset=1),
    p.ipv6(p.Segment(p.UDP, b"\0\x35" * 8), p.fragment(1)),
]


@BOTH
@PROGRAMS
@pytest.mark.parametrize("verdict", [p.NEXT, p.PASS, p.DROP], ids=["next", "pass", "drop"])
@pytest.mark.parametrize("network", LATER, ids=["ipv4", "ipv6"])
def test_later_fragments(compiler: str, program: str, verdict: int, network: p.Network) -> None:
    other = p.PASS if verdict == p.DROP else p.DROP
    filters = p.load("filter", compiler, fragment_verdict=verdict, default_verdict=other)
    frame = p.ethernet(network)
    add_rule(filters, other, protocol=p.UDP, port=53)  # its bytes look like this port, but they are no ports
    check(filters, program, frame, verdict, "FILTER_FRAGMENT")
    add_rule(filters, other, protocol=p.UDP)
    check(filters, program, frame, other, RULE[other])


@BOTH
@PROGRAMS
@pytest.mark.parametrize("verdict", [p.NEXT, p.PASS, p.DROP], ids=["next", "pass", "drop"])
def test_verdicts_without_a_rule(compiler: str, program: str, verdict: int) -> None:
    other = p.PASS if verdict == p.DROP else p.DROP
    ip, arp = p.ethernet(p.ipv4(UDP53)), p.ethernet(p.arp())
    bad = p.ethernet(p.ipv4(UDP53, version=5))
    deep = p.ethernet(p.ipv6(UDP53, *[p.destination_options()] * 9))
    short = p.ethernet(p.ipv4(UDP53))[: 14 + 20 + 3]
    rest = {"default_verdict": other, "other_verdict": other, "malformed_verdict": other}
    cases = {
        "default_verdict": [(ip, "FILTER_DEFAULT")],
        "other_verdict": [(arp, "FILTER_OTHER")],
        "malformed_verdict": [
            (bad, "FILTER_BAD_HEADER"),
            (deep, "FILTER_TOO_DEEP"),
            (short, "FILTER_TRUNCATED"),
        ],
    }
    for constant, wanted in cases.items():
        filters = p.load("filter", compiler, **{**rest, constant: verdict})
        for frame, counter in wanted:
            check(filters, program, frame, verdict, counter)
        for frame, counter in itertools.chain(*(cases[name] for name in cases if name != constant)):
            check(filters, program, frame, other, counter)


@BOTH
@PROGRAMS
def test_built_in_verdicts(compiler: str, program: str) -> None:
    filters = p.load("filter", compiler)
    check(filters, program, p.ethernet(p.ipv4(UDP53)), p.NEXT, "FILTER_DEFAULT")
    check(filters, program, p.ethernet(p.arp()), p.NEXT, "FILTER_OTHER")
    check(filters, program, p.ethernet(LATER[0]), p.NEXT, "FILTER_FRAGMENT")
    check(filters, program, p.ethernet(p.ipv6(UDP53, version=7)), p.DROP, "FILTER_BAD_HEADER")
    check(filters, program, p.ethernet(p.arp(), vlans=(1, 2, 3)), p.DROP, "FILTER_TOO_DEEP")


@BOTH
@PROGRAMS
@pytest.mark.parametrize("number", [1, 3, 7, -2, 1 << 30])
def test_unknown_verdicts_drop(compiler: str, program: str, number: int) -> None:
    """Redirect (7) too: without a target it would lose the packet on tcx and confuse netkit."""
    filters = p.load("filter", compiler, default_verdict=number)
    check(filters, program, p.ethernet(p.ipv4(UDP53)), p.DROP, "FILTER_DEFAULT")


@BOTH
@PROGRAMS
@pytest.mark.parametrize(
    "network", [p.ipv4(UDP53, options=b"\1" * 8), p.ipv6(UDP53, p.hop_by_hop(1))], ids=["v4", "v6"]
)
def test_every_truncation(compiler: str, program: str, network: p.Network) -> None:
    """What cannot be read drops, also when a rule would let everything pass."""
    filters = p.load("filter", compiler)
    add_rule(filters, p.PASS)
    frame = p.ethernet(network, vlans=(5,))
    needed = len(frame) - len(UDP53.data) + 4
    for length in range(14, len(frame) + 1):
        if length < needed:
            check(filters, program, frame[:length], p.DROP, "FILTER_TRUNCATED")
        else:
            check(filters, program, frame[:length], p.PASS, "FILTER_RULE_PASS")


@BOTH
def test_drop_all(compiler: str) -> None:
    filters = p.load("filter", compiler, default_verdict=p.PASS)
    for network in (p.ipv4(UDP53), p.ipv6(UDP53), p.arp()):
        check(filters, "drop_all", p.ethernet(network), p.DROP, "FILTER_DROP_ALL")


# --- On wires -----------------------------------------------------------------------------------------------------


@pytest.fixture
def netns() -> t.Iterator[p.Namespace]:
    """The test runs in a network namespace of its own."""
    with contextlib.closing(p.Namespace()) as made:
        with made:
            yield made


@BOTH
@pytest.mark.usefixtures("netns")
def test_device_without_link_header(compiler: str) -> None:
    filters = p.load("filter", compiler)
    add_prefix(filters, "sources", "192.0.2.0/24", 1)
    add_prefix(filters, "destinations", "2001:db8:2::/48", 2)
    add_rule(filters, p.DROP, source=1, protocol=p.UDP, port=53)
    add_rule(filters, p.DROP, destination=2)
    with p.Tun("tun0") as tun, p.attached(filters.programs["filter"], "tun0", "ingress"):
        for network in (
            p.ipv4(UDP53),
            p.ipv4(TCP53),
            p.ipv6(TCP80),
            p.ipv6(TCP80, destination="::1"),
            *LATER,
        ):
            tun.receive(network.data)
        tun.receive(p.ipv4(UDP53).data[:22])
        wanted = {"FILTER_RULE_DROP": 3, "FILTER_DEFAULT": 2, "FILTER_FRAGMENT": 1, "FILTER_TRUNCATED": 1}
        assert p.eventually(filters.packets, wanted) == wanted


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("hook", ["ingress", "egress", "xdp"])
def test_only_what_passes_arrives(compiler: str, hook: str) -> None:
    """`filter` and behind it `drop_all`: only PASS gets by, which skips the rest of the list."""
    filters = p.load("filter", compiler)
    add_rule(filters, p.PASS, protocol=p.UDP, port=53)
    add_rule(filters, p.DROP, protocol=p.TCP)
    good, bad, unknown = p.ethernet(p.ipv4(UDP53)), p.ethernet(p.ipv4(TCP80)), p.ethernet(p.ipv6(p.icmpv6()))
    p.veth("v0", "v1")
    wanted = {"FILTER_RULE_PASS": 1, "FILTER_RULE_DROP": 1, "FILTER_DEFAULT": 1}
    arriving = [good]
    with contextlib.ExitStack() as stack:
        if hook == "xdp":
            stack.enter_context(p.attached(filters.programs["filter_xdp"], "v1", "xdp"))
            arriving.append(unknown)
        else:
            device = "v0" if hook == "egress" else "v1"
            stack.enter_context(p.attached(filters.programs["filter"], device, hook))
            stack.enter_context(p.attached(filters.programs["drop_all"], device, hook))
            wanted["FILTER_DROP_ALL"] = 1
        # AF_PACKET looks at a device before tcx ingress; the count behind tells what is left there.
        capture = stack.enter_context(p.Capture("v1"))
        p.send("v0", good, bad, unknown)
        assert p.eventually(filters.packets, wanted) == wanted
        if hook != "ingress":
            assert p.eventually(capture.frames, arriving) == arriving


@pytest.mark.usefixtures("netns")
def test_rules_apply_outside_the_linear_area() -> None:
    """A large packet whose headers are in pages must not look truncated, or pass as something else."""
    filters = p.load("filter", "clang")
    add_rule(filters, p.PASS, protocol=p.UDP, port=53)
    p.veth("v0", "v1", mtu=9000)
    frame = p.ethernet(p.ipv6(p.udp(bytes(5000), port=53), p.hop_by_hop()))
    with p.attached(filters.programs["filter"], "v0", "egress"), p.Capture("v1") as capture:
        p.send("v0", frame)
        assert p.eventually(capture.frames, [frame]) == [frame]
        assert filters.counters() == {"FILTER_RULE_PASS": (1, len(frame))}
