"""The real probe programs, compiled once and then loaded, attached and detached again and again. A process of its own.

    python -m tests.live.cycles LOADS ATTACHES

Compiles, says so, waits for a line, and begins. The last line that it prints is a JSON object. LLVM stays in this
process; whatever is attached goes with it.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sensor.kernel import bpf, plan
from sensor.kernel.attach import Loaded, load_family
from sensor.kernel.compiled import Cache
from sensor.kernel.hooks import DECIDING, FAMILIES, SYSCALL_SLOTS, deciding, likely
from sensor.kernel.sources import Sources, cache_home
from tests.live.host import wait_until
from tests.live.kernelstate import GONE_SECONDS, ids

_SPOT_CHECK = 20  # cycles between two looks at what the kernel lists
_ARRAYS = ("any", "native", "compat")


def all_families() -> plan.Plan:
    """A plan with everything, optional families too."""
    cpus = plan.possible_cpus(Path("/sys/devices/system/cpu/possible").read_text())
    return plan.Plan((1 << 16, 1 << 18), tuple(family.name for family in FAMILIES), plan.MEMORY_CAP, cpus)


class Compiled:
    """All families after the compiler, with maps that can be made anew."""

    def __init__(self, work: Path, wanted: plan.Plan) -> None:
        self.plan = wanted
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.sources = Sources.of_kernel(work, Cache(cache_home()))
        self.families = {family: self.sources.compile(family, wanted.cpus, likely(family.name, {}))
                         for family in FAMILIES if family.name in wanted.families}
        for family in self.families:
            if deciding(family.name, {}) - likely(family.name, {}):  # what a family with a failure is given
                self.sources.compile(family, wanted.cpus, DECIDING)
        self.shared: dict[str, int] = {}
        self._programs: dict[str, dict[str, int]] = {}

    def begin(self) -> None:
        """New shared maps; programs that are loaded from now on use them."""
        self.shared = plan.create_shared(self.plan)
        self._programs = {family.name: {} for family in self.families}

    def attach(self) -> list[Loaded]:
        """Load what is not loaded, attach everything."""
        return [load_family(family, compiled, self.shared, self.plan, self.sources.btf, self._programs[family.name])
                for family, compiled in self.families.items()]

    def kept(self) -> set[int]:
        """Descriptors of the programs that stay loaded between two attachments."""
        return {fd for programs in self._programs.values() for fd in programs.values()}

    def forget(self) -> None:
        """Close maps and programs; the next attach() loads again."""
        for fd in (*self.kept(), *self.shared.values()):
            os.close(fd)
        self._programs, self.shared = {}, {}


@contextmanager
def quiet() -> Iterator[None]:
    """The compiler writes to descriptor 2; only a failure's end is of interest."""
    with tempfile.TemporaryFile() as log:
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            os.write(saved, os.pread(log.fileno(), 1 << 30, 0)[-2000:])
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _fact(fd: int, name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def _empty(shared: dict[str, int], slots: set[tuple[str, int]] | None) -> set[tuple[str, int]]:
    """Take the programs out of the arrays; returns the slots that held one. None: look at every slot."""
    full = set()
    for name, slot in slots if slots is not None else {(n, s) for n in _ARRAYS for s in range(SYSCALL_SLOTS)}:
        with suppress(FileNotFoundError):
            bpf.map_delete(shared[name], struct.pack("<I", slot))
            full.add((name, slot))
    return full


class Soak:
    """Cycles, and what must hold in each. Raises AssertionError."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.reference: list[Any] = []
        self.slots: set[tuple[str, int]] | None = None
        self.done: Counter[str] = Counter()

    def _up(self) -> list[int]:
        """Attach; the descriptors of it. Everything that the first cycle attached must be there, and see events."""
        loads = self.compiled.attach()
        facts = [[(p["program"], p["target"], p["tag"]) for p in load.programs]
                 + [(f["program"], f["target"], "failed") for f in load.failures + load.absent] for load in loads]
        self.reference = self.reference or facts
        assert facts == self.reference, "another outcome than in the first cycle"
        with mmap.mmap(self.compiled.shared["counters"],
                       self.compiled.plan.cpus * plan.TYPES * plan.COUNTER_BYTES, prot=mmap.PROT_READ) as counters:
            self._alive(counters, loads)
        return [fd for load in loads for fd in load.fds]

    def _alive(self, counters: mmap.mmap, loads: list[Loaded]) -> None:
        def emitted() -> list[int]:
            rows = [row[0] for row in struct.iter_unpack("<QQQQ", counters[:])]
            return [sum(rows[kind::plan.TYPES]) for kind in range(1, plan.TYPES)]

        before = emitted()
        # The churn does a dozen kinds of things all the time: of each family with a part in it, something comes.
        wait_until(lambda: sum(now > then for now, then in zip(emitted(), before, strict=True)) >= 8, 30,
                   "events of 8 kinds", 0.002)

    def _down(self, fds: list[int], *, look: bool) -> None:
        """Detach; programs stay loaded."""
        keep = self.compiled.kept()
        closing = [fd for fd in dict.fromkeys(fds) if fd not in keep]
        links = {link for fd in closing if look and (link := _fact(fd, "link_id")) is not None}
        for fd in closing:
            os.close(fd)
        emptied = _empty(self.compiled.shared, self.slots)
        self.slots = emptied if self.slots is None else self.slots
        assert emptied == self.slots, "the prog arrays held something else than in the first cycle"
        if look:
            assert not _empty(self.compiled.shared, None)
            wait_until(lambda: not links & ids("link"), GONE_SECONDS, "links gone")

    def load_cycle(self) -> None:
        """Maps, verifier, attach, events, and everything gone again."""
        self.compiled.begin()
        fds = self._up()
        programs = {program for fd in (*fds, *self.compiled.kept()) if (program := _fact(fd, "prog_id")) is not None}
        assert programs <= ids("program")
        maps = {number for fd in self.compiled.shared.values() if (number := _fact(fd, "map_id")) is not None}
        self.done["programs"] = len(programs)
        self._down(fds, look=True)
        self.compiled.forget()
        wait_until(lambda: not programs & ids("program"), GONE_SECONDS, "programs gone")
        wait_until(lambda: not maps & ids("map"), GONE_SECONDS, "maps gone")
        self.done["loads"] += 1

    def attach_cycles(self, count: int) -> None:
        """The same programs on and off their hooks."""
        self.compiled.begin()
        for number in range(count):
            self._down(self._up(), look=number % _SPOT_CHECK == 0 or number == count - 1)
            self.done["attaches"] += 1
        self.compiled.forget()


def main() -> None:
    """See the module."""
    loads, attaches = int(sys.argv[1]), int(sys.argv[2])
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work, quiet():
        soak = Soak(Compiled(Path(work), all_families()))
    seconds = {"compile": time.monotonic() - begun}
    print(f"compiled in {seconds['compile']:.0f} s", flush=True)
    sys.stdin.readline()
    for name, act in (("loads", lambda: [soak.load_cycle() for _ in range(loads)]),
                      ("attaches", lambda: soak.attach_cycles(attaches))):
        begun = time.monotonic()
        with quiet():
            act()
        seconds[name] = time.monotonic() - begun
        print(f"{name}: {soak.done[name]} in {seconds[name]:.0f} s", flush=True)
    attached = sum(tag != "failed" for family in soak.reference for _, _, tag in family)
    print(json.dumps({**soak.done, "hooks": attached, "slots": len(soak.slots or ()),
                      "seconds": {name: round(value, 1) for name, value in seconds.items()}}), flush=True)
    os._exit(0)  # BCC's exit handler detaches what it never attached


if __name__ == "__main__":
    main()
