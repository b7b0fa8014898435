/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* From a packet to its addresses, protocol and ports.
 *
 * Byte order: addresses, ethertype and ports are as in the packet (network byte order); offsets, lengths and
 * protocol numbers are host numbers. Results: 0, or one of the negative reasons below.
 *
 * tc-like hooks read relative to the network header (BPF_HDR_START_NET), so it does not matter whether the device
 * has a link-layer header: veth and NICs have Ethernet, netkit in L3 mode an Ethernet header of zeros, tun, ipip, gre and
 * wireguard none. Which protocol starts there is skb->protocol, as for the stack itself. A VLAN tag in band is the
 * exception: AF_PACKET puts the network header behind the tags (packet_parse_headers), forwarding in front of
 * them, so tagged packets are read relative to the MAC header, which every tagged packet has.
 * XDP sees an Ethernet frame; a device without link-layer header is for the tc-like hooks. Its bytes are read by
 * bpf_xdp_load_bytes() (Linux 5.18), as direct access at the variable offsets behind options and extension headers
 * gives the verifier more states than its limit of a million instructions allows.
 */
#ifndef CNF_PARSE_H
#define CNF_PARSE_H

#include "compat.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

/* Two tags are 802.1ad; more are TOO_DEEP. */
#ifndef VLAN_TAGS_MAX
#define VLAN_TAGS_MAX 2
#endif
/* RFC 8200 names six kinds, destination options twice; more are TOO_DEEP. */
#ifndef EXTENSION_HEADERS_MAX
#define EXTENSION_HEADERS_MAX 8
#endif
/* Where the stack keeps only a part of a packet in its linear area, this much is made linear. */
#ifndef LINEAR_BYTES
#define LINEAR_BYTES 256
#endif

enum parse_error {
	PARSE_TRUNCATED = -1,  /* ends, or says that it ends, within a header */
	PARSE_BAD_HEADER = -2, /* wrong version, or lengths that contradict each other */
	PARSE_TOO_DEEP = -3,   /* more VLAN tags or extension headers than the limits above */
};

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST, /* has the ports */
	FRAGMENT_LATER, /* has no ports, and for IPv6 `protocol` may be an extension header's number */
};

/* IPv6 extension headers (RFC 8200, RFC 4302); <linux/in6.h> clashes with kernel headers under BCC. */
enum extension {
	EXTENSION_HOP_BY_HOP = 0,
	EXTENSION_ROUTING = 43,
	EXTENSION_FRAGMENT = 44,
	EXTENSION_AUTHENTICATION = 51,
	EXTENSION_DESTINATION = 60,
};

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001

#define START_XDP 0xff /* besides BPF_HDR_START_MAC and _NET: the start of the frame */
#define END_UNKNOWN 0xffffffffU

/* Where bytes come from; `start` is a compile-time constant in every caller, or one of the two of an skb. */
struct cursor {
	void *context; /* struct __sk_buff * or struct xdp_md * */
	__u32 start;
	__u32 offset; /* of the network header from `start` */
};

struct packet {
	__be32 source[4]; /* IPv4: [0] only */
	__be32 destination[4];
	__u32 transport; /* offset, from the cursor's start */
	__u32 end; /* of the datagram by its own length field, from the cursor's start; END_UNKNOWN for jumbograms */
	__be16 ethertype;   /* of the network header; anything but IPv4 and IPv6 leaves the fields around it zero */
	__be16 source_port; /* ports: TCP, UDP, UDP-Lite, SCTP, DCCP; otherwise zero */
	__be16 destination_port;
	__u8 protocol; /* the one behind the extension headers */
	__u8 fragment; /* enum fragment */
	__u8 ttl;      /* or hop limit */
};

static __always_inline int read_bytes(const struct cursor *cursor, __u32 offset, void *to, __u32 length)
{
	if (cursor->start == START_XDP)
		return bpf_xdp_load_bytes(cursor->context, offset, to, length) ? PARSE_TRUNCATED : 0;
	return bpf_skb_load_bytes_relative(cursor->context, offset, to, length, cursor->start) ? PARSE_TRUNCATED : 0;
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
	       protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP;
}

/* Whether addresses and ports lie within the first bytes of a packet: nothing stands between them. */
static __always_inline int has_plain_headers(struct __sk_buff *skb, long bytes)
{
	__u8 first, next;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return bytes >= ETH_HLEN + (long)sizeof(struct iphdr) + 4 &&
		       !bpf_skb_load_bytes_relative(skb, 0, &first, sizeof(first), BPF_HDR_START_NET) &&
		       first == 0x45; /* version 4, no options */
	return skb->protocol == bpf_htons(ETH_P_IPV6) && bytes >= ETH_HLEN + (long)sizeof(struct ipv6hdr) + 4 &&
	       !bpf_skb_load_bytes_relative(skb, 6, &next, sizeof(next), BPF_HDR_START_NET) && has_ports(next);
}

