# SPDX-License-Identifier: GPL-3.0-or-later
"""lib/parse.h by a probe that hands out what it read, and what all of files/bpf has in common."""

from __future__ import annotations

import contextlib
import errno
import random
import re
import socket
import struct
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import packets as p

SOURCES = p.SOURCES
NAMES = sorted(path.name[: -len(".bpf.c")] for path in SOURCES.glob("*.bpf.c"))

OK, TRUNCATED, BAD_HEADER, TOO_DEEP = 0, -1, -2, -3
WHOLE, FIRST, LATER = 0, 1, 2
END_UNKNOWN = 0xFFFFFFFF

PROBE = """
#include "compat.h"
#include "parse.h"

struct answer {
    struct packet packet;
    __s32 error;
};
MAP_ARRAY(answers, struct answer, 1);

#ifdef COMPILER_BCC
static __always_inline struct answer *find_answer(__u32 index) { return answers.lookup(&index); }
#else
static __always_inline struct answer *find_answer(__u32 index) { return bpf_map_lookup_elem(&answers, &index); }
#endif

static __always_inline void tell(const struct packet *packet, int error)
{
    struct answer *answer = find_answer(0);

    if (!answer)
        return;
    answer->packet = *packet;
    answer->error = error;
}

SEC("tc")
int probe(struct __sk_buff *skb)
{
    struct packet packet = {};
    int error = parse_skb(skb, &packet);

    tell(&packet, error);
    return -1;
}

SEC("xdp")
int probe_xdp(struct xdp_md *xdp)
{
    struct packet packet = {};
    int error = parse_xdp(xdp, &packet);

    tell(&packet, error);
    return XDP_PASS;
}

LICENSE("Dual BSD/GPL");
"""

# struct packet, then the error
ANSWER = struct.Struct("=16s16sIIHHHBBB3xi")


class Answer(t.NamedTuple):
    """What the probe read; offsets from the network header, ports as numbers."""

    error: int
    source: str = ""
    destination: str = ""
    protocol: int = 0
    transport: int = 0
    end: int = 0
    fragment: int = WHOLE
    ports: t.Tuple[int, int] = (0, 0)


class Sample(t.NamedTuple):
    """A datagram, what there is to be read of it, and how many of its bytes that takes."""

    network: p.Network
    expected: Answer
    needed: int


def sample(
    network: p.Network,
    protocol: int,
    transport: int,
    *,
    fragment: int = WHOLE,
    ports: t.Tuple[int, int] = (0, 0),
    end: t.Optional[int] = None,
) -> Sample:
    source, destination = (p.CLIENT4, p.SERVER4) if network.ethertype == p.IPV4 else (p.CLIENT6, p.SERVER6)
    end = len(network.data) if end is None else end
    expected = Answer(OK, source, destination, protocol, transport, end, fragment, ports)
    return Sample(network, expected, transport + (4 if ports != (0, 0) else 0))


UDP, TCP = p.udp(port=53, source_port=40000), p.tcp(port=443, source_port=40001)
DATA = p.Segment(p.UDP, bytes(range(24)))
PORTS_UDP, PORTS_TCP = (40000, 53), (40001, 443)
EIGHT = [p.hop_by_hop(), *[p.destination_options()] * 7]

