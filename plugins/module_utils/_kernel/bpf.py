# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""bpf(2) itself: maps, programs, links, pins and test runs, without libbpf.

Links, revisions and batches are newer than the libbpf of many hosts, and their layouts are small and stable, so they go
straight to the system call. Layouts: union bpf_attr, bpf_prog_info, bpf_map_info and bpf_link_info in linux/bpf.h;
integers in host byte order. File descriptors are close-on-exec (the kernel sees to that) and the caller's to close. An
interface index is looked up in the network namespace of the caller: enter it first (namespaces.entered). Every failure
is a BpfError, a KernelError whose ``what`` names the command and the object.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import platform
import struct
import time
import typing as t

from .._errors import KernelError, UnsupportedError


class Command(enum.IntEnum):
    """enum bpf_cmd, as far as it is used here."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    MAP_GET_NEXT_ID = 12
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    BTF_GET_FD_BY_ID = 19
    MAP_FREEZE = 22
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    ENABLE_STATS = 32
    LINK_DETACH = 34
    PROG_BIND_MAP = 35


class MapType(enum.IntEnum):
    """enum bpf_map_type, as far as the collection knows it."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    CPUMAP = 16
    XSKMAP = 17
    PERCPU_CGROUP_STORAGE = 21
    QUEUE = 22
    STACK = 23
    DEVMAP_HASH = 25
    RINGBUF = 27
    BLOOM_FILTER = 30


class ProgType(enum.IntEnum):
    """enum bpf_prog_type of the hooks of the network."""

    SOCKET_FILTER = 1
    SCHED_CLS = 3
    SCHED_ACT = 4
    XDP = 6


class LinkType(enum.IntEnum):
    """enum bpf_link_type of the hooks of the network."""

    XDP = 6
    TCX = 11
    NETKIT = 13


# enum bpf_attach_type
XDP, TCX_INGRESS, TCX_EGRESS, NETKIT_PRIMARY, NETKIT_PEER = 37, 46, 47, 54, 55

# Where an attachment goes in the list of its hook (BPF_F_...). BEFORE and AFTER are relative to the program or link
# given as a file descriptor or, with ID, as an id; with 0 as the id they mean the very first and the very last place.
F_REPLACE, F_BEFORE, F_AFTER, F_ID, F_LINK = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 13
# Mode of an XDP link (XDP_FLAGS_..., linux/if_link.h)
XDP_SKB_MODE, XDP_DRV_MODE, XDP_HW_MODE = 1 << 1, 1 << 2, 1 << 3

# Flags of maps and of updates
F_NO_PREALLOC = 1 << 0
ANY, NOEXIST, EXIST = 0, 1, 2

# Verdicts that tcx and netkit share: on any other tcx goes on to the next program, but netkit drops.
NEXT, PASS, DROP, REDIRECT = -1, 0, 2, 7

MAX_PROGRAMS = 63  # of one hook: the kernel's array of 64 ends with an empty slot

PERCPU_TYPES = (
    MapType.PERCPU_HASH,
    MapType.PERCPU_ARRAY,
    MapType.LRU_PERCPU_HASH,
    MapType.PERCPU_CGROUP_STORAGE,
)
POSSIBLE_CPUS = "/sys/devices/system/cpu/possible"
ENOTSUPP = 524  # the kernel's own number for "not supported", which leaks to user space
ATTRIBUTE_BYTES = 128  # a kernel takes a longer union than it knows, if the rest is zero
BATCH = 4096  # entries that one batch call reads
NAME_BYTES = 16

_SYSCALL = {  # __NR_bpf
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "s390x": 351,
    "ppc64": 361,
    "ppc64le": 361,
}

_MEMBARRIER = {  # __NR_membarrier
    "x86_64": 324,
    "aarch64": 283,
    "riscv64": 283,
    "loongarch64": 283,
    "s390x": 356,
    "ppc64": 365,
    "ppc64le": 365,
}
_MEMBARRIER_CMD_GLOBAL = 1  # synchronize_rcu() (kernel/sched/membarrier.c)
_GRACE_SECONDS = 0.05  # where that is refused (nohz_full)

