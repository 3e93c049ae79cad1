"""Live and replayed: the same events through the same rules give the same alerts."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.live.harness import (
    Document,
    Sensor,
    alerts,
    ask,
    command,
    environment,
    free_port,
    get,
    parse_line,
    run_command,
)
from tests.live.host import wait_until


def _intrude(place: Path) -> int:
    """A few things that the default rules know, under one shell whose pid is returned."""
    nginx = place / "nginx"
    shutil.copy("/bin/bash", nginx)
    dropped = Path("/dev/shm") / f"sensor-test-{uuid.uuid4().hex[:8]}"
    shutil.copy("/bin/true", dropped)
    try:
        server = subprocess.Popen(
            [nginx, "-c", f"sh -c 'cat /etc/shadow; id'; {dropped} x; true"], stdout=subprocess.DEVNULL
        )
        assert server.wait() == 0
    finally:
        dropped.unlink()
    return server.pid


def _below(documents: list[Document], pid: int) -> list[Document]:
    """Documents of a process and its descendants."""
    family = {get(d, "process.entity_id") for d in documents if get(d, "process.pid") == pid}
    for d in documents:
        if get(d, "process.parent.entity_id") in family:
            family.add(get(d, "process.entity_id"))
    return [d for d in documents if get(d, "process.entity_id") in family]


def test_output_of_a_live_run_replayed_gives_the_same_alerts(sensor: Sensor, place: Path, tmp_path: Path) -> None:
    """Event by event and rule by rule, for everything the shared sensor has seen."""
    sensor.watch(lambda: _intrude(place))
    with sensor.output.open("rb") as file:
        lines = file.read().split(b"\n")[:-1]
    recording = tmp_path / "live.jsonl"
    recording.write_bytes(b"".join(line + b"\n" for line in lines if get(json.loads(line), "event.kind") != "alert"))
    live = Counter((get(d, "event.id"), get(d, "rule.id")) for d in alerts(map(parse_line, lines)))
    assert live
    done = run_command("replay", recording, "--format", "jsonl", timeout=120)
    assert done.returncode == 0, done.stderr
    again = Counter((get(d, "event.id"), get(d, "rule.id")) for d in map(json.loads, done.stdout.splitlines()))
    assert again == live


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst", "parquet"])
def test_recording_replayed_gives_the_alerts_that_the_live_sensor_raised(
    sensor: Sensor, place: Path, tmp_path: Path, suffix: str
) -> None:
    """`sensor record` beside the running sensor; its replay raises what the running one raised."""
    out, config = tmp_path / f"recording.{suffix}", tmp_path / "sensor.yaml"
    config.write_text("# every key has its default\n")
    port = free_port()
    with (tmp_path / "stderr").open("wb") as errors:
        arguments = command("record", out, "-c", config, "--metrics", f"127.0.0.1:{port}")
        recorder = subprocess.Popen(arguments, stderr=errors, stdout=errors, cwd="/", env=environment())
    try:
        wait_until(lambda: ask(port, "/-/ready")[0] == 200 or recorder.poll() is not None, 60, "a ready recorder")
        assert recorder.poll() is None, (tmp_path / "stderr").read_text()
        pid, documents = sensor.watch(lambda: _intrude(place))
        time.sleep(0.5)
        recorder.send_signal(signal.SIGTERM)
        assert recorder.wait(30) == 0, (tmp_path / "stderr").read_text()
    finally:
        if recorder.poll() is None:
            recorder.kill()
            recorder.wait()
    live = Counter(
        (get(d, "rule.id"), get(d, "process.pid"), get(d, "event.action")) for d in alerts(_below(documents, pid))
    )
    assert len(live) >= 3
    done = run_command("replay", out, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    replayed = [json.loads(line) for line in done.stdout.splitlines()]
    again = Counter(
        (get(d, "rule.id"), get(d, "process.pid"), get(d, "event.action")) for d in alerts(_below(replayed, pid))
    )
    assert again == live
    summary = json.loads(done.stderr.strip().splitlines()[-1])
    assert summary["skipped"] == {} or set(summary["skipped"].values()) == {0}
    assert summary["events"] > 10
