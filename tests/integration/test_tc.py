# SPDX-License-Identifier: GPL-3.0-or-later
"""Legacy traffic control and XDP by netlink against the kernel, beside what `tc` and links put there.

Devices are a veth pair v0 - v1 in a network namespace that vanishes with the test.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError, PlanError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, rtnl, tc
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.netlink import Netlink

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "datapath"))
import packets as p

FRAME = p.ethernet(p.ipv4(p.udp(b"count me")))
CLASSIC = (
    "bpf",
    "direct-action",
    "bytecode",
    "1,6 0 0 4294967295",
)  # one instruction: return -1, the next filter
NOWHERE = 12345  # no interface of the namespace has this index


class Program:
    """A copy of count.bpf.c in the kernel, with counters of its own."""

    def __init__(self, loaded: libbpf.Loaded) -> None:
        self._counters = loaded.maps["counters"]
        self.tc, self.xdp = loaded.programs["count"], loaded.programs["count_xdp"]
        self.info, self.xdp_id = bpf.prog_info(self.tc), bpf.prog_info(self.xdp).id

    def packets(self) -> int:
        """How many packets it has seen."""
        size = bpf.entry_size(bpf.map_info(self._counters))
        value = bpf.map_lookup(self._counters, bytes(4), size)
        assert value is not None
        return sum(int.from_bytes(cpu[:8], sys.byteorder) for cpu in bpf.split_percpu(value, 16))


@pytest.fixture(scope="module")
def count_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    why = p.build.missing("clang")
    if why:
        pytest.skip(why)
    target = tmp_path_factory.mktemp("tc") / "count.o"
    p.build.compile_clang(p.SOURCES / "count.bpf.c", target, [p.SOURCES / "lib"])
    return target


@pytest.fixture
def programs(count_object: Path) -> t.Iterator[t.List[Program]]:
    """Two copies of the program."""
    with libbpf.load(count_object) as one, libbpf.load(count_object) as two:
        yield [Program(one), Program(two)]


@pytest.fixture
def netns() -> t.Iterator[p.Namespace]:
    with contextlib.closing(p.Namespace()) as made:
        with made:
            p.veth("v0", "v1")
            yield made


@pytest.fixture
def netlink(netns: p.Namespace) -> t.Iterator[Netlink]:
    with contextlib.closing(Netlink()) as opened:
        yield opened


@pytest.fixture
def v1(netns: p.Namespace) -> int:
    return socket.if_nametoindex("v1")


@pytest.fixture
def clsact(netlink: Netlink, v1: int) -> None:
    tc.add_clsact(netlink, v1)


def tc_command(*words: str) -> str:
    return subprocess.run(["tc", *words], check=True, capture_output=True, text=True).stdout


def places(netlink: Netlink, ifindex: int, hook: str) -> t.List[t.Tuple[str, int, int]]:
    return [(row.kind, row.priority, row.handle) for row in tc.filters(netlink, ifindex, hook)]


def refusal(call: t.Callable[..., object], *args: t.Any, **kwargs: t.Any) -> t.Tuple[str, str]:
    """The name of the error that a call ends in, and what it says it is about."""
    with pytest.raises(KernelError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value.name, caught.value.what


def xdp_of(netlink: Netlink, ifindex: int) -> t.Tuple[t.Tuple[str, int], ...]:
    return {link.ifindex: link.xdp for link in rtnl.links(netlink)}[ifindex]


# --- clsact -------------------------------------------------------------------------------------------------------


def test_clsact_comes_and_goes(netlink, v1):
    assert not tc.has_clsact(netlink, v1)
    assert tc.filters(netlink, v1, "ingress") == []
    tc.add_clsact(netlink, v1)
    assert tc.has_clsact(netlink, v1)
    assert not tc.has_clsact(netlink, socket.if_nametoindex("v0"))
    assert tc_command("qdisc", "show", "dev", "v1", "clsact").startswith(
        "qdisc clsact ffff: parent ffff:fff1"
    )
    assert refusal(tc.add_clsact, netlink, v1) == ("EEXIST", "clsact of v1")
    tc.delete_clsact(netlink, v1)
    assert not tc.has_clsact(netlink, v1)
    assert refusal(tc.delete_clsact, netlink, v1)[1] == "clsact of v1"


def test_deleting_clsact_leaves_tcx_alone(netlink, v1, clsact, programs):
    with p.attached(programs[0].tc, "v1", "ingress"):
        tc.add_filter(netlink, v1, "ingress", priority=1, handle=1, prog_fd=programs[1].tc, name="x")
        tc.delete_clsact(netlink, v1)
        assert [prog for prog, _link in bpf.prog_query(v1, bpf.TCX_INGRESS).entries] == [programs[0].info.id]


def test_the_old_ingress_discipline_is_told_apart(netlink, v1, programs):
    tc_command("qdisc", "add", "dev", "v1", "ingress")
    tc_command("filter", "add", "dev", "v1", "parent", "ffff:", "pref", "5", *CLASSIC)
    assert not tc.has_clsact(netlink, v1)
    assert [tc.filters(netlink, v1, hook) for hook in tc.HOOKS] == [[], []]
    with pytest.raises(PlanError) as caught:
        tc.add_clsact(netlink, v1)
    assert str(caught.value) == (
        "clsact of v1: an ingress queueing discipline is in its place; attach through clsact what needs it, then remove "
        "it (tc qdisc del dev v1 ingress)"
    )
    assert refusal(tc.delete_clsact, netlink, v1) == ("EINVAL", "clsact of v1")
    assert "pref 5 " in tc_command("filter", "show", "dev", "v1", "parent", "ffff:")


def test_a_device_that_is_gone(netlink, v1, programs):
    assert not tc.has_clsact(netlink, NOWHERE)
    assert tc.filters(netlink, NOWHERE, "egress") == []
    gone = f"interface {NOWHERE}, which is not there"
    assert refusal(tc.add_clsact, netlink, NOWHERE) == ("ENODEV", f"clsact of {gone}")
    assert refusal(
        tc.add_filter, netlink, NOWHERE, "egress", priority=1, handle=1, prog_fd=programs[0].tc, name="x"
    ) == ("ENODEV", f"filter 1/1 (x) at egress of {gone}")
    assert refusal(tc.set_xdp, netlink, NOWHERE, programs[0].xdp, "generic") == (
        "ENODEV",
        f"generic XDP program of {gone}",
    )


# --- Filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", tc.HOOKS)
def test_a_filter_reads_back_and_sees_the_packets_of_its_hook(netlink, v1, clsact, programs, hook):
    tc.add_filter(netlink, v1, hook, priority=300, handle=7, prog_fd=programs[0].tc, name="cnf:edge/out")
    assert tc.filters(netlink, v1, hook) == [
        tc.Filter(
            ifindex=v1,
            hook=hook,
            kind="bpf",
            priority=300,
            protocol=3,
            handle=7,
            name="cnf:edge/out",
            prog_id=programs[0].info.id,
            tag=programs[0].info.tag,
            direct_action=True,
            chain=0,
        )
    ]
    (other,) = set(tc.HOOKS) - {hook}
    assert tc.filters(netlink, v1, other) == []
    shown = tc_command("filter", "show", "dev", "v1", hook)
    assert "protocol all pref 300 bpf chain 0 handle 0x7 cnf:edge/out direct-action" in shown
    p.send("v0", FRAME, FRAME, FRAME)
    assert p.eventually(programs[0].packets, 3 if hook == "ingress" else 0) == (3 if hook == "ingress" else 0)
    p.send("v1", FRAME)
    assert programs[0].packets() == (3 if hook == "ingress" else 1)


def test_filters_stand_beside_those_of_others(netlink, v1, clsact, programs):
    """Those of `tc` stay as they are, and ours go where they should, whatever happens to ours."""

    def foreign() -> t.List[str]:
        lines = tc_command("filter", "show", "dev", "v1", "ingress").splitlines()
        return [line for line in lines if "pref 20" not in line and "pref 5 " not in line]

    tc_command("filter", "add", "dev", "v1", "ingress", "pref", "10", "handle", "0x2", *CLASSIC)
    tc_command(
        *("filter", "add", "dev", "v1", "ingress", "pref", "30", "protocol", "ip", "handle", "800::9"),
        *("u32", "match", "ip", "dst", "192.0.2.1/32", "flowid", "1:1"),
    )
    tc_command("filter", "add", "dev", "v1", "ingress", "chain", "4", "pref", "40", *CLASSIC)
    before = foreign()
    alone = tc.filters(netlink, v1, "ingress")
    assert [(row.kind, row.priority, row.handle, row.protocol, row.chain) for row in alone] == [
        ("bpf", 10, 2, 3, 0),
        ("u32", 30, 0x80000000, 0x800, 0),
        ("u32", 30, 0x80000009, 0x800, 0),
        ("bpf", 40, 1, 3, 4),
    ]
    assert [(row.prog_id, row.name, row.direct_action) for row in alone[:2]] == [
        (0, "", True),
        (0, "", False),
    ]

    one, two = programs
    tc.add_filter(netlink, v1, "ingress", priority=20, handle=1, prog_fd=one.tc, name="one")
    tc.add_filter(netlink, v1, "ingress", priority=5, handle=1, prog_fd=two.tc, name="two")
    order = [
        *(("bpf", 5, 1), ("bpf", 10, 2), ("bpf", 20, 1)),
        *(("u32", 30, 0x80000000), ("u32", 30, 0x80000009), ("bpf", 40, 1)),
    ]
    assert places(netlink, v1, "ingress") == order
    tc.replace_filter(netlink, v1, "ingress", priority=20, handle=1, prog_fd=two.tc, name="new")
    assert places(netlink, v1, "ingress") == order
    assert [
        (row.name, row.prog_id) for row in tc.filters(netlink, v1, "ingress") if row.priority in (5, 20)
    ] == [("two", two.info.id), ("new", two.info.id)]
    tc.delete_filter(netlink, v1, "ingress", priority=5, handle=1)
    tc.delete_filter(netlink, v1, "ingress", priority=20, handle=1)
    assert tc.filters(netlink, v1, "ingress") == alone
    assert foreign() == before


def test_flower_is_listed_by_its_name(netlink, v1, clsact, programs):
    made = subprocess.run(
        [
            *("tc", "filter", "add", "dev", "v1", "egress", "pref", "9", "handle", "3"),
            *("protocol", "ipv6", "flower", "ip_proto", "tcp"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"this kernel has no flower: {made.stderr.splitlines()[0]}")
    tc.add_filter(netlink, v1, "egress", priority=10, handle=1, prog_fd=programs[0].tc, name="x")
    assert tc.filters(netlink, v1, "egress")[0] == tc.Filter(
        v1, "egress", "flower", 9, 0x86DD, 3, "", 0, "", False, 0
    )
    assert places(netlink, v1, "egress")[1:] == [("bpf", 10, 1)]


def test_of_one_priority_the_newest_runs_first_and_replacing_keeps_the_order(netlink, v1, clsact, programs):
    for handle in (1, 2, 3):
        tc.add_filter(
            netlink, v1, "egress", priority=9, handle=handle, prog_fd=programs[0].tc, name=f"h{handle}"
        )
    tc.replace_filter(netlink, v1, "egress", priority=9, handle=2, prog_fd=programs[1].tc, name="new")
    assert [row.name for row in tc.filters(netlink, v1, "egress")] == ["h3", "new", "h1"]


def test_chosen_priorities_put_filters_where_they_were_wanted(netlink, v1, clsact, programs):
    tc_command("filter", "add", "dev", "v1", "ingress", *CLASSIC)  # the kernel chooses the priority
    (foreign,) = (row.priority for row in tc.filters(netlink, v1, "ingress"))
    assert foreign == tc.FIRST_PRIORITY
    for name, before, after in (
        ("first", foreign, None),
        ("last", None, foreign),
        ("middle", foreign, "first"),
    ):
        rows = tc.filters(netlink, v1, "ingress")
        behind = (
            next((row.priority for row in rows if row.name == after), None) if after == "first" else after
        )
        priority = tc.choose_priority([row.priority for row in rows], before, behind)
        tc.add_filter(netlink, v1, "ingress", priority=priority, handle=1, prog_fd=programs[0].tc, name=name)
    assert [row.name for row in tc.filters(netlink, v1, "ingress")] == ["first", "middle", "", "last"]


def test_refusals_name_device_and_filter(netlink, v1, clsact, programs):
    fd = programs[0].tc
    tc.add_filter(netlink, v1, "ingress", priority=8, handle=1, prog_fd=fd, name="x")
    tc_command(
        *("filter", "add", "dev", "v1", "ingress", "pref", "9", "protocol", "all"),
        *("u32", "match", "u32", "0", "0", "flowid", "1:1"),
    )
    before = tc.filters(netlink, v1, "ingress")
    about = "filter 8/{} at ingress of v1"
    again = {"priority": 8, "handle": 1, "prog_fd": fd, "name": "y"}
    assert refusal(tc.add_filter, netlink, v1, "ingress", **again) == (
        "EEXIST",
        "filter 8/1 (y) at ingress of v1",
    )
    assert refusal(tc.replace_filter, netlink, v1, "ingress", **{**again, "handle": 2}) == (
        "ENOENT",
        "filter 8/2 (y) at ingress of v1",
    )
    assert refusal(tc.replace_filter, netlink, v1, "egress", **again)[0] == "ENOENT"
    assert refusal(tc.delete_filter, netlink, v1, "ingress", priority=8, handle=2) == (
        "ENOENT",
        about.format(2),
    )
    assert refusal(tc.delete_filter, netlink, v1, "ingress", priority=9, handle=0x80000000)[0] == "EINVAL"
    assert refusal(tc.add_filter, netlink, v1, "ingress", **{**again, "priority": 9})[0] == "EINVAL"
    assert (
        refusal(tc.add_filter, netlink, v1, "egress", **{**again, "prog_fd": programs[0].xdp})[0] == "EINVAL"
    )
    assert tc.filters(netlink, v1, "ingress") == before


@pytest.mark.parametrize(("priority", "handle"), [(0, 1), (1, 0), (65536, 1), (-1, 1)])
def test_a_zero_never_reaches_the_kernel(netlink, v1, clsact, programs, priority, handle):
    """It would delete every filter of the priority, or of the hook."""
    tc.add_filter(netlink, v1, "ingress", priority=1, handle=1, prog_fd=programs[0].tc, name="x")
    with pytest.raises(ValueError):
        tc.delete_filter(netlink, v1, "ingress", priority=priority, handle=handle)
    assert places(netlink, v1, "ingress") == [("bpf", 1, 1)]


class Sender(threading.Thread):
    """Sends frames from v0, in its creator's network namespace, until told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.flowing, self.stopping = threading.Event(), threading.Event()

    def run(self) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("v0", 0))
            while not self.stopping.is_set():
                wire.send(FRAME)
                self.sent += 1
                self.flowing.set()
                if self.sent % 100 == 0:
                    time.sleep(
                        0.0001
                    )  # on a busy machine, too, the receiving side's queue of 1000 is emptied

    def __enter__(self) -> Sender:
        self.start()
        self.flowing.wait()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stopping.set()
        self.join()

    def wait_for_more(self) -> None:
        """Until a frame has been sent that was begun after this call."""
        for _begun in ("before", "after"):
            self.flowing.clear()
            self.flowing.wait()


