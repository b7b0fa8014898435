# SPDX-License-Identifier: GPL-3.0-or-later
"""Attachments to real netkit pairs, with real packets. Runs inside a machine whose kernel has netkit."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import pytest
from bpf_steps import COUNT, OURS, PROGRAMS, answered, counters, nothing_new
from sandbox import Sandbox
from steps import assert_same, converged, four_steps, removed, settled
from traffic import Stream

HOOKS = ("primary", "peer", "ingress", "egress")
PEER, PRIMARY = ":nk0 peer", ":nk0 primary"
FIREWALL = {"name": "fw", "source": "filter.bpf.c"}
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def pair(mode: str = "l3", netns: str = "") -> t.Dict[str, t.Any]:
    """client [eth0 10.0.0.2] == [nk0 10.0.0.1] host, or ``netns``; nothing else than what a test sends is ever on it."""
    here = {"netns": netns} if netns else {}
    link: t.Dict[str, t.Any] = {
        "name": "nk0",
        **here,
        "mode": mode,
        "addresses": ["10.0.0.1/24", "fd00::1/64"],
        "peer": {"name": "eth0", "netns": "client", "addresses": ["10.0.0.2/24", "fd00::2/64"]},
    }
    document: t.Dict[str, t.Any] = {
        "netns": [{"name": name} for name in ("client", netns) if name],
        "netkit_link": [link],
    }
    if mode == "l2":
        link["mac"], link["peer"]["mac"] = MACS
        document["neighbor"] = [
            *({"dev": "nk0", **here, "address": a, "mac": MACS[1]} for a in ("10.0.0.2", "fd00::2")),
            *(
                {"dev": "eth0", "netns": "client", "address": a, "mac": MACS[0]}
                for a in ("10.0.0.1", "fd00::1")
            ),
        ]
    return document


def with_count(**more: t.Any) -> t.Dict[str, t.Any]:
    return {**pair(), "bpf_object": [COUNT], **more}


def attached(hook: str = "peer", **more: t.Any) -> t.Dict[str, t.Any]:
    return {"object": "count", "link": "nk0", "hook": hook, **more}


def ping(box: Sandbox, address: str, count: int) -> None:
    box.sh(f"ip netns exec client ping -c {count} -i 0.05 -W 5 -q {address}")


def unanswered(box: Sandbox, address: str) -> bool:
    done = box.run("ip", "netns", "exec", "client", "ping", "-c2", "-i0.1", "-W1", "-q", address, check=False)
    return done.returncode == 1


def in_client(box: Sandbox, code: str) -> str:
    """What a few lines of Python in the far namespace print."""
    head = (
        "import socket; from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf;"
        "from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError\n"
    )
    words = ("ip", "netns", "exec", "client", box.python, "-c", head + code)
    return box.run(*words, env=box.environment()).stdout.strip()


def another_version(tmp_path: Path, number: int = 0) -> str:
    mine = tmp_path / "count.bpf.c"
    mine.write_text((PROGRAMS / "count.bpf.c").read_text() + f"\n/* version {number} */\n")
    return str(mine)


# --- what is seen where -----------------------------------------------------------------------------------------------------


def silence(box: Sandbox, names: t.Sequence[str]) -> t.Dict[str, t.Dict[int, int]]:
    """The counters once the kernel has made its own announcements (MLD, router solicitations), which are IPv6 packets too."""
    before: t.Dict[str, t.Dict[int, int]] = {}
    for _attempt in range(60):
        now = {name: counters(box, name) for name in names}
        if now == before:
            return now
        before = now
        time.sleep(1.5)
    raise AssertionError(f"the link does not fall silent: {before}")


@pytest.mark.parametrize(("mode", "netns"), [("l3", ""), ("l2", ""), ("l3", "router")])
def test_every_hook_counts_every_packet_once(box: Sandbox, mode: str, netns: str) -> None:
    names = [f"at-{hook}" for hook in HOOKS]
    here = {"netns": netns} if netns else {}
    spaces = [name for name in ("client", netns) if name]
    converged(box, {"netns": [{"name": name} for name in spaces]})
    for name in ("", *spaces):
        inside = f"ip netns exec {name} " if name else ""
        box.sh(f"{inside}sysctl -qw net.ipv6.conf.default.router_solicitations=0")
    document = {
        **pair(mode, netns),
        "bpf_object": [{**COUNT, "name": name} for name in names],
        "netkit_attach": [attached(hook, object=f"at-{hook}", **here) for hook in HOOKS[:2]],
        "tcx_attach": [attached(hook, object=f"at-{hook}", **here) for hook in HOOKS[2:]],
    }
    converged(box, document)
    assert box.hooks() == {f"{netns}:nk0 {hook}": [f"edge/at-{hook}:count"] for hook in HOOKS}
    answered(box, "fd00::1")
    before = silence(box, names)
    ping(box, "10.0.0.1", 5)
    ping(box, "fd00::1", 7)
    for name, now in silence(box, names).items():
        moved = {index: packets - before[name].get(index, 0) for index, packets in now.items()}
        assert {index: packets for index, packets in moved.items() if packets} == {0: 12, 1: 5, 2: 7}, name
    settled(box, document)


# --- order ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"order": "first"}, [OURS, "alpha", "beta"]),
        ({"order": "last"}, ["alpha", "beta", OURS]),
        ({"order": "before", "relative_to": {"name": "beta"}}, ["alpha", OURS, "beta"]),
        ({"order": "after", "relative_to": {"name": "alpha"}}, ["alpha", OURS, "beta"]),
    ],
)
def test_a_place_among_programs_of_others(
    box: Sandbox, elsewhere: t.Callable[..., t.List[int]], place: t.Mapping[str, t.Any], expected: t.List[str]
) -> None:
    converged(box, pair())
    elsewhere("alpha", "nk0", "peer")
    elsewhere("beta", "nk0", "peer", linkless=True)
    assert box.bpf()["hooks"] == {PEER: {"programs": ["alpha", "beta"], "revision": 3}}
    document = with_count(netkit_attach=[attached(**place)])
    converged(box, document)
    assert box.bpf()["hooks"] == {PEER: {"programs": expected, "revision": 4}}
    settled(box, document)
    assert box.bpf()["hooks"][PEER]["revision"] == 4
    converged(box, pair())
    assert box.bpf()["hooks"] == {PEER: {"programs": ["alpha", "beta"], "revision": 5}}


def test_a_program_that_came_in_front_is_overtaken_without_losing_a_packet(
    box: Sandbox, elsewhere: t.Callable[..., t.List[int]]
) -> None:
    document = with_count(netkit_attach=[attached(order="first")])
    converged(box, document)
    elsewhere("usurper", "nk0", "peer", first=True)
    with Stream(box, "client", "", "10.0.0.1", gap=0.002) as stream:
        done = converged(box, document)
    assert done["actions"] == [f"change netkit_attach nk0 peer {OURS} (order position 2 of 2 -> first)"]
    assert box.bpf()["hooks"] == {PEER: {"programs": [OURS, "usurper"], "revision": 6}}
    assert (stream.received, stream.copies) == (stream.sent, 0)
    settled(box, document)


def test_a_hook_that_was_emptied_takes_programs_again(box: Sandbox) -> None:
    """The kernel tells revision 1 of it while its counter went on, so nothing fits but to ask for no revision at all."""
    document = with_count(netkit_attach=[attached(), attached("primary")])
    for number in range(3):
        converged(box, document)
        revision = 2 + 2 * number
        assert box.bpf()["hooks"] == {
            hook: {"programs": [OURS], "revision": revision} for hook in (PEER, PRIMARY)
        }
        converged(box, {**pair(), "bpf_object": [COUNT]})
        assert box.hooks() == {}


# --- who may do what ----------------------------------------------------------------------------------------------------------


def test_what_the_filter_lets_pass_passes_and_the_rest_drops_and_the_far_end_cannot_help_it(
    box: Sandbox,
) -> None:
    document: t.Dict[str, t.Any] = {
        **pair(),
        "bpf_object": [FIREWALL],
        "bpf_map_entry": [
            {"object": "fw", "map": "sources4", "key": {"prefixlen": 32, "address": "10.0.0.2"}, "value": 1},
            {"object": "fw", "map": "rules", "key": {"source": 1, "protocol": 1}, "value": "TC_PASS"},
        ],
        "netkit_attach": [
            {"object": "fw", "program": "filter", "link": "nk0", "hook": "peer"},
            {"object": "fw", "program": "drop_all", "link": "nk0", "hook": "peer", "order": "last"},
        ],
    }
    four_steps(box, document)
    expected = {PEER: ["edge/fw:filter", "edge/fw:drop_all"]}
    assert box.hooks() == expected
    ping(box, "10.0.0.1", 3)
    dropped = counters(box, "fw").get(9, 0)
    assert unanswered(box, "fd00::1")
    found = counters(box, "fw")
    assert found[1] == 3 and found[9] - dropped >= 2

    # The blackhole policy would not do it: it holds only while nothing is attached.
    assert in_client(
        box,
        """
