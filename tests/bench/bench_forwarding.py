# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets forwarded by the policy router, beside plain routing, policy rules and an nft map.

60-byte UDP packets from uniform random sources on one core: BPF_PROG_TEST_RUN lets a device receive them as fast as the
stack takes them, and a program at the far end counts and drops them (generator.bpf.c). Each rival has namespaces of its
own, so that they take turns. Then the cost of the router's features, and a TCP stream that it redirects at an egress hook.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import _hosts
from _table import Row, Samples, Wanted, at_least_times, at_most

sys.path.insert(0, str(_hosts.COLLECTIONS))

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf

PROGRAMS = _hosts.ROOT / "files" / "bpf"
HEADERS = _hosts.ROOT / "files" / "bpf" / "lib"
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
CLONE_NEWNET = 0x40000000
PACKETS, RULED_PACKETS, RUNS = 500_000, 50_000, 500_000
FIRST_SOURCE = 0x14000000  # as in generator.bpf.c
HEADER = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 46, 1, 0, 64, 17, 0, b"\x14\0\0\0", b"\x0a\x63\0\1")
PACKET = bytes.fromhex("020000000001 020000000009 0800") + HEADER + struct.pack("!HHHH18x", 1, 2, 26, 0)
CHECK, NEXT_HOPS = 1 << 1, 1  # lib/policy.h
EVERY = "liveness counting"

LANE = """
ip netns add {near}; ip netns add {far}
ip -n {near} link add in0 address 02:00:00:00:00:01 type veth peer name in1
ip -n {near} link add out0 address 02:00:00:00:00:03 type veth peer name out1 address 02:00:00:00:00:04 netns {far}
for device in lo in0 in1 out0; do ip -n {near} link set $device up; done
ip -n {far} link set out1 up
ip -n {near} address add 10.1.0.1/24 dev in0
ip -n {near} address add 10.2.0.1/24 dev out0
ip -n {near} neighbor replace 10.2.0.2 dev out0 lladdr 02:00:00:00:00:04 nud permanent
ip netns exec {near} sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.in0.rp_filter=0
"""
# The stream's own route is the wrong one; tests of plain routing add the right one.
WIRES = """
ip netns add near; ip netns add far; ip netns add wrong
ip -n near link add out0 type veth peer name out1 netns far
ip -n near link add wrong0 type veth peer name wrong1 netns wrong
for device in lo out0 wrong0; do ip -n near link set $device up; done
ip -n far link set lo up; ip -n far link set out1 up; ip -n wrong link set wrong1 up
ip -n near address add 10.2.0.1/24 dev out0; ip -n far address add 10.2.0.2/24 dev out1
ip -n near address add 10.3.0.1/24 dev wrong0; ip -n near address add 20.0.0.0/32 dev lo
ip -n far address add 10.9.0.1/32 dev lo; ip -n far route add 20.0.0.0/32 via 10.2.0.1
ip -n near route add 10.9.0.1 via 10.3.0.2 src 20.0.0.0 metric 1
ip -n near neighbor replace 10.3.0.2 dev wrong0 lladdr 02:00:00:00:00:07 nud permanent
"""
RIGHT = "10.9.0.1 via 10.2.0.2 src 20.0.0.0 metric 0"
SINK = """
import socket
server = socket.create_server(("10.9.0.1", 5201))
while True:
    stream = server.accept()[0]
    while stream.recv(1 << 20, socket.MSG_WAITALL):
        pass
"""
PUMP = """
import os, socket, sys, time
file = os.memfd_create("zeros")
os.truncate(file, 1 << 24)
stream, sent, started = socket.create_connection(("10.9.0.1", 5201)), 0, time.monotonic()
while time.monotonic() - started < float(sys.argv[1]):
    sent += os.sendfile(stream.fileno(), file, 0, 1 << 24)
print(8 * sent / (time.monotonic() - started))
"""


