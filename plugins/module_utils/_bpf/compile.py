# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""From C to programs, by clang (an object file, which libbpf loads) or by BCC (loaded at once).

Whether a source must be compiled again is told by its digest (sources.code_of), never by a program's tag: tags differ from
compiler to compiler. BCC, where clang is missing, is one package, but its dialect has no load-time constants and no sections:
constants become macros, and the caller says which type a program has.
"""

from __future__ import annotations

import array
import contextlib
import inspect
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import types as _types
import typing as t

from .._errors import CnfError, UnsupportedError
from .._kernel import bpf
from . import _bcc_program
from .libbpf import Loaded, LoadError, explain, unknown_name

COMPILERS = ("clang", "bcc")  # in the order in which `auto` tries them
FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror")
DISTRIBUTION_PYTHON = "/usr/bin/python3"
INCLUDE = "/usr/include"
SECONDS = 120.0
REPORTED_ERRORS = 3

PathLike = t.Union[str, "os.PathLike[str]"]
Defines = t.Mapping[str, t.Union[str, int]]
_NONE: t.Mapping[str, t.Any] = _types.MappingProxyType({})


class CompileError(CnfError):
    """A source that does not compile. str() names the first errors as ``file:line: error: ...``, ``log`` is everything."""

    def __init__(self, message: str, log: str = "") -> None:
        self.log = log
        super().__init__(message)


# --- Which compiler -----------------------------------------------------------------------------------------------


def find_clang() -> t.Optional[str]:
    """The path of ``clang``, or else of the newest ``clang-<version>``; None when there is none."""
    plain = shutil.which("clang")
    if plain:
        return plain
    versions = {
        int(found[1]): os.path.join(directory, name)
        for directory in reversed(os.get_exec_path())
        for name in _listing(directory)
        for found in [re.fullmatch(r"clang-(\d+)", name)]
        if found and os.access(os.path.join(directory, name), os.X_OK)
    }
    return versions[max(versions)] if versions else None


def _listing(directory: str) -> t.List[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


_bcc_found: t.List[t.Tuple[str, str]] = []  # asking costs a tenth of a second


def find_bcc() -> t.Tuple[t.Optional[str], str]:
    """An interpreter that has BCC's Python module, and BCC's version; or None and why not."""
    if _bcc_found:
        return _bcc_found[0]
    why = "python3-bpfcc is not installed (apt-get install python3-bpfcc)"
    for python in dict.fromkeys((DISTRIBUTION_PYTHON, sys.executable)):
        # -I: the module's own search path must not reach the other interpreter.
        check = "import bcc; print(bcc.__version__ if hasattr(bcc, 'BPF') else 'other')"
        try:
            done = _run([python, "-I", "-c", check])
        except OSError:
            continue
        answer = done.stdout.strip()
        if done.returncode == 0 and answer and answer != "other":
            _bcc_found.append((python, answer))
            return python, answer
        if answer == "other" or "__version__" in done.stderr:
            why = f"the module bcc of {python} is PyPI's lattice package, not BCC: uninstall it there (pip uninstall bcc)"
    return None, why


def missing(backend: str) -> str:
    """What keeps a compiler from being used, with the remedy; empty when it is there."""
    if backend == "bcc":
        python, why = find_bcc()
        return "" if python else why
    if backend != "clang":
        raise ValueError(backend)
    if find_clang() is None:
        return "clang is not installed (apt-get install clang libbpf-dev)"
    if not os.path.exists(os.path.join(INCLUDE, "bpf", "bpf_helpers.h")):
        return "bpf/bpf_helpers.h is missing (apt-get install libbpf-dev)"
    return ""


def backend_available(name: str) -> bool:
    return not missing(name)


def choose(compiler: str) -> str:
    """``clang`` or ``bcc`` for ``auto``, ``clang`` or ``bcc``. UnsupportedError tells what each one lacks."""
    candidates = COMPILERS if compiler == "auto" else (compiler,)
    reasons = []
    for name in candidates:
        why = missing(name)
        if not why:
            return name
        reasons.append(why)
    raise UnsupportedError("no compiler for BPF programs: " + "; ".join(reasons))


def version(backend: str) -> str:
    """What identifies the build of a compiler, in one line; empty when it is missing."""
    if backend == "bcc":
        python, found = find_bcc()
        return found if python else ""
    clang = find_clang()
    return _run([clang, "--version"]).stdout.splitlines()[0] if clang else ""


# --- Flags --------------------------------------------------------------------------------------------------------


def define_flags(defines: Defines) -> t.List[str]:
    return [f"-D{name}={value}" for name, value in sorted(defines.items())]


def multiarch_directory(machine: str = "", include: str = INCLUDE) -> str:
    """Where Debian keeps <asm/...>, which ``-target bpf`` does not look into; ``include`` itself where that has them."""
    names = {"ppc64le": "powerpc64le", "i686": "i386", "armv7l": "arm"}
    machine = machine or platform.machine()
    found = [
        name
        for name in sorted(_listing(include))
        if name.startswith(f"{names.get(machine, machine)}-linux-gnu")
    ]
    return os.path.join(include, found[0]) if found else include


# --- clang --------------------------------------------------------------------------------------------------------


def compile_clang(
    source_path: PathLike,
    output: PathLike,
    include_dirs: t.Sequence[PathLike] = (),
    defines: Defines = _NONE,
) -> None:
    """Compile a source into an ELF object with BTF; the output appears whole or not at all.

    Raises CompileError; UnsupportedError without clang.
    """
    clang = find_clang()
    if clang is None:
        raise UnsupportedError(missing("clang"))
    _check_source(source_path)
    target = os.fspath(output)
    unfinished = f"{target}.{os.getpid()}"
    command = [
        clang,
        *FLAGS,
        *(f"-I{os.fspath(directory)}" for directory in include_dirs),
        f"-idirafter{multiarch_directory()}",
        *define_flags(defines),
        "-fno-color-diagnostics",
        "-c",
        os.fspath(source_path),
        "-o",
        unfinished,
    ]
    try:
        done = _run(command)
        if done.returncode != 0:
            raise CompileError(_summary(source_path, done.stderr), done.stderr)
        os.replace(unfinished, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)


def _check_source(source: PathLike) -> None:
    if not os.path.isfile(source):
        raise CompileError(f"{os.fspath(source)}: no such file")


def _run(command: t.Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A program without shell, in the C locale; its output is text whatever it holds."""
    try:
        return subprocess.run(  # pylint: disable=ansible-bad-function # this layer knows no AnsibleModule
            command,
            check=False,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as problem:
        raise CompileError(f"{command[0]} did not end within {SECONDS:.0f} seconds") from problem


_DIAGNOSTIC = re.compile(r"^(.+?):(\d+):(?:\d+:)? (?:fatal )?error: (.*)$", re.MULTILINE)
_PACKAGES = {"bpf/": "libbpf-dev", "linux/": "linux-libc-dev", "asm/": "linux-libc-dev"}


def first_errors(log: str, count: int = REPORTED_ERRORS) -> t.List[str]:
    """The first errors of a compiler's log as ``file:line: error: text``, each once and without directories."""
    found = dict.fromkeys(
        f"{os.path.basename(path)}:{line}: error: {text}" for path, line, text in _DIAGNOSTIC.findall(log)
    )
    return list(found)[:count]


def header_package(log: str) -> str:
    """The Debian package of a header that was not found; empty if that was not it."""
    found = re.search(r"error: '([^']+)' file not found", log)
    if not found:
        return ""
    return next((package for start, package in _PACKAGES.items() if found[1].startswith(start)), "")


def _summary(source: PathLike, log: str) -> str:
    errors = first_errors(log)
    if not errors:
        errors = [line for line in log.strip().splitlines() if line.strip()][-1:] or [
            "the compiler gave no reason"
        ]
    package = header_package(log)
    hint = f" (apt-get install {package})" if package else ""
    return f"{os.path.basename(os.fspath(source))} does not compile: {'; '.join(errors)}{hint}"


# --- BCC ----------------------------------------------------------------------------------------------------------

# BCC wants the headers of the running kernel, 250 MB, although a network program needs the kernel's user API only
# (package linux-libc-dev), besides a few names that BCC's own built-in headers take for granted. Its built-in
# <linux/bpf.h> replaces the system's, which therefore must be empty.
_STUBS = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/bpf.h": "",
    "linux/bpf_common.h": "",
    "uapi/linux/bpf.h": "",
    "uapi/linux/bpf_common.h": "",
    "asm/page.h": "",
    "linux/log2.h": "#define ilog2(n) (63 - __builtin_clzll(n))\n",
    "linux/types.h": """\
#include_next <linux/types.h>
#ifndef CNF_KERNEL_TYPES
#define CNF_KERNEL_TYPES
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef __SIZE_TYPE__ size_t;
typedef long ssize_t;
typedef unsigned long uintptr_t;
typedef long long loff_t;
typedef int pid_t;
typedef unsigned int gfp_t;
#define true 1
#define false 0
#define NULL ((void *)0)
#endif
""",
}


