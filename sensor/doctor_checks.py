"""The doctor's checks, one function each: what is there, why it matters, the command that changes it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from sensor.carriers import kind_fault
from sensor.config import Settings
from sensor.host import TRACEFS, Check, Host
from sensor.kernel import knownbad, preflight
from sensor.privileges import USER

# Bits of a capability set, include/uapi/linux/capability.h.
CAPABILITIES = {"cap_kill": 5, "cap_setgid": 6, "cap_setuid": 7, "cap_setpcap": 8, "cap_sys_ptrace": 19,
                "cap_sys_admin": preflight.SYS_ADMIN, "cap_perfmon": preflight.PERFMON, "cap_bpf": preflight.BPF}
INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
AGENTS = ("auditd", "falco", "tetragon", "tracee", "osqueryd", "sysmon", "elastic-endpoin", "falcon-sensor",
          "sentinelone-age", "wdavdaemon", "mdatp", "ds_agent", "cbagentd", "wazuh-agentd", "kunai", "bpftrace")
PACKAGES = (  # what os-release calls it -> (package, command)
    ({"debian", "ubuntu"}, "apt-get install -y --no-install-recommends python3-bpfcc"),
    ({"fedora", "rhel", "centos"}, "dnf install -y python3-bcc"),
    ({"suse", "opensuse"}, "zypper install -y python3-bcc"),
    ({"arch"}, "pacman -S --noconfirm python-bcc"),
    ({"alpine"}, "apk add py3-bcc"),
)


def switched_off(host: Host, settings: Settings) -> Iterator[Check]:
    if host.path("/etc/sensor/disable").exists():
        yield Check("switch", "warning", "/etc/sensor/disable exists", "the service does not start",
                    "rm /etc/sensor/disable")
    if "sensor=0" in (host.text("/proc/cmdline") or "").split():
        yield Check("switch", "warning", "sensor=0 on the kernel's command line", "the service does not start",
                    "remove it from the boot loader's settings and reboot")


def machine(host: Host, settings: Settings) -> Iterator[Check]:
    if host.machine == "x86_64":
        yield Check("machine", "ok", host.machine)
    else:
        yield Check("machine", "missing", host.machine, "the table of system calls is the one of x86_64")


def kernel(host: Host, settings: Settings) -> Iterator[Check]:
    if host.kernel >= (5, 8):
        yield Check("kernel", "ok", host.release)
    else:
        yield Check("kernel", "missing", host.release, "the BPF ring buffer came with 5.8",
                    "boot kernel 5.8 or later")


def known_bad(host: Host, settings: Settings) -> Iterator[Check]:
    if host.known.untested and host.kernel != (0, 0):
        newest = ".".join(map(str, knownbad.NEWEST_TESTED))
        yield Check("kernel tests", "note", f"newer than {newest}, the newest tested",
                    "only process events are seen until the self-test at the start has passed")
    rows = knownbad.notes(host.known, host.has)
    for row in rows:
        left_out = f"{', '.join(row.kinds)} left out: " if row.kinds else ""
        yield Check("known-bad kernel", "warning" if row.kinds else "note", f"{left_out}{row.what}",
                    f"told in {' '.join(row.sources)}", "boot a newer kernel" if row.fixed else "")
    if not rows:
        yield Check("known-bad kernel", "ok", "nothing is known against this one")


def type_information(host: Host, settings: Settings) -> Iterator[Check]:
    if host.btf is not None:
        yield Check("BTF", "ok", "/sys/kernel/btf/vmlinux")
    else:
        yield Check("BTF", "missing", "no usable /sys/kernel/btf/vmlinux",
                    "probes are compiled against the running kernel's own types; nothing is guessed",
                    "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (distribution kernels since 2021 are)")


def lockdown(host: Host, settings: Settings) -> Iterator[Check]:
    if lack := preflight.lockdown(host.root):
        yield Check("lockdown", "missing", "confidentiality", "it forbids probes to read the kernel", lack.fix)
    else:
        yield Check("lockdown", "ok", preflight.lockdown_mode(host.root))


def hook_kinds(host: Host, settings: Settings) -> Iterator[Check]:
    kinds = ("raw_tracepoint", "tracepoint", "kprobe", "uprobe", "fentry", "lsm")
    faults = {kind: kind_fault(host, kind) for kind in kinds}
    offered = [kind for kind in kinds if not faults[kind]]
    lacking = "; ".join(f"{kind}: {fault}" for kind, fault in faults.items() if fault)
    yield Check("hook kinds", "missing" if faults["raw_tracepoint"] else "ok", ", ".join(offered) or "none", lacking)


def tracefs(host: Host, settings: Settings) -> Iterator[Check]:
    if any(host.path(f"{base}/events").is_dir() for base in TRACEFS):
        yield Check("tracefs", "ok", "mounted")
    else:
        yield Check("tracefs", "note", "not mounted, or hidden from this user",
                    "no event needs it; other tracing tools do",
                    "mount -t tracefs tracefs /sys/kernel/tracing")


def privileges(host: Host, settings: Settings) -> Iterator[Check]:
    if host.euid != 0:
        yield Check("root", "note", f"user id {host.euid}", "what only root can see was not checked",
                    "sudo sensor doctor")
        return
    if lack := preflight.user_namespace(host.root):
        yield Check("user namespace", "missing", "not the host's", lack.reason, lack.fix)
    held = int(host.status("CapEff") or "0", 16)
    lacking = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if "cap_sys_admin" not in lacking:  # it includes these two
        lacking = [name for name in lacking if name not in ("cap_bpf", "cap_perfmon")]
    if lacking:
        yield Check("capabilities", "missing", f"without {', '.join(lacking)}",
                    "root without them can't load programs, or can't give up its rights",
                    f"in a container: --privileged --pid=host, or --cap-add for each of {', '.join(lacking)}")
    else:
        yield Check("capabilities", "ok", "all that loading and dropping need")


def sysctls(host: Host, settings: Settings) -> Iterator[Check]:
    paranoid = (host.text("/proc/sys/kernel/perf_event_paranoid") or "").strip()
    if paranoid:
        yield Check("perf_event_paranoid", "ok", paranoid,
                    "uprobes and kprobes need CAP_SYS_ADMIN here" if paranoid.lstrip("-") >= "3" else "")
    unprivileged = (host.text("/proc/sys/kernel/unprivileged_bpf_disabled") or "").strip()
    if unprivileged == "0":
        yield Check("unprivileged BPF", "warning", "allowed", "any user may load programs: a known way into the kernel",
                    "sysctl -w kernel.unprivileged_bpf_disabled=2")
    elif unprivileged:
        yield Check("unprivileged BPF", "ok", "off")
    if (host.text("/proc/sys/net/core/bpf_jit_enable") or "").strip() == "0":
        yield Check("BPF JIT", "warning", "off", "each probe runs interpreted, several times slower",
                    "sysctl -w net.core.bpf_jit_enable=1")


def memory_lock(host: Host, settings: Settings) -> Iterator[Check]:
    if not (0, 0) < host.kernel < (5, 11):
        return  # maps are charged to the cgroup
    match = re.search(r"^Max locked memory\s+\S+\s+(\S+)", host.text("/proc/self/limits") or "", re.MULTILINE)
    need = settings.limits.kernel_memory_mib << 20
    if match and match[1] != "unlimited" and int(match[1]) < need:
        yield Check("locked memory", "warning", f"{int(match[1]) >> 10} KiB at most",
                    f"kernels before 5.11 charge maps to it, and the settings allow {need >> 20} MiB",
                    "ulimit -l unlimited")
    else:
        yield Check("locked memory", "ok", match[1] if match else "unknown")


def bcc(host: Host, settings: Settings) -> Iterator[Check]:
    install = next((command for names, command in PACKAGES if names & host.distribution),
                   "install BCC's Python module (python3-bpfcc, python3-bcc) from the distribution")
    facts = host.bcc()
    if facts.get("real"):
        yield Check("BCC", "ok", f"{facts.get('version') or 'of unknown version'}, {facts['file']}")
    elif facts.get("file"):
        # The package index has a project of the same name, an unrelated one.
        yield Check("BCC", "missing", f"{facts['file']} is not BCC but another project of that name",
                    "pip install bcc fetches something else; the real one comes from the distribution",
                    f"{host.prefix}/bin/python -m pip uninstall -y bcc; {install}")
    else:
        yield Check("BCC", "missing", f"import bcc: {facts.get('error', 'failed')}",
                    "probes are compiled by it (replay and rules work without)", _bcc_fix(host, install))


def _bcc_fix(host: Host, install: str) -> str:
    settings = host.text(str(host.prefix / "pyvenv.cfg")) if host.root == host.path("/") else None
    if settings and re.search(r"^include-system-site-packages\s*=\s*false", settings, re.MULTILINE):
        return (f"{install}; this virtual environment can't see it, so also: "
                f"/usr/bin/python3 -m venv --upgrade --system-site-packages {host.prefix}")
    return install


def process_view(host: Host, settings: Settings) -> Iterator[Check]:
    try:
        namespace = os.readlink(host.path("/proc/self/ns/pid"))
    except OSError:
        namespace = ""
    if namespace and namespace != INITIAL_PID_NAMESPACE:
        yield Check("pid namespace", "missing", "not the host's",
                    "events carry the host's process ids, and /proc here shows others", "docker run --pid=host ...")
    mounts = host.text("/proc/self/mounts") or ""
    hidden = re.search(r"^\S+ /proc proc \S*hidepid=(?:[1-9]|noaccess|invisible|ptraceable)", mounts, re.MULTILINE)
    if hidden:
        yield Check("/proc", "note", "mounted with hidepid",
                    "the process table is seeded by root before rights are dropped, so this does no harm")


def container(host: Host, settings: Settings) -> Iterator[Check]:
    marker = (host.text("/run/systemd/container") or "").strip()
    if not marker and (host.path("/.dockerenv").exists() or host.path("/run/.containerenv").exists()):
        marker = "docker or podman"
    if marker:
        yield Check("container", "note", marker,
                    "needs --privileged --pid=host --cgroupns=host and the host's /sys; sees all of the host")


def control_groups(host: Host, settings: Settings) -> Iterator[Check]:
    match = re.search(r"^\S+ (\S+) cgroup2 ", host.text("/proc/self/mounts") or "", re.MULTILINE)
    if match:
        yield Check("cgroup v2", "ok", match[1])
    else:
        yield Check("cgroup v2", "warning", "not mounted", "containers and services of events stay unknown",
                    "boot with systemd.unified_cgroup_hierarchy=1")


def metrics_port(host: Host, settings: Settings) -> Iterator[Check]:
    listen = settings.metrics.listen
    if listen == "off":
        return
    name, _, port = listen.rpartition(":")
    address = "127.0.0.1" if name == "localhost" else name.strip("[]")
    if fault := host.port_fault(address, int(port)):
        yield Check("metrics port", "warning", f"{listen}: {fault}", "unless it is the sensor that has it, there "
                    "will be no metrics", f"ss -ltnp 'sport = :{port}'; or set metrics.listen")
    else:
        yield Check("metrics port", "ok", f"{listen} is free")


def engine_user(host: Host, settings: Settings) -> Iterator[Check]:
    if host.user_exists(USER):
        yield Check("user", "ok", USER)
    else:
        yield Check("user", "note", f"no user {USER}; the engine runs as nobody",
                    "a user of its own shares nothing with other services that run as nobody",
                    f"useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "
                    f"{USER}")


def confinement(host: Host, settings: Settings) -> Iterator[Check]:
    """What the engine leaves itself; the unit's sandbox comes on top of it."""
    if version := host.landlock():
        parts = ["files", *(["TCP connections"] if version >= 4 else []), *(["signals"] if version >= 6 else [])]
        yield Check("Landlock", "ok", f"version {version}: {', '.join(parts)}")
    else:
        yield Check("Landlock", "note", "not in this kernel, or not in its lsm= list",
                    "the engine can open what its user may open; Linux 5.13 and later keep it to what it needs",
                    "add landlock to the kernel's lsm= list (see /sys/kernel/security/lsm) and reboot")
    if host.text("/proc/sys/kernel/seccomp/actions_avail") is not None:
        yield Check("seccomp", "ok", "the engine gives up calls that it has no use for")
    else:
        yield Check("seccomp", "note", "not in this kernel",
                    "the engine keeps every system call that its user may make")


def other_agents(host: Host, settings: Settings) -> Iterator[Check]:
    running = set()
    for place in host.path("/proc").glob("[0-9]*/comm"):
        try:
            name = place.read_text(errors="replace").strip()
        except OSError:  # it ended meanwhile
            continue
        if name in AGENTS:
            running.add(name)
    if running:
        yield Check("other agents", "note", ", ".join(sorted(running)),
                    "each adds its own cost to the same hooks; crashes may be theirs")
    else:
        yield Check("other agents", "ok", "none running")


def extension(host: Host, settings: Settings) -> Iterator[Check]:
    state = host.engine()
    if state == "native":
        yield Check("engine", "ok", state)
    else:
        yield Check("engine", "note", state, "the same events and alerts, at a fraction of the rate",
                    "apt-get install -y gcc libc6-dev python3-dev, then install the sensor again")


CHECKS: tuple[Callable[[Host, Settings], Iterator[Check]], ...] = (
    switched_off, machine, kernel, known_bad, type_information, lockdown, hook_kinds, tracefs, privileges, sysctls,
    memory_lock, bcc, process_view, container, control_groups, metrics_port, engine_user, confinement, other_agents,
    extension,
)
