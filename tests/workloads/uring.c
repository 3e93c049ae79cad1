/* uring DIR (absolute, empty) [M=7]: files opened, removed, renamed and sockets connected without a system call of that name.
 *
 * Through io_uring, by its own system calls (no liburing): first carried out inline by the submitter,
 * then by the kernel's worker threads (IOSQE_ASYNC). `supported` is 0 where the kernel has no io_uring.
 */
#include "workload.h"
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>

static int ring;
static unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;

static int setup(void)
{
	struct io_uring_params p = {0};
	ring = (int)syscall(SYS_io_uring_setup, 8, &p);
	if (ring < 0)
		return 0;
	const int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
	size_t sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
	size_t cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	char *sq = mmap(NULL, sq_size, protection, flags, ring, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, cq_size, protection, flags, ring, IORING_OFF_CQ_RING);
	sqes = mmap(NULL, p.sq_entries * sizeof *sqes, protection, flags, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)sqes == MAP_FAILED)
		die(91, "workload: ring");
	sq_tail = (unsigned *)(sq + p.sq_off.tail);
	sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
	sq_array = (unsigned *)(sq + p.sq_off.array);
	cq_head = (unsigned *)(cq + p.cq_off.head);
	cq_tail = (unsigned *)(cq + p.cq_off.tail);
	cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
	cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
	return 1;
}

static int carry_out(const struct io_uring_sqe *request, int async)
{
	unsigned tail = *sq_tail, index = tail & *sq_mask;
	sqes[index] = *request;
	sqes[index].flags |= async ? IOSQE_ASYNC : 0;
	sq_array[index] = index;
	atomic_store_explicit((_Atomic unsigned *)sq_tail, tail + 1, memory_order_release);
	must(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), "io_uring_enter");
	unsigned head = *cq_head;
	if (head == atomic_load_explicit((_Atomic unsigned *)cq_tail, memory_order_acquire))
		die(92, "workload: no completion");
	int result = cqes[head & *cq_mask].res;
	atomic_store_explicit((_Atomic unsigned *)cq_head, head + 1, memory_order_release);
	return result;
}

static void row(const char *op, int async, const char *path, int result)
{
	json_open(NULL, '{');
	json_str("op", op);
	json_str("how", async ? "worker" : "inline");
	json_str("path", path);
	json_num("errno", result < 0 ? -result : 0);
}

static void once(const char *directory, long i, int async, int listener_port)
{
	char *path = text("%s/uring-%d-%ld", directory, async, i), *next = text("%s-next", path);
	struct io_uring_sqe sqe = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD};
	sqe.addr = (uint64_t)(uintptr_t)path;
	sqe.open_flags = O_WRONLY | O_CREAT;
	sqe.len = 0600;
	int fd = carry_out(&sqe, async);
	struct stat s;
	must(fstat(fd, &s), "fstat");
	row("open", async, path, fd);
	json_num("inode", (long long)s.st_ino);
	json_close('}');
	close(fd);

	sqe = (struct io_uring_sqe){.opcode = IORING_OP_RENAMEAT, .fd = AT_FDCWD};
	sqe.addr = (uint64_t)(uintptr_t)path;
	sqe.len = (unsigned)AT_FDCWD;
	sqe.addr2 = (uint64_t)(uintptr_t)next;
	row("rename", async, next, carry_out(&sqe, async));
	json_str("source", path);
	json_close('}');

	sqe = (struct io_uring_sqe){.opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD};
	sqe.addr = (uint64_t)(uintptr_t)next;
	row("unlink", async, next, carry_out(&sqe, async));
	json_close('}');

	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)listener_port)};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int client = (int)must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	sqe = (struct io_uring_sqe){.opcode = IORING_OP_CONNECT, .fd = client};
	sqe.addr = (uint64_t)(uintptr_t)&to;
	sqe.off = sizeof to;
	row("connect", async, "", carry_out(&sqe, async));
	json_str("destination_ip", "127.0.0.1");
	json_num("destination_port", listener_port);
	json_close('}');
	close(client);
}

int main(int argc, char **argv)
{
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	long m = number(argc, argv, 2, 7);
	json_self("uring");
	int supported = setup();
	json_num("supported", supported);
	json_open("operations", '[');
	if (supported) {
		struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t size = sizeof here;
		int listener = (int)must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
		must(bind(listener, (struct sockaddr *)&here, size), "bind");
		must(listen(listener, 64), "listen");
		must(getsockname(listener, (struct sockaddr *)&here, &size), "getsockname");
		for (long i = 0; i < m; i++)
			for (int async = 0; async < 2; async++)
				once(argv[1], i, async, ntohs(here.sin_port));
		close(listener);
	}
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
