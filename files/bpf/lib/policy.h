/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* What user space and the policy router agree upon: the layouts of its tables and of its answers.
 *
 * Byte order: addresses and ports network, everything else host. Index 0 of `actions`, `nexthops` and `entry_counters` means
 * none.
 *
 * Writing while packets pass: an entry of an array is copied word by word, so an action or a next hop of more than one word
 * is written to an index that nothing names yet, and then named: by the 8 bytes of a choice, or by one aligned 32-bit field
 * (`active` and `pool` below). An address's choice is read once and as a whole: the element of a hash may be taken
 * for another key as soon as its own is deleted or overwritten, with or without preallocation (htab_map_update_elem,
 * bpf_mem_cache_free), so two reads could see two entries. What remains is that a CPU interrupted between
 * look-up and read may route that one packet by the entry that took the place; a trie waits for a grace period.
 */
#ifndef CNF_POLICY_H
#define CNF_POLICY_H

#include "compat.h"

/* A preallocated hash takes 64 to 80 bytes for every entry that could be, this one 16 (its bucket) and the rest by use. An empty
 * place costs no more to look at. Allocation is from per-CPU caches that may be used in any context (6.1).
 */
#ifdef COMPILER_BCC
#define MAP_SPARSE_HASH(name, key_type, value_type, entries) \
	BPF_F_TABLE("hash", key_type, value_type, name, entries, BPF_F_NO_PREALLOC)
