# SPDX-License-Identifier: GPL-3.0-or-later
"""mirror.bpf.c: copies are equal, sampled and cut exactly; the traffic itself notices nothing, whatever the target does.

In a namespace of the test's own: v0 - v1 carries the traffic, m0 - m1 the copies. Test runs serve for verdicts only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import packets as p

FRAMES = [
    p.ethernet(p.ipv4(p.udp(b"one"))),
    p.ethernet(p.ipv4(p.tcp(b"two" * 400), options=b"\1" * 8)),
    p.ethernet(p.ipv6(p.udp(b"three"), p.hop_by_hop())),
    p.ethernet(p.ipv4(p.Segment(p.UDP, bytes(64)), offset=9)),
    p.ethernet(p.arp()),
    p.ethernet(p.Network(0x88CC, bytes(range(50)))),
]
SIZES = sum(map(len, FRAMES))
SEEN = "MIRROR_SEEN"


@pytest.fixture
def netns() -> t.Iterator[p.Namespace]:
    with contextlib.closing(p.Namespace()) as made:
        with made:
            p.veth("v0", "v1")
            p.veth("m0", "m1")
            yield made


@pytest.fixture(params=p.COMPILERS)
def compiler(request: pytest.FixtureRequest, netns: p.Namespace) -> str:
    return request.param


def mirror_to(device: str, compiler: str, **constants: int) -> p.Loaded:
    mirror = p.load("mirror", compiler, **constants)
    mirror.put_index("target", 0, socket.if_nametoindex(device))
    return mirror


def check_copies(capture: p.Capture, wanted: t.Sequence[bytes]) -> None:
    assert p.eventually(capture.frames, list(wanted)) == list(wanted)


@pytest.mark.parametrize(("device", "hook"), [("v1", "ingress"), ("v0", "egress")])
def test_copies_equal_the_packets(compiler: str, device: str, hook: str) -> None:
    mirror = mirror_to("m0", compiler)
    with (
        p.attached(mirror.programs["mirror"], device, hook),
        p.Capture("m1") as copies,
        p.Capture("v1") as traffic,
    ):
        p.send("v0", *FRAMES)
        check_copies(copies, FRAMES)
        check_copies(traffic, FRAMES)
    assert mirror.counters() == {SEEN: (len(FRAMES), SIZES), "MIRROR_COPIED": (len(FRAMES), SIZES)}


def test_large_packets_in_pages_are_copied(compiler: str) -> None:
    p.veth("j0", "j1", mtu=9000)
    p.veth("k0", "k1", mtu=9000)
    mirror = mirror_to("k0", compiler)
    frame = p.ethernet(p.ipv6(p.udp(os.urandom(8000))))
    with (
        p.attached(mirror.programs["mirror"], "j0", "egress"),
        p.Capture("k1") as copies,
        p.Capture("j1") as traffic,
    ):
        p.send("j0", frame)
        check_copies(copies, [frame])
        check_copies(traffic, [frame])


@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_sampling_is_exact(compiler: str, every: int) -> None:
    mirror = mirror_to("m0", compiler, sample_every=every)
    frames = [p.ethernet(p.ipv4(p.udp(b"%03d" % number))) for number in range(60)]
    chosen = frames[::every]
    with p.attached(mirror.programs["mirror"], "v0", "egress"), p.Capture("m1") as copies:
        p.send("v0", *frames)
        check_copies(copies, chosen)
    wanted = {SEEN: 60, "MIRROR_COPIED": len(chosen), "MIRROR_SAMPLED_OUT": 60 - len(chosen)}
    assert mirror.packets() == {name: number for name, number in wanted.items() if number}


def test_target_changes_without_reloading(compiler: str) -> None:
    p.veth("n0", "n1")
    mirror = mirror_to("m0", compiler)
    with (
        p.attached(mirror.programs["mirror"], "v1", "ingress"),
        p.Capture("m1") as first,
        p.Capture("n1") as second,
    ):
        p.send("v0", FRAMES[0])
        check_copies(first, FRAMES[:1])
        mirror.put_index("target", 0, socket.if_nametoindex("n0"))
        p.send("v0", FRAMES[1])
        check_copies(second, FRAMES[1:2])
        mirror.put_index("target", 0, 0)
        p.send("v0", FRAMES[2])
        assert (
            p.eventually(mirror.packets, wanted := {SEEN: 3, "MIRROR_COPIED": 2, "MIRROR_NO_TARGET": 1})
            == wanted
        )
        check_copies(first, FRAMES[:1])
        check_copies(second, FRAMES[1:2])


@pytest.mark.parametrize(
    "trouble", ["link set m0 down", "link del m0", "link set m0 netns {other}", "link set m1 down"]
)
@pytest.mark.parametrize(("device", "hook"), [("v1", "ingress"), ("v0", "egress")])
def test_trouble_with_the_target_is_harmless(compiler: str, device: str, hook: str, trouble: str) -> None:
    mirror = mirror_to("m0", compiler)
    with contextlib.closing(p.Namespace()) as other:
        p.ip(trouble.format(other=other.path))
        with p.attached(mirror.programs["mirror"], device, hook), p.Capture("v1") as traffic:
            p.send("v0", *FRAMES)
            check_copies(traffic, FRAMES)
            wanted = {SEEN: (6, SIZES), "MIRROR_FAILED": (6, SIZES)}
            assert p.eventually(mirror.counters, wanted) == wanted


def test_mirror_onto_itself_is_no_loop(compiler: str) -> None:
    mirror = mirror_to("v0", compiler)
    with p.attached(mirror.programs["mirror"], "v0", "egress"), p.Capture("v1") as traffic:
        p.send("v0", *FRAMES)
        check_copies(traffic, FRAMES)
    assert mirror.packets() == {SEEN: 6, "MIRROR_LOOP": 6}


def test_two_mirrors_at_each_other_come_to_an_end(compiler: str) -> None:
    """Each copies what the other sends out, until the kernel's recursion limit; the packet itself arrives."""
    there, back = mirror_to("m0", compiler), mirror_to("v0", compiler, snap_bytes=1)
    with (
        p.attached(there.programs["mirror"], "v0", "egress"),
        p.attached(back.programs["mirror"], "m0", "egress"),
        p.Capture("v1") as traffic,
    ):
        p.send("v0", FRAMES[0])
        assert p.eventually(lambda: FRAMES[0] in traffic.frames(), True)
    assert there.packets()["MIRROR_COPIED"] < 20


