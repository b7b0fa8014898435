# SPDX-License-Identifier: GPL-3.0-or-later
"""Every program of the collection passes this kernel's verifier, whichever compiler the machine has."""

from __future__ import annotations

import pytest
from bpf_steps import PROGRAMS, nothing_new
from sandbox import Sandbox
from steps import converged, removed, settled

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import sources

# No module uses it yet: Linux 6.1 refuses what BCC makes of its `explain` ("The sequence of 8193 jumps is too complex").
UNFINISHED = {"policy_router.bpf.c"}


@pytest.mark.parametrize("name", sorted({path.name for path in PROGRAMS.glob("*.bpf.c")} - UNFINISHED))
def test_a_source_is_loaded_with_all_its_programs(box: Sandbox, name: str) -> None:
    before = box.bpf()
    document = {"bpf_object": [{"name": "it", "source": name}]}
    done = converged(box, document)
    programs = dict(sources.collect(str(PROGRAMS / name), [str(PROGRAMS / "lib")]).programs)
    assert programs
    assert done["after"]["bpf_object"][0]["programs"] == programs
    pinned = [pin for pin, what in box.bpf()["pins"].items() if what == "anon_inode:bpf-prog"]
    assert sorted(pinned) == sorted(f"edge/it/programs/{program}" for program in programs)
    settled(box, document)
    removed(box)
    nothing_new(box, before)