@dataclasses.dataclass(frozen=True)
class Rate(Row):
    """A row whose samples are not seconds but numbers of a unit."""

    unit: str = "kpps"

    def cells(self) -> t.Tuple[str, ...]:
        what, _median, _min, _max, count, beside, _other, *rest = super().cells()
        numbers = (self.figure.median, min(self.figure), max(self.figure))
        other = self.other.median if self.other else None
        cells = [f"{number:,.4g} {self.unit}" for number in (*numbers, other) if number is not None]
        if self.wanted and not self.wanted.ratio:
            rest[1] = f"<= {self.wanted.limit:g} {self.unit}"
        return (what, *cells[:3], count, beside, cells[3] if self.other else "-", *rest)


@contextlib.contextmanager
def inside(box: _hosts.Sandbox, netns: str) -> t.Iterator[None]:
    """This process in a namespace that only the sandbox sees by name."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        open("/proc/self/ns/net", "rb") as home,
        open(f"/proc/{box.process.pid}/root/run/netns/{netns}", "rb") as there,
    ):
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


@contextlib.contextmanager
def one_core() -> t.Iterator[None]:
    """This process and those that it starts."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def number(value: int) -> bytes:
    return struct.pack("=I", value)


class Bench:
    """A sandbox with the compiled programs; descriptors close with `stack`."""

    def __init__(self, box: _hosts.Sandbox, directory: Path, stack: contextlib.ExitStack) -> None:
        self.box, self.directory, self.stack = box, directory, stack
        self.router = directory / "router.o"
        build.compile_clang(PROGRAMS / "policy_router.bpf.c", self.router, [PROGRAMS / "lib"])
        ends = directory / "generator.o"
        build.compile_clang(Path(__file__).with_name("generator.bpf.c"), ends, [HEADERS])
        self.ends = stack.enter_context(libbpf.load(ends))

    def load(
        self, device: int, features: str, sources: int = 1, prefix: int = 0, decrement_ttl: int = 0
    ) -> int:
        """A router that knows so many sources, or one prefix, each with a counter; returns the program.

        Features: liveness, counting.
        """
        counting = "counting" in features
        loaded = self.stack.enter_context(
            libbpf.load(
                self.router,
                constants={
                    "liveness": "liveness" in features,
                    "counting": counting,
                    "decrement_ttl": decrement_ttl,
                },
                map_sizes={"sources4_exact": sources, "entry_counters": sources + 1 if counting else 1},
            )
        )
        hop = struct.pack("=II4s12x", device, socket.AF_INET, socket.inet_aton("10.2.0.2"))
        bpf.map_update(loaded.maps["nexthops"], number(1), hop)
        action = struct.pack("=10I", NEXT_HOPS, CHECK, 1, 0, 1, 0, 0, 0, 0, 0)
        bpf.map_update(loaded.maps["actions"], number(1), action)
        values = b"".join(struct.pack("=II", 1, 1 + source) for source in range(sources))
        if prefix:
            key = struct.pack("=I4s", prefix, struct.pack("!I", FIRST_SOURCE))
            bpf.map_update(loaded.maps["sources4"], key, values[:8])
        else:
            keys = struct.pack(f"!{sources}I", *range(FIRST_SOURCE, FIRST_SOURCE + sources))
            bpf.map_write(loaded.maps["sources4_exact"], keys, values, sources)
        return loaded.programs["policy_router"]

    def attach(self, program: int, device: int, hook: int) -> None:
        self.stack.callback(os.close, bpf.link_create(program, device, hook))


class Lane:
    """A way from the generator to a sink, and the rates that it has had."""

    def __init__(self, bench: Bench, name: str, sources: int, packets: int = PACKETS) -> None:
        self.bench, self.near, self.sources, self.packets = bench, name, sources, packets
        self.rates = Samples()
        bench.box.sh(LANE.format(near=name, far=f"{name}-far"))
        with inside(bench.box, f"{name}-far"):
            bench.attach(bench.ends.programs["sink"], socket.if_nametoindex("out1"), bpf.TCX_INGRESS)
        with inside(bench.box, name):
            self.device, self.out = socket.if_nametoindex("in0"), socket.if_nametoindex("out0")

    def routed(self, features: str, prefix: int = 0) -> Lane:
        count = 1 if prefix else self.sources
        program = self.bench.load(self.out, features, count, prefix, decrement_ttl=1)
        with inside(self.bench.box, self.near):
            self.bench.attach(program, self.device, bpf.TCX_INGRESS)
        return self

    def ip(self, words: str) -> Lane:
        self.bench.box.sh(f"ip -n {self.near} {words}")
        return self

    def run(self) -> None:
        maps = self.bench.ends.maps
        bpf.map_update(maps["sources"], number(0), number(self.sources))
        bpf.map_update(maps["arrived"], number(0), bytes(8))
        attribute, _kept = live_frames(self.bench.ends.programs["generator"], self.device, self.packets)
        with inside(self.bench.box, self.near), one_core():
            started = time.perf_counter()
            bpf.call(bpf.Command.PROG_TEST_RUN, attribute, "of the generator")
            seconds = time.perf_counter() - started
        arrived = struct.unpack("=Q", bpf.map_lookup(maps["arrived"], number(0), 8) or b"")[0]
        if not 0.99 * self.packets <= arrived <= self.packets + 100:
            raise RuntimeError(f"{self.near}: {arrived} of {self.packets} packets arrived")
        self.rates.append(arrived / seconds / 1000)


