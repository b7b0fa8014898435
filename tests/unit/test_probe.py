# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the probes: input, packets, reasons, and what an attempt means."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils import _probe
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError

TOKEN = b"\x01\x02\x03\x04\x05\x06\x07\x08"


def task(**options):
    return {**dict.fromkeys(_probe.PROBE_SPEC), **_probe.DEFAULTS, "probes": None, **options}


def entry(**options):
    return {**dict.fromkeys(_probe.PROBE_SPEC), **options}


# --- input


def test_one_destination_is_one_probe_with_the_defaults():
    assert _probe.parse(task(destination="10.0.0.1")) == [_probe.Probe(ipaddress.ip_address("10.0.0.1"))]


def test_a_probe_takes_from_the_task_what_it_leaves_out():
    found = _probe.parse(
        task(
            netns="red",
            protocol="tcp",
            port=80,
            wait=5.0,
            probes=[
                entry(destination="10.0.0.1"),
                entry(destination="fd00::1", netns="", port=443, wait=0.0),
                entry(destination="10.0.0.2", protocol="icmp"),
            ],
        )
    )
    assert [(probe.netns, probe.protocol, probe.port, probe.wait) for probe in found] == [
        ("red", "tcp", 80, 5.0),
        ("", "tcp", 443, 0.0),
        ("red", "icmp", None, 5.0),
    ]


def test_a_reporter_of_the_task_is_for_probes_that_shall_expire():
    probes = [entry(destination="10.0.0.1"), entry(destination="10.0.0.1", expect="reachable")]
    found = _probe.parse(task(expect="expired", reporter="10.0.0.9", ttl=1, probes=probes))
    assert [str(probe.reporter) for probe in found] == ["10.0.0.9", "None"]


def test_no_probes_are_none():
    assert _probe.parse(task(probes=[])) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "destination: missing"),
        ({"destination": "example.org"}, "destination: 'example.org' is not an IP address"),
        ({"destination": "10.0.0.0/8"}, "destination: '10.0.0.0/8' is not an IP address"),
        ({"destination": "224.0.0.1"}, "destination: 224.0.0.1 is not the address of one host"),
        ({"destination": "::"}, "destination: :: is not the address of one host"),
        ({"destination": "255.255.255.255"}, "destination: 255.255.255.255 is not the address of one host"),
        ({"destination": "::ffff:10.0.0.1"}, "give 10.0.0.1"),
        ({"destination": "fe80::1"}, "fe80::1%eth0 or with dev"),
        ({"destination": "fd00::1%eth0"}, "destination: fd00::1%eth0 has a scope"),
        (
            {"destination": "10.0.0.1", "source": "fd00::1"},
            "source: fd00::1 is IPv6, but the destination is IPv4",
        ),
        ({"destination": "10.0.0.1", "protocol": "tcp"}, "port: missing; tcp needs one"),
        (
            {"destination": "10.0.0.1", "protocol": "udp", "port": 0},
            "port: 0 is out of range; give 1 to 65535",
        ),
        ({"destination": "10.0.0.1", "port": 80}, "port: icmp has no ports"),
        ({"destination": "10.0.0.1", "netns": "a/b"}, "netns: 'a/b' is not a namespace name"),
        ({"destination": "10.0.0.1", "dev": "far-too-long-a-name"}, "dev: "),
        ({"destination": "10.0.0.1", "count": 0}, "count: 0 is out of range; give 1 to 1000"),
        ({"destination": "10.0.0.1", "count": 1001}, "count: 1001 is out of range"),
        ({"destination": "10.0.0.1", "timeout": 0.0}, "timeout: 0.0 is out of range"),
        ({"destination": "10.0.0.1", "wait": float("nan")}, "wait: nan is out of range"),
        ({"destination": "10.0.0.1", "interval": float("inf")}, "interval: inf is out of range"),
        ({"destination": "10.0.0.1", "max_loss": 101.0}, "max_loss: 101.0 is out of range"),
        ({"destination": "10.0.0.1", "ttl": 0}, "ttl: 0 is out of range; give 1 to 255"),
        ({"destination": "10.0.0.1", "ttl": 256}, "ttl: 256 is out of range"),
        ({"destination": "10.0.0.1", "reporter": "10.0.0.2"}, "reporter: reachable has none; set expect to"),
        (
            {"destination": "10.0.0.1", "expect": "expired", "reporter": "fd00::1"},
            "reporter: fd00::1 is IPv6, but the destination is IPv4",
        ),
        (
            {"destination": "fd00::2", "expect": "expired", "reporter": "fe80::1%eth0"},
            "reporter: fe80::1%eth0: reports do not tell by which device",
        ),
        ({"destination": "10.0.0.1", "size": 65508}, "size: 65508 is out of range; give 0 to 65507 bytes"),
    ],
)
def test_wrong_input_is_named_by_its_path(options, message):
    with pytest.raises(SpecError) as single:
        _probe.parse(task(**options))
    assert message in str(single.value)
    with pytest.raises(SpecError) as listed:
        _probe.parse(task(probes=[entry(destination="10.0.0.9"), entry(**options)]))
    assert str(listed.value) == f"probes[1].{single.value}"


