/* forkexec DIR (absolute, empty) [N=23] [M=7] [PROGRAM=/bin/true]: processes made, replaced and ended in every way.
 *
 * N times fork + exec of PROGRAM; M times each of the other ways. `forkexec --exit CODE ...` is the
 * program that this one runs where it needs an exit status of its choice; `forkexec --bomb [N=10007]`
 * only makes processes, as fast as it can.
 */
#include "workload.h"
#include <linux/sched.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>

extern char **environ;
static const char *directory, *program;
static char self[4096];

struct box { /* what children tell their ancestors */
	volatile pid_t child;
	volatile pid_t tids[1024], exec_tids[32];
};
static struct box *box;

static void child_row(const char *how, pid_t pid, pid_t ppid, int status, const char *exe, char *const *argv)
{
	json_open(NULL, '{');
	json_str("how", how);
	json_num("pid", pid);
	json_num("ppid", ppid);
	json_num("code", WIFEXITED(status) ? WEXITSTATUS(status) : 0);
	json_num("signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	if (exe)
		json_str("executable", exe);
	if (argv)
		json_strs("argv", argv);
	json_close('}');
}

static void by_fork(long n)
{
	for (long i = 0; i < n; i++) {
		char *argv[] = {(char *)program, text("fork-%ld", i), NULL};
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			execve(program, argv, environ);
			_exit(127);
		}
		child_row("fork", pid, getpid(), wait_status(pid), program, argv);
	}
}

/* A function of its own: the child of vfork() shares this frame. */
__attribute__((noinline)) static pid_t vfork_exec(char **argv)
{
	pid_t pid = vfork();
	if (!pid) {
		execve(program, argv, environ);
		_exit(127);
	}
	return pid;
}

static void by_vfork(long n)
{
	for (long i = 0; i < n; i++) {
		char *argv[] = {(char *)program, text("vfork-%ld", i), NULL};
		pid_t pid = (pid_t)must(vfork_exec(argv), "vfork");
		child_row("vfork", pid, getpid(), wait_status(pid), program, argv);
	}
}

static void by_spawn(long n)
{
	for (long i = 0; i < n; i++) {
		char *argv[] = {(char *)program, text("spawn-%ld", i), NULL};
		pid_t pid;
		if ((errno = posix_spawn(&pid, program, NULL, NULL, argv, environ)))
			die(76, "workload: posix_spawn");
		child_row("spawn", pid, getpid(), wait_status(pid), program, argv);
	}
}

/* A helper clones with CLONE_PARENT: the new process is this one's child, not the helper's. */
static void by_clone_parent(long n)
{
	for (long i = 0; i < n; i++) {
		pid_t helper = (pid_t)must(fork(), "fork");
		if (!helper) {
			pid_t pid = (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
			if (!pid)
				_exit(5);
			box->child = pid;
			_exit(pid < 0);
		}
		int status = wait_status(helper);
		child_row("clone-parent-helper", helper, getpid(), status, NULL, NULL);
		child_row("clone-parent", box->child, getpid(), wait_status(box->child), NULL, NULL);
	}
}

static void by_clone3(long n)
{
	for (long i = 0; i < n; i++) {
		struct clone_args args = {.exit_signal = SIGCHLD};
		pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
		if (!pid)
			_exit(3);
		must(pid, "clone3");
		child_row("clone3", pid, getpid(), wait_status(pid), NULL, NULL);
	}
}

/* The middle process ends before the last one executes; this process is the subreaper. */
static void by_double_fork(long n)
{
	must(prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
	for (long i = 0; i < n; i++) {
		char *argv[] = {(char *)program, text("double-%ld", i), NULL};
		pid_t reaper = getpid(), middle = (pid_t)must(fork(), "fork");
		if (!middle) {
			pid_t last = fork();
			if (!last) {
				while (getppid() != reaper)
					usleep(200);
				execve(program, argv, environ);
				_exit(127);
			}
			box->child = last;
			_exit(last < 0);
		}
		int status = wait_status(middle);
		child_row("double-middle", middle, reaper, status, NULL, NULL);
		json_open(NULL, '{');
		json_str("how", "double-last");
		json_num("pid", box->child);
		json_num("ppid", middle);
		json_num("ppid_at_exec", reaper);
		status = wait_status(box->child);
		json_num("code", WEXITSTATUS(status));
		json_num("signal", 0);
		json_str("executable", program);
		json_strs("argv", argv);
		json_close('}');
	}
}

static pthread_barrier_t barrier;

static void *thread_main(void *slot)
{
	*(volatile pid_t *)slot = (pid_t)syscall(SYS_gettid);
	pthread_barrier_wait(&barrier);
	return NULL;
}

/* All `m` threads, the first one too, leave at the same moment, each by its own exit(). */
static void threads(long n, long m)
{
	for (long i = 0; i < n; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			pthread_t thread;
			pthread_barrier_init(&barrier, NULL, (unsigned)m + 1);
			for (long k = 0; k < m; k++)
				if (pthread_create(&thread, NULL, thread_main, (void *)&box->tids[i * m + k]) || pthread_detach(thread))
					_exit(99);
			pthread_barrier_wait(&barrier);
			pthread_exit(NULL);
		}
		child_row("threads", pid, getpid(), wait_status(pid), NULL, NULL);
	}
}

static void *thread_exec(void *slot)
{
	char *argv[] = {self, "--exit", "11", "thread-exec", NULL};
	*(volatile pid_t *)slot = (pid_t)syscall(SYS_gettid);
	execve(self, argv, environ);
	_exit(127);
}

/* execve() from a thread that is not the leader: the program goes on under the leader's id. */
static void exec_from_thread(long n)
{
	char *argv[] = {self, "--exit", "11", "thread-exec", NULL};
	for (long i = 0; i < n; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			pthread_t thread;
			if (pthread_create(&thread, NULL, thread_exec, (void *)&box->exec_tids[i]))
				_exit(99);
			for (;;)
				pause();
		}
		child_row("thread-exec", pid, getpid(), wait_status(pid), self, argv);
	}
}

