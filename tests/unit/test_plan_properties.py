# SPDX-License-Identifier: GPL-3.0-or-later
"""Laws that hold for every topology: random documents are converged by the real engine against a kernel made of values."""

from __future__ import annotations

import dataclasses

import pytest
from examples import examples
from fakes import FakeKernel, MemoryStore, parsed, request, run
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.module_utils._engine import model
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import CREATE, DELETE, Key, Plan
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.plan import simulate
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import ConvergeError, PlanError
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import address, link, route

SPACES = ("red", "blue")
NAMES = ("a0", "a1", "b0", "b1")
ADDRESSES = ("10.0.1.1/24", "10.0.1.2/24", "10.0.2.1/16", "fd00::1/64", "fd00::2/48")
NEIGHBORS = ("10.0.1.9", "fd00::9")
PREFIXES = ("10.7.0.0/16", "10.8.0.0/16", "fd07::/64")

quick = examples(60, suppress_health_check=list(HealthCheck))


def some(choices, most=2):
    return st.lists(st.sampled_from(choices), unique=True, max_size=most)


@st.composite
def documents(draw, spreading=True):
    """A valid topology: whatever is named is declared."""
    spaces = draw(some(SPACES))
    everywhere = ["", *spaces]
    free = [(space, name) for space in everywhere for name in NAMES]
    taken = draw(st.lists(st.sampled_from(free), unique=True, max_size=6))
    document = {"netns": [{"name": space, "lo_up": draw(st.booleans())} for space in spaces]}
    document.update(netkit_link=[], link=[])
    members = list(taken)
    while len(taken) >= 2 and draw(st.integers(0, 3)):
        near, far = taken.pop(), taken.pop()
        item = {**draw(ends(near)), "peer": draw(ends(far)), "recreate": True}
        if draw(st.booleans()):
            document["netkit_link"].append({**item, "fallback": "none"})
            continue
        document["link"].append({**item, "kind": "veth"})
    bridges = [place for place in taken if draw(st.booleans())]
    used = [place for place in members if place not in taken]
    unbound = list(used)
    for place in bridges:
        ports = [member for member in unbound if member[0] == place[0] and draw(st.booleans())]
        unbound = [member for member in unbound if member not in ports]
        stp = draw(st.sampled_from([None, True, False]))
        bridge = {
            **draw(ends(place)),
            "kind": "bridge",
            "stp": stp,
            "ports": [name for _space, name in ports],
            "recreate": True,
        }
        document["link"].append(bridge)
        used.append(place)
    document["route"] = draw(routes(used, everywhere))
    document["neighbor"] = [
        {
            "netns": space,
            "dev": name,
            "address": text,
            **draw(st.sampled_from([{"managed": True}, {"mac": "02:00:00:00:00:99"}])),
        }
        for (space, name) in used
        for text in draw(some(NEIGHBORS, 1))
    ]
    document["rule"] = [
        {
            "netns": space,
            "priority": 100 + number,
            "family": family,
            "table": draw(st.sampled_from(["7", "8"])),
        }
        for number, (space, family) in enumerate(
            draw(some([(s, f) for s in everywhere for f in ("inet", "inet6")]))
        )
    ]
    document["sysctl_forwarding"] = draw(switches(used, everywhere, spreading))
    return {section: items for section, items in document.items() if items}


@st.composite
def ends(draw, place):
    space, name = place
    item = {"name": name, "netns": space, "addresses": draw(some(ADDRESSES))}
    mtu = draw(st.sampled_from([None, 1400, 9000]))
    return {**item, "mtu": mtu} if mtu else item


@st.composite
def routes(draw, used, spaces):
    rows = [
        {"netns": space, "destination": prefix, "type": "blackhole", "metric": 7}
        for space in spaces
        for prefix in draw(some(PREFIXES, 1))
    ]
    for space, name in used:
        for prefix in draw(some(PREFIXES, 1)):
            via = draw(
                st.sampled_from([{}, {"via": "fd00::77" if ":" in prefix else "10.0.1.77", "onlink": True}])
            )
            rows.append(
                {"netns": space, "destination": prefix, "dev": name, "metric": 10 + NAMES.index(name), **via}
            )
    return rows


