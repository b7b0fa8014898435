# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of the collection, for a small fleet whose hosts are topologies of one machine."""

from __future__ import annotations

import json
import re
import threading
import typing as t
from pathlib import Path

import pytest
import yaml
from bpf_steps import nothing_new
from policy_cases import info
from sandbox import Sandbox
from steps import assert_same, store_files

from playbooks import Ansible, recap

FLEET = ("h1", "h2", "h3", "h4")


def changes(text: str) -> t.Dict[str, int]:
    return {host: row["changed"] for host, row in recap(text).items()}


def test_site_verify_and_teardown(box: Sandbox, ansible: Ansible) -> None:
    before, bpf = box.state(), box.bpf()
    lan = {
        "name": "lan",
        "netns": [{"name": "a"}],
        "link": [{"name": "v0", "kind": "veth", "peer": {"name": "v1", "netns": "a"}}],
    }
    inventory = {
        "all": {
            # What an inventory says of a role's state and proof holds for site; the other playbooks mean what they say.
            "hosts": {
                "one": {"cnf_topologies": [lan], "simple_cnf_state": "present", "simple_cnf_verify": False}
            },
            "children": {"simple_cnf": {"hosts": {"one": {}}}, "host_prerequisites": {"hosts": {"one": {}}}},
        }
    }
    checked = ansible.playbook("site", inventory, "--check")
    assert checked.returncode == 0, checked.stdout
    assert_same(box.state(), before)
    done = ansible.playbook("site", inventory)
    assert done.returncode == 0, done.stdout
    assert changes(checked.stdout) == changes(done.stdout) == {"one": 2}
    # What a host needs comes before what needs it.
    assert done.stdout.index("host_prerequisites : See what there is") < done.stdout.index(
        "Converge a topology"
    )
    assert changes(ansible.playbook("site", inventory).stdout) == {"one": 0}
    proven = ansible.playbook("verify", inventory)
    assert proven.returncode == 0, proven.stdout
    assert re.search(r"Every client reaches every other\] \*+\nok: \[one\]", proven.stdout)
    assert not re.search(r"Every client reaches every other\] \*+\nok", done.stdout)
    box.sh("ip -n ns1 route del default")
    drifted = ansible.playbook("verify", inventory)
    assert drifted.returncode == 2
    assert "simple_cnf has drifted: create route 0.0.0.0/0 table main metric 0 in netns ns1" in drifted.stdout
    assert changes(ansible.playbook("site", inventory).stdout) == {"one": 1}
    gathered = ansible.playbook("gather", inventory)
    assert gathered.returncode == 0, gathered.stdout
    told = yaml.safe_load((ansible.directory / "gathered" / "one.yml").read_text())
    assert {row["name"] for row in told["topologies"]} == {"lan", "simple-cnf"}
    assert all(row["in_sync"] for row in told["topologies"])
    assert (ansible.directory / "gathered" / "one.yml").stat().st_mode & 0o777 == 0o600
    gone = ansible.playbook("teardown", inventory)
    assert gone.returncode == 0, gone.stdout
    assert changes(ansible.playbook("teardown", inventory).stdout) == {"one": 0}
    assert_same(box.state(), before)
    assert store_files(box) == []
    nothing_new(box, bpf)


def test_topologies_that_are_kept_elsewhere(box: Sandbox, ansible: Ansible) -> None:
    """A directory for all, another one of a topology's own, and a directory of the user's for what is gathered."""
    before = box.state()
    rest, own = ansible.directory / "rest", ansible.directory / "own"
    topologies = [
        {"name": "a", "netns": [{"name": "a"}]},
        {"name": "b", "netns": [{"name": "b"}], "state_dir": str(own)},
    ]
    inventory = {"all": {"hosts": {"one": {"cnf_topologies": topologies}}}}
    option = ("-e", json.dumps({"cnf_state_dir": str(rest)}))
    assert changes(ansible.playbook("site", inventory, *option).stdout) == {"one": 1}
    kept = sorted(ansible.directory.rglob("generations/*.json"))
    assert kept == [own / "b/generations/000001.json", rest / "a/generations/000001.json"]
    assert store_files(box) == []
    assert changes(ansible.playbook("verify", inventory, *option).stdout) == {"one": 0}
    to = ansible.directory / "gathered"
    to.mkdir(mode=0o750)
    home = ("-e", json.dumps({"cnf_gather_to": "~/gathered"}))
    assert ansible.playbook("gather", inventory, *option, *home).returncode == 0
    assert to.stat().st_mode & 0o777 == 0o750
    told = yaml.safe_load((to / "one.yml").read_text())
    assert [row["name"] for row in told["topologies"]] == ["a"]
    gone = ansible.playbook("teardown", inventory, *option)
    assert gone.returncode == 0 and changes(gone.stdout) == {"one": 1}, gone.stdout
    assert_same(box.state(), before)


