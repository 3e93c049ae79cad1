"""Lists of a release: ``lists/NAME.txt`` holds the values of ``%NAME%`` in rules, one a line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from sensor.content.manifest import list_name
from sensor.errors import ContentError

MAX_VALUES = 10_000  # of one list
MAX_VALUE = 4096  # characters


def parse(text: str, path: str) -> tuple[str, ...]:
    """Values of a list. Lines that begin with # and empty ones are left out. Raises ContentError."""
    values = []
    for number, line in enumerate(text.splitlines(), 1):
        value = line.strip()
        if not value or value.startswith("#"):
            continue
        if len(value) > MAX_VALUE or not value.isprintable():
            raise ContentError(path, number, f"a value is printable text of at most {MAX_VALUE} characters")
        values.append(value)
    if not 1 <= len(values) <= MAX_VALUES:
        raise ContentError(path, None, f"a list has from 1 to {MAX_VALUES} values, this one {len(values)}")
    return tuple(dict.fromkeys(values))


def read(root: str, configured: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Values of placeholders: of the release at *root*, and in their place those that the operator *configured*."""
    from sensor.rules.files import Limits, Unreadable, read_text

    found: dict[str, tuple[str, ...]] = {}
    folder = f"{root}/lists"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        key = list_name(f"lists/{name}")
        if key is None:
            continue
        try:
            found[key] = parse(read_text(f"{folder}/{name}", Limits().file_bytes), f"{folder}/{name}")
        except Unreadable as error:
            raise ContentError(f"{folder}/{name}", None, str(error)) from error
    return {**found, **{name: tuple(values) for name, values in configured.items()}}
