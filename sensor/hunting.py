"""Rules over recordings that are searched, not replayed: SQL over Parquet, the matcher over the rest.

DuckDB names the rows of a Parquet recording in which a rule may hold; what its SQL can't decide as the
engine does, the engine decides on the document. JSON lines need no SQL: reading them costs more than
deciding. Either way the documents are those that a replay would alert on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from sensor.columns import recording
from sensor.ecs_input import ACTIONS
from sensor.errors import HostError
from sensor.reading import Reader
from sensor.rules.condition import Condition, Relation, Text, all_of, any_of, negate
from sensor.rules.decide import document_condition
from sensor.rules.eventtime import text_of_ns, time_ns
from sensor.rules.matcher import Matcher
from sensor.rules.model import Rule
from sensor.rules.reference import routed
from sensor.shape import Document

_MEMORY = "1GB"
_TICK = 0.2  # seconds between looks at DuckDB's progress
_FETCH = 10_000  # rows named at once

Found = tuple[Document, tuple[Rule, ...]]


class Hunt:
    """Rules, and a period of the events' own time in ns since 1970: from the first on, before the second."""

    def __init__(self, rules: Sequence[Rule], since: int | None = None, until: int | None = None) -> None:
        self._rules = tuple(rules)
        self._since, self._until = since, until
        self._matcher = Matcher(rules)
        self._conditions = [condition_of(rule) for rule in rules]
        self._tests = [document_condition(condition) for condition in self._conditions]

    def run(self, path: str, reader: Reader) -> Iterator[Found]:
        """Events of a recording in which some rule matches, with these rules, in order.

        Raises:
            HostError: The recording is Parquet, and DuckDB or pyarrow is missing.
            UsageError: It can't be opened.
        """
        if reader.kind != "ecs" and recording(path) is not None:
            yield from self._parquet(path, reader)
            return
        for document in reader.documents(path):
            rules = self._matcher.match(document)
            if rules and self._timely(document):
                yield document, tuple(rules)

    def _timely(self, document: Document) -> bool:
        if self._since is None and self._until is None:
            return True
        when = time_ns(document.get("@timestamp"))
        return (when is not None and (self._since is None or when >= self._since)
                and (self._until is None or when < self._until))

    def _parquet(self, path: str, reader: Reader) -> Iterator[Found]:
        for document, answers in _documents(path, self._places(path, reader), reader):
            for accepted in reader.accept(document):
                if None in answers and not self._timely(accepted):
                    continue
                rules = tuple(rule for rule, test, answer in zip(self._rules, self._tests, answers, strict=True)
                              if (test(accepted) if answer is None else answer))
                if rules:
                    yield accepted, rules
        reader.advance(os.path.getsize(path))

    def _places(self, path: str, reader: Reader) -> Iterator[tuple[int, tuple[bool | None, ...]]]:
        """Numbers of rows and what SQL says of each rule there, None where the engine has to be asked."""
        from sensor import parquet, parquet_read
        from sensor.rules.sql import select

        names = parquet_read.File(path).schema.names
        database = open_database()
        known = any_of(*(Text("event.action", Relation.EQUALS, action, cased=True) for action in sorted(ACTIONS)))
        query = select(self._conditions, {key: kind for key, kind in parquet.columns().items() if key in names},
                       negate(known), parquet.REST if parquet.REST in names else None,
                       lambda pattern: takes(database, pattern), _bound(self._since), _bound(self._until))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # By descriptor: a name may hold characters that DuckDB takes for patterns of names.
            place = f"/proc/self/fd/{descriptor}"
            database.execute(f"SET allowed_paths = ['{place}']")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            _execute(database, query.sql, [*query.parameters, place])
            while rows := database.fetchmany(_FETCH):
                for row in rows:
                    yield row[0], row[1:]
        finally:
            database.close()
            os.close(descriptor)


def condition_of(rule: Rule) -> Condition:
    """A rule's condition together with the events that it sees."""
    routes: dict[Condition, list[str]] = {}
    for action in rule.events:
        routes.setdefault(routed(rule, action), []).append(action)
    return any_of(*(condition if ACTIONS.issubset(actions) else all_of(
        any_of(*(Text("event.action", Relation.EQUALS, action, cased=True) for action in actions)), condition)
        for condition, actions in routes.items()))


def _bound(moment: int | None) -> str:
    return "" if moment is None else text_of_ns(moment).rstrip("Z").rstrip("0").rstrip(".")


def open_database() -> Any:
    """DuckDB in memory that loads nothing from anywhere. Raises HostError where it is missing."""
    try:
        import duckdb
    except ImportError as error:
        raise HostError("hunting in Parquet needs DuckDB, which is not installed",
                        "pip install 'sensor[hunt]'") from error
    return duckdb.connect(config={
        "memory_limit": _MEMORY, "threads": len(os.sched_getaffinity(0)), "temp_directory": "",
        "autoinstall_known_extensions": False, "autoload_known_extensions": False})


def takes(database: Any, pattern: str) -> bool:
    """Whether DuckDB compiles a regular expression; its RE2 may be older than ours."""
    import duckdb

    try:
        database.execute("SELECT regexp_matches('', $1)", [pattern]).fetchall()
    except duckdb.Error:
        return False
    return True


def _execute(database: Any, sql: str, parameters: list[Any]) -> None:
    """Run a query so that Ctrl-C ends it: DuckDB itself would finish first."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            database.execute(sql, parameters)
        except BaseException as error:  # noqa: BLE001  raised again by who waits
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_TICK)
    except KeyboardInterrupt:
        database.interrupt()
        thread.join()
        raise
    if failed:
        raise failed[0]


def _documents(path: str, places: Iterator[tuple[int, tuple[bool | None, ...]]], reader: Reader,
               ) -> Iterator[tuple[Document, tuple[bool | None, ...]]]:
    """The documents of ascending places, read batch by batch; row groups without any are not read."""
    import pyarrow as pa

    from sensor import parquet_read

    file = parquet_read.File(path)
    wanted = next(places, None)
    first = 0
    for group in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        if wanted is None:
            return
        if wanted[0] < end:
            start = first
            for batch in file.batches(group):
                rows, answers = [], []
                while wanted is not None and wanted[0] < start + batch.num_rows:
                    rows.append(wanted[0] - start)
                    answers.append(wanted[1])
                    wanted = next(places, None)
                start += batch.num_rows
                yield from _some(batch.take(pa.array(rows, pa.int64())), answers, reader)
        first = end


def _some(batch: Any, answers: list[tuple[bool | None, ...]], reader: Reader,
          ) -> Iterator[tuple[Document, tuple[bool | None, ...]]]:
    from sensor.parquet_read import SLICE_ROWS, documents, pieces

    for start in range(0, batch.num_rows, SLICE_ROWS):
        part = batch.slice(start, SLICE_ROWS)
        short = sum(piece.num_rows for piece in pieces(part, reader.line_bytes, lambda *_: None))
        # Where some row is too long each is looked at alone, so that answers stay with their rows.
        size = part.num_rows if short == part.num_rows else 1
        for first in range(0, part.num_rows, size):
            of_these = iter(answers[start + first:start + first + size])
            for piece in pieces(part.slice(first, size), reader.line_bytes, reader.skip):
                for document in documents(piece):
                    yield document, next(of_these)


def moment(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time, or of a day, or of a time without zone, in UTC. Raises ValueError."""
    for complete in (text, f"{text}Z", f"{text}:00Z", f"{text}T00:00:00Z"):
        found = time_ns(complete.replace(" ", "T", 1))
        if found is not None:
            return found
    raise ValueError(text)


