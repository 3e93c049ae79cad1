"""A small, bounded part of YAML for settings: mappings, lists and plain values, with line numbers.

PyYAML's C loader ends the process on 50 KB of ``[`` and every loader expands aliases without a
bound. So this reads the *events* of the pure Python parser, which is a state machine and keeps no
stack of ours, and builds the tree itself: no aliases, tags, duplicate keys or second documents, a
bound on size, depth and number of nodes. Values stay text; who asks for a number says so, so that
``off`` and ``1_0`` mean what the key's type makes of them and not what YAML 1.1 does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from sensor.errors import ContentError

MAX_BYTES = 1 << 20  # a settings file of this size is a mistake or an attack
MAX_DEPTH = 32
MAX_NODES = 20_000  # the pure Python scanner makes about 10,000 nodes a second

MAX_SHOWN = 60  # characters of a value that a message repeats


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place. ``value`` is text, a list of nodes, or a mapping of key to (key's line, node).

    ``quoted`` tells ``"1"`` from ``1``; it is False for lists and mappings.
    """

    value: str | list[Node] | dict[str, tuple[int, Node]]
    line: int
    quoted: bool = False


def shown(text: str) -> str:
    """Text of a file as it may stand in a message: quoted, control characters escaped, cut."""
    return repr(text) if len(text) <= MAX_SHOWN else repr(text[:MAX_SHOWN]) + "..."


def read_text(path: str) -> str:
    """Text of a settings file.

    Raises:
        ContentError: Absent, unreadable, no regular file, over MAX_BYTES, no UTF-8, or writable by
            everybody while root is reading.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang the start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ContentError(path, None, f"can't be read: {error.strerror}") from None
    try:
        return read_descriptor(fd, path)
    finally:
        os.close(fd)


def read_descriptor(fd: int, path: str) -> str:
    """The same of a file that is open already, from its beginning; the descriptor stays open.

    For a process that has given up the right to open the file by its name.
    """
    try:
        data = _read(fd, path)
    except OSError as error:
        raise ContentError(path, None, f"can't be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ContentError(path, None, f"is larger than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ContentError(path, line, f"byte {data[error.start]:#04x} is no UTF-8") from None


def _read(fd: int, path: str) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ContentError(path, None, "is no regular file")
    if os.geteuid() == 0 and status.st_mode & stat.S_IWOTH:
        raise ContentError(path, None, "is writable by everybody, and root would obey it",
                           f"chmod o-w {path}")
    chunks: list[bytes] = []
    size = 0
    while size <= MAX_BYTES and (chunk := os.pread(fd, MAX_BYTES + 1 - size, size)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def parse(text: str, path: str) -> Node | None:
    """Tree of *text*, or None where it holds nothing but comments. *path* is for messages.

    Raises:
        ContentError: With the line: no YAML, or YAML that settings have no use for.
    """
    if len(text) > MAX_BYTES:
        raise ContentError(path, None, f"is larger than {MAX_BYTES} characters")
    try:
        return _Builder(path, yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ContentError(path, mark.line + 1 if mark else None,
                           f"no YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ContentError(path, line, f"character {error.character!r} is not allowed in YAML") from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


class _Builder:
    """Turns parser events into nodes. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, path: str, events: Iterator[yaml.Event]) -> None:
        self._path, self._events, self._nodes = path, events, 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._error(event, "a second document")
                root = self._node(next(self._events), 0)
        if root is not None and root.value == "" and not root.quoted:
            return None
        return root

    def _error(self, event: yaml.Event, reason: str, hint: str = "") -> ContentError:
        return ContentError(self._path, _line(event), reason, hint)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(event, f"more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._error(event, "anchors and aliases (& and *) are not allowed",
                              "quote a value that begins with * or &")
        if tag := getattr(event, "tag", None):
            raise self._error(event, f"tags ({shown(tag)}) are not allowed")
        line = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            return Node(event.value, line, quoted=event.style in ("'", '"', "|", ">"))
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._list(depth), line)
        return Node(self._mapping(depth), line)

    def _list(self, depth: int) -> list[Node]:
        items: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, tuple[int, Node]]:
        entries: dict[str, tuple[int, Node]] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._node(event, depth + 1)
            if not isinstance(key.value, str):
                raise self._error(event, "a key must be text")
            if key.value in entries:
                first = entries[key.value][0]
                raise self._error(event, f"key {shown(key.value)} stands twice, first in line {first}")
            entries[key.value] = (key.line, self._node(next(self._events), depth + 1))
        return entries
