/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      file_unlink, file_rename, file_link, file_chmod, file_chown, file_mkdir.
 * Why here   The result is known at system call exit. Directory and name are taken from the kernel's
 *            own decision (security_path_*) where that can be hooked; else the caller's argument is
 *            joined to a directory from the kernel, and the record is marked FLAG_ARGUMENT.
 * Hooks      syscall.c, by tail call; kprobe or fentry on security_path_{unlink,rmdir,mkdir,symlink,
 *            chmod,chown,rename,link}.
 *            hook-proto: security/security.c: security_path_unlink(dir, dentry)
 *            hook-proto: security/security.c: security_path_rename(old_dir, old_dentry, new_dir, new_dentry, flags)
 *            hook-proto: security/security.c: security_path_link(old_dentry, new_dir, new_dentry)
 * Misses     io_uring. Without the security hooks: symbolic links in the middle of an argument stay
 *            unresolved, and another thread may have changed the argument meanwhile.
 * Cost       A record costs one or two path walks; a security hook one copy of two names.
 */
/*
 * What a security hook saw of the call that its thread is in: the directories and names that the
 * kernel resolved. It is used by the handler of that call once the call has succeeded. Without
 * such hooks (no kprobes, no fentry) the caller's argument has to do.
 */
struct noted {
	u64 operation;
	struct file_place dir, from_dir;
	char name[COMPONENT_MAX], from_name[COMPONENT_MAX];
};
BPF_HASH(noted, u64, struct noted, 1024);           /* thread -> its call */
BPF_ARRAY(blank_note, struct noted, 1);

static __always_inline struct noted *new_note(u64 operation, struct file_place *dir, struct dentry *dentry)
{
	u64 thread = bpf_get_current_pid_tgid();
	u32 zero = 0;
	struct noted *blank = blank_note.lookup(&zero), *note;
	const char *name = NULL;

	if (!blank)
		return NULL;
	noted.update(&thread, blank);
	note = noted.lookup(&thread);
	if (!note)
		return NULL;
	note->operation = operation;
	READ(note->dir, dir);
	if (dentry) {
		READ(name, &dentry->d_name.name);
		bpf_probe_read_kernel_str(note->name, COMPONENT_MAX, name);
	}
	return note;
}

static __always_inline void note_source(struct noted *note, struct file_place *dir, struct dentry *dentry)
{
	struct dentry *parent = NULL;
	const char *name = NULL;

	if (!note)
		return;
	READ(note->from_dir, dir);
	READ(parent, &dentry->d_parent);
	note->from_dir.dentry = parent;
	READ(name, &dentry->d_name.name);
	bpf_probe_read_kernel_str(note->from_name, COMPONENT_MAX, name);
}

/* One body, two programs: a kprobe gets registers, fentry an array. */
#define NOTE(function, body)                                                                    \
static __always_inline int note_##function(u64 a, u64 b, u64 c, u64 d) { body; return 0; }      \
int kprobe_##function(struct pt_regs *ctx)                                                      \
{                                                                                               \
	u64 a = 0, b = 0, c = 0, d = 0;                                                         \
	READ(a, &ctx->di); READ(b, &ctx->si); READ(c, &ctx->dx); READ(d, &ctx->cx);             \
	return note_##function(a, b, c, d);                                                     \
}
NOTE(path_unlink, new_note(EVENT_FILE_UNLINK, (void *)a, (void *)b))
NOTE(path_rmdir, new_note(EVENT_FILE_UNLINK, (void *)a, (void *)b))
NOTE(path_mkdir, new_note(EVENT_FILE_MKDIR, (void *)a, (void *)b))
NOTE(path_symlink, new_note(EVENT_FILE_LINK, (void *)a, (void *)b))
NOTE(path_chmod, new_note(EVENT_FILE_CHMOD, (void *)a, NULL))
NOTE(path_chown, new_note(EVENT_FILE_CHOWN, (void *)a, NULL))
/* (old_dir, old_dentry, new_dir, new_dentry): both directories are on one mount */
NOTE(path_rename, note_source(new_note(EVENT_FILE_RENAME, (void *)c, (void *)d), (void *)a, (void *)b))
/* (old_dentry, new_dir, new_dentry): a hard link never leaves its mount */
NOTE(path_link, note_source(new_note(EVENT_FILE_LINK, (void *)b, (void *)c), (void *)b, (void *)a))

static __always_inline struct noted *note_of(u64 operation)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct noted *note = noted.lookup(&thread);

	return note && note->operation == operation ? note : NULL;
}

static __always_inline void forget_note(void)
{
	u64 thread = bpf_get_current_pid_tgid();

	noted.delete(&thread);
}

struct target {
	u32 path, base, name;
};

/* A target's words: path alone where the kernel's decision was noted, else base and argument. */
static __always_inline void put_target(struct scratch *s, struct target *to, struct file_place *noted_dir,
				       const char *noted_name, s32 dirfd, const void *argument)
{
	struct file_place place = {};
	u32 start = s->length, word;

	if (noted_dir) {
		READ(place, noted_dir);
		if (noted_name[0])
			put_kernel(s, noted_name, COMPONENT_MAX);
	} else {
		s->flags |= FLAG_ARGUMENT;
		find_base(&place, dirfd, argument);
	}
	word = put_path(s, place.dentry, place.mnt);
	to->path = to->base = to->name = 0;
	if (noted_dir) {
		to->path = TEXT_WORD(start, s->length - start);
	} else {
		to->base = word;
		to->name = put_user(s, argument, CAP_FILE_OPEN_PATH);
	}
}

