/* priv DIR (absolute, empty) [M=7]: the calls that gain, cross or lend privilege, each M times. Needs root.
 *
 * Everything happens to own children, own namespaces and own memory. Calls that this kernel refuses are
 * made all the same: the attempt is the event, `errno` says how it ended.
 */
#include "workload.h"
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

extern char **environ;
static const char *directory;
static char self[4096];

static void row(const char *op, pid_t pid, long long result)
{
	json_open(NULL, '{');
	json_str("op", op);
	json_num("pid", pid);
	json_num("errno", result < 0 ? errno : 0);
}

static void ptraces(long m)
{
	for (long i = 0; i < m; i++) {
		static char target[64] = "before";
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid)
			for (;;)
				pause();
		must(ptrace(PTRACE_ATTACH, pid, 0, 0), "attach");
		row("ptrace", getpid(), 0);
		json_num("request", PTRACE_ATTACH);
		json_num("target", pid);
		json_close('}');
		wait_status(pid);
		must(ptrace(PTRACE_DETACH, pid, 0, 0), "detach");
		must(ptrace(PTRACE_SEIZE, pid, 0, 0), "seize");
		row("ptrace", getpid(), 0);
		json_num("request", PTRACE_SEIZE);
		json_num("target", pid);
		json_close('}');
		must(ptrace(PTRACE_INTERRUPT, pid, 0, 0), "interrupt");
		wait_status(pid);
		must(ptrace(PTRACE_DETACH, pid, 0, 0), "detach");
		char text_[] = "after";
		struct iovec from = {text_, sizeof text_}, to = {target, sizeof text_};
		long long written = must(process_vm_writev(pid, &from, 1, &to, 1, 0), "process_vm_writev");
		row("ptrace", getpid(), written);
		json_num("request", SYS_process_vm_writev);
		json_num("target", pid);
		json_num("result", written);
		json_close('}');
		must(kill(pid, SIGKILL), "kill");
		wait_status(pid);
	}
}

static void memfds(long m)
{
	for (long i = 0; i < m; i++) {
		char *name = text("memory-%ld", i), buffer[65536];
		int fd = (int)must(syscall(SYS_memfd_create, name, 1 /* MFD_CLOEXEC */), "memfd_create");
		int in = (int)must(open(self, O_RDONLY | O_CLOEXEC), self);
		ssize_t n;
		row("memfd", getpid(), 0);
		json_str("name", name);
		json_num("flags", 1);
		json_num("result", fd);
		json_close('}');
		while ((n = must(read(in, buffer, sizeof buffer), self)) > 0)
			must(write(fd, buffer, (size_t)n), "write");
		close(in);
		pid_t pid = (pid_t)must(fork(), "fork");
		char *code = text("%ld", 40 + i);
		char *argv[] = {"memory", "--exit", code, NULL};
		if (!pid) {
			if (i % 2)
				syscall(SYS_execveat, fd, "", argv, environ, 0x1000);
			else
				execve(text("/proc/self/fd/%d", fd), argv, environ);
			_exit(127);
		}
		int status = wait_status(pid);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 40 + i)
			die(88, "workload: memfd exec");
		row("memfd-exec", pid, 0);
		json_str("how", i % 2 ? "execveat" : "proc");
		json_str("name", name);
		json_num("code", 40 + i);
		json_strs("argv", argv);
		json_close('}');
		close(fd);
	}
}

static void mount_row(const char *op, pid_t pid, const char *source, const char *path, const char *type, unsigned long flags)
{
	row(op, pid, 0);
	json_str("source", source);
	json_str("path", path);
	json_str("filesystem", type);
	json_num("flags", (long long)flags);
	json_close('}');
}

/* Only the parent reports: a child's report would be lost with its memory. */
static void namespaces(long m)
{
	char *place = text("%s/place", directory);
	must(mkdir(place, 0700), place);
	for (long i = 0; i < m; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			must(unshare(CLONE_NEWNS), "unshare");
			must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
			must(mount("sensor-test", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k"), "tmpfs");
			must(umount2(place, MNT_DETACH), "umount2");
			int fd = (int)must(open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC), "ns");
			must(setns(fd, CLONE_NEWUTS), "setns");
			_exit(0);
		}
		if (wait_status(pid))
			die(89, "workload: namespaces");
		row("unshare", pid, 0);
		json_num("namespaces", CLONE_NEWNS);
		json_close('}');
		mount_row("mount", pid, "none", "/", "", MS_REC | MS_PRIVATE);
		mount_row("mount", pid, "sensor-test", place, "tmpfs", MS_NOSUID | MS_NODEV);
		mount_row("umount", pid, "", place, "", MNT_DETACH);
		row("setns", pid, 0);
		json_num("namespaces", CLONE_NEWUTS);
		json_close('}');
	}
}

