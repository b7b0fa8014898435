# SPDX-License-Identifier: GPL-3.0-or-later
"""What users install: the archive, of which only the directories that Ansible looks into may be needed at run time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import typing as t
from pathlib import Path

import pytest
from bpf_steps import nothing_new
from sandbox import Sandbox
from steps import assert_same, store_files

from playbooks import Ansible, recap

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NEEDED = {"files", "meta", "playbooks", "plugins", "roles"}
SHIPPED = {
    *NEEDED,
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "LICENSES",
    "MANIFEST.json",
    "README.md",
    "REUSE.toml",
    "changelogs",
    "docs",
}


def call(*words: object, **options: t.Any) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows or would add, as a clean clone has it."""
    directory = tmp_path_factory.mktemp("archive")
    listed = call("git", "-C", ROOT, "ls-files", "-zco", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).exists():
            (directory / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / "tree" / name)
    call(BIN / "ansible-galaxy", "collection", "build", "--output-path", directory, directory / "tree")
    return next(directory.glob("cnf-ebpf-*.tar.gz"))


def install(archive: Path, path: Path) -> Path:
    """Into an empty collections path, without a server; where the collection is then."""
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(path)}
    call(BIN / "ansible-galaxy", "collection", "install", archive, "--offline", "-p", path, env=environment)
    return path / "ansible_collections" / "cnf" / "ebpf"


def test_the_archive_holds_what_users_need(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    assert {Path(member.name).parts[0] for member in members} == SHIPPED
    assert [member.name for member in members if member.size > 300_000 or member.issym()] == []
    assert archive.stat().st_size < 1_000_000


def test_the_demo_runs_from_what_is_needed_of_it(
    box: Sandbox, ansible: Ansible, archive: Path, tmp_path: Path
) -> None:
    collection = install(archive, tmp_path / "collections")
    for entry in collection.iterdir():
        if entry.name not in NEEDED:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert {entry.name for entry in collection.iterdir()} == NEEDED
    ansible.environment["ANSIBLE_COLLECTIONS_PATH"] = str(tmp_path / "collections")
    shutil.copytree(ROOT / "tests" / "tools" / "demo" / "group_vars", ansible.directory / "group_vars")
    inventory = {"machines": {"hosts": {"here": {}}}}
    before, bpf = box.state(), box.bpf()

    def site(*options: str) -> int:
        done = ansible.playbook("site", inventory, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return recap(done.stdout)["here"]["changed"]

    assert site("--check", "--diff") == 1
    assert_same(box.state(), before)
    assert (site(), site()) == (1, 0)
    ping = {"cnf.ebpf.reachability": {"netns": "ns1", "wait": 5, "probes": [{"destination": "10.0.2.2"}]}}
    # A program of the archive, compiled here.
    count = {
        "cnf.ebpf.topology": {
            "name": "count",
            "bpf_object": [{"name": "count", "source": "count.bpf.c"}],
            "tcx_attach": [{"object": "count", "program": "count", "link": "nk1", "hook": "ingress"}],
        }
    }
    assert recap(ansible.run([ping, count]))["localhost"]["changed"] == 1
    gone = [{"cnf.ebpf.topology": {"name": name, "state": "absent"}} for name in ("count", "demo")]
    assert recap(ansible.run(gone))["localhost"]["changed"] == 2
    assert_same(box.state(), before)
    assert store_files(box) == []
    nothing_new(box, bpf)


def test_an_execution_environment_has_what_the_collection_says_it_needs(
    box: Sandbox, ansible: Ansible, archive: Path, tmp_path: Path
) -> None:
    """As ansible-builder would make it: its own ansible-core, and what introspection of the collection finds."""
    collections = tmp_path / "collections"
    install(archive, collections)
    needs = tmp_path / "requirements.txt"
    packages = tmp_path / "bindep.txt"
    call(
        BIN / "ansible-builder",
        "introspect",
        collections,
        f"--write-pip={needs}",
        f"--write-bindep={packages}",
    )
    lines = [
        line.split("#")[0].strip() for path in (needs, packages) for line in path.read_text().splitlines()
    ]
    assert [line for line in lines if line] == [
        "pyroute2",
        "openssh-client [platform:dpkg]",
        "openssh-clients [platform:rpm]",
    ]
    call(sys.executable, "-m", "venv", tmp_path / "ee")
    call(tmp_path / "ee" / "bin" / "pip", "install", "-q", "ansible-core", "ansible-runner", "-r", needs)
    ansible.environment["ANSIBLE_COLLECTIONS_PATH"] = str(collections)
    ansible.environment["PATH"] = (
        f"{tmp_path}/ee/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )
    before = box.state()
    runner = tmp_path / "ee" / "bin" / "ansible-runner"
    (tmp_path / "runner" / "project").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "ee" / "all.yml", tmp_path / "runner" / "project")
    said = call(
        *box.command(str(runner), "run", str(tmp_path / "runner"), "-p", "all.yml"), env=ansible.environment
    )
    assert recap(said)["localhost"] == {**recap(said)["localhost"], "ok": 6, "changed": 2, "failed": 0}
    assert_same(box.state(), before)