def test_removal_ends_the_copies_and_nothing_else(compiler: str) -> None:
    mirror = mirror_to("m0", compiler)
    with p.Capture("m1") as copies, p.Capture("v1") as traffic:
        with p.attached(mirror.programs["mirror"], "v1", "ingress"):
            p.send("v0", FRAMES[0])
            check_copies(copies, FRAMES[:1])
        p.send("v0", *FRAMES[1:])
        check_copies(traffic, FRAMES)
        check_copies(copies, FRAMES[:1])
    assert mirror.packets() == {SEEN: 1, "MIRROR_COPIED": 1}


@pytest.mark.parametrize("snap", [64, 100, 1000])
def test_snap_cuts_the_copy_only(compiler: str, snap: int) -> None:
    mirror = mirror_to("m0", compiler, snap_bytes=snap)
    long, short = [frame for frame in FRAMES if len(frame) > snap], [f for f in FRAMES if len(f) <= snap]
    with (
        p.attached(mirror.programs["mirror"], "v1", "ingress"),
        p.attached(mirror.programs["mirror_snap"], "m0", "egress"),
        p.Capture("m1") as copies,
        p.Capture("v1") as traffic,
    ):
        p.send("v0", *FRAMES)
        check_copies(copies, [frame[:snap] for frame in FRAMES])
        check_copies(traffic, FRAMES)
    counters = mirror.counters()
    assert counters.pop(SEEN) == counters.pop("MIRROR_COPIED") == (6, SIZES)
    wanted = {
        "MIRROR_SNAPPED": (len(long), sum(map(len, long))),
        "MIRROR_SNAP_SHORT": (len(short), sum(map(len, short))),
    }
    assert counters == {name: value for name, value in wanted.items() if value[0]}


def test_snap_of_zero_leaves_copies_whole(compiler: str) -> None:
    mirror = mirror_to("m0", compiler)
    with (
        p.attached(mirror.programs["mirror"], "v1", "ingress"),
        p.attached(mirror.programs["mirror_snap"], "m0", "egress"),
        p.Capture("m1") as copies,
    ):
        p.send("v0", *FRAMES)
        check_copies(copies, FRAMES)
    assert mirror.packets() == {SEEN: 6, "MIRROR_COPIED": 6, "MIRROR_SNAP_SHORT": 6}


def test_copy_that_cannot_be_cut_is_dropped(compiler: str) -> None:
    """Not within the headers up to transport (__bpf_skb_min_len); the packet itself still arrives."""
    mirror = mirror_to("m0", compiler, snap_bytes=10)
    with (
        p.attached(mirror.programs["mirror"], "v1", "ingress"),
        p.attached(mirror.programs["mirror_snap"], "m0", "egress"),
        p.Capture("m1") as copies,
        p.Capture("v1") as traffic,
    ):
        p.send("v0", *FRAMES)
        check_copies(traffic, FRAMES)
        wanted = {SEEN: 6, "MIRROR_FAILED": 6, "MIRROR_SNAP_FAILED": 6}
        assert p.eventually(mirror.packets, wanted) == wanted
        assert copies.frames() == []


