# SPDX-License-Identifier: GPL-3.0-or-later
"""bpf(2), pins and loading against this kernel: what the collection relies on, errno by errno."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import time

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import btf, libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError, UnsupportedError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, bpffs

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct key { __u32 plen; __be32 addr; };
struct value { __u64 hits; __be16 port; __u8 pad[6]; };

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1000);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct key);
    __type(value, struct value);
} trie SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u32);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 100);
    __type(key, __u64);
    __type(value, __u32);
} hash SEC(".maps");

volatile const __u32 answer = 2;
volatile const __u8 mac[6] = {1, 2, 3, 4, 5, 6};

SEC("tc")
int reply(struct __sk_buff *skb)
{
    __u32 zero = 0, *count = bpf_map_lookup_elem(&counts, &zero);

    if (count)
        *count += 1;
    return answer;
}

SEC("tc")
int mark(struct __sk_buff *skb)
{
    struct key key = {32, 0};
    __u64 number = mac[0];

    if (bpf_map_lookup_elem(&trie, &key) || bpf_map_lookup_elem(&hash, &number))
        return 0;
    bpf_skb_change_tail(skb, skb->len + skb->mark, 0);
    skb->mark += 1;
    return -1;
}

SEC("xdp")
int pass(struct xdp_md *ctx)
{
    return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""
BAD = SOURCE.replace("return answer;", "return *(__u32 *)(long)skb->data;")
PACKET = bytes(12) + b"\x08\x00" + bytes(46)
INGRESS = bpf.TCX_INGRESS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "kernel_layer.bpf.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def device(network):
    """The ifindex of one end of a veth pair in the test's network namespace."""
    subprocess.run(["ip", "link", "add", "tst0", "type", "veth", "peer", "name", "tst1"], check=True)
    index = socket.if_nametoindex("tst0")
    try:
        if bpf.prog_query(index, INGRESS).revision < 1:
            raise AssertionError("a hook's revision starts at 1")
    except KernelError as problem:
        if problem.errno != errno.EINVAL:
            raise
        pytest.skip("this kernel has no tcx (6.6)")
    return index


@pytest.fixture
def program(loaded, source):
    """``program()``: a new instance of the same program."""
    return lambda: loaded(source, programs=["reply"]).programs["reply"]


@contextlib.contextmanager
def refused(number):
    with pytest.raises(KernelError) as caught:
        yield
    assert caught.value.errno == number, caught.value


def ids(index, hook=INGRESS):
    return [row[0] for row in bpf.prog_query(index, hook).entries]


def number(fd):
    return bpf.prog_info(fd).id


# --- Loading and test runs ----------------------------------------------------------------------------------------


def test_constants_reach_the_program(loaded, source):
    found = loaded(source, constants={"answer": 7, "mac": bytes(6)})
    assert bpf.test_run(found.programs["reply"], PACKET).retval == bpf.REDIRECT
    assert loaded(source).programs.keys() == {"reply", "mark", "pass"}
    assert bpf.test_run(loaded(source).programs["reply"], PACKET).retval == bpf.DROP


def test_test_run_tells_packet_context_and_time(loaded, source):
    programs = loaded(source).programs
    fd = programs["mark"]
    context = struct.pack("=III", 0, 0, 10).ljust(192, b"\0")  # struct __sk_buff: len, pkt_type, mark
    answer = bpf.test_run(fd, PACKET, context=context)
    assert answer.retval == bpf.NEXT
    assert len(answer.data) == len(PACKET) + 10
    assert struct.unpack_from("=I", answer.context, 8)[0] == 11
    assert 0 < bpf.test_run(programs["reply"], PACKET, repeat=1000).duration < 1_000_000
    with refused(errno.EINVAL):
        bpf.test_run(fd, bytes(13))
    with refused(errno.ENOSPC):
        bpf.test_run(fd, PACKET, room=20)


