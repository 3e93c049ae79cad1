/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      file_unlink, file_rename, file_link, file_chmod, file_chown, file_mkdir.
 * Why here   The result is known at system call exit. Directory and name are taken from the kernel's
 *            own decision (security_path_*) where that can be hooked; else the caller's argument is
 *            joined to a directory from the kernel, and the record is marked FLAG_ARGUMENT.
 * Hooks      syscall.c, by tail call; fentry, kprobe or LSM on (security_)path_{unlink,rmdir,mkdir,
 *            symlink,chmod,chown,rename,link}; fentry or kprobe on io_{unlinkat,renameat,mkdirat,
 *            symlinkat,linkat};
 *            hook-proto: include/trace/events/io_uring.h: io_uring_complete(ring, request, ...)
 *            hook-proto: security/security.c: security_path_unlink(dir, dentry)
 *            hook-proto: security/security.c: security_path_rename(old_dir, old_dentry, new_dir, new_dentry, flags)
 *            hook-proto: security/security.c: security_path_link(old_dentry, new_dir, new_dentry)
 * Misses     io_uring before 6.0, where its functions can't be hooked. Without the security hooks: all of
 *            io_uring; symbolic links in the middle of an argument stay unresolved, and another thread
 *            may have changed the argument meanwhile.
 * Cost       A record costs one or two path walks; a security hook one copy of two names, that of chmod one
 *            look-up more (the canary's are counted).
 */
/*
 * What a security hook saw of the call that its thread is in: the directories and names that the
 * kernel resolved. It is used by the handler of that call once the call has succeeded. Without
 * such hooks (no kprobes, no fentry) the caller's argument has to do.
 */
struct noted {
	u64 operation;
	struct file_place dir, from_dir;
	u32 marks;
	u32 mode;
	char name[COMPONENT_MAX], from_name[COMPONENT_MAX];
};
BPF_HASH(noted, u64, struct noted, 1024);           /* thread, or io_uring request -> its call */
BPF_ARRAY(blank_note, struct noted, 1);
BPF_HASH(requested, u64, u64, 1024);                /* thread -> the io_uring request that it carries out */

/* io_uring completes a request on any thread of its owner: what it does is noted under the request. */
static __always_inline u64 note_key(void)
{
	u64 thread = bpf_get_current_pid_tgid();
	u64 *request = requested.lookup(&thread);

	return request ? *request : thread;
}

static __always_inline struct noted *new_note(u64 operation, struct file_place *dir, struct dentry *dentry)
{
	u64 key = note_key();
	u32 zero = 0;
	struct noted *blank = blank_note.lookup(&zero), *note;
	const char *name = NULL;

	if (!blank)
		return NULL;
	noted.update(&key, blank);
	note = noted.lookup(&key);
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

static __always_inline void note_more(struct noted *note, u32 marks, u32 mode, const char *text)
{
	if (!note)
		return;
	note->marks = marks;
	note->mode = mode;
	if (text)
		bpf_probe_read_kernel_str(note->from_name, COMPONENT_MAX, text);
}

static __always_inline void note_chmod(struct file_place *path)
{
	struct counter *seen = canary();

	if (seen)
		seen->nested++;
	else
		new_note(EVENT_FILE_CHMOD, path, NULL);
}

#define NOTE(name, arguments, body)                                                                \
static __always_inline void decided_##name(u64 a, u64 b, u64 c, u64 d) { body; }                   \
ON_DECISION(name, arguments)
NOTE(path_unlink, 2, new_note(EVENT_FILE_UNLINK, (void *)a, (void *)b))
NOTE(path_rmdir, 2, note_more(new_note(EVENT_FILE_UNLINK, (void *)a, (void *)b), FLAG_DIRECTORY, 0, NULL))
NOTE(path_mkdir, 3, note_more(new_note(EVENT_FILE_MKDIR, (void *)a, (void *)b), 0, c, NULL))
NOTE(path_symlink, 3, note_more(new_note(EVENT_FILE_LINK, (void *)a, (void *)b), 0, 0, (char *)c))
NOTE(path_chmod, 1, note_chmod((void *)a))
NOTE(path_chown, 1, new_note(EVENT_FILE_CHOWN, (void *)a, NULL))
/* (old_dir, old_dentry, new_dir, new_dentry): both directories are on one mount */
NOTE(path_rename, 4, note_source(new_note(EVENT_FILE_RENAME, (void *)c, (void *)d), (void *)a, (void *)b))
/* (old_dentry, new_dir, new_dentry): a hard link never leaves its mount */
NOTE(path_link, 3, note_source(new_note(EVENT_FILE_LINK, (void *)b, (void *)c), (void *)b, (void *)a))

static __always_inline void carries_out(u64 request)
{
	u64 thread = bpf_get_current_pid_tgid();

	requested.update(&thread, &request);
}

#define REQUEST(function)                                                                          \
static __always_inline void began_##function(u64 a, u64 b, u64 c, u64 d) { carries_out(a); }       \
ON_FUNCTION(function, began_##function, 1)
REQUEST(io_unlinkat)
REQUEST(io_renameat)
REQUEST(io_mkdirat)
REQUEST(io_symlinkat)
REQUEST(io_linkat)

static __always_inline struct noted *note_of(u64 key, u64 operation)
{
	struct noted *note = noted.lookup(&key);

	return note && note->operation == operation ? note : NULL;
}

/* Looked for first: deleting takes a lock, also where there is nothing. */
static __always_inline void forget_note(u64 key)
{
	if (noted.lookup(&key))
		noted.delete(&key);
}

/*
 * One call, as its handler read it, for the one program that makes the record. All events of this
 * family begin with the words path, base, name; what follows is set by position.
 */
struct request {
	u64 busy;               /* see occupy() */
	u32 type;
	u32 flags;
	s32 dirfd, from_dirfd;
	u64 name, from;         /* the caller's arguments */
	u32 words[2];           /* mode, or owner and group */
	u32 by_fd;              /* dirfd is the file itself */
	u32 symbolic;
	u64 note;               /* key of what was noted of it */
};
BPF_PERCPU_ARRAY(requests, struct request, 1);

static __always_inline int new_request(struct request *request, u32 type, u32 flags, u64 note)
{
	if (!occupy(&request->busy, type))
		return 0;
	__builtin_memset(&request->type, 0, sizeof(*request) - __builtin_offsetof(struct request, type));
	request->type = type;
	request->flags = flags;
	request->note = note;
	return 1;
}

/* Before anything is read of the call, so that a flood costs its host as little as can be. */
static __always_inline int is_refused(u32 type)
{
	return over_budget(bpf_get_current_cgroup_id(), bpf_ktime_get_boot_ns(), type);
}

/* The request of a successful call of somebody else; what was noted of any other call is of no use. */
static __always_inline struct request *succeeded(struct bpf_raw_tracepoint_args *ctx, struct arguments *call, u32 type)
{
	u32 zero = 0;
	u64 thread = bpf_get_current_pid_tgid();
	struct request *request = requests.lookup(&zero);

	if (ctx->args[1] || is_self() || !request || is_refused(type)) {
		forget_note(thread);
		return NULL;
	}
	read_arguments(call, ctx);
	if (!new_request(request, type, call->flags, thread)) {
		forget_note(thread);
		return NULL;
	}
	return request;
}

#define HANDLER(program, TYPE, ...)                               \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
	struct request *to = succeeded(ctx, &call, TYPE);         \
								  \
	if (!to)                                                  \
		return 0;                                         \
	__VA_ARGS__;                                              \
	tail(ctx, TAIL_PATH);                                     \
	vacate(&to->busy);                                        \
	return 0;                                                 \
}
#define AT(fd, argument) to->dirfd = fd, to->name = argument
#define FROM(fd, argument) to->from_dirfd = fd, to->from = argument
#define WORDS(first, second) to->words[0] = first, to->words[1] = second
#define DIRECTORY_IF(condition) to->flags |= (condition) ? FLAG_DIRECTORY : 0

HANDLER(on_unlink, EVENT_FILE_UNLINK, AT(AT_FDCWD, call.a))
HANDLER(on_rmdir, EVENT_FILE_UNLINK, AT(AT_FDCWD, call.a), DIRECTORY_IF(1))
HANDLER(on_unlinkat, EVENT_FILE_UNLINK, AT(call.a, call.b), DIRECTORY_IF(call.c & 0x200))   /* AT_REMOVEDIR */
HANDLER(on_rename, EVENT_FILE_RENAME, AT(AT_FDCWD, call.b), FROM(AT_FDCWD, call.a))
HANDLER(on_renameat, EVENT_FILE_RENAME, AT(call.c, call.d), FROM(call.a, call.b))
HANDLER(on_link, EVENT_FILE_LINK, AT(AT_FDCWD, call.b), FROM(AT_FDCWD, call.a))
HANDLER(on_linkat, EVENT_FILE_LINK, AT(call.c, call.d), FROM(call.a, call.b))
HANDLER(on_symlink, EVENT_FILE_LINK, AT(AT_FDCWD, call.b), FROM(0, call.a), to->symbolic = 1)
HANDLER(on_symlinkat, EVENT_FILE_LINK, AT(call.b, call.c), FROM(0, call.a), to->symbolic = 1)
HANDLER(on_chmod, EVENT_FILE_CHMOD, AT(AT_FDCWD, call.a), WORDS(call.b, 0))
HANDLER(on_fchmod, EVENT_FILE_CHMOD, AT(call.a, 0), to->by_fd = 1, WORDS(call.b, 0))
HANDLER(on_fchmodat, EVENT_FILE_CHMOD, AT(call.a, call.b), WORDS(call.c, 0))
HANDLER(on_chown, EVENT_FILE_CHOWN, AT(AT_FDCWD, call.a), WORDS(call.b, call.c))
HANDLER(on_fchown, EVENT_FILE_CHOWN, AT(call.a, 0), to->by_fd = 1, WORDS(call.b, call.c))
HANDLER(on_fchownat, EVENT_FILE_CHOWN, AT(call.a, call.b), WORDS(call.c, call.d))
HANDLER(on_mkdir, EVENT_FILE_MKDIR, AT(AT_FDCWD, call.a), WORDS(call.b, 0))
HANDLER(on_mkdirat, EVENT_FILE_MKDIR, AT(call.a, call.b), WORDS(call.c, 0))

#ifdef HAVE_URING_COMPLETE
#define IORING_OP_RENAMEAT 35
#define IORING_OP_UNLINKAT 36
#define IORING_OP_MKDIRAT 37
#define IORING_OP_SYMLINKAT 38
#define IORING_OP_LINKAT 39

static __always_inline u32 type_of(u8 opcode)
{
	switch (opcode) {
	case IORING_OP_RENAMEAT:
		return EVENT_FILE_RENAME;
	case IORING_OP_UNLINKAT:
		return EVENT_FILE_UNLINK;
	case IORING_OP_MKDIRAT:
		return EVENT_FILE_MKDIR;
	case IORING_OP_SYMLINKAT:
	case IORING_OP_LINKAT:
		return EVENT_FILE_LINK;
	}
	return 0;
}

/* The names of the request are freed by now, so that only what the security hooks noted can tell. */
int on_uring_path(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0, type;
	u64 thread = bpf_get_current_pid_tgid(), key = ctx->args[1];
	struct request *request = requests.lookup(&zero);
	struct completion done = {};
	struct noted *note;

	if (is_shed())
		return 0;
	read_completion(&done, ctx);
	type = type_of(done.opcode);
	if (!type || !request)
		return 0;
	requested.delete(&thread);
	note = note_of(key, type);
	if (!note)
		return 0;
	if (done.result || is_self() || is_refused(type) || !new_request(request, type, FLAG_IO_URING, key)) {
		forget_note(key);
		return 0;
	}
	request->words[0] = note->mode;
	request->symbolic = done.opcode == IORING_OP_SYMLINKAT;
	tail(ctx, TAIL_PATH);
	vacate(&request->busy);
	return 0;
}
#endif

/* Words of one target: the path alone where the kernel's own place is known, else base and argument. */
struct target {
	struct file_place place;
	const char *leaf;       /* behind the place, in kernel memory */
	u32 known;
	u32 path, base, name;
};

static __always_inline void put_target(struct scratch *s, struct target *to, s32 dirfd, u64 argument)
{
	u32 start = s->length, word;

	if (!to->known) {
		s->flags |= FLAG_ARGUMENT;
		find_base(&to->place, dirfd, (void *)argument);
	} else if (to->leaf) {
		put_kernel(s, to->leaf, COMPONENT_MAX);
	}
	word = put_path(s, to->place.dentry, to->place.mnt);
	if (to->known) {
		to->path = TEXT_WORD(start, s->length - start);
	} else {
		to->base = word;
		to->name = put_user(s, (void *)argument, CAP_FILE_UNLINK_NAME);
	}
}

/* What is known of the targets without the caller's arguments. */
static __always_inline void find_targets(struct request *request, struct target *to, struct target *from)
{
	struct noted *note;
	struct file *file;
	char first = 0;

	if (request->by_fd) {
		file = file_of(request->dirfd);
		READ(to->place, &file->f_path);
		to->known = 1;
		return;
	}
	note = note_of(request->note, request->type);
	if (!note)
		return;
	request->flags |= note->marks;
	to->known = from->known = 1;
	to->place = note->dir;
	from->place = note->from_dir;
	READ(first, note->name);
	if (first)
		to->leaf = note->name;
	from->leaf = note->from_name;
}

/* By tail call, so that there is one of it: makes the record of the request on this processor. */
int emit_path(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct request *left = requests.lookup(&zero), own, *request = &own;
	struct target to = {}, from = {};
	struct event_file_link *e;
	struct scratch *s;

	if (!left)
		return 0;
	own = *left;
	vacate(&left->busy);
	find_targets(request, &to, &from);
	s = begin_granted(request->type, sizeof(*e), bpf_get_current_cgroup_id(), bpf_ktime_get_boot_ns());
	if (!s) {
		forget_note(request->note);
		return 0;
	}
	e = (void *)s->data;
	__builtin_memset(s->data + sizeof(struct sensor_header), 0, sizeof(*e) - sizeof(struct sensor_header));
	s->flags = request->flags;
	put_target(s, &to, request->dirfd, request->name);
	e->path = to.path;
	e->base = to.base;
	e->name = to.name;
	if (request->symbolic) {
		/* A symbolic link's target is text, not a path of this moment: it gets no base. */
		if (request->from)
			e->source_name = put_user(s, (void *)request->from, CAP_FILE_LINK_SOURCE_NAME);
		else if (from.leaf)
			e->source_name = put_kernel(s, from.leaf, COMPONENT_MAX);
		e->symbolic = 1;
	} else if (request->from || request->type == EVENT_FILE_RENAME || request->type == EVENT_FILE_LINK) {
		put_target(s, &from, request->from_dirfd, request->from);
		e->source_path = from.path;
		e->source_base = from.base;
		e->source_name = from.name;
	} else {
		e->source_path = request->words[0];
		e->source_base = request->words[1];
	}
	commit(s);
	forget_note(request->note);
	return 0;
}

#define SAME_PLACE(event, field, other) \
	_Static_assert(__builtin_offsetof(struct event, field) == __builtin_offsetof(struct event_file_link, other), #event)
SAME_PLACE(event_file_unlink, name, name);
SAME_PLACE(event_file_rename, source_name, source_name);
SAME_PLACE(event_file_chmod, mode, source_path);
SAME_PLACE(event_file_mkdir, mode, source_path);
SAME_PLACE(event_file_chown, owner_uid, source_path);
SAME_PLACE(event_file_chown, owner_gid, source_base);
