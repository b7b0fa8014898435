# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of ring buffers, lines of the trace pipe, and what tcpdump says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect_capture, _inspect_trace
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError
from ansible_collections.cnf.ebpf.plugins.module_utils._inspect_trace import BUSY, DISCARD, Record

SIZE = 128


class Writer:
    """A ring buffer as the kernel fills it: mapped twice, records of multiples of eight bytes."""

    def __init__(self, start=0, size=SIZE):
        self.size, self.end, self.data = size, start, bytearray(2 * size)

    def add(self, payload, flags=0):
        row = struct.pack("=II", len(payload) | flags, 0) + payload
        row += bytes(-len(row) % 8)
        for index, byte in enumerate(row):
            place = (self.end + index) % self.size
            self.data[place] = self.data[place + self.size] = byte
        self.end += len(row)
        return self.end

    def read(self, start):
        return list(_inspect_trace.records(memoryview(self.data), start, self.end, self.size))


def test_records_are_cut_out_by_their_length():
    ring = Writer()
    ends = [ring.add(b"12345678"), ring.add(b"abc"), ring.add(b"")]
    assert ring.read(0) == [Record(ends[0], b"12345678"), Record(ends[1], b"abc"), Record(ends[2], b"")]
    assert ends == [16, 32, 40]
    assert ring.read(16) == [Record(32, b"abc"), Record(40, b"")]
    assert ring.read(40) == []


def test_a_discarded_record_is_passed_over_and_a_busy_one_ends_it():
    ring = Writer()
    ring.add(b"one")
    ring.add(b"gone", DISCARD)
    ring.add(b"being written", BUSY)
    ring.add(b"behind")
    assert ring.read(0) == [Record(16, b"one"), Record(32, None)]


def test_a_record_across_the_end_is_whole():
    ring = Writer(start=1000 * SIZE + SIZE - 16)
    begin = ring.end
    ring.add(b"x" * 40)
    ring.add(b"y")
    assert [record.payload for record in ring.read(begin)] == [b"x" * 40, b"y"]


@given(st.lists(st.binary(max_size=60), max_size=2), st.integers(0, 1 << 40))
def test_what_is_written_is_read(payloads, start):
    ring = Writer(start * 8, size=256)
    for payload in payloads:
        ring.add(payload)
    assert [record.payload for record in ring.read(start * 8)] == payloads


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (
            "            ping-1234    [001] b.s31  4567.123456: bpf_trace_printk: a: b",
            ("ping", 1234, 1, 4567.123456, "a: b"),
        ),
        (
            "   kworker/0:1-ev-77  (     77) [000] d..2.  9.000001: bpf_trace_printk: x",
            ("kworker/0:1-ev", 77, 0, 9.000001, "x"),
        ),
        (
            "          <idle>-0       [003] ..s.. 12.5: sched_switch: prev=1",
            ("<idle>", 0, 3, 12.5, "sched_switch: prev=1"),
        ),
        ("what is this", (None, None, None, None, "what is this")),
    ],
)
def test_lines_of_the_trace_pipe(line, fields):
    found = _inspect_trace.parse_line(line)
    assert (found["task"], found["pid"], found["cpu"], found["time"], found["text"]) == fields


def test_lost_lines_are_counted_and_no_events():
    assert _inspect_trace.LOST_LINE.fullmatch("CPU:1 [LOST 1234 EVENTS]")[1] == "1234"
    assert (
        _inspect_trace.LOST_LINE.fullmatch("ping-1 [001] ..... 1.0: bpf_trace_printk: LOST 1 EVENTS") is None
    )


# --- tcpdump ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        (None, ""),
        ("", ""),
        ("  tcp port 80 ", "tcp port 80"),
        (["tcp", "port", 80], "tcp port 80"),
        ([], ""),
        ("tcp[0] - 1 = 0", "tcp[0] - 1 = 0"),
    ],
)
def test_an_expression_is_one_text(given_, text):
    assert _inspect_capture.expression_of(given_) == text


@pytest.mark.parametrize(
    "given_", ["-w x", " -z reboot", ["-i", "lo"], {"a": 1}, True, [["tcp"]], "tcp\nudp", "a\0b"]
)
def test_what_is_no_expression_is_refused(given_):
    with pytest.raises(SpecError, match=r"^filter: "):
        _inspect_capture.expression_of(given_)


def test_the_expression_is_one_word_behind_all_options():
    params = {"snaplen": 96, "direction": "in", "count": 5}
    words = _inspect_capture.record_words("/usr/bin/tcpdump", "eth0", "tcp port 80", params)
    assert words[:3] == ["/usr/bin/tcpdump", "-i", "eth0"]
    assert words[-2:] == ["--", "tcp port 80"]
    assert words[words.index("-c") + 1] == "5" and words[words.index("-s") + 1] == "96"
    plain = _inspect_capture.record_words("tcpdump", "eth0", "", {**params, "count": None})
    assert "--" not in plain and "-c" not in plain


SAID = """tcpdump: listening on b0, link-type EN10MB (Ethernet), snapshot length 262144 bytes
1 packet captured
12 packets received by filter
3 packets dropped by kernel
"""


def test_figures_of_tcpdump():
    assert _inspect_capture.counts_of(SAID) == {"captured": 1, "received_by_filter": 12, "dropped": 3}
    assert _inspect_capture.counts_of("") == {"captured": 0, "received_by_filter": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "tcpdump: can't parse filter expression: syntax error\n",
            "can't parse filter expression: syntax error",
        ),
        (
            "tcpdump: listening on a0, link-type EN10MB\ntcpdump: pcap_loop: The interface disappeared\n0 packets captured\n",
            "pcap_loop: The interface disappeared",
        ),
        ("something else\nwas said\n", "was said"),
        ("", "it gave no reason"),
    ],
)
def test_complaints_of_tcpdump(said, line):
    assert _inspect_capture.complaint_of(said) == line


def test_lines_become_packets():
    lines = [
        "of nothing",
        "2026-01-31 09:30:00.123456 IP 10.0.0.2 > 10.0.0.1: ICMP echo request",
        "\tcontinued",
        "2026-01-31 09:30:01.000000 ARP, Request who-has 10.0.0.1",
    ]
    assert _inspect_capture.packets_of(lines) == [
        {
            "time": "2026-01-31T09:30:00.123456Z",
            "text": "IP 10.0.0.2 > 10.0.0.1: ICMP echo request\n\tcontinued",
        },
        {"time": "2026-01-31T09:30:01.000000Z", "text": "ARP, Request who-has 10.0.0.1"},
    ]