def test_xdp_program_runs(loaded, source):
    assert bpf.test_run(loaded(source).programs["pass"], PACKET).retval == 2  # XDP_PASS


def test_descriptors_survive_the_object_and_close_with_it(compiled, source):
    before = len(os.listdir("/proc/self/fd"))
    with libbpf.load(compiled(source)) as found:
        assert found.maps.keys() == {"trie", "counts", "hash", ".rodata"}
        assert bpf.prog_info(found.programs["reply"]).name == "reply"
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_wanted_programs_are_loaded(loaded, source):
    assert loaded(source, programs={"mark"}).programs.keys() == {"mark"}
    with pytest.raises(libbpf.LoadError, match="none of its programs is asked for; it has mark, pass, reply"):
        loaded(source, programs=[])


def test_program_type_can_be_given(loaded, source):
    found = loaded(source, programs=["reply"], types={"reply": (bpf.ProgType.SCHED_CLS, bpf.TCX_EGRESS)})
    assert bpf.prog_info(found.programs["reply"]).type == bpf.ProgType.SCHED_CLS


def test_refused_program_tells_reason_instruction_and_line(compiled, tmp_path):
    (tmp_path / "bad.bpf.c").write_text(BAD)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(libbpf.LoadError) as caught:
        libbpf.load(compiled(tmp_path / "bad.bpf.c"))
    text = str(caught.value)
    assert "program reply: cannot be loaded: Permission denied: invalid access to packet" in text
    assert "source: return *(__u32 *)(long)skb->data;" in text
    assert "processed" not in text and "\n" not in text
    assert "processed" in caught.value.log
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constants": {"anser": 1}}, "has no constant anser; it has answer, mac"),
        ({"constants": {"mac": 1 << 48}}, "constant mac: 281474976710656 does not fit 6 bytes"),
        ({"constants": {"mac": b"1"}}, "constant mac: 1 bytes, but the variable has 6"),
        ({"map_sizes": {"tree": 1}}, "has no map tree; it has counts, hash, trie"),
        ({"types": {"x": 3}}, "has no program x; it has mark, pass, reply"),
    ],
)
def test_unknown_names_list_the_known(loaded, source, options, message):
    with pytest.raises(libbpf.LoadError, match=message):
        loaded(source, **options)


@pytest.mark.parametrize("content", [b"", b"int main;", b"\x7fELF\x02\x01\x01" + bytes(100)])
def test_file_that_is_no_object(tmp_path, content):
    path = tmp_path / "x.o"
    path.write_bytes(content)
    with pytest.raises(libbpf.LoadError, match="cannot be opened"):
        libbpf.load(path)


def test_map_is_reused_or_its_difference_told(loaded, source):
    first = loaded(source, map_sizes={"hash": 7})
    assert bpf.map_info(first.maps["hash"]).max_entries == 7
    second = loaded(source, map_sizes={"hash": 7}, reuse={"hash": first.maps["hash"]})
    assert bpf.map_info(second.maps["hash"]).id == bpf.map_info(first.maps["hash"]).id
    assert set(bpf.prog_info(second.programs["mark"]).map_ids) >= {bpf.map_info(first.maps["hash"]).id}
    with pytest.raises(
        libbpf.LoadError, match=r"map hash: the one to reuse differs in max_entries \(7, not 100\)"
    ):
        loaded(source, reuse={"hash": first.maps["hash"]})
    with pytest.raises(libbpf.LoadError, match=r"differs in type \(11, not 1\), value size \(16, not 4\)"):
        loaded(source, reuse={"hash": first.maps["trie"]})


def test_types_of_a_map_in_the_kernel_are_those_of_the_source(loaded, source, compiled):
    types = btf.map_types(loaded(source).maps["trie"])
    value = {"hits": 3, "port": 80, "pad": bytes(6)}
    assert types.encode_value(value)[8:10] == b"\0\x50"
    assert types.decode_value(types.encode_value(value)) == value
    declared = btf.definitions(btf.object_btf(str(compiled(source))))["trie"]
    assert (declared.type, declared.max_entries, declared.flags) == (bpf.MapType.LPM_TRIE, 1000, 1)
    assert btf.compare_layouts(btf.layout_of(types), btf.layout_of(declared.types)) == []


