# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures: what they show of a topology, how a plan is coloured, where boxes go, and that no text can break the drawing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cnf.ebpf.plugins.plugin_utils.pictures import (
    graphviz,
    layout,
    mermaid,
    reading,
    scene,
    svg,
)

quick = examples(100)

EDGE = {
    "netns": [{"name": "cnf"}],
    "netkit_link": [
        {
            "name": "nk0",
            "mode": "l3",
            "mtu": 1400,
            "addresses": ["10.0.1.1/24"],
            "peer": {"name": "eth0", "netns": "cnf", "addresses": [{"address": "10.0.1.2/24"}]},
        }
    ],
    "link": [
        {"name": "br0", "kind": "bridge"},
        {"name": "v5", "kind": "vlan", "id": 5, "parent": "uplink", "master": "br0"},
    ],
    "address": [{"dev": "eth0", "netns": "cnf", "address": "fd00:1::2/64"}],
    "route": [{"netns": "cnf", "destination": "default", "via": "10.0.1.1"}],
    "sysctl_forwarding": [{"ipv4": True, "rp_filter": "loose"}],
    "netkit_attach": [
        {"object": "count", "link": "nk0", "hook": "peer", "order": "last"},
        {"object": "filter", "program": "filter", "link": "nk0", "hook": "peer"},
        {"object": "count", "link": "nk0", "hook": "primary"},
    ],
    "bpf_policy_entry": [
        {
            "object": "router",
            "entries": [
                {"source": "10.0.1.0/24", "next_hop": "192.0.2.1", "interface": "uplink"},
                {"protocol": "tcp", "destination_port": 443, "action": "drop"},
            ],
        }
    ],
    "bpf_pool": [
        {
            "object": "router",
            "name": "isps",
            "members": [{"address": "192.0.2.1", "interface": "a", "weight": 2}],
        }
    ],
}


def drawn(value, title="", most=12, **more):
    return scene.assembled(reading.surrounded(reading.read(value), **more), title, most)


def port(picture, netns, name):
    box = next(box for box in picture.boxes if box.netns == netns)
    return next(one for one in box.ports if one.name == name)


def texts(items):
    return [(item.text, item.status) for item in items]


def test_a_topology_is_shown_with_all_that_it_declares():
    picture = drawn(EDGE)
    assert [box.title for box in picture.boxes] == ["host", "cnf"]
    host, cnf = picture.boxes
    assert [(one.name, one.about) for one in host.ports] == [
        ("nk0", "netkit l3 mtu 1400"),
        ("br0", "bridge"),
        ("v5", "vlan 5 in br0 on uplink"),
    ]
    assert texts(host.lines) == [("forwarding ipv4: on", "same"), ("rp_filter: loose", "same")]
    assert texts(cnf.lines) == [("default via 10.0.1.1", "same")]
    assert texts(port(picture, "cnf", "eth0").addresses) == [
        ("10.0.1.2/24", "same"),
        ("fd00:1::2/64", "same"),
    ]
    assert [(hook.name, texts(hook.programs)) for hook in port(picture, "", "nk0").hooks] == [
        ("netkit primary", [("count", "same")]),
        ("netkit peer", [("filter", "same"), ("count", "same")]),
    ]
    assert picture.cables == (scene.Cable((("", "nk0"), ("cnf", "eth0")), "netkit l3", "same"),)
    policy, pools = picture.tables
    assert policy.title == "policy of router"
    assert [row.cells for row in policy.rows] == [
        ("from 10.0.1.0/24", "via 192.0.2.1 dev uplink"),
        ("tcp port 443", "drop"),
    ]
    assert [row.cells for row in pools.rows] == [("isps", "via 192.0.2.1 dev a weight 2")]


