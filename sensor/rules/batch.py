"""The batch matcher: columns in, the rules that match each row out.

It decides as the stream matcher does, with the same scanners and the same residual conditions, but
once for each distinct value and each distinct combination: a value's set of true predicates is a
code, the codes of a row's fields become one code, and rows with the same code share a decision.
Only what a decision leaves open is tested on values, again once for each combination of them.

Nothing is gated here: a gate saves scanning values, and each is scanned once anyway.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sensor.arrow import Codes, distinct, integers, item_of, kind_of, rows_with, split, view
from sensor.rules.columns import ColumnScanner, Extension, JoinedCodes
from sensor.rules.condition import ANYWHERE, FALSE, TRUE, Condition, Predicate, fields, predicates
from sensor.rules.decide import Test, document_condition, is_cheap, necessary, residual, settled
from sensor.rules.guards import guarded
from sensor.rules.model import Rule
from sensor.rules.reference import routed
from sensor.rules.scan import Scanner
from sensor.rules.values import OWN_KEYS, list_item

ACTION = "event.action"

#: Remembered decisions and tests of one event's rules, as in program.py.
_DECISIONS = 32_768
#: Remembered answers of one open condition within one batch.
_ANSWERS = 65_536

Columns = Mapping[str, Any]
#: Numbers of rules that match for sure, and conditions that are still open.
_Decision = tuple[tuple[int, ...], tuple[tuple[int, Condition], ...]]


class BatchMatcher:
    """Rules compiled for columns of recordings; numbers of rules are places in the sequence given."""

    def __init__(self, rules: Sequence[Rule], extension: Extension | None = None) -> None:
        """Nothing is compiled yet; *extension* is that in C, where there is one."""
        self._extension = extension
        by_action: dict[str, list[tuple[int, Condition]]] = {}
        for number, rule in enumerate(rules):
            for action in rule.events:
                # What the event is called is known: what else a rule says of events of other names is not asked for.
                by_action.setdefault(action, []).append((number, settled(routed(rule, action), ACTION, action)))
        self._conditions = by_action
        self._programs: dict[str, _Program] = {}

    def compile(self) -> None:
        """Make what ``match`` would make when it comes upon an event's name for the first time."""
        for action in self._conditions:
            self._program(action)

    def _program(self, action: str) -> _Program:
        found = self._programs.get(action)
        if found is None:
            found = self._programs[action] = _Program(self._conditions[action], self._extension)
        return found

    def keys(self, known: Iterable[str]) -> set[str]:
        """Those of the *known* keys whose columns ``match`` needs."""
        wanted = {ACTION, *(field for pairs in self._conditions.values() for _, condition in pairs
                            for field in fields(condition))}
        if ANYWHERE in wanted:
            return {key for key in known if _is_anywhere(key)} | wanted & set(known) | _lists(wanted, known)
        return wanted & set(known) | _lists(wanted, known)

    def match(self, columns: Columns) -> dict[int, tuple[int, ...]]:
        """Row -> numbers of the rules that match, ascending; rows without a match are left out.

        Args:
            columns: Key -> Arrow array of texts, int64, booleans or lists of texts; texts also in a
                dictionary. They are the event's own: rows with escaped ones don't belong here.

        Raises:
            ValueError: A text is no UTF-8.
        """
        found: dict[int, tuple[int, ...]] = {}
        if ACTION not in columns:
            return found
        actions, codes = distinct(columns[ACTION])
        columns = {key: column for key, column in columns.items() if column.null_count < len(column)}
        for action, rows in self._dealt(actions, codes):
            program = self._program(action)
            numbers = rows.numbers
            for place, rules in program.match(_Batch({key: columns[key] for key in program.keys(columns)}, rows)):
                found[numbers[place]] = rules
        return found

    def _dealt(self, actions: list[Any], codes: Any) -> Iterator[tuple[str, _Rows]]:
        """The rows of each event that there are rules for."""
        wanted = {each: [code for code, other in enumerate(actions) if other == each]
                  for each in actions if each in self._conditions}
        if self._extension is not None and all(len(places) == 1 for places in wanted.values()):
            dealt = self._extension.deal(codes.buffers()[1], None, codes.offset, len(codes), len(actions))
            yield from ((action, _Rows(dealt[places[0]])) for action, places in wanted.items())
            return
        for action, places in wanted.items():
            rows = rows_with(codes, places).cast("int64")
            yield action, _Rows(view(rows).tobytes())


class _Rows:
    """Numbers of some rows, ascending."""

    def __init__(self, packed: bytes) -> None:
        self.packed = packed  # int64
        self.numbers = memoryview(packed).cast("q")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def array(self) -> Any:
        """The same for Arrow."""
        import pyarrow as pa

        return pa.Array.from_buffers(pa.int64(), len(self), [None, pa.py_buffer(self.packed)])


