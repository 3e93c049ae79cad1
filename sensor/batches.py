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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from sensor.alerts import alert
from sensor.ecs_input import ACTIONS
from sensor.outputs.ecs_json import Document
from sensor.reading import Limits, Reader
from sensor.rules.batch import ACTION, BatchMatcher
from sensor.rules.matcher import Matcher
from sensor.rules.model import Rule

#: Workers start in half a second each; below this many row groups (of 16,384 rows) one process is faster.
_GROUPS_PER_WORKER = 4
_MOST_WORKERS = 8
#: Address space of a worker. pyarrow reserves more than it uses; a batch is some 100 MB at most.
_WORKER_BYTES = 8 << 30
_KIND = "event.kind"


@dataclass(slots=True)
class Chunk:
    """What one batch of rows came to. ``hits`` are documents with the numbers of the rules that match."""

    events: int = 0
    bytes: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    hits: list[tuple[Document, tuple[int, ...]]] = field(default_factory=list)
    damage: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    """What every process needs to know."""

    path: str
    kind: str
    value_bytes: int
    rules: tuple[Rule, ...]


def chunks(path: str, reader: Reader, rules: Sequence[Rule], workers: int | None = None) -> Iterator[Chunk] | None:
    """Match a Parquet recording by columns, in its order; None where it must be read as documents.

    Args:
        path: The file. Anything but sound Parquet of ours gives None, and no exception.
        reader: Its limits and kind of input are heeded; what is skipped is counted there.
        rules: Each looks at one event only.
        workers: Processes; None decides by the size of the file and the processors.

    Raises:
        HostError: pyarrow is missing.
    """
    if reader.kind == "ecs":
        return None
    groups = groups_of(path)
    if groups is None:
        return None
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS, groups // _GROUPS_PER_WORKER)
    job = _Job(path, reader.kind, reader.line_bytes, tuple(rules))
    return _accounted(_parallel(job, groups, workers) if workers > 1 else _alone(job, range(groups)), path, reader)


def alerts(path: str, reader: Reader, rules: Sequence[Rule],
           ) -> Iterator[tuple[int, list[tuple[Document, list[Document]]]]] | None:
    """The same as numbers of events with the alerts of those that raise some: what ``replay`` asks for."""
    found = chunks(path, reader, rules)
    return None if found is None else ((chunk.events, [
        (document, made) for document, numbers in chunk.hits
        if (made := [alert(document, rules[number]) for number in numbers if not rules[number].silent])
    ]) for chunk in found)


def _accounted(found: Iterator[Chunk], path: str, reader: Reader) -> Iterator[Chunk]:
    for chunk in found:
        for reason, count in chunk.skipped.items():
            reader.skip(reason, count)
        if chunk.damage:
            reader.skip("parquet")
            reader.note(path, f"reading stopped: {chunk.damage}")
        reader.advance(chunk.bytes)
        yield chunk


def groups_of(path: str) -> int | None:
    """Number of row groups of a recording that may be read by columns, else None."""
    try:
        with open(path, "rb") as stream:
            if stream.read(4) != b"PAR1" or not stream.seekable():
                return None
    except OSError:
        return None  # said by whoever reads it as documents
    from sensor import parquet

    parquet.require()
    import pyarrow as pa

    try:
        file = parquet.open_file(path)
        if not parquet.regular(file.schema_arrow) or ACTION not in file.schema_arrow.names:
            return None
        kinds = [_KIND] if _KIND in file.schema_arrow.names else []
        for batch in file.iter_batches(columns=kinds) if kinds else ():
            if "alert" in batch.column(0).dictionary.to_pylist():
                return None
        return int(file.metadata.num_row_groups)
    except (pa.ArrowException, OSError, ValueError):
        return None


def _run(job: _Job, groups: Sequence[int]) -> Iterator[Chunk | None]:
    """The chunks of some row groups, in this process, and None after each group."""
    import pyarrow as pa

    from sensor import parquet

    try:
        run = _Run(job)
        for group in groups:
            yield from run.group(group)
            yield None
    except (pa.ArrowException, parquet.Damaged, OSError, ValueError) as error:
        # What came before it in the same batch of rows is lost, too.
        yield Chunk(damage=str(error).partition("\n")[0][:200] or type(error).__name__)


def _alone(job: _Job, groups: Sequence[int]) -> Iterator[Chunk]:
    return (chunk for chunk in _run(job, groups) if chunk is not None)


