"""Falco's own stable rules on events that look like what each of them is for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sensor.record import open_recorder
from sensor.rules import content, reference
from sensor.rules.falco.model import FalcoRule, FalcoUnsupported
from sensor.rules.matcher import Matcher
from sensor.rules.model import RuleSet
from sensor.schema import Flag
from tests.conftest import ROOT, shared_data
from tests.unit.falco_helpers import ALL_CAPABILITIES, IN_CONTAINER, Host

Document = dict[str, Any]

#: Rules that our events can't carry, and what the reason names.
NOT_CARRIED = {
    "Directory traversal monitored file read": "fd.nameraw",
    "Contact K8S API Server From Container": "fd.sip.name",
    "Packet socket created in container": "type socket",
    "Redirect STDOUT/STDIN to Network Connection in Container": "type dup, dup2, dup3",
    "Debugfs Launched in Privileged Container": "container.privileged",
    "PTRACE anti-debug attempt": "PTRACE_TRACEME",
}


@cache
def loaded() -> RuleSet:
    return content.load(content.discover([str(shared_data("falco", "falco_rules.yaml"))]))


def test_stable_rules_load_or_are_named_with_what_is_missing() -> None:
    """25 rules: 19 run, 6 are named with file, line and what they lack; none is refused."""
    rules = loaded()
    assert list(map(str, rules.refused)) == []
    assert len(rules.rules) == 19
    reasons = {each.rule: each for each in rules.unsupported}
    assert set(reasons) == set(NOT_CARRIED)
    for name, lacks in NOT_CARRIED.items():
        each = reasons[name]
        assert lacks in each.reason
        assert isinstance(each, FalcoUnsupported)
        line = shared_data("falco", "falco_rules.yaml").read_text().splitlines()[each.line - 1]
        assert line == f"- rule: {name}"


def test_stable_rules_say_what_of_them_is_not_seen() -> None:
    """Partial rules have notes; those that only look at what we carry have none."""
    notes = {rule.name: rule.notes for rule in loaded().rules if isinstance(rule, FalcoRule) and rule.notes}
    lacking = "not carried, so what hangs on it is left out: container.image.repository"
    assert notes == dict.fromkeys((
        "Read sensitive file untrusted", "Clear Log Activities", "Linux Kernel Module Injection Detected",
        "Execution from /dev/shm", "Drop and execute new binary in container"), (lacking,))


def test_stable_rules_keep_level_and_techniques() -> None:
    """WARNING is medium; T1555 stands among the tags both as technique and in Sigma's way."""
    rule = next(rule for rule in loaded().rules if rule.name == "Read sensitive file untrusted")
    assert (rule.level, rule.techniques) == ("medium", ("T1555",))
    assert {"attack.credential-access", "attack.t1555", "maturity_stable"} <= set(rule.tags)


# One trigger and near misses for each rule -------------------------------------------------------------


def _sensitive(host: Host) -> tuple[list[Document], list[Document]]:
    def reads(path: str, *argv: str, **more: Any) -> Document:
        return host.opens(host.run(*argv, **more)[0], path)

    def script(path: str) -> Document:
        return host.opens(host.run("/bin/sh", path, filename=path, flags=Flag.SCRIPT)[0], "/etc/shadow")

    return (
        [reads("/etc/shadow", "cat", "/etc/shadow"), reads("/etc/sudoers.d/x", "vim", "x"),
         reads("/etc/shadow", "python3", "-c", "x"),
         # A script's name counts, not its interpreter's.
         script("/opt/steal"),
         # Falco's exceptions end four levels up, and its names at fifteen bytes.
         reads("/etc/shadow", "ls", parents=("qualys-cloud-agent", *["sh"] * 4)),
         reads("/etc/shadow", "ls", parents=("script:/opt/chef-server", "x"))],
        [reads("/etc/passwd", "cat", "/etc/passwd"), reads("/etc/shadow", "sshd"),
         reads("/etc/shadow", "cp", "a", "b", parents=("passwd",)),
         reads("/etc/shadow", "python3", "/usr/bin/ansible", "x"),
         reads("/etc/shadow", "perl", "-e", '@pwd = getpwnam("man"); exec "/usr/bin/mandb", @ARGV'),
         # polkit-agent-helper-1 is polkit-agent-he to the kernel.
         reads("/etc/shadow", "polkit-agent-helper-1"),
         reads("/etc/pam.d/x", "runuser", "x"),
         script("/usr/bin/apt-key"),
         *(reads("/etc/shadow", "ls", parents=("qualys-cloud-agent", *["sh"] * between)) for between in (1, 2, 3)),
         reads("/etc/shadow", "ls", parents=("script:/opt/chef-client", "x")),
         host.opens(host.run("cat")[0], "/etc/pam.d", mode=0o40755),
         host.opens(host.run("cat")[0], "/etc/shadow", flags=Flag.WRITE, open_flags=1)],
    )


