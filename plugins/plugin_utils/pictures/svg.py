# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A scene as SVG that needs nothing else: no font, no script, no style sheet. Pure."""

from __future__ import annotations

import dataclasses
import html
import typing as t

from .colours import COLOURS, signed
from .layout import placed
from .scene import FOREIGN, SAME, Box, Cable, Hook, Place, Port, Row, Scene, Table

FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SIZE = 12.0  # of the font
CHARACTER = 0.605 * SIZE  # its width: with a font of one width texts can be measured without drawing them
LINE = 17.0
PAD = 10.0
TITLE = 24.0
WIDEST_LINE = 64  # characters; what is longer is cut


@dataclasses.dataclass(frozen=True)
class _Line:
    """One line of a port or box: its words with their colours, from left to right."""

    words: t.Tuple[t.Tuple[str, str, bool], ...]  # text, status, framed as a chip

    @property
    def width(self) -> float:
        gaps = max(0, len(self.words) - 1) * CHARACTER
        return gaps + sum(len(text) * CHARACTER + (10 if chip else 0) for text, _status, chip in self.words)


def rendered(scene: Scene, tables: bool = True) -> str:
    """The drawing; with ``tables`` the policies stand below it."""
    drawn = _Drawing(scene)
    top = drawn.height
    parts = [f'<g transform="translate({drawn.left:.0f} 0)">{drawn.content}</g>']
    width = drawn.width
    for table in scene.tables if tables else ():
        content, table_width, table_height = _table(table, top + 20)
        parts.append(content)
        width = max(width, table_width)
        top += table_height + 20
    width, height = width + 2 * PAD, top + 2 * PAD
    title = f"<title>{html.escape(scene.title)}</title>" if scene.title else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="{html.escape(FONT)}" font-size="{SIZE:.0f}" role="img">{title}'
        f'<g transform="translate({PAD:.0f} {PAD:.0f})">{"".join(parts)}</g></svg>\n'
    )


