"""From paths to a RuleSet. Files are hostile until proven otherwise; one bad rule harms no other."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sensor.errors import UsageError
from sensor.rules.model import Correlation, Options, Refused, Rule, RuleSet, Source, Unsupported
from sensor.rules.yamlsafe import Items, Map, YamlError, documents

if TYPE_CHECKING:
    from sensor.rules.correlation_read import Draft
    from sensor.rules.falco.frontend import Falco
    from sensor.rules.sigma import Filter, Reading

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


NO_OPTIONS = Options()


def load(sources: Sequence[Source], limits: Limits = Limits(), options: Options = NO_OPTIONS) -> RuleSet:
    """Every rule of the files that is sound, and the reason for each other one.

    Raises UsageError for a processing pipeline of *options* that can't be used.
    """
    from sensor.rules import sigma, sigma_pipeline  # pySigma: only where rules are parsed

    transform = sigma_pipeline.load([(path, read_named(path, limits)) for path in options.pipelines])
    loading = _Loading(limits, sigma.Reading(options=options, transform=transform))
    for source in sources:
        loading.add(source)
    loading.compile_falco()
    return loading.finish()


def read_named(path: str, limits: Limits = Limits()) -> str:
    """Text of a file that the settings name. Raises UsageError."""
    try:
        return read_text(path, limits.file_bytes)
    except Unreadable as error:
        raise UsageError(f"{path}: {error}") from error


class _Loading:
    """The state of one load."""

    def __init__(self, limits: Limits, reading: Reading) -> None:
        self.limits, self.reading = limits, reading
        self.rules: list[Rule] = []
        self.drafts: list[Draft] = []
        self.filters: list[Filter] = []
        self.refused: list[Refused] = []
        self.unsupported: list[Unsupported] = []
        self.places: dict[str, str] = {}
        self.falco: Falco | None = None  # items of Falco's files, which are compiled when all are there
        self.foreign: dict[str, str] = {}  # id or name of an unsupported rule -> why it is

    def add(self, source: Source) -> None:
        try:
            text = read_text(source.path, self.limits.file_bytes)
            empty = True
            for document in documents(text):
                empty = empty and document is None
                if document is not None and not self.is_falco(document, source.display):
                    self.take(document, source.display)
            if empty:
                self.refused.append(Refused(source.display, 1, "", "the file holds no rule"))
        except Unreadable as error:
            self.refused.append(Refused(source.display, None, "", str(error)))
        except YamlError as error:
            self.refused.append(Refused(source.display, error.line, "", error.reason))

    def is_falco(self, document: object, path: str) -> bool:
        """Keep a document of Falco's items for later, and say whether it was one."""
        if not isinstance(document, Items):
            return False
        from sensor.rules.falco import frontend

        if not frontend.is_falco(document):
            return False
        if self.falco is None:
            self.falco = frontend.Falco()
        self.falco.add(document, path)
        return True

    def compile_falco(self) -> None:
        """Falco's rules, now that all files have been read that may change them."""
        for result in self.falco.compile() if self.falco is not None else ():
            if isinstance(result, Refused):
                self.refused.append(result)
            elif isinstance(result, Unsupported):
                self.unsupported.append(result)
            elif len(self.rules) >= self.limits.rules:
                self.refused.append(Refused(result.path, result.line, result.name,
                                            f"more than {self.limits.rules} rules"))
            else:
                self.places[result.id] = f"{result.path}:{result.line}"
                self.rules.append(result)

    def take(self, document: object, path: str) -> None:
        """One YAML document: a rule, a correlation or a filter."""
        from sensor.rules import correlation_read, sigma

        result: Rule | Draft | Filter | Refused | Unsupported
        if isinstance(document, Map) and "correlation" in document:
            result = correlation_read.read(document, path, self.reading.transform)
        elif isinstance(document, Map) and "filter" in document:
            result = sigma.read_filter(document, path, self.reading)
        else:
            result = sigma.read(document, path, reading=self.reading)
        self.keep(result, document, path)

    def keep(self, result: Rule | Draft | Filter | Refused | Unsupported, document: object, path: str) -> None:
        from sensor.rules.sigma import Filter

        if isinstance(result, Refused):
            self.refused.append(result)
        elif isinstance(result, Unsupported):
            self.unsupported.append(result)
            if isinstance(document, Map):
                self.foreign |= {str(document[key]): result.reason for key in ("id", "name") if document.get(key)}
        elif len(self.rules) + len(self.drafts) + len(self.filters) >= self.limits.rules:
            self._refuse(document, path, f"more than {self.limits.rules} rules")
        elif isinstance(result, Filter):
            self.filters.append(result)
        elif result.id in self.places:
            self._refuse(document, path, f"the id {result.id} is that of {self.places[result.id]}")
        else:
            self.places[result.id] = f"{path}:{document.line if isinstance(document, Map) else 1}"
            if isinstance(result, Rule):
                self.rules.append(result)
            else:
                self.drafts.append(result)

    def finish(self) -> RuleSet:
        """Filters applied and correlations tied to their rules, which all files had to be read for."""
        filters = [each for each in self.filters if self._filter(each)]
        correlations: list[Correlation] = []
        if self.drafts:
            from sensor.rules.correlation_read import Tying

            tying = Tying(self.rules, self.drafts, self.foreign, self.reading.resolve)
            correlations = tying.correlations
            self.refused += tying.refused
            self.unsupported += tying.unsupported
            self.rules = [replace(rule, silent=True) if tying.is_silent(rule.id) else rule for rule in self.rules]
        return RuleSet(tuple(self.rules), tuple(self.refused), tuple(self.unsupported), tuple(correlations),
                       len(filters))

    def _filter(self, added: Filter) -> bool:
        """Apply a filter; one that meets no rule is told, for a typing error in it lets alerts through."""
        meets = [added.applies(rule) for rule in self.rules]
        self.rules = [added.added(rule) if meet else rule for rule, meet in zip(self.rules, meets, strict=True)]
        if not any(meets):
            self.unsupported.append(Unsupported(added.path, added.name, "filter",
                                                "no loaded rule has its log source and one of its ids or names"))
        return any(meets)

    def _refuse(self, document: object, path: str, reason: str) -> None:
        line, title = (document.line, str(document.get("title", ""))) if isinstance(document, Map) else (1, "")
        self.refused.append(Refused(path, line, title, reason))


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
