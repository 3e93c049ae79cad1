"""Recordings in Parquet: a column for each key of the event table, for SQL over months of events.

Columns are the dotted keys. What has no column, or a value that its column can't hold, is kept as
JSON in the last column, so that reading gives back the very documents that were written. pyarrow is
optional (the extra ``parquet``) and imported only here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from sensor.arrow import Codes, integers, kind_of, values_of
from sensor.errors import HostError, SensorError
from sensor.outputs.counts import Counts, reason_of
from sensor.outputs.ecs_json import EncodeError, encode
from sensor.shape import key_types

if TYPE_CHECKING:
    import io

Document = dict[str, Any]

REST = "sensor.rest"
#: In the file's metadata: the header object that JSON lines have as their first line.
HEADER_KEY = b"sensor.header"

#: Rows of a row group, and the bytes of JSON after which it is written sooner: both bound memory.
_GROUP_ROWS = 16384
_GROUP_BYTES = 16 << 20
#: Bytes that one slice of a column-wise batch may take as Python objects.
_SLICE_BYTES = 64 << 20
BATCH_ROWS = 8192
SLICE_ROWS = 2048
_STR = frozenset({str})
_INT64 = range(-(1 << 63), 1 << 63)


class Damaged(ValueError):
    """No Parquet, or a broken one."""


def require() -> None:
    """Check that pyarrow can be imported, and let it take its memory where Python does.

    Its own allocators keep a third more, and a tenth of a second goes into pages that they take ahead.

    Raises:
        HostError: It can't.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise HostError("Parquet needs pyarrow, which is not installed",
                        "pip install 'sensor[parquet]'") from error
    pa.set_memory_pool(pa.system_memory_pool())


@cache
def columns() -> dict[str, type]:
    """Dotted key -> str, int, bool or list (of str), in a fixed order."""
    return {key: types[0] for key, types in sorted(key_types().items()) if key != "sensor.escaped"}


def _fits(kind: type, value: Any) -> bool:
    if kind is int:
        return value in _INT64
    return kind is not list or _STR.issuperset(map(type, value))


def _put(column: list[Any], row: int, value: Any) -> None:
    """Set the value of a row of a column that may have none yet."""
    if not column:
        column += [None] * _GROUP_ROWS
    column[row] = value


