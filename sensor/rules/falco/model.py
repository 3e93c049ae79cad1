"""What Falco's rules have more than others: a message template, and notes on what of them is not seen."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.rules.model import Rule, Unsupported

#: Stands as category of rules that name events one by one.
CATEGORY = "syscall"


@dataclass(frozen=True, slots=True)
class FalcoRule(Rule):
    """A rule out of Falco's language. ``notes`` say what of its condition can't be told from our events."""

    output: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FalcoUnsupported(Unsupported):
    """A sound rule that our events can't carry; ``line`` is where it stands."""

    line: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.reason}"
