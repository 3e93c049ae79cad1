"""A condition typed by a person, in Sigma's words on one line, as a rule.

    condition := item | "not" condition | condition "and" condition | condition "or" condition | "(" condition ")"
    item      := FIELD ("|" MODIFIER)* ":" value | "[" values "]" after the colon | a quoted keyword
    value     := 'text' | "text" | word

``not`` binds closest, then ``and``. Fields, modifiers, wildcards and what values mean are Sigma's. A word
ends at a space, comma, bracket or parenthesis; ``null``, ``true``, ``false`` and plain integers are what
they are in YAML, unless they are quoted. Between quotes a backslash is a backslash; the quote itself is
written twice. The items become detections of a Sigma rule, and Sigma's own parser does the rest.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sensor.errors import UsageError
from sensor.rules import sigma
from sensor.rules.model import Rule
from sensor.rules.yamlsafe import Items, Map
from sensor.schema import EVENTS

MAX_QUERY = 4096  # characters, as of a rule's condition

_TOKEN = re.compile(r"""\s*(?:
    (?P<paren>[()])
  | (?P<field>[\w@.-]+(?:\|[\w]+)*):\s*
  | (?P<word>and|or|not)(?![^\s()'"])
  | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")
)""", re.VERBOSE | re.IGNORECASE)
_VALUE = re.compile(r"""\s*(?:(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<bare>[^\s,()\[\]'"]+))""", re.VERBOSE)
_SEPARATOR = re.compile(r"\s*([,\]])")
_LITERALS: dict[str, Any] = {"null": None, "true": True, "false": False}
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def parse(text: str) -> Rule:
    """The rule that a condition stands for; it sees every event. Raises UsageError, with the place."""
    if len(text) > MAX_QUERY or not text.isprintable():
        raise UsageError(f"a condition is one printable line of at most {MAX_QUERY} characters")
    detection, words, at = Map(1), [], 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            raise _error(text, at, "expected FIELD: VALUE, a quoted keyword, and, or, not or a parenthesis")
        at = found.end()
        if found["field"]:
            value, at = _values(text, at)
            item = Map(1)
            item[found["field"]] = value
            item.lines[found["field"]] = 1
            words.append(_add(detection, item))
        elif found["quoted"]:
            keywords = Items()
            keywords.append(_unquoted(found["quoted"]))
            keywords.lines.append(1)
            words.append(_add(detection, keywords))
        else:
            words.append((found["paren"] or found["word"]).lower())
    detection["condition"], detection.lines["condition"] = " ".join(words), 1
    return _read(text, detection)


def _read(text: str, detection: Map) -> Rule:
    document, source = Map(1), Map(1)
    source["category"], source.lines["category"] = "process_creation", 1
    for key, value in (("title", "condition"), ("logsource", source), ("detection", detection)):
        document[key], document.lines[key] = value, 1
    rule = sigma.read(document, "condition")
    if not isinstance(rule, Rule):
        raise UsageError(f"condition {text!r}: {rule.reason}")
    return replace(rule, name=text, categories=(), events=tuple(event.action for event in EVENTS))


def _add(detection: Map, definition: Map | Items) -> str:
    name = f"item{len(detection)}"
    detection[name], detection.lines[name] = definition, 1
    return name


def _values(text: str, at: int) -> tuple[Any, int]:
    """The value at a place, or the list of values, and where it ends."""
    if text[at:at + 1] != "[":
        return _value(text, at)
    values = Items()
    while True:
        value, at = _value(text, at + 1)
        values.append(value)
        values.lines.append(1)
        found = _SEPARATOR.match(text, at)
        if found is None:
            raise _error(text, at, "expected , or ]")
        at = found.end() - 1
        if found[1] == "]":
            return values, at + 1


def _value(text: str, at: int) -> tuple[Any, int]:
    found = _VALUE.match(text, at)
    if found is None:
        raise _error(text, at, "expected a value")
    if found["quoted"]:
        return _unquoted(found["quoted"]), found.end()
    word = found["bare"]
    if _INTEGER.fullmatch(word):
        return int(word), found.end()
    return _LITERALS.get(word.lower(), word), found.end()


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])


def _error(text: str, at: int, reason: str) -> UsageError:
    return UsageError(f"condition, character {at + 1}: {reason}, not {text[at:].strip()[:20] or 'the end'!r}")
