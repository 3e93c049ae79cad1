"""What rules cover of MITRE ATT&CK, by their own tags: a matrix, and a layer for the ATT&CK Navigator.

Tags carry tactics and technique ids, and not which technique belongs to which tactic. Rules that name one tactic
tell; a technique of a rule with several stands under those of them that it is known to belong to by such a
rule, and where there is none, under all. Names of techniques are not known here.

Source of the layer: layer format 4.5 of the ATT&CK Navigator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sensor.rules.model import About

#: Tactic as tags name it -> (id, name), in the order of an attack.
TACTICS: dict[str, tuple[str, str]] = {
    "reconnaissance": ("TA0043", "Reconnaissance"),
    "resource-development": ("TA0042", "Resource Development"),
    "initial-access": ("TA0001", "Initial Access"),
    "execution": ("TA0002", "Execution"),
    "persistence": ("TA0003", "Persistence"),
    "privilege-escalation": ("TA0004", "Privilege Escalation"),
    "defense-evasion": ("TA0005", "Defense Evasion"),
    "credential-access": ("TA0006", "Credential Access"),
    "discovery": ("TA0007", "Discovery"),
    "lateral-movement": ("TA0008", "Lateral Movement"),
    "collection": ("TA0009", "Collection"),
    "command-and-control": ("TA0011", "Command and Control"),
    "exfiltration": ("TA0010", "Exfiltration"),
    "impact": ("TA0040", "Impact"),
}
NO_TACTIC = ""  # techniques of rules that name none

LAYER_VERSION, NAVIGATOR_VERSION = "4.5", "4.9.0"  # the oldest Navigator that reads this format
_COLORS = ("#f7fbff", "#6baed6", "#08519c")
_NAMED = 20  # rules that a comment names
_TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?", re.ASCII)

Rules = tuple[About, ...]


@dataclass(slots=True)
class Technique:
    """One technique under one tactic. ``rules`` name the technique itself, those of ``below`` a sub-technique."""

    id: str
    rules: list[About] = field(default_factory=list)
    below: dict[str, list[About]] = field(default_factory=dict)

    @property
    def every(self) -> Rules:
        """Rules of the technique and its sub-techniques, each once."""
        return _once([*self.rules, *(rule for rules in self.below.values() for rule in rules)])


@dataclass(slots=True)
class Coverage:
    """The matrix: tactic (of TACTICS, or NO_TACTIC) -> technique id -> technique, both in their order."""

    rules: Rules
    tactics: dict[str, dict[str, Technique]]
    tactic_rules: dict[str, Rules]  # all rules that name the tactic
    untagged: Rules  # neither tactic nor technique

    @property
    def techniques(self) -> tuple[str, ...]:
        """Ids of techniques that some rule covers, without sub-techniques."""
        return tuple(sorted({each for row in self.tactics.values() for each in row}))

    @property
    def subtechniques(self) -> tuple[str, ...]:
        """Ids of sub-techniques that some rule covers."""
        return tuple(sorted({each for row in self.tactics.values() for one in row.values() for each in one.below}))


def tactics_of(rule: About) -> tuple[str, ...]:
    """Tactics that a rule's tags name, in the order of TACTICS."""
    named = {tag[7:].replace("_", "-").casefold() for tag in rule.tags if tag.casefold().startswith("attack.")}
    return tuple(tactic for tactic in TACTICS if tactic in named)


def coverage(rules: Iterable[About]) -> Coverage:
    """The matrix of rules. Rules that raise no alert themselves are left out: they serve one that has tags."""
    counted = [rule for rule in rules if not getattr(rule, "silent", False)]
    known = {(parent_of(technique), tactic) for rule in counted if len(named_by := tactics_of(rule)) == 1
             for tactic in named_by for technique in rule.techniques}
    tactics: dict[str, dict[str, Technique]] = {}
    named: dict[str, list[About]] = {}
    untagged = []
    for rule in counted:
        techniques = [each for each in rule.techniques if _TECHNIQUE.fullmatch(each)]
        places = tactics_of(rule) or ((NO_TACTIC,) if techniques else ())
        if not places:
            untagged.append(rule)
        for tactic in places:
            named.setdefault(tactic, []).append(rule)
            row = tactics.setdefault(tactic, {})
            for technique in techniques:
                told = {each for each in places if (parent_of(technique), each) in known}
                if not told or tactic in told:
                    _put(row, technique, rule)
    order = [each for each in (*TACTICS, NO_TACTIC) if each in tactics]
    return Coverage(tuple(counted), {tactic: dict(sorted(tactics[tactic].items())) for tactic in order},
                    {tactic: tuple(named[tactic]) for tactic in order}, tuple(untagged))


