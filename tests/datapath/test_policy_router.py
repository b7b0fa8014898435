# SPDX-License-Identifier: GPL-3.0-or-later
"""policy_router.bpf.c: against a plain model, selector by selector, with next hops that die, in pools, and on wires.

What `explain` says and what `policy_router` does are compared for every packet of a test run.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import ipaddress
import random
import socket
import struct
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf

sys.path.insert(0, str(Path(__file__).resolve().parent))
import packets as p
import router_model as m
from router_model import Action, Choice, Decision, NextHop, Policy, Pool

SOURCE = p.SOURCES / "policy_router.bpf.c"
COUNTERS = [name[len("POLICY_") :] for name in p.counters_of(SOURCE)]
OUTCOMES = COUNTERS[COUNTERS.index("REDIRECT") : COUNTERS.index("DEAD")]
MATCHES = {
    "PORT": "CONDITIONAL",
    "PROTOCOL": "CONDITIONAL",
    "SOURCE_EXACT": "SOURCE",
    "SOURCE": "SOURCE",
    "DESTINATION_EXACT": "DESTINATION",
    "DESTINATION": "DESTINATION",
    "DEFAULT": "DEFAULT",
}
TABLES = ["NONE", *MATCHES]
KINDS = ["NONE", m.NEXT_HOPS, m.POOL, m.PASS, m.DROP, m.EXEMPT]
MODES = [m.FLOW, m.BY_SOURCE, m.RANDOM]
CHAIN = ["NONE", m.CONDITIONAL, m.SOURCE, m.DESTINATION, m.DEFAULT]
ORDER = ("first", "second", "third", "fourth")
BOTH = pytest.mark.parametrize("compiler", p.COMPILERS)

SIZES = {"actions": 64, "nexthops": 64, "health": 64, "pools": 8, "members": 4096, "entry_counters": 64}
REGION = 256  # slots of each of a test pool's two tables
CLOCK_MONOTONIC_COARSE = 6  # linux/time.h; CLOCK_MONOTONIC as of the last tick
ANSWER = struct.Struct("=iIIIIIIIII16sI")  # struct decision


class Router:
    """The loaded router with the policy that it was given last."""

    def __init__(self, loaded: libbpf.Loaded) -> None:
        self.programs, self.maps = loaded.programs, loaded.maps

    def put(self, name: str, key: t.Union[int, bytes], value: bytes) -> None:
        raw = key if isinstance(key, bytes) else struct.pack("=I", key)
        bpf.map_update(self.maps[name], raw, value)

    def install(self, policy: Policy) -> None:
        self.clear()
        for side, rows in (("sources", policy.sources), ("destinations", policy.destinations)):
            for network, choice in rows.items():
                name, address = f"{side}{network.version}", network.network_address.packed
                if network.prefixlen == network.max_prefixlen:
                    self.put(f"{name}_exact", address, struct.pack("=II", *choice))
                else:
                    self.put(
                        name, struct.pack("=I", network.prefixlen) + address, struct.pack("=II", *choice)
                    )
        for protocol in {protocol for protocol, _port in policy.ports}:
            has_ports = any(port for owner, port in policy.ports if owner == protocol)
            self.put("protocols", protocol, struct.pack("=II", policy.ports.get((protocol, 0), 0), has_ports))
        for (protocol, port), number in policy.ports.items():
            if port:
                key = struct.pack("=BB", protocol, 0) + struct.pack("!H", port)
                self.put("ports", key, struct.pack("=I", number))
        for (number, network), choice in policy.conditions.items():
            key = struct.pack("=II", 32 + network.prefixlen, number) + network.network_address.packed
            self.put(f"conditions{network.version}", key, struct.pack("=II", *choice))
        for version, choice in policy.defaults.items():
            self.put("defaults", version == 6, struct.pack("=II", *choice))
        for index, action in policy.actions.items():
            self.put("actions", index, packed_action(action))
        for index, hop in policy.nexthops.items():
            self.put("nexthops", index, packed_nexthop(hop))
        for index, pool in policy.pools.items():
            self.fill(index, 0, pool.members)
            self.put_pool(index, pool)

    def fill(self, pool: int, region: int, members: t.Sequence[int]) -> None:
        for slot, member in enumerate(members):
            self.put("members", (2 * pool + region) * REGION + slot, struct.pack("=I", member))

    def put_pool(self, index: int, pool: Pool, active: int = 0) -> None:
        offsets = (2 * index * REGION, (2 * index + 1) * REGION)
        head = (active, len(pool.members), MODES.index(pool.mode), pool.symmetric)
        self.put("pools", index, struct.pack("=6I", *head, *offsets))

    def clear(self) -> None:
        for name, descriptor in self.maps.items():
            info = bpf.map_info(descriptor)
            if info.type in (bpf.MapType.HASH, bpf.MapType.LPM_TRIE):
                for key, _value in list(bpf.map_items(descriptor, info)):
                    bpf.map_delete(descriptor, key)
            elif name != "members" and not name.startswith("."):
                for index in range(info.max_entries):
                    self.put(name, index, bytes(bpf.entry_size(info)))

    def explain(self, frame: bytes) -> Decision:
        result = bpf.test_run(self.programs["explain"], frame)
        assert len(result.data) == ANSWER.size
        verdict, outcome, cause, table, action, kind, counter, nexthop, ifindex, family, raw, flags = (
            ANSWER.unpack(result.data)
        )
        assert verdict == result.retval
        return Decision(
            COUNTERS[outcome],
            verdict,
            COUNTERS[cause] if cause else "",
            TABLES[table],
            action,
            KINDS[kind] if kind < len(KINDS) else str(kind),
            counter,
            nexthop,
            ifindex,
            family,
            address_of(raw, family, frame) if ifindex else None,
            flags,
        )

    def run(self, frame: bytes) -> bpf.TestRun:
        return bpf.test_run(self.programs["policy_router"], frame)

    def check(self, frame: bytes) -> Decision:
        """The decision, on which both programs agree, and which is counted exactly."""
        explained, before = self.explain(frame), self.counters()
        assert self.run(frame).retval == explained.verdict
        wanted = before + counted(explained, len(frame))
        assert self.counters() == wanted
        return explained

    def counters(self) -> t.Counter[t.Tuple[str, str]]:
        """Packets and bytes by name, as {(name, "packets"): 3, ...}."""
        found: t.Counter[t.Tuple[str, str]] = collections.Counter()
        for index, name in enumerate(COUNTERS):
            packets, octets = (sum(column) for column in zip(*self.percpu("counters", index, "=QQ")))
            found[name, "packets"], found[name, "bytes"] = packets, octets
        return +found

    def packets(self) -> t.Dict[str, int]:
        return {name: number for (name, unit), number in self.counters().items() if unit == "packets"}

    def entry(self, index: int) -> t.Tuple[int, int, int]:
        """packets, bytes and failures."""
        packets, octets, failures, _last = (
            sum(column) for column in zip(*self.percpu("entry_counters", index, "=4Q"))
        )
        return packets, octets, failures

    def percpu(self, name: str, index: int, layout: str) -> t.List[t.Tuple[int, ...]]:
        info = bpf.map_info(self.maps[name])
        raw = bpf.map_lookup(self.maps[name], struct.pack("=I", index), bpf.entry_size(info))
        assert raw is not None
        return [struct.unpack(layout, part) for part in bpf.split_percpu(raw, info.value_size)]

    def contents(self) -> t.Dict[str, t.Dict[bytes, bytes]]:
        return {name: dict(bpf.map_items(fd, bpf.map_info(fd))) for name, fd in self.maps.items()}


def packed_action(action: Action) -> bytes:
    flags = action.strict | action.check << 1
    hops = (*action.nexthops, *[0] * (6 - len(action.nexthops)))
    return struct.pack("=10I", KINDS.index(action.kind), flags, len(action.nexthops), action.pool, *hops)


def packed_nexthop(hop: NextHop) -> bytes:
    family = 0 if hop.address is None else {4: 2, 6: 10}[hop.address.version]
    return struct.pack("=II16s", hop.ifindex, family, hop.address.packed if hop.address else b"")


def address_of(raw: bytes, family: int, frame: bytes) -> m.Address:
    is_ipv4 = frame[12:14] == b"\x08\x00" if not family else family == 2
    return ipaddress.IPv4Address(raw[:4]) if is_ipv4 else ipaddress.IPv6Address(raw)


def counted(decision: Decision, size: int) -> t.Counter[t.Tuple[str, str]]:
    names = ["TOTAL", decision.outcome, MATCHES.get(decision.table, ""), decision.cause]
    names += ["SKIPPED"] * bool(decision.flags & m.SKIPPED) + ["PROBE"] * bool(decision.flags & m.PROBE)
    found: t.Counter[t.Tuple[str, str]] = collections.Counter()
    for name in filter(None, names):
        found[name, "packets"], found[name, "bytes"] = 1, size
    return found


@functools.cache
def _loaded(compiler: str, constants: t.Tuple[t.Tuple[str, t.Any], ...]) -> Router:
    why = build.missing(compiler)
    if why:
        pytest.skip(why)
    with tempfile.TemporaryDirectory() as directory:
        if compiler == "bcc":
            programs = {name: p.TYPES[hook] for name, hook in p.programs_of(SOURCE).items()}
            return Router(
                build.compile_bcc(
                    SOURCE,
                    programs=programs,
                    directory=directory,
                    include_dirs=[p.SOURCES / "lib"],
                    constants=dict(constants),
                    map_sizes=SIZES,
                )
            )
        return Router(libbpf.load(_object(), constants=dict(constants), map_sizes=SIZES))


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory()


@functools.cache
def _object() -> Path:
    path = Path(_directory().name, "object.o")
    build.compile_clang(SOURCE, path, [p.SOURCES / "lib"])
    return path


def load(compiler: str, policy: t.Optional[Policy] = None, **constants: t.Any) -> Router:
    """A router with a policy; its chain and TTL become constants."""
    if policy:
        chain = (*policy.chain, *["NONE"] * (4 - len(policy.chain)))
        constants = {
            **{place: f"CHAIN_{member}" for place, member in zip(ORDER, chain)},
            "decrement_ttl": int(policy.decrement_ttl),
            **constants,
        }
    router = _loaded(compiler, tuple(sorted(constants.items())))
    router.clear()
    if policy:
        router.install(policy)
    return router


def frame_of(network: p.Network, **options: t.Any) -> bytes:
    """To the address of `lo`, on which test runs happen; a frame for another station would not be routed."""
    return p.ethernet(network, destination=bytes(6), **options)


def networks(rows: t.Mapping[str, t.Any]) -> t.Dict[m.Network, t.Any]:
    return {ipaddress.ip_network(text): value for text, value in rows.items()}


# A device number that test runs take at its word, since only a wire looks it up.
SOMEWHERE = 77
GATEWAY4, GATEWAY6 = ipaddress.ip_address("10.9.0.2"), ipaddress.ip_address("fd09::2")
UDP, TCP = p.udp(port=53), p.tcp(port=80)
BASE = Policy(
    actions={
        1: Action(m.NEXT_HOPS, (1,)),
        2: Action(m.PASS),
        3: Action(m.DROP),
        4: Action(m.EXEMPT),
        5: Action(m.NEXT_HOPS, (2,)),
    },
    nexthops={1: NextHop(SOMEWHERE), 2: NextHop(SOMEWHERE, GATEWAY4), 3: NextHop(SOMEWHERE, GATEWAY6)},
)


def policy_of(**fields: t.Any) -> Policy:
    for name in ("sources", "destinations"):
        fields[name] = networks(fields.get(name, {}))
    if "conditions" in fields:
        fields["conditions"] = {
            (number, ipaddress.ip_network(text)): choice
            for (number, text), choice in fields["conditions"].items()
        }
    return dataclasses.replace(BASE, **fields)


def agree(router: Router, policy: Policy, frame: bytes) -> Decision:
    found = router.check(frame)
    assert found == m.decide(policy, frame), frame.hex()
    return found


# --- Selectors --------------------------------------------------------------------------------------------------------

HIT = Choice(1, 7)
V4, V6 = p.ipv4(UDP), p.ipv6(UDP)
SELECTORS: t.Dict[str, t.Tuple[Policy, str, t.List[p.Network], t.List[p.Network]]] = {
    "source": (
        policy_of(sources={"192.0.2.0/24": HIT}),
        "SOURCE",
        [
            p.ipv4(UDP, source="192.0.2.0"),
            p.ipv4(p.icmp(), source="192.0.2.255"),
            p.ipv4(UDP, options=b"\1" * 40),
        ],
        [p.ipv4(UDP, source="192.0.3.0"), p.ipv4(UDP, source="1.2.3.4", destination="192.0.2.1"), V6],
    ),
    "source host": (
        policy_of(sources={"192.0.2.10/32": HIT}),
        "SOURCE_EXACT",
        [V4],
        [p.ipv4(UDP, source="192.0.2.11"), p.ipv4(UDP, source="10.2.0.192")],
    ),
    "every ipv4 source": (policy_of(sources={"0.0.0.0/0": HIT}), "SOURCE", [V4], [V6]),
    "source6": (
        policy_of(sources={"2001:db8:1::/48": HIT}),
        "SOURCE",
        [V6, p.ipv6(p.icmpv6(), p.hop_by_hop()), p.ipv6(TCP, p.authentication(), p.destination_options(3))],
        [p.ipv6(UDP, source="2001:db8:2::1", destination="2001:db8:1::1"), V4],
    ),
    "source6 host": (
        policy_of(sources={"2001:db8:1::10/128": HIT}),
        "SOURCE_EXACT",
        [V6],
        [p.ipv6(UDP, source="2001:db8:1::11"), p.ipv6(UDP, source="2001:db8:1:1::10")],
    ),
    "destination": (
        policy_of(destinations={"198.51.100.0/25": HIT}),
        "DESTINATION",
        [p.ipv4(TCP, destination="198.51.100.127")],
        [
            p.ipv4(TCP, destination="198.51.100.128"),
            p.ipv4(TCP, source="198.51.100.1", destination="8.8.8.8"),
        ],
    ),
    "destination host": (
        policy_of(destinations={"198.51.100.20/32": HIT}),
        "DESTINATION_EXACT",
        [V4],
        [p.ipv4(UDP, destination="198.51.100.21"), V6],
    ),
    "destination6": (
        policy_of(destinations={"2001:db8:2::/65": HIT}),
        "DESTINATION",
        [V6],
        [p.ipv6(UDP, destination="2001:db8:2:0:8000::")],
    ),
    "destination6 host": (
        policy_of(destinations={f"{p.SERVER6}/128": HIT}),
        "DESTINATION_EXACT",
        [V6],
        [p.ipv6(UDP, destination="2001:db8:2::21")],
    ),
    "port": (
        policy_of(ports={(p.UDP, 53): 3}, conditions={(3, "192.0.2.0/24"): HIT, (3, "2001:db8::/32"): HIT}),
        "PORT",
        [V4, V6, p.ipv4(UDP, more=True), p.ipv6(UDP, p.routing(), p.fragment(0))],
        [
            p.ipv4(p.udp(port=54)),
            p.ipv4(p.tcp(port=53)),
            p.ipv4(p.udp(port=1, source_port=53)),
            p.ipv4(UDP, source="10.0.0.1"),
            p.ipv4(p.Segment(p.UDP, b"\0\x35" * 8), offset=1),
            p.ipv6(UDP, source="fd00::1"),
        ],
    ),
    "protocol": (
        policy_of(ports={(p.UDP, 0): 4}, conditions={(4, "192.0.2.10/32"): HIT, (4, "::/0"): HIT}),
        "PROTOCOL",
        [V4, V6, p.ipv4(p.Segment(p.UDP, bytes(8)), offset=1), p.ipv6(p.Segment(p.UDP, b""), p.fragment(1))],
        [p.ipv4(TCP), p.ipv6(TCP), p.ipv4(UDP, source="192.0.2.11")],
    ),
    "protocol without ports": (
        policy_of(ports={(p.ICMP, 0): 1}, conditions={(1, "0.0.0.0/0"): HIT}),
        "PROTOCOL",
        [p.ipv4(p.icmp())],
        [V4, p.ipv6(p.icmpv6())],
    ),
    "default for ipv4": (policy_of(defaults={4: HIT}), "DEFAULT", [V4], [V6]),
    "default for ipv6": (policy_of(defaults={6: HIT}), "DEFAULT", [V6], [V4]),
}


@BOTH
@pytest.mark.parametrize("name", SELECTORS)
def test_selector(compiler: str, name: str) -> None:
    policy, table, matches, others = SELECTORS[name]
    router = load(compiler, policy)
    for network in matches:
        found = agree(router, policy, frame_of(network))
        assert (found.outcome, found.table, found.action, found.counter) == ("REDIRECT", table, 1, 7)
    for network in others:
        assert agree(router, policy, frame_of(network)) == Decision("NO_MATCH")
    octets = sum(14 + len(network.data) for network in matches)
    assert router.entry(7) == (len(matches), octets, 0)


@BOTH
def test_longest_prefix_wins_and_holes_end_the_chain(compiler: str) -> None:
    policy = policy_of(
        sources={
            "10.0.0.0/8": Choice(1),
            "10.1.0.0/16": Choice(4),
            "10.1.2.0/24": Choice(3),
            "10.1.2.3/32": Choice(2),
        },
        destinations={"0.0.0.0/0": Choice(3)},
    )
    router = load(compiler, policy)
    wanted = {
        "10.9.9.9": "REDIRECT",
        "10.1.9.9": "EXEMPT",
        "10.1.2.9": "DROP",
        "10.1.2.3": "PASS",
        "9.0.0.1": "DROP",
    }
    for source, outcome in wanted.items():
        assert agree(router, policy, frame_of(p.ipv4(UDP, source=source))).outcome == outcome


ORDERS = [
    (m.CONDITIONAL, m.SOURCE, m.DESTINATION, m.DEFAULT),
    (m.DEFAULT, m.DESTINATION, m.SOURCE, m.CONDITIONAL),
    (m.DESTINATION, m.CONDITIONAL),
    (m.SOURCE,),
    (),
]


@BOTH
@pytest.mark.parametrize("chain", ORDERS, ids=lambda chain: "-".join(chain) or "empty")
def test_order_and_members_of_the_chain(compiler: str, chain: t.Tuple[str, ...]) -> None:
    policy = policy_of(
        sources={"192.0.2.0/24": Choice(1)},
        destinations={"198.51.100.0/24": Choice(1)},
        ports={(p.UDP, 53): 1},
        conditions={(1, "0.0.0.0/0"): Choice(1)},
        defaults={4: Choice(1)},
        chain=chain,
    )
    found = agree(load(compiler, policy), policy, frame_of(V4))
    assert MATCHES.get(found.table, "") == (chain[0] if chain else "")


# --- What is never routed -----------------------------------------------------------------------------------------------


def neighbor(kind: int, code: int = 0) -> p.Segment:
    return p.Segment(p.ICMPV6, struct.pack("!BBHI", kind, code, 0, 0) + bytes(16))


ALONE: t.Dict[str, t.List[bytes]] = {
    "OTHER": [
        frame_of(p.arp()),
        frame_of(p.Network(0x88CC, bytes(50))),
        frame_of(p.Network(0x0026, bytes(50))),
    ],
    "VLAN": [frame_of(V4, vlans=(5,)), frame_of(V6, vlans=(5, 6)), frame_of(V4, vlans=(1, 2, 3))],
    "OTHER_HOST": [p.ethernet(V4), p.ethernet(V6)],
    "GROUP": [
        p.ethernet(V4, destination=b"\xff" * 6),
        p.ethernet(V6, destination=bytes.fromhex("333300000001")),
        frame_of(p.ipv4(UDP, destination="224.0.0.1")),
        frame_of(p.ipv4(UDP, destination="255.255.255.255")),
        frame_of(p.ipv6(UDP, destination="ff02::1")),
        frame_of(p.ipv6(UDP, destination="ff0e::1")),
    ],
    "LOCAL": [
        frame_of(p.ipv4(UDP, destination=destination))
        for destination in ("169.254.1.1", "127.0.0.1", "127.255.0.1")
    ]
    + [frame_of(p.ipv6(UDP, destination=destination)) for destination in ("fe80::1", "febf::1", "::1")],
    "NEIGHBOR": [frame_of(p.ipv6(neighbor(kind))) for kind in range(133, 138)],
    "TRUNCATED": [
        frame_of(p.ipv4(UDP))[: 14 + 23],
        frame_of(p.ipv4(UDP, total=23)),
        frame_of(p.ipv6(p.Segment(p.ICMPV6, b""), payload_length=8)),
    ],
    "BAD_HEADER": [frame_of(p.ipv4(UDP, version=5)), frame_of(p.ipv6(UDP, version=4))],
    "TOO_DEEP": [frame_of(p.ipv6(UDP, *[p.destination_options()] * 9))],
}
ROUTED = [
    p.ipv4(UDP, destination="223.255.255.255"),
    p.ipv4(UDP, destination="128.0.0.1"),
    p.ipv4(UDP, destination="169.253.255.255"),
    p.ipv6(UDP, destination="fec0::1"),
    p.ipv6(UDP, destination="::2"),
    p.ipv6(neighbor(132)),
    p.ipv6(neighbor(138)),
    p.ipv6(p.Segment(p.ICMPV6, bytes([135]) * 8), p.fragment(1)),
]


@BOTH
@pytest.mark.parametrize("verdict", [p.NEXT, p.PASS, p.DROP], ids=["next", "pass", "drop"])
def test_never_routed(compiler: str, verdict: int) -> None:
    policy = policy_of(defaults={4: Choice(1, 1), 6: Choice(1, 1)})
    router = load(compiler, policy, malformed_verdict=verdict)
    for reason, frames in ALONE.items():
        malformed = reason in ("TRUNCATED", "BAD_HEADER", "TOO_DEEP")
        for frame in frames:
            assert m.decide(policy, frame) == Decision(reason)
            assert router.check(frame) == Decision(reason, verdict if malformed else p.NEXT)
    assert router.entry(1) == (0, 0, 0)
    for network in ROUTED:
        assert agree(router, policy, frame_of(network)).outcome == "REDIRECT"


@BOTH
@pytest.mark.parametrize(
    "network", [p.ipv4(UDP, options=b"\1" * 8), p.ipv6(UDP, p.hop_by_hop(1))], ids=["v4", "v6"]
)
def test_every_truncation(compiler: str, network: p.Network) -> None:
    policy = policy_of(defaults={4: Choice(1), 6: Choice(1)})
    router = load(compiler, policy)
    frame = frame_of(network)
    needed = len(frame) - len(UDP.data) + 4
    fixed = 14 + (20 if network.ethertype == p.IPV4 else 40)
    for length in range(fixed, len(frame) + 1):
        found = agree(router, policy, frame[:length])
        assert found.outcome == ("REDIRECT" if length >= needed else "TRUNCATED")


# --- Actions ------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("strict", [False, True], ids=["fallback", "strict"])
def test_without_a_usable_next_hop(compiler: str, strict: bool) -> None:
    actions = {
        "FAMILY": Action(m.NEXT_HOPS, (2,), strict=strict),
        "BAD_ACTION": Action(m.NEXT_HOPS, (), strict=strict),
        "BAD_POOL": Action(m.POOL, pool=7, strict=strict),
    }
    outcome = "STRICT_DROP" if strict else "FALLBACK"
    for cause, action in actions.items():
        policy = dataclasses.replace(policy_of(sources={"::/0": Choice(9, 3)}), actions={9: action})
        router = load(compiler, policy)
        found = agree(router, policy, frame_of(V6))
        assert (found.outcome, found.cause) == (outcome, cause)
        assert router.entry(3) == (1, 14 + len(V6.data), 1)


@BOTH
@pytest.mark.parametrize("index", [0, 9, 63, 64, 0xFFFFFFFF])
def test_entry_that_names_no_action(compiler: str, index: int) -> None:
    policy = policy_of(sources={"0.0.0.0/0": Choice(index, 0xFFFFFFFF)})
    found = agree(load(compiler, policy), policy, frame_of(V4))
    assert (found.outcome, found.cause, found.verdict) == ("FALLBACK", "BAD_ACTION", p.NEXT)


@BOTH
def test_ipv4_through_ipv6_but_not_the_reverse(compiler: str) -> None:
    policy = dataclasses.replace(
        policy_of(defaults={4: Choice(1), 6: Choice(1)}), actions={1: Action(m.NEXT_HOPS, (2, 3))}
    )
    router = load(compiler, policy)
    assert agree(router, policy, frame_of(V4)).address == GATEWAY4
    through = agree(router, policy, frame_of(V6))
    assert (through.address, through.flags) == (GATEWAY6, m.SKIPPED)
    policy = dataclasses.replace(policy, actions={1: Action(m.NEXT_HOPS, (3,))})
    router.install(policy)
    found = agree(router, policy, frame_of(V4))
    assert (found.address, found.family) == (GATEWAY6, 10)


@BOTH
@pytest.mark.parametrize("network", [p.ipv4, p.ipv6], ids=["v4", "v6"])
def test_ttl(compiler: str, network: t.Callable[..., p.Network]) -> None:
    name = "ttl" if network is p.ipv4 else "hop_limit"
    policy = policy_of(defaults={4: Choice(1), 6: Choice(1)}, decrement_ttl=True)
    router = load(compiler, policy)
    for ttl in range(256):
        frame = frame_of(network(UDP, **{name: ttl}))
        found = agree(router, policy, frame)
        assert found.outcome == ("REDIRECT" if ttl > 1 else "TTL")
        wanted = frame_of(network(UDP, **{name: ttl - 1})) if ttl > 1 else frame
        assert router.run(frame).data == wanted
    unchanged = load(compiler, dataclasses.replace(policy, decrement_ttl=False))
    frame = frame_of(network(UDP, **{name: 1}))
    assert unchanged.run(frame)[:2] == (7, frame)


@BOTH
def test_counting_can_be_switched_off(compiler: str) -> None:
    policy = policy_of(defaults={4: Choice(1, 5)})
    router = load(compiler, policy, counting=0)
    assert agree(router, policy, frame_of(V4)).counter == 5
    assert router.entry(5) == (0, 0, 0)


@BOTH
def test_last_hit_is_a_time_of_the_monotonic_clock(compiler: str) -> None:
    router = load(compiler, policy_of(defaults={4: Choice(1, 5)}))
    before = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
    router.run(frame_of(V4))
    last = max(row[3] for row in router.percpu("entry_counters", 5, "=4Q"))
    assert before <= last <= time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)


# --- Pools --------------------------------------------------------------------------------------------------------------


def flows(count: int, seed: int = 7) -> t.List[t.Tuple[str, str, int, int]]:
    chance = random.Random(seed)
    return [
        (
            str(ipaddress.IPv4Address(0x0A000000 + chance.randrange(1 << 16))),
            str(ipaddress.IPv4Address(0xC6336400 + chance.randrange(256))),
            chance.randrange(1024, 65536),
            chance.choice((53, 80, 443)),
        )
        for _round in range(count)
    ]


def flow_frame(flow: t.Tuple[str, str, int, int], **options: t.Any) -> bytes:
    source, destination, sport, dport = flow
    return frame_of(
        p.ipv4(p.udp(source_port=sport, port=dport), source=source, destination=destination, **options)
    )


def pool_policy(
    members: t.Sequence[int], mode: str = m.FLOW, symmetric: bool = False, **fields: t.Any
) -> Policy:
    return dataclasses.replace(
        BASE,
        defaults={4: Choice(1), 6: Choice(1)},
        actions={1: Action(m.POOL, pool=1, check=fields.pop("check", False))},
        nexthops={index: NextHop(SOMEWHERE + index) for index in range(1, 5)},
        pools={1: Pool(tuple(members), mode, symmetric)},
        **fields,
    )


SPREAD = [1 + slot % 4 for slot in range(251)]


@BOTH
@pytest.mark.parametrize("mode", [m.FLOW, m.RANDOM])
def test_shares_of_a_pool(compiler: str, mode: str) -> None:
    policy = pool_policy([*[1] * 100, *[2] * 75, *[3] * 50, *[4] * 25], mode)
    router = load(compiler, policy)
    shares = collections.Counter(router.explain(flow_frame(flow)).nexthop for flow in flows(20_000))
    for member, weight in ((1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1)):
        assert abs(shares[member] / 20_000 - weight) < 0.02


@BOTH
def test_flows_stay_and_packets_of_a_random_pool_do_not(compiler: str) -> None:
    policy = pool_policy(SPREAD)
    router = load(compiler, policy)
    for flow in flows(200):
        assert agree(router, policy, flow_frame(flow)) == agree(router, policy, flow_frame(flow, ttl=9))
    router.put_pool(1, Pool(tuple(SPREAD), m.RANDOM))
    found = {router.explain(flow_frame(flows(1)[0])) for _round in range(200)}
    assert {decision.nexthop for decision in found} == {1, 2, 3, 4}
    assert {decision.flags for decision in found} == {m.RANDOM_CHOICE}


@BOTH
def test_both_directions_of_a_symmetric_pool(compiler: str) -> None:
    equal = {}
    for symmetric in (False, True):
        policy = pool_policy(SPREAD, symmetric=symmetric)
        router = load(compiler, policy)
        equal[symmetric] = 0
        for source, destination, sport, dport in flows(400):
            there = agree(router, policy, flow_frame((source, destination, sport, dport)))
            back = agree(router, policy, flow_frame((destination, source, dport, sport)))
            equal[symmetric] += there.nexthop == back.nexthop
    assert equal[True] == 400
    assert 60 < equal[False] < 140  # one in four by chance


@BOTH
def test_pool_by_source_keeps_a_source_together(compiler: str) -> None:
    policy = pool_policy(SPREAD, m.BY_SOURCE)
    router = load(compiler, policy)
    for source, _destination, sport, _dport in flows(100):
        found = {
            agree(router, policy, flow_frame((source, f"198.51.100.{number}", sport + number, 80))).nexthop
            for number in range(5)
        }
        assert len(found) == 1


@BOTH
def test_fragments_of_a_datagram_stay_together(compiler: str) -> None:
    policy = pool_policy(SPREAD)
    router = load(compiler, policy)
    for source, _destination, sport, dport in flows(50):
        data = p.udp(bytes(40), source_port=sport, port=dport)
        later = p.Segment(p.UDP, bytes(24))
        found = [p.ipv4(data, source=source, more=True), p.ipv4(later, source=source, offset=6)]
        assert len({agree(router, policy, frame_of(each)).nexthop for each in found}) == 1
        inside = p.Segment(p.DESTINATION, bytes(24))
        six = f"2001:db8::{sport:x}"
        found = [
            p.ipv6(data, p.fragment(0), p.destination_options(), source=six),
            p.ipv6(inside, p.fragment(6), source=six),
        ]
        assert len({agree(router, policy, frame_of(each)).nexthop for each in found}) == 1


@BOTH
def test_other_table_takes_over_at_once(compiler: str) -> None:
    """Drained by filling the idle table and switching over; only the drained member's flows move."""
    router = load(compiler, pool_policy(SPREAD))
    frames = [flow_frame(flow) for flow in flows(500)]
    before = [router.explain(frame).nexthop for frame in frames]
    drained = [member if member != 2 else (1, 3, 4)[slot % 3] for slot, member in enumerate(SPREAD)]
    router.fill(1, 1, drained)
    assert [router.explain(frame).nexthop for frame in frames] == before
    router.put_pool(1, Pool(tuple(drained)), active=1)
    after = [router.explain(frame).nexthop for frame in frames]
    assert 2 not in after
    assert [pair for pair in zip(before, after) if pair[0] not in (2, pair[1])] == []


