# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed, beside the alternatives measured in the same run. Prints one table and never fails on time.

Everything runs in sandboxes of its own (tests/support/sandbox.py), so it needs root.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import typing as t
from importlib import metadata
from pathlib import Path

import bench_bpf
import bench_fleet
import bench_forwarding
import bench_maglev
import bench_play
import bench_policies
import bench_scale
import bench_work
from _table import Row, render

Bench = t.Callable[[Path, bool], t.List[Row]]
BENCHES: t.Dict[str, Bench] = {
    "work": bench_work.forty,
    "crowd": bench_work.crowd,
    "import": bench_work.imports,
    "objects": bench_bpf.objects,
    "forwarding": bench_forwarding.forwarding,
    "entries": bench_policies.entries,
    "maglev": bench_maglev.pool,
    "play": bench_play.play,
    "tasks": bench_play.tasks,
    "scale": bench_scale.scale,
    "chain": bench_fleet.chain,
    "fleet": bench_fleet.fleet,
}
SYSTEM_VERSIONS = (
    "import platform, importlib.metadata as m; print(platform.python_version(), m.version('pyroute2'))"
)


def machine() -> str:
    """What the figures were measured on."""
    parts = [
        f"{os.cpu_count()} cores",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        f"pyroute2 {metadata.version('pyroute2')}",
        f"ansible-core {metadata.version('ansible-core')}",
        subprocess.run(["ip", "-V"], check=True, capture_output=True, text=True).stdout.split(",")[1].strip(),
    ]
    if len(bench_play.targets()) > 1:
        words = [bench_play.SYSTEM_PYTHON, "-c", SYSTEM_VERSIONS]
        python, library = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        parts.append(f"system: Python {python}, pyroute2 {library}")
    return "; ".join(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--only", action="append", choices=list(BENCHES), help="one of them; may be repeated")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if os.geteuid() != 0:
        sys.exit("make bench: needs root: it makes network namespaces")
    rows: t.List[Row] = []
    for name in options.only or BENCHES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="cnf-bench-") as directory:
            rows += BENCHES[name](Path(directory), options.quick)
    print(f"\n{machine()}\n\n{render(rows)}")


if __name__ == "__main__":
    main()
