# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The glue of the modules that only read: topologies and their drift, namespaces, what exists on a host."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from . import _gather, _report
from ._engine.converge import Outcome, inspect
from ._engine.plan import simulate
from ._errors import CnfError, SpecError
from ._kernel.host import Host
from ._module import RUN_SPEC, Parameters, check_requirements, topology_request
from ._resources import KINDS, SECTIONS, _fields, kinds_for, revive
from ._resources._fields import TASKS
from ._store import Store


def run_topology_info() -> None:
    """Run the topology_info module."""
    spec = {
        "name": {"type": "str"},
        "state_dir": RUN_SPEC["state_dir"],
        "lock_timeout": RUN_SPEC["lock_timeout"],
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    check_requirements(module)
    params = module.params
    try:
        index = Store(params["name"] or TASKS, revive, params["state_dir"])
        names = [params["name"]] if params["name"] else [name for name in index.topologies() if name != TASKS]
        result: t.Dict[str, t.Any] = {"topologies": [_topology_state(name, params) for name in names]}
        if not params["name"]:
            with Host() as host:
                values = _gather.host_values(host)
            result["host"] = _gather.document_of(values)
            result["text"] = _gather.text_of(values, "host")
        else:
            result["text"] = result["topologies"][0]["text"]
    except CnfError as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=False, **result)


def _topology_state(name: str, params: Parameters) -> t.Dict[str, t.Any]:
    """What a topology was declared to be, what it is, and the plan that would bring the two together."""
    store = Store(_fields.topology_name(name, "name"), revive, params["state_dir"])
    latest = store.latest()
    if latest is None:
        raise SpecError(
            "name",
            f"there is no topology {name!r} on this host; it has {', '.join(store.topologies()) or 'none'}",
        )
    request = topology_request(
        {
            **dict.fromkeys(SECTIONS),
            **(latest.document or {}),
            "name": name,
            "state": "present",
            "adopt": False,
            **_lock(params),
        },
        check=True,
    )
    with Host() as host:
        observed, plan = inspect(kinds_for(item.key for item in request.desired), host, store, request)
    declared = {
        item.key: observed.values[item.key] for item in request.desired if item.key in observed.values
    }
    concerned = {*declared, *(operation.key for operation in plan.operations)}
    before, after = (
        {key: value for key, value in values.items() if key in concerned}
        for values in (observed.values, simulate(observed.values, plan))
    )
    outcome = Outcome(plan, before, after)
    report = _report.result(outcome, f"topology {name}")
    title = f"topology {name}, generation {latest.number}, {f'drifted: {len(plan.operations)} operations' if plan else 'in sync'}"
    return {
        "name": name,
        "generation": latest.number,
        "digest": latest.digest,
        "confirmed": latest.confirmed,
        "document": latest.document,
        "state": _gather.document_of(declared),
        "drift": {key: report[key] for key in ("before", "after", "actions", "commands", "diff")},
        "in_sync": not plan,
        "text": _gather.text_of(declared, title),
    }


def _lock(params: Parameters) -> t.Dict[str, t.Any]:
    return {"lock_timeout": params["lock_timeout"]}


def run_netns_info() -> None:
    """Run the netns_info module."""
    module = AnsibleModule(argument_spec={"name": {"type": "str"}}, supports_check_mode=True)
    check_requirements(module)
    wanted = module.params["name"]
    try:
        with Host() as host:
            names = [name for name in sorted(host.namespaces()) if wanted in (None, name)]
            found = [_namespace_state(host, name) for name in names]
    except CnfError as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(changed=False, namespaces=found)


def _namespace_state(host: Host, name: str) -> t.Dict[str, t.Any]:
    values = _gather.namespace_values(host, name)
    space = next(value for value in values.values() if isinstance(value, KINDS["netns"].Value))
    document = _gather.document_of(values)
    document.pop("netns")
    return {
        "name": name,
        "lo_up": space.lo_up,
        "topology": space.owner,
        "links": _gather.link_states(host, name),
        "state": document,
    }