# --- Next hops that die ------------------------------------------------------------------------------------------------

FORWARDING = "/proc/sys/net/{}/conf/{}/forwarding"


def device(name: str, net: int) -> int:
    """A veth pair with a forwarding near end 10.<net>.0.1/24, fd<net>::1/64 and a known neighbour .2 and ::2."""
    p.veth(name, f"{name}x")
    p.ip(f"address add 10.{net}.0.1/24 dev {name}")
    p.ip(f"-6 address add fd{net:02}::1/64 dev {name} nodad")
    for family in ("ipv4", "ipv6"):
        Path(FORWARDING.format(family, name)).write_text("1")
    for address in (f"10.{net}.0.2", f"fd{net:02}::2"):
        p.ip(f"neighbor replace {address} lladdr {NEIGHBOR.hex(':')} dev {name} nud permanent")
    return socket.if_nametoindex(name)


NEIGHBOR = bytes.fromhex("020000000099")


def hop4(ifindex: int, net: int, host: int = 2) -> NextHop:
    return NextHop(ifindex, ipaddress.ip_address(f"10.{net}.0.{host}"))


def hop6(ifindex: int, net: int, host: int = 2) -> NextHop:
    return NextHop(ifindex, ipaddress.ip_address(f"fd{net:02}::{host}"))


