"""Watches over the kernel while our probes are in it: its counts, the canary on each processor, the rings.

The supervisor's; what is found is told to it, and it detaches. While probes are being loaded each family waits for
its turn, which comes once the one before has been looked at. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor import children, health
from sensor.errors import HostError
from sensor.guard import MINIMAL_FAMILIES
from sensor.health import Canaries, Finding, Reading, Standstill, cpu_list, show_list
from sensor.kernel import bpf, canary, knownbad
from sensor.kernel.hooks import DECIDING, DISPATCHER
from sensor.kernel.plan import COUNTER_BYTES, GO, TYPES
from sensor.kernel.ring import positions
from sensor.loaded import Load

#: What counts canaries, in the order of struct counter in probes/common.h.
KINDS = ("fork", "exit", "system call", "decision")
_ROW, _COUNTS = TYPES - 1, struct.Struct("<QQQQ")  # CANARY_ROW
_OWN_CANARY = struct.pack("<I", 3)
_PROCESS_IDS = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
ROUND_SECONDS = 20.0  # a processor may be busy with what is more urgent than we are
_GRACE_SECONDS = 1.0  # a thread that was waited for may still be on its way out of the kernel
_RINGS = ("ring_process", "ring_events")


def expected(programs: list[dict[str, Any]]) -> tuple[str, ...]:
    """KINDS that the loaded programs must count."""
    names = {program["program"] for program in programs}
    decided = any(program["event"] == "file_chmod" and program.get("kind") in DECIDING for program in programs)
    there = ("on_fork" in names, "on_exit" in names, DISPATCHER.program in names, decided)
    return tuple(kind for kind, is_there in zip(KINDS, there, strict=True) if is_there)


@dataclass(slots=True)
class _Round:
    """One canary on each processor; ``before`` are the counts, ``answers`` the errno by processor."""

    cpus: tuple[int, ...]
    kinds: tuple[str, ...]
    before: dict[int, tuple[int, ...]]
    answers: dict[int, int] = field(default_factory=dict)
    again: bool = False  # it has been looked at, and something was missing


class Vigil:
    """One supervisor's.

    Args:
        selector: Watches the canary's channel.
        after: Sets a deadline of the supervisor: a name of :attr:`actions` and seconds.
        say: For people.
        found: The probes must go.
        answer: Answers the loader that has asked for a turn.
        load: What is in the kernel.
        serving: Whether an engine reads the rings.
        tell: Sends the engine a message.
    """

    def __init__(self, selector: selectors.BaseSelector, after: Callable[[str, float], None],
                 say: Callable[[str], None], found: Callable[[Finding], None], answer: Callable[[bytes], None],
                 load: Callable[[], Load], serving: Callable[[], bool], tell: Callable[[dict[str, Any]], None],
                 root: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._selector, self._after, self._say, self._found, self._answer = selector, after, say, found, answer
        self._load, self._serving, self._tell, self._clock = load, serving, tell, clock
        self._root = root or health.ROOT
        self.actions = {"health": self._check, "canary": self._canary, "canary_end": self._look}
        self._kernel = knownbad.Kernel.running()
        self._before: Reading | None = None  # None: nothing of ours is in the kernel
        self._loaded, self._proven, self._drill = False, False, False
        self._asked: str | None = None  # the family that waits for its turn
        self._child: Any = None
        self._channel: socket.socket | None = None
        self._unable = ""  # why there are no canaries
        self._said: set[str] = set()
        self._round: _Round | None = None
        self._rings: dict[str, Standstill] = {}
        self._canaries = Canaries()
        self._tests = dict.fromkeys(("health", "canary", "ring"), 0.0)
        self._tested, self._processors = 0.0, (0, 0)
        self._detached: dict[tuple[str, bool], int] = {}

    # --- around a load ------------------------------------------------------------------------

    def begin(self) -> None:
        """Before anything is loaded."""
        self.end()
        self._before, self._proven = health.read(self._root), False
        self._canaries.in_a_row.clear()
        if self._before.blind:
            self._once(self._before.blind)
        self._start()

    def heard(self, message: dict[str, Any]) -> None:
        """A message of the loader, which has been taken."""
        if self._before is None:
            return
        if message["kind"] == "turn":
            self._asked = str(message["name"])
            if self._round is None:
                self._give()
        elif message["kind"] in ("family", "failed") and self._well():
            self._begin_round()

    def loaded(self) -> None:
        """Everything is in; from now on by the clock."""
        self._loaded = True
        self._rings = {name: Standstill(name.removeprefix("ring_")) for name in _RINGS}
        self._after("health", health.CHECK_SECONDS)
        self._after("canary", health.CANARY_SECONDS)

    def end(self) -> None:
        """Nothing is in the kernel any more, or is about to leave it."""
        self._before, self._round, self._asked, self._drill, self._loaded = None, None, None, False, False
        self._close()

    def rehearse(self) -> str:
        """Drill: treat the next canary as missing on one processor; what will happen. HostError where it can't be."""
        if not self._loaded or self._unable:
            raise HostError(self._unable or "no probes are loaded", "sensor status")
        self._drill = True
        self._begin_round()
        if self._round is None:
            raise HostError("no canary could be started", "sensor status")
        return "the canary of one processor is taken for missing: every probe is detached, then all are loaded again"

    def _give(self) -> None:
        """Let the loader go on; on a kernel newer than all that were tested only after a self-test."""
        name, self._asked = self._asked, None
        if name is None:
            return
        if name and self._kernel.untested and name not in MINIMAL_FAMILIES and not self._proven:
            why = self._unable or "it did not come back from every processor in time"
            self._answer(f"kernel newer than {'.'.join(map(str, knownbad.NEWEST_TESTED))}, the newest tested, and no "
                         f"self-test: {why}".encode())
        else:
            self._answer(GO)

    # --- the kernel's counts, the rings -----------------------------------------------------------

    def _well(self) -> bool:
        assert self._before is not None
        finding = health.rise(self._before, health.read(self._root))
        if finding is not None:
            self._tell_of(finding)
        self._tests["health"] = float(finding is None)
        return finding is None

    def _check(self) -> None:
        if self._before is None or not self._well():
            return
        self._after("health", health.CHECK_SECONDS)
        now = self._clock()
        for name, standstill in self._rings.items():
            if not self._serving():
                standstill.excuse(now)
                continue
            try:
                place = positions(self._load().maps[name])
            except OSError as error:
                self._once(f"the {standstill.name} ring can't be watched: {error.strerror}")
                continue
            if finding := standstill.take(*place, now):
                self._tell_of(finding)
                return
        self._tests["ring"] = 1.0

    def _tell_of(self, finding: Finding) -> None:
        key = (finding.reason, finding.drill)
        self._detached[key] = self._detached.get(key, 0) + 1
        if not finding.drill:
            self._tests[finding.lack] = 0.0
        self._found(finding)

    # --- the canary -------------------------------------------------------------------------------

    def _canary(self) -> None:
        if self._before is None:
            return
        self._after("canary", health.CANARY_SECONDS)
        if self._child is None:
            self._start()
        self._begin_round()

    def _begin_round(self) -> None:
        if self._round is not None or self._channel is None or "settings" not in self._load().maps:
            return
        load = self._load()
        kinds = expected([program for program in load.programs if program["family"] not in load.shed])
        cpus = self._choose()
        if not kinds or not cpus:
            return
        try:
            bpf.map_update(self._load().maps["settings"], _OWN_CANARY, struct.pack("<Q", self._child.pid))
            before = {cpu: self._counts(cpu) for cpu in cpus}
            self._channel.send(json.dumps(cpus).encode(), socket.MSG_DONTWAIT)
        except OSError as error:
            self._once(f"no canary could be started: {error.strerror}")
            return
        self._round = _Round(cpus, kinds, before)
        self._after("canary_end", ROUND_SECONDS)

    def _choose(self) -> tuple[int, ...]:
        """Processors that are there and ours; what isn't is named. Those that were late come last."""
        online, allowed = self._online(), frozenset(os.sched_getaffinity(0))
        skipped = online - allowed
        if skipped:
            self._once(f"no canary on processor {show_list(skipped)}: outside of the processors that this may run on")
        offline = self._list("possible") - online
        if offline:
            self._once(f"no canary on processor {show_list(offline)}: offline")
        cpus = online & allowed
        self._processors = (len(cpus), len(skipped | offline))
        self._canaries.forget(cpus)
        return tuple(sorted(cpus, key=lambda cpu: (cpu in self._canaries.in_a_row, cpu)))

    def _online(self) -> frozenset[int]:
        return self._list("online") or frozenset(os.sched_getaffinity(0))

    def _list(self, name: str) -> frozenset[int]:
        try:
            return cpu_list((self._root / "sys/devices/system/cpu" / name).read_text("ascii"))
        except (OSError, ValueError):
            return frozenset()

    def _counts(self, cpu: int) -> tuple[int, ...]:
        row = struct.pack("<I", cpu * TYPES + _ROW)
        return _COUNTS.unpack_from(bpf.map_lookup(self._load().maps["counters"], row, COUNTER_BYTES))

    def _answered(self) -> None:
        assert self._channel is not None
        try:
            data = self._channel.recv(canary.ANSWER.size, socket.MSG_DONTWAIT)
        except OSError:
            data = b""
        if len(data) != canary.ANSWER.size:
            self._close()
            if self._round is not None:  # what it has told already counts
                self._look()
            return
        cpu, fault = canary.ANSWER.unpack(data)
        if self._round is not None and cpu in self._round.cpus:
            self._round.answers[cpu] = fault
            if len(self._round.answers) == len(self._round.cpus):
                self._look()

    def _look(self) -> None:
        """Every processor has answered, or the time is over."""
        if self._round is None or self._before is None:
            return
        seen, missing = self._judge(self._round)
        if missing and not self._round.again:
            self._round.again = True
            self._after("canary_end", _GRACE_SECONDS)
            return
        done, self._round = self._round, None
        self._finish(done, seen, missing)

    def _judge(self, made: _Round) -> tuple[set[int], dict[int, str]]:
        """Processors whose programs have all counted, and those where some have not."""
        seen, missing = set(), {}
        online = self._online()
        for cpu, fault in made.answers.items():
            if fault or cpu not in online:  # it went away: what was to happen there happened somewhere else
                continue
            now = self._counts(cpu)
            silent = [kind for kind, old, new in zip(KINDS, made.before[cpu], now, strict=True)
                      if kind in made.kinds and new == old]
            if silent:
                missing[cpu] = ", ".join(silent)
            else:
                seen.add(cpu)
        return seen, missing

    def _finish(self, made: _Round, seen: set[int], missing: dict[int, str]) -> None:
        if self._drill:
            cpu, self._drill = made.cpus[0], False
            self._tell_of(Finding("canary", f"the canary of processor {cpu} is taken for missing", drill=True))
            return
        refused = {cpu: fault for cpu, fault in made.answers.items() if fault not in (0, errno.EINVAL)}
        if refused:
            self._once(f"no canary on processor {show_list(refused)}: {os.strerror(max(*refused.values(), 0))}; "
                       "the service must be allowed sched_setaffinity and a thread")
        late = {cpu for cpu in made.cpus if cpu not in made.answers}
        if late:
            self._once(f"the canary found no time on processor {show_list(late)} within {ROUND_SECONDS:.0f} s")
        finding = self._canaries.take(seen, missing, late)
        self._proven = seen == {*made.cpus}
        self._tests["canary"] = float(bool(seen) and not missing)
        self._tested = time.time()
        if finding is not None:
            self._tell_of(finding)
        elif missing and not self._loaded:  # the next family waits for the answer
            self._begin_round()
        else:
            self._give()
            self.report()

    # --- the child --------------------------------------------------------------------------------

    def _start(self) -> None:
        self._unable = self._lack()
        if self._unable:
            self._once(f"no canaries: {self._unable}")
            return
        try:
            self._child, self._channel = children.start_with_channel("sensor.kernel.canary")
        except OSError as error:
            self._unable = f"its process can't be started: {error.strerror}"
            self._once(f"no canaries: {self._unable}")
            return
        self._selector.register(self._channel, selectors.EVENT_READ, self._answered)

    def _lack(self) -> str:
        """The programs know the canary by its process id, the host's."""
        with contextlib.suppress(OSError):
            if os.readlink("/proc/self/ns/pid") != _PROCESS_IDS:
                return "process ids here are not the host's; containers: docker run --pid=host"
        return ""

    def _close(self) -> None:
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
        if self._child is not None and self._child.poll() is None:
            self._child.kill()

    def reap(self) -> None:
        """Notice that it has ended; the next round starts another."""
        if self._child is not None and self._child.poll() is not None:
            self._close()
            self._child = None

    # --- what is told -----------------------------------------------------------------------------

    def _once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)

    def report(self) -> None:
        """Tell the engine for its metrics."""
        self._tell({"kind": "health", "tests": self._tests, "tested": self._tested,
                    "canaries": self._canaries.totals, "watched": self._processors[0], "skipped": self._processors[1],
                    "supported": not self._kernel.untested,
                    "detached": [[*key, number] for key, number in self._detached.items()]})
