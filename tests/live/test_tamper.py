"""Acts on the sensor itself, by a process that is none of its own: each is an event, and most are an alert."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.kernel import bpf
from tests.live import host, kernelstate
from tests.live.harness import Document, Sensor, action, alerts, flags, get

_SYS_BPF, _SYS_PIDFD_OPEN, _SYS_PIDFD_SEND, _SYS_PIDFD_GETFD = 321, 434, 424, 438
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_libc = ctypes.CDLL(None, use_errno=True)
RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sensor]:
    """A sensor that nobody else uses: it is tampered with."""
    with Sensor(tmp_path_factory.mktemp("tampered")) as running:
        yield running


def command(number: int, attribute: bytes) -> int:
    """One bpf() call; its result, or -errno."""
    buffer = ctypes.create_string_buffer(attribute.ljust(120, b"\0"), 120)
    result = int(_libc.syscall(_SYS_BPF, number, buffer, 120))
    return result if result >= 0 else -ctypes.get_errno()


def seen(sensor: Sensor, act: Callable[[], Any]) -> tuple[Any, list[Document]]:
    """What came of an act, and what the sensor says that this process did; what it did before has arrived by then."""
    sensor.watch(lambda: None)
    made, documents = sensor.watch(act)
    return made, [d for d in documents if get(d, "process.pid") == os.getpid()]


def of(documents: list[Document], wanted: str) -> list[Document]:
    return [d for d in documents if action(d) == wanted and get(d, "event.kind") == "event"]


def rules(documents: list[Document]) -> set[str]:
    return {str(get(d, "rule.name")) for d in alerts(documents)}


@pytest.mark.hostile("stopped-sensor")
def test_signals_to_supervisor_and_engine_are_told_however_they_are_sent(own: Sensor) -> None:
    """By number, to a thread, by pidfd: signal, target, and what became of it."""
    engine = own.engine()

    def act() -> None:
        os.kill(engine, signal.SIGSTOP)
        os.kill(engine, signal.SIGCONT)
        _libc.syscall(234, engine, engine, int(signal.SIGTERM))  # tgkill
        fd = _libc.syscall(_SYS_PIDFD_OPEN, own.pid, 0)
        _libc.syscall(_SYS_PIDFD_SEND, fd, int(signal.SIGHUP), None, 0)
        os.close(fd)
        os.kill(own.pid, 0)  # asks, and sends none
        os.kill(os.getpid(), signal.SIGCONT)  # none of ours

    _, documents = seen(own, act)
    signals = of(documents, "process-signal")
    assert [(get(d, "process.target.pid"), get(d, "process.signal.number"), get(d, "process.signal.code"))
            for d in signals] == [(engine, 19, 0), (engine, 18, 0), (engine, 15, -6), (own.pid, 1, 0)]
    assert get(signals[2], "process.signal.disposition") == 1  # the engine ignores it
    assert all(flags(d) == {"own"} for d in signals)
    told = [get(d, "process.signal.number") for d in alerts(documents)
            if get(d, "rule.name") == "Signal sent to this sensor"]
    assert told == [19, 15]


@pytest.mark.hostile("stopped-sensor")
def test_tracing_the_engine_is_told_by_its_threads_numbers_too(own: Sensor) -> None:
    """ptrace() takes a thread; another process's attach is not marked."""
    engine = own.engine()
    threads = sorted(int(name) for name in os.listdir(f"/proc/{engine}/task"))
    assert len(threads) > 1  # it serves metrics
    with subprocess.Popen(["sleep", "60"]) as other:
        def act() -> None:
            for number in (engine, threads[-1], other.pid):
                assert _libc.ptrace(_PTRACE_ATTACH, number, None, None) == 0
                os.waitpid(number, 0x40000000)  # __WALL
                assert _libc.ptrace(_PTRACE_DETACH, number, None, None) == 0

        _, documents = seen(own, act)
        other.kill()
    attached = [(get(d, "process.target.pid"), "own" in flags(d)) for d in of(documents, "process-ptrace")]
    assert attached == [(engine, True), (threads[-1], True), (other.pid, False)]
    told = [d for d in alerts(documents) if get(d, "rule.name") == "This sensor traced by another process"]
    assert len(told) == 2


