# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The policy of a router: all entries of one object are one resource, so that a hundred thousand of them are one operation.

Items that name the same object are parts of one value (``joined``). A topology declares the whole policy of its objects; a
single task patches what is there, unless it is exclusive.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import pwd
import syslog
import typing as t

from .._bpf import objects, policy_input, router
from .._bpf import policy as words
from .._bpf.policy import CONDITIONS, POOL, Match, NextHop, Policy, PolicyError
from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import CnfError, PlanError, SpecError
from .._kernel.host import Host
from . import _fields, _policies, bpf_object, bpf_pool

NAME = SECTION = "bpf_policy_entry"
RANK = 84  # before the router is attached, after its pools
BORROWED = False
LINGERS = True
WHOLE = True
NAMES_DEVICES = True
OK = bpf_object.OK
SHOWN_ENTRIES = 1000  # in results and differences; more would take longer to print than to write
AUDITED_ENTRIES = 1000
ROUNDS = 3

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "object": {"type": "str"},
    "topology": {"type": "str"},
    "netns": {"type": "str"},
    "source": {"type": "str"},
    "destination": {"type": "str"},
    "protocol": {"type": "str"},
    "destination_port": {"type": "str"},
    "family": {"type": "str", "choices": list(policy_input.FAMILIES)},
    "interface": {"type": "str"},
    "next_hop": {"type": "str"},
    "next_hops": {"type": "list", "elements": "raw"},
    "pool": {"type": "str"},
    "action": {"type": "str", "choices": list(words.VERDICTS)},
    "strict": {"type": "bool"},
    "liveness": {"type": "bool"},
    "priority": {"type": "int"},
    "comment": {"type": "str"},
    "file": {"type": "str"},
    "content": {"type": "str"},
    "exclusive": {"type": "bool", "default": False},
    "validate": {"type": "str", "choices": list(_policies.VALIDATE), "default": _policies.STRICT},
    "audit": {"type": "bool", "default": True},
}
REQUIRED = ("object",)
ALONE: t.Tuple[str, ...] = ()  # with none of these an item is the default entry, and with entries: [] nothing
BESIDE_ENTRIES = (*policy_input.ENTRY_FIELDS, "file")


@dataclasses.dataclass(frozen=True)
class Value:
    """The policy of a router, or what a declaration says about it.

    Declared only: ``exclusive``, ``drop`` (matches to be removed), ``validate`` and ``audit``. ``health`` and ``neighbors`` say
    what is amiss with the router's tables, and with the neighbours of its next hops.
    """

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("object",)

    object: str
    topology: str
    policy: Policy
    netns: t.Optional[str] = None
    health: t.Optional[str] = None
    neighbors: t.Optional[str] = None
    owner: t.Optional[str] = None
    exclusive: t.Optional[bool] = None
    drop: t.Optional[t.FrozenSet[Match]] = None
    validate: t.Optional[str] = None
    audit: t.Optional[bool] = None

    def key(self) -> Key:
        return Key(NAME, "", f"{self.topology}/{self.object}")

    def needs(self) -> t.Tuple[Key, ...]:
        """Declared policies need the devices that they name. Observed ones outlive them."""
        found = [bpf_object.key_of(self.topology, self.object)]
        if self.exclusive is not None:
            interfaces = {hop.interface for action in self.policy.actions() for hop in action.next_hops}
            there = sorted(
                name for name in interfaces if not name.endswith(_policies.GONE)
            )  # read from a host, to be put back
            found += [Key("link", self.netns or "", name) for name in there]
            found += [
                bpf_pool.key_of(self.topology, self.object, action.pool)
                for action in self.policy.actions()
                if action.kind == POOL
            ]
        return tuple(dict.fromkeys(found))

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def stands_on(key: Key) -> t.Tuple[Key, ...]:
    return (Key(bpf_object.NAME, "", key.id),)


# --- input ----------------------------------------------------------------------------------------------------------------


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    _fields.require(item, REQUIRED, path)
    value = Value(
        bpf_object.object_name(item["object"], f"{path}.object"),
        _policies.topology_of(item, path, owner),
        _policy_of(item, path),
        netns=_netns_of(item, path, owner),
        health=OK,
        neighbors=OK,
        owner=model.ANY_TOPOLOGY,
        exclusive=bool(item.get("exclusive")) or owner != _fields.TASKS,
        drop=frozenset(),
        validate=item["validate"],
        audit=item["audit"],
    )
    return [Desired(value, path, adopt=bool(item.get("adopt")))]


