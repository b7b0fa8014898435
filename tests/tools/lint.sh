#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# lint.sh [fast | <check> ...]: static checks; `fast` are those that take a second. One line per check; the output of failed ones only.
# Nothing is fetched but Python packages: neither a container image nor another collection.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

# ansible-test insists on a real directory of this form, so the tree (what git knows or would add) is copied there.
copy=$cache/lint/ansible_collections/cnf/ebpf
# ansible-test keeps its virtual environments below $HOME, and its bootstrap script must be ours, so it gets its own;
# so do antsibull-docs and galaxy-importer, which leave a log there.
home=$cache/sanity
bin=$cache/bin
archive=$cache/archive # what `ansible-galaxy collection build` makes

export PATH=$venv/bin:$PATH

# copy_tree <directory>: what earlier runs of ansible-test left there (tests/output) stays.
copy_tree() {
    local to=$1
    mkdir -p "$to"
    find "$to" -mindepth 1 -maxdepth 1 ! -name .git ! -name tests -exec rm -rf {} +
    find "$to" -mindepth 2 -maxdepth 2 -path '*/tests/*' ! -name output -exec rm -rf {} +
    tracked_files | tar --null --files-from=- -cf - | tar -xf - -C "$to"
    # A repository of its own keeps ansible-test and ansible-lint from asking ours, which ignores .cache.
    git init -q "$to"
}

# Files that are deleted but not yet committed are still listed by git.
tracked_files() {
    local file
    git ls-files -zco --exclude-standard | while IFS= read -r -d '' file; do
        if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
    done
}

# Only real interpreters: a pyenv shim of an inactive version would end ansible-test's run.
link_pythons() {
    local version path
    mkdir -p "$bin"
    rm -f "$bin"/python*
    find_pythons >/dev/null
    while read -r version path; do
        "$path" -c 'import ensurepip' 2>/dev/null || continue
        ln -s "$path" "$bin/python$version"
    done <"$cache/pythons"
}

# prepare_home <directory> <Python with ansible-core>: a home for its ansible-test.
# It would download a script that installs pip into each new environment; ensurepip does the same offline.
prepare_home() {
    local to=$1
    mkdir -p "$to/.ansible/test/cache"
    "$2" -c '
import re, sys
from pathlib import Path
import ansible_test._internal.python_requirements as source
for version in set(re.findall(r"""pip=["\x27]([0-9.]+)""", Path(source.__file__).read_text())):
    name = "get_pip_" + version.replace(".", "_") + ".py"
    Path(sys.argv[1], name).write_text("import ensurepip\n\nensurepip.bootstrap()\n")
' "$to/.ansible/test/cache"
    pip_settings "$to"
    # The copy, too, may be another user's (see lib.sh); ansible-test drops the variables that say so.
    printf '[safe]\n\tdirectory = *\n' >"$to/.gitconfig"
}

