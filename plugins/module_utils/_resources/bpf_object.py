# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""BPF objects: programs and maps that are compiled on the host from one source, loaded and pinned.

What is loaded is told by the marks of its programs (_bpf.mark), so nothing is compiled to find out that nothing has changed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import typing as t

from .._bpf import build, hooks, mark, objects, pins, sources
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import CnfError, PlanError, SpecError, UnsupportedError
from .._kernel import bpffs
from .._kernel.host import Host
from . import _fields

NAME = SECTION = "bpf_object"
RANK = -10  # what does not compile fails before anything of the network is touched
BORROWED = False
WITHIN = ("bpf_map_entry", "bpf_policy_entry", "bpf_pool")  # kinds that live in the maps of an object
ENUMERATED = True

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "source": {"type": "str"},
    "object": {"type": "str"},
    "remote_src": {"type": "bool", "default": False},
    "compiler": {"type": "str", "choices": ["auto", "clang", "bcc"], "default": "auto"},
    "constants": {"type": "dict"},
    "maps": {"type": "dict"},
    "programs": {"type": "dict"},
    "incompatible_maps": {
        "type": "str",
        "choices": ["migrate", "refuse", "replace"],
        "default": "migrate",
    },
    "code": {"type": "str"},
}

OBJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,126}\Z")
CODE = re.compile(r"[0-9a-f]{64}\Z")
SHOWN_CODE = 16  # hexadecimal digits of the digest that values and marks hold
U32_MAX = (1 << 32) - 1
OK, INCOMPLETE = "ok", "incomplete"


@dataclasses.dataclass(frozen=True)
class Value:
    """An object of a topology. ``code`` is the digest of its sources, ``compiler`` with its version once it is known.

    ``maps`` are sizes that were asked for, ``id`` (observed only) names every pinned program and map by its kernel id.
    """

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("name",)

    name: str
    source: t.Optional[str] = None
    code: t.Optional[str] = None
    compiler: t.Optional[str] = None
    constants: t.Optional[t.Dict[str, t.Any]] = None
    maps: t.Optional[t.Dict[str, int]] = None
    programs: t.Optional[t.Dict[str, str]] = None
    health: t.Optional[str] = None
    owner: t.Optional[str] = None
    incompatible_maps: t.Optional[str] = None
    id: t.Optional[t.Tuple[str, ...]] = None

    def key(self) -> Key:
        return key_of(self.owner or "", self.name)

    def needs(self) -> t.Tuple[Key, ...]:
        return ()

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def key_of(topology: str, name: str) -> Key:
    return Key(NAME, "", f"{topology}/{name}")


def object_name(text: str, path: str) -> str:
    if not OBJECT_NAME.match(text):
        raise SpecError(
            path, f"{text!r} is not an object's name: up to 63 of A-Z a-z 0-9 _ - and a letter or digit first"
        )
    return text


def program_name(text: str, path: str) -> str:
    if not IDENTIFIER.match(text):
        raise SpecError(path, f"{text!r} is not the name of a program: a C identifier is needed")
    return text


# --- input ----------------------------------------------------------------------------------------------------------------


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    name = object_name(item["name"], f"{path}.name")
    given = [option for option in ("source", "object") if item.get(option)]
    if len(given) != 1:
        raise SpecError(path, "give one of source (C) and object (a compiled ELF file)")
    if not item.get("code") or not CODE.match(item["code"]):
        raise SpecError(
            f"{path}.{given[0]}",
            "its content did not come along; set remote_src: true when it lies on the host, else this is a fault of the action plugin",
        )
    programs = item.get("programs")
    if not programs:
        raise SpecError(
            f"{path}.{given[0]}",
            'it has no program for a hook of the network: mark one with SEC("tc") or SEC("xdp"), or name them under programs',
        )
    if given[0] == "object" and item["compiler"] != "auto":
        raise SpecError(f"{path}.compiler", "an object is compiled already; leave it out")
    value = Value(
        name,
        source=os.path.basename(item[given[0]].rstrip("/")),
        code=item["code"][:SHOWN_CODE],
        compiler=build.PREBUILT if given[0] == "object" else item["compiler"],
        constants=_constants(item.get("constants"), f"{path}.constants"),
        maps=_sizes(item.get("maps"), f"{path}.maps"),
        programs=_programs(programs, f"{path}.programs"),
        health=OK,
        owner=owner,
        incompatible_maps=item["incompatible_maps"],
    )
    return [Desired(value, path, adopt=bool(item.get("adopt")))]


