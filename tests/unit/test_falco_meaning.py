"""What Falco's conditions mean, against a small evaluator that knows nothing of documents.

An event is drawn once. From it come the document, by the engine's own process table and
builder, and what Falco would show for each field, written down here from Falco's manual. Random
conditions must be as true of the one as of the other.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import re
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sensor.rules.falco import kernel
from sensor.rules.falco.model import FalcoRule, FalcoUnsupported
from sensor.rules.falco.output import render
from sensor.rules.falco.syntax import All, Check, Node, Not, Some, Value, parse
from sensor.rules.matcher import Matcher
from sensor.rules.reference import match
from sensor.schema import Flag
from tests.unit.falco_helpers import CONTAINER, IN_CONTAINER, Host, ipv4, load, rule, rule_text

Fields = dict[str, Any]  # None or missing: no value

# Falco's own comparisons ---------------------------------------------------------------------------------


def truth(node: Node, fields: Fields) -> bool:
    """Whether a condition is true of an event."""
    if isinstance(node, All):
        return all(truth(item, fields) for item in node.items)
    if isinstance(node, Some):
        return any(truth(item, fields) for item in node.items)
    if isinstance(node, Not):
        return not truth(node.item, fields)
    assert isinstance(node, Check)
    return compared(node, fields)


def compared(check: Check, fields: Fields) -> bool:
    """One comparison: false without a value, whatever the operator."""
    name = check.field.name if check.field.argument is None else f"{check.field.name}[{check.field.argument}]"
    value = fields.get(name)
    if isinstance(value, set):  # either end of a connection
        if check.operator == "!=":
            return bool(value) and all(one(check, each, fields) for each in value)
        return any(one(check, each, fields) for each in value)
    if isinstance(value, list):  # every ancestor
        return any(one(check, each, fields) for each in value)
    return value is not None and one(check, value, fields)


def one(check: Check, value: Any, fields: Fields) -> bool:
    for transformer in check.field.transformers:
        value = {"tolower": str.lower, "toupper": str.upper, "basename": lambda text: text.rpartition("/")[2]}[
            transformer](value)
    operands = [each.text for each in check.operands if isinstance(each, Value)]
    wanted = operands[0] if operands else ""
    match check.operator:
        case "exists":
            return True
        case "=" | "==":
            return same(value, wanted)
        case "!=":
            return not same(value, wanted)
        case "in" | "intersects":
            return any(same(value, each) for each in operands)
        case "<":
            return bool(value < int(wanted, 0))
        case "<=":
            return bool(value <= int(wanted, 0))
        case ">":
            return bool(value > int(wanted, 0))
        case ">=":
            return bool(value >= int(wanted, 0))
        case "contains":
            return wanted in value
        case "icontains":
            return wanted.lower() in value.lower()
        case "bcontains":
            return bytes.fromhex(wanted) in value.encode()
        case "startswith":
            return bool(value.startswith(wanted))
        case "bstartswith":
            return bool(value.encode().startswith(bytes.fromhex(wanted)))
        case "endswith":
            return bool(value.endswith(wanted))
        case "glob":
            return fnmatch.fnmatchcase(value, wanted)
        case "iglob":
            return fnmatch.fnmatchcase(value.lower(), wanted.lower())
        case "regex":
            return re.fullmatch(wanted, value) is not None
        case "pmatch":
            return any(below(value, each) for each in operands)
    raise AssertionError(check.operator)


def same(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == str(value).lower()
    if isinstance(value, int):
        return value == int(wanted, 0)
    if isinstance(value, ipaddress.IPv4Address):
        return value in ipaddress.ip_network(wanted)
    return bool(value == wanted)


def below(path: str, prefix: str) -> bool:
    have, want = ([part for part in text.split("/") if part] for text in (path, prefix))
    return len(have) >= len(want) and all(map(fnmatch.fnmatchcase, have, want))


# Events as Falco and we see them ------------------------------------------------------------------------

NAMES = ["sh", "SH", "nc", "java", "runc", "bash", "polkit-agent-helper-1", "polkit-agent-he", "containerd-shim",
         "a", "apt-key", "x.y", "A b"]
WORDS = ["-c", "x", "", "sh", "/etc/x", "a b", "id_rsa", "X", "*", "[a]", "-e nc", "\\", "é"]
DIRECTORIES = ["/", "/usr/bin", "/tmp", "/dev/shm", "/a b", "/etc"]
PATHS = ["/etc/shadow", "/etc/x/y", "/root", "/tmp/a", "/x", "/etc", "/var/log/a.log", "/tmp/A[1]"]
ADDRESSES = ["10.0.0.1", "127.0.0.1", "203.0.113.9", "192.0.2.7"]
PROGRAM = st.builds(lambda folder, name: f"{folder.rstrip('/')}/{name}", st.sampled_from(DIRECTORIES),
                    st.sampled_from(NAMES))
# No space: an argv[0] with one can't be told from two arguments in a command line.
FIRST = st.one_of(st.sampled_from([name for name in NAMES if " " not in name]), PROGRAM.filter(lambda p: " " not in p))
KINDS = ("execve", "openat", "connect", "accept", "bind", "symlink", "link", "rename", "unlink", "mkdir", "chmod")


def comm(path: str) -> str:
    return path.rpartition("/")[2].encode()[:15].decode(errors="surrogateescape")


@st.composite
def events(draw: st.DrawFn) -> tuple[dict[str, Any], Fields]:
    """(document, what Falco shows)."""
    host = Host()
    path, argv = draw(PROGRAM), (draw(FIRST), *draw(st.lists(st.sampled_from(WORDS), max_size=3)))
    script = draw(st.one_of(st.none(), PROGRAM))
    parents = tuple(draw(st.lists(st.sampled_from([n for n in NAMES if " " not in n]), max_size=3)))
    contained, terminal = draw(st.booleans()), draw(st.booleans())
    cwd, uid = draw(st.sampled_from(DIRECTORIES)), draw(st.sampled_from([0, 33, 5]))
    login = draw(st.sampled_from([0xFFFFFFFF, 0, 1000]))
    flags = draw(st.sampled_from([0, Flag.UPPER, Flag.MEMFD]))
    if script:
        argv = (path, script, *argv[1:]) if " " not in path else (argv[0], script, *argv[1:])
    pid, document = host.run(
        *argv, path=path, parents=parents, uid=uid, cwd=cwd, cgroup=IN_CONTAINER if contained else "/x.slice",
        tty="pts1" if terminal else "", login_uid=login, filename=script or path,
        flags=flags | (Flag.SCRIPT if script else 0))
    chain = [comm(name) for name in reversed(parents)]
    fields: Fields = {
        "evt.dir": "<", "evt.source": "syscall", "proc.name": comm(script or path), "proc.exe": argv[0],
        "proc.args": " ".join(argv[1:]), "proc.cmdline": " ".join([comm(script or path), *argv[1:]]),
        "proc.exepath": path, "proc.cwd": cwd.rstrip("/") + "/", "proc.pid": pid, "proc.aname": chain,
        "proc.tty": 0 if not terminal else None, "proc.pname": chain[0] if chain else None,
        "proc.pcmdline": chain[0] if chain else None, "proc.aname[0]": comm(script or path),
        "proc.aname[1]": chain[0] if chain else None, "proc.aname[2]": chain[1] if len(chain) > 1 else None,
        "user.uid": uid, "user.name": {0: "root", 33: "www-data"}.get(uid),
        "user.loginuid": -1 if login == 0xFFFFFFFF else login,
        "container.id": CONTAINER[:12] if contained else "host", "proc.exeline": " ".join(argv),
        "container.type": "docker" if contained else "host", "evt.res": "SUCCESS", "evt.rawres": 0,
    }
    kind = draw(st.sampled_from(KINDS))
    if kind == "execve":
        fields |= {"proc.is_exe_upper_layer": flags == Flag.UPPER, "proc.is_exe_from_memfd": flags == Flag.MEMFD,
                   "evt.arg.filename": script or path}
    else:
        document, more = draw(actions(host, pid, kind))
        fields |= more
    fields |= {"evt.type": kind, "syscall.type": kind}
    return document, fields


@st.composite
def actions(draw: st.DrawFn, host: Host, pid: int, kind: str) -> tuple[dict[str, Any], Fields]:
    path, other = draw(st.sampled_from(PATHS)), draw(st.sampled_from(PATHS))
    result = draw(st.sampled_from([0, -13, -115]))
    name = "E" * (result < 0) and {-13: "EACCES", -115: "EINPROGRESS"}[result]
    if kind == "openat":
        access, cut = draw(st.sampled_from([0, 1, 2])), draw(st.booleans())
        number = access | draw(st.sampled_from([0, 0o100, 0o2000, 0o2000000, 0o200])) | (0o1000 if cut else 0)
        folder = draw(st.booleans())
        made = host.opens(pid, path, open_flags=number, mode=0o40755 if folder else 0o100644,
                          flags=(Flag.WRITE if access else 0) | (Flag.TRUNC if cut else 0))
        return made, {
            "fd.name": path, "fd.directory": os.path.dirname(path), "fd.filename": os.path.basename(path),
            "fd.typechar": "d" if folder else "f", "fd.type": "directory" if folder else "file",
            "evt.is_open_write": access != 0, "evt.is_open_read": access != 1, "fs.path.name": path,
            "evt.arg.flags": "O_TRUNC" if cut else "", "evt.rawres": None}
    if kind in ("connect", "accept", "bind"):
        source, target = draw(st.sampled_from(ADDRESSES)), draw(st.sampled_from(ADDRESSES))
        port, udp = draw(st.sampled_from([22, 443])), draw(st.booleans())
        values: dict[str, Any] = {
            "source_address": ipv4(source), "source_port": 4000, "result": result, "protocol": 17 if udp else 6,
            "address_family": 2, "destination_address": ipv4(target), "destination_port": port}
        if kind == "bind":
            del values["destination_address"], values["destination_port"]
        ends: list[Any] = [ipaddress.IPv4Address(source), ipaddress.IPv4Address(target)]
        fields: Fields = {"evt.res": name or "SUCCESS", "evt.rawres": result, "fd.typechar": "4", "fd.type": "ipv4",
                          "fd.l4proto": "udp" if udp else "tcp"}
        if kind == "bind":
            fields |= {"fd.sip": ends[0], "fd.snet": ends[0], "fd.sport": 4000, "fd.ip": {ends[0]}, "fd.lip": ends[0],
                       "fd.net": {ends[0]}, "fd.port": {4000}, "fd.lport": 4000}
        else:
            local = kind == "accept"
            fields |= {"fd.sip": ends[1], "fd.cip": ends[0], "fd.snet": ends[1], "fd.net": set(ends), "fd.ip":
                       set(ends), "fd.sport": port, "fd.cport": 4000, "fd.port": {4000, port}, "fd.lip": ends[local],
                       "fd.rip": ends[not local], "fd.lport": [4000, port][local], "fd.rport": [port, 4000][local]}
        return host.does({"connect": "network_connect", "accept": "network_accept", "bind": "network_bind"}[kind],
                         pid, **values), fields
    if kind in ("symlink", "link"):
        symbolic = kind == "symlink"
        made = host.does("file_link", pid, path=path, symbolic=int(symbolic),
                         **{"source_name" if symbolic else "source_path": other})
        return made, ({"evt.arg.target": other, "evt.arg.linkpath": path} if symbolic else
                      {"evt.arg.oldpath": other, "evt.arg.newpath": path}) | {
                          "fs.path.source": path, "fs.path.target": other}
    if kind == "rename":
        return host.does("file_rename", pid, path=path, source_path=other), {
            "evt.arg.oldpath": other, "evt.arg.newpath": path, "fs.path.source": other, "fs.path.target": path}
    mode = draw(st.sampled_from([0o644, 0o4755, 0o2711, 0o1777, 0]))
    if kind == "chmod":
        bits = [text for bit, text in ((0o4000, "S_ISUID"), (0o2000, "S_ISGID"), (0o1000, "S_ISVTX"),
                                       (0o400, "S_IRUSR"), (0o10, "S_IXGRP"), (0o2, "S_IWOTH")) if mode & bit]
        return host.does("file_chmod", pid, path=path, mode=mode), {
            "evt.arg.filename": path, "evt.arg.mode": "|".join(bits), "fs.path.name": path}
    event = {"unlink": "file_unlink", "mkdir": "file_mkdir"}[kind]
    return host.does(event, pid, path=path), {"evt.arg.path": path, "fs.path.name": path}


# Conditions -------------------------------------------------------------------------------------------------

TEXT_FIELDS = ["proc.name", "proc.exe", "proc.args", "proc.cmdline", "proc.exepath", "proc.cwd", "proc.pname",
               "proc.aname", "proc.aname[0]", "proc.aname[1]", "proc.aname[2]", "user.name", "container.id", "fd.name",
               "container.type", "fd.directory", "fd.filename", "evt.arg.target", "evt.arg.oldpath", "evt.arg.path",
               "fs.path.name", "fs.path.source", "fs.path.target", "evt.res", "proc.exeline", "fd.l4proto"]
PATH_FIELDS = ["proc.exepath", "fd.name", "fs.path.name", "evt.arg.newpath", "fs.path.target"]
NUMBER_FIELDS = ["user.uid", "user.loginuid", "fd.sport", "fd.cport", "fd.lport", "fd.rport", "evt.rawres", "fd.port",
                 "proc.pid"]
#: Answers that hang on more than a document can tell, for these fields.
WHOLE = {"proc.cmdline": ("glob", "iglob", "regex"), "proc.name": ("glob", "iglob", "regex")}
_VALUES = st.one_of(
    st.sampled_from([*NAMES, *WORDS, *DIRECTORIES, *PATHS, "/etc/", "/tmp/", "host", "docker", CONTAINER[:12], "root",
                     "SUCCESS", "EACCES", "tcp", "sh -c", "sh -c x", "nc x", "/sh", "bin/", " x", "x ", "polkit-agent",
                     "agent-he", "helper", "ab", "/etc/shad", "shadow", "ed", "-c x", "a"]),
    st.builds(lambda name, rest: " ".join([comm(name), *rest]), st.sampled_from(NAMES),
              st.lists(st.sampled_from(WORDS), max_size=2)))
_GLOBS = st.sampled_from(["*", "*sh", "s?", "/etc/*", "*a*", "[ab]*", "/tmp/*", "*/x", "?", "[!s]*", "/etc/sha[d]ow",
                          "*[", "*S*", "java", "*-he", "[a-c]", "/usr/*/nc"])
_REGEXES = st.sampled_from(["sh", ".*", "s.", "[a-z]+", "/etc/(x|shadow).*", "(?i)SH", "a|b", "sh|nc x", ".*sh$", ""])
_PREFIXES = st.sampled_from(["/etc", "/etc/", "/", "/etc/x", "/e", "/etc/*", "tmp", "/*/a", "/var//log", "/etc/sha"])


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    """One comparison as text."""
    kind = draw(st.integers(0, 11))
    if kind == 0:
        field = draw(st.sampled_from(NUMBER_FIELDS))
        return f"{field} {draw(st.sampled_from(['=', '!=', '<', '<=', '>', '>=']))} {draw(_numbers)}"
    if kind == 1:
        return f"{draw(st.sampled_from(['fd.sport', 'user.uid', 'evt.rawres']))} in ({draw(_numbers)}, 0x16)"
    if kind == 2:
        field = draw(st.sampled_from(["fd.sip", "fd.cip", "fd.lip", "fd.rip", "fd.ip"]))
        return f"{field} {draw(st.sampled_from(['=', '!=']))} {draw(st.sampled_from(ADDRESSES))}"
    if kind == 3:
        field = draw(st.sampled_from(["fd.snet", "fd.net"]))
        return f"{field} {draw(st.sampled_from(['=', '!=']))} {draw(st.sampled_from(['10.0.0.0/8', '127.0.0.0/8']))}"
    if kind == 4:
        field = draw(st.sampled_from(["evt.is_open_write", "evt.is_open_read", "proc.is_exe_upper_layer",
                                      "proc.is_exe_from_memfd"]))
        return f"{field} {draw(st.sampled_from(['=', '!=']))} {draw(st.sampled_from(['true', 'false']))}"
    if kind == 5:
        return f"evt.type in ({draw(st.sampled_from(KINDS))}, {draw(st.sampled_from(KINDS))})"
    if kind == 6:
        return f"{draw(st.sampled_from(PATH_FIELDS))} pmatch ({draw(_PREFIXES)}, {draw(_PREFIXES)})"
    if kind == 7:
        field = draw(st.sampled_from(["fd.type", "fd.typechar", "evt.arg.mode", "evt.arg.flags"]))
        return {"fd.type": "fd.type in (file, ipv4)", "fd.typechar": "fd.typechar != f",
                "evt.arg.mode": f"evt.arg.mode contains {draw(st.sampled_from(['S_ISUID', 'S_IXGRP', 'S_ISGID']))}",
                "evt.arg.flags": "evt.type = openat and evt.arg.flags contains O_TRUNC"}[field]
    field = draw(st.sampled_from(TEXT_FIELDS))
    if kind == 8:
        return f"{field} exists"
    if kind == 9:
        operator = draw(st.sampled_from(["glob", "iglob", "regex"]))
        assume(operator not in WHOLE.get(field, ()) and not field.startswith(("proc.aname", "proc.pname")))
        assume(field != "container.id" and field != "proc.cwd")
        return f"{field} {operator} {quoted(draw(_REGEXES if operator == 'regex' else _GLOBS))}"
    if kind == 10:
        values = ", ".join(map(quoted, draw(st.lists(_VALUES, max_size=4))))
        return f"{field} {draw(st.sampled_from(['in', 'intersects']))} ({values})"
    operator = draw(st.sampled_from(["=", "!=", "==", "contains", "icontains", "startswith", "endswith", "bcontains",
                                     "bstartswith"]))
    value = draw(_VALUES)
    if field == "proc.cwd" and operator in ("=", "==", "!=", "endswith") and not value.endswith("/"):
        value += "/"  # without one it is taken as it is meant, which Falco doesn't
    if field == "container.id" and value and len(value) > 12:
        value = value[:12]
    if operator[0] == "b":
        value = value.encode().hex() or "00"
    if draw(st.integers(0, 5)) == 0 and field in ("proc.name", "fd.name", "proc.exepath") and operator[0] not in "bi":
        return f"tolower({field}) {operator} {quoted(value)}"
    return f"{field} {operator} {quoted(value)}"


_numbers = st.sampled_from(["0", "1", "-1", "22", "443", "4000", "33", "-13", "1000"])
CONDITIONS = st.recursive(comparisons(), lambda inner: st.one_of(
    st.lists(inner, min_size=1, max_size=3).map(lambda items: "(" + " and ".join(items) + ")"),
    st.lists(inner, min_size=1, max_size=3).map(lambda items: "(" + " or ".join(items) + ")"),
    inner.map(lambda item: f"not ({item})")), max_leaves=6)


@settings(max_examples=150)
@given(CONDITIONS, st.lists(events(), min_size=1, max_size=4))
def test_conditions_mean_what_they_mean_to_falco(condition: str, drawn: list[tuple[dict[str, Any], Fields]]) -> None:
    """Exactly, where a rule has no notes; where it is partial or unsupported, it never fires falsely."""
    (made,) = load(rule_text(condition))
    tree = parse(condition)
    if isinstance(made, FalcoUnsupported):
        if made.reason.startswith("the condition can never be true"):
            assert not any(truth(tree, fields) for _, fields in drawn)
        return
    assert isinstance(made, FalcoRule), made
    matcher = Matcher([made])
    for document, fields in drawn:
        found = bool(matcher.match(document))
        assert found == bool(match([made], document))
        wanted = truth(tree, fields)
        if made.notes:
            assert wanted or not found, fields
        else:
            assert found == wanted, fields


# What the random test leaves out ------------------------------------------------------------------------------


@pytest.mark.parametrize(("condition", "argv", "fires"), [
    ("proc.name glob polkit-agent-*", ("polkit-agent-helper-1",), True),
    ("proc.name regex 'n[ct]'", ("nc",), True),
    ("proc.name regex n", ("nc",), False),
    ("proc.cmdline glob 'sh -c *'", ("/bin/sh", "-c", "x"), True),
    ("proc.cmdline regex 'sh -c .'", ("/bin/sh", "-c", "xy"), False),
    ("proc.aname glob ng*", ("x",), True),
    ("proc.pname != nginx", ("x",), False),
    ("basename(proc.exepath) = nc", ("nc",), True),
    ("basename(proc.exepath) startswith n", ("nc",), True),
    ("basename(proc.exepath) = bin", ("nc",), False),
    ("toupper(proc.name) = NC", ("nc",), True),
    ("tolower(proc.name) = NC", ("nc",), False),
    ("tolower(proc.name) != NC", ("nc",), True),
    ("proc.cwd = /srv", ("nc",), True),
    ("proc.cwd = /srv/", ("nc",), True),
    ("proc.cwd glob /sr?/", ("nc",), True),
    ("proc.tty != 0", ("nc",), False),
    ("proc.tty >= 0", ("nc",), True),
    ("evt.num = 0", ("nc",), False),
    ("evt.num >= 0", ("nc",), True),
    ("proc.pid = val(proc.pid)", ("nc",), True),
    ("proc.pid = val(proc.ppid)", ("nc",), False),
    ("proc.pid != val(proc.ppid)", ("nc",), True),
    ("proc.sname = nginx", ("nc",), False),
    ("thread.cap_effective contains CAP_SYS_ADMIN", ("nc",), False),
])
def test_condition_on_an_execution(condition: str, argv: tuple[str, ...], fires: bool) -> None:
    """Below nginx, in /srv, with no capability."""
    event = Host().run(*argv, parents=("nginx",), cwd="/srv")[1]
    found = load(rule_text(f"evt.type = execve and {condition}"))[0]
    assert (isinstance(found, FalcoRule) and bool(match([found], event))) is fires, found


def test_ancestors_are_told_by_their_places() -> None:
    """Each level has its own name, a script its own and not its interpreter's, and beyond the last there is none."""
    host = Host()
    event = host.run("x", parents=("cron", "script:/opt/deploy-everything.sh", "b"))[1]
    names = {1: "b", 2: "deploy-everythi", 3: "cron"}
    for level in range(1, 6):
        for name in ("b", "deploy-everythi", "cron", "sh"):
            assert bool(match([rule(f"evt.type = execve and proc.aname[{level}] = {name}")], event)) is (
                names.get(level) == name)
        assert bool(match([rule(f"evt.type = execve and proc.aname[{level}] != x")], event)) is (level in names)
        assert bool(match([rule(f"evt.type = execve and proc.aname[{level}] exists")], event)) is (level in names)
    assert match([rule("evt.type = execve and proc.pname = b and proc.aname = cron")], event)
    (lacking,) = load(rule_text("evt.type = execve and proc.aname[17] = cron"))
    assert "proc.aname[17]" in str(lacking)


