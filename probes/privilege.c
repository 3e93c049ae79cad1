/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      process_ptrace, module_load, bpf_load, mount, namespace_change, memfd_create,
 *            credentials_change.
 * Why here   At system call exit the outcome is known; credentials, module files, BPF programs
 *            and memory files are read from the kernel's objects.
 * Hooks      syscall.c, by tail call.
 * Misses     Mount sources and targets are the caller's arguments; fsconfig() and friends before
 *            move_mount() are not seen; ptrace requests that only read.
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

int on_ptrace(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;

	read_arguments(&call, ctx);
	if (call.a != PTRACE_ATTACH && call.a != PTRACE_SEIZE && call.a != PTRACE_POKETEXT &&
	    call.a != PTRACE_POKEDATA && call.a != PTRACE_POKEUSR && call.a != PTRACE_SETREGS &&
	    call.a != PTRACE_SETREGSET)
		return 0;
	BEGIN(s, e, event_process_ptrace, EVENT_PROCESS_PTRACE);
	s->flags = call.flags;
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

	read_arguments(&call, ctx);
	BEGIN(s, e, event_process_ptrace, EVENT_PROCESS_PTRACE);
	s->flags = call.flags;
	e->request = number_of(ctx);
	e->target_pid = call.a;
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

int on_bpf(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	struct file *file = NULL;
	struct bpf_prog *program = NULL;
	struct bpf_prog_aux *aux = NULL;
	u32 value = 0;

	read_arguments(&call, ctx);
	if (call.a != BPF_PROG_LOAD_COMMAND || is_self())
		return 0;
	if (call.result >= 0)
		file = file_of(call.result);
	BEGIN(s, e, event_bpf_load, EVENT_BPF_LOAD);
	s->flags = call.flags;
	e->result = call.result < 0 ? call.result : 0;
	if (file) {
		READ(program, &file->private_data);
		READ(value, &program->type);
		e->program_type = value;
		READ(value, &program->len);
		e->instructions = value;
		READ(aux, &program->aux);
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
	u64 target, source, filesystem, flags;
	s32 dirfd;
};
BPF_PERCPU_ARRAY(mountings, struct mounting, 1);

static __always_inline struct mounting *new_mounting(void)
{
	u32 zero = 0;

	return mountings.lookup(&zero);
}

#define MOUNT(program, fd, target_, from, type, flag_bits)        \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
	struct mounting *to = new_mounting();                     \
								  \
	if (!to)                                                  \
		return 0;                                         \
	read_arguments(&call, ctx);                               \
	to->dirfd = fd;                                           \
	to->target = target_;                                     \
	to->source = from;                                        \
	to->filesystem = type;                                    \
	to->flags = flag_bits;                                    \
	tail(ctx, TAIL_MOUNT);                                    \
	return 0;                                                 \
}
MOUNT(on_mount, AT_FDCWD, call.b, call.a, call.c, call.d)
MOUNT(on_umount, AT_FDCWD, call.a, 0, 0, call.b)
MOUNT(on_move_mount, call.c, call.d, call.b, 0, call.e)
MOUNT(on_pivot_root, AT_FDCWD, call.a, 0, 0, 0)

/* By tail call, so that there is one of it. */
int emit_mount(struct bpf_raw_tracepoint_args *ctx)
{
	struct mounting *call = new_mounting();

	if (!call)
		return 0;
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
