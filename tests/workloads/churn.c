/* churn DIR (absolute, empty) [PROCESSES=1] [ROUNDS=0]: every kind of call that a probe hangs on, round after round.
 *
 * A round makes, writes, renames, links and removes a file, makes and removes a symbolic link and a directory,
 * binds, listens, connects and accepts over loopback, and runs one program. 0 rounds: until SIGTERM. A call that
 * fails ends it with a status.
 */
#include "workload.h"
#include <arpa/inet.h>
#include <sys/socket.h>

extern char **environ;
static char self[4096];
static volatile sig_atomic_t over;

static void stop(int number)
{
	(void)number;
	over = 1;
}

static void files(const char *dir)
{
	char *a = text("%s/a", dir), *b = text("%s/b", dir);
	int fd = (int)must(open(a, O_WRONLY | O_CREAT, 0600), "open");

	must(write(fd, "churn", 5), "write");
	must(fchmod(fd, 0640), "fchmod");
	close(fd);
	must(chmod(a, 0600), "chmod");
	must(rename(a, b), "rename");
	must(link(b, a), "link");
	must(unlink(a), "unlink");
	must(unlink(b), "unlink");
	must(symlink("nowhere", a), "symlink");
	must(unlink(a), "unlink");
	must(mkdir(a, 0700), "mkdir");
	must(rmdir(a), "rmdir");
	free(a);
	free(b);
}

static void network(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct linger at_once = {1, 0}; /* no TIME_WAIT: the flood would run out of ports */
	socklen_t size = sizeof to;
	int server = (int)must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	int client = (int)must(socket(AF_INET, SOCK_STREAM, 0), "socket");

	must(bind(server, (struct sockaddr *)&to, sizeof to), "bind");
	must(listen(server, 1), "listen");
	must(getsockname(server, (struct sockaddr *)&to, &size), "getsockname");
	must(setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), "linger");
	must(connect(client, (struct sockaddr *)&to, sizeof to), "connect");
	close((int)must(accept(server, NULL, NULL), "accept"));
	close(client);
	close(server);
}

static void run(void)
{
	char *arguments[] = {self, "--exit", NULL};
	pid_t pid = (pid_t)must(fork(), "fork");

	if (!pid) {
		execve(self, arguments, environ);
		_exit(127);
	}
	if (wait_status(pid))
		die(86, "workload: exec");
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--exit"))
		return 0;
	long processes = number(argc, argv, 2, 1), rounds = number(argc, argv, 3, 0), total = 0;
	if (argc < 2 || argv[1][0] != '/' || processes < 1 || processes > 64 || rounds < 0)
		return 2;
	volatile long *done = shared((size_t)processes * 64);
	struct sigaction action = {.sa_handler = stop, .sa_flags = SA_RESTART};
	pid_t pids[64];
	must(sigaction(SIGTERM, &action, NULL), "sigaction");
	must(readlink("/proc/self/exe", self, sizeof self - 1), "exe");
	json_self("churn");
	for (long p = 0; p < processes; p++) {
		pids[p] = (pid_t)must(fork(), "fork");
		if (pids[p])
			continue;
		char *dir = text("%s/%ld", argv[1], p);
		must(mkdir(dir, 0700), dir);
		while (!over && getppid() != 1 && (!rounds || done[p * 8] < rounds)) {
			files(dir);
			network();
			run();
			done[p * 8]++;
		}
		must(rmdir(dir), dir);
		_exit(0);
	}
	while (!rounds && !over)
		usleep(50000); /* not pause(): the signal may come just before it */
	for (long p = 0; p < processes; p++) {
		if (!rounds)
			kill(pids[p], SIGTERM);
		if (wait_status(pids[p]))
			die(87, "workload: a churning process failed");
		total += done[p * 8];
	}
	json_num("processes", processes);
	json_num("rounds", total);
	json_close('}');
	json_print();
	return 0;
}
