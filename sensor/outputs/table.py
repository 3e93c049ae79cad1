"""A table on a terminal, row by row as documents come.

Columns have fixed widths so that rows printed minutes apart stand under one heading. A cell that is
too long wraps within its column. Without colour (NO_COLOR, no terminal) the words alone carry it.

Rows go through the same writer as JSON lines: a terminal that was stopped or went away costs rows,
counted, and never the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sensor.outputs.jsonlines import JsonLines
from sensor.outputs.summary import parent_chain, process_name, subject, text_at, user_name
from sensor.outputs.terminal import terminal_safe

TITLES = ("TIME", "LEVEL", "RULE", "PROCESS", "USER", "PARENTS", "WHAT")

#: SGR parameters (ECMA-48) by level.
_LEVEL_STYLES = {"critical": "1;37;41", "high": "1;31", "medium": "33", "low": "36", "informational": "2"}
_FAINT, _BOLD = "2", "1"
#: The longest level would cost every row five columns.
_LEVEL_WORDS = {"informational": "info"}
#: Without a terminal there is no width to ask for; the narrowest that is promised to be readable.
_WIDTH = 100
_MIN_WIDTH = 60
#: A row is kept short: 8 KiB of arguments would push everything else off the screen.
_CELL_LIMIT = 400


class Table(JsonLines):
    """An output for people: time, level, rule, process, user, parents, what.

    Args:
        fd: Where to write; borrowed.
        width: In columns; None asks the terminal.
        terminal: Whether *fd* is one; None asks it.
        environ: For NO_COLOR, TERM and COLUMNS; os.environ if None.
        strict: As of :class:`JsonLines`, like *patience*.
        patience: Seconds to wait for a terminal that was stopped.
    """

    def __init__(self, fd: int, *, width: int | None = None, terminal: bool | None = None,
                 environ: Mapping[str, str] | None = None, strict: bool = False, patience: float = 1.0) -> None:
        super().__init__(fd, name="table", strict=strict, patience=patience)
        environ = os.environ if environ is None else environ
        terminal = os.isatty(fd) if terminal is None else terminal
        self._color = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._widths = column_widths(width or _ask_width(fd, terminal, environ))
        self._console = Console(width=_WIDTH, color_system=None)  # only its wrapping is used
        self._headed = False

    def write(self, document: dict[str, Any]) -> None:
        """Take one document, alert or event."""
        level = text_at(document, "rule.level")
        styles = ("", _LEVEL_STYLES.get(level, ""), "", "", "", _FAINT, "")
        text = self._row(_cells(document, level), styles)
        if not self._headed:
            text = self._row(TITLES, (_BOLD,) * len(TITLES)) + text
            self._headed = True
        self.write_line(text.encode())

    def _row(self, cells: Sequence[str], styles: Sequence[str]) -> str:
        columns = [self._wrap(cell, width) for cell, width in zip(cells, self._widths, strict=True)]
        lines = []
        for index in range(max(map(len, columns))):
            parts = [self._styled(column[index] if index < len(column) else "", width, style)
                     for column, width, style in zip(columns, self._widths, styles, strict=True)]
            lines.append(" ".join(parts).rstrip() + "\n")
        return "".join(lines)

    def _wrap(self, cell: str, width: int) -> list[str]:
        if len(cell) <= width and cell.isascii():
            return [cell]
        return [line.plain.rstrip() for line in Text(cell).wrap(self._console, width, overflow="fold")]

    def _styled(self, text: str, width: int, style: str) -> str:
        padding = " " * (width - cell_len(text))
        if text and style and self._color:
            return f"\x1b[{style}m{text}\x1b[0m{padding}"
        return text + padding


def _ask_width(fd: int, terminal: bool, environ: Mapping[str, str]) -> int:
    columns = environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and 0 < int(columns) < 10_000:
        return int(columns)
    try:
        return os.get_terminal_size(fd).columns or _WIDTH if terminal else _WIDTH
    except OSError:
        return _WIDTH


def column_widths(width: int) -> tuple[int, ...]:
    """Widths of the columns, which with six gaps take *width* columns, or 60 where that is less."""
    # Time and level take 8 each; the rest is shared, most of it for what happened.
    rest = max(_MIN_WIDTH, width) - 8 - 8 - 6
    user = min(10, rest // 9)
    rule, process, parents = rest * 25 // 100, rest * 18 // 100, rest * 18 // 100
    return 8, 8, rule, process, user, parents, rest - user - rule - process - parents


def _cells(document: dict[str, Any], level: str) -> tuple[str, ...]:
    cells = (_time_of_day(text_at(document, "@timestamp")), _LEVEL_WORDS.get(level, level)[:8] or "-",
             text_at(document, "rule.name", "rule.id", "event.action"), process_name(document),
             user_name(document), " < ".join(parent_chain(document)), subject(document))
    return tuple(terminal_safe(cell if len(cell) <= _CELL_LIMIT else f"{cell[:_CELL_LIMIT]}...") for cell in cells)


def _time_of_day(timestamp: str) -> str:
    """``HH:MM:SS`` of an RFC 3339 time; UTC as recorded."""
    return timestamp[11:19] if timestamp[10:11] == "T" else timestamp[:8]
