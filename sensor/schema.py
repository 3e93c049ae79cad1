"""The event table: every event and field is declared here once, and nowhere else.

From a row come the C struct (``probes/events.h``), the decoder, the JSON keys, the
aliases that rules use, and docs/fields.md. Rules for editing:

* A row is append-only: new fields go last, a field never changes kind or meaning.
* An id is never reused. Ids 1-99 come from the kernel, 100 and up from user space.
* A text longer than its cap is cut at the end that rules care least about, and marked.

``ABI`` is the hash of the layout. It is in every ring record, in the loader's hello and in
every recording, so that two versions can't misread each other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, IntFlag


class Kind(Enum):
    """How a field lies in the ring record: (C type, struct code, bytes, what it means)."""

    U64 = ("__u64", "Q", 8, "number")
    I64 = ("__s64", "q", 8, "number")
    U32 = ("__u32", "I", 4, "number")
    I32 = ("__s32", "i", 4, "number")
    U16 = ("__u16", "H", 2, "number")
    ADDRESS = ("__u8", "16s", 16, "address")  # IPv6, or IPv4 in the first four bytes; network order
    TEXT = ("__u32", "I", 4, "text")  # text word: offset | length << 16, from the record's start
    PATH = ("__u32", "I", 4, "path")  # text word; components leaf first, each ended by NUL
    LIST = ("__u32", "I", 4, "list")  # text word; items each ended by NUL

    @property
    def is_text(self) -> bool:
        """Whether the field is a text word that points into the record's tail."""
        return self in (Kind.TEXT, Kind.PATH, Kind.LIST)


class Flag(IntFlag):
    """Bits of ``flags`` in every record's header."""

    TRUNCATED = 1 << 0  # some text was cut at its cap
    PATH_CUT = 1 << 1  # the path walk ended before it reached the root of the tree
    COMPAT = 1 << 2  # made through the 32-bit system call table (int 0x80)
    ARGUMENT = 1 << 3  # a path or address is the caller's argument, not read from a kernel object
    RACED = 1 << 4  # that argument differed between system call entry and exit
    UNREADABLE = 1 << 5  # some memory of the caller could not be read
    DELETED = 1 << 6  # the file had no name any more
    MEMFD = 1 << 7  # the file lives in anonymous memory (memfd_create)
    UPPER = 1 << 8  # the file lies in the writable layer of an overlay
    CREATED = 1 << 9  # the open made the file
    TRUNC = 1 << 10  # the open cut the file to zero length
    WRITE = 1 << 11  # the open allows writing
    DIRECTORY = 1 << 12  # the object is a directory
    SCRIPT = 1 << 13  # executed through an interpreter line
    FD_EXEC = 1 << 14  # executed by file descriptor (execveat, fexecve)
    IO_URING = 1 << 15  # carried out for io_uring, not by a system call
    TABLE = 1 << 16  # user space: rebuilt from /proc, not seen by a probe
    WATCHED_INODE = 1 << 17  # the inode of a watched file, under whatever path it was opened
    OWN = 1 << 18  # what was acted on is this sensor's own: its process, or its BPF object


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event: its place in the record, its name for people and rules.

    ``ecs`` is the dotted key in the output document; None keeps the field internal (the
    process table or a derived field uses it). ``unit`` and ``doc`` end up in docs/fields.md.
    """

    name: str
    kind: Kind
    ecs: str | None
    doc: str
    unit: str = ""
    cap: int = 0  # longest text in bytes, tail of the record included
    keep: str = "head"  # which end of a text survives the cut


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its number, its names in other vocabularies, its fields."""

    id: int
    name: str
    family: str  # what the settings switch on or off; "user" for events made in user space
    doc: str
    category: str  # ECS event.category
    type: str  # ECS event.type
    sigma: tuple[str, ...]  # log source categories that see this event
    fields: tuple[Field, ...]
    falco: str = ""

    @property
    def action(self) -> str:
        """ECS event.action: the name with dashes."""
        return self.name.replace("_", "-")


