# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of slots: what is promised of shares, of hosts that agree, and of the slots that a change moves."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from fractions import Fraction

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import maglev
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.maglev import MaglevError, Member

WEIGHTS = st.one_of(
    st.just(1), st.integers(1, 100), st.sampled_from([1, 10_000]), st.sampled_from([2**n for n in range(11)])
)
some = examples(80)


@st.composite
def pools(draw, least=2, most=64):
    """Members in any order, with any names."""
    kind = draw(st.sampled_from([st.just(1), WEIGHTS]))
    names = draw(st.lists(st.text(max_size=12), unique=True, min_size=least, max_size=most))
    return [Member(name, draw(kind)) for name in names]


def equal(count, weight=1):
    return [Member(f"10.0.0.{number}", weight) for number in range(count)]


def owners(members, size=None):
    size = size or maglev.size_for(len(members))
    return maglev.owners(maglev.table(members, size), members)


def repaired(old, members):
    return maglev.owners(maglev.repaired(old, members), members)


def shares(members, size):
    """The exact share of each with a weight, by name: in proportion, where nobody has less than one."""
    wanting, ones = {member.name: member.weight for member in members if member.weight}, {}
    while True:
        each = Fraction(size - len(ones), sum(wanting.values()))
        below = [name for name, weight in wanting.items() if weight * each < 1]
        if not below:
            return {**ones, **{name: weight * each for name, weight in wanting.items()}}
        least = min(below, key=lambda name: wanting[name])
        del wanting[least]
        ones[least] = Fraction(1)


def rounded(table, members):
    """Whether each has its share rounded down or up, and nobody else has any."""
    counts, wanted = Counter(table), shares(members, len(table))
    return set(counts) == set(wanted) and all(abs(counts[name] - wanted[name]) < 1 for name in wanted)


