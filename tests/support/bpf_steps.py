# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of objects and attachments share: a pair of namespaces, the counting object, and what to look at."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

from sandbox import Sandbox

PROGRAMS = Path(__file__).resolve().parent.parent.parent / "files" / "bpf"

# client [a0 10.0.0.2] -- [b0 10.0.0.1] host
PAIR = {
    "netns": [{"name": "client"}],
    "link": [
        {
            "name": "b0",
            "kind": "veth",
            "addresses": ["10.0.0.1/24", "fd00::1/64"],
            "peer": {"name": "a0", "netns": "client", "addresses": ["10.0.0.2/24", "fd00::2/64"]},
        }
    ],
}
COUNT = {"name": "count", "source": "count.bpf.c"}
OURS = "edge/count:count"


def answered(box: Sandbox, address: str) -> None:
    """The client reaches an address of the host, once IPv6 has found out that its own is nobody else's."""
    box.sh(
        f"for i in $(seq 30); do ip netns exec client ping -c 1 -W 1 -q {address} && exit; sleep 0.1; done; exit 1"
    )


def with_count(**more: t.Any) -> t.Dict[str, t.Any]:
    return {**PAIR, "bpf_object": [COUNT], **more}


def counters(box: Sandbox, name: str = "count", topology: str = "edge") -> t.Dict[int, int]:
    """Packets by index of an object's counters, over all CPUs."""
    done = box.run(
        "bpftool", "-j", "map", "dump", "pinned", f"/sys/fs/bpf/cnf/{topology}/{name}/maps/counters"
    )
    rows = json.loads(done.stdout)
    found = {
        row["formatted"]["key"]: sum(v["value"]["packets"] for v in row["formatted"]["values"])
        for row in rows
    }
    return {key: packets for key, packets in found.items() if packets}


def nothing_new(box: Sandbox, before: t.Mapping[str, t.Any]) -> None:
    """Of what the kernel has now and did not have before, every program, map and link goes; it frees them a little later.

    What comes after the first look is somebody else's: ids are those of the whole machine.
    """
    left: t.Dict[str, t.Set[int]] = {}
    for _attempt in range(200):
        now = box.bpf()
        for kind in ("programs", "maps", "links"):
            left[kind] = set(now[kind]) & left.get(kind, set(now[kind]) - set(before[kind]))
        if not any(left.values()):
            return
        time.sleep(0.05)
    raise AssertionError({kind: sorted(ids) for kind, ids in left.items()})
