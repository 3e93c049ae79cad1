"""`sensor run` whose engine has a bug that no rule is known to reach: evaluating one rule reads from address 0.

    python -c 'from tests.live.deadly import supervise; supervise()' run ...

The supervisor is the real one, but that it starts ``main`` of this module where it would start the engine's; and that
is the engine's own, after the bug was put into the matcher. Children that check rules have no bug.
"""

from __future__ import annotations

import ctypes
from typing import Any

from sensor import children
from sensor.rules.matcher import Matcher

DEADLY = "00000000-0000-4000-8000-00000000dead"  # a matcher with this rule does not survive
LAST = 3  # its third event


def supervise() -> None:
    """In the place of the command `sensor`."""
    from sensor.cli import main as command

    start = children.start

    def start_deadly(module: str, *rest: Any) -> Any:
        return start({"sensor.engine": __name__}.get(module, module), *rest)

    children.start = start_deadly
    command()


def main() -> None:
    """In the place of the engine's."""
    from sensor.engine import main as engine

    match, seen = Matcher.match, [0]

    def deadly(self: Matcher, document: Any) -> Any:
        if any(rule.id == DEADLY for rule in self.rules):
            seen[0] += 1
            if seen[0] == LAST:
                ctypes.string_at(0)  # SIGSEGV: nothing in Python can catch it
        return match(self, document)

    Matcher.match = deadly  # type: ignore[method-assign]
    engine()
