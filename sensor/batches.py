"""Replay of Parquet by columns: the same pairs of event and rule as by documents, many times faster.

Only for rules that look at one event: a correlation needs every event in order, as a document. What a
recording says about processes is taken as it stands: parents, users and containers were put into the
documents when they were recorded, so there is no process table to rebuild and nothing to enrich.

Columns are trusted where they hold the event's own values. A row with more than its columns can hold
(escaped bytes, foreign keys, values of another type) becomes a document, as does one whose action is
not ours. A file with foreign columns, or with alerts, which would repeat their events, is not read
this way at all.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from sensor import native, parquet
from sensor.alerts import alert
from sensor.arrow import distinct, integers
from sensor.columns import ColumnReader, Rows, Span, full, is_heavy, is_long, recording, spans
from sensor.ecs_input import ACTIONS
from sensor.outputs.ecs_json import Document
from sensor.reading import Limits, Reader
from sensor.replay import Piece
from sensor.rules.batch import ACTION, BatchMatcher
from sensor.rules.matcher import Matcher
from sensor.rules.model import Rule

if TYPE_CHECKING:
    from sensor.parquet_read import File

#: Of what one process does while another starts: with fewer spans for each it is faster alone, since reading has a
#: thread of its own there.
_SPANS_PER_WORKER = 48
_MOST_WORKERS = 8
_ROW = "row"  # a column beside those of a recording
_AHEAD = 2  # spans that are read before they are matched
#: Address space of a worker. pyarrow reserves more than it uses; a batch is some 100 MB at most.
_WORKER_BYTES = 8 << 30


@dataclass(slots=True)
class Chunk:
    """What some rows came to.

    ``hits`` are documents with the numbers of the rules that match. Where documents are not wanted, ``counts``
    says of these rules how many rows each matches.
    """

    events: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    hits: list[tuple[Document, tuple[int, ...]]] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    damage: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    """What every process needs to know."""

    path: str
    kind: str
    value_bytes: int
    rules: tuple[Rule, ...]
    documents: bool


def chunks(path: str, reader: Reader, rules: Sequence[Rule], workers: int | None = None, *,
           documents: bool = True) -> Iterator[Chunk] | None:
    """Match a Parquet recording by columns, in its order; None where it must be read as documents.

    Args:
        path: The file. Anything but sound Parquet of ours gives None, and no exception.
        reader: Its limits and kind of input are heeded; what is skipped is counted there.
        rules: Each looks at one event only.
        workers: Processes; None decides by the size of the file and the processors.
        documents: Whether the events that match are wanted, or only how many they are.

    Raises:
        HostError: pyarrow is missing.
    """
    if reader.kind == "ecs":
        return None
    file = recording(path)
    if file is None:
        return None
    todo = list(spans(file.metadata, reader.line_bytes))
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS, len(todo) // _SPANS_PER_WORKER)
    job = _Job(path, reader.kind, reader.line_bytes, tuple(rules), documents)
    return _accounted(_parallel(job, todo, workers) if workers > 1 else _alone(job, todo, file), path, reader)


def alerts(path: str, reader: Reader, rules: Sequence[Rule], *, documents: bool = True) -> Iterator[Piece] | None:
    """The same as what ``replay`` asks for: alerts, or no more than their numbers."""
    found = chunks(path, reader, rules, documents=documents)
    return None if found is None else (_piece(chunk, rules) for chunk in found)


def _piece(chunk: Chunk, rules: Sequence[Rule]) -> Piece:
    raised = [(document, made) for document, numbers in chunk.hits
              if (made := [alert(document, rules[number]) for number in numbers if not rules[number].silent])]
    counted = [(rules[number].id, rules[number].name, count) for number, count in sorted(chunk.counts.items())
               if not rules[number].silent]
    return Piece(chunk.events, raised, counted)


def _accounted(found: Iterator[Chunk], path: str, reader: Reader) -> Iterator[Chunk]:
    for chunk in found:
        for reason, count in chunk.skipped.items():
            reader.skip(reason, count)
        if chunk.damage:
            reader.skip("parquet")
            reader.note(path, f"reading stopped: {chunk.damage}")
        reader.advance(chunk.bytes)
        yield chunk


def _run(job: _Job, todo: Sequence[Span], file: File | None = None) -> Iterator[Chunk | None]:
    """The chunks of some spans, in this process, and None after each span."""
    import pyarrow as pa

    from sensor.parquet_read import File

    try:
        run = _Run(job, file or File(job.path))
        with ThreadPoolExecutor(1, "read") as ahead:  # pyarrow reads without the lock of the interpreter
            read = [ahead.submit(run.read, span) for span in todo[:_AHEAD]]
            run.compile()
            for number, span in enumerate(todo, _AHEAD):
                read += [ahead.submit(run.read, following) for following in todo[number:number + 1]]
                yield from run.span(span, read.pop(0).result)
                yield None
    except (pa.ArrowException, OSError, ValueError) as error:
        # What came before it in the same batch of rows is lost, too.
        yield Chunk(damage=str(error).partition("\n")[0][:200] or type(error).__name__)


def _alone(job: _Job, todo: Sequence[Span], file: File) -> Iterator[Chunk]:
    return (chunk for chunk in _run(job, todo, file) if chunk is not None)


class _Run:
    """Rules over row groups of a file."""

    def __init__(self, job: _Job, file: File) -> None:
        self._job, self._file = job, file
        self._place = {id(rule): number for number, rule in enumerate(job.rules)}
        self._batch = BatchMatcher(job.rules, native.extension())
        self._stream: Matcher | None = None  # most recordings need none
        names = self._file.schema.names
        wanted = self._batch.keys(names) | {ACTION, parquet.REST}
        self._columns = [name for name in names if name in wanted]
        self._ahead = ColumnReader(job.path, self._columns, file.metadata)
        self._read: tuple[int, Any] = (-1, None)  # a row group and all columns of it

    def compile(self) -> None:
        """Get ready to match, while the first rows are read."""
        self._batch.compile()

    def read(self, span: Span) -> Rows | None:
        """The columns that rules look at, None where rows have to be measured first. For a thread of its own."""
        long = is_long(self._file.metadata, span[0], self._job.value_bytes)  # such a one stands alone
        columns = {} if long else self._ahead.read(span)
        return None if long or is_heavy(columns, self._job.value_bytes) else columns

    def span(self, span: Span, read: Callable[[], Rows | None]) -> Iterator[Chunk]:
        """Match row groups that *read* gives the columns of."""
        import pyarrow as pa

        try:
            columns = read()
            found = None if columns is None else self._short(span, columns)
        except (pa.ArrowException, OSError, ValueError):
            if len(span) == 1:
                raise
            # One of them is damaged: those before it are not.
            reader = ColumnReader(self._job.path, self._columns, self._file.metadata)
            yield from (self._short((group,), reader.read((group,))) for group in span)
            return
        if found is not None:
            yield found
            return
        for group in span:
            yield from self._long(group)

    def _size(self, span: Span) -> int:
        return sum(self._file.metadata.row_group(group).total_byte_size for group in span)

    def _short(self, span: Span, columns: Rows) -> Chunk:
        """Match rows of which none is too long."""
        hits, odd = self._match(columns)
        chunk = Chunk(events=len(columns[ACTION]) - len(odd), bytes=self._size(span))
        if not self._job.documents:
            chunk.counts.update(chain.from_iterable(hits.values()))
            hits = {}
        told = sorted([*hits, *odd])
        ends = accumulate(self._file.metadata.row_group(group).num_rows for group in span)
        for group, (first, following) in zip(span, pairwise([0, *ends]), strict=True):
            some = [row for row in told if first <= row < following]
            if some:
                self._tell(chunk, self._full(group), some, hits, -first)
        return chunk

    def _full(self, group: int) -> Any:
        """All columns of a row group."""
        if self._read[0] != group:
            self._read = group, full(self._file, group)
        return self._read[1]

    def _long(self, group: int) -> Iterator[Chunk]:
        """Match rows that have to be measured first."""
        from sensor.parquet_read import pieces

        size, rows = self._size((group,)), max(1, self._file.metadata.row_group(group).num_rows)
        for batch in self._file.batches(group):
            chunk = Chunk(bytes=size * batch.num_rows // rows)
            for piece in pieces(batch, self._job.value_bytes, _skipper(chunk)):
                hits, odd = self._match(dict(zip(piece.schema.names, piece.columns, strict=True)))
                chunk.events += piece.num_rows - len(odd)
                if not self._job.documents:
                    chunk.counts.update(chain.from_iterable(hits.values()))
                    hits = {}
                self._tell(chunk, piece, sorted([*hits, *odd]), hits)
            yield chunk

    def _match(self, columns: Rows) -> tuple[dict[int, tuple[int, ...]], list[int]]:
        """Rows that match with their rules, and rows that need to become documents."""
        import pyarrow as pa
        import pyarrow.compute as pc

        actions, codes = distinct(columns[ACTION])
        odd = pc.is_in(codes, pa.array([code for code, each in enumerate(actions) if each not in ACTIONS], pa.int32()))
        rest = columns.get(parquet.REST)
        if rest is not None and rest.null_count < len(rest):
            odd = pc.or_(odd, rest.is_valid())
        rows = integers(pc.indices_nonzero(odd).cast("int64"))
        found = self._batch.match({key: column for key, column in columns.items() if key != parquet.REST})
        for row in rows:
            found.pop(row, None)
        return found, rows

    def _tell(self, chunk: Chunk, batch: Any, rows: list[int], hits: Mapping[int, tuple[int, ...]],
              shift: int = 0) -> None:
        """Add the documents of rows to a chunk: of hits, and of others where it is seen only now that they match.

        *shift* is how far on rows stand in the batch.
        """
        reader = Reader(self._job.kind, Limits(line_bytes=self._job.value_bytes))
        told = 0
        for row, document in _documents(batch, rows, shift, self._job.value_bytes, reader.skip):
            if row in hits:
                chunk.hits.append((document, hits[row]))
                told += 1
                continue
            for accepted in reader.accept(document):
                chunk.events += 1
                if numbers := self._seen_whole(accepted):
                    chunk.hits.append((accepted, numbers))
        chunk.events -= sum(row in hits for row in rows) - told  # too long by a column that no rule looks at
        chunk.skipped.update(reader.skipped)

    def _seen_whole(self, document: Document) -> tuple[int, ...]:
        """Numbers of the rules that match a document."""
        self._stream = self._stream or Matcher(self._job.rules)
        return tuple(self._place[id(rule)] for rule in self._stream.match(document))


def _documents(batch: Any, rows: list[int], shift: int, value_bytes: int,
               skip: Callable[[str, int], None]) -> Iterator[tuple[int, Document]]:
    """Those of the rows, each with its document, that are not too long."""
    import pyarrow as pa

    from sensor.parquet_read import SLICE_ROWS, documents, pieces

    names = batch.schema.names
    for start in range(0, len(rows), SLICE_ROWS):
        some = rows[start:start + SLICE_ROWS]
        taken = batch.take(pa.array([row + shift for row in some]))
        numbered = pa.record_batch([*taken.columns, pa.array(some, pa.int64())], [*names, _ROW])
        for piece in pieces(numbered, value_bytes, skip):
            yield from zip(integers(piece.column(len(names))), documents(piece.select(names)), strict=True)


def _skipper(chunk: Chunk) -> Callable[[str, int], None]:
    """A function that counts skipped rows in a chunk."""

    def skip(reason: str, count: int) -> None:
        chunk.skipped[reason] += count

    return skip


# -- several processes ------------------------------------------------------------------------------------


def _parallel(job: _Job, todo: Sequence[Span], workers: int) -> Iterator[Chunk]:
    """Spans dealt out to processes, their chunks in the order of the file.

    A worker writes chunks into its pipe and waits where nobody reads: no more is ever held than the
    pipes do, however far one of them could be ahead.
    """
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for number in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, daemon=True, args=(theirs, job, todo[number::workers]))
            process.start()
            theirs.close()
            started.append((process, ours))
        for number in range(len(todo)):
            yield from _received(started[number % workers][1])
    except _Ended as error:
        yield Chunk(damage=str(error))
    finally:
        for process, ours in started:
            ours.close()
            process.terminate()
            process.join()


class _Ended(Exception):
    """A worker can't go on."""


def _received(connection: Connection) -> Iterator[Chunk]:
    """The chunks of one span."""
    while True:
        try:
            chunk = connection.recv()
        except EOFError:
            raise _Ended("a process that read it ended early, perhaps for lack of memory") from None
        if chunk is None:
            return
        if chunk.damage:
            raise _Ended(chunk.damage)
        yield chunk


def _work(connection: Connection, job: _Job, todo: Sequence[Span]) -> None:
    """A worker's life."""
    import pyarrow as pa

    parquet.require()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (_WORKER_BYTES, hard))
    pa.set_cpu_count(1)
    try:
        for chunk in _run(job, todo):
            connection.send(chunk)
    except (BrokenPipeError, KeyboardInterrupt):
        pass  # nobody wants the rest