def live_frames(program: int, device: int, packets: int) -> t.Tuple[bytes, t.Any]:
    """What bpf.test_run() cannot ask for, as live frames must not be read back; and what the order points to."""
    packet = ctypes.create_string_buffer(PACKET, len(PACKET))
    context = (ctypes.c_uint32 * 6)(0, len(PACKET), 0, device, 0, 0)  # struct xdp_md
    frame, about = ctypes.addressof(packet), ctypes.addressof(context)
    order = (program, 0, len(PACKET), 0, frame, 0, packets, 0, ctypes.sizeof(context), 0, about, 0)
    return struct.pack("=IIIIQQIIIIQQIII", *order, LIVE_FRAMES, 0, 0), (packet, context)


def ruled(bench: Bench, name: str, sources: int) -> Lane:
    """One rule for each source."""
    lane = Lane(bench, name, sources, RULED_PACKETS).ip("route add default via 10.2.0.2 table 100")
    batch = bench.directory / "rules"
    lines = (f"rule add from {dotted(source)} lookup 100 pref {100 + source}\n" for source in range(sources))
    batch.write_text("".join(lines), encoding="ascii")
    return lane.ip(f"-batch {batch}")


def mapped(bench: Bench, name: str, sources: int) -> Lane:
    """An nft map from source to mark, and one rule for the mark."""
    lane = Lane(bench, name, sources).ip("route add default via 10.2.0.2 table 100")
    lane.ip("rule add fwmark 1 lookup 100 pref 100")
    elements = ", ".join(f"{dotted(source)} : 1" for source in range(sources))
    table = bench.directory / "nft"
    table.write_text(
        f"table ip bench {{ map sources {{ type ipv4_addr : mark; elements = {{ {elements} }} }}\n"
        "chain early { type filter hook prerouting priority mangle; meta mark set ip saddr map @sources\n}\n}\n",
        encoding="ascii",
    )
    bench.box.sh(f"ip netns exec {name} nft -f {table}")
    return lane


def dotted(source: int) -> str:
    return socket.inet_ntoa(struct.pack("!I", FIRST_SOURCE + source))


def forwarding(directory: Path, quick: bool) -> t.List[Row]:
    with contextlib.ExitStack() as stack:
        bench = Bench(stack.enter_context(_hosts.host()), directory, stack)
        rounds = 5 if quick else 15
        return [*rates(bench, rounds), *features(bench, rounds), *stream(bench, rounds)]


