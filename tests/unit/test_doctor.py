"""The doctor on hosts made of directories: what each lack is called, why it matters, what fixes it."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import shutil
import socket
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from sensor import host as hosts
from sensor.carriers import FUNC
from sensor.cli import doctor as command
from sensor.config import Settings, loads
from sensor.doctor import examine
from sensor.host import Host, port_fault, probe_bcc
from sensor.kernel.btf import TYPEDEF
from sensor.kernel.hooks import DISPATCHER, HOOKS

REAL_BCC = {"file": "/usr/lib/python3/dist-packages/bcc/__init__.py", "real": True, "version": "0.26.0"}


def btf(*names: tuple[str, int], completion: int = 7) -> bytes:
    """Kernel type information that holds only these names; io_uring_complete passes *completion* arguments."""
    func_proto, pointer, parameters = 13, 2, completion + 1
    strings = b"\0"
    types = struct.pack("<III", 0, func_proto << 24 | parameters, 0) + bytes(8 * parameters)
    types += struct.pack("<III", 0, pointer << 24, 1)
    for name, kind in names:
        types += struct.pack("<III", len(strings), kind << 24, 2 if name == "btf_trace_io_uring_complete" else 0)
        strings += name.encode() + b"\0"
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


ALL_HOOKS = [hook for ways in HOOKS.values() for way in ways for hook in way.hooks]
TRACEPOINTS = {hook.target for hook in ALL_HOOKS if hook.kind == "raw_tracepoint"}
FUNCTIONS = {hook.target for hook in ALL_HOOKS if hook.kind in ("kprobe", "kretprobe", "fentry")} | {
    f"bpf_lsm_{hook.target}" for hook in ALL_HOOKS if hook.kind == "lsm"}
ALL_TYPES = (*((f"btf_trace_{name}", TYPEDEF) for name in sorted(TRACEPOINTS | {DISPATCHER.target})),
             *((name, FUNC) for name in sorted(FUNCTIONS)))
FILES = {
    "/proc/sys/kernel/seccomp/actions_avail": "kill_process errno allow\n",
    "/proc/cmdline": "quiet",
    "/proc/self/status": "Name:\tsensor\nCapEff:\t000001ffffffffff\n",
    "/proc/self/limits": "Max locked memory         8388608              8388608              bytes\n",
    "/proc/self/mounts": "proc /proc proc rw,relatime 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
    "/proc/sys/kernel/perf_event_paranoid": "3\n",
    "/proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
    "/proc/sys/net/core/bpf_jit_enable": "1\n",
    "/proc/17/comm": "sshd\n",
    "/sys/kernel/security/lsm": "lockdown,capability,bpf",
    "/sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    "/sys/kernel/tracing/events/header_page": "",
    "/sys/bus/event_source/devices/kprobe/type": "8\n",
    "/sys/bus/event_source/devices/uprobe/type": "9\n",
    "/etc/os-release": 'NAME="Debian"\nID=debian\nVERSION_ID="12"\n',
    "/bin/bash": "",
}


@pytest.fixture
def host(tmp_path):
    """A Debian 12 machine that has everything."""
    for name, text in FILES.items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    types = tmp_path / "sys/kernel/btf/vmlinux"
    types.parent.mkdir()
    types.write_bytes(btf(*ALL_TYPES, ("bpf_trampoline_link_prog", FUNC)))
    config = tmp_path / "boot/config-6.1.0-40-amd64"
    config.parent.mkdir()
    config.write_text("CONFIG_FUNCTION_TRACER=y\nCONFIG_KPROBES=y\n")
    (tmp_path / "proc/self/ns").mkdir()
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    return Host(root=tmp_path, release="6.1.0-40-amd64",
                build="#1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)", machine="x86_64", euid=0,
                prefix=Path("/srv/venv"), bcc=lambda: REAL_BCC, port_fault=lambda _host, _port: "",
                user_exists=lambda _name: True, refusal=lambda _kind, _function: "", engine=lambda: "native",
                landlock=lambda: 6)


def only(report, name):
    found = [check for check in report.checks if check.name == name]
    assert len(found) == 1, report.checks
    return found[0]


def write(host, name, text):
    path = host.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_kernel_that_is_known_to_be_bad_is_told_with_its_source_and_the_hook_is_not_used(host):
    """Not a word from the kernel itself tells it: the table does."""
    host.release, host.build = "5.14.0-427.13.1.el9_4.x86_64", "#1 SMP PREEMPT_DYNAMIC Wed Apr 10 10:29:16 EDT 2024"
    report = examine(host, Settings())
    assert "https://github.com/" in next(c.why for c in report.checks if c.name == "known-bad kernel" and c.fix)
    used = {event.event: event.used for event in report.events if event.enabled}
    assert used["file_unlink"].kind == "syscall"
    assert "known to be bad" in next(way.reason for event in report.events if event.event == "file_unlink"
                                     for way in event.alternatives if way.kind == "fentry")


def test_kernel_newer_than_the_newest_tested_is_told(host):
    """A note: most probes then wait for the self-test."""
    host.release, host.build = "9.1.0-amd64", "#1 SMP"
    assert only(examine(host, Settings()), "kernel tests").state == "note"


def test_host_that_has_everything_is_fine_and_every_event_is_carried(host):
    """Nothing to say means: no fix anywhere, and a hook for each event that is on."""
    report = examine(host, Settings())
    assert report.state == "ok"
    assert [check for check in report.checks if check.fix] == []
    assert {event.event for event in report.events} == set(HOOKS)
    assert [event.event for event in report.events if not event.seen] == ["shell_line"]
    assert only(report, "hook kinds").found == "raw_tracepoint, tracepoint, kprobe, uprobe, fentry, lsm"


@pytest.mark.parametrize(("change", "reason"), [
    (lambda h: h.path("/sys/kernel/btf/vmlinux").unlink(), "no kernel type information"),
    (lambda h: write(h, "/sys/kernel/security/lockdown", "none integrity [confidentiality]"), "lockdown"),
    (lambda h: write(h, "/proc/self/uid_map", "0 1000 1"), "user namespace"),
    (lambda h: write(h, "/proc/self/status", "CapEff:\t00000000a80425fb\n"), "CAP_BPF"),
    (lambda h: setattr(h, "release", "5.4.0-generic"), "ring buffer"),
])
def test_where_no_probe_can_be_loaded_no_event_is_promised(host, change, reason):
    """Each alternative of each event gives the loader's reason, and the status is 3."""
    change(host)
    report = examine(host, Settings())
    assert report.state == "missing"
    assert not any(event.seen for event in report.events)
    assert all(reason in way.reason for event in report.events for way in event.alternatives)


