/* uring DIR (absolute, empty) [M=7] [SECRET=/etc/shadow]: files and names made, changed and removed, a watched file
 * read, sockets connected, datagrams sent without a system call of that name.
 *
 * Through io_uring, by its own system calls (no liburing), M times in each of three ways: carried out
 * inline by the submitter, by the kernel's worker threads (IOSQE_ASYNC), and by the thread that polls
 * the submission queue (IORING_SETUP_SQPOLL); each in a process of its own. What this kernel's io_uring
 * can't do is not reported as done. `supported` is 0 where the kernel has no io_uring.
 */
#include "workload.h"
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/utsname.h>

struct ring {
	const char *how;
	int fd, polled;
	unsigned char flags; /* of every request */
	unsigned *sq_tail, *sq_mask, *sq_array, *sq_flags, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static const char *directory, *secret;
static long m;

static int setup(struct ring *r, const char *how, unsigned setup_flags, unsigned char flags)
{
	struct io_uring_params p = {.flags = setup_flags, .sq_thread_idle = 1000};
	r->how = how;
	r->flags = flags;
	r->polled = !!(setup_flags & IORING_SETUP_SQPOLL);
	r->fd = (int)syscall(SYS_io_uring_setup, 8, &p);
	if (r->fd < 0)
		return 0;
	const int protection = PROT_READ | PROT_WRITE, map = MAP_SHARED | MAP_POPULATE;
	size_t sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
	size_t cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	char *sq = mmap(NULL, sq_size, protection, map, r->fd, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, cq_size, protection, map, r->fd, IORING_OFF_CQ_RING);
	r->sqes = mmap(NULL, p.sq_entries * sizeof *r->sqes, protection, map, r->fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)r->sqes == MAP_FAILED)
		die(91, "workload: ring");
	r->sq_tail = (unsigned *)(sq + p.sq_off.tail);
	r->sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
	r->sq_array = (unsigned *)(sq + p.sq_off.array);
	r->sq_flags = (unsigned *)(sq + p.sq_off.flags);
	r->cq_head = (unsigned *)(cq + p.cq_off.head);
	r->cq_tail = (unsigned *)(cq + p.cq_off.tail);
	r->cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
	r->cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
	return 1;
}

static int carry_out(struct ring *r, struct io_uring_sqe request)
{
	unsigned tail = *r->sq_tail, index = tail & *r->sq_mask, enter = IORING_ENTER_GETEVENTS;
	r->sqes[index] = request;
	r->sqes[index].flags |= r->flags;
	r->sq_array[index] = index;
	atomic_store_explicit((_Atomic unsigned *)r->sq_tail, tail + 1, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst); /* the thread goes to sleep only with its flag up */
	if (r->polled && atomic_load_explicit((_Atomic unsigned *)r->sq_flags, memory_order_acquire) & IORING_SQ_NEED_WAKEUP)
		enter |= IORING_ENTER_SQ_WAKEUP;
	must(syscall(SYS_io_uring_enter, r->fd, !r->polled, 1, enter, NULL, 0), "io_uring_enter");
	unsigned head = *r->cq_head;
	/* 5.10 can come back from the wait for one with none. */
	for (int again = 0; head == atomic_load_explicit((_Atomic unsigned *)r->cq_tail, memory_order_acquire); again++) {
		if (again == 1000)
			die(92, "workload: no completion");
		must(syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0), "io_uring_enter");
	}
	int result = r->cqes[head & *r->cq_mask].res;
	atomic_store_explicit((_Atomic unsigned *)r->cq_head, head + 1, memory_order_release);
	return result;
}

/* -EINVAL: no such operation here, or not in this way. -EBADF: 5.10 polls for registered files only. */
static int refused(int result)
{
	if (result == -EINVAL || result == -EBADF || result == -EOPNOTSUPP)
		return 1;
	if (result < 0) {
		errno = -result;
		die(93, "workload: request");
	}
	return 0;
}

static void row(const char *op, const char *how, const char *path)
{
	struct stat s;
	must(stat("/proc/self/ns/mnt", &s), "ns/mnt");
	json_open(NULL, '{');
	json_str("op", op);
	json_str("how", how);
	json_str("path", path);
	json_num("pid", getpid());
	json_num("mntns", (long long)s.st_ino);
}

static int open_it(struct ring *r, const char *op, const char *how, const char *path, int flags)
{
	struct io_uring_sqe sqe = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .len = 0600};
	sqe.addr = (uint64_t)(uintptr_t)path;
	sqe.open_flags = (unsigned)flags;
	int fd = carry_out(r, sqe);
	if (refused(fd))
		return 0;
	struct stat s;
	must(fstat(fd, &s), "fstat");
	row(op, how, path);
	json_num("inode", (long long)s.st_ino);
	json_num("flags", flags);
	json_close('}');
	close(fd);
	return 1;
}

/* Before 5.19 a kernel opens the file and only then finds that it can't choose a place. */
static int chooses_place(void)
{
	struct utsname name;
	int major = 0, minor = 0;

	must(uname(&name), "uname");
	sscanf(name.release, "%d.%d", &major, &minor);
	return major > 5 || (major == 5 && minor >= 19);
}

/* Into the ring's own table of files instead of a descriptor. */
static void open_direct(struct ring *r, const char *path, long i)
{
	int none = -1;
	struct stat s;
	struct io_uring_sqe sqe = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .open_flags = O_WRONLY};
	sqe.addr = (uint64_t)(uintptr_t)path;
	sqe.file_index = i % 2 && chooses_place() ? ~0u : 1; /* any free place, or the first one */
	if (syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_FILES, &none, 1) < 0)
		return;
	int result = carry_out(r, sqe);
	if (!refused(result)) {
		must(stat(path, &s), path);
		row("open", text("%s direct", r->how), path);
		json_num("inode", (long long)s.st_ino);
		json_close('}');
	}
	must(syscall(SYS_io_uring_register, r->fd, IORING_UNREGISTER_FILES, NULL, 0), "unregister");
}

