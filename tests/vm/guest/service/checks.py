"""One line for each check: what was expected, what was seen. The table is the test's data."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from service.host import sh


class Checks:
    """Counts and prints; a failure prints the end of the journal as well."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.failed: list[str] = []
        self._since = time.monotonic()

    def that(self, name: str, good: object, expected: str, seen: object = "") -> bool:
        """Note whether *name* holds. *seen* is what a reader needs to judge by himself."""
        self.rows[name] = "yes" if good else "**no**"
        print(f"{'ok    ' if good else 'FAILED'} {name}: expected {expected}; seen {str(seen)[:600] or bool(good)}",
              flush=True)
        if not good:
            self.failed.append(name)
            self._journal()
        return bool(good)

    def equal(self, name: str, expected: object, seen: object) -> bool:
        """Note whether two values are the same."""
        return self.that(name, expected == seen, str(expected), seen)

    def measured(self, name: str, value: object) -> None:
        """A figure for the table."""
        self.rows[name] = str(value)
        print(f"       {name}: {value}", flush=True)

    def part(self, name: str, run: Callable[[], None]) -> None:
        """Run one part; what it raises is a failure of its own, and the next part goes on."""
        print(f"--- {name}", flush=True)
        start = time.monotonic()
        try:
            run()
        except Exception:
            self.that(f"{name}: runs to its end", False, "no exception", traceback.format_exc()[-500:])
        print(f"    ({time.monotonic() - start:.0f} s)", flush=True)

    def end(self) -> int:
        """Leave the table; the exit status."""
        Path(os.environ.get("VM_DATA", "/dev/null")).write_text(json.dumps(self.rows))
        print(f"{len(self.rows)} rows, failed:", *(self.failed or ["nothing"]), sep="\n  ", flush=True)
        return 1 if self.failed else 0

    @staticmethod
    def _journal() -> None:
        lines = sh("journalctl", "-u", "sensor", "-u", "sensor.socket", "-n", "25", "--no-pager", "-o",
                   "short-monotonic").stdout
        print("\n".join(f"    | {line[:300]}" for line in lines.splitlines()), flush=True)
