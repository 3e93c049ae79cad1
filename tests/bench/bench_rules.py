"""Rule matching: events a second and peak memory, next to what else Python has, in one run.

    python -m tests.bench.bench_rules [--events N] [--recording FILE] [--rules PATH] [--cache DIR]

Each engine runs in a process of its own on one core; seconds are CPU seconds of that process, so a
busy machine changes little. Documents are decoded from JSON in small batches, as they would come
from a ring; decoding is timed apart. The alternatives get flat events, ready-made, and as many as
they can do in bearable time. All see the same first events, and their findings are compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from sensor import resources, schema
from sensor.rules import content, reference
from sensor.rules.matcher import Matcher
from sensor.rules.model import RuleSet
from sensor.rules.values import find
from tests.bench import events
from tests.conftest import ROOT, shared_data

_BATCH = 256
_SMALL = 20_000  # events that the naive reference and sqlite get
_TINY = 200  # events that the slowest gets

#: What the alternatives need, none of it a dependency of ours.
_PACKAGES = ("pysigma-backend-sqlite==2.0.0", "sigma-rule-matcher==0.1.0", "google-re2")

Document = dict[str, Any]


def default_paths() -> list[str]:
    """The rules to measure with: the public ones for Linux, or our own where they are absent."""
    try:
        return [str(shared_data("sigma", "linux"))]
    except pytest.skip.Exception:
        return [str(resources.rules_dir())]


def batches(path: Path, count: int) -> Iterator[list[bytes]]:
    """Lines of a JSON lines file, plain or zstd, in small batches."""
    with path.open("rb") as raw:
        stream: Any = raw
        if path.suffix == ".zst":
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            stream = io.BufferedReader(reader, 1 << 20)
        lines = islice((line for line in stream if b'"recording"' not in line[:40]), count)
        while batch := list(islice(lines, _BATCH)):
            yield batch


def peak_mb() -> float:
    """Largest resident set of this process so far."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def unique(document: Document, number: int) -> None:
    """Make every text that rules look at one that was never seen before."""
    process = document["process"]
    process["command_line"] += f" --request {number:x}"
    process["working_directory"] += f"/{number:x}"
    process["parent"]["command_line"] += f" {number:x}"
    if "file" in document:
        document["file"]["path"] += f".{number:x}"


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


def contender(name: str, path: Path, count: int, rules: list[str]) -> dict[str, Any]:
    """Run one of our own engines in this process."""
    start = time.process_time()
    loaded = content.load(content.discover(rules)).rules
    parsed = time.process_time()
    if name == "reference":
        result = measure(path, count, lambda document: reference.match(loaded, document))
    else:
        before = peak_mb()
        matcher = Matcher(loaded)
        built = time.process_time()
        result = measure(path, count, matcher.match, unique if name == "unique" else None)
        result |= {"build": built - parsed, "above": result["peak"] - before}
    return {**result, "rules": len(loaded), "load": parsed - start}


def flat_events(path: Path, count: int, target: Path) -> None:
    """The first events as the alternatives want them: Sigma's names, one level, a category each."""
    category = {action: name for name in ("process_creation", "file_event", "network_connection")
                for action in (schema.BY_ID[number].action for number in schema.SIGMA_CATEGORIES[name])}
    names = {sigma: key for sigma, key in schema.SIGMA_FIELDS.items() if sigma != "ImageLoaded"}
    with target.open("wb") as file:
        for lines in batches(path, count):
            for line in lines:
                document = orjson.loads(line)
                action = document["event"]["action"]
                kind = category.get(action, "other")
                if action == "file-open" and "access" in document["event"]["type"]:
                    kind = "other"
                flat = {sigma: find(document, key) for sigma, key in names.items()}
                flat = {sigma: str(value).lower() if isinstance(value, bool) else value
                        for sigma, value in flat.items() if value is not None}
                file.write(orjson.dumps({"category": kind, **flat}) + b"\n")


def alternatives_python(cache: Path) -> str | None:
    """A Python that has the other engines, made once in the cache; None where that can't be."""
    folder = cache / "alternatives"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *_PACKAGES], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"alternatives left out, can't be installed: {error}", file=sys.stderr)
            return None
        (folder / "complete").touch()
    return str(python)