@pytest.fixture
def netns() -> t.Iterator[p.Namespace]:
    with contextlib.closing(p.Namespace(ipv6=True)) as made:
        with made:
            yield made


def chosen(router: Router, frame: bytes) -> t.Callable[[], t.Tuple[str, int]]:
    """What is decided, on which both programs come to agree: an answer may be as old as a tick of the kernel's clock."""

    def look() -> t.Tuple[str, int]:
        before = router.packets()
        verdict = router.run(frame).retval
        explained = router.explain(frame)
        after = router.packets()
        outcome = next(name for name in OUTCOMES if after.get(name, 0) != before.get(name, 0))
        return (outcome, explained.nexthop) if (outcome, verdict) == explained[:2] else ("disagree", -1)

    return look


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("strict", [False, True], ids=["fallback", "strict"])
def test_next_hops_die_and_come_back(compiler: str, version: int, strict: bool) -> None:
    first, second = device("first", 11), device("second", 12)
    hop, network = (hop4, V4) if version == 4 else (hop6, V6)
    policy = dataclasses.replace(
        BASE,
        defaults={version: Choice(1, 1)},
        actions={1: Action(m.NEXT_HOPS, (1, 2), check=True, strict=strict)},
        nexthops={1: hop(first, 11), 2: hop(second, 12)},
    )
    router, frame = load(compiler, policy), frame_of(network)
    look = chosen(router, frame)
    nothing = ("STRICT_DROP" if strict else "FALLBACK", 0)
    steps = [
        ("link set first up", ("REDIRECT", 1)),
        ("link set first down", ("REDIRECT", 2)),
        ("link set second down", nothing),
        ("link set first up", None),
        ("link del second", ("REDIRECT", 1)),
        ("link del first", nothing),
    ]
    for command, wanted in steps:
        p.ip(command)
        if wanted is None:  # addresses of IPv6 and permanent neighbours went with the link
            if version == 6:
                p.ip("-6 address replace fd11::1/64 dev first nodad")
            p.ip(
                f"neighbor replace {policy.nexthops[1].address} lladdr {NEIGHBOR.hex(':')} dev first nud permanent"
            )
            continue
        assert p.eventually(look, wanted) == wanted, command
        # Between the two answers of a look a tick may have passed; from here on both are new.
        assert look() == wanted, command
    assert set(router.packets()) >= {"DEAD", "SKIPPED"}


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("version", [4, 6])
def test_unresolved_neighbour_gets_a_grace_and_then_probes(compiler: str, version: int) -> None:
    ifindex = device("first", 11)
    hop, network = (hop4, V4) if version == 4 else (hop6, V6)
    policy = dataclasses.replace(
        BASE,
        defaults={version: Choice(1)},
        actions={1: Action(m.NEXT_HOPS, (1,), check=True)},
        nexthops={1: hop(ifindex, 11, 3)},
    )
    frame, hour = frame_of(network), 3_600_000_000_000
    good = Decision("REDIRECT", 7, "", "DEFAULT", 1, m.NEXT_HOPS, 0, 1, ifindex, {4: 2, 6: 10}[version])
    good = good._replace(address=policy.nexthops[1].address)
    gone = Decision("FALLBACK", -1, "DEAD", "DEFAULT", 1, m.NEXT_HOPS)
    patient = load(compiler, policy, grace_ns=hour, probe_ns=hour)
    assert [patient.check(frame) for _round in range(5)] == [good] * 5
    impatient = load(compiler, policy, grace_ns=0, probe_ns=hour)
    assert [impatient.check(frame) for _round in range(5)] == [good, gone, gone, gone, gone]
    probing = load(compiler, policy, grace_ns=0, probe_ns=0)
    assert [probing.check(frame) for _round in range(3)] == [good, *[good._replace(flags=m.PROBE)] * 2]
    p.ip(f"neighbor replace {policy.nexthops[1].address} lladdr {NEIGHBOR.hex(':')} dev first nud reachable")
    assert [impatient.check(frame) for _round in range(3)] == [good] * 3
    p.ip(f"neighbor del {policy.nexthops[1].address} dev first")
    assert p.eventually(lambda: impatient.check(frame), gone) == gone


