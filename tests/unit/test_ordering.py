# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of programs at a hook: rules one by one, and that what was put in place stays in place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import ordering
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.ordering import Anchor, Place, Slot, Wanted
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import PlanError


def slot(text, note=""):
    """``x`` is somebody else's program; ``edge/x`` is object x of topology edge, with program x."""
    name = text.split("/")[-1]
    is_ours = "/" in text
    return Slot(text, sum(map(ord, text)), name, text if is_ours else "", name if is_ours else "", note)


def slots(text, **notes):
    return [slot(word, notes.get(word.split("/")[-1], "")) for word in text.split()]


FIRST, LAST, OPEN = Place("first"), Place("last"), Place()


@pytest.mark.parametrize(
    ("there", "notes", "place", "index"),
    [
        ("", {}, OPEN, 0),
        ("a b", {}, OPEN, 2),
        ("a edge/b", {"b": "last"}, OPEN, 1),
        ("edge/a edge/b", {"a": "last", "b": "last"}, OPEN, 0),
        ("a b", {}, FIRST, 0),
        ("edge/a b", {"a": "first"}, FIRST, 1),
        ("edge/a edge/b c", {"a": "first", "b": "first"}, FIRST, 2),
        ("edge/a b", {}, FIRST, 0),
        ("a b", {}, LAST, 2),
        ("a edge/b", {"b": "last"}, LAST, 2),
        ("a b c", {}, Place("before", Anchor(name="b")), 1),
        ("a b c", {}, Place("after", Anchor(name="b")), 2),
        ("a b b", {}, Place("before", Anchor(name="b")), 1),
        ("a b b", {}, Place("after", Anchor(name="b")), 3),
        ("a edge/b", {}, Place("before", Anchor(object="edge/b")), 1),
        ("a edge/b", {}, Place("after", Anchor(object="edge/b", program="b")), 2),
        ("a b c", {}, Place("before", Anchor(id=ord("c"))), 2),
        ("cil_from_netdev", {}, Place("before", Anchor(name="cil_from_netdev_long")), 0),
    ],
)
def test_where_a_program_goes(there, notes, place, index):
    assert ordering.insertion(slots(there, **notes), place, "eth0 ingress") == index


@pytest.mark.parametrize(
    ("there", "notes", "index", "place", "expected"),
    [
        ("a edge/b", {}, 1, FIRST, False),
        ("edge/b a", {}, 0, FIRST, True),
        ("edge/a edge/b", {"a": "first", "b": "first"}, 1, FIRST, True),
        ("edge/a edge/b", {"b": "first"}, 1, FIRST, False),
        ("edge/b a", {}, 0, LAST, False),
        ("edge/b edge/a", {"a": "last"}, 0, LAST, True),
        ("a edge/b c", {}, 1, OPEN, True),
        ("a edge/b c", {}, 1, Place("before", Anchor(name="c")), True),
        ("c edge/b c", {}, 1, Place("before", Anchor(name="c")), False),
        ("a x edge/b", {}, 2, Place("after", Anchor(name="a")), True),
        ("edge/b a", {}, 0, Place("after", Anchor(name="a")), False),
        ("edge/b", {}, 0, Place("after", Anchor(name="gone")), True),
    ],
)
def test_whether_a_program_is_where_it_was_asked_to_be(there, notes, index, place, expected):
    assert ordering.holds(slots(there, **notes), index, place) is expected


def test_a_missing_anchor_says_what_there_is():
    with pytest.raises(PlanError) as caught:
        ordering.insertion(slots("a edge/b"), Place("before", Anchor(name="cil")), "eth0 ingress")
    numbers = ord("a"), sum(map(ord, "edge/b"))
    assert str(caught.value) == (
        "eth0 ingress: there is no program cil to be placed before; "
        f"it has a (id {numbers[0]}), b (id {numbers[1]})"
    )
    with pytest.raises(PlanError, match=r"there is no program id 7 to be placed after; it has none$"):
        ordering.insertion([], Place("after", Anchor(id=7)), "eth0 ingress")


def wanted(**places):
    return [
        Wanted(slot(f"edge/{name}", place.order if place.anchor is None else ""), place)
        for name, place in places.items()
    ]


def test_only_what_is_out_of_place_moves():
    there = slots("x edge/a y edge/b")
    assert ordering.moves(there, wanted(a=FIRST, b=LAST), "") == {"edge/a"}
    assert ordering.moves(there, wanted(a=OPEN, b=OPEN), "") == set()
    assert ordering.moves(there, wanted(b=Place("before", Anchor(name="x"))), "") == {"edge/b"}


def test_a_program_that_moves_takes_along_what_stands_on_its_place():
    """b is right before a; a goes to the front, so b has to follow."""
    there = slots("x edge/b edge/a")
    before_a = Place("before", Anchor(object="edge/a"))
    assert ordering.moves(there, wanted(a=Place("before", Anchor(name="x")), b=before_a), "") == {
        "edge/a",
        "edge/b",
    }


def test_what_is_still_to_come_counts():
    there = slots("edge/b", b="last")
    assert ordering.moves(there, wanted(b=LAST, a=OPEN), "") == set()
    there = slots("edge/b")
    assert ordering.moves(there, wanted(a=OPEN, b=Place("before", Anchor(object="edge/a"))), "") == set()
    assert ordering.moves(there, wanted(a=OPEN, b=Place("after", Anchor(object="edge/a"))), "") == {"edge/b"}


def test_contradictions_are_an_error():
    there = slots("edge/a edge/b")
    with pytest.raises(
        PlanError, match="edge/a:a cannot be first: what others at this hook ask for contradicts it"
    ):
        ordering.moves(there, wanted(a=FIRST, b=Place("before", Anchor(object="edge/a"))), "eth0 ingress")


names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)
places = st.sampled_from(
    [OPEN, FIRST, LAST, *(Place(order, Anchor(name=n)) for n in "wxyz" for order in ("before", "after"))]
)


@given(st.permutations("wxyz"), names, st.dictionaries(st.sampled_from("abcdefgh"), places, max_size=6))
def test_one_pass_puts_everything_in_place_and_the_next_moves_nothing(others, there, asked):
    present = [slot(name) for name in others]
    for number, name in enumerate(there):
        place = asked.get(name, OPEN)
        note = place.order if place.anchor is None else ""
        present.insert(number * 2, slot(f"edge/{name}", note))
    items = wanted(**asked)
    try:
        moved = ordering.moves(present, items, "")
    except PlanError:
        return  # w before z asked for where x stands between, and the like: told, and nothing was done
    assert moved <= {item.slot.ident for item in items}
    order = [entry for entry in present if entry.ident not in moved]
    for item in items:
        if item.slot.ident in moved or item.slot.ident not in {entry.ident for entry in present}:
            order.insert(ordering.insertion(order, item.place, ""), item.slot)
    assert [entry.ident for entry in order if "/" not in entry.ident] == list(others)
    assert ordering.moves(order, items, "") == set()
