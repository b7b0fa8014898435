# SPDX-License-Identifier: GPL-3.0-or-later
"""Attachments on a kernel without tcx and netkit: legacy filters, and clear words. Runs inside such a machine."""

from __future__ import annotations

import typing as t
from pathlib import Path

import policy_world as w
import pytest
from bpf_steps import COUNT, OURS, PAIR, PROGRAMS, answered, counters, nothing_new, with_count
from policy_cases import what_if
from sandbox import Sandbox
from steps import assert_same, converged, four_steps, removed, settled
from traffic import Stream

BOTH = [{"object": "count", "link": "b0", "hook": hook} for hook in ("ingress", "egress")]
THEIRS = """
    tc qdisc add dev b0 clsact
    tc filter add dev b0 ingress prio 100 protocol ip u32 match u32 0 0 flowid 1:1
    tc filter add dev b0 ingress prio 300 protocol all u32 match u32 0 0 flowid 1:1
"""


def ping(box: Sandbox, address: str, count: int) -> None:
    box.sh(f"ip netns exec client ping -c {count} -i 0.05 -W 5 -q {address}")


def unanswered(box: Sandbox, address: str) -> bool:
    done = box.run("ip", "netns", "exec", "client", "ping", "-c2", "-i0.1", "-W1", "-q", address, check=False)
    return done.returncode == 1


def test_auto_is_a_legacy_filter_and_says_so(box: Sandbox) -> None:
    before, state = box.bpf(), box.state()
    converged(box, PAIR)
    answered(box, "fd00::1")
    document = with_count(tcx_attach=BOTH)
    predicted = converged(box, document, check=True)
    done = converged(box, document)
    assert predicted["actions"] == done["actions"]
    assert done["notes"] == [
        f"tcx_attach b0 {hook} {OURS}: this kernel has no tcx, a legacy filter (clsact) is used"
        for hook in ("ingress", "egress")
    ]
    assert box.hooks() == {":b0 clsact ingress": [OURS], ":b0 clsact egress": [OURS], ":b0 clsact": []}
    ping(box, "10.0.0.1", 5)
    assert counters(box)[1] == 10  # requests and replies
    settled(box, document)
    converged(box, PAIR)
    assert "clsact" not in box.sh("tc qdisc show")
    removed(box)
    assert_same(box.state(), state)
    nothing_new(box, before)


def test_the_filter_drops_and_passes_both_families(box: Sandbox) -> None:
    def rule(verdict: t.Any) -> t.List[t.Dict[str, t.Any]]:
        return [
            {"object": "fw", "map": "sources4", "key": {"prefixlen": 32, "address": "10.0.0.2"}, "value": 1},
            {"object": "fw", "map": "sources6", "key": {"prefixlen": 128, "address": "fd00::2"}, "value": 1},
            {"object": "fw", "map": "rules", "key": {"source": 1, "protocol": 1}, "value": verdict},
            {"object": "fw", "map": "rules", "key": {"source": 1, "protocol": 58}, "value": verdict},
        ]

    document: t.Dict[str, t.Any] = {
        **PAIR,
        "bpf_object": [{"name": "fw", "source": "filter.bpf.c"}],
        "bpf_map_entry": rule(0),
        "tcx_attach": [{"object": "fw", "program": "filter", "link": "b0"}],
    }
    converged(box, PAIR)
    answered(box, "fd00::1")
    converged(box, document)
    ping(box, "10.0.0.1", 3)
    ping(box, "fd00::1", 3)
    assert counters(box, "fw")[1] >= 6 and 2 not in counters(box, "fw")
    document["bpf_map_entry"] = rule(2)
    converged(box, document)
    assert unanswered(box, "10.0.0.1") and unanswered(box, "fd00::1")
    assert counters(box, "fw")[2] >= 4
    document["bpf_map_entry"] = rule(0)
    converged(box, document)
    ping(box, "10.0.0.1", 3)


def test_filters_of_others_stay_as_they_are(box: Sandbox) -> None:
    converged(box, PAIR)
    box.sh(THEIRS)
    theirs = box.sh("tc filter show dev b0 ingress")
    document = with_count(tcx_attach=[{**BOTH[0], "order": "first"}, BOTH[1]])
    converged(box, document)
    assert box.hooks() == {
        ":b0 clsact ingress": [OURS, "u32", "u32"],
        ":b0 clsact egress": [OURS],
        ":b0 clsact": [],
    }
    settled(box, document)
    ping(box, "10.0.0.1", 2)
    assert counters(box)[1] == 4
    converged(box, PAIR)
    assert box.sh("tc filter show dev b0 ingress") == theirs
    assert box.hooks() == {":b0 clsact ingress": ["u32", "u32"], ":b0 clsact": []}


