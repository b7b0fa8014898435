# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Pools of a router: weighted next hops behind a consistent hash (_bpf.maglev). Entries name a pool and never its members."""

from __future__ import annotations

import dataclasses
import typing as t

from .._bpf import maglev, objects, policy_input, router
from .._bpf.policy import NextHop
from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import PlanError, SpecError
from .._kernel.host import Host
from . import _fields, _policies, bpf_object

NAME = SECTION = "bpf_pool"
RANK = 83  # before the entries that name it
BORROWED = False
LINGERS = True
WHOLE = True
NAMES_DEVICES = True
GOES_LAST = True
OK = bpf_object.OK
MAX_MEMBERS = maglev.SIZES[-1] // maglev.SLOTS_PER_MEMBER
MAX_WEIGHT = 65535

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "object": {"type": "str"},
    "topology": {"type": "str"},
    "netns": {"type": "str"},
    "name": {"type": "str"},
    "members": {
        "type": "list",
        "elements": "dict",
        "options": {
            "address": {"type": "str"},
            "interface": {"type": "str", "required": True},
            "weight": {"type": "int", "default": 1},
        },
    },
    "mode": {"type": "str", "choices": list(router.MODES), "default": "flow"},
    "symmetric": {"type": "bool", "default": False},
    "validate": {"type": "str", "choices": list(_policies.VALIDATE), "default": _policies.STRICT},
}
REQUIRED = ("object", "name")
ALONE = ("name", "members")


@dataclasses.dataclass(frozen=True)
class Value:
    """A pool. ``members``: a line of each, ``ADDRESS%INTERFACE``, to its weight; 0 drains it.

    ``health`` says whether the table of slots is that of the members, ``neighbors`` what they lack.
    """

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("object", "name")

    object: str
    topology: str
    name: str
    members: t.Optional[t.Dict[str, int]] = None
    mode: t.Optional[str] = None
    symmetric: t.Optional[bool] = None
    netns: t.Optional[str] = None
    health: t.Optional[str] = None
    neighbors: t.Optional[str] = None
    owner: t.Optional[str] = None
    validate: t.Optional[str] = None

    def key(self) -> Key:
        return key_of(self.topology, self.object, self.name)

    def needs(self) -> t.Tuple[Key, ...]:
        found = [bpf_object.key_of(self.topology, self.object)]
        if self.validate is not None:  # observed ones outlive their devices
            names = sorted({hop.interface for hop in self.hops()})
            found += [Key("link", self.netns or "", name) for name in names]
        return tuple(found)

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)

    def hops(self) -> t.List[NextHop]:
        return [NextHop(line.partition("%")[2], line.partition("%")[0]) for line in self.members or ()]

    def pool(self) -> router.Pool:
        members = zip(self.hops(), (self.members or {}).values())
        return router.Pool(self.mode or "flow", bool(self.symmetric), tuple(members))


def key_of(topology: str, object_name: str, name: str) -> Key:
    return Key(NAME, "", f"{topology}/{object_name}:{name}")


def stands_on(key: Key) -> t.Tuple[Key, ...]:
    return (Key(bpf_object.NAME, "", key.id.partition(":")[0]),)


# --- input ----------------------------------------------------------------------------------------------------------------


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    value = _named(item, path, owner)
    if item.get("members") is None:
        raise SpecError(f"{path}.members", "missing; give the next hops of the pool")
    if item["symmetric"] and item["mode"] != "flow":
        raise SpecError(f"{path}.symmetric", "belongs to mode: flow, where both directions shall meet")
    members: t.Dict[str, int] = {}
    for number, member in enumerate(item["members"]):
        place = f"{path}.members[{number}]"
        hop = policy_input.next_hop_of(member, "", place)
        if str(hop) in members:
            raise SpecError(place, f"{hop} is there already; give it once, with the sum of the weights")
        _fields.whole(member["weight"], 0, MAX_WEIGHT, f"{place}.weight")
        members[str(hop)] = member["weight"]
    if len(members) > MAX_MEMBERS:
        raise SpecError(f"{path}.members", f"has {len(members)}; a pool takes {MAX_MEMBERS} at most")
    value = dataclasses.replace(
        value,
        members=dict(sorted(members.items())),
        mode=item["mode"],
        symmetric=item["symmetric"],
        netns=_fields.netns(item.get("netns"), f"{path}.netns"),
        health=OK,
        neighbors=OK,
        validate=item["validate"],
    )
    return [Desired(value, path, adopt=bool(item.get("adopt")))]


