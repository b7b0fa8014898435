# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy router on this kernel, on veth pairs: the cases of support/policy_cases.py, and what is no matter of the device."""

from __future__ import annotations

import sys

import policy_cases
import policy_world as w
import pytest
from policy_cases import SERVICE, SERVICE6, hits, ways, what_if
from sandbox import Sandbox
from steps import converged

# Each case is a test here too, with the kind of this module.
globals().update({name: case for name, case in vars(policy_cases).items() if name.startswith("test_")})


@pytest.fixture
def kind() -> str:
    return "veth"


TUN = """
import fcntl, os, select, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))
print("ready", flush=True)
while select.select([fd], [], [], 3)[0]:
    data = os.read(fd, 2000)
    version = data[0] >> 4
    protocol = data[9] if version == 4 else data[6]
    if protocol in (1, 58) and data[20 if version == 4 else 40] in (8, 128):
        source = data[12:16].hex() if version == 4 else data[8:24].hex()
        print(version, source, data[8] if version == 4 else data[7], flush=True)
"""


def test_traffic_of_tunnel_sources_goes_into_the_tunnel(box: Sandbox, kind: str) -> None:
    """A device without link-layer header: bare packets arrive, with their time to live counted down."""
    sources = ("10.1.1.1", "fd01:1::1")
    document = ways(kind, ("isp1",), sources)
    document["link"].append(
        {"name": "tun0", "kind": "tun", "netns": "router", "addresses": ["10.99.0.1/24", "fd99::1/64"]}
    )
    converged(box, document)
    with box.popen("ip", "netns", "exec", "router", sys.executable, "-c", TUN) as tunnel:
        assert tunnel.stdout is not None and tunnel.stdout.readline() == "ready\n"
        entries = [
            {"object": "router", "netns": "router", "source": source, "interface": "tun0"}
            for source in sources
        ]
        converged(box, {**document, "bpf_policy_entry": entries})
        w.addressed(box)
        for source, destination in zip(sources, (SERVICE, SERVICE6)):
            box.sh(f"ip netns exec client ping -I {source} -c 3 -i 0.05 -W 1 -q {destination} || true")
        said = tunnel.communicate(timeout=20)[0].splitlines()
    assert sorted(said) == ["4 0a010101 63"] * 3 + ["6 fd010001000000000000000000000001 63"] * 3
    assert hits(box)["redirect"] == 6


def test_a_frame_as_it_is_and_what_is_expected_of_it(box: Sandbox, kind: str) -> None:
    converged(box, w.with_router(kind))
    mac = box.ip("link show bad", "server")[0]["address"].replace(":", "")
    ipv4 = "4500 001c 0000 4000 4001 0000 c0a86405 0a000202 0800 f7ff 0000 0000"
    frames = {
        "redirect": f"{mac} 020000000001 0800 {ipv4}",
        "vlan": f"{mac} 020000000001 8100 0005 0800 {ipv4}",
        "bad_header": f"{mac} 020000000001 0800 {ipv4.replace('4500', '4100', 1)}",
        "other": f"{mac} 020000000001 0806 {ipv4}",
    }
    told = what_if(box, *({"raw": raw, "device": "bad"} for raw in frames.values()))
    assert [row["outcome"] for row in told] == list(frames)
    assert told[0]["entry"]["source"] == "192.168.100.5/32"
    assert [row["verdict"] for row in told] == ["redirect", "next", "next", "next"]
    assert hits(box).get("redirect", 0) == 0


def test_a_frame_captured_where_it_leaves_is_for_its_next_hop(box: Sandbox, kind: str) -> None:
    """It is nobody else's there, whatever the address of the next hop; where frames come in, it would be."""
    converged(box, w.with_router(kind))
    ipv4 = "4500 001c 0000 4000 4001 0000 c0a86405 0a000202 0800 f7ff 0000 0000"
    raw = f"020000000009 020000000001 0800 {ipv4}"
    leaves, comes = what_if(box, {"raw": raw, "device": "bad"}, {"raw": raw, "device": "good"})
    assert (leaves["outcome"], leaves["interface"]) == ("redirect", "good")
    assert comes["outcome"] == "other_host"
