/* ways DIR (absolute, empty, root's) [M=7] [SECRET=/etc/shadow]: files opened by ways around their usual name.
 *
 * M times each: bind mounts, overlays, mount namespaces, other root directories, detached mounts, another
 * process's root, handles, the 32-bit table, descriptors that somebody else opened; and files cut without an
 * open. SECRET is only read (and gets a second name for a moment), for the sensor watches it. `path` is what
 * the opener's mount namespace calls the file, or the namespace that the mount belongs to. Mounts are made in
 * namespaces of its own. What the kernel or file system refuses is not reported as done.
 */
#include "workload.h"
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/socket.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
static const char *directory, *secret, *secret_name;
static char *secret_directory;
static long m;

static long long namespace_id(void)
{
	struct stat s;
	must(stat("/proc/self/ns/mnt", &s), "ns/mnt");
	return (long long)s.st_ino;
}

/* Somebody holds `path` open by `fd`: who opened it (or has got it), and from which mount namespace. */
static void told(const char *op, const char *how, const char *path, int fd, pid_t pid, long long mntns)
{
	struct stat s;
	must(fstat((int)must(fd, how), &s), how);
	json_open(NULL, '{');
	json_str("op", op);
	json_str("how", how);
	json_str("path", path);
	json_num("inode", (long long)s.st_ino);
	json_num("pid", pid);
	json_num("mntns", mntns);
	json_close('}');
}

static void opened(const char *op, const char *how, const char *path, int fd)
{
	told(op, how, path, fd, getpid(), namespace_id());
	close(fd);
}

static char *under(const char *format, long i)
{
	char *name = text(format, i), *path = text("%s/%s", directory, name);
	free(name);
	return path;
}

static char *made(const char *name)
{
	char *path = text("%s/%s", directory, name);
	must(mkdir(path, 0755), path);
	return path;
}

static const int create = O_WRONLY | O_CREAT | O_CLOEXEC;

static void touch(const char *path)
{
	close((int)must(open(path, create, 0600), path));
}

static void enter(void)
{
	must(unshare(CLONE_NEWNS), "unshare");
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
}

static void by_openat2(void)
{
	struct open_how how = {.flags = O_RDONLY};
	int at = (int)must(open(secret_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), secret_directory);
	for (long i = 0; i < m; i++)
		opened("read", "openat2", secret, (int)syscall(SYS_openat2, at, secret_name, &how, sizeof how));
}

static void by_symlink(void)
{
	char *link = text("%s/link", directory);
	must(symlink(secret, link), link);
	for (long i = 0; i < m; i++)
		opened("read", "symlink", secret, open(link, O_RDONLY));
}

static void by_proc_root(void)
{
	char *path = text("/proc/self/root%s", secret);
	for (long i = 0; i < m; i++)
		opened("read", "proc-root", secret, open(path, O_RDONLY));
}

static void by_dots(void)
{
	char *path = text("%s/..%s/./%s", secret_directory, strrchr(secret_directory, '/'), secret_name);
	for (long i = 0; i < m; i++)
		opened("read", "dots", secret, open(path, O_RDONLY));
}

static void by_reopening(void)
{
	char *path = text("/proc/self/fd/%d", (int)must(open(secret, O_PATH | O_CLOEXEC), "O_PATH"));
	for (long i = 0; i < m; i++)
		opened("read", "reopen", secret, open(path, O_RDONLY));
}

static void by_handle(void)
{
	char space[sizeof(struct file_handle) + MAX_HANDLE_SZ] __attribute__((aligned(8)));
	struct file_handle *handle = (struct file_handle *)space;
	int mount_id, at = (int)must(open(secret_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), secret_directory);
	handle->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, secret, handle, &mount_id, 0))
		return;
	for (long i = 0; i < m; i++)
		opened("read", "handle", secret, open_by_handle_at(at, handle, O_RDONLY));
}

/* Through the 32-bit table; the path must lie below 4 GiB. -ENOSYS where the kernel has none. */
static void by_compat(void)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		die(79, "workload: mmap 32");
	snprintf(low, 4096, "%s", secret);
	for (long i = 0; i < m; i++) {
		long fd;
		__asm__ volatile("int $0x80"
				 : "=a"(fd)
				 : "a"(5L), "b"((long)low), "c"((long)O_RDONLY), "d"(0L)
				 : "memory", "r8", "r9", "r10", "r11");
		if ((int)fd == -ENOSYS)
			return;
		opened("read", "compat", secret, (int)fd);
	}
}

