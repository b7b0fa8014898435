# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a loaded policy router says of itself: its policy with counters, and what it would do with a packet."""

from __future__ import annotations

import datetime
import socket
import struct
import time
import typing as t

from ._bpf import frames, objects, pins, policy_input, router
from ._bpf import policy as words
from ._bpf.policy import CONDITIONS, DEFAULTS, Action, Match, Policy
from ._errors import KernelError, PlanError, SpecError
from ._inspect_maps import PLACE_SPEC
from ._kernel import bpf, bpffs, namespaces
from ._kernel.host import Host
from ._resources import _policies

PLACE = {
    "topology": PLACE_SPEC["topology"],
    "object": {"type": "str", "required": True},
}
INFO_SPEC: t.Dict[str, t.Any] = {
    **PLACE,
    "sample": {"type": "float", "default": 0.0},
    "limit": {"type": "int", "default": 1000},
    "with_content": {"type": "bool", "default": False},
    "entries": {"type": "list", "elements": "dict"},
    "file": {"type": "str"},
    "content": {"type": "str"},
    "tables": {
        "type": "dict"
    },  # not as in the other modules: what is hidden would be hidden in the answer as well
}
PACKET_SPEC: t.Dict[str, t.Any] = {
    "source": {"type": "str"},
    "destination": {"type": "str"},
    "protocol": {"type": "str"},
    "source_port": {"type": "int"},
    "destination_port": {"type": "int"},
    "size": {"type": "int"},
    "ttl": {"type": "int"},
    "raw": {"type": "str"},
    "device": {"type": "str"},
    "expect": {"type": "dict"},
}
TEST_SPEC: t.Dict[str, t.Any] = {
    **PLACE,
    "packets": {"type": "list", "elements": "dict", "required": True, "options": PACKET_SPEC},
}
MAX_SAMPLE = 3600.0

# enum counter_index of policy_router.bpf.c
COUNTERS = (
    "total",
    "conditional",
    "source",
    "destination",
    "default",
    "redirect",
    "pass",
    "drop",
    "exempt",
    "fallback",
    "strict_drop",
    "ttl",
    "failed",
    "no_match",
    "on_way",
    "other",
    "vlan",
    "other_host",
    "group",
    "local",
    "neighbor",
    "truncated",
    "bad_header",
    "too_deep",
    "dead",
    "family",
    "bad_action",
    "bad_pool",
    "skipped",
    "probe",
)
# enum table, enum decision_flags and struct decision of lib/policy.h
TABLES = (
    "",
    "port",
    "protocol",
    "source_exact",
    "source",
    "destination_exact",
    "destination",
    "default",
)
FLAGS = ("skipped", "probe", "too_big", "random", "unresolved")
DECISION = struct.Struct("=iIIIIIIIII16sI")
VERDICTS = {bpf.NEXT: "next", bpf.PASS: "pass", bpf.DROP: "drop", bpf.REDIRECT: "redirect"}
REASONS = {
    "dead": "no next hop is alive",
    "family": "the next hops are of IPv4, the packet is of IPv6",
    "bad_action": "the entry names an action or a next hop that is not there",
    "bad_pool": "the pool has no members",
    "no_match": "no entry matches",
    "on_way": "leaves for its next hop already",
    "other": "neither IPv4 nor IPv6",
    "vlan": "has a VLAN tag, which belongs to the VLAN's own device",
    "other_host": "a frame for another station",
    "group": "multicast or broadcast",
    "local": "a link-local or loopback destination",
    "neighbor": "neighbor discovery",
    "truncated": "malformed: ends within a header",
    "bad_header": "malformed: wrong version or lengths",
    "too_deep": "malformed: too many extension headers",
    "ttl": "the time to live would reach 0, the kernel tells the sender",
}
_SKB_IFINDEX = struct.Struct("=40xI")  # struct __sk_buff: ifindex is the eleventh word

Params = t.Mapping[str, t.Any]


def opened(params: Params) -> t.ContextManager[t.Optional[router.Router]]:
    bpffs.mounts()  # refuses to look at pins when a second bpffs hides the first
    return router.opened(params["topology"], params["object"])


def _missing(params: Params) -> SpecError:
    others = ", ".join(pins.objects(params["topology"])) or "none"
    return SpecError(
        "object",
        f"topology {params['topology']} has no object {params['object']} on this host; it has {others}",
    )


# --- bpf_policy_info ------------------------------------------------------------------------------------------------------


