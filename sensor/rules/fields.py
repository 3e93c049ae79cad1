"""Names in rules -> keys of documents, and log sources -> events. All from the event table."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from sensor import schema
from sensor.rules.condition import TRUE, Condition, Relation, Text, any_of
from sensor.rules.values import list_item

#: Prefixes under which the table promises the keys of another process.
_PROCESSES = ("process.parent.", "process.session_leader.")

#: The derived keys that hold lists.
_DERIVED_LISTS = {"event.category", "event.type", "process.ancestors", "process.ancestor_names", "sensor.flags",
                  "sensor.escaped"}

#: A file_event is a file that was made or written. Opens for reading are file_access alone.
_WRITTEN = any_of(*(Text("event.type", Relation.EQUALS, kind) for kind in ("creation", "change")))


class UnknownField(ValueError):
    """A name that is neither Sigma's nor a key of our documents. ``str()`` suggests one."""


@cache
def known_keys() -> frozenset[str]:
    """Every key that some document can have, those of ``_PROCESSES`` left out."""
    rows = [*schema.HEADER, *(field for event in schema.EVENTS for field in event.fields)]
    keys = {row.ecs for row in rows if row.ecs} | set(schema.SIGMA_FIELDS.values())
    return frozenset(keys | {key for key, _, _ in schema.DERIVED if not key.endswith("*")})


def resolve(name: str) -> str:
    """Key of the documents for a field name of a rule.

    Sigma's name wins; else a key of our documents is taken as it is, also with the place of a list's item behind
    it (``process.args.1``). Raises UnknownField.
    """
    key = schema.SIGMA_FIELDS.get(name)
    if key is not None:
        return key
    if name in known_keys() or _of_other_process(name) or list_item(name)[0] in list_keys():
        return name
    raise UnknownField(f"unknown field {name}{_suggestion(name)}")


def _of_other_process(name: str) -> bool:
    """Whether the name is a process's or user's key under a parent or session leader."""
    for prefix in _PROCESSES:
        if name.startswith(prefix):
            rest = name[len(prefix):]
            return f"process.{rest}" in known_keys() or (rest.startswith("user.") and rest in known_keys())
    return False


def _suggestion(name: str) -> str:
    folded = {known.casefold(): known for known in (*schema.SIGMA_FIELDS, *known_keys())}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.75)
    return f" (did you mean {folded[close[0]]}?)" if close else ""


def events_of(category: str) -> tuple[str, ...]:
    """``event.action`` of the events that a Sigma log source category sees, or nothing."""
    return tuple(schema.BY_ID[number].action for number in schema.SIGMA_CATEGORIES.get(category, ()))


def guard(category: str, action: str) -> Condition:
    """What must hold besides the rule for an event of this action to belong to the category."""
    return _WRITTEN if (category, action) == ("file_event", schema.BY_NAME["file_open"].action) else TRUE


#: Keys whose value is true or false in documents.
BOOLEAN_KEYS = frozenset({"network.initiated"})


@cache
def list_keys() -> frozenset[str]:
    """Keys whose value is a list in documents."""
    rows = [*schema.HEADER, *(field for event in schema.EVENTS for field in event.fields)]
    lists = {row.ecs for row in rows if row.kind is schema.Kind.LIST and row.ecs}
    return frozenset(lists | _DERIVED_LISTS)
