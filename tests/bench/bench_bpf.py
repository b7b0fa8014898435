# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects and attachments: unchanged, with a changed source beside the compiler itself, and BCC beside clang.

A changed source is compiled, loaded beside the old programs, takes over their maps and replaces them under two attachments.
Work is that of the module without the start of its process and its imports, as in bench_work.
"""

from __future__ import annotations

import json
import subprocess
import time
import typing as t
from pathlib import Path

import _hosts
from _table import Row, Samples, at_most, at_most_times

PROGRAMS = _hosts.ROOT / "files" / "bpf"
PAIR: _hosts.Document = {"link": [{"name": "v0", "kind": "veth", "peer": {"name": "v1"}}]}


def document(source: Path, compiler: str) -> _hosts.Document:
    return {
        **PAIR,
        "bpf_object": [{"name": "filter", "source": str(source), "compiler": compiler}],
        "tcx_attach": [{"object": "filter", "link": "v0"}, {"object": "filter", "link": "v1"}],
    }


def objects(directory: Path, quick: bool) -> t.List[Row]:
    source = directory / "filter.bpf.c"
    text = (PROGRAMS / "filter.bpf.c").read_text()
    rounds = 5 if quick else 15
    changed = {"clang": Samples(), "bcc": Samples()}
    same, clang, reading = Samples(), Samples(), Samples()
    for compiler, samples in changed.items():
        with _hosts.host() as box:
            source.write_text(text)
            _work(box, document(source, compiler))
            for number in range(rounds):
                source.write_text(f"{text}\n/* {compiler} {number} */\n")
                samples.append(_work(box, document(source, compiler)))
                if compiler == "clang":
                    same.append(_work(box, document(source, compiler), fail_at=0))
                    clang.append(_compile(source, directory))
                    reading.append(_commands(box))
    beside = "clang alone, the same file"
    return [
        Row(
            "object and 2 attachments, unchanged: work",
            same,
            "bpftool prog, map and link show",
            reading,
            at_most(0.030),
        ),
        Row(
            "object and 2 attachments, changed source: work",
            changed["clang"],
            beside,
            clang,
            at_most_times(1.5),
        ),
        Row("the same with BCC", changed["bcc"], "with clang", changed["clang"]),
    ]


def _work(box: t.Any, wanted: _hosts.Document, **options: t.Any) -> float:
    """One call in the sandbox's own driver, which has its libraries loaded after the first."""
    answer = box.topology(wanted, **options)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return float(answer["work"])


def _compile(source: Path, directory: Path) -> float:
    words = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", f"-I{PROGRAMS / 'lib'}"]
    words += [f"-idirafter{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
    started = time.perf_counter()
    subprocess.run([*words, "-c", str(source), "-o", str(directory / "beside.o")], check=True)
    return time.perf_counter() - started


def _commands(box: t.Any) -> float:
    """What a script would run to see that nothing has changed."""
    started = time.perf_counter()
    for kind in ("prog", "map", "link"):
        done: subprocess.CompletedProcess[str] = box.run("bpftool", "-j", kind, "show")
        json.loads(done.stdout)
    return time.perf_counter() - started
