# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects and attachments on bad days: killed, failed or refused at every point, and nothing is left behind."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from bpf_steps import COUNT, OURS, PAIR, PROGRAMS, nothing_new, with_count
from sandbox import Sandbox
from steps import assert_same, converged, settled

FULL: t.Dict[str, t.Any] = {
    **PAIR,
    "bpf_object": [COUNT, {"name": "fw", "source": "filter.bpf.c"}],
    "bpf_map_entry": [
        {"object": "fw", "map": "sources4", "key": {"prefixlen": 8, "address": "10.0.0.0"}, "value": 1}
    ],
    "tcx_attach": [
        {"object": "count", "link": "b0", "order": "first"},
        {
            "object": "fw",
            "program": "filter",
            "link": "b0",
            "order": "after",
            "relative_to": {"object": "count"},
        },
        {"object": "count", "link": "a0", "netns": "client", "hook": "egress", "mechanism": "clsact"},
    ],
    "xdp_attach": [{"object": "count", "link": "a0", "netns": "client"}],
}
EXPECTED = {
    ":b0 ingress": [OURS, "edge/fw:filter"],
    "client:a0 clsact egress": [OURS],
    "client:a0 clsact": [],
    "client:a0 xdp native": ["edge/count:count_xdp"],
}


def changed_document(tmp_path: Path) -> t.Dict[str, t.Any]:
    """Another version of the object, a program more, one less, and another order."""
    mine = tmp_path / "count.bpf.c"
    mine.write_text((PROGRAMS / "count.bpf.c").read_text() + "\n/* another version */\n")
    return {
        **FULL,
        "bpf_object": [{"name": "count", "source": str(mine)}, {"name": "fw", "source": "filter.bpf.c"}],
        "tcx_attach": [
            {"object": "fw", "program": "filter", "link": "b0", "order": "first"},
            {"object": "count", "link": "b0", "order": "last"},
            {"object": "count", "link": "b0", "hook": "egress"},
        ],
        "bpf_map_entry": [
            {"object": "fw", "map": "sources4", "key": {"prefixlen": 8, "address": "10.0.0.0"}, "value": 2}
        ],
    }


def snapshot(box: Sandbox) -> t.Dict[str, t.Any]:
    found = box.bpf()
    return {
        **box.state(),
        "pins": found["pins"],
        "hooks": {name: hook.get("programs") for name, hook in found["hooks"].items()},
    }


@pytest.mark.parametrize("moment", ["kill_before", "kill_after"])
def test_killed_at_every_operation_the_next_run_converges(box: Sandbox, moment: str, tmp_path: Path) -> None:
    before = box.bpf()
    other = changed_document(tmp_path)
    count = len(converged(box, FULL, check=True)["actions"])
    for number in range(count):
        assert box.topology(FULL, **{moment: number}).get("killed"), number
        converged(box, FULL)
        assert box.hooks() == EXPECTED, number
        settled(box, FULL)
        changes = len(converged(box, other, check=True)["actions"])
        if number < changes:
            assert box.topology(other, **{moment: number}).get("killed"), number
            converged(box, other)
            settled(box, other)
            assert box.hooks() == {
                ":b0 ingress": ["edge/fw:filter", OURS],
                ":b0 egress": [OURS],
                "client:a0 xdp native": ["edge/count:count_xdp"],
            }
        removals = len(converged(box, {}, state="absent", check=True)["actions"])
        if number < removals:
            assert box.topology({}, state="absent", **{moment: number}).get("killed"), number
        converged(box, {}, state="absent")
        assert box.bpf()["pins"] == {} and box.hooks() == {}
        assert box.sh("ls /var/lib/cnf-ebpf").split() == ["lock"]
    nothing_new(box, before)


@pytest.mark.parametrize("moment", ["fail_at", "fail_after"])
def test_failed_at_every_operation_everything_is_as_before(box: Sandbox, moment: str, tmp_path: Path) -> None:
    empty = snapshot(box)
    ids = box.bpf()
    count = len(converged(box, FULL, check=True)["actions"])
    for number in range(count):
        answer = box.topology(FULL, **{moment: number})
        assert answer["left"] == [], number
        assert_same(snapshot(box), empty)
    nothing_new(box, ids)
    converged(box, FULL)
    full = snapshot(box)
    other = changed_document(tmp_path)
    programs = box.bpf()
    for number in range(len(converged(box, other, check=True)["actions"])):
        answer = box.topology(other, **{moment: number})
        assert answer["left"] == [], (number, answer)
        assert_same(snapshot(box), full)
        settled(box, FULL)
    nothing_new(box, {**programs, "links": box.bpf()["links"]})
    for number in range(len(converged(box, {}, state="absent", check=True)["actions"])):
        answer = box.topology({}, state="absent", **{moment: number})
        assert answer["left"] == [], (number, answer)
        assert_same(snapshot(box), full)
    settled(box, FULL)


