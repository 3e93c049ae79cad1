"""The rules that an engine evaluates: loaded, read anew, taken over between two events, stopped at their budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sensor.config import Rules
from sensor.content.running import Part
from sensor.document import Document
from sensor.errors import SensorError, UsageError
from sensor.outputs.terminal import terminal_safe
from sensor.ruleload import Ready, RuleLoad
from sensor.rules.meter import CPU_TIME, WINDOW_NS, Budget, Meter, Watch
from sensor.snapshot import Facts

if TYPE_CHECKING:
    from sensor.live import Live


class EngineRules:
    """What an engine evaluates now, and what is under way to replace it.

    Args:
        load: Reads the rules, at the start and again.
        content: Which release of content they come from.
        settings: Where rules are, and what one may cost.
        facts: Where the metrics are taken from; told of every change.
        say: Takes a line for the log.

    Raises:
        UsageError: No rule could be loaded, though some are wanted.
    """

    def __init__(self, load: RuleLoad, content: Part, settings: Rules, facts: Facts,
                 say: Callable[[str], None]) -> None:
        self.load, self.content = load, content
        self.live: Live | None = None  # from the first record on
        self.meter = Meter(time.thread_time_ns)
        self._settings, self._facts, self._say = settings, facts, say
        self._again = False  # a reload was asked for while one was under way
        self._next_look = time.monotonic() + settings.watch_seconds
        self._over = Watch(Budget(settings.budget_cpu_percent * WINDOW_NS // 100, settings.budget_alerts))
        facts.cache, facts.meter = load.cache.counts, self.meter
        ready = content.first(load)
        self._tell(ready)
        self._use(ready)

    @property
    def count(self) -> int:
        """How many are evaluated."""
        return self._facts.rules.loaded if self._facts.rules is not None else 0

    def turn(self) -> None:
        """Go on with what is under way; to be called between two events."""
        if self.load.busy and not self.content.switching:
            self.step()
        if self.content.turning:
            self._change()

    def reload(self) -> None:
        """Begin to read the rules anew. What comes of it is taken over by :meth:`step`."""
        if self.load.busy or self.content.turning:
            self._again = True
            return
        try:
            self.load.start()
        except SensorError as error:
            self._refused(error)

    def step(self) -> None:
        """Take over rules that have been read anew, between two events.

        A set that can't be loaded, or with a rule that has broken since, leaves the old one.
        """
        try:
            ready = self.load.step()
            if ready is None:
                return
            if not ready.fresh:
                self._take_over(ready)
                return
            self._tell(ready)
            known = {(refused.path, refused.rule) for refused in self._facts.rules.refused} if self._facts.rules else ()
            broken = [refused for refused in ready.rules.refused if (refused.path, refused.rule) not in known]
            if broken:
                raise UsageError(f"{broken[0]}" + (f", and {len(broken) - 1} more" if broken[1:] else ""))
            self._facts.reloads["success"] += 1
            self._take_over(ready)
            if self.live is not None:
                self.live.state("reload", f"{ready.rules.loaded} rules loaded")
        except SensorError as error:
            self._refused(error)
        if self._again:
            self._again = False
            self.reload()

    def look(self, now: float) -> None:
        """Reload where the settings ask for it and files have changed."""
        if self._settings.watch_seconds and now >= self._next_look and not self.load.busy:
            self._next_look = now + self._settings.watch_seconds
            if self.load.changed():
                self._say("rule files have changed")
                self.reload()

    def sample(self, document: Document) -> None:
        """Time each rule that was looked at for this event."""
        assert self.live is not None
        self.meter.sample(self._metered, document, self.live.pipeline.looked, time.monotonic_ns())

    def budgets(self) -> None:
        """Stop evaluating rules that take more than they may, until the next reload."""
        if self.live is None or self._facts.rules is None or self.load.busy:
            return
        over = [each for each in self._over.check(self.meter, self.live.pipeline.counters.matches, self._silent,
                                                  time.monotonic_ns()) if each.rule not in self._facts.disabled]
        if not over:
            return
        for each in over:
            name, unit = self._names.get(each.rule, ""), 1_000_000 if each.reason == CPU_TIME else 1
            measured, limit = each.measured // unit, each.limit // unit
            what = "ms of processor time" if each.reason == CPU_TIME else "alerts"
            self._say(f"rule {each.rule} ({name}) is disabled until the next reload: {measured} {what} within a "
                      f"minute, limit {limit}")
            self._facts.disablings[each.reason] += 1
            self.live.rule_disabled(each.rule, name[:256], each.reason, measured, limit)
        self.load.disable(self._facts.rules, {**self._facts.disabled, **{each.rule: each.reason for each in over}})

    def _tell(self, ready: Ready) -> None:
        rules = ready.rules
        for refused in rules.refused:
            self._say(f"rule refused: {refused}")
        if not rules.rules and not self.content.observing:
            raise UsageError("no rule could be loaded; `sensor rules check PATH` tells why")
        self._say(f"{rules.loaded} rules loaded, {len(rules.refused)} refused, "
                  f"{len(rules.unsupported)} for log sources that this sensor does not produce")
        if ready.disabled:
            self._say(f"{len(ready.disabled)} of them are disabled (sensor rules list)")

    def _use(self, ready: Ready) -> None:
        self.matcher, self.correlator = self.content.matcher(ready), ready.correlator
        self._metered = ready.matcher
        self._facts.content = self.content.selection
        self._facts.rules, self._facts.disabled = ready.rules, dict(ready.disabled)
        if not ready.fresh:
            return
        self._facts.levels = {rule.id: rule.level for rule in ready.rules.every}
        self._names = {rule.id: rule.name for rule in ready.rules.every}
        self._silent = frozenset(rule.id for rule in ready.rules.every if rule.silent)
        self._over.forget()
        self._facts.reload_ok, self._facts.reload_at = True, time.time()

    def _take_over(self, ready: Ready) -> None:
        self._use(ready)
        if self.live is not None:
            self.live.pipeline.use(self.matcher, self.correlator)

    def _change(self) -> None:
        """Go on with what the supervisor selected: another release, the same in another stage, or none."""
        ready = self.content.turn(self.load)
        if ready is not None:
            self._take_over(ready)
        if self._again and not self.content.turning:
            self._again = False
            self.reload()

    def _refused(self, error: SensorError) -> None:
        self._facts.reload_ok = False
        self._facts.reloads["failure"] += 1
        self._say(f"reload refused, the rules stay as they were: {error}")
        if self.live is not None:
            self.live.state("reload_refused", terminal_safe(str(error))[:500])
