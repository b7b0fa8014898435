/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* One source for clang + libbpf and for BCC.
 *
 * Only four things differ: section names, map definitions, map look-ups and load-time constants. A program
 * file includes this header first, defines its maps with the macros below, and writes each look-up twice:
 * BCC rewrites `map.lookup(&key)`, but only in the main file and outside of macros; in a header the same
 * text compiles into an indirect call that the verifier refuses ("unknown opcode 8d").
 *
 * Constants:  CONSTANT(type, name, value) inside of #ifndef name. Under clang it is a variable in .rodata,
 *             set by name before loading, so that one object file serves every host and the verifier
 *             prunes what is switched off. Under BCC, which has no .rodata, it is set by -Dname=value.
 * Map sizes:  <MAP>_ENTRIES, overridable by -D; under clang also before loading.
 */
#ifndef CNF_COMPAT_H
#define CNF_COMPAT_H

#ifdef BCC_SEC /* only BCC's built-in helpers.h has it */
#define COMPILER_BCC 1
#endif

#ifndef COMPILER_BCC
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#endif

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#ifdef COMPILER_BCC

#undef SEC
#define SEC(name)
#define LICENSE(text) struct license_is_gpl_compatible

#define CONSTANT(type, name, value) static const type name = (value)

#define MAP_LPM(name, key_type, value_type, entries) \
	BPF_F_TABLE("lpm_trie", key_type, value_type, name, entries, BPF_F_NO_PREALLOC)
#define MAP_HASH(name, key_type, value_type, entries) BPF_TABLE("hash", key_type, value_type, name, entries)
#define MAP_ARRAY(name, value_type, entries) BPF_TABLE("array", __u32, value_type, name, entries)
#define MAP_PERCPU_ARRAY(name, value_type, entries) BPF_TABLE("percpu_array", __u32, value_type, name, entries)
#define MAP_DEVMAP(name, entries) BPF_DEVMAP(name, entries)

/* BCC's are functions, which a case label or an initializer cannot use. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define bpf_htons(value) ((__u16)__builtin_bswap16(value))
#else
#define bpf_htons(value) ((__u16)(value))
#endif
#define bpf_ntohs(value) bpf_htons(value)

#else /* clang + libbpf */

#define LICENSE(text) char _license[] SEC("license") = text

#define CONSTANT(type, name, value) volatile const type name = (value)

#define MAP_LPM(name, key_type, value_type, entries) \
	struct { \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE); \
		__uint(max_entries, entries); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")
#define MAP(map_type, name, key_type, value_type, entries) \
	struct { \
		__uint(type, map_type); \
		__uint(max_entries, entries); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")
#define MAP_HASH(name, key_type, value_type, entries) MAP(BPF_MAP_TYPE_HASH, name, key_type, value_type, entries)
#define MAP_ARRAY(name, value_type, entries) MAP(BPF_MAP_TYPE_ARRAY, name, __u32, value_type, entries)
#define MAP_PERCPU_ARRAY(name, value_type, entries) MAP(BPF_MAP_TYPE_PERCPU_ARRAY, name, __u32, value_type, entries)
#define MAP_DEVMAP(name, entries) MAP(BPF_MAP_TYPE_DEVMAP, name, __u32, __u32, entries)

#endif /* COMPILER_BCC */

#endif /* CNF_COMPAT_H */