static void credential_row(long operation, pid_t pid, long ruid, long euid, long suid, long rgid)
{
	row("credentials", pid, 0);
	json_num("operation", operation);
	json_num("real_uid", ruid);
	json_num("effective_uid", euid);
	json_num("saved_uid", suid);
	json_num("real_gid", rgid);
	json_close('}');
}

static void credentials(long m)
{
	for (long i = 0; i < m; i++) {
		pid_t pid = (pid_t)must(fork(), "fork");
		if (!pid) {
			must(syscall(SYS_setgid, 65533), "setgid");
			must(syscall(SYS_setresuid, 65534, 0, 65532), "setresuid");
			struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
			struct __user_cap_data_struct data[2] = {0};
			data[0].effective = data[0].permitted = 1u << CAP_SETUID;
			must(syscall(SYS_capset, &header, data), "capset");
			must(syscall(SYS_setuid, 1000 + i), "setuid");
			if (!syscall(SYS_setuid, 0))
				_exit(1); /* fails: no event */
			_exit(0);
		}
		if (wait_status(pid))
			die(90, "workload: credentials");
		credential_row(SYS_setgid, pid, 0, 0, 0, 65533);
		credential_row(SYS_setresuid, pid, 65534, 0, 65532, 65533);
		credential_row(SYS_capset, pid, 65534, 0, 65532, 65533);
		credential_row(SYS_setuid, pid, 1000 + i, 1000 + i, 1000 + i, 65533);
	}
}

/* The smallest program there is: r0 = 0; exit. And one that the verifier refuses. */
static void programs(long m)
{
	static const struct bpf_insn good[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	for (long i = 0; i < 2 * m; i++) {
		union bpf_attr attr = {0};
		attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
		attr.insns = (uint64_t)(uintptr_t)(i % 2 ? good + 1 : good);
		attr.insn_cnt = i % 2 ? 1 : 2;
		attr.license = (uint64_t)(uintptr_t)"GPL";
		snprintf(attr.prog_name, sizeof attr.prog_name, "wl_%d", (int)(i & 0xffff));
		long fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
		row("bpf", getpid(), fd);
		json_str("name", attr.prog_name);
		json_num("type", BPF_PROG_TYPE_SOCKET_FILTER);
		json_num("instructions", attr.insn_cnt);
		if (fd >= 0) {
			struct bpf_prog_info info = {0};
			union bpf_attr ask = {0};
			ask.info.bpf_fd = (uint32_t)fd;
			ask.info.info_len = sizeof info;
			ask.info.info = (uint64_t)(uintptr_t)&info;
			must(syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &ask, sizeof ask), "info");
			json_num("id", info.id);
			close((int)fd);
		}
		json_close('}');
	}
}

static void modules(long m)
{
	static const char garbage[64] = "no module";
	for (long i = 0; i < m; i++) {
		char *name = text("no_such_module_%ld", i), *file = text("%s/module-%ld.ko", directory, i);
		row("module", getpid(), syscall(SYS_init_module, garbage, sizeof garbage, "parameter=1"));
		json_num("operation", SYS_init_module);
		json_str("name", "parameter=1");
		json_close('}');
		int fd = (int)must(open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600), file);
		must(write(fd, garbage, sizeof garbage), file);
		close(fd);
		fd = (int)must(open(file, O_RDONLY | O_CLOEXEC), file);
		row("module", getpid(), syscall(SYS_finit_module, fd, "other=2", 0));
		json_num("operation", SYS_finit_module);
		json_str("name", "other=2");
		json_str("path", file);
		json_close('}');
		close(fd);
		row("module", getpid(), syscall(SYS_delete_module, name, O_NONBLOCK));
		json_num("operation", SYS_delete_module);
		json_str("name", name);
		json_close('}');
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--exit"))
		return (int)number(argc, argv, 2, 0);
	if (argc < 2 || argv[1][0] != '/')
		return 2;
	long m = number(argc, argv, 2, 7);
	directory = argv[1];
	must(readlink("/proc/self/exe", self, sizeof self - 1), "exe");
	json_self("priv");
	json_open("operations", '[');
	ptraces(m);
	memfds(m);
	namespaces(m);
	credentials(m);
	programs(m);
	modules(m);
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