class ParquetRecorder:
    """Documents to Parquet. The file can't be read before :meth:`close`."""

    def __init__(self, stream: io.FileIO, about: Document, *, strict: bool = True) -> None:
        require()
        import pyarrow as pa
        from pyarrow import parquet

        self.counts = Counts()
        self._stream, self._strict, self._columns = stream, strict, columns()
        kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), list: pa.list_(pa.string())}
        fields = [(key, kinds[kind]) for key, kind in self._columns.items()]
        self._schema = pa.schema([*fields, (REST, pa.string())],
                                 metadata={HEADER_KEY: json.dumps(about["sensor"]).encode()})
        self._failed = False
        self._plan: Document = {}
        self._cells: dict[str, list[Any]] = {REST: []}  # of each column a value for each row, or nothing at all
        for key, kind in self._columns.items():
            _place(self._plan, key, (kind, self._cells.setdefault(key, [])))
        self._rows = self._size = 0
        self._writer: Any = None
        try:
            self._writer = parquet.ParquetWriter(stream, self._schema, compression="zstd")
        except OSError as error:
            self._fail(error, 0)

    def write(self, document: Document) -> None:
        """Take one document."""
        try:
            line = encode(document)
        except EncodeError:
            self.counts.drop("encode")
            return
        # Through JSON: undecodable texts are escaped and named, tuples are lists, and nothing is shared.
        rest: Document = {}
        self._spread(orjson.loads(line), "", self._plan, rest)
        if rest:
            _put(self._cells[REST], self._rows, json.dumps(rest))
        self._rows += 1
        self._size += len(line)
        if self._rows >= _GROUP_ROWS or self._size >= _GROUP_BYTES:
            self._write_group()

    def _spread(self, section: Document, prefix: str, plan: Document, rest: Document) -> None:
        """Put the values of a section into their columns, those without one into *rest*."""
        row = self._rows
        for name, value in section.items():
            place = plan.get(name)
            if type(place) is tuple:
                kind, column = place
                if type(value) is kind and (kind is str or kind is bool or _fits(kind, value)):
                    try:
                        column[row] = value
                    except IndexError:
                        _put(column, row, value)
                    continue
            if type(value) is dict and value and "." not in name:
                self._spread(value, f"{prefix}{name}.", place if type(place) is dict else {}, rest)
            else:
                rest[prefix + name] = value

    def _table(self, rows: int) -> Any:
        import pyarrow as pa

        arrays = []
        for field in self._schema:
            column = self._cells[field.name]
            if column:
                arrays.append(pa.array(column[:rows], field.type))
                column.clear()
            else:
                arrays.append(pa.nulls(rows, field.type))
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _write_group(self) -> None:
        rows, self._rows, self._size = self._rows, 0, 0
        table = self._table(rows)
        if self._failed:
            self.counts.drop("io", rows)
            return
        try:
            self._writer.write_table(table)
        except OSError as error:
            self._fail(error, rows)
            return
        self.counts.events += rows
        self.counts.bytes = self._stream.tell()

    def _fail(self, error: OSError, documents: int) -> None:
        # What is on disk without a footer can't be continued: the rest is counted as lost.
        self._failed = True
        self.counts.drop(reason_of(error), documents)
        if self._strict:
            self._stream.close()
            raise SensorError(f"can't write {self._stream.name}: {error.strerror or error}") from error

    def flush(self) -> None:
        """Nothing: small row groups would cost all that Parquet is good for."""

    def close(self) -> None:
        """Write the last rows and the footer."""
        if self._stream.closed:
            return
        try:
            if self._rows:
                self._write_group()
            if not self._failed:
                self._writer.close()
        except OSError as error:
            self._fail(error, 0)
        finally:
            self._stream.close()


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
        file = open_file(path)
        share = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for piece in pieces(batch, value_bytes, skip):
                yield from documents(piece)
            progress(share * batch.num_rows // max(1, file.metadata.num_rows))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(str(error).partition("\n")[0][:200]) from error


def open_file(path: str, lists: Sequence[str] = (), metadata: Any = None) -> Any:
    """The ParquetFile at *path*, its texts read as dictionaries, and the texts in these *lists*.

    Dictionaries stay folded: one long text for a million rows would unfold to gigabytes. *metadata* is that of
    a ParquetFile of the same path: reading it again costs as much as reading a row group.
    """
    from pyarrow import parquet

    metadata = metadata or parquet.read_metadata(path)
    texts = [name for name in metadata.schema.to_arrow_schema().names if columns().get(name, str) is str]
    if lists:
        leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        texts += [leaf for leaf in leaves if any(leaf.startswith(f"{name}.list.") for name in lists)]
    return parquet.ParquetFile(path, metadata=metadata, read_dictionary=texts)


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
        lengths = _lengths(column)
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
        lengths = _lengths(column)
        return int(pc.max(lengths).as_py() or 0)
    return (pc.max(pc.binary_length(values)).as_py() or 0) if len(values) and _is_text(values.type) else 0


def _lengths(column: Any) -> Any:
    """Bytes of the value of each row, 0 for null: an array, or None for what is short by its type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.DictionaryArray):
        lengths = _lengths(column.dictionary)
        return lengths if lengths is None else pc.fill_null(lengths.take(column.indices), 0)
    if _is_list(column.type):
        inner = _lengths(column.values)
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
            _place(document, key, value)
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
        _place(tree, key, f"[*v{number}[row]]" if columns().get(key) is list else f"v{number}[row]")
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
            _place(document, key, value)
        made.append(document)
    return made


def _place(document: Document, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    node: Any = document
    for name in sections:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise Damaged(f"{key} is both a value and a section")
    node[last] = value
