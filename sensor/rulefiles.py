"""Where the rules lie, opened while that is allowed, read when nothing else is.

A checkout or a rules directory may lie below a directory that only root may enter. So the
roots are opened before the privileges go, and reached by descriptor afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sensor.config import LOCAL_RULES
from sensor.errors import UsageError
from sensor.resources import rules_dir
from sensor.rules import files
from sensor.rules.files import Gathered
from sensor.rules.model import Options, Source

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Root:
    """A rule file or directory: its name for people, and a descriptor."""

    display: str
    fd: int

    @classmethod
    def open(cls, path: str) -> Root:
        """Open a path; raises UsageError where it can't be."""
        try:
            return cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from error

    def sources(self) -> list[Source]:
        """Its rule files, reached through the descriptor."""
        access = f"/proc/self/fd/{self.fd}"
        return [replace(source, display=self.display + source.display.removeprefix(access))
                for source in files.discover([access])]


@dataclass(frozen=True, slots=True)
class RuleFiles:
    """The roots of one run. ``named`` are those of the command line, which replace the settings'."""

    default: Root
    named: tuple[Root, ...] = ()

    @classmethod
    def open(cls, paths: Sequence[str]) -> RuleFiles:
        """Open the default rules and *paths*; raises UsageError."""
        return cls(Root.open(str(rules_dir())), tuple(Root.open(os.path.abspath(path)) for path in paths))

    def sources(self, configured: Sequence[str]) -> list[Source]:
        """The rule files of the command line, else the *configured* ones. Raises UsageError."""
        found: list[Source] = []
        for root in self.named:
            found += root.sources()
        for path in () if self.named else configured:
            if path == DEFAULT:
                found += self.default.sources()
            elif path != LOCAL_RULES or Path(path).exists():
                found += files.discover([path])
        return found

    def gather(self, configured: Sequence[str], options: Options) -> Gathered:
        """Read them, and the pipelines. Raises UsageError."""
        return files.gather(self.sources(configured), options.pipelines)