DATAGRAMS = [p.ipv4(p.udp(b"four")), p.ipv6(p.tcp(b"six"))]


def test_copies_of_a_device_without_link_header_get_one(compiler: str) -> None:
    mirror = mirror_to("m0", compiler)
    wanted = [p.ethernet(each, source=bytes(6), destination=bytes(6)) for each in DATAGRAMS]
    with p.Tun("tun0") as tun:
        with p.attached(mirror.programs["mirror_l3"], "tun0", "ingress"), p.Capture("m1") as copies:
            for each in DATAGRAMS:
                tun.receive(each.data)
            check_copies(copies, wanted)
    assert mirror.packets() == {SEEN: 2, "MIRROR_COPIED": 2}


def test_plain_mirror_tells_that_a_link_header_is_missing(compiler: str) -> None:
    mirror = mirror_to("m0", compiler)
    with p.Tun("tun0") as tun, p.attached(mirror.programs["mirror"], "tun0", "ingress"):
        for each in DATAGRAMS:
            tun.receive(each.data)
        assert p.eventually(mirror.packets, wanted := {SEEN: 2, "MIRROR_FAILED": 2}) == wanted


@pytest.mark.parametrize("program", ["mirror", "mirror_l3"])
def test_datagrams_still_reach_the_host_behind_a_tun(compiler: str, program: str) -> None:
    """The header that mirror_l3 puts in front is taken off again before the stack looks at the packet."""
    mirror = mirror_to("m0", compiler)
    with p.Tun("tun0") as tun, p.attached(mirror.programs[program], "tun0", "ingress"):
        p.ip(f"address add {p.SERVER4}/24 dev tun0")
        p.ip(f"route add {p.CLIENT4} dev tun0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((p.SERVER4, 53))
            server.settimeout(2)
            tun.receive(p.ipv4(p.udp(b"hello", port=53)).data)
            assert server.recv(100) == b"hello"


def test_link_header_is_taken_off_for_a_target_without(compiler: str) -> None:
    with p.Tun("tun0") as tun:
        mirror = mirror_to("tun0", compiler)
        with p.attached(mirror.programs["mirror"], "v1", "ingress"):
            p.send("v0", FRAMES[0], FRAMES[2])
            wanted = [FRAMES[0][14:], FRAMES[2][14:]]
            assert p.eventually(tun.transmitted, wanted) == wanted


@pytest.mark.parametrize("snap", [0, 128])
def test_connections_go_on_while_copies_fail(netns: p.Namespace, snap: int) -> None:
    """A TCP transfer with segmentation offload, copied, cut, and with the target taken away half-way."""
    mirror = mirror_to("m0", "clang", snap_bytes=snap)
    payload = os.urandom(1 << 20)
    with contextlib.closing(p.Namespace()) as server:
        p.veth("t0", "t1", far_netns=server)
        p.ip("address add 10.9.0.1/24 dev t0")
        with server:
            p.ip("address add 10.9.0.2/24 dev t1")
            listener = socket.create_server(("10.9.0.2", 7000))
        with (
            listener,
            p.attached(mirror.programs["mirror"], "t0", "egress"),
            p.attached(mirror.programs["mirror_snap"], "m0", "egress"),
            p.Capture("m1") as copies,
            socket.create_connection(("10.9.0.2", 7000), timeout=5) as client,
        ):
            accepted, _address = listener.accept()
            with accepted:
                received = b""
                for place in range(0, len(payload), 1 << 16):
                    client.sendall(payload[place : place + (1 << 16)])
                    while len(received) < place + (1 << 16):
                        received += accepted.recv(1 << 16)
                    if place == 1 << 19:
                        found = copies.frames()
                        p.ip("link del m0")
                assert received == payload
        assert found
        assert snap == 0 or max(map(len, found)) == snap
        packets = mirror.packets()
        assert packets["MIRROR_FAILED"] > 0
        assert packets["MIRROR_COPIED"] + packets["MIRROR_FAILED"] == packets[SEEN]


@pytest.mark.parametrize("compiler", p.COMPILERS)
@pytest.mark.parametrize("program", ["mirror", "mirror_l3"])
def test_verdict_is_next_without_a_target(compiler: str, program: str) -> None:
    mirror = p.load("mirror", compiler)
    for frame in FRAMES:
        assert mirror.run(program, frame) == p.NEXT
    assert mirror.counters() == {SEEN: (6, SIZES), "MIRROR_NO_TARGET": (6, SIZES)}
