"""Recordings in Parquet: a column for each key of the event table, for SQL over months of events.

Columns are the dotted keys. What has no column, or a value that its column can't hold, is kept as
JSON in the last column, so that reading gives back the very documents that were written. pyarrow is
optional (the extra ``parquet``) and imported only here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

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
_BATCH_ROWS = 1024
_INT64 = range(-(1 << 63), 1 << 63)


class Damaged(ValueError):
    """No Parquet, or a broken one."""


def require() -> None:
    """Check that pyarrow can be imported.

    Raises:
        HostError: It can't.
    """
    try:
        import pyarrow  # noqa: F401, ICN001
    except ImportError as error:
        raise HostError("Parquet needs pyarrow, which is not installed",
                        "pip install 'sensor[parquet]'") from error


def columns() -> dict[str, type]:
    """Dotted key -> str, int, bool or list (of str), in a fixed order."""
    return {key: types[0] for key, types in sorted(key_types().items()) if key != "sensor.escaped"}


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
        self._rows: list[Document] = []
        self._size = 0
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
        self._rows.append(self._row(json.loads(line)))
        self._size += len(line)
        if len(self._rows) >= _GROUP_ROWS or self._size >= _GROUP_BYTES:
            self._write_group()

    def _row(self, document: Document) -> Document:
        row: Document = {}
        rest: Document = {}
        self._spread(document, "", row, rest)
        if rest:
            row[REST] = json.dumps(rest)
        return row

    def _spread(self, section: Document, prefix: str, row: Document, rest: Document) -> None:
        for name, value in section.items():
            key = prefix + name
            if isinstance(value, dict) and value and "." not in name:
                self._spread(value, f"{key}.", row, rest)
            elif self._fits(key, value):
                row[key] = value
            else:
                rest[key] = value

    def _fits(self, key: str, value: Any) -> bool:
        kind = self._columns.get(key)
        if kind is int:
            return type(value) is int and value in _INT64
        if kind is list:
            return type(value) is list and all(type(item) is str for item in value)
        return type(value) is kind

    def _write_group(self) -> None:
        import pyarrow as pa

        rows, self._rows, self._size = self._rows, [], 0
        if self._failed:
            self.counts.drop("io", len(rows))
            return
        try:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
        except OSError as error:
            self._fail(error, len(rows))
            return
        self.counts.events += len(rows)
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
    from pyarrow import parquet

    try:
        # Dictionaries stay folded: one long text for a million rows would unfold to gigabytes.
        texts = [name for name in parquet.read_schema(path).names if columns().get(name, str) is str]
        file = parquet.ParquetFile(path, read_dictionary=texts)
        share = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for rows in _slices(batch, value_bytes, skip):
                yield from _documents(rows)
            progress(share * batch.num_rows // max(1, file.metadata.num_rows))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(str(error).partition("\n")[0][:200]) from error


def _slices(batch: Any, value_bytes: int, skip: Callable[[str, int], None]) -> Iterator[list[Document]]:
    longest = sum(_longest(column) for column in batch.columns)
    if longest > value_bytes:
        skip("too_long", batch.num_rows)
        return
    rows = max(1, min(_BATCH_ROWS, _SLICE_BYTES // max(1, longest)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows).to_pylist()


def _longest(column: Any) -> int:
    """Bytes of the longest value of a text column, as far as that is known without unfolding it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.dictionary if isinstance(column, pa.DictionaryArray) else column
    if pa.types.is_list(values.type):
        return int(values.nbytes)
    if not (pa.types.is_string(values.type) or pa.types.is_binary(values.type)) or not len(values):
        return 0
    return pc.max(pc.binary_length(values)).as_py() or 0


def _documents(rows: list[Document]) -> Iterator[Document]:
    for row in rows:
        document: Document = {}
        rest = row.pop(REST, None)
        pairs = [(key, value) for key, value in row.items() if value is not None]
        extra = json.loads(rest) if rest else {}
        if isinstance(extra, dict):
            pairs += extra.items()
        for key, value in pairs:
            _place(document, key, value)
        yield document


def _place(document: Document, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    node: Any = document
    for name in sections:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise Damaged(f"{key} is both a value and a section")
    node[last] = value
