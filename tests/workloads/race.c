/* race DIR (absolute, empty) [N=1009]: another thread changes the path between the call's entry and its use.
 *
 * Two files, alpha and bravo, lie in directories whose names differ in one byte, so that one store swaps
 * the path and it is never torn. The other thread swaps at most once per call, after a delay that sweeps
 * over the length of a call. What was really opened is known by fstat(), what was really removed by
 * looking; both are listed in the order of the calls.
 */
#include "workload.h"
#include <pthread.h>
#include <stdatomic.h>

static const char *directory;
static char path[4096], *swapped;
static atomic_long turn, finished;
static volatile long delay;
static atomic_int stop;

/* The two threads must run at the same time; on one processor nothing is ever swapped in between. */
static void pin(int index)
{
	cpu_set_t all, one;
	must(sched_getaffinity(0, sizeof all, &all), "sched_getaffinity");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all) || index--)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		must(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
		return;
	}
}

static void *swapper(void *unused)
{
	long seen = 0;
	(void)unused;
	pin(1);
	while (!atomic_load(&stop)) {
		long now = atomic_load(&turn);
		if (now == seen)
			continue;
		for (volatile long i = 0; i < delay; i++)
			;
		*(volatile char *)swapped = *swapped == 'a' ? 'b' : 'a';
		seen = now;
		atomic_store(&finished, now);
	}
	return NULL;
}

/* The swap comes before the argument is read, while the call runs, or after it: the delay sweeps over all. */
static void start(long i)
{
	delay = (i * 7919) % 2003;
	atomic_fetch_add(&turn, 1);
}

static void finish(void)
{
	while (atomic_load(&finished) != atomic_load(&turn))
		sched_yield();
}

static char *fork_in_the_road(char letter, const char *name)
{
	return text("%s/side-%c/%s", directory, letter, name);
}

static void prepare(const char *name)
{
	snprintf(path, sizeof path, "%s/side-a/%s", directory, name);
	swapped = strrchr(path, '/') - 1;
}

static long long inode_of(const char *name)
{
	struct stat s;
	must(stat(name, &s), name);
	return (long long)s.st_ino;
}

static void make(const char *name)
{
	close((int)must(open(name, O_WRONLY | O_CREAT, 0600), name));
}

static void opens(long n)
{
	long long *inodes = calloc((size_t)n, sizeof *inodes);
	long first = 0, changed = 0;
	char *a = fork_in_the_road('a', "file"), *b = fork_in_the_road('b', "file");
	make(a);
	make(b);
	prepare("file");
	long long inode_a = inode_of(a), inode_b = inode_of(b);
	for (long i = 0; i < n; i++) {
		char letter = *swapped;
		struct stat s;
		start(i);
		int fd = (int)must(open(path, O_WRONLY | O_APPEND), "open");
		must(fstat(fd, &s), "fstat");
		close(fd);
		finish();
		inodes[i] = (long long)s.st_ino;
		first += inodes[i] == inode_a;
		changed += (letter == 'a') != (inodes[i] == inode_a);
	}
	json_open("opens", '{');
	json_str("path_a", a);
	json_str("path_b", b);
	json_num("inode_a", inode_a);
	json_num("inode_b", inode_b);
	json_num("count_a", first);
	json_num("count_b", n - first);
	json_num("swapped_before_use", changed);
	json_open("inodes", '[');
	for (long i = 0; i < n; i++)
		json_num(NULL, inodes[i]);
	json_close(']');
	json_close('}');
}

/* What a symbolic link points to changes while it is followed: the name argument stays the same. */
static void links(long n)
{
	long long *inodes = calloc((size_t)n, sizeof *inodes);
	char *a = fork_in_the_road('a', "file"), *b = fork_in_the_road('b', "file");
	char *link = text("%s/link", directory), *next = text("%s/next", directory);
	for (long i = 0; i < n; i++) {
		struct stat s;
		must(symlink(i % 2 ? a : b, next), next);
		must(rename(next, link), link);
		int fd = (int)must(open(link, O_WRONLY | O_APPEND | O_CLOEXEC), link);
		must(fstat(fd, &s), "fstat");
		must(symlink(i % 2 ? b : a, next), next);
		must(rename(next, link), link); /* before the event can be looked at */
		close(fd);
		inodes[i] = (long long)s.st_ino;
	}
	json_open("links", '[');
	for (long i = 0; i < n; i++)
		json_num(NULL, inodes[i]);
	json_close(']');
}

static void unlinks(long n)
{
	char *a = fork_in_the_road('a', "gone"), *b = fork_in_the_road('b', "gone");
	prepare("gone");
	json_open("unlinks", '[');
	for (long i = 0; i < n; i++) {
		make(a);
		make(b);
		char letter = *swapped;
		start(i);
		must(unlink(path), "unlink");
		finish();
		int a_left = !access(a, F_OK), b_left = !access(b, F_OK);
		if (a_left == b_left)
			die(82, "workload: %d of two files left", a_left + b_left);
		json_open(NULL, '{');
		json_str("path", a_left ? b : a);
		json_num("swapped_before_use", (letter == 'a') == a_left);
		json_close('}');
	}
	json_close(']');
}

int main(int argc, char **argv)
{
	pthread_t thread;
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	long n = number(argc, argv, 2, 1009);
	directory = argv[1];
	must(mkdir(text("%s/side-a", directory), 0700), "side-a");
	must(mkdir(text("%s/side-b", directory), 0700), "side-b");
	json_self("race");
	prepare("file");
	if (pthread_create(&thread, NULL, swapper, NULL))
		return 83;
	pin(0);
	opens(n);
	links(n / 10 | 1);
	unlinks(n / 10 | 1);
	atomic_store(&stop, 1);
	pthread_join(thread, NULL);
	json_close('}');
	json_print();
	return 0;
}