static void by_code(long n)
{
	for (long i = 0; i < n; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid)
			_exit((int)(i * 37 + 1) & 0xff);
		child_row("code", pid, getpid(), wait_status(pid), NULL, NULL);
	}
}

static void by_signal(void)
{
	static const int signals[] = {SIGKILL, SIGTERM, SIGSEGV, SIGABRT, SIGHUP, SIGINT, SIGPIPE};
	for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			signal(signals[i], SIG_DFL);
			raise(signals[i]);
			pause();
		}
		child_row("signal", pid, getpid(), wait_status(pid), NULL, NULL);
	}
}

static void shape(const char *how, const char *path, const char *resolved, const char *interpreter, char **argv,
		  int fd)
{
	pid_t pid = (pid_t)must(fork(), "fork");
	if (!pid) {
		if (fd >= 0)
			syscall(SYS_execveat, fd, "", argv, environ, 0x1000 /* AT_EMPTY_PATH */);
		else
			execve(path, argv, environ);
		_exit(127);
	}
	int status = wait_status(pid);
	json_open(NULL, '{');
	json_str("how", how);
	json_num("pid", pid);
	json_num("ppid", getpid());
	json_num("code", WIFEXITED(status) ? WEXITSTATUS(status) : 0);
	json_num("signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	json_str("path", path);
	json_str("resolved", resolved);
	/* What the new program gets: a script's interpreter, its argument, the script; and since 5.18 never nothing. */
	char *seen[8] = {(char *)interpreter, "--exit", (char *)path, argv[0] ? argv[1] : NULL, argv[0] ? argv[2] : NULL};
	json_strs("argv", interpreter ? seen : argv[0] ? argv : (char *[]){"", NULL});
	if (interpreter)
		json_str("interpreter", interpreter);
	json_close('}');
}

static void copy(const char *from, const char *to)
{
	char buffer[65536];
	ssize_t n;
	int in = (int)must(open(from, O_RDONLY | O_CLOEXEC), from);
	int out = (int)must(open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755), to);
	while ((n = must(read(in, buffer, sizeof buffer), from)) > 0)
		must(write(out, buffer, (size_t)n), to);
	close(in);
	close(out);
}