def _constants(given: t.Optional[t.Mapping[str, t.Any]], path: str) -> t.Dict[str, t.Any]:
    for name, value in (given or {}).items():
        _identifier(name, path)
        if not isinstance(value, (bool, int, str, list, dict)):
            raise SpecError(
                f"{path}.{name}",
                f"{value!r} is neither a number, a truth value, a name, a list nor a mapping",
            )
        if isinstance(value, str) and not (
            IDENTIFIER.match(value) or re.match(r"-?\d+\Z|0x[0-9a-fA-F]+\Z", value)
        ):
            raise SpecError(f"{path}.{name}", f"{value!r} is neither a number nor the name of one")
    return {name: _plain(value) for name, value in (given or {}).items()}


def _plain(value: t.Any) -> t.Any:
    """Numbers as numbers: templates make text of them."""
    if isinstance(value, str) and not IDENTIFIER.match(value):
        return int(value, 16 if value.startswith("0x") else 10)
    return value


def _sizes(given: t.Optional[t.Mapping[str, t.Any]], path: str) -> t.Dict[str, int]:
    sizes = {}
    for name, value in (given or {}).items():
        _identifier(name, path)
        try:
            sizes[name] = int(str(value), 0)
        except ValueError:
            raise SpecError(f"{path}.{name}", f"{value!r} is not a number of entries") from None
        _fields.whole(sizes[name], 1, U32_MAX, f"{path}.{name}", "entries")
    return sizes


def _programs(given: t.Mapping[str, t.Any], path: str) -> t.Dict[str, str]:
    for name, kind in given.items():
        program_name(name, f"{path}.{name}")
        if not isinstance(kind, str) or kind not in build.TYPES:
            raise SpecError(f"{path}.{name}", f"{kind!r} is not a type of program; give tc or xdp")
    return {name: str(kind) for name, kind in sorted(given.items())}


def _identifier(name: str, path: str) -> None:
    if not IDENTIFIER.match(name):
        raise SpecError(f"{path}.{name}", "not a name in C")


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [key_of(_fields.TASKS, object_name(item["name"], f"{path}.name"))]


def local_source(item: t.Mapping[str, t.Any], path: str) -> sources.Source:
    """The source of an item with ``remote_src``: a file or a directory of this host."""
    option = "object" if item.get("object") else "source"
    place = item.get(option) or ""
    if not os.path.isabs(place):
        raise SpecError(f"{path}.{option}", f"{place!r} must be an absolute path with remote_src: true")
    try:
        return sources.collect(place, option=option)
    except CnfError as problem:
        raise SpecError(f"{path}.{option}", str(problem)) from problem


# --- what there is --------------------------------------------------------------------------------------------------------


def installed(host: Host, topology: str, name: str) -> t.Optional[objects.Installed]:
    return t.cast(
        t.Optional[objects.Installed],
        host.cached((NAME, topology, name), lambda: _look(topology, name)),
    )


def _look(topology: str, name: str) -> t.Optional[objects.Installed]:
    bpffs.mounts()  # refuses to look at pins when a second bpffs hides the first
    return objects.read(topology, name)


def loaded(topology: str, name: str) -> t.Optional[Value]:
    """The object as it is on the host, None when there is none."""
    state = _look(topology, name)
    return _value_of(topology, name, state) if state is not None else None


