"""Where in a group's events a correlation is fulfilled. Nothing is kept here and nothing changed.

An entry is ``(time_ns, event id, tag)``; the tag is what distinct things are counted by: 0 where
events are, the value of a value count, the index of the rule for the temporal kinds. Entries are
sorted and a window holds those at most one timespan later than its first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence

from sensor.rules.condition import Order
from sensor.rules.model import Correlation, Expression, Kind, Threshold

Entry = tuple[int, str, int | str]
#: From entries, the position of a new one and the timespan: first time and the entries that made it.
Search = Callable[[Sequence[Entry], int, int], "tuple[int, list[Entry]] | None"]

MAX_SEQUENCES = 64  # that the alternatives of an ordered expression may stand for


class TooMany(ValueError):
    """An expression stands for too many sequences."""


def search_for(correlation: Correlation) -> Search:
    """The search for a window with the new entry in it that fulfils a rising condition."""
    condition = correlation.condition
    if correlation.kind is Kind.TEMPORAL_ORDERED:
        sequences = sequences_of(condition, len(correlation.rules))
        return lambda entries, at, span: _ordered(entries, at, span, sequences)
    if isinstance(condition, Expression):
        return lambda entries, at, span: _tags(entries, at, span, lambda tags: fulfilled(condition, tags))
    least = needed(condition)
    if correlation.kind is Kind.EVENT_COUNT:
        return lambda entries, at, span: _count(entries, at, span, least)
    return lambda entries, at, span: _tags(entries, at, span, lambda tags: len(tags) >= least)


def needed(condition: Threshold) -> int:
    """The least measure that fulfils a rising threshold."""
    return max(1, condition.value + (condition.order is Order.GREATER))


def measure(correlation: Correlation, window: Sequence[Entry]) -> int:
    """What a threshold of the correlation is held against."""
    return len(window) if correlation.kind is Kind.EVENT_COUNT else len({tag for _, _, tag in window})


def judged(correlation: Correlation, window: Sequence[Entry]) -> bool:
    """Whether a window to which nothing is added any more fulfils the condition."""
    condition = correlation.condition
    if isinstance(condition, Expression):
        return fulfilled(condition, {tag for _, _, tag in window})
    return condition.met(measure(correlation, window))


def fulfilled(expression: Expression, tags: Collection[int | str]) -> bool:
    """Whether an expression holds where these rules matched."""
    if expression.op == "rule":
        return expression.rule in tags
    if expression.op == "not":
        return not fulfilled(expression.items[0], tags)
    quantor = all if expression.op == "and" else any
    return quantor(fulfilled(item, tags) for item in expression.items)


def sequences_of(condition: Threshold | Expression, rules: int) -> tuple[tuple[int, ...], ...]:
    """The sequences of rules, one of which has to happen. Raises TooMany."""
    if isinstance(condition, Threshold):
        return (tuple(range(rules)),)
    if condition.op == "rule":
        return ((condition.rule,),)
    parts = [sequences_of(item, rules) for item in condition.items]
    if condition.op == "or":
        found = tuple(dict.fromkeys(sequence for part in parts for sequence in part))
    else:
        found = ((),)
        for part in parts:
            if len(found) * len(part) > MAX_SEQUENCES:
                raise TooMany(f"the condition stands for more than {MAX_SEQUENCES} sequences")
            found = tuple(before + after for before in found for after in part)
    if len(found) > MAX_SEQUENCES:
        raise TooMany(f"the condition stands for more than {MAX_SEQUENCES} sequences")
    return found


def within(entries: Sequence[Entry], first: int, last: int) -> tuple[int, int]:
    """Slice of the entries from time *first* to time *last*, both included."""
    return bisect_left(entries, (first,)), bisect_right(entries, last, key=lambda entry: entry[0])


def _count(entries: Sequence[Entry], at: int, span: int, least: int) -> tuple[int, list[Entry]] | None:
    """The earliest window with the new entry and at least so many."""
    for begin in range(max(0, at - least + 1), min(at, len(entries) - least) + 1):
        first = entries[begin][0]
        if entries[begin + least - 1][0] - first <= span:
            return first, list(entries[slice(*within(entries, first, first + span))])
    return None


def _tags(entries: Sequence[Entry], at: int, span: int,
          enough: Callable[[Collection[int | str]], bool]) -> tuple[int, list[Entry]] | None:
    """The latest window with the new entry whose set of tags is enough: none of it can be spared."""
    moment = entries[at][0]
    begin, end = within(entries, moment - span, moment + span)
    counts: dict[int | str, int] = {}
    upto = begin
    found = None
    for start in range(begin, end):
        first = entries[start][0]
        if first > moment:
            break
        while upto < end and entries[upto][0] - first <= span:
            counts[entries[upto][2]] = counts.get(entries[upto][2], 0) + 1
            upto += 1
        if enough(counts):
            found = first, start, upto
        tag = entries[start][2]
        counts[tag] -= 1
        if not counts[tag]:
            del counts[tag]
    return None if found is None else (found[0], list(entries[found[1]:found[2]]))


def _ordered(entries: Sequence[Entry], at: int, span: int,
             sequences: Sequence[tuple[int, ...]]) -> tuple[int, list[Entry]] | None:
    """A sequence of entries, each later than the one before, all within the timespan."""
    moment, tag = entries[at][0], entries[at][2]
    begin, end = within(entries, moment - span, moment + span)
    near = entries[begin:end]
    present = {each[2] for each in near}
    for sequence in sequences:
        if tag not in sequence or (at == len(entries) - 1 and sequence[-1] != tag) or not present.issuperset(sequence):
            continue
        found = _chain(near, span, sequence)
        if found:
            return found[0][0], found
    return None


def _chain(entries: Sequence[Entry], span: int, sequence: tuple[int, ...]) -> list[Entry] | None:
    """The first chain to be complete; of several that then are, the one that began last, of the earliest entries."""
    # chains[n] is the chain of the first n rules that began last, with entries before the present time.
    chains: list[tuple[Entry, ...] | None] = [(), *(None for _ in sequence)]
    fresh: list[tuple[int, tuple[Entry, ...]]] = []
    present = -1
    for entry in entries:
        if entry[0] != present:
            _take(chains, fresh)
            present = entry[0]
        for number, rule in enumerate(sequence):
            before = chains[number]
            if rule != entry[2] or before is None:
                continue
            chain = (*before, entry)
            if number + 1 < len(sequence):
                fresh.append((number + 1, chain))
            elif entry[0] - chain[0][0] <= span:
                return list(chain)
    return None


def _take(chains: list[tuple[Entry, ...] | None], fresh: list[tuple[int, tuple[Entry, ...]]]) -> None:
    for length, chain in fresh:
        known = chains[length]
        if known is None or chain[0][0] > known[0][0]:
            chains[length] = chain
    fresh.clear()