def test_a_descriptor_taken_out_of_the_supervisor_is_told(own: Sensor) -> None:
    """pidfd_getfd() would lend a link or a map without a call to bpf()."""
    def act() -> int:
        fd = _libc.syscall(_SYS_PIDFD_OPEN, own.pid, 0)
        taken = int(_libc.syscall(_SYS_PIDFD_GETFD, fd, 2, 0))
        assert taken >= 0
        os.close(taken)
        os.close(fd)
        return taken

    taken, documents = seen(own, act)
    [d] = of(documents, "process-ptrace")
    assert (get(d, "process.ptrace.request"), get(d, "process.target.pid")) == (_SYS_PIDFD_GETFD, own.pid)
    assert flags(d) == {"own"}
    assert "This sensor traced by another process" in rules(documents)
    assert taken >= 0


def objects(sensor: Sensor, kind: str) -> list[int]:
    """Ids of what the supervisor holds."""
    return sorted(kernelstate.held([sensor.pid], kind))


def opened(number: int, identity: int) -> int:
    """A descriptor of an object, by its id."""
    fd = command(number, struct.pack("<I", identity))
    assert fd >= 0, os.strerror(-fd)
    return fd


def named_map(sensor: Sensor, name: str) -> int:
    """Id of one of the sensor's maps."""
    [number] = [number for number in objects(sensor, "map") if bpf.map_info(number).name == name]
    return number


@pytest.mark.hostile("root-tampers")
def test_getting_hold_of_programs_maps_and_links_is_told(own: Sensor) -> None:
    """By id, of each kind; what else lies in the kernel makes no event."""
    program, link = objects(own, "program")[0], objects(own, "link")[0]
    maps = named_map(own, "sensor_native")
    foreign = bpf.map_create(bpf.ARRAY, 4, 8, 1, name="foreign")
    foreign_id = next(number for number in kernelstate.ids("map") if bpf.map_info(number).name == "foreign")

    def act() -> None:
        for number, identity in ((13, program), (14, maps), (30, link), (14, foreign_id)):
            os.close(opened(number, identity))
        bpf.map_update(foreign, struct.pack("<I", 0), struct.pack("<Q", 1))

    _, documents = seen(own, act)
    os.close(foreign)
    found = of(documents, "bpf-access")
    assert [(get(d, "bpf.command"), get(d, "bpf.object.type"), get(d, "bpf.object.id")) for d in found] == [
        (13, 1, program), (14, 2, maps), (30, 3, link)]
    assert get(found[1], "bpf.object.name") == "sensor_native"
    assert all(get(d, "event.result") >= 0 and flags(d) == {"own"} for d in found)
    assert [get(d, "rule.name") for d in alerts(documents)].count(
        "This sensor's BPF programs or maps opened by their id") == 3


@pytest.mark.hostile("root-tampers")
def test_detaching_and_replacing_are_told_though_the_kernel_refuses(own: Sensor, tmp_path: Path) -> None:
    """LINK_DETACH, LINK_UPDATE, PROG_DETACH, a second attachment, a pin: what was tried, on what, and how it ended."""
    link_id = objects(own, "link")[0]
    link, program = opened(30, link_id), opened(13, objects(own, "program")[0])
    mine = bpf.program_load(17, RETURN_0, "mine")

    def act() -> list[int]:
        path = ctypes.create_string_buffer(os.fsencode(tmp_path / "pin"))
        return [command(34, struct.pack("<I", link)), command(29, struct.pack("<IIII", link, mine, 0, 0)),
                command(9, struct.pack("<IIII", 0, program, 0, 0)),
                command(6, struct.pack("<QI", ctypes.addressof(path), program)),
                command(10, struct.pack("<I", mine))]  # its own program

    results, documents = seen(own, act)
    for fd in (link, program, mine):
        os.close(fd)
    found = [(get(d, "bpf.command"), get(d, "bpf.object.type"), get(d, "event.result"))
             for d in of(documents, "bpf-access")]
    assert found == [(34, 3, results[0]), (29, 3, results[1]), (9, 1, results[2]), (6, 1, results[3])]
    assert results[0] < 0 and results[1] < 0
    assert "This sensor's BPF programs or maps changed" in rules(documents)


def wait_tampered(sensor: Sensor, part: str, since: int) -> Document:
    """The sensor's own word that a part was changed."""
    before = sensor.total("sensor_tampered_total", part=part)

    def said() -> list[Document]:
        return [d for d in sensor.documents()[since:] if get(d, "sensor.state") == "tampered"
                and get(d, "event.kind") != "alert"]

    found: list[Document] = host.wait_until(said, 60, "the sensor finds out")
    assert sensor.total("sensor_tampered_total", part=part) >= before
    assert [d for d in alerts(sensor.documents()[since:])
            if get(d, "rule.name") == "This sensor found itself tampered with"]
    return found[0]


