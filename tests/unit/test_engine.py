"""The engine's reload, in this process: no probes, no privileges to give up."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sensor import control, rulechild, switches
from sensor.arguments import Arguments
from sensor.engine import Engine, _Opened
from sensor.errors import SensorError
from sensor.live import Outputs
from sensor.metrics import Metrics
from sensor.pipeline import Pipeline
from sensor.rulefiles import RuleFiles
from sensor.rules.content import discover, load
from sensor.snapshot import take
from tests.unit import hostile_child

RULE = """\
title: {name}
id: 00000000-0000-4000-8000-{number:012d}
logsource: {{product: linux, category: process_creation}}
detection:
    selection: {{CommandLine: {name}}}
    condition: {condition}
level: low
"""


def write(folder: Path, number: int, name: str, condition: str = "selection") -> None:
    (folder / f"{name}.yml").write_text(RULE.format(name=name, number=number, condition=condition))


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with other work to do is no fault of a child."""
    monkeypatch.setattr(rulechild, "WALL_SECONDS", 1200.0)


@contextmanager
def started(rules: Path, cache: Path | None = None, config: str | None = None,
            state: Path | None = None) -> Iterator[Engine]:
    """An engine without probes that runs the rules of a directory."""
    files = RuleFiles.open([str(rules)])
    opened = (config, os.open(config, os.O_RDONLY)) if config else None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        made = Engine(ours, Arguments(metrics="off"), _Opened([], files, opened, Outputs(), "boot", cache, state))
        made.theirs = theirs  # type: ignore[attr-defined]
        yield made
    for fd in (files.default.fd, *(root.fd for root in files.named), *(opened[1:] if opened else ())):
        os.close(fd)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One that runs the sound rule `first` and refuses `always_broken`."""
    write(tmp_path, 1, "first")
    write(tmp_path, 2, "always_broken", "nowhere")
    with started(tmp_path) as made:
        yield made


def names(engine: Engine) -> list[str]:
    assert engine._facts.rules is not None
    return [rule.name for rule in engine._rules.matcher.rules]


def test_a_scrape_that_waited_for_the_engine_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under socket activation a request is there before the server: it comes in the moment that the server starts."""
    write(tmp_path, 1, "one")
    files = RuleFiles.open([str(tmp_path)])
    answers: list[object] = []

    def serve(_listen: str, metrics: Metrics, healthy: Callable[[], str], ready: Callable[[], str],
              **_: object) -> None:
        answers.extend([healthy(), ready(), b"sensor_rules_loaded" in metrics.exposition("")[0]])

    monkeypatch.setattr("sensor.engine.serve", serve)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        Engine(ours, Arguments(metrics="127.0.0.1:0"), _Opened([], files, None, Outputs(), "boot"))
    for root in (files.default, *files.named):
        os.close(root.fd)
    assert answers == ["", "the probes are being loaded", True]