def test_map_without_types(keep):
    assert btf.map_types(keep(bpf.map_create(bpf.MapType.ARRAY, 4, 4, 1))) is None


# --- Maps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "flags"),
    [(bpf.MapType.HASH, 0), (bpf.MapType.LRU_HASH, 0), (bpf.MapType.LPM_TRIE, bpf.F_NO_PREALLOC)],
)
def test_entries_come_back(keep, kind, flags):
    fd = keep(bpf.map_create(kind, 8, 4, 20000, flags=flags, name="a_name_that_is_too_long"))
    info = bpf.map_info(fd)
    assert (info.type, info.key_size, info.value_size, info.flags) == (kind, 8, 4, flags)
    assert info.name == "a_name_that_is_"
    entries = {struct.pack("=I", 32) + struct.pack(">I", n): struct.pack("=I", n) for n in range(9000)}
    assert bpf.map_items(fd, info) == []
    assert bpf.map_update_batch(fd, list(entries), list(entries.values())) == 9000
    assert dict(bpf.map_items(fd, info)) == entries
    assert dict(bpf._items_one_by_one(fd, info, 4)) == entries
    keys = list(entries)[:10]
    assert bpf.map_delete_batch(fd, [*keys[:3], b"\x20\0\0\0none", *keys[3:]]) == 10
    assert bpf.map_lookup(fd, keys[0], 4) is None
    assert bpf.map_delete(fd, keys[0]) is False
    assert len(bpf.map_items(fd, info)) == 8990


def test_update_flags_and_a_full_map(keep):
    fd = keep(bpf.map_create(bpf.MapType.HASH, 4, 4, 1))
    with refused(errno.ENOENT):
        bpf.map_update(fd, b"keyA", b"1111", bpf.EXIST)
    bpf.map_update(fd, b"keyA", b"1111", bpf.NOEXIST)
    with refused(errno.EEXIST):
        bpf.map_update(fd, b"keyA", b"2222", bpf.NOEXIST)
    with refused(errno.E2BIG):
        bpf.map_update(fd, b"keyB", b"2222")
    with refused(errno.E2BIG):
        bpf.map_update_batch(fd, [b"keyA", b"keyB"], [b"3333", b"3333"])
    assert bpf.map_lookup(fd, b"keyA", 4) == b"3333"  # a batch is not atomic


def test_longest_prefix_wins(keep):
    fd = keep(bpf.map_create(bpf.MapType.LPM_TRIE, 8, 4, 10, flags=bpf.F_NO_PREALLOC))
    bpf.map_update(fd, struct.pack("=I", 8) + bytes([10, 0, 0, 0]), b"wide")
    bpf.map_update(fd, struct.pack("=I", 24) + bytes([10, 1, 2, 0]), b"long")
    assert bpf.map_lookup(fd, struct.pack("=I", 32) + bytes([10, 1, 2, 3]), 4) == b"long"
    assert bpf.map_lookup(fd, struct.pack("=I", 32) + bytes([10, 9, 2, 3]), 4) == b"wide"
    assert bpf.map_lookup(fd, struct.pack("=I", 32) + bytes([11, 9, 2, 3]), 4) is None


@pytest.mark.parametrize(
    "kind", [bpf.MapType.PERCPU_HASH, bpf.MapType.PERCPU_ARRAY, bpf.MapType.LRU_PERCPU_HASH]
)
def test_percpu_entries_have_a_value_for_each_possible_cpu(keep, kind):
    fd = keep(bpf.map_create(kind, 4, 12, 16))
    info, cpus = bpf.map_info(fd), bpf.possible_cpus()
    value = b"".join(bytes([65 + n]) * 12 + bytes(4) for n in range(cpus))
    assert bpf.entry_size(info) == len(value)
    bpf.map_update(fd, bytes(4), value)
    assert dict(bpf.map_items(fd, info))[bytes(4)] == value
    assert bpf.split_percpu(value, 12) == [bytes([65 + n]) * 12 for n in range(cpus)]


