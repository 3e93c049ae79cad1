"""The watch list: which files are worth an event when they are only read.

Reads are far too many to report. The kernel lets one through when the file's name or its parent
directory's name is on a small list, which can only be too generous; the full patterns are applied
here, in user space.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sensor.errors import UsageError

_WILD = re.compile(r"[*?\[]")
# Wildcards in one component: what a person writes has one or two; the match costs name length per wildcard.
_WILDCARDS_MAX = 4


@dataclass(frozen=True, slots=True)
class Pattern:
    """One compiled pattern. Exactly one of ``leaf`` and ``parent`` is a name for the kernel."""

    text: str
    leaf: str
    parent: str
    components: tuple[re.Pattern[str] | str, ...]

    def matches(self, parts: Sequence[str]) -> bool:
        """Whether the path with these components (of ``path.split("/")``, first one empty) matches."""
        if len(parts) != len(self.components):
            return False
        for wanted, part in zip(self.components, parts, strict=True):
            if isinstance(wanted, str):
                if wanted != part:
                    return False
            elif wanted.match(part) is None:
                return False
        return True


def compile_pattern(text: str) -> Pattern:
    """Compile one absolute glob pattern; ``*``, ``?`` and ``[...]`` stay inside a component.

    Raises:
        UsageError: Not absolute, empty or dot components, ``**``, too many wildcards in a
            component, or no fixed name in either of the last two components.
    """
    if not text.startswith("/"):
        raise UsageError(f"watched path {text!r} is not absolute: begin it with /")
    names = text.split("/")
    for name in names[1:]:
        if name in ("", ".", ".."):
            raise UsageError(f"watched path {text!r} has an empty, . or .. component")
        if "**" in name:
            raise UsageError(f"watched path {text!r}: ** is not supported; give one pattern per depth")
        if len(_WILD.findall(name)) > _WILDCARDS_MAX:
            raise UsageError(f"watched path {text!r} has more than {_WILDCARDS_MAX} wildcards in {name!r}")
    leaf, parent = names[-1], names[-2]
    if _WILD.search(leaf) and (not parent or _WILD.search(parent)):
        raise UsageError(f"watched path {text!r} needs a fixed file name or a fixed name of its directory: "
                         "the kernel filters by these two")
    components = tuple(re.compile(fnmatch.translate(name)) if _WILD.search(name) else name for name in names)
    fixed_leaf = not _WILD.search(leaf)
    return Pattern(text, leaf if fixed_leaf else "", "" if fixed_leaf else parent, components)


class WatchList:
    """Compiled patterns, with the names that the kernel's filter needs.

    ``leaves`` and ``parents`` are sets of names: a read must be let through by the kernel if the
    file's name is in the first or its directory's name is in the second.
    """

    __slots__ = ("_by_leaf", "_by_parent", "leaves", "parents", "patterns")

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile *patterns*; raises UsageError for the first one that can't be used."""
        self.patterns = tuple(compile_pattern(text) for text in patterns)
        self._by_leaf: dict[str, list[Pattern]] = {}
        self._by_parent: dict[str, list[Pattern]] = {}
        for pattern in self.patterns:
            if pattern.leaf:
                self._by_leaf.setdefault(pattern.leaf, []).append(pattern)
            else:
                self._by_parent.setdefault(pattern.parent, []).append(pattern)
        self.leaves = frozenset(self._by_leaf)
        self.parents = frozenset(self._by_parent)

    def matches(self, path: str) -> bool:
        """Whether any pattern matches the absolute, normalised *path*."""
        parts = path.split("/")
        if len(parts) < 2:
            return False
        return (any(pattern.matches(parts) for pattern in self._by_leaf.get(parts[-1], ()))
                or any(pattern.matches(parts) for pattern in self._by_parent.get(parts[-2], ())))
