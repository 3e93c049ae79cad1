/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      process_ptrace, module_load, bpf_load, mount, namespace_change, memfd_create,
 *            credentials_change.
 * Why here   At system call exit the outcome is known; credentials, module files, BPF programs
 *            and memory files are read from the kernel's objects.
 * Hooks      syscall.c, by tail call.
 * Misses     Mount sources and targets are the caller's arguments; fsconfig() and friends before
 *            move_mount() are not seen; ptrace requests that only read. That a target is the sensor's is
 *            not told of process_vm_*() and failed ptrace() by a thread's number or from a pid namespace.
 * Cost       These calls are rare; a record each.
 */
#define BPF_PROG_LOAD_COMMAND 5
#define PTRACE_POKETEXT 4
#define PTRACE_POKEDATA 5
#define PTRACE_POKEUSR 6
#define PTRACE_SETREGS 13
#define PTRACE_ATTACH 16
#define PTRACE_SETREGSET 0x4205
#define PTRACE_SEIZE 0x4206

static __always_inline u32 number_of(struct bpf_raw_tracepoint_args *ctx)
{
	u64 number = 0;

	READ(number, &((struct pt_regs *)ctx->args[0])->orig_ax);
	return number;
}

static __always_inline u32 own_process(u32 tgid)
{
	return tgid && (is_own(tgid, OWN_SUPERVISOR) || is_own(tgid, OWN_ENGINE)) ? FLAG_OWN : 0;
}

/* The same of a process id as the caller's pid namespace numbers it, which says nothing below the initial one. */
static __always_inline u32 own_argument(u32 number)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pid *pid = NULL;
	u32 level = 0;

	READ(pid, &task->thread_pid);
	READ(level, &pid->level);
	return level ? 0 : own_process(number);
}

/* Whom the caller began to trace: the newest is the first of its list. A thread's number tells no thread group. */
static __always_inline u32 own_tracee(void)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *tracee;
	void *first = NULL;
	u32 tgid = 0;

	READ(first, &task->ptraced);
	if (!first || first == (void *)&task->ptraced)
		return 0;
	tracee = first - __builtin_offsetof(struct task_struct, ptrace_entry);
	READ(tgid, &tracee->tgid);
	return own_process(tgid);
}

int on_ptrace(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	u32 own;

	read_arguments(&call, ctx);
	if (call.a != PTRACE_ATTACH && call.a != PTRACE_SEIZE && call.a != PTRACE_POKETEXT &&
	    call.a != PTRACE_POKEDATA && call.a != PTRACE_POKEUSR && call.a != PTRACE_SETREGS &&
	    call.a != PTRACE_SETREGSET)
		return 0;
	own = own_argument(call.b);
	if (!call.result && (call.a == PTRACE_ATTACH || call.a == PTRACE_SEIZE))
		own = own_tracee();
	BEGIN(s, e, event_process_ptrace, EVENT_PROCESS_PTRACE);
	s->flags = call.flags | own;
	e->request = call.a;
	e->target_pid = call.b;
	e->result = call.result;
	commit(s);
	return 0;
}

/* process_vm_readv and process_vm_writev: the number of bytes moved counts as success. */
int on_process_vm(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	u32 own;

	read_arguments(&call, ctx);
	own = own_argument(call.a);
	BEGIN(s, e, event_process_ptrace, EVENT_PROCESS_PTRACE);
	s->flags = call.flags | own;
	e->request = number_of(ctx);
	e->target_pid = call.a;
	e->result = call.result < 0 ? call.result : 0;
	commit(s);
	return 0;
}

#define EBADF_ (-9)         /* that descriptor stands for no process */

