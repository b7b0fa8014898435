# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptors and threads: as many after the hundredth run as after the third, and few however large a topology is."""

from __future__ import annotations

import typing as t

import pytest
from sandbox import Sandbox
from steps import assert_same, converged

DOCUMENT: t.Dict[str, t.Any] = {
    "netns": [{"name": "ns1"}, {"name": "ns2"}],
    "netkit_link": [
        {
            "name": f"nk{n}",
            "fallback": "veth",
            "addresses": [f"10.0.{n}.1/24"],
            "peer": {"name": "eth0", "netns": f"ns{n}", "addresses": [f"10.0.{n}.2/24", f"fd00:{n}::2/64"]},
        }
        for n in (1, 2)
    ],
    "link": [{"name": "tap0", "kind": "tap", "netns": "ns1"}, {"name": "br0", "kind": "bridge"}],
    "route": [{"netns": "ns1", "destination": "default", "via": "10.0.1.1"}],
    "rule": [{"netns": "ns2", "priority": 9, "source": "10.0.2.0/24", "table": "9"}],
    "neighbor": [{"dev": "eth0", "netns": "ns1", "address": "10.0.1.9", "mac": "02:00:00:00:00:09"}],
    "sysctl_forwarding": [{"netns": "ns1", "ipv4": True, "ipv6": True}, {"ipv4": True, "persist": True}],
}
SMALLER = {"netns": DOCUMENT["netns"], "netkit_link": DOCUMENT["netkit_link"][:1]}

RUNS: t.Dict[str, t.List[t.Tuple[t.Dict[str, t.Any], t.Dict[str, t.Any]]]] = {
    "unchanged": [(DOCUMENT, {})],
    "check mode": [(SMALLER, {"check": True})],
    "made and removed": [(SMALLER, {}), ({}, {"state": "absent"})],
    "refused": [({"netns": [{"name": "ns1"}], "route": [{"destination": "default", "via": "no"}]}, {})],
    "failed and undone": [(SMALLER, {"fail_at": 4})],
}


def counts(answer: t.Mapping[str, t.Any]) -> t.Tuple[int, int]:
    return answer["descriptors"], answer["threads"]


@pytest.mark.parametrize("steps", RUNS.values(), ids=RUNS)
def test_a_hundred_runs_leave_no_descriptor_and_no_thread(
    box: Sandbox, steps: t.List[t.Tuple[t.Dict[str, t.Any], t.Dict[str, t.Any]]]
) -> None:
    before = box.state()
    found = []
    for number in range(100 // len(steps) + 1):
        for document, options in steps:
            answer = box.topology(document, **options)
            assert ("error" in answer) == (
                "fail_at" in options or document.get("route", [{}])[0].get("via") == "no"
            ), answer
        found.append(counts(answer))
        if number > 2:
            assert found[-1] == found[2]
    converged(box, {}, state="absent")
    assert_same(box.state(), before)


def test_two_hundred_namespaces_need_few_descriptors(box: Sandbox) -> None:
    before = box.state()
    box.topology({}, check=True)  # starts the driver
    assert box._driver is not None
    box.run("prlimit", "--pid", str(box._driver.pid), "--nofile=256:256")
    document = {
        "netns": [{"name": f"ns{n}"} for n in range(200)],
        "link": [
            {
                "name": f"v{n}",
                "kind": "veth",
                "addresses": [f"10.0.{n}.1/24"],
                "peer": {"name": "eth0", "netns": f"ns{n}", "addresses": [f"10.0.{n}.2/24"]},
            }
            for n in range(200)
        ],
        "route": [{"netns": f"ns{n}", "destination": "default", "via": f"10.0.{n}.1"} for n in range(200)],
    }
    assert len(converged(box, document)["actions"]) == 1000
    for check in (True, False):
        again = converged(box, document, check=check)
        assert again["actions"] == []
        assert again["descriptors"] < 16
    assert len(box.namespaces()) == 200
    assert converged(box, {}, state="absent")["changed"]
    assert_same(box.state(), before)
