"""Signals of a release on trial, and what they decide."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sensor import control
from sensor.config import Content, Rules, Settings
from sensor.content import lists, running
from sensor.content.rollout import HEALTHY, Compared, Signals, judge, signals
from sensor.content.running import Part, Selection
from sensor.errors import ContentError, UsageError
from sensor.rulecache import RuleCache
from sensor.rulechild import Interrupted
from sensor.rulefiles import RuleFiles
from sensor.ruleload import Ready, RuleLoad
from sensor.rules.matcher import Matcher
from tests.unit import content_helpers
from tests.unit.content_helpers import event, id_of, release, source
from tests.unit.test_content_store import Place

FILES = RuleFiles.open([])
SETTINGS = Content(hold=100, event_us=100, alert_factor=10)
CALM = Signals(seconds=100, events=5000, lost=0, mean_ns=20_000, alerts=5, base_mean_ns=20_000, base_alerts=5)


@pytest.mark.parametrize(("change", "verdict"), [
    ({}, HEALTHY),
    ({"seconds": 99}, ""),
    ({"lost": 1}, ""),  # not healthy, and no reason to take it back
    ({"lost": 51}, "loss"),
    ({"mean_ns": 100_001}, "evaluation_time"),
    ({"mean_ns": 100_001, "events": 10}, HEALTHY),  # ten events say nothing
    ({"alerts": 50}, HEALTHY),
    ({"alerts": 51}, "alert_rate"),
    ({"alerts": 51, "base_alerts": 6}, HEALTHY),
    ({"alerts": 501, "base_alerts": None, "base_mean_ns": None}, "alert_rate"),
    ({"alerts": 500, "base_alerts": None, "base_mean_ns": None}, HEALTHY),
    ({"fault": "ValueError"}, "fault"),
])
@pytest.mark.contract("content-4")
def test_what_is_healthy_and_what_is_not(change: dict[str, Any], verdict: str) -> None:
    """One signal at a time."""
    assert judge(replace(CALM, **change), SETTINGS) == verdict


@pytest.mark.contract("content-4")
def test_a_release_much_slower_than_the_one_before_is_taken_back() -> None:
    """Even within the absolute bound, once it costs something."""
    settings = replace(SETTINGS, event_us=10_000)
    assert judge(replace(CALM, mean_ns=101_000), settings) == "evaluation_time"
    assert judge(replace(CALM, mean_ns=101_000, base_mean_ns=50_000), settings) == HEALTHY


class Host:
    """An engine's part of content with a store of one known good and one staged release."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        rule = content_helpers.RULE.format(title="Everything", number=7, word="l*")
        (self.place.source / "rules/more.yml").write_text(rule)
        (self.place.source / "golden/expect.yaml").unlink()
        self.staged = self.place.stage(self.place.next())
        self.sent: list[control.Verdict | None] = []
        self.said: list[str] = []

    def selection(self, live: str | None, other: str | None, stage: str, **facts: Any) -> Selection:
        fds = [os.open(f"{self.place.store}/releases/{each}", os.O_RDONLY) for each in (live, other) if each]
        named = [{"id": each, "version": 5, "expires": 4e9, **facts} if each else None for each in (live, other)]
        text = json.dumps({"live": named[0], "other": named[1], "stage": stage, "trial": True, "level": "configured"})
        return Selection.parse(text, fds)

    def part(self, selection: Selection, **settings: Any) -> Part:
        every = Settings(content=replace(SETTINGS, **settings))
        return Part(selection, FILES, every, RuleLoad(FILES, every.rules, RuleCache(None)),
                    lambda data: self.sent.append(control.parse_verdict(data)), self.said.append)


@pytest.fixture(autouse=True)
def _patient() -> None:
    content_helpers.patient()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    return Host(tmp_path)


def load() -> RuleLoad:
    return RuleLoad(FILES, Rules(), RuleCache(None))


def begun(part: Part) -> Matcher | Compared:
    return part.matcher(part.first(load()))


def matched(part: Part, line: str) -> list[str]:
    return [rule.name for rule in begun(part).match(event(1, line))]


def turned(part: Part, how: RuleLoad) -> Ready | None:
    """What comes of another selection, once it is decided."""
    while part.turning:
        ready = part.turn(how)
        if ready is not None:
            return ready
        time.sleep(0.02)
    return None


