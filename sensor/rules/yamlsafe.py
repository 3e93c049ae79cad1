"""Bounded YAML: plain data out of text that nobody vouches for, with line numbers.

The C library's parser is driven event by event and the data is built here, because its own
composer recurses in C: fifty kilobytes of ``[`` overflow the stack, and no ``except`` sees it.
Anchors, aliases, tags, merge keys and duplicate keys are refused: rules need none of them, and
each has been somebody's bomb or somebody's silent mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 32  # rules nest five deep; the front-ends recurse over what passes here
MAX_DIGITS = 64  # turning digits into an integer takes quadratic time

_TEXT = "tag:yaml.org,2002:str"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """The text is no acceptable YAML. ``line`` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason
        super().__init__(f"{line}: {reason}")


class Map(dict[str, Any]):
    """A mapping that knows the line of each of its keys, and its own."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class Items(list[Any]):
    """A sequence that knows the line of each of its items."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


@dataclass(slots=True)
class _Builder:
    """Open collections, innermost last; ``key`` holds what waits for its value in a mapping."""

    stack: list[Map | Items] = field(default_factory=list)
    keys: list[tuple[str, int] | None] = field(default_factory=list)
    root: Any = None

    def add(self, value: Any, line: int) -> None:
        if not self.stack:
            self.root = value
            return
        parent = self.stack[-1]
        if isinstance(parent, Items):
            parent.append(value)
            parent.lines.append(line)
            return
        waiting = self.keys[-1]
        if waiting is None:
            self._open_key(parent, value, line)
            return
        parent[waiting[0]] = value
        parent.lines[waiting[0]] = waiting[1]
        self.keys[-1] = None

    def _open_key(self, parent: Map, value: Any, line: int) -> None:
        if not isinstance(value, str):
            raise YamlError(line, f"a key must be text, this one is {type(value).__name__}")
        if value in parent:
            raise YamlError(line, f"the key {value!r} stands here twice, first in line {parent.lines[value]}")
        self.keys[-1] = (value, line)

    def push(self, value: Map | Items, line: int) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise YamlError(line, f"nested deeper than {MAX_DEPTH}")
        if self.stack and isinstance(self.stack[-1], Map) and self.keys[-1] is None:
            raise YamlError(line, "a key must be text, this one is a collection")
        self.add(value, line)
        self.stack.append(value)
        self.keys.append(None)

    def pop(self) -> None:
        self.stack.pop()
        self.keys.pop()


def documents(text: str) -> Iterator[Any]:
    """Each document of a YAML stream as ``Map``, ``Items`` or a scalar.

    Raises YamlError at the first thing that is wrong; the documents before it have been given.
    """
    try:
        loader = _Loader(text)
        yield from _documents(loader)
    except yaml.reader.ReaderError as error:
        # Offsets are in characters here: the text has been decoded before.
        raise YamlError(text.count("\n", 0, error.position) + 1, f"not YAML: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise YamlError(line, f"not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise YamlError(1, f"not YAML: {error}") from error


def _documents(loader: Any) -> Iterator[Any]:
    builder = _Builder()
    while loader.check_event():
        event = loader.get_event()
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:  # an alias has one, too
            raise YamlError(line, "anchors and aliases are not accepted")
        if isinstance(event, yaml.ScalarEvent):
            builder.add(_scalar(loader, event, line), line)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if event.tag is not None:
                raise YamlError(line, f"tags are not accepted, here {event.tag}")
            builder.push(Map(line) if isinstance(event, yaml.MappingStartEvent) else Items(), line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            builder.pop()
        elif isinstance(event, yaml.DocumentEndEvent):
            yield builder.root
            builder = _Builder()


def _scalar(loader: Any, event: Any, line: int) -> Any:
    """The scalar's value by YAML 1.1's implicit types, as everybody who writes Sigma expects."""
    if event.tag is not None:
        raise YamlError(line, f"tags are not accepted, here {event.tag}")
    tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag == "tag:yaml.org,2002:merge":
        raise YamlError(line, "merge keys are not accepted")
    if tag == "tag:yaml.org,2002:int" and len(event.value) > MAX_DIGITS:
        raise YamlError(line, f"a number of more than {MAX_DIGITS} digits")
    if tag == _TEXT:
        if not event.value.isascii() and any("\ud800" <= char <= "\udfff" for char in event.value):
            raise YamlError(line, "a lone surrogate is no text")
        return event.value
    node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
    try:
        return loader.construct_object(node)
    except (ValueError, OverflowError) as error:
        raise YamlError(line, f"not a value: {event.value[:40]!r}: {error}") from error