def exists(host: Host, key: Key) -> bool:
    topology, name = key.id.split("/", 1)
    return installed(host, topology, name) is not None


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    """The wanted objects, and all others of the same topology (not of single tasks, which know nothing of each other)."""
    names = dict.fromkeys(tuple(key.id.split("/", 1)) for key in wanted if key.kind == NAME)
    if names or topology != _fields.TASKS:
        bpffs.mounts()
    if topology != _fields.TASKS:
        names.update(dict.fromkeys((topology, name) for name in pins.objects(topology)))
    if os.path.isdir(builds_directory(host)) and not pins.objects(topology):
        # A run that was killed after it had removed the last object left its builds behind.
        host.at_end(lambda: _prune(host, topology))
    found = {}
    for owner, name in names:
        state = installed(host, owner, name)
        if state is not None:
            found[key_of(owner, name)] = _value_of(owner, name, state)
    return found


def _value_of(owner: str, name: str, state: objects.Installed) -> Value:
    marks = state.marks()
    told = marks[0] if marks else None
    ids = [f"{entry}={program.info.id}" for entry, program in state.programs.items()]
    ids += [f"map {entry}={number}" for entry, number in state.maps.items()]
    value = Value(
        name,
        programs={
            entry: build.TYPE_NAMES.get(program.info.type, str(program.info.type))
            for entry, program in sorted(state.programs.items())
        },
        health=OK if told and _is_whole(state, told) else INCOMPLETE,
        owner=owner,
        id=tuple(sorted(ids)),
    )
    if told is None:
        return dataclasses.replace(value, source="", code="", compiler="", constants={}, maps={})
    return dataclasses.replace(
        value,
        source=told.source,
        code=told.code,
        compiler=told.compiler,
        constants=dict(told.constants),
        maps=dict(told.maps),
    )


def _is_whole(state: objects.Installed, told: mark.Mark) -> bool:
    """Whether every program comes from the same build with the same settings, and every map has its pin."""
    first = told._replace(program="", loaded=0.0)
    return (
        state.tidy
        and set(told.pinned) == set(state.maps)
        and all(
            program.mark is not None
            and program.mark.program == entry
            and program.mark._replace(program="", loaded=0.0) == first
            for entry, program in state.programs.items()
        )
    )


def settled(host: Host, value: Value, observed: t.Optional[Value]) -> Value:
    """The value with the compiler that will build it, or has built it."""
    found = _with_compiler(host, value, observed)
    if observed is None or merged(observed, found) is not observed:
        host.cached(("changing", found.key()), lambda: True)
    return found


def is_changing(host: Host, topology: str, name: str) -> bool:
    """Whether this run is about to load the object anew: its maps may be others then."""
    return bool(host.cached(("changing", key_of(topology, name)), lambda: False))


def _with_compiler(host: Host, value: Value, observed: t.Optional[Value]) -> Value:
    if value.compiler == build.PREBUILT:
        return value
    told = _mark_of(host, value)
    try:
        return dataclasses.replace(value, compiler=build.compiler_for(str(value.compiler), told).text)
    except UnsupportedError:
        # Without any compiler, what is there stays as good as it was.
        if told is None or observed is None or told.code != value.code or told.compiler == build.PREBUILT:
            raise
        if value.compiler not in ("auto", told.compiler.split()[0]):
            raise
        return dataclasses.replace(value, compiler=told.compiler)


def _mark_of(host: Host, value: Value) -> t.Optional[mark.Mark]:
    state = installed(host, str(value.owner), value.name)
    marks = state.marks() if state else []
    return marks[0] if marks else None


def merged(observed: Value, desired: Value) -> Value:
    """Everything that is declared, or exactly what is there: undeclared constants and sizes go back to the source's."""
    same = all(
        getattr(observed, name) == getattr(desired, name)
        for name in ("code", "compiler", "constants", "maps", "programs", "health")
    )
    return observed if same else dataclasses.replace(desired, id=None)


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


