# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""From sources to marked programs in the kernel, whichever compiler; compiled objects are cached below a directory.

    <directory>/<build>/src/...      the sources, so that a program can be loaded again by a run that did not bring them
    <directory>/<build>/program.o    what clang made of them, or the prebuilt object itself; BCC leaves none

A build is what sources, flags and compiler decide. Constants and sizes of maps are set when it is loaded.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
import shutil
import tempfile
import typing as t

from .._errors import UnsupportedError
from .._kernel import bpf
from . import btf, libbpf, maps, mark, sources
from . import compile as compilers

PREBUILT = "prebuilt"
TYPES = {"tc": bpf.ProgType.SCHED_CLS, "xdp": bpf.ProgType.XDP}
TYPE_NAMES = {int(number): name for name, number in TYPES.items()}
KEEP_BUILDS = 4  # not in use any more, per topology: going back to the last version needs no compiler

_BCC_PLACES = (
    "/usr/lib/python3/dist-packages/bcc/version.py",
    "/usr/lib/python3*/site-packages/bcc/version.py",
    "/usr/lib64/python3*/site-packages/bcc/version.py",
)


class Compiler(t.NamedTuple):
    """``backend`` clang, bcc or prebuilt; ``text`` with its version; ``identity`` cheap to ask for, differs when it was replaced."""

    backend: str
    text: str
    identity: str


class Recipe(t.NamedTuple):
    """What to load: the mark that its programs get (but for their names), and their types, ``tc`` or ``xdp``, by name."""

    mark: mark.Mark
    programs: t.Mapping[str, str]


def identity_of(backend: str) -> str:
    """Path, size and time of a compiler's file: asking for its version takes a process, up to a tenth of a second."""
    if backend == "clang":
        found = compilers.find_clang()
        path = os.path.realpath(found) if found else ""
    else:
        path = next((match for place in _BCC_PLACES for match in sorted(glob.glob(place))), "")
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def compiler_for(wanted: str, known: t.Optional[mark.Mark]) -> Compiler:
    """The compiler that ``auto``, ``clang`` or ``bcc`` stands for on this host.

    ``known`` is the mark of what is loaded: its compiler need not be asked again. UnsupportedError tells what is missing.
    """
    backend = choose_cheaply(wanted)
    identity = identity_of(backend)
    if known is not None and identity and known.compiler_id == identity:
        return Compiler(backend, known.compiler, identity)
    ask = _version if identity else _version.__wrapped__
    return Compiler(backend, f"{backend} {ask(backend, identity)}", identity)


@functools.cache
def _version(backend: str, _identity: str) -> str:
    """Asked once in a process for each file that is a compiler."""
    return version_text(compilers.version(backend))


def choose_cheaply(wanted: str) -> str:
    """As compile.choose, without starting BCC's interpreter when its files tell that it is there."""
    for backend in compilers.COMPILERS if wanted == "auto" else (wanted,):
        if backend == "bcc" and identity_of(backend):
            return backend
        if not compilers.missing(backend):
            return backend
    return compilers.choose(wanted)


def version_text(line: str) -> str:
    """The version in what a compiler says of itself: ``Debian clang version 19.1.7 (3+b1)`` is ``19.1.7 (3+b1)``."""
    found = re.search(r"version (\S+(?: \([^)]*\))?)", line)
    return found[1] if found else line.strip()


def build_id(code: str, compiler: str) -> str:
    return hashlib.sha256(f"{code} {compiler}".encode()).hexdigest()[:16]


def load(
    recipe: Recipe,
    directory: str,
    files: t.Optional[sources.Source],
    old: t.Mapping[str, int],
    policy: str = "migrate",
    homes: t.Callable[[str], t.Mapping[bytes, str]] = lambda name: {},
) -> libbpf.Loaded:
    """Compile what is not compiled yet, load it with the maps of ``old`` (name to descriptor) where they fit, and mark it.

    ``files`` None: those of an earlier run. ``policy`` as for maps.decide. ``homes``: for keys of a device map the namespace of the
    device. Raises CompileError, LoadError, MapError,
    UnsupportedError.
    """
    target = os.path.join(directory, recipe.mark.build)
    main = _sources(target, recipe.mark, files)
    shapes = {name: maps.shape_of(fd) for name, fd in old.items()}
    backend = recipe.mark.compiler.split()[0]
    if backend == "bcc":
        loaded, carried = _load_bcc(recipe, target, main, old, shapes, policy)
    else:
        path = main if backend == PREBUILT else _compiled(target, main)
        loaded, carried = _load_elf(recipe, path, old, shapes, policy)
    try:
        for name in carried:
            fd = loaded.maps[name]
            maps.migrate(old[name], shapes[name], fd, maps.shape_of(fd), functools.partial(homes, name))
        for name, fd in loaded.programs.items():
            pinned = tuple(sorted(name for name in loaded.maps if not name.startswith(".")))
            mark.put(fd, recipe.mark._replace(program=name, pinned=pinned))
    except BaseException:
        loaded.close()
        raise
    return loaded


