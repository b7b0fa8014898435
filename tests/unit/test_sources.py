# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources on their way: which programs they have, which headers belong to them, what names them, and how they travel."""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as compilers
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import sources
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.sources import Source, SourceError

PROGRAMS = Path(__file__).resolve().parent.parent.parent / "files" / "bpf"
needs_clang = pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")


def program(name="a", section="tc"):
    return f'SEC("{section}") int {name}(void *c) {{ return 0; }}\n'


# --- programs in C --------------------------------------------------------------------------------------------------------


def in_c(text, **headers):
    files = {"x.c": text.encode(), **{f"{name}.h": content.encode() for name, content in headers.items()}}
    return sources.programs_in_c(files, "x.c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('SEC("tc") int a(struct __sk_buff *skb) {', {"a": "tc"}),
        ('SEC("tc/ingress")\nint\na\n(struct __sk_buff\n*skb)\n{', {"a": "tc"}),
        ('SEC ( "tc" )\tint\ta\t(void)\t{', {"a": "tc"}),
        ('SEC("tc") static int a(void *c) {', {"a": "tc"}),
        ('SEC("tc") static __always_inline int a(void *c) {', {"a": "tc"}),
        ('SEC("tc") __noinline int a(void *c) {', {"a": "tc"}),
        ('SEC("tc") enum verdict a(void *c) {', {"a": "tc"}),
        ('SEC("xdp") struct x *a(void *c) {', {"a": "xdp"}),
        ('SEC("xdp") const struct x * const a(void *c) {', {"a": "xdp"}),
        ('SEC("tc") int a(void (*call)(int), int b) {', {"a": "tc"}),
        ('SEC("tc") int a(void *c); int b(void) { return 0; }', {"a": "tc"}),
        ('SEC("tc") int a(void *c) __attribute__((noinline)); int b(void) {', {"a": "tc"}),
        ('SEC("tc") __attribute__((used)) int a(void *c) {', {"a": "tc"}),
        ('SEC("tc") __attribute__ (( aligned(8), used )) __attribute__((x)) int a(void *c) {', {"a": "tc"}),
        ('SEC("tc") __attribute__((annotate("f(x) {"))) int a(void *c) {', {"a": "tc"}),
        ('SEC("tc") __align(8) int a(void *c) {', {"a": "tc"}),
        ('__attribute__((used)) SEC("tc") int a(void *c) {', {"a": "tc"}),
        ('int SEC("tc") a(void *c) {', {"a": "tc"}),
        (program("a") + program("b", "xdp"), {"a": "tc", "b": "xdp"}),
    ],
)
def test_a_function_with_a_section(text, expected):
    assert in_c(text) == expected


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("tc", "tc"),
        ("?tc", "tc"),
        ("tc/egress", "tc"),
        ("tcx/ingress", "tc"),
        ("netkit/peer", "tc"),
        ("classifier", "tc"),
        ("classifier/x", "tc"),
        ("action", "tc"),
        ("xdp", "xdp"),
        ("?xdp", "xdp"),
        ("xdp.frags", "xdp"),
        ("xdp.frags/devmap", "xdp"),
        ("kprobe/tcp_sendmsg", None),
        ("fentry/x", None),
        ("cgroup_skb/egress", None),
        ("license", None),
        (".maps", None),
        ("xdp_prog", None),  # libbpf 1.0 does not know it any more
        ("tcp", None),
        ("", None),
        ("?", None),
    ],
)
def test_sections_of_the_hooks_of_the_network(section, kind):
    assert sources.type_of_section(section) == kind
    assert in_c(program(section=section)) == ({"a": kind} if kind else {})


@pytest.mark.parametrize(
    "noise",
    [
        'SEC("kprobe/x") int no(void *c) { return 0; }',
        'struct { __uint(type, 1); } no SEC(".maps");',
        'char _license[] SEC("license") = "GPL";',
        '// SEC("tc") int no(void *c) {',
        '// the next line, too \\\nSEC("tc") int no(void *c) {',
        '/* SEC("tc") int no(void *c) {\n*/',
        'char *text = "SEC(\\"tc\\") int no(void *c) {";',
        'char *open = "/*";',
        'char *slashes = "//";',
        'char quote = \'"\'; // SEC("tc") int no(void *c) {',
        "#error don't",
        '#define PROGRAM(name) SEC("tc") \\\n\tint name(void *c) {',
        '#define SEC(name) __attribute__((section(name), used)) /* SEC("tc")\n int no(void *c) { */',
        'int no SEC("xdp"); int nor(void) { return 0; }',
        'int no SEC("xdp") = 5; int nor(void) { return 0; }',
        'SEC("tc") __attribute__((used)) int no;',
        'SEC("tc") = (no) {',
        "int no(void *c) { return 0; }",
    ],
)
def test_what_is_no_program_neither_counts_nor_hides_one(noise):
    assert in_c(f"{program('yes')}{noise}\n{program('too', 'xdp')}") == {"yes": "tc", "too": "xdp"}


