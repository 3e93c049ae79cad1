"""Sigma rules, parsed by pySigma, as typed conditions.

pySigma reads detections, applies the modifiers and parses conditions; this module turns its
tree into ours and gives the values a meaning (see values.py):

* Texts compare without case unless ``cased``; ``*`` alone means that the field has a value.
* A keyword (no field) is looked for inside every value of the document.
* ``null`` is absence; an empty text is a value. ``exists`` asks for a value, whatever it is.
* A number in the rule compares as a number, a text compares as text, a boolean as its text.
* Regular expressions are RE2's. What RE2 can't do in linear time is refused.
* ``expand`` placeholders are refused: nothing here could resolve them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.exceptions import SigmaError
from sigma.rule import SigmaRule
from sigma.rule.detection import SigmaDetection, SigmaDetectionItem
from sigma.types import (
    CompareOperators,
    Placeholder,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaRegularExpressionFlag,
    SigmaString,
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
)

from sensor.rules import fields
from sensor.rules.condition import (
    ANYWHERE,
    FALSE,
    Condition,
    FieldMatch,
    Glob,
    Network,
    Number,
    Order,
    Present,
    Regex,
    Relation,
    Text,
    TimePart,
    Unit,
    Wildcard,
    all_of,
    any_of,
    negate,
)
from sensor.rules.linear import BadPattern, compile_pattern
from sensor.rules.model import Refused, Rule, Unsupported
from sensor.rules.values import fold
from sensor.rules.yamlsafe import Items, Map

MAX_CONDITION = 4096  # characters; the parser's time grows with them, and people write 200
MAX_NESTING = 64  # of And, Or, Not; everything after this module recurses over the tree

Resolve = Callable[[str], str]

_TECHNIQUE = re.compile(r"t\d{4}(\.\d{3})?", re.ASCII)
_RELATIONS = {(False, False): Relation.EQUALS, (False, True): Relation.PREFIX,
              (True, False): Relation.SUFFIX, (True, True): Relation.CONTAINS}
_ORDERS = {CompareOperators.LT: Order.LESS, CompareOperators.LTE: Order.LESS_EQUAL,
           CompareOperators.GT: Order.GREATER, CompareOperators.GTE: Order.GREATER_EQUAL,
           CompareOperators.NEQ: Order.EQUAL}
_FLAGS = {SigmaRegularExpressionFlag.IGNORECASE: "i", SigmaRegularExpressionFlag.MULTILINE: "m",
          SigmaRegularExpressionFlag.DOTALL: "s"}


class _Unusable(ValueError):
    """A sound piece of Sigma that we can't carry out; ``field`` helps to find its line."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        self.field = field
        super().__init__(reason)


def read(document: object, path: str, resolve: Resolve = fields.resolve) -> Rule | Refused | Unsupported:
    """One YAML document (of yamlsafe.py) as a rule, or why it is none.

    ``resolve`` turns a rule's field names into keys of documents, or raises fields.UnknownField.
    """
    if not isinstance(document, Map):
        return Refused(path, 1, "", "not a mapping: a Sigma rule has title, logsource and detection")
    title = document.get("title")
    name = title if isinstance(title, str) else ""
    for key in ("correlation", "filter"):
        if key in document:
            return Unsupported(path, name, key, f"a Sigma {key} is not evaluated by this version")
    try:
        return _read(document, name, path, resolve)
    except Exception as error:  # noqa: BLE001  pySigma meets shapes that it never expected in foreign files
        return Refused(path, _broken_line(document), name, f"not a Sigma rule: {_first_line(error)}")


def _read(document: Map, name: str, path: str, resolve: Resolve) -> Rule | Refused | Unsupported:
    try:
        _check_conditions(document)
        parsed = SigmaRule.from_dict(document)
        trees = [condition.parsed for condition in parsed.detection.parsed_condition]
    except (SigmaError, _Unusable) as error:
        return Refused(path, _broken_line(document), name, _first_line(error))
    source = parsed.logsource
    missing = _no_source(source.product, source.category, source.service)
    if missing:
        shown = " ".join(f"{key}={getattr(source, key)}" for key in ("product", "category", "service")
                         if getattr(source, key))
        return Unsupported(path, name, shown, missing)
    try:
        condition = any_of(*(_Converter(resolve).convert(tree) for tree in trees))
        _check_nesting(condition)
    except (fields.UnknownField, _Unusable) as error:
        return Refused(path, _field_line(document, error), name, str(error))
    return _rule(parsed, document, path, str(source.category), condition)


