"""Sigma rules and global filters, parsed by pySigma, as typed conditions.

pySigma reads detections, applies the modifiers and parses conditions; sigma_convert.py turns its
tree into ours and gives the values a meaning.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaError
from sigma.filters import SigmaFilter
from sigma.rule import SigmaLogSource, SigmaRule

from sensor.rules import auditd, fields, sigma_regex
from sensor.rules.condition import Condition, all_of, any_of
from sensor.rules.model import Options, Refused, Rule, Unsupported
from sensor.rules.sigma_convert import Converter, Resolve, Unusable, check_nesting, text_condition
from sensor.rules.sigma_lines import broken_line, field_line, first_line
from sensor.rules.yamlsafe import Map

__all__ = ["Filter", "Reading", "read", "read_filter", "text_condition"]

sigma_regex.install()

MAX_CONDITION = 4096  # characters; the parser's time grows with them, and people write 200

_TECHNIQUE = re.compile(r"t\d{4}(\.\d{3})?", re.ASCII)

LogSource = tuple[str, str, str]  # category, product, service


@dataclass(frozen=True, slots=True)
class Reading:
    """How rules are read. ``transform`` is what processing pipelines do to pySigma's rule, in place."""

    resolve: Resolve = fields.resolve
    options: Options = field(default_factory=Options)
    transform: Callable[[SigmaRule | SigmaCorrelationRule], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a global filter adds to rules: ``rules`` by id or name, or all of a log source."""

    name: str
    path: str
    line: int
    rules: tuple[str, ...] | None
    logsource: LogSource
    condition: Condition

    def applies(self, rule: Rule) -> bool:
        """Whether a rule is one of those."""
        if any(mine and mine != other for mine, other in zip(self.logsource, rule.logsource, strict=True)):
            return False
        return self.rules is None or rule.id in self.rules or rule.handle in self.rules

    def added(self, rule: Rule) -> Rule:
        """The rule with the filter's condition added."""
        return replace(rule, condition=all_of(rule.condition, self.condition))


def read(document: object, path: str, resolve: Resolve = fields.resolve,
         reading: Reading | None = None) -> Rule | Refused | Unsupported:
    """One YAML document (of yamlsafe.py) as a rule, or why it is none.

    ``resolve`` turns a rule's field names into keys of documents, or raises fields.UnknownField.
    """
    if not isinstance(document, Map):
        return Refused(path, 1, "", "not a mapping: a Sigma rule has title, logsource and detection")
    name = title_of(document)
    try:
        return _read(document, name, path, reading or Reading(resolve))
    except Exception as error:  # noqa: BLE001  pySigma meets shapes that it never expected in foreign files
        return Refused(path, broken_line(document), name, f"not a Sigma rule: {first_line(error)}")


def title_of(document: Map) -> str:
    """The title, or nothing."""
    title = document.get("title")
    return title if isinstance(title, str) else ""


def _read(document: Map, name: str, path: str, reading: Reading) -> Rule | Refused | Unsupported:
    try:
        _check_conditions(document, "detection")
        parsed = SigmaRule.from_dict(document)
        written = source_of(parsed.logsource)
        reading.transform(parsed)
        trees = [condition.parsed for condition in parsed.detection.parsed_condition]
    except (SigmaError, Unusable) as error:
        return Refused(path, broken_line(document), name, first_line(error))
    source = source_of(parsed.logsource)
    missing = _no_source(source)
    if missing:
        return Unsupported(path, name, _shown(source), missing)
    try:
        condition, events = _converted(trees, source, reading)
        check_nesting(condition)
    except auditd.Missing as error:
        return Unsupported(path, name, _shown(source), str(error))
    except (fields.UnknownField, Unusable) as error:
        return Refused(path, field_line(document, error), name, str(error))
    return Rule(**about(parsed, document, path), categories=(source[0] or source[2],), events=events,
                condition=condition, handle=str(parsed.name or ""), logsource=written)


def _converted(trees: Sequence[object], source: LogSource, reading: Reading) -> tuple[Condition, tuple[str, ...]]:
    """The condition and the events that it is about. Raises auditd.Missing, UnknownField, Unusable."""
    if source[2] != auditd.SERVICE:
        converter = Converter(reading.resolve, reading.options.placeholders)
        return any_of(*map(converter.convert, trees)), fields.events_of(source[0])
    converter = Converter(auditd.resolve, reading.options.placeholders)
    return auditd.translate(any_of(*map(converter.convert, trees)))


def read_filter(document: Map, path: str, reading: Reading) -> Filter | Refused | Unsupported:
    """One YAML document with a ``filter`` section, or why it is none."""
    name = title_of(document)
    try:
        _check_conditions(document, "filter")
        parsed = SigmaFilter.from_dict(document)
        source = source_of(parsed.logsource)
        # To pipelines a filter is a rule: its fields mean what they mean in the rules that it is added to.
        rule = SigmaRule(title=name or "filter", logsource=parsed.logsource, detection=parsed.filter)
        reading.transform(rule)
        trees = [each.parsed for each in rule.detection.parsed_condition]
        condition, _ = _converted(trees, source_of(rule.logsource), reading)
        check_nesting(condition)
    except auditd.Missing as error:
        return Unsupported(path, name, "filter", str(error))
    except (fields.UnknownField, Unusable) as error:
        return Refused(path, field_line(document, error, "filter"), name, str(error))
    except Exception as error:  # noqa: BLE001  as for rules
        return Refused(path, broken_line(document, "filter"), name, f"not a Sigma filter: {first_line(error)}")
    rules = parsed.filter.rules
    wanted = None if isinstance(rules, str) else tuple(str(each.reference) for each in rules)
    return Filter(name, path, document.line, wanted, source, condition)


def about(parsed: Any, document: Map, path: str) -> dict[str, Any]:
    """What rules of every kind say about themselves, as the arguments of model.About."""
    return {
        # A rule without an id gets one that stays the same as long as its title does.
        "id": str(parsed.id or uuid.uuid5(uuid.NAMESPACE_OID, parsed.title)),
        "name": parsed.title,
        "level": parsed.level.name.lower() if parsed.level else "informational",
        "description": (parsed.description or "").strip(),
        "references": tuple(map(str, parsed.references)),
        "tags": tuple(f"{tag.namespace}.{tag.name}" for tag in parsed.tags),
        "techniques": tuple(tag.name.upper() for tag in parsed.tags
                            if tag.namespace == "attack" and _TECHNIQUE.fullmatch(tag.name)),
        "falsepositives": tuple(map(str, parsed.falsepositives)),
        "path": path,
        "line": document.line,
    }


def source_of(source: SigmaLogSource) -> LogSource:
    """Category, product and service, each a text."""
    return source.category or "", source.product or "", source.service or ""


def _shown(source: LogSource) -> str:
    category, product, service = source
    parts = {"product": product, "category": category, "service": service}
    return " ".join(f"{key}={value}" for key, value in parts.items() if value)


def _no_source(source: LogSource) -> str:
    """Why no event of ours belongs to a log source, or nothing."""
    category, product, service = source
    if product not in ("", "linux"):
        return f"events of product {product} don't come from Linux"
    if service == auditd.SERVICE and not category:
        return ""
    if service:
        return f"log lines of service {service} are not read; events come from the kernel"
    if not category:
        return "a log source without a category means log lines, which are not read"
    return "" if fields.events_of(category) else f"no event of this sensor has category {category}"


def _check_conditions(document: Map, section: str) -> None:
    detection = document.get(section)
    conditions = detection.get("condition") if isinstance(detection, Map) else None
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        if condition is not None and not isinstance(condition, str):
            raise Unusable(f"condition: text expected, not {type(condition).__name__}")
        if condition is not None and len(condition) > MAX_CONDITION:
            raise Unusable(f"condition longer than {MAX_CONDITION} characters")
