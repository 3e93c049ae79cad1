"""Work of a throw-away child: everything that can be known about a release before it runs.

Parse all, load, compile, run each rule's own samples, replay the golden recording. The child says
which step it is at, so that one that crashes or takes too long is told with its place.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from sensor.content import lists
from sensor.errors import ContentError, UsageError

if TYPE_CHECKING:
    from sensor.rules.model import RuleSet

STEPS = ("parse", "load", "compile", "samples", "golden")
PARSE_SECONDS = 2.0  # processor time for the syntax of one file: only an attack needs more
_WARM = 1000  # events that the budget is larger by: the first ones take longer
_SHOWN = 20  # reasons in a report

#: Keys of Sigma's specification (rules, correlations, filters); and of Falco's. Any other is refused:
#: a release can't ask for an action or a privilege in words that a later sensor may understand.
SIGMA_KEYS = frozenset({
    "title", "id", "name", "related", "taxonomy", "status", "description", "license", "references", "author", "date",
    "modified", "tags", "scope", "logsource", "detection", "fields", "falsepositives", "level", "correlation",
    "filter", "generate"})
FALCO_KEYS = frozenset({
    "rule", "macro", "list", "desc", "condition", "output", "priority", "tags", "enabled", "source", "exceptions",
    "append", "override", "items", "warn_evttypes", "skip-if-unknown-filter", "required_engine_version",
    "required_plugin_versions"})


def check(arguments: Mapping[str, Any], out: BinaryIO) -> None:
    """Write a step's name as it begins, and at the end one line of JSON: a report."""
    root, path = f"/proc/self/fd/{arguments['fds'][0]}", arguments["path"]
    checking = _Checking(root, path, out, arguments)
    try:
        report = checking.run()
    except UsageError as error:  # of the sensor's own readers, which name the path that they opened
        report = {"refused": [str(error).replace(root, path)]}
    out.write(json.dumps(report).encode() + b"\n")


class _Checking:
    """One release. ``root`` is how to reach it, ``path`` how to call it."""

    def __init__(self, root: str, path: str, out: BinaryIO, arguments: Mapping[str, Any]) -> None:
        self.root, self.path, self._out, self._arguments = root, path, out, arguments
        self.report: dict[str, Any] = {"refused": []}

    def step(self, name: str) -> None:
        self._out.write(name.encode() + b"\n")
        self._out.flush()

    def run(self) -> dict[str, Any]:
        for step in (self._parse, self._load, self._compile, self._samples, self._golden):
            self.step(step.__name__.strip("_"))
            step()
            if self.report["refused"]:
                break
        return self.report

    def _refuse(self, reasons: Sequence[object]) -> None:
        told = [str(reason).replace(self.root, self.path)[:500] for reason in reasons[:_SHOWN]]
        if len(reasons) > _SHOWN:
            told.append(f"... and {len(reasons) - _SHOWN} more")
        self.report["refused"] += told

    def _parse(self) -> None:
        # A signal that ends the process: limits can't be changed any more here.
        self._refuse(syntax(self.root, lambda: signal.setitimer(signal.ITIMER_PROF, PARSE_SECONDS)))
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _load(self) -> None:
        from sensor.rules import content, files
        from sensor.rules.model import Options

        values = lists.read(self.root, self._arguments["placeholders"])
        self.rules: RuleSet = content.load(files.discover([f"{self.root}/rules"]), options=Options(values))
        self._refuse(self.rules.refused)
        self.report |= {"rules": self.rules.loaded, "unsupported": len(self.rules.unsupported)}
        if not self.rules.loaded and not self.rules.refused:
            self._refuse([ContentError(f"{self.path}/rules", None, "no rule in it that this sensor can run")])

    def _compile(self) -> None:
        from sensor.rules.matcher import Matcher

        self.matcher = Matcher(self.rules.rules)

    def _samples(self) -> None:
        from sensor.rules import samples

        results = samples.run(self.rules.rules, self.rules.correlations)
        self._refuse([*results.refused, *results.failures])
        self.report |= {"samples": results.passed, "without_samples": len(results.missing)}

    def _golden(self) -> None:
        from sensor import replay
        from sensor.pipeline import Pipeline
        from sensor.reading import Reader
        from sensor.rules.correlation import correlator_of

        folder = f"{self.root}/golden"
        names = sorted(name for name in _names(folder) if name != "expect.yaml")
        if not names:
            self._refuse([ContentError(folder, None, "no golden recording in it",
                                       "record one: sensor record golden/day.jsonl.zst")])
            return
        pipeline = Pipeline(self.matcher, correlator=correlator_of(self.rules))
        reader, began = Reader("auto"), time.process_time()
        result = replay.replay([f"{folder}/{name}" for name in names], reader, pipeline.feed_document, (),
                               keep_ids=True, finish=pipeline.finish)
        spent = time.process_time() - began
        mean = spent / max(1, result.events) * 1e6
        self.report |= {"events": result.events, "alerts": result.alerts, "event_us": round(mean, 1)}
        if not result.events:
            self._refuse([ContentError(folder, None, "the golden recording has no event")])
        elif spent * 1e6 > self._arguments["event_us"] * (result.events + _WARM):
            self._refuse([ContentError(folder, None, f"an event takes {mean:.0f} µs, content.event_us allows "
                                       f"{self._arguments['event_us']}")])
        if "expect.yaml" in _names(folder):
            place = f"{folder}/expect.yaml"
            lines = replay.compare(replay.load_expected(place), result)[2:]  # without the names of the two sides
            self._refuse([f"{place}: {line}" for line in lines if not line.startswith("@@")])


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def syntax(root: str, limit: Callable[[], object] = lambda: None) -> list[ContentError]:
    """What is wrong with the YAML of the rule files, or says more than a rule may; with file and line.

    *limit* is called before each file.
    """
    from sensor.rules import files
    from sensor.rules.yamlsafe import YamlError, documents

    found = []
    for folder, _, names in sorted(os.walk(f"{root}/rules")):
        for name in sorted(names):
            path = os.path.join(folder, name)
            limit()
            try:
                for document in documents(files.read_text(path, files.Limits().file_bytes)):
                    if not files.is_samples(path):
                        found += _keys(document, path)
            except files.Unreadable as error:
                found.append(ContentError(path, None, str(error)))
            except YamlError as error:
                found.append(ContentError(path, error.line, error.reason))
    return found


def _keys(document: Any, path: str) -> list[ContentError]:
    from sensor.rules.yamlsafe import Items, Map

    maps, allowed = ([document], SIGMA_KEYS) if isinstance(document, Map) else (document, FALCO_KEYS)
    if not isinstance(document, (Map, Items)):
        return []  # the loader has the words for it
    return [ContentError(path, each.lines[key], f"a rule of a release may not have the key {key[:64]!r}",
                         "content brings detection only")
            for each in maps if isinstance(each, Map) for key in each if key not in allowed]
