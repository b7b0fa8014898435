#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Build the documentation as a web site: a page for each module, plugin and role, and the guides.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

export PATH=$venv/bin:$PATH
site=$cache/docs
rm -rf "$site"
mkdir -p "$site"
chmod 755 "$site"
cd "$site"
{
    antsibull-docs sphinx-init --use-current --squash-hierarchy --fail-on-error --dest-dir . --project cnf.ebpf \
        --title cnf.ebpf --html-short-title cnf.ebpf --copyright 'cnf.ebpf maintainers' cnf.ebpf
    chmod og-w rst # antsibull-docs insists
    antsibull-docs --config-file antsibull-docs.cfg collection --cleanup everything --fail-on-error --use-current \
        --squash-hierarchy --dest-dir rst cnf.ebpf
    sphinx-build -M html rst build -c . --keep-going
} >build.log 2>&1 || { tail -n 30 build.log >&2; die "the site could not be built"; }

# References into Ansible's own documentation are resolved over the network, where there is one.
elsewhere="failed to reach any of the inventories|undefined label: '(common_return_values|action_plugins|ansible_configuration_settings)'"
if grep 'WARNING' build.log | grep -vE "$elsewhere" >&2; then die "there are warnings, see above"; fi
printf '%d pages: %s\n' "$(find build/html -name '*.html' | wc -l)" "${site#"$root"/}/build/html/index.html"