def test_sys_admin_alone_is_enough_to_load(host):
    """The kernel takes it for the two younger capabilities, so the doctor must not ask for them."""
    without = 0x1FFFFFFFFFF & ~(1 << 38 | 1 << 39)
    write(host, "/proc/self/status", f"CapEff:\t{without:016x}\n")
    assert only(examine(host, Settings()), "capabilities").state == "ok"


@pytest.mark.parametrize(("change", "name", "state", "words"), [
    (lambda h: setattr(h, "machine", "riscv64"), "machine", "missing", ["riscv64"]),
    (lambda h: setattr(h, "release", "5.4.0-generic"), "kernel", "missing", ["5.4.0", "5.8 or later"]),
    (lambda h: setattr(h, "release", "custom"), "kernel", "missing", ["custom"]),
    (lambda h: h.path("/sys/kernel/btf/vmlinux").unlink(), "BTF", "missing", ["CONFIG_DEBUG_INFO_BTF=y"]),
    (lambda h: h.path("/sys/kernel/btf/vmlinux").write_bytes(b"junk" * 99), "BTF", "missing", ["no usable"]),
    (lambda h: write(h, "/sys/kernel/security/lockdown", "none integrity [confidentiality]"), "lockdown",
     "missing", ["confidentiality", "lockdown=integrity"]),
    (lambda h: write(h, "/sys/kernel/security/lockdown", "none [integrity] confidentiality"), "lockdown", "ok",
     ["integrity"]),
    (lambda h: write(h, "/sys/kernel/security/lsm", "lockdown,yama"), "hook kinds", "ok",
     ["lsm: bpf is not in the kernel's lsm= list"]),
    (lambda h: shutil.rmtree(h.path("/sys/bus/event_source/devices/kprobe")), "hook kinds", "ok", ["kprobe: "]),
    (lambda h: shutil.rmtree(h.path("/sys/kernel/tracing")), "tracefs", "note", ["mount -t tracefs"]),
    (lambda h: write(h, "/proc/self/uid_map", "0 1000 1"), "user namespace", "missing",
     ["not of the host", "--userns=host"]),
    (lambda h: setattr(h, "euid", 1000), "root", "note", ["1000", "sudo sensor doctor"]),
    (lambda h: write(h, "/proc/self/status", "CapEff:\t00000000a80425fb\n"), "capabilities", "missing",
     ["cap_sys_admin, cap_perfmon, cap_bpf", "--cap-add"]),
    (lambda h: write(h, "/proc/sys/kernel/unprivileged_bpf_disabled", "0"), "unprivileged BPF", "warning",
     ["sysctl -w kernel.unprivileged_bpf_disabled=2"]),
    (lambda h: write(h, "/proc/sys/net/core/bpf_jit_enable", "0"), "BPF JIT", "warning", ["bpf_jit_enable=1"]),
    (lambda h: setattr(h, "release", "5.10.0-32"), "locked memory", "warning", ["8192 KiB", "ulimit -l"]),
    (lambda h: setattr(h, "bcc", lambda: {"error": "ModuleNotFoundError: No module named 'bcc'"}), "BCC",
     "missing", ["No module named", "apt-get install -y --no-install-recommends python3-bpfcc", "replay"]),
    (lambda h: setattr(h, "bcc", lambda: {"file": "/srv/venv/lib/bcc/__init__.py", "real": False}), "BCC",
     "missing", ["/srv/venv/lib/bcc", "another project", "/srv/venv/bin/python -m pip uninstall -y bcc",
                 "python3-bpfcc"]),
    (lambda h: (h.path("/proc/self/ns/pid").unlink(), h.path("/proc/self/ns/pid").symlink_to("pid:[4026532199]")),
     "pid namespace", "missing", ["--pid=host"]),
    (lambda h: write(h, "/proc/self/mounts", "proc /proc proc rw,hidepid=invisible 0 0\n"), "/proc", "note",
     ["hidepid"]),
    (lambda h: write(h, "/proc/self/mounts", ""), "cgroup v2", "warning", ["unified_cgroup_hierarchy"]),
    (lambda h: write(h, "/run/systemd/container", "lxc\n"), "container", "note", ["lxc", "--pid=host"]),
    (lambda h: setattr(h, "port_fault", lambda _host, _port: "Address already in use"), "metrics port", "warning",
     ["127.0.0.1:9923: Address already in use", "ss -ltnp 'sport = :9923'"]),
    (lambda h: setattr(h, "user_exists", lambda _name: False), "user", "note", ["nobody", "useradd --system"]),
    (lambda h: setattr(h, "landlock", lambda: 0), "Landlock", "note", ["lsm=", "5.13"]),
    (lambda h: h.path("/proc/sys/kernel/seccomp/actions_avail").unlink(), "seccomp", "note", ["every system call"]),
    (lambda h: write(h, "/proc/99/comm", "falco\n"), "other agents", "note", ["falco"]),
    (lambda h: write(h, "/etc/sensor/disable", ""), "switch", "warning", ["rm /etc/sensor/disable"]),
    (lambda h: write(h, "/proc/cmdline", "ro sensor=0 quiet"), "switch", "warning", ["sensor=0"]),
])
def test_each_lack_is_named_with_its_reason_and_its_fix(host, change, name, state, words):
    """One thing is taken away; the check of that name tells what, why and what to do."""
    change(host)
    check = only(examine(host, Settings()), name)
    assert check.state == state
    text = " ".join(dataclasses.astuple(check))
    for word in words:
        assert word in text
    assert state == "ok" or check.why


