# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the BPF layer: layouts, messages, mounts, and compiler logs."""

from __future__ import annotations

import errno
import json
import struct
import sys

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError, UnsupportedError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, bpffs

# --- bpf(2) -------------------------------------------------------------------------------------------------------


class Kernel:
    """Answers commands from a list of (errno, {offset: value of 32 bits}) and keeps what was asked."""

    def __init__(self, monkeypatch, *answers):
        self.asked, self.answers = [], list(answers)
        monkeypatch.setattr(bpf, "_attempt", self.attempt)

    def attempt(self, command, attribute):
        self.asked.append((command, attribute))
        number, words = self.answers.pop(0)
        union = bytearray(attribute.ljust(bpf.ATTRIBUTE_BYTES, b"\0"))
        for offset, value in words.items():
            struct.pack_into("=I", union, offset, value)
        return 5, number, bytes(union)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0,2-3,8\n", [0, 2, 3, 8]), ("\n", [])],
)
def test_cpu_list(text, numbers):
    assert bpf.cpu_list(text) == numbers


def test_percpu_entries_are_padded_for_every_possible_cpu(monkeypatch, tmp_path):
    mask = tmp_path / "possible"
    mask.write_text("0,2-3\n")  # three CPUs, though the last is number 3
    monkeypatch.setattr(bpf, "POSSIBLE_CPUS", str(mask))
    info = bpf.MapInfo(1, bpf.MapType.PERCPU_ARRAY, 4, 12, 1, 0, "m", 0, 0, 0, 0)
    assert bpf.entry_size(info) == 3 * 16
    assert bpf.entry_size(info._replace(type=bpf.MapType.ARRAY)) == 12
    assert bpf.split_percpu(b"a" * 12 + b"...." + b"b" * 12 + b"....", 12) == [b"a" * 12, b"b" * 12]


@pytest.mark.parametrize(
    ("call", "command", "layout"),
    [
        (lambda: bpf.link_create(9, 2, bpf.TCX_EGRESS), bpf.Command.LINK_CREATE, (9, 2, 47, 0, 0, 0, 0)),
        (
            lambda: bpf.link_create(
                9, 2, bpf.NETKIT_PEER, flags=bpf.F_BEFORE | bpf.F_ID, relative=77, revision=1 << 40
            ),
            bpf.Command.LINK_CREATE,
            (9, 2, 55, 40, 77, 0, 1 << 40),
        ),
        (
            lambda: bpf.prog_attach(9, 2, bpf.TCX_INGRESS, flags=4, replace_fd=8, revision=3),
            bpf.Command.PROG_ATTACH,
            (2, 9, 46, 4, 8, 0, 3),
        ),
        (lambda: bpf.prog_detach(9, 2, bpf.XDP), bpf.Command.PROG_DETACH, (2, 9, 37, 0, 0, 0, 0)),
    ],
)
def test_attachment_layout(monkeypatch, call, command, layout):
    kernel = Kernel(monkeypatch, (0, {}))
    call()
    assert kernel.asked == [(command, struct.pack("=IIIIIIQ", *layout))]


def test_link_update_names_the_old_program_only_when_given(monkeypatch):
    kernel = Kernel(monkeypatch, (0, {}), (0, {}))
    bpf.link_update(3, 9)
    bpf.link_update(3, 9, 0)
    assert [struct.unpack("=IIII", asked[1]) for asked in kernel.asked] == [(3, 9, 0, 0), (3, 9, 4, 0)]


@pytest.mark.parametrize(("raw", "signed"), [(0xFFFFFFFF, -1), (7, 7), (2, 2)])
def test_verdict_is_signed(monkeypatch, raw, signed):
    Kernel(monkeypatch, (0, {4: raw, 12: 0}))
    assert bpf.test_run(3, bytes(14)).retval == signed


def test_ids_are_walked_to_the_end(monkeypatch):
    kernel = Kernel(monkeypatch, (0, {4: 3}), (0, {4: 8}), (errno.ENOENT, {}))
    assert bpf.prog_ids() == [3, 8]
    assert [struct.unpack_from("=I", asked[1])[0] for asked in kernel.asked] == [0, 3, 8]


def test_query_asks_again_with_more_room(monkeypatch):
    kernel = Kernel(monkeypatch, (errno.ENOSPC, {}), (0, {24: 0, 56: 12}))
    assert bpf.prog_query(2, bpf.TCX_INGRESS) == bpf.Query(12, [])
    assert [struct.unpack_from("=I", asked[1], 24)[0] for asked in kernel.asked] == [64, 256]


