"""One field's distinct values, as Arrow has them -> the sets of predicates that are true of them.

With the C extension the literals of a field's predicates are found there, and what a set of literals comes to is
asked of the scanner once. Without it every value is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sensor.rules.condition import Relation
from sensor.rules.scan import Scanner

#: Bytes, relation, whether case counts, number of the literal's atom; as native/texts.h has them.
Literal = tuple[bytes, int, bool, int]
RELATIONS = {Relation.EQUALS: 0, Relation.PREFIX: 1, Relation.SUFFIX: 2, Relation.CONTAINS: 3}


class Finder(Protocol):
    """sensor._speed.Finder."""

    def find(self, offsets: Any, data: Any, first: int, count: int, used: bytes | None, /,
             ) -> tuple[bytes, list[int], list[int]]:
        """The number of the set of literals of each text as int32, where each new set stands first, what is left.

        The places of texts that are left to Python have numbers from SETS on. Where the byte of *used* is 0 the
        number says nothing.
        """


class Extension(Protocol):
    """What sensor._speed has for columns. Codes are (values, validity or None, first, count), as buffers of Arrow."""

    @property
    def SETS(self) -> int:  # noqa: N802  a constant
        """Most sets that a finder tells apart."""

    @property
    def Finder(self) -> Callable[[tuple[Literal, ...]], Finder]:  # noqa: N802  a class
        """Made of literals; raises OverflowError where they are too many."""

    def deal(self, codes: Any, valid: Any, first: int, count: int, kinds: int, /) -> tuple[bytes, ...]:
        """For each code the numbers of its rows, int64."""

    def mark(self, rows: bytes | None, codes: Any, valid: Any, first: int, count: int, size: int, /) -> bytes:
        """For each value a byte: whether one of the rows has it."""

    def join(self, codes: bytearray, before: int, rows: bytes | None, column: Any, valid: Any, first: int, count: int,
             classes: Any, null_class: int, kinds: int, /) -> list[tuple[int, int]]:
        """Tell rows apart by one more column, in place: arrow.Codes.add. Raises OverflowError."""


class ColumnScanner:
    """Classifies distinct values of one field."""

    def __init__(self, scanner: Scanner, extension: Extension | None = None) -> None:
        self._scanner, self._most = scanner, extension.SETS if extension else 0
        self._finder = _finder_of(scanner, extension) if extension else None
        self._sets: list[int] = []  # what the finder's sets of literals come to

    def finds(self, values: Any) -> bool:
        """Whether ``classify`` of such an array takes *used*."""
        import pyarrow as pa

        return self._finder is not None and values.type == pa.string()

    def classify(self, values: Any, used: bytes | None = None) -> tuple[list[int], Any]:
        """Sets of true predicates, each once, and for each value the place of its set: int32.

        Args:
            values: Distinct values.
            used: A byte for each: what comes of one whose byte is 0 does not matter.

        Raises:
            ValueError: A text is no UTF-8.
        """
        import pyarrow as pa

        if self._finder is not None and values.type == pa.string():
            return self._found(self._finder, values, used)
        return _numbered([_classify(self._scanner, value) for value in values.to_pylist()])

    def _found(self, finder: Finder, values: Any, used: bytes | None) -> tuple[list[int], Any]:
        import pyarrow as pa

        _, offsets, data = values.buffers()
        found, firsts, left = finder.find(offsets, data or b"", values.offset, len(values), used)
        self._sets += [_classify(self._scanner, values[place].as_py()) for place in firsts]
        others = [_classify(self._scanner, values[place].as_py()) for place in left]
        true, places = _numbered([*self._sets, *([0] * (self._most - len(self._sets)) if left else ()), *others] or [0])
        return true, places.take(pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(found)]))


def _numbered(sets: Sequence[int]) -> tuple[list[int], Any]:
    import pyarrow as pa

    ids = {each: place for place, each in enumerate(dict.fromkeys(sets))}
    return list(ids), pa.array([ids[each] for each in sets], pa.int32())


def _finder_of(scanner: Scanner, extension: Extension) -> Finder | None:
    literals = scanner.literals(0)
    if literals is None:
        return None
    try:
        return extension.Finder(tuple((text.value.encode(), RELATIONS[text.relation], text.cased, atom)
                                      for atom, (text, _) in enumerate(literals)))
    except (OverflowError, ValueError):
        return None  # more than it has room for


def _classify(scanner: Scanner, value: object) -> int:
    if type(value) is str:
        known = scanner.known.get(value)
        if known is not None:
            return known
    return scanner.classify(value)


class JoinedCodes:
    """``arrow.Codes`` of some rows, with the extension."""

    def __init__(self, extension: Extension, rows: bytes | None, count: int) -> None:
        self._extension, self._rows, self._length = extension, rows, count
        self._codes, self.count = bytearray(4 * count), 1

    @property
    def codes(self) -> Any:
        """For each row its code: int32."""
        import pyarrow as pa

        return pa.Array.from_buffers(pa.int32(), self._length, [None, pa.py_buffer(self._codes)])

    def used(self, codes: Any, size: int) -> bytes:
        """Which of *size* values some row has, whose codes are those of all rows."""
        valid, data = codes.buffers()
        return self._extension.mark(self._rows, data, valid, codes.offset, len(codes), size)

    def add(self, codes: Any, classes: Any, kinds: int, null_class: int, *,
            all_rows: bool) -> list[tuple[int, int]]:
        """As ``arrow.Codes.add``; *codes* are those of all rows or of these alone. Raises OverflowError."""
        valid, data = codes.buffers()
        parts = self._extension.join(self._codes, self.count, self._rows if all_rows else None, data, valid,
                                     codes.offset, len(codes), classes.buffers()[1], null_class, kinds)
        self.count = len(parts)
        return parts