@pytest.mark.parametrize(("distribution", "package"), [
    ('ID=ubuntu\nID_LIKE=debian\n', "apt-get install"), ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
    ("ID=alpine\n", "apk add py3-bcc"), ("ID=plan9\n", "from the distribution")])
def test_fix_speaks_the_package_manager_of_the_distribution(host, distribution, package):
    """The command is one that exists there."""
    write(host, "/etc/os-release", distribution)
    host.bcc = lambda: {"error": "gone"}
    assert package in only(examine(host, Settings()), "BCC").fix


def test_event_without_a_tracepoint_is_reported_blind_with_the_reason(host):
    """A kernel whose BTF lacks a tracepoint loses that event, and only that one."""
    types = [entry for entry in ALL_TYPES if entry[0] != "btf_trace_sched_process_exit"]
    host.path("/sys/kernel/btf/vmlinux").write_bytes(btf(*types))
    report = examine(host, Settings())
    assert only(report, "events").found == "nothing carries process_exit"
    exit_event = next(event for event in report.events if event.event == "process_exit")
    assert not exit_event.seen
    assert exit_event.alternatives[0].reason == "this kernel has no such tracepoint"
    assert report.state == "warning"


def test_completion_without_request_is_told_by_the_decision_instead(host):
    """5.10's io_uring_complete passes (ring, user_data, result): of what request, nobody knows."""
    tails = {True: "io_uring_complete tells more", False: ""}
    for arguments in (7, 3):
        host = dataclasses.replace(host)
        host.path("/sys/kernel/btf/vmlinux").write_bytes(
            btf(*ALL_TYPES, ("bpf_trampoline_link_prog", FUNC), completion=arguments))
        events = {event.event: event for event in examine(host, Settings()).events}
        used = events["file_open"].used
        assert used is not None
        assert used.kind == "syscall"
        reasons = {hook.program: hook.reason for hook in used.hooks}
        assert reasons.pop("on_uring_open") == ("" if arguments == 7 else "this kernel's tracepoint names no request")
        assert reasons.pop("kprobe_uring_security_file_open") == tails[arguments == 7]
        assert not any(reasons.values())