def test_percpu_counter_of_a_program(loaded, source):
    found = loaded(source)
    bpf.test_run(found.programs["reply"], PACKET, repeat=10)
    types, info = btf.map_types(found.maps["counts"]), bpf.map_info(found.maps["counts"])
    totals = [sum(types.decode_percpu(value)) for _key, value in bpf.map_items(found.maps["counts"], info)]
    assert totals == [10, 0]


def test_map_type_without_batches_is_read_one_by_one(keep, loaded, source):
    fd = keep(bpf.map_create(bpf.MapType.PROG_ARRAY, 4, 4, 4))
    program = loaded(source).programs["reply"]
    assert bpf.map_update_batch(fd, [bytes(4)], [struct.pack("=I", program)]) == 1
    assert bpf.map_items(fd, bpf.map_info(fd)) == [(bytes(4), struct.pack("=I", number(program)))]


# --- Objects, statistics and pins ---------------------------------------------------------------------------------


def test_objects_are_found_by_id(loaded, source, keep):
    found = loaded(source)
    program, table = found.programs["reply"], found.maps["counts"]
    info = bpf.prog_info(program)
    assert info.id in bpf.prog_ids()
    assert bpf.prog_info(keep(bpf.prog_by_id(info.id))) == info
    assert bpf.map_info(table).id in info.map_ids
    assert bpf.map_info(table).id in bpf.map_ids()
    assert bpf.map_info(keep(bpf.map_by_id(bpf.map_info(table).id))).name == "counts"
    assert len(info.tag) == 16 and info.btf_id and info.verified_insns
    assert 0 < info.load_time <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for lookup in (bpf.prog_by_id, bpf.map_by_id, bpf.link_by_id):
        with refused(errno.ENOENT):
            lookup(0x7FFFFFF0)


