"""Targets of the rule engine: rules and conditions as text, events as JSON, and whole engines against each other."""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor import resources
from sensor.alerts import alert
from sensor.errors import UsageError
from sensor.hunting import condition_of
from sensor.outputs.ecs_json import EncodeError, encode
from sensor.outputs.table import _cells
from sensor.parquet import columns
from sensor.reading import Reader
from sensor.rules import content, explain, files, query, reference
from sensor.rules.correlation import correlator_of
from sensor.rules.falco.model import FalcoRule
from sensor.rules.matcher import Matcher
from sensor.rules.model import Rule, RuleSet, Source
from sensor.rules.sql import translate
from sensor.shape import DEPTH_LIMIT, depth
from tests.conftest import ROOT
from tests.fuzz.harness import Target, in_file
from tests.unit.rules_helpers import events, made, trees
from tests.unit.test_rules_batch import KEYS, arrays, nested, rows

Document = dict[str, Any]
_SIGMA_WORDS = ("|contains", "|all", "|re: ", "|cidr: ", "|base64offset", "|windash", "|fieldref: ", "|expand: ",
                "condition: ", " and not ", "1 of ", "all of them", "selection", "null", "timeframe", "correlation:",
                "type: temporal_ordered", "group-by:", "timespan: 1h", "\n---\n", "  - ", "'*'", "\\*", "%x%", "(a+)+$")
_FALCO_WORDS = ("- rule: ", "- macro: ", "- list: ", "condition: ", "override:", "append: true", "exceptions:",
                "comps: [", "values:", " and not ", "proc.aname[2]", "pmatch (", " in (", "val(", "tolower(",
                "glob '*'", "regex ", "evt.arg.flags", "fd.snet", "thread.cap_effective", "0x", "%proc.name",
                "enabled: false")


@cache
def shipped() -> RuleSet:
    """The default rules."""
    return content.load(content.discover([str(resources.rules_dir())]))


@cache
def recorded() -> tuple[Document, ...]:
    """A few documents of each kind, from the shipped recordings."""
    kept: dict[str, list[Document]] = {}
    for path in (ROOT / "docs/examples/intrusion.jsonl.zst", *sorted((ROOT / "tests/recordings").glob("*.zst"))):
        for document in Reader().documents(str(path)):
            group = kept.setdefault(document["event"]["action"], [])
            if len(group) < 3:
                group.append(document)
    return tuple(document for group in kept.values() for document in group)


def _loaded(data: bytes) -> None:
    """Rules of a file: refused, unsupported or sound; those that are sound run, and are told about."""
    path = in_file(data, ".yml")
    found = content.load([Source("fuzz.yml", path)], content.Limits(rules=50))
    for each in (*found.refused, *found.unsupported):
        assert str(each)
    if found.rules or found.correlations:
        _used(found)


def _used(found: RuleSet) -> None:
    matcher, correlator = Matcher(found.rules), correlator_of(found)
    for rule in found.rules:
        translate(condition_of(rule), columns(), lambda _: True)
        "\n".join(explain.lines(rule.condition, recorded()[0]))
        orjson.dumps(explain.facts(rule), default=str)
        if isinstance(rule, FalcoRule):
            _converted(rule)
    for document in recorded():
        matched = _agreed(matcher, found.rules, document)
        for rule in matched:
            encode(alert(document, rule))
        if correlator is not None:
            correlator.feed(document, matched)
    if correlator is not None:
        correlator.finish()


def _converted(rule: FalcoRule) -> None:
    from sensor.rules.falco.tosigma import CannotConvert, convert

    try:
        convert(rule)
    except CannotConvert as error:
        assert str(error)


def _agreed(matcher: Matcher, rules: Sequence[Rule], document: Mapping[str, Any]) -> Sequence[Rule]:
    matched = matcher.match(document)
    wanted = reference.match(rules, document)
    assert [rule.id for rule in matched] == [rule.id for rule in wanted], document
    return matched


def _condition(data: bytes) -> None:
    """A condition as ``sensor hunt`` takes it."""
    try:
        rule = query.parse(data.decode("utf-8", "surrogateescape"))
    except UsageError as error:
        assert str(error)
        return
    translate(condition_of(rule), columns(), lambda _: True)
    matcher = Matcher([rule])
    for document in recorded():
        _agreed(matcher, [rule], document)


@cache
def default_matcher() -> Matcher:
    """The default rules, compiled."""
    return Matcher(shipped().rules)


