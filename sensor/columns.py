"""Row groups of a Parquet recording as columns, as many at once as make good use of each step over a column.

Texts stay folded in dictionaries, of which there is one for a column of a span; those in lists, too. A dictionary of
texts that hardly repeat themselves may have one of them twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from sensor import arrow, parquet
from sensor.arrow import kind_of
from sensor.rules.batch import ACTION

if TYPE_CHECKING:
    from sensor.parquet_read import File

#: Rows that are matched at once: each step over a column costs as much as some thousand rows do.
SPAN_ROWS = 131_072
#: Bytes of the row groups that are read at once, as they are encoded: twice what so many rows of ours take.
_SPAN_BYTES = 32 << 20
#: Bytes of one column's lists in a span, each as often as it is there.
_UNFOLDED_BYTES = 256 << 20
#: Texts of a column are taken for various where there are so many rows to one, or fewer.
_VARIOUS = 4
_ARRAY_BYTES = (2 << 30) - 1
_KIND = "event.kind"

#: Numbers of row groups that are read and matched at once.
Span = tuple[int, ...]
#: Key -> array of the same rows.
Rows = Mapping[str, Any]


def recording(path: str) -> File | None:
    """A recording that may be read by columns, else None.

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

    from sensor.parquet_read import File, regular

    try:
        file = File(path)
        if not regular(file.schema) or ACTION not in file.schema.names:
            return None
        if _has_alerts(file):
            return None
    except (pa.ArrowException, OSError, ValueError):
        return None
    return file


def _has_alerts(file: File) -> bool:
    if _KIND not in file.schema.names:
        return False
    place = file.schema.names.index(_KIND)
    unsure = []
    for group in range(file.metadata.num_row_groups):
        column = file.metadata.row_group(group).column(place)
        statistics = column.statistics if column.path_in_schema == _KIND else None
        if statistics is None or not statistics.has_min_max or statistics.min <= "alert" <= statistics.max:
            unsure.append(group)
    return any("alert" in batch.column(0).dictionary.to_pylist()
               for group in unsure for batch in file.batches(group, [_KIND]))


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
        from sensor.parquet_read import File

        self._file = File(path, metadata)
        self._lists = [name for name in names if kind_of(self._file.schema.field(name).type) is list]
        self._others = [name for name in names if name not in self._lists]

    def read(self, span: Span) -> Rows:
        """The rows of a span. Raises ArrowException, OSError, ValueError."""
        import pyarrow as pa

        found = _one_piece(self._file.texts(span, self._others))
        if self._lists:
            lists = _one_piece(pa.concat_tables([self._file.table(group, self._lists) for group in span]))
            found |= {name: arrow.folded(column) for name, column in lists.items()}
        return found


def is_heavy(columns: Rows, value_bytes: int) -> bool:
    """Whether some list comes to more than *value_bytes*, or all to more than is unfolded at once."""
    return any(_is_heavy(column, value_bytes) for column in columns.values() if kind_of(column.type) is list)


def _is_heavy(lists: Any, value_bytes: int) -> bool:
    import pyarrow.compute as pc

    from sensor.parquet_read import lengths_of

    sizes, counts = pc.binary_length(lists.values.dictionary), pc.list_value_length(lists)
    longest = max(1, pc.max(sizes).as_py() or 0)
    # Only lists of many items may be too long: looking at the items of all takes longer than reading them.
    some = lists.filter(pc.greater(counts, arrow.number(value_bytes // longest)))
    if len(some) and pc.max(lengths_of(some)).as_py() > value_bytes:
        return True
    return (longest * len(lists.values) > _UNFOLDED_BYTES
            and pc.sum(sizes.take(lists.values.indices)).as_py() > _UNFOLDED_BYTES)


def _one_piece(table: Any) -> dict[str, Any]:
    """Each column as one array; in its dictionary a text stands once where most texts repeat themselves.

    Raises:
        ValueError: A column has more than Arrow puts in one piece.
    """
    various = [name for name, column in zip(table.column_names, table.columns, strict=True) if _is_various(column)]
    found = {name: _appended(table.column(name)) for name in various}
    table = table.drop_columns(various)
    batches = table.unify_dictionaries().combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError("more than 2 GB of text in one column")
    columns = batches[0].columns if batches else [column.combine_chunks() for column in table.columns]
    return {**found, **dict(zip(table.column_names, columns, strict=True))}


def _is_various(column: Any) -> bool:
    """Whether looking for texts that several dictionaries have takes longer than looking at such texts again."""
    return (column.num_chunks > 1 and kind_of(column.type) is str and hasattr(column.chunk(0), "dictionary")
            and sum(len(chunk.dictionary) for chunk in column.chunks) * _VARIOUS > len(column))


def _appended(column: Any) -> Any:
    """The chunks of a folded column as one array, its dictionary that of all, one after the other."""
    import pyarrow as pa
    import pyarrow.compute as pc

    starts = accumulate((len(chunk.dictionary) for chunk in column.chunks), initial=0)
    indices = [pc.add(chunk.indices, arrow.number(start)) for chunk, start in zip(column.chunks, starts, strict=False)]
    texts = [chunk.dictionary for chunk in column.chunks]
    if sum(pc.sum(pc.binary_length(text)).as_py() or 0 for text in texts) > _ARRAY_BYTES:
        raise ValueError("more than 2 GB of text in one column")
    return pa.DictionaryArray.from_arrays(pa.concat_arrays(indices), pa.concat_arrays(texts))


def full(file: File, group: int) -> Any:
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
    names = [name for name in file.schema.names if name not in empty]
    batches = file.table(group, names).unify_dictionaries().combine_chunks().to_batches()
    if len(batches) != 1:
        raise ValueError("more than 2 GB of text in one column of a row group")
    return batches[0]
