"""Replay by columns sees what replay by documents sees: events, skips, and pairs of event and rule."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import pytest

from sensor import arrow, batches, columns, parquet, parquet_read, resources
from sensor.cli import call
from sensor.reading import Limits, Reader
from sensor.record import open_recorder
from sensor.rules import content
from sensor.rules.condition import ANYWHERE, Present, Regex, Relation, Text, negate
from sensor.rules.matcher import Matcher
from tests.conftest import ROOT
from tests.unit.output_samples import CONNECT, event
from tests.unit.rules_helpers import made

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet as pq  # noqa: E402

RECORDINGS = [ROOT / "docs/examples/intrusion.jsonl.zst", *sorted((ROOT / "tests/recordings").glob("*.jsonl.zst"))]
RULES = [made(0, Text("process.command_line", Relation.CONTAINS, "a"), events=("process-exec",)),
         made(1, negate(Present("user.name")), events=("process-exec", "network-connect")),
         made(2, Regex(ANYWHERE, "e.*e"), events=("process-exec", "network-connect")),
         made(3, Text("process.args.1", Relation.EQUALS, "-c"), events=("process-exec",))]


def convert(path: Path, documents: list[dict[str, Any]]) -> str:
    recorder = open_recorder(path)
    for document in documents:
        recorder.write(document)
    recorder.close()
    return str(path)


def by_documents(path: str, rules, limits: Limits | None = None):
    reader, matcher, events, found = Reader("auto", limits), Matcher(rules), 0, []
    for document in reader.documents(path):
        events += 1
        matched = matcher.match(document)
        if matched:
            found.append((document, tuple(matched)))
    return events, found, reader.skipped


def by_columns(path: str, rules, limits: Limits | None = None, workers: int = 1):
    reader, events, found = Reader("auto", limits), 0, []
    chunks = batches.chunks(path, reader, rules, workers)
    assert chunks is not None
    for chunk in chunks:
        events += chunk.events
        found += [(document, tuple(rules[number] for number in numbers)) for document, numbers in chunk.hits]
    return events, found, reader.skipped


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_shipped_recordings_give_the_pairs_of_the_stream(tmp_path, recording):
    """With the default rules, in the same order, from the same number of events."""
    rules = content.load(content.discover([str(resources.rules_dir())])).rules
    documents = list(Reader().documents(str(recording)))
    path = convert(tmp_path / "r.parquet", documents)
    wanted = by_documents(path, rules)
    assert wanted[1]
    assert by_columns(path, rules) == wanted


def odd_documents() -> list[dict[str, Any]]:
    """Events with what columns can't hold, among ordinary ones, and rows that are no events."""
    found = [event(number) for number in range(60)]
    found[3]["process"]["args"] = ["sh", "-c", "\udcff\\"]
    found[4]["process"]["command_line"] = "a\udc80"
    found[5]["user"] = {"name": ""}
    found[6]["labels"] = {"team": ["needle e-e"]}
    found[7]["event"] = {"action": "dance"}
    found[8]["event"] = {"id": "x"}
    found[11]["event"]["action"] = "dance"  # still the start of a process, by category and type
    found[9]["process"]["pid"] = "12"
    found[10]["process"]["command_line"] = "a" * (1 << 20)
    return [*found, CONNECT]


def test_odd_rows_give_the_pairs_of_the_stream(tmp_path):
    """Escaped bytes, foreign keys, other types, unknown actions: the same events, pairs and counts."""
    path = convert(tmp_path / "r.parquet", odd_documents())
    wanted = by_documents(path, RULES)
    assert wanted[2] == {"unknown_event": 2}
    assert by_columns(path, RULES) == wanted


def test_rows_that_are_too_long_are_skipped_alike(tmp_path):
    """Whether a row group is short enough to be believed or each row has to be measured."""
    path = convert(tmp_path / "r.parquet", odd_documents())
    limits = Limits(line_bytes=1 << 19)
    wanted = by_documents(path, RULES, limits)
    assert wanted[2]["too_long"] == 1
    assert by_columns(path, RULES, limits) == wanted