class _Drawing:
    """Boxes at their places, and the cables between their ports."""

    def __init__(self, scene: Scene) -> None:
        self._boxes = {box.netns: box for box in scene.boxes}
        sizes = {box.netns: _size_of(box) for box in scene.boxes}
        joined = [(cable.ends[0][0], cable.ends[1][0]) for cable in scene.cables]
        longest = max((len(signed(cable.label, cable.status)) for cable in scene.cables), default=0)
        layout = placed(sizes, joined, across=max(60.0, longest * CHARACTER + 36))
        self._corners, self._sizes = layout.corners, sizes
        self._center = layout.width / 2
        self._heights: t.Dict[Place, float] = {}
        boxes = "".join(self._box(box) for box in scene.boxes)
        # Loops beside a box stick out of it.
        beside = [self._cable(cable, number) for number, cable in enumerate(scene.cables)]
        self.content = "".join(beside) + boxes + "".join(self._label(cable) for cable in scene.cables)
        room = longest * CHARACTER + 60
        ways = {self._points(cable)[2] for cable in scene.cables if self._is_loop(cable)}
        self.left = room if -1.0 in ways else 0.0
        self.width = layout.width + self.left + (room if 1.0 in ways else 0)
        self.height = layout.height

    def _box(self, box: Box) -> str:
        x, y = self._corners[box.netns]
        width, height = self._sizes[box.netns]
        colour = COLOURS[box.status]
        dash = ' stroke-dasharray="5 3"' if box.status == FOREIGN else ""
        parts = [
            _rect(x, y, width, height, 8, "#f6f8fa", colour.line, f' stroke-width="1.5"{dash}'),
            _text(x + PAD, y + 17, signed(box.title, box.status), colour.text, bold=True),
        ]
        top = y + TITLE
        for port in box.ports:
            lines = _port_lines(port)
            tall = len(lines) * LINE + 8
            shade = COLOURS[port.status]
            parts.append(_rect(x + 6, top, width - 12, tall, 4, shade.fill, shade.line))
            parts += [
                _line(x + PAD + 2, top + 16 + number * LINE, line, number == 0)
                for number, line in enumerate(lines)
            ]
            self._heights[port.place] = top + 12
            top += tall + 6
        parts += [
            _line(x + PAD, top + 12 + number * LINE, line) for number, line in enumerate(_box_lines(box))
        ]
        return "".join(parts)

    def _is_loop(self, cable: Cable) -> bool:
        """Whether both ends stand in the same column."""
        one, other = (netns for netns, _name in cable.ends)
        return abs(self._middle(one) - self._middle(other)) < self._sizes[one][0] / 2

    def _middle(self, netns: str) -> float:
        return self._corners[netns][0] + self._sizes[netns][0] / 2

    def _points(self, cable: Cable) -> t.Tuple[float, float, float, float, float, float]:
        """x and y of both ends, and which way the cable leaves each: -1 left, 1 right."""
        one, other = (netns for netns, _name in cable.ends)
        # A loop goes outwards, where no box is.
        outwards = 1.0 if self._middle(one) > self._center else -1.0
        ways = (outwards, outwards)
        if not self._is_loop(cable):
            ways = (1.0, -1.0) if self._middle(one) < self._middle(other) else (-1.0, 1.0)
        xs = []
        for netns, way in zip((one, other), ways):
            left = self._corners[netns][0]
            xs.append(left + self._sizes[netns][0] - 6 if way > 0 else left + 6)
        return (xs[0], self._heights[cable.ends[0]], ways[0], xs[1], self._heights[cable.ends[1]], ways[1])

    def _bend(self, cable: Cable, points: t.Tuple[float, ...]) -> float:
        if self._is_loop(cable):
            return 36 + abs(points[4] - points[1]) / 12
        return max(24.0, abs(points[3] - points[0]) / 2)

    def _cable(self, cable: Cable, number: int) -> str:
        points = self._points(cable)
        x1, y1, way1, x2, y2, way2 = points
        bend = self._bend(cable, points)
        colour = COLOURS[cable.status]
        width = 1.5 if cable.status in (SAME, FOREIGN) else 2.5
        dash = ' stroke-dasharray="5 3"' if cable.status == FOREIGN else ""
        curve = f"M{x1:.1f} {y1:.1f}C{x1 + way1 * bend:.1f} {y1:.1f} {x2 + way2 * bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
        return f'<path d="{curve}" fill="none" stroke="{colour.line}" stroke-width="{width}"{dash}/>'

    def _label(self, cable: Cable) -> str:
        points = self._points(cable)
        x1, y1, way1, x2, y2, way2 = points
        bend = self._bend(cable, points)
        x = (x1 + x2) / 2 + 3 * bend * (way1 + way2) / 8
        y = (y1 + y2) / 2
        colour = COLOURS[cable.status]
        dots = "".join(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour.line}"/>'
            for px, py in ((x1, y1), (x2, y2))
        )
        anchor = "middle" if not self._is_loop(cable) else "start" if way1 > 0 else "end"
        text = _text(
            x + {"start": 6, "middle": 0, "end": -6}[anchor],
            y + 4,
            signed(cable.label, cable.status),
            colour.text,
            anchor=anchor,
            halo=True,
        )
        return dots + text


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST_LINE else f"{text[: WIDEST_LINE - 1]}…"


def _port_lines(port: Port) -> t.List[_Line]:
    about = [(port.about, SAME, False)] if port.about else []
    lines = [_Line(((signed(port.name, port.status), port.status, False), *about))]
    lines += [_Line(((signed(text.text, text.status), text.status, False),)) for text in port.addresses]
    for hook in port.hooks:
        lines += _hook_lines(hook)
    return lines


