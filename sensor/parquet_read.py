"""Parquet back to documents: a file of anybody's, in pieces that can be held as Python objects.

A dictionary makes gigabytes of rows from one text, so texts stay folded in theirs, and what rows come to
is measured before any is unfolded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sensor.arrow import Codes, integers, kind_of, values_of
from sensor.parquet import REST, Damaged, Document, columns, place, require

#: Bytes that one slice of a column-wise batch may take as Python objects.
_SLICE_BYTES = 64 << 20
_BATCH_ROWS = 8192
SLICE_ROWS = 2048
#: Rows that are read at once of foreign columns in which texts can't be kept folded.
_FEW_ROWS = 64


def read(path: str, value_bytes: int, progress: Callable[[int], None],
         skip: Callable[[str, int], None]) -> Iterator[Document]:
    """Documents of a Parquet recording, still escaped as they are in JSON lines.

    Args:
        path: The file.
        value_bytes: Rows whose values may be longer than this are skipped as ``too_long``.
        progress: Called with bytes of the file, as far as they are used up.
        skip: Called with a reason and a number of rows.

    Raises:
        HostError: pyarrow is missing.
        Damaged: The file is broken, from here on.
    """
    require()
    import pyarrow as pa

    try:
        file = File(path)
        groups = range(file.metadata.num_row_groups)
        share = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        for batch in chain.from_iterable(map(file.batches, groups)):
            for piece in pieces(batch, value_bytes, skip):
                yield from documents(piece)
            progress(share * batch.num_rows // max(1, file.metadata.num_rows))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(str(error).partition("\n")[0][:200]) from error


class File:
    """A Parquet file whose texts are read as dictionaries, those in lists, too.

    They stay folded: one long text for a million rows would unfold to gigabytes. For one thread.
    """

    def __init__(self, path: str, metadata: Any = None) -> None:
        """*metadata* is that of a file of the same path: reading it again costs as much as reading a row group.

        Raises:
            ArrowException, OSError, ValueError: It is no Parquet.
        """
        from pyarrow import parquet

        self.metadata = metadata or parquet.read_metadata(path)
        plain = self.metadata.schema.to_arrow_schema()
        self._lists = [field.name for field in plain if kind_of(field.type) is list]
        self._flat = len(self._lists) + sum(not _is_nested(field.type) for field in plain) == len(plain)
        self._file = parquet.ParquetFile(path, metadata=self.metadata, read_dictionary=self._texts(plain))
        self.schema = self._file.schema_arrow

    def _texts(self, plain: Any) -> list[str]:
        found = [field.name for field in plain if columns().get(field.name, str) is str and not _is_nested(field.type)]
        if self._lists:
            leaves = [self.metadata.schema.column(number).path for number in range(self.metadata.num_columns)]
            # Writers name what is between a list and its items as they like.
            found += [leaf for leaf in leaves if any(leaf.startswith(f"{name}.") for name in self._lists)]
        return found

    def batches(self, group: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Some columns, or all, of a row group, some rows at a time."""
        rows = _BATCH_ROWS if self._flat else _FEW_ROWS
        return iter(self._file.iter_batches(rows, row_groups=[group], columns=names))

    def texts(self, groups: Sequence[int], names: Sequence[str]) -> Any:
        """A table of columns that are no lists, of several row groups."""
        return self._file.read_row_groups(groups, columns=names)

    def table(self, group: int, names: Sequence[str]) -> Any:
        """A table of columns of one row group, lists among them: Arrow can't read those of more groups folded."""
        return self._file.read_row_group(group, columns=names)


def _is_nested(column_type: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_nested(column_type))


