# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents against recorded hosts: each folder below golden/ holds what was found, what was asked, and the plan.

observed.yml   topology, values (kind and fields), claims, names that nobody declared, kinds that the kernel lacks
desired.yml    the topology document, or ``state: absent``
plan.yml       the operations with their command lines, and notes; or the error
inverse.yml    the operations that undo them, in the order in which they run

CNF_UPDATE_GOLDEN=1 writes plan.yml and inverse.yml anew; read what it wrote before you keep it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("ansible", reason="documents are validated by ansible-core, which is not installed")
yaml = pytest.importorskip("yaml", reason="golden files are YAML and PyYAML is not installed")

from fakes import MemoryStore, run  # noqa: E402

from ansible_collections.cnf.ebpf.plugins.module_utils import _module, _report  # noqa: E402
from ansible_collections.cnf.ebpf.plugins.module_utils._engine import model  # noqa: E402
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import Claim, Key  # noqa: E402
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.plan import simulate  # noqa: E402
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import CnfError  # noqa: E402
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import KINDS, revive, sysctl  # noqa: E402

GOLDEN = Path(__file__).resolve().parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
UPDATE = bool(os.environ.get("CNF_UPDATE_GOLDEN"))


class RecordedHost:
    """A host that answers from observed.yml and cannot be changed."""

    def __init__(self, recorded):
        rows = [dict(row) for row in recorded.get("values", [])]
        self.values = [revive(row.pop("resource"), row) for row in rows]
        self.names = {Key(*name) for name in recorded.get("exists", [])}
        self.names |= {name for value in self.values for name in value.provides()} | {Key("link", "", "lo")}
        self.missing_kinds = recorded.get("lacking", {})

    def observe(self, module, _wanted, _topology, _claimed):
        return {value.key(): value for value in self.values if value.key().kind == module.NAME}

    def addresses(self, _netns):
        return {}

    def lacking(self, value):
        return self.missing_kinds.get(getattr(value, "kind", None))

    def supports_tcx(self):
        return True

    def has_namespace(self, name):
        return not name or Key("netns", "", name) in self.names

    def find_link(self, netns, name):
        return Key("link", netns, name) if Key("link", netns, name) in self.names else None


def load(case, name):
    return yaml.safe_load((GOLDEN / case / f"{name}.yml").read_text(encoding="utf-8"))


def claims_of(rows):
    found = {}
    for row in rows:
        key = Key(*row["key"])
        saved = revive(key.kind, row["saved"]) if "saved" in row else None
        displaced_by = Key(*row["displaced_by"]) if "displaced_by" in row else None
        found[key] = Claim(saved, bool(row.get("unfinished")), displaced_by)
    return found


def plain(operation):
    """An operation as a document."""
    row = {"verb": operation.verb, "key": list(operation.key), "reason": operation.reason}
    if operation.within:
        row["within"] = str(operation.within)
    if operation.verb == model.CHANGE:
        rows = model.differences(operation.before, operation.after)
        row["changes"] = {name: [had, has] for name, had, has in rows}
    else:
        row["before" if operation.after is None else "after"] = _listed(model.describe(operation.value))
    lines = KINDS[operation.key.kind].commands(operation)
    if lines and not operation.within:
        row["commands"] = lines
    return row


def _listed(fields):
    return {name: list(part) if isinstance(part, tuple) else part for name, part in fields.items()}


def planned(case):
    """(outcome, plan document, inverse document) of a case."""
    recorded, asked = load(case, "observed") or {}, load(case, "desired")
    params = {
        "name": recorded.get("topology", "edge"),
        "state": "present",
        "adopt": False,
        "lock_timeout": 0.0,
        **asked,
    }
    host = RecordedHost(recorded)
    store = MemoryStore(claims_of(recorded.get("claims", [])))
    try:
        outcome = run(host, store, _module.topology_request(params, check=True))
    except CnfError as problem:
        return None, {"error": f"{type(problem).__name__}: {problem}"}, []
    operations = outcome.plan.operations
    plan = {"operations": [plain(operation) for operation in operations]}
    if outcome.plan.notes:
        plan["notes"] = list(outcome.plan.notes)
    return outcome, plan, [plain(operation.inverse()) for operation in reversed(operations)]


def written(document):
    # REUSE-IgnoreStart
    head = "# SPDX-License-Identifier: GPL-3.0-or-later\n"
    # REUSE-IgnoreEnd
    return head + yaml.safe_dump(document, sort_keys=False, width=150, default_flow_style=None)


@pytest.mark.parametrize("case", CASES)
def test_plan_and_its_inverse_are_as_recorded(case):
    _outcome, plan, inverse = planned(case)
    if UPDATE:
        (GOLDEN / case / "plan.yml").write_text(written(plan), encoding="utf-8")
        (GOLDEN / case / "inverse.yml").write_text(written(inverse), encoding="utf-8")
    assert yaml.safe_load(yaml.safe_dump(plan)) == load(case, "plan")
    assert yaml.safe_load(yaml.safe_dump(inverse)) == load(case, "inverse")


@pytest.mark.parametrize("case", [case for case in CASES if "error" not in load(case, "plan")])
def test_inverses_in_reverse_give_back_what_was_found(case):
    outcome, _plan, _inverse = planned(case)
    state = {value.key(): value for value in RecordedHost(load(case, "observed") or {}).values}
    undo = model.Plan(tuple(operation.inverse() for operation in reversed(outcome.plan.operations)))
    back = simulate(simulate(state, outcome.plan), undo)
    # What `all` spreads to its interfaces is the kernel's doing in both directions: the simulation does not know it.
    spreads = any(operation.key.id in sysctl.SPREADING for operation in outcome.plan.operations)
    kept = {
        key for key in state if not (spreads and key.kind == sysctl.NAME and key.id not in sysctl.SPREADING)
    }
    assert {key: back.get(key) for key in kept} == {key: state[key] for key in kept}


def test_actions_and_commands_leave_out_what_is_implied():
    outcome, plan, _inverse = planned("prune_pair_and_namespace")
    rows = [row for row in plan["operations"] if "within" not in row]
    assert len(_report.actions(outcome.plan.operations)) == len(rows) < len(plan["operations"])
    assert _report.commands(outcome.plan.operations) == [line for row in rows for line in row["commands"]]
