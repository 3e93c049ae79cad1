"""What the values of a document mean to a rule.

* A value is text, an integer, a float or a boolean. A list or tuple is several values. None,
  a mapping and anything else is no value; so are an empty list and a key that is not there.
* Text form: text is itself, an integer its decimal digits, a float with no fraction likewise,
  a boolean ``true`` or ``false``.
* Number: an integer or float is itself; a text is one only if it is plainly decimal (``-12``,
  ``007``, ``1.5``; no spaces, exponents, hexadecimal or underscores). A boolean is no number.
* Case: folded by Unicode's full case folding, which depends on no context, so that a folded
  part is always part of the folded whole.
* A byte that is no UTF-8 is a lone surrogate in the text (surrogateescape). It compares as
  itself, and is U+FFFD to wildcards and regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sensor.rules.condition import ANYWHERE

Scalar = str | int | float | bool

_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)
_PLACE = re.compile(r"[0-9]{1,6}", re.ASCII)  # in a list; no event has longer ones
_LONE = re.compile("[\ud800-\udfff]")

#: Keys of the document that the sensor made up; keyword searches don't look into them.
OWN_KEYS = frozenset({"@timestamp", "event", "sensor", "rule"})


def fold(text: str) -> str:
    """Text without its case."""
    return text.casefold()


def text_of(value: Scalar) -> str:
    """Text form of a value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def number_of(value: Scalar) -> int | float | None:
    """Number that a value is, or None."""
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            return None
        return float(value) if "." in value else int(value)
    return None if isinstance(value, bool) else value


def plain(text: str) -> str:
    """Text with each lone surrogate replaced by U+FFFD: what can be encoded as UTF-8."""
    return text if text.isascii() else _LONE.sub("\ufffd", text)


def scalars(value: object) -> tuple[Scalar, ...]:
    """The values that a key of a document holds. Lists inside of lists hold none."""
    if isinstance(value, (str, int, float)):
        return (value,)
    if isinstance(value, (list, tuple)):
        return tuple(item for item in value if isinstance(item, (str, int, float)))
    return ()


def find(document: Mapping[str, Any], field: str) -> object:
    """What stands at a dotted key of nested mappings, or None; for ``*`` all values.

    A number as the last part of the key is an item of a list: ``process.args.0``.
    """
    if field == ANYWHERE:
        return leaves(document)
    node: object = document
    *outer, last = field.split(".")
    for part in outer:
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return item(node, last)


def item(value: object, last: str) -> object:
    """What the last part of a key names: a key of a mapping, or a place in a list. None where there is nothing."""
    if isinstance(value, (list, tuple)):
        return at(value, int(last)) if _PLACE.fullmatch(last) else None
    return value.get(last) if isinstance(value, Mapping) else None


def at(value: object, place: int) -> object:
    """What stands at a place of a list; None where there is nothing, or no list."""
    return value[place] if isinstance(value, (list, tuple)) and place < len(value) else None


def list_item(field: str) -> tuple[str, int]:
    """Key of the list and place in it, of a field that can be an item of one; else nothing and -1."""
    key, _, last = field.rpartition(".")
    return (key, int(last)) if key and _PLACE.fullmatch(last) else ("", -1)


def leaves(document: Mapping[str, Any]) -> list[Scalar]:
    """Every value of the document outside of the sensor's own keys."""
    return [leaf for key, value in document.items() if key not in OWN_KEYS for leaf in _walk(value)]


def _walk(value: object) -> Iterator[Scalar]:
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            stack.extend(node.values())
        else:
            yield from scalars(node)
