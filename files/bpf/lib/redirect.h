/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* Sending packets and copies elsewhere, from tc-like hooks.
 *
 * An interface index means a device in the network namespace that the packet is in: of skb->dev, which for
 * a netkit program already is the receiving end.
 */
#ifndef CNF_REDIRECT_H
#define CNF_REDIRECT_H

#include "compat.h"

#include <linux/if_ether.h>

#if defined(COMPILER_BCC)
/* BCC up to 0.26 declares three arguments, which no released kernel has. */
static long (*cnf_redirect_neigh)(__u32, struct bpf_redir_neigh *, int, __u64) = (void *)BPF_FUNC_redirect_neigh;
#define bpf_redirect_neigh cnf_redirect_neigh
#endif

/* The MAC and the network header begin at the same byte exactly on devices without link-layer header. The headers must be
 * linear (make_headers_linear).
 */
static __always_inline int has_link_header(struct __sk_buff *skb)
{
	__u64 mac[2] = {}, network[2] = {};

	if (bpf_skb_load_bytes_relative(skb, 0, mac, sizeof(mac), BPF_HDR_START_MAC) ||
	    bpf_skb_load_bytes_relative(skb, 0, network, sizeof(network), BPF_HDR_START_NET))
		return 1; /* shorter than an IP header: nothing that lives without Ethernet */
	return mac[0] != network[0] || mac[1] != network[1];
}

/* Put an Ethernet header of zero addresses in front of a packet that has none. A device with Ethernet drops
 * a packet without (__bpf_redirect_common: -ERANGE), and bpf_redirect_neigh() drops it everywhere. Only where the packet
 * is then redirected, or goes up the stack (tcx ingress pulls it off by skb->mac_len): on the egress of a headerless device
 * it would go out with the packet. Returns 0 or a negative errno.
 */
static __always_inline int push_link_header(struct __sk_buff *skb)
{
	__be16 ethertype = skb->protocol;
	int result = bpf_skb_change_head(skb, ETH_HLEN, 0);

	return result ? result : bpf_skb_store_bytes(skb, 2 * ETH_ALEN, &ethertype, sizeof(ethertype), 0);
}

/* Send a copy out of a device; the packet itself stays. Returns 0, a negative errno (no such device, no memory, recursion) or
 * a positive code when the device refused it (down, queue full). Packet pointers taken before are invalid after.
 */
static __always_inline int clone_to(struct __sk_buff *skb, __u32 ifindex)
{
	return bpf_clone_redirect(skb, ifindex, 0);
}

#endif /* CNF_REDIRECT_H */
