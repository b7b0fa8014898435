# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options, requirements and notes that all modules share that change the state of a host."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  state:
    description:
      - V(present) makes what is missing and changes what differs.
      - V(absent) removes it, or gives back the value that was found before where the object itself is not ours.
    type: str
    choices: [present, absent]
    default: present
  adopt:
    description:
      - What to do when an object of the wanted identity exists and was made by somebody else.
      - With V(false) this is an error and nothing is changed.
      - With V(true) the object is taken over. It is brought to the declared state, and from then on it is treated like one
        that was made here, which includes its removal.
      - With O(state=absent), V(true) removes the object whoever made it.
    type: bool
    default: false
  state_dir:
    description:
      - Directory on the target in which generations, journal, lock and saved values are kept.
      - Use the same directory in every run. Losing it loses the values to give back and the list of what to remove,
        but never leads to the removal of a foreign object.
    type: path
    default: /var/lib/cnf-ebpf
  lock_timeout:
    description:
      - How long to wait, in seconds, while another run converges the same host.
      - When it has passed, the module fails and nothing is changed.
    type: float
    default: 60.0
requirements:
  - Linux
  - python >= 3.9
  - pyroute2 >= 0.7.2 (Python package, for the interpreter that runs the module)
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true). This holds for check mode, too.
  - Only objects that were made here are changed or removed. Links and namespaces carry an altname that starts with C(cnf-) and
    names the owner. Addresses, routes, rules and neighbors carry the protocol number 207. Everything else is foreign and is left
    alone unless O(adopt=true).
  - A foreign address, route, rule or neighbor that is exactly as declared is accepted as it is and stays foreign.
  - A foreign value that can only be changed (a sysctl, the settings of an existing device) is saved before the first change and
    given back when it is no longer declared.
  - Single tasks share one owner, C(tasks). Each M(cnf.ebpf.topology) is an owner of its own. No owner changes what another made.
  - When an operation fails, those already done are undone in reverse order and the module fails with RV(ignore:applied),
    RV(ignore:undone) and RV(ignore:failed_action). When the run is killed, the next one repairs.
  - Kernel objects do not survive a reboot. Run the play again after one.
"""
