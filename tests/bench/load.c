/* load WHAT N: does one thing N times, prints ns per operation. WHAT: getppid, read (open a file for
 * reading), write (open one for writing), connect (refused, loopback), exec (fork and /bin/true).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void once(const char *what)
{
	if (!strcmp(what, "getppid")) {
		syscall(SYS_getppid);
	} else if (!strcmp(what, "read")) {
		close(open("/etc/hostname", O_RDONLY | O_CLOEXEC));
	} else if (!strcmp(what, "write")) {
		close(open("/tmp/sensor-bench-file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	} else if (!strcmp(what, "connect")) {
		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (!connect(fd, (struct sockaddr *)&to, sizeof to) || errno != ECONNREFUSED)
			exit(3);
		close(fd);
	} else if (!strcmp(what, "exec")) {
		char *argv[] = {"/bin/true", NULL};
		pid_t pid = fork();
		int status;
		if (!pid) {
			execv(argv[0], argv);
			_exit(127);
		}
		waitpid(pid, &status, 0);
	} else {
		exit(2);
	}
}

int main(int argc, char **argv)
{
	long n = argc > 2 ? atol(argv[2]) : 0;
	if (n <= 0 || n > 10000000)
		return 2;
	long long start = now();
	for (long i = 0; i < n; i++)
		once(argv[1]);
	printf("%.1f\n", (double)(now() - start) / n);
	return 0;
}
