"""Events for Falco's rules, made as the engine makes them: records -> process table -> documents."""

from __future__ import annotations

from typing import Any

from sensor.boottime import BootClock
from sensor.document import Builder
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.rules.falco.frontend import Falco
from sensor.rules.falco.model import FalcoRule
from sensor.rules.model import Refused, Unsupported
from sensor.rules.yamlsafe import documents
from sensor.schema import Flag
from tests.unit.records import SECOND, execution, fork, record

CONTAINER = "ab" * 32
IN_CONTAINER = f"/system.slice/docker-{CONTAINER}.scope"
ALL_CAPABILITIES = (1 << 41) - 1
_NAMES = {0: "root", 33: "www-data", 1000: "ann"}
_READ, _WRITE = 0, Flag.WRITE


class Host:
    """A process table and a builder. Processes are made by ``run``, events by the other methods."""

    def __init__(self) -> None:
        clock, users = BootClock(1_700_000_000 * SECOND), Users(_NAMES.get)
        self._table = ProcessTable("boot", clock=clock, users=users)
        self._builder = Builder(self._table, clock, users)
        self._next = 100
        self._now = 1000 * SECOND
        self._sequence = 0
        self._starts: dict[int, int] = {}
        self._uids: dict[int, int] = {}

    def run(self, *argv: str, path: str = "", parents: tuple[str, ...] = (), cgroup: str = "/user.slice",
            uid: int = 0, **more: Any) -> tuple[int, dict[str, Any]]:
        """(pid, document) of a program that was executed below *parents*, the farthest one first."""
        above = 0
        for parent in parents:
            words = parent.split()
            above = self._child(above)
            script = words[0].startswith("script:")
            if script:  # below its interpreter's name
                words[0] = words[0][7:]
            self._table.apply(execution(
                above, self._starts[above], "/bin/sh" if script else _full(words[0]), *words, uid=uid,
                **({"filename": _full(words[0]), "flags": Flag.SCRIPT} if script else {}), **self._when()))
        pid = self._child(above)
        self._uids[pid] = uid
        item = execution(pid, self._starts[pid], path or _full(argv[0]), *argv, uid=uid, cgroup=cgroup,
                         **self._when(), **more)
        return pid, self._document(item)

    def _child(self, above: int) -> int:
        self._next += 1
        self._starts[self._next] = self._when()["time_ns"]
        if above:
            self._table.apply(fork(above, self._starts[above], self._next, self._starts[self._next], **self._when()))
        return self._next

    def later(self, seconds: int) -> None:
        """Let time go by."""
        self._now += seconds * SECOND

    def _when(self) -> dict[str, int]:
        """Time and number of the next record."""
        self._now += SECOND // 1000
        self._sequence += 1
        return {"time_ns": self._now, "seq": self._sequence}

    def does(self, event: str, pid: int, **values: Any) -> dict[str, Any]:
        """The document of what a running process does."""
        values = {"uid": self._uids[pid], **self._when(), **values}
        return self._document(record(event, pid, self._starts[pid], **values))

    def opens(self, pid: int, path: str, *, flags: Flag | int = 0, open_flags: int = 0, mode: int = 0o100644,
              **more: Any) -> dict[str, Any]:
        """An open, for reading where *flags* say nothing else."""
        return self.does("file_open", pid, path=path, flags=flags, open_flags=open_flags, mode=mode, **more)

    def connects(self, pid: int, address: str, port: int, **more: Any) -> dict[str, Any]:
        """A TCP connection over IPv4 to a place."""
        values: dict[str, Any] = {"address_family": 2, "protocol": 6, "source_port": 40_000,
                                  "destination_port": port, "source_address": ipv4("192.0.2.7"),
                                  "destination_address": ipv4(address), **more}
        return self.does("network_connect", pid, **values)

    def _document(self, item: Any) -> dict[str, Any]:
        process = self._table.apply(item)
        assert process is not None
        return self._builder.build(item, process)


def _full(program: str) -> str:
    return program if program.startswith("/") else f"/usr/bin/{program}"


def ipv4(text: str) -> bytes:
    """IPv4 text as the ring has it."""
    return bytes(map(int, text.split("."))) + bytes(12)


def load(*files: str) -> list[FalcoRule | Refused | Unsupported]:
    """What becomes of the texts of Falco rule files."""
    falco = Falco()
    for number, text in enumerate(files):
        for document in documents(text):
            falco.add(document, f"rules{number}.yaml")
    return falco.compile()  # type: ignore[return-value]


def rule(condition: str, *, before: str = "", **more: Any) -> FalcoRule:
    """The one rule with a condition, which must be accepted."""
    (made,) = load(before + rule_text(condition, **more))
    assert isinstance(made, FalcoRule), made
    return made


def rule_text(condition: str, name: str = "A rule", extra: str = "", output: str = "what happened") -> str:
    """YAML of a rule."""
    lines = "".join(f"    {line}\n" for line in condition.splitlines())
    return (f"- rule: {name}\n  desc: about it\n  condition: >\n{lines}  output: {output}\n  priority: WARNING\n"
            + "".join(f"  {line}\n" for line in extra.splitlines()))