/* bpf_skb_load_bytes_relative() reads the linear part only. Large packets of AF_PACKET, or of drivers that receive into
 * pages, have as little as the Ethernet header there, and would all look truncated. What this host's TCP sends has all of its
 * headers there and nothing else; to pull more would copy a part of each packet, for nothing.
 */
static __always_inline void make_headers_linear(struct __sk_buff *skb)
{
	char *data = (char *)(long)skb->data;
	char *data_end = (char *)(long)skb->data_end;
	long linear = data_end - data;
	long length = skb->len;

	if (linear < length && linear < LINEAR_BYTES && !has_plain_headers(skb, linear))
		bpf_skb_pull_data(skb, length < LINEAR_BYTES ? length : LINEAR_BYTES);
}

static __always_inline int is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/* From the ethertype of an Ethernet header at `start` to the network header. */
static __always_inline int parse_ethernet(struct cursor *cursor, __be16 *ethertype)
{
	__u32 offset = 2 * ETH_ALEN;
	int i;

	if (read_bytes(cursor, offset, ethertype, sizeof(*ethertype)))
		return PARSE_TRUNCATED;
	offset = ETH_HLEN;
#pragma unroll
	for (i = 0; i < VLAN_TAGS_MAX; i++) {
		__be16 tag[2]; /* priority and VLAN id, then what follows */

		if (!is_vlan(*ethertype))
			break;
		if (read_bytes(cursor, offset, tag, sizeof(tag)))
			return PARSE_TRUNCATED;
		*ethertype = tag[1];
		offset += sizeof(tag);
	}
	cursor->offset = offset;
	return is_vlan(*ethertype) ? PARSE_TOO_DEEP : 0;
}

/* Point at the network header. On an error `ethertype` is what was read last. */
static __always_inline int find_network_skb(struct __sk_buff *skb, struct cursor *cursor, __be16 *ethertype)
{
	cursor->context = skb;
	cursor->start = BPF_HDR_START_NET;
	cursor->offset = 0;
	*ethertype = skb->protocol;
	if (!is_vlan(*ethertype))
		return 0;
	cursor->start = BPF_HDR_START_MAC;
	return parse_ethernet(cursor, ethertype);
}

static __always_inline int find_network_xdp(struct xdp_md *xdp, struct cursor *cursor, __be16 *ethertype)
{
	cursor->context = xdp;
	cursor->start = START_XDP;
	*ethertype = 0;
	return parse_ethernet(cursor, ethertype);
}

/* A header of variable length was taken at its word; see whether the packet really reaches that far. */
static __always_inline int reaches(const struct cursor *cursor, const struct packet *packet)
{
	__u8 last;

	if (packet->transport > packet->end)
		return PARSE_BAD_HEADER;
	return read_bytes(cursor, packet->transport - 1, &last, sizeof(last));
}

static __always_inline int parse_ports(const struct cursor *cursor, struct packet *packet)
{
	__be16 ports[2];

	if (packet->fragment == FRAGMENT_LATER || !has_ports(packet->protocol))
		return 0;
	if (packet->transport + sizeof(ports) > packet->end ||
	    read_bytes(cursor, packet->transport, ports, sizeof(ports)))
		return PARSE_TRUNCATED;
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	return 0;
}

/* A header without options and the ports behind it come in one read: each costs as much as a look-up. */
struct ipv4_with_ports {
	struct iphdr ip;
	__be16 ports[2];
};

static __always_inline int parse_ipv4(const struct cursor *cursor, struct packet *packet)
{
	struct ipv4_with_ports head;
	int has_ports_read = !read_bytes(cursor, cursor->offset, &head, sizeof(head));
	__u32 header, total;
	__u16 fragment;
	int error;

	if (!has_ports_read && read_bytes(cursor, cursor->offset, &head.ip, sizeof(head.ip)))
		return PARSE_TRUNCATED;
	header = head.ip.ihl * 4;
	total = bpf_ntohs(head.ip.tot_len);
	/* A total length of 0 is a BIG TCP packet of more than 64 KiB, only seen before segmentation. */
	if (head.ip.version != 4 || header < sizeof(head.ip) || (total && total < header))
		return PARSE_BAD_HEADER;
	packet->source[0] = head.ip.saddr;
	packet->destination[0] = head.ip.daddr;
	packet->protocol = head.ip.protocol;
	packet->ttl = head.ip.ttl;
	packet->transport = cursor->offset + header;
	packet->end = total ? cursor->offset + total : END_UNKNOWN;
	fragment = bpf_ntohs(head.ip.frag_off);
	if (fragment & IPV4_FRAGMENT_OFFSET)
		packet->fragment = FRAGMENT_LATER;
	else if (fragment & IPV4_MORE_FRAGMENTS)
		packet->fragment = FRAGMENT_FIRST;
	if (header > sizeof(head.ip)) {
		error = reaches(cursor, packet);
		return error ? error : parse_ports(cursor, packet);
	}
	if (packet->fragment == FRAGMENT_LATER || !has_ports(packet->protocol))
		return 0;
	if (!has_ports_read || packet->transport + sizeof(head.ports) > packet->end)
		return PARSE_TRUNCATED;
	packet->source_port = head.ports[0];
	packet->destination_port = head.ports[1];
	return 0;
}

