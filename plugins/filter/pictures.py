# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters that draw topologies. Each is documented in the YAML file of its name."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ..plugin_utils.pictures import graphviz, mermaid, reading, scene, svg

Value = t.Any


def _scene(
    value: Value,
    title: str = "",
    host: t.Optional[t.Mapping[str, t.Any]] = None,
    programs: t.Optional[t.Sequence[t.Any]] = None,
    policies: t.Optional[t.Sequence[t.Any]] = None,
    limit: int = scene.MOST,
) -> scene.Scene:
    try:
        parts = reading.surrounded(reading.read(value), host, programs, policies)
        return scene.assembled(parts, title or _name(value), int(limit))
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        told = f"field {problem} is missing" if isinstance(problem, KeyError) else str(problem)
        raise AnsibleFilterError(
            f"this cannot be drawn: {told}; give a topology, a result of cnf.ebpf.topology or an entry of "
            "cnf.ebpf.topology_info, and hosts, programs and policies as the info modules return them"
        ) from problem


def _name(value: Value) -> str:
    return str(value.get("name") or "") if isinstance(value, t.Mapping) else ""


def to_mermaid(value: Value, **options: t.Any) -> str:
    """The picture as a Mermaid flowchart."""
    return mermaid.rendered(_scene(value, **options))


def to_graphviz(value: Value, **options: t.Any) -> str:
    """The picture in Graphviz' language."""
    return graphviz.rendered(_scene(value, **options))


def to_svg(value: Value, tables: bool = True, **options: t.Any) -> str:
    """The picture itself."""
    return svg.rendered(_scene(value, **options), tables)


def policy_match(entry: t.Mapping[str, t.Any]) -> str:
    """The packets that a policy entry is about, in words."""
    return reading.match_text(_entry(entry))


def policy_action(entry: t.Mapping[str, t.Any]) -> str:
    """What happens to them, in words."""
    return reading.action_text(_entry(entry))


def _entry(entry: Value) -> t.Mapping[str, t.Any]:
    if isinstance(entry, t.Mapping):
        return entry
    raise AnsibleFilterError(f"a policy entry is a mapping, not {type(entry).__name__}")


class FilterModule:
    """Names of the filters."""

    def filters(self) -> t.Dict[str, t.Callable[..., str]]:
        drawings = {"to_mermaid": to_mermaid, "to_graphviz": to_graphviz, "to_svg": to_svg}
        return {**drawings, "policy_match": policy_match, "policy_action": policy_action}
