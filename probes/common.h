/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What every probe family shares: the record under construction, its texts, the counters.
 *
 * Each family is compiled alone, this text in front. RING_OFFSET_MASK and RING_SLACK, set by
 * the family, bound the scratch record: texts begin at or below the mask and are at most
 * RING_SLACK long, so every write is inside by arithmetic that the verifier can follow.
 *
 * The maps `ring` and `counters` are placeholders: the loader puts the maps that all families
 * share behind their descriptors before it loads a program.
 *
 * Invariant  Records are written from process context only. What begins while SCRATCHES records are under
 *            construction on its processor is refused and counted.
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

#define PF_IO_WORKER 0x10
#define PF_KTHREAD 0x200000

/* Since 5.12 a worker of io_uring is a thread of its owner. */
static __always_inline u32 is_io_worker(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 flags = 0;

	READ(flags, &task->flags);
	return flags & PF_IO_WORKER;
}

#ifndef HAVE_URING_COMPLETE
/* Before 5.12 it is a kernel thread that has borrowed its owner's memory. NULL for anybody else. */
static __always_inline struct task_struct *borrower_of(struct task_struct *task)
{
	struct task_struct *owner = NULL;
#ifdef HAVE_mm_struct__owner
	struct mm_struct *mm = NULL;
	u32 flags = 0;

	READ(flags, &task->flags);
	READ(mm, &task->mm);
	if (flags & PF_KTHREAD && mm)
		READ(owner, &mm->owner);
#endif
	return owner;
}

#define IO_URING_ENTER 426
#define THREAD_SIZE 16384   /* x86_64 without KASAN */

/* Does io_uring work in this thread: as a worker, or inside io_uring_enter(2)? */
static __always_inline int in_uring(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pt_regs *registers;
	void *stack = NULL;
	u64 number = 0;

	if (is_io_worker() || borrower_of(task))
		return 1;
	READ(stack, &task->stack);
	registers = stack + THREAD_SIZE - sizeof(struct pt_regs);
	READ(number, &registers->orig_ax);
	return number == IO_URING_ENTER;
}
#endif

static __always_inline u64 start_of(struct task_struct *task)
{
	struct task_struct *leader = NULL;
	u64 start = 0;

	READ(leader, &task->group_leader);
	READ(start, &leader->start_boottime);
	return start;
}

/* Inode number of a namespace; every kind embeds struct ns_common as `ns`. */
#define READ_INUM(destination, type, namespace) READ(destination, &((struct type *)(namespace))->ns.inum)

/*
 * Programs on functions, and since 7.0 those on tracepoints too, may be preempted, and another task may then begin a
 * record on the same processor. Whoever adds first owns: added, then read, since old kernels have no fetching add.
 */
static __always_inline struct scratch *claim(u32 type)
{
	struct counter *counter;

#pragma unroll
	for (u32 slot = 0; slot < SCRATCHES; slot++) {
		u32 key = slot;
		struct scratch *s = scratch.lookup(&key);

		if (!s)
			return NULL;
		__sync_fetch_and_add(&s->busy, 1);
		if (*(volatile u64 *)&s->busy == 1)
			return s;
		__sync_fetch_and_add(&s->busy, -1);
	}
	counter = counter_of(type);
	if (counter)
		__sync_fetch_and_add(&counter->nested, 1);
	return NULL;
}

/* Begin a record that is within its budget: `size` fixed bytes, all zero, header filled for the current task. */
static __always_inline struct scratch *begin_granted(u32 type, u32 size, u64 cgroup, u64 time_ns)
{
	u64 id = bpf_get_current_pid_tgid();
	struct scratch *s = claim(type);
	struct task_struct *task = (void *)bpf_get_current_task();
	struct sensor_header *header;
	const struct cred *cred = NULL;
	struct nsproxy *nsproxy = NULL;
	void *mnt_ns = NULL;
	u32 ids[2] = {}, inum = 0;

	if (!s)
		return NULL;
	s->length = size;
	s->flags = 0;
	s->type = type;
	header = (void *)s->data;
#ifndef HAVE_URING_COMPLETE
	struct task_struct *owner = borrower_of(task);

	if (owner) {
		u32 pid = 0, tgid = 0;

		task = owner;
		READ(pid, &task->pid);
		READ(tgid, &task->tgid);
		id = (u64)tgid << 32 | pid;
	}
#endif
	header->abi = SENSOR_ABI;
	header->type = type;
	header->cpu = bpf_get_smp_processor_id();
	header->time_ns = time_ns;
	header->start_ns = start_of(task);
	header->pid = id >> 32;
	header->tid = id;
	/* Not the owner's: what a worker has borrowed it to act with is the truth. */
	READ(cred, &((struct task_struct *)bpf_get_current_task())->cred);
	bpf_probe_read_kernel(ids, sizeof(ids), (void *)&cred->euid);
	header->uid = ids[0];
	header->gid = ids[1];
	header->cgroup_id = cgroup;
	READ(nsproxy, &task->nsproxy);
	READ(mnt_ns, &nsproxy->mnt_ns);
	READ_INUM(inum, mnt_namespace, mnt_ns);
	header->mntns = inum;
	return s;
}