# --- what the user may get wrong ----------------------------------------------------------------------------------------------

SOURCES = {
    "syntax.bpf.c": '#include "compat.h"\nSEC("tc") int bad(struct __sk_buff *skb) { return nonsense; }\nLICENSE("GPL");\n',
    "verifier.bpf.c": '#include "compat.h"\nSEC("tc") int bad(struct __sk_buff *skb) { return *(int *)(long)skb->data; }\nLICENSE("GPL");\n',
    "section.bpf.c": '#include "compat.h"\nSEC("kprobe/x") int bad(void *ctx) { return 0; }\nLICENSE("GPL");\n',
    "good.bpf.c": '#include "compat.h"\nSEC("tc") int one(struct __sk_buff *skb) { return -1; }\nSEC("tc") int two(struct __sk_buff *skb) { return -1; }\n'
    'SEC("xdp") int three(struct xdp_md *xdp) { return 2; }\nLICENSE("GPL");\n',
}


@pytest.fixture
def mine(tmp_path: Path) -> t.Callable[[str], t.Dict[str, t.Any]]:
    def item(name: str, **more: t.Any) -> t.Dict[str, t.Any]:
        path = tmp_path / name
        path.write_text(SOURCES[name])
        return {"name": "x", "source": str(path), **more}

    return item


def failed(box: Sandbox, document: t.Mapping[str, t.Any], **options: t.Any) -> str:
    """The error of a run that must leave nothing behind but, perhaps, a log."""
    before, ids = snapshot(box), box.bpf()
    answer = box.topology(document, **options)
    assert "error" in answer, answer
    assert "\n" not in answer["error"]
    assert answer.get("left", []) == []
    assert_same(snapshot(box), before)
    nothing_new(box, ids)
    return str(answer["error"])


@pytest.mark.parametrize("compiler", ["clang", "bcc"])
def test_c_that_does_not_compile(box: Sandbox, mine, compiler) -> None:
    error = failed(box, {**PAIR, "bpf_object": [mine("syntax.bpf.c", compiler=compiler)]})
    log = "/var/lib/cnf-ebpf/logs/edge.x.log"
    assert error.startswith(
        "create bpf_object edge/x (missing) failed: syntax.bpf.c does not compile: "
        "syntax.bpf.c:2: error: use of undeclared identifier 'nonsense'"
    )
    assert f"(the whole log: {log}); everything was put back as before" in error
    assert "nonsense" in box.sh(f"cat {log}")
    assert box.sh(f"stat -c %a {log}").strip() == "600"
    # The log goes with the next success.
    converged(box, {"bpf_object": [mine("good.bpf.c", compiler=compiler)]})
    box.sh(f"! ls {log} 2>&1")


