"""A table on a terminal, row by row as documents come.

Columns have fixed widths so that rows printed minutes apart stand under one heading. A cell that is
too long wraps within its column. Without colour (NO_COLOR, no terminal) the words alone carry it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO, Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sensor.errors import SensorError
from sensor.outputs.counts import Counts, reason_of
from sensor.outputs.summary import parent_chain, process_name, subject, text_at, user_name
from sensor.outputs.terminal import terminal_safe

LEVEL_STYLES = {"critical": "bold white on red", "high": "bold red", "medium": "yellow", "low": "cyan",
                "informational": "dim"}
#: Wide levels would cost every row four columns.
_LEVEL_WORDS = {"informational": "info"}
#: Without a terminal there is no width to ask for; the narrowest that is promised to be readable.
_WIDTH = 100
_MIN_WIDTH = 60
#: A row is kept short: 8 KiB of arguments would push everything else off the screen.
_CELL_LIMIT = 400
#: Rows held back until a flush.
_BATCH = 256


class Table:
    """An output for people: time, level, rule, process, user, parents, what.

    ``width`` is in columns; None asks the terminal. ``strict`` lets BrokenPipeError and a full disk
    (SensorError) through instead of counting them.
    """

    name = "table"

    def __init__(self, stream: IO[str], *, strict: bool = False, width: int | None = None,
                 clock: Callable[[], float] = time.time) -> None:
        self.counts = Counts()
        self._strict, self._clock = strict, clock
        if width is None and not stream.isatty():
            width = _WIDTH
        self._console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False,
                                soft_wrap=False)
        self._rows: list[list[Text]] = []
        self._headed = False

    def write(self, document: dict[str, Any]) -> None:
        """Take one document, alert or event."""
        self._rows.append(_cells(document))
        if len(self._rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Print the rows taken since the last flush."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        table = _grid(max(_MIN_WIDTH, self._console.width), heading=not self._headed)
        for row in rows:
            table.add_row(*row)
        try:
            self._console.print(table)
            self._console.file.flush()
        except OSError as error:
            self.counts.drop(reason_of(error), len(rows))
            if self._strict:
                raise error if isinstance(error, BrokenPipeError) else SensorError(
                    f"can't write the table: {error.strerror}") from error
            return
        self._headed = True
        self.counts.events += len(rows)
        self.counts.last_success = self._clock()

    def reopen(self) -> None:
        """A terminal has no name to open again."""

    def close(self) -> None:
        """Print what is left."""
        self.flush()


def _grid(width: int, heading: bool) -> RichTable:
    # Time and level take 8 each, 6 gaps; the rest is shared, most of it for what happened.
    rest = width - 8 - 8 - 6
    user = min(10, rest // 9)
    rule, process, parents = rest * 25 // 100, rest * 18 // 100, rest * 18 // 100
    what = rest - user - rule - process - parents
    table = RichTable(box=None, show_header=heading, header_style="bold", show_edge=False, pad_edge=False,
                      padding=(0, 1, 0, 0))
    for title, size in (("TIME", 8), ("LEVEL", 8), ("RULE", rule), ("PROCESS", process), ("USER", user),
                        ("PARENTS", parents), ("WHAT", what)):
        table.add_column(title, width=size, overflow="fold", no_wrap=title in ("TIME", "LEVEL"))
    return table


def _cells(document: dict[str, Any]) -> list[Text]:
    level = text_at(document, "rule.level")
    return [
        Text(_cell(_time_of_day(text_at(document, "@timestamp")))),
        Text(_cell(_LEVEL_WORDS.get(level, level) or "-"), style=LEVEL_STYLES.get(level, "")),
        Text(_cell(text_at(document, "rule.name", "rule.id", "event.action"))),
        Text(_cell(process_name(document))),
        Text(_cell(user_name(document))),
        Text(_cell(" < ".join(parent_chain(document))), style="dim"),
        Text(_cell(subject(document))),
    ]


def _cell(text: str) -> str:
    if len(text) > _CELL_LIMIT:
        text = text[:_CELL_LIMIT] + "..."
    return terminal_safe(text)


def _time_of_day(timestamp: str) -> str:
    """``HH:MM:SS`` of an RFC 3339 time; UTC as recorded."""
    return timestamp[11:19] if timestamp[10:11] == "T" else timestamp[:8]
