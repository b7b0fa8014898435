# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The glue between AnsibleModule and the engine; each module is its documentation and one call from here."""

from __future__ import annotations

import os
import re
import signal
import traceback
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.parsing.convert_bool import boolean

from . import _report
from ._engine.converge import Outcome, Request, converge
from ._engine.model import Desired
from ._errors import CnfError, ConvergeError, SpecError
from ._kernel import requirements
from ._kernel.host import Host
from ._resources import SECTIONS, _fields, gather, kinds_for, revive
from ._resources._fields import TASKS
from ._store import DEFAULT_DIRECTORY, Store, digest_of

ITEM_SPEC: t.Dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "adopt": {"type": "bool", "default": False},
}
RUN_SPEC: t.Dict[str, t.Any] = {
    **ITEM_SPEC,
    "state_dir": {"type": "path", "default": DEFAULT_DIRECTORY},
    "lock_timeout": {"type": "float", "default": 60.0},
}

Parameters = t.Mapping[str, t.Any]
Known = t.Callable[
    [str], t.Optional[t.Tuple[t.Mapping[str, str], str]]
]  # object: its programs with types, its source

OBJECTS = "bpf_object"
SOURCES_SPEC: t.Dict[str, t.Any] = {"bundle": {"type": "str", "no_log": True}}  # noise rather than a secret
POLICIES = "bpf_policy_entry"
TABLES_SPEC: t.Dict[str, t.Any] = {
    "tables": {"type": "dict", "no_log": True}
}  # contents of files by digest, likewise


class Interrupted(CnfError):
    """The process was asked to end: the run is undone like after any other failure."""


def resource_spec(section: str) -> t.Dict[str, t.Any]:
    """The argument spec of a module that manages one kind of resource."""
    spec = {**SECTIONS[section].ARGUMENT_SPEC, **RUN_SPEC}
    if hasattr(SECTIONS[section], "REQUIRED"):
        spec["entries"] = {"type": "list", "elements": "dict"}
    more = {OBJECTS: SOURCES_SPEC, POLICIES: TABLES_SPEC}
    return {**spec, **more.get(section, {})}


def topology_spec() -> t.Dict[str, t.Any]:
    sections = {name: {"type": "list", "elements": "dict"} for name in SECTIONS}
    return {"name": {"type": "str", "required": True}, **sections, **SOURCES_SPEC, **TABLES_SPEC, **RUN_SPEC}


def run_resource(section: str) -> None:
    """Run the module of one section."""
    spec = resource_spec(section)
    names = getattr(SECTIONS[section], "ALONE", getattr(SECTIONS[section], "REQUIRED", ()))
    exclusive = [("entries", name) for name in getattr(SECTIONS[section], "BESIDE_ENTRIES", names)]
    required = [("entries", names[0])] if names else []
    module = AnsibleModule(
        argument_spec=spec, supports_check_mode=True, mutually_exclusive=exclusive, required_one_of=required
    )
    _run(module, TASKS, lambda store: _task_request(section, module.params, module.check_mode, store))


def run_topology() -> None:
    """Run the topology module."""
    module = AnsibleModule(argument_spec=topology_spec(), supports_check_mode=True)
    _run(module, module.params["name"], lambda store: topology_request(module.params, module.check_mode))


# --- requests: pure, from parameters to what the engine shall do ----------------------------------------------------------


def topology_request(params: Parameters, check: bool) -> Request:
    """The request of one topology call. Raises SpecError with the path of what is wrong."""
    owner = _fields.topology_name(params["name"], "name")
    if owner == TASKS:
        raise SpecError("name", f"{TASKS!r} is the owner of what single tasks make; choose another name")
    common = {"topology": owner, "prune": True, "check": check, "lock_timeout": params["lock_timeout"]}
    document = {name: params[name] for name in SECTIONS if params.get(name)}
    if POLICIES in document:
        document[POLICIES] = with_tables(document[POLICIES], params.get("tables"))
    if params["state"] == "absent":
        return Request(**common, adopt=params["adopt"])
    known = _declared_objects(document.get(OBJECTS, ()))
    desired = [
        item
        for name, items in document.items()
        for item in parse_section(name, items, owner, params["adopt"], known)
    ]
    return Request(
        **common,
        desired=tuple(gather(desired)),
        document=document,
        digest=digest_of(document),
        adopt=params["adopt"],
    )


