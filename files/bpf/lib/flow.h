/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* A number for a flow, the same for all of its packets, and from it a slot of a table.
 *
 * Each end (address and port) is mixed by a multiplication by the golden ratio and the fold of its upper half; the finish is
 * MurmurHash3's fmix64, in which each bit of the input turns each bit of the result with a chance of one half. Words are taken
 * as they stand in the packet, as host numbers, so hosts of different byte order differ. The seed keeps routers behind
 * each other from choosing alike, which would leave members of the second one without traffic.
 */
#ifndef CNF_FLOW_H
#define CNF_FLOW_H

#include "compat.h"

#include "parse.h"

static __always_inline __u64 flow_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ (hash >> 32);
}

static __always_inline __u64 flow_end(__u64 seed, int is_ipv6, const __be32 *address, __be16 port)
{
	if (!is_ipv6)
		return flow_mix(seed, address[0] | (__u64)port << 32);
	seed = flow_mix(seed, address[0] | (__u64)address[1] << 32);
	seed = flow_mix(seed, address[2] | (__u64)address[3] << 32);
	return flow_mix(seed, port);
}

static __always_inline __u32 flow_finish(__u64 hash)
{
	hash ^= hash >> 33;
	hash *= 0xff51afd7ed558ccdULL;
	hash ^= hash >> 33;
	hash *= 0xc4ceb9fe1a85ec53ULL;
	return hash >> 32;
}

/* Of a fragment only the addresses count: later ones have no ports, and in IPv6 may name another header than the first.
 * Symmetric: both directions of a flow give the same number.
 */
static __always_inline __u32 hash_flow(__u64 seed, const struct packet *packet, int symmetric)
{
	int is_ipv6 = packet->ethertype == bpf_htons(ETH_P_IPV6), whole = packet->fragment == FRAGMENT_NONE;
	__u64 source = flow_end(seed, is_ipv6, packet->source, whole ? packet->source_port : 0);
	__u64 destination = flow_end(seed, is_ipv6, packet->destination, whole ? packet->destination_port : 0);

	if (!symmetric)
		source *= 3;
	return flow_finish(source + destination + (whole ? packet->protocol : 0));
}

static __always_inline __u32 hash_source(__u64 seed, const struct packet *packet)
{
	int is_ipv6 = packet->ethertype == bpf_htons(ETH_P_IPV6);

	return flow_finish(flow_end(seed, is_ipv6, packet->source, 0));
}

/* From the upper bits, without a division; below `size` for every number. */
static __always_inline __u32 flow_slot(__u32 hash, __u32 size) { return (__u64)hash * size >> 32; }

#endif /* CNF_FLOW_H */
