# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""ICMP, TCP and UDP probes from network namespaces: many at once, in one thread and one poll loop.

A socket keeps the namespace in which it was made, so each is opened inside its namespace and all are served together.
ICMP errors are read from the sockets' error queues (IP_RECVERR), which name who sent the error and carry the packet
that caused it. The upper part of this file is pure; the lower part speaks to the kernel. Times are seconds of the
monotonic clock, except round trips in results, which are milliseconds.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import os
import select
import socket
import struct
import time
import typing as t

from ._errors import KernelError, SpecError, UnsupportedError
from ._kernel import namespaces
from ._resources import _fields

MAX_SOCKETS = 256  # a quarter of the usual limit of 1,024 descriptors; what has no socket yet waits for one
RETRY_PAUSE = 0.1  # seconds between two attempts while waiting
REPORT_PAUSE = 1.0  # as long as Linux takes for the next report to one host (icmp_ratelimit)
SIZE_MAX = 65507  # 65,535 bytes of an IPv4 packet without its header and the 8 bytes of ICMP or UDP
TOKEN_BYTES = 8
NO_ANSWER = "no answer"

# linux/in.h, in6.h, icmp.h, icmpv6.h, errqueue.h; Python has names for them only in newer releases
IP_RECVERR, IPV6_RECVERR = 11, 25
SOL_IP, SOL_IPV6, SOL_RAW, SOL_ICMPV6 = 0, 41, 255, 58
ICMP_FILTER = ICMPV6_FILTER = 1
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
ORIGIN_ICMP, ORIGIN_ICMP6 = 2, 3
EXTENDED_ERROR = struct.Struct("=IBBBxII")  # struct sock_extended_err, followed by the offender's sockaddr

PROBE_SPEC: t.Dict[str, t.Any] = {
    "netns": {"type": "str"},
    "destination": {"type": "str"},
    "protocol": {"type": "str", "choices": ["icmp", "tcp", "udp"]},
    "port": {"type": "int"},
    "source": {"type": "str"},
    "dev": {"type": "str"},
    "count": {"type": "int"},
    "interval": {"type": "float"},
    "timeout": {"type": "float"},
    "size": {"type": "int"},
    "ttl": {"type": "int"},
    "expect": {"type": "str", "choices": ["reachable", "unreachable", "expired"]},
    "reporter": {"type": "str"},
    "max_loss": {"type": "float"},
    "wait": {"type": "float"},
}
DEFAULTS: t.Dict[str, t.Any] = {
    "protocol": "icmp",
    "count": 3,
    "interval": 0.1,
    "timeout": 1.0,
    "size": 56,
    "expect": "reachable",
    "max_loss": 0.0,
    "wait": 0.0,
}
ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    **{
        name: {**spec, "default": DEFAULTS[name]} if name in DEFAULTS else spec
        for name, spec in PROBE_SPEC.items()
    },
    "probes": {
        "type": "list",
        "elements": "dict",
        "options": {**PROBE_SPEC, "destination": {"type": "str", "required": True}},
    },
}


# --- the input: pure ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Probe:
    """What to send, how often, and what shall come of it. ``path`` is the place in the input ('' or ``probes[N].``)."""

    destination: _fields.Address
    protocol: str = "icmp"
    port: t.Optional[int] = None
    netns: str = ""
    source: t.Optional[_fields.Address] = None
    dev: str = ""
    count: int = 3
    interval: float = 0.1
    timeout: float = 1.0
    size: int = 56
    ttl: t.Optional[int] = None
    expect: str = "reachable"
    reporter: t.Optional[_fields.Address] = None
    max_loss: float = 0.0
    wait: float = 0.0
    path: str = ""

    @property
    def family(self) -> int:
        return _fields.family_of(self.destination.version)

    @property
    def origin(self) -> str:
        return f"netns {self.netns}" if self.netns else "host"

    @property
    def label(self) -> str:
        port = f" port {self.port}" if self.port is not None else ""
        ttl = f" ttl {self.ttl}" if self.ttl is not None else ""
        return f"{self.origin} -> {self.destination} {self.protocol}{port}{ttl}"


