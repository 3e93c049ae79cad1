"""Of a recording of the whole machine, the activities alone; and what the default rules say to them."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import zstandard

from sensor import resources
from sensor.cli.common import load_rules
from sensor.pipeline import Pipeline
from sensor.reading import Reader
from sensor.rules.correlation import correlator_of
from sensor.rules.matcher import Matcher
from sensor.rules.model import RuleSet

Document = dict[str, Any]
_MARK = b'"/sensor-baseline'
_GROUP = re.compile(r"/sensor-baseline(/|$)")
#: What starts the activities, after the root has been entered.
_BEGIN = ["/bin/sh", "/baseline/all.sh"]


def lines_of(path: Path) -> Iterator[bytes]:
    """Lines of events in JSON lines, plain or zstd, the header left out."""
    with path.open("rb") as raw:
        stream: io.BufferedIOBase = raw
        if path.suffix == ".zst":
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            stream = io.BufferedReader(reader, 1 << 20)
        yield from (line for line in stream if b'"recording"' not in line[:40])


def activities(path: Path) -> Iterator[Document]:
    """Events of the activities in the recording at *path*, without what is the machine's own.

    The first is the start of the script that runs them: entering the root is not part of it. Several
    recordings may have been joined (``cat`` does that): each has events with ids of its own beginning.
    """
    above: list[str] | None = None
    outside, session = None, ""
    reader = Reader()
    # Lines are looked at before they are read: most of them are the machine's.
    for document in (each for line in lines_of(path) if _MARK in line for each in reader.accept(orjson.loads(line))):
        if not _GROUP.match(document["sensor"].get("cgroup", {}).get("path", "")):
            continue
        process = document.get("process", {})
        if session != (session := document["event"]["id"].partition("-")[0]):
            above = None
        if above is None:
            if document["event"]["action"] != "process-exec" or process.get("args", [])[:2] != _BEGIN:
                continue
            above = process.get("ancestors", [])
            outside = process.get("parent", {}).get("entity_id")
        if ancestors := process.get("ancestors"):
            process["ancestors"] = _below(ancestors, above)
        if outside is not None and process.get("parent", {}).get("entity_id") == outside:
            # What entered the root: its command line has names of the machine.
            process["parent"] = {key: process["parent"][key] for key in ("entity_id", "executable", "name")
                                 if key in process["parent"]}
        yield document


def _below(ancestors: list[str], above: list[str]) -> list[str]:
    """*ancestors* without those *above* the activities. The list is cut at its end, so that may be a part."""
    for start in range(len(ancestors)):
        if ancestors[start:] == above[:len(ancestors) - start]:
            return ancestors[:start]
    return ancestors


def rules(paths: Iterable[str] = ()) -> RuleSet:
    """Rules at *paths*; the default ones if there are none."""
    return load_rules(list(paths) or [str(resources.rules_dir())])


class Engine:
    """The rules over documents."""

    def __init__(self, ruleset: RuleSet) -> None:
        self._pipeline = Pipeline(Matcher(ruleset.rules), correlator=correlator_of(ruleset))
        self.by_rule: Counter[str] = Counter()
        self.events = 0

    def feed(self, document: Document) -> list[Document]:
        """The alerts of one document."""
        self.events += document["event"]["kind"] == "event"
        return self._count(self._pipeline.feed_document(document))

    def finish(self) -> list[Document]:
        """The alerts that are due at the end."""
        return self._count(self._pipeline.finish())

    def over(self, path: str | Path) -> Engine:
        """Itself, after all of a recording that holds nothing but activities."""
        for document in Reader().documents(str(path)):
            self.feed(document)
        self.finish()
        return self

    def _count(self, alerts: list[Document]) -> list[Document]:
        self.by_rule.update(alert["rule"]["id"] for alert in alerts)
        return alerts