@pytest.mark.parametrize(
    "options", [{"destination": "fe80::1%eth0"}, {"destination": "fe80::1", "dev": "eth0"}]
)
def test_a_link_local_address_needs_a_device_of_either_kind(options):
    assert len(_probe.parse(task(**options))) == 1


def test_suboptions_are_the_options_without_defaults():
    suboptions = _probe.ARGUMENT_SPEC["probes"]["options"]
    assert set(suboptions) == set(_probe.ARGUMENT_SPEC) - {"probes"}
    assert not [name for name, spec in suboptions.items() if "default" in spec]


# --- packets


def test_checksum_is_that_of_the_example_of_rfc_1071():
    assert _probe.checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@given(st.binary(max_size=200))
def test_a_message_with_its_checksum_sums_up_to_zero(data):
    assert _probe.checksum(_probe.echo_request(4, 0x1234, 7, data)) == 0


@given(st.integers(0, 65535), st.integers(0, 100))
def test_payload_has_the_size_and_begins_with_the_token(sequence, size):
    data = _probe.payload(TOKEN, sequence, size)
    assert len(data) == size
    assert data[:8] == TOKEN[:size]
    assert _probe.datagram_sequence(data, TOKEN) == (sequence if size >= 10 else None)


def reply(version, identifier, sequence, data, kind=None):
    """A packet as a raw socket delivers it: an IPv4 header with one word of options, no IPv6 header."""
    request = _probe.echo_request(version, identifier, sequence, data)
    answer = struct.pack("!BBH", _probe.ECHO_REPLY[version] if kind is None else kind, 0, 0) + request[4:]
    if version == 6:
        return answer
    answer = answer[:2] + struct.pack("!H", _probe.checksum(answer)) + answer[4:]
    return b"\x46" + bytes(23) + answer


@pytest.mark.parametrize("version", [4, 6])
@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 80))
def test_our_reply_is_known_by_its_sequence(version, identifier, sequence, size):
    packet = reply(version, identifier, sequence, _probe.payload(TOKEN, sequence, size))
    assert _probe.reply_sequence(version, packet, identifier, TOKEN[:size]) == sequence


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "change",
    [
        {"identifier": 2},
        {"data": b"x" * 20},
        {"data": b""},
        {"kind": 3},
    ],
    ids=["identifier", "token", "truncated", "type"],
)
def test_what_is_not_our_reply_is_passed_over(version, change):
    packet = reply(
        version, **{"identifier": 1, "sequence": 5, "data": _probe.payload(TOKEN, 5, 20), **change}
    )
    assert _probe.reply_sequence(version, packet, 1, TOKEN) is None


def test_a_reply_with_a_wrong_checksum_is_passed_over():
    packet = bytearray(reply(4, 1, 5, _probe.payload(TOKEN, 5, 20)))
    packet[-1] ^= 0xFF
    assert _probe.reply_sequence(4, bytes(packet), 1, TOKEN) is None


@given(st.binary(max_size=60))
def test_any_bytes_can_be_read(data):
    for version in (4, 6):
        assert _probe.reply_sequence(version, data, 1, TOKEN) is None
    _probe.datagram_sequence(data, TOKEN)


@pytest.mark.parametrize("quoted", [8, 12, 16, 64])
def test_an_error_may_quote_little_of_the_packet(quoted):
    request = _probe.echo_request(4, 9, 3, _probe.payload(TOKEN, 3, 56))
    assert _probe.echo_sequence(request[:quoted], 8, 9, TOKEN) == 3
    assert _probe.echo_sequence(request[:7], 8, 9, TOKEN) is None