def parse(params: t.Mapping[str, t.Any]) -> t.List[Probe]:
    """The probes of one task; what an entry of ``probes`` leaves out is taken from the task itself."""
    if params.get("probes") is None:
        return [_parse_one(params, params, "")]
    return [_parse_one(item, params, f"probes[{number}].") for number, item in enumerate(params["probes"])]


def _parse_one(item: t.Mapping[str, t.Any], task: t.Mapping[str, t.Any], path: str) -> Probe:
    given = {name: value for name, value in item.items() if name in PROBE_SPEC and value is not None}
    common = {name: value for name, value in task.items() if name in PROBE_SPEC and value is not None}
    every = {**DEFAULTS, **common, **given}
    destination = _destination(every.get("destination"), every.get("dev"), path)
    return Probe(
        destination=destination,
        protocol=every["protocol"],
        port=_port(every["protocol"], given.get("port"), common.get("port"), path),
        netns=_fields.netns(every.get("netns"), f"{path}netns"),
        source=_same_family(every.get("source"), destination, f"{path}source"),
        dev=_fields.ifname(every["dev"], f"{path}dev") if every.get("dev") else "",
        count=int(_number(every, "count", 1, 1000, path)),
        interval=_number(every, "interval", 0, 3600, path, " seconds"),
        timeout=_number(every, "timeout", 0.001, 3600, path, " seconds"),
        size=int(_number(every, "size", 0, SIZE_MAX, path, " bytes")),
        ttl=None if every.get("ttl") is None else int(_number(every, "ttl", 1, 255, path)),
        expect=every["expect"],
        reporter=_reporter(every["expect"], given.get("reporter"), common.get("reporter"), destination, path),
        max_loss=_number(every, "max_loss", 0, 100, path, " percent"),
        wait=_number(every, "wait", 0, 86400, path, " seconds"),
        path=path,
    )


def scope_of(address: _fields.Address) -> str:
    return getattr(address, "scope_id", None) or ""


def _destination(text: t.Any, dev: t.Optional[str], path: str) -> _fields.Address:
    path = f"{path}destination"
    if text in (None, ""):
        raise SpecError(path, "missing; it is required")
    address = _fields.address(text, path, scoped=True)
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise SpecError(path, f"{text} is not the address of one host")
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped:
        raise SpecError(path, f"{text} is an IPv4 address in IPv6 form; give {mapped}")
    if scope_of(address) and not address.is_link_local:
        raise SpecError(
            path, f"{text} has a scope, which only link-local addresses have; use dev to choose the device"
        )
    if address.version == 6 and address.is_link_local and not scope_of(address) and not dev:
        raise SpecError(path, f"{text} is link-local: name the device, as {text}%eth0 or with dev")
    return address


def _same_family(
    text: t.Optional[str], destination: _fields.Address, path: str
) -> t.Optional[_fields.Address]:
    if not text:
        return None
    address = _fields.address(text, path, scoped=True)
    if address.version != destination.version:
        raise SpecError(
            path,
            f"{text} is IPv{address.version}, but the destination is IPv{destination.version}",
        )
    return address


def _reporter(
    expect: str, given: t.Optional[str], common: t.Optional[str], destination: _fields.Address, path: str
) -> t.Optional[_fields.Address]:
    """Who shall report; one inherited from the task is nothing to a probe that shall not expire, one given with it is a mistake."""
    path = f"{path}reporter"
    if expect != "expired":
        if given:
            raise SpecError(path, f"{expect} has none; set expect to expired, or leave it out")
        return None
    text = given or common
    if text and "%" in text:
        raise SpecError(path, f"{text}: reports do not tell by which device they came; leave out the scope")
    return _same_family(text, destination, path)


def _port(protocol: str, given: t.Optional[int], common: t.Optional[int], path: str) -> t.Optional[int]:
    """The port to use; one inherited from the task is nothing to an ICMP probe, one given with it is a mistake."""
    path = f"{path}port"
    if protocol == "icmp":
        if given is not None:
            raise SpecError(path, "icmp has no ports; set protocol to tcp or udp, or leave port out")
        return None
    port = common if given is None else given
    if port is None:
        raise SpecError(path, f"missing; {protocol} needs one")
    return _fields.whole(port, 1, 65535, path)


