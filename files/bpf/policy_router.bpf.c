// SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause)
/* Route by policy: where a packet goes is looked up by its source, its destination, or its source, protocol and port.
 *
 * Program        Hook                                                     Returns
 * policy_router  tcx ingress or egress, netkit primary or peer, clsact    NEXT, PASS, DROP or REDIRECT
 * explain        none: for BPF_PROG_TEST_RUN alone                        what policy_router would
 *
 * Namespace: that of the device, for interface indexes too; a netkit peer program sees what the container sends, and sends it
 * out of the host. For replies that would leave by the wrong default route: the egress of that route's device.
 *
 * `explain` makes the same decision with the same tables, writes to no map and sends nothing; struct decision (lib/policy.h)
 * is what remains of the packet. For the namespace and the device, run it in that namespace, with the device's ifindex in the
 * context. Attached to a device it would spoil packets.
 *
 * Per packet: what is never routed is left alone; then a chain of up to four members, in the order of the constants `first`
 * to `fourth`; the first match ends it, whatever becomes of the packet then. An exact address is looked up in a hash
 * before the prefixes; give every /32 and /128 to the hash alone. The conditional member finds a class by protocol and
 * destination port, then by protocol alone, and within each the longest source prefix. A match names an action (lib/policy.h).
 * Of an action's next hops the first usable is taken. A pool's slot is found by a hash of the flow (lib/flow.h); if that
 * member is dead, up to seven others are tried, an eighth of the table apart. An IPv4 packet may take an IPv6 next hop, not
 * the reverse. Whether next hops are alive (lib/liveness.h) is asked where the action says so. Without a usable one the packet
 * is left to the kernel (fallback), or dropped if the action is strict.
 *
 * Never routed: neither IPv4 nor IPv6; VLAN tags, in band or not (they belong to the VLAN's own device); frames for
 * another station, as a sniffer makes a device receive; multicast, broadcast, loopback and link-local destinations; neighbor
 * discovery; malformed packets. A later fragment matches by protocol, for it has no ports.
 *
 * Maps (counters: lib/counters.h, index enum counter_index; structs: lib/policy.h)
 * name                  key                       value
 * sources4_exact        __be32 address            struct choice
 * sources4              struct prefix4            struct choice
 * destinations4_exact   __be32 address            struct choice
 * destinations4         struct prefix4            struct choice
 * sources6_exact        address, 16 bytes         struct choice
 * sources6              struct prefix6            struct choice
 * destinations6_exact   address, 16 bytes         struct choice
 * destinations6         struct prefix6            struct choice
 * protocols             __u32 IP protocol         struct protocol_class
 * ports                 struct port_key           __u32 class
 * conditions4           struct condition4         struct choice
 * conditions6           struct condition6         struct choice
 * defaults              __u32 0: IPv4, 1: IPv6    struct choice, action 0: none
 * actions               __u32, 0 is none          struct action
 * nexthops              __u32, 0 is none          struct nexthop
 * health                __u32, that of nexthops   struct health, written by the program
 * pools                 __u32                     struct pool
 * members               __u32                     __u32 index in nexthops
 * entry_counters        __u32, 0 is none          struct entry_counter, per CPU
 * notes                 struct match              struct note                   these four are user space's own
 * pool_names            struct pool_name          __u32 index in pools
 * pool_members          struct pool_member        __u32 weight, 0: drained
 * settings              __u32 0                   struct settings
 *
 * Constants
 * first, second, third, fourth  enum chain_member                          conditional, source, destination, default
 * decrement_ttl                 1 where packets are forwarded (ingress)    0
 * malformed_verdict             cannot be parsed: -1 next, 0 pass, 2 drop  next; dropping is for filters
 * liveness                      0: never ask, whatever the actions say     1
 * grace_ns, probe_ns            of a neighbour that is not resolved        0.5 s, 1 s
 * counting                      0: entry_counters stand still              1
 * hash_seed                     for another choice of slots                0
 */
#include "compat.h"

#include "counters.h"
#include "flow.h"
#include "liveness.h"
#include "parse.h"
#include "policy.h"
#include "redirect.h"
#include "verdicts.h"
#include "verifier.h"

#include <linux/if_packet.h>