def _rule(parsed: SigmaRule, document: Map, path: str, category: str, condition: Condition) -> Rule:
    tags = tuple(f"{tag.namespace}.{tag.name}" for tag in parsed.tags)
    techniques = tuple(tag.name.upper() for tag in parsed.tags
                       if tag.namespace == "attack" and _TECHNIQUE.fullmatch(tag.name))
    return Rule(
        # A rule without an id gets one that stays the same as long as its title does.
        id=str(parsed.id or uuid.uuid5(uuid.NAMESPACE_OID, parsed.title)),
        name=parsed.title,
        level=parsed.level.name.lower() if parsed.level else "informational",
        description=(parsed.description or "").strip(),
        references=tuple(map(str, parsed.references)),
        tags=tags,
        techniques=techniques,
        falsepositives=tuple(map(str, parsed.falsepositives)),
        path=path,
        line=document.line,
        categories=(category,),
        events=fields.events_of(category),
        condition=condition,
    )


def _no_source(product: str | None, category: str | None, service: str | None) -> str:
    """Why no event of ours belongs to a log source, or nothing."""
    if product not in (None, "linux"):
        return f"events of product {product} don't come from Linux"
    if service is not None:
        return f"log lines of service {service} are not read; events come from the kernel"
    if category is None:
        return "a log source without a category means log lines, which are not read"
    return "" if fields.events_of(category) else f"no event of this sensor has category {category}"