# pip_settings <home>: ansible-test hides the environment from pip, and this home is not the user's: hand over where packages
# come from.
pip_settings() {
    local to=$1 variable key
    mkdir -p "$to/.config/pip" "$to/.pip"
    if [ -e "$HOME/.config/pip/pip.conf" ]; then ln -sf "$HOME/.config/pip/pip.conf" "$to/.pip/pip.conf"; fi
    {
        printf '[global]\n'
        for variable in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT PIP_PROXY; do
            key=${variable#PIP_}
            key=${key//_/-}
            if [ -n "${!variable:-}" ]; then printf '%s = %s\n' "${key,,}" "${!variable}"; fi
        done
    } >"$to/.config/pip/pip.conf"
}

# ansible_test <home> <environment> <argument ...>: in the current directory.
ansible_test() {
    HOME=$1 PATH=$2/bin:$bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$2/bin/ansible-test" "${@:3}"
}

sanity() {
    cd "$copy"
    ansible_test "$home" "$venv" sanity --color no "$@"
}

# check core <version>: sanity and units of another ansible-core, in a tree and a home of its own, with the Python that it runs on:
# what other Pythons make of the files does not depend on it. Sanity of what is shipped, without pylint, which takes as long as all of
# it and is the same on each: the rest runs on the newest core.
shipped=(changelogs/ files/ meta/ playbooks/ plugins/ roles/ galaxy.yml)
check_core() {
    local environment python own=$cache/cores/$1
    local tree=$own/lint/ansible_collections/cnf/ebpf
    environment=$(core_venv "$1")
    copy_tree "$tree"
    prepare_home "$own/home" "$environment/bin/python"
    cd "$tree"
    sed -i 's/"EXAMPLES", "1"/"EXAMPLES", "0.2"/' tests/unit/examples.py # ansible-test hides the environment from tests
    "$environment/bin/python" -c 'import ansible.release; print("ansible-core", ansible.release.__version__)'
    python=$("$environment/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    ansible_test "$own/home" "$environment" sanity --color no --skip-test pylint --python "$python" "${shipped[@]}"
    ansible_test "$own/home" "$environment" units --color no --venv --requirements --python "$python"
}

check_ruff() { ruff check --quiet . && ruff format --check --quiet --diff .; }
check_yamllint() { yamllint --strict .; }
check_shellcheck() { tracked_files | grep -zE '\.sh$|^\.ci/run$' | xargs -0r shellcheck -x; }
check_changelog() { antsibull-changelog lint; }
# Every program by itself, as on a host, and once with what a host's clang may warn of.
check_clang() {
    local source include
    include=/usr/include/$(uname -m)-linux-gnu
    for source in files/bpf/*.bpf.c; do
        clang --target=bpf -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -isystem "$include" -Ifiles/bpf/lib -c "$source" -o /dev/null
    done
}
check_clang_format() { tracked_files | grep -zE '\.[ch]$' | xargs -0r clang-format --dry-run --Werror; }
check_reuse() { reuse lint; }

# The archive as the server for collections would judge it; every warning counts.
check_importer() {
    rm -rf "$archive"
    mkdir -p "$archive" "$home/importer"
    printf '[galaxy-importer]\nCHECK_REQUIRED_TAGS = True\nRUN_ANSIBLE_DOC = True\nLOCAL_IMAGE_DOCKER = False\n' >"$home/importer/galaxy-importer.cfg"
    ansible-galaxy collection build --output-path "$archive" "$copy"
    cd "$home/importer" # where it leaves its result
    HOME=$home GALAXY_IMPORTER_CONFIG=$home/importer/galaxy-importer.cfg python -m galaxy_importer.main "$archive"/*.tar.gz 2>&1 |
        tee "$home/importer/log"
    grep -q 'Importer processing completed successfully' "$home/importer/log" && ! grep -E 'WARNING|ERROR' "$home/importer/log"
}

check_sanity() { sanity --skip-test pylint; }

# Of what differs from the last commit, and only with this Python.
check_changed() {
    local files=()
    mapfile -t files < <({ git diff --name-only --diff-filter=d HEAD; git ls-files -o --exclude-standard; } | grep -E '^(plugins|roles|meta)/')
    [ "${#files[@]}" = 0 ] || sanity --skip-test pylint --skip-test import --skip-test compile "${files[@]}"
}
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
    HOME=$home ANSIBLE_COLLECTIONS_PATH=$cache/lint \
        antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=all .
}

check_ansible_lint() {
    cd "$copy"
    ANSIBLE_COLLECTIONS_PATH=$cache/lint ansible-lint --offline --profile production --strict --nocolor -q
}

# What pip and ansible-test say while all is well; a failure is easier to find without.
noise='^(WARNING: (Location|Using locale)|Running sanity|Installing req|Using cached|Looking in|Processing|Collecting'
noise+='|  Downloading|Installing collected|Successfully installed| +━)'

# check <name>: run it (name-argument is a function and its argument), say one line, and on failure what it said.
check() {
    local name=$1 log=$logs/lint-$1.log start=$EPOCHREALTIME outcome=passed reason='' said='' tenths argument=()
    [[ $name != *-* ]] || argument=("${name#*-}")
    # In a shell of its own: in a condition `set -e` would not hold.
    (set -e; "check_${name%%-*}" "${argument[@]}") >"$log" 2>&1 </dev/null &
    if ! wait $!; then
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

# What this machine can run, the longest first.
all_checks() {
    local version tool
    printf 'sanity\n'
    for version in "${core_versions[@]}"; do
        if core_python "$version" >/dev/null; then
            printf 'core-%s\n' "$version"
        else
            result lint skipped "core-$version" "none of the Pythons that it runs on is here"
        fi
    done
    printf '%s\n' pylint ansible_lint importer docs reuse mypy changelog yamllint
    for tool in shellcheck clang; do
        if command -v "$tool" >/dev/null; then
            printf '%s\n' "$tool"
        else
            result lint skipped "$tool" "not installed"
        fi
    done
    printf '%s\n' clang_format ruff
}

rm -f "$results/lint.tsv"
case ${1:-} in
    fast) checks=(mypy ruff yamllint clang_format) ;;
    "") mapfile -t checks < <(all_checks) ;;
    *) checks=("$@") ;;
esac
if [ "${1:-}" != fast ]; then
    copy_tree "$copy"
    link_pythons
    prepare_home "$home" python
fi
check_all "${checks[@]}"
if [ $# = 0 ] && [ -n "$(missing_pythons)" ]; then
    printf 'note    sanity did not import under Python %s: not on this machine\n' "$(missing_pythons)"
fi
! grep -q '^failed' "$results/lint.tsv"