/* Tries and hashes take memory by use, the hashes' buckets (16 bytes) and arrays by size, per-CPU arrays for every CPU. */
#ifndef SOURCES4_EXACT_ENTRIES
#define SOURCES4_EXACT_ENTRIES 131072
#endif
#ifndef SOURCES4_ENTRIES
#define SOURCES4_ENTRIES 1048576
#endif
#ifndef DESTINATIONS4_EXACT_ENTRIES
#define DESTINATIONS4_EXACT_ENTRIES 131072
#endif
#ifndef DESTINATIONS4_ENTRIES
#define DESTINATIONS4_ENTRIES 1048576
#endif
#ifndef SOURCES6_EXACT_ENTRIES
#define SOURCES6_EXACT_ENTRIES 131072
#endif
#ifndef SOURCES6_ENTRIES
#define SOURCES6_ENTRIES 1048576
#endif
#ifndef DESTINATIONS6_EXACT_ENTRIES
#define DESTINATIONS6_EXACT_ENTRIES 131072
#endif
#ifndef DESTINATIONS6_ENTRIES
#define DESTINATIONS6_ENTRIES 1048576
#endif
/* Every port of one protocol, and more. */
#ifndef PORTS_ENTRIES
#define PORTS_ENTRIES 131072
#endif
#ifndef CONDITIONS4_ENTRIES
#define CONDITIONS4_ENTRIES 1048576
#endif
#ifndef CONDITIONS6_ENTRIES
#define CONDITIONS6_ENTRIES 1048576
#endif
#ifndef ACTIONS_ENTRIES
#define ACTIONS_ENTRIES 16384
#endif
#ifndef NEXTHOPS_ENTRIES
#define NEXTHOPS_ENTRIES 16384
#endif
/* As many as next hops. */
#ifndef HEALTH_ENTRIES
#define HEALTH_ENTRIES NEXTHOPS_ENTRIES
#endif
#ifndef POOLS_ENTRIES
#define POOLS_ENTRIES 1024
#endif
/* Both tables of each pool. */
#ifndef MEMBERS_ENTRIES
#define MEMBERS_ENTRIES 262144
#endif
#ifndef ENTRY_COUNTERS_ENTRIES
#define ENTRY_COUNTERS_ENTRIES 16384
#endif
#ifndef NOTES_ENTRIES
#define NOTES_ENTRIES 131072
#endif
#ifndef POOL_NAMES_ENTRIES
#define POOL_NAMES_ENTRIES POOLS_ENTRIES
#endif
#ifndef POOL_MEMBERS_ENTRIES
#define POOL_MEMBERS_ENTRIES 16384
#endif

/* Slots of a pool's table that are looked at, for a member that is alive. */
#ifndef POOL_PROBES
#define POOL_PROBES 8
#endif

/* POLICY_TOTAL is the sum of the outcomes. */
enum counter_index {
	POLICY_TOTAL, /* every packet */
	/* Where a match was found. */
	POLICY_CONDITIONAL,
	POLICY_SOURCE,
	POLICY_DESTINATION,
	POLICY_DEFAULT,
	/* Outcomes of a match. */
	POLICY_REDIRECT,
	POLICY_PASS,
	POLICY_DROP,
	POLICY_EXEMPT,
	POLICY_FALLBACK,    /* no usable next hop: left to the kernel */
	POLICY_STRICT_DROP, /* no usable next hop: dropped */
	POLICY_TTL,         /* would reach 0: left to the kernel, which tells the sender */
	POLICY_FAILED,      /* dropped: no memory to change it */
	/* Outcomes without a match; all but malformed packets (malformed_verdict) are left to the kernel. */
	POLICY_NO_MATCH,
	POLICY_ON_WAY,     /* at egress: leaves by the device of its next hop, and to it, as this program made it */
	POLICY_OTHER,      /* neither IPv4 nor IPv6 */
	POLICY_VLAN,       /* tagged */
	POLICY_OTHER_HOST, /* a frame for another station */
	POLICY_GROUP,      /* multicast or broadcast, of the frame or the packet */
	POLICY_LOCAL,      /* destination is link-local or loopback */
	POLICY_NEIGHBOR,   /* neighbor discovery */
	POLICY_TRUNCATED,  /* malformed: ends within a header */
	POLICY_BAD_HEADER, /* malformed: wrong version or lengths */
	POLICY_TOO_DEEP,   /* malformed: too many extension headers */
	/* Causes of POLICY_FALLBACK and POLICY_STRICT_DROP, of which they are the sum: why the last next hop was unusable. */
	POLICY_DEAD,
	POLICY_FAMILY,     /* an IPv4 next hop for an IPv6 packet */
	POLICY_BAD_ACTION, /* the entry names an action or a next hop that does not exist */
	POLICY_BAD_POOL,   /* the action names a pool that does not exist or is empty */
	/* Among the redirected. */
	POLICY_SKIPPED, /* a better next hop was passed over */
	POLICY_PROBE,   /* to a next hop taken for dead */
};
COUNTER_NAMES(enum counter_index);