def _declared_objects(items: t.Sequence[t.Any]) -> Known:
    """What the items of a document tell of their objects: programs and source."""
    declared = {
        item["name"]: (
            item.get("programs") or {},
            os.path.basename(str(item.get("source") or item.get("object") or "")),
        )
        for item in items
        if isinstance(item, dict) and isinstance(item.get("name"), str)
    }
    return declared.get


def _loaded_objects(name: str) -> t.Optional[t.Tuple[t.Mapping[str, str], str]]:
    """What the host has of an object that an earlier task loaded."""
    from ._resources import bpf_object

    if not bpf_object.OBJECT_NAME.match(name):
        return None
    found = bpf_object.loaded(_fields.TASKS, name)
    return (found.programs or {}, str(found.source)) if found is not None else None


def parse_section(
    section: str, items: t.Sequence[t.Any], owner: str, adopt: bool, known: Known = lambda name: None
) -> t.List[Desired]:
    """Items of one section, each validated by the very spec of the module of that name."""
    validator = ArgumentSpecValidator({**SECTIONS[section].ARGUMENT_SPEC, **ITEM_SPEC})
    found: t.List[Desired] = []
    for number, item in enumerate(items):
        path = f"{section}[{number}]"
        checked = validate(validator, item, path)
        if checked["state"] == "present":
            checked = {**completed(section, checked, path, known), "adopt": adopt or checked["adopt"]}
            found += SECTIONS[section].parse(checked, path, owner)
    return found


def completed(section: str, item: t.Mapping[str, t.Any], path: str, known: Known) -> t.Dict[str, t.Any]:
    """The item with what goes without saying, where the section has such things."""
    complete = getattr(SECTIONS[section], "complete", None)
    return dict(complete(item, path, known) if complete else item)


def validate(validator: ArgumentSpecValidator, item: t.Any, path: str) -> t.Dict[str, t.Any]:
    """The item with defaults filled in and types converted; raises SpecError for the first thing that is wrong."""
    for name, spec in validator.argument_spec.items():
        if spec.get("type") == "dict" and not isinstance(item.get(name), (dict, type(None))):
            raise SpecError(f"{path}.{name}", f"is {type(item[name]).__name__}; a mapping is needed")
    result = validator.validate(item)
    if result.error_messages:
        raise _spec_error(result.error_messages[0].rstrip("."), path)
    return result.validated_parameters


def _spec_error(message: str, path: str) -> SpecError:
    """A message of Ansible's validator with the place in front: ``... found in peer`` and ``peer.color. Supported ...``."""
    unsupported = re.match(r"(.+?)\. Supported parameters include: (.*)", message)
    if unsupported:
        *inner, name = unsupported.group(1).split(",")[0].strip().split(".")
        return SpecError(
            ".".join([path, *inner]), f"unsupported option {name}; it takes {unsupported.group(2)}"
        )
    head, _found, place = message.rpartition(" found in ")
    inner_path = place.replace(" -> ", ".") if head else ""
    return SpecError(f"{path}.{inner_path}" if inner_path else path, head or message)


def _task_request(section: str, params: Parameters, check: bool, store: Store) -> Request:
    common = {
        "topology": TASKS,
        "check": check,
        "lock_timeout": params["lock_timeout"],
        "adopt": params["adopt"],
    }
    items = _task_items(section, params)
    if section == POLICIES:
        items = list(
            zip((path for path, _item in items), with_tables([i for _p, i in items], params["tables"]))
        )
        return Request(**common, desired=tuple(gather(_policy_patch(params, items))))
    if params["state"] == "absent":
        claims = store.claims(store.latest())
        keys = [key for path, item in items for key in SECTIONS[section].keys(item, path, claims)]
        return Request(**common, absent=tuple(dict.fromkeys(keys)))
    whole = [(path, completed(section, item, path, _loaded_objects)) for path, item in items]
    desired = [found for path, item in whole for found in SECTIONS[section].parse(item, path, TASKS)]
    return Request(**common, desired=tuple(gather(desired)))