def _trusted(host: Host) -> tuple[list[Document], list[Document]]:
    def reads(name: str, seconds: int, path: str = "/etc/shadow", **more: Any) -> Document:
        pid = host.run(name)[0]
        host.later(seconds)
        return host.opens(pid, path, **more)

    return ([reads("nginx", 6), reads("postgres", 3600, "/etc/pam.d/x")],
            [reads("nginx", 4), reads("sshd", 60), reads("cat", 60), reads("nginx", 60, "/etc/hosts"),
             reads("nginx", 60, flags=Flag.WRITE, open_flags=1), reads("nginx", 60, mode=0o40755)])


def _shell(host: Host) -> tuple[list[Document], list[Document]]:
    def shell(*parents: str, argv: tuple[str, ...] = ("sh", "-c", "id")) -> Document:
        return host.run(*argv, parents=parents)[1]

    return (
        [shell("nginx"), shell("nginx", "perl"), shell("java -jar org.apache.zookeeper.server.Main"),
         shell("httpd-foreground"), shell("mysqld", argv=("/bin/bash", "-i"))],
        [shell("cron"), shell("nginx", "bash"), shell("nginx", argv=("ls", "-l")), shell("postgres", "dpkg"),
         shell("nginx", argv=("/bin/sh", "-c", "whoami")), shell("nginx", argv=("sh", "-c", "kill -0 7")),
         shell("consul", argv=("/bin/sh", "-c", "curl x")), shell("nginx", "unicorn_launcher"),
         shell("redis-server", "x", argv=("sh", "-c", "/redis-server.post-up.d/1")),
         shell("tfm-ruby", *"abc", "ruby", argv=("sh", "-c", "id")),
         shell("beam.smp", argv=("/bin/sh", "-s", "unix:cmd")), shell()],
    )


def _interactive(host: Host) -> tuple[list[Document], list[Document]]:
    return ([host.run("id", parents=("sshd", "bash"), uid=33)[1]],
            [host.run("id", parents=("sshd", "bash"), uid=1000)[1], host.run("id", parents=("cron", "bash"), uid=33)[1],
             host.run("sshd", parents=("sshd",), uid=33)[1]])


def _terminal(host: Host) -> tuple[list[Document], list[Document]]:
    def shell(parent: str, **more: Any) -> Document:
        values = {"cgroup": IN_CONTAINER, "tty": "pts0", **more}
        return host.run("bash", parents=(parent,), **values)[1]

    return ([shell("runc"), shell("containerd-shim-runc-v2"), host.run("bash", cgroup=IN_CONTAINER, tty="pts0")[1]],
            [shell("runc", tty=""), shell("runc", cgroup="/user.slice"), shell("bash"), shell("python3")])


def _executed(*argv: str, parents: tuple[str, ...] = (), **more: Any) -> Callable[[Host], Document]:
    return lambda host: host.run(*argv, parents=parents, **more)[1]


def _each(positive: list[Callable[[Host], Document]], negative: list[Callable[[Host], Document]]) -> Any:
    return lambda host: ([make(host) for make in positive], [make(host) for make in negative])


_BOX: dict[str, Any] = {"cgroup": IN_CONTAINER}


def _logs(host: Host) -> tuple[list[Document], list[Document]]:
    pid, cut = host.run("sh")[0], Flag.WRITE | Flag.TRUNC
    other = host.run("containerd")[0]
    return (
        [host.opens(pid, "/var/log/x", flags=cut, open_flags=0o1001), host.opens(pid, "/srv/auth.log", flags=cut)],
        [host.opens(pid, "/var/log/x", flags=Flag.WRITE), host.opens(pid, "/var/log/deeper/x", flags=cut),
         host.opens(pid, "/tmp/x", flags=cut), host.opens(pid, "/var/log/x"),
         host.opens(other, "/var/lib/containerd/tmpmounts/a/auth.log", flags=cut)],
    )


def _links(host: Host, symbolic: int) -> tuple[list[Document], list[Document]]:
    pid = host.run("ln")[0]

    def links(target: str, kind: int = symbolic) -> Document:
        source = {"source_name": target} if kind else {"source_path": target}
        return host.does("file_link", pid, path="/tmp/l", symbolic=kind, **source)

    return ([links("/etc/shadow")] + ([links("/etc"), links("/root/")] if symbolic else []),
            [links("/etc/shadow", 1 - symbolic), links("/etc/hosts"), links("etc/shadow", 1)])


