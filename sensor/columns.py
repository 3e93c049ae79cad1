"""Row groups of a Parquet recording as columns, as many at once as make good use of each step over a column.

Texts stay folded in dictionaries, of which there is one for a column of a span. Lists of texts are read folded,
too, which takes a fifth of the time, but are left in pieces, one for each row group: they are long, and few rows
of them are ever looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sensor import parquet
from sensor.arrow import folded, folded_type, kind_of, one_piece
from sensor.rules.batch import ACTION

#: Rows that are matched at once: each step over a column costs as much as some thousand rows do.
SPAN_ROWS = 131_072
#: Bytes of the row groups that are read at once, as they are encoded: twice what so many rows of ours take.
_SPAN_BYTES = 32 << 20
_KIND = "event.kind"

#: Numbers of row groups that are read and matched at once.
Span = tuple[int, ...]
#: Key -> array, or chunks of lists, of the same rows.
Rows = Mapping[str, Any]


def recording(path: str) -> Any:
    """The ParquetFile of a recording that may be read by columns, else None.

    That is sound Parquet, in which every column is one of ours, one of them the action, and which has no alerts.

    Raises:
        HostError: pyarrow is missing.
    """
    try:
        with open(path, "rb") as stream:
            if stream.read(4) != b"PAR1" or not stream.seekable():
                return None
    except OSError:
        return None  # said by whoever reads it as documents
    parquet.require()
    import pyarrow as pa

    try:
        file = parquet.open_file(path)
        if not parquet.regular(file.schema_arrow) or ACTION not in file.schema_arrow.names:
            return None
        if _has_alerts(file):
            return None
    except (pa.ArrowException, OSError, ValueError):
        return None
    return file


def _has_alerts(file: Any) -> bool:
    if _KIND not in file.schema_arrow.names:
        return False
    place = file.schema_arrow.names.index(_KIND)
    unsure = []
    for group in range(file.metadata.num_row_groups):
        column = file.metadata.row_group(group).column(place)
        statistics = column.statistics if column.path_in_schema == _KIND else None
        if statistics is None or not statistics.has_min_max or statistics.min <= "alert" <= statistics.max:
            unsure.append(group)
    batches = file.iter_batches(SPAN_ROWS, row_groups=unsure, columns=[_KIND]) if unsure else ()
    return any("alert" in batch.column(0).dictionary.to_pylist() for batch in batches)


def is_long(metadata: Any, group: int, value_bytes: int) -> bool:
    """Whether a row group may hold a row of more than *value_bytes*, or more rows than are read at once."""
    about = metadata.row_group(group)
    return bool(about.total_byte_size > value_bytes or about.num_rows > SPAN_ROWS)  # no row is longer than its group


def spans(metadata: Any, value_bytes: int) -> Iterator[Span]:
    """Row groups that are read at once; a long one stands alone."""
    span: list[int] = []
    rows, size, limit = 0, 0, SPAN_ROWS // 8  # of the first: nothing is matched while it is read
    for number in range(metadata.num_row_groups):
        about, long = metadata.row_group(number), is_long(metadata, number, value_bytes)
        if span and (long or rows + about.num_rows > limit or size + about.total_byte_size > _SPAN_BYTES):
            yield tuple(span)
            span, rows, size, limit = [], 0, 0, SPAN_ROWS
        span.append(number)
        rows += about.num_rows
        size += about.total_byte_size
        if long:
            yield tuple(span)
            span, rows, size = [], 0, 0
    if span:
        yield tuple(span)


class ColumnReader:
    """Reads some columns of a recording; for one thread."""

    def __init__(self, path: str, names: Sequence[str], metadata: Any) -> None:
        self._file = parquet.open_file(path, metadata=metadata)
        schema = self._file.schema_arrow
        self._lists = [name for name in names if kind_of(schema.field(name).type) is list]
        self._others = [name for name in names if name not in self._lists]
        self._folded = parquet.open_file(path, self._lists, metadata)

    def read(self, span: Span) -> list[Rows]:
        """The rows of a span, some at a time. Raises ArrowException, OSError, ValueError."""
        table, lists = whole(self._file, span, self._others), self._chunks(span)
        found: list[Rows] = []
        for start in range(0, table.num_rows, SPAN_ROWS):
            part = table.slice(start, SPAN_ROWS)
            columns = {name: one_piece(column) for name, column in zip(part.column_names, part.columns, strict=True)}
            found.append(columns | {name: chunks.slice(start, SPAN_ROWS) for name, chunks in lists.items()})
        return found

    def _chunks(self, span: Span) -> dict[str, Any]:
        import pyarrow as pa

        found: dict[str, list[Any]] = {name: [] for name in self._lists}
        for group in span if self._lists else ():
            try:
                table = self._folded.read_row_group(group, columns=self._lists)
            except pa.ArrowNotImplementedError:  # where a dictionary had grown too large when it was written
                table = self._file.read_row_group(group, columns=self._lists)
            for name, chunks in found.items():
                chunks += map(folded, table.column(name).chunks)
        return {name: pa.chunked_array(chunks, folded_type()) for name, chunks in found.items()}


def full(file: Any, group: int) -> Any:
    """All columns of a row group that have a value there, as one batch.

    Raises:
        ValueError: A column has more than Arrow puts in one piece.
    """
    about = file.metadata.row_group(group)
    empty = set()
    for number in range(about.num_columns):
        column = about.column(number)
        known = column.statistics if column.is_stats_set else None
        if known is not None and known.has_null_count and known.null_count == column.num_values:
            empty.add(column.path_in_schema)
    names = [name for name in file.schema_arrow.names if name not in empty]
    batches = file.read_row_group(group, columns=names).combine_chunks().to_batches()
    if len(batches) != 1:
        raise ValueError("more than 2 GB of text in one column of a row group")
    return batches[0]


def whole(file: Any, span: Span, names: Sequence[str]) -> Any:
    """A table of columns of row groups, in one piece: each text once in the dictionary of its column."""
    return file.read_row_groups(span, columns=names).unify_dictionaries().combine_chunks()