# Headers that BCC's own and programs written for it ask for by the name that they have in the kernel's sources; that
# directory is searched for <linux/...> too, hence the `next`.
_UAPI = (
    "if_packet",
    "if_ether",
    "if_vlan",
    "in",
    "in6",
    "ip",
    "ipv6",
    "icmp",
    "icmpv6",
    "tcp",
    "udp",
    "pkt_cls",
)
_STUBS.update({f"uapi/linux/{name}.h": f"#include_next <linux/{name}.h>\n" for name in _UAPI})


def bcc_headers(directory: PathLike) -> str:
    """Write what BCC takes for the headers of a kernel below a directory of the caller's; returns its path."""
    top = os.path.join(os.fspath(directory), "bcc-headers")
    for name, content in _STUBS.items():
        path = os.path.join(top, "include", name)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(content)
    os.chmod(top, 0o700)
    return top


Choose = t.Callable[[t.Mapping[str, int]], t.Mapping[str, int]]
ScalarConstant = t.Union[int, str]


def compile_bcc(
    source_path: PathLike,
    *,
    programs: t.Mapping[str, int],
    directory: PathLike,
    include_dirs: t.Sequence[PathLike] = (),
    defines: Defines = _NONE,
    constants: t.Mapping[str, ScalarConstant] = _NONE,
    map_sizes: t.Mapping[str, int] = _NONE,
    choose: t.Optional[Choose] = None,
) -> Loaded:
    """Compile a source with BCC and load it: ``programs`` are names with their types (bpf.ProgType).

    ``constants`` become macros: integers, booleans, or names that mean something in the source. ``map_sizes`` become macros
    too, <MAP>_ENTRIES, which the source has to use. Headers are looked for beside the source, then in ``include_dirs``.
    ``choose`` gets the descriptors of the new maps, by name, before programs are loaded, and returns those of maps to take
    instead; it must not close the former, and what it raises ends the attempt. ``directory`` takes some stub headers; it
    is the caller's to remove.

    Raises CompileError, LoadError; UnsupportedError without BCC.
    """
    python, why = find_bcc()
    if python is None:
        raise UnsupportedError(why)
    _check_source(source_path)
    source = os.path.abspath(os.fspath(source_path))
    name = os.path.basename(source)
    macros = {**defines, **_constant_macros(name, constants), **size_macros(map_sizes)}
    places = (os.path.dirname(source), *(os.path.abspath(os.fspath(place)) for place in include_dirs))
    order = {
        "source": source,
        "flags": [
            *(f"-I{place}" for place in dict.fromkeys(places)),
            *(f"-idirafter{place}" for place in dict.fromkeys((multiarch_directory(), INCLUDE))),
            *define_flags(macros),
        ],
        "programs": dict(programs),
    }
    with _bcc_process(python, order, bcc_headers(directory)) as process:
        fresh, answer = process.receive()
        with fresh:
            if "maps" in answer:
                _check_sizes(name, fresh.maps, map_sizes)
                process.reply(choose(fresh.maps) if choose else {})
        if "maps" not in answer:
            raise _bcc_error(name, answer, process.log())
        loaded, answer = process.receive()
        if "programs" not in answer:
            raise _bcc_error(name, answer, process.log())
        return loaded


