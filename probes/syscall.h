/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What handlers of a finished system call share. syscall.c calls them by tail call.
 *
 * Why at the exit  The call has committed and its result is known; memory that the kernel has
 *                  read is resident by then, while at entry a fresh page reads as empty.
 */
BPF_PROG_ARRAY(native, 512);        /* syscall.c's table; beyond the last number lie our own tail calls */
#define TAIL_PATH 500
#define TAIL_OPEN 501
#define TAIL_MOUNT 502
#define TAIL_DATAGRAM 503
#define TAIL_DNS 504
#define TAIL_BPF_LOAD 505
#define TAIL_BPF_ACCESS 506

/* BCC rewrites map calls in functions only, not in macros. */
static __always_inline void tail(struct bpf_raw_tracepoint_args *ctx, int slot)
{
	native.call(ctx, slot);
}

/*
 * What a handler leaves for the program that it calls lies in one place of each processor, and whoever preempts it would
 * write there, too. So it is taken like a record, see claim(), and let go where the call failed or its program has read.
 */
static __always_inline int occupy(u64 *busy, u32 type)
{
	struct counter *counter;

	__sync_fetch_and_add(busy, 1);
	if (*(volatile u64 *)busy == 1)
		return 1;
	__sync_fetch_and_add(busy, -1);
	counter = counter_of(type);
	if (counter)
		__sync_fetch_and_add(&counter->nested, 1);
	return 0;
}

static __always_inline void vacate(u64 *busy)
{
	__sync_fetch_and_add(busy, -1);
}

struct call {               /* struct pt_regs from bp to orig_ax, x86_64 */
	u64 bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax;
};
_Static_assert(__builtin_offsetof(struct pt_regs, orig_ax) - __builtin_offsetof(struct pt_regs, bp) == 88, "pt_regs");

struct arguments {
	u64 a, b, c, d, e;
	s64 result;
	u32 flags;          /* FLAG_COMPAT or 0 */
};

#define TS_COMPAT 2

static __always_inline u32 is_compat(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 status = 0;

	READ(status, &task->thread_info.status);
	return status & TS_COMPAT;
}

static __always_inline void read_arguments(struct arguments *to, struct bpf_raw_tracepoint_args *ctx)
{
	struct call call = {};

	READ(call, &((struct pt_regs *)ctx->args[0])->bp);
	to->result = ctx->args[1];
	if (is_compat()) {
		to->flags = FLAG_COMPAT;
		to->a = (u32)call.bx;
		to->b = (u32)call.cx;
		to->c = (u32)call.dx;
		to->d = (u32)call.si;
		to->e = (u32)call.di;
	} else {
		to->flags = 0;
		to->a = call.di;
		to->b = call.si;
		to->c = call.dx;
		to->d = call.r10;
		to->e = call.r8;
	}
}

#define AT_FDCWD (-100)

/* The directory that a path argument is relative to: root, working directory or descriptor. */
static __always_inline void find_base(struct file_place *place, s32 dirfd, const void *argument)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fs_struct *fs = NULL;
	struct file *file;
	char first = 0;

	bpf_probe_read_user(&first, 1, argument);
	READ(fs, &task->fs);
	if (first == '/') {
		READ(*place, &fs->root);
	} else if (dirfd == AT_FDCWD) {
		READ(*place, &fs->pwd);
	} else {
		file = file_of(dirfd);
		if (file)
			READ(*place, &file->f_path);
	}
}

static __always_inline u32 put_base(struct scratch *s, s32 dirfd, const void *argument)
{
	struct file_place place = {};

	find_base(&place, dirfd, argument);
	return put_path(s, place.dentry, place.mnt);
}
