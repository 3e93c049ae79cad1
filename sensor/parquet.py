"""Recordings in Parquet: a column for each key of the event table, for SQL over months of events.

Columns are the dotted keys. What has no column, or a value that its column can't hold, is kept as
JSON in the last column, so that reading (parquet_read.py) gives back the very documents that were
written. pyarrow is optional (the extra ``parquet``) and imported where it is used.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

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
            place(self._plan, key, (kind, self._cells.setdefault(key, [])))
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


def place(document: Document, key: str, value: Any) -> None:
    """Set the value of a dotted key. Raises Damaged where there is a value above it."""
    *sections, last = key.split(".")
    node: Any = document
    for name in sections:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise Damaged(f"{key} is both a value and a section")
    node[last] = value
