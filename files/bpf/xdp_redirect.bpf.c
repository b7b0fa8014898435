// SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause)
/* Forward frames from device to device before the stack sees them.
 *
 * Program       Hook  Returns
 * xdp_redirect  XDP   XDP_REDIRECT, or miss_action
 *
 * Namespace: that of the device; targets are looked up when the map is written, in the writer's namespace. Frames leave as they
 * came: addresses and TTL are not changed. The target's driver must be able to send XDP frames (ndo_xdp_xmit). A native veth
 * does so only if its *peer* has a native XDP program (or GRO on), else the frame is lost after the verdict, without an
 * error here; in generic mode none is needed.
 *
 * Maps (counters: lib/counters.h, index enum counter_index)
 * name     key                                           value
 * targets  __u32 slot: the ingress interface index, or   __u32 interface index; both host byte order;
 *          the constant `slot`                           an entry goes with its device
 *
 * Constants
 * slot         always this entry; 0xffffffff: the ingress interface index    0xffffffff
 * miss_action  2 pass, 1 drop, 0 aborted (also for anything else; shows in   pass
 *              the xdp_exception tracepoint), where there is no entry
 *
 * An interface index of TARGETS_ENTRIES or above always misses: they only grow, so where devices come
 * and go give the map more entries (8 bytes each). BCC 0.26 lacks DEVMAP_HASH, which would have no such limit.
 */
#include "compat.h"

#include "counters.h"

#ifndef TARGETS_ENTRIES
#define TARGETS_ENTRIES 16384
#endif

#define SLOT_BY_INGRESS 0xffffffffU

enum counter_index {
	REDIRECT_SENT,   /* handed to the target; whether its driver took it is in the device's own counters */
	REDIRECT_MISSED, /* no entry: miss_action */
};
COUNTER_NAMES(enum counter_index);

#ifndef slot
CONSTANT(__u32, slot, SLOT_BY_INGRESS);
#endif
#ifndef miss_action
CONSTANT(enum xdp_action, miss_action, XDP_PASS);
#endif

MAP_DEVMAP(targets, TARGETS_ENTRIES);

#ifdef COMPILER_BCC
static __always_inline struct counter *find_counter(__u32 index) { return counters.lookup(&index); }
static __always_inline int redirect(__u32 index, __u64 flags) { return targets.redirect_map(index, flags); }
#else
static __always_inline struct counter *find_counter(__u32 index) { return bpf_map_lookup_elem(&counters, &index); }
static __always_inline int redirect(__u32 index, __u64 flags) { return bpf_redirect_map(&targets, index, flags); }
#endif

SEC("xdp")
int xdp_redirect(struct xdp_md *xdp)
{
	__u64 bytes = (__u64)xdp->data_end - (__u64)xdp->data;
	/* The low two bits of the flags are what the helper returns on a miss. */
	__u64 flags = miss_action == XDP_PASS || miss_action == XDP_DROP ? miss_action : XDP_ABORTED;
	int action = redirect(slot == SLOT_BY_INGRESS ? xdp->ingress_ifindex : slot, flags);

	add_packet(find_counter(action == XDP_REDIRECT ? REDIRECT_SENT : REDIRECT_MISSED), bytes);
	return action;
}

LICENSE("Dual BSD/GPL");