def fewest(old, members):
    """How many slots must change at least: who is below its share takes some, who is above it or not there gives some."""
    had, wanted = Counter(old), shares(members, len(old))
    gained = sum(max(0, int(share) - had[name]) for name, share in wanted.items())
    lost = sum(max(0, count - -int(-wanted.get(name, 0) // 1)) for name, count in had.items())
    return max(gained, lost)


def changed(old, new):
    return sum(before != after for before, after in zip(old, new))


def lost(old, new, gone):
    """Slots that each of the others had and has no more."""
    return Counter(before for before, after in zip(old, new) if before not in (after, gone))


# --- the table ---------------------------------------------------------------------------------------------------


def test_sizes_are_primes_with_at_least_100_slots_for_each_member():
    assert [size for size in maglev.SIZES if any(size % n == 0 for n in range(2, int(size**0.5) + 1))] == []
    found = [maglev.size_for(count) for count in (0, 1, 2, 3, 5, 6, 64, 655, 656, 1310)]
    assert found == [251, 251, 251, 509, 509, 1021, 8191, 65521, 131071, 131071]


def test_it_is_the_same_on_every_host():
    members = [Member("10.0.0.1", 1), Member("10.0.0.2", 2), Member("fd00::1", 3)]
    table = maglev.table(members, 509)
    assert table[:16] == [0, 2, 2, 2, 2, 2, 2, 2, 0, 0, 2, 2, 2, 2, 2, 2]
    assert Counter(table) == {0: 85, 1: 170, 2: 254}
    assert hashlib.sha256(bytes(table)).hexdigest()[:16] == "bec8e4f3a92998d1"


@pytest.mark.parametrize(("count", "size"), [(2, 251), (7, 1021), (64, 8191)])
def test_with_equal_weights_it_is_that_of_the_paper(count, size):
    members = sorted(equal(count))
    orders = []
    for member in members:
        digest = hashlib.sha256(member.name.encode()).digest()
        offset, step = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8))
        orders.append(iter([(offset % size + (step % (size - 1) + 1) * turn) % size for turn in range(size)]))
    table = [None] * size
    for turn in range(size):
        member = turn % count
        table[next(slot for slot in orders[member] if table[slot] is None)] = member
    assert maglev.table(members, size) == table


@some
@given(pools(least=1), st.randoms(use_true_random=False))
def test_shares_are_rounded_whatever_the_order_of_the_list(members, chance):
    table = owners(members)
    assert rounded(table, members)
    total = sum(member.weight for member in members)
    counts = Counter(table)
    assert all(abs(counts[name] / len(table) - weight / total) < 0.01 for name, weight in members)
    shuffled = list(members)
    chance.shuffle(shuffled)
    assert owners(shuffled) == table
    assert owners([*shuffled, Member("a drained member", 0)], len(table)) == table


@given(st.integers(1, 64))
def test_equal_members_are_within_a_hundredth_of_each_other(count):
    counts = Counter(owners(equal(count, weight=7)))
    assert len(counts) == count
    assert max(counts.values()) - min(counts.values()) <= 1
    assert max(counts.values()) <= 1.01 * min(counts.values())


def test_who_has_a_weight_gets_a_slot():
    members = [*equal(3), Member("large", 10**9)]
    assert Counter(owners(members, 509)) == {**{member.name: 1 for member in equal(3)}, "large": 506}


def test_as_many_members_as_slots():
    assert Counter(owners(equal(251), 251)) == {member.name: 1 for member in equal(251)}


# --- changes -----------------------------------------------------------------------------------------------------


@some
@given(pools(), st.data())
def test_who_leaves_or_is_drained_moves_less_than_a_hundredth_of_the_others_slots(members, data):
    """Again and again, each time from the table before."""
    table = owners(members)
    for _round in range(min(4, len(members) - 1)):
        gone = data.draw(st.sampled_from(members))
        rest = [member for member in members if member != gone]
        new = repaired(table, rest)
        assert rounded(new, rest)
        losses = lost(table, new, gone.name)
        assert max(losses.values(), default=0) <= 1
        assert sum(losses.values()) < 0.01 * (len(table) - table.count(gone.name))
        assert repaired(table, [*rest, gone._replace(weight=0)]) == new
        members, table = rest, new


def test_of_many_that_left_none_moved_more_than_a_thousandth():
    chance = random.Random(1)
    for _round in range(60):
        count = chance.randint(2, 64)
        weight = chance.choice(
            [lambda: 1, lambda: chance.randint(1, 100), lambda: chance.choice([1, 10_000])]
        )
        members = [Member(f"m{chance.random()}", weight()) for _round in range(count)]
        table = owners(members)
        gone = members.pop(chance.randrange(count))
        new = repaired(table, members)
        assert sum(lost(table, new, gone.name).values()) <= len(table) / 1000


@some
@given(pools(), pools(), st.data())
def test_any_change_moves_the_fewest_slots(before, after, data):
    """Members that stay, come and go, with other weights; and tables that are not ours, with empty slots."""
    stay = data.draw(st.lists(st.sampled_from(before), unique=True))
    members = {member.name: member for member in [*after, *stay]}.values()
    reweighted = [
        member._replace(weight=data.draw(st.sampled_from([0, member.weight]))) for member in members
    ]
    members = [*reweighted[1:], Member("one more", 5)]
    size = maglev.size_for(64)
    old = list(owners(before, size))
    for slot in data.draw(st.lists(st.integers(0, size - 1), max_size=200)):
        old[slot] = data.draw(st.sampled_from([None, "stranger", members[0].name]))
    new = repaired(old, members)
    assert rounded(new, members)
    assert changed(old, new) == fewest(old, members)
    assert repaired(old, members[::-1]) == new
    assert repaired(new, members) == new


def test_the_fewest_slots_in_figures():
    members = equal(10)
    table = owners(members, 1021)
    assert Counter(Counter(table).values()) == {102: 9, 103: 1}
    heavier = [members[0]._replace(weight=2), *members[1:]]
    assert changed(table, repaired(table, heavier)) == 185 - table.count(
        members[0].name
    )  # 2042 / 11 is 185.6
    joined = [*members, Member("10.0.1.1", 1)]
    assert changed(table, repaired(table, joined)) == 92  # 1021 / 11 is 92.8
    left = repaired(table, members[1:])
    assert changed(table, left) == table.count(members[0].name)
    assert lost(table, left, members[0].name) == {}


def test_rounding_anew_can_cost_another_member_one_slot():
    members = [Member(name, weight) for name, weight in zip("abcdef", (8, 512, 4, 2, 512, 512))]
    table = owners(members)
    assert Counter(table) == {"a": 5, "b": 337, "c": 3, "d": 2, "e": 337, "f": 337}
    new = repaired(table, members[1:])
    assert Counter(new) == {"b": 339, "c": 3, "d": 1, "e": 339, "f": 339}
    assert lost(table, new, "a") == {"d": 1}


def test_a_table_built_anew_moves_more_than_a_repaired_one():
    """Why there is ``repaired``: the paper's table alone cannot promise 2 %."""
    members = equal(20)
    table = owners(members)
    parts = []
    for gone in members:
        rest = [member for member in members if member != gone]
        losses = lost(table, owners(rest, len(table)), gone.name)
        parts.append(sum(losses.values()) / (len(table) - table.count(gone.name)))
        assert lost(table, repaired(table, rest), gone.name) == {}
    assert max(parts) > 0.02


def test_who_comes_back_gets_its_own_slots_when_repaired_from_the_declared_members():
    members = equal(20)
    declared = owners(members)
    down = repaired(declared, members[2:])
    assert down == repaired(declared, [*members[:1:-1], members[0]._replace(weight=0)])
    assert repaired(declared, members) == declared


def test_a_table_of_none_is_repaired_into_the_table():
    assert maglev.repaired([None] * 509, equal(5)) == maglev.table(equal(5), 509)
    assert maglev.repaired(["somebody else"] * 509, equal(5)) == maglev.table(equal(5), 509)


def test_moved_is_a_part_of_all_slots():
    assert maglev.moved(["a", "b", "b", None], ["a", "a", "b", "a"]) == 0.5
    assert maglev.moved(["a"], ["a"]) == 0.0
    assert maglev.moved(["a"], ["a", "a"]) == 1.0


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "size", "message"),
    [
        ([], 251, "no member has a weight above 0: give one of them a weight"),
        ([Member("a", 0)], 251, "no member has a weight above 0: give one of them a weight"),
        ([Member("a", -1), Member("b", 1)], 251, "member a: weight -1 is below 0; 0 drains it"),
        (
            [Member("a", 1), Member("a", 2)],
            251,
            "member a is there twice: give it once, with the sum of the weights",
        ),
        (equal(252), 251, "252 members for 251 slots: take a larger table, or split the pool"),
        (
            equal(1),
            256,
            "256 slots: the size of a table is one of 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071",
        ),
    ],
)
def test_what_cannot_be_a_table(members, size, message):
    with pytest.raises(MaglevError) as caught:
        maglev.table(members, size)
    assert str(caught.value) == message
    with pytest.raises(MaglevError):
        maglev.repaired(["a"] * size, members)


def test_more_members_than_the_largest_table_has_room_for():
    with pytest.raises(MaglevError) as caught:
        maglev.size_for(1311)
    assert str(caught.value) == "1311 members: at most 1310 fit in a table; split the pool"
