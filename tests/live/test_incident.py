"""A release like that of July 2024, on a sensor that runs: signed, sound in every check, deadly at its third event.

What test_content_incident.py shows with an engine of the test, here with the probes, the rings and the engine itself;
only the bug in the matcher is one of the test (deadly.py).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from sensor.content import state as states
from sensor.content.keeper import POLL_SECONDS
from tests.live.deadly import DEADLY
from tests.live.harness import Document, Sensor, action, command, get
from tests.live.host import wait_until
from tests.unit.content_helpers import PUBLIC, RULE, id_of, release, source

SLOW = 120.0  # a host under load is no fault of the code
UNSEEN_SECONDS = 10.0
PERIOD, MOST = 0.2, 2000
WORD = "/bin/true incident-*"
#: A mean of few events is no measure of a busy host.
SETTINGS = f"content:\n  keys: ['{PUBLIC}']\n  event_us: 1000000\n"


class Ticks:
    """`/bin/true incident-NUMBER` five times a second, and when each was started."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD) and len(self.times) < MOST:
            self.times.append(time.time())
            subprocess.run(["/bin/true", f"incident-{len(self.times) - 1}"], check=True)

    def __enter__(self) -> Ticks:  # noqa: PYI034  typing.Self is newer than the oldest Python
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Host(Sensor):
    """A sensor with the bug, a store of its own, and what it has said of each tick. *kind*: event or alert."""

    def __init__(self, directory: Path, kind: str) -> None:
        super().__init__(directory, settings=SETTINGS, events="all" if kind == "event" else "alerts")
        code = "from tests.live.deadly import supervise; supervise()"
        self.arguments = [sys.executable, "-c", code, *self.arguments[self.arguments.index("run"):]]
        self.state, self._kind, self._looked = directory / "state", kind, 0
        self.store = str(self.state / "content")
        self.state.mkdir(mode=0o755)
        self.seen: dict[int, list[tuple[float, float]]] = {}  # number of the tick -> time of the event, of its arrival

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "STATE_DIRECTORY": str(self.state)}

    def does(self, *words: object, status: int = 0) -> str:
        """What a command says; its status must be this one."""
        done = subprocess.run(command(*words), capture_output=True, text=True, timeout=SLOW, check=False, cwd="/",
                              env=self.environment())
        assert done.returncode == status, done
        return done.stdout + done.stderr

    def stage(self, archive: Path, *more: str, status: int = 0) -> str:
        return self.does("rules", "stage", "-c", self.directory / "sensor.yaml", *more, archive, status=status)

    def look(self) -> dict[int, list[tuple[float, float]]]:
        """``seen``, as of now."""
        now, documents = time.time(), self.documents()
        for document in documents[self._looked:]:
            if (number := _tick(document)) is not None and get(document, "event.kind") == self._kind:
                self.seen.setdefault(number, []).append((_time(document), now))
        self._looked = len(documents)
        return self.seen

    def until(self, check: Callable[[], Any], what: str) -> None:
        def looked() -> Any:
            self.look()
            return check()

        try:
            wait_until(looked, SLOW, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.condition()}") from error

    def told(self, what: str) -> list[Document]:
        """Events of the sensor itself."""
        return [document for document in self.documents() if action(document) == what]


def _tick(document: Document) -> int | None:
    args = get(document, "process.args", ())
    if action(document) == "process-exec" and len(args) == 2 and args[1].startswith("incident-"):
        return int(args[1].removeprefix("incident-"))
    return None


def _time(document: Document) -> float:
    return datetime.fromisoformat(document["@timestamp"][:26]).replace(tzinfo=timezone.utc).timestamp()


