# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The pipeline: observe, plan, [check mode stops here], journal, apply, verify, commit or undo.

One code path serves check mode and real runs, creation, pruning, removal and repair; undo runs the inverses of the same
operations. The engine knows no kind: it receives them in a mapping.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import typing as t

from .._errors import CnfError, ConvergeError, PlanError, UnsupportedError
from .._kernel.host import Host
from .._store import Store
from . import model
from .model import CREATE, Claim, Desired, Key, Observed, Operation, Plan
from .plan import Kinds, make_plan, merged, simulate

DISTURBING = (
    "netns",
    "link",
    "existing_link",
)  # kinds whose change or deletion takes along what lies on a link
MAX_ROUNDS = 3  # the kernel may drop what a change did not name (routes of a link that went down): plan again, then give up

OnOperation = t.Callable[[str, int, Operation], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """What one run shall do for one topology.

    ``prune`` removes what the topology claimed earlier and ``desired`` lacks; ``absent`` names keys to remove in any case
    (a single task with state absent). ``document`` is recorded in the generation, None for single tasks.
    """

    topology: str
    desired: t.Tuple[Desired, ...] = ()
    prune: bool = False
    absent: t.Tuple[Key, ...] = ()
    document: t.Optional[t.Dict[str, t.Any]] = None
    digest: str = ""
    adopt: bool = False
    check: bool = False
    lock_timeout: float = 60.0

    @property
    def forget(self) -> bool:
        """Whether nothing of the topology remains afterwards."""
        return self.prune and not self.desired


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run found, planned and left. ``before`` and ``after`` hold what is declared or was touched, by key."""

    plan: Plan
    before: t.Dict[Key, t.Any]
    after: t.Dict[Key, t.Any]
    generation: t.Optional[int] = None


@contextlib.contextmanager
def _uninterrupted() -> t.Iterator[None]:
    """Hold back the signals that end a run (a lost session, a stopped play) while what must not stay half done is done."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _nothing(_stage: str, _number: int, _operation: Operation) -> None:
    """The default observer of operations."""


def converge(
    kinds: Kinds, host: Host, store: Store, request: Request, on_operation: OnOperation = _nothing
) -> Outcome:
    """Bring the host to the request, or leave it as it was.

    ``on_operation(stage, number, operation)`` is called before and after each operation with the stage 'apply', 'applied',
    'undo' or 'undone'; an exception from it counts as a failure of the operation. Raises CnfError: ConvergeError when the
    host had been touched, any other when it had not.
    """
    with store.locked(request.lock_timeout, writing=not request.check):
        return _Run(kinds, host, store, request, on_operation).run()


def inspect(kinds: Kinds, host: Host, store: Store, request: Request) -> t.Tuple[Observed, Plan]:
    """What the host has of a request's resources, and the plan that a run would carry out: the drift. Changes nothing."""
    with store.locked(request.lock_timeout, writing=False):
        return _Run(kinds, host, store, request, _nothing).look()


def observe(
    kinds: Kinds,
    host: Host,
    wanted: t.Mapping[Key, t.Optional[t.Any]],
    topology: str,
    claimed: t.Container[Key] = (),
) -> Observed:
    """Everything that the host has of the wanted keys, by kind in order of rank."""
    values: t.Dict[Key, t.Any] = {}
    for kind in sorted(kinds.values(), key=lambda kind: kind.RANK):
        values.update(kind.observe(host, wanted, topology, claimed))
    return Observed(values, lambda key: _exists(kinds, host, key), lambda value: _lacking(kinds, host, value))


def _exists(kinds: Kinds, host: Host, key: Key) -> bool:
    if key.kind == "netns":
        return host.has_namespace(key.id)
    if key.kind == "link":
        return host.find_link(key.netns, key.id) is not None
    exists = getattr(kinds.get(key.kind), "exists", None)
    return bool(exists and exists(host, key))


def _lacking(kinds: Kinds, host: Host, value: t.Any) -> t.Optional[str]:
    probe = getattr(kinds[value.key().kind], "lacking", None)
    return probe(host, value) if probe else None


class _Run:
    def __init__(
        self, kinds: Kinds, host: Host, store: Store, request: Request, on_operation: OnOperation
    ) -> None:
        self.kinds = kinds
        self.host = host
        self.store = store
        self.request = request
        self.on_operation = on_operation
        self.latest = store.latest()
        self.claims = store.claims(self.latest)
        self.done: t.List[Operation] = []
        self.disturbed: t.Dict[Key, None] = {}
        self.confirm: t.Callable[[], t.Optional[int]] = lambda: None
        self.kept_for_others: t.Set[Key] = set()
        self.kept_for_others = {
            key for key in self._leaving(self.claims) if key in self.claims and self._shared_with_another(key)
        }

    def look(self) -> t.Tuple[Observed, Plan]:
        observed = observe(self.kinds, self.host, self._wanted(), self.request.topology, self.claims)
        self.claims.update(self._unclaimed(observed))
        plan = self._plan(observed, insist=bool(self.request.absent))
        self.disturbed = self._disturbed(plan)
        if self.disturbed:
            observed = observe(self.kinds, self.host, self._wanted(), self.request.topology, self.claims)
            plan = self._plan(observed, insist=bool(self.request.absent))
        kept = tuple(
            f"{key}: stays, another topology declares it too" for key in sorted(self.kept_for_others)
        )
        plan = dataclasses.replace(plan, notes=(*plan.notes, *kept))
        self._check_owner_elsewhere(plan, observed)
        return observed, plan

    def _advice(self, plan: Plan) -> t.List[str]:
        """What the kinds have to say about their planned operations: traps that no request would run into."""
        notes: t.List[str] = []
        for name in dict.fromkeys(operation.key.kind for operation in plan.operations):
            advice = getattr(self.kinds[name], "advice", None)
            if advice:
                notes += advice(self.host, [op for op in plan.operations if op.key.kind == name])
        return notes

    def _prechecked(self, plan: Plan) -> t.List[str]:
        """What the kinds find before anything is touched; a plan that would fail half-way is refused here, also in check mode."""
        notes: t.List[str] = []
        for name in dict.fromkeys(operation.key.kind for operation in plan.operations):
            prechecked = getattr(self.kinds[name], "prechecked", None)
            if prechecked:
                notes += prechecked(self.host, [op for op in plan.operations if op.key.kind == name], plan)
        return notes

    @staticmethod
    def _disturbed(plan: Plan) -> t.Dict[Key, None]:
        """Markers for links that the plan deletes or changes: what others have on them has to be known for undo."""
        found: t.Dict[Key, None] = {}
        for operation in plan.operations:
            if operation.key.kind in DISTURBING and operation.before is not None:
                for name in operation.before.provides():
                    found[Key(model.ON_LINK, name.netns, name.id)] = None
        return found

    def run(self) -> Outcome:
        request = self.request
        observed, plan = self.look()
        plan = dataclasses.replace(plan, notes=(*plan.notes, *self._prechecked(plan), *self._advice(plan)))
        outcome = Outcome(
            plan, self._shown(observed.values, plan), self._shown(simulate(observed.values, plan), plan)
        )
        if request.check:
            return outcome
        if not plan:
            number = self._commit_if_new(observed)
            self.host.finish()
            return dataclasses.replace(outcome, generation=number)
        claims = self._claims_with(plan, observed)
        self.store.begin(claims, [str(operation) for operation in plan.operations])
        self.confirm = lambda: self._commit(_still_there(self.kinds, claims, plan))
        after, number = self._apply_and_verify(plan, self._wanted(), observed)
        extra = len(self.done) - len(plan.operations)
        if extra:
            note = f"the kernel changed more than was asked: {extra} further operations were needed"
            plan = dataclasses.replace(plan, operations=tuple(self.done), notes=(*plan.notes, note))
        plan = dataclasses.replace(plan, notes=(*plan.notes, *self.host.notes))
        return dataclasses.replace(
            outcome, plan=plan, after=self._shown(after.values, plan), generation=number
        )

    # --- observe and plan ------------------------------------------------------------------------------------------

    def _wanted(self) -> t.Dict[Key, t.Optional[t.Any]]:
        """Declared keys with their values, and the claimed or named keys that may have to go."""
        wanted: t.Dict[Key, t.Optional[t.Any]] = {item.key: item.value for item in self.request.desired}
        for key in sorted(self._leaving(self.claims)):  # the same order in check mode and in the run
            wanted.setdefault(key, None)
        return {**wanted, **self.disturbed}

    def _leaving(self, claims: t.Mapping[Key, Claim]) -> t.Set[Key]:
        """The keys that the topology shall not have any more: undeclared ones, or those that a task names."""
        declared = {item.key for item in self.request.desired}
        leaving = set(self.request.absent)
        if self.request.prune:
            leaving |= {
                key for key, claim in claims.items() if not claim.displaced_by and key not in declared
            }
        leaving -= self.kept_for_others
        return leaving | {key for key, claim in claims.items() if claim.displaced_by in leaving}

    def _unclaimed(self, observed: Observed) -> t.Dict[Key, Claim]:
        """What bears our mark on links of this topology without being remembered: the store was lost, or an end was renamed."""
        if not self.request.prune:
            return {}
        declared = {item.key for item in self.request.desired}
        ours = {
            name
            for item in self.request.desired
            if getattr(observed.values.get(item.key), "owner", None) == self.request.topology
            for name in item.value.provides()
        }
        return {
            key: Claim()
            for key, value in observed.values.items()
            if key not in declared
            and key not in self.claims
            and (self._enumerated(value) or self._on_ours(value, ours))
        }

    def _enumerated(self, value: t.Any) -> bool:
        kind = self.kinds[value.key().kind]
        return value.owner == self.request.topology and getattr(kind, "ENUMERATED", False)

    def _on_ours(self, value: t.Any, ours: t.Container[Key]) -> bool:
        return (
            value.owner == model.ANY_TOPOLOGY
            and any(need in ours for need in value.needs())
            and self.store.claim_elsewhere(value.key()) is None
        )

    def _plan(self, observed: Observed, insist: bool = False) -> Plan:
        claims = dict(self.claims)
        for key in self.request.absent:
            claims.setdefault(key, Claim())
        request = self.request
        return make_plan(
            self.kinds,
            request.topology,
            [self._settled(item, observed) for item in request.desired],
            observed,
            claims,
            self._leaving(claims),
            request.adopt,
            insist,
        )

    def _settled(self, item: Desired, observed: Observed) -> Desired:
        """The item with what only the host can fill in, such as the compiler that `auto` stands for."""
        settle = getattr(self.kinds[item.key.kind], "settled", None)
        if settle is None:
            return item
        try:
            return dataclasses.replace(
                item, value=settle(self.host, item.value, observed.values.get(item.key))
            )
        except UnsupportedError as problem:
            raise UnsupportedError(f"{item.path}: {problem}") from problem
        except CnfError as problem:
            raise PlanError(f"{item.path}: {problem}") from problem

    def _shared_with_another(self, key: Key) -> bool:
        """Whether another topology declares the same: a switch, or a route that bears nobody's name in particular."""
        return self.store.claim_elsewhere(key) is not None

    def _check_owner_elsewhere(self, plan: Plan, observed: Observed) -> None:
        """What bears no topology's name (routes, rules, addresses, borrowed values) may be another's: only its store tells."""
        for operation in plan.operations:
            had = observed.values.get(operation.key)
            if had is None or operation.within or self.request.adopt:
                continue
            if had.owner != model.ANY_TOPOLOGY and not self.kinds[operation.key.kind].BORROWED:
                continue
            if getattr(had, "topology", None) == self.request.topology:
                continue  # within an object of its own a topology may declare what tasks have filled in
            elsewhere = self.store.claim_elsewhere(operation.key)
            if elsewhere is not None:
                raise PlanError(
                    f"{operation.key}: belongs to topology {elsewhere[0]!r}, which declares it otherwise; "
                    f"change it there or set adopt: true"
                )

    def _shown(self, state: t.Mapping[Key, t.Any], plan: Plan) -> t.Dict[Key, t.Any]:
        """The part of a state that the run is about, each value reduced to its declared fields."""
        shown = {}
        for item in self.request.desired:
            value = state.get(item.key)
            if value is not None:
                whole = getattr(self.kinds[item.key.kind], "WHOLE", False)
                shown[item.key] = value if whole else model.project(value, item.value)
        for operation in plan.operations:
            if operation.key not in shown and operation.key in state:
                shown[operation.key] = state[operation.key]
        return shown

    # --- apply, verify, undo ---------------------------------------------------------------------------------------

    def _apply_and_verify(
        self, plan: Plan, wanted: t.Mapping[Key, t.Optional[t.Any]], before: Observed
    ) -> t.Tuple[Observed, t.Optional[int]]:
        operations: t.Sequence[Operation] = plan.operations
        current: t.Optional[Operation] = None
        try:
            for _round in range(MAX_ROUNDS):
                for current in operations:
                    self._apply(current)
                current = None
                after = self._observe_again(wanted)
                operations = self._verify(after).operations
                if not operations:
                    with _uninterrupted():
                        number = self.confirm()
                        self.host.finish()
                        return after, number
            raise PlanError(
                "verify: the kernel did not keep what was set: " + "; ".join(str(op) for op in operations[:3])
            )
        except Exception as problem:  # pylint: disable=broad-exception-caught
            # Whatever went wrong, a network that is half changed is the worst outcome: put it back, then report.
            with _uninterrupted():
                raise self._undo(problem, current, wanted, before) from problem

    def _apply(self, operation: Operation) -> None:
        number = len(self.done)
        self.on_operation("apply", number, operation)
        if operation.within is None:
            self.kinds[operation.key.kind].apply(self.host, operation)
        self.done.append(operation)
        self.on_operation("applied", number, operation)

    def _observe_again(self, wanted: t.Mapping[Key, t.Optional[t.Any]]) -> Observed:
        self.host.forget()
        return observe(self.kinds, self.host, wanted, self.request.topology, self.claims)

    def _verify(self, after: Observed) -> Plan:
        """The plan that is still left; empty when the host is as desired."""
        try:
            return self._plan(after)
        except PlanError as problem:
            ignored = self._ignored(after)
            raise PlanError(f"verify: {ignored or problem}") from problem

    def _ignored(self, after: Observed) -> str:
        """What the kernel accepted at creation without knowing it: found only by reading back."""
        for item in self.request.desired:
            value = after.values.get(item.key)
            if value is None or not any(op.verb == CREATE and op.key == item.key for op in self.done):
                continue
            target = merged(self.kinds[item.key.kind], value, item.value)
            names = self.kinds[item.key.kind].fixed(value, target) if target != value else []
            if names:
                differences = {name: (had, has) for name, had, has in model.differences(value, target)}
                what = ", ".join(
                    f"{name} (asked {differences[name][1]}, reads {differences[name][0]})" for name in names
                )
                return f"{item.path}: this kernel silently ignored {what}; leave it out or use a kernel that knows it"
        return ""

    def _undo(
        self,
        problem: Exception,
        failed: t.Optional[Operation],
        wanted: t.Mapping[Key, t.Optional[t.Any]],
        before: Observed,
    ) -> ConvergeError:
        """Run the inverses of what was done, last first, and of the failed operation in case it was done in part."""
        applied = [str(operation) for operation in self.done]
        undone: t.List[str] = []
        left: t.List[str] = []
        deleted = {
            operation.key
            for operation in self.done
            if operation.verb == model.DELETE and not operation.within
        }
        self.host.forget_tables()
        if failed is not None and failed not in self.done and failed.within is None:
            try:
                self.kinds[failed.key.kind].apply(self.host, failed.inverse())
            except Exception:  # pylint: disable=broad-exception-caught
                pass  # it had not been done
        for number, operation in enumerate(reversed(self.done)):
            if operation.within and operation.within not in deleted and not self._moved(operation.within):
                continue
            if operation.within and getattr(self.kinds[operation.within.kind], "KEEPS_CONTENT", False):
                continue  # undoing the deletion brought it back as it was
            inverse = operation.inverse()
            if inverse.after is not None and getattr(self.kinds[inverse.key.kind], "NAMES_DEVICES", False):
                undone.append(str(inverse))
                continue  # once the devices are back, with whatever indexes they have now
            try:
                self.on_operation("undo", number, inverse)
                self.kinds[inverse.key.kind].apply(self.host, inverse)
                undone.append(str(inverse))
                self.on_operation("undone", number, inverse)
            except Exception as trouble:  # pylint: disable=broad-exception-caught
                left.append(f"{inverse}: {trouble}")
        left += self._put_back_by_name(wanted, before)
        left += self._not_restored(wanted, before, failed)
        with contextlib.suppress(
            CnfError, OSError
        ):  # what cannot be tidied up is no reason to hide the failure
            self.host.finish()
        if not left:
            self.store.end()
        what = str(failed) if failed is not None else "verify"
        line = f"{what} failed: {problem}" if failed is not None else str(problem)
        line += (
            "; everything was put back as before"
            if not left
            else f"; could not be put back: {'; '.join(left)}"
        )
        return ConvergeError(line, applied, undone, what, left)

    def _put_back_by_name(self, wanted: t.Mapping[Key, t.Optional[t.Any]], before: Observed) -> t.List[str]:
        """What names devices is written anew where it reads otherwise than before: a device that was made again has another index."""
        named = {
            key: value
            for key, value in before.values.items()
            if getattr(self.kinds[key.kind], "NAMES_DEVICES", False)
        }
        if not named:
            return []
        left: t.List[str] = []
        try:
            now = self._observe_again(wanted).values
        except CnfError as trouble:
            return [f"reading back: {trouble}"]
        for key in sorted(named, key=lambda key: self.kinds[key.kind].RANK):
            value, current = named[key], now.get(key)
            if current == value:
                continue
            operation = Operation(model.CHANGE if current else CREATE, key, current, value, "undo")
            try:
                self.kinds[key.kind].apply(self.host, operation)
            except Exception as trouble:  # pylint: disable=broad-exception-caught
                left.append(f"{operation}: {trouble}")
        return left

    def _moved(self, key: Key) -> bool:
        """Whether an implied deletion went along with a change (a link that moved) that was done."""
        return any(operation.key == key and operation.verb == model.CHANGE for operation in self.done)

    def _not_restored(
        self, wanted: t.Mapping[Key, t.Optional[t.Any]], before: Observed, failed: t.Optional[Operation]
    ) -> t.List[str]:
        try:
            now = self._observe_again(wanted).values
        except CnfError as trouble:
            return [f"reading back: {trouble}"]
        touched = {operation.key for operation in self.done} | ({failed.key} if failed is not None else set())
        touched |= {key for key in before.values if getattr(self.kinds[key.kind], "NAMES_DEVICES", False)}
        return [
            f"{key} is not as it was"
            for key in sorted(touched)
            if not self._is_restored(key, before.values.get(key), now.get(key))
        ]

    def _is_restored(self, key: Key, before: t.Optional[t.Any], now: t.Optional[t.Any]) -> bool:
        restored = getattr(self.kinds[key.kind], "restored", None)
        return before == now or bool(restored and before and now and restored(before, now))

    # --- remember --------------------------------------------------------------------------------------------------

    def _claims_with(self, plan: Plan, observed: Observed) -> t.Dict[Key, Claim]:
        """The claims of the topology once the plan has run, with what borrowed resources were before."""
        claims = dict(self.claims)
        for operation in plan.operations:
            known = claims.get(operation.key)
            if operation.within:
                displaced = self.kinds[operation.within.kind].BORROWED and operation.before.owner is None
                if displaced and known is None:
                    claims[operation.key] = Claim(saved=operation.before, displaced_by=operation.within)
            elif not self.kinds[operation.key.kind].BORROWED:
                claims[operation.key] = dataclasses.replace(
                    known or Claim(), unfinished=operation.before is None
                )
        for item in self.request.desired:
            if self.kinds[item.key.kind].BORROWED:
                claims[item.key] = self._borrowed(claims.get(item.key), item, observed)
            else:
                claims.setdefault(item.key, Claim())
        return claims

    def _borrowed(self, known: t.Optional[Claim], item: Desired, observed: Observed) -> Claim:
        """The claim on a borrowed resource: of what was found only the declared fields are ours to give back.

        What another topology borrowed before us was not found by us: its saved value is the one to give back in the end.
        """
        found = observed.values.get(item.key)
        elsewhere = self.store.claim_elsewhere(item.key) if known is None else None
        if elsewhere is not None and elsewhere[1].saved is not None:
            return Claim(saved=elsewhere[1].saved)
        if found is None:
            return known or Claim()
        declared = _lent(found, item.value)
        if known is None or known.saved is None:
            return known if known is not None else Claim(saved=declared)
        return dataclasses.replace(known, saved=model.merge(declared, known.saved))

    def _commit(self, claims: t.Mapping[Key, Claim]) -> t.Optional[int]:
        if self.request.forget:
            self.store.remove()
            return None
        leaving = self._leaving(claims) | self.kept_for_others
        number = self.latest.number + 1 if self.latest else 1
        kept = {key: claim for key, claim in claims.items() if key not in leaving}
        if not kept and self.request.document is None:
            self.store.remove()  # the last thing that single tasks made is gone
            return None
        self.store.commit(self.request.document, self.request.digest, kept, number)
        return number

    def _commit_if_new(self, observed: Observed) -> t.Optional[int]:
        """The generation that describes this state: the latest when it says the same, else a new one."""
        if self.request.forget:
            if self.latest is not None or self.store.has_journal():
                self.store.remove()
            return None
        known = self.latest is not None and self.latest.digest == self.request.digest
        claims = self._claims_with(Plan(), observed)
        if self.request.document is None and claims.keys() <= self.claims.keys() and not self.request.absent:
            known = True
        if known and not self.store.has_journal():
            return self.latest.number if self.latest else None
        return self._commit(claims)


def _lent(found: t.Any, desired: t.Any) -> t.Any:
    """The found value in the fields that the desired one changes; a device that moves is also taken down by the kernel."""
    lent = model.project(found, desired)
    if getattr(found, "id", None) is not None:
        moved = found.netns != desired.netns
        lent = dataclasses.replace(lent, id=found.id, up=found.up if moved else lent.up)
    if getattr(found, "exceptions", None) is not None:
        lent = dataclasses.replace(lent, exceptions=found.exceptions)
    return lent


def _still_there(kinds: Kinds, claims: t.Mapping[Key, Claim], plan: Plan) -> t.Dict[Key, Claim]:
    """The claims without what lay in a namespace, on a link or in an object that the plan removed for good."""
    removed: t.Dict[Key, bool] = {op.key: op.after is None or _is_empty(kinds, op) for op in plan.operations}
    gone = {key for key, is_gone in removed.items() if is_gone}
    spaces = {key.id for key in gone if key.kind == "netns"}
    return {
        key: claim
        for key, claim in claims.items()
        if claim.displaced_by
        or (
            key not in gone
            and (not key.netns or key.netns not in spaces)
            and not gone.intersection(_stands_on(kinds, key))
        )
    }


def _is_empty(kinds: Kinds, operation: Operation) -> bool:
    is_empty = getattr(kinds.get(operation.key.kind), "is_empty", None)
    return bool(is_empty and is_empty(operation.after))


def _stands_on(kinds: Kinds, key: Key) -> t.Tuple[Key, ...]:
    stands_on = getattr(kinds.get(key.kind), "stands_on", None)
    return stands_on(key) if stands_on else ()
