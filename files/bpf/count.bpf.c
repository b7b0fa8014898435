// SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause)
/* Count packets and bytes by family, and change nothing.
 *
 * Program    Hook                                                         Returns
 * count      tcx ingress or egress, netkit primary or peer, clsact        NEXT
 * count_xdp  XDP                                                          XDP_PASS
 *
 * Namespace: that of the device; a netkit peer program counts what the container sends, as the host receives it.
 * Map `counters`: lib/counters.h, index enum counter_index. Every packet counts in `total` and in one other.
 * No constants.
 */
#include "compat.h"

#include "counters.h"
#include "parse.h"
#include "verdicts.h"

enum counter_index {
	COUNT_TOTAL,
	COUNT_IPV4,
	COUNT_IPV6,
	COUNT_OTHER, /* ARP, LLDP, ... and what is cut off within its VLAN tags or has too many of them */
};
COUNTER_NAMES(enum counter_index);

#ifdef COMPILER_BCC
static __always_inline struct counter *find_counter(__u32 index) { return counters.lookup(&index); }
#else
static __always_inline struct counter *find_counter(__u32 index) { return bpf_map_lookup_elem(&counters, &index); }
#endif

static __always_inline __u32 family_of(__be16 ethertype)
{
	if (ethertype == bpf_htons(ETH_P_IP))
		return COUNT_IPV4;
	return ethertype == bpf_htons(ETH_P_IPV6) ? COUNT_IPV6 : COUNT_OTHER;
}

static __always_inline void count_family(__be16 ethertype, __u64 bytes)
{
	add_packet(find_counter(COUNT_TOTAL), bytes);
	add_packet(find_counter(family_of(ethertype)), bytes);
}

SEC("tc")
int count(struct __sk_buff *skb)
{
	struct cursor cursor = {};
	__be16 ethertype;

	if (is_vlan(skb->protocol)) /* the only case that reads the packet */
		make_headers_linear(skb);
	find_network_skb(skb, &cursor, &ethertype);
	count_family(ethertype, skb->len);
	return TC_NEXT;
}

SEC("xdp")
int count_xdp(struct xdp_md *xdp)
{
	struct cursor cursor = {};
	__be16 ethertype;

	find_network_xdp(xdp, &cursor, &ethertype);
	count_family(ethertype, (__u64)xdp->data_end - (__u64)xdp->data);
	return XDP_PASS;
}

LICENSE("Dual BSD/GPL");
