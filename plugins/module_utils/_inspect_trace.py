# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Events as they happen: from a ring buffer (Documentation/bpf/ringbuf.rst), or from the kernel's trace pipe.

A ring buffer has one position up to which events have been taken, for all who read it: what is taken here, nobody else gets.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import select
import struct
import threading
import time
import typing as t

from . import _inspect_maps
from ._bpf import btf
from ._errors import KernelError, SpecError, UnsupportedError
from ._kernel import bpf

BUSY, DISCARD = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
HEADER_BYTES = 8  # length with the two bits above, then a page offset that only the kernel needs
BUSY_WAIT = 0.01  # seconds until a look at a record that is being written

# The numbers are the same on every architecture (asm-generic/unistd.h).
SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 430, 431, 432
FSCONFIG_CMD_CREATE = 6
CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
TRACE_LINE = re.compile(
    r"\s*(?P<task>.*\S)-(?P<pid>\d+)\s+(?:\([ \d-]+\)\s+)?\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?(?P<time>\d+\.\d+): (?P<text>.*)"
)
LOST_LINE = re.compile(r"CPU:\d+ \[LOST (\d+) EVENTS\]")
PRINTK = "bpf_trace_printk: "
READ_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    **_inspect_maps.PLACE_SPEC,
    "trace_pipe": {"type": "bool", "default": False},
    "type": {"type": "str"},
    "seconds": {"type": "float", "default": 10.0},
    "events": {"type": "int", "default": 1000},
}


