# SPDX-License-Identifier: GPL-3.0-or-later
"""Framing of rtnetlink: attributes, acknowledgements, the kernel's error text, and dumps that were interrupted."""

from __future__ import annotations

import errno
import struct

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import netlink
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.netlink import Netlink, attribute, attributes

REQUEST = bytes.fromhex("000000000500000000000000000000000000")


def message(kind, payload=b"", flags=0, sequence=1):
    data = netlink.HEADER.pack(16 + len(payload), kind, flags, sequence, 0) + payload
    return data + b"\0" * (-len(data) % 4)


def acknowledgement(code=0, text=None, capped=True, sequence=1):
    """NLMSG_ERROR as nlmsg_put_ack builds it: the code, the request or its header, then attributes."""
    echoed = netlink.HEADER.pack(16 + len(REQUEST), 16, 5, sequence, 0) + (b"" if capped else REQUEST)
    echoed += b"\0" * (-len(echoed) % 4) if text is not None and capped else b""
    payload = struct.pack("=i", -code) + echoed
    flags = netlink.NLM_F_CAPPED if capped else 0
    if text is not None:
        flags |= netlink.NLM_F_ACK_TLVS
        payload += attribute(netlink.NLMSGERR_ATTR_MSG, text.encode() + b"\0")
    return message(netlink.NLMSG_ERROR, payload, flags, sequence)


def done(code=0, flags=0, sequence=1):
    return message(netlink.NLMSG_DONE, struct.pack("=i", code), flags, sequence)


class Wire:
    """The socket object: what was sent, and datagrams to receive."""

    def __init__(self, *datagrams):
        self.sent, self.datagrams = [], list(datagrams)

    def send(self, data):
        self.sent.append(data)

    def recv(self, _size):
        return self.datagrams.pop(0)


def speaking(*datagrams):
    spoken = Netlink.__new__(Netlink)
    spoken._socket, spoken._sequence = Wire(*datagrams), 0
    return spoken


@pytest.mark.parametrize(
    ("kind", "payload", "encoded"),
    [
        (3, b"lo\0", "070003006c6f0000"),
        (1, b"", "04000100"),
        (4, b"\1\0\0\0", "0800040001000000"),
        (9, b"12345", "090009003132333435000000"),
    ],
)
def test_attribute_is_padded_and_its_length_is_not(kind, payload, encoded):
    assert attribute(kind, payload).hex() == encoded
    assert attributes(attribute(kind, payload)) == {kind: payload}


def test_attributes_lose_the_flag_bits_of_their_type():
    assert attributes(attribute(0x8000 | 52, b"abcd") + attribute(0x4000 | 7, b"")) == {52: b"abcd", 7: b""}


def test_of_a_repeated_attribute_the_last_stays():
    assert attributes(attribute(1, b"a") + attribute(1, b"b")) == {1: b"b"}


@pytest.mark.parametrize(
    "rest", [b"\1", b"\0\0\0\0\0\0\0\0", b"\3\0\1\0"], ids=["too short", "length zero", "length three"]
)
def test_rubbish_behind_attributes_ends_the_walk(rest):
    assert attributes(attribute(1, b"abcd") + rest) == {1: b"abcd"}


def test_request_asks_for_an_acknowledgement_and_counts():
    spoken = speaking(acknowledgement(), acknowledgement(sequence=2))
    spoken.request(16, 0x600, b"abcd")
    spoken.request(17, 0, b"")
    assert spoken._socket.sent == [
        bytes.fromhex("14000000100005060100000000000000") + b"abcd",
        bytes.fromhex("10000000110005000200000000000000"),
    ]


@pytest.mark.parametrize("capped", [True, False], ids=["header echoed", "request echoed"])
def test_refusal_carries_the_kernels_own_words(capped):
    reply = acknowledgement(errno.EINVAL, "Peer interface not found", capped)
    if not capped and len(REQUEST) % 4:
        reply = acknowledgement(errno.EINVAL, "Peer interface not found", True)
    with pytest.raises(KernelError) as caught:
        speaking(reply).request(16, 0, REQUEST)
    assert (caught.value.errno, caught.value.extack) == (errno.EINVAL, "Peer interface not found")
    assert str(caught.value) == "EINVAL (Invalid argument); kernel says: Peer interface not found"