def test_batch_deletion_passes_over_absent_keys(monkeypatch):
    kernel = Kernel(monkeypatch, (errno.ENOENT, {32: 2}), (0, {32: 1}))
    assert bpf.map_delete_batch(3, [b"a", b"b", b"-", b"c"]) == 3
    assert [struct.unpack_from("=I", asked[1], 32)[0] for asked in kernel.asked] == [4, 1]


def test_entries_go_one_by_one_where_there_are_no_batches(monkeypatch):
    kernel = Kernel(monkeypatch, (errno.EOPNOTSUPP, {}), (0, {}), (0, {}))
    assert bpf.map_update_batch(3, [b"a", b"b"], [b"1", b"2"]) == 2
    assert [asked[0].name for asked in kernel.asked] == [
        "MAP_UPDATE_BATCH",
        "MAP_UPDATE_ELEM",
        "MAP_UPDATE_ELEM",
    ]


@pytest.mark.parametrize(
    ("call", "number", "text"),
    [
        (
            lambda: bpf.link_create(9, 2, bpf.TCX_EGRESS, revision=3),
            errno.ESTALE,
            "bpf LINK_CREATE at tcx egress of ifindex 2: ESTALE (the hook has changed since it was read)",
        ),
        (
            lambda: bpf.link_update(3, 9, 8),
            errno.EPERM,
            "bpf LINK_UPDATE of link fd 3: EPERM (the link holds another program than expected)",
        ),
        (
            lambda: bpf.map_update(3, b"k", b"v"),
            errno.E2BIG,
            "bpf MAP_UPDATE_ELEM of map fd 3: E2BIG (Argument list too long)",
        ),
        (
            lambda: bpf.pin(3, "/sys/fs/bpf/a.b"),
            errno.EPERM,
            "bpf OBJ_PIN at /sys/fs/bpf/a.b: EPERM (names on a BPF file system cannot contain a dot)",
        ),
    ],
)
def test_error_names_command_object_and_meaning(monkeypatch, call, number, text):
    Kernel(monkeypatch, (number, {}))
    with pytest.raises(KernelError) as caught:
        call()
    assert caught.value.errno == number
    assert str(caught.value) == text


def test_absent_key_is_no_error(monkeypatch):
    Kernel(monkeypatch, *[(errno.ENOENT, {})] * 3)
    assert bpf.map_lookup(3, b"k", 4) is None
    assert bpf.map_delete(3, b"k") is False
    assert bpf.map_next_key(3, None, 1) is None


# --- The BPF file system ------------------------------------------------------------------------------------------

SYS = "23 27 0:22 / /sys rw,relatime shared:2 - sysfs sysfs rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n"
BPFFS = "30 23 0:30 / /sys/fs/bpf rw,nosuid shared:9 master:1 - bpf bpf rw,mode=700\n"
ELSEWHERE = "31 27 0:31 / /run/my\\040bpf rw - bpf bpf rw\n"


@pytest.mark.parametrize(
    ("text", "points"),
    [
        (SYS, []),
        (SYS + BPFFS, ["/sys/fs/bpf"]),
        (SYS + BPFFS + ELSEWHERE, ["/run/my bpf", "/sys/fs/bpf"]),
        (SYS + BPFFS + "32 30 0:32 / /sys/fs/bpf rw - tmpfs x rw\n", []),
        (SYS + BPFFS + "32 23 0:32 / /sys/fs rw - tmpfs x rw\n", []),
        (SYS + BPFFS + "32 23 0:32 / /sys rw - sysfs x rw\n", []),
        (SYS + BPFFS + "32 23 0:32 / /sys/fs/bpffs rw - tmpfs x rw\n", ["/sys/fs/bpf"]),
        (
            SYS + BPFFS + "32 23 0:32 / /sys rw - sysfs x rw\n33 32 0:33 / /sys/fs/bpf rw - bpf x rw\n",
            ["/sys/fs/bpf"],
        ),
        (
            SYS + "32 23 0:32 / /sys/fs rw - tmpfs x rw\n33 32 0:33 / /sys/fs/bpf rw - bpf x rw\n",
            ["/sys/fs/bpf"],
        ),
        ("nonsense\n\n" + SYS + BPFFS, ["/sys/fs/bpf"]),
    ],
)
def test_bpffs_that_paths_lead_to(text, points):
    assert bpffs.bpf_mounts(bpffs.parse_mounts(text)) == points


def test_second_bpffs_over_the_first_is_an_error():
    text = SYS + BPFFS + "34 30 0:34 / /sys/fs/bpf rw - bpf bpf rw\n"
    with pytest.raises(UnsupportedError, match=r"/sys/fs/bpf: two BPF file systems .* `umount /sys/fs/bpf"):
        bpffs.bpf_mounts(bpffs.parse_mounts(text))