def rates(bench: Bench, rounds: int) -> t.List[Row]:
    plain = Lane(bench, "plain", 65536).ip("route add 10.99.0.0/16 via 10.2.0.2")
    prefix = Lane(bench, "prefix", 65536).routed(EVERY, prefix=8)
    one = Lane(bench, "one", 1).routed(EVERY)
    thousand = Lane(bench, "thousand", 1000).routed(EVERY)
    rules = ruled(bench, "rules", 1000)
    many = Lane(bench, "many", 100_000).routed(EVERY)
    many_bare = Lane(bench, "many-bare", 100_000).routed("")
    million = Lane(bench, "million", 1_000_000).routed(EVERY)
    million_bare = Lane(bench, "million-bare", 1_000_000).routed("")
    nft = mapped(bench, "nft", 100_000) if shutil.which("nft") else None
    lanes = [plain, prefix, one, thousand, rules, many, many_bare, million, million_bare]
    if nft:
        lanes.insert(5, nft)
    for _round in range(rounds + 1):
        for lane in lanes:
            lane.run()
    for lane in lanes:
        del lane.rates[0]  # cold
    floor = ("plain routing", plain.rates)
    beside: t.Tuple[str, t.Optional[Samples], t.Optional[Wanted]] = ("(no nft here)", None, None)
    if nft:
        beside = ("nft map and a rule", nft.rates, at_least_times(0.95))
    return [
        Rate("router, a /8, liveness and counters", prefix.rates, *floor, at_least_times(0.9)),
        Rate("router, one /32, the same", one.rates, *floor, at_least_times(0.9)),
        Rate("router, 1,000 sources", thousand.rates, "1,000 rules", rules.rates, at_least_times(25)),
        Rate("router, 100,000 sources", many.rates, *beside),
        Rate("the same, no liveness, no counters", many_bare.rates, *beside),
        Rate("router, 1,000,000 sources", million.rates, *floor, at_least_times(0.27)),
        Rate("the same, no liveness, no counters", million_bare.rates, *floor, at_least_times(0.27)),
    ]


def features(bench: Bench, rounds: int) -> t.List[Row]:
    """Nanoseconds of one run; without the TTL, which the same packet would soon run out of."""
    lane = Lane(bench, "features", 1)
    names = ("", "counting", "liveness", EVERY)
    programs = {name: bench.load(lane.out, name) for name in names}
    context = struct.pack("=40xI", lane.device)  # ifindex of struct __sk_buff
    found = {name: Samples() for name in names}
    for _round in range(rounds):
        for name, program in programs.items():
            with inside(bench.box, lane.near), one_core():
                result = bpf.test_run(program, PACKET, context=context, repeat=RUNS)
            if result.retval != bpf.REDIRECT:
                raise RuntimeError(f"features: {name}: verdict {result.retval}")
            found[name].append(result.duration)
    both = Samples(late - early for late, early in zip(found[EVERY], found[""]))
    bare = ("neither", found[""])
    return [
        Rate("one run, counters", found["counting"], *bare, unit="ns"),
        Rate("one run, liveness", found["liveness"], *bare, unit="ns"),
        Rate("one run, liveness and counters", found[EVERY], *bare, unit="ns"),
        Rate("their part of it", both, wanted=at_most(35), unit="ns"),
    ]


def stream(bench: Bench, rounds: int) -> t.List[Row]:
    bench.box.sh(WIRES)
    with inside(bench.box, "near"):
        out, wrong = socket.if_nametoindex("out0"), socket.if_nametoindex("wrong0")
        program = bench.load(out, EVERY)
        bench.attach(program, wrong, bpf.TCX_EGRESS)
    plain, redirected = Samples(), Samples()
    tool = ["iperf3", "-s", "-B", "10.9.0.1"] if shutil.which("iperf3") else [sys.executable, "-c", SINK]
    command = bench.box.command("ip", "netns", "exec", "far", *tool)
    with one_core():  # all of the stream, else the scheduler decides the outcome
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        for _round in range(rounds + 1):
            with one_core():
                redirected.append(gigabits(bench))
            bench.box.run("ip", "-n", "near", "route", "add", *RIGHT.split())
            with one_core():
                plain.append(gigabits(bench))
            bench.box.run("ip", "-n", "near", "route", "del", *RIGHT.split())
    finally:
        server.kill()
        server.wait()
    del redirected[0], plain[0]  # cold
    beside = ("plain routing", plain)
    return [Rate("TCP redirected at egress", redirected, *beside, at_least_times(0.95), unit="Gbit/s")]


def gigabits(bench: Bench, seconds: int = 1) -> float:
    """Throughput of one stream from `near` to the far end."""
    run = ["ip", "netns", "exec", "near"]
    if not shutil.which("iperf3"):
        return float(bench.box.run(*run, sys.executable, "-c", PUMP, str(seconds)).stdout) / 1e9
    answer = bench.box.run(*run, *f"iperf3 -J --connect-timeout 3000 -t {seconds} -c 10.9.0.1".split())
    return float(json.loads(answer.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9