# --- changing -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    value = operation.value
    owner = str(value.owner)
    host.cache_drop((NAME, owner, value.name))
    host.at_end(lambda: _prune(host, owner), once=("builds", owner))
    if before is not None or os.path.isdir(pins.object_directory(owner, value.name)):
        _keep(host, owner, value.name)
    if after is None:
        if before.id is not None:  # not when undo removes what could not be made: the log says why
            host.at_end(lambda: _forget_log(host, owner, value.name))
        _remove_with_neighbors(host, owner, value.name)
        if owner != _fields.TASKS:
            host.at_end(lambda: _disown(host, owner, value.name))
        if host.kept.pop("bpffs", None) is not None:
            bpffs.unmount()
        return
    if bpffs.ensure_mounted():
        host.kept["bpffs"] = _Mounted()
    kept = host.kept.get((NAME, after.key(), after.id)) if after.id is not None else None
    loaded = kept or _load(host, after)
    try:
        objects.install(owner, after.name, loaded, lambda path, fd: hooks.replace_filter(host, path, fd))
    finally:
        if kept is None:
            loaded.close()


def _remove_with_neighbors(host: Host, owner: str, name: str) -> None:
    """Remove an object; with a router go the neighbours that the kernel keeps resolved for its next hops."""
    from . import _policies

    netns = _policies.netns_of(owner, name)
    objects.remove(owner, name)
    if netns is not None:
        _policies.drop_neighbors(host, netns, _policies.used_next_hops(netns))


class _Mounted:
    """Remembers that this run mounted the BPF file system, so that undoing the first object unmounts it."""

    def close(self) -> None:
        """Nothing to close."""


def _keep(host: Host, owner: str, name: str) -> None:
    """Hold what is there now, for undo; descriptors keep programs and maps alive when their pins go."""
    state = objects.read(owner, name)
    if state is not None:
        value = _value_of(owner, name, state)
        place = (NAME, value.key(), value.id)
        if place not in host.kept:
            _allow_descriptors()
            host.kept[place] = objects.take(owner, name)


def _allow_descriptors() -> None:
    """As many as the process may have: each program and map that undo could need is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _load(host: Host, value: Value) -> t.Any:
    owner = str(value.owner)
    old = objects.take(owner, value.name)
    log = log_path(host, owner, value.name)
    try:
        loaded = build.load(
            recipe_of(value, _compiler_identity(host, value), host.files.get(str(value.code))),
            builds_directory(host),
            host.files.get(str(value.code)),
            old.maps,
            value.incompatible_maps or "migrate",
            lambda map_name: _homes(host, owner, value.name, map_name),
        )
    except CnfError as problem:
        raise _explained(problem, log, host) from problem
    finally:
        old.close()
    _remove_log(log)
    return loaded


def _homes(host: Host, owner: str, name: str, map_name: str) -> t.Dict[bytes, str]:
    """The namespaces that the devices of a map are in, by the keys of the entries that were written for them."""
    from .._store import Store
    from . import bpf_map_entry, revive

    store = Store(owner, revive, os.path.dirname(host.directory))
    place = f"{owner}/{name}:{map_name}"
    claimed = (key for key in store.claims(store.latest()) if key.kind == bpf_map_entry.NAME)
    found = (
        (bpf_map_entry.key_of_device(host, key), key.netns)
        for key in claimed
        if key.id.partition(" ")[0] == place
    )
    return {raw: netns for raw, netns in found if raw is not None}


def _compiler_identity(host: Host, value: Value) -> str:
    backend = str(value.compiler).split()[0]
    return "" if backend == build.PREBUILT else build.identity_of(backend)


def recipe_of(value: Value, identity: str, files: t.Optional[sources.Source]) -> build.Recipe:
    if files is None:
        raise UnsupportedError(f"{value.key()}: its source did not come along with this run")
    return build.Recipe(
        mark.Mark(
            topology=str(value.owner),
            object=value.name,
            program="",
            source=str(value.source),
            main=files.main,
            code=str(value.code),
            compiler=str(value.compiler),
            compiler_id=identity,
            build=build.build_id(str(value.code), str(value.compiler)),
            constants=dict(value.constants or {}),
            maps=dict(value.maps or {}),
        ),
        dict(value.programs or {}),
    )


def copy_program(host: Host, topology: str, name: str, program: str) -> int:
    """Another instance of a pinned program, with the same maps and the same mark: a hook takes each instance once."""
    state = objects.read(topology, name)
    pinned = state.programs.get(program) if state else None
    if pinned is None or pinned.mark is None:
        raise PlanError(f"bpf_object {topology}/{name} has no program {program} of ours")
    recipe = build.Recipe(pinned.mark, {program: build.TYPE_NAMES[pinned.info.type]})
    old = objects.take(topology, name)
    try:
        loaded = build.load(
            recipe, builds_directory(host), host.files.get(pinned.mark.code), old.maps, "refuse"
        )
    finally:
        old.close()
    try:
        return os.dup(loaded.programs[program])
    finally:
        loaded.close()


def builds_directory(host: Host) -> str:
    return os.path.join(host.directory, "objects")


def log_path(host: Host, topology: str, name: str) -> str:
    return os.path.join(os.path.dirname(host.directory), "logs", f"{topology}.{name}.log")


def _explained(problem: CnfError, log: str, host: Host) -> CnfError:
    """The error with the place of the whole log, which is written now."""
    text = re.sub(rf"{re.escape(builds_directory(host))}/[0-9a-f]+/(src/|program\.o: )?", "", str(problem))
    whole = getattr(problem, "log", "")
    if not whole:
        return CnfError(text)
    try:
        os.makedirs(os.path.dirname(log), 0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(log, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(whole + "\n")
    except OSError as trouble:
        return CnfError(f"{text} (the whole log cannot be written to {log}: {trouble.strerror})")
    return CnfError(f"{text} (the whole log: {log})")


def _remove_log(path: str) -> None:
    for remove, place in ((os.unlink, path), (os.rmdir, os.path.dirname(path))):
        try:
            remove(place)
        except OSError:
            return


def _disown(host: Host, owner: str, name: str) -> None:
    """What single tasks wrote into the object's maps is gone with it, and no longer theirs."""
    from .._store import Store
    from . import revive

    if name in pins.objects(owner):
        return  # made anew
    place = f"{owner}/{name}"
    tasks = Store(_fields.TASKS, revive, os.path.dirname(host.directory))
    tasks.disown(lambda key: key.kind in WITHIN and key.id.partition(":")[0] == place)