@pytest.mark.parametrize(
    "end", ["", "int", "int a", "int a(", "int a(void", "int a(void)", "{", '"', "/*", "*"]
)
def test_a_source_that_ends_too_early(end):
    assert in_c(f'SEC("tc") {end}') == {}


def test_programs_of_headers_come_after_those_of_the_source():
    found = in_c(program("a", "xdp"), first=program("b"), second=program("a"))
    assert list(found.items()) == [("a", "xdp"), ("b", "tc")]


@pytest.mark.parametrize(
    "text",
    [
        'SEC("tc") ' + "a" * 30000,  # a name without parameters
        'SEC("tc") ' * 3000,
        'SEC("tc") ' + "__attribute__((x)) " * 3000,
        'SEC("tc") ' + "(" * 30000,
        "/*" * 30000,
        '"' + "\\" * 30001,
        '"\\' * 30000,
    ],
)
def test_no_text_takes_for_ever(text):
    assert in_c(text) == {}


@given(st.text(alphabet='SEC("tc")int a{};*_#/\\\n\'') | st.text())
def test_any_text_has_an_answer(text):
    assert all(kind in ("tc", "xdp") for kind in in_c(text).values())


@pytest.mark.parametrize("name", sorted(path.name for path in PROGRAMS.glob("*.bpf.c")))
def test_programs_of_the_collection(name, tmp_path):
    source = sources.collect(str(PROGRAMS / name), [str(PROGRAMS / "lib")])
    assert source.programs[name.split(".")[0]] in ("tc", "xdp")
    assert "compat.h" in source.files and not any("/" in file for file in source.files)
    if compilers.missing("clang"):
        pytest.skip(compilers.missing("clang"))
    main = sources.write(source, str(tmp_path / "there"))
    compilers.compile_clang(main, tmp_path / "x.o", [tmp_path / "there"])
    assert sources.programs_in_elf((tmp_path / "x.o").read_bytes()) == source.programs


