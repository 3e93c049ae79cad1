/* flood DIR (absolute, empty) [N=1000000] [PROCESSES=4] [EXECS=0] [CHANGES=0]: opens for writing as fast as they go.
 *
 * N events in all, shared among the processes, each on a file of its own. After each open come CHANGES times a chmod
 * and a chown by descriptor: who wants to flood takes the calls that cost the least. EXECS programs are run by this
 * process meanwhile, one after the other: they must not drown.
 */
#include "workload.h"
#include <time.h>

extern char **environ;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* So many events on a file of a directory; *done counts them. */
static void flood(int directory, const char *name, long share, long changes, volatile long *done)
{
	uid_t uid = getuid();
	gid_t gid = getgid();

	while (*done < share) {
		int fd = (int)must(openat(directory, name, O_WRONLY | O_CREAT, 0600), name);
		++*done;
		for (long i = 0; i < changes && *done + 2 <= share; i++) {
			must(fchmod(fd, 0600), name);
			must(fchown(fd, uid, gid), name);
			*done += 2;
		}
		close(fd);
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--exit"))
		return 0;
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	long n = number(argc, argv, 2, 1000000), processes = number(argc, argv, 3, 4), execs = number(argc, argv, 4, 0);
	int directory = (int)must(open(argv[1], O_PATH | O_DIRECTORY), argv[1]);
	long changes = number(argc, argv, 5, 0);
	if (n < 1 || n > 10000000 || processes < 1 || processes > 64 || changes < 0)
		return 2;
	volatile long *done = shared((size_t)processes * 64);
	pid_t pids[64], *runs = calloc((size_t)execs + 1, sizeof *runs);
	char self[4096] = {0};
	must(readlink("/proc/self/exe", self, sizeof self - 1), "exe");
	json_self("flood");
	double started = now();
	for (long p = 0; p < processes; p++) {
		char *name = text("flooded-%ld", p);
		long share = n / processes + (p < n % processes);
		pids[p] = (pid_t)must(fork(), "fork");
		if (!pids[p]) {
			flood(directory, name, share, changes, &done[p * 8]);
			_exit(0);
		}
	}
	for (long i = 0; i < execs; i++) {
		char *run[] = {self, "--exit", NULL};
		runs[i] = (pid_t)must(fork(), "fork");
		if (!runs[i]) {
			execve(self, run, environ);
			_exit(127);
		}
		if (wait_status(runs[i]))
			die(86, "workload: exec");
	}
	double executed = now();
	long total = 0;
	for (long p = 0; p < processes; p++) {
		if (wait_status(pids[p]))
			die(87, "workload: a flooding process failed");
		total += done[p * 8];
	}
	double seconds = now() - started;
	json_num("events", total);
	json_num("microseconds", (long long)(seconds * 1e6));
	json_num("exec_microseconds", (long long)((executed - started) * 1e6));
	json_open("processes", '[');
	for (long p = 0; p < processes; p++)
		json_num(NULL, pids[p]);
	json_close(']');
	json_open("execs", '[');
	for (long i = 0; i < execs; i++)
		json_num(NULL, runs[i]);
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