@pytest.mark.parametrize("compiler", ["clang", "bcc"])
def test_a_program_that_the_verifier_refuses(box: Sandbox, mine, compiler) -> None:
    error = failed(box, {**PAIR, "bpf_object": [mine("verifier.bpf.c", compiler=compiler)]})
    assert "program bad: cannot be loaded: " in error
    assert (
        "R1 invalid mem access" in error
        or "invalid access to packet" in error
        or "invalid mem access" in error
    )
    assert "/var/lib/cnf-ebpf/edge" not in error.partition("(the whole log")[0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"bpf_object": [{"name": "count", "source": "count.bpf.c", "maps": {"nothing": 5}}]},
            "has no map nothing; it has counters",
        ),
        (
            {"bpf_object": [{"name": "count", "source": "count.bpf.c", "constants": {"nothing": 5}}]},
            "has no constant nothing",
        ),
        (
            {"bpf_object": [{"name": "count", "source": "count.bpf.c", "programs": {"counted": "tc"}}]},
            "has no program counted; it has count, count_xdp",
        ),
        (
            {"tcx_attach": [{"object": "count", "program": "counted", "link": "b0"}]},
            "bpf_object edge/count has no program counted; it has count, count_xdp",
        ),
        (
            {"tcx_attach": [{"object": "count", "program": "count_xdp", "link": "b0"}]},
            "edge/count:count_xdp at b0 ingress: count_xdp is a program of type xdp, this hook takes tc",
        ),
        (
            {"tcx_attach": [{"object": "counter", "link": "b0"}]},
            "object counter is not there, so its program is not known; declare it under bpf_object of the same topology",
        ),
        (
            {"tcx_attach": [{"object": "counter", "program": "count", "link": "b0"}]},
            "tcx_attach[0]: bpf_object edge/counter is neither declared nor present on the host; declare it under",
        ),
        (
            {"tcx_attach": [{"object": "count", "link": "eth7"}]},
            "tcx_attach[0]: link eth7 is neither declared nor present on the host; declare it under link or correct the name",
        ),
        (
            {"tcx_attach": [{"object": "count", "link": "b0", "hook": "sideways"}]},
            "value of hook must be one of: ingress, egress, got: sideways",
        ),
        (
            {"netkit_attach": [{"object": "count", "link": "b0"}]},
            "netkit",
        ),
        (
            {"tcx_attach": [{"object": "count", "link": "b0", "order": "before"}]},
            "tcx_attach[0].relative_to: missing; say which program to be placed before: object, name or id",
        ),
        (
            {"tcx_attach": [{"object": "count", "link": "b0", "relative_to": {"id": 5}}]},
            "tcx_attach[0].relative_to: belongs to order: before and order: after",
        ),
        (
            {
                "tcx_attach": [
                    {"object": "count", "link": "b0", "order": "after", "relative_to": {"id": 99999999}}
                ]
            },
            "there is no program id 99999999 to be placed after; it has none",
        ),
        (
            {"bpf_map_entry": [{"object": "count", "map": "rules", "key": 0, "value": 0}]},
            "object edge/count has no map rules; it has counters",
        ),
        (
            {"bpf_map_entry": [{"object": "count", "map": "counters", "key": 0, "value": 0}]},
            "map counters of object edge/count is per CPU: programs write it, it cannot be declared",
        ),
        (
            {"bpf_object": [{"name": "a b", "source": "count.bpf.c"}]},
            "bpf_object[0].name: 'a b' is not an object's name",
        ),
        (
            {"bpf_object": [{"name": "x"}]},
            "bpf_object[0]: give one of source (C) and object (a compiled ELF file)",
        ),
    ],
)
def test_mistakes_are_one_clear_line(box: Sandbox, change, error) -> None:
    assert error in failed(box, {**with_count(), **change})


def test_sections_that_are_no_programs_of_ours(box: Sandbox, mine) -> None:
    error = failed(box, {"bpf_object": [mine("section.bpf.c")]})
    assert error == (
        "bpf_object[0].source: it has no program for a hook of the network: "
        'mark one with SEC("tc") or SEC("xdp"), or name them under programs'
    )


def test_which_of_several_programs(box: Sandbox, mine) -> None:
    document = {**PAIR, "bpf_object": [mine("good.bpf.c")], "tcx_attach": [{"object": "x", "link": "b0"}]}
    assert failed(box, document) == (
        "tcx_attach[0].program: missing; object x has several programs that fit: it has one (tc), three (xdp), two (tc)"
    )


def test_a_program_that_is_attached_cannot_vanish_from_its_object(box: Sandbox, mine) -> None:
    document = {
        **PAIR,
        "bpf_object": [mine("good.bpf.c")],
        "tcx_attach": [{"object": "x", "program": "two", "link": "b0"}],
    }
    converged(box, document)
    less = {**document, "bpf_object": [mine("good.bpf.c", programs={"one": "tc"})]}
    assert "has no program two any more, which is attached at b0 ingress" in failed(box, less)
    moved = {**less, "tcx_attach": [{"object": "x", "program": "one", "link": "b0"}]}
    converged(box, moved)
    assert box.hooks() == {":b0 ingress": ["edge/x:one"]}


def test_without_a_compiler(box: Sandbox) -> None:
    document = with_count(tcx_attach=[{"object": "count", "link": "b0"}])
    converged(box, document)
    # What is loaded needs no compiler.
    hide = "for c in /usr/bin/clang*; do mount --bind /dev/null $c; done; mount -t tmpfs none /usr/lib/python3/dist-packages/bcc"
    box.sh(hide)
    settled(box, document)
    error = failed(box, {**document, "bpf_object": [COUNT, {"name": "fw", "source": "filter.bpf.c"}]})
    assert "bpf_object[1]: no compiler for BPF programs: " in error
    assert "apt-get install" in error


