# SPDX-License-Identifier: GPL-3.0-or-later
"""Make `ansible_collections.cnf.ebpf` importable from a plain checkout, here and in the programs that tests start."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = ROOT / ".cache" / "collections"


def link_collection() -> None:
    """Make the tree look installed: <COLLECTIONS>/ansible_collections/cnf/ebpf points at the checkout."""
    link = COLLECTIONS / "ansible_collections" / "cnf" / "ebpf"
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() != ROOT:
        link.unlink()  # the checkout was moved or copied
    with contextlib.suppress(FileExistsError):
        link.symlink_to(Path("..", "..", "..", ".."), target_is_directory=True)


if ROOT.parts[-3:] == ("ansible_collections", "cnf", "ebpf"):
    COLLECTIONS = ROOT.parents[2]  # it stands in a collections tree already, as under ansible-test
else:
    link_collection()
sys.path.insert(0, str(COLLECTIONS))
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS)
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".cache" / "hypothesis"))
# A shell that starts the tests in the background has SIGINT ignored, which programs inherit; some tests interrupt programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
