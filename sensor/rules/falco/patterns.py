"""Falco's text patterns as pieces of RE2 expressions, and as predicates of one field.

A piece stands for a whole hidden text and is put into a larger expression by whoever knows
where in a document that text lies (views.py). ``any_`` is the class of characters that the
hidden text is made of.
"""

from __future__ import annotations

import re

from sensor.rules.condition import Condition, Glob, Present, Regex, Relation, Text, Wildcard, all_of, any_of
from sensor.rules.linear import BadPattern, compile_pattern
from sensor.rules.values import fold

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_CLASSES = frozenset(("alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
                      "upper", "xdigit"))


class BadValue(ValueError):
    """A value that its operator or field can't have; ``str()`` says why."""


def escape(text: str) -> str:
    """The expression that only this text matches."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def piece(operator: str, value: str, any_: str = ".") -> str:
    """The expression of all texts that stand in this relation to a value. Raises BadValue."""
    match operator:
        case "=":
            return escape(value)
        case "startswith":
            return f"{escape(value)}{any_}*"
        case "endswith":
            return f"{any_}*{escape(value)}"
        case "contains" | "icontains":
            return f"{any_}*{escape(value)}{any_}*"
        case "glob" | "iglob":
            return "".join(_expression(part, any_) for part in glob_parts(value))
        case "regex":
            checked(value)
            # A dot takes no newline in Falco, whatever the flags around say.
            return f"(?-s:{value})"
    raise BadValue(f"{operator} can't be used here")


def checked(pattern: str, flags: str = "") -> str:
    """A regular expression that RE2 takes. Raises BadValue."""
    try:
        compile_pattern(pattern, flags)
    except BadPattern as error:
        raise BadValue(f"regular expression {pattern[:80]!r}: {error}") from error
    return pattern


def text(key: str, operator: str, value: str, *, folded: bool = False) -> Condition:
    """A comparison of the whole text at a key. Raises BadValue."""
    folded = folded or operator in ("icontains", "iglob")
    relation = {"=": Relation.EQUALS, "startswith": Relation.PREFIX, "endswith": Relation.SUFFIX,
                "contains": Relation.CONTAINS, "icontains": Relation.CONTAINS}.get(operator)
    if relation is not None:
        return Text(key, relation, fold(value) if folded else value, not folded)
    if operator in ("glob", "iglob"):
        parts = glob_parts(value)
        plain = tuple(part for part in parts if not isinstance(part, _Class))
        if len(plain) == len(parts):
            return _wildcard(key, plain, cased=not folded)
    return whole(key, piece(operator, value), folded=folded)


def whole(key: str, expression: str, *, folded: bool = False) -> Regex:
    """The text at a key matches an expression from end to end. Raises BadValue."""
    flags = "is" if folded else "s"
    return Regex(key, checked(f"^(?:{expression})$", flags), flags)


def below(key: str, value: str) -> Condition:
    """``pmatch``: the path is the value or lies below it, component by component; components may be globs."""
    components = [component for component in value.split("/") if component]
    if not components:
        return Present(key)
    if not any(set(component) & set("*?[") for component in components):
        # Falco takes no notice of empty components, nor of a slash that is missing at the beginning.
        path = "/" + "/".join(components)
        return any_of(Text(key, Relation.EQUALS, path, cased=True), Text(key, Relation.PREFIX, path + "/", cased=True))
    expression = "".join(f"/+{''.join(_expression(part, '[^/]') for part in glob_parts(each))}" for each in components)
    return whole(key, f"{expression}(?:/.*)?")


class _Class(str):
    """A set of characters in a glob, as an expression already."""

    __slots__ = ()


def glob_parts(pattern: str) -> tuple[str | Glob, ...]:
    """A shell pattern in pieces: texts, wildcards, sets. Raises BadValue for what can't be had."""
    parts: list[str | Glob] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char in "?*+@!" and pattern[at + 1:at + 2] == "(":
            raise BadValue(f"glob {pattern[:80]!r}: alternatives such as {char}(...) are not supported; use regex")
        if char == "*":
            if parts[-1:] != [Glob.MANY]:
                parts.append(Glob.MANY)
        elif char == "?":
            parts.append(Glob.ONE)
        elif char == "[" and (end := _end_of_set(pattern, at)):
            parts.append(_set(pattern[at + 1:end]))
            at = end
        else:
            if char == "\\" and at + 1 < len(pattern):
                at += 1
                char = pattern[at]
            literal = isinstance(parts[-1], str) and not isinstance(parts[-1], _Class) if parts else False
            parts.append(f"{parts.pop()}{char}" if literal else char)
        at += 1
    return tuple(parts)


def _end_of_set(pattern: str, at: int) -> int:
    """Where the bracket of a set closes, or 0: then it is no set."""
    start = at + 1 + (pattern[at + 1:at + 2] in ("!", "^"))
    start += pattern[start:start + 1] == "]"
    while start < len(pattern):
        if pattern[start] == "]":
            return start
        if pattern.startswith("[:", start):
            start = max(start, pattern.find(":]", start) + 1)
        start += 1
    return 0


def _set(content: str) -> _Class:
    negated = content[:1] in ("!", "^")
    rest, made = content[negated:], ""
    at = 0
    while at < len(rest):
        if rest.startswith("[:", at) and (end := rest.find(":]", at)) > 0:
            if rest[at + 2:end] not in _CLASSES:
                raise BadValue(f"glob: no class of characters is called {rest[at + 2:end]!r}")
            made, at = made + rest[at:end + 2], end + 2
            continue
        char = rest[at]
        made += char if char == "-" and 0 < at < len(rest) - 1 else re.sub(r"[\\\[\]^-]", r"\\\g<0>", char)
        at += 1
    expression = f"[{'^' if negated else ''}{made}]"
    checked(expression)
    return _Class(expression)


def _expression(part: str | Glob, any_: str) -> str:
    if isinstance(part, Glob):
        return any_ + ("*" if part is Glob.MANY else "")
    return str(part) if isinstance(part, _Class) else escape(part)


def _wildcard(key: str, parts: tuple[str | Glob, ...], *, cased: bool) -> Condition:
    """The simplest predicate for literals and wildcards."""
    if parts == (Glob.MANY,):
        return Present(key)
    literals = [part for part in parts if isinstance(part, str)]
    if Glob.ONE not in parts and len(literals) <= 1:
        relation = {(False, False): Relation.EQUALS, (False, True): Relation.PREFIX, (True, False): Relation.SUFFIX,
                    (True, True): Relation.CONTAINS}[parts[:1] == (Glob.MANY,), parts[-1:] == (Glob.MANY,)]
        literal = literals[0] if literals else ""
        return Text(key, relation, literal if cased else fold(literal), cased)
    return Wildcard(key, tuple(part if isinstance(part, Glob) or cased else fold(part) for part in parts), cased)


def guarded(key: str, literal: str, expression: Regex, *, folded: bool = False) -> Condition:
    """An expression behind the literal that every match of it has: a literal costs nearly nothing."""
    if not literal:
        return expression
    return all_of(Text(key, Relation.CONTAINS, fold(literal) if folded else literal, not folded), expression)
