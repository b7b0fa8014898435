# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The plan: a pure function of (desired, observed, claimed). It decides everything; applying it decides nothing.

Order: what must go first (dependants before what they stand on), then what is created or changed (what is needed before
what needs it), and namespaces that go last of all, because what a namespace held cannot be brought back by an inverse.
"""

from __future__ import annotations

import dataclasses
import typing as t

from .._errors import PlanError, UnsupportedError
from . import model
from .model import CHANGE, CREATE, DELETE, Claim, Desired, Key, Observed, Operation, Plan
from .state import State

Kinds = t.Mapping[str, model.Kind]


def make_plan(
    kinds: Kinds,
    topology: str,
    desired: t.Sequence[Desired],
    observed: Observed,
    claims: t.Mapping[Key, Claim],
    prune: t.Container[Key] = (),
    adopt: bool = False,
    insist: bool = False,
) -> Plan:
    """The operations that bring ``observed`` to ``desired``, and remove or give back the claimed keys in ``prune``.

    ``adopt`` lets a removal take foreign objects along; ``insist`` makes a foreign object in the way of a removal an error
    instead of a note. Raises PlanError or UnsupportedError; nothing has been touched then.
    """
    return _Planner(kinds, topology, observed, claims, adopt, insist).plan(desired, prune)


class _Planner:
    """The working state of one plan: what the host will have after the operations collected so far."""

    def __init__(
        self,
        kinds: Kinds,
        topology: str,
        observed: Observed,
        claims: t.Mapping[Key, Claim],
        adopt: bool,
        insist: bool,
    ) -> None:
        self.kinds = kinds
        self.topology = topology
        self.observed = observed
        self.claims = claims
        self.adopt = adopt
        self.insist = insist
        self.state = State(observed.values)
        self.observed_names = {name for value in observed.values.values() for name in value.provides()}
        self.made: t.Set[Key] = set()
        self.operations: t.List[Operation] = []
        self.notes: t.List[str] = []

    def plan(self, desired: t.Sequence[Desired], prune: t.Container[Key]) -> Plan:
        desired = [self._supported(item) for item in desired]
        declared = {item.key for item in desired}
        rebuilt = [item for item in desired if self._must_rebuild(item)]
        leaving = [key for key in self.claims if key in prune and key not in declared]
        doomed = [key for key in leaving if key in self.state and not self.claims[key].displaced_by]
        self._check_needs(desired, {name for key in doomed for name in self.state[key].provides()})
        last = [key for key in doomed if getattr(self.kinds[key.kind], "GOES_LAST", False)]
        self._remove([key for key in doomed if key not in last], {item.key: item for item in rebuilt})
        self._put_back(leaving)
        for item in self._in_order(desired):
            self._converge(item)
        self._remove([key for key in last if key in self.state], {})
        self._remove_namespaces([key for key in doomed if key.kind == "netns"])
        return Plan(tuple(self.operations), tuple(self.notes))

    # --- what is wanted --------------------------------------------------------------------------------------------

    def _supported(self, item: Desired) -> Desired:
        """The item, or its declared alternative when the kernel cannot make it."""
        current = self.state.get(item.key)
        if current is not None and item.alternative is None:
            return item
        lacking = self.observed.supports(item.value)
        if lacking is None:
            return item
        if item.alternative is None:
            remedy = getattr(self.kinds[item.key.kind], "remedy", lambda value: "use a kernel that has it")
            raise UnsupportedError(f"{item.path}: {lacking}; {remedy(item.value)}")
        self.notes.append(f"{item.key}: {lacking}; the declared fallback is used: {item.alternative.kind}")
        return dataclasses.replace(item, value=item.alternative, alternative=None)

    def _check_needs(self, desired: t.Sequence[Desired], going: t.Container[Key]) -> None:
        provided = {key for item in desired for key in item.value.provides()}
        for item in desired:
            for key in item.value.needs():
                if key not in provided and key in going:
                    raise PlanError(
                        f"{item.path}: needs {key}, which this run removes because it is no longer declared; declare it"
                    )
                if key not in provided and not self.observed.exists(key):
                    what = f"namespace {key.id!r}" if key.kind == "netns" else f"{key}"
                    raise PlanError(
                        f"{item.path}: {what} is neither declared nor present on the host; "
                        f"declare it under {key.kind} or correct the name"
                    )

    def _in_order(self, desired: t.Sequence[Desired]) -> t.List[Desired]:
        """By rank of the kind, a needed item before the one that needs it, otherwise as declared."""
        by_rank = sorted(desired, key=self._precedence)
        provider = {key: item for item in desired for key in item.value.provides()}
        ordered: t.List[Desired] = []
        state: t.Dict[int, bool] = {}  # False: being visited, True: placed

        def visit(item: Desired) -> None:
            if state.get(id(item)) is not None:
                if not state[id(item)]:
                    raise PlanError(
                        f"{item.path}: {item.key} needs itself, directly or through others; remove the loop"
                    )
                return
            state[id(item)] = False
            for key in (*item.value.needs(), *_follows(item.value)):
                if key in provider and provider[key] is not item:
                    visit(provider[key])
            state[id(item)] = True
            ordered.append(item)

        for item in by_rank:
            visit(item)
        return ordered

    def _precedence(self, item: Desired) -> t.Tuple[int, int, bool]:
        """Rank of the kind; what spreads to others; then changes, which may free names, before what is new."""
        return (self.kinds[item.key.kind].RANK, self._spread(item.key), item.key not in self.state)

    def _spread(self, key: Key) -> int:
        return int(key.id not in getattr(self.kinds[key.kind], "SPREADING", ()))

    def _converge(self, item: Desired) -> None:
        kind = self.kinds[item.key.kind]
        current = self.state.get(item.key)
        if current is None:
            if kind.BORROWED and not self._needs_new(item):
                raise PlanError(
                    f"{item.path}: {item.key} is not there to be configured; correct the name or create it"
                )
            self._check_names_free(item)
            self._do(Operation(CREATE, item.key, None, item.value, "missing"))
            return
        target = self._merged(item.key, item.value)
        if (
            kind.BORROWED
            and current.owner not in (None, self.topology)
            and target != current
            and not item.adopt
        ):
            raise PlanError(f"{item.path}: {item.key} {whose(current)}; change it there or set adopt: true")
        if not kind.BORROWED and not self._is_ours(item.key, current):
            if self._is_shared(current, target):
                return  # exactly as wanted, made by somebody else: theirs it stays
            self._check_foreign(item, current)
        if target == current:
            return
        if getattr(current, "blocked", None):
            raise PlanError(
                f"{item.path}: {item.key}: its name is taken by a link that is not ours ({current.blocked}); rename that one first"
            )
        changes = self._summary(item.key, current, target)
        start = len(self.operations)
        self._do(Operation(CHANGE, item.key, current, target, changes or "taken over (adopt)"))
        self._put_back_foreign({op.key: op.before for op in self.operations[start:] if op.within == item.key})

    def _summary(self, key: Key, current: t.Any, target: t.Any) -> str:
        """What a change consists of: field by field, unless the kind has better words."""
        summary = getattr(self.kinds[key.kind], "summary", None)
        if summary:
            return str(summary(current, target))
        return ", ".join(
            f"{name} {_text(had)} -> {_text(has)}"
            for name, had, has in model.differences(current, target, skip=model.BOOKKEEPING)
            if has is not None or name not in model.field_names(type(target))  # within a mapping: taken out
        )

    def _check_names_free(self, item: Desired) -> None:
        """A far end's name may be held by a link that is nobody's business here."""
        for key in item.value.provides()[1:]:
            if self.state.provides(key) or (self.observed.exists(key) and key not in self.observed_names):
                raise PlanError(
                    f"{item.path}: {key} exists and was not made for this; choose another name or remove it first"
                )

    def _merged(self, key: Key, wanted: t.Any) -> t.Any:
        return merged(self.kinds[key.kind], self.state[key], wanted)

    def _needs_new(self, item: Desired) -> bool:
        """Whether what the item stands on is itself made by this plan, so that it could not be observed yet."""
        return any(key in self.made for key in item.value.needs())

    # --- whose it is -----------------------------------------------------------------------------------------------

    def _is_ours(self, key: Key, current: t.Any) -> bool:
        claim = self.claims.get(key)
        return current.owner in (self.topology, model.ANY_TOPOLOGY) or bool(claim and claim.unfinished)

    @staticmethod
    def _is_shared(current: t.Any, target: t.Any) -> bool:
        """Addresses, routes, rules and neighbours that are exactly as wanted need not be ours."""
        return (
            getattr(current, "SHAREABLE", False)
            and dataclasses.replace(target, owner=current.owner) == current
        )

    def _check_foreign(self, item: Desired, current: t.Any) -> None:
        if not item.adopt:
            raise PlanError(
                f"{item.path}: {item.key} exists and {whose(current)}; choose another name or set adopt: true"
            )

    # --- what goes -------------------------------------------------------------------------------------------------

    def _must_rebuild(self, item: Desired) -> bool:
        """Whether the item differs in what only a new object can have; raises when that was not allowed."""
        kind = self.kinds[item.key.kind]
        current = self.state.get(item.key)
        if current is None or kind.BORROWED:
            return False
        broken = getattr(kind, "broken", None)
        if broken and broken(current) and self._is_ours(item.key, current):
            return True
        target = self._merged(item.key, item.value)
        names = kind.fixed(current, target) if target != current else []
        if not names:
            return False
        if not self._is_ours(item.key, current):
            self._check_foreign(item, current)
        if not item.recreate:
            wanted = {name: (had, has) for name, had, has in model.differences(current, target)}
            what = ", ".join(f"{name} {_text(wanted[name][0])} -> {_text(wanted[name][1])}" for name in names)
            raise PlanError(
                f"{item.path}: {item.key} exists and the kernel fixes {what} at creation; set recreate: true to rebuild it"
            )
        return True

    def _remove(self, doomed: t.Sequence[Key], rebuilt: t.Mapping[Key, Desired]) -> None:
        """Delete or give back claimed keys, and delete what is rebuilt; namespaces wait for the end."""
        going = [key for key in (*doomed, *rebuilt) if key.kind != "netns" and self._may_go(key, rebuilt)]
        for key in self._removal_order(going):
            if key not in self.state:
                continue  # gone along with what it stood on
            kind = self.kinds[key.kind]
            if kind.BORROWED:
                self._give_back(key)
            else:
                self._delete(key, "rebuilt" if key in rebuilt else "no longer declared")

    def _removal_order(self, keys: t.Sequence[Key]) -> t.List[Key]:
        """What stands on nothing else first, so that one deletion takes its dependants along instead of one by one."""
        holders = {provided: key for key in keys for provided in self.state[key].provides()}

        def depth(key: Key, seen: t.Tuple[Key, ...] = ()) -> int:
            needed = [holders[need] for need in self.state[key].needs() if need in holders]
            return 1 + max((depth(need, (*seen, key)) for need in needed if need not in seen), default=0)

        borrowed = [key for key in keys if self.kinds[key.kind].BORROWED]
        own = [key for key in keys if not self.kinds[key.kind].BORROWED]
        own.sort(key=lambda key: (depth(key), -self.kinds[key.kind].RANK))
        borrowed.sort(key=lambda key: (-self.kinds[key.kind].RANK, self._spread(key)))
        return borrowed + own

    def _may_go(self, key: Key, rebuilt: t.Container[Key]) -> bool:
        kind = self.kinds[key.kind]
        if kind.BORROWED or key in rebuilt or self.adopt or self._is_ours(key, self.state[key]):
            return True
        if self.insist:
            raise PlanError(
                f"{key}: not removed, it {whose(self.state[key])}; set adopt: true to remove it all the same"
            )
        self.notes.append(f"{key}: left alone, it {whose(self.state[key])}")
        return False

    def _give_back(self, key: Key) -> None:
        saved = self.claims[key].saved
        current = self.state[key]
        if saved is None:
            return  # it came and went with a link of ours
        target = self._merged(key, saved)
        if target != current:
            self._do(Operation(CHANGE, key, current, target, "no longer declared: the value found before"))

    def _put_back(self, leaving: t.Sequence[Key]) -> None:
        """What others had on a device that we moved away, now that the device is back."""
        displaced = [key for key in leaving if self.claims[key].displaced_by and key not in self.state]
        for key in sorted(displaced, key=lambda key: self.kinds[key.kind].RANK):
            value = self.claims[key].saved
            if value is not None and all(
                self.state.provides(need) or self.observed.exists(need) for need in value.needs()
            ):
                self._do(Operation(CREATE, key, None, value, f"came with {self.claims[key].displaced_by}"))

    def _put_back_foreign(self, lost: t.Mapping[Key, t.Any]) -> None:
        """What others had on a link and a change of it flushed, where it can be made again."""
        for key, value in lost.items():
            may = getattr(self.kinds[key.kind], "PUT_BACK", False) and value.owner is None
            if may and all(self.state.provides(need) for need in value.needs()):
                self._do(Operation(CREATE, key, None, value, "flushed by the change"))

    def _delete(self, key: Key, reason: str) -> None:
        """One deletion, preceded by those that it implies: they run by themselves, but their inverses must run."""
        value = self.state[key]
        self._check_strangers(key, value)
        for dependant in self._dependants(value):
            self._lose(dependant, key)
        self._do(Operation(DELETE, key, value, None, reason))

    def _lose(self, key: Key, holder: Key) -> None:
        """What goes along with what it stands on: by itself, unless it would linger as a wreck."""
        lingers = getattr(self.kinds[key.kind], "LINGERS", False)
        within = None if lingers else holder
        self._do(Operation(DELETE, key, self.state[key], None, f"goes with {holder}", within=within))

    def _check_strangers(self, key: Key, value: t.Any) -> None:
        """What others put into a namespace of ours or on top of a link of ours does not go along unasked."""
        space = key.id if key.kind == "netns" else key.netns
        strangers = [
            name
            for name in getattr(value, "strangers", None) or ()
            if Key("link", space, name) not in self.observed_names
        ]
        if strangers and not self.adopt:
            raise PlanError(
                f"{key}: holds links that are not ours ({', '.join(strangers)}); "
                f"move them away or remove them first, or set adopt: true to let them go with it"
            )

    def _dependants(self, value: t.Any) -> t.List[Key]:
        """Everything in the state that stands on the value, the topmost first."""
        found: t.Dict[Key, None] = {}
        names = list(value.provides())
        while names:
            for key in self.state.standing_on(names.pop(0)):
                if key not in found and key != value.key():
                    found[key] = None
                    names += self.state[key].provides()
        return sorted(reversed(list(found)), key=lambda key: -self.kinds[key.kind].RANK)  # noqa: C414 stable: deepest first

    def _remove_namespaces(self, keys: t.Sequence[Key]) -> None:
        for key in sorted(keys):
            if self._may_go(key, ()):
                self._delete(key, "no longer declared")

    # --- carrying the state along ----------------------------------------------------------------------------------

    def _do(self, operation: Operation) -> None:
        effects = self.kinds[operation.key.kind].side_effects(operation, self.state)
        for key, value in sorted(effects.items(), key=lambda row: -self.kinds[row[0].kind].RANK):
            if value is None:  # before the operation, so that undo brings it back after what it stands on
                self._lose(key, operation.key)
        self.operations.append(operation)
        if operation.after is not None:
            had = set(operation.before.provides()) if operation.before is not None else set()
            self.made.update(name for name in operation.after.provides() if name not in had)
        self.state.put(operation.key, operation.after)
        for key, value in effects.items():
            if value is not None:
                self.state.put(key, value)


def merged(kind: model.Kind, observed: t.Any, desired: t.Any) -> t.Any:
    """What the observed value becomes when the desired one is applied."""
    merge = getattr(kind, "merged", model.merge)
    return merge(observed, desired)


def _follows(value: t.Any) -> t.Tuple[Key, ...]:
    follows = getattr(value, "follows", None)
    return follows() if follows else ()


def whose(value: t.Any) -> str:
    """Half a sentence on who owns an observed value."""
    if value.owner not in (None, model.ANY_TOPOLOGY):
        return f"belongs to topology {value.owner!r}"
    kind = getattr(value, "kind", None)
    made_by = getattr(value, "made_by", None)
    if made_by:
        return f"was made by {made_by}, not by cnf.ebpf"
    return f"was not made by cnf.ebpf (it is a {kind} link)" if kind else "was not made by cnf.ebpf"


def _text(value: t.Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) or "none"


def simulate(state: t.Mapping[Key, t.Any], plan: Plan) -> t.Dict[Key, t.Any]:
    """What the host will have when the plan has run."""
    after = dict(state)
    for operation in plan.operations:
        if operation.after is None:
            after.pop(operation.key, None)
        else:
            after[operation.key] = operation.after
    return after