@pytest.fixture
def fleet(box: Sandbox, ansible: Ansible) -> t.Dict[str, t.Any]:
    """Four hosts with a router each, and a policy of one entry."""
    for name in FLEET:
        box.sh(
            f"ip link add {name} type veth peer name {name}p; ip link set {name} up; ip link set {name}p up"
        )
        base = {"name": name, "bpf_object": [{"name": "router", "source": "policy_router.bpf.c"}]}
        answer = box.topology(base)
        assert "error" not in answer, answer
        task = {"object": "router", "topology": name, "source": "10.0.0.0/8", "action": "pass"}
        assert "error" not in box.task({"section": "bpf_policy_entry", "params": task})
    return {"all": {"hosts": {name: {} for name in FLEET}}}


def rollout(
    ansible: Ansible, fleet: t.Dict[str, t.Any], entries: t.List[t.Dict[str, t.Any]], **more: t.Any
) -> t.Tuple[int, str]:
    done = ansible.playbook("policy_rollout", fleet, "-e", json.dumps(asked(entries, **more)))
    return done.returncode, done.stdout


def asked(entries: t.List[t.Dict[str, t.Any]], **more: t.Any) -> t.Dict[str, t.Any]:
    """The variables of a rollout."""
    return {
        "cnf_policy": {"topology": "{{ inventory_hostname }}", "object": "router", "entries": entries},
        "cnf_policy_before": [
            {"source": "10.1.1.1", "destination": "192.0.2.1", "expect": {"outcome": "pass"}}
        ],
        "cnf_policy_waves": [1, 2, "100%"],
        "cnf_policy_watch": 0.1,
        **more,
    }


NEW = [{"source": "10.0.0.0/8", "action": "drop"}, {"source": "10.9.0.0/16", "action": "pass"}]
AT_ONCE = {"cnf_policy_waves": ["100%"]}
EXPECTED = [{"source": "10.1.1.1", "destination": "192.0.2.1", "expect": {"outcome": "drop"}}]


def test_a_good_policy_reaches_every_host(box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]) -> None:
    code, said = rollout(ansible, fleet, NEW, cnf_policy_watch="5s", cnf_policy_budget="10%")
    assert code != 0 and "cnf_policy_budget, cnf_policy_watch: give a number without a unit" in said
    code, said = rollout(ansible, fleet, NEW, cnf_policy_after=EXPECTED, cnf_policy_waves="1,2,100%")
    assert code == 0, said
    digests = {info(box, topology=name)["digest"] for name in FLEET}
    assert len(digests) == 1
    for name in FLEET:
        assert f"{name}: {next(iter(digests))[:12]} (2 entries)" in said
    assert changes(said) == dict.fromkeys(FLEET, 1)
    # What the rollout wrote goes with the routers, and so does the record of it.
    for name in FLEET:
        box.topology({"name": name}, state="absent")
    assert store_files(box) == []


