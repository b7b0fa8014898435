# SPDX-License-Identifier: GPL-3.0-or-later
"""A router's tables: what is written for another policy, step by step, against an interpreter of the maps.

The maps are dictionaries of bytes here; what the kernel does with the same bytes is shown by the datapath and integration tests.
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from test_policy import ACTIONS, hop, packed, policies, policy_from

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect_policy
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import maglev, policy, router
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf.policy import Action, Policy, interned
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import PlanError

PROGRAMS = Path(__file__).resolve().parents[2] / "files" / "bpf"
INDEXES = {"eth1": 11, "eth2": 12, "eth3": 13}
ARRAYS = (
    "protocols",
    "defaults",
    "actions",
    "nexthops",
    "health",
    "pools",
    "members",
    "entry_counters",
    "settings",
)
SIZES = {
    **dict.fromkeys(router.LAYOUT, 4096),
    "entry_counters": 64,
    "actions": 32,
    "nexthops": 32,
    "pools": 8,
}
quick = examples(50)


def name_of(index):
    return next((name for name, number in INDEXES.items() if number == index), f"{index} (gone)")


def index_of(name):
    return INDEXES[name]


class Maps:
    """The maps of a router; an array's element that is zero is not there."""

    def __init__(self, **sizes):
        self.rows = {name: {} for name in router.LAYOUT}
        self.sizes = {**SIZES, **sizes}

    def write(self, step):
        if step is router.GRACE:
            return
        key_size, value_size = router.LAYOUT[step.map]
        keys = [step.keys[at : at + key_size] for at in range(0, len(step.keys), key_size)]
        assert len(keys) == step.entries > 0
        if step.values is None:
            assert step.map not in ARRAYS
            for key in keys:
                self.rows[step.map].pop(key, None)
            return
        values = step.values or bytes(value_size * len(keys))
        assert len(values) == value_size * len(keys)
        for number, key in enumerate(keys):
            value = values[number * value_size : (number + 1) * value_size]
            if step.map in ARRAYS and not any(value):
                self.rows[step.map].pop(key, None)
            else:
                self.rows[step.map][key] = value
        assert len(self.rows[step.map]) <= self.sizes[step.map], f"{step.map} is too small"

    def array(self, name):
        return {struct.unpack("=I", key)[0]: value for key, value in self.rows[name].items()}

    def image(self):
        choices = {}
        for name in policy.ADDRESS_TABLES:
            rows = self.rows[name]
            pairs = [router.CHOICE.unpack(value) for value in rows.values()]
            choices[name] = router.Choices(list(rows), [a for a, _c in pairs], [c for _a, c in pairs])
        conditions = {**self.rows["conditions4"], **self.rows["conditions6"]}
        return router.Image(
            choices=choices,
            protocols=self.array("protocols"),
            ports={key: struct.unpack("=I", value)[0] for key, value in self.rows["ports"].items()},
            rows={key: router.CHOICE.unpack(value) for key, value in conditions.items()},
            defaults={
                6 if i else 4: router.CHOICE.unpack(value) for i, value in self.array("defaults").items()
            },
            notes=dict(self.rows["notes"]),
            actions=self.array("actions"),
            nexthops=self.array("nexthops"),
            pool_names={
                key.rstrip(b"\0").decode(): struct.unpack("=I", value)[0]
                for key, value in self.rows["pool_names"].items()
            },
            pool_members={
                router.MEMBER.unpack(key): struct.unpack("=I", value)[0]
                for key, value in self.rows["pool_members"].items()
            },
            sizes=self.sizes,
            netns=self.rows["settings"].get(bytes(4), b"").rstrip(b"\0").decode(),
        )

    def pool_state(self):
        pools, members = self.array("pools"), self.array("members")
        slots = {}
        for index, data in pools.items():
            active, size, _mode, _flags, *offsets = router.POOLS.unpack(data)
            start = offsets[active & 1]
            slots[index] = [struct.unpack("=I", members[start + n])[0] for n in range(size)]
        return router.PoolState(pools, slots)

    def policy(self):
        return router.policy_of(self.image(), name_of)

    def turn_to(self, target, watch=lambda: None):
        """Write what it takes, and return the steps."""
        written = []
        for _round in range(3):
            writes = router.writes_for_policy(self.image(), target, "", name_of, index_of)
            for step in writes.steps:
                self.write(step)
                watch()
            written += writes.steps
            if not writes.again:
                return written
        raise AssertionError("it does not come to an end")

    def set_pool(self, name, pool, watch=lambda: None):
        for step in router.writes_for_pool(self.image(), self.pool_state(), name, pool, index_of):
            self.write(step)
            watch()

    def decide(self, packet):
        """What the program does with (source, destination, protocol, port): the action, by the bytes of the maps."""
        choice = self._choice(packet)
        if choice is None:
            return None
        action, _counter = choice
        data = self.rows["actions"].get(struct.pack("=I", action))
        assert data is not None, "an entry names an action that is not there"
        kind, flags, count, pool, *numbers = router.ACTION.unpack(data)
        hops = [self.rows["nexthops"].get(struct.pack("=I", number)) for number in numbers[:count]]
        assert None not in hops, "an action names a next hop that is not there"
        if router.KINDS[kind] == policy.POOL:
            assert pool in self.image().pool_names.values(), "an action names a pool that is not there"
        return kind, flags, tuple(hops), pool if router.KINDS[kind] == policy.POOL else 0

    def _choice(self, packet):
        source, destination, protocol, port = packet
        version = 4 if len(source) == 4 else 6
        own, has_ports = router.PROTOCOL.unpack(
            self.rows["protocols"].get(struct.pack("=I", protocol), bytes(8))
        )
        places = []
        if has_ports and port and router.port_key(protocol, port) in self.rows["ports"]:
            places += struct.unpack("=I", self.rows["ports"][router.port_key(protocol, port)])
        for place in [*places, *([own] if own else [])]:
            for length in range(8 * len(source), -1, -1):
                row = router.row_of(place, policy.cut(source, length), length)
                if row in self.rows[f"conditions{version}"]:
                    return router.CHOICE.unpack(self.rows[f"conditions{version}"][row])
        for side, address in ((policy.SOURCES, source), (policy.DESTINATIONS, destination)):
            for length in range(8 * len(address), -1, -1):
                table, key = policy.address_match(side, policy.cut(address, length), length)
                if key in self.rows[table]:
                    return router.CHOICE.unpack(self.rows[table][key])
        default = self.rows["defaults"].get(struct.pack("=I", version == 6))
        return router.CHOICE.unpack(default) if default else None


