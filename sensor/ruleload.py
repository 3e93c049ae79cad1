"""How the engine comes by its rules: read here, parsed in a child or known from before, built beside the events.

Nothing here changes what runs. A load ends with rules that are ready to run, or with the reason why not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sensor import config, switches
from sensor.errors import SensorError, UsageError
from sensor.rulecache import RuleCache
from sensor.rulechild import Child, NoChild, Starter, checked, compile_rules
from sensor.rulefiles import RuleFiles
from sensor.rules.correlation import Correlator, correlator_of
from sensor.rules.files import Gathered
from sensor.rules.matcher import Matcher
from sensor.rules.model import Options, RuleSet


def cache_home() -> Path:
    """Where the engine keeps compiled rules: below the one directory that is its user's."""
    return switches.state_home() / "engine" / "compiled"


@dataclass(frozen=True, slots=True)
class Ready:
    """Rules that can take over between two events.

    ``disabled`` has id and reason of those that don't run. A ``fresh`` set was loaded, no other is.
    """

    rules: RuleSet
    disabled: Mapping[str, str]
    matcher: Matcher
    correlator: Correlator | None
    fresh: bool

    @classmethod
    def build(cls, rules: RuleSet, disabled: Mapping[str, str], *, fresh: bool) -> Ready:
        """Build what runs them; takes a millisecond for two rules."""
        here = {rule.id: disabled[rule.id] for rule in rules.every if rule.id in disabled}
        active = rules.without(here)
        return cls(rules, here, Matcher(active.rules), correlator_of(active), fresh)


class RuleLoad:
    """Loads rules, the first time at once and later while events go on.

    ``start`` begins a load, ``step`` carries it on whenever it is called, until it gives something. *waiting* is
    called now and then while the first one is waited for.
    """

    def __init__(self, files: RuleFiles, settings: config.Rules, cache: RuleCache, state: Path | None = None,
                 starter: Starter | None = None, waiting: Callable[[], None] = lambda: None) -> None:
        self._files, self._settings, self.cache, self._state = files, settings, cache, state
        self._starter, self._waiting = starter, waiting
        self._options = Options(settings.placeholders, settings.pipelines)
        self._key = ""
        self._child: Child | None = None
        self._builder: _Builder | None = None
        self._pending: dict[str, str] = {}  # disabled rules of the load under way
        self._seen: tuple[str, ...] = ()
        self._changed: tuple[str, ...] = ()

    def aim(self, files: RuleFiles, settings: config.Rules) -> None:
        """Other places, from the next load on."""
        self._files, self._settings = files, settings
        self._options = Options(settings.placeholders, settings.pipelines)

    def first(self, say: Callable[[str], None]) -> Ready:
        """The rules at the start. Raises UsageError; a damaged file of disabled rules is only said."""
        try:
            disabled = self._disabled()
        except UsageError as error:
            say(f"no rule is disabled: {error}")
            disabled = {}
        return Ready.build(self._first(say), disabled, fresh=True)

    def _first(self, say: Callable[[str], None]) -> RuleSet:
        """Where the system has no process to spare, better read here than none."""
        gathered = self._gather()
        self._seen = self._changed = tuple(self._facts())
        rules = self.cache.get(self._key)
        if rules is None:
            try:
                rules, data = compile_rules(gathered, self._options, self._starter, self._waiting)
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
        disabled = self._disabled()
        known = self.cache.get(self._key)
        if known is not None:
            self._builder = _Builder(lambda: Ready.build(known, disabled, fresh=True))
        else:
            self._pending = disabled
            self._child = Child(gathered, self._options, starter=self._starter)

    def step(self) -> Ready | None:
        """Rules that are ready, or None for as long as it takes. Raises SensorError where there won't be any."""
        if self._child is not None and (self._child.ended or self._child.late):
            child, self._child = self._child, None
            data, disabled = child.result(0.0), self._pending
            self._builder = _Builder(lambda: Ready.build(self._kept(data), disabled, fresh=True))
        if self._builder is not None and self._builder.ended:
            builder, self._builder = self._builder, None
            return builder.result()
        return None

    def _kept(self, data: bytes) -> RuleSet:
        rules = checked(data)
        self.cache.put(self._key, data)
        return rules

    def disable(self, rules: RuleSet, disabled: Mapping[str, str]) -> None:
        """Begin to build the same rules without some. Not while busy."""
        self._builder = _Builder(lambda: Ready.build(rules, disabled, fresh=False))

    def _disabled(self) -> dict[str, str]:
        return dict.fromkeys(switches.read(self._state), switches.OPERATOR) if self._state is not None else {}

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
        switch = [str(self._state / switches.FILE)] if self._state is not None else []
        for path in [*(source.path for source in sources), *self._options.pipelines, *switch]:
            try:
                made = os.stat(path)
                yield f"{path} {made.st_ino} {made.st_mtime_ns} {made.st_ctime_ns} {made.st_size}"
            except OSError as error:
                yield f"{path} {error.errno}"


class _Builder:
    """Checks and builds rules on a thread of its own: with 2,000 of them events would wait for seconds."""

    def __init__(self, build: Callable[[], Ready]) -> None:
        self._build = build
        self._ready: Ready | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="rules", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._ready = self._build()
        except Exception as error:  # noqa: BLE001  it is raised again where somebody listens
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Ready:
        """What was built. Raises SensorError."""
        self._thread.join()
        if isinstance(self._error, SensorError):
            raise self._error
        if self._ready is None:
            raise UsageError(f"the rules can't be built: {self._error!r}"[:500]) from self._error
        return self._ready
