"""Our own engine in its forms, each measured in a process of its own: ``python -m tests.bench.contenders NAME …``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from sensor import rulechild
from sensor.rules import reference
from sensor.rules.condition import And, Condition, Not, Or, Text
from sensor.rules.files import discover, gather
from sensor.rules.matcher import Matcher
from sensor.rules.model import Options, Rule
from tests.baseline.selection import lines_of

_BATCH = 32  # few enough to stay in the processor's cache: the live engine looks at a document as soon as it is made
#: What an empty interpreter takes: memory is told above it.
_EMPTY = "import re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"

Document = dict[str, Any]


def has_extension() -> bool:
    """Whether the optional C extension is built; SENSOR_NATIVE=0 leaves it unused."""
    return importlib.util.find_spec("sensor._speed") is not None


def batches(path: Path, count: int) -> Iterator[list[bytes]]:
    """The first *count* lines of a file, in small batches."""
    lines = islice(lines_of(path), count)
    while batch := list(islice(lines, _BATCH)):
        yield batch


def peak_mb() -> float:
    """Largest resident set of this process so far."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def empty_mb() -> float:
    """Largest resident set of an interpreter that does nothing."""
    return int(subprocess.check_output([sys.executable, "-S", "-c", _EMPTY])) / 1024


def unique(document: Document, number: int) -> None:
    """Make every text that rules look at one that was never seen before."""
    process = document.get("process", {})
    for holder, key in ((process, "command_line"), (process, "working_directory"),
                        (process.get("parent", {}), "command_line"), (document.get("file", {}), "path")):
        if key in holder:
            holder[key] += f"/{number:x}"


def measure(path: Path, count: int, match: Callable[[Document], Iterable[Any]],
            change: Callable[[Document, int], None] | None = None) -> dict[str, Any]:
    """Match *count* documents of a file; CPU seconds of decoding and of matching, and what was found."""
    decode = spent = 0
    found: Counter[str] = Counter()
    done, clock = 0, time.process_time_ns
    for lines in batches(path, count):
        start = clock()
        documents = [orjson.loads(line) for line in lines]
        decoded = clock()
        if change is not None:
            for number, document in enumerate(documents, done):
                change(document, number)
        begin = clock()
        answers = [match(document) for document in documents]
        spent += clock() - begin
        decode += decoded - start
        done += len(documents)
        for rules in answers:
            for rule in rules:
                found[rule.id] += 1
    return {"events": done, "seconds": spent / 1e9, "decode": decode / 1e9, "found": found, "peak": peak_mb()}


def by_columns(path: Path, rules: tuple[Rule, ...], workers: int, *, documents: bool) -> dict[str, Any]:
    """Batches over Parquet. Its seconds are those of a clock on the wall: reading has a thread of its own."""
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401  before the clock starts, as what the others need is imported

    from sensor.batches import chunks
    from sensor.reading import Reader

    found: Counter[str] = Counter()
    events, begin = 0, time.perf_counter()
    for chunk in chunks(str(path), Reader(), rules, workers, documents=documents) or ():
        events += chunk.events
        found.update({rules[number].id: count for number, count in chunk.counts.items()})
        found.update(rules[number].id for _, numbers in chunk.hits for number in numbers)
    seconds = time.perf_counter() - begin
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 * (workers if workers > 1 else 0)
    return {"events": events, "seconds": seconds, "found": found, "peak": peak_mb() + children}


def by_sql(path: Path, rules: tuple[Rule, ...]) -> dict[str, Any]:
    """DuckDB over Parquet, as `sensor hunt` does it. Seconds of a clock on the wall: it has a thread a processor."""
    import duckdb  # noqa: F401
    import pyarrow.parquet

    from sensor.hunting import Hunt
    from sensor.reading import Reader

    found: Counter[str] = Counter()
    begin = time.perf_counter()
    for _, matched in Hunt(rules).run(str(path), Reader()):
        found.update(rule.id for rule in matched)
    seconds = time.perf_counter() - begin
    events = pyarrow.parquet.ParquetFile(path).metadata.num_rows
    return {"events": events, "seconds": seconds, "found": found, "peak": peak_mb()}


def numbered(rules: tuple[Rule, ...], count: int) -> list[Rule]:
    """*count* rules: those given and, when they are used up, the same with other texts to look for."""
    made = []
    for number in range(count):
        rule, turn = rules[number % len(rules)], number // len(rules)
        made.append(rule if not turn else dataclasses.replace(
            rule, id=f"{rule.id}-{turn}", condition=_other(rule.condition, turn)))
    return made


def _other(condition: Condition, turn: int) -> Condition:
    if isinstance(condition, (And, Or)):
        return dataclasses.replace(condition, items=tuple(_other(item, turn) for item in condition.items))
    if isinstance(condition, Not):
        return Not(_other(condition.item, turn))
    if isinstance(condition, Text) and not condition.field.startswith("event."):
        return dataclasses.replace(condition, value=f"{condition.value}{turn}")
    return condition


def compiled(paths: list[str]) -> tuple[tuple[Rule, ...], bytes]:
    """Rules as the engine gets them: a child reads the files, so that this process has only what it made of them."""
    rules, data = rulechild.compile_rules(gather(discover(paths)), Options())
    return tuple(rules.rules), data


def _rules(name: str, paths: list[str]) -> tuple[Rule, ...]:
    if name == "warm":  # what the engine kept of an earlier start
        return tuple(rulechild.checked(Path(paths[0]).read_bytes()).rules)
    if name == "cold":
        from sensor.rules import content

        rulechild.collect_seldom()
        return tuple(content.load(discover(paths)).rules)
    return compiled(paths)[0]


def run(name: str, path: Path, count: int, paths: list[str]) -> dict[str, Any]:
    """One contender in this process. *name* may end in -N: with N rules, or processes."""
    start = time.process_time()
    rules = _rules(name, paths)
    parsed = time.process_time()
    result: dict[str, Any]
    if name == "reference":
        result = measure(path, count, lambda document: reference.match(rules, document))
    elif name.startswith("parquet"):
        _, workers, *documents = name.split("-")
        result = by_columns(path, rules, int(workers), documents=bool(documents))
    elif name == "sql":
        result = by_sql(path, rules)
    else:
        if name.startswith("curve-"):
            rules = tuple(numbered(rules, int(name.removeprefix("curve-"))))
        before, begun = peak_mb(), time.process_time()
        matcher = Matcher(rules)
        built = time.process_time()
        result = {"peak": peak_mb()} if name in ("cold", "warm") else \
            measure(path, count, matcher.match, unique if name == "unique" else None)
        # From the first instruction of the interpreter on, imports included.
        result |= {"build": built - begun, "above": result["peak"] - before, "ready": built}
    return {**result, "rules": len(rules), "load": parsed - start, "empty": empty_mb()}


def main() -> None:
    """Print what one contender came to, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("recording", type=Path)
    parser.add_argument("events", type=int)
    parser.add_argument("rules", nargs="+")
    options = parser.parse_args()
    print(json.dumps(run(options.name, options.recording, options.events, options.rules)))


if __name__ == "__main__":
    main()