def _number(
    values: t.Mapping[str, t.Any], name: str, lowest: float, highest: float, path: str, unit: str = ""
) -> float:
    value: float = values[name]
    if not lowest <= value <= highest:  # written so that NaN fails
        raise SpecError(f"{path}{name}", f"{value} is out of range; give {lowest} to {highest}{unit}")
    return value


# --- packets: pure --------------------------------------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 over data that contains its own right checksum."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def payload(token: bytes, sequence: int, size: int) -> bytes:
    """``size`` bytes that begin with the token and the sequence number, as far as they fit."""
    start = token + struct.pack("!H", sequence)
    return (start + bytes(number & 0xFF for number in range(len(start), size)))[:size]


def echo_request(version: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """An ICMP echo request; the checksum of ICMPv6 is left to the kernel, which knows the addresses it covers."""
    header = struct.pack("!BBHHH", ECHO_REQUEST[version], 0, 0, identifier, sequence)
    if version == 6:
        return header + data
    total = checksum(header + data)
    return struct.pack("!BBHHH", ECHO_REQUEST[version], 0, total, identifier, sequence) + data


def without_ip_header(packet: bytes) -> bytes:
    """An IPv4 raw socket delivers the header and its options too."""
    return packet[(packet[0] & 0x0F) * 4 :] if packet else b""


def echo_sequence(message: bytes, kind: int, identifier: int, token: bytes) -> t.Optional[int]:
    """The sequence number of an echo message of ours, else None.

    An ICMP error may quote as little as 8 bytes of it (RFC 792), so as much of the token is compared as is there.
    """
    if len(message) < 8:
        return None
    found, code, _checksum, number, sequence = struct.unpack("!BBHHH", message[:8])
    quoted = message[8 : 8 + len(token)]
    if (found, code, number) != (kind, 0, identifier) or quoted != token[: len(quoted)]:
        return None
    return int(sequence)


def reply_sequence(version: int, packet: bytes, identifier: int, data: bytes) -> t.Optional[int]:
    """The sequence number that a packet from a raw socket answers, else None. ``data``: the leading bytes we sent."""
    message = without_ip_header(packet) if version == 4 else packet
    if version == 4 and checksum(message) != 0:
        return None  # raw sockets get IPv4 packets before the kernel has checked them
    if message[8 : 8 + len(data)] != data:
        return None
    return echo_sequence(message, ECHO_REPLY[version], identifier, data)


def datagram_sequence(data: bytes, token: bytes) -> t.Optional[int]:
    """The sequence number in a datagram that repeats what we sent, else None: a server may answer anything."""
    if len(data) < len(token) + 2 or data[: len(token)] != token:
        return None
    return int(struct.unpack_from("!H", data, len(token))[0])


# --- reasons: pure --------------------------------------------------------------------------------------------------------

_UNREACHABLE = {
    4: {
        0: "no route",
        1: "host unreachable",
        2: "protocol unreachable",
        4: "fragmentation needed",
        5: "source route failed",
        6: "network unknown",
        7: "host unknown",
        9: "prohibited",
        10: "prohibited",
        13: "prohibited",
    },
    6: {
        0: "no route",
        1: "prohibited",
        2: "beyond the scope of the source address",
        3: "host unreachable",
        5: "source address refused",
        6: "rejected by a route",
    },
}
_UNREACHABLE_TYPE = {4: 3, 6: 1}
_PORT_CODE = {4: 3, 6: 4}
EXPIRED = "time exceeded"
_OTHER_TYPES = {
    4: {11: EXPIRED, 12: "parameter problem"},
    6: {2: "packet too big", 3: EXPIRED, 4: "parameter problem"},
}
_LOCAL = {
    errno.ENETUNREACH: "destination unreachable: no route (from this host)",
    errno.EHOSTUNREACH: "destination unreachable: host unreachable (from this host)",
    errno.EACCES: "destination unreachable: prohibited by a route, or a broadcast address (from this host)",
    errno.EINVAL: "destination unreachable: blackhole route, or a source that cannot go there (from this host)",
    errno.EADDRNOTAVAIL: "no usable source address (on this host)",
    errno.EPERM: "dropped by the packet filter of this host",
    errno.ECONNREFUSED: "connection refused",
    errno.ETIMEDOUT: NO_ANSWER,
}


def local_reason(number: int) -> str:
    """What an errno of connect(2) or send(2) says about the way to the destination."""
    return _LOCAL.get(number) or f"{os.strerror(number).lower()} (on this host)"


def icmp_reason(version: int, kind: int, code: int, offender: str, destination: str) -> str:
    """An ICMP error in words, with who sent it."""
    suffix = _reported_by(offender) if offender else ""
    if kind == _UNREACHABLE_TYPE[version]:
        if code == _PORT_CODE[version]:
            return "port unreachable" + ("" if offender == destination else suffix)
        return f"destination unreachable: {_UNREACHABLE[version].get(code, f'code {code}')}{suffix}"
    return _OTHER_TYPES[version].get(kind, f"ICMP type {kind} code {code}") + suffix


def _reported_by(address: str) -> str:
    return f" (from {address})"


def extended_reason(data: bytes, destination: str) -> str:
    """The reason in an IP_RECVERR or IPV6_RECVERR control message: struct sock_extended_err and a sockaddr."""
    number, origin, kind, code, _info, _data = EXTENDED_ERROR.unpack_from(data)
    if origin not in (ORIGIN_ICMP, ORIGIN_ICMP6):
        return local_reason(number)
    offender = _offender(data[EXTENDED_ERROR.size :])
    return icmp_reason(4 if origin == ORIGIN_ICMP else 6, kind, code, offender, destination)


def _offender(sockaddr: bytes) -> str:
    family = struct.unpack_from("=H", sockaddr)[0] if len(sockaddr) >= 2 else 0
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return socket.inet_ntop(socket.AF_INET, sockaddr[4:8])
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24])
    return ""