def _module(host: Host) -> tuple[list[Document], list[Document]]:
    def module(operation: int, *, result: int = 0, capabilities: int = ALL_CAPABILITIES, **more: Any) -> Document:
        pid = host.run("insmod", "x.ko", capabilities=capabilities, **{**_BOX, **more})[0]
        cgroup = {"cgroup_id": 1}
        return host.does("module_load", pid, operation=operation, result=result, **cgroup)

    sys_module = 1 << 16
    return ([module(313), module(175), module(313, capabilities=sys_module | 1, result=-1), module(313, result=-1)],
            [module(176), module(313, cgroup="/user.slice"), module(313, capabilities=0, result=-1),
             module(313, capabilities=ALL_CAPABILITIES & ~sys_module, result=-1)])


def _release_agent(host: Host) -> tuple[list[Document], list[Document]]:
    def writes(path: str, *, flags: Flag | int = Flag.WRITE, **more: Any) -> Document:
        values = {"capabilities": ALL_CAPABILITIES, **_BOX, **more}
        return host.opens(host.run("sh", **values)[0], path, flags=flags)

    path = "/sys/fs/cgroup/rdma/release_agent"
    admin, override = 1 << 21, 1 << 1
    return ([writes(path), writes(path, uid=1000), writes(path, capabilities=admin),
             writes(path, uid=1000, capabilities=admin | override | 1 << 40)],
            [writes(path, uid=1000, capabilities=ALL_CAPABILITIES & ~override), writes(path, flags=0),
             writes(path, capabilities=ALL_CAPABILITIES & ~admin), writes(path, capabilities=0xA80425FB),
             writes(path, cgroup="/user.slice"), writes("/tmp/notify_on_release")])


def _ptrace(host: Host) -> tuple[list[Document], list[Document]]:
    pid = host.run("gdb")[0]
    return ([host.does("process_ptrace", pid, request=request, target_pid=7) for request in (4, 16, 0x4206, 13)],
            [host.does("process_ptrace", pid, request=310, target_pid=7)])


def _ssh(host: Host) -> tuple[list[Document], list[Document]]:
    def connects(address: str, port: int, *, argv: tuple[str, ...] = ("ssh", "x"), **more: Any) -> Document:
        return host.connects(host.run(*argv)[0], address, port, **more)

    return (
        [connects("203.0.113.9", 443), connects("203.0.113.9", 8080, argv=("/usr/bin/ssh", "-p", "8080", "x")),
         connects("203.0.113.9", 80, result=-115)],
        [connects("203.0.113.9", 22), connects("10.1.2.3", 443), connects("127.0.0.1", 443),
         connects("203.0.113.9", 443, argv=("curl", "ssh")), connects("203.0.113.9", 443, result=-111),
         connects("203.0.113.9", 443, protocol=17), connects("203.0.113.9", 443, argv=("sshd", "-D"))],
    )


