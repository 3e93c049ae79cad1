"""Bad pointers, and memory that is in use: what the probes do with what they must not touch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.kernel import bpf
from tests.live import kernelstate
from tests.live.harness import Document, Sensor, action, flags, get, of_kind
from tests.live.host import wait_until

VSYSCALL = 0xFFFFFFFFFF600000
_SYS_BPF = 321
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sensor]:
    """A sensor that nobody else uses: its maps are written to."""
    with Sensor(tmp_path_factory.mktemp("probes")) as running:
        yield running


def mine(sensor: Sensor, since: int, *actions: str) -> list[Document]:
    """What this process is said to have done."""
    return [d for d in of_kind(sensor.documents()[since:], *actions) if get(d, "process.pid") == os.getpid()]


def system_call(number: int, *arguments: int) -> int:
    result = int(_libc.syscall(number, *(ctypes.c_ulong(each) for each in arguments)))
    return result if result >= 0 else -ctypes.get_errno()


def kernel_memory() -> int:
    """Address of something that can be read in the kernel, its code; 0 where it hides that."""
    lines = (line.split() for line in Path("/proc/kallsyms").read_text().splitlines())
    return next(int(address, 16) for address, kind, *_ in lines if kind == "T")


#: What is told although the call has failed: number, arguments (True: the address), how it is told.
TOLD = (
    (165, (True, True, True, 0, True), "mount"),
    (166, (True, 0), "mount"),
    (429, (0, True, 0, True, 0), "mount"),
    (155, (True, True), "mount"),
    (175, (True, 4096, True), "module-load"),
    (176, (True, 0), "module-load"),
    (313, (1 << 20, True, 0), "module-load"),
    (_SYS_BPF, (5, True, 48), "bpf-load"),
)
#: What must do no harm: opens, changes of names, connections, sends, and what acts on a BPF object.
QUIET = ((2, (True, 0, 0)), (257, (0, True, 0, 0)), (437, (0, True, True, 24)), (85, (True, 0)), (87, (True,)),
         (82, (True, True)), (86, (True, True)), (88, (True, True)), (90, (True, 0)), (92, (True, 0, 0)),
         (83, (True, 0)), (59, (True, True, True)), (319, (True, 0)), (_SYS_BPF, (2, True, 48)),
         (_SYS_BPF, (13, True, 48)), (_SYS_BPF, (28, True, 48)), (310, (os.getpid(), True, 1, True, 1, 0)))


@pytest.mark.contract("panic-4a", "panic-4b")
@pytest.mark.parametrize("where", ["vsyscall page", "kernel"])
def test_pointers_of_a_caller_are_not_followed_into_the_kernel(own: Sensor, where: str) -> None:
    """Each call with each pointer there: texts are missing and marked, and the kernel has not complained."""
    address = VSYSCALL if where == "vsyscall page" else kernel_memory()
    if not address:
        pytest.skip("the kernel does not say where it is")
    before = kernelstate.complaints()
    since = len(own.documents())

    def filled(arguments: tuple[int, ...]) -> list[int]:
        return [address if each is True else each for each in arguments]

    for number, arguments, _ in TOLD:
        assert system_call(number, *filled(arguments)) < 0
    for number, arguments in QUIET:
        system_call(number, *filled(arguments))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as stream:
        for number, arguments in ((42, (stream.fileno(), True, 16)), (42, (datagrams.fileno(), True, 16)),
                                  (44, (datagrams.fileno(), True, 16, 0, True, 16)),
                                  (46, (datagrams.fileno(), True, 0)), (307, (datagrams.fileno(), True, 2, 0)),
                                  (49, (stream.fileno(), True, 16))):
            assert system_call(number, *filled(arguments)) < 0
    own.settle(since)
    found = mine(own, since, "mount", "module-load", "bpf-load")
    assert [action(d) for d in found] == [told for _, _, told in TOLD]
    assert all("unreadable" in flags(d) for d in found)
    texts = ("mount.source", "mount.type", "module.name", "bpf.program.name")
    assert not [(key, d) for d in found for key in texts if get(d, key)]
    assert kernelstate.complaints() == before


@pytest.mark.contract("panic-4b")
def test_a_file_by_the_name_of_a_bpf_object_is_none(own: Sensor, tmp_path: Path) -> None:
    """What lies behind its private_data is not looked at: as a map it would have the number 0, which is ours here."""
    [listed] = [number for number in kernelstate.held([own.pid], "map") if bpf.map_info(number).name == "sensor_own"]
    fd = bpf._call(bpf.MAP_GET_FD_BY_ID, struct.pack("<I", listed))[0]
    bpf.map_update(fd, struct.pack("<Q", 2 << 32), struct.pack("<I", 1))
    place = Path("/dev/shm") / f"{tmp_path.name}-{os.getpid()}"
    place.mkdir()
    own.watch(lambda: None)
    since = len(own.documents())
    try:
        with (place / "bpf-map").open("wb") as file, contextlib.suppress(OSError):
            bpf.map_update(file.fileno(), b"key", b"value")
        with contextlib.suppress(OSError):
            bpf.map_update(fd, b"\0" * 8, struct.pack("<I", 1))  # is seen
        own.settle(since)
    finally:
        bpf.map_delete(fd, struct.pack("<Q", 2 << 32))
        (place / "bpf-map").unlink(missing_ok=True)
        place.rmdir()
        os.close(fd)
    assert [get(d, "bpf.object.id") for d in mine(own, since, "bpf-access")] == [listed]


# --- memory in use ---------------------------------------------------------------------------------


class PerProcessor:
    """A map of a probe family, one element for each processor."""

    def __init__(self, sensor: Sensor, program: str, name: str) -> None:
        [info] = [info for info in map(bpf.map_info, maps_of(sensor, program)) if info.name == name]
        self.fd = bpf._call(bpf.MAP_GET_FD_BY_ID, struct.pack("<I", info.id))[0]
        self.entries, self._each = info.entries, -(-info.value // 8) * 8
        self._cpus = int(Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition("-")[2]) + 1

    def read(self, entry: int) -> list[bytes]:
        raw = bpf.map_lookup(self.fd, struct.pack("<I", entry), self._each * self._cpus)
        return [raw[at:at + self._each] for at in range(0, len(raw), self._each)]

    def mark(self, cpu: int, busy: int, entry: int, filling: bytes = b"") -> bytes:
        """Write the mark, and a filling of what is behind it; what is there now."""
        values = wait_until(lambda: idle if not any(map(_busy, self._others(idle := self.read(entry), cpu))) else None,
                            10, "nobody else writes")
        rest = filling * self._each if filling else values[cpu][8:]
        values[cpu] = struct.pack("<Q", busy) + rest[:self._each - 8]
        bpf.map_update(self.fd, struct.pack("<I", entry), b"".join(values))
        return bytes(values[cpu])

    def _others(self, values: list[bytes], cpu: int) -> list[bytes]:
        return [value for number, value in enumerate(values) if number != cpu]


def _busy(value: bytes) -> int:
    return int(struct.unpack_from("<Q", value)[0])


def maps_of(sensor: Sensor, program: str) -> tuple[int, ...]:
    """Ids of the maps that a program of the sensor's uses."""
    for number in kernelstate.held([sensor.pid], "program"):
        fd = bpf.program_by_id(number)
        try:
            if bpf.program_info(fd).name == program[:15]:
                return bpf.program_maps(fd)
        finally:
            os.close(fd)
    raise AssertionError(f"no program {program}")