@BOTH
@pytest.mark.usefixtures("netns")
def test_what_the_fib_cannot_judge_lives_as_long_as_its_device(compiler: str) -> None:
    ifindex = device("first", 11)
    hops = {
        1: NextHop(ifindex),
        2: NextHop(ifindex, ipaddress.ip_address("fe80::5")),
        3: NextHop(999, ipaddress.ip_address("fe80::5")),
        4: NextHop(999),
    }
    for index in hops:
        policy = dataclasses.replace(
            BASE,
            defaults={4: Choice(1), 6: Choice(1)},
            actions={1: Action(m.NEXT_HOPS, (index,), check=True)},
            nexthops=hops,
            dead=frozenset((3, 4)),
        )
        router = load(compiler, policy)
        for network in (V4, V6):
            found = agree(router, policy, frame_of(network))
            assert found.outcome == ("REDIRECT" if index < 3 else "FALLBACK")
    policy = dataclasses.replace(policy, actions={1: Action(m.NEXT_HOPS, (1,), check=True)})
    router.install(policy)
    for network in (p.ipv4(UDP, destination="10.11.0.3"), p.ipv6(UDP, destination="fd11::3")):
        assert router.check(frame_of(network)).flags == m.UNRESOLVED
    for network in (p.ipv4(UDP, destination="10.11.0.2"), p.ipv6(UDP, destination="fd11::2")):
        assert router.check(frame_of(network)).flags == 0