def with_pool(**sizes):
    maps = Maps(**sizes)
    maps.set_pool("web", router.Pool("flow", False, ((hop("eth3", "10.0.3.1"), 1),)))
    return maps


ADDRESSES = [packed(text) for text in ("10.1.2.3", "10.1.2.4", "10.1.9.9", "10.9.9.9", "192.0.2.1")]
ADDRESSES6 = [packed(text) for text in ("fd00::1", "fd00::2", "2001::1")]
PACKETS = [
    (source, destination, protocol, port)
    for addresses in (ADDRESSES, ADDRESSES6)
    for source, destination in itertools.product(addresses, addresses[:1])
    for protocol, port in ((6, 80), (17, 85), (1, 0))
]


# --- policies -------------------------------------------------------------------------------------------------------------


@quick
@given(policies())
def test_what_is_written_reads_the_same(one):
    maps = with_pool()
    maps.turn_to(one)
    assert maps.policy() == one
    assert maps.turn_to(one) == []


@quick
@given(policies(), policies())
def test_there_and_back_leaves_nothing(one, two):
    maps = with_pool()
    clean = {name: dict(rows) for name, rows in maps.rows.items() if name != "health"}
    for target in (one, two, Policy()):
        maps.turn_to(target)
        assert maps.policy() == target
    assert {name: rows for name, rows in maps.rows.items() if name != "health"} == clean