static void by_hard_link(void)
{
	char *hard = text("%s/.ways-%d", secret_directory, getpid());
	if (linkat(AT_FDCWD, secret, AT_FDCWD, hard, 0))
		return;
	for (long i = 0; i < m; i++)
		opened("read", "hard link", hard, open(hard, O_RDONLY));
	must(unlink(hard), hard);
}

static void binds(void)
{
	char *file = under("bound-file", 0), *known = under("known-file", 0), *other = under("other-file", 0);
	char *etc = made("bound-directory"), *real = made("known-directory"), *alias = made("other-directory");
	touch(file);
	touch(known);
	touch(other);
	enter();
	must(mount(secret, file, NULL, MS_BIND, NULL), "bind");
	must(mount(known, other, NULL, MS_BIND, NULL), "bind");
	must(mount(secret_directory, etc, NULL, MS_BIND, NULL), "bind");
	must(mount(real, alias, NULL, MS_BIND, NULL), "bind");
	for (long i = 0; i < m; i++) {
		char *path = text("%s/%s", etc, secret_name), *new = text("%s/new-%ld", alias, i);
		opened("read", "bind file", file, open(file, O_RDONLY));
		opened("read", "bind directory", path, open(path, O_RDONLY));
		opened("open", "bind file", other, open(other, O_WRONLY));
		opened("open", "bind directory", new, open(new, create, 0600));
	}
}

static void namespaces(void)
{
	char *private = made("private"), *hidden = made("hidden");
	enter();
	must(mount("none", private, "tmpfs", 0, NULL), "tmpfs");
	must(chdir(hidden), hidden);
	must(mount("none", hidden, "tmpfs", 0, NULL), "tmpfs");
	for (long i = 0; i < m; i++) {
		char *path = text("%s/new-%ld", private, i), *below = text("below-%ld", i);
		opened("read", "namespace", secret, open(secret, O_RDONLY));
		opened("open", "namespace", path, open(path, create, 0600));
		opened("open", "under a mount", text("%s/%s", hidden, below), open(below, create, 0600));
	}
}

static void detached(void)
{
	int etc = (int)syscall(SYS_open_tree, AT_FDCWD, secret_directory, OPEN_TREE_CLONE | O_CLOEXEC);
	int here = (int)syscall(SYS_open_tree, AT_FDCWD, directory, OPEN_TREE_CLONE | O_CLOEXEC);
	if (etc < 0 || here < 0)
		return;
	for (long i = 0; i < m; i++) {
		char *name = text("/detached-%ld", i);
		opened("read", "detached mount", text("/%s", secret_name), openat(etc, secret_name, O_RDONLY));
		opened("open", "detached mount", name, openat(here, name + 1, create, 0600));
	}
}

static void chroot_to_secret(void)
{
	long long mntns = namespace_id();
	char *name = text("/%s", secret_name);
	must(chroot(secret_directory), secret_directory);
	for (long i = 0; i < m; i++) {
		int fd = open(name, O_RDONLY);
		told("read", "chroot", secret, fd, getpid(), mntns);
		close(fd);
	}
}

static void chroot_to_directory(void)
{
	long long mntns = namespace_id();
	must(chroot(directory), directory);
	for (long i = 0; i < m; i++) {
		char *name = text("/chroot-%ld", i);
		int fd = open(name, create, 0600);
		told("open", "chroot", text("%s%s", directory, name), fd, getpid(), mntns);
		close(fd);
	}
}

/* Files of a mount that only another process has, through /proc/PID/root. */
static void neighbour(void)
{
	char *place = made("neighbour"), *innocent = text("%s/innocent", place), word;
	int ready[2], done[2];
	must(pipe2(ready, O_CLOEXEC) | pipe2(done, O_CLOEXEC), "pipe");
	pid_t child = (pid_t)must(fork(), "fork");
	if (!child) {
		close(done[1]);
		enter();
		must(mount("none", place, "tmpfs", 0, NULL), "tmpfs");
		touch(innocent);
		must(mount(secret, innocent, NULL, MS_BIND, NULL), "bind");
		must(write(ready[1], "x", 1), "write");
		_exit(read(done[0], &word, 1) != 0);
	}
	close(ready[1]);
	if (read(ready[0], &word, 1) != 1)
		die(94, "workload: neighbour");
	for (long i = 0; i < m; i++) {
		char *path = text("%s/new-%ld", place, i);
		opened("read", "root of another namespace", innocent, open(text("/proc/%d/root%s", child, innocent), O_RDONLY));
		opened("open", "root of another namespace", path, open(text("/proc/%d/root%s", child, path), create, 0600));
	}
	close(done[1]);
	must(waitpid(child, NULL, 0), "waitpid");
}

