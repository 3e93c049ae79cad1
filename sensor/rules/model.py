"""Rules as the rest of the sensor sees them, and what became of those that are none."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.rules.condition import Condition


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rules: the path to show to people, and the one to open."""

    display: str
    path: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be compiled.

    ``categories`` are the log source's; ``events`` the values of ``event.action`` that it sees.
    ``techniques`` are ATT&CK ids as in ``T1059.004``, from the tags.
    """

    id: str
    name: str
    level: str
    description: str
    references: tuple[str, ...]
    tags: tuple[str, ...]
    techniques: tuple[str, ...]
    falsepositives: tuple[str, ...]
    path: str
    line: int
    categories: tuple[str, ...]
    events: tuple[str, ...]
    condition: Condition


@dataclass(frozen=True, slots=True)
class Refused:
    """A file or a rule that is broken. ``line`` counts from 1; None where no line is at fault."""

    path: str
    line: int | None
    rule: str
    reason: str

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.rule + ': ' if self.rule else ''}{self.reason}"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A sound rule for a log source that this sensor doesn't produce."""

    path: str
    rule: str
    logsource: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}: {self.reason} ({self.logsource})"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What loading gave: rules in the order of files, and the reasons for the others."""

    rules: tuple[Rule, ...]
    refused: tuple[Refused, ...]
    unsupported: tuple[Unsupported, ...]
