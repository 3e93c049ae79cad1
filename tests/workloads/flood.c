/* flood DIR (absolute, empty) [N=1000000] [PROCESSES=4] [EXECS=0]: opens for writing as fast as they go.
 *
 * N opens in all, shared among the processes, each on a file of its own. EXECS programs are run by
 * this process meanwhile, one after the other: they must not drown.
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

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--exit"))
		return 0;
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	long n = number(argc, argv, 2, 1000000), processes = number(argc, argv, 3, 4), execs = number(argc, argv, 4, 0);
	if (n < 1 || n > 10000000 || processes < 1 || processes > 64)
		return 2;
	volatile long *done = shared((size_t)processes * 64);
	pid_t pids[64], *runs = calloc((size_t)execs + 1, sizeof *runs);
	char self[4096] = {0};
	must(readlink("/proc/self/exe", self, sizeof self - 1), "exe");
	json_self("flood");
	double started = now();
	for (long p = 0; p < processes; p++) {
		char *path = text("%s/flooded-%ld", argv[1], p);
		long share = n / processes + (p < n % processes);
		pids[p] = (pid_t)must(fork(), "fork");
		if (!pids[p]) {
			for (long i = 0; i < share; i++) {
				int fd = (int)must(open(path, O_WRONLY | O_CREAT, 0600), path);
				done[p * 8]++;
				close(fd);
			}
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
	json_num("opens", total);
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
