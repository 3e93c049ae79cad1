"""The fuzz targets on a few hundred inputs each, always the same ones; ``make fuzz`` goes on from here."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")

from tests.conftest import ROOT
from tests.fuzz.harness import Slow, Target, execute, mutations
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_target_does_no_harm(name: str, tmp_path: Path) -> None:
    """Seeds and changed seeds, each within a second of the processor and without an exception."""
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    target.run(seeds[0])  # what is imported late counts in no input's time
    for data in mutations(seeds, target.words, target.quick, zlib.crc32(name.encode())):
        try:
            execute(target, data)
        except BaseException:
            (tmp_path / "input").write_bytes(data)
            print(f"again: .venv/bin/python -m tests.fuzz {name} --input {tmp_path / 'input'}")
            raise


def test_mutations_are_the_same_each_time() -> None:
    """A failure of the run above is there again the next time."""
    first, second = ([*mutations([b"abc\ndef", b"x"], ["word"], 50, 7)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 25


def test_slow_input_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that returns, but too late."""
    monkeypatch.setattr("tests.fuzz.harness.SECONDS", 0.01)
    target = Target("busy", "", lambda data: sum(range(len(data) << 20)) and None, list)
    execute(target, b"")
    with pytest.raises(Slow):
        execute(target, b"x" * 4)


def test_command_names_the_targets_and_repeats_an_input(tmp_path: Path) -> None:
    """Without atheris."""
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "tests.fuzz", *map(str, words)], cwd=ROOT, capture_output=True,
                              text=True, check=False)

    listed = run("--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(TARGETS)
    (tmp_path / "input").write_bytes(b"rules: [")
    assert run("settings", "--input", tmp_path / "input").returncode == 0