def run_json(command: list[Any]) -> dict[str, Any] | None:
    """Output of a command that prints one JSON object; None, and its error shown, where it fails."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env=environment,
                          check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_all(path: Path, count: int, rules: list[str], cache: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Every engine on its share of the events."""
    own = [sys.executable, "-m", "tests.bench.bench_rules", "--recording", path, "--contender"]
    where = [part for rule in rules for part in ("--rules", rule)]
    small, tiny = min(_SMALL, count), min(_TINY, count)
    results = [
        ("ours", run_json([*own, "ours", "--events", count, *where])),
        ("ours, every text unique", run_json([*own, "unique", "--events", max(1, count // 5), *where])),
        ("ours, the same few events", run_json([*own, "ours", "--events", small, *where])),
        ("naive reference (ours)", run_json([*own, "reference", "--events", small, *where])),
    ]
    python = alternatives_python(cache)
    if python is not None:
        loaded = content.load(content.discover(rules))
        listed = cache / "rules.json"
        listed.write_text(json.dumps(sorted({rule.path for rule in loaded.rules})))
        script = Path(__file__).with_name("alternatives.py")
        for label, kind, size in (("pySigma sqlite backend, batch", "sqlite", small),
                                  ("sigma-rule-matcher", "matcher", tiny)):
            flat = cache / f"flat-{size}.jsonl"
            flat_events(path, size, flat)
            results.append((label, run_json([python, script, kind, listed, flat])))
    return results


def table(results: list[tuple[str, dict[str, Any] | None]], rules: RuleSet) -> str:
    """The results for people."""
    lines = [f"{len(rules.rules)} rules; one core; matching alone (decoding of JSON apart)",
             f"{'engine':32} {'events':>9} {'events/s':>11} {'decode too':>11} {'peak MB':>8} {'alerts':>8}"]
    for name, result in results:
        if result is None:
            lines.append(f"{name:32} {'failed':>9}")
            continue
        rate = result["events"] / result["seconds"]
        both = f"{result['events'] / (result['seconds'] + result['decode']):,.0f}" if "decode" in result else "-"
        lines.append(f"{name:32} {result['events']:>9,} {rate:>11,.0f} {both:>11} {result['peak']:>8.1f} "
                     f"{sum(result['found'].values()):>8,}")
        if result.get("refused"):
            lines.append(f"{'':32} {len(result['refused'])} rules raise an error there")
    best = dict(results)["ours"]
    if best is not None:
        lines.append(f"ours: loading {best['load']:.2f} s, compiling {best['build'] * 1000:.0f} ms, "
                     f"{best['above']:.1f} MB above the process with the rules loaded")
        rate = best["events"] / best["seconds"]
        others = [(name, result["events"] / result["seconds"]) for name, result in results
                  if result is not None and not name.startswith("ours")]
        lines += [f"ours is {rate / other:,.0f} times {name}" for name, other in others]
    lines += agreement(dict(results))
    return "\n".join(lines)


def agreement(results: dict[str, dict[str, Any] | None]) -> list[str]:
    """Whether the engines that saw the same events found the same."""
    ours = results.get("ours, the same few events")
    lines = []
    for name in ("naive reference (ours)", "pySigma sqlite backend, batch"):
        other = results.get(name)
        if ours is None or other is None or ours["events"] != other["events"]:
            continue
        refused = set(other.get("refused", ()))
        mine = {rule: count for rule, count in ours["found"].items() if rule not in refused}
        same = mine == other["found"]
        lines.append(f"same findings as {name}: {'yes' if same else 'no'}")
        if not same:
            differing = sorted(rule for rule in mine | other["found"] if mine.get(rule) != other["found"].get(rule))
            lines += [f"  {rule}: ours {mine.get(rule, 0)}, theirs {other['found'].get(rule, 0)}" for rule in differing]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print its table; exit status 1 if our engine failed."""
    parser = argparse.ArgumentParser(prog="bench_rules", description="Events a second of Sigma engines.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--recording", type=Path, help="JSON lines (.jsonl or .jsonl.zst) instead of generated events")
    parser.add_argument("--rules", action="append", help="rule file or directory; default: public rules for Linux")
    parser.add_argument("--cache", type=Path, help="where generated events and other engines are kept",
                        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sensor-bench")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    rules = options.rules or default_paths()
    if options.contender:
        print(json.dumps(contender(options.contender, options.recording, options.events, rules)))
        return 0
    options.cache.mkdir(parents=True, exist_ok=True)
    path = options.recording or events.cached(options.events, options.cache)
    results = run_all(path.resolve(), options.events, [os.path.abspath(rule) for rule in rules], options.cache)
    print(table(results, content.load(content.discover(rules))))
    return 0 if results[0][1] is not None else 1


if __name__ == "__main__":
    sys.exit(main())
