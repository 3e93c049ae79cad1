"""User names for user ids, remembered for a while.

The look-up is passed in (``pwd`` on a live host, a table in a replay or a test) and so is the
time: the time of the event that asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# A name can change (a user is added, an id reused), and the name service may cost a network round trip.
EXPIRY_NS = 300 * 1_000_000_000
# More distinct (uid, gid) pairs than this are an attack or a mass hosting machine; 300 bytes an entry.
CAPACITY = 4096


class Users:
    """Cached ``uid -> name`` with the ready-made ``user`` part of documents.

    ``errors`` counts look-ups that failed otherwise than by "no such user".
    """

    __slots__ = ("_fragments", "_lookup", "_names", "errors")

    def __init__(self, lookup: Callable[[int], str | None]) -> None:
        """*lookup* gives the name of a uid, None (or KeyError) where it has none."""
        self._lookup = lookup
        self._names: dict[int, tuple[int, str | None]] = {}
        self._fragments: dict[tuple[int, int], tuple[int, dict[str, Any]]] = {}
        self.errors = 0

    def name(self, uid: int, now_ns: int) -> str | None:
        """The name of *uid* as known at *now_ns* (any steady clock in ns), or None."""
        entry = self._names.get(uid)
        if entry is not None and now_ns < entry[0]:
            return entry[1]
        name = self._ask(uid)
        if len(self._names) >= CAPACITY:
            self._names.clear()
        self._names[uid] = (now_ns + EXPIRY_NS, name)
        return name

    def fragment(self, uid: int, gid: int, now_ns: int) -> dict[str, Any]:
        """The ``user`` part of a document for effective *uid* and *gid*. Shared: don't change it."""
        entry = self._fragments.get((uid, gid))
        if entry is not None and now_ns < entry[0]:
            return entry[1]
        made = self.short(uid, now_ns)
        made["effective"] = {"id": uid, "group": {"id": gid}}
        if len(self._fragments) >= CAPACITY:
            self._fragments.clear()
        self._fragments[uid, gid] = (now_ns + EXPIRY_NS, made)
        return made

    def short(self, uid: int, now_ns: int) -> dict[str, Any]:
        """A new ``{"id": ..., "name": ...}``; without the name where there is none."""
        made: dict[str, Any] = {"id": str(uid)}
        name = self.name(uid, now_ns)
        if name:
            made["name"] = name
        return made

    def _ask(self, uid: int) -> str | None:
        try:
            return self._lookup(uid) or None
        except KeyError:
            return None
        except (OSError, OverflowError, ValueError):  # a broken name service; an id beyond uid_t
            self.errors += 1
            return None
