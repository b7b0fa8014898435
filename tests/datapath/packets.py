# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets as bytes, built from the inside out: ethernet(ipv4(udp(b"payload", port=53))); wires to send them over; and the
programs of files/bpf to give them to.

Lengths, checksums and next-protocol numbers are right unless a parameter says otherwise, so that a test can spoil one
thing at a time. Sources: RFC 791, 768, 9293, 792, 8200, 4302, 4443, IEEE 802.1Q.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import re
import socket
import struct
import subprocess
import tempfile
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import btf, libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf

IPV4, IPV6, ARP, VLAN, SERVICE_VLAN = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8
HOP_BY_HOP, ICMP, TCP, UDP, ROUTING, FRAGMENT, GRE = 0, 1, 6, 17, 43, 44, 47
AUTHENTICATION, ICMPV6, NO_NEXT, DESTINATION, SCTP, UDPLITE = 51, 58, 59, 60, 132, 136

ETHERNET_BYTES, VLAN_BYTES, IPV4_BYTES, IPV6_BYTES = 14, 4, 20, 40

MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
CLIENT4, SERVER4 = "192.0.2.10", "198.51.100.20"
CLIENT6, SERVER6 = "2001:db8:1::10", "2001:db8:2::20"

_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}


class Segment(t.NamedTuple):
    """What IP carries: its protocol number and its bytes, the checksum still zero."""

    protocol: int
    data: bytes


class Network(t.NamedTuple):
    """What a link carries: its ethertype and its bytes. These bytes are what a device without link-layer header sees."""

    ethertype: int
    data: bytes


class Extension(t.NamedTuple):
    """An IPv6 extension header without its first byte, which names the one behind it."""

    number: int
    body: bytes


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


# --- Transport ----------------------------------------------------------------------------------------------------


def udp(payload: bytes = b"payload", *, port: int = 53, source_port: int = 40000) -> Segment:
    return Segment(UDP, struct.pack("!4H", source_port, port, 8 + len(payload), 0) + payload)


def tcp(payload: bytes = b"payload", *, port: int = 443, source_port: int = 40000, flags: int = 2) -> Segment:
    header = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, flags, 65535, 0, 0)
    return Segment(TCP, header + payload)


def icmp(payload: bytes = b"payload") -> Segment:
    """An echo request of IPv4."""
    return Segment(ICMP, struct.pack("!BBHHH", 8, 0, 0, 1, 1) + payload)


def icmpv6(payload: bytes = b"payload") -> Segment:
    return Segment(ICMPV6, struct.pack("!BBHHH", 128, 0, 0, 1, 1) + payload)


def _with_checksum(segment: Segment, pseudo_header: bytes) -> bytes:
    at = _CHECKSUM_AT.get(segment.protocol)
    if at is None or len(segment.data) < at + 2:
        return segment.data
    covered = segment.data if segment.protocol == ICMP else pseudo_header + segment.data
    value = checksum(covered)
    if segment.protocol == UDP and value == 0:
        value = 0xFFFF
    return segment.data[:at] + struct.pack("!H", value) + segment.data[at + 2 :]


# --- Network ------------------------------------------------------------------------------------------------------