CASES: dict[str, Callable[[Host], tuple[list[Document], list[Document]]]] = {
    "Read sensitive file untrusted": _sensitive,
    "Read sensitive file trusted after startup": _trusted,
    "Run shell untrusted": _shell,
    "System user interactive": _interactive,
    "Terminal shell in container": _terminal,
    "Netcat Remote Code Execution in Container": _each(
        [_executed("nc", "-l", "-e", "/bin/sh", **_BOX), _executed("/usr/bin/ncat", "--sh-exec", "x", **_BOX)],
        [_executed("nc", "-l", "-e", "/bin/sh"), _executed("nc", "-l", "9", **_BOX),
         _executed("netcat", "-e", "x", **_BOX)]),
    "Search Private Keys or Passwords": _each(
        [_executed("grep", "-r", "begin rsa private", "/"), _executed("find", "/", "-name", "id_rsa")],
        [_executed("grep", "-r", "pass word", "/"), _executed("find", "/", "-name", "ID_RSA"),
         _executed("ls", "id_rsa"), _executed("/id_rsa/find", "/tmp", path="/usr/bin/find")]),
    "Clear Log Activities": _logs,
    "Remove Bulk Data from Disk": _each(
        [_executed("shred", "-u", "x"), _executed("/sbin/mkfs", "/dev/sda")],
        [_executed("mkfs.ext4", "/dev/sda"), _executed("rm", "shred")]),
    "Create Symlink Over Sensitive Files": lambda host: _links(host, 1),
    "Create Hardlink Over Sensitive Files": lambda host: _links(host, 0),
    "Linux Kernel Module Injection Detected": _module,
    "Detect release_agent File Container Escapes": _release_agent,
    "PTRACE attached to process": _ptrace,
    "Find AWS Credentials": _each(
        [_executed("egrep", "AWS_ACCESS_KEY_ID", "x"), _executed("find", "/", "-path", "*/.aws/credentials")],
        [_executed("cat", "aws_access_key_id"), _executed("find", ".aws/credentials", "-type", "f")]),
    "Execution from /dev/shm": _each(
        [_executed("/dev/shm/x"), _executed("./x", path="/dev/shm/x", cwd="/dev/shm"),
         _executed("./y", path="/dev/shm/a/y", cwd="/dev/shm/a"), _executed("bash", "-c", "/dev/shm/x"),
         _executed("sh", "/dev/shm/x.sh")],
        [_executed("/usr/bin/x"), _executed("./x", path="/tmp/x", cwd="/tmp"),
         _executed("./x", path="/dev/shmem/x", cwd="/dev/shmem"), _executed("ls", "/dev/shm/x")]),
    "Drop and execute new binary in container": _each(
        [_executed("/tmp/x", flags=Flag.UPPER, **_BOX)],
        [_executed("/tmp/x", **_BOX), _executed("/tmp/x", flags=Flag.UPPER)]),
    "Disallowed SSH Connection Non Standard Port": _ssh,
    "Fileless execution via memfd_create": _each(
        [_executed("x", path="/memfd:x", flags=Flag.MEMFD)],
        [_executed("x", path="/tmp/x"), _executed("runc", path="/usr/bin/runc", flags=Flag.MEMFD),
         _executed("x", path="/memfd:x", flags=Flag.MEMFD, parents=("runc",))]),
}


Cases = dict[str, tuple[list[Document], list[Document]]]


@cache
def cases() -> Cases:
    """Events of each rule, on one host, so that each has an id of its own."""
    host = Host()
    return {name: make(host) for name, make in CASES.items()}


def _replayed(path: Path) -> dict[str, set[str]]:
    """Rule -> ids of the events that ``sensor replay`` gives alerts for."""
    recorder = open_recorder(path)
    for group in cases().values():
        for document in (*group[0], *group[1]):
            recorder.write(document)
    recorder.close()
    done = subprocess.run(
        [sys.executable, "-m", "sensor", "replay", str(path), "--format", "jsonl", "--rules",
         str(shared_data("falco", "falco_rules.yaml"))], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        alert = json.loads(line)
        found.setdefault(alert["rule"]["name"], set()).add(alert["event"]["id"])
    return found


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".parquet"])
def test_replay_of_recorded_cases_alerts_on_triggers_alone(tmp_path: Path, suffix: str) -> None:
    """Through recording, reader, matcher and output, by documents and by columns."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    found = _replayed(tmp_path / f"cases{suffix}")
    for name, (positive, negative) in cases().items():
        fires = {document["event"]["id"] for document in positive}
        beside = {document["event"]["id"] for document in negative}
        assert len(fires | beside) == len(positive) + len(negative)
        assert fires <= found.get(name, set()), name
        assert not beside & found.get(name, set()), name


def test_table_in_the_documents_says_what_becomes_of_each_rule() -> None:
    """docs/rules.md has every stable rule with the reason that loading gives."""
    rules = loaded()
    partly = {rule.name: " ".join(rule.notes) for rule in rules.rules if isinstance(rule, FalcoRule)}
    rows = {name: f"partly: {note.rpartition(': ')[2]}" if note else "yes" for name, note in partly.items()}
    rows |= {each.rule: f"no: {each.reason}" for each in rules.unsupported}
    text = (ROOT / "docs/rules.md").read_text()
    section = text.partition("\n### Falco's stable rules\n")[2].partition("\n#")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    table = dict(lines[1:])
    assert table == rows


def test_every_rule_that_runs_has_cases() -> None:
    """No rule without events of its own."""
    assert set(CASES) == {rule.name for rule in loaded().rules}


@pytest.mark.parametrize("name", CASES)
def test_stable_rule_fires_on_what_it_is_for_and_on_nothing_beside(name: str) -> None:
    """Each trigger fires the rule, no near miss does, and both matchers say the same."""
    rules = loaded().rules
    matcher = Matcher(rules)
    positive, negative = cases()[name]
    assert positive
    assert negative
    for fires, group in ((True, positive), (False, negative)):
        for number, document in enumerate(group):
            found = [rule.name for rule in matcher.match(document)]
            assert (name in found) is fires, (number, document.get("process"), document.get("file"))
            assert found == [rule.name for rule in reference.match(rules, document)]