# --- reasons


def extended(number, origin, kind, code, offender=""):
    head = struct.pack("=IBBBxII", number, origin, kind, code, 0, 0)
    if not offender:
        return head + bytes(16)
    if ":" in offender:
        return (
            head
            + struct.pack("=HHI", socket.AF_INET6, 0, 0)
            + socket.inet_pton(socket.AF_INET6, offender)
            + bytes(4)
        )
    return (
        head + struct.pack("=HH", socket.AF_INET, 0) + socket.inet_pton(socket.AF_INET, offender) + bytes(8)
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (extended(101, 2, 3, 0, "10.0.0.1"), "destination unreachable: no route (from 10.0.0.1)"),
        (extended(113, 2, 3, 1, "10.0.0.1"), "destination unreachable: host unreachable (from 10.0.0.1)"),
        (extended(113, 2, 3, 13, "10.0.0.1"), "destination unreachable: prohibited (from 10.0.0.1)"),
        (extended(111, 2, 3, 3, "10.0.2.2"), "port unreachable"),
        (extended(111, 2, 3, 3, "10.0.0.1"), "port unreachable (from 10.0.0.1)"),
        (extended(113, 2, 11, 0, "10.0.0.1"), "time exceeded (from 10.0.0.1)"),
        (extended(113, 2, 3, 77, "10.0.0.1"), "destination unreachable: code 77 (from 10.0.0.1)"),
        (extended(113, 2, 99, 1), "ICMP type 99 code 1"),
        (extended(101, 3, 1, 0, "fd00::1"), "destination unreachable: no route (from fd00::1)"),
        (extended(111, 3, 1, 4, "fd00::1"), "port unreachable (from fd00::1)"),
        (extended(113, 3, 3, 0, "fe80::1"), "time exceeded (from fe80::1)"),
        (extended(errno.EMSGSIZE, 1, 0, 0), "message too long (on this host)"),
    ],
)
def test_an_error_is_told_in_words(data, text):
    assert _probe.extended_reason(data, "10.0.2.2") == text


def test_a_refusal_of_the_own_kernel_is_told_as_such():
    assert _probe.local_reason(errno.ENETUNREACH) == "destination unreachable: no route (from this host)"
    assert _probe.local_reason(errno.ENOBUFS) == "no buffer space available (on this host)"


# --- judging


def shots(*outcomes):
    """Numbers are round trips in seconds, texts reasons for having none."""
    return [
        _probe.Shot(0.0, rtt=item, over=True)
        if isinstance(item, float)
        else _probe.Shot(0.0, reason=item, over=True)
        for item in outcomes
    ]


def probe(**options):
    return _probe.Probe(ipaddress.ip_address("10.0.2.2"), **options)


REPORTER = ipaddress.ip_address("10.0.0.1")
TOLD, OTHER = "time exceeded (from 10.0.0.1)", "time exceeded (from 10.0.0.10)"


@pytest.mark.parametrize(
    ("outcomes", "options", "reachable", "expected"),
    [
        ((0.1, 0.1), {}, True, True),
        ((0.1, "x"), {}, False, False),
        ((0.1, "x"), {"max_loss": 49.9}, False, False),
        ((0.1, "x"), {"max_loss": 50.0}, True, True),
        (("x", "x"), {"max_loss": 100.0}, False, False),
        (("x", "x"), {"expect": "unreachable"}, False, True),
        ((0.1, "x"), {"expect": "unreachable"}, False, False),
        ((0.1, 0.1), {"expect": "unreachable"}, True, False),
        ((TOLD, TOLD), {"expect": "expired"}, False, True),
        ((TOLD, TOLD), {"expect": "expired", "reporter": REPORTER}, False, True),
        ((TOLD, OTHER), {"expect": "expired"}, False, True),
        ((TOLD, OTHER), {"expect": "expired", "reporter": REPORTER}, False, False),
        ((TOLD, OTHER), {"expect": "expired", "reporter": REPORTER, "max_loss": 50.0}, False, True),
        ((OTHER, OTHER), {"expect": "expired", "reporter": REPORTER, "max_loss": 100.0}, False, False),
        ((TOLD, "no answer"), {"expect": "expired"}, False, False),
        ((TOLD, 0.1), {"expect": "expired", "max_loss": 50.0}, True, False),
        (("x", "x"), {"expect": "expired"}, False, False),
        ((TOLD, TOLD), {}, False, False),
    ],
)
def test_loss_is_judged_by_what_is_expected(outcomes, options, reachable, expected):
    verdict = _probe.judge(probe(**options), shots(*outcomes))
    assert (verdict.reachable, verdict.expected) == (reachable, expected)