def small_groups(path: Path, documents: list[dict[str, Any]], monkeypatch) -> str:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 16)
    return convert(path, documents)


def test_several_processes_give_the_same_in_order(tmp_path, monkeypatch):
    """Row groups are dealt out, and their chunks come in the order of the file."""
    path = small_groups(tmp_path / "r.parquet", odd_documents() * 2, monkeypatch)
    assert pq.ParquetFile(path).metadata.num_row_groups > 4
    assert by_columns(path, RULES, workers=3) == by_documents(path, RULES)


def test_batches_of_hits_and_without_are_paired_with_their_documents(tmp_path, monkeypatch):
    """The second reader, of all columns, starts late and skips batches, and stays in step."""
    documents = [event(number) for number in range(100)]
    for number in (37, 38, 90):
        documents[number]["process"]["command_line"] = f"needle {number}"
    path = convert(tmp_path / "r.parquet", documents)
    monkeypatch.setattr(parquet_read, "_BATCH_ROWS", 8)
    rules = [made(0, Text("process.command_line", Relation.PREFIX, "needle"))]
    _, found, _ = by_columns(path, rules)
    assert [document for document, _ in found] == [documents[number] for number in (37, 38, 90)]


@pytest.mark.parametrize("table", [
    {"event.action": ["process-exec"], "n": [1]},
    {"event.action": ["process-exec"], "event.kind": ["alert"]},
    {"event.action": [1]},
    {"process.pid": [1]},
])
def test_files_that_need_documents_are_left_to_them(tmp_path, table):
    """Foreign columns, alerts that repeat events, no action."""
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table(table), path)
    assert batches.chunks(str(path), Reader(), RULES) is None