def read(params: Params) -> t.Dict[str, t.Any]:
    """The policy of a router with its counters, and how it differs from a wanted list."""
    if not 0 <= params["sample"] <= MAX_SAMPLE:
        raise SpecError("sample", f"{params['sample']} is out of range; give 0 to {MAX_SAMPLE:g} seconds")
    wanted = _wanted(params)
    with opened(params) as found, Host() as host:
        if found is None:
            raise _missing(params)
        image, state = found.image(), found.pool_state()
        names = _policies.name_finder(host, image.netns)
        policy = router.policy_of(image, names)
        counter_of = counters_by_match(image)
        first = _counts(found, counter_of)
        if params["sample"]:
            time.sleep(params["sample"])
        last = _counts(found, counter_of) if params["sample"] else first
        answer = {
            "object": params["object"],
            "topology": params["topology"],
            "netns": image.netns,
            "count": len(policy),
            "digest": policy.digest(),
            "chain": _chain(first, last, params["sample"]),
            "pools": _pools(image, state, names),
            **_entries(policy, counter_of, first, last, params),
        }
    if params.get("with_content"):
        answer["content"] = policy.to_text()
    if wanted is not None:
        answer["drift"] = drift_of(policy, wanted, params["limit"])
        answer["in_sync"] = policy == wanted
    answer["text"] = text_of(answer)
    return answer


def _wanted(params: Params) -> t.Optional[Policy]:
    """The policy to compare with, None when none was given."""
    if params.get("content"):
        content = str(params["content"])
        return Policy.from_text((params.get("tables") or {}).get(content, content))
    if params.get("entries") is None:
        return None
    builder = policy_input.Builder()
    for number, item in enumerate(params["entries"]):
        path = f"entries[{number}]"
        policy_input.check_fields(item, path)
        builder.add(policy_input.entry_of(item, path), path)
    return builder.policy()


def counters_by_match(image: router.Image) -> t.Dict[Match, int]:
    """The index of each entry's counter; entries without one are left out."""
    found: t.Dict[Match, int] = {}
    for name, choices in image.choices.items():
        found.update(
            ((name, key), counter) for key, counter in zip(choices.keys, choices.counters) if counter
        )
    for version, choice in image.defaults.items():
        if choice[0] and choice[1]:
            found[DEFAULTS, version] = choice[1]
    for key, value in image.notes.items():
        match = router.match_of(key)
        if match is not None and match[0] == CONDITIONS:
            counter = router.NOTE.unpack(value)[1]
            if counter:
                found[match] = counter
    return found


class Counts(t.NamedTuple):
    """Counters at one moment: of the program by index (packets, bytes), and of entries by index of their counter."""

    chain: t.Dict[int, t.Tuple[int, int]]
    entries: t.Dict[int, t.Tuple[int, int, int, int]]
    moment: float


def _counts(found: router.Router, counter_of: t.Mapping[Match, int]) -> Counts:
    with objects.pinned(pins.map_pin(found.topology, found.name, "counters")) as fd:
        info = bpf.map_info(fd)
        chain = {}
        for key, value in bpf.map_items(fd, info):
            columns = zip(*(struct.unpack("=QQ", part) for part in bpf.split_percpu(value, info.value_size)))
            packets, octets = (sum(column) for column in columns)
            chain[struct.unpack("=I", key)[0]] = (packets, octets)
    return Counts(chain, found.counters(list(counter_of.values())), time.monotonic())


def _chain(first: Counts, last: Counts, sample: float) -> t.Dict[str, t.Dict[str, t.Any]]:
    found = {}
    for index, name in enumerate(COUNTERS):
        packets, octets = last.chain.get(index, (0, 0))
        row: t.Dict[str, t.Any] = {"packets": packets, "bytes": octets}
        if sample:
            row.update(_rates(first.chain.get(index, (0, 0)), (packets, octets), last.moment - first.moment))
        found[name] = row
    return found


def _rates(before: t.Sequence[int], after: t.Sequence[int], seconds: float) -> t.Dict[str, float]:
    return {
        "packets_per_second": round((after[0] - before[0]) / seconds, 1),
        "bytes_per_second": round((after[1] - before[1]) / seconds, 1),
    }


