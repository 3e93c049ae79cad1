"""From paths to a RuleSet. Files are hostile until proven otherwise; one bad rule harms no other."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sensor.errors import UsageError
from sensor.rules.model import Refused, Rule, RuleSet, Source, Unsupported
from sensor.rules.yamlsafe import YamlError, documents

SUFFIXES = (".yml", ".yaml")
SAMPLES = ".samples"  # before the suffix: a rule's samples, no rule


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a rule set. A file over its bound is refused whole, a rule over the count alone."""

    file_bytes: int = 1 << 20  # the largest file of the public collections has 60 KB
    rules: int = 2000  # start-up time and memory grow with them
    files: int = 20_000  # stops a walk that was pointed at a whole disk


def is_samples(path: str) -> bool:
    """Whether a file holds samples of rules."""
    return os.path.splitext(path)[0].endswith(SAMPLES)


def discover(paths: Iterable[str], limits: Limits = Limits()) -> list[Source]:
    """The rule files at and below the paths, sorted by name under each path.

    Symbolic links to files are followed, to directories not. Raises UsageError for a path that
    isn't there, and for more files than the limit.
    """
    found: list[Source] = []
    for path in paths:
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or directory")
        if os.path.isdir(path):
            found.extend(_below(path))
        else:
            found.append(Source(path, path))
        if len(found) > limits.files:
            raise UsageError(f"{path}: more than {limits.files} rule files")
    return found


def _below(path: str) -> list[Source]:
    closed: list[str] = []  # directories that can't be read: as a source each is refused, and so is told
    names = [os.path.join(folder, name)
             for folder, _, names in os.walk(path, onerror=lambda error: closed.append(error.filename))
             for name in names if name.endswith(SUFFIXES) and not is_samples(name)]
    return [Source(name, name) for name in sorted([*names, *closed])]


def load(sources: Sequence[Source], limits: Limits = Limits()) -> RuleSet:
    """Every rule of the files that is sound, and the reason for each other one."""
    loading = _Loading(limits)
    for source in sources:
        loading.add(source)
    return RuleSet(tuple(loading.rules), tuple(loading.refused), tuple(loading.unsupported))


class _Loading:
    """The state of one load."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.rules: list[Rule] = []
        self.refused: list[Refused] = []
        self.unsupported: list[Unsupported] = []
        self.places: dict[str, str] = {}

    def add(self, source: Source) -> None:
        from sensor.rules import sigma  # pySigma: only where rules are parsed

        try:
            text = read_text(source.path, self.limits.file_bytes)
            empty = True
            for document in documents(text):
                empty = empty and document is None
                if document is not None:
                    self.take(sigma.read(document, source.display))
            if empty:
                self.refused.append(Refused(source.display, 1, "", "the file holds no rule"))
        except Unreadable as error:
            self.refused.append(Refused(source.display, None, "", str(error)))
        except YamlError as error:
            self.refused.append(Refused(source.display, error.line, "", error.reason))

    def take(self, result: Rule | Refused | Unsupported) -> None:
        if isinstance(result, Refused):
            self.refused.append(result)
        elif isinstance(result, Unsupported):
            self.unsupported.append(result)
        elif result.id in self.places:
            self._refuse(result, f"the id {result.id} is that of {self.places[result.id]}")
        elif len(self.rules) >= self.limits.rules:
            self._refuse(result, f"more than {self.limits.rules} rules")
        else:
            self.places[result.id] = f"{result.path}:{result.line}"
            self.rules.append(result)

    def _refuse(self, rule: Rule, reason: str) -> None:
        self.refused.append(Refused(rule.path, rule.line, rule.name, reason))


class Unreadable(ValueError):
    """The file can't be had as text; ``str()`` says why, without the path."""


def read_text(path: str, limit: int) -> str:
    """Text of a regular file of at most ``limit`` bytes. Raises Unreadable."""
    try:
        # Non-blocking, so that a FIFO in a rule directory can't stop the load.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable("not a regular file")
            data = file.read(limit + 1)
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror}") from error
    if len(data) > limit:
        raise Unreadable(f"larger than {limit} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"no UTF-8 at byte {error.start}") from error