@st.composite
def switches(draw, used, spaces, spreading):
    rows = []
    for space in spaces:
        options = {"rp_filter": draw(st.sampled_from([None, "off", "strict"]))}
        if spreading:
            options["ipv4"] = draw(st.sampled_from([None, True, False]))
        rows.append({"netns": space, **options})
    rows += [
        {"netns": space, "interface": name, "ipv4": draw(st.booleans())}
        for space, name in used
        if spreading and draw(st.booleans())
    ]
    return [row for row in rows if any(row.get(option) is not None for option in ("ipv4", "rp_filter"))]


def foreign_values():
    """What somebody else may have: a link whose name a topology may want, addresses and routes on links of ours."""
    links = st.builds(lambda name: link.Value(name, "", "dummy", up=True), st.sampled_from(NAMES))
    return st.lists(links, max_size=1)


def converged(document, kernel=None, store=None, **options):
    kernel, store = kernel or FakeKernel(), store or MemoryStore()
    return kernel, store, run(kernel, store, request(document, **options))


def projected(kernel, document):
    """What a document declares, as the kernel has it."""
    return {
        item.key: model.project(kernel.state[item.key], item.value) if item.key in kernel.state else None
        for item in parsed(document)
        if not (item.key.kind == "port" and not item.value.master)
    }


def hands_over_a_name(first, second):
    """Whether a pair that stays gives up the name of its far end to another link: see the test of its own below."""
    before, after = (
        {item.key: item.value.provides() for item in parsed(d) if item.key.kind == "link"}
        for d in (first, second)
    )
    given_up = {
        name for key, names in before.items() for name in names[1:] if key in after and name not in after[key]
    }
    return any(name in given_up for names in after.values() for name in names)


def owned(kernel):
    return {key for key, value in kernel.state.items() if value.owner is not None}


@quick
@given(documents())
def test_after_a_run_the_next_plan_is_empty(document):
    kernel, store, _outcome = converged(document)
    again = run(kernel, store, request(document, check=True))
    assert [str(operation) for operation in again.plan.operations] == []


@quick
@given(documents())
def test_what_check_mode_plans_is_what_a_run_does(document):
    kernel, store = FakeKernel(), MemoryStore()
    predicted = run(kernel, store, request(document, check=True)).plan
    assert predicted == run(kernel, store, request(document)).plan
    implied = sum(1 for operation in predicted.operations if operation.within)
    assert kernel.requests == len(predicted.operations) - implied, "verification found something left to do"


@quick
@given(documents(), documents())
def test_inverses_in_reverse_give_the_state_back(first, second):
    assume(not hands_over_a_name(first, second))
    kernel, store, _outcome = converged(first)
    before = dict(kernel.state)
    plan = run(kernel, store, request(second, check=True)).plan
    seen = {
        operation.key: operation.before
        for operation in reversed(plan.operations)
        if operation.before is not None
    }
    state = {**before, **seen}
    undo = Plan(tuple(operation.inverse() for operation in reversed(plan.operations)))
    back = simulate(simulate(state, plan), undo)
    touched = {operation.key for operation in plan.operations}
    assert {key: back.get(key) for key in touched} == {key: seen.get(key) for key in touched}


@quick
@given(documents(), documents(), st.integers(0, 30))
def test_a_failure_at_any_point_leaves_the_host_as_it_was(first, second, point):
    assume(not hands_over_a_name(first, second))
    kernel, store, _outcome = converged(first)
    before, generation = dict(kernel.state), store.generation
    kernel.fail_at = kernel.requests + point
    try:
        run(kernel, store, request(second))
    except ConvergeError as problem:
        assert problem.left == []
        assert kernel.state == before
        assert store.generation == generation
        assert not store.has_journal()