for hook in (bpf.NETKIT_PEER, bpf.NETKIT_PRIMARY):
    try:
        bpf.prog_query(socket.if_nametoindex("eth0"), hook)
    except KernelError as problem:
        print(problem.name)
""",
    ).split() == ["EACCES", "EACCES"]
    for hook in ("netkit_peer", "netkit_primary"):
        told = box.run(
            "ip", "netns", "exec", "client", "bpftool", "net", "detach", hook, "dev", "eth0", check=False
        )
        assert told.returncode != 0
    assert box.hooks() == expected

    # Without the filter everything drops; without drop_all, everything passes that no rule forbids.
    only = {**document, "netkit_attach": document["netkit_attach"][1:]}
    converged(box, only)
    assert unanswered(box, "10.0.0.1")
    converged(box, {**document, "netkit_attach": document["netkit_attach"][:1]})
    answered(box, "fd00::1")
    converged(box, document)
    assert unanswered(box, "fd00::1")
    ping(box, "10.0.0.1", 2)


def test_mistakes_are_one_clear_line(box: Sandbox) -> None:
    veth = {"name": "b0", "kind": "veth", "peer": {"name": "b1"}}
    document = with_count(link=[veth])
    converged(box, document)
    for entry, error in (
        (
            attached(link="eth0", netns="client"),
            "eth0 is the far end of a netkit pair, which cannot be asked or changed; name its primary end as link",
        ),
        (
            attached(link="b0"),
            "b0 is not a netkit device but veth; use tcx_attach, or mechanism: auto for the tcx hook that sees the same",
        ),
    ):
        for check in (True, False):
            answer = box.topology({**document, "netkit_attach": [entry]}, check=check)
            assert error in answer["error"] and "\n" not in answer["error"]
            assert answer["type"] != "ConvergeError"
    assert box.hooks() == {}


def test_the_mechanism_follows_the_device(box: Sandbox) -> None:
    document = {
        **pair(),
        "link": [{"name": "b0", "kind": "veth", "peer": {"name": "b1"}}],
        "bpf_object": [COUNT],
        "netkit_attach": [
            attached(hook, link=link, mechanism="auto")
            for link in ("nk0", "b0")
            for hook in ("primary", "peer")
        ],
    }
    four_steps(box, document)
    assert box.hooks() == {
        ":b0 egress": [OURS],
        ":b0 ingress": [OURS],
        PEER: [OURS],
        PRIMARY: [OURS],
    }
    removed(box)


# --- changes under traffic ----------------------------------------------------------------------------------------------------


def test_no_packet_is_lost_and_no_count_in_20_replacements(box: Sandbox, tmp_path: Path) -> None:
    document = with_count(netkit_attach=[attached()])
    document["bpf_object"] = [{"name": "count", "source": another_version(tmp_path)}]
    converged(box, document)
    start = counters(box).get(1, 0)
    with Stream(box, "client", "", "10.0.0.1", gap=0.002) as stream:
        for number in range(1, 21):
            another_version(tmp_path, number % 3)
            assert len(converged(box, document)["actions"]) == 1
    assert (stream.received, stream.copies) == (stream.sent, 0)
    # Three datagrams before the numbered ones, and three after them.
    assert counters(box)[1] - start == stream.sent + 6
    assert box.hooks() == {PEER: [OURS]}


def test_a_pair_that_was_made_anew_gets_its_programs_back_in_one_run(box: Sandbox) -> None:
    document = with_count(
        netkit_attach=[attached(), attached("primary")],
        tcx_attach=[attached("ingress")],
        xdp_attach=[{"object": "count", "link": "nk0"}],
    )
    converged(box, document)
    expected = box.hooks()
    assert len(expected) == 4
    box.sh("ip link del nk0")
    assert box.hooks() == {}
    predicted = converged(box, document, check=True)
    done = converged(box, document)
    assert predicted["actions"] == done["actions"]
    assert done["actions"][0] == "create link nk0 (missing)"
    assert box.hooks() == expected
    assert len([name for name in box.bpf()["pins"] if "/links/" in name]) == 4
    settled(box, document)
    ping(box, "10.0.0.1", 1)


def test_the_target_of_a_mirror_goes_down_and_the_traffic_does_not_care(box: Sandbox) -> None:
    document = {
        **pair(),
        "link": [{"name": "mon0", "kind": "veth", "peer": {"name": "mon1"}}],
        "bpf_object": [{"name": "mirror", "source": "mirror.bpf.c"}],
        "bpf_map_entry": [{"object": "mirror", "map": "target", "key": 0, "value": "link:mon0"}],
        "netkit_attach": [attached(object="mirror")],
    }
    converged(box, document)
    received = "cat /sys/class/net/mon1/statistics/rx_packets"
    quiet = int(box.sh(received))
    ping(box, "10.0.0.1", 4)
    assert counters(box, "mirror")[1] >= 4 and int(box.sh(received)) - quiet >= 4
    with Stream(box, "client", "", "10.0.0.1", gap=0.002) as stream:
        for change in ("set mon1 down", "set mon0 down", "del mon0"):
            box.sh(f"sleep 0.3; ip link {change}")
        box.sh("sleep 0.3")
    assert (stream.received, stream.copies) == (stream.sent, 0)
    found = counters(box, "mirror")
    assert found[0] == found[1] + found[5] and found[1] > 0 and found[5] > 0  # seen = copied + failed


# --- XDP ----------------------------------------------------------------------------------------------------------------------


def test_xdp_on_netkit_is_generic(box: Sandbox) -> None:
    """The kernel's own choice fell back to generic up to 6.18 and is an error since."""
    native = box.topology(with_count(xdp_attach=[{"object": "count", "link": "nk0", "mode": "native"}]))
    assert (
        "the driver of nk0 does not take XDP in native mode (EOPNOTSUPP); use mode: generic or auto"
        in native["error"]
    )
    assert native["left"] == []
    for mode in ("auto", "generic"):
        document = with_count(xdp_attach=[{"object": "count", "link": "nk0", "mode": mode}])
        four_steps(box, document)
        assert box.hooks() == {":nk0 xdp generic": ["edge/count:count_xdp"]}
        ping(box, "10.0.0.1", 3)
        assert counters(box)[1] == 3
        removed(box)