@pytest.mark.parametrize(("name", "number"), [("a.b", 1), ("", 22), ("a/b", 22), ("x" * 256, 22)])
def test_name_that_cannot_be_a_pin(name, number):
    with pytest.raises(KernelError) as caught:
        bpffs.check_name(name)
    assert caught.value.errno == number


def test_pins_of_a_directory(tmp_path):
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    (tmp_path / "maps").mkdir()
    assert bpffs.list_pins(str(tmp_path)) == ["a", "b"]
    assert bpffs.list_pins(str(tmp_path / "none")) == []


# --- libbpf -------------------------------------------------------------------------------------------------------

PACKET_LOG = """\
0: R1=ctx() R10=fp0
; int reply(struct __sk_buff *skb) { @ bad.bpf.c:13
0: (bf) r6 = r1                       ; R1=ctx() R6_w=ctx()
; return *(int *)(long)skb->data; @ bad.bpf.c:15
12: (61) r1 = *(u32 *)(r6 +76)        ; R1_w=pkt(r=0) R6=ctx()
13: (61) r0 = *(u32 *)(r1 +0)
invalid access to packet, off=0 size=4, R1(id=0,off=0,r=0)
R1 offset is outside of the packet
processed 12 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 1
"""

NULL_LOG = """\
libbpf: prog 'next': BPF program load failed: Permission denied
libbpf: prog 'next': -- BEGIN PROG LOAD LOG --
reg type unsupported for arg#0 function next#11
0: R1=ctx(off=0,imm=0) R10=fp0
10: (85) call bpf_map_lookup_elem#1   ; R0_w=map_value_or_null(id=1,off=0,ks=8,vs=60,imm=0)
from 10 to 12: R0=scalar() R10=fp0
12: (0f) r1 += r6
R1 pointer arithmetic on map_value_or_null prohibited, null-check it first
verification time 119 usec
stack depth 8
processed 11 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --
libbpf: failed to load object 'a.o'
"""

LOOP_LOG = """\
; for (;;) { @ loop.bpf.c:4
1: (07) r1 += 1
2: (05) goto pc-2
BPF program is too large. Processed 1000001 insn
processed 1000001 insns (limit 1000000) max_states_per_insn 4 total_states 9 peak_states 9 mark_read 1
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            PACKET_LOG,
            (
                "invalid access to packet, off=0 size=4, R1(id=0,off=0,r=0); R1 offset is outside of the packet"
                " (at instruction 13: r0 = *(u32 *)(r1 +0), source: return *(int *)(long)skb->data; @ bad.bpf.c:15)"
            ),
        ),
        (
            NULL_LOG,
            "R1 pointer arithmetic on map_value_or_null prohibited, null-check it first (at instruction 12: r1 += r6)",
        ),
        (
            LOOP_LOG,
            (
                "BPF program is too large. Processed 1000001 insn"
                " (at instruction 2: goto pc-2, source: for (;;) { @ loop.bpf.c:4)"
            ),
        ),
        ("Unrecognized arg#0 type PTR\n", "Unrecognized arg#0 type PTR"),
        ("processed 0 insns (limit 1000000)\n", ""),
        ("", ""),
    ],
)
def test_verifier_log_is_trimmed_to_the_reason(log, reason):
    assert libbpf.explain(log) == reason


def test_only_the_last_lines_of_a_long_reason_are_kept():
    assert (
        libbpf.explain("\n".join(f"reason {n}" for n in range(9))) == "reason 5; reason 6; reason 7; reason 8"
    )


@pytest.mark.parametrize(
    ("value", "size", "encoded"),
    [(7, 4, "07000000"), (-1, 2, "ffff"), (255, 1, "ff"), (1, 1, "01"), (b"\1\2", 2, "0102")],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the expected bytes are little-endian")
def test_constant(value, size, encoded):
    assert libbpf.constant_bytes(value, size).hex() == encoded


@pytest.mark.parametrize(("value", "size"), [(256, 1), (-129, 1), (b"\1", 4), (1 << 64, 8)])
def test_constant_that_does_not_fit(value, size):
    with pytest.raises(ValueError):
        libbpf.constant_bytes(value, size)


def test_unknown_name_lists_the_known():
    assert libbpf.unknown_name("a.o", "map", "x", ["b", "a"]) == "a.o: has no map x; it has a, b"
    assert libbpf.unknown_name("a.o", "map", "x", []) == "a.o: has no maps at all"


def test_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf.so.none")
    monkeypatch.setattr(libbpf, "_library", [])
    with pytest.raises(UnsupportedError, match="apt-get install libbpf1"):
        libbpf.load("a.o")


# --- Compilers ----------------------------------------------------------------------------------------------------

CLANG_LOG = """\
In file included from /tmp/x/router.bpf.c:1:
/tmp/x/lib/fib.h:18:9: error: use of undeclared identifier 'foo'
        return foo;
               ^
