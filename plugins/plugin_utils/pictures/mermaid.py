# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A scene as Mermaid text (https://mermaid.js.org), which code forges and wikis draw in place. Pure."""

from __future__ import annotations

import typing as t

from .colours import COLOURS, signed
from .scene import SAME, Box, Place, Port, Scene, Table, Text

# What Mermaid would take for its own, as character entities in its spelling.
ESCAPED = str.maketrans({"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;"})


def rendered(scene: Scene) -> str:
    """A flowchart: subgraphs for namespaces, nodes for devices, classes for statuses."""
    names = {
        port.place: f"p{number}"
        for number, port in enumerate(port for box in scene.boxes for port in box.ports)
    }
    lines = ["---", f"title: {_title(scene.title)}", "---"] if scene.title else []
    lines += ["flowchart LR"]
    classes: t.Dict[str, t.List[str]] = {}
    for number, box in enumerate(scene.boxes):
        lines += _box(box, f"n{number}", names, classes)
    links = []
    for number, cable in enumerate(scene.cables):
        one, other = (names[end] for end in cable.ends)
        label = f'|"{_escaped(signed(cable.label, cable.status))}"|' if cable.label else ""
        lines.append(f"  {one} ---{label} {other}")
        if cable.status != SAME:
            colour = COLOURS[cable.status]
            links.append(f"  linkStyle {number} stroke:{colour.line},stroke-width:2px")
    for number, table in enumerate(scene.tables):
        lines.append(f'  t{number}["{_table(table)}"]')
        classes.setdefault("table", []).append(f"t{number}")
    for status, colour in COLOURS.items():
        if status in classes:
            lines.append(
                f"  classDef {status} fill:{colour.fill},stroke:{colour.line},color:{colour.text},text-align:left"
            )
    if "table" in classes:
        lines.append("  classDef table fill:#f6f8fa,stroke:#57606a,color:#1f2328,text-align:left")
    lines += [f"  class {','.join(members)} {status}" for status, members in classes.items()]
    return "\n".join([*lines, *links]) + "\n"


def _title(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.translate(ESCAPED)


def _texts(texts: t.Iterable[Text]) -> t.List[str]:
    return [_escaped(signed(text.text, text.status)) for text in texts]


def _box(box: Box, name: str, names: t.Mapping[Place, str], classes: t.Dict[str, t.List[str]]) -> t.List[str]:
    lines = [f'  subgraph {name}["{_escaped(signed(box.title, box.status))}"]', "    direction TB"]
    for port in box.ports:
        lines.append(f'    {names[port.place]}["{"<br/>".join(_port(port))}"]')
        classes.setdefault(port.status, []).append(names[port.place])
    if box.lines or not box.ports:
        told = "<br/>".join(_texts(box.lines)) or " "
        lines.append(f'    {name}l["{told}"]')
        classes.setdefault(SAME, []).append(f"{name}l")
    classes.setdefault(box.status, []).append(name)
    return [*lines, "  end"]


def _port(port: Port) -> t.List[str]:
    lines = [f"<b>{_escaped(signed(port.name, port.status))}</b> {_escaped(port.about)}".rstrip()]
    lines += _texts(port.addresses)
    lines += [f"<i>{_escaped(hook.name)}</i>: {' → '.join(_texts(hook.programs))}" for hook in port.hooks]
    return lines


def _table(table: Table) -> str:
    lines = [f"<b>{_escaped(table.title)}</b>"]
    for row in table.rows:
        match, *rest = row.cells
        lines.append(_escaped(signed(" │ ".join(filter(None, (match, *rest))), row.status)))
    return "<br/>".join(lines)
