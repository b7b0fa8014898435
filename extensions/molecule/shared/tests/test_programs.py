# SPDX-License-Identifier: GPL-3.0-or-later
"""Every program of the collection passes this kernel's verifier, whichever compiler the machine has."""

from __future__ import annotations

import platform
import typing as t

import pytest
from bpf_steps import PROGRAMS, nothing_new
from sandbox import Sandbox
from steps import converged, removed, settled

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import sources

# Linux 6.1 refuses what BCC makes of the policy router; what clang makes of it is good there too (see test_legacy.py).
REFUSED = {"policy_router.bpf.c": "cannot be loaded: The sequence of 8193 jumps is too complex"}
IS_REFUSING = platform.release().startswith("6.1.") and build.find_clang() is None


@pytest.mark.parametrize("name", sorted(path.name for path in PROGRAMS.glob("*.bpf.c")))
def test_a_source_is_loaded_with_all_its_programs(box: Sandbox, name: str) -> None:
    before = box.bpf()
    programs = dict(sources.collect(str(PROGRAMS / name), [str(PROGRAMS / "lib")]).programs)
    assert programs
    document: t.Dict[str, t.Any] = {"bpf_object": [{"name": "it", "source": name}]}
    if IS_REFUSING and name in REFUSED:
        error = box.topology(document)["error"]
        assert REFUSED[name] in error and "\n" not in error
        nothing_new(box, before)
        return
    done = converged(box, document)
    assert done["after"]["bpf_object"][0]["programs"] == programs
    pinned = [pin for pin, what in box.bpf()["pins"].items() if what == "anon_inode:bpf-prog"]
    assert sorted(pinned) == sorted(f"edge/it/programs/{program}" for program in programs)
    settled(box, document)
    removed(box)
    nothing_new(box, before)
