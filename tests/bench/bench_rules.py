"""Rule matching: events a second and memory, next to what else Python has, in one run.

    python -m tests.bench.bench_rules [--events N] [--recording FILE | --generated] [--record]
                                      [--rules PATH] [--cache DIR]

The events are those of a real machine (`python -m tests.baseline record` makes the recording, and so
does --record; shorter ones are repeated), or generated ones where there is no recording. Each engine
runs in a process of its own; seconds are CPU seconds of that process, so a busy machine changes
little, except where the work is shared by processes or threads: there they are those of a clock on
the wall, and it says so. Documents are decoded from JSON in small batches, as they would come from a
ring; decoding is timed apart. The alternatives get flat events, ready-made, and as many as they can do
in bearable time. All see the same first events, and their findings are compared.

What takes a second or less is run three times: the fastest counts, and the slowest is told.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from sensor import resources, schema
from sensor.rules import content
from sensor.rules.values import find
from tests.bench import contenders, events, recorded
from tests.conftest import ROOT, outside_data

_START_RULES = 248
_SMALL = 20_000  # events that the naive reference and sqlite get
_TINY = 200  # events that the slowest gets
_CURVE = (10, 100, 1_000, 3_000)  # rules
_CURVE_EVENTS = 100_000
_TURNS = 3  # of what takes no longer than a neighbour's burst of work

#: What the alternatives need, none of it a dependency of ours.
_PACKAGES = ("pysigma-backend-sqlite==2.0.0", "sigma-rule-matcher==0.1.0", "google-re2", "orjson")

Result = dict[str, Any]
FEW, SQLITE, ZIRCOLITE, NAIVE = ("ours, the same few events", "pySigma sqlite backend, a table a category",
                                 "Zircolite's method: flatten, one table", "naive reference (ours)")


def default_paths() -> list[str]:
    """The rules to measure with: the public ones for Linux, or our own where they are absent."""
    public = outside_data("sigma", "linux")
    return [str(public if public.exists() else resources.rules_dir())]


def flat_events(path: Path, count: int, target: Path) -> None:
    """The first events as the alternatives want them: Sigma's names, one level, a category each."""
    names = {sigma: key for sigma, key in schema.SIGMA_FIELDS.items() if sigma != "ImageLoaded"}
    with target.open("wb") as file:
        for document in _first(path, count):
            flat = {sigma: find(document, key) for sigma, key in names.items()}
            flat = {sigma: str(value).lower() if isinstance(value, bool) else value
                    for sigma, value in flat.items() if value is not None}
            file.write(orjson.dumps({"category": _category(document), **flat}) + b"\n")


def nested_events(path: Path, count: int, target: Path) -> None:
    """The first events as they are, with a category each: what has to be flattened first."""
    with target.open("wb") as file:
        for document in _first(path, count):
            file.write(orjson.dumps({"category": _category(document), **document}) + b"\n")


def _first(path: Path, count: int) -> Any:
    return (orjson.loads(line) for lines in contenders.batches(path, count) for line in lines)


_CATEGORY = {schema.BY_ID[number].action: name for name in ("process_creation", "file_event", "network_connection")
             for number in schema.SIGMA_CATEGORIES[name]}


def _category(document: Mapping[str, Any]) -> str:
    action = document["event"]["action"]
    if action == "file-open" and "access" in document["event"]["type"]:
        return "other"
    return _CATEGORY.get(action, "other")


def alternatives_python(cache: Path) -> str | None:
    """A Python that has the other engines, made once in the cache; None where that can't be."""
    folder = cache / "alternatives"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists() or complete.read_text() != " ".join(_PACKAGES):
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *_PACKAGES], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"alternatives left out, can't be installed: {error}", file=sys.stderr)
            return None
        complete.write_text(" ".join(_PACKAGES))
    return str(python)


def run_json(command: list[Any], **environment: str) -> Result | None:
    """Output of a command that prints one JSON object; None, and its error shown, where it fails."""
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONHASHSEED": "0", **environment})
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    result: Result = json.loads(done.stdout)
    return result