#ifndef first
CONSTANT(enum chain_member, first, CHAIN_CONDITIONAL);
#endif
#ifndef second
CONSTANT(enum chain_member, second, CHAIN_SOURCE);
#endif
#ifndef third
CONSTANT(enum chain_member, third, CHAIN_DESTINATION);
#endif
#ifndef fourth
CONSTANT(enum chain_member, fourth, CHAIN_DEFAULT);
#endif
#ifndef decrement_ttl
CONSTANT(__u32, decrement_ttl, 0);
#endif
#ifndef malformed_verdict
CONSTANT(enum verdict, malformed_verdict, TC_NEXT);
#endif
#ifndef liveness
CONSTANT(__u32, liveness, 1);
#endif
#ifndef grace_ns
CONSTANT(__u64, grace_ns, 500000000);
#endif
#ifndef probe_ns
CONSTANT(__u64, probe_ns, 1000000000);
#endif
#ifndef counting
CONSTANT(__u32, counting, 1);
#endif
#ifndef hash_seed
CONSTANT(__u64, hash_seed, 0);
#endif

/* A hash's key of 16 bytes needs a name. */
struct address6 {
	__u8 address[16];
};

MAP_SPARSE_HASH(sources4_exact, __be32, struct choice, SOURCES4_EXACT_ENTRIES);
MAP_SPARSE_HASH(destinations4_exact, __be32, struct choice, DESTINATIONS4_EXACT_ENTRIES);
MAP_SPARSE_HASH(sources6_exact, struct address6, struct choice, SOURCES6_EXACT_ENTRIES);
MAP_SPARSE_HASH(destinations6_exact, struct address6, struct choice, DESTINATIONS6_EXACT_ENTRIES);
MAP_LPM(sources4, struct prefix4, struct choice, SOURCES4_ENTRIES);
MAP_LPM(destinations4, struct prefix4, struct choice, DESTINATIONS4_ENTRIES);
MAP_LPM(sources6, struct prefix6, struct choice, SOURCES6_ENTRIES);
MAP_LPM(destinations6, struct prefix6, struct choice, DESTINATIONS6_ENTRIES);
MAP_ARRAY(protocols, struct protocol_class, 256);
MAP_SPARSE_HASH(ports, struct port_key, __u32, PORTS_ENTRIES);
MAP_LPM(conditions4, struct condition4, struct choice, CONDITIONS4_ENTRIES);
MAP_LPM(conditions6, struct condition6, struct choice, CONDITIONS6_ENTRIES);
MAP_ARRAY(defaults, struct choice, 2);
MAP_ARRAY(actions, struct action, ACTIONS_ENTRIES);
MAP_ARRAY(nexthops, struct nexthop, NEXTHOPS_ENTRIES);
MAP_ARRAY(health, struct health, HEALTH_ENTRIES);
MAP_ARRAY(pools, struct pool, POOLS_ENTRIES);
MAP_ARRAY(members, __u32, MEMBERS_ENTRIES);
MAP_PERCPU_ARRAY(entry_counters, struct entry_counter, ENTRY_COUNTERS_ENTRIES);
MAP_SPARSE_HASH(notes, struct match, struct note, NOTES_ENTRIES);
MAP_SPARSE_HASH(pool_names, struct pool_name, __u32, POOL_NAMES_ENTRIES);
MAP_SPARSE_HASH(pool_members, struct pool_member, __u32, POOL_MEMBERS_ENTRIES);
MAP_ARRAY(settings, struct settings, 1);

#ifdef COMPILER_BCC
static __always_inline struct counter *find_counter(__u32 index) { return counters.lookup(&index); }
static __always_inline struct choice *find_source4(__be32 *key) { return sources4_exact.lookup(key); }
static __always_inline struct choice *find_destination4(__be32 *key) { return destinations4_exact.lookup(key); }
static __always_inline struct choice *find_source6(struct address6 *key) { return sources6_exact.lookup(key); }
static __always_inline struct choice *find_destination6(struct address6 *key)
{
	return destinations6_exact.lookup(key);
}
static __always_inline struct choice *match_source4(struct prefix4 *key) { return sources4.lookup(key); }
static __always_inline struct choice *match_destination4(struct prefix4 *key) { return destinations4.lookup(key); }
static __always_inline struct choice *match_source6(struct prefix6 *key) { return sources6.lookup(key); }
static __always_inline struct choice *match_destination6(struct prefix6 *key) { return destinations6.lookup(key); }
static __always_inline struct protocol_class *find_protocol(__u32 index) { return protocols.lookup(&index); }
static __always_inline __u32 *find_class(struct port_key *key) { return ports.lookup(key); }
static __always_inline struct choice *match_condition4(struct condition4 *key) { return conditions4.lookup(key); }
static __always_inline struct choice *match_condition6(struct condition6 *key) { return conditions6.lookup(key); }
static __always_inline struct choice *find_default(__u32 index) { return defaults.lookup(&index); }
static __always_inline struct action *find_action(__u32 index) { return actions.lookup(&index); }
static __always_inline struct nexthop *find_nexthop(__u32 index) { return nexthops.lookup(&index); }
static __always_inline struct health *find_health(__u32 index) { return health.lookup(&index); }
static __always_inline struct pool *find_pool(__u32 index) { return pools.lookup(&index); }
static __always_inline __u32 *find_member(__u32 index) { return members.lookup(&index); }
static __always_inline struct entry_counter *find_entry_counter(__u32 index) { return entry_counters.lookup(&index); }
#else
#define LOOKUP(name, result, key_type, map) \
	static __always_inline result *name(key_type *key) { return bpf_map_lookup_elem(&map, key); }