# --- judging: pure --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Shot:
    """One packet or handshake: when it left, and its round trip (seconds) or the reason why there is none."""

    sent_at: float
    rtt: t.Optional[float] = None
    reason: str = ""
    over: bool = False

    def answered(self, now: float) -> None:
        if not self.over:
            self.rtt, self.over = now - self.sent_at, True

    def lost(self, reason: str) -> None:
        """An error that comes after the timeout still tells why."""
        if self.rtt is None and (not self.over or self.reason == NO_ANSWER):
            self.reason, self.over = reason, True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an attempt measured and what it means. Loss is in percent, round trips in milliseconds."""

    sent: int
    received: int
    loss: float
    rtt_min: t.Optional[float]
    rtt_avg: t.Optional[float]
    rtt_max: t.Optional[float]
    reachable: bool
    expected: bool
    reason: str


def judge(probe: Probe, shots: t.Sequence[Shot]) -> Verdict:
    """Reachable needs an answer and no more loss than allowed; unreachable is as expected only if nothing answered.

    Expired is what nothing answered, and a router reported so, of all packets but the loss that is allowed.
    """
    times = [shot.rtt * 1000 for shot in shots if shot.rtt is not None]
    loss = 100.0 * (len(shots) - len(times)) / len(shots)
    reachable = bool(times) and loss <= probe.max_loss
    return Verdict(
        sent=len(shots),
        received=len(times),
        loss=round(loss, 3),
        rtt_min=round(min(times), 3) if times else None,
        rtt_avg=round(sum(times) / len(times), 3) if times else None,
        rtt_max=round(max(times), 3) if times else None,
        reachable=reachable,
        expected=reachable if probe.expect == "reachable" else not times and _as_told(probe, shots),
        reason=_reasons(shots),
    )


def _as_told(probe: Probe, shots: t.Sequence[Shot]) -> bool:
    if probe.expect != "expired":
        return True
    told = EXPIRED + (_reported_by(str(probe.reporter)) if probe.reporter else "")
    silent = [shot for shot in shots if not shot.reason.startswith(told)]
    return len(silent) < len(shots) and 100.0 * len(silent) <= probe.max_loss * len(shots)


def _reasons(shots: t.Sequence[Shot]) -> str:
    """Every reason, the most frequent first; mere silence last, as hosts limit the rate of the errors they send."""
    counted = collections.Counter(shot.reason for shot in shots if shot.reason)
    return ", ".join(sorted(counted, key=lambda reason: (reason == NO_ANSWER, -counted[reason])))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A judged probe. ``started`` and ``finished`` show what ran at the same time."""

    probe: Probe
    verdict: Verdict
    attempts: int
    started: float
    finished: float

    def result(self) -> t.Dict[str, t.Any]:
        return {
            "netns": self.probe.netns,
            "destination": str(self.probe.destination),
            "protocol": self.probe.protocol,
            "port": self.probe.port,
            **dataclasses.asdict(self.verdict),
            "attempts": self.attempts,
        }


