"""How the engine comes by its rules: read here, parsed in a child or known from before, built beside the events.

Nothing here changes what runs. A load ends with rules that are ready to run, or with the reason why not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sensor import config
from sensor.errors import SensorError, UsageError
from sensor.rulecache import RuleCache
from sensor.rulechild import Child, NoChild, checked, compile_rules
from sensor.rulefiles import RuleFiles
from sensor.rules.correlation import Correlator, correlator_of
from sensor.rules.files import Gathered
from sensor.rules.matcher import Matcher
from sensor.rules.model import Options, RuleSet

_STATE = Path("/var/lib/sensor")


def state_home() -> Path:
    """Where state outlives a restart: what systemd set up for the unit, or its usual place."""
    return Path(os.environ.get("STATE_DIRECTORY") or _STATE)


def cache_home() -> Path:
    """Where the engine keeps compiled rules: below the one directory that is its user's."""
    return state_home() / "engine" / "compiled"


@dataclass(frozen=True, slots=True)
class Ready:
    """Rules that can take over between two events."""

    rules: RuleSet
    matcher: Matcher
    correlator: Correlator | None

    @classmethod
    def build(cls, rules: RuleSet) -> Ready:
        """Build what runs them; takes a millisecond for two rules."""
        return cls(rules, Matcher(rules.rules), correlator_of(rules))


class RuleLoad:
    """Loads rules, the first time at once and later while events go on.

    ``start`` begins a load, ``step`` carries it on whenever it is called, until it gives something.
    """

    def __init__(self, files: RuleFiles, settings: config.Rules, cache: RuleCache) -> None:
        self._files, self._settings, self.cache = files, settings, cache
        self._options = Options(settings.placeholders, settings.pipelines)
        self._key = ""
        self._child: Child | None = None
        self._builder: _Builder | None = None
        self._seen: tuple[str, ...] = ()
        self._changed: tuple[str, ...] = ()

    def first(self, say: Callable[[str], None]) -> RuleSet:
        """The rules at the start: where the system has no process to spare, better read here than none.

        Raises UsageError.
        """
        gathered = self._gather()
        self._seen = self._changed = tuple(self._facts())
        rules = self.cache.get(self._key)
        if rules is None:
            try:
                rules, data = compile_rules(gathered, self._options)
            except NoChild as error:
                say(f"{error}; they are read by the engine itself")
                from sensor.rules import content

                return content.compile_rules(gathered, options=self._options)
            self.cache.put(self._key, data)
        return rules

    @property
    def busy(self) -> bool:
        """Whether a load is under way."""
        return self._child is not None or self._builder is not None

    def start(self) -> None:
        """Begin. Raises UsageError."""
        self._seen = self._changed = tuple(self._facts())
        gathered = self._gather()
        known = self.cache.get(self._key)
        if known is not None:
            self._builder = _Builder(known)
        else:
            self._child = Child(gathered, self._options)

    def step(self) -> Ready | None:
        """Rules that are ready, or None for as long as it takes. Raises SensorError where there won't be any."""
        if self._child is not None and (self._child.ended or self._child.late):
            child, self._child = self._child, None
            self._builder = _Builder(child.result(0.0))
        if self._builder is not None and self._builder.ended:
            builder, self._builder = self._builder, None
            ready, data = builder.result()
            if data is not None:
                self.cache.put(self._key, data)
            return ready
        return None

    def changed(self) -> bool:
        """Whether files changed since the last load, and not any more since the last call: somebody may be writing."""
        facts = tuple(self._facts())
        settled = facts == self._changed
        self._changed = facts
        return settled and facts != self._seen

    def _gather(self) -> Gathered:
        gathered = self._files.gather(self._settings.paths, self._options)
        self._key = self.cache.key(gathered, self._options)
        return gathered

    def _facts(self) -> Iterator[str]:
        """What changes when a file does, without reading it."""
        try:
            sources = self._files.sources(self._settings.paths)
        except UsageError as error:
            yield str(error)
            return
        for path in [*(source.path for source in sources), *self._options.pipelines]:
            try:
                made = os.stat(path)
                yield f"{path} {made.st_ino} {made.st_mtime_ns} {made.st_ctime_ns} {made.st_size}"
            except OSError as error:
                yield f"{path} {error.errno}"


class _Builder:
    """Checks and builds rules on a thread of its own: with 2,000 of them events would wait for seconds."""

    def __init__(self, made: bytes | RuleSet) -> None:
        self._made = made
        self._ready: Ready | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="rules", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._ready = Ready.build(self._made if isinstance(self._made, RuleSet) else checked(self._made))
        except Exception as error:  # noqa: BLE001  it is raised again where somebody listens
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> tuple[Ready, bytes | None]:
        """What was built, and the data that it was made from. Raises SensorError."""
        self._thread.join()
        if isinstance(self._error, SensorError):
            raise self._error
        if self._ready is None:
            raise UsageError(f"the rules can't be built: {self._error!r}"[:500]) from self._error
        return self._ready, None if isinstance(self._made, RuleSet) else self._made
