/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Names and identities of what a file or descriptor stands for, read from the kernel's own structures.
 */
#define MAX_DEPTH 64        /* components and mounts of a path walk; deeper is cut and marked */
#define COMPONENT_MAX 256   /* NAME_MAX and its NUL */

struct dentry_head {        /* d_parent and d_name lie side by side in every kernel so far */
	struct dentry *parent;
	struct qstr name;
};
_Static_assert(__builtin_offsetof(struct dentry, d_name) == __builtin_offsetof(struct dentry, d_parent) + 8,
	       "dentry_head");

/* Walk from a dentry to the root of its mount namespace, names leaf first. */
static __always_inline u32 put_path(struct scratch *s, struct dentry *dentry, struct vfsmount *vfsmount)
{
	struct mount *mount = (void *)vfsmount - __builtin_offsetof(struct mount, mnt), *parent = NULL;
	struct dentry *root = NULL;
	u32 start = s->length, end = 0;

	if (!dentry || !vfsmount)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_DEPTH; i++) {
		struct dentry_head head = {};
		u32 offset;
		long length;
		int ok;

		READ(root, &vfsmount->mnt_root);
		READ(head, &dentry->d_parent);
		if (dentry == root) {
			READ(parent, &mount->mnt_parent);
			if (parent == mount || !parent) {
				end = 1;
				break;
			}
			READ(dentry, &mount->mnt_mountpoint);
			mount = parent;
			vfsmount = &mount->mnt;
			continue;
		}
		offset = text_offset(s, &ok);
		if (!ok || offset - start > CAP_FILE_OPEN_PATH - COMPONENT_MAX)
			break;
		length = bpf_probe_read_kernel_str(s->data + offset, COMPONENT_MAX, head.name.name);
		if (length < 0)
			break;
		s->length = offset + length;
		if (dentry == head.parent)      /* no name above it: a memfd, or cut off from the tree */
			break;
		dentry = head.parent;
	}
	if (!end)
		s->flags |= FLAG_PATH_CUT;
	return TEXT_WORD(start, s->length - start);
}

static __always_inline struct file *file_of(u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct fdtable *table = NULL;
	struct file **slots = NULL, *file = NULL;
	u32 max = 0;

	READ(files, &task->files);
	READ(table, &files->fdt);
	READ(max, &table->max_fds);
	if (!table || fd >= max)
		return NULL;
	READ(slots, &table->fd);
	READ(file, slots + fd);
	return file;
}

struct file_place {         /* struct path: mount, then dentry */
	struct vfsmount *mnt;
	struct dentry *dentry;
};

static __always_inline u32 put_file_path(struct scratch *s, struct file *file)
{
	struct file_place place = {};

	READ(place, &file->f_path);
	return put_path(s, place.dentry, place.mnt);
}

/* A file system object's identity, in one read of the inode where the kernel allows. */
struct file_facts {
	u64 inode;
	u32 dev;
	u32 mode;
	u32 uid;
	u32 gid;
	u32 links;
	u32 magic;
};

static __always_inline void read_facts(struct file_facts *facts, struct inode *inode)
{
	struct super_block *sb = NULL;
	u16 mode = 0;
	u64 magic = 0;

	READ(mode, &inode->i_mode);
	facts->mode = mode;
	READ(facts->uid, &inode->i_uid);
	READ(facts->gid, &inode->i_gid);
	READ(facts->inode, &inode->i_ino);
	READ(facts->links, &inode->i_nlink);
	READ(sb, &inode->i_sb);
	READ(facts->dev, &sb->s_dev);
	READ(magic, &sb->s_magic);
	facts->magic = magic;
}

#define TMPFS_MAGIC 0x01021994
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#define MEMFD_PREFIX 0x3a64666d656dULL      /* "memfd:", little endian */

/* Marks that only the kernel's objects can tell. */
static __always_inline u32 file_marks(struct file *file, struct inode *inode, struct file_facts *facts)
{
	struct file_place place = {};
	struct dentry_head head = {};
	u64 text = 0;
	void *hashed = NULL, *upper = NULL;
	u32 marks = 0;

	READ(place, &file->f_path);
	READ(head, &place.dentry->d_parent);
	bpf_probe_read_kernel(&hashed, sizeof(hashed), (void *)&place.dentry->d_hash + 8);
	if (facts->magic == TMPFS_MAGIC && place.dentry == head.parent) {
		bpf_probe_read_kernel(&text, sizeof(text), (void *)head.name.name);
		if ((text & 0xffffffffffffULL) == MEMFD_PREFIX)
			marks |= FLAG_MEMFD;
	}
	if (!facts->links || (!hashed && place.dentry != head.parent))
		marks |= FLAG_DELETED;
	if (facts->magic == OVERLAYFS_SUPER_MAGIC) {
		/* struct ovl_inode: vfs_inode is followed by __upperdentry since 4.19 */
		READ(upper, (void *)inode + sizeof(struct inode));
		if (upper)
			marks |= FLAG_UPPER;
	}
	if ((facts->mode & 0170000) == 0040000)
		marks |= FLAG_DIRECTORY;
	return marks;
}
