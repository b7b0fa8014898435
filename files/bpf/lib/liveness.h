/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* Whether a next hop can be reached, as the kernel's FIB sees it; it heals by itself, without user space.
 *
 * Asked is the next hop's address on its device (BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_OUTPUT). Dead are: a device that is
 * deleted, down, or without carrier under ignore_routes_with_linkdown=1 (no route, or for IPv6 one over another device), and a
 * neighbour unresolved for longer than the grace. Only a packet makes the kernel resolve a neighbour, so a dead one gets one
 * packet per probe interval. What is alive is asked about once in a tick of the kernel's clock. With forwarding off on
 * the device (net.ipv[46].conf.<device>.forwarding) the FIB tells nothing: alive.
 *
 * Two kinds of next hops are dead only when their device is deleted: the packet's own destination, whose neighbour or
 * route says nothing of others, and link-local IPv6 addresses, on which the helper gives no answer.
 *
 * Two CPUs may both probe; that is one more packet, and needs no lock.
 */
#ifndef CNF_LIVENESS_H
#define CNF_LIVENESS_H

#include "compat.h"

#include "parse.h"
#include "policy.h"

enum judgement {
	NEXTHOP_DEAD,
	NEXTHOP_ALIVE,
	NEXTHOP_PROBE, /* dead, but this packet shall find out */
};

static __always_inline int is_link_local6(const __u8 *address)
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

/* Nothing is written when `dry`. */
static __always_inline enum judgement probe_neighbor(struct health *health, __u64 grace, __u64 interval, int dry)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 since = health->bad_since;

	if (!since) {
		if (!dry) {
			health->last_probe = now;
			health->bad_since = now;
		}
		return NEXTHOP_ALIVE;
	}
	if (now - since < grace)
		return NEXTHOP_ALIVE;
	if (now - health->last_probe < interval)
		return NEXTHOP_DEAD;
	if (!dry)
		health->last_probe = now;
	return NEXTHOP_PROBE;
}

/* Of these an answer says something; with link-local ones the helper does not deal. */
static __always_inline int is_judged(const struct nexthop *hop)
{
	return hop->family == FAMILY_IPV4 || (hop->family == FAMILY_IPV6 && !is_link_local6(hop->address));
}

/* Ask for the way to a next hop, or, if it is not judged, to the packet's destination by its device. Returns an answer of
 * enum BPF_FIB_LKUP_RET_*, negative when the device is gone; and the device's MTU, 0 where the answer has none.
 */
static __always_inline int ask_fib(struct __sk_buff *skb, const struct packet *packet, const struct nexthop *hop,
				   __u32 *mtu)
{
	struct bpf_fib_lookup fib = {};
	int answer;

	fib.ifindex = hop->ifindex;
	if (is_judged(hop)) {
		fib.family = hop->family;
		copy_address(fib.ipv6_dst, hop->address);
	} else {
		fib.family = packet->ethertype == bpf_htons(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;
		copy_address(fib.ipv6_dst, packet->destination);
	}
	answer = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_OUTPUT);
	*mtu = 0;
	if (answer == BPF_FIB_LKUP_RET_SUCCESS || answer == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		*mtu = fib.tot_len; /* mtu_result, which <linux/bpf.h> of Linux 5.11 does not name */
	/* By another device is no way. */
	return answer >= 0 && fib.ifindex != hop->ifindex ? BPF_FIB_LKUP_RET_NOT_FWDED : answer;
}

/* The helper's own comparison (FRAG_NEEDED) adds 4 bytes, and counts a link-layer header that a device without one does not
 * send (cilium #39740). mtu 0: not known.
 */
static __always_inline int is_too_big(struct __sk_buff *skb, const struct packet *packet, __u32 mtu)
{
	return mtu && packet->end > mtu && packet->end != END_UNKNOWN && !skb->gso_size;
}

/* Found well within this tick of the kernel's clock (1 to 10 ms): asking for every packet would cost as much as all the rest. */
static __always_inline int is_fresh(const struct health *health)
{
	return !health->bad_since && health->last_probe == bpf_jiffies64();
}

#define ANSWER(name) (1U << BPF_FIB_LKUP_RET_##name)

/* What ask_fib() answered, as a judgement. `health` is that of the next hop; grace and interval are in nanoseconds; nothing is
 * written when `dry`.
 */
static __always_inline enum judgement judge(int answer, const struct nexthop *hop, struct health *health, __u64 grace,
					    __u64 interval, int dry)
{
	const __u32 alive = ANSWER(SUCCESS) | ANSWER(FRAG_NEEDED) | ANSWER(FWD_DISABLED) | ANSWER(UNSUPP_LWT);

	if (answer < 0)
		return NEXTHOP_DEAD;
	if (!is_judged(hop))
		return NEXTHOP_ALIVE;
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return probe_neighbor(health, grace, interval, dry);
	if (!(alive >> answer & 1))
		return NEXTHOP_DEAD;
	if (!dry) {
		health->bad_since = 0;
		health->last_probe = bpf_jiffies64();
	}
	return NEXTHOP_ALIVE;
}

#endif /* CNF_LIVENESS_H */
