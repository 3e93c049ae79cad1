/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      process_signal, bpf_access: acts of other processes on this sensor's own ones and its BPF objects.
 * Why here   The signal's tracepoint is where every way of sending one meets, whatever names the target (number,
 *            group, pidfd, cgroup), after the permission was checked. At the exit of bpf() the descriptor tells
 *            the object.
 * Hooks      hook-proto: include/trace/events/signal.h: signal_generate(sig, info, task, group, result)
 *            syscall.c, by tail call.
 * Misses     Signals of the kernel itself (terminal, out of memory) and those refused; freezing by a cgroup, which
 *            sends none. Reads of maps and of facts; what is done with an object through a descriptor
 *            without bpf(): mmap, ioctl, and pinned files, whose making is seen.
 * Cost       One read and two look-ups in an array for a signal on the host; for a bpf() call that could change
 *            something the walk to its object and a look-up. Records are made of acts on the sensor only.
 */
BPF_HASH(own_objects, u64, u32, 1024);      /* kind << 32 | id, filled by the supervisor; the loader shares it */
#define OBJECT_PROGRAM 1
#define OBJECT_MAP 2
#define OBJECT_LINK 3

/*
 * The supervisor, in a map that is frozen before a program sees it: `settings` may be what is tampered with, and whoever
 * has just written itself into it must not be taken for the sensor. Nobody else of the sensor does what is told here.
 */
BPF_ARRAY(owner, u64, 1);

static __always_inline int is_owner(void)
{
	u32 zero = 0;
	u64 *own = owner.lookup(&zero);

	return own && *own == bpf_get_current_pid_tgid() >> 32;
}

#define SEND_SIG_PRIV 1     /* in place of the info: the kernel sends it by itself */

int on_signal(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *target = (void *)ctx->args[2];
	s32 code = 0;
	u32 tgid = 0;

	if (ctx->args[1] == SEND_SIG_PRIV)
		return 0;
	READ(tgid, &target->tgid);
	if (!own_process(tgid))
		return 0;
	if (ctx->args[1])           /* struct kernel_siginfo: number, errno, code */
		READ(code, (void *)ctx->args[1] + 8);
	/* above 0 the kernel tells of something: a child's end, a fault */
	if (code > 0 || is_owner() || tgid == bpf_get_current_pid_tgid() >> 32)
		return 0;
	BEGIN(s, e, event_process_signal, EVENT_PROCESS_SIGNAL);
	s->flags = FLAG_OWN;
	e->target_pid = tgid;
	e->signal = ctx->args[0];
	e->code = code;
	e->disposition = ctx->args[4];
	commit(s);
	return 0;
}

static __always_inline int own_object(u32 kind, u32 id)
{
	u64 key = (u64)kind << 32 | id;

	return own_objects.lookup(&key) != NULL;
}

#define ANON_INODE_FS_MAGIC 0x09041934

/*
 * What a descriptor stands for, by the name that the kernel gives such files: bpf-prog, bpf-map, bpf_link. Only its own:
 * anybody can name a file so, and in some file systems also choose what lies behind its private_data.
 */
static __always_inline u32 object_kind(struct file *file)
{
	struct file_place place = {};
	struct dentry_head head = {};
	struct inode *inode = NULL;
	struct super_block *sb = NULL;
	u64 magic = 0;
	char text[8] = {};

	READ(inode, &file->f_inode);
	READ(sb, &inode->i_sb);
	READ(magic, &sb->s_magic);
	if (magic != ANON_INODE_FS_MAGIC)
		return 0;
	READ(place, &file->f_path);
	READ(head, &place.dentry->d_parent);
	READ(text, head.name.name);
	if (text[0] != 'b' || text[1] != 'p' || text[2] != 'f')
		return 0;
	return text[4] == 'p' ? OBJECT_PROGRAM : text[4] == 'm' ? OBJECT_MAP : text[4] == 'l' ? OBJECT_LINK : 0;
}

struct object {
	u32 kind, id;
	int own;
	const void *name;
};

static __always_inline void read_program(struct object *to, struct bpf_prog *program)
{
	struct bpf_prog_aux *aux = NULL;

	FOLLOW(aux, &program->aux);
	READ(to->id, &aux->id);
	to->name = &aux->name;
	to->own = own_object(OBJECT_PROGRAM, to->id);
}

static __always_inline void read_object(struct object *to, struct file *file)
{
	struct bpf_prog *program = NULL;
	void *object = NULL;

	to->kind = object_kind(file);
	if (!to->kind)
		return;
	FOLLOW(object, &file->private_data);
	if (to->kind == OBJECT_PROGRAM) {
		read_program(to, object);
	} else if (to->kind == OBJECT_MAP) {
		READ(to->id, &((struct bpf_map *)object)->id);
		to->name = &((struct bpf_map *)object)->name;
		to->own = own_object(OBJECT_MAP, to->id);
	} else if (to->kind == OBJECT_LINK) {       /* ours where its program is */
		FOLLOW(program, &((struct bpf_link *)object)->prog);
		read_program(to, program);
		READ(to->id, &((struct bpf_link *)object)->id);
	}
}

/* Where union bpf_attr has the descriptor of what a command acts on. */
static __always_inline u32 descriptor_at(u64 command)
{
	return command & AT_36 ? 36 : command & AT_8 ? 8 : command & AT_4 ? 4 : 0;
}

int emit_bpf_access(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	struct object object = {};
	struct file *file = NULL;
	u32 fd = 0;

	if (is_owner())
		return 0;
	read_arguments(&call, ctx);
	if (!(COMMAND(call.a & 63) & BY_ID)) {
		bpf_probe_read_user(&fd, 4, (void *)call.b + descriptor_at(COMMAND(call.a & 63)));
		file = file_of(fd);
	} else if (call.result >= 0) {
		file = file_of(call.result);
	} else {
		object.kind = call.a == 13 ? OBJECT_PROGRAM : call.a == 14 ? OBJECT_MAP : OBJECT_LINK;
		bpf_probe_read_user(&object.id, 4, (void *)call.b);
		object.own = own_object(object.kind, object.id);
	}
	if (file)
		read_object(&object, file);
	if (!object.own)
		return 0;
	BEGIN(s, e, event_bpf_access, EVENT_BPF_ACCESS);
	s->flags = call.flags | FLAG_OWN;
	e->command = call.a;
	e->result = call.result < 0 ? call.result : 0;
	e->object = object.kind;
	e->object_id = object.id;
	e->name = put_kernel(s, object.name, CAP_BPF_ACCESS_NAME);
	commit(s);
	return 0;
}
