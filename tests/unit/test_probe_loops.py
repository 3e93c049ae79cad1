"""Loops of the probes, from their sources: how often each may run is a constant that a reader can see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensor.kernel import plan
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "probes").glob("*.[ch]"))
LOOP = re.compile(r"\b(?:for|while)\s*\((?P<head>[^;{]*(?:;[^;{]*;[^;{]*)?)\)\s*(?P<rest>[{;]?)")
COUNTED = re.compile(r"(?:int|u32) (\w+) = 0; \1 < (?P<bound>[^;]+); \1\+\+")
BYTES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
MOST = 64


def bound(loop: str, source: str) -> int:
    """How often the loop with this head runs at most. Raises ValueError where that is no constant."""
    counted = COUNTED.fullmatch(loop)
    if counted is None:
        raise ValueError(f"not counted up from 0 by one: {loop}")
    text = counted["bound"]
    if size := re.fullmatch(r"sizeof\(\*(\w+)\) / 8", text):
        return _size(size[1], source) // 8
    if text == "SCRATCHES":  # given to the compiler
        return max(plan.scratches(cpus) for cpus in (1, 2, 64, 65, 1024, 8192))
    if not text.isdigit():
        defined = re.search(rf"^#define {text} (\d+)\b", source, re.MULTILINE)
        if defined is None:
            raise ValueError(f"no constant: {text}")
        text = defined[1]
    return int(text)


def _size(variable: str, source: str) -> int:
    kind = re.search(rf"struct (\w+) \*{variable}\b", source)
    fields = re.search(rf"^struct {kind[1]} {{\n(.*?)^}};", source, re.MULTILINE | re.DOTALL) if kind else None
    if fields is None:
        raise ValueError(f"no structure of {variable}")
    return sum(BYTES[name] * int(many or 1)
               for name, many in re.findall(r"^\t(\w+) \w+(?:\[(\d+)\])?;", fields[1], re.MULTILINE))


def loops(source: str) -> list[str]:
    """Heads of all loops but those of `do { } while (0)`."""
    plain = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    return [found["head"] for found in LOOP.finditer(plain) if found["head"] != "0"]


@pytest.mark.contract("panic-3b")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_loop_has_a_constant_bound_of_at_most_64(path: Path) -> None:
    """The verifier would take a million instructions; a reader should not have to."""
    source = path.read_text("utf-8")
    assert not re.search(r"\bgoto\b|\bbpf_loop\b", source)
    for loop in loops(source):
        assert bound(loop, source) <= MOST, loop


def test_loops_are_found_and_those_without_a_bound_are_told() -> None:
    """The test above looks at something."""
    assert sum(len(loops(path.read_text("utf-8"))) for path in SOURCES) >= 5
    assert loops("while (more) {\n}\ndo { } while (0);\nfor (;;) {\n}") == ["more", ";;"]
    for loop in ("more", ";;", "int i = 0; i < count; i++", "int i = 1; i < 4; i++"):
        with pytest.raises(ValueError):
            bound(loop, "")
    assert bound("int i = 0; i < N; i++", "#define N 65 /* parts */\n") == 65
