// SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause)
/* Drop or pass by source, destination, protocol and destination port.
 *
 * Program       Hook                                                     Returns
 * filter        tcx ingress or egress, netkit primary or peer, clsact    NEXT, PASS or DROP
 * filter_xdp    XDP                                                      XDP_PASS (also for NEXT) or XDP_DROP
 * drop_all      as `filter`; at the end of a hook's list it makes        DROP
 *               the hook fail closed (a netkit policy of blackhole
 *               holds only while no program is attached)
 *
 * Namespace: that of the device; a netkit peer program filters what the container sends, and the
 * container cannot remove it.
 *
 * A prefix map turns an address into a group, a number above 0 that several prefixes may share; the longest prefix decides,
 * and an address in no prefix has no group. A rule names source group, destination group, protocol and port, each 0 for any.
 * The most specific rule wins: first by groups (both, source only, destination only, none), then by protocol and port, by
 * protocol, neither. Without a rule the constants below decide.
 *
 * Maps (counters: lib/counters.h, index enum counter_index; each packet counts once)
 * name           key                                     value
 * sources4       struct prefix4, network byte order      __u32 group
 * sources6       struct prefix6, network byte order      __u32 group
 * destinations4  struct prefix4, network byte order      __u32 group
 * destinations6  struct prefix6, network byte order      __u32 group
 * rules          struct rule_key, port in network order  enum verdict
 *
 * Constants: -1 next, 0 pass, 2 drop; anything else drops
 * default_verdict    IPv4 and IPv6 packets without a rule                    next
 * other_verdict      neither IPv4 nor IPv6: ARP, LLDP, ...                   next
 * malformed_verdict  cannot be parsed, so no rule can be trusted to match    drop
 * fragment_verdict   later fragments, which have no port, without a rule     next
 *                    that leaves the port open
 */
#include "compat.h"

#include "counters.h"
#include "parse.h"
#include "verdicts.h"

/* Tries take memory by use, not by size. */
#ifndef SOURCES4_ENTRIES
#define SOURCES4_ENTRIES 16384
#endif
#ifndef SOURCES6_ENTRIES
#define SOURCES6_ENTRIES 16384
#endif
#ifndef DESTINATIONS4_ENTRIES
#define DESTINATIONS4_ENTRIES 16384
#endif
#ifndef DESTINATIONS6_ENTRIES
#define DESTINATIONS6_ENTRIES 16384
#endif
#ifndef RULES_ENTRIES
#define RULES_ENTRIES 4096
#endif

struct prefix4 {
	__u32 prefixlen; /* 0 to 32, host byte order */
	__be32 address;
};

struct prefix6 {
	__u32 prefixlen; /* 0 to 128, host byte order */
	__u8 address[16];
};

struct rule_key {
	__u32 source;      /* group of sources4 or sources6, 0: any */
	__u32 destination; /* group of destinations4 or destinations6, 0: any */
	__be16 port;       /* destination port, 0: any; needs a protocol */
	__u8 protocol;     /* IP protocol number, 0: any */
	__u8 pad;          /* 0 */
};

enum counter_index {
	FILTER_RULE_NEXT, /* a rule said so */
	FILTER_RULE_PASS,
	FILTER_RULE_DROP,
	FILTER_DEFAULT,    /* no rule: default_verdict */
	FILTER_FRAGMENT,   /* no rule without port for a later fragment: fragment_verdict */
	FILTER_OTHER,      /* neither IPv4 nor IPv6: other_verdict */
	FILTER_TRUNCATED,  /* malformed_verdict: ends within a header */
	FILTER_BAD_HEADER, /* malformed_verdict: wrong version or lengths */
	FILTER_TOO_DEEP,   /* malformed_verdict: too many VLAN tags or extension headers */
	FILTER_DROP_ALL,   /* met drop_all */
};
COUNTER_NAMES(enum counter_index);

#ifndef default_verdict
CONSTANT(enum verdict, default_verdict, TC_NEXT);
#endif
#ifndef other_verdict
CONSTANT(enum verdict, other_verdict, TC_NEXT);
#endif
#ifndef malformed_verdict
CONSTANT(enum verdict, malformed_verdict, TC_DROP);
#endif
#ifndef fragment_verdict
CONSTANT(enum verdict, fragment_verdict, TC_NEXT);
#endif

MAP_LPM(sources4, struct prefix4, __u32, SOURCES4_ENTRIES);
MAP_LPM(sources6, struct prefix6, __u32, SOURCES6_ENTRIES);
MAP_LPM(destinations4, struct prefix4, __u32, DESTINATIONS4_ENTRIES);
MAP_LPM(destinations6, struct prefix6, __u32, DESTINATIONS6_ENTRIES);
MAP_HASH(rules, struct rule_key, enum verdict, RULES_ENTRIES);