static int overlay(const char *at, const char *options)
{
	return mount("overlay", at, "overlay", 0, options);
}

static void overlays(void)
{
	char *base = made("layers"), *etc = text("%s/etc", base), *merged = text("%s/merged", base);
	enter();
	must(mount("none", base, "tmpfs", 0, NULL), "tmpfs"); /* a file system that may be an upper one */
	static const char *const names[] = {"etc", "empty", "lower", "upper", "work", "merged"};
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		must(mkdir(text("%s/%s", base, names[i]), 0755), names[i]);
	for (long i = 0; i < m; i++)
		touch(text("%s/lower/low-%ld", base, i));
	if (!overlay(etc, text("lowerdir=%s:%s/empty", secret_directory, base)))
		for (long i = 0; i < m; i++) {
			char *path = text("%s/%s", etc, secret_name);
			opened("read", "overlay lower", path, open(path, O_RDONLY));
		}
	if (!overlay(merged, text("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", base, base, base)))
		for (long i = 0; i < m; i++) {
			char *low = text("%s/low-%ld", merged, i), *new = text("%s/new-%ld", merged, i);
			opened("open-upper", "copied up", low, open(low, O_WRONLY));
			opened("open-upper", "made", new, open(new, create, 0600));
			opened("open-upper", "again", new, open(new, O_RDWR));
		}
}

/* A descriptor that another process opened, sent over a socket. */
static int receive(int from)
{
	char word, space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec one = {&word, 1};
	struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	int fd;
	must(recvmsg(from, &message, MSG_CMSG_CLOEXEC), "recvmsg");
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_type != SCM_RIGHTS)
		die(95, "workload: no descriptor");
	memcpy(&fd, CMSG_DATA(head), sizeof fd);
	return fd;
}

static void give(int to, int fd)
{
	char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
	struct iovec one = {"x", 1};
	struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(head), &fd, sizeof fd);
	must(sendmsg(to, &message, 0), "SCM_RIGHTS");
}

static void passed(void)
{
	int pair[2];
	char word;
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	pid_t child = (pid_t)must(fork(), "fork");
	if (!child) {
		close(pair[0]);
		for (long i = 0; i < m; i++) {
			give(pair[1], (int)must(open(secret, O_RDONLY | O_CLOEXEC), secret));
			int fd = (int)must(open(secret, O_RDONLY | O_CLOEXEC), secret);
			must(write(pair[1], &fd, sizeof fd), "write");
		}
		_exit(read(pair[1], &word, 1) != 0);
	}
	close(pair[1]);
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	for (long i = 0; i < m; i++) {
		int number, fd = receive(pair[0]);
		told("read", "passed", secret, fd, child, namespace_id());
		told("use", "passed", secret, fd, getpid(), namespace_id());
		close(fd);
		if (read(pair[0], &number, sizeof number) != sizeof number)
			die(96, "workload: number");
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
		if (fd >= 0) {
			told("read", "pidfd_getfd", secret, fd, child, namespace_id());
			told("use", "pidfd_getfd", secret, fd, getpid(), namespace_id());
			close(fd);
		}
	}
	close(pidfd);
	close(pair[0]);
	must(waitpid(child, NULL, 0), "waitpid");
}

static void cuts(void)
{
	for (long i = 0; i < m; i++) {
		char *path = under("cut-%ld", i);
		int fd = (int)must(open(path, create, 0600), path);
		must(ftruncate(fd, 41), "ftruncate");
		told("open", "ftruncate", path, fd, getpid(), namespace_id());
		must(truncate(path, 3), "truncate");
		told("cut", "truncate", path, fd, getpid(), namespace_id());
		close(fd);
	}
}

static void (*const ways[])(void) = {
	by_openat2,       by_symlink, by_proc_root,     by_dots,             by_reopening, by_handle, by_compat, by_hard_link, binds,
	namespaces,       detached,   chroot_to_secret, chroot_to_directory, neighbour,    overlays,  passed,    cuts,
};

int main(int argc, char **argv)
{
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	directory = argv[1];
	m = number(argc, argv, 2, 7);
	secret = argc > 3 ? argv[3] : "/etc/shadow";
	secret_name = strrchr(secret, '/') + 1;
	secret_directory = text("%.*s", (int)(secret_name - secret - 1), secret);
	must(chdir(directory), directory);
	json_self("ways");
	json_open("operations", '[');
	for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++)
		in_child(ways[i]); /* so the opener's number tells the ways apart */
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
