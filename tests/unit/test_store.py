# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a topology: what they say, who may read them, and what happens when they are damaged or locked."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils import _store
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import Claim, Key
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import StoreError
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import revive, sysctl
from ansible_collections.cnf.ebpf.plugins.module_utils._store import Store, digest_of

LINK = Key("link", "red", "v0")
SWITCH = Key("sysctl", "", "net/ipv4/conf/all/forwarding")
FOUND = sysctl.Value(SWITCH.id, "", "0", {"eth1": "1"})
CLAIMS = {
    LINK: Claim(),
    SWITCH: Claim(saved=FOUND),
    Key("address", "", "e 10.0.0.1/24"): Claim(displaced_by=LINK),
}


@pytest.fixture
def store(tmp_path):
    return Store("edge", revive, str(tmp_path / "state"))


@pytest.fixture
def boot(monkeypatch):
    """Say which boot it is."""

    def choose(name):
        monkeypatch.setattr(_store, "boot_id", lambda: name)

    choose("first")
    return choose


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_nothing_is_known_at_first(store):
    assert (store.latest(), store.numbers(), store.claims(None), store.topologies()) == (None, [], {}, [])
    assert not os.path.exists(store.root)


def test_a_generation_comes_back_as_it_was(store):
    document = {"link": [{"name": "v0"}]}
    store.commit(document, "abc", CLAIMS, 1)
    found = store.latest()
    assert (found.number, found.digest, found.document, found.claims) == (1, "abc", document, CLAIMS)


def test_what_is_confirmed_is_not_unfinished(store):
    store.commit({}, "", {LINK: Claim(unfinished=True)}, 1)
    assert store.latest().claims == {LINK: Claim()}


def test_only_the_owner_may_read_files_and_directories(store):
    umask = os.umask(0)
    try:
        with store.locked(0.0, writing=True):
            store.begin(CLAIMS, ["create link v0"])
            store.commit({}, "", CLAIMS, 1)
            store.begin(CLAIMS, [])
    finally:
        os.umask(umask)
    generations = os.path.join(store.directory, "generations")
    assert [mode(path) for path in (store.root, store.directory, generations)] == [0o700] * 3
    files = [
        os.path.join(store.root, "lock"),
        os.path.join(generations, "000001.json"),
        os.path.join(store.directory, "journal.json"),
    ]
    assert [mode(path) for path in files] == [0o600] * 3


def test_a_write_that_fails_leaves_the_old_file(store, monkeypatch):
    store.commit({"a": 1}, "old", {}, 1)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_store.os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"000001\.json: No space left on device; state_dir must be a directory"
    ):
        store.commit({"a": 2}, "new", {}, 1)
    assert store.latest().digest == "old"


def test_ten_generations_are_kept_the_newest_last(store):
    for number in range(1, 13):
        store.commit({"n": number}, "", {}, number)
    assert store.numbers() == list(range(3, 13))
    assert store.latest().number == 12
    assert store.generation(3).document == {"n": 3}


def test_single_tasks_keep_one_generation(store):
    for number in (1, 2, 3):
        store.commit(None, "", {LINK: Claim()}, number)
    assert store.numbers() == [3]


def test_other_files_beside_generations_are_no_generations(store):
    store.commit({}, "", {}, 1)
    for name in ("000002.json.new", "notes.json", "7.txt"):
        (open(os.path.join(store.directory, "generations", name), "w")).close()
    assert store.numbers() == [1]


def test_journal_is_there_while_a_run_is_under_way(store, boot):
    store.begin(CLAIMS, ["create link v0 (missing)"])
    assert store.has_journal()
    with open(os.path.join(store.directory, "journal.json"), encoding="utf-8") as file:
        assert json.load(file)["operations"] == ["create link v0 (missing)"]
    store.commit({}, "", CLAIMS, 1)
    assert not store.has_journal()


def test_end_without_any_generation_leaves_no_directory(store):
    store.begin({LINK: Claim()}, [])
    store.end()
    assert not os.path.exists(store.directory)
    store.end()


def test_unfinished_links_are_ours_on_the_same_boot_only(store, boot):
    store.begin({LINK: Claim(unfinished=True), SWITCH: Claim(saved=FOUND)}, [])
    assert store.unfinished() == {LINK: Claim(unfinished=True), SWITCH: Claim(saved=FOUND)}
    boot("second")
    assert store.unfinished() == {LINK: Claim(), SWITCH: Claim(saved=FOUND)}