@BOTH
@pytest.mark.usefixtures("netns")
def test_without_forwarding_the_fib_says_nothing(compiler: str) -> None:
    ifindex = device("first", 11)
    policy = dataclasses.replace(
        BASE,
        defaults={4: Choice(1)},
        actions={1: Action(m.NEXT_HOPS, (1,), check=True)},
        nexthops={1: hop4(ifindex, 11, 3)},
    )
    router = load(compiler, policy, grace_ns=0, probe_ns=3_600_000_000_000)
    Path(FORWARDING.format("ipv4", "first")).write_text("0")
    assert [router.check(frame_of(V4)).outcome for _round in range(3)] == ["REDIRECT"] * 3


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize(("check", "liveness"), [(False, 1), (True, 0)], ids=["action", "constant"])
def test_liveness_can_be_switched_off(compiler: str, check: bool, liveness: int) -> None:
    policy = dataclasses.replace(
        BASE,
        defaults={4: Choice(1)},
        actions={1: Action(m.NEXT_HOPS, (1,), check=check)},
        nexthops={1: NextHop(999, GATEWAY4)},
    )
    assert agree(load(compiler, policy, liveness=liveness), policy, frame_of(V4)).outcome == "REDIRECT"


@BOTH
@pytest.mark.usefixtures("netns")
def test_dead_member_of_a_pool_leaves_its_flows_to_the_next(compiler: str) -> None:
    ifindex = device("first", 11)
    policy = pool_policy(SPREAD, check=True, dead=frozenset((2, 3)))
    hops = {1: hop4(ifindex, 11), 2: NextHop(999), 3: NextHop(999), 4: NextHop(ifindex)}
    policy = dataclasses.replace(policy, nexthops=hops)
    router = load(compiler, policy)
    found = collections.Counter(agree(router, policy, flow_frame(flow)).nexthop for flow in flows(400))
    assert set(found) == {1, 4}
    lonely = dataclasses.replace(policy, pools={1: Pool((*[2] * 8, *[1] * 3))}, dead=frozenset((2, 3)))
    router.install(lonely)
    outcomes = {agree(router, lonely, flow_frame(flow)).outcome for flow in flows(200)}
    assert outcomes == {"REDIRECT", "FALLBACK"}  # beyond 8 slots nobody looks


