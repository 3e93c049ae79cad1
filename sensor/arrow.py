"""Columns of Arrow as Python objects, each distinct value made once.

Events repeat themselves: of a thousand rows a column has a handful of values. An array is split
into its distinct values and, for each row, the place of its value among them. Only pyarrow is
needed, no numpy, and it is imported where it is used because it is optional.
"""

from __future__ import annotations

from typing import Any


def kind_of(column_type: Any) -> type | None:
    """str, int, bool or list (of str) for the types of columns that recordings have, else None."""
    import pyarrow as pa

    if pa.types.is_dictionary(column_type):
        return str if pa.types.is_string(column_type.value_type) else None
    if pa.types.is_list(column_type):
        return list if pa.types.is_string(column_type.value_type) else None
    kinds: dict[Any, type] = {pa.string(): str, pa.int64(): int, pa.bool_(): bool}
    return kinds.get(column_type)


def distinct(array: Any) -> tuple[list[Any], Any]:
    """Distinct values of an array of such a type, None for null, and the codes of its rows.

    The codes are an int32 array without nulls, as long as *array*. A value may be there twice if the
    array's own dictionary has it twice.

    Raises:
        ValueError: A text is no UTF-8.
    """
    import pyarrow as pa

    if pa.types.is_list(array.type):
        return _distinct_lists(array)
    if pa.types.is_dictionary(array.type):
        # Of the dictionary only what these rows use: it is the whole row group's.
        used = array.indices.dictionary_encode(null_encoding="encode")
        return array.dictionary.take(used.dictionary).to_pylist(), used.indices
    encoded = array.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), encoded.indices


def _distinct_lists(array: Any) -> tuple[list[Any], Any]:
    import pyarrow as pa

    ends = integers(array.offsets)
    first = ends[0]
    items, codes = distinct(array.values.slice(first, ends[-1] - first))
    flat = integers(codes)
    present = array.is_valid().to_pylist() if array.null_count else None
    values: list[Any] = []
    found: dict[tuple[int, ...] | None, int] = {}
    places = []
    for row in range(len(array)):
        key = None if present and not present[row] else tuple(flat[ends[row] - first:ends[row + 1] - first])
        place = found.get(key)
        if place is None:
            place = found[key] = len(values)
            values.append(None if key is None else [items[code] for code in key])
        places.append(place)
    return values, pa.array(places, pa.int32())


def integers(array: Any) -> list[int]:
    """The numbers of an int32 or int64 array without nulls."""
    if not len(array):
        return []
    size = array.type.bit_width // 8
    data = memoryview(array.buffers()[1])[array.offset * size:(array.offset + len(array)) * size]
    numbers = data.cast("i") if size == 4 else data.cast("q")
    return numbers.tolist()


def values_of(array: Any) -> list[Any]:
    """The values of all rows, equal ones the same object. Raises ValueError as ``distinct``."""
    import pyarrow as pa

    if array.type == pa.int64() and not array.null_count:
        return integers(array)
    values, codes = distinct(array)
    return [values[code] for code in integers(codes)]


class Codes:
    """Rows told apart by several columns at once: a code for each combination that occurs.

    ``parts`` has for each code the code that the row had before and that of the column added last.
    """

    def __init__(self, rows: int) -> None:
        import pyarrow as pa

        self.codes = pa.array([0], pa.int32()).take(pa.array([0] * rows, pa.int32()))
        self.count = 1

    def add(self, column: Any, count: int) -> list[tuple[int, int]]:
        """Tell rows apart by *column*, too: int32 codes below *count*. Gives ``parts``."""
        import pyarrow as pa
        import pyarrow.compute as pc

        # Codes are below the number of rows each time, so the product stays far below 2**63.
        joined = pc.add(pc.multiply(self.codes.cast(pa.int64()), count), column.cast(pa.int64()))
        encoded = joined.dictionary_encode()
        self.codes, self.count = encoded.indices, len(encoded.dictionary)
        return [divmod(each, count) for each in integers(encoded.dictionary)]


def rows_with(codes: Any, wanted: list[int]) -> Any:
    """Numbers of the rows whose code is one of the wanted, ascending: an array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.indices_nonzero(pc.is_in(codes, pa.array(wanted, pa.int32())))
