"""From the bytes that the kernel wrote to the rules that match: events a second, with the C extension and without.

    python -m tests.bench.bench_ring [--events N] [--recording FILE] [--rules PATH]

Each row runs in a process of its own on one core; seconds are CPU seconds of that process, for records that are
there already as bytes: they are made of the recording once, and kept. ``rules`` is decoding, process table and
decision; ``alerts`` is all that the engine does, with documents and alerts of what matched. A recording that is too
short is told lap after lap, by new processes each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from sensor import native, speed
from sensor.boottime import BootClock
from sensor.config import Settings
from sensor.document import Builder
from sensor.pipeline import Pipeline
from sensor.process.model import Found
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.rules import content
from sensor.rules.matcher import Matcher
from sensor.watch import WatchList
from tests.bench import recorded, ring, ring_stream
from tests.bench.bench_rules import default_paths, run_json
from tests.bench.contenders import peak_mb
from tests.conftest import ROOT

_BATCH = 4096
_SIZE = struct.Struct("<I")
_PURE_SHARE = 10  # the engine without extension gets one in so many events
RECORDING = ROOT / "docs/examples/intrusion.jsonl.zst"


class _Count:
    """Mixin: rules that match are counted, and no alert is made of them."""

    found: Counter[str]

    def count(self, rules: Any) -> None:
        for rule in rules:
            self.found[rule.id] += 1


class PureRules(_Count, Pipeline):
    """Decides on documents."""

    def _alerts(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        self.count(self.matcher.match(document))
        return []


class NativeRules(_Count, speed.FastPipeline):
    """Takes the decision as it was remembered; looks at the document where that hangs on it."""

    def _loud(self, raw: bytes, ring: int, found: Any) -> None:
        if found.__class__ is tuple:
            self.count(found)
        else:
            super()._loud(raw, ring, found)

    def _alerts(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        self.count(self.matcher.match(document))
        return []


def engine(extension: Any, rules: list[Any], what: str, found: list[Any]) -> Pipeline:
    """A pipeline as the engine makes it, over an empty table."""
    clock, users, watch = BootClock(), Users({0: "root"}.get), WatchList(Settings().watch.paths)
    table: Any = (ProcessTable("bench", clock=clock, users=users) if extension is None
                  else speed.NativeTable(extension, "bench", clock=clock, users=users))
    table.seed(found)
    builder, matcher = Builder(table, clock, users), Matcher(rules)
    kinds: dict[tuple[bool, str], type[Any]] = {
        (False, "rules"): PureRules, (True, "rules"): NativeRules, (False, "alerts"): Pipeline,
        (True, "alerts"): speed.FastPipeline}
    made: Pipeline = kinds[extension is not None, what](matcher, table, builder, watch=watch)
    if isinstance(made, _Count):
        made.found = Counter()
    return made


def stream(recording: str, count: int) -> tuple[Iterator[bytes], list[Any]]:
    """Records, and the processes that ran before them."""
    if recording == "generated":
        return islice(ring_stream.records(count), count), []
    path = Path(recording)
    found = [Found(**{**item, "values": {key: tuple(value) if isinstance(value, list) else value
                                         for key, value in item["values"].items()}})
             for item in orjson.loads(path.with_suffix(".found").read_bytes())]
    return islice(_read(path), count), found


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size := file.read(_SIZE.size):
            yield file.read(_SIZE.unpack(size)[0])


def encoded(recording: Path, count: int, folder: Path) -> Path:
    """The recording's events as records with their sizes; beside them the processes that ran before. Made once."""
    status = recording.stat()
    name = hashlib.sha256(f"{recording.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]
    made = folder / f"ring-{name}-{count}.bin"
    if not made.exists():
        whole = ring.Ring(ring.Recording(recording, count))
        made.with_suffix(".found").write_bytes(orjson.dumps([asdict(found) for found in whole.found]))
        part = made.with_suffix(".part")
        with part.open("wb") as file:
            # As each ring of a processor counts: recordings hold several in the order of their times.
            written = _write(file, (ring.encode(replace(record, seq=number)) for number, record in enumerate(whole)))
            if written < count:
                _write(file, islice(whole.laps(1, count // written), count - written))
        part.rename(made)
    return made


def _write(file: BinaryIO, records: Iterable[bytes]) -> int:
    count = 0
    for record in records:
        file.write(_SIZE.pack(len(record)) + record)
        count += 1
    return count


def contender(kind: str, what: str, recording: str, count: int, paths: list[str]) -> dict[str, Any]:
    """Run one engine in this process."""
    extension = native.extension() if kind == "native" else None
    if kind == "native" and extension is None:
        raise SystemExit(f"bench_ring: {native.state()}; fix: tools/native")
    rules = list(content.load(content.discover(paths)).rules)
    before = peak_mb()
    records, found = stream(recording, count)
    pipeline, malformed = engine(extension, rules, what, found), Counter({"short": 0})
    done = spent = alerts = 0

    def write(_document: Any, made: list[Any]) -> None:
        nonlocal alerts
        alerts += len(made)

    while batch := list(islice(records, _BATCH)):
        begin = time.process_time_ns()
        pipeline.feed_batch([batch], malformed, write)
        spent += time.process_time_ns() - begin
        done += len(batch)
    matches = dict(pipeline.found) if isinstance(pipeline, _Count) else pipeline.counters.matches
    return {"events": done, "seconds": spent / 1e9, "matches": sum(matches.values()), "peak": peak_mb(),
            "above": peak_mb() - before, "malformed": +malformed, "rules": len(rules), "found": matches}


def rows(recording: Path, count: int, rules: list[str], folder: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Every engine over every stream."""
    found = []
    for name, source in ((recording.name, str(encoded(recording, count, folder))), ("generated", "generated")):
        for what in ("rules", "alerts"):
            for kind in ("pure", "native"):
                share = count if kind == "native" else max(1, count // _PURE_SHARE)
                command = [sys.executable, "-m", "tests.bench.bench_ring", "--contender", f"{kind},{what},{source}",
                           "--events", share, *(part for rule in rules for part in ("--rules", rule))]
                found.append((f"{name}, {what}, {kind}", run_json(command)))
    return found


def table(results: list[tuple[str, dict[str, Any] | None]]) -> str:
    """The results for people."""
    titles = ("events", "events/s", "matches", "peak MB", "above")
    lines = [f"{'records to rules; one core':48} {{:>10}} {{:>11}} {{:>9}} {{:>8}} {{:>6}}".format(*titles)]
    for name, result in results:
        if result is None:
            lines.append(f"{name:48} {'failed':>10}")
            continue
        lines.append(f"{name:48} {result['events']:>10,} {result['events'] / result['seconds']:>11,.0f} "
                     f"{result['matches']:>9,} {result['peak']:>8.1f} {result['above']:>6.1f}")
    lines.append("above: MB that the engine takes beyond the interpreter with its imports and the rules loaded")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print its table; exit status 1 if an engine failed."""
    parser = argparse.ArgumentParser(prog="bench_ring", description="Events a second from the kernel's records.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--recording", type=Path, help="JSON lines instead of the baseline's, or the example's")
    parser.add_argument("--rules", action="append", help="rule file or directory; default: public rules for Linux")
    parser.add_argument("--cache", type=Path, help="where records are kept", default=recorded.CACHE)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    rules = [str(Path(rule).resolve()) for rule in options.rules or default_paths()]
    if options.contender:
        print(json.dumps(contender(*options.contender.split(",", 2), options.events, rules)))
        return 0
    options.cache.mkdir(parents=True, exist_ok=True)
    results = rows(options.recording or recorded.available(make=False) or RECORDING, options.events, rules,
                   options.cache)
    print(table(results))
    return 0 if all(result is not None for _, result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
