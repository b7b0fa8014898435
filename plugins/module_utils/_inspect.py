# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The glue of the modules that look into BPF and packets: AnsibleModule to one call and back."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ._errors import CnfError
from ._kernel import requirements

Answer = t.Dict[str, t.Any]


def run(read: t.Callable[[AnsibleModule], Answer], **spec: t.Any) -> None:
    """Run a module that only reads; ``spec`` is AnsibleModule's. Warnings come from the answer's ``notes``, a ``failure`` fails
    the task with all that was read.
    """
    module = AnsibleModule(supports_check_mode=True, **spec)
    try:
        requirements.check_permission()
        answer = read(module)
    except CnfError as problem:
        module.fail_json(msg=str(problem))
    for note in answer.get("notes", ()):
        module.warn(note)
    failure = answer.pop("failure", "")
    if failure:
        module.fail_json(msg=failure, **answer)
    module.exit_json(changed=False, **answer)
