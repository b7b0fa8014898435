# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks converge, the same as command lines, and how both are timed in a sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
COLLECTIONS = ROOT / ".cache" / "collections"
sys.path.insert(0, str(SUPPORT))

from sandbox import Sandbox  # noqa: E402

Document = t.Dict[str, t.Any]
Batches = t.Dict[str, t.List[str]]  # lines for `ip -batch` by namespace, '' first

SETTLE_SECONDS = 0.5  # the kernel takes namespaces apart later, and holds its lock for that

# Loads what a run needs before the one that is timed.
WARM: Document = {
    "name": "warm",
    "netns": [{"name": "warm"}],
    "netkit_link": [{"name": "warm0", "fallback": "veth", "peer": {"name": "warm1", "netns": "warm"}}],
    "address": [{"dev": "warm0", "address": "192.0.2.1/32"}],
    "route": [{"destination": "198.51.100.0/24", "type": "blackhole"}],
}


@contextlib.contextmanager
def host() -> t.Iterator[Sandbox]:
    """A fresh sandbox, and a pause behind it so that its end does not disturb the next one."""
    with Sandbox() as box:
        yield box
    time.sleep(SETTLE_SECONDS)


# --- documents and the same as commands ------------------------------------------------------------


def subnet(number: int) -> str:
    return f"10.{number // 250}.{number % 250}"


def pairs(count: int, spaces: int, section: str = "link", routes: bool = False) -> Document:
    """Pairs with an IPv4 address on each end, their peers spread over namespaces, and default routes."""
    kind = {"kind": "veth"} if section == "link" else {"fallback": "veth"}
    links = [
        {
            "name": f"p{number}",
            **kind,
            "addresses": [f"{subnet(number)}.1/24"],
            "peer": {
                "name": f"e{number}",
                "netns": f"n{number % spaces}",
                "addresses": [f"{subnet(number)}.2/24"],
            },
        }
        for number in range(count)
    ]
    document: Document = {"netns": [{"name": f"n{number}"} for number in range(spaces)], section: links}
    if routes:
        document["route"] = [
            {"netns": f"n{number}", "destination": "default", "via": f"{subnet(number)}.1"}
            for number in range(spaces)
        ]
    return document


def pair_batches(count: int, spaces: int, routes: bool = False) -> Batches:
    """The same made by iproute2, altnames included, with one process for each namespace."""
    batches: Batches = {"": [f"netns add n{number}" for number in range(spaces)]}
    batches.update(
        {
            f"n{number}": ["link set lo up", f"link property add dev lo altname cnf-bench-lo-{number:04}"]
            for number in range(spaces)
        }
    )
    for number in range(count):
        space = f"n{number % spaces}"
        batches[""] += [
            f"link add p{number} type veth peer name e{number} netns {space}",
            f"link property add dev p{number} altname cnf-bench-{number:012}",
            f"link set p{number} up",
            f"address add {subnet(number)}.1/24 dev p{number}",
        ]
        batches[space] += [f"link set e{number} up", f"address add {subnet(number)}.2/24 dev e{number}"]
    if routes:
        for number in range(spaces):
            batches[f"n{number}"].append(f"route add default via {subnet(number)}.1")
    return batches


def removal_batches(count: int, spaces: int) -> Batches:
    return {
        "": [
            *(f"link del p{number}" for number in range(count)),
            *(f"netns del n{number}" for number in range(spaces)),
        ]
    }


def reading_batches(spaces: int) -> Batches:
    lines = ["link show", "address show", "route show"]
    return {"": lines, **{f"n{number}": lines for number in range(spaces)}}


# --- timing ---------------------------------------------------------------------------------------


def converge(box: Sandbox, document: Document, **options: t.Any) -> float:
    """Seconds of work of one topology call in a process of its own that has loaded its libraries."""
    steps = [{"document": WARM}, {"document": WARM, "state": "absent"}, {"document": document, **options}]
    environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS), "PYTHONDONTWRITEBYTECODE": "1"}
    done = box.run(
        box.python,
        str(SUPPORT / "driver.py"),
        input="".join(json.dumps(step) + "\n" for step in steps),
        env=environment,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return float(answer["work"])


def unchanged(box: Sandbox, document: Document) -> float:
    """The same for a host that is as the document says; a change is an error."""
    return converge(box, document, fail_at=0)


def commands(box: Sandbox, batches: Batches, directory: Path, *options: str) -> float:
    """Seconds that iproute2 takes for the lines, its processes included (but no shell for each line)."""
    script = directory / "batches.sh"
    words = " ".join(["ip", *options])
    lines = []
    for number, (netns, batch) in enumerate(batches.items()):
        file = directory / f"batch{number}"
        file.write_text("\n".join(batch) + "\n", encoding="ascii")
        lines.append(f"{words} {f'-n {netns} ' if netns else ''}-batch {file} >/dev/null")
    script.write_text("\n".join(lines) + "\n", encoding="ascii")
    started = time.perf_counter()
    done = box.run("sh", "-e", str(script), check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - started
