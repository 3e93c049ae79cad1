"""pySigma's tree of a detection -> our conditions, with field names resolved and placeholders filled in.

* Texts compare without case unless ``cased``; ``*`` alone means that the field has a value.
* A keyword (no field) is looked for inside every value of the document.
* ``null`` is absence; an empty text is a value. ``exists`` asks for a value, whatever it is.
* A number in the rule compares as a number, a text compares as text, a boolean as its text.
* Regular expressions are RE2's. What RE2 can't do in linear time is refused.
* ``expand`` placeholders stand for the values that the settings give them: any of them may match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
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
from sensor.rules.values import fold

MAX_NESTING = 64  # of And, Or, Not; everything after this module recurses over the tree
MAX_EXPANDED = 1_000  # values that the placeholders of one value stand for together

Resolve = Callable[[str], str]

_RELATIONS = {(False, False): Relation.EQUALS, (False, True): Relation.PREFIX,
              (True, False): Relation.SUFFIX, (True, True): Relation.CONTAINS}
_ORDERS = {CompareOperators.LT: Order.LESS, CompareOperators.LTE: Order.LESS_EQUAL,
           CompareOperators.GT: Order.GREATER, CompareOperators.GTE: Order.GREATER_EQUAL,
           CompareOperators.NEQ: Order.EQUAL}
_FLAGS = {SigmaRegularExpressionFlag.IGNORECASE: "i", SigmaRegularExpressionFlag.MULTILINE: "m",
          SigmaRegularExpressionFlag.DOTALL: "s"}


class Unusable(ValueError):
    """A sound piece of Sigma that we can't carry out; ``field`` helps to find its line."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        self.field = field
        super().__init__(reason)


class Converter:
    """pySigma's tree -> ours, with field names resolved."""

    def __init__(self, resolve: Resolve, placeholders: Mapping[str, Sequence[str]] | None = None) -> None:
        self._resolve, self._placeholders = resolve, placeholders or {}

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
                raise Unusable("the condition is empty")

    def _value(self, name: str | None, key: str, value: SigmaType) -> Condition:
        match value:
            case SigmaExpansion():
                return any_of(*(self._value(name, key, item) for item in value.values))
            case SigmaString():
                return any_of(*(_text(key, each, isinstance(value, SigmaCasedString))
                                for each in self._filled(name, value, SigmaString)))
            case SigmaRegularExpression():
                return any_of(*(_regex(name, key, each, value) for each in self._expressions(name, value)))
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
                raise Unusable(f"values of type {type(value).__name__} can't be evaluated", name)


    def _filled(self, name: str | None, value: SigmaString,
                made: Callable[[str], str | SigmaString]) -> list[SigmaString]:
        """The texts that a text with placeholders stands for; itself if it has none. They may lose their case."""
        wanted = [part.name for part in value.s if isinstance(part, Placeholder)]
        total = 1
        for each in wanted:
            if each not in self._placeholders:
                raise Unusable(f"placeholder %{each}% has no values: give it some in the settings, under "
                               f"rules.placeholders: {{{each}: [VALUE, ...]}}", name)
            total *= len(self._placeholders[each])
        if total > MAX_EXPANDED:
            raise Unusable(f"placeholders stand for more than {MAX_EXPANDED} values together", name)
        if not wanted:
            return [value]

        def fill(placeholder: Placeholder) -> Iterator[str | SpecialChars | Placeholder | SigmaString]:
            yield from map(made, self._placeholders[placeholder.name])

        return list(value.replace_placeholders(fill))

    def _expressions(self, name: str | None, value: SigmaRegularExpression) -> list[str]:
        if not isinstance(value.regexp, SigmaString):
            raise Unusable("a regular expression must be text", name)
        return [str(each) for each in self._filled(name, value.regexp, str)]


def _text(key: str, value: SigmaString, cased: bool) -> Condition:
    parts: list[str | Glob] = []
    if key == ANYWHERE:
        parts.append(Glob.MANY)
    for part in value.s:
        if isinstance(part, SpecialChars):
            glob = Glob.MANY if part is SpecialChars.WILDCARD_MULTI else Glob.ONE
            if glob is Glob.ONE or parts[-1:] != [Glob.MANY]:
                parts.append(glob)
        elif isinstance(part, str) and part:
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


def _regex(name: str | None, key: str, pattern: str, value: SigmaRegularExpression) -> Regex:
    flags = "".join(sorted(_FLAGS[flag] for flag in value.flags))
    try:
        compile_pattern(pattern, flags)
    except BadPattern as error:
        raise Unusable(f"regular expression {pattern!r}: {error}", name) from error
    return Regex(key, pattern, flags)


def _compare(key: str, value: SigmaCompareExpression) -> Condition:
    order, number = _ORDERS[value.op], value.number
    condition: Condition = Number(key, order, number.number)
    if isinstance(number, SigmaTimestampPart):
        condition = TimePart(key, Unit[number.timestamp_part.name], order, number.number)
    return negate(condition) if value.op is CompareOperators.NEQ else condition


def check_nesting(condition: Condition) -> None:
    """Raises Unusable for what can never be true, and for what is nested too deep."""
    if condition == FALSE:
        raise Unusable("the condition can never be true")
    level = [condition]
    for _ in range(MAX_NESTING):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise Unusable(f"the condition is nested deeper than {MAX_NESTING}")


def _children(node: Condition) -> tuple[Condition, ...]:
    return getattr(node, "items", None) or ((node.item,) if hasattr(node, "item") else ())
