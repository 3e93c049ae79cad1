"""Maps that somebody else has changed: found, told once, put back. The kernel is a table here."""

from __future__ import annotations

import os
import struct
from types import SimpleNamespace

import pytest

from sensor import integrity
from sensor.integrity import Integrity
from sensor.kernel.hooks import ROUTER
from sensor.loaded import Load

ENGINE, NOBODY = 4242, (1 << 64) - 1
SETTINGS, OWN, NAMES, INODES, NATIVE, COMPAT, ANY = range(100, 107)
HANDLER, ROUTE, LINK = 7, 8, 30  # program ids, a link's descriptor


class Kernel:
    """Maps as tables, programs by descriptor, links by descriptor."""

    def __init__(self) -> None:
        self.maps: dict[int, dict[bytes, bytes]] = {number: {} for number in range(100, 107)}
        self.frozen: set[int] = set()
        self.links = {LINK: HANDLER}

    def map_update(self, fd: int, key: bytes, value: bytes) -> None:
        if fd in self.frozen:
            raise PermissionError(1, "Operation not permitted")
        # A program array takes a descriptor and shows an id.
        shown = struct.unpack("<I", value)[0] - 10 if fd in (NATIVE, COMPAT, ANY) else 0
        self.maps[fd][key] = struct.pack("<I", shown) if shown else value

    def map_lookup(self, fd: int, key: bytes, _size: int) -> bytes:
        if fd != SETTINGS and key not in self.maps[fd]:
            raise FileNotFoundError(2, "No such file or directory")
        return self.maps[fd].get(key, bytes(8))  # an array has all its places

    def map_keys(self, fd: int, _size: int, _limit: int) -> list[bytes]:
        return list(self.maps[fd])

    def map_delete(self, fd: int, key: bytes) -> None:
        del self.maps[fd][key]

    def program_maps(self, _fd: int) -> tuple[int, ...]:
        return (55, 56)

    def program_info(self, fd: int) -> SimpleNamespace:
        return SimpleNamespace(name=ROUTER if fd == 10 + ROUTE else "on_bpf")

    def link_program(self, fd: int) -> int:
        return self.links[fd]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(integrity, "bpf", made)
    monkeypatch.setattr(os, "readlink", lambda path: "anon_inode:bpf_link" if path.endswith(f"/{LINK}") else "x")
    made.maps[NAMES] = {b"shadow".ljust(32, b"\0"): struct.pack("<I", 1)}
    return made


@pytest.fixture
def load(kernel: Kernel) -> Load:
    """A load with one handler behind the dispatcher, and one link."""
    made = Load()
    made.maps = {"settings": SETTINGS, "own_objects": OWN, "watch_names": NAMES, "watch_inodes": INODES,
                 "native": NATIVE, "compat": COMPAT, "any": ANY}
    made.program_fds = {HANDLER: 10 + HANDLER, ROUTE: 10 + ROUTE}
    made.programs = [{"id": HANDLER, "kind": "syscall", "target": "321/357", "program": "on_bpf", "event": "bpf_load",
                      "family": "privilege"},
                     {"id": 99, "kind": "syscall", "target": "1/1", "program": "gone", "event": "x", "family": "shed"}]
    made.fds = {"privilege": [10 + HANDLER, LINK]}
    for table, slot, program in ((NATIVE, 321, HANDLER), (COMPAT, 357, HANDLER), (ANY, 321, ROUTE), (ANY, 357, ROUTE)):
        kernel.maps[table][struct.pack("<I", slot)] = struct.pack("<I", program)
    return made


@pytest.fixture
def begun(load: Load) -> Integrity:
    made = Integrity()
    made.begin(load, ENGINE)
    return made


def settings(kernel: Kernel) -> dict[int, int]:
    return {struct.unpack("<I", key)[0]: struct.unpack("<Q", value)[0] for key, value in kernel.maps[SETTINGS].items()}


def test_beginning_names_the_sensors_processes_and_objects(kernel: Kernel, begun: Integrity, load: Load) -> None:
    """Supervisor, engine, and nobody for the loader; programs and the maps that they use."""
    assert settings(kernel) == {0: os.getpid(), 1: ENGINE, 2: NOBODY}
    found = {divmod(struct.unpack("<Q", key)[0], 1 << 32) for key in kernel.maps[OWN]}
    assert found == {(1, HANDLER), (1, ROUTE), (2, 55), (2, 56)}
    assert begun.check(load) == []  # a family that was shed is not missed


@pytest.mark.parametrize(("part", "table", "key", "value"), [
    ("settings", SETTINGS, struct.pack("<I", 1), struct.pack("<Q", 666)),
    ("handlers", NATIVE, struct.pack("<I", 321), None),
    ("handlers", COMPAT, struct.pack("<I", 357), struct.pack("<I", 1)),
    ("handlers", ANY, struct.pack("<I", 357), None),
    ("filters", NAMES, b"shadow".ljust(32, b"\0"), None),
    ("filters", NAMES, b"shadow".ljust(32, b"\0"), struct.pack("<I", 2)),
    ("filters", INODES, bytes(16), struct.pack("<I", 1)),
    ("own_objects", OWN, struct.pack("<Q", 1 << 32 | HANDLER), None),
])
def test_each_change_is_told_once_and_put_back(
        kernel: Kernel, begun: Integrity, load: Load, part: str, table: int, key: bytes, value: bytes | None) -> None:
    """Removed, replaced or added."""
    before = {number: dict(entries) for number, entries in kernel.maps.items()}
    kernel.maps[table].pop(key, None)
    if value is not None:
        kernel.maps[table][key] = value
    [change] = begun.check(load)
    assert change.part == part
    assert kernel.maps == before
    assert begun.check(load) == []


def test_a_replaced_link_is_told_once(kernel: Kernel, begun: Integrity, load: Load) -> None:
    """It can't be put back: the sentence says what to do."""
    kernel.links[LINK] = 66
    [change] = begun.check(load)
    assert (change.part, "restart" in change.sentence) == ("links", True)
    assert begun.check(load) == []


def test_a_frozen_map_does_not_end_the_supervisor(kernel: Kernel, begun: Integrity, load: Load) -> None:
    """Whoever changes and then freezes is told of each time."""
    kernel.maps[NATIVE].clear()
    kernel.frozen.add(NATIVE)
    [change] = begun.check(load)
    assert "restart the sensor" in change.sentence
    assert len(begun.check(load)) == 1


def test_between_two_engines_nobody_is_the_engine(kernel: Kernel, begun: Integrity, load: Load) -> None:
    """Its number may be given to another process meanwhile."""
    begun.engine_ended(load)
    assert settings(kernel)[1] == NOBODY
    assert begun.check(load) == []


def test_without_probes_nothing_is_compared(begun: Integrity) -> None:
    """Passive, or let go of."""
    begun.engine_ended(Load())
    assert begun.check(Load()) == []
    assert Integrity().check(Load()) == []