def ipv4(
    segment: Segment,
    *,
    source: str = CLIENT4,
    destination: str = SERVER4,
    options: bytes = b"",
    offset: int = 0,
    more: bool = False,
    ttl: int = 64,
    version: int = 4,
    header_words: t.Optional[int] = None,
    total: t.Optional[int] = None,
) -> Network:
    """``options``: a multiple of 4 bytes, 40 at most. ``offset``: of a fragment, in units of 8 bytes."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    words = 5 + len(options) // 4 if header_words is None else header_words
    data = segment.data
    if not offset and not more:
        data = _with_checksum(segment, addresses + struct.pack("!HH", segment.protocol, len(data)))
    length = IPV4_BYTES + len(options) + len(data) if total is None else total
    fragment = (0x2000 if more else 0) | offset
    fixed = struct.pack("!BBHHHBBH", version << 4 | words, 0, length, 7, fragment, ttl, segment.protocol, 0)
    header = fixed + addresses + options
    return Network(IPV4, header[:10] + struct.pack("!H", checksum(header)) + header[12:] + data)


def ipv6(
    segment: Segment,
    *extensions: Extension,
    source: str = CLIENT6,
    destination: str = SERVER6,
    hop_limit: int = 64,
    version: int = 6,
    payload_length: t.Optional[int] = None,
) -> Network:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    numbers = [*(extension.number for extension in extensions), segment.protocol]
    chain = b"".join(
        bytes([following]) + extension.body for extension, following in zip(extensions, numbers[1:])
    )
    data = segment.data
    if FRAGMENT not in numbers:
        data = _with_checksum(segment, addresses + struct.pack("!II", len(data), segment.protocol))
    length = len(chain) + len(data) if payload_length is None else payload_length
    fixed = struct.pack("!IHBB", version << 28, length, numbers[0], hop_limit)
    return Network(IPV6, fixed + addresses + chain + data)


def hop_by_hop(units: int = 0) -> Extension:
    """``units``: length beyond the first 8 bytes, in units of 8; filled with PadN."""
    return Extension(HOP_BY_HOP, _padded(units))


def destination_options(units: int = 0) -> Extension:
    return Extension(DESTINATION, _padded(units))


def routing(units: int = 0) -> Extension:
    """Type 4 without segments left."""
    return Extension(ROUTING, bytes([units, 4, 0]) + bytes(4 + 8 * units))


def authentication(words: int = 4) -> Extension:
    """``words``: its length in units of 4 bytes, minus 2; its own unit, unlike that of all others (RFC 4302)."""
    return Extension(AUTHENTICATION, bytes([words]) + bytes(4 * (words + 2) - 2))


def fragment(offset: int = 0, more: bool = True) -> Extension:
    """``offset`` in units of 8 bytes."""
    return Extension(FRAGMENT, struct.pack("!BHI", 0, offset << 3 | more, 7))


def _padded(units: int) -> bytes:
    room = 6 + 8 * units
    options = b""
    while room:
        pad = min(room, 255)
        options += bytes([1, pad - 2]) + bytes(pad - 2) if pad > 1 else b"\0"
        room -= pad
    return bytes([units]) + options


def arp() -> Network:
    """Who has SERVER4."""
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + MAC_A + socket.inet_aton(CLIENT4)
    return Network(ARP, body + bytes(6) + socket.inet_aton(SERVER4))


# --- Link ---------------------------------------------------------------------------------------------------------


def ethernet(
    network: Network,
    *,
    vlans: t.Sequence[int] = (),
    destination: bytes = MAC_B,
    source: bytes = MAC_A,
    ethertype: t.Optional[int] = None,
) -> bytes:
    """A frame, not padded to 60 bytes. ``vlans``: identifiers from the outermost on; all but the innermost are 802.1ad."""
    tags = b"".join(
        struct.pack("!HH", VLAN if number == len(vlans) else SERVICE_VLAN, identifier)
        for number, identifier in enumerate(vlans, start=1)
    )
    inner = network.ethertype if ethertype is None else ethertype
    return destination + source + tags + struct.pack("!H", inner) + network.data


# --- Wires --------------------------------------------------------------------------------------------------------

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_ETH_P_ALL = 0x0003
_libc = ctypes.CDLL(None, use_errno=True)

HOOKS = {"ingress": bpf.TCX_INGRESS, "egress": bpf.TCX_EGRESS, "xdp": bpf.XDP}

T = t.TypeVar("T")


def eventually(look: t.Callable[[], T], wanted: T, seconds: float = 20.0) -> T:
    """What ``look`` returns, asked again until that is what is wanted or the time is over: to be compared by the caller."""
    end = time.monotonic() + seconds
    found = look()
    while found != wanted and time.monotonic() < end:
        time.sleep(0.01)
        found = look()
    return found


class Namespace:
    """A network namespace without a name, which vanishes with this object or with the process, however it ends.

    Within ``with``, the process is in it, and on one CPU: packets then stay in order on a busy machine too, and per-CPU
    sampling is that of all packets. It is silent: IPv6, with its neighbour discovery, is off unless asked for.
    """

    def __init__(self, *, ipv6: bool = False) -> None:
        self._homes: t.List[t.Tuple[int, t.Set[int]]] = []
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            self.descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
            if not ipv6:
                _write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            ip("link set lo up")
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET), "setns")
            os.close(home)
        self.path = f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def __enter__(self) -> Namespace:
        self._homes.append((os.open("/proc/self/ns/net", os.O_RDONLY), os.sched_getaffinity(0)))
        _check(_libc.setns(self.descriptor, _CLONE_NEWNET), "setns")
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return self

    def __exit__(self, *_exception: object) -> None:
        home, cpus = self._homes.pop()
        os.sched_setaffinity(0, cpus)
        _check(_libc.setns(home, _CLONE_NEWNET), "setns")
        os.close(home)

    def close(self) -> None:
        os.close(self.descriptor)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def ip(words: str) -> str:
    return subprocess.run(["ip", *words.split()], check=True, stdout=subprocess.PIPE, text=True).stdout


def veth(near: str, far: str, *, mtu: int = 1500, far_netns: t.Optional[Namespace] = None) -> None:
    """A pair, up at both ends and with carrier; the far end in the other namespace, if there is one."""
    elsewhere = f" netns {far_netns.path}" if far_netns else ""
    ip(f"link add {near} mtu {mtu} type veth peer name {far} mtu {mtu}{elsewhere}")
    with far_netns or contextlib.nullcontext():
        ip(f"link set {far} up")
    ip(f"link set {near} up")
    # The end that came up first, without carrier, drops what it should send until a kernel worker has seen the carrier.
    with far_netns or contextlib.nullcontext():
        assert eventually(lambda: "qdisc noop " in ip(f"link show {far}"), False) is False


class Tun:
    """A device without link-layer header, up; the descriptor is its wire."""

    def __init__(self, name: str) -> None:
        self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._transmitted: t.List[bytes] = []
        fcntl.ioctl(self._file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        ip(f"link set {name} up")

    def __enter__(self) -> Tun:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._file)

    def receive(self, datagram: bytes) -> None:
        """Make it receive a datagram."""
        os.write(self._file, datagram)

    def transmitted(self) -> t.List[bytes]:
        """All that it has sent."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._transmitted.append(os.read(self._file, 1 << 16))
        return list(self._transmitted)