def _is_anywhere(key: str) -> bool:
    return key.partition(".")[0] not in OWN_KEYS


def _lists(wanted: Iterable[str], known: Iterable[str]) -> set[str]:
    """Keys of the lists of which an item is wanted: ``process.args`` for ``process.args.0``."""
    return {list_key for field in wanted if (list_key := list_item(field)[0])} & set(known)


class _Program:
    """Compiled rules of one event."""

    def __init__(self, rules: Sequence[tuple[int, Condition]], extension: Extension | None) -> None:
        self._extension = extension
        self._numbers = [number for number, _ in rules]
        conditions = [guarded(condition) for _, condition in rules]
        self.fields = frozenset(field for condition in conditions for field in fields(condition))
        cheap: dict[str, dict[Predicate, int]] = {}
        bits: dict[Predicate, int] = {}
        for condition in conditions:
            for predicate in filter(is_cheap, predicates(condition)):
                number = bits.setdefault(predicate, len(bits))
                cheap.setdefault(predicate.field, {})[predicate] = number
        self._scanners = {
            field: ColumnScanner(Scanner((number, predicate) for predicate, number in group.items()), extension)
            for field, group in cheap.items()}
        self._needs = [min(necessary(condition, bits), key=int.bit_count, default=0) for condition in conditions]
        self._residuals = [residual(condition, bits) for condition in conditions]
        self._decisions: dict[int, _Decision] = {}
        self._tests: dict[Condition, Test] = {}

    def keys(self, columns: Columns) -> set[str]:
        """Keys of the columns that the rules look at."""
        if ANYWHERE in self.fields:
            return {key for key in columns if _is_anywhere(key) or key in self.fields}
        return {key for key in columns if key in self.fields} | _lists(self.fields, columns)

    def match(self, batch: _Batch) -> list[tuple[int, tuple[int, ...]]]:
        """(place among the rows, numbers of rules) of the rows in which some rule matches."""
        try:
            codes, sets = self._joined(self._extension, batch) if self._extension else self._classified(batch)
        except OverflowError:
            codes, sets = self._classified(batch)
        decisions = [self._decide(each) for each in sets]
        wanted = [code for code, (sure, left) in enumerate(decisions) if sure or left]
        if not wanted:
            return []
        found, still_open = [], []
        for code, places in self._placed(codes, len(sets), wanted):
            sure, left = decisions[code]
            if left:
                still_open += [(place, code) for place in places]
            else:
                found += [(place, sure) for place in places]
        if still_open:
            still_open.sort()
            found += self._asked(batch.of([row for row, _ in still_open]), still_open, decisions)
        return found

    def _placed(self, codes: Any, count: int, wanted: Sequence[int]) -> Iterator[tuple[int, Iterable[int]]]:
        """The places of the rows of each of the codes that are wanted."""
        if self._extension is not None:
            dealt = self._extension.deal(codes.buffers()[1], None, codes.offset, len(codes), count)
            yield from ((code, memoryview(dealt[code]).cast("q")) for code in wanted)
            return
        rows = rows_with(codes, wanted)
        placed: dict[int, list[int]] = {code: [] for code in wanted}
        for place, code in zip(integers(rows.cast("int64")), integers(codes.take(rows)), strict=True):
            placed[code].append(place)
        yield from placed.items()

    def _asked(self, batch: _Batch, rows: Sequence[tuple[int, int]],
               decisions: Sequence[_Decision]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Those of the rows of a batch that match; each with its code, by which something is left open."""
        answers: dict[Condition, _Answers] = {}
        for place, (row, code) in enumerate(rows):
            sure, left = decisions[code]
            more = [number for number, condition in left if self._answer(condition, answers, batch).of(place)]
            if sure or more:
                yield row, tuple(sorted([*sure, *more]))

    def _classified(self, batch: _Batch) -> tuple[Any, list[int]]:
        """For each row a code, for each code the set of predicates that are true."""
        codes, sets = Codes(len(batch.rows)), [0]
        for field, scanner in self._scanners.items():
            for key, index in batch.sources(field):
                values, places = batch.split(key, index)
                true, classes = scanner.classify(values)
                if len(true) == 1:
                    sets = [each | true[0] for each in sets] if true[0] else sets
                    continue
                parts = codes.add(classes.take(places), len(true))
                sets = [sets[before] | true[added] for before, added in parts]
        return codes.codes, sets

    def _joined(self, extension: Extension, batch: _Batch) -> tuple[Any, list[int]]:
        """The same with the extension: texts in dictionaries are looked at where they lie."""
        codes, sets = JoinedCodes(extension, batch.rows.packed, len(batch.rows)), [0]
        for field, scanner in self._scanners.items():
            for key, index in batch.sources(field):
                whole = batch.columns[key]
                folded = index < 0 and kind_of(whole.type) is str and hasattr(whole, "dictionary")
                if folded and scanner.finds(whole.dictionary):
                    places = whole.indices
                    true, classes = scanner.classify(whole.dictionary, codes.used(places, len(whole.dictionary)))
                    true = [*true, 0]  # what null comes to
                else:
                    folded = False
                    values, places = batch.split(key, index)
                    true, classes = scanner.classify(values)
                if len(true) == 1 or not any(true):
                    sets = [each | true[0] for each in sets] if true[0] else sets
                    continue
                parts = codes.add(places, classes, len(true), len(true) - 1, all_rows=folded)
                sets = [sets[before] | true[added] for before, added in parts]
        return codes.codes, sets

    def _decide(self, true: int) -> _Decision:
        found = self._decisions.get(true)
        if found is None:
            sure, left = [], []
            for number, need, rest in zip(self._numbers, self._needs, self._residuals, strict=True):
                if need and not need & true:
                    continue
                condition = rest(true)
                if condition is TRUE:
                    sure.append(number)
                elif condition is not FALSE:
                    left.append((number, condition))
            if len(self._decisions) >= _DECISIONS:
                self._decisions.clear()
            found = self._decisions[true] = tuple(sure), tuple(left)
        return found

    def _answer(self, condition: Condition, answers: dict[Condition, _Answers], batch: _Batch) -> _Answers:
        found = answers.get(condition)
        if found is None:
            test = self._tests.get(condition)
            if test is None:
                if len(self._tests) >= _DECISIONS:
                    self._tests.clear()
                test = self._tests[condition] = document_condition(condition)
            found = answers[condition] = _Answers(test, fields(condition), batch)
        return found


class _Batch:
    """Some rows of columns, each split into distinct values when it is first looked at."""

    def __init__(self, columns: Columns, rows: _Rows) -> None:
        self.columns, self.rows = columns, rows
        self._split: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._values: dict[str, list[Any]] = {}
        self._places: dict[str, list[int]] = {}

    def of(self, places: Sequence[int]) -> _Batch:
        """Of these rows those at some places."""
        numbers = self.rows.numbers
        return _Batch(self.columns, _Rows(array("q", [numbers[place] for place in places]).tobytes()))

    def sources(self, field: str) -> list[tuple[str, int]]:
        """The columns, and the place in their lists or -1, that hold the values of a field."""
        if field == ANYWHERE:
            return [(key, -1) for key in self.columns if _is_anywhere(key)]
        if field in self.columns:
            return [(field, -1)]
        key, index = list_item(field)
        return [(key, index)] if key in self.columns and kind_of(self.columns[key].type) is list else []

    def split(self, key: str, index: int = -1) -> tuple[Any, Any]:
        """Distinct values of a column, or of its lists' items at a place, and the codes of its rows: arrays."""
        found = self._split.get((key, index))
        if found is None:
            column = self.columns[key].take(self.rows.array)
            found = self._split[key, index] = split(column if index < 0 else item_of(column, index))
        return found

    def values(self, key: str) -> list[Any]:
        """Distinct values of a column."""
        if key not in self._values:
            self._values[key] = self.split(key)[0].to_pylist()
        return self._values[key]

    def places(self, key: str) -> list[int]:
        """For each row the place of its value among them."""
        if key not in self._places:
            self._places[key] = integers(self.split(key)[1])
        return self._places[key]


class _Answers:
    """One open condition over the rows of a batch, tested once for each combination of values."""

    def __init__(self, test: Test, wanted: Sequence[str], batch: _Batch) -> None:
        self._test = test
        keys = {key for field in wanted for key, _ in batch.sources(field)}
        self._columns = [(key.split("."), batch.values(key), batch.places(key)) for key in sorted(keys)]
        self._known: dict[tuple[int, ...], bool] = {}

    def of(self, row: int) -> bool:
        """Whether the condition holds in a row."""
        combination = tuple(places[row] for _, _, places in self._columns)
        answer = self._known.get(combination)
        if answer is None:
            if len(self._known) >= _ANSWERS:
                self._known.clear()
            answer = self._known[combination] = self._test(self._document(row))
        return answer

    def _document(self, row: int) -> dict[str, Any]:
        document: dict[str, Any] = {}
        for path, values, places in self._columns:
            value = values[places[row]]
            if value is not None:
                node = document
                for name in path[:-1]:
                    node = node.setdefault(name, {})
                node[path[-1]] = value
        return document
