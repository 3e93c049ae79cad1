"""Rehearsals of what the sensor does when something goes wrong: run, said, counted, and told as an event.

A drill is a function that gives a text about what it has shown, or raises SensorError or OSError where something did
not go as it must. It runs in the supervisor, which does nothing else meanwhile: seconds, not minutes. Standard
library only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sensor import guard
from sensor.controlsocket import DRILL, Request
from sensor.errors import HostError, SensorError
from sensor.oversight import Oversight

OK, FAILED, UNAVAILABLE = "ok", "failed", "unavailable"
_TEXT = 900  # characters, of which an event's message takes 1,024 bytes
_PLACE = ".drill-"  # in the state directory


class Drills:
    """One supervisor's.

    Args:
        known: Name -> the drill. Names are those of controlsocket.DRILLS.
        say: For people.
        tell: Takes a message for the engine.
    """

    def __init__(self, known: Mapping[str, Callable[[], str]], say: Callable[[str], None],
                 tell: Callable[[dict[str, Any]], None]) -> None:
        self._known, self._say, self._tell = known, say, tell
        self._counts: dict[tuple[str, str], int] = {}

    @property
    def counts(self) -> list[list[Any]]:
        """[drill, result, how often], of those that were run."""
        return [[*key, number] for key, number in self._counts.items()]

    def run(self, request: Request) -> dict[str, str]:
        """Run one, or take note of one that its client has run; the answer for the client."""
        result, text = self._run(request.drill) if request.kind == DRILL else (request.result, "run by its command")
        key = (request.drill, result)
        self._counts[key] = self._counts.get(key, 0) + 1
        said = f"drill {request.drill}: {result}: {text}"[:_TEXT]
        self._say(said)
        self._tell({"kind": "drill", "detail": said, "counts": self.counts})
        return {"drill": request.drill, "result": result, "text": text}

    def _run(self, name: str) -> tuple[str, str]:
        drill = self._known.get(name)
        if drill is None:
            return UNAVAILABLE, "this version of the sensor has no such drill"
        try:
            return OK, drill()
        except (SensorError, OSError) as error:
            return FAILED, str(error)


def boot_guard(oversight: Oversight) -> str:
    """Two boots that end badly and a reset, with the real code on a state of its own; the running one is only read."""
    seen = []
    with tempfile.TemporaryDirectory(prefix=_PLACE, dir=oversight.directory) as scratch:
        place = Path(scratch)
        for boot, wanted in (("drill-1", guard.FULL), ("drill-2", guard.MINIMAL), ("drill-3", guard.PASSIVE)):
            seen.append(_begin(place, boot, wanted))  # armed, never cleared: as if the host had crashed
        guard.Store(place).change(lambda state: guard.reset(state, "drill-4"))
        seen.append(_begin(place, "drill-4", guard.FULL))
    running = oversight.facts()
    return (f"at first {seen[0]}, after one bad end {seen[1]}, after two {seen[2]}, after a reset {seen[3]}; "
            f"running: {running['mode']}, {running['strikes']} strikes, {'' if running['armed'] else 'not '}armed")


def lost(tell: Callable[[dict[str, Any]], None], *, serving: bool, count: int = 1) -> str:
    """Have the engine tell of records that never were, as a drill."""
    if not serving:
        raise HostError("no engine is there to tell of a loss", "try again in a minute; sensor status")
    tell({"kind": "loss_drill", "count": count})
    return f"a loss of {count} record is told by event, alert and metric, each of them marked as a drill"


def _begin(place: Path, boot: str, wanted: str) -> str:
    """The mode that a boot begins with; its record stays armed unless nothing would be loaded."""
    said: list[str] = []
    trial = Oversight(place, said.append, boot=boot, root=place)
    trial.begin()
    mode = trial.standing().mode
    if mode != wanted:
        raise SensorError(f"a start in boot {boot} would be {mode}, not {wanted}: {'; '.join(said) or 'no reason'}")
    if mode != guard.PASSIVE:
        trial.arm()
    return mode