def _constant_macros(source: str, constants: t.Mapping[str, t.Any]) -> t.Dict[str, ScalarConstant]:
    macros: t.Dict[str, ScalarConstant] = {}
    for name, value in constants.items():
        if not isinstance(value, int) and not (isinstance(value, str) and value.isidentifier()):
            raise LoadError(
                f"{source}: constant {name}: BCC takes an integer, a boolean or a name of the source's, "
                f"not {value!r}; use clang for others"
            )
        macros[name] = int(value) if isinstance(value, int) else value
    return macros


def size_macros(map_sizes: t.Mapping[str, int]) -> t.Dict[str, int]:
    """The macros by which a source learns the sizes of its maps."""
    return {f"{name.upper()}_ENTRIES": entries for name, entries in map_sizes.items()}


def _check_sizes(source: str, maps: t.Mapping[str, int], wanted: t.Mapping[str, int]) -> None:
    """A source that does not use the macro would else be loaded with whatever size it says."""
    for name, entries in wanted.items():
        if name not in maps:
            raise LoadError(unknown_name(source, "map", name, maps))
        has = bpf.map_info(maps[name]).max_entries
        if has != entries:
            raise LoadError(
                f"{source}: map {name}: {entries} entries are asked for, it has {has}; "
                f"the source must use {name.upper()}_ENTRIES as its size"
            )


