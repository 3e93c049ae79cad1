/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Who carries out a request of io_uring, and how it ended.
 */
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
#else
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
