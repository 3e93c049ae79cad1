"""Other people's Sigma engines on the same events; run by a Python that has them installed.

    python alternatives.py sqlite|matcher RULES.json EVENTS.jsonl

RULES.json is a list of files; EVENTS.jsonl has flat events with Sigma's field names and
``category``. Prints one JSON object: events, seconds of CPU (loading of rules excluded), ids of
matching rules with their counts, peak resident set in MB, rules that the engine doesn't take.
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


def run_sqlite(rules: str, events: list[dict], refused: list[str]) -> tuple[float, dict]:
    """Events into a table per category, each rule's query over it: what Zircolite does, in batches."""
    import re2
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
    patterns: dict = {}

    def regexp(pattern, value):
        if pattern not in patterns:
            patterns[pattern] = re2.compile(pattern)
        return value is not None and patterns[pattern].search(str(value)) is not None

    def cidr(value, network):
        import ipaddress

        return value is not None and ipaddress.ip_address(value) in ipaddress.ip_network(network)

    columns = sorted({key for event in events for key in event if key != "category"}
                     | {"CurrentDirectory", "ParentCommandLine", "LogonId", "User", "DestinationHostname", "Initiated"})
    start = time.process_time()
    base = sqlite3.connect(":memory:")
    base.create_function("REGEXP", 2, regexp, deterministic=True)
    for name in ("cidr_match", "CIDR_MATCH", "cidrmatch"):
        base.create_function(name, 2, cidr, deterministic=True)
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


def main() -> None:
    """Run one engine."""
    kind, rules, path = sys.argv[1:]
    events = [json.loads(line) for line in Path(path).read_bytes().splitlines()]
    refused: list[str] = []
    seconds, found = {"sqlite": run_sqlite, "matcher": run_matcher}[kind](rules, events, refused)
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps({"events": len(events), "seconds": seconds, "found": found, "peak": peak,
                      "refused": sorted(set(refused))}))


if __name__ == "__main__":
    main()
