"""Writes the tables of docs/rules.md from rules/ and the event table; the text between them is written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sensor import derived, schema
from sensor.rules import content
from sensor.rules.falco import events
from sensor.rules.falco import fields as falco
from sensor.rules.model import About

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "rules.md"
BASELINE = ROOT / "tests" / "data" / "baseline.json"
LEVELS = ("critical", "high", "medium", "low")
_BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z/])")
#: Keys of whole groups of events that rules know by Sigma's name.
_SIGMA = {key: name for name, key in reversed(schema.SIGMA_FIELDS.items())}


def page(text: str) -> str:
    """*text* of docs/rules.md with its generated blocks made anew. Raises KeyError for an unknown block."""
    makers: dict[str, Callable[[], str]] = {
        "rules": rules, "fields": fields, "falco_fields": falco_fields, "falco_events": falco_events,
        "baseline": baseline}
    return _BLOCK.sub(lambda block: f"{block[1]}{makers[block[2]]()}{block[3]}", text)


def rules() -> str:
    """One table of rules for each directory of rules/."""
    loaded = content.load(content.discover([str(ROOT / "rules")]))
    if loaded.refused or loaded.unsupported:
        raise SystemExit("\n".join(map(str, (*loaded.refused, *loaded.unsupported))))
    families: dict[str, list[About]] = {}
    shown = [rule for rule in loaded.every if not rule.silent]
    for rule in shown:
        families.setdefault(Path(rule.path).parent.name, []).append(rule)
    lines = [f"{len(shown)} rules.", ""]
    for family, members in sorted(families.items()):
        lines += [f"### {family.replace('_', ' ').capitalize()}", "",
                  "| rule | level | technique | what it sees | how it is noisy |", "|---|---|---|---|---|"]
        lines += [_row(rule) for rule in sorted(members, key=lambda rule: rule.name)]
        lines.append("")
    return "\n".join(lines)


def _row(rule: About) -> str:
    where = Path(rule.path).relative_to(ROOT).as_posix()
    sees = _SENTENCE.split(" ".join(rule.description.split()))[0]
    noise = " ".join(rule.falsepositives)
    cells = (f"[{_cell(rule.name)}](../{where})", rule.level, ", ".join(rule.techniques), _cell(sees), _cell(noise))
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Plain text as a table's cell."""
    return re.sub(r"([|*_<\\`])", r"\\\1", text)


def fields() -> str:
    """A table of log source categories: the events that each sees and the fields that these add."""
    lines = ["| category | events | fields besides those of every event |", "|---|---|---|"]
    for category, ids in sorted(schema.SIGMA_CATEGORIES.items()):
        events = [schema.BY_ID[number] for number in ids]
        keys = dict.fromkeys(key for event in events for key in _keys(event))
        lines.append(f"| {category} | {', '.join(event.name for event in events)} | "
                     f"{', '.join(f'`{_SIGMA.get(key, key)}`' for key in keys)} |")
    return "\n".join([*lines, ""])


def _keys(event: schema.Event) -> Iterator[str]:
    yield from (field.ecs for field in event.fields if field.ecs)
    yield from (key for key, name, _ in schema.DERIVED if name == event.name)
    if any(field.ecs == "destination.ip" for field in event.fields):
        yield from ("network.transport", "network.type")
    if event.name in derived.DIRECTIONS:
        yield "network.initiated"


def falco_fields() -> str:
    """A table of Falco's fields: what each is in our documents."""
    lines = ["| field | is |", "|---|---|"]
    lines += [f"| {', '.join(f'`{name}`' for name in row.names)} | {row.where} |" for row in falco.ROWS]
    return "\n".join([*lines, ""])


def falco_events() -> str:
    """A table of our events: the types that Falco has for each, and the arguments that it carries."""
    lines = ["| event | `evt.type` | `evt.arg` besides `res` |", "|---|---|---|"]
    for name, groups in events.TYPES.items():
        types = "; ".join(", ".join(names) for names, _ in groups)
        arguments = ", ".join(f"`{each}`" for each in falco.arguments(name))
        lines.append(f"| {name} | {types} | {arguments} |")
    return "\n".join([*lines, ""])


def baseline() -> str:
    """Tables of alerts in 100,000 events of benign activity: by level, and by rule."""
    found = json.loads(BASELINE.read_text("utf-8"))
    about = {rule.id: rule for rule in content.load(content.discover([str(ROOT / "rules")])).every}
    counts: dict[str, int] = found["alerts"]
    share = 1e5 / found["events"]
    lines = [f"{found['events']:,} events on {found['date']}.", "", "| level | alerts | in 100,000 events | rules |",
             "|---|---|---|---|"]
    for level in LEVELS:
        raised = [count for number, count in counts.items() if about[number].level == level]
        lines.append(f"| {level} | {sum(raised)} | {sum(raised) * share:.2f} | {len(raised)} |")
    lines += ["", "| rule | level | alerts | in 100,000 events |", "|---|---|---|---|"]
    ranked = sorted(counts, key=lambda number: (LEVELS.index(about[number].level), -counts[number], number))
    for number, count in ((number, counts[number]) for number in ranked):
        lines.append(f"| {_cell(about[number].name)} | {about[number].level} | {count} | {count * share:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Rewrite the page in place."""
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
