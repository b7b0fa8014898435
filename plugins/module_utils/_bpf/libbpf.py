# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Loading a compiled object with libbpf, through ctypes: ELF, BTF and relocations, and nothing else.

Any libbpf 1.x does (1.1 in Debian 12, 1.5 in Debian 13), because attaching, pinning and map access are bpf(2) calls of
``_kernel.bpf``. The verifier's log comes by a buffer of ours on every architecture; libbpf's own messages come by a
callback with a C va_list, which is followed on x86-64 only, so elsewhere an error may lack their text.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import sys
import types as _types
import typing as t

from .._errors import CnfError, UnsupportedError
from .._kernel import bpf
from .btf import Btf, BtfError, Variable
from .maps import defined_flags

LIBRARY = "libbpf.so.1"
LOG_BYTES = 16 << 20  # of address space; only what the verifier writes is ever backed by memory
RODATA = ".rodata"
NAMES_SHOWN = 20  # of an enum's constants, in an error

_HANDLE, _TEXT, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_SIGNATURES: t.Dict[str, t.Tuple[t.Any, t.List[t.Any]]] = {
    "libbpf_set_print": (_HANDLE, [_HANDLE]),
    "bpf_object__open_file": (_HANDLE, [_TEXT, _HANDLE]),
    "bpf_object__load": (_INT, [_HANDLE]),
    "bpf_object__close": (None, [_HANDLE]),
    "bpf_object__btf": (_HANDLE, [_HANDLE]),
    "btf__raw_data": (_HANDLE, [_HANDLE, ctypes.POINTER(ctypes.c_uint32)]),
    "bpf_object__next_map": (_HANDLE, [_HANDLE, _HANDLE]),
    "bpf_map__name": (_TEXT, [_HANDLE]),
    "bpf_map__fd": (_INT, [_HANDLE]),
    "bpf_map__type": (_INT, [_HANDLE]),
    "bpf_map__key_size": (ctypes.c_uint32, [_HANDLE]),
    "bpf_map__value_size": (ctypes.c_uint32, [_HANDLE]),
    "bpf_map__max_entries": (ctypes.c_uint32, [_HANDLE]),
    "bpf_map__map_flags": (ctypes.c_uint32, [_HANDLE]),
    "bpf_map__is_internal": (ctypes.c_bool, [_HANDLE]),
    "bpf_map__reuse_fd": (_INT, [_HANDLE, _INT]),
    "bpf_map__set_max_entries": (_INT, [_HANDLE, ctypes.c_uint32]),
    "bpf_map__initial_value": (_HANDLE, [_HANDLE, ctypes.POINTER(ctypes.c_size_t)]),
    "bpf_map__set_initial_value": (_INT, [_HANDLE, _TEXT, ctypes.c_size_t]),
    "bpf_object__next_program": (_HANDLE, [_HANDLE, _HANDLE]),
    "bpf_program__name": (_TEXT, [_HANDLE]),
    "bpf_program__fd": (_INT, [_HANDLE]),
    "bpf_program__set_autoload": (_INT, [_HANDLE, ctypes.c_bool]),
    "bpf_program__set_type": (_INT, [_HANDLE, _INT]),
    "bpf_program__set_expected_attach_type": (_INT, [_HANDLE, _INT]),
    "bpf_program__set_log_buf": (_INT, [_HANDLE, _HANDLE, ctypes.c_size_t]),
}

Constant = t.Union[int, bytes, str, t.Sequence[t.Any], t.Mapping[str, t.Any]]
ProgramType = t.Union[int, t.Tuple[int, int]]


class LoadError(CnfError):
    """An object could not be loaded. str() is what matters of the message, ``log`` all that libbpf and the verifier said."""

    def __init__(self, message: str, log: str = "") -> None:
        self.log = log
        super().__init__(message)