/tmp/x/router.bpf.c:20:1: warning: control reaches end
/tmp/x/router.bpf.c:21:1: error: expected expression
/tmp/x/router.bpf.c:22: error: third
/tmp/x/router.bpf.c:23:1: error: fourth
4 errors generated.
"""


def test_first_errors_of_a_compiler():
    assert build.first_errors(CLANG_LOG) == [
        "fib.h:18: error: use of undeclared identifier 'foo'",
        "router.bpf.c:21: error: expected expression",
        "router.bpf.c:22: error: third",
    ]
    assert build.first_errors("clang: error: no such file\n") == []


@pytest.mark.parametrize(
    ("header", "package"),
    [
        ("bpf/bpf_helpers.h", "libbpf-dev"),
        ("asm/types.h", "linux-libc-dev"),
        ("linux/bpf.h", "linux-libc-dev"),
        ("mine.h", ""),
    ],
)
def test_missing_header_names_its_package(header, package):
    assert build.header_package(f"x.c:1:10: fatal error: '{header}' file not found") == package


@pytest.mark.parametrize(
    ("missing", "asked", "chosen"),
    [
        ({}, "auto", "clang"),
        ({"clang": "no clang"}, "auto", "bcc"),
        ({"clang": "no clang"}, "bcc", "bcc"),
        ({"bcc": "no bcc"}, "clang", "clang"),
    ],
)
def test_compiler_is_chosen(monkeypatch, missing, asked, chosen):
    monkeypatch.setattr(build, "missing", lambda name: missing.get(name, ""))
    assert build.choose(asked) == chosen


def test_without_any_compiler_both_remedies_are_told(monkeypatch):
    monkeypatch.setattr(build, "missing", lambda name: f"no {name}")
    with pytest.raises(UnsupportedError, match="no compiler for BPF programs: no clang; no bcc"):
        build.choose("auto")


def test_other_module_called_bcc_is_refused(monkeypatch):
    done = build.subprocess.CompletedProcess([], 0, "other\n", "")
    monkeypatch.setattr(build, "_bcc_found", [])
    monkeypatch.setattr(build, "_run", lambda *_command, **_more: done)
    assert "PyPI's lattice package" in build.missing("bcc")


def test_newest_versioned_clang_is_found(monkeypatch, tmp_path):
    for name in ("clang-9", "clang-14", "clang-format-19", "clang++-19"):
        (tmp_path / name).touch(0o755)
    (tmp_path / "clang-20").touch(0o644)  # nothing that could be run
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.find_clang() == str(tmp_path / "clang-14")


@pytest.mark.parametrize(
    ("present", "machine", "found"),
    [
        (["x86_64-linux-gnu", "linux"], "x86_64", "x86_64-linux-gnu"),
        (["powerpc64le-linux-gnu"], "ppc64le", "powerpc64le-linux-gnu"),
        (["asm"], "x86_64", "."),
    ],
)
def test_multiarch_directory(tmp_path, present, machine, found):
    for name in present:
        (tmp_path / name).mkdir()
    assert build.multiarch_directory(machine, str(tmp_path)) == str(tmp_path / found)


def test_macros_are_sorted():
    assert build.define_flags({"B": 2, "A": "x"}) == ["-DA=x", "-DB=2"]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        ({"stage": "import", "error": "No module"}, "UnsupportedError", "BCC cannot be imported: No module"),
        ({"stage": "map", "name": "m", "error": "unknown"}, "LoadError", "a.c: map m: unknown"),
        (
            {"stage": "load", "name": "p", "error": "Failed"},
            "LoadError",
            "a.c: program p: cannot be loaded: R1 is wrong",
        ),
        ({}, "CompileError", "a.c: the program that runs BCC broke off: R1 is wrong"),
    ],
)
def test_errors_of_bcc(answer, kind, text):
    problem = build._bcc_error("a.c", json.loads(json.dumps(answer)), "R1 is wrong")
    assert (type(problem).__name__, str(problem)) == (kind, text)


def test_bcc_calls_every_source_main():
    problem = build._bcc_error("a.c", {"stage": "compile"}, "/virtual/main.c:3:1: error: bad\n")
    assert str(problem) == "a.c does not compile: a.c:3: error: bad"
