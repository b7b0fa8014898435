# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects and attachments on this kernel: real programs, real packets, what others attached beside ours, and bad days."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from bpf_steps import COUNT, OURS, PAIR, answered, counters, nothing_new, with_count
from sandbox import Sandbox
from steps import converged, four_steps, removed, settled
from traffic import Stream

PROGRAMS = Path(__file__).resolve().parent.parent.parent / "files" / "bpf"

# --- objects ----------------------------------------------------------------------------------------------------------------


def test_an_object_is_loaded_once_and_leaves_nothing(box: Sandbox) -> None:
    before = box.bpf()
    done = four_steps(box, {"bpf_object": [COUNT]})
    assert done["actions"] == ["create bpf_object edge/count (missing)"]
    assert box.bpf()["pins"] == {
        "edge/count/maps/counters": "anon_inode:bpf-map",
        "edge/count/programs/count": "anon_inode:bpf-prog",
        "edge/count/programs/count_xdp": "anon_inode:bpf-prog",
    }
    assert box.sh("stat -c %a /sys/fs/bpf/cnf /sys/fs/bpf/cnf/edge/count/programs").split() == ["700", "700"]
    removed(box)
    assert box.bpf()["pins"] == {}
    nothing_new(box, before)
    assert box.sh("ls /var/lib/cnf-ebpf").split() == ["lock"]


def test_a_changed_source_replaces_the_program_and_keeps_the_counters(box: Sandbox, tmp_path: Path) -> None:
    document = with_count(tcx_attach=[{"object": "count", "link": "b0"}])
    converged(box, document)
    box.sh("ip netns exec client ping -c 3 -i 0.05 -q 10.0.0.1")
    counted = counters(box)
    assert counted[1] == 3
    mine = tmp_path / "count.bpf.c"
    mine.write_text((PROGRAMS / "count.bpf.c").read_text() + "\n/* another version */\n")
    changed = converged(box, {**document, "bpf_object": [{"name": "count", "source": str(mine)}]})
    (action,) = changed["actions"]
    assert action.startswith("change bpf_object edge/count (code ")
    assert counters(box)[1] == 3
    box.sh("ip netns exec client ping -c 2 -i 0.05 -q 10.0.0.1")
    assert counters(box)[1] == 5
    assert box.bpf()["hooks"][":b0 ingress"] == {"programs": [OURS], "revision": 3}


def test_no_packet_is_lost_and_no_count_in_100_replacements(box: Sandbox, tmp_path: Path) -> None:
    mine = tmp_path / "count.bpf.c"
    text = (PROGRAMS / "count.bpf.c").read_text()
    mine.write_text(text)
    document = {
        **PAIR,
        "bpf_object": [{"name": "count", "source": str(mine)}],
        "tcx_attach": [
            {"object": "count", "link": "b0"},
            {"object": "count", "link": "a0", "netns": "client", "hook": "egress"},
        ],
    }
    converged(box, document)
    with Stream(box, "client", "", "10.0.0.1", gap=0.0002) as stream:
        start = counters(box)[1]
        for number in range(100):
            document["bpf_object"] = [{"name": "count", "source": str(mine), "constants": {}}]
            mine.write_text(f"{text}\n/* {number % 3} */\n")
            assert len(converged(box, document)["actions"]) == 1
    assert (stream.received, stream.copies) == (stream.sent, 0)
    assert stream.sent > 1000
    # Every packet was counted at both hooks: those since `start`, with the three that end the stream.
    assert counters(box)[1] - start >= 2 * (stream.sent - 100)
    assert counters(box)[1] % 2 == 0
    assert box.hooks() == {":b0 ingress": [OURS], "client:a0 egress": [OURS]}


@pytest.mark.parametrize("compiler", ["clang", "bcc"])
def test_both_compilers_give_the_same_pins_and_attachments(box: Sandbox, compiler: str) -> None:
    document = with_count(
        tcx_attach=[{"object": "count", "link": "b0"}],
        xdp_attach=[{"object": "count", "link": "a0", "netns": "client"}],
    )
    document["bpf_object"] = [{**COUNT, "compiler": compiler}]
    done = four_steps(box, document)
    assert done["after"]["bpf_object"][0]["compiler"].startswith(f"{compiler} ")
    assert sorted(box.bpf()["pins"]) == [
        "edge/count/links/count/ingress@b0@@",
        "edge/count/links/count_xdp/xdp@a0@client@",
        "edge/count/maps/counters",
        "edge/count/programs/count",
        "edge/count/programs/count_xdp",
    ]
    box.sh("ip netns exec client ping -c 2 -i 0.05 -q 10.0.0.1")
    assert counters(box)[1] == 4  # requests at the ingress of b0, replies at the XDP hook of a0
    answered(box, "fd00::1")
    assert counters(box)[2] >= 2


def test_from_clang_to_bcc_and_back_keeps_maps(box: Sandbox) -> None:
    document = with_count(tcx_attach=[{"object": "count", "link": "b0"}])
    converged(box, document)
    box.sh("ip netns exec client ping -c 2 -i 0.05 -q 10.0.0.1")
    for compiler, total in (("bcc", 4), ("clang", 6)):
        document["bpf_object"] = [{**COUNT, "compiler": compiler}]
        converged(box, document)
        box.sh("ip netns exec client ping -c 2 -i 0.05 -q 10.0.0.1")
        assert counters(box)[1] == total
        settled(box, document)


def test_constants_and_sizes(box: Sandbox) -> None:
    document: t.Dict[str, t.Any] = {
        **PAIR,
        "bpf_object": [
            {
                "name": "fw",
                "source": "filter.bpf.c",
                "constants": {"default_verdict": 2},
                "maps": {"rules": 77},
            }
        ],
        "tcx_attach": [{"object": "fw", "link": "b0"}],
    }
    four_steps(box, document)
    assert (
        box.run(
            "ip", "netns", "exec", "client", "ping", "-c", "1", "-W", "1", "-q", "10.0.0.1", check=False
        ).returncode
        == 1
    )
    info = json.loads(
        box.run("bpftool", "-j", "map", "show", "pinned", "/sys/fs/bpf/cnf/edge/fw/maps/rules").stdout
    )
    assert info["max_entries"] == 77
    del document["bpf_object"][0]["constants"]
    done = converged(box, document)
    assert done["actions"] == ["change bpf_object edge/fw (default_verdict 2 -> unset)"]
    box.sh("ip netns exec client ping -c 1 -W 1 -q 10.0.0.1")