@quick
@given(documents(), documents())
def test_one_document_after_another_gives_what_the_second_alone_gives(first, second):
    assume(not hands_over_a_name(first, second))
    kernel, store, _outcome = converged(first)
    run(kernel, store, request(second))
    alone, _store, _outcome = converged(second)
    assert projected(kernel, second) == projected(alone, second)
    assert owned(kernel) == owned(alone)


@quick
@given(documents())
def test_absent_leaves_nothing_and_gives_back_what_was_found(document):
    kernel = FakeKernel()
    before = dict(kernel.state)
    _kernel, store, _outcome = converged(document, kernel)
    run(kernel, store, request({}))
    assert kernel.state == before
    assert store.generation is None


@quick
@given(documents(), documents())
def test_operations_stand_on_what_is_there(first, second):
    assume(not hands_over_a_name(first, second))
    kernel, store, _outcome = converged(first)
    plan = run(kernel, store, request(second, check=True)).plan
    state = dict(kernel.state)
    for operation in plan.operations:
        present = {name for value in state.values() for name in value.provides()} | {Key("link", "", "lo")}
        if operation.verb == CREATE:
            assert set(operation.after.needs()) <= present, operation
        state = simulate(state, Plan((operation,)))
        if operation.verb == DELETE and not operation.within:
            gone = set(operation.before.provides())
            standing = [
                key
                for key, value in state.items()
                if key.kind not in ("sysctl", "port")
                and key.netns != getattr(operation.before, "name", None)
                and set(value.needs()) & gone
            ]
            assert standing == [], operation


@quick
@given(documents(), foreign_values(), st.booleans())
def test_what_somebody_else_made_is_never_changed(document, foreign, with_drift):
    kernel = FakeKernel(foreign)
    before = dict(kernel.state)
    try:
        _kernel, store, outcome = converged(document, kernel)
    except PlanError as problem:
        assert "exists" in str(problem) or "neither declared nor present" in str(problem)
        assert kernel.state == before
        return
    assert {operation.key for operation in outcome.plan.operations}.isdisjoint(
        value.key() for value in foreign
    )
    run(kernel, store, request({}))
    assert {value.key(): kernel.state.get(value.key()) for value in foreign} == {
        value.key(): before[value.key()] for value in foreign
    }


