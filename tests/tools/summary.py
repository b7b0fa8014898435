# SPDX-License-Identifier: GPL-3.0-or-later
"""Sum up what the test tiers left in .cache/results.

A tier leaves <tier>.xml (JUnit, from pytest) or <tier>.tsv (outcome, name, reason per line), and <tier>.exit (exit
status, seconds). Exits non-zero when anything failed, a tier died early, or a test named by --require did not run.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

RESULTS = Path(__file__).resolve().parents[2] / ".cache" / "results"


class Outcome(NamedTuple):
    tier: str
    status: str  # passed | failed | skipped
    name: str
    reason: str
    seconds: float = 0.0


def read_tsv(path: Path) -> list[Outcome]:
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return [Outcome(path.stem, *row) for row in rows]


def read_junit(path: Path) -> list[Outcome]:
    outcomes = []
    for case in ElementTree.parse(path).iter("testcase"):
        status, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                status, reason = "failed", child.get("message", "")
            elif child.tag == "skipped":
                status, reason = "skipped", child.get("message", "")
        name = f"{case.get('classname')}::{case.get('name')}"
        seconds = float(case.get("time") or 0)
        outcomes.append(Outcome(path.stem, status, name, " ".join(reason.split())[:200], seconds))
    return outcomes


def read_results() -> list[Outcome]:
    outcomes = []
    for path in sorted(RESULTS.glob("*.tsv")):
        outcomes += read_tsv(path)
    for path in sorted(RESULTS.glob("*.xml")):
        outcomes += read_junit(path)
    return outcomes


def died_early(outcomes: list[Outcome]) -> list[Outcome]:
    """Tiers that ended badly, or well but silently: nothing counted must not look like nothing failed."""
    dead = []
    for path in sorted(RESULTS.glob("*.exit")):
        status = path.read_text().split()[0]
        own = [outcome for outcome in outcomes if outcome.tier == path.stem]
        if not own:
            dead.append(Outcome(path.stem, "failed", "(tier)", f"left no results, exit status {status}"))
        elif status != "0" and not any(outcome.status == "failed" for outcome in own):
            dead.append(Outcome(path.stem, "failed", "(tier)", f"exit status {status}"))
    return dead


def unmet(outcomes: list[Outcome], requirement: str) -> list[Outcome]:
    """`tier:word`: a test of that tier with that word in its name must have run, and none been skipped."""
    tier, word = requirement.split(":")
    found = [outcome.status for outcome in outcomes if outcome.tier == tier and word in outcome.name]
    ran = "failed" in found or ("passed" in found and "skipped" not in found)
    return [] if ran else [Outcome(tier, "failed", word, "required here, but it was skipped or not run")]


def print_tiers(outcomes: list[Outcome]) -> None:
    print("\n== summary")
    for tier in dict.fromkeys(outcome.tier for outcome in outcomes):
        counts = Counter(outcome.status for outcome in outcomes if outcome.tier == tier)
        clock = RESULTS / f"{tier}.exit"
        seconds = f"{clock.read_text().split()[1]:>5} s" if clock.exists() else ""
        told = ", ".join(
            f"{counts[status]} {status}" for status in ("passed", "failed", "skipped") if counts[status]
        )
        print(f"{tier:12} {seconds:>8}  {told}")


def print_slowest(outcomes: list[Outcome], number: int = 12) -> None:
    for outcome in sorted(outcomes, key=lambda one: -one.seconds)[:number]:
        if outcome.seconds >= 10:
            print(f"slow {outcome.tier}: {outcome.seconds:.0f} s {outcome.name}")


def print_reasons(outcomes: list[Outcome], status: str) -> None:
    """One line per reason, so that fifty tests lacking one kernel feature read as one fact."""
    groups: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.status == status:
            groups.setdefault((outcome.tier, outcome.reason), []).append(outcome.name)
    for (tier, reason), names in groups.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"{status} {tier}: {names[0]}{more}: {reason or 'no reason given'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--require", action="append", default=[], metavar="TIER:WORD", help="fail unless it ran"
    )
    options = parser.parse_args()

    outcomes = read_results()
    outcomes += died_early(outcomes)
    for requirement in options.require:
        outcomes += unmet(outcomes, requirement)
    print_tiers(outcomes)
    print_slowest(outcomes)
    print_reasons(outcomes, "skipped")
    print_reasons(outcomes, "failed")
    counts = Counter(outcome.status for outcome in outcomes)
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
