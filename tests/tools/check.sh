#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Before a commit, in less than two minutes: put files in form, the quick checks, sanity of the files that changed, unit tests.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

"$venv/bin/ruff" check --quiet --fix . || true # lint.sh says what is left
"$venv/bin/ruff" format --quiet .
git ls-files -zco --exclude-standard -- '*.c' '*.h' | xargs -0r "$venv/bin/clang-format" -i

status=0
tests/tools/lint.sh fast || status=1
tests/tools/lint.sh changed || status=1
tests/tools/pytest.sh unit -q --no-header || status=1
exit "$status"
