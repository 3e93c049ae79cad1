"""Regular expressions in linear time: the one place that talks to RE2."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import re2

from sensor.rules.condition import Glob
from sensor.rules.values import plain

MAX_PATTERN = 4096  # characters of one expression
# Bytes that RE2 may spend on one expression, program and automaton together. Beyond it the
# search gets slower, still linear; a program that doesn't fit is refused.
MAX_MEMORY = 2 << 20


class BadPattern(ValueError):
    """RE2 doesn't take the expression; ``str()`` is its reason."""


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str, flags: str = "") -> Callable[[str], bool]:
    """A test whether the expression is found anywhere in a text. Raises BadPattern.

    ``flags``: ``i`` no case, ``m`` ``^`` and ``$`` at lines, ``s`` ``.`` takes a newline too.
    """
    search = expression(pattern, flags).search
    return lambda text: search(plain(text)) is not None


def expression(pattern: str, flags: str = "") -> Any:
    """RE2's own object, which knows nothing of lone surrogates. Raises BadPattern."""
    if len(pattern) > MAX_PATTERN:
        raise BadPattern(f"longer than {MAX_PATTERN} characters")
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(f"(?{flags}){pattern}" if flags else pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "refused"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise BadPattern(text) from error
    except UnicodeEncodeError as error:
        raise BadPattern("a lone surrogate is no text") from error


def wildcard_pattern(parts: tuple[str | Glob, ...]) -> str:
    """The expression that says the same as a wildcard pattern about a whole text."""
    body = "".join(
        part.value.replace("*", ".*").replace("?", ".") if isinstance(part, Glob) else re2.escape(part)
        for part in parts
    )
    return rf"(?s)\A(?:{body})\z"