@examples(50)
@given(policies(), policies())
def test_at_each_step_a_packet_meets_the_old_entry_or_the_new_one(one, two):
    """But for conditions of another class: which port belongs to which is one write a port, and so are sources."""
    maps = with_pool()
    maps.turn_to(one)
    old = {packet: maps.decide(packet) for packet in PACKETS}
    after = with_pool()
    after.turn_to(two)
    new = {packet: after.decide(packet) for packet in PACKETS}
    seen = {packet: [old[packet]] for packet in PACKETS}

    def watch():
        for packet in PACKETS:
            seen[packet].append(maps.decide(packet))

    maps.turn_to(two, watch)
    for packet in PACKETS:
        assert seen[packet][-1] == new[packet]
        if old[packet] is not None and new[packet] is not None:
            assert None not in seen[packet], "a packet that both policies route was left alone in between"


@quick
@given(policies(), policies())
def test_an_entry_that_stays_keeps_its_counter(one, two):
    maps = with_pool(entry_counters=4096)
    maps.turn_to(one)
    before = _inspect_policy.counters_by_match(maps.image())
    assert len(before) == len(set(before.values())) == len(one)
    maps.turn_to(two)
    after = _inspect_policy.counters_by_match(maps.image())
    assert len(after) == len(set(after.values())) == len(two)
    for match in before.keys() & after.keys():
        assert before[match] == after[match]


@quick
@given(policies(), policies())
def test_counters_that_become_free_serve_others(one, two):
    maps = with_pool(entry_counters=5)
    for target in (one, two):
        maps.turn_to(target)
        assert len(_inspect_policy.counters_by_match(maps.image())) == min(4, len(target))
        assert router.uncounted(maps.image(), maps.policy()) == 0
        assert maps.policy() == target


def sources(count, action, start=0):
    rows = {(start + number).to_bytes(4, "big"): interned(action) for number in range(count)}
    return Policy({"sources4_exact": rows})


def test_without_room_for_both_the_old_make_way_in_turns():
    maps = Maps(sources4_exact=100)
    maps.turn_to(sources(90, ACTIONS[0], 1000))
    maps.turn_to(sources(95, ACTIONS[1], 1040))  # 50 stay, 45 are new, there is room for 10
    assert maps.policy() == sources(95, ACTIONS[1], 1040)


def test_what_does_not_fit_is_refused_before_anything_is_written():
    assert router.lacking_room(sources(101, ACTIONS[0]), {**SIZES, "sources4_exact": 100}) == (
        "101 entries do not fit into map sources4_exact, which has room for 100; "
        "load the object with maps: {sources4_exact: 126} or more"
    )
    assert router.lacking_room(sources(100, ACTIONS[0]), {**SIZES, "sources4_exact": 100}) is None


def test_a_device_that_was_made_anew_is_seen_and_written_anew(monkeypatch):
    maps = Maps()
    wanted = policy_from({"source": "10.0.0.0/8", "interface": "eth1", "next_hop": "10.0.1.1"})
    maps.turn_to(wanted)
    monkeypatch.setitem(INDEXES, "eth1", 99)
    assert maps.policy() != wanted
    assert str(maps.policy().actions()[0]) == "next_hops 10.0.1.1%11 (gone)"
    maps.turn_to(wanted)
    assert maps.policy() == wanted
    assert [router.NEXTHOP.unpack(data)[0] for data in maps.array("nexthops").values()] == [99]


def test_a_fresh_next_hop_has_no_memory_of_the_one_before():
    maps = Maps()
    maps.write(router.Step("health", struct.pack("=I", 1), bytes([1]) * 16, 1))
    maps.turn_to(policy_from({"source": "10.0.0.0/8", "interface": "eth1", "next_hop": "10.0.1.1"}))
    assert maps.rows["health"] == {}


