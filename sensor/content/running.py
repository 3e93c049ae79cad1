"""The engine's view of content: what the supervisor selected, loaded, compared, judged and told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sensor import control
from sensor.config import Rules, Settings
from sensor.content import lists
from sensor.content.intact import intact
from sensor.content.rollout import HEALTHY, Compared, judge, signals
from sensor.errors import ContentError, SensorError, UsageError
from sensor.rulechild import Interrupted
from sensor.rulefiles import DEFAULT, Root, RuleFiles
from sensor.ruleload import Ready, RuleLoad
from sensor.rules.matcher import Matcher
from sensor.rules.model import RuleSet

if TYPE_CHECKING:
    from sensor.live import Live

OBSERVE, BUILT_IN, CANARY = "observe", "built-in", "canary"
#: Values of one sensor_content event: version, action, release, stage, reason, sentence.
Notice = tuple[int, str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Selection:
    """What the supervisor says. ``live`` and ``other`` are releases: id, fd, name, version, expires, signers."""

    level: str = "configured"
    live: dict[str, Any] | None = None
    other: dict[str, Any] | None = None
    stage: str = ""
    trial: bool = False
    rollbacks: dict[str, int] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)
    changed: float = 0.0
    notices: Sequence[dict[str, Any]] = ()

    @classmethod
    def parse(cls, text: str, fds: Sequence[int] | None = None) -> Selection:
        """Decode a message of the supervisor; *fds* are its descriptors in order where they came with it."""
        value = json.loads(text)
        numbers = iter(fds if fds is not None else ())
        for key in ("live", "other"):
            if value[key] is not None and fds is not None:
                value[key]["fd"] = next(numbers)
        return cls(**value)

    @property
    def on_trial(self) -> dict[str, Any] | None:
        """The release that is to be judged."""
        if not self.trial:
            return None
        return self.other if self.stage == "shadow" else self.live

    def close(self) -> None:
        """Let go of the directories."""
        for release in (self.live, self.other):
            if release is not None:
                os.close(release["fd"])


class BrokenRelease(ContentError):
    """A release of the store that is not what was staged, or has a rule that this sensor can't load."""


def _needs_other(selection: Selection) -> bool:
    return selection.trial and (selection.other is not None or selection.stage == CANARY)


_WORDS = {"staged": "was staged", "promoted": "was promoted", "known_good": "is known good now",
          "rolled_back": "was taken back and is not tried again", "stepped_down": "rules run now"}


def notices(selection: Selection) -> list[Notice]:
    """Events of what has happened to releases since an engine was told last."""
    found: list[Notice] = []
    for entry in selection.notices:
        action, release, version = str(entry["action"]), str(entry["release"]), int(entry["version"])
        what = f"content release {version}" if version else release
        sentence = f"{what} {_WORDS.get(action, action)}" + (f": {entry['reason']}" if entry["reason"] else "")
        found.append((version, action, release, str(entry["stage"]), str(entry["reason"]), sentence))
    return found