def _named(item: t.Mapping[str, t.Any], path: str, owner: str) -> Value:
    _fields.require(item, REQUIRED, path)
    return Value(
        bpf_object.object_name(item["object"], f"{path}.object"),
        _policies.topology_of(item, path, owner),
        policy_input.pool_name(item["name"], f"{path}.name"),
        owner=model.ANY_TOPOLOGY,
    )


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [_named(item, path, _fields.TASKS).key()]


# --- what there is --------------------------------------------------------------------------------------------------------


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    found: t.Dict[Key, Value] = {}
    asked = [key for key in wanted if key.kind == NAME]
    for owner, name in dict.fromkeys(_place(key)[:2] for key in asked):
        found.update(pools_of(host, owner, name))
    return {key: found[key] for key in asked if key in found}


def exists(host: Host, key: Key) -> bool:
    owner, name, _pool = _place(key)
    return key in pools_of(host, owner, name)


def _place(key: Key) -> t.Tuple[str, str, str]:
    whole, _colon, pool = key.id.partition(":")
    owner, _slash, name = whole.partition("/")
    return owner, name, pool


def pools_of(host: Host, owner: str, name: str) -> t.Dict[Key, Value]:
    """All pools of a router."""
    if not _policies.existing_router(host, owner, name):
        return {}
    return t.cast(t.Dict[Key, Value], host.cached((NAME, owner, name), lambda: _read(host, owner, name)))


def _read(host: Host, owner: str, name: str) -> t.Dict[Key, Value]:
    if "pool_names" not in objects.map_names(owner, name):
        return {}
    with router.opened(owner, name) as found:
        if found is None:
            return {}
        image, state = found.pool_image(), found.pool_state()
    slots = {pool: state.slots.get(index, []) for pool, index in image.pool_names.items()}
    names = _policies.name_finder(host, image.netns)
    values = {}
    for pool_name, pool in router.pools_of(image, state.pools, slots, names).items():
        hops = [hop for hop, _weight in pool.members]
        missing = _policies.missing_neighbors(host, image.netns, hops)
        value = Value(
            name,
            owner,
            pool_name,
            {str(hop): weight for hop, weight in sorted(pool.members, key=lambda row: str(row[0]))},
            pool.mode,
            pool.symmetric,
            image.netns,
            health=OK if pool.is_whole else "its table is not that of its members",
            neighbors=f"missing for {', '.join(map(str, missing))}" if missing else OK,
            owner=model.ANY_TOPOLOGY,
        )
        values[value.key()] = value
    return values


def merged(before: Value, desired: Value) -> Value:
    """The members as declared, not in addition to those that are there."""
    result = dataclasses.replace(desired, validate=None)
    return before if result == before else desired


def settled(host: Host, value: Value, current: t.Optional[Value]) -> Value:
    """Refuse another namespace than that of the entries while nothing has been changed yet."""
    if bpf_object.is_changing(host, value.topology, value.object):
        return value
    if "pool_names" in objects.map_names(value.topology, value.object):
        with router.opened(value.topology, value.object) as found:
            if found is not None and found.nexthops():
                _check_netns(found.netns(), value)
    return value


def restored(before: Value, now: Value) -> bool:
    return _policies.is_restored(before, now)


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


def prechecked(host: Host, operations: t.Sequence[Operation], plan: model.Plan) -> t.List[str]:
    """Notes on new members; PlanError when one will not do and nothing of the plan could mend it."""
    notes = []
    for operation in operations:
        if operation.after is not None:
            what = str(operation.after.key())
            notes += _policies.check_attachments(operation.after, plan, what)
            notes += _policies.narrow_ways(host, operation.after, _unproven(operation), plan, what)
        if not _policies.is_prepared_by(plan):
            notes += _validated(host, operation, resolve=False)
    return notes


def _validated(host: Host, operation: Operation, resolve: bool) -> t.List[str]:
    after = operation.after
    if after is None:
        return []
    return _policies.check_hops(
        host,
        after.netns or "",
        dict.fromkeys(_unproven(operation), True),
        after.validate or _policies.OFF,
        resolve,
        str(after.key()),
    )


def _unproven(operation: Operation) -> t.List[NextHop]:
    """The members to be validated. Drained ones were never asked about; in another namespace all are new."""
    before, after = operation.before, operation.after
    known = before.members or {} if before is not None and before.netns == after.netns else {}
    return [hop for hop in after.hops() if not known.get(str(hop)) and (after.members or {})[str(hop)]]