@pytest.fixture
def every_cpu(netns: p.Namespace) -> t.Iterator[None]:
    """Undo the namespace's binding to one CPU: packets shall arrive while a request is at work."""
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield
    os.sched_setaffinity(0, bound)


def test_replacing_loses_no_packet_and_no_packet_passes_unseen(netlink, v1, clsact, programs, every_cpu):
    tc.add_filter(netlink, v1, "ingress", priority=1, handle=1, prog_fd=programs[0].tc, name="even")
    with Sender() as sender:
        for turn in range(1, 51):
            sender.wait_for_more()
            tc.replace_filter(
                netlink,
                v1,
                "ingress",
                priority=1,
                handle=1,
                prog_fd=programs[turn % 2].tc,
                name=f"turn {turn}",
            )
        sender.wait_for_more()
    assert sender.sent > 50
    assert p.eventually(lambda: sum(one.packets() for one in programs), sender.sent) == sender.sent
    assert all(one.packets() for one in programs)
    (row,) = tc.filters(netlink, v1, "ingress")
    assert (row.name, row.prog_id, row.handle) == ("turn 50", programs[0].info.id, 1)


# --- XDP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_xdp_is_set_replaced_and_removed(netlink, v1, programs, mode):
    one, two = programs
    assert xdp_of(netlink, v1) == ()
    tc.set_xdp(netlink, v1, one.xdp, mode, expected_fd=tc.NOTHING)
    assert xdp_of(netlink, v1) == ((mode, one.xdp_id),)
    assert xdp_of(netlink, socket.if_nametoindex("v0")) == ()
    p.send("v0", FRAME, FRAME)
    assert p.eventually(one.packets, 2) == 2
    tc.set_xdp(netlink, v1, two.xdp, mode, expected_fd=one.xdp)
    assert xdp_of(netlink, v1) == ((mode, two.xdp_id),)
    tc.set_xdp(netlink, v1, one.xdp, mode)
    assert xdp_of(netlink, v1) == ((mode, one.xdp_id),)
    tc.set_xdp(netlink, v1, tc.NOTHING, mode, expected_fd=one.xdp)
    assert xdp_of(netlink, v1) == ()