def test_a_filter_is_replaced_without_losing_a_packet_or_a_count(box: Sandbox, tmp_path: Path) -> None:
    mine = tmp_path / "count.bpf.c"
    text = (PROGRAMS / "count.bpf.c").read_text()
    mine.write_text(text)
    document = with_count(tcx_attach=[BOTH[0]])
    document["bpf_object"] = [{"name": "count", "source": str(mine)}]
    converged(box, document)
    start = counters(box).get(1, 0)
    with Stream(box, "client", "", "10.0.0.1", gap=0.002) as stream:
        for number in range(3):
            mine.write_text(f"{text}\n/* {number} */\n")
            assert len(converged(box, document)["actions"]) == 1
    assert (stream.received, stream.copies) == (stream.sent, 0)
    # Three datagrams before the numbered ones, and three after them.
    assert counters(box)[1] - start == stream.sent + 6
    assert box.hooks() == {":b0 clsact ingress": [OURS], ":b0 clsact": []}
    settled(box, document)


def test_tcx_is_a_clear_error(box: Sandbox) -> None:
    document = with_count(tcx_attach=[{**BOTH[0], "mechanism": "tcx"}])
    for check in (True, False):
        answer = box.topology(document, check=check)
        assert "this kernel has no tcx (Linux 6.6)" in answer["error"], answer
        assert "use a newer kernel, or mechanism: auto for a legacy filter" in answer["error"]
        assert "\n" not in answer["error"] and answer["type"] == "UnsupportedError"
    assert box.hooks() == {} and box.bpf()["pins"] == {} and box.namespaces() == []


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_xdp_counts(box: Sandbox, mode: str) -> None:
    converged(box, PAIR)
    answered(box, "fd00::1")
    four_document = with_count(xdp_attach=[{"object": "count", "link": "b0", "mode": mode}])
    converged(box, four_document)
    assert box.hooks() == {f":b0 xdp {mode}": ["edge/count:count_xdp"]}
    ping(box, "10.0.0.1", 4)
    assert counters(box)[1] == 4
    settled(box, four_document)


def test_a_netkit_pair_that_became_a_veth_takes_netkit_attachments(box: Sandbox) -> None:
    document = {
        "netns": [{"name": "client"}],
        "netkit_link": [
            {
                "name": "b0",
                "fallback": "veth",
                "addresses": ["10.0.0.1/24"],
                "peer": {"name": "a0", "netns": "client", "addresses": ["10.0.0.2/24"]},
            }
        ],
        "bpf_object": [COUNT],
        "netkit_attach": [
            {"object": "count", "link": "b0", "hook": hook, "mechanism": "auto"}
            for hook in ("peer", "primary")
        ],
    }
    four_steps(box, document)
    assert box.hooks() == {":b0 clsact ingress": [OURS], ":b0 clsact egress": [OURS], ":b0 clsact": []}
    ping(box, "10.0.0.1", 3)
    assert counters(box)[1] == 6
    refused = box.topology(
        {**document, "netkit_attach": [{"object": "count", "link": "b0", "hook": "peer"}]}, check=True
    )
    assert "b0 is not a netkit device but veth; use tcx_attach, or mechanism: auto" in refused["error"]
    removed(box)
    assert "clsact" not in box.sh("tc qdisc show")


def test_the_policy_router_routes_as_a_legacy_filter(box: Sandbox) -> None:
    """Compiled by clang elsewhere: this kernel refuses what BCC makes of it. The what-if is there too."""
    router = {"name": "router", "object": str(PROGRAMS / "policy_router.bpf.o")}
    converged(box, w.asymmetric())
    w.addressed(box)
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (0, 0)
    document = {**w.with_router(), "bpf_object": [router]}
    done = converged(box, document)
    assert any("a legacy filter (clsact) is used" in note for note in done["notes"])
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (3, 3)
    assert w.managed(box) == [["10.0.1.1", "good"], ["fd00:1::1", "good"]]
    told = what_if(
        box, {"source": w.VIP, "destination": "10.0.2.2"}, {"source": "10.0.9.2", "destination": "10.0.2.2"}
    )
    assert [(row["outcome"], row["interface"]) for row in told] == [("redirect", "good"), ("no_match", None)]
    settled(box, document)
    converged(box, {**w.with_router(entries=[]), "bpf_object": [router]})
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (0, 0)
    removed(box)
