"""Rules and documents for the tests of the rule engine, written or drawn at random."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sensor.rules import sigma
from sensor.rules.condition import (
    ANYWHERE,
    Bits,
    Condition,
    Elapsed,
    FieldMatch,
    Glob,
    Network,
    Number,
    Order,
    Present,
    Regex,
    Relation,
    Text,
    TimePart,
    Unit,
    all_of,
    any_of,
    negate,
)
from sensor.rules.model import Refused, Rule, Unsupported
from sensor.rules.sigma import text_condition
from sensor.rules.values import fold
from sensor.rules.yamlsafe import documents

EXEC = "process-exec"


def parse(detection: str, logsource: str = "{product: linux, category: process_creation}",
          title: str = "A rule") -> Rule | Refused | Unsupported:
    """One Sigma rule from the YAML of its detection."""
    text = f"title: {title}\nlogsource: {logsource}\ndetection:\n"
    text += "".join(f"  {line}\n" for line in detection.strip("\n").splitlines())
    (document,) = documents(text)
    return sigma.read(document, "rule.yml")


def condition(detection: str) -> Condition:
    """The condition of a rule that must be accepted."""
    rule = parse(detection)
    assert isinstance(rule, Rule), rule
    return rule.condition


def item(line: str) -> Condition:
    """The condition of a rule with this one detection item."""
    return condition(f"s:\n  {line}\ncondition: s")


def made(number: int, tree: Condition, events: tuple[str, ...] = (EXEC,),
         categories: tuple[str, ...] = ("process_creation",)) -> Rule:
    """A rule around a condition."""
    return Rule(f"rule-{number}", f"Rule {number}", "low", "", (), (), (), (), "rule.yml", number + 1,
                categories, events, tree)


def document(action: str = EXEC, **sections: Any) -> dict[str, Any]:
    """A document with these sections."""
    return {"event": {"action": action}, **sections}


# Random trees and documents. Few fields and a tiny alphabet, so that things meet.

FIELDS = ("process.executable", "process.command_line", "process.args", "process.parent.executable",
          "process.exit_code", "user.name", "destination.ip")
# Letters whose case is a trap: sharp s, long s, the Kelvin sign, final sigma, dotted capital I.
_LETTERS = "aAbB/.- ßſK\u212aςΣİi1\U0001f600"
_words = st.text(_LETTERS, max_size=4)
text_values = st.one_of(
    _words,
    st.text(_LETTERS + "\udc80\udcff\n", max_size=8),
    st.sampled_from(["", "1", "0", "true", "1.0", "-5", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "10.1.2.3",
                     "2026-11-21T10:05:00.123456789Z", "2026-01-01T23:30:00-02:00", "/usr/bin/ab", "a" * 600]),
)
scalars = st.one_of(text_values, st.integers(-3, 12), st.booleans(), st.sampled_from([0.5, 1.0, 1e300, float("nan")]))
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.none(), st.builds(lambda: {"nested": "ab"}))
_fields = st.sampled_from(FIELDS)
#: What rules look at: items of lists as well, beyond the end of any and of what is none.
_ITEMS = ("process.args.0", "process.args.1", "process.args.999999", "process.args.0.0", "user.name.0")
_looked_at = st.one_of(_fields, _fields, st.sampled_from(_ITEMS))
_everywhere = st.one_of(_looked_at, st.just(ANYWHERE))


@st.composite
def texts(draw: st.DrawFn) -> Condition:
    """A text predicate of any kind, wildcards included."""
    cased = draw(st.booleans())
    parts = draw(st.lists(st.one_of(_words.filter(bool), st.sampled_from(list(Glob))), max_size=4))
    joined: list[str | Glob] = []
    for part in parts:
        if part is Glob.MANY and joined[-1:] == [Glob.MANY]:
            continue
        if isinstance(part, str):
            text = part if cased else fold(part)
            if joined and isinstance(joined[-1], str):
                joined[-1] += text
                continue
            joined.append(text)
        else:
            joined.append(part)
    return text_condition(draw(_everywhere), joined, cased)


_patterns = st.sampled_from([
    "a", "ab", "^/", "(a|b)b", "[ab]{2}", "a.b", "(?i)AB", "a+b?", r"\s-", "b$", ".*", r"(ab|\.-)a*", "é|ab",
    r"(?:ab/|ba/)+", "[^a]b", r"\x61b", "k", "(ab)?ba", "a|", "aa|bb|ab", r"/b\.", "(a(b|A)/)",
])
predicates = st.one_of(
    texts(),
    st.builds(Regex, _everywhere, _patterns, st.sampled_from(["", "i", "s", "im"])),
    st.builds(Number, _looked_at, st.sampled_from(list(Order)), st.sampled_from([-5, 0, 1, 1.0, 2, 0.5, 10])),
    st.builds(Network, _fields, st.sampled_from(["10.0.0.0/8", "fe80::/10", "0.0.0.0/0"])),
    st.builds(TimePart, _fields, st.sampled_from(list(Unit)), st.sampled_from(list(Order)),
              st.sampled_from([1, 5, 10, 47, 2026])),
    st.builds(Bits, _fields, st.sampled_from([0, 1, 2, 3, 10, 1 << 40, 1 << 63])),
    st.builds(Elapsed, _fields, st.sampled_from(list(Order)), st.sampled_from([0, -1, 5e9, 10**18]), _fields),
    st.builds(FieldMatch, _looked_at, st.sampled_from(list(Relation)), _fields),
    st.builds(Present, _everywhere),
    st.builds(Text, _looked_at, st.sampled_from(list(Relation)), _words.map(fold)),
)
trees = st.recursive(predicates, lambda inner: st.one_of(
    st.lists(inner, min_size=1, max_size=3).map(lambda items: all_of(*items)),
    st.lists(inner, min_size=1, max_size=3).map(lambda items: any_of(*items)),
    inner.map(negate)), max_leaves=8)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """A document with any of the fields, and sometimes of a shape that makes no sense."""
    found: dict[str, Any] = document()
    for field in draw(st.lists(st.one_of(_fields, st.sampled_from(_ITEMS)), unique=True, max_size=5)):
        *outer, last = field.split(".")
        node = found
        for name in outer:
            below = node.setdefault(name, {})
            node = below if isinstance(below, dict) else node
        node[last] = draw(values)
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.sampled_from(["process", "user", "destination"]))] = draw(values)
    return found