# --- bad moments --------------------------------------------------------------------------------------------------------------

# Small, as it is compiled again for every operation at which a run is killed.
SMALL = """#include "compat.h"
SEC("tc") int one(struct __sk_buff *skb) { return -1; }
SEC("tc") int two(struct __sk_buff *skb) { return -1; }
SEC("xdp") int three(struct xdp_md *xdp) { return 2; }
LICENSE("GPL");
"""


@pytest.fixture
def full(tmp_path: Path) -> t.Dict[str, t.Any]:
    source = tmp_path / "small.bpf.c"
    source.write_text(SMALL)
    return {
        "netns": [{"name": "client"}],
        "netkit_link": [{"name": "nk0", "peer": {"name": "eth0", "netns": "client"}}],
        "bpf_object": [{"name": "x", "source": str(source)}],
        "netkit_attach": [
            attached(object="x", program="one", order="first"),
            attached(object="x", program="two", order="after", relative_to={"object": "x", "program": "one"}),
            attached("primary", object="x", program="one"),
        ],
        "xdp_attach": [{"object": "x", "link": "nk0"}],
    }


@pytest.fixture
def other(full: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    """Another order, one attachment less, one more."""
    return {
        **full,
        "netkit_attach": [
            attached(object="x", program="two", order="first"),
            attached(object="x", program="one", order="last"),
        ],
        "tcx_attach": [attached("egress", object="x", program="one")],
    }


EXPECTED = {
    PEER: ["edge/x:one", "edge/x:two"],
    PRIMARY: ["edge/x:one"],
    ":nk0 xdp generic": ["edge/x:three"],
}
EXPECTED_OTHER = {
    PEER: ["edge/x:two", "edge/x:one"],
    ":nk0 egress": ["edge/x:one"],
    ":nk0 xdp generic": ["edge/x:three"],
}


def actions(box: Sandbox, document: t.Mapping[str, t.Any], **options: t.Any) -> int:
    return len(converged(box, document, check=True, **options)["actions"])


def snapshot(box: Sandbox) -> t.Dict[str, t.Any]:
    found = box.bpf()
    hooks = {name: hook.get("programs") for name, hook in found["hooks"].items()}
    return {**box.state(), "pins": found["pins"], "hooks": hooks}


def killed(box: Sandbox, number: int, document: t.Mapping[str, t.Any], **options: t.Any) -> None:
    assert box.topology(document, kill_after=number, **options).get("killed"), number


def test_killed_after_every_operation_the_next_run_converges(
    box: Sandbox, full: t.Dict[str, t.Any], other: t.Dict[str, t.Any]
) -> None:
    before = box.bpf()
    for number in range(actions(box, full)):
        killed(box, number, full)
        converged(box, full)
        assert box.hooks() == EXPECTED, number
        settled(box, full)
        if number < actions(box, other):
            killed(box, number, other)
            converged(box, other)
            assert box.hooks() == EXPECTED_OTHER, number
        if number < actions(box, {}, state="absent"):
            killed(box, number, {}, state="absent")
        converged(box, {}, state="absent")
        assert box.bpf()["pins"] == {} and box.hooks() == {}, number
        assert box.sh("ls /var/lib/cnf-ebpf").split() == ["lock"]
    nothing_new(box, before)


def test_failed_at_every_operation_everything_is_as_before(
    box: Sandbox, full: t.Dict[str, t.Any], other: t.Dict[str, t.Any]
) -> None:
    empty, ids = snapshot(box), box.bpf()
    for number in range(actions(box, full)):
        assert box.topology(full, fail_after=number)["left"] == [], number
        assert_same(snapshot(box), empty)
    nothing_new(box, ids)
    converged(box, full)
    there, ids = snapshot(box), box.bpf()
    for document, state in ((other, "present"), ({}, "absent")):
        for number in range(actions(box, document, state=state)):
            answer = box.topology(document, state=state, fail_after=number)
            assert answer["left"] == [], (number, answer)
            assert_same(snapshot(box), there)
    nothing_new(box, {**ids, "links": box.bpf()["links"]})
    settled(box, full)


# --- nothing is left ----------------------------------------------------------------------------------------------------------


def test_everything_at_once_and_nothing_afterwards(box: Sandbox, full: t.Dict[str, t.Any]) -> None:
    before, state = box.bpf(), box.state()
    four_steps(box, full)
    assert box.hooks() == EXPECTED
    assert json.loads(box.run("bpftool", "-j", "net").stdout)
    removed(box)
    assert box.bpf()["pins"] == {} and box.hooks() == {}
    assert_same(box.state(), state)
    assert box.sh("ls /var/lib/cnf-ebpf").split() == ["lock"]
    nothing_new(box, before)