def _f(kind: Kind, name: str, ecs: str | None, doc: str, unit: str = "", cap: int = 0,
       keep: str = "head") -> Field:
    return Field(name, kind, ecs, doc, unit, cap, keep)


PATH_CAP = 4096  # PATH_MAX
NAME_CAP = 256  # NAME_MAX and its NUL
ARGV_CAP = 8192

#: In front of every record. The acting process: pid is the thread group, host namespace.
HEADER: tuple[Field, ...] = (
    _f(Kind.U32, "abi", None, "Layout hash, first 32 bits of schema.ABI."),
    _f(Kind.U16, "type", None, "Event id."),
    _f(Kind.U16, "cpu", "sensor.cpu", "Processor that wrote the record."),
    _f(Kind.U64, "seq", "event.sequence", "Per processor and ring, taken before space is asked for."),
    _f(Kind.U64, "time_ns", None, "When the hook ran.", "ns CLOCK_BOOTTIME"),
    _f(Kind.U64, "start_ns", None, "Start of the acting process; (pid, start) is never reused in a boot.",
       "ns CLOCK_BOOTTIME"),
    _f(Kind.U32, "pid", "process.pid", "Thread group id, initial pid namespace."),
    _f(Kind.U32, "tid", "process.thread.id", "Thread id, initial pid namespace."),
    _f(Kind.U32, "uid", "user.effective.id", "Effective user id at the event, initial user namespace."),
    _f(Kind.U32, "gid", "user.effective.group.id", "Effective group id at the event."),
    _f(Kind.U64, "cgroup_id", "sensor.cgroup.id", "Inode number of the cgroup v2 directory."),
    _f(Kind.U32, "mntns", "process.namespace.mnt", "Inode number of the mount namespace."),
    _f(Kind.U32, "flags", None, "Bits of schema.Flag."),
)


def _target(prefix: str = "", ecs: str = "file.path") -> tuple[Field, ...]:
    """A path that a hook names either by kernel object or by argument and base directory."""
    word = "source " if prefix else ""
    return (
        _f(Kind.PATH, f"{prefix}path", ecs, f"The {word}path, walked from the kernel's own dentry; "
           "empty where the hook has only the argument.", cap=PATH_CAP, keep="tail"),
        _f(Kind.PATH, f"{prefix}base", None, f"Directory that the {word}argument is relative to, walked "
           "in the kernel.", cap=PATH_CAP, keep="tail"),
        _f(Kind.TEXT, f"{prefix}name", None, f"The {word}path argument as the caller gave it.",
           cap=PATH_CAP, keep="head"),
    )


_FILE_ID = (
    _f(Kind.U64, "inode", "file.inode", "Inode number."),
    _f(Kind.U32, "dev", "file.device", "Device number of the file system, major << 20 | minor."),
    _f(Kind.U32, "mode", "file.mode", "Type and permission bits.", "octal"),
    _f(Kind.U32, "owner_uid", "file.uid", "Owner of the file."),
    _f(Kind.U32, "owner_gid", "file.gid", "Group of the file."),
)

_RESULT = _f(Kind.I32, "result", "event.result", "What the call returned; negative is -errno.")

_SOCKET = (
    _f(Kind.U16, "address_family", None, "2 for IPv4, 10 for IPv6."),
    _f(Kind.U16, "protocol", "network.iana_number", "6 TCP, 17 UDP."),
    _f(Kind.U16, "source_port", "source.port", "Local port for egress, peer's port for ingress."),
    _f(Kind.U16, "destination_port", "destination.port", "Peer's port for egress, local for ingress."),
    _f(Kind.ADDRESS, "source_address", "source.ip", "Address of the side that began."),
    _f(Kind.ADDRESS, "destination_address", "destination.ip", "Address of the other side."),
    _RESULT,
    _f(Kind.U32, "netns", "process.namespace.net", "Inode number of the network namespace."),
)

