# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets that the what-if is asked about: what is refused, and how."""

from __future__ import annotations

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import frames
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError

PACKET = {"source": "10.0.0.1", "destination": "10.0.0.2"}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({**PACKET, "source": None}, "packets.source: missing; it is required unless raw is given"),
        (
            {**PACKET, "destination": "10.0.0.0/8"},
            "packets.destination: 10.0.0.0/8 is a prefix; a packet has one address",
        ),
        ({**PACKET, "destination": "fd00::1"}, "packets.destination: is of another family than source"),
        ({**PACKET, "protocol": "icmp", "destination_port": 80}, "packets.destination_port: only tcp, udp"),
        ({**PACKET, "protocol": "udp", "source_port": 65536}, "packets.source_port: 65536 is out of range"),
        ({**PACKET, "protocol": "tcp", "size": 39}, "packets.size: 39 is out of range; give 40 to 65535"),
        ({**PACKET, "ttl": 256}, "packets.ttl: 256 is out of range; give 1 to 255"),
    ],
)
def test_a_packet_that_there_cannot_be_is_refused(item, message):
    with pytest.raises(SpecError) as caught:
        frames.packet_of(item, "packets")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zz", "raw: is not a frame in hexadecimal digits"),
        ("00" * 5, "raw: has 5 bytes; a frame with its Ethernet header has "),
    ],
)
def test_what_is_no_frame_is_refused(text, message):
    with pytest.raises(SpecError) as caught:
        frames.raw_frame(text, "raw")
    assert str(caught.value).startswith(message)