def test_a_plan_is_drawn_as_what_it_adds_removes_and_changes():
    before = {
        "link": [
            {
                "name": "v0",
                "kind": "veth",
                "mtu": 1500,
                "up": True,
                "peer": {"name": "v1", "netns": "a", "up": True},
            }
        ],
        "netns": [{"name": "a"}, {"name": "old"}],
        "address": [{"dev": "v0", "address": "10.0.0.1", "prefixlen": 24}],
        "route": [{"destination": "0.0.0.0/0", "table": 254, "metric": 0, "via": "10.0.0.2", "netns": "a"}],
        "sysctl": [{"name": "net/ipv4/conf/all/forwarding", "value": "0"}],
        "bpf_policy_entry": [{"object": "r", "entries": [{"source": "10.0.0.0/8", "action": "pass"}]}],
    }
    after = {
        "link": [
            {
                "name": "v0",
                "kind": "veth",
                "mtu": 1400,
                "up": True,
                "peer": {"name": "v1", "netns": "a", "up": True},
            }
        ],
        "netns": [{"name": "a"}],
        "address": [
            {"dev": "v0", "address": "10.0.0.1", "prefixlen": 24},
            {"dev": "v0", "address": "fd00::1", "prefixlen": 64},
        ],
        "route": [{"destination": "0.0.0.0/0", "table": 254, "metric": 0, "via": "10.0.0.3", "netns": "a"}],
        "sysctl": [{"name": "net/ipv4/conf/all/forwarding", "value": "1"}],
        "tcx_attach": [{"object": "count", "program": "count", "link": "v0", "hook": "ingress"}],
        "bpf_policy_entry": [{"object": "r", "entries": [{"source": "10.0.0.0/8", "action": "drop"}]}],
    }
    picture = drawn({"before": before, "after": after})
    assert [(box.title, box.status) for box in picture.boxes] == [
        ("host", "same"),
        ("a", "same"),
        ("old", "removed"),
    ]
    v0 = port(picture, "", "v0")
    assert (v0.status, v0.about) == ("changed", "veth mtu 1500 → 1400 up")
    assert texts(v0.addresses) == [("10.0.0.1/24", "same"), ("fd00::1/64", "added")]
    assert [(hook.name, texts(hook.programs)) for hook in v0.hooks] == [("tcx ingress", [("count", "added")])]
    assert texts(picture.boxes[0].lines) == [("forwarding ipv4: off → forwarding ipv4: on", "changed")]
    assert texts(picture.boxes[1].lines) == [("default via 10.0.0.2 → default via 10.0.0.3", "changed")]
    assert picture.cables[0].status == "same"
    assert [(row.cells, row.status) for row in picture.tables[0].rows] == [
        (("from 10.0.0.0/8", "pass → drop"), "changed")
    ]
    # The same from the other side: what was added is removed.
    back = drawn({"before": after, "after": before})
    assert texts(port(back, "", "v0").addresses) == [("10.0.0.1/24", "same"), ("fd00::1/64", "removed")]
    assert back.boxes[2].status == "added"


def test_what_a_document_does_not_say_is_no_change():
    said = {"link": [{"name": "v0", "kind": "dummy"}]}
    found = {"link": [{"name": "v0", "kind": "dummy", "mtu": 1500, "up": True}]}
    picture = drawn({"before": found, "after": said})
    assert (port(picture, "", "v0").status, port(picture, "", "v0").about) == ("same", "dummy mtu 1500 up")


def test_what_else_is_on_the_host_is_foreign():
    host = {
        "link": [
            {"name": "eth0", "kind": "existing", "mtu": 1500, "up": True, "master": "br9"},
            {"name": "v0", "kind": "dummy", "mtu": 9000},
        ],
        "netns": [{"name": "docker"}],
        "route": [{"destination": "default", "via": "192.0.2.1"}],
        "sysctl_forwarding": [{"netns": "docker", "ipv4": True, "ipv6": False}],
        "neighbor": [
            {"dev": "v0", "address": address, "managed": True} for address in ("192.0.2.7", "192.0.2.8")
        ],
    }
    programs = [
        {
            "netns": "",
            "link": "v0",
            "hooks": [
                {
                    "hook": "tcx egress",
                    "programs": [
                        {"name": "cilium", "object": None, "program": None},
                        {"name": "count", "object": "count", "program": "count"},
                    ],
                },
                {"hook": "xdp", "programs": [{"name": "dropper", "object": None, "program": None}]},
            ],
        }
    ]
    own = {
        "link": [{"name": "v0", "kind": "dummy"}],
        "tcx_attach": [
            {"object": "count", "link": "v0", "hook": "egress"},
            {"object": "gone", "link": "v0", "hook": "egress"},
        ],
        "bpf_policy_entry": [
            {"object": "router", "source": "10.0.0.1", "next_hop": "192.0.2.7", "interface": "v0"}
        ],
    }
    picture = drawn(own, host=host, programs=programs)
    v0, eth0 = port(picture, "", "v0"), port(picture, "", "eth0")
    assert (v0.status, v0.about) == ("same", "dummy mtu 9000")
    assert (eth0.status, eth0.about) == ("foreign", "mtu 1500 up in br9")
    # In the order in which they run; what the kernel does not have of ours is not shown as if it ran.
    assert [(hook.name, texts(hook.programs)) for hook in v0.hooks] == [
        ("xdp", [("dropper", "foreign")]),
        ("tcx egress", [("cilium", "foreign"), ("count", "same")]),
    ]
    assert [(box.title, box.status) for box in picture.boxes] == [("host", "same"), ("docker", "foreign")]
    # A router keeps the neighbours that it sends to; a switch that is off is nobody's.
    assert texts(picture.boxes[0].lines) == [
        ("default via 192.0.2.1", "foreign"),
        ("neighbor 192.0.2.7 dev v0 managed", "same"),
        ("neighbor 192.0.2.8 dev v0 managed", "foreign"),
    ]
    assert texts(picture.boxes[1].lines) == [("forwarding ipv4: on", "foreign")]


