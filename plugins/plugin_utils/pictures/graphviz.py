# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A scene as Graphviz text, for `dot`. Pure."""

from __future__ import annotations

import html
import typing as t

from .colours import COLOURS, signed
from .scene import SAME, Box, Place, Port, Scene, Table, Text


def rendered(scene: Scene) -> str:
    """An undirected graph: clusters for namespaces, a table for each device."""
    names = {
        port.place: f"p{number}"
        for number, port in enumerate(port for box in scene.boxes for port in box.ports)
    }
    lines = [
        "graph topology {",
        f"  graph [rankdir=LR, nodesep=0.3, ranksep=1.2, fontname=Helvetica, labelloc=t, label={_quoted(scene.title)}]",
        "  node [shape=plain, fontname=Helvetica, fontsize=11]",
        "  edge [fontname=Helvetica, fontsize=10]",
    ]
    for number, box in enumerate(scene.boxes):
        lines += _box(box, number, names)
    for cable in scene.cables:
        one, other = (names[end] for end in cable.ends)
        colour = COLOURS[cable.status]
        label = _quoted(signed(cable.label, cable.status))
        style = ", penwidth=2" if cable.status != SAME else ""
        lines.append(
            f'  {one} -- {other} [label={label}, color="{colour.line}", fontcolor="{colour.text}"{style}]'
        )
    lines += [f"  t{number} [label=<{_table(table)}>]" for number, table in enumerate(scene.tables)]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _font(text: str, status: str, tag: str = "") -> str:
    told = html.escape(signed(text, status)) or " "
    told = f"<{tag}>{told}</{tag}>" if tag else told
    return f'<font color="{COLOURS[status].text}">{told}</font>'


def _row(content: str, fill: str = "", span: int = 1) -> str:
    colour = f' bgcolor="{fill}"' if fill else ""
    width = f' colspan="{span}"' if span > 1 else ""
    return f'<tr><td align="left"{colour}{width}>{content}</td></tr>'


def _texts(texts: t.Iterable[Text]) -> t.List[str]:
    return [_row(_font(text.text, text.status)) for text in texts]


def _framed(rows: t.Sequence[str], line: str, fill: str) -> str:
    return (
        f'<table border="1" cellborder="0" cellspacing="0" cellpadding="2" style="rounded" color="{line}" bgcolor="{fill}">'
        f"{''.join(rows)}</table>"
    )


def _box(box: Box, number: int, names: t.Mapping[Place, str]) -> t.List[str]:
    colour = COLOURS[box.status]
    lines = [
        f"  subgraph cluster_{number} {{",
        f"    label={_quoted(signed(box.title, box.status))}; style=rounded;",
        f'    color="{colour.line}"; fontcolor="{colour.text}"',
    ]
    lines += [f"    {names[port.place]} [label=<{_port(port)}>]" for port in box.ports]
    if box.lines or not box.ports:
        rows = "".join(_texts(box.lines)) or _row(" ")
        lines.append(
            f'    n{number} [label=<<table border="0" cellborder="0" cellspacing="0">{rows}</table>>]'
        )
    return [*lines, "  }"]


def _port(port: Port) -> str:
    colour = COLOURS[port.status]
    rows = [_row(f"{_font(port.name, port.status, 'b')} {_font(port.about, SAME)}")]
    rows += _texts(port.addresses)
    for hook in port.hooks:
        chips = " → ".join(_font(program.text, program.status) for program in hook.programs)
        rows.append(_row(f"<i>{html.escape(hook.name)}</i>: {chips}"))
    return _framed(rows, colour.line, colour.fill)


def _table(table: Table) -> str:
    width = len(table.columns)
    rows = [_row(f"<b>{html.escape(table.title)}</b>", span=width)]
    rows.append(
        "<tr>"
        + "".join(f'<td align="left"><i>{html.escape(name)}</i></td>' for name in table.columns)
        + "</tr>"
    )
    for row in table.rows:
        first, *rest = row.cells
        cells = [_font(first, row.status), *(_font(cell, SAME) if cell else " " for cell in rest)]
        rows.append(
            f'<tr>{"".join(f"""<td align="left" bgcolor="{COLOURS[row.status].fill}">{cell}</td>""" for cell in cells)}</tr>'
        )
    return _framed(rows, COLOURS[SAME].line, COLOURS[SAME].fill)