def problem(probe: Probe, verdict: Verdict) -> str:
    """The line for a probe that was not as expected."""
    state = "reachable" if verdict.reachable else "partly reachable" if verdict.received else "unreachable"
    reason = f" ({verdict.reason})" if verdict.reason else ""
    wanted = probe.expect
    if probe.reporter:
        wanted += f" at {probe.reporter}"
    if wanted == "reachable" and verdict.received:
        wanted += f" with at most {probe.max_loss:g} % loss"
    return f"{probe.label}: {state}, {verdict.received} of {verdict.sent} answered{reason}; expected {wanted}"


def summary(outcomes: t.Sequence[Outcome]) -> str:
    """One line that names each probe that was not as expected; empty when all were."""
    lines = [problem(outcome.probe, outcome.verdict) for outcome in outcomes if not outcome.verdict.expected]
    if len(outcomes) == 1 or not lines:
        return "".join(lines)
    return f"{len(lines)} of {len(outcomes)} probes were not as expected: {' | '.join(lines)}"


# --- sockets --------------------------------------------------------------------------------------------------------------


class _NotSent(Exception):
    """The kernel takes no packet for the destination now. ``mistake``: the error to raise if it stays so."""

    def __init__(self, reason: str, mistake: t.Optional[SpecError] = None) -> None:
        self.reason = reason
        self.mistake = mistake
        super().__init__(reason)


def _index_of(name: str, probe: Probe, option: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise SpecError(f"{probe.path}{option}", f"there is no device {name!r} in {probe.origin}") from None


def _sockaddr(address: _fields.Address, port: int, probe: Probe, option: str) -> t.Tuple[t.Any, ...]:
    if address.version == 4:
        return (str(address), port)
    name = scope_of(address) or (address.is_link_local and (probe.dev or scope_of(probe.destination))) or ""
    return (str(address).partition("%")[0], port, 0, _index_of(name, probe, option) if name else 0)


def _make(probe: Probe) -> socket.socket:
    try:
        if probe.protocol == "icmp":
            number = socket.IPPROTO_ICMP if probe.destination.version == 4 else socket.IPPROTO_ICMPV6
            return socket.socket(probe.family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, number)
        kind = socket.SOCK_STREAM if probe.protocol == "tcp" else socket.SOCK_DGRAM
        return socket.socket(probe.family, kind | socket.SOCK_NONBLOCK)
    except OSError as refusal:
        if refusal.errno in (errno.EPERM, errno.EACCES):
            raise UnsupportedError(
                f"{probe.label}: permission missing: CAP_NET_RAW; run as root (become: true)"
            ) from None
        raise KernelError(refusal.errno or 0, "", f"{probe.label}: socket") from refusal


def _configure(sock: socket.socket, probe: Probe) -> None:
    if probe.destination.version == 4:
        sock.setsockopt(SOL_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(SOL_IPV6, IPV6_RECVERR, 1)
    if probe.ttl is not None:
        if probe.destination.version == 4:
            sock.setsockopt(SOL_IP, socket.IP_TTL, probe.ttl)
        else:
            sock.setsockopt(SOL_IPV6, socket.IPV6_UNICAST_HOPS, probe.ttl)
    if probe.protocol == "icmp":  # blocked types are set bits: all but the reply
        if probe.destination.version == 4:
            sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF ^ 1 << ECHO_REPLY[4]))
        else:
            blocked = (1 << 256) - 1 ^ 1 << ECHO_REPLY[6]
            words = [blocked >> 32 * number & 0xFFFFFFFF for number in range(8)]
            sock.setsockopt(SOL_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *words))
    if probe.dev:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, probe.dev.encode() + b"\0")
        except OSError as refusal:
            if refusal.errno == errno.ENODEV:
                raise SpecError(
                    f"{probe.path}dev", f"there is no device {probe.dev!r} in {probe.origin}"
                ) from None
            raise KernelError(refusal.errno or 0, "", f"{probe.label}: bind to {probe.dev}") from refusal