/* Programs reached by symbolic link, relative path, interpreter line, descriptor; odd arguments. */
static void shapes(void)
{
	char *real = text("%s/real-program", directory), *link = text("%s/linked-program", directory);
	char *script = text("%s/script", directory), *gone = text("%s/gone-program", directory);
	copy(self, real);
	copy(self, gone);
	must(symlink("real-program", link), "symlink");
	int fd = (int)must(open(script, O_WRONLY | O_CREAT | O_CLOEXEC, 0755), script);
	if (dprintf(fd, "#!%s --exit\n", link) < 0)
		die(77, "workload: script");
	close(fd);
	shape("symlink", link, real, NULL, (char *[]){link, "--exit", "21", NULL}, -1);
	must(chdir(directory), "chdir");
	shape("relative", "./real-program", real, NULL, (char *[]){"./real-program", "--exit", "22", NULL}, -1);
	shape("dotted", text("%s/../%s/./real-program", directory, strrchr(directory, '/') + 1), real, NULL,
	      (char *[]){"dotted", "--exit", "23", NULL}, -1);
	/* The kernel puts the script's path behind the interpreter's argument; --exit takes a path as 24. */
	shape("script", script, real, link, (char *[]){script, "first", "second", NULL}, -1);
	shape("spoofed", real, real, NULL, (char *[]){"[kworker/0:1]", "--exit", "25", NULL}, -1);
	shape("empty-argv", real, real, NULL, (char *[]){NULL}, -1);
	shape("hostile", real, real, NULL,
	      (char *[]){"hostile", "--exit", "26", "line\nbreak", "\033[31mred\033[0m", "\xff\xfe", "quo\"te'back\\slash", "",
			 "tab\there", "\xc2\xa0ok\xe2\x80\xae", "\\x41", "{\"json\":1}", "$(id)`id`", NULL}, -1);
	static char *many[15002];
	static char word[101];
	memset(word, 'w', 100);
	for (int i = 0; i < 15001; i++)
		many[i] = i == 0 ? "huge" : i == 1 ? "--exit" : i == 2 ? "27" : word;
	pid_t pid = (pid_t)must(fork(), "fork");
	if (!pid) {
		execve(real, many, environ);
		_exit(127);
	}
	int status = wait_status(pid);
	json_open(NULL, '{');
	json_str("how", "huge");
	json_num("pid", pid);
	json_num("ppid", getpid());
	json_num("code", WIFEXITED(status) ? WEXITSTATUS(status) : 0);
	json_num("signal", 0);
	json_str("path", real);
	json_str("resolved", real);
	json_num("argc", 15001);
	json_close('}');
	fd = (int)must(open(real, O_RDONLY | O_CLOEXEC), real);
	shape("descriptor", real, real, NULL, (char *[]){"descriptor", "--exit", "28", NULL}, fd);
	close(fd);
	fd = (int)must(open(gone, O_RDONLY | O_CLOEXEC), gone);
	must(unlink(gone), gone);
	shape("deleted", gone, gone, NULL, (char *[]){"deleted", "--exit", "29", NULL}, fd);
	close(fd);
}

/* Calls that fail: they must leave no exec event behind. */
static void failures(long n)
{
	char *argv[] = {"missing", NULL};
	for (long i = 0; i < n; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			execve("/nonexistent/program", argv, environ);
			execve("/etc/passwd", argv, environ);
			_exit(13);
		}
		child_row("failed", pid, getpid(), wait_status(pid), NULL, NULL);
	}
}

/* Processes that end at once, up to 256 of them at a time. */
static int bomb(long n)
{
	int waiting = 0, status;
	json_self("bomb");
	json_open("pids", '[');
	for (long i = 0; i < n; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid)
			_exit(0);
		json_num(NULL, pid);
		if (++waiting == 256)
			for (; waiting; waiting--)
				must(wait(&status), "wait");
	}
	for (; waiting; waiting--)
		must(wait(&status), "wait");
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 1)
		return 0;
	if (!strcmp(argv[1], "--bomb"))
		return bomb(number(argc, argv, 2, 10007));
	if (!strcmp(argv[1], "--exit"))
		return argc > 2 && argv[2][0] == '/' ? 24 : (int)number(argc, argv, 2, 0);
	long n = number(argc, argv, 2, 23), m = number(argc, argv, 3, 7);
	if (m < 1 || m > 31 || n < 1 || n * m > 1024)
		return 2;
	directory = argv[1];
	program = argc > 4 ? argv[4] : "/bin/true";
	must(readlink("/proc/self/exe", self, sizeof self - 1), "readlink exe");
	must(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}), "setrlimit");
	box = shared(sizeof *box);
	json_self("forkexec");
	json_open("children", '[');
	by_fork(n);
	by_vfork(m);
	by_spawn(m);
	by_clone_parent(m);
	by_clone3(m);
	by_double_fork(m);
	threads(n, m);
	exec_from_thread(m);
	by_code(m);
	by_signal();
	failures(m);
	json_close(']');
	json_open("shapes", '[');
	shapes();
	json_close(']');
	json_open("thread_ids", '[');
	for (long i = 0; i < n * m; i++)
		json_num(NULL, box->tids[i]);
	for (long i = 0; i < m; i++)
		json_num(NULL, box->exec_tids[i]);
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