SAMPLES = {
    "udp": sample(p.ipv4(UDP), p.UDP, 20, ports=PORTS_UDP),
    "tcp": sample(p.ipv4(TCP), p.TCP, 20, ports=PORTS_TCP),
    "sctp": sample(p.ipv4(p.Segment(p.SCTP, TCP.data)), p.SCTP, 20, ports=PORTS_TCP),
    "udplite": sample(p.ipv4(p.Segment(p.UDPLITE, TCP.data)), p.UDPLITE, 20, ports=PORTS_TCP),
    "icmp has no ports": sample(p.ipv4(p.icmp()), p.ICMP, 20),
    "gre has no ports": sample(p.ipv4(p.Segment(p.GRE, bytes(8))), p.GRE, 20),
    "4 bytes of options": sample(p.ipv4(UDP, options=b"\1" * 4), p.UDP, 24, ports=PORTS_UDP),
    "40 bytes of options": sample(p.ipv4(UDP, options=b"\1" * 40), p.UDP, 60, ports=PORTS_UDP),
    "options and no ports": sample(p.ipv4(p.icmp(), options=b"\1" * 8), p.ICMP, 28),
    "first fragment": sample(p.ipv4(UDP, more=True), p.UDP, 20, fragment=FIRST, ports=PORTS_UDP),
    "later fragment": sample(p.ipv4(DATA, offset=3, more=True), p.UDP, 20, fragment=LATER),
    "last fragment": sample(p.ipv4(DATA, offset=0x1FFF), p.UDP, 20, fragment=LATER),
    "fragment behind 32 KiB": sample(p.ipv4(DATA, offset=0x1000), p.UDP, 20, fragment=LATER),
    "total length 0": sample(p.ipv4(UDP, total=0), p.UDP, 20, ports=PORTS_UDP, end=END_UNKNOWN),
    "longer than its total length": sample(p.ipv4(UDP, total=24), p.UDP, 20, ports=PORTS_UDP, end=24),
    "udp6": sample(p.ipv6(UDP), p.UDP, 40, ports=PORTS_UDP),
    "tcp6": sample(p.ipv6(TCP), p.TCP, 40, ports=PORTS_TCP),
    "icmp6 has no ports": sample(p.ipv6(p.icmpv6()), p.ICMPV6, 40),
    "no next header": sample(p.ipv6(p.Segment(p.NO_NEXT, b"")), p.NO_NEXT, 40, end=END_UNKNOWN),
    "hop by hop": sample(p.ipv6(TCP, p.hop_by_hop()), p.TCP, 48, ports=PORTS_TCP),
    "long hop by hop": sample(p.ipv6(TCP, p.hop_by_hop(5)), p.TCP, 88, ports=PORTS_TCP),
    "routing": sample(p.ipv6(TCP, p.routing(2)), p.TCP, 64, ports=PORTS_TCP),
    "authentication": sample(p.ipv6(TCP, p.authentication(4)), p.TCP, 64, ports=PORTS_TCP),
    "several": sample(
        p.ipv6(UDP, p.hop_by_hop(), p.destination_options(1), p.routing(), p.authentication(1)),
        p.UDP,
        40 + 8 + 16 + 8 + 12,
        ports=PORTS_UDP,
    ),
    "eight": sample(p.ipv6(UDP, *EIGHT), p.UDP, 104, ports=PORTS_UDP),
    "extension and no ports": sample(p.ipv6(p.icmpv6(), p.destination_options(2)), p.ICMPV6, 64),
    "atomic fragment": sample(p.ipv6(UDP, p.fragment(0, more=False)), p.UDP, 48, ports=PORTS_UDP),
    "first fragment6": sample(p.ipv6(UDP, p.fragment(0)), p.UDP, 48, fragment=FIRST, ports=PORTS_UDP),
    "later fragment6": sample(p.ipv6(DATA, p.fragment(2)), p.UDP, 48, fragment=LATER),
    "last fragment6": sample(p.ipv6(DATA, p.fragment(0x1FFF, more=False)), p.UDP, 48, fragment=LATER),
    "fragment6 behind 32 KiB": sample(p.ipv6(DATA, p.fragment(0x1000)), p.UDP, 48, fragment=LATER),
    "options before a later fragment": sample(
        p.ipv6(DATA, p.hop_by_hop(), p.fragment(9)), p.UDP, 56, fragment=LATER
    ),
    "options within a first fragment": sample(
        p.ipv6(UDP, p.fragment(0), p.destination_options()), p.UDP, 56, fragment=FIRST, ports=PORTS_UDP
    ),
    "a later fragment names the extension header": sample(
        p.ipv6(p.Segment(p.DESTINATION, bytes(16)), p.fragment(5)), p.DESTINATION, 48, fragment=LATER
    ),
    "payload length 0": sample(p.ipv6(UDP, payload_length=0), p.UDP, 40, ports=PORTS_UDP, end=END_UNKNOWN),
}