def test_xdp_of_others_is_not_replaced_unawares(netlink, v1, programs):
    one, two = programs
    about = "native XDP program of v1"
    tc.set_xdp(netlink, v1, one.xdp, "native")
    for fd, expected in ((two.xdp, tc.NOTHING), (two.xdp, two.xdp), (tc.NOTHING, two.xdp)):
        assert refusal(tc.set_xdp, netlink, v1, fd, "native", expected_fd=expected) == ("EEXIST", about)
    assert refusal(tc.set_xdp, netlink, v1, two.xdp, "generic") == (
        "EEXIST",
        "generic XDP program of v1",
    )
    assert xdp_of(netlink, v1) == (("native", one.xdp_id),)
    assert refusal(tc.set_xdp, netlink, v1, one.tc, "native") == ("EINVAL", about)
    tc.set_xdp(netlink, v1, tc.NOTHING, "generic")  # nothing of this mode is there, which is fine
    assert xdp_of(netlink, v1) == (("native", one.xdp_id),)


def test_xdp_of_a_link_is_busy(netlink, v1, programs):
    with p.attached(programs[0].xdp, "v1", "xdp", bpf.XDP_SKB_MODE):
        assert xdp_of(netlink, v1) == (("generic", programs[0].xdp_id),)
        for fd in (programs[1].xdp, tc.NOTHING):
            with pytest.raises(KernelError) as caught:
                tc.set_xdp(netlink, v1, fd, "generic")
            assert (caught.value.errno, caught.value.what) == (errno.EBUSY, "generic XDP program of v1")
        assert xdp_of(netlink, v1) == (("generic", programs[0].xdp_id),)
    assert xdp_of(netlink, v1) == ()


def test_a_mode_that_the_device_cannot_do(netlink, v1, programs):
    index = socket.if_nametoindex("lo")
    assert refusal(tc.set_xdp, netlink, index, programs[0].xdp, "native") == (
        "EOPNOTSUPP",
        "native XDP program of lo",
    )
    assert refusal(tc.set_xdp, netlink, v1, programs[0].xdp, "offload")[1] == "offload XDP program of v1"
    assert xdp_of(netlink, index) == ()