/* pidfd_getfd(pidfd, fd, flags): takes a descriptor out of another process, with the right of a debugger. */
int on_pidfd_getfd(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	struct file *file = NULL;
	struct inode *inode = NULL;
	struct pid *pid = NULL;
	u32 number = 0, own;

	read_arguments(&call, ctx);
	if (call.result != EBADF_)
		file = file_of(call.a);
	if (file) {
		FOLLOW(pid, &file->private_data);
		if (!pid) {         /* since 6.9 a file system of its own has it in the inode */
			READ(inode, &file->f_inode);
			FOLLOW(pid, &inode->i_private);
		}
		READ(number, (void *)pid + __builtin_offsetof(struct pid, numbers));
	}
	own = own_process(number);
	BEGIN(s, e, event_process_ptrace, EVENT_PROCESS_PTRACE);
	s->flags = call.flags | own;
	e->request = number_of(ctx);
	e->target_pid = number;
	e->result = call.result < 0 ? call.result : 0;
	commit(s);
	return 0;
}

/* init_module(image, length, parameters), delete_module(name, flags) */
int on_init_module(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	u32 number = number_of(ctx);

	read_arguments(&call, ctx);
	BEGIN(s, e, event_module_load, EVENT_MODULE_LOAD);
	s->flags = call.flags;
	e->operation = number;
	e->result = call.result;
	/* 129 is delete_module in the 32-bit table */
	e->name = put_user(s, (void *)(number == 176 || number == 129 ? call.a : call.c), CAP_MODULE_LOAD_NAME);
	commit(s);
	return 0;
}

/* finit_module(fd, parameters, flags) */
int on_finit_module(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	struct file *file;

	read_arguments(&call, ctx);
	BEGIN(s, e, event_module_load, EVENT_MODULE_LOAD);
	s->flags = call.flags;
	e->operation = number_of(ctx);
	e->result = call.result;
	file = file_of(call.a);
	if (file)
		e->path = put_file_path(s, file);
	e->name = put_user(s, (void *)call.b, CAP_MODULE_LOAD_NAME);
	commit(s);
	return 0;
}

/* BPF_* commands that get hold of an object, change it, run it or let it go; tamper.c tells whose it is. */
#define COMMAND(number) (1ULL << (number))
#define AT_START (COMMAND(2) | COMMAND(3) | COMMAND(10) | COMMAND(21) | COMMAND(22) | COMMAND(28) | COMMAND(29) | \
		  COMMAND(34) | COMMAND(35))
#define AT_4 (COMMAND(8) | COMMAND(9))
#define AT_8 (COMMAND(6) | COMMAND(17))
#define AT_36 (COMMAND(25) | COMMAND(26) | COMMAND(27))
#define BY_ID (COMMAND(13) | COMMAND(14) | COMMAND(30))

int on_bpf(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;

	read_arguments(&call, ctx);
	if (call.a == BPF_PROG_LOAD_COMMAND && !is_self())
		tail(ctx, TAIL_BPF_LOAD);
	if (call.a < 64 && COMMAND(call.a) & (AT_START | AT_4 | AT_8 | AT_36 | BY_ID))
		tail(ctx, TAIL_BPF_ACCESS);
	return 0;
}

int emit_bpf_load(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	struct file *file = NULL;
	struct bpf_prog *program = NULL;
	struct bpf_prog_aux *aux = NULL;
	u32 value = 0;

	read_arguments(&call, ctx);
	if (call.result >= 0)
		file = file_of(call.result);
	BEGIN(s, e, event_bpf_load, EVENT_BPF_LOAD);
	s->flags = call.flags;
	e->result = call.result < 0 ? call.result : 0;
	if (file) {
		FOLLOW(program, &file->private_data);
		READ(value, &program->type);
		e->program_type = value;
		READ(value, &program->len);
		e->instructions = value;
		FOLLOW(aux, &program->aux);
		READ(value, &aux->id);
		e->program_id = value;
		e->name = put_kernel(s, &aux->name, CAP_BPF_LOAD_NAME);
	} else {
		/* union bpf_attr: prog_type, insn_cnt, ..., prog_name at 48 */
		bpf_probe_read_user(&value, 4, (void *)call.b);
		e->program_type = value;
		bpf_probe_read_user(&value, 4, (void *)call.b + 4);
		e->instructions = value;
		e->name = put_user(s, (void *)call.b + 48, CAP_BPF_LOAD_NAME);
		s->flags |= FLAG_ARGUMENT;
	}
	commit(s);
	return 0;
}

