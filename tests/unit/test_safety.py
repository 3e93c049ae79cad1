"""docs/safety.md says which test proves what, and is made from the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import proofs, safety


def test_the_page_is_what_the_generator_writes() -> None:
    """A proof that comes or goes changes the page."""
    text = safety.PAGE.read_text("utf-8")
    assert text == safety.page(text), "run: python -m tests.safety"


def written(root: Path, source: str) -> Path:
    (root / "tests" / "unit").mkdir(parents=True)
    (root / "tests" / "unit" / "test_x.py").write_text(source)
    return root


def test_marks_are_found_with_the_test_that_has_them(tmp_path: Path) -> None:
    """Several of one mark, and other marks beside it."""
    root = written(tmp_path, '@pytest.mark.contract("a", "b")\n@pytest.mark.slow\ndef test_one(): ...\n'
                             '@pytest.mark.hostile("a")\ndef test_two(): ...\n'
                             '@pytest.mark.contract("a")\ndef help(): ...\n')
    assert proofs.marked("contract", root) == {
        claim: [proofs.Proof("tests/unit/test_x.py", "test_one", "host")] for claim in ("a", "b")}


def test_a_mark_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A name in place of a text would be left out in silence."""
    root = written(tmp_path, "@pytest.mark.contract(LINE)\ndef test_one(): ...\n")
    with pytest.raises(ValueError, match="takes plain texts"):
        proofs.marked("contract", root)


def test_a_mark_of_an_unknown_line_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that was renamed must not lose its proofs in silence."""
    lost = proofs.Proof("tests/unit/test_x.py", "test_one", "host")
    monkeypatch.setattr(safety, "marked", lambda _mark: {"panic-99": [lost]})
    with pytest.raises(ValueError, match="no contract is called 'panic-99'"):
        safety.proofs("contract", safety.claims(), {})


def test_a_line_without_a_test_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its row and in the sum; one that only a guest proves names the kernels."""
    monkeypatch.setattr(safety, "marked", lambda _mark: {})
    table = safety.table()
    rows = {line.split(" | ")[0][2:]: line for line in table.splitlines() if line.startswith("| ")}
    assert safety.UNPROVEN in rows["loss-5"]
    assert "loss-5" in table.partition("###")[0]
    assert "probes" in rows["panic-2a"] and "5.10 to 7.2" in rows["panic-2a"]


def test_every_claim_and_case_has_words_of_its_own() -> None:
    """No text stands for two, and ids tell their part."""
    texts = [*safety.claims().values(), *safety.CASES.values()]
    assert len(texts) == len({*texts})
    assert all(claim.partition("-")[0] in ("panic", "content", "loss") for claim in safety.claims())
    assert {claim.rstrip("abcdefgh") for claim in safety.claims()} >= {
        *(f"panic-{number}" for number in range(1, 15)), *(f"content-{number}" for number in range(1, 10))}
