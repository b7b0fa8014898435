#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compile, load and pin BPF programs and their maps."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_object
short_description: Compile, load and pin BPF programs and their maps
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Takes a C source from the collection or from the controller, sends it with its headers, compiles it on the target with clang or BCC, loads it, and
    pins its programs and maps on the BPF file system below C(/sys/fs/bpf/cnf/OWNER/NAME). Or takes an ELF object that is compiled already.
  - What is loaded carries a mark in the kernel which tells the digest of its sources, compiler and settings. As long as the digest is the same,
    nothing is compiled or loaded. Compiled objects are cached on the target.
  - A changed object is loaded beside the old one. It takes over the maps with their contents, and its programs take the place of the old ones in every
    attachment between two packets.
  - The programs do nothing by themselves. Attach them with M(cnf.ebpf.tcx_attach), M(cnf.ebpf.netkit_attach) or M(cnf.ebpf.xdp_attach).
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  name:
    description: Name of the object, up to 63 of the characters C(A-Z a-z 0-9 _ -), beginning with a letter or a digit.
    type: str
    required: true
  source:
    description:
      - C source on the controller. An absolute path, or a name that is looked up in C(files) of the role and the playbook, then among the
        programs of the collection (C(count.bpf.c), C(filter.bpf.c), C(mirror.bpf.c), C(xdp_redirect.bpf.c)), then beside the inventory
        and where Ansible was started, and in C(files) there.
      - Headers that it includes from its own directory, or from the collection's C(files/bpf/lib), come along.
      - For a directory, its only C(*.bpf.c), or its only C(*.c), with all headers in it.
    type: str
  object:
    description: Compiled ELF object on the controller, found like O(source). No compiler is needed then.
    type: str
  remote_src:
    description: Whether O(source) or O(object) is an absolute path on the target. Its headers have to lie there beside it.
    type: bool
    default: false
  compiler:
    description:
      - V(clang) needs clang and the headers of libbpf, V(bcc) the distribution's python3-bpfcc. V(auto) takes the first that is there.
      - Both give the same programs, pins and attachments. BCC has no cache of compiled objects and takes about three times as long.
    type: str
    choices: [auto, clang, bcc]
    default: auto
  constants:
    description:
      - Load-time constants, by name. Variables that the source declares with C(CONSTANT) or C(volatile const).
      - Numbers, truth values and names of enumerators. With V(clang) also lists and mappings for arrays and structures.
    type: dict
  maps:
    description:
      - Number of entries of maps, by name, where it shall differ from the source's. With BCC, the source has to take the size of map C(rules) from
        the macro C(RULES_ENTRIES).
    type: dict
  programs:
    description:
      - Which programs to load, and their type, V(tc) or V(xdp). Unless given, all that have a C(SEC) of that kind.
      - To be given for a source without C(SEC), such as one written for BCC.
    type: dict
  incompatible_maps:
    description:
      - What to do with a map that a changed source declares otherwise.
      - V(migrate) makes a new map and copies the entries by field name. What cannot be carried over is an error that names the field.
      - V(refuse) makes every difference an error. V(replace) starts such a map empty.
      - What programs count between the copy and the change of programs is lost in a migrated map, not in one that stays the same.
    type: str
    choices: [migrate, refuse, replace]
    default: migrate
  code:
    description: Digest of the sources. Filled in on the controller.
    type: str
  bundle:
    description: The sources themselves. Filled in on the controller.
    type: str
requirements:
  - Linux kernel >= 5.10
  - libbpf.so.1 (package libbpf1)
  - clang and libbpf-dev, or python3-bpfcc and linux-libc-dev, unless O(object) is given
notes:
  - The BPF file system is mounted when it is missing. One that is mounted over another, which hides the pins of the first, is an error.
  - The whole log of a compiler or of the kernel's verifier that refused something is kept in C(logs) below O(state_dir).
  - Global variables that are not constants start anew with each version. Keep state in maps.
  - Removing an object detaches and removes its attachments first, those of single tasks also when other tasks made them.
seealso:
  - module: cnf.ebpf.tcx_attach
  - module: cnf.ebpf.netkit_attach
  - module: cnf.ebpf.xdp_attach
  - module: cnf.ebpf.bpf_map_entry
  - module: cnf.ebpf.bpf_info
"""

EXAMPLES = r"""
---
- name: Load the packet counter that comes with the collection
  cnf.ebpf.bpf_object:
    name: count
    source: count.bpf.c

- name: Load a filter that drops what no rule allows, with room for many rules
  cnf.ebpf.bpf_object:
    name: firewall
    source: filter.bpf.c
    constants:
      default_verdict: 2
    maps:
      rules: 100000

- name: Load a program of one's own, compiled with BCC
  cnf.ebpf.bpf_object:
    name: sampler
    source: sampler.bpf.c
    compiler: bcc

- name: Load what a build system has compiled
  cnf.ebpf.bpf_object:
    name: balancer
    object: /srv/build/balancer.bpf.o

- name: Detach and remove an object
  cnf.ebpf.bpf_object:
    name: count
    state: absent
"""

RETURN = r"""
---
before:
  description:
    - What the host had of everything that the call declares or changes, a list for each kind of resource.
    - A declared resource shows its declared fields only. What does not exist is not listed.
  returned: success
  type: dict
  sample: {}
after:
  description: The same after the run. In check mode this is the prediction.
  returned: success
  type: dict
  sample:
    bpf_object:
      - name: count
        source: count.bpf.c
        code: 2f6c1b0a9d8e7f60
        compiler: clang 19.1.7 (3+b1)
        programs: {count: tc, count_xdp: xdp}
        health: ok
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - create bpf_object tasks/count (missing)
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - clang -O2 -g -target bpf -mcpu=v3 -c count.bpf.c -o count.o
    - bpftool prog loadall count.o /sys/fs/bpf/cnf/tasks/count/programs pinmaps /sys/fs/bpf/cnf/tasks/count/maps
diff:
  description: What RV(actions) change, one line for each resource, as C(--diff) shows it.
  returned: success
  type: dict
  contains:
    before_header:
      description: What the lines are about.
      returned: success
      type: str
    after_header:
      description: The same as RV(diff.before_header).
      returned: success
      type: str
    before:
      description: The resources that change, before.
      returned: success
      type: str
    after:
      description: The resources that change, after.
      returned: success
      type: str
notes:
  description: What deserves attention although nothing failed, such as a foreign object that was left alone. Each is also a warning.
  returned: success
  type: list
  elements: str
  sample: []
applied:
  description: The actions that had been done before one failed. Empty when nothing had been touched.
  returned: failure
  type: list
  elements: str
  sample: []
undone:
  description: The actions that took RV(applied) back, in order.
  returned: failure
  type: list
  elements: str
  sample: []
failed_action:
  description:
    - The action that failed, or V(verify) when the host did not keep what was set. Empty when nothing had been touched.
    - When something could not be put back, RV(ignore:msg) says what, and the task is reported as changed.
  returned: failure
  type: str
  sample: ""
"""

from ansible_collections.cnf.ebpf.plugins.module_utils._module import run_resource


def main() -> None:
    run_resource("bpf_object")


if __name__ == "__main__":
    main()
