/* files DIR (absolute, empty) [N=23] [M=7]: files opened, made, named, renamed, removed, marked.
 *
 * N times the opens that programs use daily, M times each of the rarer ways. `path` of an operation is
 * the real absolute path, asked from the kernel through the descriptor where there is one.
 */
#include "workload.h"
#include <dirent.h>
#include <linux/openat2.h>

static const char *directory;
static int directory_fd;

static void row(const char *op, const char *how, const char *path, long long result)
{
	json_open(NULL, '{');
	json_str("op", op);
	json_str("how", how);
	json_str("path", path);
	json_num("errno", result < 0 ? -result : 0);
}

static void row_end(const char *op, const char *how, const char *path, long long result)
{
	row(op, how, path, result);
	json_close('}');
}

/* One open that worked: what the descriptor says is the truth. Without a readable name (too long) it is `known`. */
static void opened(const char *how, int fd, int flags, int created, const char *known)
{
	char *link = text("/proc/self/fd/%d", (int)must(fd, how)), real[8192];
	ssize_t n = readlink(link, real, sizeof real - 1);
	struct stat s;
	must(fstat(fd, &s), "fstat");
	if (n < 0 && !known)
		die(78, "workload: readlink %s", how);
	if (n >= 0)
		real[n] = 0;
	if (n > 10 && !s.st_nlink)
		real[n - 10] = 0; /* " (deleted)" */
	row("open", how, n < 0 ? known : real, 0);
	json_num("inode", (long long)s.st_ino);
	json_num("device", (long long)(major(s.st_dev) << 20 | minor(s.st_dev)));
	json_num("mode", s.st_mode);
	json_num("uid", s.st_uid);
	json_num("gid", s.st_gid);
	json_num("links", (long long)s.st_nlink);
	json_num("flags", flags);
	json_num("created", created);
	json_close('}');
	free(link);
	close(fd);
}

static char *under(const char *format, long i)
{
	char *name = text(format, i), *path = text("%s/%s", directory, name);
	free(name);
	return path;
}

static void make(const char *path)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL;
	opened("make", (int)syscall(SYS_open, path, flags, 0640), flags, 1, NULL);
}

static void opens(long n)
{
	const int create = O_WRONLY | O_CREAT | O_CLOEXEC, both = O_RDWR | O_CLOEXEC;
	for (long i = 0; i < n; i++) {
		char *path = under("absolute-%ld", i), *name = strrchr(path, '/') + 1;
		opened("create", (int)syscall(SYS_open, path, create | O_EXCL, 0640), create | O_EXCL, 1, NULL);
		opened("absolute", open(path, both), both, 0, NULL);
		opened("dirfd", openat(directory_fd, name, O_WRONLY), O_WRONLY, 0, NULL);
		opened("cwd", openat(AT_FDCWD, name, O_WRONLY | O_APPEND), O_WRONLY | O_APPEND, 0, NULL);
		opened("truncate", open(path, O_WRONLY | O_TRUNC), O_WRONLY | O_TRUNC, 0, NULL);
		opened("create-existing", open(path, create, 0640), create, 0, NULL);
		char *link = under("link-%ld", i), *far = under("way/../dots/.././link-%ld", i);
		must(symlink(name, link), link);
		opened("symlink", open(link, O_WRONLY), O_WRONLY, 0, NULL);
		opened("dots", open(far, O_WRONLY), O_WRONLY, 0, NULL);
	}
}

static void opens_rare(long m)
{
	char *through = text("%s/directory-link", directory);
	must(mkdir(under("real-directory", 0), 0755), "mkdir");
	must(symlink("real-directory", through), through);
	for (long i = 0; i < m; i++) {
		struct open_how how = {.flags = O_WRONLY | O_CREAT, .mode = 0600, .resolve = RESOLVE_BENEATH};
		char *name = text("openat2-%ld", i);
		opened("openat2", (int)syscall(SYS_openat2, directory_fd, name, &how, sizeof how), (int)how.flags, 1, NULL);
		opened("creat", (int)syscall(SYS_creat, under("creat-%ld", i), 0600), O_WRONLY | O_CREAT | O_TRUNC, 1, NULL);
		opened("directory-link", open(text("%s/made-%ld", through, i), O_WRONLY | O_CREAT, 0600), O_WRONLY | O_CREAT, 1,
		       NULL);
		opened("proc-root", open(text("/proc/self/root%s/creat-%ld", directory, i), O_WRONLY), O_WRONLY, 0, NULL);
		int mount_id;
		char handle[sizeof(struct file_handle) + MAX_HANDLE_SZ] __attribute__((aligned(8)));
		struct file_handle *h = (struct file_handle *)handle;
		h->handle_bytes = MAX_HANDLE_SZ;
		if (!name_to_handle_at(AT_FDCWD, under("creat-%ld", i), h, &mount_id, 0)) {
			int fd = open_by_handle_at(directory_fd, h, O_WRONLY);
			if (fd >= 0)
				opened("handle", fd, O_WRONLY, 0, NULL);
		}
		int path_fd = (int)must(open(under("creat-%ld", i), O_PATH), "O_PATH");
		opened("reopen", open(text("/proc/self/fd/%d", path_fd), O_WRONLY), O_WRONLY, 0, NULL);
		close(path_fd);
		int unnamed = open(directory, O_TMPFILE | O_RDWR, 0600);
		if (unnamed >= 0)
			opened("unnamed", unnamed, O_TMPFILE | O_RDWR, 1, NULL);
	}
}