def test_capabilities_are_told_one_by_one() -> None:
    """Whatever the set."""
    for number in (0, 1, 1 << 21, (1 << 41) - 1, 0xA80425FB, 0x123456789):
        event = Host().run("x", capabilities=number)[1]
        for bit, name in enumerate(kernel.CAPABILITIES):
            (made,) = load(rule_text(f"evt.type = execve and thread.cap_effective contains '{name}'"))
            others = sum(1 << other for other, each in enumerate(kernel.CAPABILITIES) if name in each)
            assert bool(match([made], event)) is bool(number & others), (number, name)
            assert others >> bit & 1


@pytest.mark.parametrize(("condition", "fires"), [
    ("proc.duration > 5000000000", True), ("proc.duration <= 5000000000", False), ("proc.duration < 5500000000", True),
    ("proc.duration > 5500000000", False), ("proc.ppid.duration >= proc.duration", None),
    ("proc.ppid.duration > 5500000000", False), ("proc.ppid.duration != 1", True),
])
def test_age_of_a_process_is_that_at_the_event(condition: str, fires: bool | None) -> None:
    """In nanoseconds between its start and the event."""
    host = Host()
    pid = host.run("x", parents=("y",))[0]
    host.later(5)
    event = host.opens(pid, "/a")
    assert 5 * 10**9 < int(render("%proc.duration", event)) < int(render("%proc.ppid.duration", event)) < 55 * 10**8
    (made,) = load(rule_text(f"evt.type = open and {condition}"))
    if fires is None:
        assert not isinstance(made, FalcoRule)
    else:
        assert isinstance(made, FalcoRule)
        assert bool(match([made], event)) is bool(Matcher([made]).match(event)) is fires