class Loaded:
    """Descriptors of the programs and maps of an object in the kernel, by their names in the source.

    Maps of global variables are called ``.rodata``, ``.data`` and ``.bss``. What is neither pinned nor attached when it is
    closed is gone.
    """

    def __init__(self, programs: t.Dict[str, int], maps: t.Dict[str, int]) -> None:
        self.programs = programs
        self.maps = maps

    def __enter__(self) -> Loaded:
        return self

    def __exit__(
        self,
        _kind: t.Optional[t.Type[BaseException]],
        _value: t.Optional[BaseException],
        _traceback: t.Optional[_types.TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        for descriptors in (self.programs, self.maps):
            while descriptors:
                os.close(descriptors.popitem()[1])


def load(
    path: t.Union[str, os.PathLike[str]],
    *,
    constants: t.Mapping[str, Constant] = _types.MappingProxyType({}),
    map_sizes: t.Mapping[str, int] = _types.MappingProxyType({}),
    reuse: t.Mapping[str, int] = _types.MappingProxyType({}),
    programs: t.Optional[t.Container[str]] = None,
    types: t.Mapping[str, ProgramType] = _types.MappingProxyType({}),
) -> Loaded:
    """Load an ELF object and return descriptors of its programs and maps.

    ``constants``: values of ``const volatile`` globals: integers, booleans or raw bytes in host byte order of the
    variable's size; names of enum constants; or what Btf.read takes for the variable's type (fields, lists, addresses).
    ``map_sizes``: max_entries by map. ``reuse``: descriptors of maps to take in place of the object's own, which must
    have the same type, sizes and flags. ``programs``: those to load, None for all. ``types``: a program's type, or type
    and expected attach type, where its section's name does not tell.

    Raises LoadError; UnsupportedError without libbpf.
    """
    with _Object(os.fspath(path)) as opened:
        opened.set_types(types)
        opened.choose(programs)
        opened.set_sizes(map_sizes)
        opened.reuse(reuse)
        opened.set_constants(constants)
        opened.load()
        return opened.take()


# --- The library --------------------------------------------------------------------------------------------------


class _Library:
    """libbpf and its messages, kept for the life of the process: the callback must never be collected."""

    def __init__(self) -> None:
        try:
            self.calls: t.Any = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as problem:
            raise UnsupportedError(
                f"{LIBRARY} is missing; on Debian and Ubuntu: apt-get install libbpf1"
            ) from problem
        for name, (result, arguments) in _SIGNATURES.items():
            try:
                function = getattr(self.calls, name)
            except AttributeError as problem:
                raise UnsupportedError(
                    f"{LIBRARY} has no {name}: version 1.0 or newer is needed"
                ) from problem
            function.restype, function.argtypes = result, arguments
        self.messages: t.List[str] = []
        prototype = ctypes.CFUNCTYPE(_INT, _INT, _TEXT, _HANDLE)
        self._callback = prototype(self._print_x86_64 if platform.machine() == "x86_64" else self._silent)
        self.calls.libbpf_set_print(ctypes.cast(self._callback, _HANDLE))

    def _print_x86_64(self, level: int, form: bytes, arguments: int) -> int:
        """Format a message; a va_list parameter is a plain pointer in this architecture's calling convention."""
        if level > 1:  # LIBBPF_DEBUG
            return 0
        text = ctypes.create_string_buffer(1 << 16)
        formatter = ctypes.CDLL(None).vsnprintf
        formatter.argtypes, formatter.restype = [_TEXT, ctypes.c_size_t, _TEXT, _HANDLE], _INT
        formatter(text, len(text), form, arguments)
        self.messages.append(text.value.decode("utf-8", "replace").rstrip())
        return 0

    @staticmethod
    def _silent(_level: int, _form: bytes, _arguments: int) -> int:
        return 0


_library: t.List[_Library] = []


def _loaded_library() -> _Library:
    if not _library:
        _library.append(_Library())
    return _library[0]


# --- One object ---------------------------------------------------------------------------------------------------


class _Object:
    """An opened object; its maps and programs are libbpf's handles, valid until it is closed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = _loaded_library()
        self._calls = self._library.calls
        self._library.messages.clear()
        self._handle = self._calls.bpf_object__open_file(os.fsencode(path), None)
        if not self._handle:
            number = ctypes.get_errno()
            raise self._error(f"{path}: cannot be opened: {_reason(number)}")
        self.maps = {self._map_name(handle): handle for handle in self._walk("map")}
        self.programs = {
            self._calls.bpf_program__name(handle).decode(): handle for handle in self._walk("program")
        }
        self._log = mmap.mmap(-1, LOG_BYTES)

    def __enter__(self) -> _Object:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._calls.bpf_object__close(self._handle)
        self._log.close()

    def _walk(self, kind: str) -> t.Iterator[int]:
        following = getattr(self._calls, f"bpf_object__next_{kind}")
        handle = following(self._handle, None)
        while handle:
            yield handle
            handle = following(self._handle, handle)

    def _map_name(self, handle: int) -> str:
        """The name in the source; libbpf puts the file's name in front of those of global variables' maps."""
        name = str(self._calls.bpf_map__name(handle).decode())
        if self._calls.bpf_map__is_internal(handle):
            return name[name.index(".") :] if "." in name else name
        return name

    def _error(self, message: str) -> LoadError:
        said = list(self._library.messages)
        reason = _own_message(said)
        return LoadError(f"{message} ({reason})" if reason else message, "\n".join(said))

    def _check(self, result: int, about: str) -> None:
        if result < 0:
            raise self._error(f"{self.path}: {about}: {_reason(-result)}")

    def _find(self, kind: str, name: str) -> int:
        known = self.maps if kind == "map" else self.programs
        if name not in known:
            raise LoadError(unknown_name(self.path, kind, name, known))
        return known[name]

    def choose(self, wanted: t.Optional[t.Container[str]]) -> None:
        if wanted is None:
            return
        for name, handle in self.programs.items():
            self._check(self._calls.bpf_program__set_autoload(handle, name in wanted), f"program {name}")
        if not any(name in wanted for name in self.programs):
            raise LoadError(
                f"{self.path}: none of its programs is asked for; it has {', '.join(sorted(self.programs))}"
            )

    def set_types(self, types: t.Mapping[str, ProgramType]) -> None:
        for name, wanted in types.items():
            handle = self._find("program", name)
            kind, attach = wanted if isinstance(wanted, tuple) else (wanted, 0)
            self._check(self._calls.bpf_program__set_type(handle, kind), f"program {name}: type {kind}")
            self._check(
                self._calls.bpf_program__set_expected_attach_type(handle, attach),
                f"program {name}: attach type {attach}",
            )

    def set_sizes(self, sizes: t.Mapping[str, int]) -> None:
        for name, entries in sizes.items():
            handle = self._find("map", name)
            self._check(
                self._calls.bpf_map__set_max_entries(handle, entries), f"map {name}: max_entries {entries}"
            )

    def reuse(self, reuse: t.Mapping[str, int]) -> None:
        """libbpf takes over whatever it is given, and the verifier then refuses with riddles: so look first."""
        for name, fd in reuse.items():
            handle = self._find("map", name)
            differences = self._differences(handle, bpf.map_info(fd))
            if differences:
                raise LoadError(
                    f"{self.path}: map {name}: the one to reuse differs in {', '.join(differences)}"
                )
            self._check(self._calls.bpf_map__reuse_fd(handle, fd), f"map {name}: reuse")

    def _differences(self, handle: int, found: bpf.MapInfo) -> t.List[str]:
        pairs = [
            ("type", self._calls.bpf_map__type(handle), found.type),
            ("key size", self._calls.bpf_map__key_size(handle), found.key_size),
            ("value size", self._calls.bpf_map__value_size(handle), found.value_size),
            ("max_entries", self._calls.bpf_map__max_entries(handle) or found.max_entries, found.max_entries),
            ("flags", self._calls.bpf_map__map_flags(handle), defined_flags(found)),
        ]
        return [f"{what} ({has}, not {wants})" for what, wants, has in pairs if wants != has]

    def set_constants(self, constants: t.Mapping[str, Constant]) -> None:
        if not constants:
            return
        size = ctypes.c_size_t()
        handle = self.maps.get(RODATA)
        address = self._calls.bpf_map__initial_value(handle, ctypes.byref(size)) if handle else None
        types = self._btf() if address else None
        variables = types.variables(RODATA) if types else {}
        image = bytearray(ctypes.string_at(address, size.value)) if address else bytearray()
        for name, value in constants.items():
            if types is None or name not in variables:
                raise LoadError(unknown_name(self.path, "constant", name, variables))
            variable = variables[name]
            try:
                data = constant_of(types, variable, value)
            except (ValueError, BtfError) as problem:
                raise LoadError(f"{self.path}: constant {name}: {problem}") from None
            image[variable.offset : variable.offset + variable.size] = data
        self._check(
            self._calls.bpf_map__set_initial_value(handle, bytes(image), len(image)), "constants in .rodata"
        )

    def _btf(self) -> Btf:
        """The object's type information as libbpf holds it, with the offsets that the ELF section leaves open."""
        size = ctypes.c_uint32()
        handle = self._calls.bpf_object__btf(self._handle)
        address = self._calls.btf__raw_data(handle, ctypes.byref(size)) if handle else None
        if not address:
            raise LoadError(f"{self.path}: has no BTF; compile it with -g")
        return Btf(ctypes.string_at(address, size.value))

    def load(self) -> None:
        """Load one program after another; the first that is refused ends it, and the buffer holds its log."""
        hold = ctypes.c_char.from_buffer(self._log)
        address = ctypes.addressof(hold)
        try:
            for name, handle in self.programs.items():
                self._check(
                    self._calls.bpf_program__set_log_buf(handle, address, LOG_BYTES), f"program {name}"
                )
            result = self._calls.bpf_object__load(self._handle)
            if result >= 0:
                return
            verifier = ctypes.string_at(address).decode("utf-8", "replace")
        finally:
            del hold
        said = "\n".join(self._library.messages)
        reason = explain(verifier) or _own_message(self._library.messages)
        program = re.search(r"prog '([^']+)'", said)
        about = f"{self.path}: program {program[1]}" if program else self.path
        line = f"{about}: cannot be loaded: {_reason(-result)}"
        raise LoadError(f"{line}: {reason}" if reason else line, f"{said}\n{verifier}".strip())

    def take(self) -> Loaded:
        """Descriptors of our own, which outlive the object's."""
        taken = Loaded({}, {})
        try:
            for name, handle in self.programs.items():
                fd = self._calls.bpf_program__fd(handle)
                if fd >= 0:
                    taken.programs[name] = os.dup(fd)
            for name, handle in self.maps.items():
                fd = self._calls.bpf_map__fd(handle)
                if fd >= 0:
                    taken.maps[name] = os.dup(fd)
        except OSError:
            taken.close()
            raise
        return taken


# --- Pure parts ---------------------------------------------------------------------------------------------------


def unknown_name(path: str, kind: str, name: str, known: t.Iterable[str]) -> str:
    names = ", ".join(sorted(name for name in known if not name.startswith(".")))
    return f"{path}: has no {kind} {name}; it has {names}" if names else f"{path}: has no {kind}s at all"


def constant_of(types: Btf, variable: Variable, value: Constant) -> bytes:
    """The bytes of a constant. Raises ValueError or BtfError that names its type and, for a name, the possible ones."""
    if isinstance(value, (int, bytes, bytearray)):
        return constant_bytes(value, variable.size)
    described = types.describe(variable.type_id)
    try:
        return types.read(variable.type_id, value)
    except BtfError as problem:
        if not isinstance(value, str) or not types.is_number(variable.type_id) or described == "be32":
            raise BtfError(f"{described}: {problem}") from None
    # A plain number may hold any enum's constant, as in C.
    known = types.enumerators(variable.type_id) or types.all_enumerators()
    if value not in known:
        names = ", ".join(list(known)[:NAMES_SHOWN]) + (", ..." if len(known) > NAMES_SHOWN else "")
        possible = f"a number nor one of {names}" if known else "a number nor a constant of an enum"
        raise BtfError(f"{described}: {value!r} is neither {possible}")
    return constant_bytes(known[value], variable.size)


def constant_bytes(value: t.Union[int, bytes, bytearray], size: int) -> bytes:
    """The bytes of a constant in host byte order. Raises ValueError when it does not fit ``size`` bytes."""
    if isinstance(value, (bytes, bytearray)):
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes, but the variable has {size}")
        return bytes(value)
    if not -(1 << (8 * size - 1)) <= value < 1 << (8 * size):
        raise ValueError(f"{value} does not fit {size} bytes")
    return (value % (1 << (8 * size))).to_bytes(size, sys.byteorder)


def _reason(number: int) -> str:
    """The text of an errno, or of one of libbpf's own numbers (LIBBPF_ERRNO_..., bpf/libbpf.h)."""
    own = {4000: "libelf failed", 4001: "not a BPF object in ELF format", 4003: "of another byte order"}
    return own.get(number) or (os.strerror(number) if number < 4000 else f"libbpf error {number}")


def _own_message(messages: t.Sequence[str]) -> str:
    """The first line in which libbpf says what is wrong, without its prefix."""
    for message in messages:
        line = message.strip().splitlines()[0] if message.strip() else ""
        if line:
            return re.sub(r"^libbpf: ", "", line)
    return ""


_INSTRUCTION = re.compile(r"^(\d+): \([0-9a-f]{2}\) (.*)$")
_SOURCE = re.compile(r"^; ?(.*)$")
# Lines that tell the state of registers or statistics, and so no reason.
_CHATTER = re.compile(
    r"^(\d+: (R\d+|frame\d+|\(|safe)|R\d+(_\w+)?=|frame\d+: |from \d+ to \d+|processed \d+ insns|verification time |stack depth "
    r"|peak_states|mark_precise|arg#\d+ reference type|func#\d+ @|caller:|callee:|returning from callee|to caller at"
    r"|propagating |last_idx |regs=|parent |reg type unsupported for arg#|Validating |-- (BEGIN|END) |libbpf: |$)"
)
EXPLAINED_LINES = 4


def explain(log: str) -> str:
    """What matters of a verifier's log: the reason, then the instruction and the source line it was at.

    An empty string when the log has no reason. Source of the forms: kernel/bpf/verifier.c, log.c.
    """
    reasons: t.List[str] = []
    instruction = source = ""
    for line in (row.strip() for row in log.splitlines()):
        found = _INSTRUCTION.match(line)
        if found:
            instruction, reasons = f"{found[1]}: {found[2].split(' ; ')[0].strip()}", []
        elif _SOURCE.match(line):
            source, reasons = line[1:].strip(), []
        elif not _CHATTER.match(line):
            reasons.append(line)
    if not reasons:
        return ""
    text = "; ".join(reasons[-EXPLAINED_LINES:])
    if instruction:
        text += f" (at instruction {instruction}"
        text += f", source: {source})" if source else ")"
    return text