def test_without_the_dispatcher_events_fall_back_on_what_the_security_hooks_tell(host):
    """What hangs behind sys_exit falls with it, and the reason says so; what has another way takes it."""
    types = [entry for entry in ALL_TYPES if entry[0] != f"btf_trace_{DISPATCHER.target}"]
    host.path("/sys/kernel/btf/vmlinux").write_bytes(btf(*types, ("bpf_trampoline_link_prog", FUNC)))
    for event in examine(host, Settings()).events:
        if not event.enabled:
            continue
        assert event.seen == any(way.available for way in event.alternatives), event.event
        for way in event.alternatives:
            if way.kind == "syscall":
                assert way.reason.startswith("behind sys_exit: "), event.event
    events = {event.event: event for event in examine(dataclasses.replace(host), Settings()).events}
    assert events["file_open"].used.kind == "fentry"
    assert events["network_accept"].used.kind == "kretprobe"
    assert not events["dns_query"].seen


@pytest.mark.parametrize(("lacking", "used"), [("", "fentry"), ("fentry", "kprobe"), ("fentry kprobe", "lsm"),
                                               ("fentry kprobe lsm", "syscall")])
def test_names_are_told_by_the_best_hook_that_there_is(host, lacking, used):
    """The order of the table, whatever this kernel lacks; what is not used says why."""
    host.refusal = lambda kind, _function: "refused" if kind in lacking else ""
    if "kprobe" in lacking:
        shutil.rmtree(host.path("/sys/bus/event_source/devices/kprobe"))
    report = examine(host, Settings())
    assert report.state == "ok"
    for event in report.events:
        if event.event in ("file_unlink", "file_rename", "file_link", "file_chmod", "file_chown", "file_mkdir"):
            assert event.used.kind == used
            for way in event.alternatives:
                assert way.available != (way.kind in lacking.split()), way
                assert bool(way.reason) == (way.kind in lacking.split()), way


def test_only_root_asks_the_kernel_for_its_opinion(host):
    """Loading a program needs root; others are told what the files say."""
    host.refusal = lambda _kind, _function: "refused"
    host.euid = 1000
    events = {event.event: event for event in examine(host, Settings()).events}
    assert events["file_unlink"].used.kind == "fentry"


def test_settings_decide_which_events_and_hooks_count(host):
    """Off in the settings is not a lack; an alternative that the settings exclude is not used."""
    settings = loads("probes: {families: [process, network, shell]}\n"
                     "hooks: {dns_query: off, network_connect: kprobe}\nmetrics: {listen: off}\n")
    report = examine(host, settings)
    events = {event.event: event for event in report.events}
    assert not events["file_open"].enabled
    assert not events["dns_query"].enabled
    assert events["shell_line"].seen
    for way in events["network_connect"].alternatives:
        assert way.used == (way.kind == "kprobe")
        assert way.reason == ("" if way.used else "the settings allow only kprobe")
    assert report.state == "ok"
    assert [check for check in report.checks if check.name == "metrics port"] == []


