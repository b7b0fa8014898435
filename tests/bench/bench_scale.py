# SPDX-License-Identifier: GPL-3.0-or-later
"""Many veth pairs in one call: against iproute2, and whether the cost of one grows with their number.

The near ends are in the namespace of the call, the far ends in ten others, an IPv4 address on each end.
iproute2 makes the same, altnames included, in eleven processes. Every call is a fresh process.
"""

from __future__ import annotations

import typing as t
from pathlib import Path

import _hosts
from _table import Row, Samples, at_most, at_most_times

SPACES = 10
FEW, MANY = 100, 1000


class Figures:
    """Samples of one number of pairs."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.document = _hosts.pairs(count, SPACES)
        self.cold, self.same, self.gone = Samples(), Samples(), Samples()
        self.made, self.removed = Samples(), Samples()

    def run(self, directory: Path) -> None:
        with _hosts.host() as box:
            self.cold.append(_hosts.converge(box, self.document))
            self.same.append(_hosts.unchanged(box, self.document))
            self.gone.append(_hosts.converge(box, self.document, state="absent"))
        with _hosts.host() as box:
            self.made.append(_hosts.commands(box, _hosts.pair_batches(self.count, SPACES), directory))
            self.removed.append(_hosts.commands(box, _hosts.removal_batches(self.count, SPACES), directory))


def scale(directory: Path, quick: bool) -> t.List[Row]:
    few, many = Figures(FEW), Figures(MANY)
    for _number in range(2 if quick else 3):
        many.run(directory)
        few.run(directory)
        few.run(directory)
    return [
        Row("1,000 pairs, cold: work", many.cold, "ip -batch, the same", many.made, at_most_times(8)),
        Row("1,000 pairs, unchanged: work", many.same, wanted=at_most(1.5)),
        Row("1,000 pairs, removal: work", many.gone, "ip -batch, the same", many.removed),
        *(
            Row(
                f"one pair of 1,000, {name}: work",
                found.each(MANY),
                "one pair of 100",
                base.each(FEW),
                wanted,
            )
            for name, found, base, wanted in (
                ("cold", many.cold, few.cold, at_most_times(1.3)),
                ("unchanged", many.same, few.same, at_most_times(1.3)),
                ("removal", many.gone, few.gone, None),
            )
        ),
        Row(
            "one pair of 1,000, made by ip -batch",
            many.made.each(MANY),
            "one pair of 100",
            few.made.each(FEW),
        ),
    ]