struct mounting {
	u64 busy;           /* see occupy() */
	u64 target, source, filesystem, flags;
	s32 dirfd;
};
BPF_PERCPU_ARRAY(mountings, struct mounting, 1);

static __always_inline struct mounting *mounting(void)
{
	u32 zero = 0;

	return mountings.lookup(&zero);
}

#define MOUNT(program, fd, target_, from, type, flag_bits)        \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
	struct mounting *to = mounting();                         \
								  \
	if (!to || !occupy(&to->busy, EVENT_MOUNT))               \
		return 0;                                         \
	read_arguments(&call, ctx);                               \
	to->dirfd = fd;                                           \
	to->target = target_;                                     \
	to->source = from;                                        \
	to->filesystem = type;                                    \
	to->flags = flag_bits;                                    \
	tail(ctx, TAIL_MOUNT);                                    \
	vacate(&to->busy);                                        \
	return 0;                                                 \
}
MOUNT(on_mount, AT_FDCWD, call.b, call.a, call.c, call.d)
MOUNT(on_umount, AT_FDCWD, call.a, 0, 0, call.b)
MOUNT(on_move_mount, call.c, call.d, call.b, 0, call.e)
MOUNT(on_pivot_root, AT_FDCWD, call.a, 0, 0, 0)

/* By tail call, so that there is one of it. */
int emit_mount(struct bpf_raw_tracepoint_args *ctx)
{
	struct mounting *left = mounting(), own, *call = &own;

	if (!left)
		return 0;
	own = *left;
	vacate(&left->busy);
	BEGIN(s, e, event_mount, EVENT_MOUNT);
	s->flags = FLAG_ARGUMENT | (is_compat() ? FLAG_COMPAT : 0);
	e->operation = number_of(ctx);
	e->result = ctx->args[1];
	e->mount_flags = call->flags;
	e->base = put_base(s, call->dirfd, (void *)call->target);
	e->name = put_user(s, (void *)call->target, CAP_MOUNT_NAME);
	e->source = put_user(s, (void *)call->source, CAP_MOUNT_SOURCE);
	e->filesystem = put_user(s, (void *)call->filesystem, CAP_MOUNT_FILESYSTEM);
	commit(s);
	return 0;
}

/* unshare(flags), setns(fd, type) */
int on_namespace(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	u32 number = number_of(ctx);

	read_arguments(&call, ctx);
	BEGIN(s, e, event_namespace_change, EVENT_NAMESPACE_CHANGE);
	s->flags = call.flags;
	e->operation = number;
	e->result = call.result;
	e->namespaces = call.flags & FLAG_COMPAT ? (number == 310 ? call.a : call.b)
						 : (number == 272 ? call.a : call.b);
	commit(s);
	return 0;
}

int on_memfd_create(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	struct file *file;
	struct file_place place = {};
	struct dentry_head head = {};

	if ((s64)ctx->args[1] < 0 || is_self())
		return 0;
	read_arguments(&call, ctx);
	file = file_of(call.result);
	if (!file)
		return 0;
	READ(place, &file->f_path);
	READ(head, &place.dentry->d_parent);
	BEGIN(s, e, event_memfd_create, EVENT_MEMFD_CREATE);
	s->flags = call.flags | FLAG_MEMFD;
	e->memfd_flags = call.b;
	e->result = call.result;
	e->name = put_kernel(s, (char *)head.name.name + 6, CAP_MEMFD_CREATE_NAME);     /* behind "memfd:" */
	commit(s);
	return 0;
}

int on_credentials(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct cred *cred = NULL;
	struct arguments call;

	if (ctx->args[1] || is_self())      /* setfsuid() returns the old id: only 0 -> x is seen */
		return 0;
	read_arguments(&call, ctx);
	BEGIN(s, e, event_credentials_change, EVENT_CREDENTIALS_CHANGE);
	s->flags = call.flags;
	e->operation = number_of(ctx);
	READ(cred, &task->cred);
	READ(e->real_uid, &cred->uid);
	READ(e->saved_uid, &cred->suid);
	READ(e->real_gid, &cred->gid);
	bpf_probe_read_kernel(&e->capabilities, 8, (void *)&cred->cap_effective);
	commit(s);
	return 0;
}
