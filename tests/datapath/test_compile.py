# SPDX-License-Identifier: GPL-3.0-or-later
"""Both compilers: the same source gives the same answers, and errors say where."""

from __future__ import annotations

import os

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import btf, libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.compile import CompileError
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import CnfError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf

TYPES = """\
#include <linux/types.h>
struct key { __u32 plen; __be32 addr; };
struct value { __u64 hits; struct { __u8 bytes[16]; } addr; };
"""
CLANG = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, ENTRIES);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 100);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct key);
    __type(value, struct value);
} trie SEC(".maps");
volatile const __u32 answer = 2;
char _license[] SEC("license") = "GPL";
#define SECTION(name) SEC(name)
"""
BCC = """\
BPF_TABLE("percpu_array", __u32, __u64, counts, ENTRIES);
BPF_F_TABLE("lpm_trie", struct key, struct value, trie, 100, BPF_F_NO_PREALLOC);
#define SECTION(name)
"""
PROGRAM = """\
SECTION("tc") int reply(struct __sk_buff *skb)
{
    __u32 zero = 0;
#ifdef BCC_SEC
    __u64 *count = counts.lookup(&zero);
#else
    __u64 *count = bpf_map_lookup_elem(&counts, &zero);
#endif

    if (count)
        *count += 1;
    return RESULT;
}
"""
SOURCE = f"{TYPES}#ifdef BCC_SEC\n{BCC}#else\n{CLANG}#endif\n#include <linux/if_ether.h>\n#include <linux/in6.h>\n{PROGRAM}"
PACKET = bytes(64)
DEFINES = {"ENTRIES": 3, "RESULT": "answer"}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "both.bpf.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def make(loaded):
    """``make(source, compiler, **options)`` of the one program."""

    def get(source, compiler, **options):
        if compiler == "bcc":
            options["programs"] = {"reply": bpf.ProgType.SCHED_CLS}
        options.setdefault("defines", DEFINES)
        return loaded(source, compiler, **options)

    return get


def taking(maps, compiler):
    """The options that make maps be taken over."""
    if compiler == "clang":
        return {"reuse": {name: fd for name, fd in maps.items() if name != ".rodata"}}
    return {"choose": lambda fresh: maps}


both = pytest.mark.parametrize("compiler", build.COMPILERS)


@both
def test_constants_and_macros_reach_the_program(make, source, compiler):
    found = make(source, compiler, constants={"answer": 7})
    assert bpf.test_run(found.programs["reply"], PACKET).retval == bpf.REDIRECT
    assert bpf.map_info(found.maps["counts"]).max_entries == 3
    assert {"counts", "trie"} <= found.maps.keys()


@both
def test_map_is_taken_over_with_its_entries(make, source, compiler):
    first = make(source, compiler, constants={"answer": 0})
    bpf.test_run(first.programs["reply"], PACKET, repeat=5)
    second = make(source, compiler, constants={"answer": 2}, **taking(first.maps, compiler))
    assert bpf.test_run(second.programs["reply"], PACKET).retval == bpf.DROP
    info = bpf.map_info(second.maps["counts"])
    assert info.id == bpf.map_info(first.maps["counts"]).id
    types = btf.map_types(second.maps["counts"])
    assert sum(types.decode_percpu(dict(bpf.map_items(second.maps["counts"], info))[bytes(4)])) == 6


@both
def test_map_that_differs_is_refused(make, source, compiler):
    first = make(source, compiler, constants={"answer": 0})
    with pytest.raises(
        libbpf.LoadError, match=r"map trie: the one to reuse differs in .*value.size \(8, not 24\)"
    ):
        make(source, compiler, constants={"answer": 0}, **taking({"trie": first.maps["counts"]}, compiler))


@both
def test_source_that_does_not_compile_tells_file_and_line(make, source, compiler):
    line = SOURCE[: SOURCE.index("RESULT")].count("\n") + 1
    with pytest.raises(CompileError) as caught:
        make(source, compiler, defines={**DEFINES, "RESULT": "nonsense"}, constants={"answer": 0})
    assert f"both.bpf.c does not compile: both.bpf.c:{line}: error: use of undeclared identifier" in str(
        caught.value
    )
    assert "nonsense" in caught.value.log


@both
def test_missing_header_names_its_package(make, source, compiler):
    source.write_text(f"#include <bpf/nothing.h>\n{SOURCE}")
    with pytest.raises(CompileError, match=r"both.bpf.c:1: error: .* \(apt-get install libbpf-dev\)"):
        make(source, compiler)


@both
def test_program_that_is_refused_tells_the_reason(make, source, compiler):
    with pytest.raises(
        libbpf.LoadError, match=r"program reply: .*invalid access to packet.*at instruction \d+:"
    ):
        make(
            source,
            compiler,
            defines={**DEFINES, "RESULT": "*(int *)(long)skb->data"},
            constants={"answer": 0},
        )


@both
def test_source_that_is_missing(make, tmp_path, compiler):
    with pytest.raises(CnfError, match=r"(n|N)o such file"):
        make(tmp_path / "none.bpf.c", compiler)


def test_unknown_program_and_map_of_bcc(loaded, source):
    with pytest.raises(libbpf.LoadError, match="program other: unknown; it has reply"):
        loaded(source, "bcc", defines={**DEFINES, "answer": 0}, programs={"other": 3})
    with pytest.raises(libbpf.LoadError, match="map other: unknown; it has counts, trie"):
        loaded(
            source,
            "bcc",
            defines={**DEFINES, "answer": 0},
            programs={"reply": 3},
            choose=lambda fresh: {"other": fresh["trie"]},
        )


def test_new_maps_of_bcc_are_shown_before_any_program_is_loaded(make, source):
    seen = {}

    def look(fresh):
        seen.update({name: bpf.map_info(fd) for name, fd in fresh.items()})
        return {"counts": fresh["counts"]}

    found = make(source, "bcc", constants={"answer": 0}, choose=look)
    assert {name: (info.type, info.max_entries) for name, info in seen.items()} == {
        "counts": (bpf.MapType.PERCPU_ARRAY, 3),
        "trie": (bpf.MapType.LPM_TRIE, 100),
    }
    assert {name: bpf.map_info(fd).id for name, fd in found.maps.items()} == {
        name: info.id for name, info in seen.items()
    }


def test_choice_that_is_refused_ends_bcc_and_loads_nothing(make, source):
    if build.missing("bcc"):
        pytest.skip(build.missing("bcc"))
    before, children = sorted(os.listdir("/proc/self/fd")), own_children()

    def refuse(fresh):
        raise LookupError("no such choice")

    with pytest.raises(LookupError, match="no such choice"):
        make(source, "bcc", constants={"answer": 0}, choose=refuse)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert own_children() == children


def own_children():
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return file.read().split()


def test_bcc_ends_when_nobody_waits_for_it_any_more(source, tmp_path):
    if build.missing("bcc"):
        pytest.skip(build.missing("bcc"))
    python, _why = build.find_bcc()
    flags = [*build.define_flags({**DEFINES, "answer": 0}), f"-idirafter{build.multiarch_directory()}"]
    order = {"source": str(source), "flags": [*flags, f"-idirafter{build.INCLUDE}"], "programs": {"reply": 3}}
    with build._bcc_process(python, order, build.bcc_headers(tmp_path)) as process:
        fresh, answer = process.receive()
        with fresh:
            assert answer == {"maps": ["counts", "trie"]}
        process._socket.close()  # as when this process dies
        assert process._process.wait(60) == 1


def test_size_of_a_map_reaches_bcc_or_is_an_error(make, source):
    macros = {"RESULT": 0}
    found = make(source, "bcc", defines={**macros, "ENTRIES": "COUNTS_ENTRIES"}, map_sizes={"counts": 5})
    assert bpf.map_info(found.maps["counts"]).max_entries == 5
    with pytest.raises(
        libbpf.LoadError,
        match=r"^both.bpf.c: map trie: 7 entries are asked for, it has 100; the source must use TRIE_ENTRIES as its size$",
    ):
        make(source, "bcc", defines={**macros, "ENTRIES": 1}, map_sizes={"trie": 7})
    with pytest.raises(libbpf.LoadError, match=r"^both.bpf.c: has no map tree; it has counts, trie$"):
        make(source, "bcc", defines={**macros, "ENTRIES": 1}, map_sizes={"tree": 7})


@both
def test_header_beside_the_source_is_found(make, tmp_path, compiler):
    place = tmp_path / "elsewhere" / "lib"
    place.mkdir(parents=True)
    (place / "near.h").write_text('#include "nearer.h"\n')
    (place / "nearer.h").write_text(f"{TYPES}#define NEAR 3\n")
    main = place.parent / "main.bpf.c"
    main.write_text(SOURCE.replace(TYPES, '#include "lib/near.h"\n'))
    found = make(main, compiler, defines={"ENTRIES": "NEAR", "RESULT": 0})
    assert bpf.map_info(found.maps["counts"]).max_entries == 3


@pytest.mark.parametrize(("value", "result"), [(True, 1), (7, 7), ("TC_ACT_SHOT", 2)])
def test_constant_of_bcc_is_a_number_or_a_name(make, source, value, result):
    source.write_text(f"#define TC_ACT_SHOT 2\n{SOURCE}")
    found = make(source, "bcc", constants={"answer": value})
    assert bpf.test_run(found.programs["reply"], PACKET).retval == result


@pytest.mark.parametrize("value", [b"1234", [1], {"a": 1}, "1 + 1", 1.5, None])
def test_other_constant_of_bcc_is_refused(make, source, value):
    with pytest.raises(libbpf.LoadError) as caught:
        make(source, "bcc", constants={"answer": value})
    assert str(caught.value) == (
        "both.bpf.c: constant answer: BCC takes an integer, a boolean or a name of the source's, "
        f"not {value!r}; use clang for others"
    )


def test_both_compilers_lay_out_maps_alike(make, source):
    layouts = [
        btf.layout_of(btf.map_types(make(source, name, constants={"answer": 0}).maps["trie"]))
        for name in build.COMPILERS
    ]
    assert [row.path for row in layouts[0]] == ["key.plen", "key.addr", "value.hits", "value.addr.bytes"]
    assert btf.compare_layouts(*layouts) == []


def test_nothing_of_a_build_stays_open_or_unfinished(make, source, tmp_path):
    if build.missing("bcc"):
        pytest.skip(build.missing("bcc"))
    before = sorted(os.listdir("/proc/self/fd"))
    build.compile_bcc(
        source, programs={"reply": 3}, directory=tmp_path / "x", defines={**DEFINES, "answer": 0}
    ).close()
    source.write_text("nonsense")
    with pytest.raises(CompileError):
        build.compile_clang(source, tmp_path / "x.o")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(tmp_path)) == ["both.bpf.c", "x"]
    assert os.stat(tmp_path / "x" / "bcc-headers").st_mode & 0o777 == 0o700