/* A successful call of somebody else; what was noted of any other is of no use any more. */
static __always_inline int succeeded(struct bpf_raw_tracepoint_args *ctx, struct arguments *call)
{
	if (ctx->args[1] || is_self()) {
		forget_note();
		return 0;
	}
	read_arguments(call, ctx);
	return 1;
}

#define TARGET(s, e, note, dirfd, argument)                                       \
	do {                                                                      \
		struct target to;                                                 \
		s->flags |= call.flags;                                           \
		put_target(s, &to, note ? &note->dir : NULL, note ? note->name : NULL, dirfd, (void *)(argument)); \
		e->path = to.path;                                                \
		e->base = to.base;                                                \
		e->name = to.name;                                                \
	} while (0)

#define UNLINK(program, dirfd, argument, is_directory)            \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
	struct noted *note;                                       \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	note = note_of(EVENT_FILE_UNLINK);                        \
	BEGIN(s, e, event_file_unlink, EVENT_FILE_UNLINK);        \
	TARGET(s, e, note, dirfd, argument);                      \
	if (is_directory)                                         \
		s->flags |= FLAG_DIRECTORY;                       \
	commit(s);                                                \
	forget_note();                                            \
	return 0;                                                 \
}
UNLINK(on_unlink, AT_FDCWD, call.a, 0)
UNLINK(on_rmdir, AT_FDCWD, call.a, 1)
UNLINK(on_unlinkat, call.a, call.b, call.c & 0x200)     /* AT_REMOVEDIR */

#define PAIR(program, event, TYPE, old_dirfd, old_argument, new_dirfd, new_argument) \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
	struct target from;                                       \
	struct noted *note;                                       \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	note = note_of(TYPE);                                     \
	BEGIN(s, e, event, TYPE);                                 \
	TARGET(s, e, note, new_dirfd, new_argument);              \
	put_target(s, &from, note ? &note->from_dir : NULL, note ? note->from_name : NULL, old_dirfd, \
		   (void *)(old_argument));                       \
	e->source_path = from.path;                               \
	e->source_base = from.base;                               \
	e->source_name = from.name;                               \
	commit(s);                                                \
	forget_note();                                            \
	return 0;                                                 \
}
PAIR(on_rename, event_file_rename, EVENT_FILE_RENAME, AT_FDCWD, call.a, AT_FDCWD, call.b)
PAIR(on_renameat, event_file_rename, EVENT_FILE_RENAME, call.a, call.b, call.c, call.d)
PAIR(on_link, event_file_link, EVENT_FILE_LINK, AT_FDCWD, call.a, AT_FDCWD, call.b)
PAIR(on_linkat, event_file_link, EVENT_FILE_LINK, call.a, call.b, call.c, call.d)

#define CHANGE(program, event, TYPE, dirfd, argument, ...)        \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
	struct noted *note;                                       \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	note = note_of(TYPE);                                     \
	BEGIN(s, e, event, TYPE);                                 \
	TARGET(s, e, note, dirfd, argument);                      \
	__VA_ARGS__;                                              \
	commit(s);                                                \
	forget_note();                                            \
	return 0;                                                 \
}
/* A symbolic link's target is text, not a path of this moment: it gets no base. */
#define SYMLINK_TEXT e->source_name = put_user(s, (void *)call.a, CAP_FILE_OPEN_PATH), e->symbolic = 1
CHANGE(on_symlink, event_file_link, EVENT_FILE_LINK, AT_FDCWD, call.b, SYMLINK_TEXT)
CHANGE(on_symlinkat, event_file_link, EVENT_FILE_LINK, call.b, call.c, SYMLINK_TEXT)
CHANGE(on_chmod, event_file_chmod, EVENT_FILE_CHMOD, AT_FDCWD, call.a, e->mode = call.b)
CHANGE(on_fchmodat, event_file_chmod, EVENT_FILE_CHMOD, call.a, call.b, e->mode = call.c)
CHANGE(on_chown, event_file_chown, EVENT_FILE_CHOWN, AT_FDCWD, call.a,
       e->owner_uid = call.b, e->owner_gid = call.c)
CHANGE(on_fchownat, event_file_chown, EVENT_FILE_CHOWN, call.a, call.b,
       e->owner_uid = call.c, e->owner_gid = call.d)
CHANGE(on_mkdir, event_file_mkdir, EVENT_FILE_MKDIR, AT_FDCWD, call.a, e->mode = call.b)
CHANGE(on_mkdirat, event_file_mkdir, EVENT_FILE_MKDIR, call.a, call.b, e->mode = call.c)

/* By descriptor: the path is the kernel's own. */
#define CHANGE_FD(program, event, TYPE, ...)                         \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
	struct file *file;                                        \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	file = file_of(call.a);                                   \
	if (!file)                                                \
		return 0;                                         \
	BEGIN(s, e, event, TYPE);                                 \
	s->flags |= call.flags;                                   \
	e->path = put_file_path(s, file);                         \
	__VA_ARGS__;                                              \
	commit(s);                                                \
	return 0;                                                 \
}
CHANGE_FD(on_fchmod, event_file_chmod, EVENT_FILE_CHMOD, e->mode = call.b)
CHANGE_FD(on_fchown, event_file_chown, EVENT_FILE_CHOWN, e->owner_uid = call.b, e->owner_gid = call.c)
