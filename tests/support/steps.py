# SPDX-License-Identifier: GPL-3.0-or-later
"""What integration tests say again and again: the four steps of a document, and comparisons that show what differs."""

from __future__ import annotations

import json
import typing as t

from sandbox import Sandbox

Document = t.Mapping[str, t.Any]
Answer = t.Dict[str, t.Any]


def assert_same(found: t.Mapping[str, t.Any], expected: t.Mapping[str, t.Any]) -> None:
    """Two snapshots (Sandbox.state) are equal."""
    names = {*found, *expected}
    different = {
        name: (found.get(name), expected.get(name)) for name in names if found.get(name) != expected.get(name)
    }
    assert not different, json.dumps(different, indent=1)


def assert_holds(found: t.Any, expected: t.Any, place: str = "") -> None:
    """Every field of ``expected`` is in ``found`` (not there at all for ``...``); lists have equal length and order."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), f"{place}: {found!r}"
        for name, value in expected.items():
            if value is ...:
                assert name not in found, f"{place}.{name}: {found[name]!r} should not be there"
                continue
            assert name in found, f"{place}.{name}: missing in {found!r}"
            assert_holds(found[name], value, f"{place}.{name}")
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected), f"{place}: {found!r}"
        for number, value in enumerate(expected):
            assert_holds(found[number], value, f"{place}[{number}]")
    else:
        assert found == expected, f"{place}: {found!r} != {expected!r}"


def converged(box: Sandbox, document: Document, **options: t.Any) -> Answer:
    """The answer of a run that must succeed."""
    answer = box.topology(document, **options)
    assert "error" not in answer, answer["error"]
    return answer


def refused(box: Sandbox, document: Document, **options: t.Any) -> str:
    """The line of a run that must fail before it touches anything: host and files stay as they are."""
    before, files = box.state(), store_files(box)
    answer = box.topology(document, **options)
    assert "error" in answer, answer
    assert answer["type"] != "ConvergeError", answer
    assert "\n" not in answer["error"]
    assert_same(box.state(), before)
    assert store_files(box) == files
    return answer["error"]


def store_files(box: Sandbox) -> t.List[str]:
    """The files below the state directory, but for the lock."""
    return sorted(box.sh("cd /var/lib/cnf-ebpf; find . -type f ! -name lock").split())


def settled(box: Sandbox, document: Document) -> None:
    """Another run, for real and in check mode, finds nothing to do."""
    for check in (False, True):
        again = converged(box, document, check=check)
        assert (again["changed"], again["actions"], again["commands"]) == (False, [], [])


def four_steps(box: Sandbox, document: Document) -> Answer:
    """Check, real, again, again in check; the answer of the real run."""
    before = box.state()
    predicted = converged(box, document, check=True)
    assert_same(box.state(), before)
    assert not store_files(box)
    done = converged(box, document)
    assert done["changed"]
    for field in ("before", "after", "actions", "commands", "diff", "changed"):
        assert predicted[field] == done[field], f"check mode predicted another {field}"
    settled(box, document)
    return done


def removed(box: Sandbox, name: str = "edge") -> Answer:
    """Remove a topology, foretold by check mode, and find nothing to do afterwards."""
    predicted = converged(box, {"name": name}, state="absent", check=True)
    done = converged(box, {"name": name}, state="absent")
    assert (predicted["actions"], predicted["commands"]) == (done["actions"], done["commands"])
    assert not converged(box, {"name": name}, state="absent")["changed"]
    return done


class Recycled:
    """One host for many tests, prepared once; a test that leaves anything behind costs the next one a new host."""

    def __init__(self, setup: str = "") -> None:
        self.setup = setup
        self._box: t.Optional[Sandbox] = None
        self._clean: t.Dict[str, t.Any] = {}

    def __enter__(self) -> Recycled:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._box is not None:
            self._box.__exit__()
            self._box = None

    def use(self) -> t.Iterator[Sandbox]:
        if self._box is None:
            self._box = Sandbox()
            self._box.sh(self.setup)
            self._clean = self._box.state()
        yield self._box
        if self._box.state() != self._clean or store_files(self._box):
            self.__exit__()
