# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The sources of an object: found with their headers, named by their content, and carried from the controller to a target.

Used on both sides, so it needs neither Ansible nor a kernel.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import posixpath
import re
import struct
import typing as t
import zlib

from .._errors import CnfError
from . import compile as compilers

MAX_BYTES = 8 << 20  # of one source with its headers
MAX_BUNDLE = 32 << 20  # of all sources of a run, unpacked
ELF_MAGIC = b"\x7fELF"
EM_BPF = 247
HEADER_ENDINGS = (".h", ".inc")


class SourceError(CnfError):
    """Sources that cannot be found, read or understood; one line."""


class Source(t.NamedTuple):
    """``files`` by their names as #include says them, ``main`` is one of them; ``programs`` are names with types, tc or xdp."""

    main: str
    files: t.Mapping[str, bytes]
    programs: t.Mapping[str, str]


def collect(path: str, include_dirs: t.Sequence[str] = (), option: str = "") -> Source:
    """A C file with the headers it includes, a directory with its only C file and all headers, or an ELF object.

    Headers are those of the source's own directory and of ``include_dirs``; those of the system stay the target's.
    ``option`` is how the user called it: ``source`` refuses a compiled object, ``object`` anything else.
    """
    try:
        is_directory = os.path.isdir(path)
        main = _only_source(path) if is_directory else path
        name = os.path.basename(main)
        content = _read(main)
        if is_elf(content):
            if option == "source":
                raise SourceError(f"{path}: is a compiled object; give it as object")
            return Source(name, {name: content}, _of_file(path, content))
        if option == "object":
            raise SourceError(f"{path}: is not a compiled object (ELF); give C as source")
        included = _with_headers(main, content, include_dirs)
        files = {**(_headers_below(path) if is_directory else {}), **included}
    except OSError as problem:
        raise SourceError(f"{problem.filename or path}: {problem.strerror}") from problem
    if not content.strip():
        raise SourceError(f"{main}: is empty")
    if sum(map(len, files.values())) > MAX_BYTES:
        raise SourceError(
            f"{path}: more than {MAX_BYTES >> 20} MiB with its headers; is this the right place?"
        )
    return Source(name, files, programs_in_c(included, name))


def _of_file(path: str, content: bytes) -> t.Dict[str, str]:
    try:
        return programs_in_elf(content)
    except SourceError as problem:
        raise SourceError(f"{path}: {problem}") from problem


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SourceError(f"{path}: more than {MAX_BYTES >> 20} MiB; is this a source or an object?")
    return content


def _only_source(directory: str) -> str:
    names = sorted(name for name in os.listdir(directory) if name.endswith(".c"))
    for ending in (".bpf.c", ".c"):
        found = [name for name in names if name.endswith(ending)]
        if len(found) == 1:
            return os.path.join(directory, found[0])
        if found:
            raise SourceError(f"{directory}: has several sources, {', '.join(found)}; name one of them")
    raise SourceError(f"{directory}: has no C source (*.bpf.c)")