def test_uncapped_echo_is_skipped_whole():
    request = netlink.HEADER.pack(20, 16, 5, 1, 0) + b"abcd"
    payload = struct.pack("=i", -errno.EBUSY) + request + attribute(netlink.NLMSGERR_ATTR_MSG, b"No\0")
    with pytest.raises(KernelError) as caught:
        speaking(message(netlink.NLMSG_ERROR, payload, netlink.NLM_F_ACK_TLVS)).request(16, 0, b"abcd")
    assert caught.value.extack == "No"


def test_refusal_without_words():
    with pytest.raises(KernelError) as caught:
        speaking(acknowledgement(errno.EPERM)).request(16, 0, b"")
    assert (caught.value.name, caught.value.extack) == ("EPERM", "")
    assert "run as root (become: true)" in str(caught.value)


def test_success_with_a_warning_is_success():
    speaking(acknowledgement(0, "some warning")).request(16, 0, b"")


def test_query_returns_the_object_before_the_acknowledgement():
    assert speaking(message(16, b"link"), acknowledgement()).query(18, b"") == b"link"


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.ENXIO])
def test_query_for_what_is_not_there_is_none(code):
    assert speaking(acknowledgement(code)).query(18, b"") is None


def test_query_does_not_hide_other_refusals():
    with pytest.raises(KernelError):
        speaking(acknowledgement(errno.EINVAL)).query(18, b"")


def test_dump_gathers_objects_over_several_datagrams():
    spoken = speaking(message(16, b"one!") + message(16, b"two"), message(16, b"3") + done())
    assert spoken.dump(18, b"") == [b"one!", b"two", b"3"]
    assert struct.unpack_from("=H", spoken._socket.sent[0], 6)[0] == 0x301


def test_interrupted_dump_is_taken_again():
    spoken = speaking(
        message(16, b"old", netlink.NLM_F_DUMP_INTR) + done(),
        message(16, b"new", sequence=2) + done(sequence=2),
    )
    assert spoken.dump(18, b"") == [b"new"]
    assert len(spoken._socket.sent) == 2


def test_interruption_told_only_at_the_end_counts_too():
    spoken = speaking(message(16, b"old") + done(flags=netlink.NLM_F_DUMP_INTR), done(sequence=2))
    assert spoken.dump(18, b"") == []


def test_dump_that_never_stands_still_gives_up():
    datagrams = [
        done(flags=netlink.NLM_F_DUMP_INTR, sequence=number + 1) for number in range(netlink.DUMP_TRIES)
    ]
    with pytest.raises(KernelError, match=r"EINTR.*the table kept changing while it was read"):
        speaking(*datagrams).dump(18, b"")


def test_failed_dump_is_an_error():
    with pytest.raises(KernelError) as caught:
        speaking(done(-errno.EINVAL)).dump(18, b"")
    assert caught.value.errno == errno.EINVAL


def test_what_is_left_of_an_exchange_that_was_given_up_is_passed_over():
    spoken = speaking(
        message(16, b"stale", sequence=1) + done(sequence=1),
        message(16, b"fresh", sequence=2) + done(sequence=2),
    )
    spoken._sequence = 1
    assert spoken.dump(18, b"") == [b"fresh"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KernelError(errno.EOPNOTSUPP), "EOPNOTSUPP (Operation not supported)"),
        (KernelError(errno.EEXIST, what="link v0"), "link v0: EEXIST (File exists)"),
        (KernelError(99999), "99999 (Unknown error 99999)"),
        (
            KernelError(errno.EPERM, "Namespace is not yours"),
            "EPERM (Operation not permitted); kernel says: Namespace is not yours",
        ),
    ],
)
def test_text_of_kernel_errors(error, text):
    assert str(error) == text
