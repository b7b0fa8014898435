# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters around probes: which number of an entry is meant, and what its move means."""

from __future__ import annotations

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils import _probe_counters
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError


def counter(**options):
    item = {
        "object": "fw",
        "topology": "edge",
        "map": "counters",
        "key": 1,
        "field": "packets",
        "expect": "grows",
    }
    return _probe_counters.parse([{**item, **options}])[0]


def test_the_number_is_a_field_or_the_value_itself_over_all_processors():
    find = _probe_counters.number_in
    assert find({"key": 1, "per_cpu": [], "total": {"packets": 7, "bytes": 700}}, counter()) == 7
    assert find({"key": 1, "total": {"packets": 7, "bytes": 700}}, counter(field="bytes")) == 700
    assert find({"key": 1, "value": {"packets": 3}}, counter()) == 3
    assert find({"key": 1, "value": 9}, counter()) == 9
    assert find({"key": 1, "total": 9}, counter(field="anything")) == 9


def test_what_is_no_number_is_named():
    label = "object edge/fw: map counters, key 1"
    with pytest.raises(SpecError) as caught:
        _probe_counters.number_in({"key": 1, "total": {"hits": 7, "bytes": 1}}, counter())
    assert str(caught.value) == f"counters[0].field: {label} has no packets; it has hits, bytes"
    for value in (True, "10.0.0.1", None):
        with pytest.raises(SpecError) as caught:
            _probe_counters.number_in({"key": 1, "value": value}, counter())
        assert str(caught.value) == f"counters[0].map: {label} is no number"


@pytest.mark.parametrize(
    ("expect", "before", "after", "problem"),
    [
        ("grows", 3, 4, ""),
        ("grows", 3, 3, "object edge/fw: map counters, key 1: 3 before and 3 after; expected to grow"),
        ("grows", 3, 0, "object edge/fw: map counters, key 1: 3 before and 0 after; expected to grow"),
        ("stays", 3, 3, ""),
        ("stays", 3, 4, "object edge/fw: map counters, key 1: 3 before and 4 after; expected to stay"),
    ],
)
def test_moves(expect, before, after, problem):
    (move,) = _probe_counters.moves([counter(expect=expect)], [before], [after])
    assert (move.expected, move.problem()) == (not problem, problem)
    assert move.result() == {
        "object": "edge/fw",
        "map": "counters",
        "key": 1,
        "before": before,
        "after": after,
        "expected": not problem,
    }