def _bind(sock: socket.socket, probe: Probe) -> None:
    if probe.source is None:
        return
    try:
        sock.bind(_sockaddr(probe.source, 0, probe, "source"))
    except OSError as refusal:
        text = f"{probe.source} is no usable address of {probe.origin}"
        if refusal.errno == errno.EADDRNOTAVAIL and probe.destination.version == 6:
            text += "; if it is new, give it time for duplicate address detection with wait"
        raise _NotSent(local_reason(refusal.errno or 0), SpecError(f"{probe.path}source", text)) from None


def open_socket(probe: Probe) -> t.Tuple[socket.socket, t.Tuple[t.Any, ...]]:
    """A socket made in the namespace of the probe, and the address there to connect it to. Raises _NotSent."""
    with namespaces.entered(probe.netns):
        sock = _make(probe)
        try:
            _configure(sock, probe)
            _bind(sock, probe)
            return sock, _sockaddr(probe.destination, probe.port or 0, probe, "destination")
        except BaseException:
            sock.close()
            raise


def _connect(sock: socket.socket, address: t.Tuple[t.Any, ...]) -> None:
    number = sock.connect_ex(address)
    if number not in (0, errno.EINPROGRESS):
        raise _NotSent(local_reason(number))


def _errors(sock: socket.socket, destination: str) -> t.Iterator[t.Tuple[bytes, str]]:
    """(the quoted packet from its transport header or payload on, reason) of each error in the socket's queue."""
    while True:
        try:
            quoted, control, _flags, _address = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
        except OSError:
            break
        for level, kind, data in control:
            if (level, kind) in ((SOL_IP, IP_RECVERR), (SOL_IPV6, IPV6_RECVERR)):
                yield quoted, extended_reason(data, destination)


def _received(sock: socket.socket) -> t.Iterator[bytes]:
    while True:
        try:
            yield sock.recv(65536)
        except OSError:
            return


