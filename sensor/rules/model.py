"""Rules as the rest of the sensor sees them, and what became of those that are none."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from sensor.rules.condition import Condition, Order


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rules: the path to show to people, and the one to open."""

    display: str
    path: str


@dataclass(frozen=True, slots=True)
class Options:
    """What the settings say about reading rules: values of placeholders, files of processing pipelines."""

    placeholders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pipelines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What rules of every kind say about themselves, and where they stand.

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


@dataclass(frozen=True, slots=True)
class Rule(About):
    """One rule, ready to be compiled.

    ``categories`` are the log source's; ``events`` the values of ``event.action`` that it sees.
    A ``silent`` rule raises no alerts: it serves correlations, which refer to it by its id or its
    ``handle`` (Sigma's ``name``). ``logsource`` is (category, product, service) as written.
    """

    categories: tuple[str, ...]
    events: tuple[str, ...]
    condition: Condition
    handle: str = ""
    silent: bool = False
    logsource: tuple[str, str, str] = ("", "", "")


class Kind(Enum):
    """What a correlation measures in the events of one group within its timespan."""

    EVENT_COUNT = "event_count"  # events
    VALUE_COUNT = "value_count"  # distinct values of a field
    TEMPORAL = "temporal"  # distinct rules that matched
    TEMPORAL_ORDERED = "temporal_ordered"  # rules that matched, one after the other


@dataclass(frozen=True, slots=True)
class Threshold:
    """The measure is in this order to ``value``; with ``negated`` it is not."""

    order: Order
    value: int
    negated: bool = False

    def met(self, measure: int) -> bool:
        """Whether a measure satisfies it."""
        value = self.value
        found = {Order.EQUAL: measure == value, Order.LESS: measure < value, Order.LESS_EQUAL: measure <= value,
                 Order.GREATER: measure > value, Order.GREATER_EQUAL: measure >= value}[self.order]
        return found is not self.negated

    @property
    def rising(self) -> bool:
        """Whether more events never undo it, so that it can be judged at once."""
        return self.order in (Order.GREATER, Order.GREATER_EQUAL) and not self.negated


@dataclass(frozen=True, slots=True)
class Expression:
    """Which rules have to match: ``op`` is ``rule``, ``and``, ``or`` or ``not``; ``rule`` an index."""

    op: str
    rule: int = -1
    items: tuple[Expression, ...] = ()

    @property
    def rising(self) -> bool:
        """As for thresholds."""
        return self.op != "not" and all(item.rising for item in self.items)


@dataclass(frozen=True, slots=True)
class Correlation(About):
    """A rule about several matches of other rules.

    ``rules`` are the ids of the rules (or correlations) that it refers to. ``keys`` has a row for
    each of them: the keys of documents that the names in ``group_by`` stand for there, and
    ``values`` likewise the keys that a value count looks at. ``digest`` is the same as long as
    nothing changes what it or the rules below it match.
    """

    kind: Kind
    rules: tuple[str, ...]
    group_by: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, ...], ...]
    timespan_ns: int
    condition: Threshold | Expression
    handle: str = ""
    silent: bool = False
    digest: str = ""


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
    correlations: tuple[Correlation, ...] = ()
    filters: int = 0  # applied to rules above

    @property
    def loaded(self) -> int:
        """Rules of every kind that run."""
        return len(self.rules) + len(self.correlations)

    @property
    def every(self) -> tuple[Rule | Correlation, ...]:
        """Rules of every kind that run."""
        return self.rules + self.correlations

    def without(self, ids: Container[str]) -> RuleSet:
        """The same without some rules. A correlation that refers to one of them stays, and waits for it in vain."""
        return replace(self, rules=tuple(rule for rule in self.rules if rule.id not in ids),
                       correlations=tuple(rule for rule in self.correlations if rule.id not in ids))