def test_without_the_permission(box: Sandbox) -> None:
    document = with_count(tcx_attach=[{"object": "count", "link": "b0"}])
    converged(box, PAIR)
    script = (
        "import sys, json, subprocess;"
        "sys.path.insert(0, sys.argv[2]);"
        "import driver; print(json.dumps(driver.run({'document': json.loads(sys.argv[1])})))"
    )
    from sandbox import SUPPORT

    told = box.run(
        "setpriv",
        "--bounding-set=-bpf,-sys_admin",
        "--inh-caps=-bpf,-sys_admin",
        box.python,
        "-c",
        script,
        json.dumps(document),
        str(SUPPORT),
        env=box.environment(),
    )
    answer = json.loads(told.stdout)
    assert "EPERM" in answer["error"] or "EACCES" in answer["error"]
    assert "run as root" in answer["error"] or "CAP_SYS_ADMIN" in answer["error"]


# --- maps that do not fit any more ---------------------------------------------------------------------------------------------

LAYOUT = """#include "compat.h"
struct entry {{ {fields} }};
MAP_HASH(table, __u32, struct entry, 16);
SEC("tc") int look(struct __sk_buff *skb)
{{
    __u32 key = 1;
    struct entry *found = {lookup};

    return found ? -1 : 0;
}}
LICENSE("GPL");
"""


def layout(tmp_path: Path, fields: str, compiler: str, **more: t.Any) -> t.Dict[str, t.Any]:
    lookup = "table.lookup(&key)" if compiler == "bcc" else "bpf_map_lookup_elem(&table, &key)"
    path = tmp_path / "look.bpf.c"
    path.write_text(LAYOUT.format(fields=fields, lookup=lookup))
    return {"name": "look", "source": str(path), "compiler": compiler, **more}


@pytest.mark.parametrize("compiler", ["clang", "bcc"])
def test_a_map_is_migrated_by_field_name_or_refused(box: Sandbox, tmp_path, compiler) -> None:
    entry = {"object": "look", "map": "table", "key": 1, "value": {"hits": 5, "port": 80}}
    document = {
        **PAIR,
        "bpf_object": [layout(tmp_path, "__u32 hits; __u16 port; __u16 pad;", compiler)],
        "bpf_map_entry": [entry],
        "tcx_attach": [{"object": "look", "link": "b0"}],
    }
    converged(box, document)
    document["bpf_object"] = [layout(tmp_path, "__u16 port; __u16 pad; __u32 more; __u64 hits;", compiler)]
    done = converged(box, document)
    assert len(done["actions"]) == 1
    settled(box, document)
    dump = json.loads(
        box.run("bpftool", "-j", "map", "dump", "pinned", "/sys/fs/bpf/cnf/edge/look/maps/table").stdout
    )
    assert dump[0]["formatted"]["value"] == {"port": 80, "pad": 0, "more": 0, "hits": 5}
    document["bpf_object"] = [layout(tmp_path, "__u64 hits;", compiler)]
    error = failed(box, document)
    assert "map table: value." in error and "set incompatible_maps: replace to start it empty" in error
    document["bpf_object"] = [layout(tmp_path, "__u64 hits;", compiler, incompatible_maps="replace")]
    document["bpf_map_entry"] = []
    converged(box, document)
    settled(box, document)


KEYED = """#include "compat.h"
struct key {{ {key} }};
MAP_HASH(table, struct key, __u32, 16);
SEC("tc") int look(struct __sk_buff *skb)
{{
    struct key key = {{}};

    return bpf_map_lookup_elem(&table, &key) ? -1 : 0;
}}
LICENSE("GPL");
"""


def keyed(tmp_path: Path, key: str, **more: t.Any) -> t.Dict[str, t.Any]:
    path = tmp_path / "look.bpf.c"
    path.write_text(KEYED.format(key=key))
    return {"name": "look", "source": str(path), **more}


def test_keys_of_entries_change_together_with_their_map(box: Sandbox, tmp_path: Path) -> None:
    def entry(**key: t.Any) -> t.Dict[str, t.Any]:
        return {"object": "look", "map": "table", "key": key, "value": 1}

    converged(box, {"bpf_object": [keyed(tmp_path, "__u32 a;")], "bpf_map_entry": [entry(a=7)]})
    other = {
        "bpf_object": [keyed(tmp_path, "__u32 b;", incompatible_maps="replace")],
        "bpf_map_entry": [entry(b=9)],
    }
    assert box.topology(other, kill_after=0).get("killed")
    converged(box, other)
    settled(box, other)
    # Spelled otherwise it is the same entry.
    same = {**other, "bpf_map_entry": [entry(b="9")]}
    assert converged(box, same)["actions"] == []
    wrong = {**other, "bpf_map_entry": [entry(a=7)]}
    assert "bpf_map_entry[0]: table key" in failed(box, wrong)
    converged(box, {}, state="absent")


