# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the boxes of a scene go. Pure; everything is measured in pixels.

Boxes that cables join stand in layers, from left to right by their distance from one end of the longest way, so that a cable
joins boxes of the same layer or of neighbouring ones and crosses no box. A long chain is folded like a line of text that
runs back and forth. Groups without a cable between them stand beside each other, or below.
"""

from __future__ import annotations

import collections
import dataclasses
import typing as t

Size = t.Tuple[float, float]
Neighbours = t.Mapping[str, t.Collection[str]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The upper left corners of the boxes, and the size of everything."""

    corners: t.Mapping[str, t.Tuple[float, float]]
    width: float
    height: float


def placed(
    sizes: t.Mapping[str, Size],
    joined: t.Iterable[t.Tuple[str, str]],
    widest: float = 1240,
    across: float = 120,
    down: float = 28,
) -> Layout:
    """Places for boxes of these sizes. ``across``: room between layers, for what is written at cables."""
    neighbours: t.Dict[str, t.Set[str]] = {name: set() for name in sizes}
    for one, other in joined:
        if one != other:
            neighbours[one].add(other)
            neighbours[other].add(one)
    blocks = [_block(layers(group, neighbours), sizes, widest, across, down) for group in groups(neighbours)]
    return _shelved(blocks, widest, down)


def groups(neighbours: Neighbours) -> t.List[t.List[str]]:
    """The boxes that cables join, directly or not, in the order in which they are named."""
    found: t.List[t.List[str]] = []
    seen: t.Set[str] = set()
    for name in neighbours:
        if name not in seen:
            distances = _distances(name, neighbours)
            seen.update(distances)
            found.append([other for other in neighbours if other in distances])
    return found


def layers(group: t.Sequence[str], neighbours: Neighbours) -> t.List[t.List[str]]:
    """The boxes of a group by layer. Ends of cables go to the shorter side of what they are joined to."""
    far = _farthest(group[0], neighbours)
    start = min(far, _farthest(far, neighbours), key=group.index)
    distances = _distances(start, neighbours)
    found: t.List[t.List[str]] = [[] for _layer in range(max(distances.values()) + 1)]
    leaves = [name for name in group if len(neighbours[name]) == 1 and name != start]
    for name in group:
        if name not in leaves or len(group) == 2:
            found[distances[name]].append(name)
    for name in leaves if len(group) > 2 else ():
        hub = distances[next(iter(neighbours[name]))]
        sides = [side for side in (hub - 1, hub + 1) if 0 <= side < len(found)]
        found[min(sides, key=lambda side: (len(found[side]), -side))].append(name)
    return [_sorted(layer, previous, neighbours) for layer, previous in zip(found, [[], *found])]


def _sorted(layer: t.List[str], previous: t.List[str], neighbours: Neighbours) -> t.List[str]:
    """Those whose neighbours stand higher stand higher: fewer cables cross."""

    def height(name: str) -> float:
        rows = [previous.index(other) for other in neighbours[name] if other in previous]
        return sum(rows) / len(rows) if rows else len(previous)

    return sorted(layer, key=height)


def _distances(start: str, neighbours: Neighbours) -> t.Dict[str, int]:
    found = {start: 0}
    queue = collections.deque([start])
    while queue:
        name = queue.popleft()
        for other in sorted(neighbours[name]):
            if other not in found:
                found[other] = found[name] + 1
                queue.append(other)
    return found


def _farthest(start: str, neighbours: Neighbours) -> str:
    distances = _distances(start, neighbours)
    most = max(distances.values())
    return min(name for name, distance in distances.items() if distance == most)


def _block(
    columns: t.Sequence[t.Sequence[str]],
    sizes: t.Mapping[str, Size],
    widest: float,
    across: float,
    down: float,
) -> Layout:
    """One group: its layers side by side, folded where the width ends."""
    widths = [max(sizes[name][0] for name in column) for column in columns]
    lines = _folded(widths, widest, across)
    most = max(sum(widths[number] for number in line) + across * (len(line) - 1) for line in lines)
    corners: t.Dict[str, t.Tuple[float, float]] = {}
    top = 0.0
    for count, line in enumerate(lines):
        heights = [sum(sizes[name][1] + down for name in columns[number]) - down for number in line]
        left = 0.0
        for number, height in zip(line, heights):
            # A line that runs back starts at the right, below the end of the one before.
            column = most - left - widths[number] if count % 2 else left
            y = top + (max(heights) - height) / 2
            for name in columns[number]:
                corners[name] = (column + (widths[number] - sizes[name][0]) / 2, y)
                y += sizes[name][1] + down
            left += widths[number] + across
        top += max(heights) + 2 * down
    return Layout(corners, most, top - 2 * down)


def _folded(widths: t.Sequence[float], widest: float, across: float) -> t.List[t.List[int]]:
    lines: t.List[t.List[int]] = [[]]
    used = 0.0
    for number, width in enumerate(widths):
        if lines[-1] and used + width > widest:
            lines.append([])
            used = 0.0
        lines[-1].append(number)
        used += width + across
    return lines


def _shelved(blocks: t.Sequence[Layout], widest: float, down: float) -> Layout:
    """The groups in rows, in order, as many in a row as fit."""
    corners: t.Dict[str, t.Tuple[float, float]] = {}
    left = top = shelf = width = 0.0
    for block in blocks:
        if left and left + block.width > widest:
            left, top, shelf = 0.0, top + shelf + down, 0.0
        for name, (x, y) in block.corners.items():
            corners[name] = (left + x, top + y)
        width = max(width, left + block.width)
        left += block.width + 2 * down
        shelf = max(shelf, block.height)
    return Layout(corners, width, top + shelf)
