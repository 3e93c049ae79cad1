"""Imports that go on working once the process may no longer enter the directories above its code.

A checkout or virtual environment often lies below a home that only its owner may enter. The
engine gives up root and still imports: pySigma, Rich and others load parts of themselves when
they are first used. A directory that is open already can be reached through /proc/self/fd,
whatever lies above it.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from pathlib import Path


def keep() -> list[int]:
    """Reach the import path by descriptor where its place is closed to others; call it before giving up rights.

    Returns:
        The descriptors. They must stay open for as long as anything may be imported.
    """
    opened: dict[str, int] = {}
    for entry in dict.fromkeys(sys.path):
        if os.path.isdir(entry) and _closed(Path(entry)):
            opened[os.path.abspath(entry)] = os.open(entry, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sys.path[:] = [_alias(entry, opened) for entry in sys.path]
    for module in list(sys.modules.values()):
        path = getattr(module, "__path__", None)
        if isinstance(path, list):  # a namespace package works its path out of sys.path by itself
            path[:] = [_alias(entry, opened) for entry in path]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    return list(opened.values())


def _closed(path: Path) -> bool:
    """Whether some directory above *path* lets others not pass. Groups and ACLs are not counted on."""
    return any(not parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def _alias(entry: str, opened: dict[str, int]) -> str:
    place = os.path.abspath(entry) if entry else entry
    for root, fd in opened.items():
        if place == root or place.startswith(root + os.sep):
            return f"/proc/self/fd/{fd}{place[len(root):]}"
    return entry