def test_a_device_map_is_not_carried_over_by_guess(box: Sandbox) -> None:
    """Two devices of one index, in two namespaces: without the history that tells which is meant, nothing is written."""
    box.sh("""
        for netns in gw9 gw8; do
            ip netns add $netns
            ip -n $netns link add d1 index 77 type veth peer name d2
        done
        ip link add same index 77 type veth peer name other
    """)

    def run(section: str, **params: t.Any) -> t.Dict[str, t.Any]:
        return box.task({"section": section, "params": params})

    def resized(entries: int) -> t.Dict[str, t.Any]:
        return run("bpf_object", name="x", source="xdp_redirect.bpf.c", maps={"targets": entries})

    assert resized(16)["changed"]
    for key, netns in ((3, "gw9"), (4, "gw8")):
        row = {"object": "x", "map": "targets", "key": key, "value": "link:d1", "netns": netns}
        assert run("bpf_map_entry", **row)["changed"]
    assert resized(32)["changed"]
    assert not run("bpf_map_entry", **row)["changed"]
    # The kernel drops what was for a device of a namespace that goes, in its own time.
    box.sh("""
        ip netns del gw8
        for try in $(seq 100); do
            bpftool map lookup pinned /sys/fs/bpf/cnf/tasks/x/maps/targets key 4 0 0 0 2>&1 | grep -q value: || exit 0
            sleep 0.1
        done
        exit 1
    """)
    assert resized(64)["changed"]
    box.sh("rm -r /var/lib/cnf-ebpf/tasks")
    before = box.state()
    error = resized(128)["error"]
    assert (
        "map targets: cannot tell which device the entry with key 3 is for; set incompatible_maps: replace"
        in error
    )
    assert_same(box.state(), before)


@pytest.mark.parametrize("compiler", ["clang", "bcc"])
def test_a_device_map_is_resized_whole_or_not_at_all(box: Sandbox, compiler: str) -> None:
    """Failed it is as before, killed the next run converges; its devices are in a namespace, as in the role xdp_gateway."""

    def document(entries: int) -> t.Dict[str, t.Any]:
        source = {"source": "xdp_redirect.bpf.c", "compiler": compiler}
        return {
            "netns": [{"name": "gw"}],
            "link": [{"name": "a0", "kind": "veth", "netns": "gw", "peer": {"name": "b0", "netns": "gw"}}],
            "bpf_object": [{"name": "x", **source, "maps": {"targets": entries}}],
            "bpf_map_entry": [
                {
                    "object": "x",
                    "map": "targets",
                    "key": f"link:{key}",
                    "value": f"link:{value}",
                    "netns": "gw",
                }
                for key, value in (("a0", "b0"), ("b0", "a0"))
            ],
            "xdp_attach": [{"object": "x", "link": "a0", "netns": "gw"}],
        }

    def devices() -> t.Dict[str, str]:
        """By name, where the map sends what comes in."""
        name = {link["ifindex"]: link["ifname"] for link in box.ip("link", "gw")}
        pin = "/sys/fs/bpf/cnf/edge/x/maps/targets"
        rows = json.loads(box.run("bpftool", "-j", "map", "dump", "pinned", pin).stdout)
        pairs = [(number(row["key"]), number(row["value"])) for row in rows if "error" not in row["value"]]
        return {name[key]: name[value] for key, value in pairs}

    def number(words: t.Sequence[str]) -> int:
        return int.from_bytes(bytes(int(word, 16) for word in words), "little")

    both = {"a0": "b0", "b0": "a0"}
    converged(box, document(64))
    assert devices() == both
    before = box.state()
    assert "error" in box.topology(document(128), fail_after=0)
    assert_same(box.state(), before)
    settled(box, document(64))
    for entries, fault in ((128, "kill_before"), (256, "kill_after")):
        assert box.topology(document(entries), **{fault: 0}).get("killed")
        converged(box, document(entries))
        settled(box, document(entries))
        assert devices() == both


def test_numbers_and_types_that_are_none(box: Sandbox) -> None:
    padded = {
        "bpf_object": [{"name": "fw", "source": "filter.bpf.c", "constants": {"default_verdict": "08"}}]
    }
    assert converged(box, padded, check=True)["after"]["bpf_object"][0]["constants"] == {"default_verdict": 8}
    typed = {"bpf_object": [{"name": "fw", "source": "filter.bpf.c", "programs": {"filter": ["tc"]}}]}
    assert "bpf_object[0].programs.filter: ['tc'] is not a type of program" in failed(box, typed)


def test_builds_are_for_root_only(box: Sandbox) -> None:
    converged(box, {"bpf_object": [COUNT]})
    modes = box.sh("find /var/lib/cnf-ebpf/edge/objects -printf '%m %y\\n' | sort -u").splitlines()
    assert modes == ["600 f", "700 d"]