def test_what_is_no_parquet_is_left_to_others(tmp_path):
    """JSON lines, nothing, damage, a directory; and input that is to be normalised."""
    path = tmp_path / "r"
    for data in (b"{}\n", b"", b"PAR1", b"PAR1" + b"\xff" * 500 + b"PAR1"):
        path.write_bytes(data)
        assert batches.chunks(str(path), Reader(), RULES) is None
    assert batches.chunks(str(tmp_path), Reader(), RULES) is None
    good = convert(tmp_path / "r.parquet", [event()])
    assert batches.chunks(good, Reader("ecs"), RULES) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_damage_ends_the_recording_and_is_counted(tmp_path, monkeypatch, workers):
    """What lies before it is used, in one process and in several."""
    path = small_groups(tmp_path / "r.parquet", [event(number) for number in range(160)], monkeypatch)
    group = pq.ParquetFile(path).metadata.row_group(5)
    column = next(found for each in range(group.num_columns)
                  if (found := group.column(each)).path_in_schema == "process.command_line")
    data = bytearray(Path(path).read_bytes())
    start = column.dictionary_page_offset
    data[start:start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    Path(path).write_bytes(data)
    events, _, skipped = by_columns(path, RULES, workers=workers)
    assert events == 80
    assert skipped == {"parquet": 1}


@pytest.mark.parametrize(("rows", "size"), [(64, 1 << 30), (1 << 30, 4096), (12, 1 << 30)])
def test_what_is_read_at_once_is_bounded_in_rows_and_bytes(tmp_path, monkeypatch, rows, size):
    """Small groups that are heavy, groups of very many rows; and whatever is read at once, the same is found."""
    path = small_groups(tmp_path / "r.parquet", odd_documents() * 2, monkeypatch)
    monkeypatch.setattr(columns, "SPAN_ROWS", rows)
    monkeypatch.setattr(columns, "_SPAN_BYTES", size)
    metadata = pq.ParquetFile(path).metadata
    found = list(columns.spans(metadata, 4 << 20))
    assert [group for span in found for group in span] == list(range(metadata.num_row_groups))
    for span in found:
        groups = [metadata.row_group(group) for group in span]
        assert len(span) == 1 or (sum(group.num_rows for group in groups) <= rows
                                  and sum(group.total_byte_size for group in groups) <= size)
    assert by_columns(path, RULES) == by_documents(path, RULES)


def test_values_that_are_no_utf8_are_damage(tmp_path):
    """A file of others may hold anything in its texts."""
    raw = pa.array([b"process-exec", b"process-exec"])
    line = pa.array([b"fine", b"\xff\xfe"])
    table = pa.Table.from_arrays([raw, line], names=["event.action", "process.command_line"])
    path = tmp_path / "r.parquet"
    cast = pa.schema([("event.action", pa.string()), ("process.command_line", pa.string())])
    pq.write_table(table.cast(cast, safe=False), path)
    assert by_columns(str(path), RULES)[2] == {"parquet": 1}
    assert by_documents(str(path), RULES)[2] == {"parquet": 1}


def test_where_only_numbers_are_wanted_they_are_the_same(tmp_path, monkeypatch):
    """Counts by rule, and hits of rows that had to become documents anyway."""
    path = small_groups(tmp_path / "r.parquet", odd_documents() * 2, monkeypatch)
    for workers in (1, 2):
        wanted = Counter(rule.id for _, rules in by_documents(path, RULES)[1] for rule in rules)
        reader, events, found = Reader(), 0, Counter()
        for chunk in batches.chunks(path, reader, RULES, workers, documents=False) or ():
            events += chunk.events
            found.update({RULES[number].id: count for number, count in chunk.counts.items()})
            found.update(RULES[number].id for _, numbers in chunk.hits for number in numbers)
        assert (events, found, reader.skipped) == (by_documents(path, RULES)[0], wanted, {"unknown_event": 4})


#: Rules of which each looks at one event.
SINGLE = ("--rules", "rules/persistence", "--rules", "rules/credential_access")


def test_the_summary_of_parquet_is_that_of_lines(tmp_path, capfd, monkeypatch):
    """The command makes no documents for it, and tells the same."""
    monkeypatch.setattr(parquet_read, "read", None)
    monkeypatch.setattr(parquet_read, "documents", None)
    lines = str(RECORDINGS[0])
    path = convert(tmp_path / "r.parquet", list(Reader().documents(lines)))
    said = []
    for recording in (lines, path):
        assert call(["replay", recording, "--format", "summary", *SINGLE]) == 0
        out, _ = capfd.readouterr()
        said.append([line for line in out.splitlines()[:-1] if not line.startswith("skipped")])
    assert said[0] == said[1]
    assert len(said[0]) > 3


@pytest.mark.parametrize("extra", [(), SINGLE])
def test_replay_of_parquet_ends_as_that_of_lines(tmp_path, extra, capfd, monkeypatch):
    """The command's output and summary, but for the time it took, are the same for both formats."""
    if extra:
        monkeypatch.setattr(parquet_read, "read", None)  # by columns, then
    lines = str(RECORDINGS[0])
    path = convert(tmp_path / "r.parquet", list(Reader().documents(lines)))

    def replayed(recording: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        assert call(["replay", recording, "--format", "jsonl", *extra]) == 0
        out, err = capfd.readouterr()
        summary = json.loads(err.splitlines()[-1])
        summary["skipped"].pop("abi", None)  # lines say which event table they were recorded under; columns don't
        return [json.loads(line) for line in out.splitlines()], {
            key: value for key, value in summary.items() if "second" not in key}

    monitored = replayed(lines)
    assert monitored[0]
    assert replayed(path) == monitored


def lists_of(rows: int, texts: list[str], items: Any) -> Any:
    """So many lists of the texts whose places items(row) gives, all in one dictionary."""
    places = [items(row) for row in range(rows)]
    offsets = [0, *accumulate(map(len, places))]
    values = pa.DictionaryArray.from_arrays(pa.array([*chain(*places)], pa.int32()), pa.array(texts))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def write_lists(path: Path, lists: Any, **options: Any) -> str:
    """A recording of others: the file does not say that its lists were folded."""
    table = pa.table({"event.action": ["process-exec"] * len(lists), "process.args": lists})
    pq.write_table(table, path, store_schema=False, **options)
    return str(path)


ARGS = [made(0, Text("process.args.1", Relation.EQUALS, "a7"), events=("process-exec",)),
        made(1, Text("process.args", Relation.CONTAINS, "xa"), events=("process-exec",)),
        made(2, Regex("process.args", "^a3$"), events=("process-exec",))]


def test_a_dictionary_of_lists_that_ends_early_is_read_on(tmp_path):
    """What was written after it had grown too large is folded, too."""
    lists = pa.array([[f"a{row % 20}", f"a{row % 9000}"] if row % 50 else [] for row in range(20_000)],
                     pa.list_(pa.string()))
    path = write_lists(tmp_path / "r.parquet", lists, dictionary_pagesize_limit=20_000, data_page_size=1000)
    (column,) = parquet_read.File(path).table(0, ["process.args"]).columns
    assert (column.num_chunks, column.type) == (1, arrow.folded_type())
    events, found, skipped = by_columns(path, ARGS)
    assert (events, skipped) == (20_000, {})
    assert [document["process"]["args"] for document, _ in found] == [
        row for row in lists.to_pylist() if row[1:] == ["a7"] or "a3" in row]


@pytest.mark.parametrize("folded", [True, False])
def test_lists_of_other_writers_are_matched_like_ours(tmp_path, monkeypatch, folded):
    """Another name for their items; and a way of writing them that Arrow does not read folded."""
    lists = pa.array([[f"a{row % 9}", f"a{row % 10}"] for row in range(300)], pa.list_(pa.string()))
    path = write_lists(tmp_path / "r.parquet", lists, use_compliant_nested_type=False)
    texts = parquet_read.File._texts
    if not folded:
        monkeypatch.setattr(parquet_read.File, "_texts", lambda self, plain: [
            name for name in texts(self, plain) if "." not in name.removeprefix("event.")])
    assert (parquet_read.File(path).schema.field("process.args").type == arrow.folded_type()) is folded
    events, found, skipped = by_columns(path, ARGS)
    assert (events, skipped) == (300, {})
    assert found
    assert (events, found, skipped) == by_documents(path, ARGS)


def test_foreign_columns_in_which_texts_unfold_are_read_in_few_rows(tmp_path):
    """Structures and lists of lists come as documents, a few at a time."""
    rows = [{"event": {"action": "process-exec"}, "more": [["x"], [str(number)]]} for number in range(200)]
    path = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert max(batch.num_rows for batch in parquet_read.File(str(path)).batches(0)) == 64
    assert list(Reader().documents(str(path))) == rows


@pytest.mark.parametrize(("limit", "heavy"), [(64, 1 << 20), (1 << 20, 100)])
def test_lists_that_unfold_to_too_much_are_measured_first(tmp_path, monkeypatch, limit, heavy):
    """A row that is too long by texts that it has again and again, or too many of them together: the same pairs."""
    monkeypatch.setattr(columns, "_UNFOLDED_BYTES", heavy)
    lists = lists_of(300, ["x" * 10, *(f"a{number}" for number in range(9))],
                     lambda row: [0] * (row % 9) + [1 + row % 9])
    path = write_lists(tmp_path / "r.parquet", lists, row_group_size=64)
    limits = Limits(line_bytes=limit)
    events, found, skipped = by_columns(path, ARGS, limits)
    assert found
    assert (events, found, skipped) == by_documents(path, ARGS, limits)
    assert bool(skipped) == (limit == 64)


_BOMB = """
import sys
from pathlib import Path
from tests.unit.test_batches import ARGS, by_columns, by_documents
events, found, _ = (by_columns if sys.argv[2] == "columns" else by_documents)(sys.argv[1], ARGS)
print(events, len(found), int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10)
"""


@pytest.mark.parametrize("way", ["columns", "documents"])
def test_a_long_text_in_many_lists_is_not_unfolded(tmp_path, way):
    """Half a gigabyte of arguments, out of a file of a few kilobytes: they are not held at once."""
    lists = lists_of(1000, ["x" * 500_000, *(f"a{number}" for number in range(500))], lambda row: [0, 1 + row % 500])
    path = write_lists(tmp_path / "bomb.parquet", lists)
    assert Path(path).stat().st_size < 1 << 20
    command = [sys.executable, "-c", _BOMB, path, way]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    events, found, megabytes = map(int, done.stdout.split())
    assert (events, found) == (1000, 4)
    assert megabytes < 350