def test_numbers_are_percent_and_milliseconds():
    verdict = _probe.judge(probe(), shots(0.001, 0.003, "no answer"))
    assert (verdict.sent, verdict.received, verdict.loss) == (3, 2, 33.333)
    assert (verdict.rtt_min, verdict.rtt_avg, verdict.rtt_max) == (1.0, 2.0, 3.0)


def test_round_trips_are_null_and_reasons_sorted_by_number_when_nothing_answered():
    verdict = _probe.judge(probe(), shots("b", "a", "a"))
    assert (verdict.rtt_min, verdict.rtt_avg, verdict.rtt_max) == (None, None, None)
    assert verdict.reason == "a, b"
    assert _probe.judge(probe(), shots("no answer", "no answer", "a")).reason == "a, no answer"


def test_an_error_after_the_timeout_tells_why_but_an_answer_stays():
    late = _probe.Shot(0.0)
    late.lost(_probe.NO_ANSWER)
    late.answered(5.0)
    assert late.rtt is None
    late.lost("port unreachable")
    assert late.reason == "port unreachable"
    answered = _probe.Shot(1.0)
    answered.answered(1.5)
    answered.lost("port unreachable")
    assert (answered.rtt, answered.reason) == (0.5, "")


@pytest.mark.parametrize(
    ("options", "outcomes", "text"),
    [
        (
            {"netns": "ns1"},
            ("no answer",) * 3,
            "netns ns1 -> 10.0.2.2 icmp: unreachable, 0 of 3 answered (no answer); expected reachable",
        ),
        (
            {"protocol": "tcp", "port": 80, "expect": "unreachable"},
            (0.1, 0.1),
            "host -> 10.0.2.2 tcp port 80: reachable, 2 of 2 answered; expected unreachable",
        ),
        (
            {"max_loss": 12.5},
            (0.1, "no answer"),
            "host -> 10.0.2.2 icmp: partly reachable, 1 of 2 answered (no answer); expected reachable with at most 12.5 % loss",
        ),
        (
            {"ttl": 2, "expect": "expired", "reporter": REPORTER},
            (OTHER,),
            "host -> 10.0.2.2 icmp ttl 2: unreachable, 0 of 1 answered (time exceeded (from 10.0.0.10)); expected expired at 10.0.0.1",
        ),
    ],
)
def test_the_line_for_what_was_not_as_expected(options, outcomes, text):
    wanted = probe(**options)
    assert _probe.problem(wanted, _probe.judge(wanted, shots(*outcomes))) == text


def outcome(*outcomes, **options):
    wanted = probe(**options)
    return _probe.Outcome(wanted, _probe.judge(wanted, shots(*outcomes)), 1, 0.0, 1.0)


def test_the_summary_is_one_line_with_each_failure():
    assert _probe.summary([]) == ""
    assert _probe.summary([outcome(0.1)]) == ""
    assert _probe.summary([outcome("x")]) == _probe.problem(probe(), _probe.judge(probe(), shots("x")))
    text = _probe.summary([outcome("x", netns="a"), outcome(0.1, netns="b"), outcome("x", netns="c")])
    assert text.startswith("2 of 3 probes were not as expected: netns a -> ")
    assert " | netns c -> " in text and "netns b" not in text and "\n" not in text


def test_a_result_has_the_documented_fields():
    assert outcome(0.001, "x", netns="a").result() == {
        "netns": "a",
        "destination": "10.0.2.2",
        "protocol": "icmp",
        "port": None,
        "sent": 2,
        "received": 1,
        "loss": 50.0,
        "rtt_min": 1.0,
        "rtt_avg": 1.0,
        "rtt_max": 1.0,
        "reachable": False,
        "expected": False,
        "reason": "x",
        "attempts": 1,
    }
