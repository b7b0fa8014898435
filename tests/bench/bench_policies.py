# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of a policy: from a file on the controller to the maps, and the same again; beside a C program that only writes.

Work is that of the module without the start of its process and its imports, as in bench_work; reading the file is the controller's
work, once for all hosts of a run.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import _hosts
from _table import Row, Samples, at_most, at_most_times

sys.path.insert(0, str(_hosts.ROOT / "tests" / "support"))
import policy_world as world

WRITER = """
import json, sys, time
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import policy, router
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.policy import Action, Policy, interned
count = int(sys.argv[1])
rows = {((n + 1) * 2654435761 % 2**32).to_bytes(4, "little"): interned(Action("drop")) for n in range(count)}
with router.Router("edge", "router") as found:
    steps = router.writes_for_policy(found.image(), Policy({"sources4_exact": rows}), "", str, len).steps
    step = max(steps, key=lambda step: step.entries)
    started = time.perf_counter()
    found.write([step])
    print(time.perf_counter() - started)
"""


def entries(directory: Path, quick: bool) -> t.List[Row]:
    rows = _of(directory, 100_000, 3 if quick else 7, 1.0, 0.4)
    return rows + _of(directory, 1_000_000, 1 if quick else 3, 12.0, 4.0)


def _of(directory: Path, count: int, rounds: int, most: float, most_again: float) -> t.List[Row]:
    from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import policy_input

    contents, reading = [], Samples()
    for seed in (1, 2):
        path = directory / f"{count}-{seed}.csv"
        _write_csv(path, count, seed)
        started = time.perf_counter()
        contents.append(policy_input.read_file(str(path), path.name).to_text())
        reading.append(time.perf_counter() - started)
    create, same, change, floor, ours = Samples(), Samples(), Samples(), Samples(), Samples()
    floor_program = _compiled(directory)
    room = {"maps": {"sources4_exact": 2 * count}}
    for _round in range(rounds):
        with _hosts.host() as box:
            base = {**world.with_router(entries=[]), "bpf_object": [{**world.ROUTER, **room}]}
            _work(box, base)
            floor.append(_floor(box, floor_program, count))
            _work(box, {**base, "bpf_policy_entry": [world.entry(source="10.9.9.9", action="drop")]})
            ours.append(_writing(box, count))
            _work(box, {**base, "bpf_policy_entry": []})
            for content, samples in ((contents[0], create), (contents[0], same), (contents[1], change)):
                wanted = {**base, "bpf_policy_entry": [world.entry(content=content)]}
                samples.append(_work(box, wanted))
            memory = box.sh(f"grep VmHWM /proc/{box.driver_pid}/status").split()[1]
    print(f"{count} entries: {int(memory) // 1024} MiB on the host", file=sys.stderr)
    name = f"{count:,} entries"
    return [
        Row(f"{name} from a file: work", create, "", None, at_most(most)),
        Row("unchanged: work", same, "", None, at_most(most_again)),
        Row("others in their place: work", change, "the first time", create),
        Row("writing the map", ours, "in C", floor, at_most_times(1.5)),
        Row("reading the file, on the controller", reading),
    ]


def _write_csv(path: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    with path.open("w", encoding="ascii") as file:
        file.write("source,interface,next_hop\n")
        for number in chance.sample(range(0x0B000000, 0x0B000000 + 40 * count), count):
            address = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
            file.write(f"{address},good,10.0.1.1\n")


def _compiled(directory: Path) -> Path:
    program = directory / "batch"
    source = Path(__file__).resolve().parent / "batch.c"
    subprocess.run(["clang", "-O2", "-Wall", "-Werror", str(source), "-o", str(program)], check=True)
    return program


def _floor(box: t.Any, program: Path, count: int) -> float:
    """Into the very map, which is emptied by the run that follows."""
    pin = "/sys/fs/bpf/cnf/edge/router/maps/sources4_exact"
    return float(box.run(str(program), pin, str(count)).stdout)


def _writing(box: t.Any, count: int) -> float:
    return float(box.run(box.python, "-c", WRITER, str(count), env=box.environment()).stdout)


def _work(box: t.Any, wanted: _hosts.Document) -> float:
    answer = box.topology(wanted)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return float(answer["work"])
