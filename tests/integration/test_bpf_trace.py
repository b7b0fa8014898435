# SPDX-License-Identifier: GPL-3.0-or-later
"""bpf_trace on this kernel: events of a program that emits one for each packet, and what a program prints."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import typing as t

import pytest
from sandbox import Sandbox
from steps import converged

MODULE = "ansible_collections.cnf.ebpf.plugins.modules.bpf_trace"
NAME = f"trace{os.getpid()}"  # programs are the whole kernel's: other runs of these tests have theirs
SOURCE = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct event {
    __u32 number;
    __be16 protocol;
    __u16 length;
};
const struct event *unused_event __attribute__((unused));

struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); } seen SEC(".maps");

/* One event for each IPv4 packet, every third discarded. */
SEC("tc") int emit(struct __sk_buff *skb)
{
    __u32 zero = 0, *number = bpf_map_lookup_elem(&seen, &zero);
    struct event *event;

    if (!number || skb->protocol != bpf_htons(ETH_P_IP))
        return -1;
    *number += 1;
    event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event)
        return -1;
    event->number = *number;
    event->protocol = skb->protocol;
    event->length = skb->len;
    if (*number % 3)
        bpf_ringbuf_submit(event, 0);
    else
        bpf_ringbuf_discard(event, 0);
    return -1;
}

SEC("tc") int say(struct __sk_buff *skb)
{
    if (skb->protocol == bpf_htons(ETH_P_IP))
        bpf_printk("%s: %d bytes", MARKER, skb->len);
    return -1;
}
char _license[] SEC("license") = "GPL";
"""


def command(box: Sandbox, **options: t.Any) -> t.Tuple[t.List[str], str]:
    return box.command(sys.executable, "-m", MODULE), json.dumps({"ANSIBLE_MODULE_ARGS": options})


def ask(box: Sandbox, **options: t.Any) -> t.Dict[str, t.Any]:
    words, text = command(box, **options)
    done = subprocess.run(
        words, input=text, env=box.environment(), capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout)


def refused(box: Sandbox, **options: t.Any) -> str:
    answer = ask(box, **options)
    assert answer.get("failed") is True, answer
    message = str(answer["msg"])
    assert "\n" not in message
    return message


def own(**options: t.Any) -> t.Dict[str, t.Any]:
    return {"topology": NAME, "object": "sampler", "map": "events", **options}


def send(box: Sandbox, count: int, size: int = 56) -> None:
    """Packets to the loopback device; each ping is two."""
    box.sh(f"ping -c {count} -i 0.002 -s {size} -q 127.0.0.1")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Sandbox]:
    """A host whose loopback device tells of each packet that it receives."""
    source = tmp_path_factory.mktemp("source") / "sampler.bpf.c"
    source.write_text(SOURCE.replace("MARKER", f'"{NAME}"'))
    document = {"name": NAME, "bpf_object": [{"name": "sampler", "source": str(source), "compiler": "clang"}]}
    with Sandbox() as sandbox:
        converged(sandbox, document)
        directory = f"/sys/fs/bpf/cnf/{NAME}/sampler/programs"
        sandbox.sh(
            "tc qdisc add dev lo clsact;"
            f"tc filter add dev lo ingress bpf direct-action object-pinned {directory}/emit"
        )
        yield sandbox


@pytest.fixture
def emptied(box: Sandbox) -> Sandbox:
    """The host with nothing in the ring buffer, and the next packet the first."""
    ask(box, **own(seconds=0.001))
    box.sh(
        f"bpftool map update pinned /sys/fs/bpf/cnf/{NAME}/sampler/maps/seen key hex 00 00 00 00 value hex 00 00 00 00"
    )
    return box


def test_events_that_wait_are_decoded_and_taken(emptied: Sandbox) -> None:
    send(emptied, 5)
    found = ask(emptied, **own(type="event", events=7, seconds=20))
    assert (found["count"], found["discarded"], found["lost"]) == (7, 3, None)
    numbers = [event["data"]["number"] for event in found["events"]]
    assert numbers == [1, 2, 4, 5, 7, 8, 10]
    first = found["events"][0]
    assert first["data"] == {"number": 1, "protocol": 0x0800, "length": 98}
    assert bytes.fromhex(first["raw"]) == (
        (1).to_bytes(4, sys.byteorder) + b"\x08\x00" + (98).to_bytes(2, sys.byteorder)
    )
    assert found["changed"] is False
    again = ask(emptied, **own(seconds=0.01, _ansible_check_mode=True))
    assert (again["events"], again["count"], again["discarded"]) == ([], 0, 0)