EVENTS: tuple[Event, ...] = (
    Event(1, "process_fork", "process", "A process was made. Threads make none.", "process", "start", (), (
        _f(Kind.U32, "child_pid", "process.child.pid", "The new process."),
        _f(Kind.U32, "child_ns_pid", None, "Its id in its own pid namespace."),
        _f(Kind.U64, "child_start_ns", None, "Its start.", "ns CLOCK_BOOTTIME"),
        _f(Kind.U32, "parent_pid", None, "Its real parent, which CLONE_PARENT makes differ from the caller."),
        _f(Kind.U32, "clone_flags", None, "Reserved, 0."),
        _f(Kind.U64, "parent_start_ns", None, "The real parent's start.", "ns CLOCK_BOOTTIME"),
    )),
    Event(2, "process_exec", "process", "A process replaced its program. A failed execve() makes none.",
          "process", "start", ("process_creation",), (
        _f(Kind.U32, "parent_pid", "process.parent.pid", "Real parent."),
        _f(Kind.U32, "ns_pid", "process.namespace.pid_in", "Process id in its own pid namespace."),
        _f(Kind.U64, "parent_start_ns", None, "The parent's start.", "ns CLOCK_BOOTTIME"),
        _f(Kind.U32, "real_uid", "process.real_user.id", "Real user id."),
        _f(Kind.U32, "real_gid", "process.real_group.id", "Real group id."),
        _f(Kind.U32, "saved_uid", "process.saved_user.id", "Saved user id."),
        _f(Kind.U32, "login_uid", "process.login_user.id", "Audit login uid; 4294967295 is unset."),
        _f(Kind.U32, "audit_session", "process.audit_session.id", "Audit session; 4294967295 is unset."),
        _f(Kind.U32, "session_pid", "process.session_leader.pid", "Session leader."),
        _f(Kind.U64, "capabilities", "process.thread.capabilities.effective", "Effective set, a bit each."),
        _f(Kind.U32, "pidns", "process.namespace.pid", "Inode number of the pid namespace."),
        _f(Kind.U32, "netns", "process.namespace.net", "Inode number of the network namespace."),
        _f(Kind.U32, "userns", "process.namespace.user", "Inode number of the user namespace."),
        _f(Kind.U32, "argc", "process.args_count", "Arguments that the new program got."),
        _f(Kind.U64, "argv_bytes", None, "Length of all arguments, also of those beyond the cap.", "bytes"),
        _f(Kind.U64, "inode", "process.executable_inode", "Inode of the program file."),
        _f(Kind.U32, "dev", "process.executable_device", "Device of the program file, major << 20 | minor."),
        _f(Kind.U32, "mode", "process.executable_mode", "Mode of the program file.", "octal"),
        _f(Kind.U32, "owner_uid", "process.executable_uid", "Owner of the program file."),
        _f(Kind.U32, "links", "process.executable_links", "Hard links of the program file; 0 is deleted."),
        _f(Kind.TEXT, "filename", None, "The path given to execve(), as the kernel copied it.", cap=PATH_CAP),
        _f(Kind.TEXT, "interpreter", None, "The program run for it; differs from filename for scripts.",
           cap=PATH_CAP),
        _f(Kind.PATH, "executable", "process.executable_resolved", "The program file, walked from its dentry.",
           cap=PATH_CAP, keep="tail"),
        _f(Kind.LIST, "argv", "process.args", "Arguments as the new program got them.", cap=ARGV_CAP),
        _f(Kind.PATH, "cwd", "process.working_directory", "Working directory.", cap=PATH_CAP, keep="tail"),
        _f(Kind.PATH, "cgroup", "sensor.cgroup.path", "cgroup v2 path.", cap=1024, keep="tail"),
        _f(Kind.TEXT, "tty", "process.tty.name", "Controlling terminal.", cap=64),
    ), falco="spawned_process"),
    Event(3, "process_exit", "process", "The last thread of a process ended.", "process", "end",
          ("process_termination",), (
        _f(Kind.U32, "exit_code", "process.exit_code", "Status given to exit(); 0 where a signal ended it."),
        _f(Kind.U32, "exit_signal", "process.exit_signal", "Signal that ended it, or 0."),
    )),
    Event(10, "file_open", "file", "A file was opened for writing, made or cut; or a watched file for reading.",
          "file", "access", ("file_event", "file_access"), (
        _f(Kind.PATH, "path", "file.path", "Walked from the struct file that the open made.",
           cap=PATH_CAP, keep="tail"),
        *_FILE_ID,
        _f(Kind.U32, "open_flags", "file.open_flags", "O_* of the call; from the caller's memory for openat2."),
    ), falco="open_write"),
    Event(11, "file_unlink", "file", "A name was removed (unlink, rmdir).", "file", "deletion", ("file_delete",),
          (*_target(),)),
    Event(12, "file_rename", "file", "A file got another name, perhaps in the place of another file.", "file",
          "change", ("file_rename", "file_event"), (*_target(), *_target("source_", "file.Ext.original.path"))),
    Event(13, "file_link", "file", "A hard or symbolic link was made.", "file", "creation",
          ("file_link", "file_event"), (*_target(), *_target("source_", "file.target_path"),
        _f(Kind.U32, "symbolic", "file.link.symbolic", "1 for a symbolic link, whose target is any text."),
    )),
    Event(14, "file_chmod", "file", "Permission bits were set.", "file", "change", ("file_chmod", "file_change"),
          (*_target(), _f(Kind.U32, "mode", "file.mode", "Bits asked for.", "octal"))),
    Event(15, "file_chown", "file", "Owner or group were set.", "file", "change", ("file_chown", "file_change"),
          (*_target(), _f(Kind.U32, "owner_uid", "file.uid", "New owner; 4294967295 leaves it."),
           _f(Kind.U32, "owner_gid", "file.gid", "New group; 4294967295 leaves it."))),
    Event(16, "file_mkdir", "file", "A directory was made.", "file", "creation", ("file_mkdir",),
          (*_target(), _f(Kind.U32, "mode", "file.mode", "Bits asked for.", "octal"))),
    Event(20, "network_connect", "network", "connect() on a TCP or UDP socket, also one that failed; or the "
          "first datagram that a process sends over a socket to a place that it is not connected to.", "network",
          "start", ("network_connection",), _SOCKET, falco="outbound"),
    Event(21, "network_accept", "network", "A TCP connection was accepted.", "network", "start",
          ("network_connection",), _SOCKET, falco="inbound"),
    Event(22, "network_bind", "network", "A socket got a local address.", "network", "info", ("network_bind",),
          _SOCKET),
    Event(23, "network_listen", "network", "A socket began to listen.", "network", "info", ("network_listen",),
          (*_SOCKET, _f(Kind.U32, "backlog", None, "Queue length asked for."))),
    Event(24, "dns_query", "network", "A datagram was sent to port 53.", "network", "protocol", ("dns_query",),
          (*_SOCKET, _f(Kind.TEXT, "query", None, "The DNS message, from its header on.", cap=512),
           _f(Kind.U32, "query_bytes", None, "Length of the datagram.", "bytes"))),
    Event(30, "process_ptrace", "privilege", "One process attached to, or wrote into, another.", "process",
          "access", ("process_access",), (
        _f(Kind.U32, "request", "process.ptrace.request", "PTRACE_* number; or that of the call: 310/311 process_vm_*, "
           "438 pidfd_getfd."),
        _f(Kind.U32, "target_pid", "process.target.pid", "The other process, as the caller's namespace numbers it; for "
           "438 as the initial one does."),
        _RESULT)),
    Event(31, "module_load", "privilege", "A kernel module was loaded or removed, or the attempt failed.", "driver",
          "start", ("driver_load",), (
        _f(Kind.U32, "operation", "sensor.operation", "System call number: 175, 313 load, 176 remove."),
        _RESULT,
        _f(Kind.PATH, "path", "file.path", "Module file, where loaded by descriptor.", cap=PATH_CAP, keep="tail"),
        _f(Kind.TEXT, "name", "driver.name", "Name (removal) or parameters (loading).", cap=NAME_CAP))),
    Event(32, "bpf_load", "privilege", "A BPF program was loaded, or the attempt failed.", "driver", "start",
          ("bpf_load",), (
        _f(Kind.U32, "program_type", "bpf.program.type", "BPF_PROG_TYPE_* number."),
        _RESULT,
        _f(Kind.U32, "program_id", "bpf.program.id", "Kernel's id of the program; 0 where it failed."),
        _f(Kind.U32, "instructions", "bpf.program.instructions", "Length of the program."),
        _f(Kind.TEXT, "name", "bpf.program.name", "Name given to the program.", cap=32))),
    Event(33, "mount", "privilege", "A file system was mounted, moved or unmounted, or the attempt failed.",
          "file", "change", ("mount",), (
        _f(Kind.U32, "operation", "sensor.operation", "System call number: 165 mount, 166 umount2, 429 move_mount, "
           "155 pivot_root."),
        _RESULT,
        _f(Kind.U64, "mount_flags", "mount.flags", "MS_* or MNT_* bits."),
        *_target(),
        _f(Kind.TEXT, "source", "mount.source", "Device or source path.", cap=1024),
        _f(Kind.TEXT, "filesystem", "mount.type", "File system type.", cap=64))),
    Event(34, "namespace_change", "privilege", "setns() or unshare().", "process", "change",
          ("namespace_change",), (
        _f(Kind.U32, "operation", "sensor.operation", "System call number: 308 setns, 272 unshare."),
        _RESULT,
        _f(Kind.U64, "namespaces", "process.namespace.flags", "CLONE_NEW* bits."))),
    Event(35, "memfd_create", "privilege", "A file in anonymous memory was made.", "file", "creation",
          ("memfd_create",), (
        _f(Kind.U32, "memfd_flags", "file.open_flags", "MFD_* bits."),
        _RESULT,
        _f(Kind.TEXT, "name", "file.name", "Name given, without the memfd: prefix.", cap=NAME_CAP))),
    Event(36, "credentials_change", "privilege", "A set*id() or capset() call succeeded.", "iam", "change",
          ("credentials_change",), (
        _f(Kind.U32, "operation", "sensor.operation", "System call number."),
        _f(Kind.U32, "real_uid", "process.real_user.id", "Real user id after the call."),
        _f(Kind.U32, "saved_uid", "process.saved_user.id", "Saved user id after the call."),
        _f(Kind.U32, "real_gid", "process.real_group.id", "Real group id after the call."),
        _f(Kind.U64, "capabilities", "process.thread.capabilities.effective", "Effective set after the call."))),
    Event(37, "process_signal", "privilege", "Another process sent a signal to one of this sensor's. Signals among "
          "others make none.", "process", "access", ("process_signal",), (
        _f(Kind.U32, "target_pid", "process.target.pid", "The sensor's process: supervisor or engine."),
        _f(Kind.U32, "signal", "process.signal.number", "Number of the signal: 9 SIGKILL, 15 SIGTERM, 19 SIGSTOP, ..."),
        _f(Kind.I32, "code", "process.signal.code", "How it was sent: 0 kill() and the like, -1 with a value, -6 to one "
           "thread."),
        _f(Kind.U32, "disposition", "process.signal.disposition", "0 delivered, 1 ignored by the target, 2 one was "
           "pending already, 3 and 4 its queue was full."))),
    Event(38, "bpf_access", "privilege", "Another process than the sensor's own got hold of a BPF object of the sensor, "
          "or attached, detached, changed, ran or pinned one, or tried to.", "driver", "change", ("bpf_access",), (
        _f(Kind.U32, "command", "bpf.command", "BPF_* number of the bpf() call: 13, 14 and 30 get a program, map or link "
           "by its id; 2 and 3 change a map, 29 and 34 a link."),
        _RESULT,
        _f(Kind.U32, "object", "bpf.object.type", "1 program, 2 map, 3 link."),
        _f(Kind.U32, "object_id", "bpf.object.id", "Kernel's id of it."),
        _f(Kind.TEXT, "name", "bpf.object.name", "Its name, a link's program's; absent where the call failed.", cap=32))),
    Event(40, "shell_line", "shell", "A line was read by bash at a prompt (opt-in).", "process", "info",
          ("shell_command",), (_f(Kind.TEXT, "line", "process.io.text", "The line.", cap=1024),)),
    Event(100, "sensor_loss", "user", "Records were lost, and how many.", "host", "error", ("sensor_loss",), (
        _f(Kind.U64, "count", "sensor.loss.count", "Records lost since the last such event."),
        _f(Kind.U64, "first", "sensor.loss.from", "First lost sequence number; 0 where only counted."),
        _f(Kind.U64, "last", "sensor.loss.to", "Last lost sequence number; 0 where only counted."),
        _f(Kind.TEXT, "stage", "sensor.loss.stage", "Where: kernel_ringbuf, decode, output.", cap=32),
        _f(Kind.TEXT, "lost_type", "sensor.loss.type", "Event type, or all.", cap=32))),
    Event(101, "sensor_state", "user", "The sensor started, stopped, reloaded or changed its mode.", "host",
          "change", ("sensor_state",), (
        _f(Kind.TEXT, "state", "sensor.state", "start, ready, stop, engine_restart, probe_failed, reload, reload_refused, reduced, detached, passive, "
           "tampered, drill, clock_set.", cap=32),
        _f(Kind.TEXT, "detail", "message", "One sentence.", cap=1024))),
    Event(102, "sensor_crash", "user", "The host has crashed before, and whom that is attributed to.", "host", "error",
          ("sensor_crash",), (
        _f(Kind.TEXT, "kind", "sensor.crash.kind", "panic, oops, bug, gpf, kasan, warning, soft_lockup, hard_lockup, hung_task, rcu_stall, sysrq.", cap=32),
        _f(Kind.TEXT, "attributed", "sensor.crash.attributed", "self, other or unknown.", cap=16),
        _f(Kind.TEXT, "component", "sensor.crash.component", "Name of what it is attributed to.", cap=NAME_CAP),
        _f(Kind.TEXT, "component_kind", "sensor.crash.component_kind", "sysrq, module, driver, bpf, process, hardware, sensor.", cap=16),
        _f(Kind.TEXT, "confidence", "sensor.crash.confidence", "certain, likely, weak or none.", cap=16),
        _f(Kind.TEXT, "time", "sensor.crash.time", "When, RFC 3339; where the dump has no time, when it was found.", cap=32),
        _f(Kind.TEXT, "release", "sensor.crash.kernel", "Release of the kernel that crashed.", cap=128),
        _f(Kind.TEXT, "source", "sensor.crash.source", "Where it was found: pstore, journal, kdump, kernel log.", cap=32),
        _f(Kind.TEXT, "id", "sensor.crash.id", "The same in `sensor crashes`.", cap=32),
        _f(Kind.TEXT, "detail", "message", "First line of the kernel's report, the rule and its evidence.", cap=1024))),
    Event(120, "sensor_rule_disabled", "user", "A rule was over its budget and is not evaluated any more, until the next "
          "reload.", "host", "change", ("sensor_rule_disabled",), (
        _f(Kind.TEXT, "rule", "sensor.rule.id", "Id of the rule.", cap=128),
        _f(Kind.TEXT, "name", "sensor.rule.name", "Its title.", cap=256),
        _f(Kind.TEXT, "reason", "sensor.rule.reason", "cpu_time or alerts: of which it took too much.", cap=32),
        _f(Kind.U64, "measured", "sensor.rule.measured", "What it took within the last minute: ms, or alerts."),
        _f(Kind.U64, "limit", "sensor.rule.limit", "What it may take, in the same unit."))),
    Event(121, "sensor_breaker", "user", "The probes cost more than they may: a family was switched off, or on again.",
          "host", "change", ("sensor_breaker",), (
        _f(Kind.TEXT, "action", "sensor.breaker.action", "shed, restored, or exhausted: what costs can't be switched "
           "off.", cap=16),
        _f(Kind.TEXT, "family", "sensor.breaker.family", "Probe family: file, path, network, privilege, shell.",
           cap=16),
        _f(Kind.TEXT, "reason", "sensor.breaker.reason", "kernel_cpu, program_ns, or drill: nothing was wrong.",
           cap=16),
        _f(Kind.U64, "measured", "sensor.breaker.measured", "Millionths of the time of all processors; ns per run for "
           "program_ns."),
        _f(Kind.U64, "limit", "sensor.breaker.limit", "What it may be, in the same unit."),
        _f(Kind.TEXT, "sentence", "message", "One sentence.", cap=1024))),
    Event(122, "sensor_throttle", "user", "A control group caused more events than it may: the kernel drops what is "
          "more, or has stopped to.", "host", "change", ("sensor_throttle",), (
        _f(Kind.TEXT, "action", "sensor.throttle.action", "began or ended.", cap=16),
        _f(Kind.U64, "cgroup", "sensor.throttle.cgroup.id", "Id of the control group."),
        _f(Kind.TEXT, "path", "sensor.throttle.cgroup.path", "Its path, where it is known.", cap=1024),
        _f(Kind.TEXT, "family", "sensor.throttle.family", "Probe family whose events are dropped.", cap=16),
        _f(Kind.U64, "count", "sensor.throttle.count", "Events dropped since it began."))),
    Event(110, "sensor_content", "user", "A content release was staged, promoted, taken back, or has expired.", "host",
          "change", ("sensor_content",), (
        _f(Kind.U64, "version", "sensor.content.version", "Version of the release; 0 for rules that are none."),
        _f(Kind.TEXT, "action", "sensor.content.action",
           "staged, promoted, known_good, rolled_back, expired, stepped_down.", cap=32),
        _f(Kind.TEXT, "release", "sensor.content.release", "Its id: SHA-256 of its manifest; or built-in, observe.", cap=80),
        _f(Kind.TEXT, "stage", "sensor.content.stage", "shadow, canary or active, after that.", cap=32),
        _f(Kind.TEXT, "reason", "sensor.content.reason", "Why it was taken back: crash, load, fault, evaluation_time, "
           "alert_rate, loss, revoked, operator.", cap=32),
        _f(Kind.TEXT, "sentence", "message", "One sentence.", cap=1024))),
)

