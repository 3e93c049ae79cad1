"""From files to a RuleSet. Files are hostile until proven otherwise; one bad rule harms no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sensor.errors import UsageError
from sensor.rules.files import LIMITS, File, Gathered, Limits, Unreadable, discover, gather
from sensor.rules.model import Correlation, Options, Refused, Rule, RuleSet, Source, Unsupported
from sensor.rules.yamlsafe import Items, Map, YamlError, documents

if TYPE_CHECKING:
    from sensor.rules.correlation_read import Draft
    from sensor.rules.falco.frontend import Falco
    from sensor.rules.sigma import Filter, Reading

__all__ = ["NO_OPTIONS", "Limits", "compile_rules", "discover", "load"]

NO_OPTIONS = Options()


def load(sources: Sequence[Source], limits: Limits = LIMITS, options: Options = NO_OPTIONS) -> RuleSet:
    """Every rule of the files that is sound, and the reason for each other one.

    Raises UsageError for a processing pipeline of *options* that can't be used.
    """
    return compile_rules(gather(sources, options.pipelines, limits), limits, options)


def compile_rules(gathered: Gathered, limits: Limits = LIMITS, options: Options = NO_OPTIONS) -> RuleSet:
    """The same of files that have been read."""
    from sensor.rules import sigma  # pySigma: only where rules are parsed

    reading = sigma.Reading(options=options)
    if gathered.pipelines:
        from sensor.rules import sigma_pipeline  # takes as long to import as fifty rules to read

        pipelines = [(file.display, _named(file)) for file in gathered.pipelines]
        reading = replace(reading, transform=sigma_pipeline.load(pipelines))
    loading = _Loading(limits, reading)
    for file in gathered.files:
        loading.add(file)
    loading.compile_falco()
    return loading.finish()


def _named(file: File) -> str:
    """Text of a file that the settings name. Raises UsageError."""
    try:
        return file.text()
    except Unreadable as error:
        raise UsageError(f"{file.display}: {error}") from error


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

    def add(self, source: File) -> None:
        try:
            text = source.text()
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
