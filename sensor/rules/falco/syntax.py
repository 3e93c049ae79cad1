"""The text of a Falco condition -> its tree, within limits.

The grammar is LALR, so that time and stack don't depend on how a text nests. Keywords are
known by their place: ``and`` after ``=`` is a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

MAX_TEXT = 16_384  # characters; the largest public condition has 6,000, and parsing takes 20 us for each
MAX_NESTING = 64  # what comes after recurses over the tree

#: Operators by what stands to their right.
UNARY = ("exists",)
NUMERIC = ("<", "<=", ">", ">=")
TEXTUAL = ("=", "==", "!=", "glob", "iglob", "contains", "icontains", "bcontains", "startswith", "bstartswith",
           "endswith", "regex")
LISTS = ("in", "intersects", "pmatch")
OPERATORS = (*UNARY, *NUMERIC, *TEXTUAL, *LISTS)
TRANSFORMERS = ("tolower", "toupper", "b64", "basename", "len", "storage")

_GRAMMAR = r"""
start: _or
_or: and_expr (_OR and_expr)*
and_expr: not_expr (_AND not_expr)*
not_expr: NOT* _check
_check: check | macro | "(" nested ")"
nested: _or
macro: NAME
check: field EXISTS                          -> exists
     | field NUMERIC operand                 -> compare
     | field TEXTUAL operand                 -> compare
     | field LISTS list                      -> compare
field: FIELD ARGUMENT?                       -> plain
     | TRANSFORMER field ")"                 -> transformed
operand: value | VAL plain_field ")" | TRANSFORMER field ")"  -> transformed
plain_field: FIELD ARGUMENT?                 -> plain
list: "(" (value ("," value)*)? ")"          -> many
    | NAME                                   -> named
    | VAL plain_field ")"
    | TRANSFORMER field ")"                  -> transformed
value: QUOTED | BARE

