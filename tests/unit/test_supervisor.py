"""What the supervisor makes of its children's messages, without children."""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor import children, control
from sensor.engine_child import ENGINE_SILENT_SECONDS, STARVED_MOST
from sensor.kernel.plan import Plan
from sensor.loading import LOAD_SECONDS
from sensor.oversight import Oversight
from sensor.supervisor import STATUS_HOST, STATUS_USAGE, Supervisor

PLAN = Plan((4096, 4096), ("process", "syscall", "file"), 32 << 20, 2)


def oversight(directory: Path) -> Oversight:
    """A boot guard with nothing behind it."""
    return Oversight(directory, lambda _message: None, boot="boot", root=directory)


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A supervisor that has asked its loader, whose engine and channels are absent."""
    made = Supervisor(["{}"], None, [], lambda _line: None, oversight(tmp_path), stay=False)
    monkeypatch.setattr(made, "_hand_over", lambda: None)
    made._plan = PLAN
    yield made
    canary = made._vigil._child
    made._vigil.end()
    if canary is not None:
        canary.wait()  # else it is missed in the middle of another test
    made._selector.close()


def finish(made: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the loader's channel, as the selector tells it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    made._loading._plan = PLAN
    made._loading._attend(ours)
    made._loading.receive()


def family(name: str) -> dict[str, object]:
    """A family's report."""
    return {"kind": "family", "name": name, "failures": [], "absent": [],
            "programs": [{"family": name, "event": "", "program": "on_x", "target": "x", "id": 1}]}


