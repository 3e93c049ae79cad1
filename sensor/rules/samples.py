"""A rule's own sample events: what it must match, and what it must not.

Beside ``name.yml`` lies ``name.samples.yml`` with the lists ``positive`` and ``negative``. A sample
is a mapping of ``event`` (a name of the event table) and field names as in rules (Sigma's or ours)
to values. It stands for a document of that event: keys that the sensor derives from others are
derived here too, unless the sample says otherwise. A ``file_open`` without ``sensor.flags`` is a read.

A sample for a correlation is a list of such mappings: events in the order in which they come. ``at``
is an event's time in seconds, that of the one before if it is left out; ``repeat: N`` stands for N
events and ``each: {field: [values]}`` for one with each value, ``every`` seconds apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sensor import derived, paths, schema, shape
from sensor.rules import fields
from sensor.rules.correlation import Correlator
from sensor.rules.eventtime import text_of_ns
from sensor.rules.files import SAMPLES, Limits, Unreadable, read_text
from sensor.rules.matcher import Matcher
from sensor.rules.model import About, Correlation, Refused, Rule
from sensor.rules.values import scalars
from sensor.rules.yamlsafe import Items, Map, YamlError, documents

POSITIVE, NEGATIVE = "positive", "negative"
MAX_SEQUENCE = 10_000  # events of one sample


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as the documents that it stands for: several if it is a ``sequence``. ``line`` counts from 1."""

    line: int
    positive: bool
    documents: tuple[dict[str, Any], ...]
    sequence: bool = False

    @property
    def document(self) -> dict[str, Any]:
        """The last of the documents: the only one of most samples."""
        return self.documents[-1]


@dataclass(frozen=True, slots=True)
class Failure:
    """A sample that the rules of its file treat otherwise than it says."""

    path: str
    line: int
    rule: str
    positive: bool

    def __str__(self) -> str:
        verb = "does not match a positive" if self.positive else "matches a negative"
        return f"{self.path}:{self.line}: {self.rule}: {verb} sample"


@dataclass(frozen=True, slots=True)
class Results:
    """What running samples gave. ``missing``: rule files that lack positive or negative ones."""

    passed: int
    failures: tuple[Failure, ...]
    missing: tuple[str, ...]
    refused: tuple[Refused, ...]


