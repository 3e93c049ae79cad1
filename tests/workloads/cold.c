/* cold DIR (absolute, empty) [N=23]: arguments on pages that are not in memory when the call begins.
 *
 * A probe at the entry of a system call cannot fault a page in and reads nothing; the kernel can and
 * does. Each argument lies in a new shared mapping of a file, which no page table knows yet.
 */
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

static const char *directory;
static int store;
extern char **environ;

/* `size` bytes at `offset` of two freshly mapped pages: nothing of it has been touched through this mapping. */
static char *cold(const void *bytes, size_t size, size_t offset)
{
	must(pwrite(store, bytes, size, (off_t)offset), "pwrite");
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, store, 0);
	if (page == MAP_FAILED)
		die(84, "workload: mmap");
	return page + offset;
}

static char *cold_text(const char *string, size_t offset)
{
	return cold(string, strlen(string) + 1, offset);
}

static void drop(char *argument, size_t offset)
{
	must(munmap(argument - offset, 8192), "munmap");
}

/* Reads the first page in and leaves the second one cold: the argument straddles both. */
static char *half_cold(const char *string, size_t offset)
{
	char *argument = cold_text(string, offset);
	must(madvise(argument - offset, 8192, MADV_RANDOM), "madvise"); /* no fault-around */
	(void)*(volatile char *)(argument - offset);
	return argument;
}

static void row(const char *op, const char *how, const char *path, long long inode, pid_t pid)
{
	json_open(NULL, '{');
	json_str("op", op);
	json_str("how", how);
	json_str("path", path);
	json_num("inode", inode);
	json_num("pid", pid);
	json_close('}');
}

static void opened(const char *how, int fd, const char *known)
{
	struct stat s;
	must(fstat((int)must(fd, how), &s), "fstat");
	row("open", how, known, (long long)s.st_ino, getpid());
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--exit"))
		return (int)number(argc, argv, 2, 0);
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	long n = number(argc, argv, 2, 23);
	directory = argv[1];
	char self[4096] = {0}, *argument;
	must(readlink("/proc/self/exe", self, sizeof self - 1), "exe");
	store = (int)must(open(text("%s/store", directory), O_RDWR | O_CREAT | O_CLOEXEC, 0600), "store");
	must(ftruncate(store, 8192), "ftruncate");
	json_self("cold");
	json_open("operations", '[');
	for (long i = 0; i < n; i++) {
		char *path = text("%s/cold-%ld", directory, i), *other = text("%s/half-%ld", directory, i);
		char *renamed = text("%s/renamed-%ld", directory, i), *made = text("%s/made-%ld", directory, i);
		size_t straddle = 4096 - strlen(other) + 3;

		argument = cold_text(path, 0);
		opened("open", open(argument, O_WRONLY | O_CREAT, 0600), path);
		must(madvise(argument, 8192, MADV_DONTNEED), "madvise");
		opened("dontneed", open(argument, O_WRONLY), path);
		drop(argument, 0);
		argument = half_cold(other, straddle);
		opened("half", open(argument, O_WRONLY | O_CREAT, 0600), other);
		drop(argument, straddle);

		argument = cold_text(path, 0);
		must(chmod(argument, 0611), "chmod");
		row("chmod", "cold", path, 0, getpid());
		drop(argument, 0);
		argument = cold_text(renamed, 0);
		must(rename(path, argument), "rename");
		row("rename", "cold", renamed, 0, getpid());
		drop(argument, 0);
		argument = cold_text(renamed, 0);
		must(unlink(argument), "unlink");
		row("unlink", "cold", renamed, 0, getpid());
		drop(argument, 0);
		argument = cold_text(made, 0);
		must(mkdir(argument, 0700), "mkdir");
		row("mkdir", "cold", made, 0, getpid());
		drop(argument, 0);

		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			argument = cold_text(self, 0);
			execve(argument, (char *[]){"cold", "--exit", "31", NULL}, environ);
			_exit(127);
		}
		int status = wait_status(pid);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 31)
			die(85, "workload: cold exec");
		row("exec", "cold", self, 0, pid);

		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(40000 + i))};
		to.sin_addr.s_addr = htonl(0x7f000000u | (uint32_t)(i + 3));
		int fd = (int)must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
		argument = cold(&to, sizeof to, 0);
		must(connect(fd, (struct sockaddr *)argument, sizeof to), "connect");
		json_open(NULL, '{');
		json_str("op", "connect");
		json_str("how", "cold");
		json_str("destination_ip", inet_ntoa(to.sin_addr));
		json_num("destination_port", 40000 + i);
		json_num("pid", getpid());
		json_close('}');
		close(fd);
		drop(argument, 0);
	}
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