# --- programs in ELF ------------------------------------------------------------------------------------------------------

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
BPF_SOURCE = """
#define SEC(name) __attribute__((section(name), used))
SEC("tc") int first(void *c) { return 0; }
SEC("tc") int second(void *c) { return 1; }
SEC("?xdp") int third(void *c) { return 2; }
SEC("kprobe/x") int no(void *c) { return 0; }
SEC("tc") static int hidden(void *c) { return 0; }
SEC("xdp") int variable = 5;
__attribute__((noinline)) int helper(void *c) { return *(int *)c; }
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def elf(tmp_path_factory):
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    directory = tmp_path_factory.mktemp("elf")
    (directory / "x.c").write_text(BPF_SOURCE)
    for target in ("bpfel", "bpfeb"):
        command = ["clang", "-O2", "-g", "-target", target, "-c", "x.c", "-o", f"{target}.o"]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory


@pytest.mark.parametrize("target", ["bpfel", "bpfeb"])
def test_programs_of_an_object_of_either_byte_order(elf, target):
    content = (elf / f"{target}.o").read_bytes()
    assert sources.programs_in_elf(content) == {"first": "tc", "second": "tc", "third": "xdp"}


def test_an_object_is_its_only_file(elf):
    source = sources.collect(str(elf / "bpfel.o"))
    assert source.main == "bpfel.o"
    assert source.files == {"bpfel.o": (elf / "bpfel.o").read_bytes()}
    assert source.programs == {"first": "tc", "second": "tc", "third": "xdp"}


def test_an_object_that_was_cut_off(elf):
    content = (elf / "bpfel.o").read_bytes()
    for length in range(len(content)):
        try:
            found = sources.programs_in_elf(content[:length])
        except SourceError:
            continue
        # The table of sections is at the end: what still works has lost nothing that we read.
        assert length > len(content) - 64 and found


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({4: b"\x01"}, "not a 64-bit ELF object"),
        (
            {0x12: struct.pack("<H", 62)},
            "an ELF object, but not for BPF; compile it with clang -target bpf",
        ),
        ({0x28: b"\xff" * 8}, "broken ELF object: "),
        ({0x28: struct.pack("<Q", 1 << 62)}, "broken ELF object: "),
        ({0x3A: struct.pack("<H", 0xFFFF)}, "broken ELF object: "),
        ({0x3C: struct.pack("<H", 0xFFFF)}, "broken ELF object: "),
        ({0x3E: struct.pack("<H", 0xFFFF)}, "broken ELF object: "),
    ],
)
def test_an_object_that_is_damaged(elf, change, error):
    content = bytearray((elf / "bpfel.o").read_bytes())
    for place, what in change.items():
        content[place : place + len(what)] = what
    with pytest.raises(SourceError, match=error):
        sources.programs_in_elf(bytes(content))


def header(**fields):
    names = ("machine", "table", "size", "count", "names")
    machine, table, size, count, strings = (fields[name] for name in names)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return HEADER.pack(ident, 1, machine, 1, 0, 0, table, 0, 64, 0, 0, size, count, strings)


@given(
    st.fixed_dictionaries(
        {
            "machine": st.just(247),
            "table": st.integers(0, 200) | st.integers(0, (1 << 64) - 1),
            "size": st.integers(0, 80),
            "count": st.integers(0, 5),
            "names": st.integers(0, 5),
        }
    ),
    st.binary(max_size=400) | st.lists(st.sampled_from([b"\0\0\0\2", b"\0", b"tc\0", b"\xff"])).map(b"".join),
)
def test_any_object_has_an_answer_or_one_error(fields, rest):
    for content in (header(**fields) + rest, rest, b"\x7fELF\x02" + rest):
        try:
            assert all(kind in ("tc", "xdp") for kind in sources.programs_in_elf(content).values())
        except SourceError as problem:
            assert "\n" not in str(problem)


def test_random_changes_of_a_real_object(elf):
    content = (elf / "bpfel.o").read_bytes()

    @given(st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255), max_size=8))
    def check(changes):
        damaged = bytearray(content)
        for place, byte in changes.items():
            damaged[place] = byte
        try:
            sources.programs_in_elf(bytes(damaged))
        except SourceError:
            pass

    check()


# --- finding --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """``tree({"a/b.h": text})``: files below a directory; its path."""

    def make(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return make


def failed(path, *arguments, **options):
    with pytest.raises(SourceError) as caught:
        sources.collect(str(path), *arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_brings_what_it_includes_and_no_more(tree):
    text = '#include "a.h"\n # include <sub/b.h>\n#include <linux/bpf.h>\n// #include "no.h"\n' + program()
    top = tree(
        {
            "home/x.bpf.c": text,
            "home/a.h": "",
            "home/no.h": program("no"),
            "home/y.c": "",
            "home/sub/b.h": '#include "c.h"\n' + program("b"),
            "home/sub/c.h": '#include "../d.h"',
            "home/d.h": '#include "lib.h"',
            "lib/lib.h": '#include "more/l.h"',
            "lib/more/l.h": '#include "m.h"',
            "lib/more/m.h": "",
            "lib/a.h": "another",
        }
    )
    source = sources.collect(str(top / "home" / "x.bpf.c"), [str(top / "lib")])
    assert source.main == "x.bpf.c"
    assert sorted(source.files) == [
        "a.h",
        "d.h",
        "lib.h",
        "more/l.h",
        "more/m.h",
        "sub/b.h",
        "sub/c.h",
        "x.bpf.c",
    ]
    assert source.files["a.h"] == b""
    assert source.programs == {"a": "tc", "b": "tc"}


def test_a_header_beside_its_includer_goes_before_one_of_the_same_name(tree):
    text = '#include "b.h"\n#include "sub/a.h"\n' + program()
    top = tree({"x.c": text, "b.h": "1", "sub/a.h": '#include "b.h"', "sub/b.h": "2"})
    assert sources.collect(str(top / "x.c")).files == {
        "x.c": text.encode(),
        "b.h": b"1",
        "sub/a.h": b'#include "b.h"',
        "sub/b.h": b"2",
    }


def test_two_headers_that_would_take_one_place(tree):
    text = '#include "b.h"\n#include "a.h"\n' + program()
    files = {"home/x.c": text, "home/b.h": "1", "lib/a.h": '#include "b.h"', "lib/b.h": "2"}
    top = tree(files)
    assert failed(top / "home" / "x.c", [str(top / "lib")]) == (
        f"{top}/home/b.h and {top}/lib/b.h would both be b.h; rename one of them"
    )
    tree({"lib/b.h": "1"})
    assert sources.collect(str(top / "home" / "x.c"), [str(top / "lib")]).files["b.h"] == b"1"


def test_a_loop_of_includes_ends(tree):
    top = tree(
        {
            "x.c": '#include "a.h"\n#include "x.c"\n' + program(),
            "a.h": '#include "b.h"',
            "b.h": '#include "a.h"\n#include "./b.h"',
        }
    )
    assert sorted(sources.collect(str(top / "x.c")).files) == ["a.h", "b.h", "x.c"]


@pytest.mark.parametrize("included", ["../out.h", "sub/../../out.h", "{top}/out.h"])
def test_an_include_outside_of_the_directory(tree, included):
    top = tree({"home/sub/x.h": "", "out.h": ""})
    tree({"home/x.c": f'#include "{included.format(top=top)}"\n' + program()})
    assert "leaves the directory of the source; give a directory that holds all of it" in failed(
        top / "home" / "x.c"
    )


def test_an_include_that_is_not_here_stays_the_targets(tree):
    top = tree({"x.c": '#include "../nowhere.h"\n#include <bpf/bpf_helpers.h>\n' + program()})
    assert list(sources.collect(str(top / "x.c")).files) == ["x.c"]


def test_a_directory_brings_all_its_headers(tree):
    top = tree(
        {
            "x.bpf.c": '#include "sub/a.h"\n' + program(),
            "test.c": "",
            "sub/a.h": program("included"),
            "sub/b.h": program("not_included"),
            "tables.inc": "",
            "README.md": "",
            ".git/c.h": "",
        }
    )
    source = sources.collect(str(top))
    assert source.main == "x.bpf.c"
    assert sorted(source.files) == ["sub/a.h", "sub/b.h", "tables.inc", "x.bpf.c"]
    assert source.programs == {"a": "tc", "included": "tc"}
    assert sources.collect(f"{top}/") == source


def test_a_directory_with_one_plain_c_file(tree):
    assert sources.collect(str(tree({"x.c": program()}))).main == "x.c"


@pytest.mark.parametrize(
    ("files", "error"),
    [
        (
            {"b.bpf.c": "", "a.bpf.c": "", "c.c": ""},
            "has several sources, a.bpf.c, b.bpf.c; name one of them",
        ),
        ({"b.c": "", "a.c": ""}, "has several sources, a.c, b.c; name one of them"),
        ({"a.h": ""}, "has no C source (*.bpf.c)"),
        ({"sub/a.bpf.c": ""}, "has no C source (*.bpf.c)"),
    ],
)
def test_a_directory_without_a_source_of_its_own(tree, files, error):
    top = tree(files)
    assert failed(top) == f"{top}: {error}"


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_source(tree, content):
    top = tree({"x.c": content})
    assert failed(top / "x.c") == f"{top}/x.c: is empty"


def test_what_cannot_be_read(tree):
    top = tree({"d/x.c": program(), "d/a.h": ""})
    assert failed(top / "no.c") == f"{top}/no.c: No such file or directory"
    (top / "d" / "a.h").unlink()
    (top / "d" / "a.h").symlink_to("nowhere")
    assert failed(top / "d") == f"{top}/d/a.h: No such file or directory"
    assert failed("/dev/zero") == "/dev/zero: more than 8 MiB; is this a source or an object?"


def test_what_is_too_large(tree):
    top = tree({"x.c": '#include "a.h"\n' + program()})
    (top / "a.h").write_bytes(b" " * (sources.MAX_BYTES - 20))
    assert failed(top / "x.c") == (f"{top}/x.c: more than 8 MiB with its headers; is this the right place?")
    (top / "a.h").write_bytes(b" " * (sources.MAX_BYTES + 1))
    assert failed(top / "x.c") == f"{top}/a.h: more than 8 MiB; is this a source or an object?"


def test_a_source_is_no_object_and_an_object_no_source(tree, elf):
    top = tree({"x.c": program()})
    assert sources.collect(str(top / "x.c"), option="source") == sources.collect(str(top))
    assert failed(top / "x.c", option="object") == (
        f"{top}/x.c: is not a compiled object (ELF); give C as source"
    )
    assert sources.collect(str(elf / "bpfel.o"), option="object").programs["first"] == "tc"
    assert (
        failed(elf / "bpfel.o", option="source") == f"{elf}/bpfel.o: is a compiled object; give it as object"
    )


def test_a_broken_object_is_named(tree):
    top = tree({})
    (top / "x.o").write_bytes(b"\x7fELF\x02\x01")
    assert failed(top / "x.o").startswith(f"{top}/x.o: broken ELF object: ")


@needs_clang
def test_what_is_collected_compiles_where_it_is_written(tree, tmp_path):
    """The compiler takes the same files there as here."""
    top = tree(
        {
            "home/x.c": '#include "b.h"\n#include <sub/a.h>\nint all[ONE + TWO + LIB == 7 ? 1 : -1];\n'
            + program(),
            "home/b.h": "#define ONE 1\n",
            "home/sub/a.h": '#include "b.h"\n#include "../lib.h"\n',
            "home/sub/b.h": "#define TWO 2\n",
            "lib/deep/c.h": '#include "d.h"\n',
            "lib/deep/d.h": "#define LIB 4\n",
            "home/lib.h": '#include "deep/c.h"\n#define SEC(name)\n',
        }
    )
    source = sources.collect(str(top / "home" / "x.c"), [str(top / "lib")])
    main = sources.write(source, str(tmp_path / "target"))
    command = ["clang", "-fsyntax-only", f"-I{tmp_path}/target", main]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- content --------------------------------------------------------------------------------------------------------------

SOURCE = Source("x.c", {"x.c": b"int x;\xff\0", "sub/a.h": b"#define A\n"}, {"a": "tc"})


def test_a_code_is_of_the_content_in_any_order():
    code = sources.code_of(SOURCE)
    assert len(code) == 64 and int(code, 16)
    assert sources.code_of(SOURCE._replace(files=dict(reversed(list(SOURCE.files.items()))))) == code
    assert sources.code_of(SOURCE._replace(programs={})) == code  # they follow from the content


@pytest.mark.parametrize(
    "other",
    [
        SOURCE._replace(main="sub/a.h"),
        SOURCE._replace(files={**SOURCE.files, "y.h": b""}),
        SOURCE._replace(files={"x.c": SOURCE.files["x.c"]}),
        SOURCE._replace(files={"x.c": SOURCE.files["x.c"], "sub/b.h": SOURCE.files["sub/a.h"]}),
        SOURCE._replace(files={"x.c": SOURCE.files["sub/a.h"], "sub/a.h": SOURCE.files["x.c"]}),
    ],
)
def test_other_files_have_another_code(other):
    assert sources.code_of(other) != sources.code_of(SOURCE)


def test_each_byte_changes_the_code():
    codes = {sources.code_of(SOURCE)}
    for name, content in SOURCE.files.items():
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= 1
            codes.add(sources.code_of(SOURCE._replace(files={**SOURCE.files, name: bytes(changed)})))
    assert len(codes) == 1 + sum(map(len, SOURCE.files.values()))


def test_flags_change_the_code(monkeypatch):
    code = sources.code_of(SOURCE)
    monkeypatch.setattr(sources.compilers, "FLAGS", (*sources.compilers.FLAGS, "-DX"))
    assert sources.code_of(SOURCE) != code


# --- transport ------------------------------------------------------------------------------------------------------------

names = st.text(st.characters(blacklist_categories=(), blacklist_characters="/\0"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


def packed(*found):
    return {sources.code_of(source): source for source in found}


@given(
    st.dictionaries(names, st.binary(), min_size=1), st.dictionaries(names, st.sampled_from(["tc", "xdp"]))
)
def test_a_bundle_brings_back_what_was_packed(files, programs):
    found = packed(Source(next(iter(files)), files, programs), SOURCE)
    text = sources.pack(found)
    assert text.isascii() and "\n" not in text
    assert sources.unpack(text) == found


def test_the_same_sources_make_the_same_bundle():
    other = SOURCE._replace(main="sub/a.h")
    assert sources.pack(packed(SOURCE, other)) == sources.pack(packed(other, SOURCE))


def bundle(plain):
    return base64.b64encode(zlib.compress(json.dumps(plain).encode())).decode()


def row(**more):
    return {"main": "x.c", "files": {"x.c": "int x;"}, "programs": {}, **more}


def with_code(**more):
    """A bundle whose digest is right, whatever its names are."""
    plain = row(**more)
    files = {name: content.encode("latin-1") for name, content in plain["files"].items()}
    return bundle({sources.code_of(Source(plain["main"], files, {})): plain})


GOOD = sources.pack(packed(SOURCE))
DAMAGED = "^the bundle of sources is damaged: "
BOMB = base64.b64encode(zlib.compress(b" " * (sources.MAX_BUNDLE + 1), 9)).decode()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (bundle({"0" * 64: row()}), f"{DAMAGED}x.c is not what its digest says$"),
        (with_code(main="y.c"), f"{DAMAGED}y.c is not what its digest says$"),
        (with_code(files={"x.c": "", "/etc/passwd": ""}), "'/etc/passwd' leaves the directory"),
        (with_code(files={"x.c": "", "../y.h": ""}), "'../y.h' leaves the directory"),
        (with_code(files={"x.c": "", "a/../../y.h": ""}), "leaves the directory"),
        (with_code(files={"x.c": "", "": ""}), "'' leaves the directory"),
        (with_code(files={"x.c": "", "a\0b": ""}), "leaves the directory"),
        pytest.param(BOMB, "^the bundle of sources is larger than 32 MiB$", id="bomb"),
        ("", DAMAGED),
        ("not base64!", DAMAGED),
        ("schön", DAMAGED),
        (GOOD + "\n", DAMAGED),
        (GOOD[:-8], DAMAGED),
        (GOOD[8:], DAMAGED),
        (base64.b64encode(b"not zlib").decode(), DAMAGED),
        (base64.b64encode(zlib.compress(b"not json")).decode(), DAMAGED),
        (base64.b64encode(zlib.compress(b"[" * 200000)).decode(), DAMAGED),
        (base64.b64encode(zlib.compress(b'"\xff"')).decode(), DAMAGED),
        (bundle([]), DAMAGED),
        (bundle({"0": []}), DAMAGED),
        (bundle({"0": {}}), DAMAGED),
        (bundle({"0": row(main=["x.c"])}), DAMAGED),
        (bundle({"0": row(main=None)}), DAMAGED),
        (bundle({"0": row(files=["x.c"])}), DAMAGED),
        (bundle({"0": row(files={"x.c": 5})}), DAMAGED),
        (bundle({"0": row(files={"x.c": "\u20ac"})}), DAMAGED),
    ],
)
def test_a_damaged_bundle(text, error):
    with pytest.raises(SourceError, match=error) as caught:
        sources.unpack(text)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=127))
def test_a_changed_bundle_is_refused_or_the_same(place, sign):
    try:
        assert sources.unpack(GOOD[:place] + sign + GOOD[place + 1 :]) == packed(SOURCE)
    except SourceError:
        pass


def test_an_empty_bundle():
    assert sources.unpack(sources.pack({})) == {}


# --- writing --------------------------------------------------------------------------------------------------------------


def test_files_are_written_for_their_owner_only(tmp_path):
    source = SOURCE._replace(files={**SOURCE.files, "sub/deep/b.h": b"", "deep/down/c.h": b""})
    old = os.umask(0)
    try:
        main = sources.write(source, str(tmp_path / "there"))
    finally:
        os.umask(old)
    assert main == str(tmp_path / "there" / "x.c")
    written = {
        str(path.relative_to(tmp_path)): (
            oct(path.stat().st_mode),
            path.read_bytes() if path.is_file() else None,
        )
        for path in tmp_path.rglob("*")
    }
    directory, file = "0o40700", "0o100600"
    assert written == {
        "there": (directory, None),
        "there/deep": (directory, None),
        "there/deep/down": (directory, None),
        "there/sub": (directory, None),
        "there/sub/deep": (directory, None),
        "there/x.c": (file, b"int x;\xff\0"),
        "there/sub/a.h": (file, b"#define A\n"),
        "there/sub/deep/b.h": (file, b""),
        "there/deep/down/c.h": (file, b""),
    }


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "x.c").write_text("mine")
    with pytest.raises(SourceError, match=f"^{tmp_path}/x.c: File exists$"):
        sources.write(SOURCE, str(tmp_path))
    assert (tmp_path / "x.c").read_text() == "mine"


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x.c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"File exists$"):
        sources.write(SOURCE, str(tmp_path / "there"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["/x.c", "../x.c", "a/../../x.c", ""])
def test_nothing_is_written_elsewhere(tmp_path, name):
    with pytest.raises(SourceError, match="leaves the directory"):
        sources.write(Source(name, {name: b""}, {}), str(tmp_path / "there"))
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_name_that_is_a_directory(tmp_path):
    with pytest.raises(SourceError, match=f"^{tmp_path}/a.*: "):
        sources.write(Source("a", {"a": b"", "a/b": b""}, {}), str(tmp_path))