def test_shell_lines_need_bash_and_uprobes(host):
    """Each of the two is named where it is the one that lacks."""
    settings = loads("probes: {families: [process, shell]}")
    host.path("/bin/bash").unlink()
    assert examine(host, settings).events[-1].alternatives[0].reason == "no /bin/bash"
    shutil.rmtree(host.path("/sys/bus/event_source/devices/uprobe"))
    assert "uprobe is absent" in examine(host, settings).events[-1].alternatives[0].reason


def test_kernel_options_are_read_from_boot_or_proc(host):
    """Either place will do, and a broken one is none."""
    assert host.config["CONFIG_KPROBES"] == "y"
    host.path("/boot/config-6.1.0-40-amd64").unlink()
    packed = host.path("/proc/config.gz")
    packed.write_bytes(gzip.compress(b"CONFIG_X=m\n# CONFIG_Y is not set\n"))
    assert dataclasses.replace(host).config == {"CONFIG_X": "m"}
    packed.write_bytes(b"\x1f\x8bnot gzip")
    assert dataclasses.replace(host).config == {}


@pytest.mark.parametrize(("source", "real", "error"), [
    ("class bitcoin: pass", False, ""),
    ("raise RuntimeError('no \\x1b[2J here')", None, "RuntimeError"),
    ("import os; os.abort()", None, "status -6"),
    ("print('hello')\nBPF = lib = 1", None, "status 0"),
    ("BPF = lib = 1\n__version__ = '0.31.0'", True, ""),
])
def test_bcc_is_judged_by_what_importing_it_gives_and_never_here(tmp_path, monkeypatch, source, real, error):
    """A module of that name that lacks BPF, raises or kills its process is told apart from the real one."""
    (tmp_path / "bcc.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = probe_bcc()
    assert facts.get("real") is real
    assert error in facts.get("error", "")
    if real:
        assert facts["version"] == "0.31.0"


def test_port_that_is_taken_is_told_from_one_that_is_free():
    """Bound and listening is taken; after closing it is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "in use" in port_fault("127.0.0.1", port)
    assert port_fault("127.0.0.1", port) == ""


def run(monkeypatch, host, *arguments):
    monkeypatch.setattr(hosts, "Host", lambda: host)
    return CliRunner().invoke(command.command, list(arguments), standalone_mode=False)


def test_json_holds_what_the_table_shows(host, monkeypatch, tmp_path):
    """Programs read the same report as people."""
    settings = tmp_path / "s.yaml"
    settings.write_text("events: all\n")
    result = run(monkeypatch, host, "--json", "-c", str(settings))
    assert result.return_value == 0
    report = json.loads(result.output)
    assert report["state"] == "ok"
    assert {event["event"] for event in report["events"]} == set(HOOKS)
    assert all(event["alternatives"] for event in report["events"])
    assert {"name": "user", "state": "ok", "found": "sensor", "why": "", "fix": ""} in report["checks"]


def test_essential_lack_ends_with_status_3_and_prints_the_fix(host, monkeypatch, tmp_path):
    """Interface: 3 means that the host lacks something, and the message has the command."""
    settings = tmp_path / "s.yaml"
    settings.write_text("")
    host.bcc = lambda: {"error": "gone"}
    result = run(monkeypatch, host, "-c", str(settings))
    assert result.return_value == 3
    assert "fix: apt-get install" in result.output
    assert "The sensor can't run here" in result.output


def test_warning_alone_ends_with_status_0(host, monkeypatch, tmp_path):
    """A warning is not a refusal."""
    settings = tmp_path / "s.yaml"
    settings.write_text("")
    write(host, "/etc/sensor/disable", "")
    result = run(monkeypatch, host, "-c", str(settings))
    assert result.return_value == 0
    assert "with what the warnings say" in result.output


def test_table_names_every_event_and_shows_no_control_character(host):
    """What a module's error says reaches the terminal escaped."""
    host.bcc = lambda: {"error": "Error: \x1b[2J\u202egone"}
    out = io.StringIO()
    command.show(examine(host, Settings()), Console(file=out, width=140, highlight=False))
    text = out.getvalue()
    assert all(event in text for event in HOOKS)
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J" in text
