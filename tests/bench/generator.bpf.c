// SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause)
/* Both ends of a way that bench_forwarding measures.
 *
 * Program    Hook                                                 Returns
 * generator  BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES    PASS: the device receives the frame
 * sink       tcx ingress                                          DROP
 */
#include "compat.h"

#include <linux/if_ether.h>
#include <linux/ip.h>

#define FIRST_SOURCE 0x14000000 /* 20.0.0.0 */

MAP_ARRAY(sources, __u32, 1);
MAP_ARRAY(arrived, __u64, 1);

/* Frames come back changed when the pages are recycled, so all that forwarding changes is written anew. */
SEC("xdp")
int generator(struct xdp_md *xdp)
{
	const __u8 addresses[2 * ETH_ALEN] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9 };
	void *data = (void *)(long)xdp->data;
	struct iphdr *ip = data + ETH_HLEN;
	__u32 zero = 0, sum = 0, *count = bpf_map_lookup_elem(&sources, &zero);
	__u16 *word = (void *)ip;
	int i;

	if ((void *)(ip + 1) > (void *)(long)xdp->data_end || !count || !*count)
		return XDP_DROP;
	__builtin_memcpy(data, addresses, sizeof(addresses));
	ip->ttl = 64;
	ip->saddr = bpf_htonl(FIRST_SOURCE + bpf_get_prandom_u32() % *count);
	ip->check = 0;
#pragma unroll
	for (i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~((sum & 0xffff) + (sum >> 16));
	return XDP_PASS;
}

SEC("tc")
int sink(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&arrived, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
	return 2; /* TC_ACT_SHOT */
}

LICENSE("Dual BSD/GPL");
