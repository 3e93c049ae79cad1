"""Which line of a Sigma rule an error is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sigma.rule.detection import SigmaDetection, SigmaDetectionItem

from sensor.rules import fields
from sensor.rules.yamlsafe import Items, Map


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def broken_line(document: Map, section: str = "detection") -> int:
    """Line of the detection item that pySigma rejects when it gets that item alone."""
    detection = document.get(section)
    if not isinstance(detection, Map):
        return document.lines.get(section, document.line)
    for name, definition in detection.items():
        if name in ("condition", "rules"):
            continue
        for line, build in _pieces(definition, detection.lines[name]):
            try:
                build()
            except Exception:  # noqa: BLE001  whatever it raises is the error that is being looked for
                return line
    return detection.lines.get("condition", document.lines[section])


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


def field_line(document: Map, error: Exception, section: str = "detection") -> int:
    """Line of the first detection item that names the field which the error is about."""
    name = getattr(error, "field", None)
    if name is None:
        words = str(error).split()
        name = words[2] if isinstance(error, fields.UnknownField) and len(words) > 2 else None
    if name is None:
        return document.lines.get(section, document.line)
    return next(_lines_of(document.get(section), name), document.line)


def _lines_of(node: object, name: str) -> Iterator[int]:
    if isinstance(node, Map):
        for key, value in node.items():
            if key.split("|")[0] == name:
                yield node.lines[key]
            yield from _lines_of(value, name)
    elif isinstance(node, Items):
        for item in node:
            yield from _lines_of(item, name)