MALFORMED = {
    "version 5": (p.ipv4(UDP, version=5), BAD_HEADER),
    "version 6 in an IPv4 packet": (p.ipv4(UDP, version=6), BAD_HEADER),
    "header of 16 bytes": (p.ipv4(UDP, header_words=4), BAD_HEADER),
    "header of 0 bytes": (p.ipv4(UDP, header_words=0), BAD_HEADER),
    "total length within the header": (p.ipv4(UDP, total=19), BAD_HEADER),
    "total length within the options": (p.ipv4(UDP, options=b"\1" * 8, total=27), BAD_HEADER),
    "options beyond the packet": (p.ipv4(p.Segment(p.ICMP, b""), header_words=15, total=60), TRUNCATED),
    "ports beyond the total length": (p.ipv4(UDP, total=23), TRUNCATED),
    "no room for ports": (p.ipv4(p.Segment(p.UDP, b"\0\1\0")), TRUNCATED),
    "first fragment without ports": (p.ipv4(p.Segment(p.TCP, b""), more=True), TRUNCATED),
    "version 4 in an IPv6 packet": (p.ipv6(UDP, version=4), BAD_HEADER),
    "ports beyond the payload length": (p.ipv6(UDP, payload_length=3), TRUNCATED),
    "extension beyond the payload length": (
        p.ipv6(p.icmpv6(), p.hop_by_hop(3), payload_length=16),
        BAD_HEADER,
    ),
    "extension header cut by the payload length": (p.ipv6(UDP, p.hop_by_hop(), payload_length=3), TRUNCATED),
    "extension beyond the packet": (
        p.ipv6(p.Segment(p.NO_NEXT, b""), p.Extension(p.DESTINATION, b"\x1f" + bytes(6)), payload_length=256),
        TRUNCATED,
    ),
    "nine extension headers": (p.ipv6(UDP, *EIGHT, p.destination_options()), TOO_DEEP),
}


@pytest.fixture(scope="module")
def probe_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probe") / "probe.bpf.c"
    path.write_text(PROBE)
    return path


@pytest.fixture(params=p.COMPILERS)
def probe(request: pytest.FixtureRequest, probe_source: Path) -> p.Loaded:
    return p.load(probe_source, request.param)


def answer_of(probe: p.Loaded, offset: int) -> Answer:
    """What the probe wrote last; ``offset`` is where the network header is, from where the hook counts."""
    raw = probe.get("answers", 0)
    source, destination, transport, end, ethertype, sport, dport, protocol, fragment, _ttl, error = (
        ANSWER.unpack(raw)
    )
    if error:
        return Answer(error)
    family = socket.AF_INET if socket.ntohs(ethertype) == p.IPV4 else socket.AF_INET6
    length = 4 if family == socket.AF_INET else 16
    assert not any(source[length:]) and not any(destination[length:])
    return Answer(
        error,
        socket.inet_ntop(family, source[:length]),
        socket.inet_ntop(family, destination[:length]),
        protocol,
        transport - offset,
        end if end == END_UNKNOWN else end - offset,
        fragment,
        (socket.ntohs(sport), socket.ntohs(dport)),
    )


def ask(probe: p.Loaded, program: str, frame: bytes, vlans: int = 0) -> Answer:
    probe.run(program, frame)
    # An untagged packet is read from its network header on, everything else from the Ethernet header on.
    at = p.ETHERNET_BYTES + vlans * p.VLAN_BYTES
    return answer_of(probe, 0 if program == "probe" and not vlans else at)


PROGRAMS = pytest.mark.parametrize("program", ["probe", "probe_xdp"])


@PROGRAMS
@pytest.mark.parametrize("vlans", [(), (100,), (100, 4094)], ids=["untagged", "802.1Q", "802.1ad"])
@pytest.mark.parametrize("name", SAMPLES)
def test_headers_are_read(probe: p.Loaded, program: str, vlans: t.Sequence[int], name: str) -> None:
    frame = p.ethernet(SAMPLES[name].network, vlans=vlans)
    assert ask(probe, program, frame, len(vlans)) == SAMPLES[name].expected


@PROGRAMS
@pytest.mark.parametrize("name", ["udp", "tcp6"])
def test_zero_ethernet_header_of_netkit_l3(probe: p.Loaded, program: str, name: str) -> None:
    frame = p.ethernet(SAMPLES[name].network, source=bytes(6), destination=bytes(6))
    assert ask(probe, program, frame) == SAMPLES[name].expected


@PROGRAMS
@pytest.mark.parametrize("vlans", [(), (7,)], ids=["untagged", "tagged"])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_truncation_is_told(probe: p.Loaded, program: str, vlans: t.Sequence[int], name: str) -> None:
    frame = p.ethernet(SAMPLES[name].network, vlans=vlans)
    network_at = p.ETHERNET_BYTES + p.VLAN_BYTES * len(vlans)
    found, wanted = {}, {}
    for length in range(smallest(program, frame), len(frame) + 1):
        found[length] = ask(probe, program, frame[:length], len(vlans))
        enough = length >= network_at + SAMPLES[name].needed
        wanted[length] = SAMPLES[name].expected if enough else Answer(TRUNCATED)
    assert found == wanted