#define LOOKUP_INDEX(name, result, map) \
	static __always_inline result *name(__u32 index) { return bpf_map_lookup_elem(&map, &index); }
LOOKUP_INDEX(find_counter, struct counter, counters)
LOOKUP(find_source4, struct choice, __be32, sources4_exact)
LOOKUP(find_destination4, struct choice, __be32, destinations4_exact)
LOOKUP(find_source6, struct choice, struct address6, sources6_exact)
LOOKUP(find_destination6, struct choice, struct address6, destinations6_exact)
LOOKUP(match_source4, struct choice, struct prefix4, sources4)
LOOKUP(match_destination4, struct choice, struct prefix4, destinations4)
LOOKUP(match_source6, struct choice, struct prefix6, sources6)
LOOKUP(match_destination6, struct choice, struct prefix6, destinations6)
LOOKUP_INDEX(find_protocol, struct protocol_class, protocols)
LOOKUP(find_class, __u32, struct port_key, ports)
LOOKUP(match_condition4, struct choice, struct condition4, conditions4)
LOOKUP(match_condition6, struct choice, struct condition6, conditions6)
LOOKUP_INDEX(find_default, struct choice, defaults)
LOOKUP_INDEX(find_action, struct action, actions)
LOOKUP_INDEX(find_nexthop, struct nexthop, nexthops)
LOOKUP_INDEX(find_health, struct health, health)
LOOKUP_INDEX(find_pool, struct pool, pools)
LOOKUP_INDEX(find_member, __u32, members)
LOOKUP_INDEX(find_entry_counter, struct entry_counter, entry_counters)
#endif

/* --- What is never routed ------------------------------------------------------------------------------------------ */

/* Each of these returns the counter of the reason, or 0. */
static __always_inline __u32 exclude_frame(struct __sk_buff *skb)
{
	if (is_vlan(skb->protocol) || skb->vlan_present)
		return POLICY_VLAN;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return POLICY_OTHER;
	return skb->pkt_type == PACKET_OTHERHOST ? POLICY_OTHER_HOST : 0;
}

static __always_inline __u32 exclude_malformed(int error)
{
	if (error == PARSE_BAD_HEADER)
		return POLICY_BAD_HEADER;
	return error == PARSE_TOO_DEEP ? POLICY_TOO_DEEP : POLICY_TRUNCATED;
}

static __always_inline __u32 exclude_ipv4(__u32 destination)
{
	if (destination >= 0xe0000000) /* 224.0.0.0/4 and all above: multicast, reserved, broadcast */
		return POLICY_GROUP;
	if (destination >> 24 == 127 || destination >> 16 == 0xa9fe) /* 127.0.0.0/8, 169.254.0.0/16 */
		return POLICY_LOCAL;
	return 0;
}

static __always_inline __u32 exclude_ipv6(struct __sk_buff *skb, const struct packet *packet)
{
	const __u8 *destination = (const __u8 *)packet->destination;
	__u8 type;

	if (destination[0] == 0xff)
		return POLICY_GROUP;
	if (is_link_local6(destination))
		return POLICY_LOCAL;
	if (!packet->destination[0] && !packet->destination[1] && !packet->destination[2] &&
	    packet->destination[3] == bpf_htonl(1))
		return POLICY_LOCAL;
	/* Also between global addresses: neighbours are asked again at the address that they are known by. */
	if (packet->protocol != IPPROTO_ICMPV6 || packet->fragment == FRAGMENT_LATER)
		return 0;
	if (bpf_skb_load_bytes_relative(skb, packet->transport, &type, sizeof(type), BPF_HDR_START_NET))
		return POLICY_TRUNCATED;
	return type >= 133 && type <= 137 ? POLICY_NEIGHBOR : 0;
}

static __always_inline __u32 exclude(struct __sk_buff *skb, struct packet *packet, int *link_header)
{
	int is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	__u32 reason = exclude_frame(skb);
	int error;

	if (reason)
		return reason;
	error = parse_skb(skb, packet);
	if (error)
		return exclude_malformed(error);
	forget_packet(packet, unknown_zero(skb));
	*link_header = has_link_header_before(skb, is_ipv6 ? 8 : 12, packet->source[0]);
	if (*link_header && is_group_frame(skb)) /* bpf_redirect_neigh() would drop it */
		return POLICY_GROUP;
	return is_ipv6 ? exclude_ipv6(skb, packet) : exclude_ipv4(bpf_ntohl(packet->destination[0]));
}