# --- changing -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    value = after or before
    netns = value.netns or ""
    host.forget_tables()  # devices may have come before, in the same run
    with router.opened(value.topology, value.object) as found:
        if found is None:
            if after is None:
                return  # the object went, and its pools with it
            raise PlanError(f"bpf_object {value.topology}/{value.object} is not loaded")
        image = found.pool_image()
        if after is None:
            _check_unused(image, value)
        else:
            if image.nexthops:
                _check_netns(image.netns, value)
            host.notes += _validated(host, operation, resolve=True)
            _policies.add_neighbors(host, netns, after.hops())
        target = after.pool() if after is not None else None
        index_of = _policies.index_finder(host, netns)
        found.write(router.writes_for_pool(image, found.pool_state(), value.name, target, index_of))
        if after is not None and image.netns != netns:
            found.write([router.settings_step(netns)])
    _policies.drop_neighbors(host, netns, _policies.used_next_hops(netns))


def _check_unused(image: router.Image, value: Value) -> None:
    if router.users_of_pool(image, value.name):
        raise PlanError(
            f"{value.key()} is named by entries; let them lead elsewhere or remove them first (bpf_policy_entry)"
        )


def _check_netns(netns: str, value: Value) -> None:
    if netns != (value.netns or ""):
        raise PlanError(
            f"{value.key()}: the router looks devices up in {netns or 'the host namespace'}; give the same netns"
        )


# --- telling --------------------------------------------------------------------------------------------------------------


def shown(value: Value) -> t.Dict[str, t.Any]:
    found = to_item(value)[1]
    return {**found, "mode": value.mode}


def summary(before: Value, after: Value) -> str:
    """Why a pool is changed."""
    had, has = before.members or {}, after.members or {}
    parts = [f"member {line} added (weight {has[line]})" for line in has if line not in had]
    parts += [f"member {line} removed" for line in had if line not in has]
    parts += [
        f"weight of {line} {had[line]} -> {has[line]}"
        for line in has
        if had.get(line, has[line]) != has[line]
    ]
    for name in ("mode", "symmetric", "netns", "health", "neighbors"):
        one, other = getattr(before, name), getattr(after, name)
        if one != other and not (name == "neighbors" and parts):
            parts.append(f"{name} {_text(one)} -> {_text(other)}")
    return ", ".join(parts)


def _text(value: t.Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"


def diff_lines(before: t.Optional[Value], after: t.Optional[Value]) -> t.Tuple[t.List[str], t.List[str]]:
    """The settings of a pool on one line, and a line for each member."""
    return _lines(before), _lines(after)


def _lines(value: t.Optional[Value]) -> t.List[str]:
    if value is None:
        return []
    name = f"pool {value.topology}/{value.object}:{value.name}"
    amiss = [text for text in (value.health, value.neighbors) if text not in (OK, None)]
    head = [f"mode {value.mode}", *(["symmetric"] if value.symmetric else []), *amiss]
    return [
        f"{name}: {' '.join(head)}",
        *(f"{name}: member {line} weight {weight}" for line, weight in (value.members or {}).items()),
    ]


def line_of(value: Value) -> str:
    """The pool in a text about a topology."""
    members = ", ".join(f"{line} x{weight}" for line, weight in (value.members or {}).items())
    return f"pool {value.topology}/{value.object}:{value.name} ({value.mode}): {members}"


def commands(operation: Operation) -> t.List[str]:
    value = operation.value
    directory = f"/sys/fs/bpf/cnf/{value.topology}/{value.object}/maps"
    if operation.after is None:
        return [f"bpftool map delete pinned {directory}/pool_names  # {value.name}"]
    members = ", ".join(f"{line} x{weight}" for line, weight in (value.members or {}).items())
    return [f"bpftool map update pinned {directory}/members  # the table of {value.name}: {members}"]


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    members = []
    for hop, weight in value.pool().members:
        member: t.Dict[str, t.Any] = {"interface": hop.interface, "weight": weight}
        if hop.address:
            member["address"] = hop.address
        members.append(member)
    item: t.Dict[str, t.Any] = {"object": value.object, "name": value.name, "members": members}
    if value.netns:
        item["netns"] = value.netns
    if value.mode != "flow":
        item["mode"] = value.mode
    if value.symmetric:
        item["symmetric"] = True
    return SECTION, item