FIXED_HEADER = {p.IPV4: p.IPV4_BYTES, p.IPV6: p.IPV6_BYTES}


def smallest(program: str, frame: bytes) -> int:
    """The shortest piece of a frame that every kernel takes for a test run.

    The stack never sees less than a whole Ethernet header. Newer kernels also refuse an skb that ends within the IP header;
    such packets come over wires below.
    """
    if program == "probe_xdp":
        return p.ETHERNET_BYTES
    ethertype = int.from_bytes(frame[12:14], "big")
    return p.ETHERNET_BYTES + FIXED_HEADER.get(ethertype, 0)


@PROGRAMS
def test_shorter_frames_cannot_exist(probe: p.Loaded, program: str) -> None:
    frame = p.ethernet(p.arp())
    for length in range(smallest(program, frame)):
        with pytest.raises(KernelError) as caught:
            probe.run(program, frame[:length])
        assert caught.value.errno == errno.EINVAL


@PROGRAMS
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_packets_are_named(probe: p.Loaded, program: str, name: str) -> None:
    network, error = MALFORMED[name]
    assert ask(probe, program, p.ethernet(network)) == Answer(error)


@PROGRAMS
def test_three_vlan_tags_are_too_deep(probe: p.Loaded, program: str) -> None:
    assert ask(probe, program, p.ethernet(p.ipv4(UDP), vlans=(1, 2, 3)), 3) == Answer(TOO_DEEP)


@PROGRAMS
@pytest.mark.parametrize("ethertype", [p.ARP, 0x88CC, 0x0100])
def test_other_protocols_are_left_alone(probe: p.Loaded, program: str, ethertype: int) -> None:
    frame = p.ethernet(p.arp(), ethertype=ethertype)
    probe.run(program, frame)
    raw = ANSWER.unpack(probe.get("answers", 0))
    # 802.3 frames (a length in place of the type) are 802.2 (0x0004) to the stack.
    seen = 0x0004 if program == "probe" and ethertype < 0x0600 else ethertype
    assert raw == (bytes(16), bytes(16), 0, 0, socket.htons(seen), 0, 0, 0, 0, 0, OK)


def test_both_hooks_and_compilers_agree_on_spoilt_packets(probe_source: Path) -> None:
    """Four programs from one source see the same in frames with random bytes, lengths and truncations."""
    chance = random.Random(20260101)
    probes = [p.load(probe_source, compiler) for compiler in p.COMPILERS]
    frames = [p.ethernet(each.network) for each in SAMPLES.values()]
    frames += [p.ethernet(network) for network, _error in MALFORMED.values()]
    seen = set()
    for _round in range(4000):
        frame = bytearray(chance.choice(frames))
        for _change in range(chance.randrange(1, 5)):
            # The ethertype stays, or most would be of no interest.
            frame[chance.randrange(p.ETHERNET_BYTES, len(frame))] = chance.randrange(256)
        spoilt = bytes(frame[: chance.randrange(smallest("probe", frame), len(frame) + 1)])
        answers = {ask(one, program, spoilt) for one in probes for program in ("probe", "probe_xdp")}
        assert len(answers) == 1, spoilt.hex()
        seen.update(answer.error for answer in answers)
    assert seen == {OK, TRUNCATED, BAD_HEADER, TOO_DEEP}


# --- Real packets, which test runs cannot express --------------------------------------------------------------------


@pytest.fixture
def netns() -> t.Iterator[p.Namespace]:
    """The test runs in a network namespace of its own, whose devices send nothing of themselves: an answer is the last packet's."""
    with contextlib.closing(p.Namespace()) as made:
        with made:
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            yield made


@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("name", ["udp", "40 bytes of options", "tcp6", "several", "later fragment6"])
def test_device_without_link_header(probe: p.Loaded, name: str) -> None:
    with p.Tun("tun0") as tun, p.attached(probe.programs["probe"], "tun0", "ingress"):
        tun.receive(SAMPLES[name].network.data)
        assert eventually_answers(probe, SAMPLES[name].expected)


@pytest.mark.usefixtures("netns")
def test_every_truncation_without_link_header(probe: p.Loaded) -> None:
    udp = SAMPLES["udp"]
    with p.Tun("tun0") as tun, p.attached(probe.programs["probe"], "tun0", "ingress"):
        for length in range(1, len(udp.network.data) + 1):
            probe.clear()  # so that the answer is this packet's
            tun.receive(udp.network.data[:length])
            wanted = udp.expected if length >= udp.needed else Answer(TRUNCATED)
            assert eventually_answers(probe, wanted), length