class _Converter:
    """pySigma's tree -> ours, with field names resolved."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    def convert(self, node: object) -> Condition:
        match node:
            case ConditionAND():
                return all_of(*map(self.convert, node.args))
            case ConditionOR():
                return any_of(*map(self.convert, node.args))
            case ConditionNOT():
                return negate(self.convert(node.args[0]))
            case ConditionFieldEqualsValueExpression():
                return self._value(node.field, self._resolve(node.field), node.value)
            case ConditionValueExpression():
                return self._value(None, ANYWHERE, node.value)
            case _:
                raise _Unusable("the condition is empty")

    def _value(self, name: str | None, key: str, value: SigmaType) -> Condition:
        match value:
            case SigmaExpansion():
                return any_of(*(self._value(name, key, item) for item in value.values))
            case SigmaString():
                return _text(name, key, value)
            case SigmaRegularExpression():
                return _regex(name, key, value)
            case SigmaTimestampPart():
                return TimePart(key, Unit[value.timestamp_part.name], Order.EQUAL, value.number)
            case SigmaNumber() if key == ANYWHERE:
                return Text(key, Relation.CONTAINS, str(value.number))
            case SigmaNumber():
                return Number(key, Order.EQUAL, value.number)
            case SigmaBool():
                return Text(key, Relation.EQUALS, str(value.boolean).lower())
            case SigmaNull():
                return negate(Present(key))
            case SigmaExists():
                return Present(key) if value.exists else negate(Present(key))
            case SigmaCompareExpression():
                return _compare(key, value)
            case SigmaCIDRExpression():
                return Network(key, str(value.network))
            case SigmaFieldReference():
                relation = _RELATIONS[value.ends_with, value.starts_with]
                return FieldMatch(key, relation, self._resolve(value.field))
            case _:
                raise _Unusable(f"values of type {type(value).__name__} can't be evaluated", name)


def _text(name: str | None, key: str, value: SigmaString) -> Condition:
    cased = isinstance(value, SigmaCasedString)
    parts: list[str | Glob] = []
    if key == ANYWHERE:
        parts.append(Glob.MANY)
    for part in value.s:
        if isinstance(part, Placeholder):
            raise _Unusable(f"unresolved placeholder %{part.name}%", name)
        if isinstance(part, SpecialChars):
            glob = Glob.MANY if part is SpecialChars.WILDCARD_MULTI else Glob.ONE
            if glob is Glob.ONE or parts[-1:] != [Glob.MANY]:
                parts.append(glob)
        elif part:
            text = part if cased else fold(part)
            before = parts.pop() if parts and isinstance(parts[-1], str) else ""
            parts.append(f"{before}{text}")
    if key == ANYWHERE and parts[-1] is not Glob.MANY:
        parts.append(Glob.MANY)
    return text_condition(key, parts, cased)


def text_condition(key: str, parts: list[str | Glob], cased: bool) -> Condition:
    """The simplest predicate for a wildcard pattern: most need no wildcard at all."""
    if parts == [Glob.MANY]:
        return Present(key)
    literals = [part for part in parts if isinstance(part, str)]
    if Glob.ONE not in parts and len(literals) <= 1:
        relation = _RELATIONS[parts[:1] == [Glob.MANY], parts[-1:] == [Glob.MANY]]
        return Text(key, relation, literals[0] if literals else "", cased)
    return Wildcard(key, tuple(parts), cased)


def _regex(name: str | None, key: str, value: SigmaRegularExpression) -> Regex:
    if not isinstance(value.regexp, SigmaString):
        raise _Unusable("a regular expression must be text", name)
    for part in value.regexp.s:
        if isinstance(part, Placeholder):
            raise _Unusable(f"unresolved placeholder %{part.name}%", name)
    pattern = str(value.regexp)
    flags = "".join(sorted(_FLAGS[flag] for flag in value.flags))
    try:
        compile_pattern(pattern, flags)
    except BadPattern as error:
        raise _Unusable(f"regular expression {pattern!r}: {error}", name) from error
    return Regex(key, pattern, flags)


def _compare(key: str, value: SigmaCompareExpression) -> Condition:
    order, number = _ORDERS[value.op], value.number
    condition: Condition = Number(key, order, number.number)
    if isinstance(number, SigmaTimestampPart):
        condition = TimePart(key, Unit[number.timestamp_part.name], order, number.number)
    return negate(condition) if value.op is CompareOperators.NEQ else condition


def _check_conditions(document: Map) -> None:
    detection = document.get("detection")
    conditions = detection.get("condition") if isinstance(detection, Map) else None
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        if condition is not None and not isinstance(condition, str):
            raise _Unusable(f"condition: text expected, not {type(condition).__name__}")
        if condition is not None and len(condition) > MAX_CONDITION:
            raise _Unusable(f"condition longer than {MAX_CONDITION} characters")


def _check_nesting(condition: Condition) -> None:
    if condition == FALSE:
        raise _Unusable("the condition can never be true")
    level = [condition]
    for _ in range(MAX_NESTING):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise _Unusable(f"the condition is nested deeper than {MAX_NESTING}")


def _children(node: Condition) -> tuple[Condition, ...]:
    return getattr(node, "items", None) or ((node.item,) if hasattr(node, "item") else ())


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _broken_line(document: Map) -> int:
    """Line of the detection item that pySigma rejects when it gets that item alone."""
    detection = document.get("detection")
    if not isinstance(detection, Map):
        return document.lines.get("detection", document.line)
    for name, definition in detection.items():
        if name == "condition":
            continue
        for line, build in _pieces(definition, detection.lines[name]):
            try:
                build()
            except Exception:  # noqa: BLE001  whatever it raises is the error that is being looked for
                return line
    return detection.lines.get("condition", document.lines["detection"])


def _pieces(definition: Any, line: int) -> Iterator[tuple[int, Callable[[], object]]]:
    """(line, constructor) of each part of a detection, smallest parts first."""
    if isinstance(definition, Items):
        for item, at in zip(definition, definition.lines, strict=True):
            if isinstance(item, (Map, Items)):
                yield from _pieces(item, at)
    elif isinstance(definition, Map):
        for key, value in definition.items():
            yield definition.lines[key], partial(SigmaDetectionItem.from_mapping, key, value)
    yield line, partial(SigmaDetection.from_definition, definition)


def _field_line(document: Map, error: Exception) -> int:
    """Line of the first detection item that names the field which the error is about."""
    name = getattr(error, "field", None)
    if name is None:
        words = str(error).split()
        name = words[2] if isinstance(error, fields.UnknownField) and len(words) > 2 else None
    if name is None:
        return document.lines.get("detection", document.line)
    return next(_lines_of(document.get("detection"), name), document.line)


def _lines_of(node: object, name: str) -> Iterator[int]:
    if isinstance(node, Map):
        for key, value in node.items():
            if key.split("|")[0] == name:
                yield node.lines[key]
            yield from _lines_of(value, name)
    elif isinstance(node, Items):
        for item in node:
            yield from _lines_of(item, name)


def logsource_of(document: Mapping[str, Any]) -> str:
    """``category`` of a rule document's log source, or nothing."""
    source = document.get("logsource")
    category = source.get("category") if isinstance(source, Mapping) else None
    return category if isinstance(category, str) else ""