def parent_of(technique: str) -> str:
    """The technique of a sub-technique, or the technique itself."""
    return technique.partition(".")[0]


def _put(row: dict[str, Technique], technique: str, rule: About) -> None:
    parent, _, sub = technique.partition(".")
    one = row.setdefault(parent, Technique(parent))
    rules = one.below.setdefault(technique, []) if sub else one.rules
    if rule not in rules:
        rules.append(rule)


def _once(rules: Sequence[About]) -> Rules:
    return tuple({id(rule): rule for rule in rules}.values())


# --- shown -----------------------------------------------------------------------------------------


def lines(found: Coverage) -> list[str]:
    """The matrix for people: tactics, below them techniques with their number of rules, then sub-techniques."""
    shown = []
    for tactic, row in found.tactics.items():
        number, name = TACTICS.get(tactic, ("", "No tactic"))
        shown.append(f"{name}{f' ({number})' if number else ''}: {_count(len(row), 'technique')}, "
                     f"{_count(len(found.tactic_rules[tactic]), 'rule')}")
        for technique in row.values():
            below = "  ".join(f".{each.rpartition('.')[2]} {len(rules)}"
                              for each, rules in sorted(technique.below.items()))
            shown.append(f"  {technique.id} {len(technique.every):4}  {below}".rstrip())
    shown.append(f"{len(found.techniques)} techniques and {len(found.subtechniques)} sub-techniques in "
                 f"{len([each for each in found.tactics if each])} of {len(TACTICS)} tactics; "
                 f"{len(found.rules)} rules, {len(found.untagged)} without tags of ATT&CK")
    return shown


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def facts(found: Coverage) -> dict[str, Any]:
    """The matrix as plain data."""
    return {
        "rules": len(found.rules), "techniques": len(found.techniques), "subtechniques": len(found.subtechniques),
        "untagged": [rule.id for rule in found.untagged],
        "tactics": [{
            "id": TACTICS.get(tactic, ("", ""))[0], "tactic": tactic, "rules": len(found.tactic_rules[tactic]),
            "techniques": [{
                "id": one.id, "rules": [rule.id for rule in one.every],
                "subtechniques": [{"id": each, "rules": [rule.id for rule in rules]}
                                  for each, rules in sorted(one.below.items())],
            } for one in row.values()],
        } for tactic, row in found.tactics.items()],
    }


def layer(found: Coverage, name: str, description: str) -> dict[str, Any]:
    """A layer for the ATT&CK Navigator: the score of a technique is its number of rules, sub-techniques included.

    No tactics: the Navigator shows a technique under each that it belongs to, which it knows better.
    """
    merged: dict[str, Technique] = {}
    for rule in found.rules:
        for technique in filter(_TECHNIQUE.fullmatch, rule.techniques):
            _put(merged, technique, rule)
    techniques = []
    for _, one in sorted(merged.items()):
        techniques.append(_scored(one.id, one.every, opened=bool(one.below)))
        techniques += [_scored(each, tuple(rules)) for each, rules in sorted(one.below.items())]
    most = max((each["score"] for each in techniques), default=1)
    return {
        "name": name, "versions": {"navigator": NAVIGATOR_VERSION, "layer": LAYER_VERSION},
        "domain": "enterprise-attack", "description": description, "filters": {"platforms": ["Linux"]},
        "sorting": 3, "layout": {"layout": "side", "showID": True, "showName": True},
        "hideDisabled": False, "techniques": techniques,
        "gradient": {"colors": list(_COLORS), "minValue": 0, "maxValue": max(most, 1)},
        "legendItems": [{"label": "one rule", "color": _COLORS[0]}, {"label": f"{most} rules", "color": _COLORS[-1]}],
        "showTacticRowBackground": False, "selectTechniquesAcrossTactics": False,
        "selectSubtechniquesWithParent": False, "selectVisibleTechniques": False,
        "metadata": [{"name": "rules", "value": str(len(found.rules))},
                     {"name": "rules without tags of ATT&CK", "value": str(len(found.untagged))}],
    }


def _scored(technique: str, rules: Rules, opened: bool = False) -> dict[str, Any]:
    more = [f"and {len(rules) - _NAMED} more"] if len(rules) > _NAMED else []
    return {
        "techniqueID": technique, "score": len(rules), "enabled": True,
        "comment": "\n".join([*(f"{rule.level}: {rule.name}" for rule in rules[:_NAMED]), *more]),
        **({"showSubtechniques": True} if opened else {}),
    }
