"""Wrong usage, and hosts that lack something: a clear message, the documented status, nothing left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.live.harness import Sensor, Workloads, command, environment, run_command
from tests.live.host import no_stray_programs, program_ids, wait_until

NOBODY = 65534


def _config(directory: Path, text: str = "") -> Path:
    path = directory / "sensor.yaml"
    path.write_text(f"# Settings of a test;\n# what matters comes below.\n{text}")
    return path


def test_metrics_port_in_use_is_said_and_ends_with_2(tmp_path: Path) -> None:
    """The message names the address; no program is left in the kernel."""
    before = set(program_ids())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_command(
            "run", "-c", _config(tmp_path), "-o", tmp_path / "out", "--metrics", address, "--duration", "20"
        )
    assert done.returncode == 2, done.stderr
    assert address in done.stderr
    assert "Traceback" not in done.stderr
    assert no_stray_programs(before)


@pytest.mark.parametrize("subcommand", ["run", "record"])
def test_without_root_ends_with_3_and_says_how_to_get_it(tmp_path: Path, subcommand: str) -> None:
    """An ordinary user learns what is missing and which command helps."""
    config = _config(tmp_path)
    for path in (config, tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055 | (0o004 if path.is_file() else 0))
    more = ["-o", "-"] if subcommand == "run" else ["out.jsonl"]
    done = run_command(subcommand, *more, "-c", config, "--duration", "5", user=NOBODY)
    assert done.returncode == 3, (done.returncode, done.stderr)
    assert "root" in done.stderr
    assert "sudo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("limits:\n  ring_kb: 64\n", 4, "ring_kib"),
        ("rule: {}\n", 3, "rule"),
        ("limits:\n  ring_kib: 65\n", 4, "power of two"),
        ("metrics: [\n", 3, ""),
    ],
)
def test_wrong_settings_end_with_2_and_name_file_and_line(tmp_path: Path, text: str, line: int, hint: str) -> None:
    """Unknown keys with a suggestion, values out of range, broken YAML."""
    config = _config(tmp_path, text)
    done = run_command("run", "-c", config, "-o", tmp_path / "out", "--duration", "5")
    assert done.returncode == 2, done.stderr
    assert re.search(rf"{re.escape(str(config))}:({line}|{line + 1})\b", done.stderr), done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_rules_end_with_2(tmp_path: Path) -> None:
    """A path given by hand that does not exist is no empty rule set."""
    done = run_command(
        "run",
        "-c",
        _config(tmp_path),
        "--rules",
        tmp_path / "none",
        "--duration",
        "5",
        "-o",
        tmp_path / "out",
        "--metrics",
        "off",
    )
    assert done.returncode == 2, done.stderr
    assert str(tmp_path / "none") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.hostile("full-disk")
def test_output_that_is_full_is_counted_and_the_daemon_goes_on(tmp_path: Path) -> None:
    """/dev/full refuses every write: metrics count it, the sensor stays ready and stops cleanly."""
    with Sensor(tmp_path / "sensor", output="/dev/full") as sensor:

        def errors() -> float:
            subprocess.run(["/bin/true", "full"], check=True)
            return sensor.total("sensor_output_errors_total")

        assert wait_until(errors, 10, "output errors in the metrics", 0.2) > 0
        received = sensor.total("sensor_events_received_total")
        subprocess.run(["/bin/true", "full"], check=True)
        wait_until(lambda: sensor.total("sensor_events_received_total") > received, 10, "events still received")
        assert sensor.total("sensor_output_dropped_total") > 0
        assert sensor.probe("/-/ready")[0] == 200
        engine = sensor.engine()
        sensor.stop()
        assert not Path(f"/proc/{engine}").exists()
    assert "Traceback" not in sensor.stderr()


@pytest.mark.hostile("delimiters")
def test_hostile_bytes_never_reach_a_terminal_raw(tmp_path: Path, workloads: Workloads) -> None:
    """The table on a terminal shows hostile arguments and file names, but no byte of theirs controls it."""
    place = tmp_path.resolve() / "place"
    place.mkdir()
    main, side = pty.openpty()
    sensor = Sensor(tmp_path / "sensor")
    arguments = ["table" if argument == str(sensor.output) else argument for argument in sensor.arguments]
    with (tmp_path / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            arguments,
            stdin=side,
            stdout=side,
            stderr=errors,
            cwd="/",
            env={**environment(), "TERM": "xterm", "COLUMNS": "400"},
        )
    sensor.process = process
    os.close(side)
    os.set_blocking(main, False)
    shown = bytearray()

    def drain() -> bool:
        try:
            while block := os.read(main, 1 << 16):
                shown.extend(block)
        except (BlockingIOError, OSError):
            return True
        return True

    try:
        end = time.monotonic() + 60
        while sensor.probe("/-/ready")[0] != 200:
            drain()
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        script = place / "tool"
        script.write_bytes(b"#!/bin/sh\n")
        script.chmod(0o755)
        hostile = [
            b"\x1b[31mred\x1b[0m",
            b"\x1b]0;title\x07",
            b"\xff\xfe",
            b"\x9b2J",
            b"a\rb\nc\bd",
            "\u202eltr".encode(),
        ]
        subprocess.run([os.fsencode(script), b"hostile-argument", *hostile], check=True)
        (place / os.fsdecode(b"hostile-name-\x1b[2J\xff\n")).write_text("x")
        wait_until(
            lambda: drain() and b"hostile-argument" in shown and b"hostile-name-" in shown,
            10,
            "both shown",
            0.1,
        )
        process.terminate()
        # A table that nobody reads would hold the engine up.
        wait_until(lambda: drain() and process.poll() is not None, 20, "the end")
        assert process.returncode == 0, (tmp_path / "stderr").read_text()
    finally:
        sensor.kill()
        os.close(main)
    text = shown.decode("utf-8")  # strict: no invalid byte either
    for raw in ("\x1b[31m", "\x1b]0;", "\x1b[2J", "\x07", "\x9b", "\b", "\u202e", "a\rb"):
        assert raw not in text, repr(raw)
    assert not re.search("\x1b(?!\\[[0-9;]*m)", text)


def test_duration_ends_by_itself_with_a_summary(tmp_path: Path) -> None:
    """--duration stops cleanly; stderr has the numbers."""
    before = set(program_ids())
    done = subprocess.run(
        command("run", "-c", _config(tmp_path), "-o", tmp_path / "out", "--metrics", "off", "--duration", "2"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(),
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stderr.strip().splitlines()[-1].removeprefix("sensor: "))
    assert summary["emitted"] == summary["received"] + summary["lost"]
    assert summary["received"] >= 2  # the loader's own children
    assert summary["lost"] == 0
    assert no_stray_programs(before)