/* --- The chain ----------------------------------------------------------------------------------------------------- */

/* A choice, read as one: see lib/policy.h. */
static __always_inline struct choice read_choice(const struct choice *found)
{
	union {
		__u64 whole;
		struct choice choice;
	} copy = { .whole = *(const volatile __u64 *)found };

	return copy.choice;
}

static __always_inline struct choice *find_in_class(const struct packet *packet, __u32 class)
{
	if (packet->ethertype == bpf_htons(ETH_P_IP)) {
		struct condition4 condition = { .prefixlen = 64, .class = class, .source = packet->source[0] };

		return match_condition4(&condition);
	} else {
		struct condition6 condition = { .prefixlen = 160, .class = class };

		__builtin_memcpy(condition.source, packet->source, sizeof(condition.source));
		return match_condition6(&condition);
	}
}

static __always_inline struct choice *find_by_port(const struct packet *packet)
{
	struct port_key key = { .protocol = packet->protocol, .port = packet->destination_port };
	__u32 *class = find_class(&key);

	return class ? find_in_class(packet, *class) : 0;
}

static __always_inline struct choice *find_conditional(const struct packet *packet, enum table *table)
{
	struct protocol_class *protocol = find_protocol(packet->protocol);
	struct choice *found = 0;

	if (!protocol)
		return 0;
	*table = TABLE_PORT;
	if (protocol->ports && packet->destination_port)
		found = find_by_port(packet);
	if (found)
		return found;
	*table = TABLE_PROTOCOL;
	return protocol->class ? find_in_class(packet, protocol->class) : 0;
}

static __always_inline struct choice *find_source(const struct packet *packet, enum table *table)
{
	struct choice *found;

	*table = TABLE_SOURCE_EXACT;
	if (packet->ethertype == bpf_htons(ETH_P_IP)) {
		struct prefix4 key = { .prefixlen = 32, .address = packet->source[0] };

		found = find_source4(&key.address);
		if (found)
			return found;
		*table = TABLE_SOURCE;
		return match_source4(&key);
	} else {
		struct prefix6 key = { .prefixlen = 128 };

		__builtin_memcpy(key.address, packet->source, sizeof(key.address));
		found = find_source6((struct address6 *)key.address);
		if (found)
			return found;
		*table = TABLE_SOURCE;
		return match_source6(&key);
	}
}

static __always_inline struct choice *find_destination(const struct packet *packet, enum table *table)
{
	struct choice *found;

	*table = TABLE_DESTINATION_EXACT;
	if (packet->ethertype == bpf_htons(ETH_P_IP)) {
		struct prefix4 key = { .prefixlen = 32, .address = packet->destination[0] };

		found = find_destination4(&key.address);
		if (found)
			return found;
		*table = TABLE_DESTINATION;
		return match_destination4(&key);
	} else {
		struct prefix6 key = { .prefixlen = 128 };

		__builtin_memcpy(key.address, packet->destination, sizeof(key.address));
		found = find_destination6((struct address6 *)key.address);
		if (found)
			return found;
		*table = TABLE_DESTINATION;
		return match_destination6(&key);
	}
}

static __always_inline struct choice *find_by_default(const struct packet *packet, enum table *table)
{
	struct choice *found = find_default(packet->ethertype == bpf_htons(ETH_P_IPV6));

	*table = TABLE_DEFAULT;
	return found && found->action ? found : 0;
}

static __always_inline struct choice *find_in_member(enum chain_member member, const struct packet *packet,
						     enum table *table)
{
	switch (member) {
	case CHAIN_CONDITIONAL:
		return find_conditional(packet, table);
	case CHAIN_SOURCE:
		return find_source(packet, table);
	case CHAIN_DESTINATION:
		return find_destination(packet, table);
	case CHAIN_DEFAULT:
		return find_by_default(packet, table);
	case CHAIN_NONE:
		break;
	}
	return 0;
}

/* Written out, so that the verifier leaves nothing of the members that the constants rule out. */
static __always_inline struct choice *find_choice(const struct packet *packet, enum table *table)
{
	struct choice *found = find_in_member(first, packet, table);

	if (!found)
		found = find_in_member(second, packet, table);
	if (!found)
		found = find_in_member(third, packet, table);
	if (!found)
		found = find_in_member(fourth, packet, table);
	return found;
}

/* --- The action ---------------------------------------------------------------------------------------------------- */