@contextlib.contextmanager
def _bcc_process(python: str, order: t.Mapping[str, t.Any], headers: str) -> t.Iterator[_BccProcess]:
    """The process that runs BCC, which ends with the context at the latest."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Files, since nobody reads while it runs: a verifier's log would fill a pipe.
    with ours, theirs, tempfile.TemporaryFile() as orders, tempfile.TemporaryFile() as errors:
        orders.write(json.dumps(order).encode())
        orders.seek(0)
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function # as in _run
            [python, "-I", "-c", inspect.getsource(_bcc_program), str(theirs.fileno())],
            stdin=orders,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "LC_ALL": "C", "BCC_KERNEL_SOURCE": headers},
        )
        try:
            theirs.close()
            ours.settimeout(SECONDS)
            yield _BccProcess(process, ours, errors)
        finally:
            process.kill()  # it has answered, or nobody wants to know
            process.wait()


class _BccProcess:
    """The messages to and from the process that runs BCC."""

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, errors: t.IO[bytes]
    ) -> None:
        self._process = process
        self._socket = connection
        self._errors = errors

    def receive(self) -> t.Tuple[Loaded, t.Dict[str, t.Any]]:
        """The next message with its descriptors; nothing of either when the process died."""
        try:
            data, ancillary, _flags, _address = self._socket.recvmsg(
                1 << 16, socket.CMSG_SPACE(_bcc_program.DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, ancillary = b"", []
        except socket.timeout as problem:
            raise CompileError(f"BCC did not end within {SECONDS:.0f} seconds") from problem
        descriptors = array.array("i")
        for _level, _kind, content in ancillary:
            descriptors.frombytes(content)
        answer = json.loads(data) if data else {}
        programs, maps = answer.get("programs", []), answer.get("maps", [])
        loaded = Loaded(dict(zip(programs, descriptors)), dict(zip(maps, descriptors[len(programs) :])))
        return loaded, answer

    def reply(self, reuse: t.Mapping[str, int]) -> None:
        """Which maps to take instead of new ones."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", reuse.values()).tobytes())]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: receive() will tell
            self._socket.sendmsg([json.dumps({"reuse": list(reuse)}).encode()], rights if reuse else [])

    def log(self) -> str:
        """All that it said, once it has ended."""
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")


def _bcc_error(source: str, answer: t.Mapping[str, str], log: str) -> CnfError:
    stage, name, error = (answer.get(key, "") for key in ("stage", "name", "error"))
    if stage == "import":
        return UnsupportedError(f"BCC cannot be imported: {error}")
    if stage in ("map", "program"):
        return LoadError(f"{source}: {stage} {name}: {error}", log)
    if stage == "load":
        return LoadError(f"{source}: program {name}: cannot be loaded: {explain(log) or error}", log)
    if stage == "compile":
        named = re.sub(
            r"^(/virtual/)?main\.c:", f"{source}:", log, flags=re.MULTILINE
        )  # as BCC calls every source
        return CompileError(_summary(source, named), log)
    last = log.strip().splitlines()[-1:] or ["it said nothing"]
    return CompileError(f"{source}: the program that runs BCC broke off: {last[0]}", log)