def test_several_topologies_of_a_host_make_one_picture_and_drift_shows():
    in_sync = {"name": "one", "state": {"link": [{"name": "a", "kind": "dummy"}]}, "drift": {}}
    states = (
        {"link": [{"name": "b", "kind": "dummy", "up": False}]},
        {"link": [{"name": "b", "kind": "dummy", "up": True}]},
    )
    drifted = {"name": "two", "state": states[0], "drift": {"before": states[0], "after": states[1]}}
    picture = drawn({"topologies": [in_sync, drifted], "host": {}})
    assert [(one.name, one.status, one.about) for one in picture.boxes[0].ports] == [
        ("a", "same", "dummy"),
        ("b", "changed", "dummy down → up"),
    ]
    router = {"bpf_policy_entry": [{"object": "router", "source": "10.0.0.0/8", "action": "drop"}]}
    tables = drawn([{"name": "one", **router}, {"name": "two", **router}]).tables
    assert [table.title for table in tables] == [
        "policy of router, topology one",
        "policy of router, topology two",
    ]
    assert drawn([drifted, in_sync]).boxes[0].ports == tuple(reversed(picture.boxes[0].ports))


@pytest.mark.parametrize(
    ("entry", "match", "action"),
    [
        (
            {"source": "10.0.0.0/8", "next_hops": ["192.0.2.1%a", "%b"]},
            "from 10.0.0.0/8",
            "via 192.0.2.1 dev a, then dev b",
        ),
        (
            {"destination": "::/0", "next_hops": [{"address": "fd00::1", "interface": "a"}]},
            "to ::/0",
            "via fd00::1 dev a",
        ),
        ({"protocol": "udp", "destination_port": "53-60", "pool": "dns"}, "udp port 53-60", "pool dns"),
        ({"action": "exempt"}, "everything else", "exempt"),
    ],
)
def test_entries_in_words(entry, match, action):
    assert (reading.match_text(entry), reading.action_text(entry)) == (match, action)


def test_counters_of_a_policy():
    answer = {
        "object": "router",
        "netns": "",
        "entries": [
            {
                "source": "10.0.1.0/24",
                "next_hop": "192.0.2.1",
                "interface": "uplink",
                "packets": 7,
                "bytes": 700,
                "last_hit": None,
            }
        ],
    }
    policy = drawn(EDGE, policies=[answer]).tables[0]
    assert policy.columns == ("packets", "does", "packets", "bytes", "last_hit")
    assert policy.rows[0].cells == ("from 10.0.1.0/24", "via 192.0.2.1 dev uplink", "7", "700", "")


def test_long_lists_are_cut_but_never_what_a_plan_touches():
    routes = [{"destination": f"10.0.{number}.0/24", "via": "192.0.2.1"} for number in range(30)]
    picture = drawn({"before": {"route": routes[:29]}, "after": {"route": routes}}, most=5)
    lines = texts(picture.boxes[0].lines)
    assert len(lines) == 6
    assert lines[4:] == [("10.0.29.0/24 via 192.0.2.1", "added"), ("and 25 more: route", "same")]


@pytest.mark.parametrize("value", ["text", 5, None, {}, {"name": "edge"}])
def test_what_cannot_be_drawn_is_refused(value):
    with pytest.raises(ValueError, match=r"a topology (is|has)"):
        reading.read(value)


# --- where boxes go -----------------------------------------------------------------------------------------------------

names = st.integers(0, 14).map("n{}".format)


@quick
@given(
    st.dictionaries(names, st.tuples(st.floats(60, 500), st.floats(30, 400)), min_size=1),
    st.lists(st.tuples(names, names), max_size=20),
)
def test_boxes_never_overlap_and_lie_within(sizes, pairs):
    joined = [(one, other) for one, other in pairs if one in sizes and other in sizes]
    found = layout.placed(sizes, joined)
    assert set(found.corners) == set(sizes)
    frames = [(*found.corners[name], *sizes[name]) for name in sizes]
    for number, (x, y, width, height) in enumerate(frames):
        assert x >= -1e-6 and y >= -1e-6
        assert x + width <= found.width + 1e-6 and y + height <= found.height + 1e-6
        for x2, y2, width2, height2 in frames[:number]:
            assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y


