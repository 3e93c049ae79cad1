/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      file_open, file_unlink, file_rename, file_link, file_chmod, file_chown, file_mkdir.
 * Why here   At system call exit the struct file behind the new descriptor is the truth: neither
 *            a swapped argument nor an unread page can change what is reported for an open.
 * Hooks      syscall.c, by tail call;
 *            hook-proto: include/trace/events/io_uring.h: io_uring_complete(ring, request, ...)
 * Misses     io_uring but for openat and openat2 with a descriptor; FIFOs, sockets and character devices, unless their name is watched; reads of
 *            files that are not watched; truncate(2). Paths of unlink, rename, link, chmod, chown and
 *            mkdir are the caller's argument joined to a directory from the kernel (FLAG_ARGUMENT):
 *            symbolic links in the middle of the argument stay unresolved.
 * Cost       A read-only open costs the filter: two names looked up. A record costs a path walk.
 */
#define FMODE_WRITE 2
#define FMODE_PATH 0x4000
#define FMODE_CREATED 0x100000
#define O_TRUNC 01000
#define O_CREAT 0100
#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define WATCH_LEAF 1
#define WATCH_PARENT 2
#define WATCH_INODE 4

struct watch_name {
	char name[32];      /* longer names are compared by their first 31 bytes */
};
struct watch_inode {
	u64 inode;
	u64 dev;
};
BPF_HASH(watch_names, struct watch_name, u32, 1024);
BPF_HASH(watch_inodes, struct watch_inode, u32, 1024);

static __always_inline u32 name_watched(const char *name)
{
	struct watch_name key = {};
	u32 *kinds;

	bpf_probe_read_kernel_str(key.name, sizeof(key.name), name);
	kinds = watch_names.lookup(&key);
	return kinds ? *kinds : 0;
}

/* 0, WATCH_*, or WATCH_INODE. Over-approximates: user space checks the whole path. */
static __always_inline u32 is_watched(struct file *file, struct inode *inode)
{
	struct file_place place = {};
	struct dentry_head head = {}, above = {};
	struct watch_inode id = {};
	struct super_block *sb = NULL;
	u32 links = 0, dev = 0;

	READ(place, &file->f_path);
	READ(head, &place.dentry->d_parent);
	if (name_watched((char *)head.name.name) & WATCH_LEAF)
		return WATCH_LEAF;
	READ(above, &head.parent->d_parent);
	if (name_watched((char *)above.name.name) & WATCH_PARENT)
		return WATCH_PARENT;
	READ(links, &inode->i_nlink);
	if (links < 2)
		return 0;
	/* A hard link has another name; the inode gives it away. */
	READ(id.inode, &inode->i_ino);
	READ(sb, &inode->i_sb);
	READ(dev, &sb->s_dev);
	id.dev = dev;
	return watch_inodes.lookup(&id) ? WATCH_INODE : 0;
}

static __always_inline int emit_open(struct bpf_raw_tracepoint_args *ctx, struct arguments *call, u32 open_flags)
{
	struct file *file;
	struct inode *inode = NULL;
	struct file_facts facts = {};
	u32 mode = 0, marks = call->flags, watched;
	u16 kind = 0;

	file = file_of(call->result);
	if (!file)
		return 0;
	READ(mode, &file->f_mode);
	READ(inode, &file->f_inode);
	READ(kind, &inode->i_mode);
	kind &= S_IFMT;
	if (mode & FMODE_PATH)
		return 0;
	if (mode & FMODE_WRITE)
		marks |= FLAG_WRITE;
	if (mode & FMODE_CREATED)
		marks |= FLAG_CREATED;
	if (open_flags & O_TRUNC)
		marks |= FLAG_TRUNC;
	if (!((kind == S_IFREG || kind == S_IFBLK) && (marks & (FLAG_WRITE | FLAG_CREATED | FLAG_TRUNC)))) {
		watched = is_watched(file, inode);
		if (!watched) {
			count_filtered(EVENT_FILE_OPEN);
			return 0;
		}
		if (watched == WATCH_INODE)
			marks |= FLAG_WATCHED_INODE;
	}
	if (is_self())
		return 0;
	BEGIN(s, e, event_file_open, EVENT_FILE_OPEN);
	read_facts(&facts, inode);
	s->flags = marks | file_marks(file, inode, &facts);
	e->inode = facts.inode;
	e->dev = facts.dev;
	e->mode = facts.mode;
	e->owner_uid = facts.uid;
	e->owner_gid = facts.gid;
	e->open_flags = open_flags;
	e->path = put_file_path(s, file);
	commit(s);
	return 0;
}

#define OPEN(name, flags)                                         \
int name(struct bpf_raw_tracepoint_args *ctx)                     \
{                                                                 \
	struct arguments call;                                    \
								  \
	if ((s64)ctx->args[1] < 0)                                \
		return 0;                                         \
	read_arguments(&call, ctx);                               \
	return emit_open(ctx, &call, flags);                      \
}
OPEN(on_open, call.b)
OPEN(on_openat, call.c)
OPEN(on_creat, O_CREAT | O_TRUNC | 1)

int on_openat2(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	u64 how = 0;

	if ((s64)ctx->args[1] < 0)
		return 0;
	read_arguments(&call, ctx);
	bpf_probe_read_user(&how, sizeof(how), (void *)call.c);
	call.flags |= FLAG_ARGUMENT;        /* the flags only; the path is the kernel's */
	return emit_open(ctx, &call, how);
}

