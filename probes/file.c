/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      file_open.
 * Why here   At system call exit the struct file behind the new descriptor is the truth: neither
 *            a swapped argument nor an unread page can change what is reported for an open.
 * Hooks      syscall.c, by tail call;
 *            hook-proto: include/trace/events/io_uring.h: io_uring_complete(ring, request, ...)
 *            Instead, where asked for or nothing else loads: fentry, kprobe or LSM on (security_)file_open.
 *            hook-proto: security/security.c: security_file_open(file)
 * Misses     FIFOs, sockets and character devices, unless their name is watched; reads of files that are
 *            not watched; truncate(2).
 * Cost       A read-only open costs the filter: two names looked up. A record costs a path walk.
 */
#define FMODE_WRITE 2
#define FMODE_PATH 0x4000
#define FMODE_CREATED 0x100000
#define FMODE_NOACCOUNT 0x20000000
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

static __always_inline int inode_watched(struct inode *inode)
{
	struct watch_inode id = {};
	struct super_block *sb = NULL;
	u32 dev = 0;

	READ(id.inode, &inode->i_ino);
	READ(sb, &inode->i_sb);
	READ(dev, &sb->s_dev);
	id.dev = dev;
	return watch_inodes.lookup(&id) != NULL;
}

/* What a regular file of an overlay stands for: the inode of the layer that it was opened in, or NULL. */
static __always_inline struct inode *inode_below(struct file *file, struct inode *inode)
{
	struct super_block *sb = NULL;
	struct file *below = NULL, *first = NULL;
	struct inode *found = NULL, *named = NULL;
	struct file_place place = {};
	u64 magic = 0;
	u16 mode = 0;

	READ(mode, &inode->i_mode);
	READ(sb, &inode->i_sb);
	READ(magic, &sb->s_magic);
	if (magic != OVERLAYFS_SUPER_MAGIC || (mode & S_IFMT) != S_IFREG)
		return NULL;
	/*
	 * The open file of the layer is the private data; since 6.13 it is the first word of that. A struct
	 * file itself begins with a counter, flags or NULL as long as it is open, never with a pointer.
	 */
	FOLLOW(below, &file->private_data);
	FOLLOW(first, below);
	if ((s64)first < 0)             /* the kernel's half of the addresses */
		below = first;
	FOLLOW(found, &below->f_inode);
	READ(place, &below->f_path);
	READ(named, &place.dentry->d_inode);
	/* Before 6.5 it bears the overlay's own path. Neither: no struct file after all. */
	return found == named || inode == named ? found : NULL;
}

/* 0, or WATCH_* bits. Over-approximates by name: user space checks the whole path. */
static __always_inline u32 is_watched(struct file *file, struct inode *inode)
{
	struct file_place place = {};
	struct dentry_head head = {}, above = {};
	struct inode *below;
	u32 links = 0, found;

	READ(place, &file->f_path);
	READ(head, &place.dentry->d_parent);
	READ(above, &head.parent->d_parent);
	found = name_watched((char *)head.name.name) & WATCH_LEAF;
	found |= name_watched((char *)above.name.name) & WATCH_PARENT;
	READ(links, &inode->i_nlink);
	if (!found && links < 2)
		return 0;
	/* Under another path the inode gives it away: a hard link, which has another name, a bind mount, an overlay. */
	if (inode_watched(inode))
		return found | WATCH_INODE;
	below = inode_below(file, inode);
	return below && inode_watched(below) ? found | WATCH_INODE : found;
}

/* An open, as its handler read it, for the one program that decides and makes the record. */
struct opened {
	u64 busy;           /* see occupy() */
	struct file *file;  /* or NULL: it is behind the descriptor */
	u32 fd;
	u32 open_flags;
	u32 marks;
};
BPF_PERCPU_ARRAY(openings, struct opened, 1);

static __always_inline void hand_over(struct bpf_raw_tracepoint_args *ctx, struct file *file, u32 fd, u32 open_flags,
				      u32 marks)
{
	u32 zero = 0;
	struct opened *opened = openings.lookup(&zero);

	if (!opened || !occupy(&opened->busy, EVENT_FILE_OPEN))
		return;
	opened->file = file;
	opened->fd = fd;
	opened->open_flags = open_flags;
	opened->marks = marks;
	tail(ctx, TAIL_OPEN);
	vacate(&opened->busy);
}

