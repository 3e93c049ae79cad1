"""Work of a throw-away child: an archive into plain pieces that its parent can read without a parser."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from sensor.content import archive, manifest
from sensor.errors import ContentError

_HEAD = struct.Struct("<HI")  # bytes of the name, bytes of the data


def unpack(arguments: Mapping[str, Any], out: BinaryIO) -> None:
    """Write every file of the release behind the first descriptor to *out*."""
    files = archive.read(arguments["fds"][0], arguments["path"])
    out.write(b"".join(_HEAD.pack(len(name), len(data)) + name.encode("ascii") + data for name, data in files.items()))


def pieces(data: bytes, path: str) -> dict[str, bytes]:
    """What ``unpack`` wrote, taken as hostile: the child may have been taken over. Raises ContentError."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ContentError(path, None, "ends in the middle")
        length, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at:at + length].decode("ascii", "backslashreplace")
        if manifest.check_name(name) or name in found or at + length + size > len(data):
            raise ContentError(path, None, "the reader gave an answer that makes no sense")
        found[name] = data[at + length:at + length + size]
        at += length + size
    return found
