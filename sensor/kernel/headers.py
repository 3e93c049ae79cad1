"""Which kernel structs the probes read, and the header made of them on this host."""

from __future__ import annotations

from sensor.kernel.btf import Btf, HeaderWriter

#: struct -> fields. What a kernel lacks is reported, and guarded by HAVE_ macros in the probes.
WANTED: dict[str, tuple[str, ...]] = {
    "task_struct": ("thread_info", "flags", "pid", "tgid", "real_parent", "group_leader", "start_boottime",
                    "cred", "mm", "fs", "files", "nsproxy", "signal", "thread_pid", "exit_code", "cgroups",
                    "loginuid", "sessionid", "stack", "ptraced", "ptrace_entry"),
    "thread_info": ("flags", "status"),
    "signal_struct": ("live", "tty", "pids", "group_exit_code", "flags"),
    "cred": ("uid", "gid", "suid", "sgid", "euid", "egid", "fsuid", "cap_effective", "cap_permitted", "user_ns"),
    "mm_struct": ("arg_start", "arg_end", "owner"),
    "linux_binprm": ("file", "filename", "interp", "fdpath", "argc"),
    "pid": ("level", "numbers"),
    "upid": ("nr", "ns"),
    "tty_struct": ("name",),
    "nsproxy": ("mnt_ns", "net_ns"),
    "ns_common": ("inum",),
    "mnt_namespace": ("ns",),
    "net": ("ns",),
    "pid_namespace": ("ns",),
    "user_namespace": ("ns",),
    "css_set": ("dfl_cgrp",),
    "cgroup": ("kn",),
    "kernfs_node": ("parent", "__parent", "name"),
    "fs_struct": ("root", "pwd"),
    "files_struct": ("fdt",),
    "fdtable": ("max_fds", "fd"),
    "file": ("f_path", "f_inode", "f_flags", "f_mode", "private_data"),
    "path": ("mnt", "dentry"),
    "vfsmount": ("mnt_root",),
    "mount": ("mnt_parent", "mnt_mountpoint", "mnt"),
    "dentry": ("d_parent", "d_name", "d_inode", "d_hash"),
    "qstr": ("len", "name"),
    "inode": ("i_mode", "i_uid", "i_gid", "i_ino", "i_sb", "i_nlink", "i_private"),
    "super_block": ("s_dev", "s_magic"),
    "pt_regs": ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
                "orig_ax", "ip", "cs", "flags", "sp", "ss"),
    "socket": ("state", "sk", "type"),
    "sock": ("__sk_common", "sk_protocol", "sk_type", "sk_max_ack_backlog"),
    "sock_common": ("skc_family", "skc_state", "skc_num", "skc_dport", "skc_daddr", "skc_rcv_saddr", "skc_net",
                    "skc_v6_daddr", "skc_v6_rcv_saddr"),
    "in6_addr": ("in6_u",),
    "io_kiocb": ("opcode", "file", "ctx"),
    "io_open": ("file_slot", "how"),
    "open_how": ("flags",),
    "io_ring_ctx": ("file_table",),
    "io_file_table": ("data", "files"),
    "io_rsrc_data": ("nodes",),
    "io_rsrc_node": ("file_ptr",),
    "io_fixed_file": ("file_ptr",),
    "io_uring_cqe": ("res",),
    "bpf_prog": ("len", "type", "aux"),
    "bpf_prog_aux": ("id", "name"),
    "bpf_map": ("id", "name"),
    "bpf_link": ("id", "prog"),
}


def kernel_header(btf: Btf) -> tuple[str, list[str]]:
    """Return the text of vmlinux_min.h for this kernel, and what it lacks ("struct.field")."""
    writer = HeaderWriter(btf, WANTED)
    return writer.text() + _shapes(btf), writer.missing


def uring_completion(btf: Btf) -> str:
    """How io_uring_complete tells a result: "cqe", "number", or "" where it names no request at all."""
    passed = btf.tracepoint("io_uring_complete")
    if len(passed) >= 3 and passed[2] == "io_uring_cqe":  # (ring, request, completion)
        return "cqe"
    # (ring, request, user_data, result, ...); 5.10 has (ring, user_data, result)
    return "number" if len(passed) > 4 else ""


def _shapes(btf: Btf) -> str:
    """Macros for tracepoints whose arguments changed over time."""
    shape = uring_completion(btf)
    text = "#define HAVE_URING_COMPLETE 1\n" if shape else ""
    return text + ("#define URING_COMPLETION_IS_CQE 1\n" if shape == "cqe" else "")
