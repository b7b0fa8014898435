# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of repeated runs, what they stand beside, and the table that shows both."""

from __future__ import annotations

import dataclasses
import statistics
import typing as t

HEAD = ("figure", "median", "min", "max", "n", "beside it", "median", "ratio", "wanted", "")


class Samples(t.List[float]):
    """Seconds of repeated runs."""

    @property
    def median(self) -> float:
        return statistics.median(self)

    def each(self, count: int) -> Samples:
        """The same per one of ``count``."""
        return Samples(seconds / count for seconds in self)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A limit of the figure itself (seconds) or of its ratio to what stands beside it."""

    limit: float
    ratio: bool = False
    least: bool = False

    def __str__(self) -> str:
        sign = ">=" if self.least else "<="
        return f"{sign} {self.limit:g}x" if self.ratio else f"{sign} {duration(self.limit)}"

    def met(self, value: float, ratio: float) -> bool:
        found = ratio if self.ratio else value
        return found >= self.limit if self.least else found <= self.limit


def at_most(seconds: float) -> Wanted:
    return Wanted(seconds)


def at_most_times(ratio: float) -> Wanted:
    return Wanted(ratio, ratio=True)


def at_least_times(ratio: float) -> Wanted:
    return Wanted(ratio, ratio=True, least=True)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line: a figure, what was measured beside it, and what is wanted. The ratio is of medians."""

    what: str
    figure: Samples
    beside: str = ""
    other: t.Optional[Samples] = None
    wanted: t.Optional[Wanted] = None

    def cells(self) -> t.Tuple[str, ...]:
        ratio = self.figure.median / self.other.median if self.other else 0.0
        figure = self.figure
        return (
            self.what,
            *(duration(seconds) for seconds in (figure.median, min(figure), max(figure))),
            str(len(figure)),
            self.beside or "-",
            duration(self.other.median) if self.other else "-",
            f"{ratio:.2f}x" if self.other else "-",
            str(self.wanted or "-"),
            self._verdict(ratio),
        )

    def _verdict(self, ratio: float) -> str:
        if self.wanted is None:
            return ""
        return "ok" if self.wanted.met(self.figure.median, ratio) else "OVER"


def duration(seconds: float) -> str:
    """Three significant digits in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds * 1e6)} us"


def _digits(number: float) -> str:
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def render(rows: t.Sequence[Row]) -> str:
    """All rows as one table; figures to the right, words to the left."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    words = (0, 5, 9)

    def text(line: t.Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([text(lines[0]), "  ".join("-" * width for width in widths), *map(text, lines[1:])])
