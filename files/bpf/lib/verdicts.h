/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* Verdicts that mean the same at every hook.
 *
 * tcx goes on to the next program on a number that it does not know, netkit drops; so a program for both
 * returns these four and nothing else. They equal TCX_*, NETKIT_* and, on clsact, TC_ACT_*.
 */
#ifndef CNF_VERDICTS_H
#define CNF_VERDICTS_H

#include "compat.h"

enum verdict {
	TC_NEXT = -1, /* leave it to the next program, in the end to the kernel */
	TC_PASS = 0,  /* accept: skip the programs and legacy tc filters behind this one */
	TC_DROP = 2,
	TC_REDIRECT = 7, /* only as the return value of a redirect helper */
};

/* A verdict from a map or a constant, where a mistake drops rather than lets through. */
static __always_inline int tc_verdict(int verdict)
{
	return verdict == TC_NEXT || verdict == TC_PASS ? verdict : TC_DROP;
}

/* XDP has no list of programs to go on with: NEXT and PASS both give the packet to the stack. */
static __always_inline int xdp_verdict(int verdict) { return tc_verdict(verdict) == TC_DROP ? XDP_DROP : XDP_PASS; }

#endif /* CNF_VERDICTS_H */