_OR.9: /or(?=[\s(])/
_AND.9: /and(?=[\s(])/
NOT.9: /not(?=[\s(])/
EXISTS.8: /exists(?![a-zA-Z0-9_])/
NUMERIC.8: /[<>]=?/
TEXTUAL.8: /==|=|!=|(?:i?glob|[ib]?contains|b?startswith|endswith|regex)(?=[\s"'])/
LISTS.8: /(?:intersects|in|pmatch)(?=[\s(])/
VAL.7: /val\(\s*/
TRANSFORMER.7: /(?:tolower|toupper|b64|basename|len|storage)\(\s*/
FIELD.6: /[a-zA-Z][a-zA-Z0-9_]*(?:\.[a-zA-Z][a-zA-Z0-9_]*)+/
ARGUMENT.6: /\[(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\]\["'\s]+)\]/
NAME.5: /[a-zA-Z][a-zA-Z0-9_]*/
QUOTED.5: /"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'/s
BARE.4: /[^()"'\s=,]+/
%ignore /\s+/
"""

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", " ": "\\", "\\": "\\", "/": "/", '"': '"', "'": "'"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class BadCondition(ValueError):
    """The text is no condition; ``str()`` says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an event, perhaps with an argument and transformed, innermost transformer first."""

    name: str
    argument: str | None = None
    transformers: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = self.name if self.argument is None else f"{self.name}[{self.argument}]"
        for name in self.transformers:
            text = f"{name}({text})"
        return text


@dataclass(frozen=True, slots=True)
class Value:
    """A value; a bare one may be the name of a list."""

    text: str
    bare: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. ``exists`` has no operand, list operators have any number."""

    field: Field
    operator: str
    operands: tuple[Value | Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Macro:
    """The name of a macro."""

    name: str


@dataclass(frozen=True, slots=True)
class Not:
    """Negation."""

    item: Node


@dataclass(frozen=True, slots=True)
class All:
    """Conjunction."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """Disjunction."""

    items: tuple[Node, ...]


Node = Check | Macro | Not | All | Some


def parse(text: str) -> Node:
    """The tree of a condition. Raises BadCondition."""
    if len(text) > MAX_TEXT:
        raise BadCondition(f"condition longer than {MAX_TEXT} characters")
    if not text.strip():
        raise BadCondition("the condition is empty")
    import lark

    try:
        node: Node = _parser().parse(text)
    except lark.exceptions.VisitError as error:
        raise BadCondition(str(error.orig_exc)) from error
    except lark.exceptions.UnexpectedInput as error:
        raise BadCondition(_complaint(text, error)) from error
    check_nesting(node)
    return node


def unquoted(text: str) -> Value:
    """The value that an item of a YAML list stands for: quotes inside of it are Falco's. Raises BadCondition."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return Value(_unescape(text), bare=False)
    return Value(text)


def checks(node: Node) -> Iterator[Check]:
    """Every comparison of a tree, macros left alone."""
    stack = [node]
    while stack:
        each = stack.pop()
        if isinstance(each, Check):
            yield each
        else:
            stack.extend(children(each))


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below one."""
    if isinstance(node, (All, Some)):
        return node.items
    return (node.item,) if isinstance(node, Not) else ()


def check_nesting(node: Node) -> None:
    """Raise BadCondition for a tree that is too deep to be recursed over."""
    level: list[Node] = [node]
    for _ in range(MAX_NESTING):
        level = [child for each in level for child in children(each)]
        if not level:
            return
    raise BadCondition(f"the condition is nested deeper than {MAX_NESTING}")


def _unescape(quoted: str) -> str:
    other = "'" if quoted[0] == '"' else '"'

    def replace(found: re.Match[str]) -> str:
        letter = found[1]
        if letter not in _ESCAPES or letter == other:
            raise BadCondition(f"the escape \\{letter} means nothing in {quoted[:40]}")
        return _ESCAPES[letter]

    return _ESCAPE.sub(replace, quoted[1:-1])


def _complaint(text: str, error: Any) -> str:
    at = getattr(error, "pos_in_stream", None)
    if at is None or at < 0 or at >= len(text):
        return "the condition ends where more is expected"
    near = " ".join(text[at:at + 40].split())
    return f"condition: unexpected {near!r}"


@cache
def _parser() -> Any:
    import lark

    class Build(lark.Transformer[Any, Node]):
        """Lark's pieces -> ours, while parsing, so that nothing recurses."""

        def start(self, items: list[Node]) -> Node:
            return items[0] if len(items) == 1 else Some(tuple(items))

        nested = start

        def and_expr(self, items: list[Node]) -> Node:
            return items[0] if len(items) == 1 else All(tuple(items))

        def not_expr(self, items: list[Any]) -> Node:
            return Not(items[-1]) if len(items) % 2 == 0 else items[-1]

        def macro(self, items: list[Any]) -> Node:
            return Macro(str(items[0]))

        def exists(self, items: list[Any]) -> Node:
            return Check(items[0], "exists")

        def compare(self, items: list[Any]) -> Node:
            field, operator, operands = items
            found = operands if isinstance(operands, tuple) else (operands,)
            return Check(field, str(operator), found)

        def plain(self, items: list[Any]) -> Field:
            argument = str(items[1])[1:-1] if len(items) > 1 else None
            return Field(str(items[0]), unquoted(argument).text if argument else argument)

        def transformed(self, items: list[Any]) -> Field:
            inner: Field = items[1]
            return Field(inner.name, inner.argument, (*inner.transformers, str(items[0]).rstrip()[:-1]))

        def operand(self, items: list[Any]) -> Any:
            return items[-1]

        list = operand

        def many(self, items: Any) -> tuple[Value, ...]:
            return tuple(items)

        def named(self, items: Any) -> tuple[Value, ...]:
            return (Value(str(items[0])),)

        def value(self, items: Any) -> Value:
            (token,) = items
            return Value(_unescape(token), bare=False) if token.type == "QUOTED" else Value(str(token))

    return lark.Lark(_GRAMMAR, parser="lalr", lexer="contextual", transformer=Build(), maybe_placeholders=False)