def _events(data: bytes) -> None:
    """Events of any shape under the default rules, all the way to the line of an alert."""
    correlator = correlator_of(shipped())
    assert correlator is not None
    for line in data.split(b"\n")[:20]:
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(document, dict):
            continue
        matched = _agreed(default_matcher(), shipped().rules, document)
        told = [alert(document, rule) for rule in matched]
        correlator.feed(document, matched)
        for each in told:
            try:
                encode(each)
            except EncodeError:
                assert depth(document) > DEPTH_LIMIT
            _cells(each, "")


@settings(database=None, deadline=None)
@given(st.lists(trees, min_size=1, max_size=4), st.lists(events(), min_size=1, max_size=4))
def _agree(conditions: Any, found: Any) -> None:
    rules = [made(number, tree) for number, tree in enumerate(conditions)]
    matcher = Matcher(rules)
    for _ in range(2):
        for document in found:
            _agreed(matcher, rules, document)


@settings(database=None, deadline=None)
@given(st.lists(trees, min_size=1, max_size=3), st.lists(rows(), min_size=1, max_size=6))
def _engines(conditions: Any, table: Any) -> None:
    """Stream, batch and SQL say what the reference says."""
    from sensor import native
    from sensor.rules.batch import BatchMatcher

    rules = [made(number, tree, events=("process-exec", "file-open")) for number, tree in enumerate(conditions)]
    stream = Matcher(rules)
    found = BatchMatcher(rules).match(arrays(table, folded=True))
    assert BatchMatcher(rules, native.extension()).match(arrays(table, folded=True)) == found
    answers = [_sql(condition_of(rule), table) for rule in rules]
    for number, row in enumerate(table):
        document = nested(row)
        wanted = _agreed(stream, rules, document)
        assert [rules[index].id for index in found.get(number, ())] == [rule.id for rule in wanted]
        for rule, answer in zip(rules, answers, strict=True):
            assert answer is None or answer[number] in (None, rule in wanted)


@cache
def _database() -> Any:
    try:
        import duckdb
    except ImportError:
        return None
    atexit.register(_database.cache_clear)  # else DuckDB complains of it at the end
    return duckdb.connect(config={"threads": 1})


def _sql(condition: Any, table: Sequence[Document]) -> list[bool | None] | None:
    database = _database()
    if database is None:
        return None
    import pyarrow as pa

    from sensor.hunting import takes

    database.register("recorded", pa.table(arrays(list(table), folded=False)))
    kinds = {key: columns()[key] for key in ("event.action", *KEYS)}
    expression = translate(condition, kinds, lambda pattern: takes(database, pattern))
    return [row[0] for row in database.execute(f"SELECT {expression.sql} FROM recorded",
                                               list(expression.parameters)).fetchall()]


def _random(count: int, size: int) -> list[bytes]:
    import random

    chance = random.Random(count)
    return [chance.randbytes(size) for _ in range(count)]


def lines() -> list[bytes]:
    """The same documents as lines of a recording."""
    return [encode(document).rstrip(b"\n") for document in recorded()]


def _rule_files() -> list[bytes]:
    return [path.read_bytes() for path in sorted(resources.rules_dir().rglob("*.yml"))
            if not files.is_samples(str(path))] + _seeds("*.sigma.yml")


def _seeds(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "tests/fuzz/seeds").glob(pattern))]


TARGETS = (
    Target("sigma", "files of Sigma rules, correlations and filters", _loaded, _rule_files, _SIGMA_WORDS, 8192, 150),
    Target("falco", "files of Falco's items", _loaded, lambda: _seeds("*.falco.yml"), _FALCO_WORDS, 8192),
    Target("condition", "conditions of sensor hunt", _condition,
           lambda: [b"Image|endswith: /nc and not (User: [root, 'it''s'] or process.exit_code|gt: 2)",
                    b"'needle' or process.args.1|re: '^-c$'", b"DestinationIp|cidr: 10.0.0.0/8"],
           ("|contains: ", "|re: ", " and ", " not ", "process.args.0", "null", "[a, b]"), 1024),
    Target("events", "events of any shape under the default rules", _events, lines,
           ('{"event":{"action":"', "process-exec", "null", "[]", "{}", "true", "1e308", '"\\u0000"')),
    Target("matcher", "random conditions on random events, against the reference",
           _agree.hypothesis.fuzz_one_input, lambda: _random(40, 400), (), 2048, 100),
    Target("engines", "stream, batch and SQL on random rows, against the reference",
           _engines.hypothesis.fuzz_one_input, lambda: _random(20, 400), (), 2048, 20),
)
