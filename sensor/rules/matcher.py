"""The stream matcher: a document in, the rules that match it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sensor.rules.condition import Condition
from sensor.rules.decide import settled
from sensor.rules.model import Rule
from sensor.rules.program import Match, Program
from sensor.rules.reference import routed

_NOTHING: Match = ()


def _routed(rule: Rule, action: str) -> Condition:
    return settled(routed(rule, action), "event.action", action)


class Matcher:
    """Rules compiled for a stream of documents.

    Each ``event.action`` that some rule asks for has a program of its own. Matching keeps
    bounded memories of what it has seen, and is not safe to share between threads.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        by_action: dict[str, list[tuple[Rule, Condition]]] = {}
        for rule in self.rules:
            for action in rule.events:
                by_action.setdefault(action, []).append((rule, _routed(rule, action)))
        self._programs = {action: Program(pairs) for action, pairs in by_action.items()}
        self._match = {action: program.match for action, program in self._programs.items()}
        self.odd = 0  # documents of a shape that the sensor doesn't make

    @property
    def actions(self) -> frozenset[str]:
        """Values of ``event.action`` that some rule wants; no other document can match."""
        return frozenset(self._programs)

    def routed(self, action: str) -> list[tuple[Rule, Condition]]:
        """The rules for one event, each with what must be true of it."""
        return [(rule, _routed(rule, action)) for rule in self.rules if action in rule.events]

    def match(self, document: Mapping[str, Any]) -> Sequence[Rule]:
        """The rules that match, in the order in which they were loaded.

        Never raises on a mapping, whatever is in it.
        """
        try:
            run = self._match.get(document["event"]["action"])
            return run(document) if run is not None else _NOTHING
        except (AttributeError, KeyError, TypeError):
            return self._match_odd(document)

    def left_open(self, document: Mapping[str, Any]) -> list[tuple[Rule, Callable[[Mapping[str, Any]], bool]]]:
        """The rules that what was seen before doesn't decide on, each with what it has to test on this event."""
        event = document.get("event")
        action = event.get("action") if isinstance(event, Mapping) else None
        program = self._programs.get(action) if isinstance(action, str) else None
        return program.left_open(document) if program else []

    def _match_odd(self, document: Mapping[str, Any]) -> Sequence[Rule]:
        self.odd += 1
        event = document.get("event")
        action = event.get("action") if isinstance(event, Mapping) else None
        program = self._programs.get(action) if isinstance(action, str) else None
        return program.match_any_shape(document) if program else _NOTHING
