# SPDX-License-Identifier: GPL-3.0-or-later
"""Converge documents in this process and answer with JSON, with faults on request. Reads one step a line.

A step {"look": true} answers what the kernel has of BPF (``look``). A step {"task": {"section": ..., "params": {...},
"state": ...}, "check": bool} runs one single task. Any other step: {"document": {...} or null, "check": bool, "adopt": bool,
"state": "present"|"absent", "fail_at": n, "fail_after": n, "kill_after": n, "kill_before": n, "repeat": n}. The answers are
what the modules would return, or {"error": ..., "type": ...}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import typing as t
from pathlib import Path

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.cnf.ebpf.plugins.module_utils import _module, _report
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import mark, sources
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.hooks import FilterList, ProgramList, program
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.converge import converge
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import CnfError, ConvergeError, KernelError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, namespaces, tc
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.host import Host
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import KINDS, bpf_object, link_kinds, revive
from ansible_collections.cnf.ebpf.plugins.module_utils._resources._fields import TASKS
from ansible_collections.cnf.ebpf.plugins.module_utils._store import DEFAULT_DIRECTORY, Store

PROGRAMS = Path(__file__).resolve().parent.parent.parent / "files" / "bpf"


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


def ship(params: t.Dict[str, t.Any]) -> t.Dict[str, sources.Source]:
    """What the action plugin does on the controller: an item's source is one of the collection's programs, or a path."""
    found = {}
    for item in params.get("bpf_object") or ():
        given = item.get("source") or item.get("object")
        if isinstance(item, dict) and given and item.get("state") != "absent":
            source = sources.collect(str(PROGRAMS / given), [str(PROGRAMS / "lib")])
            code = item["code"] = sources.code_of(source)
            item.setdefault("programs", dict(source.programs))
            found[code[: bpf_object.SHOWN_CODE]] = source
    return found


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
    try:
        files = ship(params)
        started = time.perf_counter()
        request = _module.topology_request(params, bool(step.get("check")))
        store = Store(name, revive, step.get("state_dir", DEFAULT_DIRECTORY))
        with Host(store.directory, files) as host:
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


def run_task(step: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """One single task, with its parameters validated as AnsibleModule would."""
    task = step["task"]
    section = task["section"]
    validator = ArgumentSpecValidator(_module.resource_spec(section))
    given = {**task["params"], "state": task.get("state", "present"), "lock_timeout": 5.0}
    store = Store(TASKS, revive, DEFAULT_DIRECTORY)
    try:
        files = ship({section: [given]})
        params = _module.validate(validator, given, section)
        started = time.perf_counter()
        request = _module._task_request(section, params, bool(step.get("check")), store)
        with Host(store.directory, files) as host:
            outcome = converge(KINDS, host, store, request, fault(step))
    except CnfError as problem:
        return {"error": str(problem), "type": type(problem).__name__}
    work = time.perf_counter() - started
    return {**_report.result(outcome, section), "work": work}


def look() -> t.Dict[str, t.Any]:
    """Pins, programs at hooks in their order (ours as topology/object:program), revisions, and the ids of everything of ours."""
    hooks: t.Dict[str, t.Dict[str, t.Any]] = {}
    with Host() as host:
        for netns in ("", *sorted(host.namespaces())):
            for name, record in host.links(netns).by_name.items():
                hooks.update(_hooks_of(host, netns, name, record))
    pins = {}
    for directory, _directories, files in os.walk("/sys/fs/bpf/cnf"):
        for file in files:
            path = os.path.join(directory, file)
            pins[path[len("/sys/fs/bpf/cnf/") :]] = os.path.basename(
                os.readlink(f"/proc/self/fd/{(fd := bpf.get_pinned(path))}")
            )
            os.close(fd)
        if not files and not _directories:
            pins[directory[len("/sys/fs/bpf/cnf/") :] + "/"] = "empty"
    return {
        "hooks": hooks,
        "pins": pins,
        "programs": bpf.prog_ids(),
        "maps": bpf.map_ids(),
        "links": bpf.link_ids(),
    }


def _hooks_of(host: Host, netns: str, name: str, record: t.Any) -> t.Dict[str, t.Dict[str, t.Any]]:
    found = {}
    types = {"ingress": bpf.TCX_INGRESS, "egress": bpf.TCX_EGRESS}
    if link_kinds.name_of_kind(record.kind, record.data) == "netkit":
        types.update(primary=bpf.NETKIT_PRIMARY, peer=bpf.NETKIT_PEER)
    for hook, number in types.items():
        with namespaces.entered(netns):
            try:
                rows = ProgramList(record.ifindex, number).read()
                revision = bpf.prog_query(record.ifindex, number).revision
            except KernelError:
                continue
        if rows:
            found[f"{netns}:{name} {hook}"] = {
                "programs": [_named(row.mark, row.name) for row in rows],
                "revision": revision,
            }
    for hook in ("ingress", "egress"):
        filters = FilterList(host.socket(netns), record.ifindex, hook).read()
        if filters:
            found[f"{netns}:{name} clsact {hook}"] = {
                "programs": [_named(row.mark, row.name) for row in filters]
            }
    if tc.has_clsact(host.socket(netns), record.ifindex):
        found[f"{netns}:{name} clsact"] = {}
    for mode, prog_id in record.xdp:
        info = program(prog_id)
        found[f"{netns}:{name} xdp {mode}"] = {
            "programs": [_named(mark.read(info), info.name) if info else "gone"]
        }
    return found


def _named(found: t.Optional[mark.Mark], name: str) -> str:
    return f"{found.topology}/{found.object}:{found.program}" if found else name


def main() -> None:
    for line in sys.stdin:
        step = json.loads(line)
        if step.get("look"):
            print(json.dumps(look()), flush=True)
            continue
        answer: t.Dict[str, t.Any] = {}
        for _number in range(step.get("repeat", 1)):
            answer = run_task(step) if step.get("task") else run(step)
        descriptors = len(os.listdir("/proc/self/fd"))
        threads = len(os.listdir("/proc/self/task"))
        print(json.dumps({**answer, "descriptors": descriptors, "threads": threads}), flush=True)


if __name__ == "__main__":
    main()