@pytest.mark.contract("content-3")
def test_in_shadow_the_release_is_evaluated_and_counted_and_nothing_is_sent(host: Host) -> None:
    """In canary it is the other way round."""
    part = host.part(host.selection(host.place.good, host.staged, "shadow"))
    compared = begun(part)
    assert isinstance(compared, Compared)
    for line in ("bad", "ls", "ls", "ps"):
        compared.match(event(1, line))
    assert (compared.events, compared.other_alerts) == (4, 3)
    assert compared.live_ns > 0
    assert compared.other_ns > 0
    assert matched(host.part(host.selection(host.place.good, host.staged, "shadow")), "ls") == []
    assert matched(host.part(host.selection(host.staged, host.place.good, "canary")), "ls") == ["Everything"]


def test_signals_are_those_of_the_release_on_trial(host: Host) -> None:
    """The other one's in shadow, the live one's in canary."""
    clock = iter(range(0, 10**6, 10))
    compared = Compared(Matcher(()), Matcher(()), None, lambda: next(clock))
    compared.other_alerts = 7
    compared.match(event(1, "x"))
    shadow, canary = signals(compared, "shadow", 1, 2, 0), signals(compared, "canary", 1, 2, 0)
    assert (shadow.alerts, shadow.base_alerts) == (7, 2)
    assert (canary.alerts, canary.base_alerts) == (2, 7)


def test_rules_on_trial_that_raise_are_asked_once_and_taken_back() -> None:
    """The rules that run are not disturbed."""
    class Raising(Matcher):
        def match(self, document: Any) -> Any:
            raise ValueError("on trial")

    compared = Compared(Matcher(()), Raising(()), None, lambda: 0)
    for _ in range(3):
        assert list(compared.match(event(1, "x"))) == []
    assert compared.fault == "ValueError: on trial"
    assert judge(signals(compared, "shadow", 1, 0, 0), SETTINGS) == "fault"


@pytest.mark.contract("content-3")
def test_a_verdict_is_sent_once_when_the_hold_is_over(host: Host) -> None:
    """And a stage in which something was lost begins anew."""
    part = host.part(host.selection(host.place.good, host.staged, "shadow"))
    begun(part)
    for now in (0, 50, 99):
        part._judge(now, 0, 0)
    assert host.sent == []
    part._judge(100, 0, 1)
    part._judge(199, 0, 1)
    assert host.sent == []
    part._judge(201, 0, 1)
    part._judge(202, 0, 1)
    assert host.sent == [control.Verdict(host.staged, "")]


@pytest.mark.contract("content-4")
def test_a_flood_of_alerts_takes_the_release_back(host: Host) -> None:
    """At once, not when the hold is over."""
    part = host.part(host.selection(host.staged, host.place.good, "canary"))
    begun(part)
    part._judge(0, 1000, 0)
    part._judge(1, 1051, 0)
    assert host.sent == [control.Verdict(host.staged, "alert_rate")]


@pytest.mark.parametrize("name", ["rules/one.yml", "manifest.json"])
def test_a_release_that_has_rotted_on_disk_is_told_and_the_configured_rules_run(host: Host, name: str) -> None:
    """At a start; while others run they go on."""
    path = Path(host.place.store, "releases", host.place.good, name)
    path.write_bytes(path.read_bytes() + b" ")
    part = host.part(host.selection(host.place.good, None, "active"))
    assert part.first(load()).rules.loaded > 100
    assert host.sent == [control.Verdict(host.place.good, "load")]
    part, how = host.part(Selection()), load()
    part.first(how)
    rotten = host.selection(host.place.good, None, "active")
    assert rotten.live is not None
    part.take(text_of(rotten), [rotten.live["fd"]])
    assert turned(part, how) is None
    assert part.selection == Selection()
    assert "rules stay as they were" in host.said[-1]


def text_of(selection: Selection) -> str:
    return json.dumps({"live": selection.live, "other": selection.other, "stage": selection.stage,
                       "trial": selection.trial, "level": selection.level})


def test_another_selection_takes_over_between_two_events(host: Host) -> None:
    """From the configured rules to a release in shadow, to the same in canary; the last message counts."""
    part, how = host.part(Selection()), load()
    part.first(how)
    for live, other, stage, names in ((host.place.good, host.staged, "shadow", ["Finds bad"]),
                                      (host.staged, host.place.good, "canary", ["Finds bad", "Everything"])):
        for each in (host.selection(host.place.good, None, "active"), host.selection(live, other, stage)):
            part.take(text_of(each), [item["fd"] for item in (each.live, each.other) if item is not None])
        ready = turned(part, how)
        assert ready is not None
        assert part.selection.stage == stage
        assert sorted(rule.name for rule in ready.matcher.rules) == sorted(names)
        compared = part.matcher(ready)
        assert isinstance(compared, Compared)
        assert compared.other is not None
    assert host.sent == []


