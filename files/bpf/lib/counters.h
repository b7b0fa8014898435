/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* Named counters, one per-CPU array for all programs of an object.
 *
 * Map `counters`: key __u32, an enumerator of the program's `enum counter_index`; value struct counter per CPU,
 * host byte order; add up the CPUs. The array has the same size in every program and version, so that it can be handed
 * from one program to its replacement: append new names, never renumber.
 *
 * A packet is what the stack handles: a GSO or GRO packet counts once. Bytes include the link-layer header
 * where there is one.
 */
#ifndef CNF_COUNTERS_H
#define CNF_COUNTERS_H

#include "compat.h"

#define COUNTERS_ENTRIES 32

struct counter {
	__u64 packets;
	__u64 bytes;
};

MAP_PERCPU_ARRAY(counters, struct counter, COUNTERS_ENTRIES);

/* Puts the names into the object's BTF, where tools find what an index means. */
#ifdef COMPILER_BCC
#define COUNTER_NAMES(type) struct counter_names_are_not_in_btf
#else
#define COUNTER_NAMES(type) volatile const type counter_names = 0
#endif

/* No atomics: the entry belongs to this CPU. */
static __always_inline void add_packet(struct counter *counter, __u64 bytes)
{
	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
	}
}

#endif /* CNF_COUNTERS_H */
