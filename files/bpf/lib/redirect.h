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

/* As has_link_header(), without a helper for nearly all packets that have one: `word` is known to stand at `offset` of the
 * network header.
 */
static __always_inline int has_link_header_before(struct __sk_buff *skb, __u32 offset, __be32 word)
{
	char *data = (char *)(long)skb->data;
	char *data_end = (char *)(long)skb->data_end;

	if (data + offset + sizeof(word) <= data_end && *(__be32 *)(data + offset) != word)
		return 1;
	return has_link_header(skb);
}

/* For a packet with Ethernet header: is it for a group of stations? */
static __always_inline int is_group_frame(struct __sk_buff *skb)
{
	char *data = (char *)(long)skb->data;
	char *data_end = (char *)(long)skb->data_end;

	return data + 1 <= data_end && (*data & 1);
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

/* Take one off the TTL or hop limit of the packet, whose network header is `offset` bytes from its start; checksums stay right.
 * `ttl` is what it is now. Returns 0 or a negative errno. Packet pointers taken before are invalid after.
 */
static __always_inline int decrement_ttl_ipv4(struct __sk_buff *skb, __u32 offset, __u8 ttl, __u8 protocol)
{
	__be16 old = bpf_htons(ttl << 8 | protocol), new = bpf_htons((ttl - 1) << 8 | protocol);
	char *data = (char *)(long)skb->data;
	char *data_end = (char *)(long)skb->data_end;
	int result;

	/* Two helpers cost as much as a fifth of all the forwarding of a small packet. */
	if (data + offset + sizeof(struct iphdr) <= data_end) {
		__u16 *check = (__u16 *)(data + offset + 10);
		__u32 sum = *check + (__u32)bpf_htons(0x0100);

		*check = sum + (sum >= 0xffff); /* ip_decrease_ttl() */
		data[offset + 8] = ttl - 1;
		return 0;
	}
	result = bpf_l3_csum_replace(skb, offset + 10, old, new, sizeof(new));
	return result ? result : bpf_skb_store_bytes(skb, offset + 8, &new, sizeof(new), 0);
}

/* No checksum covers it but that of a driver over the whole packet (CHECKSUM_COMPLETE). */
static __always_inline int decrement_hop_limit(struct __sk_buff *skb, __u32 offset, __u8 limit)
{
	limit--;
	return bpf_skb_store_bytes(skb, offset + 7, &limit, sizeof(limit), BPF_F_RECOMPUTE_CSUM);
}

/* Send a copy out of a device; the packet itself stays. Returns 0, a negative errno (no such device, no memory, recursion) or
 * a positive code when the device refused it (down, queue full). Packet pointers taken before are invalid after.
 */
static __always_inline int clone_to(struct __sk_buff *skb, __u32 ifindex)
{
	return bpf_clone_redirect(skb, ifindex, 0);
}

#endif /* CNF_REDIRECT_H */