/* The candidates of an action: those in the action itself, or slots of a table in `members`. */
struct candidates {
	const struct action *action;
	__u32 count;
	__u32 base;   /* of the table */
	__u32 size;   /* of the table, 0: in the action */
	__u32 slot;   /* the first to look at */
	__u32 stride; /* from one to the next: neighbours in the table are often the same member's */
};

static __always_inline int find_slot(const struct packet *packet, const struct action *action,
				     struct candidates *candidates, struct decision *decision)
{
	struct pool *pool = find_pool(action->pool);
	__u32 hash;

	if (!pool || !pool->size)
		return -1;
	if (pool->mode == POOL_RANDOM) {
		hash = bpf_get_prandom_u32();
		decision->flags |= DECISION_RANDOM;
	} else if (pool->mode == POOL_SOURCE) {
		hash = hash_source(hash_seed, packet);
	} else {
		hash = hash_flow(hash_seed, packet, pool->flags & POOL_SYMMETRIC);
	}
	candidates->base = pool->offset[pool->active & 1];
	candidates->size = pool->size;
	candidates->count = pool->size; /* each slot once */
	candidates->stride = pool->size < POOL_PROBES ? 1 : pool->size / POOL_PROBES;
	candidates->slot = flow_slot(hash, pool->size);
	return 0;
}

/* The next hop of a candidate's number, 0 if there is none. */
static __always_inline __u32 candidate(const struct candidates *candidates, __u32 number)
{
	__u32 slot = candidates->slot + number * candidates->stride, *member;

	if (!candidates->size)
		return number < NEXTHOPS_PER_ACTION ? candidates->action->nexthops[number] : 0;
	if (slot >= candidates->size)
		slot -= candidates->size;
	member = find_member(candidates->base + slot);
	return member ? *member : 0;
}

/* What is known of the next hop that is being tried. */
struct trial {
	struct nexthop *hop;
	__u32 index;
	__u32 skipped; /* DECISION_SKIPPED or 0 */
	__u32 probe;   /* DECISION_PROBE or 0 */
	__u32 mtu;
	int answer; /* of ask_fib(), if it was asked */
};

/* See whether a next hop will do: 0, or the cause why not. */
static __always_inline __u32 try_nexthop(struct __sk_buff *skb, const struct packet *packet, struct trial *trial,
					 __u32 ask, int dry)
{
	struct nexthop *hop = find_nexthop(trial->index);
	struct health *state;
	enum judgement found;

	if (!trial->index || !hop || !hop->ifindex)
		return POLICY_BAD_ACTION;
	trial->hop = hop;
	if (hop->family == FAMILY_IPV4 && packet->ethertype != bpf_htons(ETH_P_IP))
		return POLICY_FAMILY;
	if (!ask)
		return 0;
	state = find_health(trial->index);
	if (!state)
		return POLICY_BAD_ACTION;
	if (!dry && is_fresh(state))
		return 0;
	trial->answer = ask_fib(skb, packet, hop, &trial->mtu);
	found = judge(trial->answer, hop, state, grace_ns, probe_ns, dry);
	trial->probe = found == NEXTHOP_PROBE ? DECISION_PROBE : 0;
	return found == NEXTHOP_DEAD ? POLICY_DEAD : 0;
}

/* Find a usable next hop: 0, or the cause why there is none. */
static __always_inline __u32 find_usable(struct __sk_buff *skb, struct packet *packet, struct candidates *candidates,
					 struct trial *trial, __u32 ask, int dry)
{
	__u32 number, last = 0, cause = POLICY_BAD_ACTION, zero;

#pragma clang loop unroll(disable)
	for (number = 0; number < POOL_PROBES; number++) {
		if (number >= candidates->count)
			break;
		trial->probe = 0;
		trial->answer = 0;
		trial->index = candidate(candidates, number);
		if (number && trial->index == last)
			continue;
		cause = try_nexthop(skb, packet, trial, ask, dry);
		if (!cause)
			break;
		zero = unknown_zero(skb);
		forget_packet(packet, zero);
		candidates->size ^= zero;
		ask ^= zero;
		cause ^= zero;
		last = trial->index ^ zero;
		trial->skipped = DECISION_SKIPPED ^ zero;
	}
	return cause;
}

static __always_inline void take(struct __sk_buff *skb, const struct packet *packet, const struct trial *trial,
				 struct decision *decision, int dry)
{
	const struct nexthop *hop = trial->hop;
	const void *address = packet->destination;

