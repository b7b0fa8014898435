# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Packets of a device by tcpdump: one process records, another one says what they are.

The recording one stays root, since it copies bytes only, and so the kernel can end it together with this process (a change of
user would undo that). What looks into packets of strangers runs as nobody. Both are reached by pipes: profiles of
AppArmor let tcpdump open few files, and a recording without a name cannot be left behind.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t
import zlib

from ._errors import SpecError, UnsupportedError
from ._kernel import namespaces, rtnl
from ._kernel.host import Links
from ._kernel.netlink import Netlink

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "link": {"type": "str", "required": True},
    "netns": {"type": "str", "default": ""},
    "filter": {"type": "raw"},
    "count": {"type": "int"},
    "seconds": {"type": "float", "default": 10.0},
    "snaplen": {"type": "int", "default": 262144},
    "direction": {"type": "str", "choices": ["in", "out", "inout"], "default": "inout"},
    "limit": {"type": "int", "default": 1000},
    "dest": {"type": "str"},
}

PROGRAM = "tcpdump"
ANY = "any"  # libpcap's word for all devices
MAX_SNAPLEN = 262144
MAX_BYTES = 64 << 20  # of a recording: it comes back within the module's answer
READ_BYTES = 1 << 16
START_SECONDS = 10.0
END_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
LISTENING = b"listening on "
COUNTS = {
    "captured": "captured",
    "received_by_filter": "received by filter",
    "dropped": "dropped by kernel",
}
LINE = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d+) (.*)")

_libc = ctypes.CDLL(None, use_errno=True)


class Recording(t.NamedTuple):
    """What the recording tcpdump left: what it said, and why it ended (``count``, ``seconds`` or ``size``)."""

    said: str
    ended: str


def capture(params: t.Mapping[str, t.Any], directory: str) -> t.Dict[str, t.Any]:
    """The answer of packet_capture; ``directory`` takes the recording. Raises SpecError, UnsupportedError, KernelError."""
    expression = expression_of(params["filter"])
    _check_numbers(params)
    program = find_program()
    device = find_device(params["netns"], params["link"])
    words = record_words(program, device, expression, params)
    with tempfile.TemporaryFile(dir=directory) as spool:
        done = record(words, params["netns"], params["seconds"], t.cast(t.BinaryIO, spool), expression)
        counts = counts_of(done.said)
        spool.seek(0)
        content = spool.read()
    lines = describe(program, params["netns"], content, params["limit"])
    answer = {
        "packets": packets_of(lines),
        **counts,
        "ended": done.ended,
        "truncated": counts["captured"] > params["limit"],
        "bytes": len(content),
    }
    if params["dest"]:
        answer["pcap"] = base64.b64encode(zlib.compress(content)).decode()
    return answer


# --- Pure ---------------------------------------------------------------------------------------------------------


def expression_of(given: t.Any) -> str:
    """The expression of pcap-filter(7) as one text, whether it came as one or as a list of words."""
    words = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(word, (str, int)) and not isinstance(word, bool) for word in words):
        raise SpecError("filter", "is not an expression: give one text, or a list of words")
    text = " ".join(str(word) for word in words).strip()
    if text.startswith("-"):
        raise SpecError("filter", f"{text!r} begins with a dash; an expression such as tcp port 80 is needed")
    if "\0" in text or "\n" in text:
        raise SpecError("filter", "an expression is one line of text")
    return text


def _check_numbers(params: t.Mapping[str, t.Any]) -> None:
    for name, least in (("count", 1), ("limit", 0), ("snaplen", 1)):
        if params[name] is not None and params[name] < least:
            raise SpecError(name, f"{params[name]} is too small; give {least} or more")
    if params["snaplen"] > MAX_SNAPLEN:
        raise SpecError("snaplen", f"{params['snaplen']} is too large; give {MAX_SNAPLEN} or less")
    if params["seconds"] <= 0:
        raise SpecError("seconds", f"{params['seconds']} is not a time to wait for; give more than 0")


def record_words(program: str, device: str, expression: str, params: t.Mapping[str, t.Any]) -> t.List[str]:
    words = [program, "-i", device, "-w", "-", "-nn", "-Z", "root", "--immediate-mode"]
    words += ["-s", str(params["snaplen"]), "-Q", params["direction"]]
    if params["count"] is not None:
        words += ["-c", str(params["count"])]
    return [*words, "--", expression] if expression else words


def counts_of(said: str) -> t.Dict[str, int]:
    """tcpdump's own figures, 0 where it gives none."""
    found = {}
    for name, words in COUNTS.items():
        row = re.search(rf"^(\d+) packets? {words}", said, re.MULTILINE)
        found[name] = int(row[1]) if row else 0
    return found