def test_a_pool_that_is_not_there_is_named():
    with pytest.raises(PlanError, match="there is no pool web; declare it under bpf_pool"):
        Maps().turn_to(policy_from({"source": "10.0.0.0/8", "pool": "web"}))


def test_an_index_that_leads_nowhere_is_broken_and_mended():
    maps = Maps()
    wanted = policy_from({"source": "10.0.0.0/8", "action": "drop"})
    maps.turn_to(wanted)
    maps.rows["actions"].clear()
    assert maps.policy().actions() == [router.BROKEN]
    maps.turn_to(wanted)
    assert maps.policy() == wanted


# --- pools ----------------------------------------------------------------------------------------------------------------

HOPS = [hop("eth1", f"10.0.1.{number}") for number in range(1, 7)]


@st.composite
def pools(draw):
    members = draw(st.lists(st.sampled_from(HOPS), unique=True, max_size=6))
    rows = tuple(sorted((member, draw(st.sampled_from([0, 1, 1, 2, 7]))) for member in members))
    return router.Pool(draw(st.sampled_from(["flow", "source", "random"])), draw(st.booleans()), rows)


def read_pool(maps, name="web"):
    state = maps.pool_state()
    image = maps.image()
    slots = {pool: state.slots.get(index, []) for pool, index in image.pool_names.items()}
    return router.pools_of(image, state.pools, slots, name_of).get(name)


@quick
@given(st.lists(pools(), min_size=1, max_size=4))
def test_a_pool_reads_as_it_was_written_and_leaves_nothing(targets):
    maps = Maps()
    for target in targets:
        maps.set_pool("web", target)
        assert read_pool(maps) == target
        assert router.writes_for_pool(maps.image(), maps.pool_state(), "web", target, index_of) == [] or (
            maps.set_pool("web", target) is None and read_pool(maps) == target
        )
    maps.set_pool("web", None)
    left = {name: rows for name, rows in maps.rows.items() if rows and name not in ("members", "health")}
    assert left == {}


@quick
@given(pools(), pools())
def test_an_entry_of_a_pool_always_leads_to_members_of_the_old_or_the_new(one, two):
    maps = Maps()
    maps.set_pool("web", one)
    maps.turn_to(policy_from({"source": "10.0.0.0/8", "pool": "web"}))
    allowed = {member for pool in (one, two) for member, weight in pool.members if weight}

    def watch():
        (data,) = maps.array("actions").values()
        index = router.ACTION.unpack(data)[3]
        for slot in maps.pool_state().slots.get(index, ()):
            assert slot in maps.array("nexthops"), "a slot names a next hop that is gone"
            assert router.hop_of(maps.array("nexthops")[slot], name_of) in allowed

    maps.set_pool("web", two, watch)
    assert read_pool(maps) == two


def test_slots_of_those_who_stay_do_not_move():
    maps = Maps(members=65536)
    four = tuple((member, 1) for member in HOPS[:4])
    maps.set_pool("web", router.Pool("flow", False, four))
    (before,) = maps.pool_state().slots.values()
    assert len(before) == maglev.size_for(4)
    names = dict(maps.array("nexthops"))
    maps.set_pool("web", router.Pool("flow", False, four[:3]))
    (after,) = maps.pool_state().slots.values()
    gone = next(index for index, data in names.items() if router.hop_of(data, name_of) == HOPS[3])
    moved = sum(1 for had, has in zip(before, after) if had != gone and had != has)
    assert moved <= 0.02 * len(before)
    assert gone not in after


def test_the_same_address_behind_two_devices_is_two_members():
    """As 169.254.0.1 is on links without numbers."""
    maps = Maps(members=65536)
    both = tuple((hop(device, "169.254.0.1"), 1) for device in ("eth1", "eth2"))
    maps.set_pool("web", router.Pool("flow", False, both))
    assert read_pool(maps).members == both
    (slots,) = maps.pool_state().slots.values()
    assert [slots.count(member) for member in sorted({*slots})] == [
        len(slots) // 2 + len(slots) % 2,
        len(slots) // 2,
    ]


