/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The record under construction: its header, its texts, its way into the ring.
 *
 * RING_OFFSET_MASK and RING_SLACK, set by the family, bound the scratch record: texts begin at or below the mask and are
 * at most RING_SLACK long, so every write is inside by arithmetic that the verifier can follow.
 *
 * Invariant  Records are written from process context only. What begins while SCRATCHES records are under
 *            construction on its processor is refused and counted.
 */
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