@BOTH
@pytest.mark.usefixtures("netns")
def test_explain_tells_what_is_longer_than_the_mtu(compiler: str) -> None:
    ifindex = device("first", 11)
    p.ip("link set first mtu 1400")
    policy = dataclasses.replace(
        BASE,
        defaults={4: Choice(1), 6: Choice(1)},
        actions={1: Action(m.NEXT_HOPS, (1, 2), check=True)},
        nexthops={1: hop4(ifindex, 11), 2: hop6(ifindex, 11)},
    )
    router = load(compiler, policy)
    for network, header in ((p.ipv4, 28), (p.ipv6, 48)):
        for length, flag in ((1400, 0), (1401, m.TOO_BIG)):
            found = router.explain(frame_of(network(p.udp(bytes(length - header)))))
            assert (found.outcome, found.flags & m.TOO_BIG) == ("REDIRECT", flag)


@BOTH
@pytest.mark.usefixtures("netns")
def test_explain_for_a_device(compiler: str) -> None:
    """In its namespace, with its index in the context: only a frame to its address is one for this host."""
    ifindex = device("first", 11)
    router = load(compiler, policy_of(defaults={4: Choice(1)}))
    context = struct.pack("=40xI", ifindex)  # ifindex of struct __sk_buff
    for destination, outcome in ((link_mac("first"), "REDIRECT"), (bytes(6), "OTHER_HOST")):
        answer = bpf.test_run(
            router.programs["explain"], p.ethernet(V4, destination=destination), context=context
        )
        assert COUNTERS[ANSWER.unpack(answer.data)[1]] == outcome


def unicast(wire: p.Capture) -> t.List[bytes]:
    """Without what IPv6 sends by itself."""
    return [frame for frame in wire.frames() if not frame[0] & 1]


def of_unicast(router: Router) -> t.Dict[str, int]:
    others = ("TOTAL", "GROUP", "LOCAL", "NEIGHBOR")
    return {name: packets for name, packets in router.packets().items() if name not in others}


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("liveness", [True, False])
def test_at_egress_a_next_hop_on_the_same_lan_gets_the_frame_once(
    compiler: str, version: int, liveness: bool
) -> None:
    """Two gateways on one device: the frame for the wrong one goes to the right one, and is not routed anew when it leaves."""
    ifindex = device("first", 11)
    right = bytes.fromhex("020000000033")
    for address in ("10.11.0.3", "fd11::3"):
        p.ip(f"neighbor replace {address} lladdr {right.hex(':')} dev first nud permanent")
    hop, network = (hop4, V4) if version == 4 else (hop6, V6)
    policy = dataclasses.replace(
        BASE,
        defaults={version: Choice(1, 1)},
        actions={1: Action(m.NEXT_HOPS, (1,), check=liveness)},
        nexthops={1: hop(ifindex, 11, 3)},
    )
    router = load(compiler, policy)
    wrong = p.ethernet(network, destination=NEIGHBOR)
    with p.attached(router.programs["policy_router"], "first", "egress"), p.Capture("firstx") as wire:
        p.send("first", wrong)
        assert p.eventually(lambda: len(unicast(wire)), 1) == 1
        (frame,) = unicast(wire)
        assert (frame[:6], frame[12:]) == (right, wrong[12:])
        assert of_unicast(router) == {"DEFAULT": 1, "REDIRECT": 1, "ON_WAY": 1}
        assert router.entry(1)[0] == 1
        # One that is for the right gateway by itself is left alone.
        p.send("first", p.ethernet(network, destination=right))
        assert p.eventually(lambda: len(unicast(wire)), 2) == 2
        assert of_unicast(router) == {"DEFAULT": 1, "REDIRECT": 1, "ON_WAY": 2}


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("version", [4, 6])
def test_at_the_egress_of_both_devices_a_frame_changes_over_once(compiler: str, version: int) -> None:
    device("first", 11)
    second = device("second", 12)
    hop, network = (hop4, V4) if version == 4 else (hop6, V6)
    policy = dataclasses.replace(
        BASE,
        defaults={version: Choice(1)},
        actions={1: Action(m.NEXT_HOPS, (1,), check=True)},
        nexthops={1: hop(second, 12)},
    )
    router = load(compiler, policy)
    program = router.programs["policy_router"]
    with (
        p.attached(program, "first", "egress"),
        p.attached(program, "second", "egress"),
        p.Capture("secondx") as wire,
    ):
        p.send("first", p.ethernet(network, destination=bytes(5) + b"\1"))
        assert p.eventually(lambda: len(unicast(wire)), 1) == 1
        assert unicast(wire)[0][:6] == NEIGHBOR
        assert of_unicast(router) == {"DEFAULT": 1, "REDIRECT": 1, "ON_WAY": 1}


@BOTH
@pytest.mark.usefixtures("netns")
def test_at_ingress_a_next_hop_by_the_same_device_turns_the_packet_back(compiler: str) -> None:
    ifindex = device("first", 11)
    policy = dataclasses.replace(
        BASE,
        defaults={4: Choice(1)},
        actions={1: Action(m.NEXT_HOPS, (1,), check=True)},
        nexthops={1: hop4(ifindex, 11)},
    )
    router = load(compiler, policy)
    with p.attached(router.programs["policy_router"], "first", "ingress"), p.Capture("firstx") as wire:
        p.send("firstx", p.ethernet(V4, destination=link_mac("first")))
        assert p.eventually(lambda: len(unicast(wire)), 1) == 1
        assert unicast(wire)[0][:6] == NEIGHBOR
    assert of_unicast(router) == {"DEFAULT": 1, "REDIRECT": 1}


@pytest.fixture
def silent() -> t.Iterator[p.Namespace]:
    with contextlib.closing(p.Namespace()) as made:
        with made:
            yield made


