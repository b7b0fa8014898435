// SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause)
/* Send a copy of packets to another device. The packets themselves go on untouched, whatever becomes of the copy.
 *
 * Program      Hook                                                          Returns
 * mirror       tcx ingress or egress, netkit primary or peer, clsact         NEXT
 * mirror_l3    tcx or clsact ingress of a device without link-layer header   NEXT
 *              (tun, ipip, gre, wireguard), where the target has Ethernet
 * mirror_snap  tcx or clsact egress of the *target*                          NEXT, DROP if it cannot cut
 *
 * Namespace: that of the device; the target must be in it too. The far end of a veth or netkit target may be elsewhere.
 *
 * Snap length: a copy shares its data with the packet, so cutting either before it is cloned would cut
 * both, and no helper cuts a clone that is not in hand. So the copy is cut on its way out of the target, where it is
 * the packet in hand, by mirror_snap; use a device that carries nothing but copies. A copy that cannot be
 * cut is dropped, for a payload that nobody asked for is worse than a gap. Lengths within IP stay those of the
 * whole packet, as with any capture's snap length. Cutting a GSO packet costs copying the whole of it once.
 *
 * Headers: a copy for a device with Ethernet needs an Ethernet header (else -ERANGE, counted in `failed`). mirror_l3 puts one
 * of zero addresses in front, which at ingress the stack takes off again; at egress it would stay on the packet
 * itself, so mirror the ingress of the devices where such traffic comes from. To a device without
 * link-layer header the kernel takes it off, so `mirror` serves that for every source.
 *
 * Maps (counters: lib/counters.h, index enum counter_index)
 * name    key      value
 * target  __u32 0  __u32 interface index, host byte order, 0: none; can be changed at any time
 *
 * Constants
 * sample_every  copy the first and then every n-th packet that a CPU sees, 1: all    1
 * snap_bytes    length of copies with link-layer header; not less than all headers,  0: whole
 *               IPv6 extension headers and TCP's checksum field included (96 is safe
 *               without them), or such copies are dropped
 */
#include "compat.h"

#include "counters.h"
#include "parse.h"
#include "redirect.h"
#include "verdicts.h"

enum counter_index {
	MIRROR_SEEN, /* every packet; the next five add up to it */
	MIRROR_COPIED,
	MIRROR_SAMPLED_OUT, /* not its turn */
	MIRROR_NO_TARGET,   /* `target` is 0 */
	MIRROR_LOOP,        /* the target is the device itself */
	MIRROR_FAILED,      /* the target is gone, down, full or of another kind, or mirror_snap dropped the copy */
	MIRROR_SNAPPED,     /* mirror_snap: cut */
	MIRROR_SNAP_SHORT,  /* mirror_snap: no longer than snap_bytes */
	MIRROR_SNAP_FAILED, /* mirror_snap: dropped, for it cannot be cut that short */
};
COUNTER_NAMES(enum counter_index);

#ifndef sample_every
CONSTANT(__u32, sample_every, 1);
#endif
#ifndef snap_bytes
CONSTANT(__u32, snap_bytes, 0);
#endif

MAP_ARRAY(target, __u32, 1);

#ifdef COMPILER_BCC
static __always_inline struct counter *find_counter(__u32 index) { return counters.lookup(&index); }
static __always_inline __u32 *find_target(__u32 index) { return target.lookup(&index); }
#else
static __always_inline struct counter *find_counter(__u32 index) { return bpf_map_lookup_elem(&counters, &index); }
static __always_inline __u32 *find_target(__u32 index) { return bpf_map_lookup_elem(&target, &index); }
#endif

/* Count the packet, and see by its number on this CPU whether it is its turn: exact, and shared with no other CPU. */
static __always_inline int is_sampled(__u32 bytes)
{
	struct counter *seen = find_counter(MIRROR_SEEN);
	__u64 number;

	if (!seen)
		return 0;
	number = seen->packets;
	add_packet(seen, bytes);
	return sample_every <= 1 || number % sample_every == 0;
}

/* Returns what to count. */
static __always_inline __u32 copy_packet(struct __sk_buff *skb, int add_link_header)
{
	__u32 *ifindex = find_target(0);

	if (!ifindex || !*ifindex)
		return MIRROR_NO_TARGET;
	if (*ifindex == skb->ifindex)
		return MIRROR_LOOP;
	if (add_link_header) {
		make_headers_linear(skb);
		if (!has_link_header(skb) && push_link_header(skb))
			return MIRROR_FAILED;
	}
	return clone_to(skb, *ifindex) ? MIRROR_FAILED : MIRROR_COPIED;
}

static __always_inline int mirror_packet(struct __sk_buff *skb, int add_link_header)
{
	__u32 bytes = skb->len, outcome = MIRROR_SAMPLED_OUT;

	if (is_sampled(bytes))
		outcome = copy_packet(skb, add_link_header);
	add_packet(find_counter(outcome), bytes);
	return TC_NEXT;
}

SEC("tc")
int mirror(struct __sk_buff *skb) { return mirror_packet(skb, 0); }

SEC("tc")
int mirror_l3(struct __sk_buff *skb) { return mirror_packet(skb, 1); }

SEC("tc")
int mirror_snap(struct __sk_buff *skb)
{
	__u32 bytes = skb->len, outcome = MIRROR_SNAP_SHORT;

	if (snap_bytes && bytes > snap_bytes)
		outcome = bpf_skb_change_tail(skb, snap_bytes, 0) ? MIRROR_SNAP_FAILED : MIRROR_SNAPPED;
	add_packet(find_counter(outcome), bytes);
	return outcome == MIRROR_SNAP_FAILED ? TC_DROP : TC_NEXT;
}

LICENSE("Dual BSD/GPL");
