"""Benign activity recorded, and what the rules say to it.

    sudo python -m tests.baseline record                 makes CACHE/benign.jsonl.zst: a quarter of an hour, 6 GB
    python -m tests.baseline report                      alerts per 100,000 events of it
    python -m tests.baseline distil                      and keeps the figures and a distillate in tests/data, for
                                                         docs/rules.md (then tools/generate) and the tests
    python -m tests.baseline show RULE                   events of it that raise an alert of a rule
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from sensor.errors import SensorError
from sensor.rules.model import RuleSet
from tests.baseline import DATA, distillate, recording
from tests.baseline.selection import Document, Engine, activities, rules


def _report(path: Path, ruleset: RuleSet, distil: bool) -> None:
    """Count alerts; with *distil* the figures and the distillate are kept for documents and tests."""
    engine, target = Engine(ruleset), DATA / "benign.jsonl.zst"
    documents = _noting(activities(path), seen := [""])
    count = distillate.write(distillate.distil(documents, engine), target) if distil else 0
    for document in documents:
        engine.feed(document)
    engine.finish()
    about = {rule.id: rule for rule in ruleset.every}
    print(f"{engine.events:,} events, {sum(engine.by_rule.values())} alerts of {len(engine.by_rule)} rules")
    for number, times in engine.by_rule.most_common():
        print(f"{times:>7} {times * 1e5 / engine.events:>8.2f}  {about[number].level:8} {about[number].name}")
    if distil:
        again = Engine(ruleset).over(target)
        _write("benign.expect.json", dict(sorted(again.by_rule.items())))
        alerts = dict(sorted(engine.by_rule.items()))
        _write("baseline.json", {"date": seen[0][:10], "events": engine.events, "alerts": alerts})
        print(f"{count:,} events kept, {target.stat().st_size:,} bytes, {sum(again.by_rule.values())} alerts")


def _noting(documents: Iterator[Document], time: list[str]) -> Iterator[Document]:
    for document in documents:
        time[0] = document["@timestamp"]
        yield document


def _write(name: str, value: object) -> None:
    (DATA / name).write_text(json.dumps(value, indent=1) + "\n")


def _show(path: Path, ruleset: RuleSet, wanted: str, most: int) -> None:
    engine = Engine(ruleset)
    for document in activities(path):
        for alert in engine.feed(document):
            rule = alert["rule"]
            if wanted in (rule["id"], rule["name"], "all") and (most := most - 1) >= 0:
                process = alert.get("process", {})
                print(rule["name"], alert.get("file", {}).get("path", ""), process.get("command_line", "")[:200],
                      process.get("executable"), process.get("ancestors"), sep=" | ")


def main() -> int:
    """Status: 0 done, 2 bad usage or rules, 3 the host lacks something."""
    parser = argparse.ArgumentParser(prog="python -m tests.baseline", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "report", "distil", "show"])
    parser.add_argument("rule", nargs="?", default="all", help="of show: id or title")
    parser.add_argument("--recording", type=Path, default=recording.cache() / "benign.jsonl.zst")
    parser.add_argument("--rules", action="append", default=[], help="default: those of the sensor")
    parser.add_argument("--activity", action="append", choices=recording.ACTIVITIES, help="of record; default: all")
    parser.add_argument("--requests", type=int, default=20_000, help="of record: that the web server gets")
    parser.add_argument("--most", type=int, default=20, help="of show: alerts shown")
    options = parser.parse_args()
    try:
        if options.command == "record":
            recording.record(options.recording, options.activity or recording.ACTIVITIES, options.requests)
        elif options.command in ("report", "distil"):
            _report(options.recording, rules(options.rules), options.command == "distil")
        else:
            _show(options.recording, rules(options.rules), options.rule, options.most)
    except SensorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
