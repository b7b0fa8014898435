# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of a pool of 64 members with 65521 slots: built, and repaired when a member leaves, comes back or gets another weight."""

from __future__ import annotations

import sys
import time
import typing as t
from pathlib import Path

import _hosts
from _table import Row, Samples, at_most

sys.path.insert(0, str(_hosts.COLLECTIONS))

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import maglev
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.maglev import Member

SIZE = 65521
EQUAL = [Member(f"10.0.0.{number}", 1) for number in range(64)]
UNEQUAL = [Member(f"10.0.0.{number}", 1 + 37 * number % 100) for number in range(64)]
SECONDS = 0.15


def pool(_directory: Path, quick: bool) -> t.List[Row]:
    built, unequal, left, back, heavier = Samples(), Samples(), Samples(), Samples(), Samples()
    for _round in range(5 if quick else 15):
        table = _timed(built, [None] * SIZE, EQUAL)
        _timed(unequal, [None] * SIZE, UNEQUAL)
        without = _timed(left, table, EQUAL[1:])
        _timed(back, without, EQUAL)
        _timed(heavier, table, [EQUAL[0]._replace(weight=2), *EQUAL[1:]])
    anew = "built anew"
    return [
        Row("pool of 64 members, 65521 slots: table", built, wanted=at_most(SECONDS)),
        Row("the same with unequal weights", unequal, "equal weights", built, at_most(SECONDS)),
        Row("a member leaves: repaired", left, anew, built, at_most(SECONDS)),
        Row("it comes back: repaired", back, anew, built, at_most(SECONDS)),
        Row("a weight doubles: repaired", heavier, anew, built, at_most(SECONDS)),
    ]


def _timed(samples: Samples, old: t.Sequence[t.Optional[str]], members: t.Sequence[Member]) -> t.List[str]:
    started = time.perf_counter()
    slots = maglev.repaired(old, members)
    samples.append(time.perf_counter() - started)
    return maglev.owners(slots, members)