def _entries(
    policy: Policy, counter_of: t.Mapping[Match, int], first: Counts, last: Counts, params: Params
) -> t.Dict[str, t.Any]:
    rows: t.List[t.Dict[str, t.Any]] = []
    now, monotonic = time.time(), time.monotonic()
    for match in words.matches(policy):
        if len(rows) >= params["limit"]:
            break
        row = words.entry_item(policy, *match)
        counter = counter_of.get(match, 0)
        row["counted"] = bool(counter)
        packets, octets, failures, hit = last.entries.get(counter, NEVER)
        action = policy.tables[match[0]][match[1]]
        row.update(packets=packets, bytes=octets, **_outcomes(action, packets, failures))
        row["last_hit"] = _when(now - monotonic + hit / 1e9) if hit else None
        if params["sample"]:
            before = first.entries.get(counter, NEVER)
            row.update(_rates(before, (packets, octets), last.moment - first.moment))
        rows.append(row)
    return {"entries": rows, "truncated": len(rows) < len(policy)}


NEVER = (0, 0, 0, 0)  # packets, bytes, failures, last


def _outcomes(action: Action, packets: int, failures: int) -> t.Dict[str, int]:
    """What the packets without a usable next hop came to, by what the entry says now."""
    if action.kind == words.DROP:
        return {"fallbacks": 0, "drops": packets}
    return {"fallbacks": 0 if action.strict else failures, "drops": failures if action.strict else 0}