class _Poller:
    """Every open socket with the function to call when something has happened to it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._entries: t.Dict[int, t.Tuple[socket.socket, t.Callable[[], None]]] = {}

    @property
    def has_room(self) -> bool:
        return len(self._entries) < MAX_SOCKETS

    def add(self, sock: socket.socket, events: int, call: t.Callable[[], None]) -> None:
        self._entries[sock.fileno()] = (sock, call)
        self._poll.register(sock, events)

    def close(self, sock: socket.socket) -> None:
        if self._entries.pop(sock.fileno(), None):
            self._poll.unregister(sock)
        sock.close()

    def close_all(self) -> None:
        for sock, _call in list(self._entries.values()):
            self.close(sock)

    def wait(self, seconds: float) -> None:
        """Sleep until something happens, at most so long, and make the calls."""
        for number, _events in self._poll.poll(min(max(0.0, seconds), 60.0) * 1000):
            if number in self._entries:
                self._entries[number][1]()


# --- one attempt: ``count`` shots of one probe ------------------------------------------------------------------------------


class _Attempt:
    """Shots leave ``interval`` apart whether or not earlier ones were answered, each with its own timeout."""

    def __init__(self, probe: Probe, poller: _Poller) -> None:
        self.probe = probe
        self.poller = poller
        self.shots: t.List[Shot] = []
        self.mistake: t.Optional[SpecError] = None
        self._target = str(probe.destination).partition("%")[0]

    @property
    def finished(self) -> bool:
        return len(self.shots) == self.probe.count and all(shot.over for shot in self.shots)

    def _next_shot(self) -> float:
        """When the next shot may leave: never if there is none left, or while it would need a socket too many."""
        if len(self.shots) == self.probe.count or not self.can_fire():
            return float("inf")
        return self.shots[-1].sent_at + self.probe.interval if self.shots else 0.0

    def due(self) -> float:
        """When there is something to do even if no socket stirs."""
        times = [shot.sent_at + self.probe.timeout for shot in self.shots if not shot.over]
        return min((*times[:1], self._next_shot()))

    def step(self, now: float) -> None:
        """Give up what had its time, and send what is due."""
        for number, shot in enumerate(self.shots):
            if not shot.over and now >= shot.sent_at + self.probe.timeout:
                self.lose(number, NO_ANSWER)
        while now >= self._next_shot():
            self.shots.append(Shot(time.monotonic()))
            try:
                self.fire(len(self.shots) - 1)
            except _NotSent as refusal:
                self.lose(len(self.shots) - 1, refusal.reason)
                self.mistake = refusal.mistake or self.mistake

    def lose(self, number: int, reason: str) -> None:
        self.shots[number].lost(reason)

    def can_fire(self) -> bool:
        return self.poller.has_room

    def fire(self, number: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Echo(_Attempt):
    """ICMP and UDP: one connected socket for all shots. Being connected it gets packets of the destination only."""

    def __init__(self, probe: Probe, poller: _Poller) -> None:
        super().__init__(probe, poller)
        self._sock: t.Optional[socket.socket] = None
        self._token = os.urandom(TOKEN_BYTES)
        self._identifier = int.from_bytes(os.urandom(2), "big")

    def can_fire(self) -> bool:
        return self._sock is not None or self.poller.has_room

    def _open(self) -> socket.socket:
        if self._sock is None:
            sock, address = open_socket(self.probe)
            try:
                _connect(sock, address)
            except _NotSent:
                sock.close()
                raise
            self.poller.add(sock, select.POLLIN, self._ready)
            self._sock = sock
        return self._sock

    def fire(self, number: int) -> None:
        sock = self._open()
        message = payload(self._token, number, self.probe.size)
        if self.probe.protocol == "icmp":
            message = echo_request(self.probe.destination.version, self._identifier, number, message)
        self._read_errors(sock)
        self.shots[number].sent_at = time.monotonic()
        try:
            try:
                sock.send(message)
            except OSError:  # may be the pending error of an earlier shot, which is cleared by reading it
                self._read_errors(sock)
                sock.send(message)
        except OSError as refusal:
            raise _NotSent(local_reason(refusal.errno or 0)) from None

    def _ready(self) -> None:
        if self._sock is None:
            return
        now = time.monotonic()
        for packet in _received(self._sock):
            number = self._answered_by(packet)
            if number is not None and number < len(self.shots):
                self.shots[number].answered(now)
        self._read_errors(self._sock)

    def _answered_by(self, packet: bytes) -> t.Optional[int]:
        if self.probe.protocol == "icmp":
            start = self._token[: self.probe.size]
            return reply_sequence(self.probe.destination.version, packet, self._identifier, start)
        number = datagram_sequence(packet, self._token)
        return self._oldest() if number is None else number

    def _read_errors(self, sock: socket.socket) -> None:
        for quoted, reason in _errors(sock, self._target):
            number = self._caused_by(quoted)
            if number is not None and number < len(self.shots):
                self.lose(number, reason)
        # Reading clears the pending error too, which would else be that of the next send.
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _caused_by(self, quoted: bytes) -> t.Optional[int]:
        """The shot that an error quotes; a raw socket gets the errors of other programs' pings too."""
        if self.probe.protocol == "icmp":
            kind = ECHO_REQUEST[self.probe.destination.version]
            return echo_sequence(quoted, kind, self._identifier, self._token[: self.probe.size])
        number = datagram_sequence(quoted, self._token)
        return self._oldest() if number is None else number

    def _oldest(self) -> t.Optional[int]:
        return next((number for number, shot in enumerate(self.shots) if not shot.over), None)

    def close(self) -> None:
        if self._sock is not None:
            self.poller.close(self._sock)
            self._sock = None