@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("hook", ["ingress", "egress"])
@pytest.mark.parametrize("name", ["udp", "tcp6"])
def test_every_truncation_on_a_wire(probe: p.Loaded, name: str, hook: str) -> None:
    p.veth("v0", "v1")
    frame = p.ethernet(SAMPLES[name].network)
    with p.attached(probe.programs["probe"], "v1" if hook == "ingress" else "v0", hook):
        for length in range(p.ETHERNET_BYTES, len(frame) + 1):
            probe.clear()
            p.send("v0", frame[:length])
            enough = length >= p.ETHERNET_BYTES + SAMPLES[name].needed
            wanted = SAMPLES[name].expected if enough else Answer(TRUNCATED)
            assert eventually_answers(probe, wanted), length


@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("name", ["udp", "several"])
def test_headers_outside_the_linear_area(probe: p.Loaded, name: str) -> None:
    """Of a frame of more than a page AF_PACKET leaves only the Ethernet header in the linear area (packet_alloc_skb)."""
    p.veth("v0", "v1", mtu=9000)
    with p.attached(probe.programs["probe"], "v0", "egress"):
        p.send("v0", p.ethernet(SAMPLES[name].network) + bytes(5000))
        assert eventually_answers(probe, SAMPLES[name].expected)


@pytest.mark.usefixtures("netns")
def test_tags_in_band_and_out_of_band(probe: p.Loaded) -> None:
    """Sent by AF_PACKET the tag is in the packet and the network header behind it; received, the tag has been taken out."""
    p.veth("v0", "v1")
    frame = p.ethernet(SAMPLES["udp"].network, vlans=(100,))
    with p.attached(probe.programs["probe"], "v0", "egress"):
        p.send("v0", frame)
        assert eventually_answers(probe, SAMPLES["udp"].expected, p.ETHERNET_BYTES + p.VLAN_BYTES)
    probe.clear()
    with p.attached(probe.programs["probe"], "v1", "ingress"):
        p.send("v0", frame)
        assert eventually_answers(probe, SAMPLES["udp"].expected)


def eventually_answers(probe: p.Loaded, wanted: Answer, offset: int = 0) -> bool:
    return p.eventually(lambda: answer_of(probe, offset), wanted) == wanted


# --- What every program owes its readers -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.[ch]")), ids=lambda path: path.name)
def test_licence_of_each_file(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    # REUSE-IgnoreStart
    assert "SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause)" in first
    # REUSE-IgnoreEnd
    if path.suffix == ".c":
        assert 'LICENSE("Dual BSD/GPL");' in path.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_programs_maps_constants_and_counters_are_documented(name: str) -> None:
    source = SOURCES / f"{name}.bpf.c"
    text = source.read_text()
    section = (SOURCES / "README.md").read_text().split(f"## {name}.bpf.c", 1)[1].split("\n## ", 1)[0]
    head = text.split("*/", 1)[0]
    maps = re.findall(r"^MAP_\w+\((\w+)", text, re.MULTILINE)
    constants = re.findall(r"^CONSTANT\([^,]+, (\w+)", text, re.MULTILINE)
    words = [*p.programs_of(source), *maps, *constants]
    assert p.programs_of(source)
    assert [word for word in (*words, *p.counters_of(source)) if f"`{word}`" not in section] == []
    assert [word for word in words if not re.search(rf"\b{word}\b", head)] == []


def test_built_packets_are_what_the_standards_say() -> None:
    """The builder itself, by checksums over what carries one and by a frame known byte for byte."""
    for network in (p.ipv4(p.udp()), p.ipv4(p.tcp(b"odd"), options=b"\1" * 8), p.ipv4(p.icmp())):
        header = 4 * (network.data[0] & 15)
        assert p.checksum(network.data[:header]) == 0
    pseudo = socket.inet_aton(p.CLIENT4) + socket.inet_aton(p.SERVER4) + struct.pack("!HH", p.UDP, 15)
    assert p.checksum(pseudo + p.ipv4(p.udp()).data[20:]) == 0
    assert p.ethernet(p.ipv4(p.udp(b"", port=9, source_port=8)), vlans=(5,)).hex() == (
        "02000000000b02000000000a8100000508004500001c0007000040118e78c000020ac6336414000800090008137b"
    )