/* open() through the 32-bit table; the path must lie below 4 GiB. -ENOSYS where the kernel has none. */
static void opens_compat(long m)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		die(79, "workload: mmap 32");
	for (long i = 0; i < m; i++) {
		long fd;
		snprintf(low, 4096, "%s/compat-%ld", directory, i);
		__asm__ volatile("int $0x80"
				 : "=a"(fd)
				 : "a"(5L), "b"((long)low), "c"((long)(O_WRONLY | O_CREAT)), "d"(0600L)
				 : "memory", "r8", "r9", "r10", "r11");
		if ((int)fd == -ENOSYS)
			return;
		opened("compat", (int)fd, O_WRONLY | O_CREAT, 1, NULL);
	}
}

/* None of these may make an event: the first fail, the others only read files that nobody watches. */
static void quiet(long m)
{
	char *path = under("absolute-%ld", 0);
	for (long i = 0; i < m; i++) {
		row_end("quiet", "missing", under("no-such-%ld", i), open(under("no-such-%ld", i), O_WRONLY));
		row_end("quiet", "exclusive", path, open(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
		int fd = (int)must(open(path, O_RDONLY), path);
		row_end("quiet", "read", path, 0);
		close(fd);
		row_end("quiet", "unlink", path, unlink(under("no-such-%ld", i)));
		row_end("quiet", "rename", path, rename(under("no-such-%ld", i), path));
		row_end("quiet", "mkdir", directory, mkdir(directory, 0700));
		row_end("quiet", "chmod", directory, chmod(under("no-such-%ld", i), 0700));
	}
}

static void two(const char *op, const char *how, const char *source, const char *path)
{
	row(op, how, path, 0);
	json_str("source", source);
	json_close('}');
}

static void renames(long n)
{
	for (long i = 0; i < n; i++) {
		char *a = under("before-%ld", i), *b = under("after-%ld", i), *c = under("again-%ld", i);
		char *b_name = strrchr(b, '/') + 1, *c_name = strrchr(c, '/') + 1;
		make(a);
		must(rename(a, b), "rename");
		two("rename", "absolute", a, b);
		must(renameat(directory_fd, b_name, AT_FDCWD, c_name), "renameat");
		two("rename", "relative", b, c);
		make(a);
		must(syscall(SYS_renameat2, AT_FDCWD, a, directory_fd, c_name, RENAME_EXCHANGE), "exchange");
		two("rename", "exchange", a, c);
		must(syscall(SYS_renameat2, AT_FDCWD, a, directory_fd, b_name, RENAME_NOREPLACE), "noreplace");
		two("rename", "noreplace", a, b);
		must(rename(b_name, c), "replace");
		two("rename", "replace", b, c);
	}
}

static void links(long m)
{
	for (long i = 0; i < m; i++) {
		char *file = under("absolute-%ld", i), *hard = under("hard-%ld", i), *soft = under("soft-%ld", i);
		must(link(file, hard), "link");
		two("link", "absolute", file, hard);
		char *again = under("hard-again-%ld", i);
		must(linkat(AT_FDCWD, strrchr(file, '/') + 1, directory_fd, strrchr(again, '/') + 1, 0), "linkat");
		two("link", "relative", file, again);
		must(symlink("../any text", soft), "symlink");
		two("symlink", "absolute", "../any text", soft);
		char *other = under("soft-again-%ld", i);
		must(symlinkat("absolute-0", directory_fd, strrchr(other, '/') + 1), "symlinkat");
		two("symlink", "relative", "absolute-0", other);
	}
}

static void mode(const char *how, const char *path, unsigned bits)
{
	row("chmod", how, path, 0);
	json_num("mode", bits);
	json_close('}');
}

static void owner(const char *how, const char *path, long uid, long gid)
{
	row("chown", how, path, 0);
	json_num("uid", uid);
	json_num("gid", gid);
	json_close('}');
}

static void marks(long m)
{
	for (long i = 0; i < m; i++) {
		char *path = under("absolute-%ld", i), *name = strrchr(path, '/') + 1;
		int fd = (int)must(open(path, O_RDONLY), path);
		must(chmod(path, 0601), "chmod");
		mode("absolute", path, 0601);
		must(chmod(name, 0602), "chmod");
		mode("relative", path, 0602);
		must(fchmod(fd, 04711), "fchmod");
		mode("descriptor", path, 04711);
		must(fchmodat(directory_fd, name, 0604, 0), "fchmodat");
		mode("dirfd", path, 0604);
		must(chown(path, 65534, 65533), "chown");
		owner("absolute", path, 65534, 65533);
		must(fchown(fd, 65532, -1), "fchown");
		owner("descriptor", path, 65532, 4294967295L);
		must(fchownat(directory_fd, name, (uid_t)-1, 65531, 0), "fchownat");
		owner("dirfd", path, 4294967295L, 65531);
		must(lchown(under("link-%ld", i), 0, 0), "lchown");
		owner("link", under("link-%ld", i), 0, 0);
		close(fd);
	}
}

static void directories(long m)
{
	for (long i = 0; i < m; i++) {
		char *a = under("new-%ld", i), *b = under("new-at-%ld", i);
		must(mkdir(a, 0750), a);
		mode("absolute", a, 0750);
		must(mkdirat(directory_fd, strrchr(b, '/') + 1, 0711), b);
		mode("dirfd", b, 0711);
	}
}

static void removals(long n, long m)
{
	for (long i = 0; i < n; i++) {
		char *a = under("absolute-%ld", i), *b = under("link-%ld", i);
		must(unlink(a), a);
		row_end("unlink", "absolute", a, 0);
		must(unlink(strrchr(b, '/') + 1), b);
		row_end("unlink", "relative", b, 0);
	}
	for (long i = 0; i < m; i++) {
		char *a = under("openat2-%ld", i), *b = under("new-%ld", i), *c = under("new-at-%ld", i);
		must(unlinkat(directory_fd, strrchr(a, '/') + 1, 0), a);
		row_end("unlink", "dirfd", a, 0);
		must(rmdir(b), b);
		row_end("rmdir", "absolute", b, 0);
		must(unlinkat(directory_fd, strrchr(c, '/') + 1, AT_REMOVEDIR), c);
		row_end("rmdir", "dirfd", c, 0);
		char *d = text("%s/directory-link/made-%ld", directory, i);
		must(unlink(d), d);
		row("unlink", "directory-link", text("%s/real-directory/made-%ld", directory, i), 0);
		json_str("argument", d);
		json_close('}');
	}
}

/* Directories one below the other, reached by relative steps: `depth` components of `length` bytes, and a file. */
static void deep(const char *how, int depth, int length)
{
	char *path = text("%s", directory);
	int fd = dup(directory_fd);
	for (int i = 0; i < depth; i++) {
		char *name = text("%0*d", length, i), *longer = text("%s/%s", path, name);
		must(mkdirat(fd, name, 0700), how);
		int next = (int)must(openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), how);
		close(fd);
		free(path);
		fd = next;
		path = longer;
	}
	int flags = O_WRONLY | O_CREAT;
	opened(how, openat(fd, "leaf", flags, 0600), flags, 1, text("%s/leaf", path));
	must(unlinkat(fd, "leaf", 0), how);
	row_end("unlink-deep", how, text("%s/leaf", path), 0);
	close(fd);
}

static void odd_names(void)
{
	static const char *names[] = {"new\nline", "\033[2Jescape", "\xff\xfe", "quo\"te'`", "back\\slash", "\\x0a", " space ",
				      "tab\t", "\xc3\xa9t\xc3\xa9", "\xe2\x80\xaeltr", "{\"a\":[1]}", "comma,semi;pipe|",
				      "\x01\x7f", "\xed\xa0\x80", "%s%n", "-rf", "\xf0\x9f\x92\xa9"};
	static char longest[256];
	memset(longest, 'n', 255);
	const int flags = O_WRONLY | O_CREAT | O_EXCL;
	for (unsigned i = 0; i <= sizeof names / sizeof *names; i++) {
		const char *name = i < sizeof names / sizeof *names ? names[i] : longest;
		char *path = text("%s/%s", directory, name);
		opened("odd", open(path, flags, 0600), flags, 1, NULL);
		must(unlink(path), "unlink odd");
		row_end("unlink", "odd", path, 0);
	}
}

int main(int argc, char **argv)
{
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	long n = number(argc, argv, 2, 23), m = number(argc, argv, 3, 7);
	directory = argv[1];
	umask(0);
	must(chdir(directory), directory);
	directory_fd = (int)must(open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), directory);
	must(mkdir("way", 0755), "way");
	must(mkdir("dots", 0755), "dots");
	json_self("files");
	json_open("operations", '[');
	opens(n);
	opens_rare(m);
	opens_compat(m);
	odd_names();
	quiet(m);
	links(m);
	renames(n);
	marks(m);
	json_close(']');
	json_open("mkdirs", '[');
	directories(m);
	json_close(']');
	json_open("removals", '[');
	removals(n, m);
	json_close(']');
	json_open("deep", '[');
	deep("deep", 75, 3);
	deep("long", 30, 199);
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