def _forget_log(host: Host, owner: str, name: str) -> None:
    if name not in pins.objects(owner):
        _remove_log(log_path(host, owner, name))


def _prune(host: Host, owner: str) -> None:
    """Forget builds that nothing uses; with the last object of a topology all of them."""
    names = pins.objects(owner)
    used: t.Set[str] = set()
    for name in names:
        state = objects.read(owner, name)
        used.update(found.build for found in (state.marks() if state else ()))
    build.prune(builds_directory(host), used, build.KEEP_BUILDS if names else 0)


# --- telling --------------------------------------------------------------------------------------------------------------


def commands(operation: Operation) -> t.List[str]:
    before, after = operation.before, operation.after
    if after is None:
        return [f"rm -r {pins.object_directory(str(before.owner), before.name)}"]
    directory = pins.object_directory(str(after.owner), after.name)
    lines = []
    source, compiled = str(after.source), str(after.source)
    if after.compiler and after.compiler.split()[0] == "clang":
        compiled = f"{source.partition('.')[0]}.o"
        lines.append(f"clang -O2 -g -target bpf -mcpu=v3 -c {source} -o {compiled}")
    if after.compiler and after.compiler.split()[0] == "bcc":
        lines.append(
            f"python3 -c 'import bcc; bcc.BPF(src_file=\"{source}\")'  # then pinned below {directory}"
        )
    else:
        lines.append(f"bpftool prog loadall {compiled} {directory}/programs pinmaps {directory}/maps")
    return lines


def line_of(value: Value) -> str:
    """The object in a text about a topology."""
    programs = ", ".join(value.programs or {})
    return f"object {value.name}: {value.source} ({value.compiler}) with {programs}"


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item: t.Dict[str, t.Any] = {"name": value.name}
    if value.compiler == build.PREBUILT:
        item["object"] = value.source
    else:
        item.update(source=value.source, compiler=str(value.compiler).split()[0] or "auto")
    for name in ("constants", "maps"):
        if getattr(value, name):
            item[name] = getattr(value, name)
    return SECTION, item