def _when(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _pools(image: router.Image, state: router.PoolState, names: router.NameOf) -> t.List[t.Dict[str, t.Any]]:
    slots = {name: state.slots.get(index, []) for name, index in image.pool_names.items()}
    rows: t.List[t.Dict[str, t.Any]] = []
    for name, pool in sorted(router.pools_of(image, state.pools, slots, names).items()):
        index = image.pool_names[name]
        taken = {hop: slots[name].count(hop) for hop in {*slots[name]}}
        by_hop = {
            router.hop_of(image.nexthops[hop], names): taken.get(hop, 0)
            for (owner, hop) in image.pool_members
            if owner == index and hop in image.nexthops
        }
        rows.append(
            {
                "name": name,
                "mode": pool.mode,
                "symmetric": pool.symmetric,
                "slots": len(slots[name]),
                "members": [
                    {
                        "address": hop.address,
                        "interface": hop.interface,
                        "weight": weight,
                        "slots": by_hop.get(hop, 0),
                    }
                    for hop, weight in pool.members
                ],
            }
        )
    return rows


def drift_of(policy: Policy, wanted: Policy, limit: int) -> t.Dict[str, t.List[t.Any]]:
    """How a policy differs from the wanted one: entries that are missing, unexpected, or different."""
    found = words.difference(policy, wanted)
    return {
        "missing": [words.entry_item(wanted, *match) for match in found.added[:limit]],
        "unexpected": [words.entry_item(policy, *match) for match in found.removed[:limit]],
        "different": [
            {"wanted": words.entry_item(wanted, *match), "found": words.entry_item(policy, *match)}
            for match in found.changed[:limit]
        ],
    }


def text_of(answer: t.Mapping[str, t.Any]) -> str:
    """The answer for people."""
    place = f" in netns {answer['netns']}" if answer["netns"] else ""
    lines = [
        f"policy {answer['topology']}/{answer['object']}{place}: {answer['count']} entries, digest {answer['digest'][:12]}"
    ]
    for row in answer["entries"]:
        spoken = {
            name: value
            for name, value in row.items()
            if name in (*policy_input.ENTRY_FIELDS,) and name != "comment"
        }
        told = " ".join(f"{name} {_word(value)}" for name, value in spoken.items())
        counted = f"{row['packets']} packets, {row['bytes']} bytes" if row["counted"] else "not counted"
        extra = f", {row['fallbacks']} fell back" if row["fallbacks"] else ""
        rate = f", {row['packets_per_second']} packets/s" if "packets_per_second" in row else ""
        comment = f"  # {row['comment']}" if row.get("comment") else ""
        lines.append(f"  {told}: {counted}{extra}{rate}{comment}")
    if answer["truncated"]:
        lines.append(f"  ... and {answer['count'] - len(answer['entries'])} more; raise limit to see them")
    for pool in answer["pools"]:
        members = ", ".join(
            f"{row['address']}%{row['interface']} weight {row['weight']} ({row['slots']} slots)"
            for row in pool["members"]
        )
        lines.append(f"  pool {pool['name']} ({pool['mode']}, {pool['slots']} slots): {members}")
    chain = [f"{name} {row['packets']}" for name, row in answer["chain"].items() if row["packets"]]
    lines.append(f"  packets: {', '.join(chain) or 'none yet'}")
    return "\n".join(lines)


def _word(value: t.Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, list) else str(value)


# --- bpf_policy_test ------------------------------------------------------------------------------------------------------


class Question(t.NamedTuple):
    """A packet of the task. ``packet`` is None for a raw frame that no entry can match."""

    packet: t.Optional[frames.Packet]
    raw: bytes
    device: str
    expect: t.Mapping[str, t.Any]
    path: str

    def __str__(self) -> str:
        return f"{self.path} ({self.packet})" if self.packet else self.path


def questions_of(params: Params) -> t.List[Question]:
    found = []
    for number, item in enumerate(params["packets"]):
        path = f"packets[{number}]"
        expect = item.get("expect") or {}
        unknown = [name for name in expect if name not in EXPECTABLE]
        if unknown:
            raise SpecError(
                f"{path}.expect", f"unsupported option {unknown[0]}; it takes {', '.join(EXPECTABLE)}"
            )
        if item.get("raw"):
            raw = frames.raw_frame(item["raw"], f"{path}.raw")
            found.append(Question(frames.read_frame(raw), raw, item.get("device") or "", expect, path))
        else:
            packet = frames.packet_of(item, path)
            found.append(Question(packet, b"", item.get("device") or "", expect, path))
    return found


def test(params: Params) -> t.Dict[str, t.Any]:
    """What a router would do with packets. What was not as expected is its ``failure``."""
    questions = questions_of(params)
    with opened(params) as found, Host() as host:
        if found is None:
            raise _missing(params)
        image = found.image()
        reader = _Reader(host, image, found)
        with bpf.closing(objects.program_fd(params["topology"], params["object"], router.EXPLAIN)) as fd:
            results = [reader.answer(fd, question) for question in questions]
    unexpected = [
        line for question, result in zip(questions, results) for line in differences(question, result)
    ]
    text = "\n".join(row["text"] for row in results)
    return {"results": results, "unexpected": unexpected, "text": text, "failure": "; ".join(unexpected)}


EXPECTABLE = (
    "outcome",
    "verdict",
    "reason",
    "table",
    "interface",
    "next_hop",
    "source",
    "destination",
    "protocol",
    "destination_port",
    "family",
    "pool",
    "action",
    "comment",
    "flags",
)


def differences(question: Question, result: t.Mapping[str, t.Any]) -> t.List[str]:
    """A line for each part of an expectation that the result does not meet."""
    lines = []
    for name, wanted in question.expect.items():
        entry = result.get("entry") or {}
        if name in (
            "source",
            "destination",
            "protocol",
            "destination_port",
            "family",
            "comment",
            "pool",
            "action",
        ):
            got = entry.get(name)
            if name in ("source", "destination") and wanted is not None:
                wanted = words.prefix_text(*policy_input.prefix(wanted, f"{question.path}.expect.{name}"))
        else:
            got = result.get(name)
        if name == "flags":
            wanted = sorted(wanted) if isinstance(wanted, list) else [wanted]
            got = sorted(got or [])
        if (got if got != "" else None) != (wanted if wanted != "" else None) and str(got) != str(wanted):
            lines.append(f"{question}: expected {name} {wanted}, got {'none' if got in (None, '') else got}")
    return lines


class _Reader:
    """Asks the router, and turns indexes into names."""

    def __init__(self, host: Host, image: router.Image, found: router.Router) -> None:
        self.host = host
        self.image = image
        self.names = _policies.name_finder(host, image.netns)
        self.policy = router.policy_of(image, self.names)
        self.actions = router.actions_of(image, self.names)
        self.hooks = self._attached(found)

    def _attached(self, found: router.Router) -> t.Dict[str, t.Set[str]]:
        """The devices that the router is attached to, in the namespace of the policy, with the hooks."""
        hooks: t.Dict[str, t.Set[str]] = {}
        for program, pin in pins.links(found.topology, found.name):
            if program == router.PROGRAM and pin.netns == self.image.netns and pin.hook != "primary":
                if self.host.find_link(pin.netns, pin.link) is not None:
                    hooks.setdefault(pin.link, set()).add(pin.hook)
        return hooks

    def answer(self, fd: int, question: Question) -> t.Dict[str, t.Any]:
        name = question.device or next(iter(self.hooks), "")
        record = self.host.find_link(self.image.netns, name) if name else None
        if name and record is None:
            where = self.image.netns or "the host namespace"
            raise SpecError(f"{question.path}.device", f"there is no device {name} in {where}")
        mac = bytes.fromhex((record.mac or "").replace(":", "")) if record is not None else b""
        if len(mac) != 6:
            mac = b""  # of tunnels it is an address
        frame = question.raw or frames.frame_of(t.cast(frames.Packet, question.packet), mac)
        if question.raw and mac and self.hooks.get(name) == {"egress"}:
            # What leaves is for the next hop. The kernel's test, which plays a packet that comes in, would take it for a stranger's.
            frame = mac + question.raw[6:]
        context = _SKB_IFINDEX.pack(record.ifindex) if record is not None and record.ifindex > 1 else b""
        with namespaces.entered(self.image.netns):
            try:
                answer = bpf.test_run(fd, frame, context=context)
            except KernelError as problem:
                raise PlanError(
                    f"{question.path}: the kernel does not run the router: {problem}"
                ) from problem
        if len(answer.data) != DECISION.size:
            raise PlanError(
                f"{question.path}: the router gave no answer; load policy_router.bpf.c of this version"
            )
        return self._told(question, DECISION.unpack(answer.data))

    def _told(self, question: Question, decision: t.Sequence[t.Any]) -> t.Dict[str, t.Any]:
        verdict, outcome, cause, table, action, _kind, counter, nexthop, ifindex, family, raw, flags = (
            decision
        )
        outcome_name = COUNTERS[outcome] if outcome < len(COUNTERS) else str(outcome)
        cause_name = COUNTERS[cause] if cause else ""
        result: t.Dict[str, t.Any] = {
            "packet": str(question.packet) if question.packet else question.raw.hex(),
            "verdict": VERDICTS.get(verdict, str(verdict)),
            "outcome": outcome_name,
            "reason": cause_name,
            "explanation": REASONS.get(cause_name or outcome_name, ""),
            "table": TABLES[table] if table < len(TABLES) else str(table),
            "entry": None,
            "interface": None,
            "next_hop": None,
            "flags": [name for bit, name in enumerate(FLAGS) if flags >> bit & 1],
        }
        if table and question.packet is not None:
            match = matched(self.policy, self.image, question.packet, result["table"], (action, counter))
            if match is not None:
                result["entry"] = words.entry_item(self.policy, *match)
        if nexthop and outcome_name == "redirect":
            result["interface"] = self.names(ifindex)
            if family:
                result["next_hop"] = socket.inet_ntop(family, raw[:4] if family == socket.AF_INET else raw)
        result["text"] = _decision_text(result)
        return result


def _decision_text(result: t.Mapping[str, t.Any]) -> str:
    parts = [f"{result['packet']}: {result['outcome']}"]
    if result["interface"]:
        parts.append(f"to {result['next_hop'] or 'the destination itself'} by {result['interface']}")
    if result["entry"]:
        match = {
            name: result["entry"][name]
            for name in ("source", "destination", "protocol", "destination_port", "family")
            if name in result["entry"]
        }
        parts.append("matched " + " ".join(f"{name} {value}" for name, value in match.items()))
    if result["explanation"]:
        parts.append(f"({result['explanation']})")
    parts += result["flags"]
    return " ".join(parts)


def matched(
    policy: Policy, image: router.Image, packet: frames.Packet, table: str, choice: router.Choice
) -> t.Optional[Match]:
    """The entry by which a router has decided, from the table in which it found it and the choice that it read there."""
    if table == "default":
        version = 4 if len(packet.source) == 4 else 6
        return (DEFAULTS, version) if version in policy.table(DEFAULTS) else None
    if table in ("port", "protocol"):
        return _matched_condition(policy, image, packet, table == "protocol", choice)
    side = words.SOURCES if table.startswith("source") else words.DESTINATIONS
    address = packet.source if side == words.SOURCES else packet.destination
    whole = 8 * len(address)
    lengths = [whole] if table.endswith("_exact") else range(whole, -1, -1)
    for length in lengths:
        match = words.address_match(side, words.cut(address, length), length)
        if match[1] in policy.table(match[0]):
            return match
    return None


def _matched_condition(
    policy: Policy, image: router.Image, packet: frames.Packet, any_port: bool, choice: router.Choice
) -> t.Optional[Match]:
    found = []
    for key, value in image.notes.items():
        match = router.match_of(key)
        if match is None or match[0] != CONDITIONS or router.NOTE.unpack(value)[:2] != choice:
            continue
        condition = match[1]
        ports = condition.is_any_port or condition.first <= packet.destination_port <= condition.last
        if condition.protocol != packet.protocol or not ports or (any_port and not condition.is_any_port):
            continue
        if words.is_within(packet.source, 8 * len(packet.source), condition.address, condition.length):
            found.append((words.rank(condition, policy.priorities), match))
    return min(found)[1] if found else None