class _Handshake(_Attempt):
    """TCP: a connection for each shot, closed as soon as it stands."""

    def __init__(self, probe: Probe, poller: _Poller) -> None:
        super().__init__(probe, poller)
        self._socks: t.Dict[int, socket.socket] = {}

    def fire(self, number: int) -> None:
        sock, address = open_socket(self.probe)
        self._socks[number] = sock
        self.poller.add(sock, select.POLLOUT, lambda: self._ready(number))
        self.shots[number].sent_at = time.monotonic()
        _connect(sock, address)

    def _ready(self, number: int) -> None:
        now = time.monotonic()
        sock = self._socks[number]
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        reasons = [reason for _quoted, reason in _errors(sock, self._target)]
        if code in (errno.ECONNRESET, errno.EPIPE) or (code == 0 and self._is_connected(sock)):
            self.shots[number].answered(now)  # these errors come after a handshake only
            self._drop(number)
        else:
            self.lose(number, reasons[-1] if reasons else local_reason(code or errno.ECONNREFUSED))

    def _is_connected(self, sock: socket.socket) -> bool:
        """Whether the handshake is done.

        A connection to an own address can take the very port it connects to and answer itself; nothing listens then.
        """
        try:
            peer = sock.getpeername()
        except OSError:
            return False
        return bool(peer != sock.getsockname())

    def lose(self, number: int, reason: str) -> None:
        super().lose(number, reason)
        self._drop(number)

    def _drop(self, number: int) -> None:
        sock = self._socks.pop(number, None)
        if sock is not None:
            self.poller.close(sock)

    def close(self) -> None:
        for number in list(self._socks):
            self._drop(number)


# --- running --------------------------------------------------------------------------------------------------------------


class _Task:
    """One probe until it is judged: attempts are repeated until one is as expected or ``wait`` is over."""

    def __init__(self, probe: Probe, poller: _Poller) -> None:
        self.probe = probe
        self.outcome: t.Optional[Outcome] = None
        self._poller = poller
        self._attempt: t.Optional[_Attempt] = None
        self._attempts = 0
        self._begun: t.Optional[float] = None
        self._resume_at = 0.0

    def due(self) -> float:
        return self._resume_at if self._attempt is None else self._attempt.due()

    def step(self, now: float) -> None:
        if self._attempt is None:
            if now < self._resume_at:
                return
            self._attempt = (_Handshake if self.probe.protocol == "tcp" else _Echo)(self.probe, self._poller)
            self._attempts += 1
        self._attempt.step(now)
        if self._begun is None and self._attempt.shots:
            self._begun = self._attempt.shots[0].sent_at
        if self._attempt.finished:
            self._end(self._attempt, time.monotonic())

    def _end(self, attempt: _Attempt, now: float) -> None:
        attempt.close()
        self._attempt = None
        begun = now if self._begun is None else self._begun
        verdict = judge(self.probe, attempt.shots)
        good = verdict.expected and attempt.mistake is None
        if not good and now < begun + self.probe.wait:
            self._resume_at = now + (REPORT_PAUSE if self.probe.expect == "expired" else RETRY_PAUSE)
            return
        if attempt.mistake is not None:
            raise attempt.mistake
        self.outcome = Outcome(self.probe, verdict, self._attempts, begun, now)


def check_namespaces(probes: t.Iterable[Probe]) -> None:
    """Refuse a mistyped namespace before anything is sent."""
    for probe in probes:
        if probe.netns and not namespaces.is_namespace(probe.netns):
            raise SpecError(f"{probe.path}netns", f"there is no network namespace {probe.netns!r}")


def run(probes: t.Sequence[Probe]) -> t.List[Outcome]:
    """Run all probes at the same time; the outcomes are in the order of the probes. Raises CnfError."""
    check_namespaces(probes)
    poller = _Poller()
    tasks = [_Task(probe, poller) for probe in probes]
    try:
        waiting = tasks
        while waiting:
            now = time.monotonic()
            for task in waiting:
                task.step(now)
            waiting = [task for task in waiting if task.outcome is None]
            if waiting:
                poller.wait(min(task.due() for task in waiting) - time.monotonic())
    finally:
        poller.close_all()
    return [task.outcome for task in tasks if task.outcome is not None]
