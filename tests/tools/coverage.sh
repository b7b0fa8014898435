#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# coverage.sh [<tier> ...]: run the tiers with COVERAGE=yes, then say how much of module_utils and modules all such runs reached.
# At least 90 % of the lines; a file that has less is in tests/coverage.tsv, with why. The report names every line that was not run.
# Runs differ a little, so a file is missed there below 88 %, and is one too many from 93 % on.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

data=$cache/coverage
report=$logs/coverage.txt
coverage=("$venv/bin/coverage")

if [ $# -gt 0 ]; then
    as_root rm -rf "$data"
    for tier; do COVERAGE=yes tests/tools/pytest.sh "$tier"; done
fi
as_root "${coverage[@]}" combine -q --keep "$data" >"$logs/coverage.log" 2>&1 || die "there is no data: see ${logs#"$root"/}/coverage.log"
as_root "${coverage[@]}" report >"$report"
as_root "${coverage[@]}" json -q -o "$data/report.json"
python3 - "$data/report.json" tests/coverage.tsv "$results/coverage.tsv" <<'PYTHON'
import csv, json, sys
from pathlib import Path

report = json.loads(Path(sys.argv[1]).read_text())
why = dict(row for row in csv.reader(Path(sys.argv[2]).open(), delimiter="\t") if row and not row[0].startswith("#"))
total = report["totals"]["percent_covered"]
files = [str(path) for part in ("module_utils", "modules") for path in Path("plugins", part).rglob("*.py")]
shares = {name: 0.0 for name in files if Path(name).stat().st_size}  # a file that never ran is in no report
shares.update({name: one["summary"]["percent_covered"] for name, one in report["files"].items()})
problems = [
    f"{name}: {share:.0f} %, and tests/coverage.tsv does not say why"
    for name, share in sorted(shares.items())
    if share < 88 and name not in why
]
problems += [
    f"{name}: is in tests/coverage.tsv and need not be" for name in sorted(why) if shares.get(name, 100) >= 93
]
if total < 90:
    problems.append(f"all together: {total:.1f} % of the lines, 90 % is the least")
text = f"{total:.1f} % of {report['totals']['num_statements']} lines of module_utils and modules"
lines = [f"failed\t{problem}\t{text}\n" for problem in problems] or [f"passed\tcoverage\t{text}\n"]
Path(sys.argv[3]).write_text("".join(lines))
print(text, *problems, sep="\n")
sys.exit(1 if problems else 0)
PYTHON
printf 'lines that were not run: %s\n' "${report#"$root"/}"