/* Length in bytes of the extension header that `bytes` begins, 0 if `protocol` is not one. */
static __always_inline __u32 extension_length(__u8 protocol, const __u8 *bytes)
{
	switch (protocol) {
	case EXTENSION_HOP_BY_HOP:
	case EXTENSION_ROUTING:
	case EXTENSION_DESTINATION:
		return (bytes[1] + 1) * 8;
	case EXTENSION_AUTHENTICATION:
		return (bytes[1] + 2) * 4;
	case EXTENSION_FRAGMENT:
		return 8;
	}
	return 0;
}

static __always_inline int is_extension(__u8 protocol)
{
	const __u8 any[2] = {};

	return extension_length(protocol, any) != 0;
}

static __always_inline int parse_extensions(const struct cursor *cursor, struct packet *packet)
{
	int i;

	for (i = 0; i < EXTENSION_HEADERS_MAX; i++) {
		__u8 bytes[4];

		if (!is_extension(packet->protocol))
			return i ? reaches(cursor, packet) : 0;
		if (packet->transport + sizeof(bytes) > packet->end ||
		    read_bytes(cursor, packet->transport, bytes, sizeof(bytes)))
			return PARSE_TRUNCATED;
		packet->transport += extension_length(packet->protocol, bytes);
		if (packet->protocol == EXTENSION_FRAGMENT) {
			__u16 fragment = bytes[2] << 8 | bytes[3];

			if (fragment & IPV6_FRAGMENT_OFFSET)
				packet->fragment = FRAGMENT_LATER;
			else if (fragment & IPV6_MORE_FRAGMENTS)
				packet->fragment = FRAGMENT_FIRST;
		}
		packet->protocol = bytes[0];
		if (packet->fragment == FRAGMENT_LATER)
			return reaches(cursor, packet);
	}
	return is_extension(packet->protocol) ? PARSE_TOO_DEEP : reaches(cursor, packet);
}

static __always_inline int parse_ipv6(const struct cursor *cursor, struct packet *packet)
{
	struct ipv6hdr ip;
	__u32 payload;

	if (read_bytes(cursor, cursor->offset, &ip, sizeof(ip)))
		return PARSE_TRUNCATED;
	if (ip.version != 6)
		return PARSE_BAD_HEADER;
	__builtin_memcpy(packet->source, &ip.saddr, sizeof(packet->source));
	__builtin_memcpy(packet->destination, &ip.daddr, sizeof(packet->destination));
	packet->protocol = ip.nexthdr;
	packet->ttl = ip.hop_limit;
	packet->transport = cursor->offset + sizeof(ip);
	payload = bpf_ntohs(ip.payload_len);
	packet->end = payload ? packet->transport + payload : END_UNKNOWN; /* 0: a jumbogram, or BIG TCP */
	return parse_extensions(cursor, packet);
}

static __always_inline int parse_network(const struct cursor *cursor, struct packet *packet)
{
	int result = 0;

	if (packet->ethertype == bpf_htons(ETH_P_IP))
		return parse_ipv4(cursor, packet);
	if (packet->ethertype == bpf_htons(ETH_P_IPV6))
		result = parse_ipv6(cursor, packet);
	else
		return 0;
	return result ? result : parse_ports(cursor, packet);
}

/* The whole of it, for a program at a tc-like hook. `packet` must be zero. */
static __always_inline int parse_skb(struct __sk_buff *skb, struct packet *packet)
{
	struct cursor cursor = {};
	int result;

	make_headers_linear(skb);
	result = find_network_skb(skb, &cursor, &packet->ethertype);
	return result ? result : parse_network(&cursor, packet);
}

/* The whole of it, for an XDP program. `packet` must be zero. */
static __always_inline int parse_xdp(struct xdp_md *xdp, struct packet *packet)
{
	struct cursor cursor = {};
	int result = find_network_xdp(xdp, &cursor, &packet->ethertype);

	return result ? result : parse_network(&cursor, packet);
}

#endif /* CNF_PARSE_H */
