#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Static checks; `lint.sh fast` runs only those that take a second. One line per check; the output of failed ones only.
# Nothing is fetched but Python packages: neither a container image nor another collection.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

# ansible-test insists on a real directory of this form, so the tree (what git knows or would add) is copied there.
copy=$cache/lint/ansible_collections/cnf/ebpf
# ansible-test keeps its virtual environments below $HOME, and its bootstrap script must be ours, so it gets its own;
# so does antsibull-docs, which leaves a log there.
sanity_home=$cache/sanity
bin=$cache/bin

export PATH=$venv/bin:$PATH

copy_tree() {
    mkdir -p "$copy"
    # tests/output is ansible-test's own.
    find "$copy" -mindepth 1 -maxdepth 1 ! -name .git ! -name tests -exec rm -rf {} +
    find "$copy" -mindepth 2 -maxdepth 2 -path '*/tests/*' ! -name output -exec rm -rf {} +
    tracked_files | tar --null --files-from=- -cf - | tar -xf - -C "$copy"
    # A repository of its own keeps ansible-test and ansible-lint from asking ours, which ignores .cache.
    git init -q "$copy"
}

# Files that are deleted but not yet committed are still listed by git.
tracked_files() {
    local file
    git ls-files -zco --exclude-standard | while IFS= read -r -d '' file; do
        if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
    done
}

# ansible-test would download a script that installs pip into each new environment; ensurepip does the same offline.
prepare_sanity() {
    local cached=$sanity_home/.ansible/test/cache version path
    mkdir -p "$cached" "$bin"
    python -c '
import re, sys
from pathlib import Path
import ansible_test._internal.python_requirements as source
for version in set(re.findall(r"""pip=["\x27]([0-9.]+)""", Path(source.__file__).read_text())):
    name = "get_pip_" + version.replace(".", "_") + ".py"
    Path(sys.argv[1], name).write_text("import ensurepip\n\nensurepip.bootstrap()\n")
' "$cached"
    pip_settings
    # The copy, too, may be another user's (see lib.sh); ansible-test drops the variables that say so.
    printf '[safe]\n\tdirectory = *\n' >"$sanity_home/.gitconfig"
    # Only real interpreters: a pyenv shim of an inactive version would end the run.
    rm -f "$bin"/python*
    find_pythons >/dev/null
    while read -r version path; do
        "$path" -c 'import ensurepip' 2>/dev/null || continue
        ln -s "$path" "$bin/python$version"
    done <"$cache/pythons"
}

# ansible-test hides the environment from pip, and its home is not the user's: hand over where packages come from.
pip_settings() {
    local variable key
    mkdir -p "$sanity_home/.config/pip" "$sanity_home/.pip"
    if [ -e "$HOME/.config/pip/pip.conf" ]; then ln -sf "$HOME/.config/pip/pip.conf" "$sanity_home/.pip/pip.conf"; fi
    {
        printf '[global]\n'
        for variable in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT PIP_PROXY; do
            key=${variable#PIP_}
            key=${key//_/-}
            if [ -n "${!variable:-}" ]; then printf '%s = %s\n' "${key,,}" "${!variable}"; fi
        done
    } >"$sanity_home/.config/pip/pip.conf"
}

sanity() {
    cd "$copy"
    HOME=$sanity_home PATH=$venv/bin:$bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ansible-test sanity --color no "$@"
}

check_ruff() { ruff check --quiet . && ruff format --check --quiet --diff .; }
check_yamllint() { yamllint --strict .; }
check_shellcheck() { tracked_files | grep -zE '\.sh$|^\.ci/run$' | xargs -0r shellcheck -x; }
check_changelog() { antsibull-changelog lint; }
check_sanity() { sanity --skip-test pylint; }
check_pylint() { sanity --test pylint; } # as long as all other sanity tests together

# By way of the symbolic link, for the names that the modules import each other by.
check_mypy() {
    local package packages=()
    for package in plugins/module_utils plugins/plugin_utils plugins/action; do
        packages+=("$ANSIBLE_COLLECTIONS_PATH/ansible_collections/cnf/ebpf/$package")
    done
    mypy "${packages[@]}" 2>&1 | sed 's,^.*ansible_collections/cnf/ebpf/,,'
}

check_docs() {
    cd "$copy"
    HOME=$sanity_home ANSIBLE_COLLECTIONS_PATH=$cache/lint \
        antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=self .
}

check_ansible_lint() {
    cd "$copy"
    ANSIBLE_COLLECTIONS_PATH=$cache/lint ansible-lint --offline --profile production --strict --nocolor -q
}

# What pip and ansible-test say while all is well; a failure is easier to find without.
noise='^(WARNING: (Location|Using locale)|Running sanity|Installing req|Using cached|Looking in|Processing|Collecting'
noise+='|  Downloading|Installing collected|Successfully installed| +━)'

# check <name>: run it, say one line, and on failure what it said.
check() {
    local name=$1 log=$logs/lint-$1.log start=$EPOCHREALTIME outcome=passed reason='' said='' tenths
    if ! ("check_$name") >"$log" 2>&1 </dev/null; then
        outcome=failed reason="see ${log#"$root"/}"
        said=$(grep -vE "$noise" "$log" | sed 's/^/    /')$'\n'
    fi
    tenths=$(((${EPOCHREALTIME/./} - ${start/./}) / 100000))
    # In one go: checks run side by side.
    printf '%-7s %-13s %3d.%d s\n%s' "$outcome" "$name" $((tenths / 10)) $((tenths % 10)) "$said"
    result lint "$outcome" "$name" "$reason"
}

# Side by side, as many as there are processors, the longest first.
check_all() {
    local name
    for name; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
        check "$name" &
    done
    wait
}

rm -f "$results/lint.tsv"
checks=(mypy ruff yamllint)
if [ "${1:-}" != fast ]; then
    checks=(sanity pylint ansible_lint docs mypy changelog ruff yamllint)
    if command -v shellcheck >/dev/null; then
        checks+=(shellcheck)
    else
        result lint skipped shellcheck "not installed"
    fi
    copy_tree
    prepare_sanity
fi
check_all "${checks[@]}"
if [ "${1:-}" != fast ] && [ -n "$(missing_pythons)" ]; then
    printf 'note    sanity did not import under Python %s: not on this machine\n' "$(missing_pythons)"
fi
! grep -q '^failed' "$results/lint.tsv"
