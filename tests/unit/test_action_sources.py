# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugins: which file an item means, and what the one call of the module gets."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader

from ansible_collections.cnf.ebpf.plugins.action import bpf_object, topology
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as compilers
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import sources
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import CnfError
from ansible_collections.cnf.ebpf.plugins.plugin_utils import shipping

OWN = {"count": "tc", "count_xdp": "xdp"}  # the programs of count.bpf.c
C = 'SEC("tc") int one(void *skb) { return 0; }\n'


@pytest.fixture
def place(tmp_path):
    """A playbook with files, one of them a directory, and a role with files of its own."""
    for path, content in {
        "play/files/mine.c": C,
        "play/files/dir/main.bpf.c": f'#include "sub/types.h"\n{C}',
        "play/files/dir/sub/types.h": "struct value { int count; };\n",
        "play/files/both.c": C,
        "play/roles/edge/files/both.c": C.replace("one", "two"),
        "play/roles/edge/files/empty.c": "\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    return tmp_path / "play"


@pytest.fixture
def act(place):
    """``act(plugin, args, role=False, **task)``: the keywords of the one call of _execute_module, or the result without one."""

    def run(plugin, args, role=False, variables=None, **task):
        stack = [str(place / "roles" / "edge")] if role else []
        settings = {"async_val": 0, "check_mode": False, "diff": False, **task}
        action = plugin.ActionModule(
            task=types.SimpleNamespace(
                args=args,
                action="cnf.ebpf.x",
                get_search_path=lambda: [*stack, str(place)],
                **settings,
            ),
            connection=types.SimpleNamespace(_shell=types.SimpleNamespace(tmpdir=None)),
            play_context=None,
            loader=DataLoader(),
            templar=None,
            shared_loader_obj=None,
        )
        calls = []
        action._execute_module = lambda **keywords: calls.append(keywords) or {"changed": False}
        result = action.run(task_vars={"v": 1, **(variables or {})})
        if not calls:
            return result
        assert result == {"changed": False}
        (call,) = calls
        return call

    return run


def test_a_program_of_the_collection_is_sent_with_its_headers(act):
    args = {"name": "count", "source": "count.bpf.c"}
    call = act(bpf_object, args)
    assert args == {"name": "count", "source": "count.bpf.c"}  # a loop uses it again
    assert {name: value for name, value in call.items() if name != "module_args"} == {
        "module_name": "cnf.ebpf.x",
        "task_vars": {"v": 1},
        "wrap_async": False,
    }
    sent = call["module_args"]
    ((code, source),) = sources.unpack(sent.pop("bundle")).items()
    assert sent == {"name": "count", "source": "count.bpf.c", "code": code, "programs": OWN}
    assert source.main == "count.bpf.c"
    assert sorted(source.files) == ["compat.h", "count.bpf.c", "counters.h", "parse.h", "verdicts.h"]


@pytest.mark.parametrize(
    ("name", "role", "programs", "files"),
    [
        ("mine.c", False, {"one": "tc"}, ["mine.c"]),
        ("mine.c", True, {"one": "tc"}, ["mine.c"]),  # a role also finds what the playbook has
        ("both.c", False, {"one": "tc"}, ["both.c"]),
        ("both.c", True, {"two": "tc"}, ["both.c"]),
        ("dir", False, {"one": "tc"}, ["main.bpf.c", "sub/types.h"]),
        ("dir/main.bpf.c", False, {"one": "tc"}, ["main.bpf.c", "sub/types.h"]),
    ],
)
def test_files_of_the_role_come_before_those_of_the_playbook(act, name, role, programs, files):
    sent = act(bpf_object, {"name": "x", "source": name}, role=role)["module_args"]
    (source,) = sources.unpack(sent["bundle"]).values()
    assert sent["programs"] == programs
    assert sorted(source.files) == files


def test_a_file_of_the_playbook_hides_the_program_of_that_name(act, place):
    (place / "files" / "count.bpf.c").write_text(C)
    sent = act(bpf_object, {"name": "x", "source": "count.bpf.c"})["module_args"]
    assert sent["programs"] == {"one": "tc"}


def test_an_absolute_path_is_taken_as_it_is(act, place):
    path = str(place / "files" / "mine.c")
    sent = act(bpf_object, {"name": "x", "source": path})["module_args"]
    assert (sent["source"], sent["programs"]) == (path, {"one": "tc"})


def test_a_compiled_object_is_sent_alone(act, place):
    if compilers.missing("clang"):
        pytest.skip(compilers.missing("clang"))
    path = place / "files" / "mine.o"
    source = place / "mine.bpf.c"
    source.write_text(f"#define SEC(name) __attribute__((section(name), used))\n{C}")
    compilers.compile_clang(source, path)
    sent = act(bpf_object, {"name": "x", "object": "mine.o"})["module_args"]
    found = sources.unpack(sent.pop("bundle"))
    assert list(found.values()) == [sources.Source("mine.o", {"mine.o": path.read_bytes()}, {"one": "tc"})]
    assert sent == {"name": "x", "object": "mine.o", "code": next(iter(found)), "programs": {"one": "tc"}}


def test_a_topology_sends_each_source_once(act):
    items = [
        {"name": "a", "source": "mine.c"},
        {"name": "gone", "source": "nowhere.c", "state": "absent"},
        {"name": "b", "source": "mine.c", "programs": {"one": "xdp"}},
        {"name": "there", "source": "/srv/x.c", "remote_src": "yes"},
        {"name": "c", "source": "dir"},
    ]
    args = {"name": "edge", "link": [{"name": "v0"}], "bpf_object": items}
    sent = act(topology, args)["module_args"]
    found = sources.unpack(sent.pop("bundle"))
    mine, directory = (
        {source.main: code for code, source in found.items()}[n] for n in ("mine.c", "main.bpf.c")
    )
    assert len(found) == 2
    assert sent == {
        "name": "edge",
        "link": [{"name": "v0"}],
        "bpf_object": [
            {"name": "a", "source": "mine.c", "code": mine, "programs": {"one": "tc"}},
            items[1],
            {"name": "b", "source": "mine.c", "code": mine, "programs": {"one": "xdp"}},
            items[3],
            {"name": "c", "source": "dir", "code": directory, "programs": {"one": "tc"}},
        ],
    }


@pytest.mark.parametrize(
    "item",
    [
        "count.bpf.c",
        None,
        {"name": "x"},
        {"name": "x", "source": "count.bpf.c", "object": "count.o"},
        {"name": "x", "source": ["count.bpf.c"]},
        {"name": "x", "source": {"path": "count.bpf.c"}},
        {"name": "x", "source": "nowhere.c", "state": "absent"},
        {"name": "x", "source": "nowhere.c", "remote_src": True},
        {"name": "x", "source": "nowhere.c", "remote_src": "on"},
        {"name": "x", "object": "nowhere.o", "remote_src": 1},
    ],
)
def test_what_needs_nothing_from_here_or_is_malformed_is_the_modules_to_judge(act, item):
    sent = act(topology, {"name": "edge", "bpf_object": [item]})["module_args"]
    assert sent == {"name": "edge", "bpf_object": [item], "bundle": None}


@pytest.mark.parametrize("section", ["count", {"name": "x", "source": "count.bpf.c"}, None])
def test_a_section_that_is_no_list_is_the_modules_to_judge(act, section):
    args = {"name": "edge", "bpf_object": section}
    assert act(topology, args)["module_args"] == args


def test_a_topology_without_objects_is_left_alone(act):
    assert act(topology, {"name": "edge"})["module_args"] == {"name": "edge"}


def test_digest_and_bundle_of_the_user_do_not_reach_the_module(act):
    given = {"name": "x", "source": "mine.c", "code": "0" * 64, "bundle": "AAAA"}
    sent = act(bpf_object, given)["module_args"]
    assert list(sources.unpack(sent["bundle"])) == [sent["code"]]
    assert (
        act(bpf_object, {"name": "x", "state": "absent", "bundle": "AAAA"})["module_args"]["bundle"] is None
    )
    sent = act(topology, {"name": "edge", "bpf_object": [given], "bundle": "AAAA"})["module_args"]
    assert list(sources.unpack(sent["bundle"])) == [sent["bpf_object"][0]["code"]]


NOT_FOUND = (
    "is neither in the files of the role or the playbook nor among the programs of the collection "
    f"({', '.join(sorted(path.name for path in Path(shipping.PROGRAMS).glob('*.bpf.c')))}), "
    "nor beside the inventory or where Ansible was started"
)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"source": "count.c"}, f"source: count.c {NOT_FOUND}"),
        ({"object": "count.o"}, f"object: count.o {NOT_FOUND}"),
        ({"source": "/nowhere/x.c"}, "source: /nowhere/x.c: No such file or directory"),
        ({"source": "empty.c"}, "source: {place}/roles/edge/files/empty.c: is empty"),
    ],
)
def test_what_cannot_be_sent_is_one_line_that_names_the_place(act, place, item, message):
    for plugin, args, path in (
        (bpf_object, {"name": "x", **item}, "bpf_object."),
        (
            topology,
            {"name": "edge", "bpf_object": [{"name": "a", "source": "mine.c"}, item]},
            "bpf_object[1].",
        ),
    ):
        assert act(plugin, args, role=True) == {"failed": True, "msg": path + message.format(place=place)}