def complaint_of(said: str) -> str:
    """What tcpdump complained of, in one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{PROGRAM}:")]
    own = [line for line in own if not line.startswith(("verbose output", "listening on", "data link type"))]
    return "; ".join(own) or (lines[-1] if lines else "it gave no reason")


def packets_of(lines: t.Iterable[str]) -> t.List[t.Dict[str, str]]:
    """tcpdump's lines by packet; a line without a time belongs to the packet before it."""
    found: t.List[t.Dict[str, str]] = []
    for line in lines:
        row = LINE.fullmatch(line)
        if row:
            found.append({"time": f"{row[1]}T{row[2]}Z", "text": row[3]})
        elif found:
            found[-1]["text"] += f"\n{line}"
    return found


# --- Processes ----------------------------------------------------------------------------------------------------


def find_program() -> str:
    path = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise UnsupportedError(f"{PROGRAM} is missing; install the package tcpdump (apt-get install tcpdump)")
    return path


def find_device(netns: str, name: str) -> str:
    """The name that tcpdump is told, after asking the kernel for it: a word that is no device could be an option."""
    if netns and not namespaces.is_namespace(netns):
        raise SpecError("netns", f"there is no network namespace {netns!r}")
    with namespaces.entered(netns):
        netlink = Netlink()
    with contextlib.closing(netlink):
        links = Links(rtnl.links(netlink))
    if name == ANY:
        return name
    record = links.by_name.get(name) or links.by_altname.get(name)
    if record is None:
        raise SpecError(
            "link",
            f"there is no device {name!r} in {netns or 'the host namespace'}; it has {', '.join(links.by_name)}",
        )
    if not record.flags & rtnl.IFF_UP:
        raise SpecError("link", f"{name} is down: no packet passes it; set it up first")
    return record.name


def record(
    words: t.Sequence[str], netns: str, seconds: float, spool: t.BinaryIO, expression: str
) -> Recording:
    """Run tcpdump until it has enough, or the seconds since it began to listen are over."""
    with namespaces.entered(netns):
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function # it runs while this watches
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            preexec_fn=_dying_with(os.getpid()),  # noqa: PLW1509 (this process has one thread)
        )
    try:
        done = _watch(process, seconds, spool)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if process.returncode:
        problem = complaint_of(done.said)
        if expression and not problem.startswith(f"{words[2]}:"):  # such is about the device
            raise SpecError("filter", f"{expression!r}: {problem}")
        raise UnsupportedError(f"{PROGRAM} {words[2]}: {problem}")
    return done


def _dying_with(parent: int) -> t.Callable[[], None]:
    """What a new process does first, so that the kernel ends it when its parent ends, however that happens."""

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was faster
            os._exit(1)

    return prepare


def _watch(process: subprocess.Popen[bytes], seconds: float, spool: t.BinaryIO) -> Recording:
    output, errors = (t.cast(t.IO[bytes], pipe).fileno() for pipe in (process.stdout, process.stderr))
    poller = select.poll()
    for fd in (output, errors):
        poller.register(fd, select.POLLIN | select.POLLHUP)
    open_fds = {output, errors}
    said, ended, size = b"", "count", 0
    listening = stopping = False
    end = time.monotonic() + START_SECONDS
    while open_fds:
        left = end - time.monotonic()
        if left <= 0:
            if stopping or not listening:
                process.kill()
                raise UnsupportedError(f"{PROGRAM}: it does not {'end' if stopping else 'begin to listen'}")
            stopping, ended, left = True, "seconds", END_SECONDS
            end = time.monotonic() + END_SECONDS
            process.send_signal(signal.SIGINT)
        for fd, _events in poller.poll(left * 1000):
            data = os.read(fd, READ_BYTES)
            if not data:
                poller.unregister(fd)
                open_fds.remove(fd)
            elif fd == errors:
                said += data
                if not listening and LISTENING in said:
                    listening, end = True, time.monotonic() + seconds
            else:
                spool.write(data)
                size += len(data)
                if size > MAX_BYTES and not stopping:
                    stopping, ended, end = True, "size", time.monotonic() + END_SECONDS
                    process.send_signal(signal.SIGINT)
    process.wait(END_SECONDS)
    return Recording(said.decode("utf-8", "replace"), ended)


def describe(program: str, netns: str, content: bytes, limit: int) -> t.List[str]:
    """tcpdump's lines about a recording; names of hosts and ports are not looked up, times are UTC.

    It runs in the namespace as well: a recording of all devices has their indexes, and tcpdump looks up the names.
    """
    if not limit or not content:
        return []
    with namespaces.entered(netns):
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function # this layer knows no AnsibleModule
            [program, "-nn", "-tttt", "-r", "-", "-c", str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            **_as_nobody(),
        )
    with process:
        output, errors = process.communicate(content)
    if process.returncode and not output:
        raise UnsupportedError(
            f"{PROGRAM} cannot read its own recording: {complaint_of(errors.decode('utf-8', 'replace'))}"
        )
    return output.decode("utf-8", "replace").splitlines()


def _as_nobody() -> t.Dict[str, t.Any]:
    """What subprocess needs to run something as nobody, where there is such a user."""
    try:
        user = pwd.getpwnam("nobody")
    except KeyError:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
