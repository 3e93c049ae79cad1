"""The batch matcher: columns in, the rules that match each row out.

It decides as the stream matcher does, with the same scanners and the same residual conditions, but
once for each distinct value and each distinct combination: a value's set of true predicates is a
code, the codes of a row's fields become one code, and rows with the same code share a decision.
Only what a decision leaves open is tested on values, again once for each combination of them.

Nothing is gated here: a gate saves scanning values, and each is scanned once anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sensor.arrow import Codes, distinct, integers, rows_with
from sensor.rules.condition import ANYWHERE, FALSE, TRUE, Condition, Predicate, fields, predicates
from sensor.rules.decide import Test, document_condition, is_cheap, necessary, residual
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

    def __init__(self, rules: Sequence[Rule]) -> None:
        by_action: dict[str, list[tuple[int, Condition]]] = {}
        for number, rule in enumerate(rules):
            for action in rule.events:
                by_action.setdefault(action, []).append((number, routed(rule, action)))
        self._programs = {action: _Program(pairs) for action, pairs in by_action.items()}

    def keys(self, known: Iterable[str]) -> set[str]:
        """Those of the *known* keys whose columns ``match`` needs."""
        wanted = {ACTION, *(field for program in self._programs.values() for field in program.fields)}
        if ANYWHERE in wanted:
            return {key for key in known if _is_anywhere(key)} | wanted & set(known) | _lists(wanted, known)
        return wanted & set(known) | _lists(wanted, known)

    def match(self, columns: Columns) -> dict[int, tuple[int, ...]]:
        """Row -> numbers of the rules that match, ascending; rows without a match are left out.

        Args:
            columns: Key -> Arrow array of texts (also in a dictionary), int64, booleans or lists of
                texts. Texts are the event's own: rows with escaped ones don't belong here.

        Raises:
            ValueError: A text is no UTF-8.
        """
        found: dict[int, tuple[int, ...]] = {}
        if ACTION not in columns:
            return found
        actions, codes = distinct(columns[ACTION])
        for action in {each for each in actions if each in self._programs}:
            rows = rows_with(codes, [code for code, each in enumerate(actions) if each == action])
            program = self._programs[action]
            needed = {key: columns[key] for key in program.keys(columns)}
            if len(rows) < len(codes):
                needed = {key: column.take(rows) for key, column in needed.items()}
            numbers = integers(rows.cast("int64"))
            for row, rules in program.match(needed, len(rows)):
                found[numbers[row]] = rules
        return found


def _is_anywhere(key: str) -> bool:
    return key.partition(".")[0] not in OWN_KEYS


def _lists(wanted: Iterable[str], known: Iterable[str]) -> set[str]:
    """Keys of the lists of which an item is wanted: ``process.args`` for ``process.args.0``."""
    return {list_key for field in wanted if (list_key := list_item(field)[0])} & set(known)


class _Program:
    """Compiled rules of one event."""

    def __init__(self, rules: Sequence[tuple[int, Condition]]) -> None:
        self._numbers = [number for number, _ in rules]
        conditions = [guarded(condition) for _, condition in rules]
        self.fields = frozenset(field for condition in conditions for field in fields(condition))
        cheap: dict[str, dict[Predicate, int]] = {}
        bits: dict[Predicate, int] = {}
        for condition in conditions:
            for predicate in filter(is_cheap, predicates(condition)):
                number = bits.setdefault(predicate, len(bits))
                cheap.setdefault(predicate.field, {})[predicate] = number
        self._scanners = {field: Scanner((number, predicate) for predicate, number in group.items())
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

    def match(self, columns: Columns, rows: int) -> list[tuple[int, tuple[int, ...]]]:
        """(row, numbers of rules) of the rows in which some rule matches."""
        batch = _Batch(columns)
        codes, sets = self._classified(batch, rows)
        decisions = [self._decide(each) for each in sets]
        if not any(sure or left for sure, left in decisions):
            return []
        answers: dict[Condition, _Answers] = {}
        found = []
        for row, code in enumerate(codes):
            sure, left = decisions[code]
            if left:
                more = [number for number, condition in left
                        if self._answer(condition, answers, batch).of(row)]
                if more:
                    sure = tuple(sorted([*sure, *more]))
            if sure:
                found.append((row, sure))
        return found

    def _classified(self, batch: _Batch, rows: int) -> tuple[list[int], list[int]]:
        """For each row a code, for each code the set of predicates that are true."""
        codes, sets = Codes(rows), [0]
        for field, scanner in self._scanners.items():
            for key, index in batch.sources(field):
                values, places = batch.distinct(key)
                classes = [_classify(scanner, value, index) for value in values]
                ids = {each: number for number, each in enumerate(dict.fromkeys(classes))}
                true = list(ids)
                if len(ids) == 1:
                    sets = [each | true[0] for each in sets] if true[0] else sets
                    continue
                parts = codes.add(batch.gather([ids[each] for each in classes], places), len(ids))
                sets = [sets[before] | true[added] for before, added in parts]
        return integers(codes.codes), sets

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


def _classify(scanner: Scanner, value: object, index: int) -> int:
    if index >= 0:
        value = value[index] if isinstance(value, list) and index < len(value) else None
    if type(value) is str:
        known = scanner.known.get(value)
        if known is not None:
            return known
    return scanner.classify(value)


class _Batch:
    """Columns of one batch, each split into distinct values when it is first looked at."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._split: dict[str, tuple[list[Any], Any]] = {}
        self._places: dict[str, list[int]] = {}

    def sources(self, field: str) -> list[tuple[str, int]]:
        """The columns, and the place in their lists or -1, that hold the values of a field."""
        if field == ANYWHERE:
            return [(key, -1) for key in self.columns if _is_anywhere(key)]
        if field in self.columns:
            return [(field, -1)]
        key, index = list_item(field)
        return [(key, index)] if key in self.columns else []

    def distinct(self, key: str) -> tuple[list[Any], Any]:
        """Distinct values of a column and the codes of its rows."""
        if key not in self._split:
            self._split[key] = distinct(self.columns[key])
        return self._split[key]

    def places(self, key: str) -> list[int]:
        """The codes of a column's rows as numbers."""
        if key not in self._places:
            self._places[key] = integers(self.distinct(key)[1])
        return self._places[key]

    @staticmethod
    def gather(numbers: list[int], places: Any) -> Any:
        """For each place the number that stands there: int32."""
        import pyarrow as pa

        return pa.array(numbers, pa.int32()).take(places)


class _Answers:
    """One open condition over the rows of a batch, tested once for each combination of values."""

    def __init__(self, test: Test, wanted: Sequence[str], batch: _Batch) -> None:
        self._test = test
        keys = {key for field in wanted for key, _ in batch.sources(field)}
        self._columns = [(key.split("."), batch.distinct(key)[0], batch.places(key)) for key in sorted(keys)]
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