#define OPEN(program, bits, marks)                                \
int program(struct bpf_raw_tracepoint_args *ctx)                  \
{                                                                 \
	struct arguments call;                                    \
								  \
	if ((s64)ctx->args[1] < 0)                                \
		return 0;                                         \
	read_arguments(&call, ctx);                               \
	hand_over(ctx, NULL, call.result, bits,                   \
		  call.flags | (marks));                          \
	return 0;                                                 \
}
OPEN(on_open, call.b, 0)
OPEN(on_openat, call.c, 0)
OPEN(on_creat, O_CREAT | O_TRUNC | 1, 0)
/* FLAG_ARGUMENT for the flags, which lie in the caller's memory; the path is the kernel's. */
OPEN(on_openat2, ({ u64 how = 0; bpf_probe_read_user(&how, sizeof(how), (void *)call.c); how; }), FLAG_ARGUMENT)

#ifdef HAVE_URING_COMPLETE
#define IORING_OP_OPENAT 18
#define IORING_OP_OPENAT2 28

#define FILE_FLAGS 7ULL     /* low bits of a pointer in a ring's table */

/* A file opened into the ring's own table has no descriptor. */
static __always_inline struct file *file_in_ring(struct io_kiocb *request, u32 slot)
{
	struct io_ring_ctx *ring = NULL;
	u64 pointer = 0;

	READ(ring, &request->ctx);
#ifdef HAVE_io_rsrc_data__nodes                         /* since 6.13 */
	struct io_rsrc_node **nodes = NULL, *node = NULL;

	FOLLOW(nodes, &ring->file_table.data.nodes);
	FOLLOW(node, nodes + slot);
	FOLLOW(pointer, &node->file_ptr);
#elif defined(HAVE_io_file_table__files)
	struct io_fixed_file *files = NULL;

	FOLLOW(files, &ring->file_table.files);
	FOLLOW(pointer, &files[slot].file_ptr);
#endif
	return (void *)(pointer & ~FILE_FLAGS);
}

int on_uring_open(struct bpf_raw_tracepoint_args *ctx)
{
	struct io_kiocb *request = (void *)ctx->args[1];
	struct completion done = {};
	struct file *file = NULL;
	u32 slot = 0;
	u64 open_flags = 0;

	if (is_shed())
		return 0;
	read_completion(&done, ctx);
	if ((done.opcode != IORING_OP_OPENAT && done.opcode != IORING_OP_OPENAT2) || done.result < 0)
		return 0;
#ifdef HAVE_io_open__file_slot
	READ(open_flags, &((struct io_open *)request)->how.flags);
	READ(slot, &((struct io_open *)request)->file_slot);
	if (slot) {             /* counted from 1, or ~0: any free one, which is the result */
		file = file_in_ring(request, slot == ~0U ? done.result : slot - 1);
		if (!file)
			return 0;
	}
#endif
	hand_over(ctx, file, done.result, open_flags, FLAG_IO_URING);
	return 0;
}
#endif

static __always_inline int record_open(struct file *file, u32 open_flags, u32 marks)
{
	u32 mode = 0, watched;
	struct inode *inode = NULL;
	struct file_facts facts = {};
	u16 kind = 0;

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
		if (watched & WATCH_INODE)
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

/* By tail call, so that there is one of it. */
int emit_open(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0, fd, open_flags, marks;
	struct opened *opened = openings.lookup(&zero);
	struct file *file;

	if (!opened)
		return 0;
	file = opened->file;
	fd = opened->fd;
	open_flags = opened->open_flags;
	marks = opened->marks;
	vacate(&opened->busy);
	if (!file)
		file = file_of(fd);
	return file ? record_open(file, open_flags, marks) : 0;
}

/* The kernel has decided to open: the flags of the call are still in the file. */
static __always_inline void record_decision(struct file *file, u32 marks)
{
	u32 mode = 0, flags = 0;

	READ(mode, &file->f_mode);
	READ(flags, &file->f_flags);
	if (!(mode & FMODE_NOACCOUNT))      /* else a file system, of the file that lies below its own */
		record_open(file, flags, marks);
}

static __always_inline void decided_file_open(u64 file, u64 b, u64 c, u64 d)
{
	record_decision((void *)file, is_io_worker() ? FLAG_IO_URING : 0);
}
ON_DECISION(file_open, 1)

#ifndef HAVE_URING_COMPLETE
int kprobe_uring_security_file_open(struct pt_regs *ctx)
{
	struct file *file = NULL;

	if (is_shed() || !in_uring())
		return 0;
	READ(file, &ctx->di);
	record_decision(file, FLAG_IO_URING);
	return 0;
}
#endif