static __always_inline struct scratch *begin(u32 type, u32 size)
{
	u64 cgroup = bpf_get_current_cgroup_id(), time_ns = bpf_ktime_get_boot_ns();

	return over_budget(cgroup, time_ns, type) ? NULL : begin_granted(type, size, cgroup, time_ns);
}

#define BEGIN(s, record, event, TYPE)                                      \
	struct scratch *s = begin(TYPE, sizeof(struct event));             \
	struct event *record;                                              \
	if (!s)                                                            \
		return 0;                                                  \
	record = (void *)s->data;                                          \
	__builtin_memset(s->data + sizeof(struct sensor_header), 0,        \
			 sizeof(struct event) - sizeof(struct sensor_header))

static __always_inline void discard(struct scratch *s)
{
	__sync_fetch_and_add(&s->busy, -1);
}

/* Number the record, then ask the ring for space: a refusal leaves a gap that can be proved. */
static __always_inline void commit(struct scratch *s)
{
	struct sensor_header *header = (void *)s->data;
	struct counter *counter = counter_of(s->type & (TYPES - 1)), *sequence = counter_of(0);
	u64 length = s->length;     /* 64 bits: no shifts between the check and the use */

	header->flags = s->flags;
	if (sequence)
		header->seq = RING_INDEX ? sequence->lost++ : sequence->emitted++;
	if (counter)
		__sync_fetch_and_add(&counter->emitted, 1);
	asm volatile("" : "+r"(length));
	if (length > RECORD_MAX)
		length = RECORD_MAX;
	/* BCC wants a plain pointer here: an array makes its compiler abort. */
	/* The reader comes every few milliseconds by itself; a wake-up per record costs more than the record. */
	if (ring.ringbuf_output(header, length, BPF_RB_NO_WAKEUP) && counter)
		__sync_fetch_and_add(&counter->lost, 1);
	__sync_fetch_and_add(&s->busy, -1);
}

#define TEXT_WORD(offset, length) ((offset) | (length) << 16)

/* Where the next text goes; `ok` tells whether there is room. */
static __always_inline u32 text_offset(struct scratch *s, int *ok)
{
	u32 offset = s->length;

	*ok = offset <= RING_OFFSET_MASK;
	if (!*ok)
		s->flags |= FLAG_TRUNCATED;
	asm volatile("" : "+r"(offset));
	offset &= RING_OFFSET_MASK;
	asm volatile("" : "+r"(offset));
	return offset;
}

#define PUT_STRING(name, helper)                                                           \
static __always_inline u32 name(struct scratch *s, const void *source, u32 cap)            \
{                                                                                          \
	int ok;                                                                            \
	u32 offset = text_offset(s, &ok);                                                  \
	long length;                                                                       \
                                                                                           \
	if (!ok || !source)                                                                \
		return 0;                                                                  \
	length = helper(s->data + offset, cap, source);                                    \
	if (length < 0) {                                                                  \
		s->flags |= FLAG_UNREADABLE;                                               \
		return 0;                                                                  \
	}                                                                                  \
	if (length == cap)                                                                 \
		s->flags |= FLAG_TRUNCATED;                                                \
	s->length = offset + length;                                                       \
	return TEXT_WORD(offset, (u32)length);                                             \
}
PUT_STRING(put_kernel, bpf_probe_read_kernel_str)
PUT_STRING(put_user, bpf_probe_read_user_str)

/* Copy `length` bytes of user memory, at most cap - 1, where cap is a power of two <= RING_SLACK. */
static __always_inline u32 put_user_bytes(struct scratch *s, const void *source, u64 length, u32 cap)
{
	int ok;
	u32 offset = text_offset(s, &ok);

	if (length > cap - 1) {
		length = cap - 1;
		s->flags |= FLAG_TRUNCATED;
	}
	asm volatile("" : "+r"(length));
	length &= cap - 1;
	asm volatile("" : "+r"(length));
	if (!ok || !length)
		return 0;
	if (bpf_probe_read_user(s->data + offset, length, source)) {
		s->flags |= FLAG_UNREADABLE;
		return 0;
	}
	s->length = offset + length;
	return TEXT_WORD(offset, (u32)length);
}

#ifdef HAVE_URING_COMPLETE
/* A finished io_uring request. Its worker threads share the owner's thread group and descriptors. */
struct completion {
	u8 opcode;
	s32 result;
};

static __always_inline void read_completion(struct completion *to, struct bpf_raw_tracepoint_args *ctx)
{
	READ(to->opcode, &((struct io_kiocb *)ctx->args[1])->opcode);
#ifdef URING_COMPLETION_IS_CQE
	READ(to->result, &((struct io_uring_cqe *)ctx->args[2])->res);
#else
	to->result = ctx->args[3];
#endif
}
#endif