def test_a_limit_leaves_the_rest_for_the_next(emptied: Sandbox) -> None:
    send(emptied, 3)
    some = ask(emptied, **own(type="struct event", events=2))
    assert [event["data"]["number"] for event in some["events"]] == [1, 2]
    rest = ask(emptied, **own(type="event", seconds=0.01))
    assert [event["data"]["number"] for event in rest["events"]] == [4, 5]
    assert rest["discarded"] == 2


def test_events_that_come_while_it_reads(emptied: Sandbox) -> None:
    words, text = command(emptied, **own(type="event", events=400, seconds=60))
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=emptied.environment(), text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(text)
        process.stdin.close()
        # The ring buffer of 4096 bytes holds 256 of these events: it goes round several times.
        while process.poll() is None and not select.select([process.stdout], [], [], 0)[0]:
            send(emptied, 20)
        found = json.loads(process.stdout.read())
    numbers = [event["data"]["number"] for event in found["events"]]
    assert len(numbers) == 400
    assert numbers == sorted(set(numbers)) and not [number for number in numbers if number % 3 == 0]
    assert {event["data"]["length"] for event in found["events"]} == {98}


def test_a_full_ring_buffer_keeps_its_oldest_events(emptied: Sandbox) -> None:
    send(emptied, 200)
    found = ask(emptied, **own(type="event", seconds=0.01))
    # 400 packets, and room for 255 records of 16 bytes: one stays free in a full buffer.
    assert found["count"] + found["discarded"] == 255
    assert [event["data"]["number"] for event in found["events"]] == [n for n in range(1, 256) if n % 3]
    send(emptied, 1)
    assert ask(emptied, **own(seconds=0.01, type="event"))["events"][0]["data"]["number"] == 401


def test_without_a_type_events_are_bytes(emptied: Sandbox) -> None:
    send(emptied, 1)
    (one, two) = ask(emptied, **own(seconds=0.01))["events"]
    assert one["data"] is None and two["data"] is None
    assert [len(event["raw"]) for event in (one, two)] == [16, 16]


def test_errors(box: Sandbox) -> None:
    line = refused(box, **own(type="evnt"))
    assert line.startswith(
        "type: the type information of map events and its programs has no struct evnt; it has "
    )
    assert " event" in line.split("it has ")[1]
    assert refused(box, **own(map="seen")) == (
        "map seen is no ring buffer but of type array; cnf.ebpf.bpf_map_info reads it"
    )
    assert refused(box, **own(map="event")) == (
        f"map: bpf_object {NAME}/sampler has no map event; it has events, seen"
    )
    assert refused(box, **own(seconds=0)) == "seconds: 0.0 is not a time to wait for; give more than 0"
    assert refused(box, **own(events=0)) == "events: 0 is not a number of events; give 1 or more"
    for options in ({}, {"id": 1, "map": "/x"}, {"id": 1, "trace_pipe": True}):
        assert refused(box, **options) == "give one of map, id and trace_pipe"
    assert refused(box, trace_pipe=True, type="event") == "type: the trace pipe holds text; leave it out"


def test_the_trace_pipe_has_what_programs_print(box: Sandbox) -> None:
    directory = f"/sys/fs/bpf/cnf/{NAME}/sampler/programs"
    box.sh(f"tc filter add dev lo ingress bpf direct-action object-pinned {directory}/say")
    mounts = box.sh("cat /proc/self/mountinfo")
    words, text = command(box, trace_pipe=True, seconds=3)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=box.environment(), text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(text)
        process.stdin.close()
        send(box, 2, size=100)
        answer = json.loads(process.stdout.read())
    if answer.get("failed") and "no tracefs" in answer["msg"]:
        pytest.skip(answer["msg"])
    mine = [event for event in answer["events"] if event["text"].startswith(f"{NAME}: ")]
    assert [event["text"] for event in mine] == [f"{NAME}: 142 bytes"] * 4
    assert {event["task"] for event in mine} == {"ping"}
    assert all(event["pid"] > 0 and event["cpu"] >= 0 for event in mine)
    times = [event["time"] for event in mine]
    assert times == sorted(times) and 0 < times[0] <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert (answer["lost"], answer["discarded"]) == (0, 0)
    assert box.sh("cat /proc/self/mountinfo") == mounts