@quick
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=15))
def test_cables_join_neighbouring_layers(pairs):
    neighbours = {}
    for one, other in sorted(pairs):
        if one != other:
            neighbours.setdefault(f"n{one}", set()).add(f"n{other}")
            neighbours.setdefault(f"n{other}", set()).add(f"n{one}")
    for group in layout.groups(neighbours):
        found = layout.layers(group, neighbours)
        place = {name: number for number, layer in enumerate(found) for name in layer}
        assert sorted(place) == sorted(group)
        assert all(abs(place[name] - place[other]) <= 1 for name in group for other in neighbours[name])


def test_a_chain_is_a_line_that_is_folded():
    chain = [f"c{number}" for number in range(6)]
    found = layout.placed(
        dict.fromkeys(chain, (200, 50)), list(zip(chain, chain[1:])), widest=1000, across=100
    )
    assert [found.corners[name] for name in chain] == [
        (0, 0), (300, 0), (600, 0), (600, 106), (300, 106), (0, 106),
    ]  # fmt: skip


# --- what is drawn ------------------------------------------------------------------------------------------------------

PLAN = {
    "before": {"netns": [{"name": "a"}]},
    "after": {**{k: v for k, v in EDGE.items() if k != "sysctl_forwarding"}},
}
NASTY = "<b>\"&'`--> ]] \\ #; %{x}"


def nasty_names():
    return {
        "netns": [{"name": NASTY}],
        "link": [{"name": NASTY, "netns": NASTY, "kind": "veth", "peer": {"name": "v1"}}],
        "route": [{"netns": NASTY, "destination": NASTY}],
        "tcx_attach": [{"object": NASTY, "link": NASTY, "netns": NASTY, "hook": "ingress"}],
        "bpf_policy_entry": [{"object": NASTY, "source": NASTY, "action": NASTY}],
    }


def test_svg_shows_every_text_and_needs_nothing_from_elsewhere():
    told = svg.rendered(drawn(PLAN, "edge"))
    tree = ElementTree.fromstring(told)
    shown = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    for text in (
        "+ cnf",
        "- a",
        "+ nk0",
        "+ 10.0.1.1/24",
        "+ filter",
        "+ default via 10.0.1.1",
        "+ netkit l3",
        "+ tcp port 443",
    ):
        assert text in shown
    assert not re.search(r"(?:href|src|url\(|<script|<style)", told)
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}path"))) == 1
    without = svg.rendered(drawn(PLAN, "edge"), tables=False)
    assert "tcp port 443" in told and "tcp port 443" not in without


def test_texts_keep_within_their_boxes():
    long = {"route": [{"destination": "2001:db8:0:1::/64", "via": "x" * 300}], "netns": [{"name": "n" * 80}]}
    tree = ElementTree.fromstring(svg.rendered(drawn([EDGE, long])))
    width = float(tree.get("viewBox").split()[2])
    for node in tree.iter("{http://www.w3.org/2000/svg}text"):
        if node.get("text-anchor") is None:
            assert float(node.get("x")) + len(node.text) * svg.CHARACTER <= width


def test_names_cannot_break_a_drawing():
    picture = drawn(nasty_names(), NASTY)
    tree = ElementTree.fromstring(svg.rendered(picture))
    shown = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert shown.count(NASTY) == 5  # namespace, device, program, route, what the policy does
    told = mermaid.rendered(picture)
    labels = re.findall(r'\["(.*)"\]$', told, re.MULTILINE)
    assert len(labels) == 6  # two namespaces, two devices, the route, the policy
    for label in labels:
        bare = re.sub(r"</?(?:b|i)>|<br/>", "", label)
        assert not re.search(r'[<>"`&]', bare)
    dot = graphviz.rendered(picture)
    assert "<b>&lt;b&gt;&quot;&amp;&#x27;`--&gt; ]] \\ #; %{x}</b>" in dot


def test_mermaid_of_a_plan():
    told = mermaid.rendered(drawn(PLAN, 'the "edge"'))
    assert told.startswith('---\ntitle: "the \\"edge\\""\n---\nflowchart LR\n')
    assert '  p0 ---|"+ netkit l3"| p3\n' in told
    assert "  linkStyle 0 stroke:#1a7f37,stroke-width:2px\n" in told
    assert re.search(r"^  class p0,.* added$", told, re.MULTILINE)
    assert "<b>+ nk0</b> netkit l3 mtu 1400<br/>+ 10.0.1.1/24<br/><i>netkit primary</i>: + count<br/>" in told
    assert "<i>netkit peer</i>: + filter → + count" in told


def test_graphviz_of_a_plan():
    told = graphviz.rendered(drawn(PLAN, 'the "edge"'))
    assert 'label="the \\"edge\\""' in told
    assert '  p0 -- p3 [label="+ netkit l3", color="#1a7f37", fontcolor="#0f5323", penwidth=2]\n' in told
    assert told.count("subgraph cluster_") == 3
    assert told.count("{") == told.count("}")
