"""Where documents go: JSON lines to a file or pipe, a table on a terminal, the journal.

An output never raises because of its other end: what can't be written is dropped and counted by
reason in its :class:`Counts`. With ``strict`` (one-shot commands) the first failure raises instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sensor.errors import UsageError
from sensor.outputs.counts import Counts
from sensor.outputs.journald import SOCKET, Journal
from sensor.outputs.jsonlines import JsonLines, open_file
from sensor.outputs.table import Table

AUTO = "auto"
AUTO = "auto"
STDOUT = "-"
JOURNAL = "journald"
TABLE = "table"


class Output(Protocol):
    """One destination. Not thread-safe: one thread writes."""

    name: str
    counts: Counts

    def write(self, document: dict[str, Any]) -> None:
        """Take one document; it may stay in a buffer until :meth:`flush`."""

    def flush(self) -> None:
        """Hand everything on. Called by the owner once a tick, and when a batch ends."""

    def reopen(self) -> None:
        """Open a file anew by its name (after log rotation); nothing for other outputs."""

    def close(self) -> None:
        """Flush and let go. Safe to call twice."""


def default_spec(environ: Mapping[str, str], terminal: bool) -> str:
    """The output of a run without ``-o``: journal under systemd, table on a terminal, else JSON lines."""
    if "INVOCATION_ID" in environ and not terminal:
        return JOURNAL
    return TABLE if terminal else STDOUT


def open_output(spec: str | None, *, strict: bool = False, patience: float = 1.0,
                environ: Mapping[str, str] | None = None, journal: str = SOCKET) -> Output:
    """Open the output that *spec* names.

    Args:
        spec: ``-`` (JSON lines on stdout), ``table`` (on stdout), ``journald``, or a path, which is
            appended to. None and ``auto`` take :func:`default_spec`. A file named table is ``./table``.
        strict: Raise on the first failure instead of dropping and counting.
        patience: Seconds to wait for a reader that doesn't read, before its documents are dropped.
            A strict output waits for ever.
        environ: For the decision above; os.environ if None.
        journal: Path of the journal's socket.

    Raises:
        UsageError: The path can't be opened.
    """
    if spec is None or spec == AUTO:
        spec = default_spec(os.environ if environ is None else environ, _is_terminal())
    if spec == JOURNAL:
        return Journal(journal)
    if spec == TABLE:
        return Table(_stdout_fd(), strict=strict, patience=patience)
    if spec == STDOUT:
        return JsonLines(_stdout_fd(), name="stdout", strict=strict, patience=patience)
    path = Path(spec)
    return JsonLines(open_file(path), name="file", path=path, strict=strict, patience=patience)


def _is_terminal() -> bool:
    return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()


def _stdout_fd() -> int:
    if sys.stdout is None or sys.stdout.closed:
        raise UsageError("standard output is closed: name a file with -o FILE")
    sys.stdout.flush()
    return sys.stdout.fileno()


__all__ = ["AUTO", "JOURNAL", "STDOUT", "TABLE", "Counts", "Output", "default_spec", "open_output"]