def _policy_patch(params: Parameters, items: t.Sequence[t.Tuple[str, t.Dict[str, t.Any]]]) -> t.List[Desired]:
    """A single task changes some entries of a policy, also when it removes them."""
    from ._resources import bpf_policy_entry

    if params["state"] == "absent":
        return bpf_policy_entry.removals(items)
    return bpf_policy_entry.from_entries(params, items)


def with_tables(items: t.Sequence[t.Any], tables: t.Optional[t.Mapping[str, str]]) -> t.List[t.Any]:
    """Items with the contents of their files in the place of the digests under which those came along."""
    return [
        {**item, "content": (tables or {}).get(item["content"], item["content"])}
        if isinstance(item, dict) and isinstance(item.get("content"), str)
        else item
        for item in items
    ]


def _task_items(section: str, params: Parameters) -> t.List[t.Tuple[str, t.Dict[str, t.Any]]]:
    """(path, item) of the single object or of the entries of a task."""
    if params.get("entries") is None:
        return [(section, dict(params))]
    spec = SECTIONS[section].ARGUMENT_SPEC
    validator = ArgumentSpecValidator(spec)
    common = {name: params[name] for name in spec if params.get(name) is not None}
    found = []
    for number, entry in enumerate(params["entries"]):
        path = f"entries[{number}]"
        found.append((path, {**validate(validator, {**common, **entry}, path), "adopt": params["adopt"]}))
    return found


# --- running ------------------------------------------------------------------------------------------------------------


def _run(module: AnsibleModule, topology: str, build: t.Callable[[Store], Request]) -> None:
    check_requirements(module)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _interrupt)
    store = Store(topology, revive, module.params["state_dir"])
    try:
        files = gather_sources(module.params)
        outcome = perform(build(store), store, files)
    except ConvergeError as problem:
        module.fail_json(
            msg=str(problem),
            changed=bool(problem.left),
            applied=problem.applied,
            undone=problem.undone,
            failed_action=problem.failed_action,
        )
    except CnfError as problem:
        module.fail_json(msg=f"{problem}", applied=[], undone=[], failed_action="")
    for note in outcome.plan.notes:
        module.warn(note)
    result = _report.result(outcome, f"topology {topology}" if topology != TASKS else module._name)
    if outcome.generation is not None and topology != TASKS:
        result["generation"] = outcome.generation
    module.exit_json(**result)


def gather_sources(params: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    """The sources that came along or lie here (``remote_src``), by digest; items get their digest and their programs."""
    items = params.get(OBJECTS)
    if items is None and "remote_src" in params:
        items = [params]
    if not items and not params.get("bundle"):
        return {}
    from ._bpf import sources
    from ._resources import bpf_object

    found = sources.unpack(params["bundle"]) if params.get("bundle") else {}
    for number, item in enumerate(items or ()):
        if isinstance(item, dict) and _is_true(item.get("remote_src")) and item.get("state") != "absent":
            path = f"{OBJECTS}[{number}]" if item is not params else OBJECTS
            source = bpf_object.local_source(item, path)
            item["code"] = sources.code_of(source)
            item["programs"] = item.get("programs") or dict(source.programs)
            found[item["code"]] = source
    return {code[: bpf_object.SHOWN_CODE]: source for code, source in found.items()}


def _is_true(value: t.Any) -> bool:
    """An option of an item that no spec has converted yet; what is no truth value is refused later."""
    return bool(boolean(value or False, strict=False))


def perform(request: Request, store: Store, files: t.Mapping[str, t.Any]) -> Outcome:
    """Converge one request on this host."""
    kinds = kinds_for(
        [*(item.key for item in request.desired), *request.absent, *store.claims(store.latest())]
    )
    with Host(store.directory, files) as host:
        return converge(kinds, host, store, request)


def check_requirements(module: AnsibleModule) -> None:
    """Fail plainly when a library or a permission is missing, before anything is read."""
    try:
        requirements.check_library()
        requirements.check_permission()
    except requirements.LibraryMissing:
        module.fail_json(
            msg=missing_required_lib(requirements.LIBRARY, reason="(apt install python3-pyroute2)"),
            exception=traceback.format_exc(),
        )
    except CnfError as problem:
        module.fail_json(msg=str(problem))


def _interrupt(number: int, _frame: t.Any) -> None:
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)  # let undo finish
    raise Interrupted(f"interrupted by {signal.Signals(number).name}")