@BOTH
@pytest.mark.usefixtures("silent")
def test_what_leaves_by_a_headerless_device_is_not_sent_there_again(compiler: str) -> None:
    with p.Tun("tun0") as tun:
        ifindex = socket.if_nametoindex("tun0")
        policy = policy_of(defaults={4: Choice(1)}, nexthops={1: NextHop(ifindex)})
        router = load(compiler, policy)
        p.ip("address add 10.13.0.1/24 dev tun0")
        with p.attached(router.programs["policy_router"], "tun0", "egress"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"once", ("10.13.0.9", 9))
            assert p.eventually(lambda: len(tun.transmitted()), 1) == 1
    assert of_unicast(router) == {"ON_WAY": 1}


# --- Against the model -------------------------------------------------------------------------------------------------

HOSTS4 = [f"10.{a}.{b}.{c}" for a in (0, 1, 128) for b in (0, 1) for c in (0, 1, 2, 255)]
HOSTS6 = [f"2001:db8:{a:x}::{b:x}" for a in (0, 1, 0x8000) for b in (1, 2, 0x8000, 0xFFFF)]
PREFIXES = {4: (0, 1, 8, 9, 16, 24, 30, 31, 32), 6: (0, 1, 32, 33, 48, 64, 112, 127, 128)}
PROTOCOLS = (p.UDP, p.TCP, p.SCTP, p.ICMP, p.ICMPV6, p.GRE)
SOME_PORTS = (53, 80, 443, 0x3500)


def some_prefix(chance: random.Random) -> m.Network:
    version = chance.choice((4, 6))
    host = chance.choice(HOSTS4 if version == 4 else HOSTS6)
    return ipaddress.ip_network(f"{host}/{chance.choice(PREFIXES[version])}", strict=False)


def some_policy(chance: random.Random, devices: t.Tuple[int, int, int], **fields: t.Any) -> Policy:
    up, down, gone = devices
    hops = {
        1: hop4(up, 11),
        2: hop6(up, 11),
        3: NextHop(up),
        4: hop4(down, 12),
        5: hop6(down, 12),
        6: NextHop(gone),
    }
    hops[7] = hop6(gone, 13)

    def hop_list(least: int, most: int) -> t.Tuple[int, ...]:
        return tuple(chance.choice((*range(9), 63, 64)) for _round in range(chance.randint(least, most)))

    def choice() -> Choice:
        return Choice(chance.randrange(14), chance.randrange(10))

    kinds = (m.NEXT_HOPS, m.NEXT_HOPS, m.NEXT_HOPS, m.POOL, m.POOL, m.PASS, m.DROP, m.EXEMPT)
    actions = {
        index: Action(
            chance.choice(kinds),
            hop_list(0, 6),
            chance.randrange(5),
            chance.random() < 0.3,
            chance.random() < 0.7,
        )
        for index in range(1, 13)
    }
    pools = {
        index: Pool(hop_list(1, 40), chance.choice((m.FLOW, m.BY_SOURCE)), chance.random() < 0.5)
        for index in range(1, 4)
    }
    return Policy(
        sources={some_prefix(chance): choice() for _round in range(chance.randrange(12))},
        destinations={some_prefix(chance): choice() for _round in range(chance.randrange(12))},
        ports={
            (chance.choice(PROTOCOLS), chance.choice((0, 0, *SOME_PORTS))): chance.randrange(1, 5)
            for _round in range(chance.randrange(6))
        },
        conditions={
            (chance.randrange(1, 5), some_prefix(chance)): choice() for _round in range(chance.randrange(12))
        },
        defaults={version: choice() for version in (4, 6) if chance.random() < 0.5},
        actions=actions,
        nexthops=hops,
        pools=pools,
        dead=frozenset((4, 5, 6, 7)),
        mtus={1: 1500, 2: 1500},
        **fields,
    )


def some_packet(chance: random.Random) -> bytes:
    protocol, ports = (
        chance.choice(PROTOCOLS),
        {"port": chance.choice(SOME_PORTS), "source_port": chance.randrange(9)},
    )
    segment = p.udp(**ports) if protocol != p.TCP else p.tcp(**ports)
    if protocol == p.ICMPV6:
        segment = neighbor(chance.choice((128, 135)))
    elif protocol not in (p.UDP, p.TCP):
        segment = p.Segment(protocol, segment.data)
    ttl, cut = chance.choice((0, 1, 2, 64, 255)), chance.random()
    if chance.random() < 0.5:
        ends = {
            "source": chance.choice(HOSTS4),
            "destination": chance.choice((*HOSTS4, "127.0.0.1", "224.0.0.5")),
        }
        pieces = {"offset": chance.choice((0, 1, 9)), "more": chance.random() < 0.5} if cut < 0.2 else {}
        options = b"\1" * chance.choice((0, 0, 4, 40))
        network = p.ipv4(segment, ttl=ttl, options=options, **ends, **pieces)
    else:
        ends = {
            "source": chance.choice(HOSTS6),
            "destination": chance.choice((*HOSTS6, "fe80::5", "ff02::5")),
        }
        kinds = [p.hop_by_hop(), p.destination_options(1), p.routing(), p.authentication()]
        extensions = [chance.choice(kinds) for _round in range(chance.choice((0, 0, 1, 2, 9)))]
        if cut < 0.3:
            extensions.insert(0, p.fragment(chance.choice((0, 1)), chance.random() < 0.5))
        network = p.ipv6(segment, *extensions, hop_limit=ttl, **ends)
    frame = bytearray(frame_of(network))
    if chance.random() < 0.25:
        for _change in range(chance.randrange(1, 4)):
            frame[chance.randrange(14, len(frame))] = chance.randrange(256)
        least = 14 + (20 if network.ethertype == p.IPV4 else 40)
        del frame[chance.choice((len(frame), chance.randrange(least, len(frame) + 1))) :]
    return bytes(frame)


CONFIGURATIONS = [
    {"chain": ORDERS[0], "decrement_ttl": False},
    {"chain": ORDERS[1], "decrement_ttl": True},
    {"chain": ORDERS[2], "decrement_ttl": True},
]
POLICIES, PACKETS = 100, 100


@BOTH
@pytest.mark.usefixtures("netns")
def test_random_packets_and_policies_against_the_model(compiler: str) -> None:
    """10,000 packets, 100 policies: what both programs decide, what is counted, and that it adds up."""
    chance = random.Random(20260607)
    devices = device("good", 11), device("broken", 12), 999
    p.ip("link set broken down")
    seen: t.Set[t.Tuple[str, str, str]] = set()
    for number in range(POLICIES):
        policy = some_policy(chance, devices, **CONFIGURATIONS[number % len(CONFIGURATIONS)])
        router = load(compiler, policy)
        counters: t.Counter[t.Tuple[str, str]] = collections.Counter()
        entries: t.Dict[int, t.List[int]] = {index: [0, 0, 0] for index in range(1, 10)}
        for _packet in range(PACKETS):
            frame = some_packet(chance)
            wanted = m.decide(policy, frame)
            assert router.explain(frame) == wanted, frame.hex()
            assert router.run(frame).retval == wanted.verdict, frame.hex()
            counters += counted(wanted, len(frame))
            if wanted.counter:
                row = (1, len(frame), bool(wanted.cause))
                entries[wanted.counter] = [a + b for a, b in zip(entries[wanted.counter], row)]
            seen.add((wanted.outcome, wanted.cause, wanted.table))
        assert router.counters() == counters
        assert {index: list(router.entry(index)) for index in entries} == entries
    outcomes = {outcome for outcome, _cause, _table in seen}
    assert outcomes >= {*OUTCOMES} - {"FAILED", "VLAN", "OTHER", "OTHER_HOST", "ON_WAY"}
    assert {cause for _outcome, cause, _table in seen} == {"", "DEAD", "FAMILY", "BAD_ACTION", "BAD_POOL"}
    assert {table for _outcome, _cause, table in seen} == set(TABLES)