def test_an_engine_that_waits_for_its_rules_says_that_it_is_alive(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor would take it for dead: on a host that boots, reading the rules may take a minute."""
    monkeypatch.setattr(rulechild, "_WAITING_SECONDS", 0.02)
    write(tmp_path, 1, "one")
    with started(tmp_path) as engine:
        assert control.kind_of(engine.theirs.recv(control.PACKET_BYTES)) == control.MAGIC_BEAT  # type: ignore[attr-defined]


def reload(engine: Engine) -> None:
    """Ask for a reload, and let the loop turn until it is over."""
    engine._rules.reload()
    while engine._rules.load.busy:
        engine._rules.step()
        time.sleep(0.002)


def test_reload_takes_new_rules_though_another_was_broken_before(engine: Engine, tmp_path: Path) -> None:
    """A collection with rules that never loaded must not make every reload fail."""
    write(tmp_path, 3, "second")
    reload(engine)
    assert names(engine) == ["first", "second"]
    assert engine._facts.reload_ok


@pytest.mark.parametrize("text", ["title: [\n", RULE.format(name="first", number=1, condition="nowhere")])
@pytest.mark.contract("content-2b")
def test_reload_with_a_rule_that_has_broken_keeps_the_old_set(
        engine: Engine, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing mistake costs no detection: the rule goes on as it was, and the place is said."""
    (tmp_path / "first.yml").write_text(text)
    write(tmp_path, 3, "second")
    reload(engine)
    assert names(engine) == ["first"]
    assert not engine._facts.reload_ok
    said = capsys.readouterr().err
    assert "reload refused" in said
    assert f"{tmp_path}/first.yml:" in said.rpartition("reload refused")[2]


def test_reload_after_the_mistake_is_mended_takes_the_set(engine: Engine, tmp_path: Path) -> None:
    """What was refused once is not held against a file."""
    (tmp_path / "first.yml").write_text("[")
    reload(engine)
    write(tmp_path, 1, "first")
    write(tmp_path, 3, "second")
    reload(engine)
    assert names(engine) == ["first", "second"]
    assert engine._facts.reload_ok


def test_a_rule_directory_that_cannot_be_read_is_refused_by_name(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that silently are not there would be believed to watch."""
    closed = tmp_path / "closed"
    closed.mkdir()
    true_scandir = os.scandir

    def scandir(path: str) -> object:  # root may read everything, and the tests run as root too
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return true_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    [refused] = load(discover([str(tmp_path)])).refused
    assert refused.path == str(closed)


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.hostile("kill")
def test_a_supervisor_that_is_killed_ends_the_engine_with_one_sentence(engine: Engine, unread: bool) -> None:
    """What it had not read makes of the end of the channel a reset; that is no reason for a traceback."""
    if unread:
        engine._second()
    engine.theirs.close()  # type: ignore[attr-defined]
    with pytest.raises(SensorError, match="the supervisor is gone"):
        engine._message()


@pytest.mark.parametrize("how", ["crash", "fill", "lie", "vanish"])
def test_a_child_that_goes_wrong_costs_the_reload_and_nothing_else(
        engine: Engine, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """The old rules go on, log line and metric say so, and the next reload is like any other."""
    with monkeypatch.context() as patch:
        patch.setattr(rulechild, "ENTRY", hostile_child.__name__)
        (tmp_path / "x.yml").write_text(f"# {hostile_child.HOW}{how}\n")
        reload(engine)
    assert names(engine) == ["first"]
    assert "reload refused, the rules stay as they were" in capsys.readouterr().err
    snapshot = take(None, engine._facts)
    assert snapshot.config_last_reload_successful == 0
    assert snapshot.config_reloads == {"success": 0, "failure": 1}
    (tmp_path / "x.yml").unlink()
    reload(engine)
    assert take(None, engine._facts).config_last_reload_successful == 1


@pytest.mark.parametrize("text", ["[" * 50_000, "a: &a [x]\nb: [*a, *a]\n"])
@pytest.mark.contract("content-2b")
def test_a_file_made_to_harm_parsers_leaves_the_old_rules(engine: Engine, tmp_path: Path, text: str) -> None:
    """Where a rule was, and where none was, in which case the others are taken."""
    (tmp_path / "first.yml").write_text(text)
    reload(engine)
    assert (names(engine), engine._facts.reload_ok) == (["first"], False)


def test_events_go_on_while_rules_are_read_and_a_second_request_is_kept(engine: Engine, tmp_path: Path) -> None:
    """The loop turns; what was written while the first reload ran is in the second."""
    write(tmp_path, 3, "second")
    engine._rules.reload()
    engine._rules.step()
    assert engine._rules.load.busy
    assert names(engine) == ["first"]
    write(tmp_path, 4, "third")
    engine._rules.reload()
    while engine._rules.load.busy:
        engine._rules.step()
    assert names(engine) == ["first", "second", "third"]
    assert engine._facts.reloads == {"success": 2, "failure": 0}


def test_rules_seen_before_need_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the start nor at a reload; and the metric tells."""
    rules, cache = tmp_path / "rules", tmp_path / "cache"
    rules.mkdir()
    write(rules, 1, "first")
    with started(rules, cache) as engine:
        assert engine._facts.cache["hit"] == 0
    monkeypatch.setattr(subprocess, "Popen", None)
    with started(rules, cache) as engine:
        reload(engine)
        assert names(engine) == ["first"]
        assert take(None, engine._facts).rule_cache["hit"] == 2


def test_without_a_process_to_spare_the_engine_starts_all_the_same(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A host at its limit of processes is one to watch."""
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    write(tmp_path, 1, "first")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with started(tmp_path) as engine:
        assert names(engine) == ["first"]
        assert "read by the engine itself" in capsys.readouterr().err
        reload(engine)
        assert (names(engine), engine._facts.reload_ok) == (["first"], False)


def test_files_are_watched_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    """A change is taken once it has settled: a file that is being written is not half read."""
    settings = tmp_path / "sensor.yaml"
    settings.write_text("rules: {watch_seconds: 5}\n")
    rules = tmp_path / "rules"
    rules.mkdir()
    write(rules, 1, "first")
    with started(rules, config=str(settings)) as engine:
        now = engine._rules._next_look
        engine._rules.look(now)
        assert not engine._rules.load.busy
        write(rules, 2, "second")
        engine._rules.look(now + 4)
        engine._rules.look(now + 5)
        assert not engine._rules.load.busy
        write(rules, 3, "third")
        engine._rules.look(now + 10)
        assert not engine._rules.load.busy
        engine._rules.look(now + 15)
        assert engine._rules.load.busy
        while engine._rules.load.busy:
            engine._rules.step()
        assert names(engine) == ["first", "second", "third"]
        engine._rules.look(now + 20)
        engine._rules.look(now + 25)
        assert not engine._rules.load.busy


class FakeLive:
    """Counts of a live stream, and what was reported."""

    def __init__(self, engine: Engine) -> None:
        self.pipeline = Pipeline(engine._rules.matcher, correlator=engine._rules.correlator)
        self.told: list[tuple[object, ...]] = []

    def rule_disabled(self, *values: object) -> None:
        self.told.append(values)

    def state(self, state: str, detail: str) -> None:
        self.told.append((state, detail))


ID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize("reason", ["cpu_time", "alerts"])
@pytest.mark.contract("content-7d")
def test_a_rule_over_its_budget_is_disabled_with_event_metric_and_log_until_a_reload(
        tmp_path: Path, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The others go on."""
    settings, rules = tmp_path / "sensor.yaml", tmp_path / "rules"
    settings.write_text("rules: {budget_cpu_percent: 10, budget_alerts: 100}\n")
    rules.mkdir()
    write(rules, 1, "first")
    write(rules, 2, "second")
    with started(rules, config=str(settings)) as engine:
        live = FakeLive(engine)
        engine._live = engine._rules.live = live  # type: ignore[assignment]
        engine._rules.budgets()
        if reason == "alerts":
            live.pipeline.counters.matches[ID] = 101
        else:
            engine._rules.meter.nanoseconds[ID], engine._rules.meter.samples[ID] = 6_001_000_000, 100
        engine._rules.budgets()
        engine._rules.budgets()  # while others are being built nobody is told twice
        while engine._rules.load.busy:
            engine._rules.step()
        assert names(engine) == ["second"]
        assert [rule.name for rule in live.pipeline.matcher.rules] == ["second"]  # type: ignore[attr-defined]
        measured, limit = (101, 100) if reason == "alerts" else (6001, 6000)
        assert live.told == [(ID, "first", reason, measured, limit)]
        assert f"rule {ID} (first) is disabled until the next reload" in capsys.readouterr().err
        snapshot = take(None, engine._facts)
        assert snapshot.rule_disabled == {(ID, reason): 1.0}
        assert snapshot.rule_disablings[reason] == 1
        assert snapshot.rules_loaded["disabled"] == 1
        engine._rules.budgets()
        assert not engine._rules.load.busy
        reload(engine)
        assert names(engine) == ["first", "second"]
        engine._rules.budgets()
        assert not engine._rules.load.busy
        assert take(None, engine._facts).rule_disabled == {}


def test_rules_that_the_operator_switched_off_do_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the start and after a reload; a damaged file is said, and refuses a reload."""
    rules, state = tmp_path / "rules", tmp_path / "state"
    rules.mkdir()
    write(rules, 1, "first")
    write(rules, 2, "second")
    switches.write(state, {ID: "2026-01-01T00:00:00Z", "another": ""})
    with started(rules, state=state) as engine:
        assert names(engine) == ["second"]
        assert take(None, engine._facts).rule_disabled == {(ID, "operator"): 1.0}
        switches.write(state, {})
        reload(engine)
        assert names(engine) == ["first", "second"]
        (state / switches.FILE).write_text("{")
        reload(engine)
        assert (names(engine), engine._facts.reload_ok) == (["first", "second"], False)
    with started(rules, state=state) as engine:
        assert names(engine) == ["first", "second"]
        assert "no rule is disabled: " in capsys.readouterr().err


def test_correlations_keep_what_they_know_when_the_same_rules_come_from_a_child(tmp_path: Path) -> None:
    """A reload between two events of a sequence doesn't hide it."""
    (tmp_path / "rule.yml").write_text(RULE.format(name="first", number=1, condition="selection") + CORRELATION)
    with started(tmp_path) as engine:
        live = FakeLive(engine)
        engine._live = engine._rules.live = live  # type: ignore[assignment]
        alerts = []
        for second in range(3):
            found = live.pipeline.feed_document({
                "@timestamp": f"2026-01-01T00:00:0{second}Z", "event": {"action": "process-exec", "id": str(second)},
                "process": {"command_line": "first", "pid": 7}})
            alerts.append([each["rule"]["name"] for each in found])
            write(tmp_path, 10 + second, f"other{second}")
            reload(engine)
        assert alerts == [[], [], ["thrice"]]


CORRELATION = """\
name: first
---
title: thrice
id: 00000000-0000-4000-8000-000000000099
correlation:
    type: event_count
    rules: [first]
    group-by: [ProcessId]
    timespan: 1m
    condition: {gte: 3}
level: high
"""