# What an errno means here, where its own text would mislead.
_HINTS = {
    (
        Command.LINK_CREATE,
        errno.EEXIST,
    ): "this program is on this hook already; load it again for a second place",
    (Command.LINK_CREATE, errno.ENOENT): "the program or link to be placed beside is not on this hook",
    (Command.LINK_CREATE, errno.ESTALE): "the hook has changed since it was read",
    (
        Command.LINK_CREATE,
        errno.ERANGE,
    ): "the hook is full (63 programs), or before and after contradict each other",
    (Command.LINK_CREATE, errno.ENODEV): "no such interface in this network namespace",
    (Command.LINK_CREATE, errno.ENXIO): "the interface is not a netkit device",
    (Command.LINK_CREATE, errno.EACCES): "a netkit pair is reached through its primary end only",
    (Command.LINK_CREATE, errno.EINVAL): "the kernel does not know this hook or a flag",
    (Command.LINK_UPDATE, errno.EEXIST): "the new program is on this hook already",
    (Command.LINK_UPDATE, errno.ENOLINK): "the interface of the link is gone",
    (Command.LINK_UPDATE, errno.EPERM): "the link holds another program than expected",
    (
        Command.PROG_ATTACH,
        errno.EEXIST,
    ): "this program is on this hook already; load it again for a second place",
    (Command.PROG_ATTACH, errno.ENOENT): "the program to replace or to be placed beside is not on this hook",
    (Command.PROG_ATTACH, errno.ESTALE): "the hook has changed since it was read",
    (
        Command.PROG_ATTACH,
        errno.ERANGE,
    ): "the hook is full (63 programs), or before and after contradict each other",
    (Command.PROG_ATTACH, errno.EBUSY): "the place belongs to a link",
    (Command.PROG_ATTACH, errno.ENODEV): "no such interface in this network namespace",
    (Command.PROG_DETACH, errno.EBUSY): "the place belongs to a link",
    (Command.PROG_DETACH, errno.ENOENT): "it is not on this hook",
    (Command.PROG_QUERY, errno.ENODEV): "no such interface in this network namespace",
    (Command.PROG_QUERY, errno.EACCES): "a netkit pair is reached through its primary end only",
    (Command.PROG_QUERY, errno.EINVAL): "the kernel does not know this hook",
    (Command.OBJ_PIN, errno.EEXIST): "there is a pin of this name",
    (Command.OBJ_PIN, errno.EPERM): "the directory is not on a BPF file system, or this is not root",
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class BpfError(KernelError):
    """A bpf(2) command that failed. ``hint`` says what the errno means for this command, if its own text does not."""

    def __init__(self, number: int, what: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(number, "", what)

    def text(self) -> str:
        return f"{self.what}: {self.name} ({self.hint})" if self.hint else super().text()


def call(command: Command, attribute: bytes, about: str) -> t.Tuple[int, bytes]:
    """Run one command; ``attribute`` is the used part of union bpf_attr, ``about`` names the object in an error.

    Returns the call's result (a file descriptor or 0) and the union as the kernel left it.
    """
    result, number, answer = _attempt(command, attribute)
    if number:
        raise BpfError(number, f"bpf {command.name} {about}".rstrip(), _HINTS.get((command, number), ""))
    return result, answer


def _attempt(command: Command, attribute: bytes) -> t.Tuple[int, int, bytes]:
    """The command's result, its errno (0 when it succeeded) and the union, which some errors fill in too."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise UnsupportedError(f"bpf(2): its number on {platform.machine()} is not known")
    union = ctypes.create_string_buffer(attribute, max(len(attribute), ATTRIBUTE_BYTES))
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(command.value), union, ctypes.c_ulong(len(union))
    )
    problem = ctypes.get_errno() if result < 0 else 0
    return int(result), errno.EOPNOTSUPP if problem == ENOTSUPP else problem, union.raw


class _Buffer:
    """Memory that the kernel reads or writes; ``address`` is valid for as long as the object lives."""

    def __init__(self, content: bytes = b"", size: int = 0) -> None:
        self._memory = ctypes.create_string_buffer(content, max(len(content), size, 1))
        self.address = ctypes.addressof(self._memory)

    def read(self, size: int) -> bytes:
        return ctypes.string_at(self.address, size)


# --- Programs -----------------------------------------------------------------------------------------------------


class TestRun(t.NamedTuple):
    """What a program answered: its signed return value, the packet and context afterwards, and ns per run."""

    retval: int
    data: bytes
    duration: int
    context: bytes


_TEST_RUN = struct.Struct("=IIIIQQIIIIQQIII")


def test_run(
    prog_fd: int, packet: bytes, *, context: bytes = b"", repeat: int = 1, room: int = 4096, flags: int = 0
) -> TestRun:
    """Run a program on one packet (BPF_PROG_TEST_RUN); nothing is sent, but maps and helpers are the live ones.

    ``packet`` begins with its Ethernet header (14 bytes at least, else EINVAL), ``room`` is how much of the packet is
    read back at most (ENOSPC when it has grown beyond), ``context`` is the head of struct __sk_buff or the whole of
    struct xdp_md. For a redirect the return value is 7; where to is not told.
    """
    data_in, data_out = _Buffer(packet), _Buffer(size=room)
    context_in, context_out = _Buffer(context), _Buffer(size=max(len(context), 256))
    sizes = (len(context), 256) if context else (0, 0)
    addresses = (context_in.address, context_out.address) if context else (0, 0)
    attribute = _TEST_RUN.pack(
        prog_fd,
        0,
        len(packet),
        room,
        data_in.address,
        data_out.address,
        repeat,
        0,
        *sizes,
        *addresses,
        flags,
        0,
        0,
    )
    _result, answer = call(Command.PROG_TEST_RUN, attribute, f"of program fd {prog_fd}")
    _fd, retval, _in, size, _a, _b, _repeat, duration, _c, context_size, *_rest = _TEST_RUN.unpack_from(
        answer
    )
    return TestRun(
        retval=retval - (1 << 32) if retval >> 31 else retval,
        data=data_out.read(size),
        duration=duration,
        context=context_out.read(context_size) if context else b"",
    )


class ProgInfo(t.NamedTuple):
    """struct bpf_prog_info. ``load_time`` counts from boot (CLOCK_BOOTTIME); run times grow under ``enable_stats``.

    ``tag`` is a hash of the instructions: it differs between compilers, so it identifies no source.
    """

    id: int
    type: int
    name: str
    tag: str
    load_time: int  # ns
    uid: int
    map_ids: t.Tuple[int, ...]
    ifindex: int
    btf_id: int
    run_time_ns: int
    run_cnt: int
    recursion_misses: int
    verified_insns: int


def prog_info(fd: int) -> ProgInfo:
    raw = _info(fd, 232, "of program")
    count = _u32(raw, 52)
    return ProgInfo(
        id=_u32(raw, 4),
        type=_u32(raw, 0),
        name=_name(raw, 64),
        tag=raw[8:16].hex(),
        load_time=_u64(raw, 40),
        uid=_u32(raw, 48),
        map_ids=_prog_map_ids(fd, count) if count else (),
        ifindex=_u32(raw, 80),
        btf_id=_u32(raw, 128),
        run_time_ns=_u64(raw, 192),
        run_cnt=_u64(raw, 200),
        recursion_misses=_u64(raw, 208),
        verified_insns=_u32(raw, 216),
    )


def _prog_map_ids(fd: int, count: int) -> t.Tuple[int, ...]:
    ids = _Buffer(size=4 * count)
    request = bytearray(232)
    struct.pack_into("=IQ", request, 52, count, ids.address)
    found = min(count, _u32(_info(fd, len(request), "of program", bytes(request)), 52))
    return struct.unpack(f"={found}I", ids.read(4 * found))


def prog_bind_map(prog_fd: int, map_fd: int) -> None:
    """Make a program keep a map alive that its instructions do not use, and name it among its own (``map_ids``)."""
    attribute = struct.pack("=III", prog_fd, map_fd, 0)
    call(Command.PROG_BIND_MAP, attribute, f"of program fd {prog_fd} to map fd {map_fd}")


def enable_stats() -> int:
    """Make the kernel count the runs and nanoseconds of every program until the returned descriptor is closed."""
    return call(Command.ENABLE_STATS, struct.pack("=I", 0), "")[0]


# --- Maps ---------------------------------------------------------------------------------------------------------


class MapInfo(t.NamedTuple):
    """struct bpf_map_info. ``value_size`` is that of one CPU's value; ids of BTF types are 0 when the map has none."""

    id: int
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str
    ifindex: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int


Entry = t.Tuple[bytes, bytes]
_ELEMENT = struct.Struct("=IxxxxQQQ")  # map, key, value or next key, flags
_BATCH = struct.Struct("=QQQQIIQQ")  # in batch, out batch, keys, values, count, map, element flags, flags


def map_info(fd: int) -> MapInfo:
    raw = _info(fd, 88, "of map")
    kind, number, key_size, value_size, max_entries, flags = struct.unpack_from("=6I", raw)
    return MapInfo(
        id=number,
        type=kind,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        flags=flags,
        name=_name(raw, 24),
        ifindex=_u32(raw, 40),
        btf_id=_u32(raw, 64),
        btf_key_type_id=_u32(raw, 68),
        btf_value_type_id=_u32(raw, 72),
    )


def map_create(
    kind: int, key_size: int, value_size: int, max_entries: int, *, flags: int = 0, name: str = ""
) -> int:
    """A new map without BTF; ``name`` is cut to the 15 characters that the kernel keeps."""
    attribute = struct.pack(
        "=IIIIIII16s",
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
        0,
        0,
        name.encode()[: NAME_BYTES - 1],
    )
    return call(Command.MAP_CREATE, attribute, name)[0]


def map_freeze(fd: int) -> None:
    """Refuse every further write from user space."""
    call(Command.MAP_FREEZE, struct.pack("=I", fd), _of_map(fd))


def cpu_list(text: str) -> t.List[int]:
    """The numbers in the kernel's notation of a CPU mask, such as ``0-3,8``."""
    found: t.List[int] = []
    for part in text.strip().split(","):
        if part:
            first, _dash, last = part.partition("-")
            found.extend(range(int(first), int(last or first) + 1))
    return found


def possible_cpus() -> int:
    """How many values a per-CPU entry has: one for each CPU that could ever be plugged in, present or not."""
    with open(POSSIBLE_CPUS, encoding="ascii") as file:
        return len(cpu_list(file.read()))


def entry_size(info: MapInfo) -> int:
    """Bytes of the value that system calls carry: of a per-CPU map all CPUs' values, each rounded up to 8 bytes."""
    if info.type in PERCPU_TYPES:
        return ((info.value_size + 7) & ~7) * possible_cpus()
    return info.value_size


def split_percpu(value: bytes, value_size: int) -> t.List[bytes]:
    """The values of each CPU in a per-CPU entry, without their padding."""
    stride = (value_size + 7) & ~7
    return [value[start : start + value_size] for start in range(0, len(value), stride)]


def map_lookup(fd: int, key: bytes, value_size: int) -> t.Optional[bytes]:
    """The value of a key, None when there is none. ``value_size`` as in ``entry_size``; the kernel writes that much."""
    key_memory, value = _Buffer(key), _Buffer(size=value_size)
    attribute = _ELEMENT.pack(fd, key_memory.address, value.address, 0)
    found = _unless(errno.ENOENT, Command.MAP_LOOKUP_ELEM, attribute, _of_map(fd))
    return value.read(value_size) if found else None


def map_update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Set one entry; NOEXIST: EEXIST when the key is there, EXIST: ENOENT when it is not. E2BIG when the map is full."""
    key_memory, value_memory = _Buffer(key), _Buffer(value)
    attribute = _ELEMENT.pack(fd, key_memory.address, value_memory.address, flags)
    call(Command.MAP_UPDATE_ELEM, attribute, _of_map(fd))


def map_delete(fd: int, key: bytes) -> bool:
    """Remove one entry; False when there was none."""
    key_memory = _Buffer(key)
    attribute = _ELEMENT.pack(fd, key_memory.address, 0, 0)
    return _unless(errno.ENOENT, Command.MAP_DELETE_ELEM, attribute, _of_map(fd))


def map_next_key(fd: int, key: t.Optional[bytes], key_size: int) -> t.Optional[bytes]:
    """The key after ``key`` (the first one for None), None behind the last.

    Behind a key that has been deleted meanwhile the kernel starts from the beginning again.
    """
    following, current = _Buffer(size=key_size), _Buffer(key or b"")
    attribute = _ELEMENT.pack(fd, current.address if key is not None else 0, following.address, 0)
    found = _unless(errno.ENOENT, Command.MAP_GET_NEXT_KEY, attribute, _of_map(fd))
    return following.read(key_size) if found else None


def map_items(fd: int, info: MapInfo) -> t.List[Entry]:
    """All entries, in the kernel's order; values as in ``entry_size``. In batches where the map's type has them."""
    value_size = entry_size(info)
    try:
        return _items_in_batches(fd, info, value_size)
    except KernelError as problem:
        # EINTR: LPM tries of early kernels, whose entries vanished while they were read.
        if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.EINTR):
            raise
    return _items_one_by_one(fd, info, value_size)


def _items_one_by_one(fd: int, info: MapInfo, value_size: int) -> t.List[Entry]:
    found: t.Dict[bytes, bytes] = {}
    key = map_next_key(fd, None, info.key_size)
    while key is not None and key not in found:  # met again: a deletion made the kernel start over
        value = map_lookup(fd, key, value_size)
        if value is not None:
            found[key] = value
        key = map_next_key(fd, key, info.key_size)
    return list(found.items())


def _items_in_batches(fd: int, info: MapInfo, value_size: int) -> t.List[Entry]:
    found: t.Dict[bytes, bytes] = {}
    for keys, values in _batches(fd, info, value_size):
        found.update(zip(_slices(keys, info.key_size), _slices(values, value_size)))
    return list(found.items())


def _batches(fd: int, info: MapInfo, value_size: int) -> t.Iterator[t.Tuple[bytes, bytes]]:
    """The keys and the values of a map, one behind the other, a batch at a time."""
    room = max(64, min(BATCH, info.max_entries))
    # The place to go on from is a bucket's number (4 bytes) in a hash, a key in other types.
    place = _Buffer(size=max(info.key_size, 8))
    first = True
    while True:
        keys, values = _Buffer(size=room * info.key_size), _Buffer(size=room * value_size)
        at = 0 if first else place.address
        attribute = _BATCH.pack(at, place.address, keys.address, values.address, room, fd, 0, 0)
        _result, number, answer = _attempt(Command.MAP_LOOKUP_BATCH, attribute)
        if number == errno.ENOSPC:
            room *= 2  # one bucket of the hash holds more than that
            continue
        if number not in (0, errno.ENOENT):
            raise BpfError(number, f"bpf MAP_LOOKUP_BATCH {_of_map(fd)}")
        count = _u32(answer, 32)
        yield keys.read(count * info.key_size), values.read(count * value_size)
        if number == errno.ENOENT:  # the end of the map
            return
        first = False


def map_dump(fd: int, info: MapInfo) -> t.Tuple[bytes, bytes]:
    """The keys and the values of a map, each as one run of bytes: for maps of so many entries that objects would be slow."""
    try:
        chunks = list(_batches(fd, info, entry_size(info)))
    except KernelError as problem:
        if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.EINTR):
            raise
        items = _items_one_by_one(fd, info, entry_size(info))
        chunks = [(b"".join(key for key, _value in items), b"".join(value for _key, value in items))]
    return b"".join(keys for keys, _values in chunks), b"".join(values for _keys, values in chunks)


def map_update_batch(fd: int, keys: t.Sequence[bytes], values: t.Sequence[bytes], flags: int = ANY) -> int:
    """Set many entries and return their number; one by one where the map's type has no batches.

    Not atomic: on an error the entries before the wrong one are set.
    """
    if len(keys) != len(values):
        raise ValueError("as many values as keys are needed")
    return map_write(fd, b"".join(keys), b"".join(values), len(keys), flags)


def map_write(fd: int, keys: bytes, values: bytes, count: int, flags: int = ANY) -> int:
    """The same with the keys, and the values, one behind the other."""
    if not count:
        return 0
    key_memory, value_memory = _Buffer(keys), _Buffer(values)
    attribute = _BATCH.pack(0, 0, key_memory.address, value_memory.address, count, fd, flags, 0)
    if _unless(errno.EOPNOTSUPP, Command.MAP_UPDATE_BATCH, attribute, f"of {count} entries {_of_map(fd)}"):
        return count
    for key, value in zip(_slices(keys, len(keys) // count), _slices(values, len(values) // count)):
        map_update(fd, key, value, flags)
    return count


def map_delete_batch(fd: int, keys: t.Sequence[bytes]) -> int:
    """Remove many entries and return how many there were; keys that are absent are passed over."""
    removed = start = 0
    while start < len(keys):
        memory = _Buffer(b"".join(keys[start:]))
        attribute = _BATCH.pack(0, 0, memory.address, 0, len(keys) - start, fd, 0, 0)
        _result, number, answer = _attempt(Command.MAP_DELETE_BATCH, attribute)
        if number == errno.EOPNOTSUPP:
            return removed + sum(map_delete(fd, key) for key in keys[start:])
        if number not in (0, errno.ENOENT):
            raise BpfError(number, f"bpf MAP_DELETE_BATCH of {len(keys)} entries {_of_map(fd)}")
        count = _u32(answer, 32)
        removed += count
        start += count + 1 if number else len(keys)  # with ENOENT it stopped at an absent key
    return removed


def wait_for_programs() -> None:
    """Wait until every run of a program that has begun is over: programs run within an RCU read side."""
    number = _MEMBARRIER.get(platform.machine())
    if (
        number is None
        or _libc.syscall(ctypes.c_long(number), ctypes.c_long(_MEMBARRIER_CMD_GLOBAL), 0, 0) < 0
    ):
        time.sleep(_GRACE_SECONDS)


# --- Links and other attachments ----------------------------------------------------------------------------------


class LinkInfo(t.NamedTuple):
    """A tcx, netkit or XDP link. ``ifindex`` is 0 when the device is gone (the link then stays until it is unpinned).

    A netkit link on the peer tells the peer's ifindex, which may count in another network namespace: identify it by its
    pin and by ``prog_query`` on the primary.
    """

    id: int
    type: int
    prog_id: int
    ifindex: int
    attach_type: int


class Query(t.NamedTuple):
    """A hook: its revision and (program id, link id) in the order of running; link id 0 for attachments without link.

    The revision grows with each change. An emptied netkit hook answers 1 while its counter went on: attach with
    revision 0 (any) there, or every attempt is ESTALE. A tcx hook does start over when it is emptied.
    """

    revision: int
    entries: t.List[t.Tuple[int, int]]


_ATTACH = struct.Struct("=IIIIIIQ")
_QUERY = struct.Struct("=IIIIQIIQQQQ")


def link_info(fd: int) -> LinkInfo:
    raw = _info(fd, 64, "of link")
    kind, number, prog_id = struct.unpack_from("=3I", raw)
    ifindex, attach_type = struct.unpack_from("=2I", raw, 16)  # the union that follows is aligned to 8
    known = kind in (LinkType.XDP, LinkType.TCX, LinkType.NETKIT)
    return LinkInfo(
        id=number,
        type=kind,
        prog_id=prog_id,
        ifindex=ifindex if known else 0,
        attach_type=XDP if kind == LinkType.XDP else attach_type if known else 0,
    )


def link_create(
    prog_fd: int, ifindex: int, attach_type: int, *, flags: int = 0, relative: int = 0, revision: int = 0
) -> int:
    """Attach by a link and return its descriptor: the program leaves the hook with the last descriptor or pin.

    ``relative`` is a descriptor, or an id with F_ID; without BEFORE, AFTER it must be 0 (EINVAL). ``revision`` other
    than 0 must be the hook's (ESTALE). The hook is not checked against the program's expected attach type: one SCHED_CLS
    program serves tcx and netkit in both directions.
    """
    attribute = _ATTACH.pack(prog_fd, ifindex, attach_type, flags, relative, 0, revision)
    return call(Command.LINK_CREATE, attribute, _at_hook(ifindex, attach_type))[0]


def link_update(link_fd: int, new_prog_fd: int, old_prog_fd: t.Optional[int] = None) -> None:
    """Put another program in the place of a link's, between two packets; the program that is there already is fine.

    With ``old_prog_fd`` only if that one is there (EPERM). Works from any network namespace; ENOLINK when the device is
    gone.
    """
    flags = 0 if old_prog_fd is None else F_REPLACE
    attribute = struct.pack("=IIII", link_fd, new_prog_fd, flags, old_prog_fd or 0)
    call(Command.LINK_UPDATE, attribute, f"of link fd {link_fd}")


def link_detach(link_fd: int) -> None:
    """Take the link off its hook at once; closing or unpinning would do so a little later. Also when the device is gone."""
    call(Command.LINK_DETACH, struct.pack("=I", link_fd), f"of link fd {link_fd}")


def prog_attach(
    prog_fd: int,
    ifindex: int,
    attach_type: int,
    *,
    flags: int = 0,
    replace_fd: int = 0,
    relative: int = 0,
    revision: int = 0,
) -> None:
    """Attach without a link: it stays when every descriptor is closed, until ``prog_detach`` or the device's end."""
    attribute = _ATTACH.pack(ifindex, prog_fd, attach_type, flags, replace_fd, relative, revision)
    call(Command.PROG_ATTACH, attribute, _at_hook(ifindex, attach_type))


def prog_detach(
    prog_fd: int, ifindex: int, attach_type: int, *, flags: int = 0, relative: int = 0, revision: int = 0
) -> None:
    """Undo ``prog_attach``. The program is asked for: without one the kernel would take away the last, anybody's."""
    attribute = _ATTACH.pack(ifindex, prog_fd, attach_type, flags, 0, relative, revision)
    call(Command.PROG_DETACH, attribute, _at_hook(ifindex, attach_type))


def prog_query(ifindex: int, attach_type: int) -> Query:
    """What is on a tcx or netkit hook. This is the truth about attachments: a pin may be hidden by a second bpffs.

    EINVAL from a kernel that does not know the hook, EACCES for a netkit hook through the peer.
    """
    room = MAX_PROGRAMS + 1
    while True:
        programs, links = _Buffer(size=4 * room), _Buffer(size=4 * room)
        attribute = _QUERY.pack(ifindex, attach_type, 0, 0, programs.address, room, 0, 0, links.address, 0, 0)
        try:
            _result, answer = call(Command.PROG_QUERY, attribute, _at_hook(ifindex, attach_type))
        except KernelError as problem:
            if problem.errno != errno.ENOSPC or room > 1 << 16:
                raise
            room *= 4
            continue
        count, revision = _u32(answer, 24), _u64(answer, 56)
        ids = [struct.unpack(f"={count}I", memory.read(4 * count)) for memory in (programs, links)]
        return Query(revision, list(zip(*ids)))


# --- Objects: pins and ids ----------------------------------------------------------------------------------------


def pin(fd: int, path: str) -> None:
    """Give an object a name on a BPF file system, which keeps it alive. EEXIST when the name is taken."""
    about = f"at {path}"
    if "." in os.path.basename(path):  # the kernel's answer is EPERM, as if a permission were missing
        raise BpfError(errno.EPERM, f"bpf OBJ_PIN {about}", "names on a BPF file system cannot contain a dot")
    memory = _Buffer(os.fsencode(path) + b"\0")
    call(Command.OBJ_PIN, struct.pack("=QII", memory.address, fd, 0), about)


def get_pinned(path: str) -> int:
    """A descriptor of the map, program or link that is pinned there. ENOENT when nothing is."""
    memory = _Buffer(os.fsencode(path) + b"\0")
    return call(Command.OBJ_GET, struct.pack("=QII", memory.address, 0, 0), f"at {path}")[0]


def prog_ids() -> t.List[int]:
    return _ids(Command.PROG_GET_NEXT_ID)


def map_ids() -> t.List[int]:
    return _ids(Command.MAP_GET_NEXT_ID)


def link_ids() -> t.List[int]:
    return _ids(Command.LINK_GET_NEXT_ID)


def prog_by_id(number: int) -> int:
    """A descriptor of the program; ENOENT when there is none (any more)."""
    return call(Command.PROG_GET_FD_BY_ID, struct.pack("=I", number), f"{number}")[0]


def map_by_id(number: int) -> int:
    """A descriptor of the map; ENOENT when there is none (any more)."""
    return call(Command.MAP_GET_FD_BY_ID, struct.pack("=I", number), f"{number}")[0]


def link_by_id(number: int) -> int:
    """A descriptor of the link; ENOENT when there is none (any more)."""
    return call(Command.LINK_GET_FD_BY_ID, struct.pack("=I", number), f"{number}")[0]


def btf_by_id(number: int) -> bytes:
    """Type information that the kernel holds, in the form of the ELF section .BTF (Documentation/bpf/btf.rst)."""
    fd = call(Command.BTF_GET_FD_BY_ID, struct.pack("=I", number), f"{number}")[0]
    try:
        size = _u32(_info(fd, 32, "of BTF"), 8)
        memory = _Buffer(size=size)
        _info(fd, 32, "of BTF", struct.pack("=QI", memory.address, size).ljust(32, b"\0"))
        return memory.read(size)
    finally:
        os.close(fd)


@contextlib.contextmanager
def closing(fd: int) -> t.Iterator[int]:
    """A descriptor that is closed at the end of the body."""
    try:
        yield fd
    finally:
        os.close(fd)


# --- Small things -------------------------------------------------------------------------------------------------


def _info(fd: int, size: int, about: str, request: bytes = b"") -> bytes:
    """BPF_OBJ_GET_INFO_BY_FD, ``size`` bytes; what an older kernel does not know is zero."""
    memory = _Buffer(request, size)
    attribute = struct.pack("=IIQ", fd, size, memory.address)
    call(Command.OBJ_GET_INFO_BY_FD, attribute, f"{about} fd {fd}")
    return memory.read(size)


def _ids(command: Command) -> t.List[int]:
    found: t.List[int] = []
    while True:
        start = found[-1] if found else 0
        _result, number, answer = _attempt(command, struct.pack("=III", start, 0, 0))
        if number == errno.ENOENT:
            return found
        if number:
            raise BpfError(number, f"bpf {command.name} after {start}")
        found.append(_u32(answer, 4))


def _unless(expected: int, command: Command, attribute: bytes, about: str) -> bool:
    """Run a command; False when it ends with the expected errno, an error for any other."""
    try:
        call(command, attribute, about)
    except KernelError as problem:
        if problem.errno != expected:
            raise
        return False
    return True


def _u32(raw: bytes, offset: int) -> int:
    return int(struct.unpack_from("=I", raw, offset)[0])


def _u64(raw: bytes, offset: int) -> int:
    return int(struct.unpack_from("=Q", raw, offset)[0])


def _name(raw: bytes, offset: int) -> str:
    return raw[offset : offset + NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")


def _slices(raw: bytes, size: int) -> t.List[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _of_map(fd: int) -> str:
    return f"of map fd {fd}"


def _at_hook(ifindex: int, attach_type: int) -> str:
    hooks = {
        XDP: "xdp",
        TCX_INGRESS: "tcx ingress",
        TCX_EGRESS: "tcx egress",
        NETKIT_PRIMARY: "netkit primary",
        NETKIT_PEER: "netkit peer",
    }
    return f"at {hooks.get(attach_type, f'hook {attach_type}')} of ifindex {ifindex}"
