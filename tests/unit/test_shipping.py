# SPDX-License-Identifier: GPL-3.0-or-later
"""Which items get their sources sent along, and which stay as they are. The actions themselves: test_action_sources.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import sources
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import CnfError
from ansible_collections.cnf.ebpf.plugins.plugin_utils import shipping

TEXT = 'SEC("tc") int a(void *c) { return 0; }\n'
COUNT = sources.collect(shipping.own_program("count.bpf.c"), [shipping.HEADERS])
COUNT_CODE = sources.code_of(COUNT)
COUNT_PROGRAMS = {"count": "tc", "count_xdp": "xdp"}


@pytest.fixture
def mine(tmp_path):
    """A source of the user's own; its path."""
    path = tmp_path / "mine.bpf.c"
    path.write_text(TEXT)
    return path


def ship(*items, **options):
    """The items after shipping, and the sources in the bundle by their codes."""
    shipped, bundle = shipping.ship(items, options.pop("find", shipping.own_program), **options)
    return shipped, sources.unpack(bundle) if bundle else {}


def refused(*items, **options):
    with pytest.raises(CnfError) as caught:
        ship(*items, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_program_of_the_collection_comes_with_its_headers():
    (item,), found = ship({"name": "c", "source": "count.bpf.c"})
    assert item == {
        "name": "c",
        "source": "count.bpf.c",
        "code": COUNT_CODE,
        "programs": COUNT_PROGRAMS,
    }
    assert found == {COUNT_CODE: COUNT}
    assert "compat.h" in COUNT.files


def test_a_source_of_ones_own_may_include_the_headers_of_the_collection(mine):
    mine.write_text('#include "compat.h"\n' + TEXT)
    (item,), found = ship({"name": "c", "source": str(mine)}, find=str)
    source = found[item["code"]]
    assert sorted(source.files) == ["compat.h", "mine.bpf.c"]
    assert item["programs"] == {"a": "tc"}


def test_a_source_that_two_items_share_is_sent_once():
    items, found = ship({"name": "one", "source": "count.bpf.c"}, {"name": "two", "source": "count.bpf.c"})
    assert [item["code"] for item in items] == [COUNT_CODE, COUNT_CODE]
    assert found == {COUNT_CODE: COUNT}


def test_programs_that_the_user_names_are_kept():
    (item,), _found = ship({"name": "c", "source": "count.bpf.c", "programs": {"count": "tc"}})
    assert (item["code"], item["programs"]) == (COUNT_CODE, {"count": "tc"})


def test_what_the_user_says_of_the_code_does_not_count():
    (item,), _found = ship({"name": "c", "source": "count.bpf.c", "code": "0" * 64})
    assert item["code"] == COUNT_CODE


@pytest.mark.parametrize("answer", [False, "no", "false", "off", 0, None])
def test_what_is_not_on_the_target_is_sent(answer):
    (item,), _found = ship({"name": "c", "source": "count.bpf.c", "remote_src": answer})
    assert item["code"] == COUNT_CODE


@pytest.mark.parametrize(
    "item",
    [
        {"name": "c", "state": "absent"},
        {"name": "c", "state": "absent", "source": "nowhere.c"},
        *(
            {"name": "c", "remote_src": yes, "source": "/srv/x.c"}
            for yes in (True, "true", "True", "yes", "on", "1", 1)
        ),
        # for the module to refuse
        {"name": "c"},
        {"name": "c", "source": ""},
        {"name": "c", "source": None},
        {"name": "c", "source": "count.bpf.c", "object": "x.o"},
        {},
        "count",
        None,
        5,
        ["count.bpf.c"],
    ],
)
def test_items_that_stay_as_they_are(item):
    assert shipping.ship([item], pytest.fail) == ([item], "")


def test_items_keep_their_places():
    items = [None, {"name": "c", "source": "count.bpf.c"}, {"name": "d", "state": "absent"}]
    shipped, found = ship(*items)
    assert (shipped[0], shipped[1]["code"], shipped[2]) == (None, COUNT_CODE, items[2])
    assert items[1] == {"name": "c", "source": "count.bpf.c"}  # what was handed in is not changed
    assert list(found) == [COUNT_CODE]


def test_a_file_that_nobody_has():
    programs = ", ".join(sorted(path.name for path in Path(shipping.PROGRAMS).glob("*.bpf.c")))
    assert "count.bpf.c, filter.bpf.c, mirror.bpf.c" in programs
    line = (
        "no.bpf.c is neither in the files of the role or the playbook nor among the programs of the "
        f"collection ({programs}), nor beside the inventory or where Ansible was started"
    )
    assert refused(None, {"name": "c", "source": "no.bpf.c"}) == f"bpf_object[1].source: {line}"
    assert refused({"name": "c", "object": "no.bpf.c"}, single=True) == f"bpf_object.object: {line}"


def test_what_is_wrong_with_a_source_has_its_place(mine):
    assert refused({"name": "c", "source": "/no.c"}, find=str) == (
        "bpf_object[0].source: /no.c: No such file or directory"
    )
    assert refused({"name": "c", "object": str(mine)}, find=str) == (
        f"bpf_object[0].object: {mine}: is not a compiled object (ELF); give C as source"
    )
    mine.write_bytes(b"\x7fELF\x02\x01")
    assert refused({"name": "c", "source": str(mine)}, find=str, single=True) == (
        f"bpf_object.source: {mine}: is a compiled object; give it as object"
    )


@pytest.mark.parametrize(
    "name", ["no.bpf.c", "lib", "lib/compat.h", "../bpf/lib/compat.h", "", "../../README.md"]
)
def test_only_programs_are_programs_of_the_collection(name):
    assert shipping.own_program(name) is None