def test_a_host_without_time_to_read_a_release_is_no_fault_of_the_release(
        host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a start the configured rules run and it is tried again; nobody is blamed."""
    part, how = host.part(host.selection(host.place.good, None, "active")), load()
    first, left = RuleLoad.first, [1]

    def slow(self: RuleLoad, say: Callable[[str], None]) -> Ready:
        if left:
            left.pop()
            raise Interrupted("no time")
        return first(self, say)

    monkeypatch.setattr(RuleLoad, "first", slow)
    assert part.first(how).rules.loaded > 100
    assert part.turning
    ready = turned(part, how)
    assert ready is not None
    assert [rule.name for rule in ready.rules.rules] == ["Finds bad"]
    assert host.sent == []


@pytest.mark.contract("content-9")
def test_the_lower_steps_of_the_ladder_read_no_release(host: Host) -> None:
    """Built-in rules, then none."""
    part = host.part(Selection(level="built-in"))
    part._settings = Settings(rules=Rules(paths=("/nonexistent",)))
    assert part.first(load()).rules.loaded > 100
    part = host.part(Selection(level="observe"))
    assert part.first(load()).rules.loaded == 0
    assert part.observing


def test_a_release_takes_the_place_of_the_default_rules_and_leaves_the_operators(host: Host, tmp_path: Path) -> None:
    """rules.d goes on beside it."""
    local = tmp_path / "local"
    local.mkdir()
    (local / "mine.yml").write_text(content_helpers.RULE.format(title="Mine", number=8, word="mine"))
    part = host.part(host.selection(host.place.good, None, "active"))
    part._settings = Settings(rules=Rules(paths=("default", str(local))))
    assert sorted(rule.name for rule in part.first(load()).rules.rules) == ["Finds bad", "Mine"]


@pytest.mark.contract("content-8b")
def test_an_expired_release_goes_on_and_is_told_once(host: Host) -> None:
    """As an event, and in the log."""
    told: list[Any] = []

    class Live:
        counts: ClassVar[dict[str, dict[str, int]]] = {}
        content = staticmethod(told.append)

        class pipeline:  # noqa: N801
            class counters:  # noqa: N801
                alerts = 0

    part = host.part(host.selection(host.place.good, None, "active", expires=1000))
    begun(part)
    for wall in (999.0, 1000.0, 1001.0):
        part.second(Live, 0.0, wall)  # type: ignore[arg-type]
    assert [notice[1] for notice in told] == ["expired"]
    assert len(host.said) == 1


def test_lists_are_values_of_placeholders_and_the_operators_win(host: Host, tmp_path: Path) -> None:
    """A release's rule uses the list that came with it."""
    folder = source(tmp_path / "listed")
    rule = content_helpers.RULE.format(title="Listed", number=4, word="'%names%'")
    (folder / "rules/listed.yml").write_text(rule.replace("CommandLine", "CommandLine|expand"))
    (folder / "lists/names.txt").write_text("# who\nann\n\nbob\n")
    path = release(folder, tmp_path / "listed.tar.zst", 9)
    host.place.stage(path)
    selection = host.selection(id_of(path), None, "active")
    assert [matched(host.part(selection), line) for line in ("ann", "bob", "# who", "eve")] == [
        ["Listed"], ["Listed"], [], []]
    assert selection.live is not None
    access = f"/proc/self/fd/{selection.live['fd']}"
    assert lists.read(access, {"names": ("eve",)}) == {"names": ("eve",)}


@pytest.mark.parametrize("text", ["", "# only\n", "a\x1b[2J\n", "x" * 5000, "\n".join(map(str, range(10_001)))])
def test_what_is_no_list_is_refused(text: str) -> None:
    """Empty, too long, or not to be shown on a terminal."""
    with pytest.raises(ContentError):
        lists.parse(text, "l")


def test_notices_become_sentences() -> None:
    """With the reason where there is one."""
    selection = Selection(notices=({"action": "rolled_back", "release": "ab", "version": 7, "stage": "active",
                                    "reason": "crash"},))
    assert running.notices(selection) == [
        (7, "rolled_back", "ab", "active", "crash",
         "content release 7 was taken back and is not tried again: crash")]


def test_configured_rules_that_are_wrong_stay_a_usage_error(host: Host) -> None:
    """No release is blamed for them."""
    part = host.part(Selection())
    part._settings = replace(part._settings, rules=Rules(paths=("/nonexistent",)))
    with pytest.raises(UsageError):
        part.first(load())
    assert host.sent == []
