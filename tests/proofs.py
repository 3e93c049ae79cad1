"""Which test proves what: marks read from the sources of the tests, so that nothing has to be imported or run.

    @pytest.mark.contract("panic-3a")      a line of the two contracts, of tests/safety.py
    @pytest.mark.hostile("clock")          a case of hostile or broken input, likewise
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

#: Where tests are, and what running them there means: on this kernel as anybody, or as root with the real sensor.
PLACES = {"tests/unit": "host", "tests/live": "host (root)"}


@dataclass(frozen=True, slots=True, order=True)
class Proof:
    """One test. ``kernels``: where it runs."""

    path: str
    name: str
    kernels: str


def marked(mark: str, root: Path = ROOT) -> dict[str, list[Proof]]:
    """Claim -> the tests that carry it, by the names that stand in the sources; both in a lasting order.

    Raises:
        ValueError: A mark without plain texts: what it means could not be told from the source.
    """
    found: dict[str, list[Proof]] = {}
    for folder, kernels in PLACES.items():
        for path in sorted((root / folder).glob("test_*.py")):
            place = path.relative_to(root).as_posix()
            for name, claim in _marks(ast.parse(path.read_text("utf-8")), mark, place):
                found.setdefault(claim, []).append(Proof(place, name, kernels))
    return found


def _marks(tree: ast.Module, mark: str, place: str) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"pytest.mark.{mark}":
                    for word in decorator.args:
                        if not isinstance(word, ast.Constant) or not isinstance(word.value, str):
                            raise ValueError(  # noqa: TRY004  of the source, which is the value here
                                f"{place}:{node.lineno}: @pytest.mark.{mark} takes plain texts")
                        yield node.name, word.value
