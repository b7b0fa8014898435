/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* Keeping the verifier within its limit of a million instructions.
 *
 * It follows every path with what is known of each number there; paths that meet are only followed as one where it knows the same
 * of both. Behind a parser and a chain of tables hundreds of paths meet, differing in numbers that nobody needs to be
 * proven. A number that is xor-ed with unknown_zero() stays what it is, and the verifier no longer knows it
 * (or-ed, it would still know the bits that are set).
 */
#ifndef CNF_VERIFIER_H
#define CNF_VERIFIER_H

#include "compat.h"

#include "parse.h"

static __always_inline __u32 unknown_zero(struct __sk_buff *skb)
{
	volatile __u32 *length = (volatile __u32 *)&skb->len;

	return *length ^ *length;
}

static __always_inline void forget_packet(struct packet *packet, __u32 zero)
{
	int i;

#pragma unroll
	for (i = 1; i < 4; i++) { /* 0 for IPv4 */
		packet->source[i] ^= zero;
		packet->destination[i] ^= zero;
	}
	packet->transport ^= zero;
	packet->end ^= zero;
	packet->ethertype ^= zero;
	packet->source_port ^= zero;
	packet->destination_port ^= zero;
	packet->fragment ^= zero;
	packet->ttl ^= zero;
}

#endif /* CNF_VERIFIER_H */
