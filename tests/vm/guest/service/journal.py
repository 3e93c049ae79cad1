"""The sensor's journal, from a place on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from service.host import sh, wait

Entry = dict[str, Any]
ALERT_SECONDS = 30.0  # from the act to its entry: emulated processors


class Journal:
    """Entries of the unit since :meth:`mark`."""

    def __init__(self) -> None:
        self._cursor = ""
        self.mark()

    def mark(self) -> None:
        """Forget what came so far."""
        sh("journalctl", "--sync")
        # The unit's own last entry: after a cursor that the filter hides, journalctl 252 skips one entry too many.
        lines = sh("journalctl", "-u", "sensor", "-n", "1", "-o", "json", "--output-fields=MESSAGE").stdout.splitlines()
        self._cursor = json.loads(lines[-1])["__CURSOR"] if lines else ""

    def entries(self) -> list[Entry]:
        """What came since, the oldest first. --all: without it a field over 4 KiB is null."""
        sh("journalctl", "--sync")
        after = [f"--after-cursor={self._cursor}"] if self._cursor else []
        text = sh("journalctl", "-u", "sensor", "-o", "json", "--all", *after).stdout
        return [json.loads(line) for line in text.splitlines()]

    def messages(self) -> str:
        """What came since, as text."""
        return "\n".join(str(entry.get("MESSAGE")) for entry in self.entries())

    def wait(self, wanted: Callable[[Entry], bool], seconds: float = ALERT_SECONDS) -> Entry | None:
        """The first entry that is *wanted*; None when none comes in time."""
        return wait(lambda: next(filter(wanted, self.entries()), None), seconds, 1.0)

    def says(self, text: str, seconds: float = ALERT_SECONDS) -> bool:
        """Whether a message with *text* comes in time."""
        return self.wait(lambda entry: text in str(entry.get("MESSAGE")), seconds) is not None

    def alert(self, rule: str, pid: int | None = None, seconds: float = ALERT_SECONDS) -> Entry | None:
        """The first alert of a rule, about a process if one is named."""
        return self.wait(lambda entry: entry.get("SENSOR_RULE_ID") == rule
                         and pid in (None, int(entry.get("SENSOR_PID", -1))), seconds)

    def alerts(self, rule: str, pid: int | None = None) -> list[Entry]:
        """All alerts of a rule so far."""
        return [entry for entry in self.entries() if entry.get("SENSOR_RULE_ID") == rule
                and pid in (None, int(entry.get("SENSOR_PID", -1)))]


def document(entry: Entry | None) -> Entry:
    """The alert itself, as the sensor wrote it."""
    found = json.loads(entry["SENSOR_JSON"]) if entry else {}
    assert isinstance(found, dict)
    return found


def at(node: Any, key: str) -> Any:
    """Value at a dotted key; None where there is none."""
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node
