"""The documents are true: commands run, links lead somewhere, what exists is mentioned."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from sensor import schema
from sensor.cli import COMMANDS
from tests.conftest import ROOT
from tools import fields_docs

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"),
                    *(ROOT / "LICENSES").glob("*.md")])
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands():
    for path in DOCUMENTS:
        for block in CONSOLE.findall(path.read_text()):
            for line in block.splitlines():
                if line.startswith("$ "):
                    yield pytest.param(line[2:], id=f"{path.name}: {line[2:]}")


@pytest.mark.parametrize("command", list(commands()))
def test_command_in_the_documents_runs(command, tmp_path):
    """Every line that begins with $ in a console block works as it stands, from a checkout."""
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False,
                          timeout=120, env=dict(os.environ, PATH=f"{ROOT}/.venv/bin:{os.environ['PATH']}"))
    assert done.returncode == 0, done.stderr


def anchors(path):
    """Anchors as the usual renderers make them from headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(path):
    """File and heading exist."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_readme_lists_every_command():
    """A command that exists is in the table of the README, and nothing else is."""
    rows = re.findall(r"^\| (`sensor [^|\\]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    table = [name for row in rows for name in re.findall(r"`sensor (\w+)", row)]
    assert sorted(table) == sorted(COMMANDS)


def test_readme_names_its_first_screen_and_every_family():
    """What it sees, what it can't, what it costs and how to turn it off come before anything else."""
    text = (ROOT / "README.md").read_text()
    first = "\n".join(text.splitlines()[:20])
    for word in ("**Sees**", "**Cannot see**", "**Costs**", "**Turn it off**"):
        assert word in first
    assert {event.family for event in schema.EVENTS} == {"process", "file", "network", "privilege", "shell", "user"}


def test_changelog_has_an_entry_for_what_is_not_released():
    """Keep a Changelog's form."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert re.search(r"^### (Added|Changed|Deprecated|Removed|Fixed|Security)$", text, re.MULTILINE)


def test_decisions_are_dated_and_say_what_they_cost():
    """Context, choice and cost, under a date."""
    text = (ROOT / "docs/decisions.md").read_text()
    for section in text.split("\n## ")[1:]:
        assert re.match(r"\d{4}-\d{2}-\d{2}: ", section), section[:40]
        for word in ("*Context.*", "*Choice.*", "*Cost.*"):
            assert word in section, section[:40]


def test_makefile_targets_in_the_documents_exist():
    """`make X` in a document is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for name in re.findall(r"(?:`|sudo |^)make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert name in targets, f"{path.name}: make {name}"


def test_every_document_is_linked_from_the_readme_or_from_one_that_is():
    """Nothing is written for nobody."""
    found, queue = set(), [ROOT / "README.md"]
    while queue:
        path = queue.pop()
        if path in found or path.suffix != ".md" or not path.exists():
            continue
        found.add(path)
        queue += [(path.parent / name.partition("#")[0]).resolve()
                  for name in re.findall(r"\]\((?!https?:)([^)\s#]+)", path.read_text())]
    unlinked = {path for path in DOCUMENTS if path not in found} - {ROOT / "CHANGELOG.md"}
    assert unlinked == set(), sorted(map(str, unlinked))


def test_documents_end_with_one_newline_and_have_no_tabs():
    """Small things that make diffs noisy."""
    for path in DOCUMENTS:
        text = path.read_text()
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        assert "\t" not in text, path


def test_reference_of_fields_is_what_the_generator_writes():
    """docs/fields.md is regenerated from the event table and compared."""
    assert (ROOT / "docs/fields.md").read_text() == fields_docs.reference()


def test_reference_of_fields_names_every_event_and_key():
    """Nothing of the table is left out."""
    text = (ROOT / "docs/fields.md").read_text()
    for event in schema.EVENTS:
        assert f"\n## {event.action}\n" in text
        for field in event.fields:
            assert field.ecs is None or f"| `{field.ecs}` |" in text, field.name
