/* What every workload shares: a small JSON writer and a few calls that must not fail.
 *
 * A workload does a known number of things and prints one JSON object that says what it did: the
 * truth that tests hold against the sensor's documents. Texts are bytes: each byte from 0x80 up is
 * written as \u0080..\u00ff, so a reader gets the bytes back by encoding as Latin-1.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* The object is collected in memory and written by one write(), so that no child can flush a copy. */
static char json_text[8u << 20];
static size_t json_used;
static int json_comma;

__attribute__((format(printf, 1, 2))) static inline void json_put(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	int n = vsnprintf(json_text + json_used, sizeof json_text - json_used, format, list);
	va_end(list);
	if (n < 0 || json_used + (size_t)n >= sizeof json_text) {
		fprintf(stderr, "workload: the report does not fit\n");
		_exit(70);
	}
	json_used += (size_t)n;
}

static inline void json_bytes(const char *text, size_t size)
{
	json_put("\"");
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c < 0x20 || c > 0x7e || c == '"' || c == '\\')
			json_put("\\u%04x", c);
		else
			json_put("%c", c);
	}
	json_put("\"");
}

static inline void json_key(const char *key)
{
	if (json_comma)
		json_put(",");
	json_comma = 1;
	if (key) {
		json_bytes(key, strlen(key));
		json_put(":");
	}
}

static inline void json_open(const char *key, char bracket)
{
	json_key(key);
	json_put("%c", bracket);
	json_comma = 0;
}

static inline void json_close(char bracket)
{
	json_put("%c", bracket);
	json_comma = 1;
}

static inline void json_num(const char *key, long long value)
{
	json_key(key);
	json_put("%lld", value);
}

static inline void json_str(const char *key, const char *value)
{
	json_key(key);
	json_bytes(value, strlen(value));
}

static inline void json_strs(const char *key, char *const *values)
{
	json_open(key, '[');
	for (; *values; values++)
		json_str(NULL, *values);
	json_close(']');
}

static inline void json_print(void)
{
	json_put("\n");
	for (size_t done = 0; done < json_used;) {
		ssize_t n = write(1, json_text + done, json_used - done);
		if (n <= 0)
			_exit(71);
		done += (size_t)n;
	}
}

__attribute__((format(printf, 2, 3), noreturn)) static inline void die(int status, const char *format, ...)
{
	int error = errno;
	va_list list;
	va_start(list, format);
	vfprintf(stderr, format, list);
	va_end(list);
	fprintf(stderr, ": %s\n", strerror(error));
	_exit(status);
}

static inline long long must(long long result, const char *what)
{
	if (result < 0)
		die(72, "workload: %s", what);
	return result;
}

__attribute__((format(printf, 1, 2))) static inline char *text(const char *format, ...)
{
	char *out = NULL;
	va_list list;
	va_start(list, format);
	if (vasprintf(&out, format, list) < 0)
		die(73, "workload: vasprintf");
	va_end(list);
	return out;
}

static inline long number(int argc, char **argv, int index, long otherwise)
{
	return argc > index ? strtol(argv[index], NULL, 10) : otherwise;
}

/* Field 22 of /proc/<pid>/stat: start in clock ticks since boot. */
static inline long long start_ticks(pid_t pid)
{
	char *path = text("/proc/%d/stat", pid), buffer[1024];
	int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
	ssize_t n = must(read(fd, buffer, sizeof buffer - 1), path);
	close(fd);
	free(path);
	buffer[n] = 0;
	char *p = strrchr(buffer, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoll(p + 1, NULL, 10) : -1;
}

static inline void json_self(const char *name)
{
	char exe[4096];
	ssize_t n = must(readlink("/proc/self/exe", exe, sizeof exe - 1), "readlink exe");
	exe[n] = 0;
	json_open(NULL, '{');
	json_str("workload", name);
	json_str("executable", exe);
	json_num("pid", getpid());
	json_num("ppid", getppid());
	json_num("uid", getuid());
	json_num("start_ticks", start_ticks(getpid()));
	json_num("ticks_per_second", sysconf(_SC_CLK_TCK));
}

/* Waits for one child; its status must arrive, whatever it is. */
static inline int wait_status(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			die(74, "workload: waitpid %d", pid);
	return status;
}

/* Memory that parent and children see alike. */
static inline void *shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die(75, "workload: mmap");
	return p;
}

static inline int in_child_act(void *act)
{
	((void (*)(void))act)();
	_exit(0);
}

/* A process of its own does this, and may leave its root and namespaces as it likes; it shares memory, and so the report. */
static inline void in_child(void (*act)(void))
{
	static char stack[1u << 18] __attribute__((aligned(16)));
	pid_t pid = (pid_t)must(clone(in_child_act, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)act), "clone");
	if (wait_status(pid))
		_exit(76); /* it has said why */
}

#endif
