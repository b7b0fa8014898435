# SPDX-License-Identifier: GPL-3.0-or-later
"""xdp_redirect.bpf.c: frames go from device to device, and what has no entry meets the miss action.

Two pairs, a0 - a1 and b0 - b1: what a0 sends arrives at a1, is redirected to b0, and so arrives at b1.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import packets as p

GENERIC, NATIVE = 1 << 1, 1 << 2  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
BY_INGRESS = 0xFFFFFFFF
FRAMES = [
    p.ethernet(p.ipv4(p.udp(b"one"))),
    p.ethernet(p.ipv6(p.tcp(b"two" * 300), p.hop_by_hop())),
    p.ethernet(p.arp()),
]
SIZES = sum(map(len, FRAMES))
SENT, MISSED = "REDIRECT_SENT", "REDIRECT_MISSED"
MODES = pytest.mark.parametrize("mode", [GENERIC, NATIVE], ids=["generic", "native"])
LOOPBACK = 1  # the device of test runs


@pytest.fixture(params=p.COMPILERS)
def compiler(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def netns() -> t.Iterator[p.Namespace]:
    with contextlib.closing(p.Namespace()) as made:
        with made:
            p.veth("a0", "a1")
            p.veth("b0", "b1")
            yield made


def index(device: str) -> int:
    return socket.if_nametoindex(device)


@contextlib.contextmanager
def redirecting(redirect: p.Loaded, mode: int) -> t.Iterator[None]:
    """On a1; native, also a program at b1, without which b0 cannot transmit XDP frames (veth_xdp_xmit)."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(p.attached(redirect.programs["xdp_redirect"], "a1", "xdp", mode))
        if mode == NATIVE:
            receiver = p.load("count", "clang").programs["count_xdp"]
            stack.enter_context(p.attached(receiver, "b1", "xdp", NATIVE))
        yield


def check(look: t.Callable[[], t.Any], wanted: object) -> None:
    assert p.eventually(look, wanted) == wanted


@MODES
@pytest.mark.usefixtures("netns")
def test_frames_go_to_the_other_device_unchanged(compiler: str, mode: int) -> None:
    redirect = p.load("xdp_redirect", compiler)
    redirect.put_index("targets", index("a1"), index("b0"))
    with redirecting(redirect, mode), p.Capture("b1") as there, p.Capture("a1") as here:
        p.send("a0", *FRAMES)
        check(there.frames, FRAMES)
        check(redirect.counters, {SENT: (3, SIZES)})
        assert here.frames() == []


@MODES
@pytest.mark.usefixtures("netns")
def test_constant_slot(compiler: str, mode: int) -> None:
    redirect = p.load("xdp_redirect", compiler, slot=5)
    redirect.put_index("targets", 5, index("b0"))
    with redirecting(redirect, mode), p.Capture("b1") as there:
        p.send("a0", *FRAMES)
        check(there.frames, FRAMES)
    assert redirect.packets() == {SENT: 3}


@MODES
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("action", [p.XDP_PASS, p.XDP_DROP, p.XDP_ABORTED], ids=["pass", "drop", "aborted"])
def test_miss(compiler: str, mode: int, action: int) -> None:
    redirect = p.load("xdp_redirect", compiler, miss_action=action)
    redirect.put_index("targets", index("b0"), index("b1"))  # of another device
    with redirecting(redirect, mode), p.Capture("b1") as there, p.Capture("a1") as here:
        p.send("a0", *FRAMES)
        check(redirect.counters, {MISSED: (3, SIZES)})
        check(here.frames, FRAMES if action == p.XDP_PASS else [])
        assert there.frames() == []


@MODES
@pytest.mark.usefixtures("netns")
def test_entry_goes_with_its_device(compiler: str, mode: int) -> None:
    p.veth("c0", "c1")
    redirect = p.load("xdp_redirect", compiler)
    redirect.put_index("targets", index("a1"), index("c0"))
    with redirecting(redirect, mode), p.Capture("a1") as here:
        p.ip("link del c0")
        p.send("a0", *FRAMES)
        check(here.frames, FRAMES)
    assert redirect.packets() == {MISSED: 3}