class _Aim:
    """Where the rules of a release are read, as RuleLoad wants it; open until it is closed."""

    def __init__(self, selection: Selection, release: dict[str, Any] | None, files: RuleFiles, rules: Rules) -> None:
        self.files, self.rules, self.display, self._fd = files, rules, "", -1
        if selection.level == OBSERVE:
            self.files, self.rules = RuleFiles(files.default), replace(rules, paths=())
        elif selection.level == BUILT_IN:
            self.files, self.rules = RuleFiles(files.default), replace(rules, paths=(DEFAULT,))
        elif release is not None:
            self._release(release)

    def _release(self, release: dict[str, Any]) -> None:
        access = f"/proc/self/fd/{release['fd']}"
        self.display = f"release {release.get('version', '?')}"
        try:
            intact(access, release["id"])
            values = lists.read(access, self.rules.placeholders)
            self._fd = os.open(f"{access}/rules", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (UsageError, OSError) as error:
            raise BrokenRelease(self.display, None, str(error).replace(access, self.display)) from error
        paths = self.rules.paths if DEFAULT in self.rules.paths else (DEFAULT, *self.rules.paths)
        self.files = RuleFiles(Root(self.display, self._fd))
        self.rules = replace(self.rules, paths=paths, placeholders=values)

    def check(self, rules: RuleSet) -> None:
        """Every rule of the release must have been loaded. Raises BrokenRelease."""
        for refused in rules.refused:
            if self.display and refused.path.startswith(f"{self.display}/"):
                raise BrokenRelease(refused.path, refused.line, refused.reason)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Turn:
    """From one selection to the next: the rules for comparison first, then those that run."""

    def __init__(self, selection: Selection, files: RuleFiles, rules: Rules, side: RuleLoad) -> None:
        self.selection = selection
        self.other: Ready | None = None
        self.live = _Aim(selection, selection.live, files, rules)
        self.beside: _Aim | None = None
        self.switching = False
        if _needs_other(selection):
            self.beside = _Aim(selection, selection.other, files, rules)
            side.aim(self.beside.files, self.beside.rules)

    def close(self) -> None:
        self.live.close()
        if self.beside is not None:
            self.beside.close()


class Part:
    """What the engine has to do with content. Keeps the selection's directories open, for reloads.

    Args:
        selection: That the engine was started with.
        files: Rules that are no release.
        settings: For rules and content.
        side: Loads the rules that are only compared.
        send: Takes a message for the supervisor.
        say: Takes a line for the log.
    """

    def __init__(self, selection: Selection, files: RuleFiles, settings: Settings, side: RuleLoad,
                 send: Callable[[bytes], object], say: Callable[[str], None]) -> None:
        self.selection, self._files, self._settings, self._side = selection, files, settings, side
        self._send, self._say = send, say
        self._now: _Turn | None = None  # what runs; None: the configured rules
        self._turn: _Turn | None = None
        self._waiting: Selection | None = None
        self._compared: Compared | None = None
        self._began: tuple[float, int, int] | None = None  # time, alerts and losses when the stage began
        self._judged = self._expired = False
        self._untold = notices(selection)

    @property
    def observing(self) -> bool:
        """Nothing but observation is wanted: having no rule is right."""
        return self.selection.level == OBSERVE

    @property
    def turning(self) -> bool:
        """Whether another selection is under way."""
        return self._turn is not None or self._waiting is not None

    @property
    def switching(self) -> bool:
        """Whether the engine's own load is in use for that."""
        return self._turn is not None and self._turn.switching

    def first(self, load: RuleLoad) -> Ready:
        """Rules at the start. Where a release can't be loaded, the configured ones. Raises UsageError."""
        try:
            turn = self._now = _Turn(self.selection, self._files, self._settings.rules, self._side)
            if turn.beside is not None:
                turn.other = self._side.first(self._say)
                turn.beside.check(turn.other.rules)
            load.aim(turn.live.files, turn.live.rules)
            ready = load.first(self._say)
            turn.live.check(ready.rules)
        except UsageError as error:
            if self.selection.live is None and self.selection.other is None:
                raise
            if isinstance(error, Interrupted):  # no fault of the release: it is tried again while others run
                self._waiting = self.selection
            else:
                self._broken(self.selection, error)
                self.selection.close()
            self._now, self.selection = None, Selection(rollbacks=self.selection.rollbacks, loads=self.selection.loads)
            load.aim(self._files, self._settings.rules)
            return load.first(self._say)
        return ready

    def take(self, text: str, fds: Sequence[int]) -> None:
        """Take in another selection of the supervisor; ``turn`` carries it out."""
        if self._waiting is not None:
            self._waiting.close()
        self._waiting = Selection.parse(text, fds)
        self._untold += notices(self._waiting)

    def turn(self, load: RuleLoad) -> Ready | None:
        """Go on towards the other selection; rules that take over now, or None. What runs stays where that fails."""
        try:
            return self._go_on(load)
        except SensorError as error:
            turn, self._turn = self._turn, None
            if turn is not None and isinstance(error, Interrupted) and self._waiting is None:
                turn.close()
                self._waiting = turn.selection
            elif turn is not None:
                self._broken(turn.selection, error)
                turn.close()
                turn.selection.close()
            now = self._now
            load.aim(now.live.files if now else self._files, now.live.rules if now else self._settings.rules)
            self._say(f"content: refused, the rules stay as they were: {error}")
            return None

    def _go_on(self, load: RuleLoad) -> Ready | None:
        if self._turn is None and self._waiting is not None and not load.busy:
            selection, self._waiting = self._waiting, None
            self._turn = _begun(selection, self._files, self._settings.rules, self._side, self._broken)
            if self._turn.beside is not None:
                self._side.start()
        turn = self._turn
        if turn is None:
            return None
        if turn.beside is not None and turn.other is None:
            turn.other = self._side.step()
            if turn.other is None:
                return None
            turn.beside.check(turn.other.rules)
        if not turn.switching:
            if load.busy:
                return None
            load.aim(turn.live.files, turn.live.rules)
            turn.switching = True
            load.start()
        ready = load.step()
        if ready is None:
            return None
        turn.live.check(ready.rules)
        before, self._now, self._turn = self._now, turn, None
        self.selection.close()
        self.selection = turn.selection
        if before is not None:
            before.close()
        return ready

    def matcher(self, ready: Ready) -> Matcher | Compared:
        """A matcher of rules that are ready, which also evaluates the release on trial or what it is compared to."""
        if not ready.fresh and self._compared is not None:
            self._compared.use(ready.matcher)
            return self._compared
        self._compared, self._began = None, None
        self._judged = self._expired = False
        if not self.selection.trial:
            return ready.matcher
        other = self._now.other if self._now is not None else None
        self._compared = Compared(ready.matcher, other.matcher if other is not None else None,
                                  other.correlator if other is not None else None, time.perf_counter_ns)
        return self._compared

    def shift(self, step: int) -> None:
        """The wall clock was set by so many ns."""
        if self._compared is not None:
            self._compared.shift(step)

    def second(self, live: Live, now: float, wall: float) -> None:
        """Once a second: tell what happened, and the supervisor how the release on trial does."""
        told, self._untold = self._untold, []
        for notice in told:
            live.content(notice)
        running = self.selection.live
        if running is not None and not self._expired and wall >= running.get("expires", wall + 1):
            self._expired = True
            sentence = f"content release {running['version']} has expired; it goes on, and a newer one is due"
            live.content((running["version"], "expired", running["id"], self.selection.stage, "", sentence))
            self._say(f"content: {sentence}")
        self._judge(now, live.pipeline.counters.alerts, sum(counts["lost"] for counts in live.counts.values()))

    def _judge(self, now: float, alerts: int, lost: int) -> None:
        trial, compared = self.selection.on_trial, self._compared
        if trial is None or compared is None or self._judged:
            return
        if self._began is None:
            self._began = (now, alerts, lost)
        since, alerts_then, lost_then = self._began
        seen = signals(compared, self.selection.stage, now - since, alerts - alerts_then, lost - lost_then)
        found = judge(seen, self._settings.content)
        if found:
            self._judged = True
            self._send(control.verdict(trial["id"], "" if found == HEALTHY else found))
        elif seen.lost and seen.seconds >= self._settings.content.hold:
            self._began = (now, alerts, lost)  # a stage with a loss begins anew

    def _broken(self, selection: Selection, error: Exception) -> None:
        """Blame the release on trial, for it is what is new; else the one that runs."""
        release = selection.on_trial or selection.live
        self._say(f"content: {error}")
        if release is not None:
            self._send(control.verdict(release["id"], "load"))


def _begun(selection: Selection, files: RuleFiles, rules: Rules, side: RuleLoad,
           broken: Callable[[Selection, Exception], None]) -> _Turn:
    try:
        return _Turn(selection, files, rules, side)
    except UsageError as error:
        broken(selection, error)
        selection.close()
        raise
