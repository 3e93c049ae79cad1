"""Names in conditions -> what they stand for: macros as trees, lists as values, within limits."""

from __future__ import annotations

from sensor.rules.falco.items import Collected, ExceptionItem, MacroItem
from sensor.rules.falco.syntax import (
    LISTS,
    All,
    BadCondition,
    Check,
    Field,
    Macro,
    Node,
    Not,
    Some,
    Value,
    check_nesting,
    children,
    parse,
)

MAX_SIZE = 10_000  # comparisons and values of one rule with all its macros and lists
MAX_TOTAL = 400_000  # the same of all rules of a load; the public ones have 10,000
EVERYTHING = 1 << 62  # sight of rules


class Names:
    """What macros and lists of a load mean. Trees of macros are shared: who has seen one has seen all."""

    def __init__(self, collected: Collected) -> None:
        self._collected = collected
        self._macros: dict[str, Node] = {}
        self._lists: dict[str, tuple[Value, ...]] = {}
        self._sizes: dict[int, int] = {}
        self._open: list[str] = []
        self._total = 0

    def tree(self, text: str, sight: int = EVERYTHING) -> Node:
        """A condition with every name resolved. Raises BadCondition."""
        node = self._resolve(parse(text), sight)
        size = self._size(node)
        if size > MAX_SIZE:
            raise BadCondition(f"the condition with its macros and lists has more than {MAX_SIZE} parts")
        check_nesting(node)
        self._total += size if sight == EVERYTHING else 0
        if self._total > MAX_TOTAL:
            raise BadCondition(f"the rules so far have more than {MAX_TOTAL} parts together")
        return node

    def exception(self, item: ExceptionItem) -> Node:
        """What an exception leaves out, as a condition. Raises BadCondition."""
        self._total += sum(1 + len(cell) for row in item.rows for cell in row)
        rows, fields = [], tuple(map(_field, item.fields))
        for row in item.rows:
            cells = [Check(field, operator, values)
                     for field, operator, values in zip(fields, item.operators, row, strict=True)]
            rows.append(self._resolve(cells[0] if len(cells) == 1 else All(tuple(cells)), EVERYTHING))
        return rows[0] if len(rows) == 1 else Some(tuple(rows))

    def _resolve(self, node: Node, sight: int) -> Node:
        match node:
            case Macro(name):
                return self._macro(name, sight)
            case Check():
                return self._check(node)
            case Not(item):
                return Not(self._resolve(item, sight))
            case All(items):
                return All(tuple(self._resolve(item, sight) for item in items))
            case Some(items):
                return Some(tuple(self._resolve(item, sight) for item in items))

    def _macro(self, name: str, sight: int) -> Node:
        item = self._collected.macros.get(name)
        if ("macro", name) in self._collected.broken:
            raise BadCondition(f"the macro {name} is refused")
        if item is None or item.place >= sight:
            later = " before it is used" if item is not None else ""
            raise BadCondition(f"no macro is called {name}{later}")
        node = self._macros.get(name)
        if node is None:
            node = self._macros[name] = self._expand(item)
        return node

    def _expand(self, item: MacroItem) -> Node:
        if item.name in self._open:
            raise BadCondition(f"the macro {item.name} is made of itself")
        if len(self._open) > 32:
            raise BadCondition("macros are made of macros more than 32 deep")
        self._open.append(item.name)
        try:
            return self.tree(item.condition, item.sight)
        except BadCondition as error:
            text = str(error)
            raise BadCondition(text if text.startswith("macro ") else f"macro {item.name}: {text}") from error
        finally:
            self._open.pop()

    def _check(self, node: Check) -> Node:
        if not any(isinstance(value, Value) and value.bare for value in node.operands):
            return node
        values: list[Value | Field] = []
        for value in node.operands:
            if isinstance(value, Value) and value.bare and self._is_list(value.text):
                found = self._list(value.text)
                if node.operator not in LISTS and len(found) != 1:
                    raise BadCondition(f"{node.operator} {value.text}: a list of {len(found)} values; use in")
                values += found
            else:
                values.append(value)
        return Check(node.field, node.operator, tuple(values))

    def _is_list(self, name: str) -> bool:
        if ("list", name) in self._collected.broken:
            raise BadCondition(f"the list {name} is refused")
        return name in self._collected.lists

    def _list(self, name: str) -> tuple[Value, ...]:
        """The values of a list, those of lists inside included. A list inside of itself is a plain value there."""
        found = self._lists.get(name)
        if found is not None:
            return found
        item = self._collected.lists[name]
        if len(self._open) > 64:
            raise BadCondition("lists are made of lists too deep")
        self._open.append(f"list {name}")
        values: dict[Value, None] = {}
        for value in item.values:
            inner = self._collected.lists.get(value.text) if value.bare else None
            if inner is not None and inner.place < item.sight and f"list {value.text}" not in self._open:
                values.update(dict.fromkeys(self._list(value.text)))
            else:
                values[value] = None
            if len(values) > MAX_SIZE:
                raise BadCondition(f"the list {name} has more than {MAX_SIZE} values")
        self._open.pop()
        made = self._lists[name] = tuple(values)
        return made

    def _size(self, node: Node) -> int:
        """Comparisons and values of a tree; shared parts count as often as they occur."""
        known = self._sizes.get(id(node))
        if known is None:
            known = 1 + len(node.operands) if isinstance(node, Check) else 1 + sum(map(self._size, children(node)))
            if any(node is kept for kept in self._macros.values()):
                self._sizes[id(node)] = known
        return known


def _field(name: str) -> Field:
    """A field as exceptions name it, perhaps with an argument. Raises BadCondition."""
    node = parse(f"{name} exists")
    if not isinstance(node, Check) or node.operator != "exists":
        raise BadCondition(f"{name[:40]!r} is no field")
    return node.field