def test_check_mode_is_the_modules_and_async_is_wrapped(act):
    args = {"name": "x", "source": "mine.c"}
    plain = act(bpf_object, args)
    assert act(bpf_object, args, check_mode=True, diff=True) == plain
    assert act(bpf_object, args, async_val=60) == {**plain, "wrap_async": True}


def test_beside_the_inventory_and_where_ansible_was_started_comes_last(act, tmp_path, monkeypatch):
    """The playbooks of the collection have no files beside them, but a program of the collection is not replaced by chance."""
    inventory, started = tmp_path / "inventory", tmp_path / "started"
    for directory, name in (
        (inventory, "a.c"),
        (inventory / "files", "b.c"),
        (started, "a.c"),
        (started, "c.c"),
        (started, "mine.c"),
        (started, "count.bpf.c"),
    ):
        directory.mkdir(exist_ok=True, parents=True)
        (directory / name).write_text(f"/* {directory} */ {C}")
    monkeypatch.setenv("PWD", str(started))

    def text(name, **variables):
        call = act(bpf_object, {"name": "x", "source": name}, variables=variables)
        if "msg" in call:
            return call["msg"]
        ((_code, source),) = sources.unpack(call["module_args"]["bundle"]).items()
        return source.files[source.main].decode()

    beside = {"inventory_dir": str(inventory)}
    assert str(inventory) in text("a.c", **beside)
    assert f"{inventory}/files" in text("b.c", **beside)
    assert str(started) in text("c.c", **beside)
    assert str(started) in text("a.c", inventory_dir=None)
    assert text("b.c").endswith(NOT_FOUND)
    assert str(tmp_path) not in text("mine.c", **beside)
    assert str(tmp_path) not in text("count.bpf.c", **beside)


def test_a_name_of_the_collection_does_not_lead_out_of_its_programs():
    assert shipping.own_program("count.bpf.c") == f"{shipping.PROGRAMS}/count.bpf.c"
    for name in ("../../galaxy.yml", "lib/compat.h", "..", "lib", "other.bpf.c"):
        assert shipping.own_program(name) is None


def test_ship_needs_no_ansible(place):
    files = {"mine": str(place / "files" / "mine.c")}
    (item,), bundle = shipping.ship([{"source": "mine"}], files.get)
    assert list(sources.unpack(bundle)) == [item["code"]]
    assert item == {"source": "mine", "code": item["code"], "programs": {"one": "tc"}}
    assert shipping.ship([], files.get) == ([], "")
    with pytest.raises(CnfError, match=r"^bpf_object\[0\]\.object: other is neither in "):
        shipping.ship([{"object": "other"}], files.get)
