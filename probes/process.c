/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      process_fork, process_exec, process_exit.
 * Why here   The scheduler's tracepoints fire once the kernel has committed: no argument of a
 *            system call can be raced, no failed call has to be undone in user space.
 * Hooks      hook-proto: include/trace/events/sched.h: sched_process_fork(parent, child)
 *            hook-proto: include/trace/events/sched.h: sched_process_exec(p, old_pid, bprm)
 *            hook-proto: include/trace/events/sched.h: sched_process_exit(p[, group_dead])
 * Misses     Failed execve(); processes older than the loader (read from /proc instead).
 * Cost       One record per process and none per thread, for which one array is looked up (the canary's threads
 *            are counted); an exec walks two paths.
 * Invariant  Never filtered: the process table in user space is built from these three.
 */
static __always_inline u32 tgid_of(struct task_struct *task)
{
	u32 tgid = 0;

	READ(tgid, &task->tgid);
	return tgid;
}

/* A process id as its own pid namespace numbers it: the deepest struct upid. */
static __always_inline u32 inner_pid(struct pid *pid)
{
	u32 level = 0, number = 0;

	READ(level, &pid->level);
	if (level > 32)             /* MAX_PID_NS_LEVEL */
		return 0;
	READ(number, (void *)pid + __builtin_offsetof(struct pid, numbers) + level * sizeof(struct upid));
	return number;
}

int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *child = (void *)ctx->args[1], *parent = NULL;
	struct pid *pid = NULL;
	u32 tid = 0, tgid = tgid_of(child);

	READ(tid, &child->pid);
	if (tid != tgid) {
		struct counter *seen = canary();

		if (seen)
			seen->emitted++;
		return 0;
	}
	BEGIN(s, e, event_process_fork, EVENT_PROCESS_FORK);
	e->child_pid = tgid;
	READ(pid, &child->thread_pid);
	e->child_ns_pid = inner_pid(pid);
	READ(e->child_start_ns, &child->start_boottime);
	READ(parent, &child->real_parent);
	e->parent_pid = tgid_of(parent);
	e->parent_start_ns = start_of(parent);
	commit(s);
	return 0;
}

static __always_inline void exec_identity(struct event_process_exec *e, struct task_struct *task)
{
	const struct cred *cred = NULL;
	struct task_struct *parent = NULL;
	struct nsproxy *nsproxy = NULL;
	struct signal_struct *signal = NULL;
	struct pid *pid = NULL;
	void *namespace = NULL;
	u32 level = 0;

	READ(parent, &task->real_parent);
	e->parent_pid = tgid_of(parent);
	e->parent_start_ns = start_of(parent);
	READ(cred, &task->cred);
	READ(e->real_uid, &cred->uid);
	READ(e->real_gid, &cred->gid);
	READ(e->saved_uid, &cred->suid);
	bpf_probe_read_kernel(&e->capabilities, 8, (void *)&cred->cap_effective);
	READ(namespace, &cred->user_ns);
	READ_INUM(e->userns, user_namespace, namespace);
	e->login_uid = e->audit_session = ~0U;
#ifdef HAVE_task_struct__loginuid
	READ(e->login_uid, &task->loginuid);
	READ(e->audit_session, &task->sessionid);
#endif
	READ(nsproxy, &task->nsproxy);
	READ(namespace, &nsproxy->net_ns);
	READ_INUM(e->netns, net, namespace);
	READ(pid, &task->thread_pid);
	e->ns_pid = inner_pid(pid);
	READ(level, &pid->level);
	if (level <= 32) {
		READ(namespace, (void *)pid + __builtin_offsetof(struct pid, numbers) +
		     level * sizeof(struct upid) + __builtin_offsetof(struct upid, ns));
		READ_INUM(e->pidns, pid_namespace, namespace);
	}
	READ(signal, &task->signal);
	READ(pid, &signal->pids[3]);        /* PIDTYPE_SID */
	READ(e->session_pid, (void *)pid + __builtin_offsetof(struct pid, numbers));
}

static __always_inline void exec_file(struct scratch *s, struct event_process_exec *e, struct file *file)
{
	struct file_facts facts = {};
	struct inode *inode = NULL;

	READ(inode, &file->f_inode);
	read_facts(&facts, inode);
	e->inode = facts.inode;
	e->dev = facts.dev;
	e->mode = facts.mode;
	e->owner_uid = facts.uid;
	e->links = facts.links;
	s->flags |= file_marks(file, inode, &facts);
	e->executable = put_file_path(s, file);
}

