/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      Nothing itself: passes finished system calls on to the handlers of the other families, and counts the
 *            canary's.
 * Why here   One program on raw sys_exit, then a tail call by number, costs less than a
 *            tracepoint per call, and it sees calls made through the 32-bit table (int 0x80),
 *            which the per-call tracepoints leave out.
 * Hooks      hook-proto: include/trace/events/syscalls.h: sys_exit(struct pt_regs *regs, long ret)
 * Misses     What never returns from a system call: io_uring requests, exit.
 * Cost       Two reads and one failed tail call on every system call nobody handles; one look-up on the canary's
 *            (getpgrp; vhangup in the 32-bit table).
 */
BPF_PROG_ARRAY(any, 512);           /* number in either table -> route, or on_canary */
BPF_PROG_ARRAY(native, 512);        /* 64-bit number -> handler */
BPF_PROG_ARRAY(compat, 512);        /* 32-bit number -> handler */

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 number = 0;

	READ(number, &((struct pt_regs *)ctx->args[0])->orig_ax);
	if (number < 512)
		any.call(ctx, (int)number);
	return 0;
}

int route(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 status = 0;
	u64 number = 0;

	READ(number, &((struct pt_regs *)ctx->args[0])->orig_ax);
	READ(status, &task->thread_info.status);
	if (number >= 512)
		return 0;
	if (status & 2)     /* TS_COMPAT */
		compat.call(ctx, (int)number);
	else
		native.call(ctx, (int)number);
	return 0;
}

int on_canary(struct bpf_raw_tracepoint_args *ctx)
{
	struct counter *seen = canary();

	if (seen)
		seen->filtered++;
	return 0;
}
