"""A release in the store, held against its own manifest before it is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sensor.content import manifest
from sensor.content.manifest import Manifest
from sensor.errors import ContentError


def intact(folder: str, release: str) -> Manifest:
    """The manifest of a release in the store, once all its files are what it says. Raises ContentError.

    For each time before one is read: a disk forgets, and root may have edited.
    """
    try:
        raw = Path(folder, manifest.NAME).read_bytes()
        if manifest.release_id(raw) != release:
            raise ContentError(folder, None, "the manifest is not the one that was staged")
        about = manifest.parse(raw, f"{folder}/{manifest.NAME}")
        for name, meant in about.files.items():
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read(meant.size + 1)
            if hashlib.sha256(data).hexdigest() != meant.sha256:
                raise ContentError(f"{folder}/{name}", None, "is not the file that was packed: its hash differs")
    except OSError as error:
        raise ContentError(folder, None, f"can't be read: {error.strerror}") from error
    return about
