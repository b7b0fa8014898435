# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One rtnetlink socket: send requests and wait for their acknowledgement, dump tables.

Messages are encoded by pyroute2 (see ``messages``) and carried here, because a plain socket behaves the same under every
pyroute2, keeps the kernel's extended ACK text, costs one file descriptor per namespace instead of four, and never
returns a dump that was cut short by an overflow as if it were whole. Source of layouts: linux/netlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import typing as t

from .._errors import KernelError

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP_FILTERED = 0x20
NLM_F_DUMP = 0x300
NLM_F_ACK_TLVS = 0x200
NLM_F_CAPPED = 0x100

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
NLMSGERR_ATTR_MSG = 1

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # length with header, type
ERROR = struct.Struct("=i")
NESTED_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

RECEIVE_BYTES = 1 << 17
DUMP_TRIES = 10

Attributes = t.Dict[int, bytes]


def attributes(data: bytes, offset: int = 0) -> Attributes:
    """Split a run of netlink attributes into {type: payload}; of a repeated type the last one stays."""
    found: Attributes = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & NESTED_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, payload: bytes) -> bytes:
    """One encoded attribute, padded to four bytes."""
    length = 4 + len(payload)
    return ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def _extack(message: bytes, flags: int) -> str:
    """The text that the kernel attached to an error message, or an empty string."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    offset = HEADER.size + ERROR.size
    # With NLM_F_CAPPED only the request's header is echoed, otherwise all of it.
    offset += HEADER.size if flags & NLM_F_CAPPED else HEADER.unpack_from(message, offset)[0]
    text = attributes(message, offset).get(NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode("utf-8", "replace")


class Netlink:
    """A socket in the network namespace that is current when it is made; it stays there whoever uses it later."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, payload: bytes) -> None:
        """Send one request and wait for the kernel's acknowledgement.

        ``payload`` is everything behind the netlink header. Raises KernelError with errno and the kernel's text.
        """
        for _message in self._exchange(kind, flags | NLM_F_ACK, payload):
            pass

    def query(self, kind: int, payload: bytes) -> t.Optional[bytes]:
        """The payload of the single object asked for; None when there is none (ENODEV, ENOENT, ESRCH)."""
        reply = None
        try:
            for message in self._exchange(kind, NLM_F_ACK, payload):
                reply = message
        except KernelError as problem:
            if problem.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.ENXIO):
                return None
            raise
        return reply

    def dump(self, kind: int, payload: bytes) -> t.List[bytes]:
        """All objects of a kind, as payloads behind the netlink header, in the kernel's order.

        A dump that the kernel marks as interrupted by a change is taken again, so that the answer is one consistent state.
        """
        for _attempt in range(DUMP_TRIES):
            try:
                return list(self._exchange(kind, NLM_F_DUMP, payload))
            except _DumpInterrupted:
                continue
        raise KernelError(errno.EINTR, "the table kept changing while it was read", "netlink dump")

    def _exchange(self, kind: int, flags: int, payload: bytes) -> t.Iterator[bytes]:
        self._sequence += 1
        sequence = self._sequence
        self._socket.send(
            HEADER.pack(HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, sequence, 0) + payload
        )
        interrupted = False
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            offset = 0
            while offset < len(data):
                length, message_kind, message_flags, message_sequence, _port = HEADER.unpack_from(
                    data, offset
                )
                start, offset = offset, offset + ((length + 3) & ~3)
                if message_sequence != sequence:
                    continue  # the rest of an exchange that its caller gave up
                interrupted = interrupted or bool(message_flags & NLM_F_DUMP_INTR)
                if message_kind in (NLMSG_ERROR, NLMSG_DONE):
                    message = data[start : start + length]
                    code = (
                        ERROR.unpack_from(message, HEADER.size)[0]
                        if length >= HEADER.size + ERROR.size
                        else 0
                    )
                    if code:
                        raise KernelError(
                            -code, _extack(message, message_flags) if message_kind == NLMSG_ERROR else ""
                        )
                    if interrupted:
                        raise _DumpInterrupted()
                    return
                yield data[start + HEADER.size : start + length]


class _DumpInterrupted(Exception):
    """The table changed while it was dumped."""
