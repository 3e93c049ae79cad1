"""Other people's Sigma engines on the same events; run by a Python that has them installed.

    python alternatives.py sqlite|zircolite|matcher RULES.json EVENTS.jsonl FIELDS.json

RULES.json is a list of files; EVENTS.jsonl has events with ``category``, flat ones with Sigma's field
names, or nested ones for zircolite, which FIELDS.json gives Sigma's names. Prints one JSON object:
events, seconds of CPU (loading of rules excluded), ids of matching rules with their counts, largest
resident set in MB before and after, rules that the engine doesn't take.
Nothing of the sensor is imported here: the two need different versions of pySigma.
"""

from __future__ import annotations

import collections
import json
import re
import sqlite3
import sys
import time
from pathlib import Path


def load(path: str):
    """(category, id, text) of each rule."""
    from sigma.collection import SigmaCollection

    for name in json.loads(Path(path).read_text()):
        text = Path(name).read_text()
        rule = SigmaCollection.from_yaml(text).rules[0]
        yield rule.logsource.category, str(rule.id), text, rule


#: Columns that rules ask for, whatever the events have.
COLUMNS = {"CurrentDirectory", "ParentCommandLine", "LogonId", "User", "DestinationHostname", "Initiated"}


def database() -> sqlite3.Connection:
    """An empty one with the functions that the queries call."""
    import ipaddress

    import re2

    patterns: dict = {}

    def regexp(pattern, value):
        if pattern not in patterns:
            patterns[pattern] = re2.compile(pattern)
        return value is not None and patterns[pattern].search(str(value)) is not None

    def cidr(value, network):
        return value is not None and ipaddress.ip_address(value) in ipaddress.ip_network(network)

    base = sqlite3.connect(":memory:")
    base.create_function("REGEXP", 2, regexp, deterministic=True)
    for name in ("cidr_match", "CIDR_MATCH", "cidrmatch"):
        base.create_function(name, 2, cidr, deterministic=True)
    return base


def run_sqlite(rules: str, events: list[dict], refused: list[str]) -> tuple[float, dict]:
    """Flat events into a table per category, each rule's query over its own: kinder to sqlite than Zircolite is."""
    from sigma.backends.sqlite import sqliteBackend
    from sigma.collection import SigmaCollection

    backend, queries = sqliteBackend(), []
    for category, number, text, _ in load(rules):
        try:
            (query,) = backend.convert(SigmaCollection.from_yaml(text))
        except Exception:
            refused.append(number)
            continue
        where = query.replace("SELECT * FROM logs", f"SELECT COUNT(*) FROM {category}", 1)
        queries.append((category, number, where))
    columns = sorted({key for event in events for key in event if key != "category"} | COLUMNS)
    start = time.process_time()
    base = database()
    for category in {category for category, _, _ in queries}:
        base.execute(f"CREATE TABLE {category} ({', '.join(f'{name} TEXT COLLATE NOCASE' for name in columns)})")
        marks = ", ".join("?" * len(columns))
        base.executemany(f"INSERT INTO {category} VALUES ({marks})",
                         [tuple(map(event.get, columns)) for event in events if event["category"] == category])
    found = {}
    for _, number, query in queries:
        try:
            (count,) = base.execute(query).fetchone()
        except sqlite3.Error:
            refused.append(number)
            continue
        if count:
            found[number] = count
    return time.process_time() - start, found


def run_zircolite(rules: str, events: list[dict], refused: list[str], names: dict) -> tuple[float, dict]:
    """Nested events flattened and renamed, all into one table, each rule's query over that: as Zircolite works."""
    from sigma.backends.sqlite import sqliteBackend
    from sigma.collection import SigmaCollection

    backend, queries = sqliteBackend(), []
    for category, number, text, _ in load(rules):
        try:
            (query,) = backend.convert(SigmaCollection.from_yaml(text))
        except Exception:
            refused.append(number)
            continue
        head, _, condition = query.partition(" WHERE ")
        queries.append((number, f"{head} WHERE category = '{category}' AND ({condition})"))
    start = time.process_time()
    rows = [flattened(event, names) for event in events]
    columns = sorted({key for row in rows for key in row} | COLUMNS)
    base = database()
    base.row_factory = sqlite3.Row
    base.execute(f"CREATE TABLE logs ({', '.join(f'{quoted(name)} TEXT COLLATE NOCASE' for name in columns)})")
    for first in range(0, len(rows), 5000):
        base.executemany(f"INSERT INTO logs VALUES ({', '.join('?' * len(columns))})",
                         [tuple(map(row.get, columns)) for row in rows[first:first + 5000]])
    base.execute("CREATE INDEX by_category ON logs (category)")
    found = {}
    for number, query in queries:
        try:
            matched = [dict(row) for row in base.execute(query)]
        except sqlite3.Error:
            refused.append(number)
            continue
        if matched:
            found[number] = len(matched)
    return time.process_time() - start, found


def flattened(event: dict, names: dict) -> dict:
    """One level, keys with dots renamed to Sigma's where it has a name; lists joined."""
    flat: dict = {}
    stack = [("", event)]
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{place}.{key}" if place else key, inner) for key, inner in value.items()]
        elif isinstance(value, bool):
            flat[names.get(place, place)] = str(value).lower()
        elif isinstance(value, list):
            flat[names.get(place, place)] = " ".join(map(str, value))
        elif value is not None:
            flat[names.get(place, place)] = value
    return flat


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def run_matcher(rules: str, events: list[dict], refused: list[str]) -> tuple[float, dict]:
    """sigma-rule-matcher, one event and rule at a time."""
    from sigma_rule_matcher import RuleMatcher

    matchers = collections.defaultdict(list)
    for category, number, _, rule in load(rules):
        try:
            matchers[category].append((number, RuleMatcher(rule)))
        except Exception:
            refused.append(number)
    found: dict = collections.Counter()
    start = time.process_time()
    for event in events:
        for number, matcher in matchers.get(event["category"], ()):
            try:
                found[number] += matcher.match(event)
            except Exception:
                refused.append(number)
    return time.process_time() - start, {number: count for number, count in found.items() if count}


def resident() -> float:
    """Largest resident set so far, in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    """Run one engine."""
    kind, rules, path, names = sys.argv[1:]
    empty = resident()
    events = [json.loads(line) for line in Path(path).read_bytes().splitlines()]
    refused: list[str] = []
    if kind == "zircolite":
        seconds, found = run_zircolite(rules, events, refused, json.loads(Path(names).read_text()))
    else:
        seconds, found = {"sqlite": run_sqlite, "matcher": run_matcher}[kind](rules, events, refused)
    print(json.dumps({"events": len(events), "seconds": seconds, "found": found, "peak": resident(), "empty": empty,
                      "refused": sorted(set(refused))}))


if __name__ == "__main__":
    main()