@pytest.mark.usefixtures("netns")
def test_native_veth_loses_frames_without_a_program_at_the_far_end(compiler: str) -> None:
    """The trap: the verdict is REDIRECT and counted as sent, but veth_xdp_xmit() finds no receiver."""
    redirect = p.load("xdp_redirect", compiler)
    redirect.put_index("targets", index("a1"), index("b0"))
    with p.attached(redirect.programs["xdp_redirect"], "a1", "xdp", NATIVE), p.Capture("b1") as there:
        p.send("a0", FRAMES[0])
        check(redirect.packets, {SENT: 1})
        assert there.frames() == []


@MODES
@pytest.mark.usefixtures("netns")
def test_target_that_is_down_loses_frames_quietly(compiler: str, mode: int) -> None:
    redirect = p.load("xdp_redirect", compiler)
    redirect.put_index("targets", index("a1"), index("b0"))
    with redirecting(redirect, mode), p.Capture("b1") as there:
        p.ip("link set b0 down")
        p.send("a0", FRAMES[0])
        check(redirect.packets, {SENT: 1})
        p.ip("link set b0 up")
        p.send("a0", FRAMES[1])
        check(there.frames, FRAMES[1:2])


@MODES
@pytest.mark.usefixtures("netns")
def test_removal_gives_the_frames_back_to_the_stack(compiler: str, mode: int) -> None:
    redirect = p.load("xdp_redirect", compiler)
    redirect.put_index("targets", index("a1"), index("b0"))
    with p.Capture("b1") as there, p.Capture("a1") as here:
        with redirecting(redirect, mode):
            p.send("a0", FRAMES[0])
            check(there.frames, FRAMES[:1])
        p.send("a0", FRAMES[1])
        check(here.frames, FRAMES[1:2])
        assert there.frames() == FRAMES[:1]


# --- Test runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("constant", "action"), [(2, 2), (1, 1), (0, 0), (3, 0), (4, 0), (6, 0)])
def test_only_pass_drop_and_aborted_are_miss_actions(compiler: str, constant: int, action: int) -> None:
    redirect = p.load("xdp_redirect", compiler, miss_action=constant)
    for frame in FRAMES:
        assert redirect.run("xdp_redirect", frame) == action
    assert redirect.counters() == {MISSED: (3, SIZES)}


def test_miss_passes_unless_told_otherwise(compiler: str) -> None:
    redirect = p.load("xdp_redirect", compiler)
    assert redirect.run("xdp_redirect", FRAMES[0]) == p.XDP_PASS


@pytest.mark.parametrize(
    ("slot", "entry", "hit"), [(BY_INGRESS, LOOPBACK, True), (0, 0, True), (0, 1, False)]
)
def test_which_entry_is_looked_up(
    compiler: str, slot: int, entry: int, hit: bool, netns: p.Namespace
) -> None:
    redirect = p.load("xdp_redirect", compiler, slot=slot)
    redirect.put_index("targets", entry, index("a0"))
    assert redirect.run("xdp_redirect", FRAMES[0]) == (p.XDP_REDIRECT if hit else p.XDP_PASS)
    assert redirect.packets() == ({SENT: 1} if hit else {MISSED: 1})


def test_slot_beyond_the_map_is_a_miss(compiler: str) -> None:
    redirect = p.load("xdp_redirect", compiler, slot=1 << 20, miss_action=p.XDP_DROP)
    assert redirect.run("xdp_redirect", FRAMES[0]) == p.XDP_DROP
    assert redirect.packets() == {MISSED: 1}


def test_every_length(compiler: str) -> None:
    redirect = p.load("xdp_redirect", compiler, miss_action=p.XDP_DROP)
    for length in range(14, len(FRAMES[0]) + 1):
        assert redirect.run("xdp_redirect", FRAMES[0][:length]) == p.XDP_DROP
    lengths = range(14, len(FRAMES[0]) + 1)
    assert redirect.counters() == {MISSED: (len(lengths), sum(lengths))}
