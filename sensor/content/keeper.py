"""The supervisor's part of the rollout: which rules the next engine gets, and what its deaths mean.

Standard library only, and nothing of a release is opened but its directory. Two engines that die
within ten minutes take one step down the ladder: the release on trial is taken back, then the
built-in rules run alone, then none. The number of starts with a release on trial is on disk before
the start, so that a release which takes the whole host down is left before the third one too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from sensor import control
from sensor.content import state as states
from sensor.content.state import State
from sensor.errors import SensorError

DEATHS = 2  # within
DEATH_SECONDS = 600.0  # take one step
PROVEN_SECONDS = 60.0  # a release that an engine lives with for so long did not crash it
POLL_SECONDS = 2.0

#: Steps of the ladder below "as staged": what the engine gets.
CONFIGURED, BUILT_IN, OBSERVE = 0, 1, 2
LEVELS = ("configured", "built-in", "observe")


class Keeper:
    """One run of the supervisor.

    Args:
        store: Directory of releases; None where rules were named on the command line.
        say: Takes a line for the log.
        kill_file: Where this file is, no release runs.
    """

    def __init__(self, store: str | None, say: Callable[[str], None], kill_file: str = states.KILL_FILE,
                 monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._store, self._say, self._kill_file = store, say, kill_file
        self._monotonic, self._wall = monotonic, wall
        self._deaths: list[float] = []
        self._since = 0.0  # when the engine was started, or given other rules
        self._proven = False
        self._stamp: tuple[int, ...] | None = None
        self._level = CONFIGURED
        self._given: tuple[object, ...] = ()  # what the engine was told
        self._notices: list[dict[str, Any]] = []  # of the ladder, not yet handed to an engine
        self._state = State()
        self._refresh()

    # --- what the engine gets ---------------------------------------------------------------------

    def begin(self) -> tuple[str, list[int]]:
        """The selection for an engine that is about to be started, and the descriptors to close afterwards."""
        self._refresh()
        self._count_trial()
        return self._selection()

    def changed(self, *, force: bool = False) -> tuple[str, list[int]] | None:
        """The selection for the engine that runs, if it has changed or by *force*; to be called every POLL_SECONDS."""
        if not self._proven and self._monotonic() - self._since > PROVEN_SECONDS:
            self._proven = True
            if self._state.trials:
                self._change(lambda state: setattr(state, "trials", 0))
        if not self._refresh() and not force:
            return None
        if self._essence() == self._given:  # a release was refused, or one that nobody runs is gone
            return None
        self._level, self._deaths = CONFIGURED, []  # somebody has acted: everything gets another chance
        if self._state.trials == 0:  # else the engine that runs is counted already
            self._count_trial()
        return self._selection()

    def _essence(self) -> tuple[object, ...]:
        """What an engine has to be told of the state."""
        state = self._state
        return (state.running, state.staged, state.current, state.label, state.trial) if self._allowed() else ()

    def told(self) -> None:
        """The engine has what was selected last, and its notices."""
        self._notices.clear()
        if self._state.told != self._state.serial:
            self._change(lambda state: setattr(state, "told", state.serial))

    def stopped(self) -> None:
        """A clean stop is no failed trial."""
        if self._state.trials:
            self._change(lambda state: setattr(state, "trials", 0))

    def facts(self) -> dict[str, Any]:
        """Of what runs, for `sensor status`: ids of releases, None where it is the built-in or configured rules."""
        state = self._state
        running = state.running if self._allowed() and self._level == CONFIGURED else None
        return {"level": LEVELS[self._level], "release": running, "trial": state.trial, "stage": state.label,
                "version": state.releases.get(running or "", {}).get("version"),
                "rollbacks": sum(state.rollbacks.values())}

    def _selection(self) -> tuple[str, list[int]]:
        self._since, self._proven, self._given = self._monotonic(), False, self._essence()
        state, fds = self._state, list[int]()
        chosen: dict[str, Any] = {"level": LEVELS[self._level], "live": None, "other": None, "stage": "",
                                  "trial": False}
        if self._level == CONFIGURED and self._allowed():
            other = None
            if state.staged is not None:
                other = state.current if state.stage == states.CANARY else state.staged
            chosen |= {"live": self._open(state.running, fds), "other": self._open(other, fds),
                       "stage": state.label, "trial": state.trial is not None}
        entries = [entry for entry in state.journal if entry["serial"] > state.told]
        return json.dumps({**chosen, "rollbacks": state.rollbacks, "loads": state.loads, "changed": state.changed,
                           "notices": [*entries, *self._notices]}), fds

    def _open(self, release: str | None, fds: list[int]) -> dict[str, Any] | None:
        if release is None or self._store is None:
            return None
        path = os.path.join(self._store, states.RELEASES, release)
        try:
            fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            self._say(f"content: {path}: {error.strerror}; the rules before it run")
            return None
        return {**self._state.releases.get(release, {}), "id": release, "fd": fds[-1]}

    def _allowed(self) -> bool:
        return self._store is not None and not os.path.exists(self._kill_file)

    # --- what becomes of it -----------------------------------------------------------------------

    def died(self, *, stay: bool) -> bool:
        """An engine has crashed. Whether another one is worth a start even if none was ever ready.

        *stay*: also for rules that are no release.
        """
        now = self._monotonic()
        self._deaths = [*(at for at in self._deaths if now - at < DEATH_SECONDS), now]
        self._refresh()
        trial = self._level == CONFIGURED and self._allowed() and self._state.trial is not None
        if len(self._deaths) < DEATHS and not (trial and self._state.trials >= states.TRIALS):
            return trial or stay
        self._deaths = []
        if trial:
            self.rollback("crash")
            return True
        if self._level == OBSERVE:
            return False
        self._level += 1
        self._notices.append({"action": "stepped_down", "release": LEVELS[self._level], "version": 0, "stage": "",
                              "reason": "crash"})
        self._say(f"content: the engine died twice in ten minutes; next it gets: {LEVELS[self._level]} rules")
        return stay

    def rollback(self, reason: str, release: str | None = None) -> None:
        """Take back a release; default: what is on trial. Only a name changes; no file of it is opened."""
        left = release or self._state.trial
        if left is None:
            return

        def take_back(state: State) -> None:
            if left in (state.staged, state.current):
                states.rollback(state, reason, self._wall(), left)

        self._change(take_back)
        self._say(f"content: release {left[:12]} is taken back ({reason}) and not tried again; "
                  f"running now: {(self._state.running or 'the built-in rules')[:12]}")

    def verdict(self, data: bytes) -> bool:
        """What the engine thinks of a release; True where that changes what it gets.

        About a release that is not on trial the engine may only say that it can't be loaded.
        """
        verdict = control.parse_verdict(data)
        if verdict is None or self._level != CONFIGURED:
            return False
        if verdict.reason == "load" and verdict.release in (self._state.staged, self._state.current):
            self.rollback("load", verdict.release)
            return True
        if verdict.release != self._state.trial:
            return False
        if verdict.reason:
            self.rollback(verdict.reason)
            return True
        step = ""

        def promote(state: State) -> None:
            nonlocal step
            if state.trial == verdict.release:
                step = states.promote(state, self._wall())

        self._change(promote)
        if step:
            self._say(f"content: release {verdict.release[:12]} was healthy long enough; now {step}")
        return bool(step)

    # --- the file ---------------------------------------------------------------------------------

    def _count_trial(self) -> None:
        if self._state.trial is None or not self._allowed():
            return
        if self._state.trials >= states.TRIALS:
            self.rollback("crash")
            return

        def count(state: State) -> None:
            state.trials += 1

        self._change(count)

    def _change(self, change: Callable[[State], None]) -> None:
        """Change the state on disk; where that can't be done, at least what this process goes by."""
        if self._store is None or not os.path.isdir(self._store):
            return
        try:
            with states.changing(self._store) as state:
                change(state)
            self._state, self._stamp = state, self._look()
        except (OSError, SensorError) as error:
            change(self._state)
            self._say(f"content: the state can't be written, and is kept until the end of this run: {error}")

    def _look(self) -> tuple[int, ...]:
        killed = int(os.path.exists(self._kill_file))
        try:
            found = os.stat(os.path.join(self._store or "", states.FILE))
        except OSError:
            return (killed,)
        return (killed, found.st_ino, found.st_mtime_ns, found.st_size)

    def _refresh(self) -> bool:
        """Read the state if it is another one. True where it was."""
        if self._store is None:
            return False
        stamp = self._look()
        if stamp == self._stamp:
            return False
        first, self._stamp = self._stamp is None, stamp
        try:
            self._state = states.read(self._store)
        except SensorError as error:
            self._state = State()
            self._say(f"content: {error}")
        return not first
