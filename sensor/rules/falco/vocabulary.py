"""Fields of Falco that our events don't carry."""

from __future__ import annotations

#: Fields that Falco has from container runtimes and orchestrators, and itself often lacks. They are absent here.
OPTIONAL = ("container.", "k8s.")

#: Fields that Falco knows and our events don't carry, by class.
_BY_CLASS: dict[str, str] = {
    "evt": "time time.s time.iso8601 datetime datetime.s rawtime rawtime.s rawtime.ns reltime reltime.s reltime.ns "
           "latency latency.s latency.ns latency.human deltatime deltatime.s deltatime.ns outputtime pluginname "
           "plugininfo is_async asynctype hostname type.is cpu args info buffer buflen is_io is_io_read is_io_write "
           "io_dir is_wait wait_latency is_syslog count count.error count.error.file count.error.net "
           "count.error.memory count.error.other count.exit count.procinfo count.threadinfo around abspath abspath.src "
           "abspath.dst buflen.in buflen.out buflen.file buflen.file.in buflen.file.out buflen.net buflen.net.in "
           "buflen.net.out is_open_exec infra.docker.name infra.docker.container.id category",
    "proc": "cmdnargs cmdlenargs env aexe aexepath acmdline aargs apid pid.ts ppid.ts "
            "pid.duration ppid.ts loginshellid nthreads nchilds exe_ino.ctime exe_ino.mtime "
            "exe_ino.ctime_duration_proc_start exe_ino.ctime_duration_pidns_start pidns_init_start_ts aenv vpgid "
            "vpgid.name vpgid.exe vpgid.exepath is_vpgid_leader is_sid_leader sid.exe pvpid pgid pgid.name pgid.exe "
            "pgid.exepath is_pgid_leader is_exe_writable is_exe_lower_layer is_exe_lowerlayer "
            "is_container_healthcheck is_container_liveness_probe is_container_readiness_probe fdopencount "
            "fdlimit fdusage vmsize vmrss vmswap stdin.type stdout.type stderr.type stdin.name stdout.name "
            "stderr.name cap_permitted cap_inheritable cap_effective",
    "thread": "pfmajor pfminor ismain vtid exectime totexectime cgroups cgroup nametid cap_permitted cap_inheritable "
              "vmsize vmrss vmsize.b vmrss.b cpu cpu.user cpu.system",
    "user": "homedir shell loginname",
    "group": "name",
    "fd": "nameraw containername containerdirectory containername proto cproto sproto lproto rproto uid "
          "is_server sip.name cip.name rip.name lip.name dev dev.major dev.minor connected name_changed types "
          "is_lower_layer",
    "fs": "path.nameraw path.sourceraw path.targetraw",
    "syslog": "facility facility.str severity severity.str message",
    "fdlist": "nums names cips sips cports sports",
}

LACKING: frozenset[str] = frozenset(f"{name}.{rest}" for name, group in _BY_CLASS.items() for rest in group.split())