def _sources(target: str, wanted: mark.Mark, files: t.Optional[sources.Source]) -> str:
    """The path of the main file, written if it is not there."""
    place = os.path.join(target, "src")
    path = os.path.join(place, wanted.main)
    if os.path.isfile(path) and not os.path.isdir(place + ".new"):
        return path
    if files is None:
        raise UnsupportedError(
            f"bpf_object {wanted.object}: its source is not on this host any more; run what declares it again"
        )
    shutil.rmtree(place + ".new", ignore_errors=True)  # of a run that was killed
    shutil.rmtree(place, ignore_errors=True)
    for directory in (os.path.dirname(target), target):  # a mode holds for the last directory only
        os.makedirs(directory, 0o700, exist_ok=True)
    sources.write(files, place + ".new")
    os.rename(place + ".new", place)
    return path


def _compiled(target: str, main: str) -> str:
    path = os.path.join(target, "program.o")
    if not os.path.isfile(path):
        compilers.compile_clang(main, path, [os.path.dirname(main)])
        os.chmod(path, 0o600)
    return path


def _load_elf(
    recipe: Recipe,
    path: str,
    old: t.Mapping[str, int],
    shapes: t.Mapping[str, maps.Shape],
    policy: str,
) -> t.Tuple[libbpf.Loaded, t.List[str]]:
    sizes = recipe.mark.maps
    definitions = btf.definitions(btf.object_btf(path))
    new = {name: maps.shape_of_definition(row, sizes.get(name)) for name, row in definitions.items()}
    decisions = maps.decide(shapes, new, policy)
    reuse = {name: old[name] for name, what in decisions.items() if what == maps.REUSE}
    loaded = libbpf.load(
        path,
        constants=recipe.mark.constants,
        map_sizes=sizes,
        reuse=reuse,
        programs=set(recipe.programs),
        types={name: TYPES[kind] for name, kind in recipe.programs.items()},
    )
    return loaded, [name for name, what in decisions.items() if what == maps.MIGRATE]


def _load_bcc(
    recipe: Recipe,
    target: str,
    main: str,
    old: t.Mapping[str, int],
    shapes: t.Mapping[str, maps.Shape],
    policy: str,
) -> t.Tuple[libbpf.Loaded, t.List[str]]:
    decisions: t.Dict[str, str] = {}

    def choose(fresh: t.Mapping[str, int]) -> t.Dict[str, int]:
        decisions.update(maps.decide(shapes, {name: maps.shape_of(fd) for name, fd in fresh.items()}, policy))
        return {name: old[name] for name, what in decisions.items() if what == maps.REUSE}

    with tempfile.TemporaryDirectory(dir=target) as scratch:
        loaded = compilers.compile_bcc(
            main,
            programs={name: int(TYPES[kind]) for name, kind in recipe.programs.items()},
            directory=scratch,
            include_dirs=[os.path.dirname(main)],
            constants=recipe.mark.constants,
            map_sizes=recipe.mark.maps,
            choose=choose,
        )
    return loaded, [name for name, what in decisions.items() if what == maps.MIGRATE]


def prune(directory: str, used: t.Container[str], keep: int = KEEP_BUILDS) -> None:
    """Remove builds that no loaded program comes from, but for the newest ``keep`` of them."""
    try:
        with os.scandir(directory) as entries:
            idle = [entry for entry in entries if entry.name not in used]
    except OSError:
        return
    idle.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
    for entry in idle[keep:]:
        shutil.rmtree(entry.path, ignore_errors=True)
    for empty in (directory, os.path.dirname(directory)):
        try:
            os.rmdir(empty)
        except OSError:
            return