@contextlib.contextmanager
def attached(program: int, device: str, hook: str, flags: int = 0) -> t.Iterator[int]:
    """A program at a hook of a device of this namespace (HOOKS), behind those that are there, until the end of the body."""
    link = bpf.link_create(program, socket.if_nametoindex(device), HOOKS[hook], flags=flags)
    try:
        yield link
    finally:
        bpf.link_detach(link)
        os.close(link)


def send(device: str, *frames: bytes) -> None:
    """Transmit frames as they are; one that an egress program drops is no error (ENOBUFS to its sender)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((device, 0))
        for frame in frames:
            try:
                wire.send(frame)
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise


class Capture:
    """What a device receives, from now on; what it sends is left out."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind((device, _ETH_P_ALL))
        self._socket.setblocking(False)
        self._frames: t.List[bytes] = []

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def frames(self) -> t.List[bytes]:
        """All frames so far. A VLAN tag has been taken out by the kernel."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, origin = self._socket.recvfrom(1 << 16)
                if origin[2] != socket.PACKET_OUTGOING:
                    self._frames.append(frame)
        return list(self._frames)


# --- Programs -----------------------------------------------------------------------------------------------------

SOURCES = Path(__file__).resolve().parent.parent.parent / "files" / "bpf"
COMPILERS = build.COMPILERS
TYPES = {"tc": bpf.ProgType.SCHED_CLS, "xdp": bpf.ProgType.XDP}
NEXT, PASS, DROP = -1, 0, 2
XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)


def programs_of(source: Path) -> t.Dict[str, str]:
    """The programs of a source with the hook that each is for: tc or xdp."""
    found = re.findall(r'^SEC\("(\w+)"\)\nint (\w+)\(', source.read_text(), re.MULTILINE)
    return {name: hook for hook, name in found}


def counters_of(source: Path) -> t.List[str]:
    """The names of a source's counters, by index."""
    body = re.search(r"^enum counter_index \{$(.*?)^\};$", source.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^\t([A-Z0-9_]+),", body[1], re.MULTILINE) if body else []


class Loaded:
    """The programs of one source in the kernel, with their maps."""

    def __init__(self, source: Path, loaded: libbpf.Loaded) -> None:
        self.programs, self.maps = loaded.programs, loaded.maps
        self._names = counters_of(source)

    def run(self, program: str, frame: bytes) -> int:
        """The verdict on one frame (BPF_PROG_TEST_RUN)."""
        return bpf.test_run(self.programs[program], frame).retval

    def put(self, name: str, key: object, value: object) -> None:
        """Set a map's entry, by the names of the C fields."""
        types = btf.map_types(self.maps[name])
        assert types is not None
        bpf.map_update(self.maps[name], types.encode_key(key), types.encode_value(value))

    def put_index(self, name: str, index: int, value: int) -> None:
        """Set an entry of an array of interface indexes; device maps have no type information."""
        bpf.map_update(self.maps[name], struct.pack("=I", index), struct.pack("=I", value))

    def get(self, name: str, index: int) -> bytes:
        """An entry of an array."""
        size = bpf.entry_size(bpf.map_info(self.maps[name]))
        found = bpf.map_lookup(self.maps[name], struct.pack("=I", index), size)
        assert found is not None
        return found

    def counters(self) -> t.Dict[str, t.Tuple[int, int]]:
        """Packets and bytes of all CPUs, by name; without those that are zero."""
        info = bpf.map_info(self.maps["counters"])
        found = {}
        for index in range(info.max_entries):
            cpus = bpf.split_percpu(self.get("counters", index), info.value_size)
            packets, octets = (sum(column) for column in zip(*(struct.unpack("=QQ", cpu) for cpu in cpus)))
            if packets or octets:
                found[self._names[index]] = (packets, octets)
        return found

    def packets(self) -> t.Dict[str, int]:
        return {name: packets for name, (packets, _octets) in self.counters().items()}

    def clear(self) -> None:
        """Empty the tables and set counters and other arrays to zero."""
        for descriptor in self.maps.values():
            info = bpf.map_info(descriptor)
            if info.type in (bpf.MapType.ARRAY, bpf.MapType.PERCPU_ARRAY):
                if not info.name.endswith(".rodata"):
                    for index in range(info.max_entries):
                        bpf.map_update(descriptor, struct.pack("=I", index), bytes(bpf.entry_size(info)))
            else:
                for key, _value in bpf.map_items(descriptor, info):
                    bpf.map_delete(descriptor, key)


def load(source: t.Union[str, Path], compiler: str, **constants: int) -> Loaded:
    """A program of files/bpf by name, or any source by path: compiled once per session, its maps cleared."""
    path = source if isinstance(source, Path) else SOURCES / f"{source}.bpf.c"
    loaded = _loaded(path, compiler, tuple(sorted(constants.items())))
    loaded.clear()
    return loaded


@functools.cache
def _loaded(source: Path, compiler: str, constants: t.Tuple[t.Tuple[str, int], ...]) -> Loaded:
    why = build.missing(compiler)
    if why:
        pytest.skip(why)
    headers = [SOURCES / "lib"]
    with tempfile.TemporaryDirectory() as directory:
        if compiler == "bcc":
            types = {name: TYPES[hook] for name, hook in programs_of(source).items()}
            made = build.compile_bcc(
                source, programs=types, directory=directory, include_dirs=headers, constants=dict(constants)
            )
            return Loaded(source, made)
        target = Path(directory, "object.o")
        build.compile_clang(source, target, headers)
        return Loaded(source, libbpf.load(target, constants=dict(constants)))