#else
#define MAP_SPARSE_HASH(name, key_type, value_type, entries) \
	struct { \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(max_entries, entries); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")
#endif

/* An action's next hops, in order of preference. */
#define NEXTHOPS_PER_ACTION 6

/* <sys/socket.h> is not for programs. */
enum address_family {
	FAMILY_NONE = 0,
	FAMILY_IPV4 = 2,  /* AF_INET */
	FAMILY_IPV6 = 10, /* AF_INET6 */
};

struct prefix4 {
	__u32 prefixlen; /* 0 to 32 */
	__be32 address;
};

struct prefix6 {
	__u32 prefixlen; /* 0 to 128 */
	__u8 address[16];
};

/* A class is a set of protocols and ports that user space gave a number; it must match as a whole. */
struct condition4 {
	__u32 prefixlen; /* 32 for the class, and 0 to 32 */
	__u32 class;
	__be32 source;
};

struct condition6 {
	__u32 prefixlen; /* 32 for the class, and 0 to 128 */
	__u32 class;
	__u8 source[16];
};

/* So that packets of which no condition knows the protocol cost no look-up in a hash. */
struct protocol_class {
	__u32 class; /* of the protocol, whatever the port, 0: none */
	__u32 ports; /* whether `ports` has any of it; set before they are written */
};

struct port_key {
	__u8 protocol; /* IP protocol number */
	__u8 pad;      /* 0 */
	__be16 port;   /* destination port, not 0 */
};

/* The value of every table. */
struct choice {
	__u32 action;  /* index in `actions` */
	__u32 counter; /* index in `entry_counters`, 0: not counted */
};

enum action_kind {
	ACTION_NONE,
	ACTION_NEXT_HOPS, /* the first of `nexthops` that is usable */
	ACTION_POOL,      /* a member of `pool` */
	ACTION_PASS,      /* PASS: to the kernel, without the rest of the chain and without later programs */
	ACTION_DROP,
	ACTION_EXEMPT, /* NEXT: a hole in a wider prefix; the chain ends, later programs go on */
};

enum action_flags {
	ACTION_STRICT = 1 << 0, /* without a usable next hop drop, rather than leave the packet to the kernel */
	ACTION_CHECK = 1 << 1,  /* ask whether next hops are alive */
};

struct action {
	enum action_kind kind;
	__u32 flags;                         /* enum action_flags */
	__u32 count;                         /* of `nexthops` */
	__u32 pool;                          /* index in `pools` */
	__u32 nexthops[NEXTHOPS_PER_ACTION]; /* indexes in `nexthops` */
};

struct nexthop {
	__u32 ifindex;    /* 0: none */
	__u32 family;     /* enum address_family; none: the packet's destination is on the link */
	__u8 address[16]; /* IPv4: the first 4 bytes */
};

/* By next hop; written by the program alone. Nanoseconds of CLOCK_MONOTONIC, but for ticks, which are the kernel's jiffies. */
struct health {
	__u64 bad_since;  /* its neighbour has been unresolved since, 0: it is not */
	__u64 last_probe; /* bad: when a packet last went to find out; good: the tick in which it was found so */
};

enum pool_mode {
	POOL_FLOW,   /* addresses, protocol and ports: a connection stays together */
	POOL_SOURCE, /* the source address alone */
	POOL_RANDOM, /* each packet by itself */
};

enum pool_flags {
	POOL_SYMMETRIC = 1 << 0, /* POOL_FLOW: both directions of a flow get the same slot */
};

/* A table of next hops in one of two places in `members`. User space fills the other one and then sets `active`. The size is
 * for life, as it cannot change together with the place: a larger table is another pool, named by the action's `pool`.
 */
struct pool {
	__u32 active; /* 0 or 1 */
	__u32 size;   /* slots of a table, 0: empty */
	enum pool_mode mode;
	__u32 flags;     /* enum pool_flags */
	__u32 offset[2]; /* where each table begins in `members` */
};

struct entry_counter {
	__u64 packets;  /* all that the entry decided */
	__u64 bytes;    /* with link-layer header */
	__u64 failures; /* of them: without a usable next hop, so left to the kernel or, if strict, dropped */
	__u64 last;     /* when, in nanoseconds of CLOCK_MONOTONIC, to a tick of the kernel (1 to 10 ms) */
};

/* What user space keeps beside the tables, for itself: the programs read none of it, so that the kernel alone tells what was
 * declared and nothing else has to be believed.
 */
enum match_kind {
	MATCH_CONDITIONAL = 1,
	MATCH_SOURCE,
	MATCH_DESTINATION,
	MATCH_DEFAULT,
};

struct match {
	__u8 kind;        /* enum match_kind */
	__u8 family;      /* enum address_family */
	__u8 prefixlen;   /* of the source, or the destination of MATCH_DESTINATION */
	__u8 protocol;    /* MATCH_CONDITIONAL, else 0 */
	__u16 first_port; /* MATCH_CONDITIONAL: destination ports, 0 and 0: any */
	__u16 last_port;
	__u8 address[16]; /* network byte order; IPv4: the first 4 bytes */
};

/* Of every conditional entry, whose ports and classes may be shared, and of others that have a comment. */
struct note {
	struct choice choice; /* MATCH_CONDITIONAL: the entry's own, also where another entry goes before it */
	__s32 priority;
	__u32 pad;
	char comment[112]; /* UTF-8, filled up with zeros */
};

struct pool_name {
	char name[32]; /* filled up with zeros */
};

struct pool_member {
	__u32 pool;    /* index in `pools` */
	__u32 nexthop; /* index in `nexthops` */
};

struct settings {
	char netns[256]; /* name of the namespace in which interfaces are looked up, empty: the host's own */
};

enum chain_member {
	CHAIN_NONE,
	CHAIN_CONDITIONAL,
	CHAIN_SOURCE,
	CHAIN_DESTINATION,
	CHAIN_DEFAULT,
};

/* Where a packet's choice was found. */
enum table {
	TABLE_NONE,
	TABLE_PORT,     /* conditions: protocol and port */
	TABLE_PROTOCOL, /* conditions: protocol */
	TABLE_SOURCE_EXACT,
	TABLE_SOURCE,
	TABLE_DESTINATION_EXACT,
	TABLE_DESTINATION,
	TABLE_DEFAULT,
};

enum decision_flags {
	DECISION_SKIPPED = 1 << 0,    /* a better next hop was passed over */
	DECISION_PROBE = 1 << 1,      /* the next hop is taken for dead; this packet is to find out */
	DECISION_TOO_BIG = 1 << 2,    /* `explain` alone: longer than the device's MTU, which decides nothing here */
	DECISION_RANDOM = 1 << 3,     /* another time it may be another member */
	DECISION_UNRESOLVED = 1 << 4, /* on-link, its neighbour unknown: resolving is left to the kernel's route */
};

/* What the router does with a packet, and why: the answer of `explain`. New fields go to the end. */
struct decision {
	__s32 verdict; /* enum verdict */
	__u32 outcome; /* enum counter_index */
	__u32 cause;   /* enum counter_index: of POLICY_FALLBACK and POLICY_STRICT_DROP, else 0 */
	enum table table;
	__u32 action; /* index in `actions` */
	enum action_kind kind;
	__u32 counter; /* index in `entry_counters` */
	__u32 nexthop; /* index in `nexthops`, where there is one: the one taken */
	__u32 ifindex;
	__u32 family;     /* enum address_family; none: on-link, the address is the packet's destination */
	__u8 address[16]; /* IPv4: the first 4 bytes */
	__u32 flags;      /* enum decision_flags */
};

/* By words: the compiler takes bytes for unaligned, which addresses never are, neither here nor in the helpers' structs. */
static __always_inline void copy_address(void *to, const void *from)
{
	__be32 *target = to;
	const __be32 *source = from;

	target[0] = source[0];
	target[1] = source[1];
	target[2] = source[2];
	target[3] = source[3];
}

#endif /* CNF_POLICY_H */
