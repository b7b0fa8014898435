# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects and attachments as people meet them: tasks, roles and the playbook of the collection, and what they print."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
from bpf_steps import PROGRAMS, counters, nothing_new
from sandbox import Sandbox

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import sources
from playbooks import Ansible, changed_lines, recap

# client [a0 10.0.0.2] -- [b0 10.0.0.1] host, made by hand: only BPF is ours
PAIR = """
ip netns add client
ip link add b0 type veth peer name a0 netns client
ip address add 10.0.0.1/24 dev b0; ip link set b0 up
ip -n client address add 10.0.0.2/24 dev a0; ip -n client link set a0 up
"""
Task = t.Dict[str, t.Any]
COUNT: Task = {"cnf.ebpf.bpf_object": {"name": "count", "source": "count.bpf.c"}}
ATTACH: Task = {"cnf.ebpf.tcx_attach": {"object": "count", "link": "b0"}}
SOURCE = sources.collect(str(PROGRAMS / "count.bpf.c"), [str(PROGRAMS / "lib")])
CODE = sources.code_of(SOURCE)
# One that needs no header, so that it can be on the target.
PLAIN = """#define SEC(name) __attribute__((section(name), used))
struct __sk_buff;
SEC("tc") int pass(struct __sk_buff *skb) { return -1; }
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def ansible(box: Sandbox, tmp_path: Path) -> Ansible:
    box.sh(PAIR)
    return Ansible(box, tmp_path)


def counts(text: str) -> t.Tuple[int, int, int]:
    """How many tasks were ok (changed ones too), changed, failed."""
    row = recap(text)["localhost"]
    return row["ok"], row["changed"], row["failed"]


def playbook(ansible: Ansible, name: str, variables: t.Mapping[str, t.Any], *options: str) -> str:
    """Run a playbook with these variables of the one host."""
    inventory = ansible.directory / "inventory.yml"
    here = {"ansible_connection": "local", "ansible_python_interpreter": ansible.box.python}
    hosts = {"localhost": {**here, **variables}}
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    words = ("ansible-playbook", "-i", str(inventory), *options, name)
    done = ansible.box.run(*words, check=False, env=ansible.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def failed(ansible: Ansible, tasks: t.Sequence[Task], *options: str, **keywords: t.Any) -> str:
    """What a run says whose last task has to fail."""
    process = ansible.start(tasks, *options, **keywords)
    text, _none = process.communicate(timeout=60)
    assert process.returncode == 2, text
    return text


def message(text: str) -> str:
    """The message of the task that failed: one line."""
    start = text.index("FAILED! => ") + len("FAILED! => ")
    said = str(json.JSONDecoder().raw_decode(text, start)[0]["msg"])
    assert "\n" not in said
    # ansible-core before 2.19 says it in that line alone.
    assert text.count("[ERROR]") <= 1, text
    assert "exception occurred" not in text
    return said


def compiler(box: Sandbox) -> str:
    version = re.search(r"version (\S+)", box.run("clang", "--version").stdout)
    assert version
    return f"clang {version[1]}"


# --- single tasks ---------------------------------------------------------------------------------------------------------


def test_load_attach_and_again(box: Sandbox, ansible: Ansible) -> None:
    before = box.bpf()
    load = f"bpf_object tasks/count: source=count.bpf.c code={CODE[:16]} compiler={compiler(box)} "
    done = ansible.run([COUNT, ATTACH, COUNT, ATTACH], "--diff")
    assert counts(done) == (4, 2, 0)
    first, second = changed_lines(done)
    assert first.startswith(f"+{load}")
    assert second == "+tcx_attach b0 ingress tasks/count:count"
    assert box.hooks() == {":b0 ingress": ["tasks/count:count"]}
    box.sh("ip netns exec client ping -c 3 -i 0.05 -q 10.0.0.1")
    assert counters(box, topology="tasks")[1] == 3

    for options in ([], ["--check"]):
        again = ansible.run([COUNT, ATTACH], "--diff", *options)
        assert (counts(again), changed_lines(again)) == ((2, 0, 0), [])

    # The object takes along what another task attached.
    absent: Task = {"cnf.ebpf.bpf_object": {"name": "count", "state": "absent"}}
    foretold = ansible.run([absent], "--check", "--diff")
    assert box.hooks() == {":b0 ingress": ["tasks/count:count"]}
    gone = ansible.run([absent, absent], "--diff")
    assert counts(gone) == (2, 1, 0)
    assert changed_lines(gone) == changed_lines(foretold)
    first, second = changed_lines(gone)
    assert first == "-tcx_attach b0 ingress tasks/count:count: mechanism=tcx"
    assert second.startswith(f"-{load}")
    assert (box.hooks(), box.bpf()["pins"]) == ({}, {})
    nothing_new(box, before)
    assert box.sh("ls -A /var/lib/cnf-ebpf").split() == ["lock"]


def test_each_other_module_as_a_task(box: Sandbox, ansible: Ansible) -> None:
    """Check mode foretells each by itself on top of those before it; then all at once, again, and gone."""
    box.sh("sysctl -qw net.ipv4.conf.b0.forwarding=1")
    before = box.bpf()
    objects: t.List[Task] = [
        {"cnf.ebpf.bpf_object": {"name": name, "source": f"{source}.bpf.c"}}
        for name, source in (("count", "count"), ("mirror", "mirror"), ("router", "policy_router"))
    ]
    member = {"address": "10.0.0.2", "interface": "b0"}
    tasks: t.List[t.Tuple[str, Task, str]] = [
        (
            "xdp_attach",
            {"object": "count", "program": "count_xdp", "link": "b0", "mode": "generic"},
            "+xdp_attach b0 xdp tasks/count:count_xdp: mode=generic",
        ),
        (
            "netkit_attach",
            {"object": "mirror", "program": "mirror", "link": "b0", "hook": "primary", "mechanism": "auto"},
            "+netkit_attach b0 primary tasks/mirror:mirror",
        ),
        (
            "bpf_map_entry",
            {"object": "mirror", "map": "target", "key": 0, "value": "link:b0"},
            "+bpf_map_entry tasks/mirror:target 0: value=link:b0",
        ),
        (
            "bpf_pool",
            {"object": "router", "name": "web", "members": [member]},
            "+pool tasks/router:web: member 10.0.0.2%b0 weight 1",
        ),
    ]
    ansible.run(objects)
    for module, arguments, line in tasks:
        task = {f"cnf.ebpf.{module}": arguments}
        foretold = ansible.run([task], "--check", "--diff")
        done = ansible.run([task, task], "--diff")
        assert (counts(foretold), counts(done)) == ((1, 1, 0), (2, 1, 0))
        assert changed_lines(foretold) == changed_lines(done)
        assert any(row.startswith(line) for row in changed_lines(done)), (line, changed_lines(done))
    assert box.hooks() == {
        ":b0 xdp generic": ["tasks/count:count_xdp"],
        ":b0 egress": ["tasks/mirror:mirror"],
    }

    names = {
        "bpf_map_entry": {"object": "mirror", "map": "target", "key": 0},
        "bpf_pool": {"object": "router", "name": "web"},
    }
    gone: t.List[Task] = [
        {f"cnf.ebpf.{module}": {**names.get(module, arguments), "state": "absent"}}
        for module, arguments, _line in reversed(tasks)
    ]
    assert counts(ansible.run([*gone, *gone])) == (8, 4, 0)
    assert box.hooks() == {}
    absent: t.List[Task] = [
        {"cnf.ebpf.bpf_object": {"name": name, "state": "absent"}} for name in ("count", "mirror", "router")
    ]
    ansible.run(absent)
    nothing_new(box, before)


def test_entries_and_a_loop(box: Sandbox, ansible: Ansible) -> None:
    hooks = [{"link": "b0"}, {"link": "b0", "hook": "egress"}, {"link": "a0", "netns": "client"}]
    tasks: t.List[Task] = [
        {
            "cnf.ebpf.bpf_object": {"name": "{{ item.name }}", "source": "{{ item.name }}.bpf.c"},
            "loop": [{"name": "count"}, {"name": "filter"}],
        },
        {"cnf.ebpf.tcx_attach": {"entries": [{"object": "count", **hook} for hook in hooks]}},
        {
            "cnf.ebpf.tcx_attach": {"object": "{{ item }}", "program": "{{ item }}", "link": "b0"},
            "loop": ["filter"],
        },
    ]
    assert counts(ansible.run(tasks)) == (3, 3, 0)
    assert box.hooks() == {
        ":b0 ingress": ["tasks/count:count", "tasks/filter:filter"],
        ":b0 egress": ["tasks/count:count"],
        "client:a0 ingress": ["tasks/count:count"],
    }
    assert counts(ansible.run(tasks)) == (3, 0, 0)
    entries = [{"object": "count", **hook} for hook in hooks[:2]]
    detach: Task = {"cnf.ebpf.tcx_attach": {"entries": entries, "state": "absent"}}
    assert counts(ansible.run([detach, detach])) == (2, 1, 0)
    assert box.hooks() == {
        ":b0 ingress": ["tasks/filter:filter"],
        "client:a0 ingress": ["tasks/count:count"],
    }


def test_options_of_a_task_hold_for_its_entries(box: Sandbox, ansible: Ansible) -> None:
    hooks = [{"link": "b0"}, {"link": "b0", "hook": "egress"}]
    attach: Task = {"cnf.ebpf.tcx_attach": {"object": "count", "entries": hooks}}
    assert counts(ansible.run([COUNT, attach])) == (2, 2, 0)


def test_check_mode_on_an_empty_host(box: Sandbox, ansible: Ansible) -> None:
    """Check mode does not load, so a task that attaches cannot know the object of the task before it."""
    before = box.bpf()
    text = failed(ansible, [COUNT, ATTACH], "--check", "--diff")
    assert counts(text) == (1, 1, 1)
    assert "object count is not there, so its program is not known" in message(text)
    named: Task = {"cnf.ebpf.tcx_attach": {"object": "count", "program": "count", "link": "b0"}}
    text = failed(ansible, [COUNT, named], "--check", "--diff")
    assert "bpf_object tasks/count is neither declared nor present on the host" in message(text)
    assert (box.hooks(), box.bpf()["pins"]) == ({}, {})
    nothing_new(box, before)
    # In one document there is no such limit.
    document = {
        "name": "edge",
        "bpf_object": [COUNT["cnf.ebpf.bpf_object"]],
        "tcx_attach": [ATTACH["cnf.ebpf.tcx_attach"]],
    }
    foretold = ansible.run([{"cnf.ebpf.topology": document}], "--check", "--diff")
    done = ansible.run([{"cnf.ebpf.topology": document}], "--diff")
    assert changed_lines(foretold) == changed_lines(done)
    assert [line.split(":")[0] for line in changed_lines(done)] == [
        "+bpf_object edge/count",
        "+tcx_attach b0 ingress edge/count",
    ]


def test_defaults_of_the_group_and_a_task_in_the_background(box: Sandbox, ansible: Ansible) -> None:
    defaults = {"module_defaults": {"group/cnf.ebpf.ebpf": {"state_dir": "/var/lib/cnf-ebpf/elsewhere"}}}
    ansible.environment["ANSIBLE_ASYNC_DIR"] = str(ansible.directory / "async")
    slow: Task = {**COUNT, "async": 60, "poll": 1}
    assert counts(ansible.run([slow, ATTACH, COUNT, ATTACH], **defaults)) == (4, 2, 0)
    assert box.hooks() == {":b0 ingress": ["tasks/count:count"]}
    assert box.sh("ls -A /var/lib/cnf-ebpf; ls -A /var/lib/cnf-ebpf/elsewhere").split() == [
        "elsewhere",
        "lock",
        "tasks",
    ]


def test_names_without_the_collection(box: Sandbox, ansible: Ansible) -> None:
    tasks = [{"bpf_object": COUNT["cnf.ebpf.bpf_object"]}, {"tcx_attach": ATTACH["cnf.ebpf.tcx_attach"]}]
    assert counts(ansible.run(tasks, collections=["cnf.ebpf"])) == (2, 2, 0)
    assert box.hooks() == {":b0 ingress": ["tasks/count:count"]}


# --- where sources come from ----------------------------------------------------------------------------------------------


def test_a_role_with_a_source_of_its_own(box: Sandbox, ansible: Ansible) -> None:
    role = ansible.directory / "roles" / "edge"
    for name, content in {
        "files/mine.bpf.c": '#include "value.h"\n#include "compat.h"\nSEC("tc") int mine(struct __sk_buff *skb)\n'
        '{ return VALUE; }\nLICENSE("GPL");\n',
        "files/value.h": "#define VALUE -1\n",
        "tasks/main.yml": json.dumps(
            [
                {"cnf.ebpf.bpf_object": {"name": "mine", "source": "mine.bpf.c"}},
                {"cnf.ebpf.tcx_attach": {"object": "mine", "link": "b0"}},
            ]
        ),
    }.items():
        (role / name).parent.mkdir(parents=True, exist_ok=True)
        (role / name).write_text(content, encoding="utf-8")
    assert counts(ansible.run([], roles=["edge"])) == (2, 2, 0)
    assert counts(ansible.run([], roles=["edge"])) == (2, 0, 0)
    assert box.hooks() == {":b0 ingress": ["tasks/mine:mine"]}
    # Another header is another object.
    (role / "files" / "value.h").write_text("#define VALUE (-1)\n", encoding="utf-8")
    changed = ansible.run([], "--diff", roles=["edge"])
    assert counts(changed) == (2, 1, 0)
    was, now = changed_lines(changed)
    assert re.match(r"-bpf_object tasks/mine: .*\bcode=[0-9a-f]{16}\b", was)
    assert re.match(r"\+bpf_object tasks/mine: .*\bcode=[0-9a-f]{16}\b", now)
    assert box.hooks() == {":b0 ingress": ["tasks/mine:mine"]}


@pytest.mark.parametrize("item", [False, True])
def test_a_source_on_the_target(box: Sandbox, ansible: Ansible, item: bool) -> None:
    box.sh("mkdir -p /var/lib/cnf-ebpf/mine")  # a file system of the target's own: not on the controller
    box.run("sh", "-c", "cat > /var/lib/cnf-ebpf/mine/plain.c", input=PLAIN)
    there = {"name": "plain", "source": "/var/lib/cnf-ebpf/mine/plain.c", "remote_src": True}
    attach = {"object": "plain", "link": "b0"}
    tasks: t.List[Task] = [{"cnf.ebpf.bpf_object": there}, {"cnf.ebpf.tcx_attach": attach}]
    if item:
        document = {"name": "edge", "bpf_object": [{**there, "remote_src": "yes"}], "tcx_attach": [attach]}
        tasks = [{"cnf.ebpf.topology": document}]
    assert counts(ansible.run(tasks)) == (len(tasks), len(tasks), 0)
    assert counts(ansible.run(tasks)) == (len(tasks), 0, 0)
    assert box.hooks() == {":b0 ingress": [f"{'edge' if item else 'tasks'}/plain:pass"]}
    box.sh("echo >> /var/lib/cnf-ebpf/mine/plain.c")
    assert counts(ansible.run(tasks)) == (len(tasks), 1, 0)
    there["source"] = "/var/lib/cnf-ebpf/mine/none.c"
    assert message(failed(ansible, [{"cnf.ebpf.bpf_object": there}])) == (
        "bpf_object.source: /var/lib/cnf-ebpf/mine/none.c: No such file or directory"
    )


def test_remote_src_no_in_an_item_is_no(box: Sandbox, ansible: Ansible) -> None:
    document = {"name": "edge", "bpf_object": [{**COUNT["cnf.ebpf.bpf_object"], "remote_src": "no"}]}
    assert counts(ansible.run([{"cnf.ebpf.topology": document}])) == (1, 1, 0)


# --- documents ------------------------------------------------------------------------------------------------------------

DOCUMENT: t.Dict[str, t.Any] = {
    "name": "edge",
    "netns": [{"name": "inner"}],
    "link": [{"name": "v0", "kind": "veth", "peer": {"name": "v1", "netns": "inner"}}],
    "bpf_object": "{{ objects }}",
    "bpf_map_entry": [
        {
            "object": "fw",
            "map": "sources4",
            "key": {"prefixlen": 8, "address": "10.0.0.0"},
            "value": "{{ number }}",
        }
    ],
    "tcx_attach": [
        {"object": "count", "link": "v0"},
        {"object": "fw", "program": "filter", "link": "v0", "order": "first"},
    ],
    "xdp_attach": [{"object": "count", "link": "v1", "netns": "inner"}],
}
VARIABLES: t.Dict[str, t.Any] = {
    "which": "count",
    "room": 50,
    "number": 1,
    "objects": [
        {"name": "{{ which }}", "source": "{{ which }}.bpf.c"},
        {
            "name": "fw",
            "source": "filter.bpf.c",
            "constants": {"default_verdict": 2},
            "maps": {"rules": "{{ room }}"},
        },
        {"name": "later", "source": "{{ none_yet }}", "state": "absent"},
    ],
    "none_yet": "later.bpf.c",
}
HOOKS = {
    ":v0 ingress": ["edge/fw:filter", "edge/count:count"],
    "inner:v1 xdp native": ["edge/count:count_xdp"],
}


def test_a_document_in_one_task(box: Sandbox, ansible: Ansible) -> None:
    before = box.bpf()
    task: Task = {"cnf.ebpf.topology": DOCUMENT}
    done = ansible.run([task], "--diff", vars=VARIABLES)
    assert counts(done) == (1, 1, 0)
    assert [line.split(":")[0] for line in changed_lines(done)] == [
        "+bpf_object edge/count",
        "+bpf_object edge/fw",
        "+netns inner",
        "+link v0",
        "+bpf_map_entry edge/fw",
        "+tcx_attach v0 ingress edge/count",
        "+tcx_attach v0 ingress edge/fw",
        "+xdp_attach v1 xdp edge/count",
    ]
    assert box.hooks() == HOOKS
    assert counts(ansible.run([task], vars=VARIABLES)) == (1, 0, 0)
    assert counts(ansible.run([{"cnf.ebpf.topology": {"name": "edge", "state": "absent"}}])) == (1, 1, 0)
    assert (box.hooks(), box.bpf()["pins"]) == ({}, {})
    nothing_new(box, before)


def test_the_playbook_of_the_collection(box: Sandbox, ansible: Ansible) -> None:
    variables = {**VARIABLES, "cnf_become": False, "cnf_topologies": [DOCUMENT]}
    before = box.bpf()["pins"]
    foretold = playbook(ansible, "cnf.ebpf.site", variables, "--check", "--diff")
    assert (box.hooks(), box.bpf()["pins"]) == ({}, before)
    done = playbook(ansible, "cnf.ebpf.site", variables, "--diff")
    assert counts(foretold) == counts(done) == (1, 1, 0)
    assert changed_lines(foretold) == changed_lines(done)
    assert box.hooks() == HOOKS
    assert counts(playbook(ansible, "cnf.ebpf.site", variables)) == (1, 0, 0)


# --- mistakes -------------------------------------------------------------------------------------------------------------


def test_what_the_user_sees_of_an_error_in_c(box: Sandbox, ansible: Ansible) -> None:
    source = ansible.directory / "bad.bpf.c"
    text = '#include "compat.h"\nSEC("tc") int secret(struct __sk_buff *skb) { return nonsense; }\n'
    source.write_text(text, encoding="utf-8")
    item = {"name": "bad", "source": str(source)}
    ansible.environment["ANSIBLE_INJECT_INVOCATION"] = "true"
    said = failed(ansible, [{"cnf.ebpf.bpf_object": item}], "-vvv")
    assert message(said) == (
        "create bpf_object tasks/bad (missing) failed: bad.bpf.c does not compile: bad.bpf.c:2: error: use of "
        "undeclared identifier 'nonsense' (the whole log: /var/lib/cnf-ebpf/logs/tasks.bad.log); everything was "
        "put back as before"
    )
    assert '"bundle": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"' in said
    code = sources.code_of(sources.collect(str(source), [str(PROGRAMS / "lib")]))
    assert f'"code": "{code}"' in said
    assert "secret(" not in said and "struct __sk_buff" not in said
    bundle = sources.pack({code: sources.collect(str(source), [str(PROGRAMS / "lib")])})
    assert bundle[:30] not in said and max(map(len, said.split())) < 200
    assert box.sh("stat -c %a /var/lib/cnf-ebpf/logs/tasks.bad.log").strip() == "600"
    assert box.bpf()["pins"] == {}


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_a_source_that_is_nowhere(box: Sandbox, ansible: Ansible, options: t.List[str]) -> None:
    text = failed(ansible, [{"cnf.ebpf.bpf_object": {"name": "x", "source": "nowhere.bpf.c"}}], *options)
    own = ", ".join(sorted(path.name for path in PROGRAMS.glob("*.bpf.c")))
    assert message(text) == (
        "bpf_object.source: nowhere.bpf.c is neither in the files of the role or the playbook nor among the "
        f"programs of the collection ({own}), nor beside the inventory or where Ansible was started"
    )
    document = {"name": "edge", "bpf_object": [{"name": "x", "object": "/nowhere.o"}]}
    text = failed(ansible, [{"cnf.ebpf.topology": document}], *options)
    assert message(text) == "bpf_object[0].object: /nowhere.o: No such file or directory"


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("count.bpf.c", "bpf_object"),
        ({"name": "x"}, "bpf_object[0]: give one of source (C) and object (a compiled ELF file)"),
        ({"source": "count.bpf.c"}, "bpf_object[0]: missing required arguments: name"),
        ({"name": "x", "source": "count.bpf.c", "object": "x.o"}, "bpf_object[0]: give one of source (C)"),
        (
            {"name": "x", "object": str(PROGRAMS / "count.bpf.c")},
            "is not a compiled object (ELF); give C as source",
        ),
    ],
)
def test_a_malformed_item(box: Sandbox, ansible: Ansible, item: t.Any, error: str) -> None:
    document = {"name": "edge", "bpf_object": [item]}
    assert error in message(failed(ansible, [{"cnf.ebpf.topology": document}]))
    assert box.bpf()["pins"] == {}