def _hook_lines(hook: Hook) -> t.Iterator[_Line]:
    """The chips of a hook, as many on a line as fit."""
    words: t.List[t.Tuple[str, str, bool]] = [(hook.name, FOREIGN, False)]
    for number, program in enumerate(hook.programs):
        arrow = [("→", FOREIGN, False)] if number else []
        chip = (_cut(signed(program.text, program.status)), program.status, True)
        if number and _Line((*words, *arrow, chip)).width > WIDEST_LINE * CHARACTER:
            yield _Line(tuple(words))
            words = [(" " * len(hook.name), FOREIGN, False)]
        words += [*arrow, chip]
    yield _Line(tuple(words))


def _box_lines(box: Box) -> t.List[_Line]:
    return [_Line(((_cut(signed(text.text, text.status)), text.status, False),)) for text in box.lines]


def _size_of(box: Box) -> t.Tuple[float, float]:
    ports = [_port_lines(port) for port in box.ports]
    lines = _box_lines(box)
    widths = [len(signed(box.title, box.status)) * CHARACTER * 1.05 + 2 * PAD]
    widths += [line.width + 2 * PAD + 4 for port in ports for line in port]
    widths += [line.width + 2 * PAD for line in lines]
    height = TITLE + sum(len(port) * LINE + 14 for port in ports)
    height += len(lines) * LINE + (4 if lines else 0)
    return max(*widths, 110.0), max(height, TITLE + 12)


def _rect(
    x: float, y: float, width: float, height: float, radius: int, fill: str, line: str, more: str = ""
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}"'
    return f'<rect {place} fill="{fill}" stroke="{line}"{more}/>'


def _text(
    x: float, y: float, text: str, colour: str, bold: bool = False, anchor: str = "start", halo: bool = False
) -> str:
    """``halo``: white around the letters, for texts upon lines."""
    around = ' paint-order="stroke" stroke="#ffffff" stroke-width="5" stroke-linejoin="round"' if halo else ""
    weight = ' font-weight="bold"' if bold else ""
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" xml:space="preserve"{weight}{side}{around}>{html.escape(text)}</text>'


def _line(x: float, y: float, line: _Line, first_bold: bool = False) -> str:
    parts = []
    for number, (text, status, chip) in enumerate(line.words):
        colour = COLOURS[status]
        width = len(text) * CHARACTER + (10 if chip else 0)
        if chip:
            parts.append(
                _rect(
                    x,
                    y - 12,
                    width,
                    16,
                    8,
                    *(("#ddf4ff", "#0969da") if status == SAME else (colour.fill, colour.line)),
                )
            )
        bold = first_bold and number == 0
        parts.append(
            _text(x + (5 if chip else 0), y, text, colour.text if not first_bold or bold else "#57606a", bold)
        )
        x += width + CHARACTER
    return "".join(parts)


def _table(table: Table, top: float) -> t.Tuple[str, float, float]:
    """A table at this height: its drawing, its width, its height."""
    head = Row(table.columns)
    cells = [[_cut(cell) for cell in row.cells] for row in (head, *table.rows)]
    for row, told in zip((head, *table.rows), cells):
        told[0] = signed(told[0], row.status)
    widths = [
        max(len(row[number]) for row in cells) * CHARACTER + 2 * PAD for number in range(len(table.columns))
    ]
    width = max(sum(widths), len(table.title) * CHARACTER * 1.05 + 2 * PAD)
    height = TITLE + len(cells) * LINE + 6
    parts = [
        _rect(0, top, width, height, 8, "#ffffff", COLOURS[SAME].line),
        _text(PAD, top + 17, table.title, COLOURS[SAME].text, bold=True),
    ]
    for line, (row, told) in enumerate(zip((head, *table.rows), cells)):
        colour = COLOURS[row.status if line else FOREIGN]
        y = top + TITLE + line * LINE
        if line and row.status != SAME:
            parts.append(_rect(4, y, width - 8, LINE, 0, colour.fill, "none"))
        x = PAD
        for cell, wide in zip(told, widths):
            parts.append(_text(x, y + 12.5, cell, colour.text))
            x += wide
    return "".join(parts), width, height
