"""Whether the C extension is used: it is optional, and everything works the same without it."""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING

from sensor.children import NATIVE_SWITCH as SWITCH

if TYPE_CHECKING:
    from sensor.boottime import BootClock
    from sensor.document import Builder
    from sensor.pipeline import Pipeline, Rules
    from sensor.process.model import Processes
    from sensor.process.users import Users
    from sensor.rules.correlation import Correlator
    from sensor.watch import WatchList


def extension() -> ModuleType | None:
    """The extension, if it was built, fits this version and is not switched off."""
    found, _ = _look()
    return found


def table(boot_id: str, capacity: int, clock: BootClock, users: Users, *, every: bool) -> Processes:
    """A process table: the one in C where it can be had, and not *every* event becomes a document."""
    from sensor.process.table import ProcessTable

    found = None if every else extension()
    if found is None:
        return ProcessTable(boot_id, capacity, clock=clock, users=users)
    from sensor.speed import NativeTable

    return NativeTable(found, boot_id, capacity, clock=clock, users=users)


def pipeline(matcher: Rules, processes: Processes, builder: Builder, *, watch: WatchList, all_events: bool,
             first_sequence: int | None, correlator: Correlator | None) -> Pipeline:
    """The pipeline that fits a table."""
    from sensor.pipeline import Pipeline
    from sensor.speed import FastPipeline, NativeTable

    if isinstance(processes, NativeTable):
        assert not all_events
        return FastPipeline(matcher, processes, builder, watch=watch, first_sequence=first_sequence,
                            correlator=correlator)
    return Pipeline(matcher, processes, builder, watch=watch, all_events=all_events, first_sequence=first_sequence,
                    correlator=correlator)


def state() -> str:
    """``native``, or ``pure`` with its reason, for people."""
    return _look()[1]


def _look() -> tuple[ModuleType | None, str]:
    if os.environ.get(SWITCH) == "0":
        return None, f"pure Python ({SWITCH}=0)"
    try:
        from sensor import _speed
    except ImportError as error:
        missing = "cannot import name" in str(error) or "No module named" in str(error)
        return None, f"pure Python (the extension {'was not built' if missing else f'can not be loaded: {error}'})"
    from sensor import speed

    if not speed.fits(_speed):
        return None, "pure Python (the extension was built for another version; build it anew: tools/native)"
    return _speed, "native"