#: Raised with each event or field that rules can name: content says which one it needs.
VERSION = 1

BY_ID: dict[int, Event] = {event.id: event for event in EVENTS}
BY_NAME: dict[str, Event] = {event.name: event for event in EVENTS}

#: Derived keys: in documents, but not one field of one record. (ecs, events or "*", meaning)
DERIVED: tuple[tuple[str, str, str], ...] = (
    ("@timestamp", "*", "Wall clock, RFC 3339 with nanoseconds, from time_ns and the boot time."),
    ("event.id", "*", "boot id, processor, ring and sequence: unique and stable in recordings."),
    ("event.kind", "*", "event, alert, or state for the sensor's own."),
    ("event.category", "*", "List, from the table."),
    ("event.type", "*", "List, from the table; creation, change or access for file_open by what it did."),
    ("event.action", "*", "The event's name with dashes."),
    ("event.outcome", "*", "success or failure, where the event has a result."),
    ("event.dataset", "*", "sensor.<event name>"),
    ("process.entity_id", "*", "Hash of boot id, pid and start: one process, however pids are reused."),
    ("process.name", "*", "Last component of process.executable."),
    ("process.executable", "*", "Absolute path as executed, symbolic links kept; a script's interpreter."),
    ("process.script", "process_exec", "Path of the script, where one was executed."),
    ("process.command_line", "*", "Arguments joined by single spaces."),
    ("process.start", "*", "Start of the process, RFC 3339."),
    ("process.parent.*", "*", "entity_id, pid, name, executable, script, command_line, start, user of the parent."),
    ("process.session_leader.*", "*", "pid, entity_id, executable of the session leader."),
    ("process.ancestors", "*", "List of executables from the parent upwards, at most 16; unknown ones left out."),
    ("process.ancestor_names", "*", "The kernel's names of the same tasks (a script's own, 15 bytes); unknown ones empty."),
    ("user.id", "*", "Effective user id at the event, as text."),
    ("user.name", "*", "Name for it on this host, or absent."),
    ("container.id", "*", "64 (or 12) hexadecimal digits found in the cgroup path."),
    ("container.runtime", "*", "docker, containerd, cri-o, podman, lxc."),
    ("service.name", "*", "systemd unit from the cgroup path."),
    ("file.name", "*", "Last component of file.path."),
    ("file.directory", "*", "Everything before it."),
    ("file.extension", "*", "After the last dot of file.name, without the dot."),
    ("network.transport", "*", "tcp (MPTCP too), udp or udp-lite."),
    ("network.type", "*", "ipv4 or ipv6."),
    ("network.initiated", "*", "true for connect and DNS, false for accept."),
    ("network.direction", "*", "egress (connect, DNS) or ingress (accept)."),
    ("dns.question.name", "dns_query", "Name asked for, lower case is not forced."),
    ("dns.question.type", "dns_query", "A, AAAA, TXT, ... or the number."),
    ("process.target.*", "process_ptrace", "entity_id, name, executable of the target, where it is known."),
    ("process.target.*", "process_signal", "The same of the sensor's process."),
    ("rule.*", "*", "id, name, level, description, reference (a list): of the rule, in alerts."),
    ("threat.technique.id", "*", "List of ATT&CK techniques of the rule, in alerts."),
    ("tags", "*", "Tags of the rule, in alerts."),
    ("event.start", "*", "Time of the first event of a correlation, in its alerts."),
    ("event.end", "*", "Time of the last one."),
    ("sensor.correlation.*", "*", "In its alerts: type, id, count, events (ids), events_count, timespan, group (a list)."),
    ("sensor.flags", "*", "Names of the bits set in the record, lower case."),
    ("sensor.escaped", "*", "Keys whose bytes are no UTF-8: \\xNN stands for such a byte, \\\\ for a backslash."),
)