class _Bad(ValueError):
    """A sample that means nothing."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason
        super().__init__(reason)


def samples_path(path: str) -> str:
    """Where the samples of a rule file lie."""
    base, suffix = os.path.splitext(path)
    return f"{base}{SAMPLES}{suffix}"


def run(rules: Sequence[Rule], correlations: Sequence[Correlation] = ()) -> Results:
    """Run the samples beside the files that the rules come from.

    Every rule of a file has to match at least one of its positive samples, every positive sample
    has to be matched by one of its rules, and no negative sample by any. A rule that only serves
    correlations raises no alert, so it may match a negative sample.
    """
    by_path: dict[str, list[About]] = {}
    for rule in (*rules, *correlations):
        by_path.setdefault(rule.path, []).append(rule)
    passed, failures, missing, refused = 0, [], [], []
    for path, group in by_path.items():
        place = samples_path(path)
        if not os.path.exists(place):
            missing.append(path)
            continue
        try:
            samples = read(place)
        except _Bad as error:
            refused.append(Refused(place, error.line, "", error.reason))
            continue
        if {sample.positive for sample in samples} != {True, False}:
            missing.append(path)
        failed = _failures(_Engine(group, rules, correlations), group, samples, place)
        failures += failed
        passed += len(samples) - len({failure.line for failure in failed} & {each.line for each in samples})
    return Results(passed, tuple(failures), tuple(missing), tuple(refused))


class _Engine:
    """The rules of one file, and those of other files that its correlations refer to."""

    def __init__(self, group: Sequence[About], rules: Sequence[Rule], correlations: Sequence[Correlation]) -> None:
        wanted = {rule.id for rule in group}
        known = {each.id: each for each in correlations}
        pending = [known[each] for each in wanted if each in known]
        while pending:
            for each in pending.pop().rules:
                if each not in wanted:
                    wanted.add(each)
                    pending += [known[each]] if each in known else []
        self._matcher = Matcher([rule for rule in rules if rule.id in wanted])
        self._correlations = [each for each in correlations if each.id in wanted]
        self._own = {rule.id for rule in group}

    def run(self, sample: Sample) -> tuple[list[About], set[str]]:
        """The rules of the file that raise an alert on a sample, and the ids of all that matched."""
        correlator = Correlator(self._correlations)
        alerts: dict[str, About] = {}
        matched: set[str] = set()
        for document in sample.documents:
            rules = self._matcher.match(document)
            matched |= {rule.id for rule in rules}
            alerts |= {rule.id: rule for rule in rules if not rule.silent}
            alerts |= {each.correlation.id: each.correlation for each in correlator.feed(document, rules)}
        alerts |= {each.correlation.id: each.correlation for each in correlator.finish()}
        return [rule for each, rule in alerts.items() if each in self._own], matched | set(alerts)


def _failures(engine: _Engine, rules: list[About], samples: list[Sample], place: str) -> list[Failure]:
    silent = {rule.id: rule for rule in rules}
    names = ", ".join(rule.name for rule in rules)
    found = []
    for sample in samples:
        alerts, matched = engine.run(sample)
        for rule_id in matched:
            silent.pop(rule_id, None)
        if not sample.positive:
            found += [Failure(place, sample.line, rule.name, positive=False) for rule in alerts]
        elif not alerts:
            found.append(Failure(place, sample.line, names, positive=True))
    if any(sample.positive for sample in samples) and not any(failure.positive for failure in found):
        found += [Failure(place, 1, rule.name, positive=True) for rule in silent.values()]
    return found


def read(path: str) -> list[Sample]:
    """Samples of a file, those with a problem reported by _Bad with line and reason."""
    try:
        loaded = list(documents(read_text(path, Limits().file_bytes)))
    except Unreadable as error:
        raise _Bad(1, str(error)) from error
    except YamlError as error:
        raise _Bad(error.line, error.reason) from error
    if len(loaded) != 1 or not isinstance(loaded[0], Map):
        raise _Bad(1, f"one mapping expected, of {POSITIVE} and {NEGATIVE}")
    whole: Map = loaded[0]
    found = []
    for kind, items in whole.items():
        if kind not in (POSITIVE, NEGATIVE):
            raise _Bad(whole.lines[kind], f"unknown key {kind!r}: {POSITIVE} or {NEGATIVE} expected")
        if not isinstance(items, Items):
            raise _Bad(whole.lines[kind], f"{kind}: a list expected")
        found += [_sample(item, line, kind == POSITIVE) for item, line in zip(items, items.lines, strict=True)]
    return found


def _sample(item: object, line: int, positive: bool) -> Sample:
    if not isinstance(item, Items):
        return Sample(line, positive, (expand(item, line),))
    documents = tuple(sequence(item))
    if not documents:
        raise _Bad(line, "a list of events is empty")
    return Sample(line, positive, documents, sequence=True)


_START_NS = 1_767_225_600_000_000_000  # the first event of a sequence: 2026-01-01
_TIMES = ("at", "repeat", "each", "every")


def sequence(events: Items) -> Iterator[dict[str, Any]]:
    """The documents of a list of events, with times and ids. Raises ValueError with the reason."""
    moment, made = 0.0, 0
    for item, line in zip(events, events.lines, strict=True):
        if not isinstance(item, Map):
            raise _Bad(line, "an event of a list is a mapping")
        moment, step = _seconds(item, "at", moment, line), _seconds(item, "every", 0.0, line)
        plain = {key: value for key, value in item.items() if key not in _TIMES}
        for number, changed in enumerate(_each(item, line)):
            made += 1
            if made > MAX_SEQUENCE:
                raise _Bad(line, f"more than {MAX_SEQUENCE} events")
            moment += step if number else 0.0
            document = expand({**plain, **changed}, line)
            document["@timestamp"] = text_of_ns(_START_NS + round(moment * 1e9))
            document["event"].setdefault("id", f"sample-{made}")
            yield document


def _each(item: Map, line: int) -> list[dict[str, Any]]:
    """What changes from one of the events that an item stands for to the next."""
    repeat, each = item.get("repeat", 1), item.get("each")
    if not isinstance(repeat, int) or not 1 <= repeat <= MAX_SEQUENCE or (each is not None and "repeat" in item):
        raise _Bad(line, f"repeat: a number from 1 to {MAX_SEQUENCE} expected, and no each beside it")
    if each is None:
        return [{}] * repeat
    if not isinstance(each, Map) or len(each) != 1 or not isinstance(next(iter(each.values())), Items):
        raise _Bad(line, "each: one field and the list of its values expected")
    ((name, values),) = each.items()
    return [{name: value} for value in values]


def _seconds(item: Map, key: str, default: float, line: int) -> float:
    value = item.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 366 * 86_400:
        raise _Bad(line, f"{key}: seconds expected, from 0 to a year")
    return float(value)


def expand(sample: object, line: int = 1) -> dict[str, Any]:
    """The document that a sample stands for. Raises ValueError with the reason."""
    if not isinstance(sample, dict):
        raise _Bad(line, "a sample is a mapping")
    event = schema.BY_NAME.get(str(sample.get("event")))
    if event is None:
        raise _Bad(line, f"event: no event is called {sample.get('event')!r}")
    flat: dict[str, Any] = {}
    for name, value in sample.items():
        if name == "event":
            continue
        try:
            key = fields.resolve(name)
        except fields.UnknownField as error:
            raise _Bad(line, str(error)) from error
        flat[key] = _typed(key, value, line)
    return _nested({**_from_table(event, flat), **_derived(event, flat), **flat}, line)


def _typed(key: str, value: object, line: int) -> Any:
    """The value in the type that documents have at the key."""
    types = shape.key_types().get(key, (str, int, float, bool))
    values = list(scalars(value))
    if not values or (list not in types and isinstance(value, list)):
        raise _Bad(line, f"{key}: {'a list' if list in types else 'a text or number'} expected")
    if list in types:
        return [str(each) for each in values]
    return str(values[0]) if types == (str,) else values[0]


def _from_table(event: schema.Event, flat: dict[str, Any]) -> dict[str, Any]:
    kind = event.type
    if event.name == "file_open":
        flags = {flag.name.lower(): flag for flag in schema.Flag if flag.name}
        kind = derived.file_open_type(sum(flags.get(name, 0) for name in flat.get("sensor.flags", ())))
    return {"event.kind": "event", "event.category": [event.category], "event.type": [kind],
            "event.action": event.action, "event.dataset": f"sensor.{event.name}"}


def _derived(event: schema.Event, flat: dict[str, Any]) -> dict[str, Any]:
    """What the sensor would have made from the given keys."""
    made: dict[str, Any] = {}
    for process in ("process", "process.parent"):
        if executable := flat.get(f"{process}.executable"):
            made[f"{process}.name"] = executable.rpartition("/")[2]
    if arguments := flat.get("process.args"):
        made["process.command_line"] = " ".join(arguments)
    if path := flat.get("file.path"):
        parts = zip(("file.directory", "file.name", "file.extension"), paths.split(path), strict=True)
        made |= {key: part for key, part in parts if part}
    if direction := derived.DIRECTIONS.get(event.name):
        made |= {"network.direction": direction, "network.initiated": direction == "egress"}
    if (address := flat.get("destination.ip")) is not None:
        made["network.type"] = "ipv6" if ":" in address else "ipv4"
    return made


def _nested(flat: dict[str, Any], line: int) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        node: Any = root
        for name in outer:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise _Bad(line, f"{key}: {name} has a value already")
        if isinstance(node.get(last), dict):
            raise _Bad(line, f"{key}: has keys of its own")
        node[last] = value
    return root