def test_runs_are_counted_while_statistics_are_on(device, program):
    fd = program()
    statistics, link = bpf.enable_stats(), bpf.link_create(fd, device, bpf.TCX_EGRESS)
    try:
        for name in ("tst0", "tst1"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        deadline = time.monotonic() + 5
        while not bpf.prog_info(fd).run_cnt and time.monotonic() < deadline:
            time.sleep(0.05)  # until IPv6 says something by itself
        assert bpf.prog_info(fd).run_cnt > 0 and bpf.prog_info(fd).run_time_ns > 0
    finally:
        os.close(link)
        os.close(statistics)


def test_pin_lifecycle(pins, keep):
    fd = keep(bpf.map_create(bpf.MapType.ARRAY, 4, 4, 1))
    other = keep(bpf.map_create(bpf.MapType.ARRAY, 4, 4, 1))
    path = os.path.join(pins, "cnf", "edge", "table")
    assert bpffs.ensure_directory(os.path.dirname(path)) is True
    assert bpffs.ensure_directory(os.path.dirname(path)) is False
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    bpf.pin(fd, path)
    with refused(errno.EEXIST):
        bpf.pin(other, path)
    bpf.pin(other, path + bpffs.REPLACEMENT)  # as a killed run leaves it
    bpffs.replace_pin(other, path)
    assert bpf.map_info(keep(bpf.get_pinned(path))).id == bpf.map_info(other).id
    assert bpffs.list_pins(os.path.dirname(path)) == ["table"]
    assert bpffs.list_pins(os.path.join(pins, "cnf")) == []
    assert bpffs.remove_directory(os.path.dirname(path)) is False
    assert bpffs.unpin(path) is True
    assert bpffs.unpin(path) is False
    assert bpffs.remove_directory(os.path.dirname(path)) is True
    with refused(errno.ENOENT):
        bpf.get_pinned(path)


def test_what_cannot_be_pinned_or_made(pins, keep, tmp_path):
    fd = keep(bpf.map_create(bpf.MapType.ARRAY, 4, 4, 1))
    with refused(errno.EPERM):
        bpf.pin(fd, os.path.join(pins, "a.b"))
    with refused(errno.EPERM):
        bpf.pin(fd, str(tmp_path / "elsewhere"))
    with refused(errno.EPERM):
        bpffs.ensure_directory(os.path.join(pins, "a.b"))
    with pytest.raises(UnsupportedError, match="is not on a BPF file system"):
        bpffs.ensure_directory(str(tmp_path / "elsewhere"))


def test_bpffs_is_mounted_once_and_a_second_one_is_noticed(pins):
    assert pins in bpffs.mounts()
    assert bpffs.ensure_mounted(pins) is False
    assert os.stat(pins).st_mode & 0o777 == 0o700
    subprocess.run(["mount", "-t", "bpf", "second", pins], check=True)
    with pytest.raises(UnsupportedError, match="two BPF file systems are mounted over each other"):
        bpffs.ensure_mounted(pins)


# --- Hooks --------------------------------------------------------------------------------------------------------


def test_links_are_placed_queried_and_counted(device, program, keep):
    first, second, third = program(), program(), program()
    start = bpf.prog_query(device, INGRESS)
    assert start == bpf.Query(1, [])
    middle = keep(bpf.link_create(first, device, INGRESS, revision=1))
    assert bpf.prog_query(device, INGRESS).revision == 2
    keep(bpf.link_create(second, device, INGRESS, flags=bpf.F_BEFORE | bpf.F_ID, relative=number(first)))
    info = bpf.link_info(middle)
    keep(bpf.link_create(third, device, INGRESS, flags=bpf.F_AFTER | bpf.F_ID | bpf.F_LINK, relative=info.id))
    assert ids(device) == [number(second), number(first), number(third)]
    assert info == bpf.LinkInfo(info.id, bpf.LinkType.TCX, number(first), device, INGRESS)
    assert (number(first), info.id) in bpf.prog_query(device, INGRESS).entries
    assert info.id in bpf.link_ids()
    assert bpf.link_info(keep(bpf.link_by_id(info.id))) == info
    assert bpf.prog_query(device, bpf.TCX_EGRESS) == bpf.Query(1, [])
    bpf.link_detach(middle)
    assert ids(device) == [number(second), number(third)]
    assert bpf.link_info(middle).ifindex == 0


def test_zero_as_relative_id_means_the_very_first_and_last(device, program, keep):
    inner, head, tail = program(), program(), program()
    keep(bpf.link_create(inner, device, INGRESS))
    keep(bpf.link_create(head, device, INGRESS, flags=bpf.F_BEFORE))
    keep(bpf.link_create(tail, device, INGRESS, flags=bpf.F_AFTER))
    assert ids(device) == [number(head), number(inner), number(tail)]


def test_refusals_of_an_attachment(device, program, keep):
    fd, other = program(), program()
    link = keep(bpf.link_create(fd, device, INGRESS))
    with refused(errno.EEXIST):
        bpf.link_create(fd, device, INGRESS)
    with refused(errno.ESTALE):
        bpf.link_create(other, device, INGRESS, revision=1)
    with refused(errno.ENOENT):
        bpf.link_create(other, device, INGRESS, flags=bpf.F_BEFORE | bpf.F_ID, relative=number(other))
    with refused(errno.EINVAL):
        bpf.link_create(other, device, INGRESS, relative=fd)
    with refused(errno.ENODEV):
        bpf.link_create(other, device + 1000, INGRESS)
    with refused(errno.ENODEV):
        bpf.prog_query(device + 1000, INGRESS)
    with refused(errno.EINVAL):
        bpf.link_create(other, device, 250)
    with refused(errno.EBUSY):
        bpf.prog_detach(fd, device, INGRESS)
    assert bpf.link_info(link).prog_id == number(fd)
    assert ids(device) == [number(fd)]


def test_hook_takes_63_programs(device, program, keep):
    for _count in range(bpf.MAX_PROGRAMS):
        keep(bpf.link_create(program(), device, INGRESS))
    with refused(errno.ERANGE):
        bpf.link_create(program(), device, INGRESS)
    assert len(bpf.prog_query(device, INGRESS).entries) == 63


def test_update_is_in_place_and_counts_real_changes_only(device, program, keep):
    old, new, beside = program(), program(), program()
    link = keep(bpf.link_create(old, device, INGRESS))
    keep(bpf.link_create(beside, device, INGRESS))
    revision = bpf.prog_query(device, INGRESS).revision
    bpf.link_update(link, old)
    assert bpf.prog_query(device, INGRESS).revision == revision
    with refused(errno.EPERM):
        bpf.link_update(link, new, old_prog_fd=beside)
    with refused(errno.EEXIST):
        bpf.link_update(link, beside)
    bpf.link_update(link, new, old_prog_fd=old)
    assert bpf.prog_query(device, INGRESS).revision == revision + 1
    assert ids(device) == [number(new), number(beside)]


def test_link_outlives_its_device_without_use(device, program, keep):
    link = keep(bpf.link_create(program(), device, INGRESS))
    subprocess.run(["ip", "link", "delete", "tst0"], check=True)
    assert bpf.link_info(link).ifindex == 0
    with refused(errno.ENOLINK):
        bpf.link_update(link, program())
    bpf.link_detach(link)


def test_revision_starts_over_on_an_emptied_tcx_hook(device, program):
    link = bpf.link_create(program(), device, INGRESS)
    bpf.link_detach(link)
    os.close(link)
    assert bpf.prog_query(device, INGRESS) == bpf.Query(1, [])


def test_attachment_without_link_stays_until_it_is_detached(device, program):
    fd, other = program(), program()
    bpf.prog_attach(fd, device, INGRESS)
    assert bpf.prog_query(device, INGRESS).entries == [(number(fd), 0)]
    bpf.prog_attach(other, device, INGRESS, flags=bpf.F_REPLACE, replace_fd=fd)
    assert ids(device) == [number(other)]
    with refused(errno.ENOENT):
        bpf.prog_detach(fd, device, INGRESS)
    bpf.prog_detach(other, device, INGRESS)
    assert ids(device) == []


def test_pinned_link_stays_attached_when_its_descriptor_is_closed(device, program, pins):
    fd = program()
    link = bpf.link_create(fd, device, INGRESS)
    path = os.path.join(pins, "link")
    bpf.pin(link, path)
    os.close(link)
    assert ids(device) == [number(fd)]
    again = bpf.get_pinned(path)
    bpf.link_detach(again)
    os.close(again)
    assert ids(device) == []
    bpffs.unpin(path)


def test_xdp_link(device, loaded, source, keep):
    fd = loaded(source).programs["pass"]
    link = keep(bpf.link_create(fd, device, bpf.XDP, flags=bpf.XDP_SKB_MODE))
    info = bpf.link_info(link)
    assert (info.type, info.ifindex, info.attach_type) == (bpf.LinkType.XDP, device, bpf.XDP)
    with refused(errno.EBUSY):
        bpf.link_create(fd, device, bpf.XDP, flags=bpf.XDP_SKB_MODE)


def test_netkit_hook_is_unknown_here_or_refuses_other_devices(device, program):
    with pytest.raises(KernelError) as caught:
        bpf.link_create(program(), device, bpf.NETKIT_PRIMARY)
    assert caught.value.errno in (errno.EINVAL, errno.ENXIO)