	decision->outcome = POLICY_REDIRECT;
	decision->verdict = TC_REDIRECT;
	decision->flags |= trial->skipped | trial->probe;
	decision->nexthop = trial->index;
	decision->ifindex = hop->ifindex;
	decision->family = hop->family;
	if (hop->family)
		address = hop->address;
	copy_address(decision->address, address);
	if (dry && is_too_big(skb, packet, trial->mtu))
		decision->flags |= DECISION_TOO_BIG;
	if (!hop->family && trial->answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		decision->flags |= DECISION_UNRESOLVED;
}

static __always_inline void give_up(struct decision *decision, __u32 cause, __u32 action_flags)
{
	int strict = action_flags & ACTION_STRICT;

	decision->cause = cause;
	decision->outcome = strict ? POLICY_STRICT_DROP : POLICY_FALLBACK;
	decision->verdict = strict ? TC_DROP : TC_NEXT;
	decision->flags = 0;
}

static __always_inline void route(struct __sk_buff *skb, struct packet *packet, const struct action *action,
				  struct decision *decision, int dry)
{
	__u32 ask = liveness ? action->flags & ACTION_CHECK : 0;
	struct candidates candidates = { .action = action, .count = action->count };
	struct trial trial = {};
	__u32 cause;

	if (action->kind == ACTION_POOL && find_slot(packet, action, &candidates, decision)) {
		give_up(decision, POLICY_BAD_POOL, action->flags);
		return;
	}
	cause = find_usable(skb, packet, &candidates, &trial, ask, dry);
	if (cause || !trial.hop) /* no cause, a next hop: the verifier does not know */
		give_up(decision, cause, action->flags);
	else
		take(skb, packet, &trial, decision, dry);
}

static __always_inline void act(struct __sk_buff *skb, struct packet *packet, struct decision *decision, int dry)
{
	struct action *action = find_action(decision->action);

	if (!action) {
		give_up(decision, POLICY_BAD_ACTION, 0);
		return;
	}
	decision->kind = action->kind;
	switch (decision->kind) {
	case ACTION_NEXT_HOPS:
	case ACTION_POOL:
		route(skb, packet, action, decision, dry);
		return;
	case ACTION_PASS:
		decision->outcome = POLICY_PASS;
		decision->verdict = TC_PASS;
		return;
	case ACTION_DROP:
		decision->outcome = POLICY_DROP;
		decision->verdict = TC_DROP;
		return;
	case ACTION_EXEMPT:
		decision->outcome = POLICY_EXEMPT;
		return;
	case ACTION_NONE:
		break;
	}
	give_up(decision, POLICY_BAD_ACTION, action->flags);
}

/* --- The decision -------------------------------------------------------------------------------------------------- */

/* What becomes of a packet. `packet` and `decision` must be zero; nothing is written to maps when `dry`. */
static __always_inline void decide(struct __sk_buff *skb, struct packet *packet, struct decision *decision,
				   int *link_header, int dry)
{
	struct choice *found, choice;

	decision->verdict = TC_NEXT;
	decision->outcome = exclude(skb, packet, link_header);
	if (decision->outcome) {
		if (decision->outcome >= POLICY_TRUNCATED)
			decision->verdict = tc_verdict(malformed_verdict);
		return;
	}
	found = find_choice(packet, &decision->table);
	if (!found) {
		decision->table = TABLE_NONE;
		decision->outcome = POLICY_NO_MATCH;
		return;
	}
	choice = read_choice(found);
	decision->table ^= unknown_zero(skb);
	*link_header ^= unknown_zero(skb);
	forget_packet(packet, unknown_zero(skb));
	decision->action = choice.action;
	decision->counter = choice.counter;
	act(skb, packet, decision, dry);
	decision->outcome ^= unknown_zero(skb);
	decision->cause ^= unknown_zero(skb);
	decision->flags ^= unknown_zero(skb);
	decision->verdict ^= unknown_zero(skb);
	if (decrement_ttl && decision->outcome == POLICY_REDIRECT && packet->ttl <= 1) {
		decision->outcome = POLICY_TTL;
		decision->verdict = TC_NEXT;
		decision->flags = 0;
	}
}

static __always_inline void count(__u32 index, __u64 bytes) { add_packet(find_counter(index), bytes); }

static __always_inline void count_match(enum table table, __u64 bytes)
{
	if (table == TABLE_PORT || table == TABLE_PROTOCOL)
		count(POLICY_CONDITIONAL, bytes);
	else if (table == TABLE_SOURCE_EXACT || table == TABLE_SOURCE)
		count(POLICY_SOURCE, bytes);
	else if (table == TABLE_DESTINATION_EXACT || table == TABLE_DESTINATION)
		count(POLICY_DESTINATION, bytes);
	else if (table == TABLE_DEFAULT)
		count(POLICY_DEFAULT, bytes);
}

static __always_inline void count_entry(const struct decision *decision, __u64 bytes)
{
	struct entry_counter *entry;

	if (!counting || !decision->counter)
		return;
	entry = find_entry_counter(decision->counter);
	if (!entry)
		return;
	entry->packets++;
	entry->bytes += bytes;
	entry->last = bpf_ktime_get_coarse_ns();
	if (decision->cause)
		entry->failures++;
}

static __always_inline void count_all(const struct decision *decision, __u64 bytes)
{
	count(POLICY_TOTAL, bytes);
	count(decision->outcome, bytes);
	count_match(decision->table, bytes);
	if (decision->cause)
		count(decision->cause, bytes);
	if (decision->flags & DECISION_SKIPPED)
		count(POLICY_SKIPPED, bytes);
	if (decision->flags & DECISION_PROBE)
		count(POLICY_PROBE, bytes);
	count_entry(decision, bytes);
}

/* --- The programs -------------------------------------------------------------------------------------------------- */

/* Make the packet ready to be redirected; 0 or a negative errno. */
static __always_inline int prepare(struct __sk_buff *skb, const struct packet *packet, int link_header)
{
	/* bpf_redirect_neigh() drops what has no link-layer header. */
	if (!link_header && push_link_header(skb))
		return -1;
	if (!decrement_ttl)
		return 0;
	if (packet->ethertype == bpf_htons(ETH_P_IPV6))
		return decrement_hop_limit(skb, ETH_HLEN, packet->ttl);
	return decrement_ttl_ipv4(skb, ETH_HLEN, packet->ttl, packet->protocol);
}

static __always_inline int send(const struct packet *packet, const struct decision *decision)
{
	struct bpf_redir_neigh hop = {};

	/* The kernel queues the packet that asks for a neighbour; on an egress hook, only if it may look up the route itself. */
	if (decision->flags & DECISION_UNRESOLVED)
		return bpf_redirect_neigh(decision->ifindex, 0, 0, 0);
	hop.nh_family = decision->family;
	if (!decision->family)
		hop.nh_family = packet->ethertype == bpf_htons(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;
	copy_address(hop.ipv6_nh, decision->address);
	return bpf_redirect_neigh(decision->ifindex, &hop, sizeof(hop), 0);
}

/* A packet for a next hop by the very device that it is at. At ingress it is turned back. At egress it may be the one that was
 * redirected there, and comes by the hook again: then its frame is for the next hop already, or it needs none. Where the FIB tells no
 * address (lib/liveness.h), egress is known by the device that the packet came in by, and what leaves by the right device has to do.
 */
static __always_inline int is_on_its_way(struct __sk_buff *skb, const struct packet *packet,
					 const struct decision *decision, int link_header)
{
	const __u32 known = ANSWER(SUCCESS) | ANSWER(FRAG_NEEDED);
	struct bpf_fib_lookup fib = {};
	__u16 frame[3] = {}, *wanted = (__u16 *)fib.dmac;
	int answer;

	if (!link_header)
		return skb->ingress_ifindex != skb->ifindex;
	fib.ifindex = decision->ifindex;
	fib.family = decision->family;
	if (!decision->family)
		fib.family = packet->ethertype == bpf_htons(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;
	copy_address(fib.ipv6_dst, decision->address);
	answer = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_OUTPUT);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	if (answer < 0 || !(known >> answer & 1))
		return skb->ingress_ifindex != skb->ifindex;
	return !bpf_skb_load_bytes(skb, 0, frame, sizeof(frame)) && frame[0] == wanted[0] && frame[1] == wanted[1] &&
	       frame[2] == wanted[2];
}

/* It matched and was counted when it was redirected. */
static __always_inline void leave_on_its_way(struct decision *decision)
{
	decision->outcome = POLICY_ON_WAY;
	decision->verdict = TC_NEXT;
	decision->table = TABLE_NONE;
	decision->counter = 0;
	decision->flags = 0;
}

SEC("tc")
int policy_router(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct decision decision = {};
	__u32 bytes = skb->len;
	int link_header = 1;

	decide(skb, &packet, &decision, &link_header, 0);
	if (decision.outcome == POLICY_REDIRECT && decision.ifindex == skb->ifindex &&
	    is_on_its_way(skb, &packet, &decision, link_header))
		leave_on_its_way(&decision);
	if (decision.outcome == POLICY_REDIRECT && prepare(skb, &packet, link_header)) {
		decision.outcome = POLICY_FAILED;
		decision.verdict = TC_DROP;
		decision.flags = 0;
	}
	count_all(&decision, bytes);
	if (decision.outcome == POLICY_REDIRECT)
		return send(&packet, &decision);
	return decision.verdict;
}

SEC("tc")
int explain(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct decision decision = {};
	int link_header = 1;

	decide(skb, &packet, &decision, &link_header, 1);
	if (bpf_skb_change_tail(skb, sizeof(decision), 0) ||
	    bpf_skb_store_bytes(skb, 0, &decision, sizeof(decision), 0))
		return TC_DROP;
	return decision.verdict;
}

LICENSE("Dual BSD/GPL");