def _netns_of(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.Optional[str]:
    """Where devices are looked up; None for a single task that does not say: where the other entries are."""
    if item.get("netns") is None and owner == _fields.TASKS:
        return None
    return _fields.netns(item.get("netns"), f"{path}.netns")


def _policy_of(item: t.Mapping[str, t.Any], path: str) -> Policy:
    if item.get("file") or item.get("content"):
        return _file_policy(item, path)
    builder = policy_input.Builder()
    builder.add(policy_input.entry_of(item, path), path)
    return builder.policy()


def _file_policy(item: t.Mapping[str, t.Any], path: str) -> Policy:
    beside = [name for name in policy_input.ENTRY_FIELDS if item.get(name) not in (None, "")]
    if beside:
        raise SpecError(f"{path}.{beside[0]}", "cannot stand beside file, whose lines say it")
    if not item.get("content"):
        raise SpecError(
            f"{path}.file", "its content did not come along; this is a fault of the action plugin"
        )
    try:
        return Policy.from_text(item["content"])
    except PolicyError as problem:
        raise SpecError(f"{path}.file", str(problem)) from problem


def joined(parts: t.Sequence[Desired]) -> Desired:
    """One declaration from those that are about the same object. SpecError where they disagree."""
    first = parts[0]
    builder, prebuilt = policy_input.Builder(), []
    for part in parts:
        for name in ("netns", "exclusive", "validate", "audit"):
            if getattr(part.value, name) != getattr(first.value, name):
                raise SpecError(
                    f"{part.path}.{name}",
                    f"is another than that of {first.path}; an object has one for all entries",
                )
        if len(part.value.policy) > 2:
            prebuilt.append(part)
            continue
        policy = part.value.policy
        for table, rows in policy.tables.items():
            for key, action in rows.items():
                entry = policy_input.Entry(
                    ((table, key),),
                    action,
                    policy.priorities.get(key, 0),
                    policy.comments.get((table, key), ""),
                )
                builder.add(entry, part.path)
    whole = builder.policy() if len(parts) > len(prebuilt) else Policy()
    for part in prebuilt:
        whole = _with_file(whole, part, first.path) if len(whole) else part.value.policy
    drop = frozenset(match for part in parts for match in part.value.drop or ())
    value = dataclasses.replace(first.value, policy=whole, drop=drop)
    _check_conditions(value.policy, first.path)
    return dataclasses.replace(first, value=value, adopt=any(part.adopt for part in parts))


def _with_file(whole: Policy, part: Desired, other: str) -> Policy:
    policy = part.value.policy
    for table, rows in policy.tables.items():
        twice = rows.keys() & whole.table(table).keys()
        if twice:
            match = words.match_text(table, min(twice))
            raise SpecError(f"{part.path}.file", f"{match} is there already ({other}); name each match once")
    return whole.patched(policy)


def _check_conditions(policy: Policy, path: str) -> None:
    try:
        words.compiled(policy.table(CONDITIONS), policy.priorities)
    except PolicyError as problem:
        raise SpecError(path, str(problem)) from problem


def from_entries(
    params: t.Mapping[str, t.Any], entries: t.Sequence[t.Tuple[str, t.Mapping[str, t.Any]]]
) -> t.List[Desired]:
    """The entries of a single task, of one object; also none at all, for ``exclusive``."""
    if entries:
        return [found for path, item in entries for found in parse(item, path, _fields.TASKS)]
    empty = dict.fromkeys(policy_input.ENTRY_FIELDS)
    (found,) = parse({**params, **empty, "action": words.PASS}, SECTION, _fields.TASKS)
    return [dataclasses.replace(found, value=dataclasses.replace(found.value, policy=Policy()))]


def removals(items: t.Sequence[t.Tuple[str, t.Mapping[str, t.Any]]]) -> t.List[Desired]:
    """What a single task with state absent wants: the policy without these matches."""
    found = []
    for path, item in items:
        _fields.require(item, REQUIRED, path)
        name = bpf_object.object_name(item["object"], f"{path}.object")
        if not objects.map_names(_policies.topology_of(item, path, _fields.TASKS), name):
            continue  # without the object there are no entries
        if item.get("file") or item.get("content"):
            policy = _file_policy(item, path)
            drop = [(table, key) for table, rows in policy.tables.items() for key in rows]
        else:
            drop = list(policy_input.entry_of(item, path, needs_action=False).matches)
        plain = {**item, **dict.fromkeys((*policy_input.ENTRY_FIELDS, "file", "content"))}
        (desired,) = parse({**plain, "action": words.PASS, "exclusive": False}, path, _fields.TASKS)
        value = dataclasses.replace(desired.value, policy=Policy(), drop=frozenset(drop))
        found.append(dataclasses.replace(desired, value=value))
    return found


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    _fields.require(item, REQUIRED, path)
    topology = _policies.topology_of(item, path, _fields.TASKS)
    return [Key(NAME, "", f"{topology}/{bpf_object.object_name(item['object'], f'{path}.object')}")]


# --- what there is --------------------------------------------------------------------------------------------------------


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    found = {}
    for key, declared in wanted.items():
        if key.kind == NAME:
            topology_name, name = key.id.split("/", 1)
            if declared is None and "notes" not in objects.map_names(topology_name, name):
                continue  # it was a router once
            value = observed(host, topology_name, name)
            if value is not None and (declared is not None or len(value.policy)):
                found[key] = value
    return found


def observed(host: Host, topology: str, name: str) -> t.Optional[Value]:
    """The policy of a router as it is; None when no router is loaded under the name."""
    if not _policies.existing_router(host, topology, name):
        return None
    with router.opened(topology, name) as found:
        if found is None:
            return None
        image = found.image()
    return _value_of(host, topology, name, image)


def _value_of(host: Host, topology: str, name: str, image: router.Image) -> Value:
    names = _policies.name_finder(host, image.netns)
    policy = router.policy_of(image, names)
    hops = {hop for action in policy.actions() for hop in action.next_hops}
    missing = _policies.missing_neighbors(host, image.netns, sorted(hops))
    stale = _policies.stale_neighbors(host, image.netns)
    lacking = [f"missing for {', '.join(map(str, missing))}"] if missing else []
    lacking += [f"left over for {', '.join(stale)}"] if stale else []
    return Value(
        name,
        topology,
        policy,
        netns=image.netns if len(policy) or image.nexthops else "",  # with nothing to look up, none
        health=_health_of(host, image, policy, names),
        neighbors="; ".join(lacking) or OK,
        owner=model.ANY_TOPOLOGY,
    )


def _health_of(host: Host, image: router.Image, policy: Policy, names: router.NameOf) -> str:
    """What in the tables is not as the entries want it: classes of ports, priorities, counters."""
    without = router.uncounted(image, policy)
    if without:
        return f"{without} entries without counter"
    if not policy.table(CONDITIONS) and not image.ports and not image.protocols and not image.rows:
        return OK
    small = image._replace(choices={})
    only = Policy(
        {name: policy.table(name) for name in (CONDITIONS, words.DEFAULTS)},
        policy.priorities,
        policy.comments,
    )
    if any(_policies.GONE in hop.interface for action in only.actions() for hop in action.next_hops):
        return OK  # it differs from what is declared in any case
    try:
        index_of = _policies.observed_index_finder(host, image.netns)
        writes = router.writes_for_policy(small, only, image.netns, names, index_of)
    except CnfError as problem:
        return str(problem)
    wrong = {step.map for step in writes.steps if step.map.startswith(("conditions", "ports", "protocols"))}
    return f"differs in {', '.join(sorted(wrong))}" if wrong else OK


def merged(before: Value, desired: Value) -> Value:
    policy = (
        desired.policy if desired.exclusive else before.policy.patched(desired.policy, desired.drop or ())
    )
    netns = desired.netns if len(policy) else before.netns
    result = dataclasses.replace(
        before, netns=netns, policy=policy, health=OK, neighbors=OK, validate=None, audit=None
    )
    if result == before:
        return before
    return dataclasses.replace(result, validate=desired.validate, audit=desired.audit)


def settled(host: Host, value: Value, current: t.Optional[Value]) -> Value:
    """Refuse what does not fit the loaded router while nothing has been changed yet."""
    if value.netns is None:
        value = dataclasses.replace(value, netns=(current.netns if current is not None else None) or "")
    if current is None or bpf_object.is_changing(host, value.topology, value.object):
        return value
    target = merged(current, value).policy
    words.compiled(target.table(CONDITIONS), target.priorities)
    with router.opened(value.topology, value.object) as found:
        if found is not None:
            lacking = router.lacking_room(
                target, {name: found.info(name).max_entries for name in router.LAYOUT}
            )
            if lacking:
                raise PlanError(f"bpf_object {value.topology}/{value.object}: {lacking}")
    return value


def is_empty(value: Value) -> bool:
    """Whether nothing is left of what a task could have put there."""
    return value.drop is None and not len(value.policy)


def restored(before: Value, now: Value) -> bool:
    return _policies.is_restored(before, now)


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


def summary(before: Value, after: Value) -> str:
    """Why a policy is changed, in few words."""
    found = words.difference(before.policy, after.policy)
    parts = [str(found)] if found else []
    if len(found) == 1:
        (match,) = [*found.added, *found.removed, *found.changed]
        parts = [f"{_verb(found)} {words.match_text(*match)}"]
    if after.netns != before.netns and len(before.policy):
        parts.append(f"netns {before.netns or 'none'} -> {after.netns or 'none'}")
    if not found:
        parts += [
            f"{name} {getattr(before, name)} -> {getattr(after, name)}"
            for name in ("health", "neighbors")
            if getattr(before, name) != getattr(after, name)
        ]
    return ", ".join(parts) or "validated anew"


def _verb(found: words.Difference) -> str:
    return "added" if found.added else "removed" if found.removed else "changed"


# --- validation -----------------------------------------------------------------------------------------------------------


def prechecked(host: Host, operations: t.Sequence[Operation], plan: model.Plan) -> t.List[str]:
    """Notes on the next hops of new entries. PlanError when one of them will not do and nothing of the plan could mend it."""
    notes = []
    for operation in operations:
        after = operation.after
        if after is None:
            continue
        notes += _counter_note(after)
        what = f"{NAME} {after.topology}/{after.object}"
        if any(action.next_hops for action in after.policy.actions()):
            notes += _policies.check_attachments(after, plan, what)
            notes += _policies.narrow_ways(host, after, _unproven(operation), plan, what)
        if not _policies.is_prepared_by(plan):
            notes += _validated(host, operation, resolve=False)
    return notes


def _counter_note(after: Value) -> t.List[str]:
    """What entries beyond the room of the counters' map lack."""
    with router.opened(after.topology, after.object) as found:
        room = found.info("entry_counters").max_entries - 1 if found is not None else len(after.policy)
    if len(after.policy) <= room:
        return []
    note = (
        f"{NAME} {after.topology}/{after.object}: {len(after.policy) - room} of {len(after.policy)} entries are not counted; "
        f"to count all, load the object with maps: {{entry_counters: {len(after.policy) + 1}}}"
    )
    return [note]


def _validated(host: Host, operation: Operation, resolve: bool) -> t.List[str]:
    after = operation.after
    what = f"{NAME} {after.topology}/{after.object}"
    return _policies.check_hops(
        host, after.netns or "", _unproven(operation), after.validate or _policies.OFF, resolve, what
    )


def _unproven(operation: Operation) -> t.Dict[NextHop, bool]:
    """The next hops to be validated, and whether their liveness is asked for; in another namespace all are new."""
    before, after = operation.before, operation.after
    is_there = before is not None and before.netns == after.netns
    return _new_hops(before.policy if is_there else Policy(), after.policy)


def _new_hops(before: Policy, after: Policy) -> t.Dict[NextHop, bool]:
    """The next hops that come with new or changed entries or whose liveness is newly asked for, and whether it is."""
    known, wanted = _liveness_of(before), _liveness_of(after)
    return {
        hop: is_live for hop, is_live in wanted.items() if hop not in known or (is_live and not known[hop])
    }


def _liveness_of(policy: Policy) -> t.Dict[NextHop, bool]:
    """The next hops of a policy, and whether the liveness of any is asked for."""
    found: t.Dict[NextHop, bool] = {}
    for action in policy.actions():
        for hop in action.next_hops:
            found[hop] = found.get(hop, False) or action.liveness
    return found


# --- changing -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    value = after or before
    target = after.policy if after is not None else Policy()
    netns = value.netns or ""
    host.forget_tables()  # devices may have come before, in the same run
    log = _audited(host, value, before.policy if before is not None else Policy())
    with router.opened(value.topology, value.object) as found:
        if found is None:
            if after is None:
                return  # the object went, and its entries with it
            raise PlanError(f"bpf_object {value.topology}/{value.object} is not loaded")
        if after is not None and after.validate:
            host.notes += _validated(host, operation, resolve=True)
        if after is not None:
            hops = {hop for action in target.actions() for hop in action.next_hops}
            _policies.add_neighbors(host, netns, sorted(hops))
        _write(host, found, target, netns, _counts(host, value))
    _policies.drop_neighbors(host, netns, _policies.used_next_hops(netns))
    if before is not None and before.netns not in (None, netns):
        _policies.drop_neighbors(host, before.netns, _policies.used_next_hops(before.netns))
    if log is not None:
        log.after = target


def _write(host: Host, found: router.Router, target: Policy, netns: str, counts: _Counts) -> None:
    image = found.image()
    counts.keep(found, image, target)
    back = counts.of_missing(image, target)
    for number in range(ROUNDS):
        image = found.image() if number else image
        names = _policies.name_finder(host, netns)
        lacking = router.lacking_room(target, image.sizes)
        if lacking:
            raise PlanError(lacking)
        writes = router.writes_for_policy(image, target, netns, names, _policies.index_finder(host, netns))
        found.write(writes.steps)
        if not writes.again:
            break
    counts.give_back(found, back)


def _counts(host: Host, value: Value) -> _Counts:
    return t.cast(_Counts, host.kept.setdefault((NAME, "counts", value.key()), _Counts()))


class _Counts:
    """What entries had counted that a run removes, so that undo, which puts them back, lets them go on counting from there.

    Of very many, which the kernel would have to be asked for one CPU after the other, nothing is remembered.
    """

    MOST = 10_000

    def __init__(self) -> None:
        self.rows: t.Dict[Match, bytes] = {}

    def close(self) -> None:
        """Nothing to close."""

    def keep(self, found: router.Router, image: router.Image, target: Policy) -> None:
        going = router.going(image, target)
        if not 0 < len(going) <= self.MOST:
            return
        counters = router.counters_of(image, going)
        rows = found.counted(set(counters.values())) if counters else {}
        self.rows.update((match, rows[counter]) for match, counter in counters.items() if counter in rows)

    def of_missing(self, image: router.Image, target: Policy) -> t.List[Match]:
        """The entries that come back with what is to be written."""
        wanted = [match for match in self.rows if match[1] in target.table(match[0])]
        there = router.counters_of(image, wanted)
        return [match for match in wanted if match not in there]

    def give_back(self, found: router.Router, matches: t.Sequence[Match]) -> None:
        if matches:
            counters = router.counters_of(found.image(), matches)
            found.count_on({counter: self.rows.pop(match) for match, counter in counters.items()})


# --- the audit log --------------------------------------------------------------------------------------------------------


def _audited(host: Host, value: Value, before: Policy) -> t.Optional[_Audit]:
    """What remembers, until the run is over, how a policy was: what was put back in the meantime did not happen.

    Undo, whose values say nothing of the log, only goes on with what a change has begun.
    """
    place = (NAME, "audit", value.key())
    log = t.cast(t.Optional[_Audit], host.kept.get(place))
    if log is None and value.audit:
        log = host.kept[place] = _Audit(f"{value.topology}/{value.object}", before)
        host.at_end(log.tell)
    return log


class _Audit:
    """The policy of a router before a run, and now; ``tell`` writes the differences to the system's log."""

    def __init__(self, name: str, before: Policy) -> None:
        self.name = name
        self.before = self.after = before

    def close(self) -> None:
        """Nothing to close."""

    def tell(self) -> None:
        lines = audit_lines(self.name, who(), self.before, self.after)
        if lines:
            syslog.openlog("cnf-ebpf", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
            for line in lines:
                syslog.syslog(syslog.LOG_NOTICE, line)
            syslog.closelog()


def audit_lines(name: str, user: str, before: Policy, after: Policy) -> t.List[str]:
    """A line for each entry that changed, from what to what, and one more when there are too many."""
    found = words.difference(before, after)
    rows = [*found.changed, *found.removed, *found.added]
    lines = []
    for match in rows[:AUDITED_ENTRIES]:
        had = words.entry_text(before, *match) if match[1] in before.table(match[0]) else "none"
        has = words.entry_text(after, *match) if match[1] in after.table(match[0]) else "none"
        lines.append(f"policy {name}: {user} changed {had} -> {has}")
    if len(rows) > AUDITED_ENTRIES:
        lines.append(
            f"policy {name}: {user} changed {len(rows) - AUDITED_ENTRIES} more entries ({found}), now of digest {after.digest()}"
        )
    return lines


def who() -> str:
    """Who acts: the one who logged in, also behind sudo, else the user of the process."""
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            number = int(file.read())
        if number != 0xFFFFFFFF:
            return pwd.getpwuid(number).pw_name
    except (OSError, ValueError, KeyError):
        pass
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):
        return str(os.getuid())


# --- telling --------------------------------------------------------------------------------------------------------------


def shown(value: Value) -> t.Dict[str, t.Any]:
    """The policy in a result: its size, and its entries unless they are too many."""
    fields: t.Dict[str, t.Any] = {"object": value.object, "count": len(value.policy)}
    if value.netns:
        fields["netns"] = value.netns
    if len(value.policy) <= SHOWN_ENTRIES:
        fields["entries"] = [words.entry_item(value.policy, *match) for match in words.matches(value.policy)]
    return fields


def diff_lines(before: t.Optional[Value], after: t.Optional[Value]) -> t.Tuple[t.List[str], t.List[str]]:
    """The entries that differ, one on a line."""
    name = (after or t.cast(Value, before)).key().id
    old, new, more = words.change_lines(
        before.policy if before else Policy(), after.policy if after else Policy(), SHOWN_ENTRIES
    )
    if before is not None and after is not None and len(before.policy):
        amiss = ("netns",) if old or new else ("netns", "health", "neighbors")
        for name_of_field in amiss:
            had, has = getattr(before, name_of_field), getattr(after, name_of_field)
            if had != has:
                old.append(f"{name_of_field} {had or 'none'}")
                new.append(f"{name_of_field} {has or 'none'}")
    if more:
        new.append(more)
    return [f"policy {name}: {line}" for line in old], [f"policy {name}: {line}" for line in new]


def line_of(value: Value) -> str:
    """The policy in a text about a topology."""
    lines = [f"policy {value.key().id}: {value.policy}"]
    if len(value.policy) <= SHOWN_ENTRIES:
        lines += [f"  {words.entry_text(value.policy, *match)}" for match in words.matches(value.policy)]
    return "\n".join(lines)


def commands(operation: Operation) -> t.List[str]:
    before = operation.before.policy if operation.before is not None else Policy()
    after = operation.after.policy if operation.after is not None else Policy()
    found = words.difference(before, after)
    directory = f"/sys/fs/bpf/cnf/{operation.value.topology}/{operation.value.object}/maps"
    lines = []
    for match in [*found.added, *found.changed][:SHOWN_ENTRIES]:
        lines.append(
            f"bpftool map update pinned {directory}/{_map_of(match)}  # {words.entry_text(after, *match)}"
        )
    for match in found.removed[:SHOWN_ENTRIES]:
        lines.append(f"bpftool map delete pinned {directory}/{_map_of(match)}  # {words.match_text(*match)}")
    return lines


def _map_of(match: Match) -> str:
    table, key = match
    return f"conditions{4 if len(key.address) == 4 else 6}" if table == CONDITIONS else table


def to_item(value: Value) -> t.Tuple[str, t.List[t.Dict[str, t.Any]]]:
    common: t.Dict[str, t.Any] = {"object": value.object}
    if value.netns:
        common["netns"] = value.netns
    return SECTION, [
        {**common, **words.entry_item(value.policy, *match)} for match in words.matches(value.policy)
    ]