@quick
@given(documents(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(document, random):
    shuffled = {}
    for section in random.sample(sorted(document), len(document)):
        shuffled[section] = random.sample(document[section], len(document[section]))
    kernel, _store, _outcome = converged(document)
    other, _store, _outcome = converged(shuffled)
    assert kernel.state == other.state


@quick
@given(documents())
def test_adopting_a_foreign_copy_only_marks_it(document):
    kernel, _store, _outcome = converged(document)
    for key, value in list(kernel.state.items()):
        if key.kind in ("link", "netns"):
            kernel.state[key] = dataclasses.replace(value, owner=None)
    store = MemoryStore()
    outcome = run(kernel, store, dataclasses.replace(request(document), desired=adopting(document)))
    changed = [
        row
        for op in outcome.plan.operations
        if op.key.kind != "sysctl"
        for row in model.differences(op.before, op.after)
    ]
    assert {name for name, _had, _has in changed} <= {"owner"}


def adopting(document):
    return tuple(dataclasses.replace(item, adopt=True) for item in parsed(document))


# --- single cases that random ones found


def test_foreign_address_on_a_link_of_ours_goes_with_it_and_comes_back_with_undo():
    kernel, store, _outcome = converged({"link": [{"name": "a0", "kind": "dummy"}]})
    stray = address.Value("a0", "", "192.0.2.9", 24)
    kernel._add(stray)
    before = dict(kernel.state)
    other = {"link": [{"name": "b0", "kind": "dummy"}]}
    plan = run(kernel, store, request(other, check=True)).plan
    assert [(op.verb, op.key, op.within) for op in plan.operations][:2] == [
        (DELETE, stray.key(), Key("link", "", "a0")),
        (DELETE, Key("link", "", "a0"), None),
    ]
    kernel.fail_at = kernel.requests + 1
    with pytest.raises(ConvergeError):
        run(kernel, store, request(other))
    assert kernel.state == before


def test_foreign_route_exactly_as_wanted_is_left_to_its_maker():
    foreign = route.Value(
        "10.7.0.0/16", "", 254, 0, "blackhole", "", None, "global", "", False, None, "hand (ip route)"
    )
    wanted = {"route": [{"destination": "10.7.0.0/16", "type": "blackhole"}]}
    kernel, store, outcome = converged(wanted, FakeKernel([foreign]))
    assert outcome.plan == Plan()
    run(kernel, store, request({}))
    assert kernel.state[foreign.key()] == foreign


PAIRS = {
    "link": [
        {"name": "b0", "kind": "veth", "peer": {"name": "a1"}},
        {"name": "b1", "kind": "veth", "peer": {"name": "a0"}},
    ]
}


@pytest.mark.parametrize("turn", [1, -1], ids=["taken first", "given up first"])
def test_a_name_that_a_far_end_gives_up_is_free_for_another_link(turn):
    kernel, store, _outcome = converged(PAIRS)
    second = {
        "link": [
            {"name": "c0", "kind": "veth", "peer": {"name": "a1"}},
            {"name": "b0", "kind": "veth", "peer": {"name": "a2"}},
        ]
    }
    run(kernel, store, request({"link": second["link"][::turn]}))
    assert {Key("link", "", "c0"), Key("link", "", "b0")} < set(kernel.state)


@pytest.mark.parametrize("far", [{"name": "a1", "netns": "red"}, {"name": "a2"}], ids=["moved", "renamed"])
def test_a_switch_of_a_link_that_this_plan_moves_or_renames_is_planned(far):
    first = {"netns": [{"name": "red"}], "link": [{"name": "a0", "kind": "veth", "peer": {"name": "a1"}}]}
    second = {
        "netns": [{"name": "red"}],
        "link": [{"name": "a0", "kind": "veth", "peer": far}],
        "sysctl_forwarding": [{"netns": far.get("netns"), "interface": far["name"], "rp_filter": "strict"}],
    }
    kernel, store, _outcome = converged(first)
    run(kernel, store, request(second))
    key = Key("sysctl", far.get("netns", ""), f"net/ipv4/conf/{far['name']}/rp_filter")
    assert kernel.state[key].value == "1"


def test_forwarding_of_all_is_given_back_while_an_interface_keeps_its_own():
    kernel, store, _outcome = converged(
        {"link": [{"name": "a0", "kind": "dummy"}], "sysctl_forwarding": [{"ipv4": True}]}
    )
    own = {
        "link": [{"name": "a0", "kind": "dummy"}],
        "sysctl_forwarding": [{"interface": "a0", "ipv4": True}],
    }
    run(kernel, store, request(own))
    found = {
        interface: kernel.state[Key("sysctl", "", f"net/ipv4/conf/{interface}/forwarding")].value
        for interface in ("all", "a0")
    }
    assert found == {"all": "0", "a0": "1"}


def lan(forwarding):
    """A host with a foreign link whose forwarding was set by hand."""
    kernel = FakeKernel([link.Value("eth0", "", "dummy", up=True)])
    key = Key("sysctl", "", "net/ipv4/conf/eth0/forwarding")
    kernel.state[key] = dataclasses.replace(kernel.state[key], value=forwarding)
    return kernel


@pytest.mark.parametrize(
    ("found", "turn"),
    [("0", 1), ("1", 1), ("0", -1), ("1", -1)],
    ids=["0, all first", "1, all first", "0, all last", "1, all last"],
)
def test_forwarding_of_an_interface_beside_all_is_given_back_as_found(found, turn):
    kernel = lan(found)
    before = dict(kernel.state)
    switches = [{"ipv4": True}, {"interface": "eth0", "ipv4": False}][::turn]
    _kernel, store, _outcome = converged({"sysctl_forwarding": switches}, kernel)
    assert kernel.state[Key("sysctl", "", "net/ipv4/conf/eth0/forwarding")].value == "0"
    run(kernel, store, request({}))
    assert kernel.state == before