def pieces(batch: Any, value_bytes: int, skip: Callable[[str, int], None]) -> Iterator[Any]:
    """Slices of a batch that may be unfolded, without the rows whose values are too long together."""
    longest = sum(map(_longest, batch.columns))
    if longest > value_bytes:
        batch, longest = _short_rows(batch, value_bytes, skip)
    rows = max(1, min(SLICE_ROWS, _SLICE_BYTES // max(1, longest)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _short_rows(batch: Any, value_bytes: int, skip: Callable[[str, int], None]) -> tuple[Any, int]:
    import pyarrow.compute as pc

    total: Any = 0
    for column in batch.columns:
        lengths = lengths_of(column)
        total = total if lengths is None else pc.add(total, lengths)
    kept = pc.less_equal(total, value_bytes)
    long = batch.num_rows - (pc.sum(kept).as_py() or 0)
    if long:
        skip("too_long", long)
    return batch.filter(kept), value_bytes


def _longest(column: Any) -> int:
    """Bytes of the longest value of a text column, or more; known without unfolding it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.dictionary if isinstance(column, pa.DictionaryArray) else column
    if _is_list(values.type):
        lengths = lengths_of(column)
        return int(pc.max(lengths).as_py() or 0)
    return (pc.max(pc.binary_length(values)).as_py() or 0) if len(values) and _is_text(values.type) else 0


def lengths_of(column: Any) -> Any:
    """Bytes of the value of each row, 0 for null: an array, or None for what is short by its type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.DictionaryArray):
        lengths = lengths_of(column.dictionary)
        return lengths if lengths is None else pc.fill_null(lengths.take(column.indices), 0)
    if _is_list(column.type):
        inner = lengths_of(column.values)
        if inner is None:
            inner = pa.array([8], pa.int64()).take(pa.array([0] * len(column.values), pa.int32()))
        sums = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(inner)])
        ends = sums.take(column.offsets)
        return pc.subtract(ends[1:], ends[:-1])
    return pc.fill_null(pc.binary_length(column).cast(pa.int64()), 0) if _is_text(column.type) else None


def _is_text(column_type: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return any(check(column_type) for check in (types.is_string, types.is_binary, types.is_large_string,
                                                types.is_large_binary))


def _is_list(column_type: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(column_type) or pa.types.is_large_list(column_type))


def regular(schema: Any) -> bool:
    """Whether every column is one of ours, of our type; the last may be the rest."""
    ours = {**columns(), REST: str}
    return len(set(schema.names)) == len(schema.names) and all(
        kind_of(field.type) is ours.get(field.name, object) for field in schema)


def documents(batch: Any) -> list[Document]:
    """Documents of the rows of a batch, still escaped. Raises Damaged."""
    if not regular(batch.schema):
        return _documents(batch.to_pylist())
    optional = [number for number, column in enumerate(batch.columns) if 0 < column.null_count < len(column)]
    always = sum(1 << number for number, column in enumerate(batch.columns) if not column.null_count)
    # Rows that have values in the same columns are made by the same function.
    codes, shapes = Codes(batch.num_rows), [always]
    for number in optional:
        parts = codes.add(batch.column(number).is_valid().cast("int32"), 2)
        shapes = [shapes[before] | valid << number for before, valid in parts]
    values = {key: values_of(column) for key, column in zip(batch.schema.names, batch.columns, strict=True)
              if column.null_count < len(column)}
    makers = [_maker(tuple(key for number, key in enumerate(batch.schema.names) if shape >> number & 1), values)
              for shape in shapes]
    return [makers[code](row) for row, code in enumerate(integers(codes.codes))]


def _maker(keys: tuple[str, ...], values: dict[str, list[Any]]) -> Callable[[int], Document]:
    """A function from the number of a row, in which just these keys have values, to its document."""
    if REST not in keys:
        return _builder(keys)(*map(values.__getitem__, keys))
    keys = tuple(key for key in keys if key != REST)
    build = _builder(keys)(*map(values.__getitem__, keys))
    rests = values[REST]

    def make(row: int) -> Document:
        document = build(row)
        rest = json.loads(rests[row])
        for key, value in rest.items() if isinstance(rest, dict) else ():
            place(document, key, value)
        return document

    return make


@lru_cache(maxsize=512)
def _builder(keys: tuple[str, ...]) -> Callable[..., Callable[[int], Document]]:
    """From the values of columns of the event table to a function from row to document.

    Nested displays written out take a third of the time of placing value after value.
    """
    tree: Document = {}
    for number, key in enumerate(keys):
        # Rows share lists until here.
        place(tree, key, f"[*v{number}[row]]" if columns().get(key) is list else f"v{number}[row]")
    arguments = ", ".join(f"v{number}" for number in range(len(keys)))
    build: Callable[..., Callable[[int], Document]] = eval(  # noqa: S307  from names of the event table, quoted
        f"lambda {arguments}: lambda row: {_display(tree)}", {})
    return build


def _display(tree: Document) -> str:
    return "{" + ", ".join(f"{name!r}: {_display(below) if isinstance(below, dict) else below}"
                           for name, below in tree.items()) + "}"


def _documents(rows: list[Document]) -> list[Document]:
    made = []
    for row in rows:
        document: Document = {}
        rest = row.pop(REST, None)
        pairs = [(key, value) for key, value in row.items() if value is not None]
        extra = json.loads(rest) if rest else {}
        if isinstance(extra, dict):
            pairs += extra.items()
        for key, value in pairs:
            place(document, key, value)
        made.append(document)
    return made
