"""Columns of Arrow as Python objects, each distinct value made once.

Events repeat themselves: of a thousand rows a column has a handful of values. An array is split
into its distinct values and, for each row, the place of its value among them. Only pyarrow is
needed, no numpy, and it is imported where it is used because it is optional.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def kind_of(column_type: Any) -> type | None:
    """str, int, bool or list (of str) for the types of columns that recordings have, else None."""
    import pyarrow as pa

    if pa.types.is_dictionary(column_type):
        return str if pa.types.is_string(column_type.value_type) else None
    if pa.types.is_list(column_type):
        return list if kind_of(column_type.value_type) is str else None
    kinds: dict[Any, type] = {pa.string(): str, pa.int64(): int, pa.bool_(): bool}
    return kinds.get(column_type)


def distinct(array: Any) -> tuple[list[Any], Any]:
    """Distinct values of an array of such a type, None for null, and the codes of its rows, as ``split``.

    Raises:
        ValueError: A text is no UTF-8.
    """
    values, codes = split(array)
    return values.to_pylist(), codes


def split(array: Any) -> tuple[Any, Any]:
    """Distinct values of an array of such a type, null among them where it occurs, and the codes of its rows.

    The codes are an int32 array without nulls, as long as *array*. A value may be there twice if the
    array's own dictionary has it twice.
    """
    import pyarrow as pa

    if array.null_count == len(array):
        return array[:1], zeros(len(array))
    if pa.types.is_list(array.type):
        return _split_lists(array)
    if pa.types.is_dictionary(array.type):
        # Of the dictionary only what these rows use: it is the whole row group's.
        used = array.indices.dictionary_encode(null_encoding="encode")
        return array.dictionary.take(used.dictionary), used.indices
    encoded = array.dictionary_encode(null_encoding="encode")
    return encoded.dictionary, encoded.indices


def folded_type() -> Any:
    """The type of lists of texts that are folded into a dictionary."""
    import pyarrow as pa

    return pa.list_(pa.dictionary(pa.int32(), pa.string()))


def folded(lists: Any) -> Any:
    """Lists of texts with a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if lists.type == folded_type():
        return lists
    if not len(lists):
        return pa.array([], folded_type())
    offsets = pc.subtract(lists.offsets, lists.offsets[0])  # these lists may be a slice of more
    texts = lists.values.slice(lists.offsets[0].as_py(), offsets[-1].as_py())
    return pa.ListArray.from_arrays(offsets, texts.dictionary_encode(), mask=lists.is_null())


def zeros(rows: int) -> Any:
    """So many zeros: int32."""
    import pyarrow as pa

    return pa.repeat(number(0), rows)


def number(value: int) -> Any:
    """An integer for functions of pyarrow, which look for a package on the disk with each one of Python's."""
    import pyarrow as pa

    return pa.scalar(value, pa.int64() if value >> 31 else pa.int32())


def item_of(lists: Any, index: int) -> Any:
    """Of each list the item at *index*, null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    starts = lists.offsets[:-1]
    places = pc.if_else(pc.greater(pc.fill_null(pc.list_value_length(lists), number(0)), number(index)),
                         pc.add(starts, number(index)), pa.scalar(None, pa.int32()))
    return lists.values.take(places)


def _split_lists(array: Any) -> tuple[Any, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = folded(array)
    lengths, codes = pc.list_value_length(array), Codes(len(array))
    shortest, longest = pc.min_max(lengths).as_py().values()
    if longest == 1 and not array.null_count:
        codes.encode(item_of(array, 0).indices)
        if not shortest:
            codes.add(lengths, 2)
    else:
        codes.encode(pa.array(_first_rows(array), pa.int64()))
    return array.take(codes.firsts()), codes.codes


def _first_rows(lists: Any) -> list[int]:
    """For each list the first row that has such a one; lists stay folded, however long their texts are."""
    import pyarrow.compute as pc

    items = bytes(view(pc.fill_null(lists.values.indices, number(-1))))
    ends = [4 * offset for offset in integers(lists.offsets)]
    known: dict[bytes | None, int] = {}
    keys: Iterable[bytes | None] = map(items.__getitem__, map(slice, ends, ends[1:]))
    nulls = integers(lists.is_null().cast("int32")) if lists.null_count else ()
    if nulls:
        keys = (None if null else key for key, null in zip(keys, nulls, strict=True))
    return [known.setdefault(key, row) for row, key in enumerate(keys)]


def view(array: Any) -> memoryview:
    """The numbers of an int32 or int64 array without nulls, where they lie."""
    size = array.type.bit_width // 8
    data = memoryview(array.buffers()[1] or b"")[array.offset * size:(array.offset + len(array)) * size]
    return data.cast("i" if size == 4 else "q")


def integers(array: Any) -> list[int]:
    """The numbers of an int32 or int64 array without nulls."""
    return view(array).tolist() if len(array) else []


def values_of(array: Any) -> list[Any]:
    """The values of all rows, equal ones the same object. Raises ValueError as ``distinct``."""
    import pyarrow as pa

    if array.type == pa.int64() and not array.null_count:
        return integers(array)
    values, codes = distinct(array)
    return [values[code] for code in integers(codes)]


class Codes:
    """Rows told apart by several columns at once: a code for each combination that occurs.

    Codes are numbered by the rows in which they come up first.
    """

    def __init__(self, rows: int) -> None:
        self.codes = zeros(rows)
        self.count = 1

    def add(self, column: Any, count: int) -> list[tuple[int, int]]:
        """Tell rows apart by *column*, too: int32 codes below *count*.

        Returns:
            For each code the one that its rows had before and that of the column.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        # Codes are below the number of rows each time, so the product stays far below 2**63.
        joined = pc.add(pc.multiply(self.codes.cast(pa.int64()), number(count)), column.cast(pa.int64()))
        encoded = joined.dictionary_encode()
        self.codes, self.count = encoded.indices, len(encoded.dictionary)
        return [divmod(each, count) for each in integers(encoded.dictionary)]

    def encode(self, column: Any) -> None:
        """Tell rows, of which all were alike, apart by a column of any values."""
        encoded = column.dictionary_encode(null_encoding="encode")
        self.codes, self.count = encoded.indices, len(encoded.dictionary)

    def firsts(self) -> Any:
        """For each code the first row that has it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        highest = pc.cumulative_max(self.codes)
        risen = pc.indices_nonzero(pc.not_equal(highest[1:], highest[:-1]))
        return pa.concat_arrays([pa.array([0][:len(highest)], pa.int64()), pc.add(risen.cast(pa.int64()), number(1))])


def rows_with(codes: Any, wanted: Sequence[int]) -> Any:
    """Numbers of the rows whose code is one of the wanted, ascending: an array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.indices_nonzero(pc.is_in(codes, pa.array(wanted, pa.int32())))
