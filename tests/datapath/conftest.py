# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the datapath tests: programs compiled once per session, and namespaces that vanish with the test."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import struct
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import btf, libbpf, sources
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, bpffs

sys.path.insert(0, str(Path(__file__).resolve().parent))  # in importlib mode pytest adds nothing

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ROOT / "files" / "bpf"
INCLUDE = [SOURCES, SOURCES / "lib"]
CACHE = ROOT / ".cache" / "datapath"

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(items: t.List[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root: it loads BPF programs"))


@pytest.fixture(scope="session")
def compiled() -> t.Callable[..., Path]:
    """``compiled(source, **defines)``: the path of the object that clang makes of a file of files/bpf, or of a path.

    Objects are kept between sessions under a digest of all that they depend on.
    """
    why = build.missing("clang")
    known = "" if why else build.version("clang")

    def get(source: t.Union[str, Path], **defines: t.Union[str, int]) -> Path:
        if why:
            pytest.skip(why)
        path = SOURCES / source
        code = sources.code_of(sources.collect(str(path), [str(place) for place in INCLUDE]))
        whole = "\0".join([code, known, *build.define_flags(defines)])
        digest = hashlib.sha256(whole.encode()).hexdigest()
        target = CACHE / f"{path.name.split('.')[0]}-{digest[:16]}.o"
        if not target.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            build.compile_clang(path, target, INCLUDE, defines)
        return target

    return get


@pytest.fixture
def loaded(compiled: t.Callable[..., Path], tmp_path: Path) -> t.Iterator[t.Callable[..., libbpf.Loaded]]:
    """``loaded(source, compiler="clang", defines={}, **options)``: programs and maps, closed at the end of the test.

    ``options`` are those of libbpf.load, or of compile_bcc with compiler="bcc".
    """
    with contextlib.ExitStack() as stack:

        def get(
            source: t.Union[str, Path],
            compiler: str = "clang",
            defines: t.Optional[t.Mapping[str, t.Union[str, int]]] = None,
            **options: t.Any,
        ) -> libbpf.Loaded:
            why = build.missing(compiler)
            if why:
                pytest.skip(why)
            if compiler == "clang":
                return stack.enter_context(libbpf.load(compiled(source, **(defines or {})), **options))
            return stack.enter_context(
                build.compile_bcc(
                    SOURCES / source,
                    programs=options.pop("programs"),
                    directory=tmp_path / "bcc",
                    include_dirs=INCLUDE,
                    defines=defines or {},
                    **options,
                )
            )

        yield get


class Datapath:
    """A loaded source: its programs run on single frames, its maps are read and written by field name."""

    def __init__(self, source: Path, loaded: libbpf.Loaded) -> None:
        self.loaded = loaded
        found = re.search(r"enum counter_index \{(.*?)\};", source.read_text(), re.S)
        self.names = re.findall(r"^\t([A-Z0-9_]+),", found[1], re.M) if found else []

    def fd(self, program: str) -> int:
        return self.loaded.programs[program]

    def run(self, program: str, frame: bytes) -> int:
        return bpf.test_run(self.fd(program), frame).retval

    def get(self, name: str, key: bytes) -> t.Optional[bytes]:
        fd = self.loaded.maps[name]
        return bpf.map_lookup(fd, key, bpf.entry_size(bpf.map_info(fd)))

    def put(self, name: str, key: t.Any, value: t.Any) -> None:
        fd = self.loaded.maps[name]
        types = btf.map_types(fd)
        assert types is not None
        bpf.map_update(fd, types.encode_key(key), types.encode_value(value))

    def clear(self, name: str) -> None:
        fd = self.loaded.maps[name]
        for key, _value in bpf.map_items(fd, bpf.map_info(fd)):
            bpf.map_delete(fd, key)

    def counters(self) -> t.Dict[str, t.Tuple[int, int]]:
        """Packets and bytes of the named counters that have moved, over all CPUs."""
        fd = self.loaded.maps["counters"]
        info = bpf.map_info(fd)
        found = {}
        for key, value in bpf.map_items(fd, info):
            cpus = [struct.unpack("=QQ", part) for part in bpf.split_percpu(value, info.value_size)]
            packets, size = (sum(column) for column in zip(*cpus))
            if packets or size:
                found[self.names[int.from_bytes(key, sys.byteorder)]] = (packets, size)
        return found

    def reset(self) -> None:
        fd = self.loaded.maps["counters"]
        info = bpf.map_info(fd)
        for key, _value in bpf.map_items(fd, info):
            bpf.map_update(fd, key, bytes(bpf.entry_size(info)))


@pytest.fixture(scope="session", params=build.COMPILERS)
def compiler(request: pytest.FixtureRequest) -> str:
    """Each compiler in turn; skipped where it is missing."""
    why = build.missing(request.param)
    if why:
        pytest.skip(why)
    return str(request.param)


@pytest.fixture(scope="session")
def both_compilers() -> t.Sequence[str]:
    for name in build.COMPILERS:
        why = build.missing(name)
        if why:
            pytest.skip(why)
    return build.COMPILERS


def programs_of(source: Path) -> t.Dict[str, int]:
    """The programs of a source and their types, by their sections, which BCC does not tell."""
    types = {"tc": bpf.ProgType.SCHED_CLS, "xdp": bpf.ProgType.XDP}
    found = re.findall(r'SEC\("(\w+)"\)\s+int (\w+)\(', source.read_text())
    return {name: types[section] for section, name in found}


@pytest.fixture(scope="session")
def load(
    compiled: t.Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> t.Iterator[t.Callable[..., Datapath]]:
    """``load(source, compiler, **constants)``: a Datapath with its counters at zero, kept for the whole session.

    ``source`` is the name of a program of files/bpf, or a path.
    """
    known: t.Dict[t.Any, Datapath] = {}

    def get(source: t.Union[str, Path], compiler: str, **constants: int) -> Datapath:
        path = source if isinstance(source, Path) else SOURCES / f"{source}.bpf.c"
        key = (path, compiler, tuple(sorted(constants.items())))
        if key not in known:
            known[key] = Datapath(path, make(path, compiler, constants))
        if "counters" in known[key].loaded.maps:
            known[key].reset()
        return known[key]

    def make(path: Path, compiler: str, constants: t.Mapping[str, int]) -> libbpf.Loaded:
        if compiler == "clang":
            return libbpf.load(compiled(path), constants=constants)
        return build.compile_bcc(
            path,
            programs=programs_of(path),
            directory=tmp_path_factory.mktemp("bcc"),
            include_dirs=INCLUDE,
            constants=constants,
        )

    yield get
    for found in known.values():
        found.loaded.close()


@contextlib.contextmanager
def unshared(flag: int, kind: str) -> t.Iterator[None]:
    """A new namespace for this process and back; what was made inside goes with it, also when the process is killed."""
    place = os.getcwd()
    home = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(flag) != 0:
            raise OSError(ctypes.get_errno(), f"unshare {kind}")
        try:
            yield
        finally:
            if _libc.setns(home, flag) != 0:
                os._exit(3)  # no test may go on in the wrong namespace
            if kind == "mnt":
                os.chdir(place)
    finally:
        os.close(home)


@pytest.fixture
def network() -> t.Iterator[None]:
    """A network namespace with nothing but ``lo`` for the test and the programs that it starts."""
    with unshared(CLONE_NEWNET, "net"):
        yield


@pytest.fixture
def mounts() -> t.Iterator[None]:
    """A mount namespace for the test, from which nothing spreads."""
    with unshared(CLONE_NEWNS, "mnt"):
        if _libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) != 0:
            raise OSError(ctypes.get_errno(), "mount --make-rprivate /")
        yield


@pytest.fixture
def pins(mounts: None, tmp_path: Path) -> t.Iterator[str]:
    """The mount point of an empty bpffs of the test's own."""
    point = tmp_path / "bpffs"
    point.mkdir()
    bpffs.ensure_mounted(str(point))
    yield str(point)


@pytest.fixture
def keep() -> t.Iterator[t.Callable[[int], int]]:
    """``keep(fd)``: the descriptor itself, closed at the end of the test."""
    descriptors: t.List[int] = []

    def add(fd: int) -> int:
        descriptors.append(fd)
        return fd

    yield add
    for fd in reversed(descriptors):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(fd)