@pytest.fixture
def folder() -> Iterator[Path]:
    """The engine, which is nobody, reads its state there: not below pytest's own directory."""
    made = Path(tempfile.mkdtemp(prefix="sensor-incident-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def _releases(folder: Path) -> tuple[Path, Path]:
    """A good one that alerts on each tick, and the same with one rule more."""
    good = release(source(folder / "good", WORD, 1), folder / "good.tar.zst", 1)
    deadly = source(folder / "deadly", WORD, 1)
    more = RULE.format(title="Finds nothing", number=2, word="nothing").replace(f"{2:012d}", DEADLY[-12:])
    (deadly / "rules/two.yml").write_text(more)
    return good, release(deadly, folder / "deadly.tar.zst", 2)


@pytest.mark.parametrize(("promotions", "kind"), [(0, "alert"), (2, "event")], ids=["shadow", "active"])
@pytest.mark.contract("content-4", "content-5")
@pytest.mark.hostile("hostile-content")
def test_the_deadly_release_is_gone_within_two_restarts_and_every_exec_is_seen(
        folder: Path, promotions: int, kind: str) -> None:
    """Of an exec every 0.2 s none is missing; the release is named by event, metric and log, and not tried again."""
    good, deadly = _releases(folder)
    bad = id_of(deadly)
    host = Host(folder / "sensor", kind)
    host.stage(good)
    for _ in range(3):
        host.does("rules", "promote")
    with host:
        with Ticks() as ticks:
            host.until(lambda: len(host.seen) >= 5, "execs are seen")
            begun = len(ticks.times)
            assert "is in the stage shadow" in host.stage(deadly)
            for _ in range(promotions):
                host.does("rules", "promote")
            host.until(lambda: states.read(host.store).bad, "the release is taken back")
            gone = len(ticks.times)
            host.until(lambda: host.seen.keys() & range(gone, MOST), "an engine goes on without it")
            refused = host.stage(deadly, status=2)
            assert "was taken back before (crash) and is not tried again" in refused
            assert "is not tried again (crash)" in host.stage(deadly, "--if-new")
            time.sleep(2 * POLL_SECONDS)
        last = len(ticks.times) - 1
        host.until(lambda: last in host.seen, "the last exec is seen")
        _was_told(host, bad)
        _is_not_run(host, id_of(good), bad)
        host.stop()
        host.start().wait_ready()
        _is_not_run(host, id_of(good), bad)
        assert host.total("sensor_engine_restarts_total") == 0
    _was_watchful(host, ticks, begun, gone)


def _was_told(host: Host, bad: str) -> None:
    """By event, metric and log line; and there were two restarts, not one more."""
    host.until(lambda: any(get(d, "sensor.content.action") == "rolled_back" for d in host.told("sensor-content")),
               "the event")
    [event] = [d for d in host.told("sensor-content") if get(d, "sensor.content.action") == "rolled_back"]
    assert (get(event, "sensor.content.release"), get(event, "sensor.content.reason")) == (bad, "crash")
    assert "was taken back and is not tried again: crash" in event["message"]
    assert host.total("sensor_content_rollbacks_total", reason="crash") == 1
    assert host.total("sensor_content_rollbacks_total") == 1
    assert host.total("sensor_engine_restarts_total") == 2
    assert [get(d, "sensor.state") for d in host.told("sensor-state")].count("engine_restart") == 2
    assert not host.told("sensor-loss")
    log = host.stderr()
    assert re.findall(r"the engine ended by (.*); start (\d) again", log) == [("signal 11", "1"), ("signal 11", "2")]
    assert f"content: release {bad[:12]} is taken back (crash) and not tried again; running now: " in log


def _is_not_run(host: Host, good: str, bad: str) -> None:
    content = json.loads(host.does("status", "--json"))["content"]
    assert (content["release"], content["trial"], content["level"]) == (good, None, "configured")
    assert states.read(host.store).bad == {bad: "crash"}


def _was_watchful(host: Host, ticks: Ticks, begun: int, gone: int) -> None:
    """Each exec is there, at the time when it was made; and none was told late."""
    missing = set(range(len(ticks.times))) - host.seen.keys()
    assert not missing, "the ring keeps what the dead engine has not written"
    first = [min(host.seen[number]) for number in sorted(host.seen)]
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(first)]
    late = [arrived - began for began, (_, arrived) in zip(ticks.times, first, strict=True)]
    off = [abs(at - began) for began, (at, _) in zip(ticks.times, first, strict=True)]
    twice = sum(len(times) - 1 for times in host.seen.values())
    print(f"{len(ticks.times)} execs, {gone - begun} of them while the release was there: all seen, {twice} twice; "
          f"longest gap {max(gaps):.2f} s, longest time from exec to document {max(late):.1f} s")
    assert max(gaps) < UNSEEN_SECONDS
    assert max(off) < UNSEEN_SECONDS
    if os.getloadavg()[0] < (os.cpu_count() or 1):  # a starved host says nothing about the code
        assert max(late) < UNSEEN_SECONDS
