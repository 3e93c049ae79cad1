"""pySigma's own check of regular expressions, made as all of ours are: by RE2, within bounds.

Left to itself pySigma lets RE2 write what is wrong with an expression to standard error, byte for byte as it
stands in the rule: escape sequences and all.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from sensor.rules.linear import BadPattern, expression

_FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s"}


def install() -> None:
    """Make it pySigma's. A version that has no such choice compiles by ``re``, and writes nothing."""
    with contextlib.suppress(ImportError):
        from sigma import policy
        from sigma.policy.regex_engine import RegexEngine

        class Engine(RegexEngine):
            def compile(self, pattern: str, flags: int = 0) -> Any:
                return expression(pattern, "".join(name for flag, name in _FLAGS.items() if flags & flag))

            @property
            def error(self) -> type[Exception]:
                return BadPattern

        policy.default_policy.regex_engine = Engine()