class Runs:
    """Runs contenders over one file of events."""

    def __init__(self, path: Path, rules: list[str]) -> None:
        self._path, self._rules = path, rules

    def ours(self, name: str, count: int, path: Path | None = None, **environment: str) -> Result | None:
        """One of our own engines."""
        return run_json([sys.executable, "-m", "tests.bench.contenders", name, path or self._path, count, *self._rules],
                        **environment)

    def short(self, name: str, count: int, path: Path | None = None, **environment: str) -> Result | None:
        """The fastest run of some; ``times`` are those of all, sorted."""
        results = [result for _ in range(_TURNS) if (result := self.ours(name, count, path, **environment))]
        best = min(results, key=_seconds, default=None)
        return best and {**best, "times": sorted(map(_seconds, results))}

    def engines(self, count: int) -> dict[str, Result | None]:
        """Our stream engine, by itself and with the extension where there is one, and the oracle of the tests."""
        small = min(_SMALL, count)
        found = {"ours, pure Python": self.ours("stream", count, SENSOR_NATIVE="0")}
        if contenders.has_extension():
            found["ours, with the extension"] = self.ours("stream", count)
        return found | {
            "ours, every text unique": self.ours("unique", max(1, count // 5)),
            FEW: self.ours("stream", small), NAIVE: self.ours("reference", small)}

    def columns(self, count: int) -> dict[str, Result | None]:
        """Engines over Parquet, on a clock on the wall."""
        parquet = recorded.parquet_of(self._path)
        return {"ours, Parquet": self.short("parquet-1", count, parquet),
                "ours, Parquet, pure Python": self.short("parquet-1", count, parquet, SENSOR_NATIVE="0"),
                "ours, Parquet, two processes": self.short("parquet-2", count, parquet),
                "ours, Parquet, with events that match": self.ours("parquet-1-documents", count, parquet),
                "ours, DuckDB's SQL over Parquet": self.ours("sql", count, parquet)}

    def alternatives(self, count: int, cache: Path) -> dict[str, Result | None]:
        """Other people's engines."""
        python = alternatives_python(cache)
        if python is None:
            return {}
        listed, fields = cache / "rules.json", cache / "fields.json"
        listed.write_text(json.dumps(sorted({rule.path for rule in content.load(content.discover(self._rules)).rules})))
        fields.write_text(json.dumps({key: name for name, key in schema.SIGMA_FIELDS.items() if name != "ImageLoaded"}))
        script, found = Path(__file__).with_name("alternatives.py"), {}
        for label, kind, size, make in ((SQLITE, "sqlite", _SMALL, flat_events),
                                        (ZIRCOLITE, "zircolite", _SMALL, nested_events),
                                        ("sigma-rule-matcher", "matcher", _TINY, flat_events)):
            size = min(size, count)
            given = cache / f"{kind}-{size}.jsonl"
            make(self._path, size, given)
            found[label] = run_json([python, script, kind, listed, given, fields])
        return found

    def curve(self, count: int) -> dict[int, Result | None]:
        """Our stream engine with more and more rules."""
        return {number: self.ours(f"curve-{number}", min(count, _CURVE_EVENTS)) for number in _CURVE}


def _seconds(result: Result) -> float:
    """What is compared of one run: matching, or, where nothing is matched, getting ready for it."""
    return float(result["seconds"] if "seconds" in result else result["load"] + result["build"])


def table(results: Mapping[str, Result | None], rules: int) -> list[str]:
    """The results for people."""
    lines = [f"{rules} rules; one core; matching alone (decoding of JSON apart)",
             f"{'engine':42} {'events':>9} {'events/s':>11} {'decode too':>11} {'MB above':>9} {'alerts':>8}"]
    for name, result in results.items():
        if result is None:
            lines.append(f"{name:42} {'failed':>9}")
            continue
        rate = result["events"] / result["seconds"]
        both = f"{result['events'] / (result['seconds'] + result['decode']):,.0f}" if "decode" in result else "-"
        lines.append(f"{name:42} {result['events']:>9,} {rate:>11,.0f} {both:>11} "
                     f"{result['peak'] - result['empty']:>9.1f} {sum(result['found'].values()):>8,}")
        if "times" in result:
            lines.append(f"{'':42} fastest of {len(result['times'])} runs; the slowest "
                         f"{result['events'] / result['times'][-1]:,.0f}/s")
        if result.get("refused"):
            lines.append(f"{'':42} {len(result['refused'])} rules raise an error there")
    return [*lines, "MB above: an interpreter that does nothing. Parquet and SQL: seconds of a clock on the wall."]


def ratios(results: Mapping[str, Result | None]) -> list[str]:
    """How our engine stands to the others."""
    name = next((name for name in ("ours, with the extension", "ours, pure Python") if results.get(name)), "")
    best = results.get(name)
    if best is None:
        return []
    rate = best["events"] / best["seconds"]
    own = (f"{name}: loading {best['load']:.2f} s, compiling {best['build'] * 1000:.0f} ms, "
           f"{best['above']:.1f} MB above the process with the rules loaded")
    return [own, *(f"{name} is {rate * result['seconds'] / result['events']:,.0f} times {other}"
              for other, result in results.items() if result is not None and not other.startswith("ours"))]


def curve_table(curve: Mapping[int, Result | None]) -> list[str]:
    """What more rules cost."""
    lines = [f"{'rules':>6} {'ns an event':>12} {'compiling, ms':>14} {'MB above':>9}"]
    for number, result in curve.items():
        lines.append(f"{number:>6,} " + ("failed" if result is None else
                     f"{result['seconds'] / result['events'] * 1e9:>12,.0f} {result['build'] * 1000:>14,.0f} "
                     f"{result['peak'] - result['empty']:>9.1f}"))
    return lines


def start_set(rules: list[str]) -> list[str]:
    """Files of as many rules as a start is measured with: those that come with the sensor, then some of the others."""
    own = [str(resources.rules_dir())]
    missing = _START_RULES - len(content.load(content.discover(own)).rules)
    others = [rule.path for rule in content.load(content.discover(rules)).rules if not rule.silent]
    return [*own, *list(dict.fromkeys(others))[:max(0, missing)]]


def starts(path: Path, rules: list[str], cache: Path) -> list[str]:
    """How long rules take until they can be matched: read from their files, and from what an earlier start kept."""
    kept, lines, files = cache / "compiled-rules", [], start_set(rules)
    kept.write_bytes(contenders.compiled(files)[1])
    for name, given, what in (("cold", files, "read from their files"), ("warm", [str(kept)], "kept compiled")):
        result = Runs(path, given).short(name, 0)
        if result is not None:
            lines.append(f"{result['rules']} rules, {what}: {_seconds(result):.2f} s, the fastest of {_TURNS} runs, "
                         f"the slowest {result['times'][-1]:.2f} s; from the "
                         f"interpreter's first instruction, imports too, {result['ready']:.2f} s, "
                         f"{result['peak'] - result['empty']:.1f} MB above an empty one")
    return lines


def agreement(results: Mapping[str, Result | None]) -> list[str]:
    """Whether the engines that saw the same events found the same."""
    lines = []
    pairs = [(FEW, NAIVE), (FEW, SQLITE), (FEW, ZIRCOLITE), ("ours, pure Python", "ours, with the extension"),
             *(("ours, pure Python", name) for name in results if "Parquet" in name)]
    for one, name in pairs:
        ours, other = results.get(one), results.get(name)
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
    parser.add_argument("--recording", type=Path, help="JSON lines (.jsonl or .jsonl.zst) instead of the baseline's")
    parser.add_argument("--record", action="store_true", help="make the baseline's recording where there is none: root")
    parser.add_argument("--generated", action="store_true", help="generated events, the same on every machine")
    parser.add_argument("--rules", action="append", help="rule file or directory; default: public rules for Linux")
    parser.add_argument("--cache", type=Path, help="where events and other engines are kept",
                        default=recorded.CACHE)
    options = parser.parse_args(arguments)
    rules = [os.path.abspath(rule) for rule in options.rules or default_paths()]
    options.cache.mkdir(parents=True, exist_ok=True)
    source = None if options.generated else options.recording or recorded.available(options.record)
    path = recorded.brought_to(source, options.events, options.cache) if source else \
        events.cached(options.events, options.cache)
    runs = Runs(path.resolve(), rules)
    print(f"{'recorded' if source else 'generated'} events: {source or path}", flush=True)
    results = runs.engines(options.events)
    results |= runs.columns(options.events)
    results |= runs.alternatives(options.events, options.cache)
    print("\n".join([*table(results, len(content.load(content.discover(rules)).rules)), *ratios(results),
                     *agreement(results), "", *curve_table(runs.curve(options.events)), ""]), flush=True)
    print("\n".join(starts(path, rules, options.cache)))
    return 0 if results["ours, pure Python"] is not None else 1


if __name__ == "__main__":
    sys.exit(main())
