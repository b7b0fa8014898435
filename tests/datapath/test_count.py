# SPDX-License-Identifier: GPL-3.0-or-later
"""count.bpf.c: every packet goes on, and is counted once by family and once in the total."""

from __future__ import annotations

import contextlib
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import packets as p

VERDICTS = {"count": p.NEXT, "count_xdp": p.XDP_PASS}
PROGRAMS = pytest.mark.parametrize("program", VERDICTS)

FAMILIES = {
    "ipv4": (p.ipv4(p.udp()), "COUNT_IPV4"),
    "ipv4 with options": (p.ipv4(p.tcp(), options=b"\1" * 12), "COUNT_IPV4"),
    "ipv4 later fragment": (p.ipv4(p.Segment(p.UDP, bytes(16)), offset=2), "COUNT_IPV4"),
    "ipv4 with a bad version": (p.ipv4(p.udp(), version=9), "COUNT_IPV4"),
    "ipv6": (p.ipv6(p.tcp()), "COUNT_IPV6"),
    "ipv6 with extension headers": (p.ipv6(p.udp(), p.hop_by_hop(), p.fragment(0)), "COUNT_IPV6"),
    "arp": (p.arp(), "COUNT_OTHER"),
    "lldp": (p.Network(0x88CC, bytes(40)), "COUNT_OTHER"),
    "802.3 with a length": (p.Network(0x0026, bytes(38)), "COUNT_OTHER"),
}


@pytest.fixture(params=p.COMPILERS)
def count(request: pytest.FixtureRequest) -> p.Loaded:
    return p.load("count", request.param)


@PROGRAMS
@pytest.mark.parametrize("vlans", [(), (100,), (100, 200)], ids=["untagged", "802.1Q", "802.1ad"])
@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_counted(count: p.Loaded, program: str, vlans: t.Sequence[int], name: str) -> None:
    network, counter = FAMILIES[name]
    frame = p.ethernet(network, vlans=vlans)
    assert count.run(program, frame) == VERDICTS[program]
    assert count.counters() == {"COUNT_TOTAL": (1, len(frame)), counter: (1, len(frame))}


@PROGRAMS
def test_zero_ethernet_header_of_netkit_l3(count: p.Loaded, program: str) -> None:
    frame = p.ethernet(p.ipv6(p.udp()), source=bytes(6), destination=bytes(6))
    assert count.run(program, frame) == VERDICTS[program]
    assert count.packets() == {"COUNT_TOTAL": 1, "COUNT_IPV6": 1}


@PROGRAMS
def test_three_tags_are_other(count: p.Loaded, program: str) -> None:
    assert count.run(program, p.ethernet(p.ipv4(p.udp()), vlans=(1, 2, 3))) == VERDICTS[program]
    assert count.packets() == {"COUNT_TOTAL": 1, "COUNT_OTHER": 1}


@PROGRAMS
def test_counters_add_up(count: p.Loaded, program: str) -> None:
    frames = [p.ethernet(network) for network, _counter in FAMILIES.values()] * 3
    octets: t.Dict[str, int] = {}
    for frame, (_network, counter) in zip(frames, [*FAMILIES.values()] * 3):
        count.run(program, frame)
        octets[counter] = octets.get(counter, 0) + len(frame)
    assert count.counters() == {
        "COUNT_TOTAL": (27, sum(octets.values())),
        "COUNT_IPV4": (12, octets["COUNT_IPV4"]),
        "COUNT_IPV6": (6, octets["COUNT_IPV6"]),
        "COUNT_OTHER": (9, octets["COUNT_OTHER"]),
    }


@PROGRAMS
@pytest.mark.parametrize("tags", [0, 1, 2])
def test_truncated_within_the_tags_is_other(count: p.Loaded, program: str, tags: int) -> None:
    frame = p.ethernet(p.Network(p.IPV4, p.ipv4(p.udp()).data), vlans=range(1, tags + 1))
    # Untagged, test runs of an skb need a whole IP header (test_headers.py); tests on wires are below.
    first = 34 if program == "count" and not tags else 14
    for length in range(first, len(frame) + 1):
        count.clear()
        assert count.run(program, frame[:length]) == VERDICTS[program]
        counter = "COUNT_IPV4" if length >= 14 + 4 * tags else "COUNT_OTHER"
        assert count.counters() == {"COUNT_TOTAL": (1, length), counter: (1, length)}


@pytest.fixture
def netns() -> t.Iterator[p.Namespace]:
    """The test runs in a network namespace of its own."""
    with contextlib.closing(p.Namespace()) as made:
        with made:
            yield made


@pytest.mark.usefixtures("netns")
def test_every_length_on_a_wire(count: p.Loaded) -> None:
    p.veth("v0", "v1")
    frame = p.ethernet(p.ipv4(p.udp()))
    with p.attached(count.programs["count"], "v1", "ingress"):
        p.send("v0", *(frame[:length] for length in range(14, len(frame) + 1)))
        total = (len(frame) - 13, sum(range(14, len(frame) + 1)))
        assert p.eventually(count.counters, wanted := {"COUNT_TOTAL": total, "COUNT_IPV4": total}) == wanted


@pytest.mark.usefixtures("netns")
def test_device_without_link_header(count: p.Loaded) -> None:
    four, six = p.ipv4(p.udp()).data, p.ipv6(p.tcp()).data
    with p.Tun("tun0") as tun, p.attached(count.programs["count"], "tun0", "ingress"):
        tun.receive(four)
        tun.receive(six)
        wanted = {
            "COUNT_TOTAL": (2, len(four) + len(six)),
            "COUNT_IPV4": (1, len(four)),
            "COUNT_IPV6": (1, len(six)),
        }
        assert p.eventually(count.counters, wanted) == wanted


@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("hook", ["ingress", "egress"])
def test_next_gives_the_packet_to_the_program_behind(count: p.Loaded, hook: str) -> None:
    """And a tag in band, as on AF_PACKET's egress, counts as what it carries, as does one that the kernel took out."""
    p.veth("v0", "v1")
    device = "v0" if hook == "egress" else "v1"
    behind = p.load("filter", "clang", default_verdict=p.PASS)
    with (
        p.attached(count.programs["count"], device, hook),
        p.attached(behind.programs["filter"], device, hook),
    ):
        p.send("v0", p.ethernet(p.ipv4(p.udp()), vlans=(100,)), p.ethernet(p.arp()))
        wanted = {"COUNT_TOTAL": 2, "COUNT_IPV4": 1, "COUNT_OTHER": 1}
        assert p.eventually(count.packets, wanted) == wanted
        assert p.eventually(behind.packets, wanted := {"FILTER_DEFAULT": 1, "FILTER_OTHER": 1}) == wanted


@pytest.mark.usefixtures("netns")
def test_xdp_on_a_wire(count: p.Loaded) -> None:
    p.veth("v0", "v1")
    frame = p.ethernet(p.ipv6(p.udp()))
    with p.attached(count.programs["count_xdp"], "v1", "xdp"), p.Capture("v1") as capture:
        p.send("v0", frame)
        assert p.eventually(capture.frames, [frame]) == [frame]
        assert count.counters() == {"COUNT_TOTAL": (1, len(frame)), "COUNT_IPV6": (1, len(frame))}
