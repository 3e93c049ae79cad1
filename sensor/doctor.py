"""What a host offers the sensor, what it lacks, why that matters and the command that changes it.

Each check is a function of :class:`sensor.host.Host`: a root directory for /proc, /sys and /etc, and
callables for the rest. Nothing is changed or attached here; as root, programs that do nothing are
loaded and dropped, since no file tells whether the kernel would take them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sensor.carriers import Carried, carried
from sensor.config import Settings
from sensor.doctor_checks import CHECKS
from sensor.host import Check, Host, State


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the doctor found."""

    checks: tuple[Check, ...]
    events: tuple[Carried, ...]

    @property
    def state(self) -> State:
        """The worst state of all checks."""
        order: tuple[State, ...] = ("missing", "warning", "note", "ok")
        return next(state for state in order if state == "ok" or any(c.state == state for c in self.checks))

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"state": self.state, "checks": [asdict(check) for check in self.checks],
                "events": [asdict(event) | {"seen": event.seen} for event in self.events]}


def examine(host: Host, settings: Settings) -> Report:
    """Run every check."""
    checks = tuple(check for function in CHECKS for check in function(host, settings))
    events = tuple(carried(host, settings))
    blind = [event.event for event in events if event.enabled and not event.seen]
    if blind:
        checks += (Check("events", "warning", f"nothing carries {', '.join(blind)}",
                         "these events will not be seen here"),)
    else:
        count = sum(event.enabled for event in events)
        checks += (Check("events", "ok", f"all {count} enabled events have a hook"),)
    return Report(checks, events)
