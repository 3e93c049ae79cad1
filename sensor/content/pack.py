"""A directory of rules into a release: manifest, signature lines, one archive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from sensor import schema
from sensor.content import archive, manifest, signing
from sensor.content.manifest import File, Manifest
from sensor.errors import ContentError, UsageError


def read(path: str) -> dict[str, bytes]:
    """Files of the publisher's own directory or archive. Raises UsageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    try:
        return archive.read(fd, path)
    finally:
        os.close(fd)


def make(folder: str, name: str, version: int, expires: int, revokes: Sequence[str] = ()) -> dict[str, bytes]:
    """Files of a release, manifest included and not yet signed. A *folder* without files makes a revocation.

    Raises:
        ContentError: Something is in the folder that content may not have.
    """
    files = {each: data for each, data in read(folder).items() if each not in (manifest.NAME, manifest.SIGNATURES)}
    for each in files:
        if not manifest.is_allowed(each):
            raise ContentError(f"{folder}/{each}", None, "content is rules/*.yml, lists/*.txt and golden/*.jsonl "
                               "(or .jsonl.zst) with expect.yaml; nothing else is taken")
    if not files and not revokes:
        raise ContentError(folder, None, "there is nothing in it")
    listed = {each: File(hashlib.sha256(data).hexdigest(), len(data)) for each, data in sorted(files.items())}
    about = Manifest(name, version, schema.VERSION, expires, listed, tuple(revokes),
                     manifest.RELEASE if files else manifest.REVOCATION)
    raw = about.dump()
    manifest.parse(raw, f"{folder}/{manifest.NAME}")  # what no sensor would take is told here
    return {manifest.NAME: raw, **files}


def signed(path: str, key: str) -> bytes:
    """The archive at *path* with one more signature. Raises UsageError, ContentError."""
    files = read(path)
    if manifest.NAME not in files:
        raise ContentError(path, None, f"there is no {manifest.NAME} in it", "sensor content pack makes a release")
    try:
        with open(key, "rb") as file:
            pem = file.read(1 << 16)
    except OSError as error:
        raise UsageError(f"{key}: can't be read: {error.strerror}") from error
    line = signing.sign(files[manifest.NAME], pem, key)
    return archive.write({**files, manifest.SIGNATURES: signing.added(files.get(manifest.SIGNATURES, b""), line)})