@BOTH
def test_random_bytes_are_always_accounted_for(compiler: str) -> None:
    chance = random.Random(4711)
    policy = policy_of(defaults={4: Choice(1), 6: Choice(1)}, decrement_ttl=True)
    router = load(compiler, policy)
    for _round in range(3000):
        ethertype = chance.choice((b"\x08\x00", b"\x86\xdd", b"\x81\x00", chance.randbytes(2)))
        mac = chance.choice((bytes(6), bytes(6), chance.randbytes(6)))
        body = bytearray(chance.randbytes(chance.randrange(46, 300)))
        if chance.random() < 0.7:
            body[0] = chance.choice((0x45, 0x46, 0x4F, 0x60))
        frame = mac + bytes(6) + ethertype + bytes(body)
        assert router.explain(frame) == m.decide(policy, frame), frame.hex()
        router.run(frame)
    packets = router.packets()
    assert packets["TOTAL"] == 3000 == sum(packets.get(name, 0) for name in OUTCOMES)


@BOTH
@pytest.mark.usefixtures("netns")
def test_explain_changes_nothing(compiler: str) -> None:
    chance = random.Random(5)
    devices = device("good", 11), device("broken", 12), 999
    policy = some_policy(chance, devices)
    policy = dataclasses.replace(policy, nexthops={**policy.nexthops, 1: hop4(devices[0], 11, 77)})
    router = load(compiler, policy, grace_ns=0)
    for _round in range(100):
        router.run(some_packet(chance))
    before = router.contents()
    for _round in range(500):
        router.explain(some_packet(chance))
    assert router.contents() == before


# --- On wires ----------------------------------------------------------------------------------------------------------


def link_mac(name: str) -> bytes:
    """By a socket, as /sys shows another namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((name, 0))
        return bytes(wire.getsockname()[4])


def wired_policy(out: int, **fields: t.Any) -> Policy:
    return dataclasses.replace(
        BASE,
        sources=networks({f"{p.CLIENT4}/32": Choice(1, 1), "2001:db8:1::/48": Choice(2, 2)}),
        actions={1: Action(m.NEXT_HOPS, (1,), check=True), 2: Action(m.NEXT_HOPS, (2,), check=True)},
        nexthops={1: hop4(out, 11), 2: hop6(out, 11)},
        **fields,
    )


def routed(capture: p.Capture) -> t.Callable[[], t.List[bytes]]:
    """What was sent to the neighbour; the kernel's own packets go elsewhere."""
    return lambda: [frame for frame in capture.frames() if frame[:6] == NEIGHBOR]


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("hook", ["ingress", "egress"])
@pytest.mark.parametrize("through", [4, 6], ids=["own family", "ipv6"])
def test_redirected_packets_arrive(compiler: str, hook: str, through: int) -> None:
    out = device("out", 11)
    p.veth("in0", "in1")
    policy = wired_policy(out, decrement_ttl=True)
    if through == 6:
        policy = dataclasses.replace(policy, nexthops={1: hop6(out, 11), 2: hop6(out, 11)})
    router = load(compiler, policy)
    nets = [(p.ipv4, "ttl"), (p.ipv6, "hop_limit")]
    sent = [p.ethernet(net(UDP), destination=link_mac("in1")) for net, _name in nets]
    others = [p.ethernet(p.ipv4(UDP, source="9.9.9.9"), destination=link_mac("in1")), p.ethernet(p.arp())]
    with p.attached(router.programs["policy_router"], "in1" if hook == "ingress" else "in0", hook):
        with p.Capture("outx") as capture:
            p.send("in0", *sent, *others)
            wanted = [
                p.ethernet(net(UDP, **{name: 63}), destination=NEIGHBOR, source=link_mac("out"))
                for net, name in nets
            ]
            assert p.eventually(routed(capture), wanted) == wanted
    assert router.entry(1)[0] == router.entry(2)[0] == 1


@BOTH
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("hook", ["ingress", "egress"])
def test_devices_without_link_header(compiler: str, hook: str) -> None:
    """From a tun with a header pushed in front, into a tun with the header taken off."""
    out = device("out", 11)
    datagrams = [p.ipv4(UDP), p.ipv6(UDP)]
    with p.Tun("tun0") as tun, p.Capture("outx") as capture:
        router = load(compiler, wired_policy(out, decrement_ttl=True))
        with p.attached(router.programs["policy_router"], "tun0", hook):
            for each in datagrams:
                if hook == "ingress":
                    tun.receive(each.data)
                else:
                    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as wire:
                        wire.sendto(each.data, ("tun0", each.ethertype))
            decremented = [p.ipv4(UDP, ttl=63), p.ipv6(UDP, hop_limit=63)]
            wanted = [p.ethernet(each, destination=NEIGHBOR, source=link_mac("out")) for each in decremented]
            assert p.eventually(routed(capture), wanted) == wanted
        p.veth("in0", "in1")
        inward = dataclasses.replace(
            wired_policy(out),
            nexthops={1: NextHop(socket.if_nametoindex("tun0")), 2: NextHop(socket.if_nametoindex("tun0"))},
        )
        router = load(compiler, inward)
        with p.attached(router.programs["policy_router"], "in1", "ingress"):
            p.send("in0", *(p.ethernet(each, destination=link_mac("in1")) for each in datagrams))
            sent = [each.data for each in datagrams]

            def ours() -> t.List[bytes]:
                return [data for data in tun.transmitted() if data in sent]

            assert p.eventually(ours, sent) == sent


@BOTH
@pytest.mark.usefixtures("netns")
def test_only_untagged_frames_for_this_station_are_routed(compiler: str) -> None:
    out = device("out", 11)
    p.veth("in0", "in1")
    p.ip("link set in1 promisc on")
    router = load(compiler, wired_policy(out))
    mine = link_mac("in1")
    with p.attached(router.programs["policy_router"], "in1", "ingress"), p.Capture("outx") as capture:
        frames = [
            p.ethernet(V4),
            p.ethernet(V4, destination=mine, vlans=(5,)),
            p.ethernet(V4, destination=mine),
        ]
        p.send("in0", *frames)
        wanted = {"OTHER_HOST": 1, "VLAN": 1, "REDIRECT": 1}

        def found() -> t.Dict[str, int]:
            return {name: router.packets().get(name, 0) for name in wanted}

        assert p.eventually(found, wanted) == wanted
        arrived = [p.ethernet(V4, destination=NEIGHBOR, source=link_mac("out"))]
        assert p.eventually(routed(capture), arrived) == arrived


@BOTH
@pytest.mark.usefixtures("netns")
def test_first_packet_to_an_unresolved_neighbour_on_the_link_arrives(compiler: str) -> None:
    """At an egress hook the kernel would lose it, were it told the next hop: it waits with the old route."""
    with contextlib.closing(p.Namespace()) as far:
        p.veth("out", "outx", far_netns=far)
        p.ip("address add 10.11.0.1/24 dev out")
        Path(FORWARDING.format("ipv4", "out")).write_text("1")
        p.veth("wrong", "wrongx")
        p.ip("address add 10.12.0.1/24 dev wrong")
        p.ip("route add 10.11.0.2/32 dev wrong")
        p.ip(f"neighbor replace 10.11.0.2 lladdr {NEIGHBOR.hex(':')} dev wrong nud permanent")
        policy = dataclasses.replace(
            BASE,
            defaults={4: Choice(1)},
            actions={1: Action(m.NEXT_HOPS, (1,), check=True)},
            nexthops={1: NextHop(socket.if_nametoindex("out"))},
        )
        router = load(compiler, policy)
        with far:
            p.ip("address add 10.11.0.2/24 dev outx")
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("10.11.0.2", 53))
            server.settimeout(3)
        with server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("10.11.0.1", 0))
            with p.attached(router.programs["policy_router"], "wrong", "egress"):
                for number in range(5):
                    client.sendto(b"%d" % number, ("10.11.0.2", 53))
                assert [server.recv(10) for _round in range(5)] == [b"%d" % number for number in range(5)]