static __always_inline u32 put_tty(struct scratch *s, struct task_struct *task)
{
	struct signal_struct *signal = NULL;
	struct tty_struct *tty = NULL;

	READ(signal, &task->signal);
	READ(tty, &signal->tty);
	return tty ? put_kernel(s, &tty->name, CAP_PROCESS_EXEC_TTY) : 0;
}

static __always_inline u32 put_cwd(struct scratch *s, struct task_struct *task)
{
	struct fs_struct *fs = NULL;
	struct file_place pwd = {};

	READ(fs, &task->fs);
	READ(pwd, &fs->pwd);
	return put_path(s, pwd.dentry, pwd.mnt);
}

#ifdef HAVE_kernfs_node____parent          /* renamed in 6.15 */
#define KERNFS_PARENT(node) (&(node)->__parent)
#else
#define KERNFS_PARENT(node) (&(node)->parent)
#endif

/* The cgroup v2 path, names leaf first. */
static __always_inline u32 put_cgroup(struct scratch *s, struct task_struct *task)
{
	struct css_set *set = NULL;
	struct cgroup *cgroup = NULL;
	struct kernfs_node *node = NULL, *parent = NULL;
	u32 start = s->length;

	READ(set, &task->cgroups);
	READ(cgroup, &set->dfl_cgrp);
	READ(node, &cgroup->kn);
#pragma clang loop unroll(disable)
	for (int i = 0; i < 16; i++) {
		const char *name = NULL;
		u32 offset;
		long length;
		int ok;

		if (!node)
			break;
		READ(parent, KERNFS_PARENT(node));
		if (!parent)
			break;
		offset = text_offset(s, &ok);
		if (!ok || offset - start > CAP_PROCESS_EXEC_CGROUP - COMPONENT_MAX)
			break;
		READ(name, &node->name);
		length = bpf_probe_read_kernel_str(s->data + offset, COMPONENT_MAX, name);
		if (length < 0)
			break;
		s->length = offset + length;
		node = parent;
	}
	return TEXT_WORD(start, s->length - start);
}

int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	struct linux_binprm *bprm = (void *)ctx->args[2];
	struct mm_struct *mm = NULL;
	struct file *file = NULL;
	const char *filename = NULL, *interpreter = NULL, *fdpath = NULL;
	u64 start = 0, end = 0;

	BEGIN(s, e, event_process_exec, EVENT_PROCESS_EXEC);
	exec_identity(e, task);
	READ(file, &bprm->file);
	exec_file(s, e, file);
	READ(filename, &bprm->filename);
	READ(interpreter, &bprm->interp);
	READ(fdpath, &bprm->fdpath);
	if (fdpath)
		s->flags |= FLAG_FD_EXEC;
	e->filename = put_kernel(s, filename, CAP_PROCESS_EXEC_FILENAME);
	if (interpreter != filename) {
		s->flags |= FLAG_SCRIPT;
		e->interpreter = put_kernel(s, interpreter, CAP_PROCESS_EXEC_INTERPRETER);
	}
	e->cwd = put_cwd(s, task);
	e->cgroup = put_cgroup(s, task);
	e->tty = put_tty(s, task);
	READ(e->argc, &bprm->argc);
	READ(mm, &task->mm);
	READ(start, &mm->arg_start);
	READ(end, &mm->arg_end);
	e->argv_bytes = end - start;
	e->argv = put_user_bytes(s, (void *)start, end - start, CAP_PROCESS_EXEC_ARGV);
	commit(s);
	return 0;
}

int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0], *leader = NULL;
	struct signal_struct *signal = NULL;
	s32 live = 0, code = 0;

	READ(signal, &task->signal);
	READ(live, &signal->live);
	if (live) {                 /* counted down before this hook: 0 is the last thread */
		struct counter *seen = canary();

		if (seen)
			seen->lost++;
		return 0;
	}
	BEGIN(s, e, event_process_exit, EVENT_PROCESS_EXIT);
	READ(leader, &task->group_leader);
	READ(code, &leader->exit_code);
#ifdef HAVE_signal_struct__group_exit_code
	{
		u32 flags = 0;

		READ(flags, &signal->flags);
		if (flags & 4)          /* SIGNAL_GROUP_EXIT: exit_group() or a fatal signal */
			READ(code, &signal->group_exit_code);
	}
#endif
	e->exit_code = code >> 8 & 0xff;
	e->exit_signal = code & 0x7f;
	commit(s);
	return 0;
}
