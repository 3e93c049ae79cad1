"""Falco's own stable rules on events that look like what each of them is for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from sensor.rules import content, reference
from sensor.rules.falco.model import FalcoRule, FalcoUnsupported
from sensor.rules.matcher import Matcher
from sensor.rules.model import RuleSet
from sensor.schema import Flag
from tests.conftest import shared_data
from tests.unit.falco_helpers import ALL_CAPABILITIES, IN_CONTAINER, Host

Document = dict[str, Any]

#: Rules that our events can't carry, and what the reason names.
NOT_CARRIED = {
    "Directory traversal monitored file read": "fd.nameraw",
    "Read sensitive file trusted after startup": "proc.duration",
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
    """25 rules: 18 run, 7 are named with file, line and what they lack; none is refused."""
    rules = loaded()
    assert list(map(str, rules.refused)) == []
    assert len(rules.rules) == 18
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
    notes = {rule.name: " ".join(rule.notes) for rule in loaded().rules if isinstance(rule, FalcoRule)}
    assert "proc.aname[2]" in notes["Run shell untrusted"]
    assert "container.image.repository" in notes["Clear Log Activities"]
    assert "thread.cap_effective" in notes["Detect release_agent File Container Escapes"]
    assert notes["Terminal shell in container"] == notes["PTRACE attached to process"] == ""


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
         script("/opt/steal")],
        [reads("/etc/passwd", "cat", "/etc/passwd"), reads("/etc/shadow", "sshd"),
         reads("/etc/shadow", "cp", "a", "b", parents=("passwd",)),
         reads("/etc/shadow", "python3", "/usr/bin/ansible", "x"),
         reads("/etc/shadow", "perl", "-e", '@pwd = getpwnam("man"); exec "/usr/bin/mandb", @ARGV'),
         # polkit-agent-helper-1 is polkit-agent-he to the kernel.
         reads("/etc/shadow", "polkit-agent-helper-1"),
         reads("/etc/pam.d/x", "runuser", "x"),
         script("/usr/bin/apt-key"),
         reads("/etc/shadow", "ls", parents=("qualys-cloud-agent", "sh")),
         host.opens(host.run("cat")[0], "/etc/pam.d", mode=0o40755),
         host.opens(host.run("cat")[0], "/etc/shadow", flags=Flag.WRITE, open_flags=1)],
    )


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

    return ([module(313), module(175), module(313, capabilities=0x123456789), module(313, result=-1)],
            [module(176), module(313, cgroup="/user.slice"), module(313, capabilities=0, result=-1)])


def _release_agent(host: Host) -> tuple[list[Document], list[Document]]:
    def writes(path: str, *, flags: Flag | int = Flag.WRITE, **more: Any) -> Document:
        values = {"capabilities": ALL_CAPABILITIES, **_BOX, **more}
        return host.opens(host.run("sh", **values)[0], path, flags=flags)

    path = "/sys/fs/cgroup/rdma/release_agent"
    return ([writes(path), writes(path, uid=1000)],
            [writes(path, flags=0), writes(path, capabilities=0xA80425FB), writes(path, cgroup="/user.slice"),
             writes("/tmp/notify_on_release")])


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


def test_every_rule_that_runs_has_cases() -> None:
    """No rule without events of its own."""
    assert set(CASES) == {rule.name for rule in loaded().rules}


@pytest.mark.parametrize("name", CASES)
def test_stable_rule_fires_on_what_it_is_for_and_on_nothing_beside(name: str) -> None:
    """Each trigger fires the rule, no near miss does, and both matchers say the same."""
    rules = loaded().rules
    matcher = Matcher(rules)
    positive, negative = CASES[name](Host())
    assert positive
    assert negative
    for fires, group in ((True, positive), (False, negative)):
        for number, document in enumerate(group):
            found = [rule.name for rule in matcher.match(document)]
            assert (name in found) is fires, (number, document.get("process"), document.get("file"))
            assert found == [rule.name for rule in reference.match(rules, document)]