_INCLUDED = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]([^">\n]+)[">]', re.MULTILINE)


def _with_headers(main: str, content: bytes, include_dirs: t.Sequence[str]) -> t.Dict[str, bytes]:
    """The source and all that it includes, by the names below one directory under which a compiler finds the same files."""
    home = os.path.dirname(main)
    roots = [(directory, "") for directory in (home, *include_dirs)]
    paths = {os.path.basename(main): main}
    found = {os.path.basename(main): content}
    waiting = [(home, "", content)]  # where an includer lies, here and there
    while waiting:
        directory, below, content = waiting.pop()
        for included in (os.fsdecode(match) for match in _INCLUDED.findall(content)):
            for place, parent in ((directory, below), *roots):
                path = os.path.join(place, included)
                if not os.path.isfile(path):
                    continue
                name = posixpath.normpath(posixpath.join(parent, included))
                _check_name(name)
                if name not in found:
                    paths[name], found[name] = path, _read(path)
                    waiting.append((os.path.dirname(path), posixpath.dirname(name), found[name]))
                elif not os.path.samefile(path, paths[name]) and _read(path) != found[name]:
                    raise SourceError(f"{paths[name]} and {path} would both be {name}; rename one of them")
                break
    return found


def _headers_below(directory: str) -> t.Dict[str, bytes]:
    found = {}
    for place, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(HEADER_ENDINGS):
                path = os.path.join(place, name)
                found[os.path.relpath(path, directory)] = _read(path)
    return found


def is_elf(content: bytes) -> bool:
    return content.startswith(ELF_MAGIC)


# --- Which programs there are ---------------------------------------------------------------------------------------------

_SECTIONS = {
    "tc": "tc",
    "tcx": "tc",
    "netkit": "tc",
    "classifier": "tc",
    "action": "tc",
    "xdp": "xdp",
}


def type_of_section(section: str) -> t.Optional[str]:
    """``tc`` or ``xdp`` for the name of a program's section as libbpf knows them, None for any other."""
    return _SECTIONS.get(re.split(r"[/.]", section.lstrip("?"), maxsplit=1)[0])


_COMMENT = re.compile(r"""//[^\n]*|/\*.*?(?:\*/|\Z)|("(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)""", re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#[^\n]*", re.MULTILINE)
_SEC = re.compile(r'\bSEC\s*\(\s*"([^"\n]+)"\s*\)')
_TOKEN = re.compile(r"\s*(\w+|\S)")
_PARENTHESIS = re.compile(r'"(?:\\.|[^"\\\n])*"|[()]')


def programs_in_c(files: t.Mapping[str, bytes], main: str) -> t.Dict[str, str]:
    """The functions with a SEC() of a hook of the network in a source and the headers that came along.

    Conditions of the preprocessor are not evaluated, and functions that a macro makes are not found.
    """
    found: t.Dict[str, str] = {}
    for name in [main, *(name for name in files if name != main)]:
        text = re.sub(r"\\\r?\n", "", files[name].decode("utf-8", "replace"))
        text = _DIRECTIVE.sub("", _COMMENT.sub(lambda noise: noise[1] or " ", text))
        for section in _SEC.finditer(text):
            kind = type_of_section(section[1])
            function = _function(text, section.end()) if kind else None
            if kind and function:
                found.setdefault(function, kind)
    return found


def _function(text: str, place: int) -> t.Optional[str]:
    """The name of the function that is declared there: parameters end in a body or a semicolon, an attribute's do not."""
    name = ""
    token = _TOKEN.match(text, place)
    while token:
        place = token.end()
        if token[1] == "(":
            place = _closed(text, place)
            token = _TOKEN.match(text, place)
            if name != "__attribute__" and token and token[1] in ("{", ";", "__attribute__"):
                return name or None
            name = ""
            continue
        if token[1].isidentifier():
            name = token[1]
        if name == "SEC" or not (token[1].isidentifier() or token[1] == "*"):
            return None
        token = _TOKEN.match(text, place)
    return None


def _closed(text: str, place: int) -> int:
    """Behind the parenthesis that closes the one before ``place``."""
    depth = 1
    for token in _PARENTHESIS.finditer(text, place):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if not depth:
            return token.end()
    return len(text)


def programs_in_elf(content: bytes) -> t.Dict[str, str]:
    """The global functions in the sections of a compiled object that are hooks of the network."""
    try:
        if content[:5] != ELF_MAGIC + b"\x02":
            raise SourceError("not a 64-bit ELF object")
        order = "<" if content[5] == 1 else ">"
        if struct.unpack_from(f"{order}H", content, 0x12)[0] != EM_BPF:
            raise SourceError("an ELF object, but not for BPF; compile it with clang -target bpf")
        (table,) = struct.unpack_from(f"{order}Q", content, 0x28)
        size, count, names = struct.unpack_from(f"{order}HHH", content, 0x3A)
        headers = [struct.unpack_from(f"{order}IIQQQQIIQQ", content, table + i * size) for i in range(count)]
        titles = [_text(content, headers[names][4] + header[0]) for header in headers]
        found: t.Dict[str, str] = {}
        for header in headers:
            if header[1] != 2:  # SHT_SYMTAB
                continue
            strings = headers[header[6]][4]
            for place in range(header[4], header[4] + header[5], 24):
                name, info, _other, section = struct.unpack_from(f"{order}IBBH", content, place)
                kind = type_of_section(titles[section]) if section < count else None
                if info == 0x12 and kind:  # STB_GLOBAL, STT_FUNC
                    found[_text(content, strings + name)] = kind
        return found
    except (struct.error, ValueError, IndexError, OverflowError) as problem:
        raise SourceError(f"broken ELF object: {problem}") from problem


def _text(content: bytes, start: int) -> str:
    return content[start : content.index(b"\0", start)].decode("utf-8", "replace")


# --- Content and transport ------------------------------------------------------------------------------------------------


def code_of(source: Source) -> str:
    """SHA-256, in hexadecimal, of the files by name, which is the main one, and the flags they are compiled with."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in source.files.items()}
    whole = json.dumps([source.main, digests, list(compilers.FLAGS)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def pack(found: t.Mapping[str, Source]) -> str:
    """Sources by their codes as one text."""
    plain = {
        code: {
            "main": source.main,
            "files": {name: content.decode("latin-1") for name, content in source.files.items()},
            "programs": dict(source.programs),
        }
        for code, source in found.items()
    }
    return base64.b64encode(zlib.compress(json.dumps(plain, sort_keys=True).encode(), 9)).decode()


def unpack(text: str) -> t.Dict[str, Source]:
    """The inverse of ``pack``. SourceError unless each code is that of its content, and each name stays within a directory."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_BUNDLE)
        if unpacker.unconsumed_tail:
            raise SourceError(f"the bundle of sources is larger than {MAX_BUNDLE >> 20} MiB")
        found = {
            code: Source(
                row["main"],
                {name: content.encode("latin-1") for name, content in row["files"].items()},
                row["programs"],
            )
            for code, row in json.loads(data).items()
        }
        broken = [
            code
            for code, source in found.items()
            if source.main not in source.files or code_of(source) != code
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as problem:
        raise SourceError(f"the bundle of sources is damaged: {problem}") from problem
    for code, source in found.items():
        for name in source.files:
            _check_name(name)
        if code in broken:
            raise SourceError(f"the bundle of sources is damaged: {source.main} is not what its digest says")
    return found


def write(source: Source, directory: str) -> str:
    """Write the files, readable by their owner only, below a directory; returns the path of the main one.

    SourceError when it is not empty of them, or cannot be written.
    """
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        for name, content in source.files.items():
            _check_name(name)
            _make_directories(directory, posixpath.dirname(name))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(os.path.join(directory, name), flags, 0o600), "wb") as file:
                file.write(content)
    except OSError as problem:
        raise SourceError(f"{problem.filename or directory}: {problem.strerror}") from problem
    return os.path.join(directory, source.main)


def _make_directories(directory: str, name: str) -> None:
    """Those on the way too belong to their owner only, which os.makedirs leaves to the umask."""
    if name:
        _make_directories(directory, posixpath.dirname(name))
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(directory, name), 0o700)


def _check_name(name: str) -> None:
    if posixpath.isabs(name) or ".." in name.split("/") or not name or "\0" in name:
        raise SourceError(
            f"#include of {name!r} leaves the directory of the source; give a directory that holds all of it"
        )