def test_a_file_is_found_where_ansible_was_started(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    (ansible.directory / "files").mkdir()
    (ansible.directory / "files" / "customers.csv").write_text(
        "source,action\n10.0.0.0/8,drop\n10.9.0.0/16,pass\n"
    )
    policy = {"topology": "{{ inventory_hostname }}", "object": "router", "file": "customers.csv"}
    code, said = rollout(ansible, fleet, [], cnf_policy=policy, cnf_policy_after=EXPECTED, **AT_ONCE)
    assert code == 0, said
    assert [info(box, topology=name)["count"] for name in FLEET] == [2, 2, 2, 2]


def test_a_bad_one_is_stopped_at_the_canary(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    wrong = [{"source": "10.0.0.0/8", "action": "exempt"}]
    code, said = rollout(ansible, fleet, wrong, cnf_policy_after=EXPECTED)
    assert code == 2, said
    assert {name: info(box, topology=name)["digest"] for name in FLEET} == before
    assert "h1: " in said and "FAILED, the old policy is in place: Ask the router after" in said
    assert said.count(" not touched") == 3
    assert "expected outcome drop, got exempt" in said


def test_the_budget_counts_over_all_waves(box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]) -> None:
    """One failure is within the budget of 1, the second stops the run before the last wave."""
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    for name in ("h1", "h3"):
        fleet["all"]["hosts"][name]["expected_of_me"] = "no_match"
    after = [{**EXPECTED[0], "expect": {"outcome": "{{ expected_of_me | default('drop') }}"}}]
    code, said = rollout(ansible, fleet, NEW, cnf_policy_after=after, cnf_policy_budget=1)
    assert code == 2, said
    now = {name: info(box, topology=name)["digest"] for name in FLEET}
    assert {name: now[name] == before[name] for name in FLEET} == {
        "h1": True,
        "h2": False,
        "h3": True,
        "h4": True,
    }
    assert said.count("FAILED, the old policy is in place") == 2
    assert "h4: " in said and said.count(" not touched") == 1


def test_a_policy_that_the_host_refuses_leaves_the_old_one(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    wrong = [{"source": "10.0.0.0/8", "interface": "nowhere", "next_hop": "10.0.0.1"}]
    code, said = rollout(ansible, fleet, wrong)
    assert code == 2, said
    assert "link nowhere is neither declared nor present" in said
    assert put_back(said) == "skipping: [h1]"  # what somebody else may have written meanwhile is theirs
    assert {name: info(box, topology=name)["digest"] for name in FLEET} == before


def put_back(said: str) -> str:
    """What the task that puts an old policy back said."""
    return said.split("TASK [Put the old policy back]")[1].splitlines()[1]


def lost(box: Sandbox, fleet: t.Dict[str, t.Any], hosts: t.Sequence[str], when: str) -> None:
    """The hosts cannot be reached while the expression holds: their connection leads through a name that is not there."""
    box.sh("ip netns attach here $$")
    for name in hosts:
        fleet["all"]["hosts"][name].update(
            ansible_connection="cnf.ebpf.netns",
            ansible_netns_transport="local",
            ansible_netns_keep_sys=True,
            ansible_netns="{{ 'away' if " + when + " else 'here' }}",
        )


WRITTEN = "cnf_rollout_new is defined and cnf_rollout_new is changed"


@pytest.mark.parametrize(
    "when, where, changed",
    [
        pytest.param(
            "(cnf_rollout_old | default({})).digest is defined",
            "Reach the host after the change",
            0,
            id="in-the-change",
        ),
        pytest.param(WRITTEN, "Reach the host with its new policy", 2, id="by-the-change"),
    ],
)
def test_a_host_that_is_lost_and_comes_back_is_put_back(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any], when: str, where: str, changed: int
) -> None:
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    lost(box, fleet, ["h1"], when)
    given = asked(NEW, cnf_policy_before=[])
    process = ansible.start_playbook("policy_rollout", fleet, "-e", json.dumps(given))
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "TASK [Wait for the host]" in line:  # it is waited for before it is there
            threading.Timer(3, box.sh, ["ip netns attach away $$"]).start()
    assert process.wait() == 2, said
    assert {name: info(box, topology=name)["digest"] for name in FLEET} == before
    assert f"FAILED, the old policy is in place: {where}: the host cannot be reached any more" in said
    assert said.count(" not touched") == 3
    assert changes(said)["h1"] == changed  # written and put back, or neither


def test_a_module_that_was_killed_while_it_wrote_is_followed_by_putting_back(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    """It gives no answer, as one whose interpreter is none gives none."""
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    killed = "(cnf_rollout_old | default({})).digest is defined and not cnf_rollout_new"
    python = "{{ '/bin/false' if " + killed + " else '" + ansible.interpreter + "' }}"
    code, said = rollout(ansible, fleet, NEW, cnf_policy_before=[], ansible_python_interpreter=python)
    assert code == 2, said
    assert put_back(said) == "ok: [h1]"
    assert "FAILED, the old policy is in place: Write the new policy: " in said
    assert {name: info(box, topology=name)["digest"] for name in FLEET} == before


def test_a_wave_that_is_lost_for_good_ends_the_run_with_its_table(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    lost(box, fleet, ["h1", "h2", "h3"], WRITTEN)
    code, said = rollout(ansible, fleet, NEW, cnf_policy_budget=1, cnf_policy_wait=1)
    assert code == 2, said
    now = {name: info(box, topology=name)["digest"] for name in FLEET}
    assert [name for name in FLEET if now[name] != before[name]] == ["h1", "h2", "h3"]
    table = [line for line in said.splitlines() if "NOT READ, which policy it runs is not known" in line]
    assert len(table) == 3 and all("the old policy was NOT PUT BACK" in line for line in table), said
    assert said.count(" not touched") == 1  # the budget of 1 was used up before h4


def test_hosts_that_are_not_there_use_up_the_budget_and_are_told(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    lost(box, fleet, ["h1"], "true")
    code, said = rollout(ansible, fleet, NEW)
    assert code == 2, said
    assert {name: info(box, topology=name)["digest"] for name in FLEET} == before
    assert "FAILED, and nothing was written: Reach the host: the host cannot be reached" in said
    assert "h1: NOT READ" in said and said.count(" not touched") == 3


def test_a_host_that_failed_earlier_in_the_run_is_left_out(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    """As after a site.yml in which it failed: the others are rolled out to, and it is in the table."""
    before = info(box, topology="h2")["digest"]
    fail = {"ansible.builtin.fail": {"msg": "as site.yml might"}, "when": "inventory_hostname == 'h2'"}
    play = ansible.directory / "after.yml"
    steps = [
        {"hosts": "all", "gather_facts": False, "tasks": [fail]},
        {
            "import_playbook": "cnf.ebpf.policy_rollout",
            "vars": asked(NEW, cnf_policy_after=EXPECTED, **AT_ONCE),
        },
    ]
    play.write_text(json.dumps(steps), encoding="utf-8")
    done = ansible.playbook(str(play), fleet)
    assert done.returncode == 2, done.stdout
    assert "h2: NOT READ, lost in an earlier play of this run, and not touched" in done.stdout
    assert [info(box, topology=name)["count"] for name in FLEET] == [2, 1, 2, 2]
    assert info(box, topology="h2")["digest"] == before


def test_without_waiting_a_host_that_is_there_is_put_back_and_check_mode_tells_who_was_not_asked(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    before = {name: info(box, topology=name)["digest"] for name in FLEET}
    wrong = [{"source": "10.0.0.0/8", "action": "exempt"}]
    code, said = rollout(ansible, fleet, wrong, cnf_policy_after=EXPECTED, cnf_policy_wait=0)
    assert code == 2 and "FAILED, the old policy is in place: Ask the router after" in said, said
    assert {name: info(box, topology=name)["digest"] for name in FLEET} == before
    given = asked(NEW, cnf_policy_before=EXPECTED)
    told = ansible.playbook("policy_rollout", fleet, "--check", "-e", json.dumps(given)).stdout
    assert told.count("FAILED, the old policy is in place: Ask the router before") == 1
    assert told.count(" not touched") == 3


def test_a_rollout_remembers_nothing_of_the_one_before(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    """Two in one run of Ansible: the second is stopped at its canary and puts back what the first has written."""
    good = asked(NEW, cnf_policy_after=EXPECTED, **AT_ONCE)
    bad = asked(
        [{"source": "10.0.0.0/8", "action": "exempt"}], cnf_policy_after=EXPECTED, cnf_policy_before=EXPECTED
    )
    play = ansible.directory / "both.yml"
    steps = [{"import_playbook": "cnf.ebpf.policy_rollout", "vars": given} for given in (good, bad)]
    play.write_text(json.dumps(steps), encoding="utf-8")
    done = ansible.playbook(str(play), fleet)
    assert done.returncode == 2, done.stdout
    digests = {info(box, topology=name)["digest"] for name in FLEET}
    assert len(digests) == 1 and info(box, topology="h1")["count"] == 2
    assert done.stdout.count("FAILED, the old policy is in place: Ask the router after") == 1
    assert done.stdout.count(" not touched") == 3


def test_a_bad_policy_that_a_host_ran_before_is_told_as_such(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    """There is nothing older to put back then, and the table must not say so."""
    code, said = rollout(ansible, fleet, NEW, cnf_policy_after=EXPECTED, **AT_ONCE)
    assert code == 0, said
    wrong = [{**EXPECTED[0], "expect": {"outcome": "pass"}}]
    code, said = rollout(ansible, fleet, NEW, cnf_policy_before=[], cnf_policy_after=wrong)
    assert code == 2, said
    assert "FAILED, it ran this policy before: Ask the router after" in said
    assert info(box, topology="h1")["count"] == 2


def test_a_rollout_that_was_killed_is_finished_by_the_next(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    """What holds before the change is not asked of a host on which it was made."""
    given = asked(NEW, cnf_policy_after=EXPECTED, cnf_policy_watch=60)
    process = ansible.start_playbook("policy_rollout", fleet, "-e", json.dumps(given))
    assert process.stdout is not None
    for line in process.stdout:
        if "Watch its counters" in line:
            process.kill()
            break
    process.communicate()
    assert [info(box, topology=name)["count"] for name in FLEET] == [2, 1, 1, 1]
    code, said = rollout(ansible, fleet, NEW, cnf_policy_after=EXPECTED, **AT_ONCE)
    assert code == 0, said
    assert [info(box, topology=name)["count"] for name in FLEET] == [2, 2, 2, 2]
    assert changes(said) == {"h1": 0, "h2": 1, "h3": 1, "h4": 1}


def test_a_router_whose_policy_a_topology_declares_is_told_as_it_is(
    box: Sandbox, ansible: Ansible, fleet: t.Dict[str, t.Any]
) -> None:
    """Writing is refused: there is nothing to put back."""
    base = {
        "name": "h1",
        "bpf_object": [{"name": "router", "source": "policy_router.bpf.c"}],
        "bpf_policy_entry": [{"object": "router", "source": "10.0.0.0/8", "action": "pass"}],
    }
    assert "error" not in box.topology(base)
    before = info(box, topology="h1")["digest"]
    code, said = rollout(ansible, fleet, NEW)
    assert code == 2, said
    assert info(box, topology="h1")["digest"] == before
    assert "FAILED, the old policy is in place: Write the new policy: " in said
    assert "belongs to topology" in said and put_back(said) == "skipping: [h1]"


def test_the_example_inventory_says_what_its_roles_need() -> None:
    """Each role's arguments, as its argument_specs would check them, are among the variables of its hosts."""
    root = Path(__file__).resolve().parents[2]
    example = root / "playbooks" / "example"
    inventory = yaml.safe_load((example / "inventory.yml").read_text())["all"]
    assert set(inventory["children"]) <= {path.name for path in (root / "roles").iterdir()}
    for group, members in inventory["children"].items():
        assert set(members["hosts"]) <= set(inventory["hosts"])
        specs = yaml.safe_load((root / "roles" / group / "meta" / "argument_specs.yml").read_text())
        options = specs["argument_specs"]["main"]["options"]
        path = example / "group_vars" / f"{group}.yml"
        given = yaml.safe_load(path.read_text()) if path.exists() else {}
        assert set(given) <= set(options), group
        assert {name for name, option in options.items() if option.get("required")} <= set(given), group
