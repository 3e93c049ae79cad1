"""Rehearsals: what they show, what they leave behind, and that they touch nothing real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sensor import cli, controlclient, drills, guard
from sensor.content import drill as rollout
from sensor.controlsocket import DRILL, DRILLED, STATUS, Request
from sensor.drills import Drills
from sensor.errors import HostError, SensorError
from sensor.oversight import Oversight
from sensor.supervisor import Supervisor
from tests.unit.content_helpers import patient

patient()


def oversight(home: Path) -> Oversight:
    made = Oversight(home, lambda _line: None, boot="now", root=home)
    made.begin()
    return made


def registry(**known: Any) -> tuple[Drills, list[str], list[dict[str, Any]]]:
    said: list[str] = []
    told: list[dict[str, Any]] = []
    return Drills(known, said.append, told.append), said, told


def test_a_drill_is_answered_said_counted_and_told() -> None:
    """A text for whom asked, a line, a number and a message for the engine."""
    made, said, told = registry(loss=lambda: "40 records are missing, one event said so")
    answer = made.run(Request(DRILL, "loss"))
    assert answer == {"drill": "loss", "result": "ok", "text": "40 records are missing, one event said so"}
    assert said == ["drill loss: ok: 40 records are missing, one event said so"]
    assert told == [{"kind": "drill", "detail": said[0], "counts": [["loss", "ok", 1]]}]
    made.run(Request(DRILL, "loss"))
    assert made.counts == [["loss", "ok", 2]]


@pytest.mark.parametrize("error", [SensorError("the mode is wrong"), OSError(28, "No space left on device")])
def test_a_drill_that_shows_a_fault_has_failed(error: Exception) -> None:
    """With its reason; the supervisor goes on."""
    def broken() -> str:
        raise error

    made, said, _ = registry(guard=broken)
    assert made.run(Request(DRILL, "guard"))["result"] == "failed"
    assert str(error) in said[0]


def test_a_drill_that_is_not_there_is_unavailable() -> None:
    """And that is counted too."""
    made, _, told = registry()
    assert made.run(Request(DRILL, "breaker"))["result"] == "unavailable"
    assert told[0]["counts"] == [["breaker", "unavailable", 1]]


def test_a_drill_of_the_client_leaves_the_same_record() -> None:
    """Only its result comes over the socket."""
    made, said, told = registry()
    made.run(Request(DRILLED, "rollback", "failed"))
    assert said == ["drill rollback: failed: run by its command"]
    assert told[0]["counts"] == [["rollback", "failed", 1]]


def test_a_long_text_fits_the_event() -> None:
    """An event's message has 1,024 bytes."""
    made, said, told = registry(loss=lambda: "x" * 5000)
    assert len(made.run(Request(DRILL, "loss"))["text"]) == 5000
    assert len(told[0]["detail"]) == len(said[0]) == 900


# --- the boot guard -------------------------------------------------------------------------------


@pytest.mark.contract("panic-8b")
def test_the_guard_is_rehearsed_and_the_real_one_stays_as_it_was(tmp_path: Path) -> None:
    """Full, minimal, passive, full again; no file of the real state is changed, none is left."""
    running = oversight(tmp_path)
    running.arm()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    text = drills.boot_guard(running)
    assert "at first full, after one bad end minimal, after two passive, after a reset full" in text
    assert "running: full, 0 strikes, armed" in text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_guard_that_does_not_guard_fails_the_drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drill runs the real code: broken there, it is told here."""
    monkeypatch.setattr(guard, "STRIKES", 3)
    with pytest.raises(SensorError, match="drill-3 would be minimal, not passive"):
        drills.boot_guard(oversight(tmp_path))
    assert not list(tmp_path.glob(".drill*"))


def test_a_state_directory_that_is_gone_fails_the_drill(tmp_path: Path) -> None:
    """A guard that can't write guards nothing."""
    made, _, _ = registry(guard=lambda: drills.boot_guard(Oversight(tmp_path / "gone", lambda _line: None, boot="b")))
    assert made.run(Request(DRILL, "guard"))["result"] == "failed"


def test_the_supervisor_answers_with_its_drills(tmp_path: Path) -> None:
    """By the lookup; those that nobody has registered are not available."""
    made = Supervisor(["{}"], None, [], lambda _line: None, oversight(tmp_path), stay=True)
    assert made._answer(Request(DRILL, "guard"))["result"] == "ok"
    assert made._answer(Request(DRILLED, "rollback", "ok"))["result"] == "ok"
    assert made._drills.counts == [["guard", "ok", 1], ["rollback", "ok", 1]]
    made._selector.close()


# --- the rollout ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.contract("content-4")
def test_a_rollout_that_goes_wrong_ends_at_the_known_good_release() -> None:
    """Really packed, signed, checked in children, staged, and taken back."""
    said: list[str] = []
    assert "at the end the known good release runs" in rollout.rehearse(said.append)
    text = "\n".join(said)
    for part in ("does not match a positive sample", "rules/one.yml", "is taken back (crash)", "--retry"):
        assert part in text


def test_a_store_that_takes_what_it_must_not_fails_the_drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drill can fail: a release that should be refused is not."""
    made = rollout._Drill(tmp_path, lambda _line: None)
    monkeypatch.setattr(made, "stage", lambda _release: "id")
    with pytest.raises(SensorError, match="release 9 was taken"):
        made.refused(tmp_path / "release", "good", "release 9")


# --- the command ----------------------------------------------------------------------------------


def answering(monkeypatch: pytest.MonkeyPatch, answer: dict[str, str]) -> list[Request]:
    asked: list[Request] = []

    def ask(request: Request, command: str) -> dict[str, str]:
        asked.append(request)
        return answer

    monkeypatch.setattr(controlclient, "ask", ask)
    return asked


@pytest.mark.parametrize(("result", "status"), [("ok", 0), ("failed", 1), ("unavailable", 3)])
def test_the_exit_status_says_how_it_ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                           result: str, status: int) -> None:
    """0, 1, 3; and the text of the supervisor is shown safely."""
    asked = answering(monkeypatch, {"drill": "canary", "result": result, "text": "seen \x1b[31m"})
    assert cli.call(["drill", "canary"]) == status
    assert asked == [Request(DRILL, "canary")]
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "seen" in out + err
    assert cli.call(["drill", "canary", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["result"] == result


def test_rollback_is_run_by_the_command_and_reported(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """It asks first whether there is a sensor to keep the record."""
    asked = answering(monkeypatch, {})
    monkeypatch.setattr(rollout, "rehearse", lambda said: said("step") or "fine")
    assert cli.call(["drill", "rollback"]) == 0
    assert asked == [Request(STATUS), Request(DRILLED, "rollback", "ok")]
    assert capsys.readouterr().out == "step\ndrill rollback: ok: fine\n"

    def broken(_said: object) -> str:
        raise SensorError("release 2 was taken")

    monkeypatch.setattr(rollout, "rehearse", broken)
    assert cli.call(["drill", "rollback"]) == 1
    assert asked[-1] == Request(DRILLED, "rollback", "failed")


def test_without_a_sensor_nothing_is_rehearsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3, with what to do."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(rollout, "rehearse", lambda _said: pytest.fail("rehearsed"))
    for name in ("guard", "rollback"):
        assert cli.call(["drill", name]) == HostError.exit_status
        assert "systemctl start sensor" in capsys.readouterr().err