def trace(params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """The answer of bpf_trace. Raises SpecError, UnsupportedError, KernelError."""
    if [params["map"] is not None, params["id"] is not None, params["trace_pipe"]].count(True) != 1:
        raise SpecError("", "give one of map, id and trace_pipe")
    if params["seconds"] <= 0:
        raise SpecError("seconds", f"{params['seconds']} is not a time to wait for; give more than 0")
    if params["events"] < 1:
        raise SpecError("events", f"{params['events']} is not a number of events; give 1 or more")
    if params["trace_pipe"]:
        if params["type"]:
            raise SpecError("type", "the trace pipe holds text; leave it out")
        return read_pipe(params["seconds"], params["events"])
    with bpf.closing(_inspect_maps.open_map(params)) as fd:
        info = bpf.map_info(fd)
        _inspect_maps.check_ring(info)
        decode = _decoder(info, params["type"])
        payloads, discarded = read_ring(fd, info, params["seconds"], params["events"])
    events = [{"raw": data.hex(), "data": decode(data)} for data in payloads]
    return {"events": events, "count": len(events), "discarded": discarded, "lost": None}


Decoder = t.Callable[[bytes], t.Any]


def _decoder(info: bpf.MapInfo, name: t.Optional[str]) -> Decoder:
    """What makes an event of its bytes; without a type nothing does, nor of an event that is shorter than the type."""
    if not name:
        return lambda data: None
    known: t.Set[str] = set()
    for types in _inspect_maps.Types().around(info):
        number = _inspect_maps.find_type(types, name)
        if number is not None:
            return _showing(types, number)
        known.update(_inspect_maps.struct_names(types))
    raise SpecError(
        "type",
        f"the type information of map {info.name} and its programs has no struct {name}; "
        f"it has {', '.join(sorted(known)) or 'none'} (clang keeps the types of global variables only)",
    )


def _showing(types: btf.Btf, number: int) -> Decoder:
    size = types.size(number)
    return lambda data: types.show(number, data) if len(data) >= size else None


# --- Ring buffers -------------------------------------------------------------------------------------------------


class Record(t.NamedTuple):
    """A record; ``end`` is the position behind it, ``payload`` None when the program discarded it."""

    end: int
    payload: t.Optional[bytes]


_lock = threading.Lock()


def _fence() -> None:
    """Keep reads in order: other processors than x86 would otherwise be free to read data before what says it is there."""
    for _time in range(2):
        with _lock:
            pass


def records(data: memoryview, start: int, end: int, size: int) -> t.Iterator[Record]:
    """The records between two positions, up to the first that is still being written.

    ``data`` is the buffer of ``size`` bytes (a power of two) mapped twice in a row, so that none is torn at its end.
    """
    while start < end:
        offset = start & (size - 1)
        (header,) = struct.unpack_from("=I", data, offset)
        if header & BUSY:
            return
        _fence()
        length = header & ~(BUSY | DISCARD)
        start += (length + HEADER_BYTES + 7) & ~7
        first = offset + HEADER_BYTES
        yield Record(start, None if header & DISCARD else bytes(data[first : first + length]))


class Ring:
    """The mapped pages of a ring buffer."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        page = mmap.PAGESIZE
        try:
            self._consumer = mmap.mmap(fd, page, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            try:
                self._producer = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
            except OSError:
                self._consumer.close()
                raise
        except OSError as problem:
            raise KernelError(problem.errno or 0, "", "map the ring buffer") from problem
        # Positions are read and written in one piece this way, which struct does not promise.
        self._taken = memoryview(self._consumer).cast("Q")
        self._whole = memoryview(self._producer)
        self._written = self._whole.cast("Q")
        self._data = self._whole[page:]

    def take(self, limit: int) -> t.Tuple[t.List[bytes], int]:
        """Up to ``limit`` events that wait, and how many discarded ones were passed over."""
        position = self._taken[0]
        end = self._written[0]
        _fence()
        found: t.List[bytes] = []
        discarded = 0
        for record in records(self._data, position, end, self.size):
            if record.payload is None:
                discarded += 1
            else:
                found.append(record.payload)
            self._taken[0] = record.end
            if len(found) == limit:
                break
        return found, discarded

    def has_more(self) -> bool:
        return self._taken[0] != self._written[0]

    def close(self) -> None:
        for view in (self._taken, self._written, self._data, self._whole):
            view.release()
        self._consumer.close()
        self._producer.close()


def read_ring(fd: int, info: bpf.MapInfo, seconds: float, limit: int) -> t.Tuple[t.List[bytes], int]:
    """Events of a ring buffer, those that wait in it among them, and how many its programs discarded."""
    ring = Ring(fd, info.max_entries)
    found: t.List[bytes] = []
    discarded = 0
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    end = time.monotonic() + seconds
    try:
        while True:
            payloads, passed = ring.take(limit - len(found))
            found += payloads
            discarded += passed
            left = end - time.monotonic()
            if len(found) >= limit or left <= 0:
                return found, discarded
            if payloads or passed:
                continue
            if ring.has_more():  # a record is being written: the descriptor counts as readable all the while
                time.sleep(min(BUSY_WAIT, left))
            else:
                poller.poll(left * 1000)
    finally:
        ring.close()


# --- The trace pipe -----------------------------------------------------------------------------------------------


def _syscall(number: int, *arguments: t.Any) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def open_pipe() -> int:
    """A descriptor of the trace pipe. tracefs is mounted nowhere for it, and stays where it is mounted already.

    UnsupportedError when the kernel has no tracefs, keeps it shut, or another process reads the pipe.
    """
    try:
        context = _syscall(SYS_FSOPEN, b"tracefs", ctypes.c_uint(CLOEXEC))
        with bpf.closing(context):
            _syscall(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
            place = _syscall(SYS_FSMOUNT, context, ctypes.c_uint(CLOEXEC), 0)
    except OSError as problem:
        raise UnsupportedError(
            f"trace pipe: this kernel has no tracefs (CONFIG_TRACING), or does not open it: {problem.strerror}"
        ) from problem
    with bpf.closing(place):
        try:
            return os.open("trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        except OSError as problem:
            reason = (
                "another process reads it; there can be one only"
                if problem.errno == errno.EBUSY
                else problem.strerror
            )
            raise UnsupportedError(f"trace pipe: {reason}") from problem


def parse_line(line: str) -> t.Dict[str, t.Any]:
    """A line of the trace pipe; what has another form is all text."""
    found = TRACE_LINE.fullmatch(line)
    if found is None:
        return {"task": None, "pid": None, "cpu": None, "time": None, "text": line}
    text = found["text"]
    return {
        "task": found["task"],
        "pid": int(found["pid"]),
        "cpu": int(found["cpu"]),
        "time": float(found["time"]),
        "text": text[len(PRINTK) :] if text.startswith(PRINTK) else text,
    }


def read_pipe(seconds: float, limit: int) -> t.Dict[str, t.Any]:
    """Lines of the trace pipe, those that wait in it among them."""
    rest = b""
    events: t.List[t.Dict[str, t.Any]] = []
    lost = 0
    end = time.monotonic() + seconds
    with bpf.closing(open_pipe()) as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while len(events) < limit:
            left = end - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                break
            try:
                rest += os.read(fd, READ_BYTES)
            except BlockingIOError:
                continue
            *lines, rest = rest.split(b"\n")
            for line in (line.decode("utf-8", "replace") for line in lines if line):
                gap = LOST_LINE.fullmatch(line)
                if gap:
                    lost += int(gap[1])
                else:
                    events.append(parse_line(line))
    # What came in one piece with the last that was asked for would be gone, so it is told as well.
    return {"events": events, "count": len(events), "discarded": 0, "lost": lost}
