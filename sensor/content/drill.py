"""A rollout that goes wrong, rehearsed: throw-away releases, a key and a store of their own; nothing of the real one.

What is run is what an operator and the supervisor run: pack, sign, stage, promote, two deaths of an engine, rollback.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sensor.config import Content
from sensor.content import archive, manifest, pack, signing, state, store
from sensor.content.keeper import Keeper
from sensor.errors import ContentError, SensorError, UsageError

_RULE = """\
title: Rehearsal {number}
id: 00000000-0000-4000-8000-00000000d{number:03d}
logsource: {{product: linux, category: process_creation}}
detection:
    selection: {{CommandLine: sensor-drill}}
    condition: selection
level: informational
"""
_SAMPLES = """\
positive:
  - {{event: process_exec, CommandLine: {word}}}
negative:
  - {{event: process_exec, CommandLine: another}}
"""
_EVENT = {"@timestamp": "2026-01-01T00:00:00.000000000Z",
          "event": {"id": "drill-1", "kind": "event", "action": "process-exec", "category": ["process"],
                    "type": ["start"], "dataset": "sensor.process_exec"},
          "process": {"pid": 1, "command_line": "sensor-drill", "executable": "/bin/true"}}
_DAY = 86400


class _Drill:
    def __init__(self, place: Path, said: Callable[[str], None]) -> None:
        self._place, self._said = place, said
        self._pem, public = signing.generate()
        self._store = str(place / "store")
        # What a busy host takes for an event is not what is rehearsed.
        self._settings = Content(keys=(public,), event_us=50_000)

    def release(self, version: int, word: str = "sensor-drill", changed: bytes = b"") -> Path:
        """A signed archive. With another *word* the rule fails its sample; *changed* comes in after the signature."""
        folder = self._place / f"source-{version}"
        for name in ("rules", "golden"):
            (folder / name).mkdir(parents=True)
        rule = f"00000000-0000-4000-8000-00000000d{version:03d}"
        (folder / "rules/one.yml").write_text(_RULE.format(number=version))
        (folder / "rules/one.samples.yml").write_text(_SAMPLES.format(word=word))
        (folder / "golden/day.jsonl").write_text(json.dumps(_EVENT) + "\n")
        (folder / "golden/expect.yaml").write_text(f"{rule}: 1\n")
        files = pack.make(str(folder), "drill", version, int(time.time()) + _DAY)
        line = signing.sign(files[manifest.NAME], self._pem)
        files["rules/one.yml"] += changed
        out = self._place / f"release-{version}.tar.zst"
        out.write_bytes(archive.write({**files, manifest.SIGNATURES: signing.added(b"", line)}))
        return out

    def stage(self, release: Path) -> str:
        """Id of a release that was taken. Raises ContentError, UsageError."""
        taken, _ = store.stage(str(release), self._store, self._settings, {})
        return taken.id

    def promote(self) -> None:
        with state.changing(self._store) as current:
            state.promote(current, time.time())

    def running(self) -> str | None:
        return state.read(self._store).running

    def refused(self, release: Path, good: str, what: str) -> None:
        """It must not be taken, and what runs must stay. Says so."""
        try:
            self.stage(release)
        except (ContentError, UsageError) as error:
            reason = str(error).replace(f"{self._place}/", "").splitlines()
            if self.running() != good:
                raise SensorError(f"{what} was refused, but the known good release does not run any more") from error
            self._said(f"{what} is refused: {' '.join(line.strip() for line in reason)[:200]}")
            return
        raise SensorError(f"{what} was taken")

    def run(self) -> str:
        good = self.stage(self.release(1))
        for _ in range(3):  # canary, active, known good
            self.promote()
        if self.running() != good:
            raise SensorError("a sound release does not run after three promotions")
        self._said(f"release 1 ({good[:12]}) is signed, checked, staged, promoted: the known good one")
        self.refused(self.release(2, "missed"), good, "release 2, whose rule misses its own sample,")
        self.refused(self.release(3, changed=b"# more\n"), good, "release 3, with a line added after it was signed,")
        return self.crashes(good)

    def crashes(self, good: str) -> str:
        """A sound release whose engine dies twice."""
        fourth = self.release(4)
        trial = self.stage(fourth)
        self.promote()
        if self.running() != trial:
            raise SensorError("a release in the stage canary does not run")
        keeper = Keeper(self._store, self._said, kill_file=str(self._place / "absent"))
        for _ in range(2):
            _close(keeper.begin()[1])
            keeper.died(stay=True)
        if self.running() != good:
            raise SensorError("after two deaths of the engine the release on trial still runs")
        self.refused(fourth, good, "release 4, a second time,")
        return (f"two releases were refused before they ran, and one was taken back after two deaths of its engine and "
                f"is not tried again; at the end the known good release runs ({good[:12]})")


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def rehearse(said: Callable[[str], None]) -> str:
    """Run it in a directory that is removed; *said* gets each step. Raises SensorError where a step goes wrong."""
    with tempfile.TemporaryDirectory(prefix="sensor-drill-") as place:
        try:
            return _Drill(Path(place), said).run()
        except OSError as error:
            raise SensorError(f"{error.filename or place}: {error.strerror}; make room in {tempfile.gettempdir()}") \
                from error