def test_the_oldest_saved_value_counts(store, boot):
    newer = sysctl.Value(SWITCH.id, "", "1", {})
    store.commit({}, "", {SWITCH: Claim(saved=FOUND)}, 1)
    store.begin({SWITCH: Claim(saved=newer), LINK: Claim(unfinished=True)}, [])
    assert store.claims(store.latest()) == {SWITCH: Claim(saved=FOUND), LINK: Claim(unfinished=True)}


def test_remove_forgets_everything(store):
    store.commit({}, "", CLAIMS, 1)
    store.commit({}, "", CLAIMS, 2)
    store.begin(CLAIMS, [])
    store.remove()
    assert not os.path.exists(store.directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"number": 1',
            r"000001\.json: damaged \(.*\); move it away, the kernel's marks still tell what is ours",
        ),
        (
            '{"number": 1}',
            r"000001\.json: not written by this version \(KeyError\('digest'\)\); move it away",
        ),
        ("[]", r"000001\.json: not written by this version"),
    ],
)
def test_damaged_generation_is_named(store, text, message):
    store.commit({}, "", {}, 1)
    with open(os.path.join(store.directory, "generations", "000001.json"), "w", encoding="utf-8") as file:
        file.write(text)
    with pytest.raises(StoreError, match=message):
        store.latest()


def test_damaged_journal_is_named(store):
    store.begin({}, [])
    with open(os.path.join(store.directory, "journal.json"), "w", encoding="utf-8") as file:
        file.write("{")
    with pytest.raises(StoreError, match=r"journal\.json: damaged"):
        store.unfinished()


@pytest.mark.parametrize("text", ["{}", '{"claims": [{}]}'])
def test_journal_of_another_version_is_named(store, text):
    store.begin({}, [])
    with open(os.path.join(store.directory, "journal.json"), "w", encoding="utf-8") as file:
        file.write(text)
    with pytest.raises(StoreError, match=r"journal\.json"):
        store.unfinished()


def test_a_file_in_the_place_of_the_directory_is_told(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreError, match="state_dir must be a directory, not a file"):
        with Store("edge", revive, str(tmp_path / "state")).locked(0.0, writing=True):
            pass


def test_claim_elsewhere_is_another_topology_of_this_host(store):
    other = Store("core", revive, store.root)
    other.commit({}, "", {LINK: Claim()}, 1)
    store.commit({}, "", {LINK: Claim(), SWITCH: Claim()}, 1)
    assert store.claim_elsewhere(LINK) == ("core", Claim())
    assert store.claim_elsewhere(SWITCH) is None
    assert store.topologies() == ["core", "edge"]


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), ({"a": 1}, {"a": 2}, False), ([1, 2], [2, 1], False)],
)
def test_digest_depends_on_content_only(first, second, equal):
    assert (digest_of(first) == digest_of(second)) is equal


# --- lock

HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(descriptor, getattr(fcntl, sys.argv[2]))
if sys.argv[2] == "LOCK_EX":
    os.pwrite(descriptor, b"%d\\n" % os.getpid(), 0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(store):
    """Another process that holds the lock."""
    started = []

    def start(how):
        os.makedirs(store.root, exist_ok=True)
        command = [sys.executable, "-c", HOLDER, os.path.join(store.root, "lock"), how]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.communicate()


def test_lock_names_who_holds_it_when_time_is_up(store, holder):
    process = holder("LOCK_EX")
    with pytest.raises(StoreError) as caught:
        with store.locked(0.1, writing=True):
            pass
    assert str(caught.value) == (
        f"{store.root}/lock: process {process.pid} has been converging this host for more than 0.1 s; "
        f"wait for it or raise lock_timeout; nothing was changed"
    )


def test_check_mode_waits_for_a_run(store, holder):
    holder("LOCK_EX")
    with pytest.raises(StoreError):
        with store.locked(0.0, writing=False):
            pass


def test_check_modes_share_the_lock(store, holder):
    holder("LOCK_SH")
    with store.locked(0.0, writing=False):
        pass
    with pytest.raises(StoreError):
        with store.locked(0.0, writing=True):
            pass


def test_lock_is_had_once_it_is_free(store, holder):
    holder("LOCK_EX").communicate()
    with store.locked(0.0, writing=True):
        with open(os.path.join(store.root, "lock"), encoding="ascii") as file:
            assert int(file.read()) == os.getpid()


def test_check_mode_on_an_untouched_host_makes_no_file(store):
    with store.locked(0.0, writing=False):
        assert not os.path.exists(store.root)
