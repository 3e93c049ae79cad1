"""sensor status and top: two readings of a sensor, the document and the page made of them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sensor import cli, guard, http, monitor
from sensor.cli.statuspage import page
from sensor.controlsocket import STATUS, Request
from sensor.kernel.plan import Plan
from sensor.metrics import Metrics, Snapshot
from sensor.monitor import Reading
from sensor.oversight import Oversight
from sensor.supervisor import Supervisor

PROGRAMS = [{"family": family, "event": event, "program": program, "target": target, "kind": kind, "id": number,
             "tag": f"{number:016x}", "alternative": kind, "instructions": 10, "verified": 20}
            for number, (family, event, program, target, kind) in enumerate([
                ("process", "process_exec", "on_exec", "sched_process_exec", "raw_tracepoint"),
                ("process", "process_exit", "on_exit", "sched_process_exit", "raw_tracepoint"),
                ("file", "file_rename", "on_rename", "security_path_rename", "fentry"),
                ("file", "file_link", "on_rename", "security_path_rename", "fentry")], 1)]
PROGRAMS[3]["id"] = 3  # one program that carries two events


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """With a load that the kernel knows nothing of."""
    oversight = Oversight(tmp_path, lambda _line: None, boot="boot", root=tmp_path)
    oversight.begin()
    made = Supervisor(["{}"], None, [], lambda _line: None, oversight, stay=True)
    made._plan = Plan((4096, 4096), ("process", "file"), 32 << 20, 2)
    made._load.programs, made._load.done = list(PROGRAMS), True
    yield made
    made._selector.close()


def told(made: Supervisor) -> dict[str, Any]:
    """The answer as it comes out of the socket."""
    answer = json.loads(json.dumps(made._answer(Request(STATUS))))
    assert isinstance(answer, dict)
    return answer


def test_mode_is_full_where_everything_is_loaded(supervisor: Supervisor) -> None:
    answer = told(supervisor)
    assert (answer["mode"], answer["reason"]) == ("full", "")
    assert answer["pid"] == os.getpid()
    assert answer["engine"] is None


def test_mode_is_reduced_with_the_probes_that_are_missing(supervisor: Supervisor) -> None:
    supervisor._load.failures.append({"program": "on_mount", "target": "x", "reason": "no BTF" * 1000})
    answer = told(supervisor)
    assert answer["mode"] == "reduced"
    assert "on_mount" in answer["reason"]
    assert len(answer["failures"][0]["reason"]) == 300


def test_mode_is_reduced_while_the_breaker_has_switched_probes_off(supervisor: Supervisor) -> None:
    """As the metric has it; the program that only calls the others has no name of its own there."""
    supervisor._load.shed = frozenset({"syscall", "path", "file"})
    answer = told(supervisor)
    assert (answer["mode"], answer["reason"]) == ("reduced", "switched off by the breaker: file, path")
    supervisor._load.shed = frozenset({"syscall"})  # nobody is behind it
    assert told(supervisor)["mode"] == "full"


def test_mode_is_passive_with_reason_and_fix(supervisor: Supervisor) -> None:
    supervisor._load.take({"kind": "fatal", "lack": "btf", "reason": "no BTF", "fix": "another kernel"}, [])
    answer = told(supervisor)
    assert (answer["mode"], answer["reason"], answer["lack"], answer["fix"]) == (
        "passive", "no BTF", "btf", "another kernel")


def test_mode_is_minimal_after_a_boot_that_ended_badly(supervisor: Supervisor, tmp_path: Path) -> None:
    left = guard.Armed("old-boot", "6.1", 7, 1.7e9, "full", "0")
    guard.Store(tmp_path).change(lambda state: replace(state, armed=(left,)))
    supervisor._oversight.begin()
    supervisor._oversight.arm()
    answer = told(supervisor)
    assert answer["mode"] == "minimal"
    assert "ended badly" in answer["reason"]
    assert answer["guard"]["strikes"] == 1 and answer["guard"]["armed"]


def test_an_answer_of_the_largest_load_fits_its_packet(supervisor: Supervisor) -> None:
    """More programs and failures than any load has, with long texts."""
    supervisor._load.programs = [{**PROGRAMS[0], "id": number, "target": "t" * 60} for number in range(600)]
    supervisor._load.failures = [{"program": "p" * 60, "target": "t" * 60, "reason": "r" * 9000}] * 600
    assert len(json.dumps(told(supervisor))) < 200_000


# --- what is made of two readings -----------------------------------------------------------------


def reading(supervisor: Supervisor, seconds: float, run_ns: int | None, runs: int | None, received: int,
            lost: int) -> Reading:
    facts = told(supervisor)
    facts["time_ns"] = int(seconds * 1e9)
    facts["engine"] = {"pid": 77, "uptime_seconds": seconds, "restarts": 1, "serving": True, "events": received}
    facts["programs"] = [{**row, "run_ns": run_ns, "runs": runs, "missed": 0} for row in facts["programs"]]
    samples = {
        "sensor_events_received_total": {(("type", "process_exec"),): float(received), (("type", "file_open"),): 0.0},
        "sensor_events_lost_total": {(("reason", "full"), ("stage", "kernel_ringbuf"), ("type", "x")): float(lost),
                                     (("reason", "abi"), ("stage", "decode"), ("type", "all")): 0.0},
        "sensor_rules_loaded": {(("state", "loaded"),): 200.0, (("state", "refused"),): 1.0},
        "sensor_drills_total": {(("drill", "guard"), ("result", "ok")): 2.0},
        "sensor_events_emitted_total": {(("type", "x"),): float("nan")},
    }
    return Reading(seconds, facts, "127.0.0.1:1", samples, {77: (50 << 20, seconds / 10)})


def test_rates_are_what_happened_between_the_readings(supervisor: Supervisor) -> None:
    """Two seconds apart."""
    before = reading(supervisor, 100.0, 1_000_000, 1000, 500, 0)
    now = reading(supervisor, 102.0, 5_000_000, 3000, 1500, 4)
    document = monitor.summary(before, now)
    assert document["events"]["received"] == 1500
    assert document["events"]["per_second"]["received"] == 500
    assert document["events"]["lost_by"] == {"full kernel_ringbuf": 4}
    assert document["events"]["by_type"] == {"process_exec": {"received": 1500, "per_second": 500}}
    program = document["programs"][0]
    assert (program["ns_per_run"], program["runs_per_second"], program["cpu_percent"]) == (1666.7, 1000, 0.2)
    assert len(document["programs"]) == 3  # on_rename carries two events and is one program
    assert document["kernel"]["cpu_percent"] == 0.6
    assert document["engine"]["rss_bytes"] == 50 << 20 and document["engine"]["cpu_percent"] == 10.0
    assert document["rules"] == {"loaded": 200, "refused": 1}
    assert document["drills"] == {"guard ok": 2}
    assert [(row["family"], row["hook"], row["attached"], row["events"]) for row in document["probes"]] == [
        ("file", "fentry", 1, ["file_link", "file_rename"]),
        ("process", "raw_tracepoint", 2, ["process_exec", "process_exit"])]


def test_without_metrics_the_heartbeat_gives_the_events(supervisor: Supervisor) -> None:
    """And what nobody knows is null, not 0."""
    before, now = (replace(reading(supervisor, at, None, None, events, 0), samples={}, address="", usage={})
                   for at, events in ((1.0, 10), (2.0, 30)))
    document = monitor.summary(before, now)
    assert document["events"]["received"] == 30
    assert document["events"]["per_second"] == {"received": 20}
    assert document["events"]["lost"] is None
    assert document["metrics"] is None and document["rules"] is None
    assert document["programs"][0]["ns_per_run"] is None


def test_an_engine_that_began_anew_has_no_negative_rates(supervisor: Supervisor) -> None:
    """Its counters begin at 0 again."""
    document = monitor.summary(reading(supervisor, 1.0, 0, 0, 900, 9), reading(supervisor, 2.0, 0, 0, 5, 0))
    assert document["events"]["per_second"] == {"received": 0, "lost": 0}


def test_the_page_shows_it_and_is_safe_for_a_terminal(supervisor: Supervisor) -> None:
    """What a name may hold reaches nobody raw."""
    supervisor._load.failures.append({"program": "on_x\x1b[2J", "target": "y", "reason": "z\u202e"})
    document = monitor.summary(reading(supervisor, 1.0, 0, 0, 0, 0), reading(supervisor, 2.0, 2_000_000, 1000, 1234, 7))
    console = Console(width=120, record=True, file=open(os.devnull, "w"), highlight=False)  # noqa: SIM115
    with console.file:
        console.print(page(document))
    text = console.export_text()
    assert "\x1b" not in text and "\u202e" not in text
    for part in ("reduced", "1,234", "7 (full kernel_ringbuf 7)", "on_exec", "raw_tracepoint",
                 "200 loaded", "2,000.00", "50.0 MiB", "0 strikes"):
        assert part in text


# --- the engine's metrics -------------------------------------------------------------------------


def test_metrics_are_found_by_the_port_that_a_process_listens_on() -> None:
    """Whatever the settings say; and are read."""
    snapshot = Snapshot(rules_loaded={"loaded": 7})
    server = http.serve("127.0.0.1:0", Metrics(lambda: snapshot), lambda: "", lambda: "")
    try:
        assert server.address in monitor.listening(os.getpid())
        samples = monitor.scrape(*server.address)
    finally:
        server.close()
    assert samples["sensor_rules_loaded"][("state", "loaded"),] == 7
    assert monitor.listening(0) == []
    assert monitor.scrape(*server.address) == {}


@pytest.mark.parametrize("reply", [b"nonsense\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n" + b"}{ x\n", b"",
                                   b"HTTP/1.0 200 OK\r\n\r\n" + b"x 1\n" * (2 << 20), b"HTTP/1.0 503 No\r\n\r\nx 1\n"])
def test_an_endpoint_that_answers_badly_gives_nothing(reply: bytes) -> None:
    """Nonsense, too much, an error, the end: no metrics and no traceback."""
    import threading

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            try:
                connection.sendall(reply)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        assert monitor.scrape(*listener.getsockname()) == {}
        thread.join()


# --- the commands ---------------------------------------------------------------------------------


def test_commands_print_the_readings(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    """JSON, a page, and as many pages as were asked for where there is no terminal."""
    at = iter(range(100))
    monkeypatch.setattr(monitor, "read", lambda _command: reading(supervisor, float(next(at)), 0, 0, next(at), 0))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert cli.call(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mode"] == "full"
    assert cli.call(["status"]) == 0
    assert "mode" in capsys.readouterr().out
    assert cli.call(["top", "--count", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("PROGRAM") == 3
    assert "\x1b" not in out


@pytest.mark.parametrize("name", ["status", "top"])
def test_without_a_sensor_the_status_is_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str], name: str) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert cli.call([name]) == 3
    assert "sudo systemctl start sensor" in capsys.readouterr().err