@pytest.mark.hostile("root-tampers")
def test_a_handler_taken_out_of_its_array_is_told_and_put_back(own: Sensor) -> None:
    """Without it the call would be invisible; ten seconds later it is seen again."""
    table = opened(14, named_map(own, "sensor_native"))
    since = len(own.documents())
    _, documents = seen(own, lambda: bpf.map_delete(table, struct.pack("<I", 319)))  # memfd_create
    os.close(table)
    [d] = of(documents, "bpf-access")
    assert (get(d, "bpf.command"), get(d, "bpf.object.name"), get(d, "event.result")) == (3, "sensor_native", 0)
    assert "on_memfd_create" in get(wait_tampered(own, "handlers", since), "message")
    _, documents = seen(own, lambda: os.close(os.memfd_create("visible")))
    assert [get(d, "file.name") for d in of(documents, "memfd-create")] == ["visible"]


@pytest.mark.hostile("root-tampers")
def test_whoever_makes_itself_the_engine_is_told_and_undone(own: Sensor) -> None:
    """What the probes leave out as the sensor's own is a number in a map: changing it is seen all the same."""
    settings = opened(14, named_map(own, "sensor_settings"))
    own.watch(lambda: None)
    since = len(own.documents())
    bpf.map_update(settings, struct.pack("<I", 1), struct.pack("<Q", os.getpid()))
    assert str(os.getpid()) in get(wait_tampered(own, "settings", since), "message")
    [d] = [d for d in of(own.documents()[since:], "bpf-access") if get(d, "process.pid") == os.getpid()]
    assert (get(d, "bpf.command"), get(d, "bpf.object.name")) == (2, "sensor_settings")
    assert struct.unpack("<Q", bpf.map_lookup(settings, struct.pack("<I", 1), 8)) == (own.engine(),)
    os.close(settings)
    owner = opened(14, named_map(own, "sensor_owner"))
    with pytest.raises(PermissionError):
        bpf.map_update(owner, struct.pack("<I", 0), struct.pack("<Q", os.getpid()))
    os.close(owner)


def test_the_loaders_number_is_nobodys_after_the_load(own: Sensor) -> None:
    """A process that gets it next would be taken for the sensor."""
    settings = opened(14, named_map(own, "sensor_settings"))
    assert struct.unpack("<Q", bpf.map_lookup(settings, struct.pack("<I", 2), 8)) == ((1 << 64) - 1,)
    os.close(settings)


def test_foreign_programs_of_every_tracing_kind_raise_an_alert(own: Sensor) -> None:
    """A raw tracepoint program that this test loads."""
    _, documents = seen(own, lambda: os.close(bpf.program_load(17, RETURN_0, "foreign")))
    [d] = of(documents, "bpf-load")
    assert get(d, "bpf.program.name") == "foreign"
    assert "Tracing BPF program loaded by an unusual program" in rules(documents)


_PLACES = """
mount -t tmpfs none /etc && mkdir /etc/sensor && : > /etc/sensor/sensor.yaml && chmod 600 /etc/sensor/sensor.yaml
mv /etc/sensor/sensor.yaml /etc/away && mv /etc/sensor /etc/gone
mkdir /etc/sensor && : > /etc/sensor/a && rm /etc/sensor/a && rmdir /etc/sensor
mount -t tmpfs none /sys/kernel && mkdir /sys/kernel/tracing && : > /sys/kernel/tracing/kprobe_events
mount -t tmpfs none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/system.slice/sensor.service
echo 1 > /sys/fs/cgroup/system.slice/sensor.service/cgroup.freeze
"""


def test_files_of_the_sensor_and_of_the_tracer_are_guarded_by_name(own: Sensor) -> None:
    """In a mount namespace of its own, so that no host's file is touched: the paths are what counts."""
    _, documents = own.watch(lambda: subprocess.run(["unshare", "--mount", "sh", "-e", "-c", _PLACES], check=True))
    assert {"This sensor's configuration, rules, programs or state changed", "This sensor's files deleted",
            "This sensor's files moved away", "Mode or owner of this sensor's files changed",
            "Kernel's tracing files written",
            "This sensor frozen, killed or starved through its cgroup"} <= rules(documents)


def test_what_the_sensor_does_itself_is_no_tampering(own: Sensor) -> None:
    """Its own statistics, checks and repairs make none of these events."""
    time.sleep(12)
    mine = {own.pid, own.engine()}
    assert not [d for d in own.documents() if action(d) in ("bpf-access", "process-signal")
                and get(d, "process.pid") in mine]