def test_types_that_one_event_stands_for_are_one() -> None:
    """An open is an openat; unlinking a directory is rmdir, and mounts are told by their call."""
    host = Host()
    pid, _ = host.run("x")
    opened = host.opens(pid, "/a")
    assert all(match([rule(f"evt.type = {name}")], opened) for name in ("open", "openat", "openat2", "creat"))
    assert not match([rule("evt.type != openat and proc.name = x")], opened)
    gone = host.does("file_unlink", pid, path="/a", flags=Flag.DIRECTORY)
    assert [bool(match([rule(f"evt.type = {name}")], gone)) for name in ("rmdir", "unlinkat", "unlink")] == [
        True, True, False]
    mounted = host.does("mount", pid, operation=166, path="/mnt")
    assert [bool(match([rule(f"evt.type = {name}")], mounted)) for name in ("umount2", "mount")] == [True, False]


@example("proc.name = 'sensor'")
@given(st.text(max_size=30))
def test_any_value_is_compared_or_refused(value: str) -> None:
    """Whatever stands in quotes: a rule, or a reason."""
    from sensor.rules.falco.frontend import Falco
    from sensor.rules.yamlsafe import Items, Map

    for operator in ("=", "contains", "glob", "iglob", "regex", "pmatch", "startswith", "bcontains"):
        for field in ("proc.name", "proc.cmdline", "proc.args", "proc.exe", "fd.name", "proc.aname", "container.id",
                      "fd.sip", "proc.pid", "evt.arg.flags", "evt.res", "proc.cwd", "thread.cap_effective"):
            body = f"({quoted(value)})" if operator == "pmatch" else quoted(value)
            item = Map(1)
            item.update({"rule": "R", "desc": "", "output": "", "priority": "INFO",
                         "condition": f"{field} {operator} {body}"})
            item.lines.update(dict.fromkeys(item, 1))
            items = Items()
            items.append(item)
            items.lines.append(1)
            falco = Falco()
            falco.add(items, "r.yaml")
            (found,) = falco.compile()
            assert found
