"""The engine's reload, in this process: no probes, no privileges to give up."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensor.arguments import Arguments
from sensor.engine import Engine, _Opened
from sensor.errors import SensorError
from sensor.live import Outputs
from sensor.metrics import Metrics
from sensor.rulefiles import RuleFiles
from sensor.rules.content import discover, load

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


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One that runs the sound rule `first` and refuses `always_broken`."""
    write(tmp_path, 1, "first")
    write(tmp_path, 2, "always_broken", "nowhere")
    files = RuleFiles.open([str(tmp_path)])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        made = Engine(ours, Arguments(metrics="off"), _Opened([], files, None, Outputs(), "boot"))
        made.theirs = theirs  # type: ignore[attr-defined]
        yield made
    for root in (files.default, *files.named):
        os.close(root.fd)


def names(engine: Engine) -> list[str]:
    assert engine._facts.rules is not None
    return [rule.name for rule in engine._matcher.rules]


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


def test_reload_takes_new_rules_though_another_was_broken_before(engine: Engine, tmp_path: Path) -> None:
    """A collection with rules that never loaded must not make every reload fail."""
    write(tmp_path, 3, "second")
    engine._reload()
    assert names(engine) == ["first", "second"]
    assert engine._facts.reload_ok


@pytest.mark.parametrize("text", ["title: [\n", RULE.format(name="first", number=1, condition="nowhere")])
def test_reload_with_a_rule_that_has_broken_keeps_the_old_set(
        engine: Engine, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing mistake costs no detection: the rule goes on as it was, and the place is said."""
    (tmp_path / "first.yml").write_text(text)
    write(tmp_path, 3, "second")
    engine._reload()
    assert names(engine) == ["first"]
    assert not engine._facts.reload_ok
    said = capsys.readouterr().err
    assert "reload refused" in said
    assert f"{tmp_path}/first.yml:" in said.rpartition("reload refused")[2]


def test_reload_after_the_mistake_is_mended_takes_the_set(engine: Engine, tmp_path: Path) -> None:
    """What was refused once is not held against a file."""
    (tmp_path / "first.yml").write_text("[")
    engine._reload()
    write(tmp_path, 1, "first")
    write(tmp_path, 3, "second")
    engine._reload()
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
def test_a_supervisor_that_is_killed_ends_the_engine_with_one_sentence(engine: Engine, unread: bool) -> None:
    """What it had not read makes of the end of the channel a reset; that is no reason for a traceback."""
    if unread:
        engine._second()
    engine.theirs.close()  # type: ignore[attr-defined]
    with pytest.raises(SensorError, match="the supervisor is gone"):
        engine._message()
