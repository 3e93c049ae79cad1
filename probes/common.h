/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What every probe family shares: how it reads, its maps, budgets, and who is the sensor itself.
 *
 * Each family is compiled alone, this text in front, then uring.h and record.h. The maps `ring`
 * and `counters` are placeholders: the loader puts the maps that all families share behind their
 * descriptors before it loads a program.
 */
#include "vmlinux_min.h"
#include "events.h"

/*
 * Under their own names BCC replaces these by plain probe_read, which guesses the address space, wherever it can't look
 * them up in /proc/kallsyms; a service is not shown that file. Every kernel from 5.5 has them.
 */
static int (*read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static int (*read_user)(void *to, u32 size, const void *from) = (void *)112;
static int (*read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static int (*read_user_str)(void *to, u32 size, const void *from) = (void *)114;
#define bpf_probe_read_kernel read_kernel
#define bpf_probe_read_user read_user
#define bpf_probe_read_kernel_str read_kernel_str
#define bpf_probe_read_user_str read_user_str

#define RECORD_MAX (RING_OFFSET_MASK + 1 + RING_SLACK)
#define TYPES 64            /* rows per processor in `counters`; row 0 holds the sequence numbers */
#define CANARY_ROW (TYPES - 1)

#define READ(destination, source) bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)(source))

/*
 * For a pointer that may be none, since what lies behind private_data is another thing in each kind of file: nothing of
 * the kernel's data lies so high, but the vsyscall page does, on which kernels before 6.8 fault instead of refusing.
 */
#define DATA_END 0xffffffffff000000ULL
#define FOLLOW(pointer, source)                                                            \
	do {                                                                               \
		READ(pointer, source);                                                     \
		if ((u64)(pointer) >= DATA_END)                                            \
			(pointer) = 0;                                                     \
	} while (0)

struct counter {            /* the last row: canaries seen */
	u64 emitted;        /* row 0: next sequence number of ring 0; last row: of forks */
	u64 lost;           /* row 0: of ring 1; last row: of exits */
	u64 filtered;       /* last row: of system calls */
	u64 nested;         /* last row: of decisions */
	u64 throttled;
};

/*
 * What one control group has asked for from one family; see over_budget(). Of a flood the processors only read the first
 * line of the cache, and each writes one of its own or of few: else they would wait for each other at every event.
 */
#define BUDGET_SHARDS 8
struct budget {
	u64 owner;          /* control group */
	u64 window;
	u64 count;          /* records of the owner in this window */
	u64 throttled_of;   /* control group that was refused last */
	u32 family;
	u32 throttled_family;
	u64 pad[3];
	struct {
		u64 records;
		u64 pad[7];
	} throttled[BUDGET_SHARDS];     /* records refused, ever */
};
_Static_assert(sizeof(struct budget) == 64 * (1 + BUDGET_SHARDS), "budget");

struct scratch {
	u64 busy;           /* 1: a record is under construction */
	u32 length;
	u32 flags;
	u32 type;
	u32 pad;
	u8 data[RECORD_MAX];
};

BPF_RINGBUF_OUTPUT(ring, 1);
BPF_ARRAY(counters, struct counter, NR_CPUS * TYPES);
BPF_ARRAY(settings, u64, 8);
#define OWN_SUPERVISOR 0    /* thread groups of the sensor itself */
#define OWN_ENGINE 1
#define OWN_LOADER 2       /* gone after a load: then a number that no thread group has */
#define OWN_CANARY 3
#define SETTING_SHED 6      /* families that are switched off, a bit each: 1 << FAMILY_INDEX */
#define SETTING_BUDGET 7    /* records of one control group and family in a window; 0: no limit */
#define BUDGETS 1024
#if RING_INDEX
BPF_ARRAY(budgets, struct budget, BUDGETS);
#endif
BPF_PERCPU_ARRAY(scratch, struct scratch, SCRATCHES);

static __always_inline struct counter *counter_of(u32 type)
{
	u32 index = bpf_get_smp_processor_id() * TYPES + type;

	return counters.lookup(&index);
}

static __always_inline void count_filtered(u32 type)
{
	struct counter *counter = counter_of(type);

	if (counter)
		counter->filtered++;
}

/* Has the breaker switched this family off? What a tail call reaches is taken out of its table instead. */
static __always_inline int is_shed(void)
{
	u32 slot = SETTING_SHED;
	u64 *families = settings.lookup(&slot);

	return families && *families & (1ULL << FAMILY_INDEX);
}

#if RING_INDEX
#define WINDOW_SHIFT 30     /* a window is 2^30 ns */
#define BUDGET_WAYS 2

/*
 * Whoever is first in a window owns the bucket until it is over, so that no collision lasts; where both buckets of a
 * control group belong to others it is not limited in this window. Families count apart: a flood of files hides
 * nothing else. The counts are of all processors; two of them that begin a window at once may lose a few.
 */
static __always_inline int over_budget(u64 cgroup, u64 time_ns, u32 type)
{
	u32 slot = SETTING_BUDGET;
	u64 *limit = settings.lookup(&slot), window = time_ns >> WINDOW_SHIFT;
	u64 hash = (cgroup * 8 + FAMILY_INDEX) * 0x9e3779b97f4a7c15ULL;
	struct counter *counter;
	u32 shard;

	if (!limit || !*limit)
		return 0;
#pragma unroll
	for (int way = 0; way < BUDGET_WAYS; way++) {
		u32 place = hash >> (32 + 10 * way) & (BUDGETS - 1);
		struct budget *budget = budgets.lookup(&place);

		if (!budget)
			return 0;
		if (budget->window != window) {
			budget->owner = cgroup;
			budget->family = FAMILY_INDEX;
			budget->count = 0;
			budget->window = window;
		}
		if (budget->owner != cgroup || budget->family != FAMILY_INDEX)
			continue;
		if (*(volatile u64 *)&budget->count >= *limit) {
			if (budget->throttled_of != cgroup || budget->throttled_family != FAMILY_INDEX) {
				budget->throttled_of = cgroup;
				budget->throttled_family = FAMILY_INDEX;
			}
			shard = bpf_get_smp_processor_id() & (BUDGET_SHARDS - 1);
			__sync_fetch_and_add(&budget->throttled[shard].records, 1);
			counter = counter_of(type);
			if (counter)
				__sync_fetch_and_add(&counter->throttled, 1);
			return 1;
		}
		__sync_fetch_and_add(&budget->count, 1);
		return 0;
	}
	return 0;
}
#else
static __always_inline int over_budget(u64 cgroup, u64 time_ns, u32 type)
{
	return 0;           /* process events are never throttled */
}
#endif

static __always_inline int is_own(u32 tgid, u32 slot)
{
	u64 *own = settings.lookup(&slot);

	return own && *own == tgid;
}

/*
 * Where to count what the canary does, NULL for anybody else. On each processor in turn it does what a program must
 * see: after an oops the kernel may take a program for running on that processor, and skip it there for ever.
 */
static __always_inline struct counter *canary(void)
{
	return is_own(bpf_get_current_pid_tgid() >> 32, OWN_CANARY) ? counter_of(CANARY_ROW) : NULL;
}

/*
 * What the sensor itself does is left out: reporting it would feed itself. That is the supervisor,
 * the engine, the loader, and children of supervisor and loader, which may be gone before anybody
 * could ask who they were. Process events are never left out.
 */
static __always_inline int is_self(void)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *parent = NULL;
	u32 tgid = bpf_get_current_pid_tgid() >> 32, above = 0;

	if (is_own(tgid, OWN_SUPERVISOR) || is_own(tgid, OWN_ENGINE) || is_own(tgid, OWN_LOADER))
		return 1;
	READ(parent, &task->real_parent);
	READ(above, &parent->tgid);
	return is_own(above, OWN_SUPERVISOR) || is_own(above, OWN_LOADER);
}