/* One or two names, the second one new; whether it was done. */
static int names(struct ring *r, int opcode, const char *op, const char *first, const char *second, unsigned flags)
{
	struct io_uring_sqe sqe = {.opcode = (uint8_t)opcode, .fd = AT_FDCWD};
	int two = opcode == IORING_OP_RENAMEAT || opcode == IORING_OP_LINKAT;
	sqe.addr = (uint64_t)(uintptr_t)first;
	sqe.addr2 = (uint64_t)(uintptr_t)second;
	sqe.len = two ? (unsigned)AT_FDCWD : opcode == IORING_OP_MKDIRAT ? 0750 : 0;
	sqe.unlink_flags = flags;
	if (refused(carry_out(r, sqe)))
		return 0;
	row(op, r->how, second ? second : first);
	if (second)
		json_str("source", first);
	json_close('}');
	return 1;
}

static void files(struct ring *r, long i)
{
	char *path = text("%s/%s-%ld", directory, r->how, i), *next = text("%s-next", path), *hard = text("%s-hard", path);
	char *soft = text("%s-soft", path), *made = text("%s-made", path), *last = path;
	if (!open_it(r, "open", r->how, path, O_WRONLY | O_CREAT | O_EXCL))
		return;
	open_it(r, "open", text("%s existing", r->how), path, O_WRONLY); /* without O_CREAT no worker thread is asked */
	open_it(r, "read", r->how, secret, O_RDONLY);
	open_direct(r, path, i);
	if (names(r, IORING_OP_RENAMEAT, "rename", path, next, 0))
		last = next;
	if (names(r, IORING_OP_LINKAT, "link", last, hard, 0))
		unlink(hard);
	if (names(r, IORING_OP_SYMLINKAT, "symlink", "any text", soft, 0))
		unlink(soft);
	if (names(r, IORING_OP_MKDIRAT, "mkdir", made, NULL, 0))
		names(r, IORING_OP_UNLINKAT, "rmdir", made, NULL, AT_REMOVEDIR);
	names(r, IORING_OP_UNLINKAT, "unlink", last, NULL, 0);
}

static int bound(int type, struct sockaddr_in *here)
{
	socklen_t size = sizeof *here;
	int fd = (int)must(socket(AF_INET, type | SOCK_CLOEXEC, 0), "socket");
	*here = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	must(bind(fd, (struct sockaddr *)here, size), "bind");
	must(getsockname(fd, (struct sockaddr *)here, &size), "getsockname");
	return fd;
}

static void reached(const char *how, const struct sockaddr_in *to)
{
	row("connect", how, "");
	json_str("destination_ip", "127.0.0.1");
	json_num("destination_port", ntohs(to->sin_port));
	json_close('}');
}

static void sent(struct ring *r, const char *what, struct io_uring_sqe sqe, const struct sockaddr_in *to)
{
	sqe.fd = (int)must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	int result = carry_out(r, sqe);
	if (result != -EDESTADDRREQ && !refused(result)) /* kernels before 6.0 know of no address for a send */
		reached(text("%s %s", r->how, what), to);
	close(sqe.fd);
}

/* Every way has sockets of its own to go to. */
static void sockets(struct ring *r)
{
	struct sockaddr_in stream, one, other;
	must(listen(bound(SOCK_STREAM, &stream), 128), "listen");
	bound(SOCK_DGRAM, &one);
	bound(SOCK_DGRAM, &other);
	struct iovec piece = {"x", 1};
	struct msghdr message = {.msg_name = &one, .msg_namelen = sizeof one, .msg_iov = &piece, .msg_iovlen = 1};
	for (long i = 0; i < m; i++) {
		int client = (int)must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
		struct io_uring_sqe sqe = {.opcode = IORING_OP_CONNECT, .fd = client, .off = sizeof stream};
		sqe.addr = (uint64_t)(uintptr_t)&stream;
		if (!refused(carry_out(r, sqe)))
			reached(r->how, &stream);
		close(client);
		sqe = (struct io_uring_sqe){.opcode = IORING_OP_SENDMSG, .len = 1};
		sqe.addr = (uint64_t)(uintptr_t)&message;
		sent(r, "sendmsg", sqe, &one);
		sqe = (struct io_uring_sqe){.opcode = IORING_OP_SEND, .len = 1};
		sqe.addr = (uint64_t)(uintptr_t)"x";
		sqe.addr2 = (uint64_t)(uintptr_t)&other;
		sqe.addr_len = sizeof other;
		sent(r, "send", sqe, &other);
	}
}

static int go(const char *how, unsigned setup_flags, unsigned char flags)
{
	struct ring r;
	if (!setup(&r, how, setup_flags, flags))
		return 0;
	for (long i = 0; i < m; i++)
		files(&r, i);
	sockets(&r);
	return 1;
}

static int supported;

static void inline_way(void)
{
	supported = go("inline", 0, 0);
}

static void worker(void)
{
	go("worker", 0, IOSQE_ASYNC);
}

static void polled(void)
{
	go("sqpoll", IORING_SETUP_SQPOLL, 0);
}

int main(int argc, char **argv)
{
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	directory = argv[1];
	m = number(argc, argv, 2, 7);
	secret = argc > 3 ? argv[3] : "/etc/shadow";
	json_self("uring");
	json_open("operations", '[');
	in_child(inline_way);
	in_child(worker);
	in_child(polled);
	json_close(']');
	json_num("supported", supported);
	json_close('}');
	json_print();
	return 0;
}