def test_a_late_load_keeps_the_families_that_are_there(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A time-out on an overloaded host costs the families that were not done, not all of them."""
    supervisor._load.take(family("process"), [])
    supervisor._loading.late()
    finish(supervisor, monkeypatch)
    assert supervisor._load.fatal is None
    assert [failure["program"] for failure in supervisor._load.failures] == ["syscall", "file"]
    assert "not loaded in time" in capsys.readouterr().err


def test_each_family_that_is_loaded_gives_the_next_one_its_time(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow host is no failed one: systemd is told to wait as well."""
    said: list[str] = []
    monkeypatch.setattr(supervisor._loading, "_notify", said.append)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor._loading._attend(ours)
    with ours, theirs:
        theirs.send(json.dumps(family("process")).encode())
        supervisor._after("load", 1.0)
        supervisor._loading.receive()
        assert supervisor._deadlines["load"] > time.monotonic() + LOAD_SECONDS - 60
        assert [line.partition("=")[0] for line in said] == ["EXTEND_TIMEOUT_USEC"]
        assert int(said[0].partition("=")[2]) > LOAD_SECONDS * 1e6


@pytest.mark.parametrize("late", [False, True])
def test_a_load_without_process_probes_ends_with_3(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """The process table is built from them: without them nothing else makes sense."""
    supervisor._load.take(family("file"), [])
    supervisor._loading._late = late
    finish(supervisor, monkeypatch)
    assert supervisor._status == STATUS_HOST
    assert supervisor._load.programs == []


def test_a_killed_loader_is_not_taken_for_a_slow_one(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a load that nobody timed out is refused whole."""
    supervisor._load.take(family("process"), [])
    finish(supervisor, monkeypatch)
    assert supervisor._status == STATUS_HOST


def test_a_plan_out_of_bounds_ends_with_2(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]) -> None:
    """What the engine asks for is checked; the message names the setting."""
    request = control.Request((4096, 3000), 32 << 20, ("process",))
    supervisor._on_plan(request.pack())
    assert supervisor._status == STATUS_USAGE
    assert "ring size" in capsys.readouterr().err


@pytest.mark.contract("panic-6a")
def test_passive_mode_stays_up_under_a_service_manager(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon without probes says why, and is no crash loop."""
    made = Supervisor(["{}"], None, [], lambda _line: None, oversight(tmp_path), stay=True)
    handed: list[bool] = []
    monkeypatch.setattr(made, "_hand_over", lambda: handed.append(True))
    made._plan = PLAN
    made._load.take({"kind": "fatal", "reason": "no BTF", "fix": "another kernel"}, [])
    finish(made, monkeypatch)
    assert handed == [True]
    assert made._status == 0
    assert "passive" in capsys.readouterr().err


def test_what_a_deadline_ends_is_due_no_more(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are due at once, and the first detaches the probes, which ends the watch over them."""
    monkeypatch.setattr(supervisor._oversight, "healthy", lambda: supervisor._deadlines.pop("search"))
    monkeypatch.setattr(supervisor._oversight, "end_search", lambda: pytest.fail("it was ended"))
    for name in ("guard", "search"):
        supervisor._after(name, 0.0)
    supervisor._due()
    assert supervisor._deadlines == {}


@pytest.mark.contract("panic-5b")
def test_descriptors_are_closed_when_the_load_is_let_go(supervisor: Supervisor) -> None:
    """Detaching is closing: none of the descriptors survives it."""
    read, write = os.pipe()
    supervisor._load.take({"kind": "maps", "names": ["counters"]}, [read])
    supervisor._load.keep([write])
    supervisor._detach()
    for fd in (read, write):
        assert not Path(f"/proc/self/fd/{fd}").exists()


def test_a_loader_without_a_directory_is_refused_with_the_reason(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No temporary directory is writable: status 3, no traceback."""
    def full(**_options: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sensor.loading.tempfile.mkdtemp", full)
    supervisor._start_loader()
    assert supervisor._status == STATUS_HOST
    assert "No space left on device" in capsys.readouterr().err


def test_descriptors_that_did_not_arrive_cost_the_whole_load(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Under a low limit of open files the kernel cuts the list: what is reported as attached would not be."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sent = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs:
        socket.send_fds(theirs, [b"{}"], sent)
        supervisor._loading._attend(ours)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(sent) + 4, limit[1]))
        try:
            supervisor._loading.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    for fd in sent:
        os.close(fd)
    assert supervisor._status == STATUS_HOST
    assert "too few descriptors" in capsys.readouterr().err


def test_an_engine_that_talks_too_much_is_dropped_counted_and_told_of_once(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Garbage and beats alike; what is dropped doesn't count as a sign of life."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor._engine.attend(ours)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.5)
    with ours, theirs:
        for number in range(control.REQUESTS_PER_SECOND + 30):
            theirs.send(control.beat(number) if number % 2 else b"garbage")
            supervisor._deadlines.pop("silent", None)
            supervisor._engine.receive()
        assert "silent" not in supervisor._deadlines
        assert supervisor._engine.dropped == 30
        said = capsys.readouterr().err
        assert said.count("requests a second") == 1
        assert said.count("malformed") == control.REQUESTS_PER_SECOND // 2
        monkeypatch.setattr(time, "monotonic", lambda: 1001.5)
        theirs.send(control.beat(1))
        supervisor._engine.receive()
        assert "silent" in supervisor._deadlines
        supervisor._engine.close()


@pytest.mark.hostile("kill")
def test_a_channel_that_was_let_go_of_in_the_same_turn_is_not_read(supervisor: Supervisor) -> None:
    """An engine is found dead by the signal, before the end of its channel is come to."""
    (ours, theirs), (read, write) = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), os.pipe()
    turns = []
    supervisor._engine.attend(ours)

    def found_dead() -> None:
        turns.append(os.read(read, 1))
        supervisor._engine.close()

    supervisor._selector.register(read, selectors.EVENT_READ, found_dead)
    supervisor._after("stop", 60.0)
    os.write(write, b"x")
    theirs.close()
    supervisor._turn()
    assert turns == [b"x"]
    assert not supervisor._engine.connected
    supervisor._selector.unregister(read)
    os.close(read)
    os.close(write)


class Killed:
    """An engine that notes its end."""

    pid = 1 << 30  # nobody's

    def __init__(self) -> None:
        self.times = 0

    def poll(self) -> int | None:
        return None

    def kill(self) -> None:
        self.times += 1


@pytest.mark.contract("panic-11")
@pytest.mark.hostile("stopped-sensor", "starvation")
def test_silence_ends_the_engine_unless_the_supervisor_was_away_itself(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, frozen or without a processor it could have heard nobody; then the engine has as long again."""
    engine = supervisor._engine.process = Killed()
    supervisor._deadlines = {"silent": 100.0}
    monkeypatch.setattr(time, "monotonic", lambda: 140.0)
    supervisor._due()
    assert engine.times == 0
    assert supervisor._deadlines == {"silent": 140.0 + ENGINE_SILENT_SECONDS}
    monkeypatch.setattr(time, "monotonic", lambda: 140.5 + ENGINE_SILENT_SECONDS)
    supervisor._due()
    assert engine.times == 1
    supervisor._engine.process = None


@pytest.mark.parametrize(("told", "status"), [(True, 0), (True, -9), (False, 0)])
def test_an_engine_that_was_told_to_begin_anew_is_followed_by_another_before_readiness_too(
        supervisor: Supervisor, capsys: pytest.CaptureFixture[str], told: bool, status: int) -> None:
    """All probes are detached between load and readiness: no reason to end. An engine that leaves by itself is one."""
    supervisor._engine.process = Killed()
    if told:
        supervisor._end_engine()
    supervisor._engine_ended(status)
    assert ("restart" in supervisor._deadlines) is told
    assert supervisor._stopping is not told
    assert told or supervisor._status == 1
    capsys.readouterr()


@pytest.mark.hostile("starvation")
def test_an_engine_that_waits_for_a_processor_is_left_to_go_on_for_a_while(
        supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Another would get none either. One that runs and says nothing, or that is stopped, is ended; so is a patience."""
    engine = supervisor._engine.process = Killed()
    spent = [0, 0]
    monkeypatch.setattr(children, "processor_ns", lambda _pid: tuple(spent))
    for number in range(STARVED_MOST):
        spent[1] += 29_000_000_000
        spent[0] += 100_000_000
        supervisor._engine_silent()
        assert "silent" in supervisor._deadlines, number
    assert engine.times == 0
    assert capsys.readouterr().err.count("wait for a processor for 29 s") == STARVED_MOST
    spent[1] += 29_000_000_000
    supervisor._engine_silent()
    assert engine.times == 1
    for ran, waited in ((0, 0), (20, 10), (14, 16)):
        supervisor._engine.lives()
        supervisor._expect()
        spent[0] += ran * 1_000_000_000
        spent[1] += waited * 1_000_000_000
        supervisor._engine_silent()
    assert engine.times == 4
    supervisor._engine.process = None


def test_the_time_that_a_process_has_waited_for_a_processor_is_the_kernels() -> None:
    """It has run for longer after a while; of nobody nothing is known."""
    ran, waited = children.processor_ns(os.getpid())
    while time.process_time_ns() < ran + 50_000_000:
        pass
    assert children.processor_ns(os.getpid()) > (ran, waited)
    assert children.processor_ns(1 << 30) == (0, 0)