class _Run:
    """Rules over row groups of a file."""

    def __init__(self, job: _Job) -> None:
        from sensor import parquet

        self._job = job
        self._file = parquet.open_file(job.path)
        self._place = {id(rule): number for number, rule in enumerate(job.rules)}
        self._batch, self._stream = BatchMatcher(job.rules), Matcher(job.rules)
        names = self._file.schema_arrow.names
        wanted = self._batch.keys(names) | {ACTION, parquet.REST}
        self._columns = [name for name in names if name in wanted]

    def group(self, number: int) -> Iterator[Chunk]:
        from sensor import parquet

        whole: Iterator[Any] | None = None  # the same batches with all columns, read from the first hit on
        size = self._file.metadata.row_group(number).total_byte_size
        rows = max(1, self._file.metadata.row_group(number).num_rows)
        short = size <= self._job.value_bytes  # no row is longer than the group that it is in
        columns = self._columns if short else None
        behind = 0
        for batch in self._file.iter_batches(parquet.BATCH_ROWS, row_groups=[number], columns=columns):
            chunk = Chunk(bytes=size * batch.num_rows // rows)
            for piece in [batch] if short else parquet.pieces(batch, self._job.value_bytes, _skipper(chunk)):
                hits, odd = self._match(piece)
                chunk.events += piece.num_rows - len(odd)
                full = piece
                if short and (hits or odd):
                    if whole is None:
                        whole = self._file.iter_batches(parquet.BATCH_ROWS, row_groups=[number])
                    for _ in range(behind):
                        next(whole)
                    behind, full = -1, next(whole)
                    if full.num_rows != piece.num_rows:
                        raise ValueError("columns of one row group have different batches")
                self._tell(chunk, full, hits, odd)
            behind += 1
            yield chunk

    def _match(self, batch: Any) -> tuple[dict[int, tuple[int, ...]], list[int]]:
        """Rows that match with their rules, and rows that need to become documents."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from sensor import parquet
        from sensor.arrow import distinct, integers

        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        actions, codes = distinct(columns[ACTION])
        odd = pc.is_in(codes, pa.array([code for code, each in enumerate(actions) if each not in ACTIONS], pa.int32()))
        rest = columns.pop(parquet.REST, None)
        if rest is not None and rest.null_count < len(rest):
            odd = pc.or_(odd, rest.is_valid())
        rows = integers(pc.indices_nonzero(odd).cast("int64"))
        found = self._batch.match(columns)
        for row in rows:
            found.pop(row, None)
        return found, rows

    def _tell(self, chunk: Chunk, batch: Any, hits: dict[int, tuple[int, ...]], odd: list[int]) -> None:
        """Add the documents of hits, and of odd rows that match, to a chunk, in the order of rows."""
        import pyarrow as pa

        from sensor import parquet

        reader = Reader(self._job.kind, Limits(line_bytes=self._job.value_bytes))
        rows = sorted([*hits, *odd])
        for start in range(0, len(rows), parquet.SLICE_ROWS):
            some = rows[start:start + parquet.SLICE_ROWS]
            for row, document in zip(some, parquet.documents(batch.take(pa.array(some))), strict=True):
                if row in hits:
                    chunk.hits.append((document, hits[row]))
                    continue
                for accepted in reader.accept(document):
                    chunk.events += 1
                    numbers = tuple(self._place[id(rule)] for rule in self._stream.match(accepted))
                    if numbers:
                        chunk.hits.append((accepted, numbers))
        for reason, count in reader.skipped.items():
            chunk.skipped[reason] = chunk.skipped.get(reason, 0) + count


def _skipper(chunk: Chunk) -> Callable[[str, int], None]:
    """A function that counts skipped rows in a chunk."""

    def skip(reason: str, count: int) -> None:
        chunk.skipped[reason] = chunk.skipped.get(reason, 0) + count

    return skip


# -- several processes ------------------------------------------------------------------------------------


def _parallel(job: _Job, groups: int, workers: int) -> Iterator[Chunk]:
    """Row groups dealt out to processes, their chunks in the order of the file.

    A worker writes chunks into its pipe and waits where nobody reads: no more is ever held than the
    pipes do, however far one of them could be ahead.
    """
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for number in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, daemon=True, args=(theirs, job, range(number, groups, workers)))
            process.start()
            theirs.close()
            started.append((process, ours))
        for group in range(groups):
            yield from _received(started[group % workers][1])
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
    """The chunks of one row group."""
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


def _work(connection: Connection, job: _Job, groups: Sequence[int]) -> None:
    """A worker's life."""
    import pyarrow as pa

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (_WORKER_BYTES, hard))
    pa.set_cpu_count(1)
    try:
        for chunk in _run(job, groups):
            connection.send(chunk)
    except (BrokenPipeError, KeyboardInterrupt):
        pass  # nobody wants the rest
