# SPDX-License-Identifier: GPL-3.0-or-later
"""Converge documents in this process and answer with JSON, with faults on request. Reads one step a line.

A step: {"document": {...} or null, "check": bool, "adopt": bool, "state": "present"|"absent", "fail_at": n, "fail_after": n,
"kill_after": n, "kill_before": n, "repeat": n}. The answers are what the topology module would return, or {"error": ..., "type": ...}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import typing as t

from ansible_collections.cnf.ebpf.plugins.module_utils import _module, _report
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.converge import converge
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import CnfError, ConvergeError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.host import Host
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import KINDS, revive
from ansible_collections.cnf.ebpf.plugins.module_utils._store import DEFAULT_DIRECTORY, Store


class Injected(CnfError):
    """The fault that a test asked for."""


def fault(step: t.Mapping[str, t.Any]) -> t.Callable[[str, int, t.Any], None]:
    """An observer of operations that fails or dies where the step says."""

    def observe(stage: str, number: int, _operation: t.Any) -> None:
        if (stage == "apply" and step.get("kill_before") == number) or (
            stage == "applied" and step.get("kill_after") == number
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        if (stage == "apply" and step.get("fail_at") == number) or (
            stage == "applied" and step.get("fail_after") == number
        ):
            raise Injected(f"injected at operation {number}")

    return observe


def run(step: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    document = dict(step["document"])
    name = document.pop("name", "edge")
    params = {section: document.pop(section, None) for section in _module.SECTIONS}
    if document:
        raise SystemExit(f"unknown sections {sorted(document)}")
    params.update(
        name=name,
        state=step.get("state", "present"),
        adopt=step.get("adopt", False),
        lock_timeout=step.get("lock_timeout", 5.0),
    )
    started = time.perf_counter()
    try:
        request = _module.topology_request(params, bool(step.get("check")))
        store = Store(name, revive, step.get("state_dir", DEFAULT_DIRECTORY))
        with Host() as host:
            outcome = converge(KINDS, host, store, request, fault(step))
    except CnfError as problem:
        answer = {"error": str(problem), "type": type(problem).__name__}
        if isinstance(problem, ConvergeError):
            answer.update(
                applied=problem.applied,
                undone=problem.undone,
                failed_action=problem.failed_action,
                left=problem.left,
            )
        return answer
    work = time.perf_counter() - started
    return {**_report.result(outcome, name), "work": work, "generation": outcome.generation}


def main() -> None:
    for line in sys.stdin:
        step = json.loads(line)
        answer: t.Dict[str, t.Any] = {}
        for _number in range(step.get("repeat", 1)):
            answer = run(step)
        descriptors = len(os.listdir("/proc/self/fd"))
        threads = len(os.listdir("/proc/self/task"))
        print(json.dumps({**answer, "descriptors": descriptors, "threads": threads}), flush=True)


if __name__ == "__main__":
    main()