@contextlib.contextmanager
def on(cpu: int) -> Iterator[None]:
    """On one processor only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def nested(sensor: Sensor, kind: str) -> float:
    return sensor.total("sensor_events_lost_total", type=kind, stage="kernel_map", reason="nested")


def memory_files(sensor: Sensor, name: str, cpu: int) -> list[str]:
    """Make seven there; those that are seen."""
    since = len(sensor.documents())
    with on(cpu):
        for number in range(7):
            os.close(os.memfd_create(f"{name}-{number}"))
    sensor.settle(since)
    return [get(d, "file.name") for d in mine(sensor, since, "memfd-create")]


@pytest.mark.contract("panic-4c")
def test_memory_that_another_program_is_using_is_not_written_and_that_is_counted(own: Sensor) -> None:
    """As if the programs had been interrupted: one record begun leaves one place; with two, all is refused there."""
    cpu = min(os.sched_getaffinity(0))
    scratch = PerProcessor(own, "on_memfd_create", "scratch")
    seven = [f"{{}}-{number}" for number in range(7)]
    there, before = {}, nested(own, "memfd_create")
    try:
        for entry in range(scratch.entries):
            there[entry] = scratch.mark(cpu, 1, entry, b"\xa5")
            left = scratch.entries - entry - 1
            assert memory_files(own, f"with-{left}-left", cpu) == (
                [each.format(f"with-{left}-left") for each in seven] if left else [])
            assert {number: scratch.read(number)[cpu] for number in there} == there
        assert nested(own, "memfd_create") == before + 7
        for other in os.sched_getaffinity(0) - {cpu}:
            assert memory_files(own, f"on-{other}", other) == [each.format(f"on-{other}") for each in seven]
    finally:
        for entry in there:
            scratch.mark(cpu, 0, entry)
    assert memory_files(own, "again", cpu) == [each.format("again") for each in seven]
    assert nested(own, "memfd_create") == before + 7
    os.close(scratch.fd)


@pytest.mark.contract("panic-4c")
@pytest.mark.parametrize(("program", "name", "kind"), [("on_mount", "mountings", "mount"),
                                                       ("on_fchmod", "requests", "file_chmod")])
def test_what_a_handler_left_for_its_program_is_not_written_by_another(
        own: Sensor, tmp_path: Path, program: str, name: str, kind: str) -> None:
    """Nothing is told of the other's call, which is counted; what lay there stays; then all is as before."""
    cpu = min(os.sched_getaffinity(0))
    left = PerProcessor(own, program, name)
    target = tmp_path / "target"
    target.touch()

    def act() -> list[Document]:
        since = len(own.documents())
        with on(cpu):
            for _ in range(7):
                if kind == "mount":
                    assert system_call(165, 0, 0, 0, 0, 0) < 0
                else:
                    target.chmod(0o600)
                    with target.open() as file:
                        os.fchmod(file.fileno(), 0o640)
        own.settle(since)
        return mine(own, since, kind.replace("_", "-"))

    each = 7 if kind == "mount" else 14
    before = nested(own, kind)
    there = left.mark(cpu, 1, 0, b"\xa5")
    try:
        assert act() == []
        assert left.read(0)[cpu] == there
    finally:
        left.mark(cpu, 0, 0)
    assert nested(own, kind) == before + each
    assert len(act()) == each
    assert nested(own, kind) == before + each
    assert _busy(left.read(0)[cpu]) == 0
    os.close(left.fd)