def test_a_larger_table_is_another_pool_and_entries_follow():
    maps = Maps(members=65536)
    maps.set_pool("web", router.Pool("flow", False, ((HOPS[0], 1),)))
    maps.turn_to(policy_from({"source": "10.0.0.0/8", "pool": "web"}))
    many = tuple((hop("eth1", f"10.0.1.{number}"), 1) for number in range(1, 9))
    maps.set_pool("web", router.Pool("flow", False, many))
    assert read_pool(maps).members == many
    assert maps.policy() == policy_from({"source": "10.0.0.0/8", "pool": "web"})
    assert len(maps.array("pools")) == 1


def test_a_damaged_table_is_noticed():
    maps = Maps()
    maps.set_pool("web", router.Pool("flow", False, ((HOPS[0], 1), (HOPS[1], 1))))
    assert read_pool(maps).is_whole
    key = next(iter(maps.rows["members"]))
    maps.rows["members"][key] = struct.pack("=I", 31)
    assert not read_pool(maps).is_whole


# --- what C and Python agree upon -----------------------------------------------------------------------------------------


def enumerators(text, name):
    body = re.sub(
        r"/\*.*?\*/", "", re.search(rf"enum {name} {{(.*?)}};", text, re.DOTALL)[1], flags=re.DOTALL
    )
    return [word.split("=")[0].strip() for word in body.split(",") if word.strip()]


def test_enums_are_those_of_the_source():
    program = (PROGRAMS / "policy_router.bpf.c").read_text()
    header = (PROGRAMS / "lib" / "policy.h").read_text()
    assert enumerators(program, "counter_index") == [
        f"POLICY_{name.upper()}" for name in _inspect_policy.COUNTERS
    ]
    assert enumerators(header, "action_kind") == [
        f"ACTION_{(name or 'none').upper()}" for name in router.KINDS
    ]
    assert enumerators(header, "pool_mode") == [f"POOL_{name.upper()}" for name in router.MODES]
    assert enumerators(header, "table") == [
        f"TABLE_{(name or 'none').upper()}" for name in _inspect_policy.TABLES
    ]
    assert enumerators(header, "decision_flags") == [
        f"DECISION_{name.upper()}" for name in _inspect_policy.FLAGS
    ]
    assert enumerators(header, "match_kind") == [
        "MATCH_CONDITIONAL",
        "MATCH_SOURCE",
        "MATCH_DESTINATION",
        "MATCH_DEFAULT",
    ]


def test_a_match_survives_its_key():
    one = policy_from(
        {"source": "10.0.0.0/8", "action": "drop"},
        {"source": "10.0.0.1", "action": "drop"},
        {"destination": "fd00::/8", "action": "drop"},
        {"protocol": "tcp", "destination_port": "80-90", "source": "fd00::/8", "action": "drop"},
        {"action": "drop"},
    )
    for match in policy.matches(one):
        assert router.match_of(router.packed_match(*match)) == match
    assert router.match_of(bytes(router.MATCH.size)) is None


def test_addresses_of_next_hops():
    for text in ("10.0.0.1", "fd00::1", ""):
        data = router.packed_hop(hop("eth1", text), index_of)
        assert router.hop_of(data, name_of) == hop("eth1", text)
    assert router.NEXTHOP.unpack(router.packed_hop(hop("eth1", "10.0.0.1"), index_of)) == (
        11,
        socket.AF_INET,
        bytes([10, 0, 0, 1]) + bytes(12),
    )


def test_actions_of_all_kinds_survive():
    maps = with_pool()
    rows = {number.to_bytes(4, "big"): action for number, action in enumerate(ACTIONS, 1)}
    maps.turn_to(Policy({"sources4_exact": rows}))
    assert list(maps.policy().table("sources4_exact").values()) == ACTIONS
    assert Action("pool", (), "web", False, False) in ACTIONS
