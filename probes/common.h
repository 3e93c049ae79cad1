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
 * Invariant  Records are written from process context only, with preemption off, as raw
 *            tracepoints run. A second record begun on the same processor is refused and counted.
 */
#include "vmlinux_min.h"
#include "events.h"

#define MAX_DEPTH 64        /* components and mounts of a path walk; deeper is cut and marked */
#define COMPONENT_MAX 256   /* NAME_MAX and its NUL */
#define RECORD_MAX (RING_OFFSET_MASK + 1 + RING_SLACK)
#define TYPES 64            /* rows per processor in `counters`; row 0 holds the sequence numbers */

/*
 * Programs on a function of the kernel: a kprobe gets its registers, fentry and LSM its arguments.
 * `body` takes four u64, of which the first `arguments` are meant. BCC finds fentry and LSM programs
 * by the names that its own macros give them. WITH_ names the kinds that this load may need.
 */
#ifdef WITH_KPROBE
#define ON_ENTRY(function, body)                                                                   \
int kprobe_##function(struct pt_regs *ctx)                                                         \
{                                                                                                  \
	u64 a = 0, b = 0, c = 0, d = 0;                                                            \
	READ(a, &ctx->di); READ(b, &ctx->si); READ(c, &ctx->dx); READ(d, &ctx->cx);                \
	body(a, b, c, d);                                                                          \
	return 0;                                                                                  \
}
#else
#define ON_ENTRY(function, body)
#endif
#ifdef WITH_FENTRY
#define ON_FENTRY(function, body, arguments) \
	KFUNC_PROBE(function, TAKE_##arguments) { body(GIVE_##arguments); return 0; }
#else
#define ON_FENTRY(function, body, arguments)
#endif
#ifdef WITH_LSM
#define ON_LSM(name, arguments) LSM_PROBE(name, TAKE_##arguments) { decided_##name(GIVE_##arguments); return 0; }
#else
#define ON_LSM(name, arguments)
#endif
#define ON_FUNCTION(function, body, arguments)  ON_ENTRY(function, body) ON_FENTRY(function, body, arguments)
#define ON_DECISION(name, arguments) \
	ON_FUNCTION(security_##name, decided_##name, arguments) ON_LSM(name, arguments)
#define TAKE_1 void *a
#define TAKE_2 TAKE_1, void *b
#define TAKE_3 TAKE_2, void *c
#define TAKE_4 TAKE_3, void *d
#define GIVE_1 (u64)a, 0, 0, 0
#define GIVE_2 (u64)a, (u64)b, 0, 0
#define GIVE_3 (u64)a, (u64)b, (u64)c, 0
#define GIVE_4 (u64)a, (u64)b, (u64)c, (u64)d

#define READ(destination, source) bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)(source))

struct counter {
	u64 emitted;        /* row 0: next sequence number of ring 0 */
	u64 lost;           /* row 0: of ring 1 */
	u64 filtered;
	u64 nested;
};

struct scratch {
	u32 busy;
	u32 length;
	u32 flags;
	u32 type;
	u8 data[RECORD_MAX];
};

struct dentry_head {        /* d_parent and d_name lie side by side in every kernel so far */
	struct dentry *parent;
	struct qstr name;
};
_Static_assert(__builtin_offsetof(struct dentry, d_name) == __builtin_offsetof(struct dentry, d_parent) + 8,
	       "dentry_head");

BPF_RINGBUF_OUTPUT(ring, 1);
BPF_ARRAY(counters, struct counter, NR_CPUS * TYPES);
BPF_ARRAY(settings, u64, 8);                /* thread groups of the sensor itself */
#define OWN_SUPERVISOR 0
#define OWN_ENGINE 1
#define OWN_LOADER 2
BPF_PERCPU_ARRAY(scratch, struct scratch, 1);

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

static __always_inline int is_own(u32 tgid, u32 slot)
{
	u64 *own = settings.lookup(&slot);

	return own && *own == tgid;
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

/* Begin a record of `size` fixed bytes, all zero, header filled for the current task. */
static __always_inline struct scratch *begin(u32 type, u32 size)
{
	u32 zero = 0;
	u64 id = bpf_get_current_pid_tgid();
	struct scratch *s = scratch.lookup(&zero);
	struct task_struct *task = (void *)bpf_get_current_task();
	struct sensor_header *header;
	const struct cred *cred = NULL;
	struct nsproxy *nsproxy = NULL;
	void *mnt_ns = NULL;
	u32 ids[2] = {}, inum = 0;

	if (!s)
		return NULL;
	if (s->busy) {
		struct counter *counter = counter_of(type);

		if (counter)
			counter->nested++;
		return NULL;
	}
	s->busy = 1;
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
	header->time_ns = bpf_ktime_get_boot_ns();
	header->start_ns = start_of(task);
	header->pid = id >> 32;
	header->tid = id;
	/* Not the owner's: what a worker has borrowed it to act with is the truth. */
	READ(cred, &((struct task_struct *)bpf_get_current_task())->cred);
	bpf_probe_read_kernel(ids, sizeof(ids), (void *)&cred->euid);
	header->uid = ids[0];
	header->gid = ids[1];
	header->cgroup_id = bpf_get_current_cgroup_id();
	READ(nsproxy, &task->nsproxy);
	READ(mnt_ns, &nsproxy->mnt_ns);
	READ_INUM(inum, mnt_namespace, mnt_ns);
	header->mntns = inum;
	return s;
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
	s->busy = 0;
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
		counter->emitted++;
	asm volatile("" : "+r"(length));
	if (length > RECORD_MAX)
		length = RECORD_MAX;
	/* BCC wants a plain pointer here: an array makes its compiler abort. */
	/* The reader comes every few milliseconds by itself; a wake-up per record costs more than the record. */
	if (ring.ringbuf_output(header, length, BPF_RB_NO_WAKEUP) && counter)
		counter->lost++;
	s->busy = 0;
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

/* Walk from a dentry to the root of its mount namespace, names leaf first. */
static __always_inline u32 put_path(struct scratch *s, struct dentry *dentry, struct vfsmount *vfsmount)
{
	struct mount *mount = (void *)vfsmount - __builtin_offsetof(struct mount, mnt), *parent = NULL;
	struct dentry *root = NULL;
	u32 start = s->length, end = 0;

	if (!dentry || !vfsmount)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_DEPTH; i++) {
		struct dentry_head head = {};
		u32 offset;
		long length;
		int ok;

		READ(root, &vfsmount->mnt_root);
		READ(head, &dentry->d_parent);
		if (dentry == root) {
			READ(parent, &mount->mnt_parent);
			if (parent == mount || !parent) {
				end = 1;
				break;
			}
			READ(dentry, &mount->mnt_mountpoint);
			mount = parent;
			vfsmount = &mount->mnt;
			continue;
		}
		offset = text_offset(s, &ok);
		if (!ok || offset - start > CAP_FILE_OPEN_PATH - COMPONENT_MAX)
			break;
		length = bpf_probe_read_kernel_str(s->data + offset, COMPONENT_MAX, head.name.name);
		if (length < 0)
			break;
		s->length = offset + length;
		if (dentry == head.parent)      /* no name above it: a memfd, or cut off from the tree */
			break;
		dentry = head.parent;
	}
	if (!end)
		s->flags |= FLAG_PATH_CUT;
	return TEXT_WORD(start, s->length - start);
}

static __always_inline struct file *file_of(u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct fdtable *table = NULL;
	struct file **slots = NULL, *file = NULL;
	u32 max = 0;

	READ(files, &task->files);
	READ(table, &files->fdt);
	READ(max, &table->max_fds);
	if (!table || fd >= max)
		return NULL;
	READ(slots, &table->fd);
	READ(file, slots + fd);
	return file;
}

struct file_place {         /* struct path: mount, then dentry */
	struct vfsmount *mnt;
	struct dentry *dentry;
};

static __always_inline u32 put_file_path(struct scratch *s, struct file *file)
{
	struct file_place place = {};

	READ(place, &file->f_path);
	return put_path(s, place.dentry, place.mnt);
}

/* A file system object's identity, in one read of the inode where the kernel allows. */
struct file_facts {
	u64 inode;
	u32 dev;
	u32 mode;
	u32 uid;
	u32 gid;
	u32 links;
	u32 magic;
};

static __always_inline void read_facts(struct file_facts *facts, struct inode *inode)
{
	struct super_block *sb = NULL;
	u16 mode = 0;
	u64 magic = 0;

	READ(mode, &inode->i_mode);
	facts->mode = mode;
	READ(facts->uid, &inode->i_uid);
	READ(facts->gid, &inode->i_gid);
	READ(facts->inode, &inode->i_ino);
	READ(facts->links, &inode->i_nlink);
	READ(sb, &inode->i_sb);
	READ(facts->dev, &sb->s_dev);
	READ(magic, &sb->s_magic);
	facts->magic = magic;
}

#define TMPFS_MAGIC 0x01021994
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#define MEMFD_PREFIX 0x3a64666d656dULL      /* "memfd:", little endian */

/* Marks that only the kernel's objects can tell. */
static __always_inline u32 file_marks(struct file *file, struct inode *inode, struct file_facts *facts)
{
	struct file_place place = {};
	struct dentry_head head = {};
	u64 text = 0;
	void *hashed = NULL, *upper = NULL;
	u32 marks = 0;

	READ(place, &file->f_path);
	READ(head, &place.dentry->d_parent);
	bpf_probe_read_kernel(&hashed, sizeof(hashed), (void *)&place.dentry->d_hash + 8);
	if (facts->magic == TMPFS_MAGIC && place.dentry == head.parent) {
		bpf_probe_read_kernel(&text, sizeof(text), (void *)head.name.name);
		if ((text & 0xffffffffffffULL) == MEMFD_PREFIX)
			marks |= FLAG_MEMFD;
	}
	if (!facts->links || (!hashed && place.dentry != head.parent))
		marks |= FLAG_DELETED;
	if (facts->magic == OVERLAYFS_SUPER_MAGIC) {
		/* struct ovl_inode: vfs_inode is followed by __upperdentry since 4.19 */
		READ(upper, (void *)inode + sizeof(struct inode));
		if (upper)
			marks |= FLAG_UPPER;
	}
	if ((facts->mode & 0170000) == 0040000)
		marks |= FLAG_DIRECTORY;
	return marks;
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
