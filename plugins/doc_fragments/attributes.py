# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The attributes that the documentation of each module states."""

from __future__ import annotations


class ModuleDocFragment:
    # What every module of the collection states, unless its own documentation says otherwise.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in C(check_mode) and return what would change without changing it.
    details:
      - Check mode computes the same plan as a real run and stops before the first change. It writes no file.
  diff_mode:
    support: full
    description: Returns what changed, or would change in C(check_mode), when Ansible runs in diff mode.
    details:
      - One line for each resource.
  idempotent:
    support: full
    description: A second run with the same options changes nothing.
    details:
      - What is compared is what the kernel reports, not what an earlier run recorded.
  platform:
    support: full
    description: Target operating systems on which the module works.
    platforms: linux
"""

    # The action group, for module_defaults.
    ACTIONGROUP_EBPF = r"""
options: {}
attributes:
  action_group:
    support: full
    description: Use C(group/cnf.ebpf.ebpf) in C(module_defaults) to set defaults for this module.
    membership:
      - cnf.ebpf.ebpf
"""

    # Modules that only read.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in C(check_mode) and return what would change without changing it.
    details:
      - Reads in check mode as well. It never changes anything.
  diff_mode:
    support: none
    description: Returns what changed, or would change in C(check_mode), when Ansible runs in diff mode.
    details: []
"""