#ifdef HAVE_URING_COMPLETE
#define IORING_OP_OPENAT 18
#define IORING_OP_OPENAT2 28

/* The flags of the request are gone by now: created and writable are told by the file itself. */
int on_uring_open(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call = {};
	struct completion done = {};

	read_completion(&done, ctx);
	if ((done.opcode != IORING_OP_OPENAT && done.opcode != IORING_OP_OPENAT2) || done.result < 0)
		return 0;
	call.result = done.result;
	call.flags = FLAG_IO_URING;
	return emit_open(ctx, &call, 0);
}
#endif

/* A successful call of somebody else, or nothing to report. */
static __always_inline int succeeded(struct bpf_raw_tracepoint_args *ctx, struct arguments *call)
{
	if (ctx->args[1] || is_self())
		return 0;
	read_arguments(call, ctx);
	return 1;
}

#define TARGET(s, e, dirfd, argument)                             \
	do {                                                      \
		s->flags |= call.flags | FLAG_ARGUMENT;           \
		e->base = put_base(s, dirfd, (void *)(argument)); \
		e->name = put_user(s, (void *)(argument), 4096);  \
	} while (0)

#define UNLINK(name, dirfd, argument, is_directory)               \
int name(struct bpf_raw_tracepoint_args *ctx)                     \
{                                                                 \
	struct arguments call;                                    \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	BEGIN(s, e, event_file_unlink, EVENT_FILE_UNLINK);              \
	TARGET(s, e, dirfd, argument);                            \
	if (is_directory)                                         \
		s->flags |= FLAG_DIRECTORY;                       \
	commit(s);                                                \
	return 0;                                                 \
}
UNLINK(on_unlink, AT_FDCWD, call.a, 0)
UNLINK(on_rmdir, AT_FDCWD, call.a, 1)
UNLINK(on_unlinkat, call.a, call.b, call.c & 0x200)     /* AT_REMOVEDIR */

#define PAIR(name, event, TYPE, old_dirfd, old_argument, new_dirfd, new_argument) \
int name(struct bpf_raw_tracepoint_args *ctx)                     \
{                                                                 \
	struct arguments call;                                    \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	BEGIN(s, e, event, TYPE);                                 \
	TARGET(s, e, new_dirfd, new_argument);                    \
	e->source_base = put_base(s, old_dirfd, (void *)(old_argument)); \
	e->source_name = put_user(s, (void *)(old_argument), 4096); \
	commit(s);                                                \
	return 0;                                                 \
}
PAIR(on_rename, event_file_rename, EVENT_FILE_RENAME, AT_FDCWD, call.a, AT_FDCWD, call.b)
PAIR(on_renameat, event_file_rename, EVENT_FILE_RENAME, call.a, call.b, call.c, call.d)
PAIR(on_link, event_file_link, EVENT_FILE_LINK, AT_FDCWD, call.a, AT_FDCWD, call.b)
PAIR(on_linkat, event_file_link, EVENT_FILE_LINK, call.a, call.b, call.c, call.d)

/* A symbolic link's target is text, not a path of this moment: it gets no base. */
#define SYMLINK(name, dirfd, argument)                            \
int name(struct bpf_raw_tracepoint_args *ctx)                     \
{                                                                 \
	struct arguments call;                                    \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	BEGIN(s, e, event_file_link, EVENT_FILE_LINK);                  \
	TARGET(s, e, dirfd, argument);                            \
	e->source_name = put_user(s, (void *)call.a, 4096);       \
	e->symbolic = 1;                                          \
	commit(s);                                                \
	return 0;                                                 \
}
SYMLINK(on_symlink, AT_FDCWD, call.b)
SYMLINK(on_symlinkat, call.b, call.c)

#define CHANGE(name, event, TYPE, dirfd, argument, ...)           \
int name(struct bpf_raw_tracepoint_args *ctx)                     \
{                                                                 \
	struct arguments call;                                    \
								  \
	if (!succeeded(ctx, &call))                               \
		return 0;                                         \
	BEGIN(s, e, event, TYPE);                                 \
	TARGET(s, e, dirfd, argument);                            \
	__VA_ARGS__;                                              \
	commit(s);                                                \
	return 0;                                                 \
}
CHANGE(on_chmod, event_file_chmod, EVENT_FILE_CHMOD, AT_FDCWD, call.a, e->mode = call.b)
CHANGE(on_fchmodat, event_file_chmod, EVENT_FILE_CHMOD, call.a, call.b, e->mode = call.c)
CHANGE(on_chown, event_file_chown, EVENT_FILE_CHOWN, AT_FDCWD, call.a, e->owner_uid = call.b, e->owner_gid = call.c)
CHANGE(on_fchownat, event_file_chown, EVENT_FILE_CHOWN, call.a, call.b, e->owner_uid = call.c, e->owner_gid = call.d)
CHANGE(on_mkdir, event_file_mkdir, EVENT_FILE_MKDIR, AT_FDCWD, call.a, e->mode = call.b)
CHANGE(on_mkdirat, event_file_mkdir, EVENT_FILE_MKDIR, call.a, call.b, e->mode = call.c)

/* By descriptor: the path is the kernel's own. */
#define CHANGE_FD(name, event, TYPE, ...)                         \
int name(struct bpf_raw_tracepoint_args *ctx)                     \
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