#: Sigma's field names (any log source) -> key in the document.
SIGMA_FIELDS: dict[str, str] = {
    "Image": "process.executable",
    "CommandLine": "process.command_line",
    "CurrentDirectory": "process.working_directory",
    "ProcessId": "process.pid",
    "ProcessGuid": "process.entity_id",
    "ParentImage": "process.parent.executable",
    "ParentCommandLine": "process.parent.command_line",
    "ParentProcessId": "process.parent.pid",
    "ParentProcessGuid": "process.parent.entity_id",
    "ParentUser": "process.parent.user.name",
    "User": "user.name",
    "UserId": "user.id",
    "LogonId": "process.login_user.id",
    "TerminalSessionId": "process.audit_session.id",
    "TargetFilename": "file.path",
    "SourceFilename": "file.Ext.original.path",
    "DestinationIp": "destination.ip",
    "DestinationPort": "destination.port",
    "DestinationHostname": "destination.domain",
    "SourceIp": "source.ip",
    "SourcePort": "source.port",
    "Protocol": "network.transport",
    "Initiated": "network.initiated",
    "QueryName": "dns.question.name",
    "QueryType": "dns.question.type",
    "ImageLoaded": "file.path",
    "TargetProcessId": "process.target.pid",
    "TargetImage": "process.target.executable",
    "ExitCode": "process.exit_code",
}

#: Log sources that our events serve: Sigma category -> ids of the events it sees.
SIGMA_CATEGORIES: dict[str, tuple[int, ...]] = {}
for _event in EVENTS:
    for _category in _event.sigma:
        SIGMA_CATEGORIES[_category] = (*SIGMA_CATEGORIES.get(_category, ()), _event.id)


def _layout() -> str:
    rows = [("header", HEADER), *((f"{e.id} {e.name}", e.fields) for e in EVENTS if e.id < 100)]
    return "\n".join(f"{title}: " + " ".join(f"{f.name}:{f.kind.name}" for f in fields) for title, fields in rows)


ABI: str = hashlib.sha256(_layout().encode()).hexdigest()
ABI_WORD: int = int(ABI[:8], 16)