#ifdef COMPILER_BCC
static __always_inline struct counter *find_counter(__u32 index) { return counters.lookup(&index); }
static __always_inline __u32 *find_source4(struct prefix4 *key) { return sources4.lookup(key); }
static __always_inline __u32 *find_source6(struct prefix6 *key) { return sources6.lookup(key); }
static __always_inline __u32 *find_destination4(struct prefix4 *key) { return destinations4.lookup(key); }
static __always_inline __u32 *find_destination6(struct prefix6 *key) { return destinations6.lookup(key); }
static __always_inline enum verdict *find_rule(struct rule_key *key) { return rules.lookup(key); }
#else
static __always_inline struct counter *find_counter(__u32 index) { return bpf_map_lookup_elem(&counters, &index); }
static __always_inline __u32 *find_source4(struct prefix4 *key) { return bpf_map_lookup_elem(&sources4, key); }
static __always_inline __u32 *find_source6(struct prefix6 *key) { return bpf_map_lookup_elem(&sources6, key); }
static __always_inline __u32 *find_destination4(struct prefix4 *key)
{
	return bpf_map_lookup_elem(&destinations4, key);
}
static __always_inline __u32 *find_destination6(struct prefix6 *key)
{
	return bpf_map_lookup_elem(&destinations6, key);
}
static __always_inline enum verdict *find_rule(struct rule_key *key) { return bpf_map_lookup_elem(&rules, key); }
#endif

struct decision {
	int verdict; /* enum verdict, unchecked */
	__u32 counter;
};

/* Groups of the packet's addresses, 0 where no prefix matches. */
static __always_inline void find_groups(const struct packet *packet, struct rule_key *groups)
{
	__u32 *source, *destination;

	if (packet->ethertype == bpf_htons(ETH_P_IP)) {
		struct prefix4 key = { .prefixlen = 32, .address = packet->source[0] };

		source = find_source4(&key);
		key.address = packet->destination[0];
		destination = find_destination4(&key);
	} else {
		struct prefix6 key = { .prefixlen = 128 };

		__builtin_memcpy(key.address, packet->source, sizeof(key.address));
		source = find_source6(&key);
		__builtin_memcpy(key.address, packet->destination, sizeof(key.address));
		destination = find_destination6(&key);
	}
	groups->source = source ? *source : 0;
	groups->destination = destination ? *destination : 0;
}

/* Among the rules of one pair of groups: by protocol and port, by protocol, by neither. */
static __always_inline enum verdict *find_by_protocol(const struct packet *packet, struct rule_key key)
{
	enum verdict *rule = 0;

	key.protocol = packet->protocol;
	key.port = packet->destination_port;
	if (key.port)
		rule = find_rule(&key);
	key.port = 0;
	if (!rule && key.protocol)
		rule = find_rule(&key);
	key.protocol = 0;
	return rule ? rule : find_rule(&key);
}

static __always_inline enum verdict *find_for(const struct packet *packet)
{
	struct rule_key groups = {};
	int pair;

	find_groups(packet, &groups);
	for (pair = 0; pair < 4; pair++) {
		struct rule_key key = {};
		enum verdict *rule;

		/* 0: both groups, 1: source only, 2: destination only, 3: neither */
		if (!(pair & 2))
			key.source = groups.source;
		if (!(pair & 1))
			key.destination = groups.destination;
		/* Without a group this pair is the same as a later one. */
		if ((!(pair & 2) && !groups.source) || (!(pair & 1) && !groups.destination))
			continue;
		rule = find_by_protocol(packet, key);
		if (rule)
			return rule;
	}
	return 0;
}

static __always_inline struct decision decide_malformed(int error)
{
	struct decision decision = { malformed_verdict, FILTER_TRUNCATED };

	if (error == PARSE_BAD_HEADER)
		decision.counter = FILTER_BAD_HEADER;
	else if (error == PARSE_TOO_DEEP)
		decision.counter = FILTER_TOO_DEEP;
	return decision;
}

static __always_inline struct decision decide(const struct packet *packet)
{
	struct decision decision = { other_verdict, FILTER_OTHER };
	enum verdict *rule;

	if (packet->ethertype != bpf_htons(ETH_P_IP) && packet->ethertype != bpf_htons(ETH_P_IPV6))
		return decision;
	rule = find_for(packet);
	if (rule) {
		decision.verdict = *rule;
		decision.counter = FILTER_RULE_DROP;
		if (decision.verdict == TC_NEXT)
			decision.counter = FILTER_RULE_NEXT;
		else if (decision.verdict == TC_PASS)
			decision.counter = FILTER_RULE_PASS;
	} else if (packet->fragment == FRAGMENT_LATER) {
		decision.verdict = fragment_verdict;
		decision.counter = FILTER_FRAGMENT;
	} else {
		decision.verdict = default_verdict;
		decision.counter = FILTER_DEFAULT;
	}
	return decision;
}

SEC("tc")
int filter(struct __sk_buff *skb)
{
	struct packet packet = {};
	int error = parse_skb(skb, &packet);
	struct decision decision = error ? decide_malformed(error) : decide(&packet);

	add_packet(find_counter(decision.counter), skb->len);
	return tc_verdict(decision.verdict);
}

SEC("xdp")
int filter_xdp(struct xdp_md *xdp)
{
	struct packet packet = {};
	int error = parse_xdp(xdp, &packet);
	struct decision decision = error ? decide_malformed(error) : decide(&packet);

	add_packet(find_counter(decision.counter), (__u64)xdp->data_end - (__u64)xdp->data);
	return xdp_verdict(decision.verdict);
}

SEC("tc")
int drop_all(struct __sk_buff *skb)
{
	add_packet(find_counter(FILTER_DROP_ALL), skb->len);
	return TC_DROP;
}

LICENSE("Dual BSD/GPL");
