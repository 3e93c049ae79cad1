"""A release like that of July 2024: signed, sound in every check, and it kills the engine at the third event.

The supervisor, the children, the store and the check are the real ones; only the ring is a file and the
bug in the matcher is one of the test (content_engine.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.content import state as states
from sensor.content import store
from sensor.errors import UsageError
from sensor.supervisor import BACKOFF_SECONDS
from tests.unit.content_engine import DEADLY
from tests.unit.content_helpers import PUBLIC, SETTINGS, event, release, source

SLOW = 120.0  # a host under load is no fault of the code
UNSEEN_SECONDS = 10.0


class Fleet:
    """One host: a supervisor, its engines, and what they write down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent = folder, 0
        (folder / "events").touch()
        (folder / "sensor.yaml").write_text(f"content:\n  keys: ['{PUBLIC}']\n  hold: 3600\n")
        self.store = str(folder / "store")
        self.good = self._stage("good", 1, 1, None)
        for _ in range(3):
            self.promote()
        self.process: subprocess.Popen[str] | None = None
        self.times: dict[int, float] = {}

    def _stage(self, word: str, number: int, version: int, rule: str | None) -> str:
        folder = source(self.folder / word, word, number)
        if rule is not None:
            for name in ("rules/one.yml", "golden/expect.yaml"):
                text = (folder / name).read_text().replace(f"00000000-0000-4000-8000-{number:012d}", rule)
                (folder / name).write_text(text)
        self.archive = release(folder, self.folder / f"{word}.tar.zst", version)
        return store.stage(str(self.archive), self.store, SETTINGS, {})[0].id

    def stage_deadly(self) -> str:
        return self._stage("deadly", 2, 2, DEADLY)

    def promote(self) -> None:
        with states.changing(self.store) as state:
            states.promote(state, time.time())

    def start(self) -> None:
        code = "from tests.unit.content_engine import supervise; supervise()"
        with (self.folder / "stderr").open("a") as stderr:
            self.process = subprocess.Popen([sys.executable, "-c", code, str(self.folder)], text=True, stderr=stderr)

    def act(self, line: str) -> None:
        self.sent += 1
        with (self.folder / "events").open("a") as file:
            file.write(json.dumps(event(self.sent, line)) + "\n")
        self.times[self.sent] = time.monotonic()

    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def until(self, what: str, found: Callable[[], Any], busy: bool = True) -> None:
        """Wait, with an exec every now and then."""
        end = time.monotonic() + SLOW
        while not found():
            assert time.monotonic() < end, f"{what}\n{(self.folder / 'stderr').read_text()}\n{self.log()[-20:]}"
            if busy:
                self.act("good")
            time.sleep(0.1)

    def starts(self) -> list[dict[str, Any]]:
        return [line for line in self.log() if "start" in line]

    def seen(self) -> dict[int, dict[str, Any]]:
        return {line["seen"]: line for line in self.log() if "seen" in line}

    def verdict(self, line: str) -> list[str]:
        """What an exec of now comes to. Rules that are told of are not yet those that run: a child reads them first."""
        self.act(line)
        number = self.sent
        self.until("the exec is seen", lambda: number in self.seen(), busy=False)
        return list(self.seen()[number]["alerts"])

    def latency(self) -> float:
        """The longest time from an exec to its verdict, in seconds."""
        return max(line["at"] - self.times[number] for number, line in self.seen().items())

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    try:
        yield made
    finally:
        if made.process is not None:
            with contextlib.suppress(ProcessLookupError):
                made.process.kill()
            made.process.wait()


@pytest.mark.parametrize("promotions", [0, 1, 2], ids=["shadow", "canary", "active"])
@pytest.mark.contract("content-5")
@pytest.mark.hostile("hostile-content")
def test_the_deadly_release_is_gone_within_two_restarts_and_never_tried_again(fleet: Fleet, promotions: int) -> None:
    """Whatever stage it had got to; no exec goes unseen for long, and the daemon lives on."""
    fleet.start()
    fleet.until("the first engine sees events", lambda: len(fleet.seen()) >= 2)
    usual = fleet.latency()  # of a start on this host, in its state of today
    deadly = fleet.stage_deadly()
    for _ in range(promotions):
        fleet.promote()

    def taken_back() -> bool:
        return deadly in states.read(fleet.store).bad

    fleet.until("the release is taken back", taken_back)
    count = len(fleet.seen())
    fleet.until("an engine goes on with the good release", lambda: len(fleet.seen()) > count + 5)
    state = states.read(fleet.store)
    assert (state.running, state.trial, state.bad) == (fleet.good, None, {deadly: "crash"})
    assert state.rollbacks == {"crash": 1}
    tried = [line["start"] for line in fleet.starts()]
    assert len(tried) == 3, "the engine that was given it, one restart with it, one without"
    assert 2 not in tried[-1]
    assert tried[-1] == [1, None]

    def told() -> bool:
        return any(line["content"][1:5] == ["rolled_back", deadly, "active", "crash"] for line in fleet.log()
                   if "content" in line)

    fleet.until("the rollback is an event", told)

    with pytest.raises(UsageError, match="not tried again"):
        store.stage(str(fleet.archive), fleet.store, SETTINGS, {})
    assert fleet.process is not None
    assert fleet.process.poll() is None, "the daemon does not end because of content"
    last = fleet.sent
    fleet.until("every exec is seen", lambda: last in fleet.seen(), busy=False)
    seen = fleet.seen()
    assert set(seen) >= set(range(1, last + 1))
    assert seen[last]["alerts"] == ["Finds good"]
    if promotions == 0:
        assert all(line["alerts"] == ["Finds good"] for line in seen.values()), "shadow disturbs nothing"
    print(f"longest time from exec to verdict: {fleet.latency():.1f} s, at a start {usual:.1f} s")
    assert sum(BACKOFF_SECONDS[:2]) < UNSEEN_SECONDS / 2, "what the supervisor waits, of its own will"
    if os.getloadavg()[0] < (os.cpu_count() or 1):  # a starved host says nothing about the code
        assert fleet.latency() < UNSEEN_SECONDS
    assert fleet.stop() == 0


def test_a_release_that_is_healthy_is_taken_on_without_a_restart(fleet: Fleet) -> None:
    """Staged while the engine runs, then promoted to canary: its alerts come, from the same engine."""
    fleet.start()
    fleet.until("the first engine sees events", lambda: len(fleet.seen()) >= 2)
    fleet._stage("fine", 3, 2, None)
    fleet.act("fine")
    fleet.until("the stage is told", lambda: any(line.get("content", [0, 0])[1] == "staged" for line in fleet.log()
                                                 if line.get("content", [0])[0] == 2))
    fleet.promote()
    fleet.until("the canary stage is told",
                lambda: any(line.get("content", [0, 0, 0, 0])[3] == "canary" for line in fleet.log()
                            if line.get("content", [0])[0] == 2))
    fleet.until("its alerts come", lambda: fleet.verdict("fine") == ["Finds fine"], busy=False)
    assert len(fleet.starts()) == 1
    with states.changing(fleet.store) as state:
        states.rollback(state, "operator", time.time())
    fleet.until("the rollback is told",
                lambda: any(line.get("content", [0, 0])[1] == "rolled_back" for line in fleet.log()))
    fleet.until("they come no more", lambda: fleet.verdict("fine") == [], busy=False)
    assert len(fleet.starts()) == 1
    assert fleet.stop() == 0
