r"""Documents as JSON lines: one object a line, valid UTF-8, and every byte survives.

In memory a text that was not UTF-8 holds surrogates (PEP 383). JSON has no place for them, so such
a text is escaped: ``\xNN`` for the byte, ``\\`` for a backslash, and its key is listed in
``sensor.escaped`` ("process.args.2" is the third item of a list). Reading undoes it. A text that is
UTF-8 is never touched, whatever control characters it holds: JSON has its own escapes for those.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

Document = dict[str, Any]

_TO_ESCAPE = re.compile("[\\\\\udc80-\udcff]")
_ESCAPED = re.compile(r"\\(?:\\|x([89a-f][0-9a-f]))")
_SURROGATE = re.compile("[\ud800-\udfff]")


class EncodeError(ValueError):
    """A document that no JSON line can hold: a bug of its maker, or a key with a dot in it."""


class EscapeError(ValueError):
    """``sensor.escaped`` names something that is not a text of the document."""


def escape(text: str) -> str:
    """Write *text* without surrogates. The inverse of :func:`unescape`."""
    return _TO_ESCAPE.sub(
        lambda hit: "\\\\" if hit[0] == "\\" else f"\\x{ord(hit[0]) - 0xDC00:02x}", text)


def unescape(text: str) -> str:
    """Undo :func:`escape`. What is no escape of ours stays as it is."""
    return _ESCAPED.sub(lambda hit: chr(0xDC00 + int(hit[1], 16)) if hit[1] else "\\", text)


def encode(document: Document) -> bytes:
    """Encode one document as one line, newline included.

    Raises:
        EncodeError: A value that JSON lacks (bytes, an integer over 64 bits, a lone surrogate that
            is no byte), or an undecodable text under a key that can't be named.
    """
    try:
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        # Surrogates are rare: finding them by failing costs the usual document nothing.
        return _encode_escaped(document)


def _encode_escaped(document: Document) -> bytes:
    escaped: list[str] = []
    copy: Document = _copy(document, "", escaped)
    if escaped:
        own = copy.get("sensor")
        copy["sensor"] = {**own, "escaped": escaped} if isinstance(own, dict) else {"escaped": escaped}
    try:
        return orjson.dumps(copy, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise EncodeError(str(error)) from error


def _copy(value: Any, key: str, escaped: list[str]) -> Any:
    if isinstance(value, str):
        if not _SURROGATE.search(value):
            return value
        escaped.append(key)
        return escape(value)
    if isinstance(value, dict):
        return {name: _copy(item, _join(key, name, item), escaped) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item, f"{key}.{index}", escaped) for index, item in enumerate(value)]
    return value


def _join(key: str, name: str, item: Any) -> str:
    if "." in name and not isinstance(item, (int, float, bool)):
        _refuse_unnameable(key, name, item)
    return f"{key}.{name}" if key else name


def _refuse_unnameable(key: str, name: str, item: Any) -> None:
    """A dot in a key would make the dotted name in ``sensor.escaped`` ambiguous."""
    probe: list[str] = []
    _copy(item, "", probe)
    if probe:
        raise EncodeError(f"undecodable text under the dotted key {name!r} of {key or 'the document'}")


def decode(line: bytes | bytearray | memoryview | str) -> Any:
    """Decode one line; the escapes are undone and ``sensor.escaped`` is gone.

    Returns:
        What the line holds: a Document for a line of ours, any JSON value otherwise.

    Raises:
        orjson.JSONDecodeError: Not JSON, or not UTF-8.
        EscapeError: ``sensor.escaped`` is wrong.
    """
    document = orjson.loads(line)
    if isinstance(document, dict):
        own = document.get("sensor")
        if isinstance(own, dict) and "escaped" in own:
            restore(document)
    return document


def restore(document: Document) -> None:
    """Undo the escapes of a document that has ``sensor.escaped``, in place.

    Raises:
        EscapeError: The list is no list, or a key in it leads to no text.
    """
    own = document["sensor"]
    keys = own.pop("escaped")
    if not own:
        del document["sensor"]
    if not isinstance(keys, list):
        raise EscapeError("sensor.escaped is not a list")
    for key in keys:
        if not isinstance(key, str):
            raise EscapeError("sensor.escaped holds something that is not a key")
        _restore_one(document, key)


def _restore_one(document: Document, key: str) -> None:
    *parents, last = key.split(".")
    node: Any = document
    for name in parents:
        node = node[_place(node, name, key)]
    place = _place(node, last, key)
    if not isinstance(node[place], str):
        raise EscapeError(f"{key} is not a text")
    node[place] = unescape(node[place])


def _place(node: Any, name: str, key: str) -> Any:
    """The key or index that *name* is in *node*."""
    if isinstance(node, dict) and name in node:
        return name
    # Seven digits: more items than a line can hold, and int() of a huge text is never asked for.
    if isinstance(node, list) and name.isascii() and name.isdigit() and len(name) <= 7 \
            and int(name) < len(node):
        return int(name)
    raise EscapeError(f"{key} names nothing in the document")
