/* SPDX-License-Identifier: GPL-3.0-or-later */
/* batch <pin> <count>: the floor of writing a map. Puts `count` keys of 4 bytes with values of 8 into a pinned map by one
 * BPF_MAP_UPDATE_BATCH, and prints the seconds that the call took.
 */
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned int count = argc > 2 ? atoi(argv[2]) : 0, i;
	unsigned int *keys = calloc(count, 4);
	unsigned long long *values = calloc(count, 8);
	union bpf_attr attr;
	double started;
	int map;

	memset(&attr, 0, sizeof(attr));
	attr.pathname = (unsigned long)argv[1];
	map = syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof(attr));
	for (i = 0; i < count; i++) {
		keys[i] = (i + 1) * 2654435761u;
		values[i] = 1;
	}
	memset(&attr, 0, sizeof(attr));
	attr.batch.keys = (unsigned long)keys;
	attr.batch.values = (unsigned long)values;
	attr.batch.count = count;
	attr.batch.map_fd = map;
	started = now();
	if (map < 0 || syscall(SYS_bpf, BPF_MAP_UPDATE_BATCH, &attr, sizeof(attr))) {
		perror("batch");
		return 1;
	}
	printf("%.9f\n", now() - started);
	return 0;
}
