"""sensor hunt finds what replay alerts on, in every format, and says plainly what it can't do."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from sensor import hunting, parquet, parquet_read, resources
from sensor.cli import call
from sensor.errors import UsageError
from sensor.hunting import Hunt, moment
from sensor.reading import Limits, Reader
from sensor.rules import content, query
from sensor.rules.condition import Number, Order, Present, Relation, Text, all_of, any_of, negate
from sensor.rules.matcher import Matcher
from tests.unit.output_samples import event
from tests.unit.test_batches import RECORDINGS, RULES, convert, odd_documents

pytest.importorskip("duckdb")


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_hunt_finds_the_pairs_of_replay_in_shipped_recordings(tmp_path, recording):
    """Every default rule, over lines and over Parquet."""
    rules = content.load(content.discover([str(resources.rules_dir())])).rules
    documents = list(Reader().documents(str(recording)))
    matcher = Matcher(rules)
    wanted = [(document, tuple(matched)) for document in documents if (matched := matcher.match(document))]
    assert wanted
    path = convert(tmp_path / "r.parquet", documents)
    assert list(Hunt(rules).run(str(recording), Reader())) == wanted
    assert list(Hunt(rules).run(path, Reader())) == wanted


@pytest.mark.parametrize("limit", [4 << 20, 1 << 19])
def test_odd_rows_are_found_and_skipped_as_by_replay(tmp_path, monkeypatch, limit):
    """Escaped bytes, foreign keys, long rows, in row groups and batches of a few rows."""
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 16)
    path = convert(tmp_path / "r*[1].parquet", odd_documents())
    monkeypatch.setattr(parquet_read, "_BATCH_ROWS", 5)
    limits, matcher = Limits(line_bytes=limit), Matcher(RULES)
    wanted = [(document, tuple(matched)) for document in Reader(limits=limits).documents(path)
              if (matched := matcher.match(document))]
    reader = Reader(limits=limits)
    assert list(Hunt(RULES).run(path, reader)) == wanted
    assert ("too_long" in reader.skipped) is (limit < 1 << 20)


TIMES = ["2026-11-21T10:00:00Z", "2026-11-21T10:00:00.000000000Z", "2026-11-21T10:00:00.5Z",
         "2026-11-21T11:59:59+02:00",
         "2026-11-21T12:00:00+02:00", "2026-11-21T10:00:00.499999999Z", "2026-11-21T09:59:59.999999999Z", "never", None]


@pytest.mark.parametrize(("since", "until"), [
    ("2026-11-21T10:00", None), (None, "2026-11-21T10:00"), ("2026-11-21T10:00:00.5Z", None),
    ("2026-11-21", "2026-11-21T10:00:00.500Z"), (None, None),
])
def test_period_is_the_same_for_every_format(tmp_path, since, until):
    """Times are compared as moments, however they are written; an event without one is in no period."""
    documents = [event(number) for number in range(len(TIMES))]
    for document, time in zip(documents, TIMES, strict=True):
        document["@timestamp"] = time
        if time is None:
            del document["@timestamp"]
    bounds = [moment(bound) if bound else None for bound in (since, until)]
    hunt = Hunt([query.parse("process.pid|exists: true")], *bounds)
    paths = [convert(tmp_path / f"r.{suffix}", documents) for suffix in ("jsonl", "parquet")]
    lines, rows = ([document for document, _ in hunt.run(path, Reader())] for path in paths)
    assert rows == lines
    assert len(lines) == len(documents) if since is until is None else 0 < len(lines) < len(documents)


EXE, CMD = "process.executable", "process.command_line"


@pytest.mark.parametrize(("text", "condition"), [
    ("Image|endswith: /nc", Text(EXE, Relation.SUFFIX, "/nc")),
    ("Image|endswith:/NC and CommandLine|contains: ' -e '", all_of(
        Text(EXE, Relation.SUFFIX, "/nc"), Text(CMD, Relation.CONTAINS, " -e "))),
    ("not (User: [root, 'it''s'] OR process.exit_code|gt: 2)", negate(any_of(
        Text("user.name", Relation.EQUALS, "root"), Text("user.name", Relation.EQUALS, "it's"),
        Number("process.exit_code", Order.GREATER, 2)))),
    ("User: null", negate(Present("user.name"))),
    ("ProcessId: 7 and UserId: '7'", all_of(Number("process.pid", Order.EQUAL, 7),
                                            Text("user.id", Relation.EQUALS, "7"))),
    ('"needle"', Text("*", Relation.CONTAINS, "needle")),
    ("Image: a*", Text(EXE, Relation.PREFIX, "a")),
])
def test_condition_is_read_as_sigma_would(text, condition):
    """Words of Sigma on one line."""
    assert query.parse(text).condition == condition


@pytest.mark.parametrize("text", [
    "", "Image", "Image:", "Image: [a", "Image: [a b]", "Image: x and", "Nope: x", "Image|nope: x", "Image|re: '('",
    "Image: 'x", "(Image: x", "Image: x)", "a" * 5000, "Image: x\nor User: y", "Image: \udc80", "1 of item*", "and",
])
def test_broken_condition_is_refused_with_a_reason(text):
    """One message, status 2."""
    with pytest.raises(UsageError):
        query.parse(text)


def test_status_and_output_of_the_command(tmp_path, capfd):
    """0 found, 1 nothing, 2 usage; lines, numbers and groups."""
    path = convert(tmp_path / "r.parquet", list(Reader().documents(str(RECORDINGS[0]))))

    def run(*words: str) -> tuple[int, str]:
        status = call(["hunt", *words])
        return status, capfd.readouterr().out

    status, number = run("Image|startswith: /", path, "--count")
    assert status == 0
    status, lines = run("Image|startswith: /", path)
    assert len(lines.splitlines()) == int(number)
    assert json.loads(lines.splitlines()[0])["event"]["kind"] == "event"
    status, groups = run("Image|startswith: /", path, "--group-by", "Image", "--format", "jsonl")
    counted = [json.loads(line) for line in groups.splitlines()]
    assert sum(each["events"] for each in counted) == int(number)
    assert counted == sorted(counted, key=lambda each: (-each["events"], each["value"]))
    assert run("Image|startswith: /", path, "--limit", "2", "--count") == (0, "2\n")
    assert run("Image: nothing", path) == (1, "")
    assert run("Image: nothing", path, "--count") == (1, "0\n")
    for words in (("no such rule", path), ("Image: x", str(tmp_path / "none")), ("Image: x", path, "--from", "noon"),
                  ("Image: x", path, "--count", "--group-by", "Image"), ("Image: x", path, "--group-by", "Imag")):
        assert run(*words) == (2, "")


def test_rule_is_found_by_id_title_and_file(tmp_path, capfd):
    """All of them give alerts of that rule."""
    rule = max(_matching(RECORDINGS[0]).items(), key=lambda item: item[1])[0]
    outputs = set()
    for what in (rule.id, rule.name.upper(), rule.path):
        assert call(["hunt", what, str(RECORDINGS[0])]) == 0
        outputs.add(capfd.readouterr().out)
    (output,) = outputs
    assert {json.loads(line)["rule"]["id"] for line in output.splitlines()} == {rule.id}


def _matching(recording: Path) -> dict[Any, int]:
    rules = content.load(content.discover([str(resources.rules_dir())])).rules
    matcher, counts = Matcher(rules), {}
    for document in Reader().documents(str(recording)):
        for rule in matcher.match(document):
            counts[rule] = counts.get(rule, 0) + 1
    return counts


def test_missing_duckdb_is_said_with_its_remedy(tmp_path, capfd, monkeypatch):
    """Status 3 and what to install; JSON lines are searched without it."""
    path = convert(tmp_path / "r.parquet", [event()])
    lines = convert(tmp_path / "r.jsonl", [event()])
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "duckdb":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert call(["hunt", "process.pid|exists: true", path]) == 3
    assert "pip install 'sensor[hunt]'" in capfd.readouterr().err
    assert call(["hunt", "process.pid|exists: true", lines]) == 0


def test_database_reads_nothing_but_the_recording(tmp_path):
    """What a query may touch is set before it runs, and can't be set again."""
    path = convert(tmp_path / "r.parquet", [event()])
    seen = []
    real = hunting._execute

    def spy(database: Any, sql: str, parameters: list[Any]) -> None:
        for hostile in ("SELECT * FROM read_text('/etc/passwd')", "SET enable_external_access = true",
                        "SELECT * FROM read_parquet('/etc/passwd')", "COPY (SELECT 1) TO '/tmp/sensor-copy'"):
            with pytest.raises(Exception, match=r"(?i)access|lock|permission|disabled"):
                database.execute(hostile)
            seen.append(hostile)
        real(database, sql, parameters)

    hunting._execute, before = spy, hunting._execute
    try:
        assert len(list(Hunt(RULES[:1]).run(path, Reader()))) <= 1
    finally:
        hunting._execute = before
    assert len(seen) == 4
