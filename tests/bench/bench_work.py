# SPDX-License-Identifier: GPL-3.0-or-later
"""One call: the work of 40 resources, of five in a crowd of foreign links, and what the imports cost.

Work is parsing, observing, planning, applying and verifying, without the start of a process and its
imports. Beside it, iproute2 does the same; its figure includes its processes, one for each namespace.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import typing as t
import zipfile
from pathlib import Path

import _hosts
from _table import Row, Samples, at_most

FORTY = _hosts.pairs(10, 10, "netkit_link", routes=True)
CROWD = 1000

UTILS = "ansible_collections.cnf.ebpf.plugins.module_utils"
BASIC = "import ansible.module_utils.basic, ansible.module_utils.common.arg_spec"
OURS = f"import {UTILS}._module"
LIBRARY = f"{OURS}; from {UTILS}._kernel import messages; messages._library()"


def forty(directory: Path, quick: bool) -> t.List[Row]:
    """10 namespaces, 10 pairs, their addresses and 10 default routes in one topology."""
    cold, floor, same, reading = Samples(), Samples(), Samples(), Samples()
    for _number in range(5 if quick else 15):
        with _hosts.host() as box:
            cold.append(_hosts.converge(box, FORTY))
            same.append(_hosts.unchanged(box, FORTY))
            reading.append(_hosts.commands(box, _hosts.reading_batches(10), directory, "-json", "-details"))
        with _hosts.host() as box:
            floor.append(_hosts.commands(box, _hosts.pair_batches(10, 10, routes=True), directory))
    return [
        Row("40 resources, cold: work", cold, "ip -batch, the same", floor, at_most(0.150)),
        Row("40 resources, unchanged: work", same, "ip -json -batch, reading", reading, at_most(0.040)),
    ]


def crowd(directory: Path, quick: bool) -> t.List[Row]:
    """Five resources among a thousand foreign links, unchanged; beside it the same without them."""
    document = _hosts.pairs(1, 1, routes=True)
    full, empty = Samples(), Samples()
    with _hosts.host() as crowded, _hosts.host() as alone:
        for box in (crowded, alone):
            _hosts.converge(box, document)
        lines = [f"link add v{number} type veth peer name w{number}" for number in range(CROWD // 2)]
        _hosts.commands(crowded, {"n0": lines}, directory)
        for _number in range(3 if quick else 9):
            full.append(_hosts.unchanged(crowded, document))
            empty.append(_hosts.unchanged(alone, document))
    return [Row("5 resources among 1,000 foreign veth ends, unchanged: work", full, "without them", empty)]


def imports(directory: Path, quick: bool) -> t.List[Row]:
    """Processes that only import. Ansible ships module_utils as a zip file, so without compiled files."""
    payload = directory / "payload.zip"
    pack(payload)
    paths = {"pyc": str(_hosts.COLLECTIONS), "zip": str(payload)}
    cases = {
        "basic": (BASIC, "pyc"),
        "ours": (OURS, "pyc"),
        "zip": (OURS, "zip"),
        "library": (LIBRARY, "pyc"),
    }
    found = {name: Samples() for name in cases}
    for number in range(4 if quick else 12):
        for name, (code, path) in cases.items():
            seconds = process(code, paths[path], directory)
            if number:  # the first one writes the compiled files
                found[name].append(seconds)
    return [
        Row("import module_utils._module: process", found["ours"], "AnsibleModule alone", found["basic"]),
        Row(
            "the same from a zip file, as a task gets it: process",
            found["zip"],
            "from .pyc files",
            found["ours"],
        ),
        Row("the same with pyroute2: process", found["library"], "without pyroute2", found["ours"]),
    ]


def pack(payload: Path) -> None:
    """The collection's module_utils, as they are on a managed host."""
    source = _hosts.ROOT / "plugins" / "module_utils"
    parts = UTILS.split(".")
    with zipfile.ZipFile(payload, "w", zipfile.ZIP_DEFLATED) as archive:
        for length in range(1, len(parts)):
            archive.writestr("/".join([*parts[:length], "__init__.py"]), "")
        for file in sorted(source.rglob("*.py")):
            archive.write(file, "/".join([*parts, *file.relative_to(source).parts]))


def process(code: str, path: str, directory: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(directory / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - started
