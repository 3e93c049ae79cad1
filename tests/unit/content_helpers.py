"""Releases for the tests of content: one rule, its samples, a golden recording of three events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sensor import rulechild
from sensor.config import Content
from sensor.content import archive, manifest, pack, signing

FAR = 4_000_000_000  # 2096
RULE = """\
title: {title}
id: 00000000-0000-4000-8000-{number:012d}
logsource: {{product: linux, category: process_creation}}
detection:
    selection: {{CommandLine: {word}}}
    condition: selection
level: low
"""
SAMPLES = """\
positive:
  - {{event: process_exec, CommandLine: {word}}}
negative:
  - {{event: process_exec, CommandLine: other}}
"""

def patient() -> None:
    """Let children that read rules take as long as a starved host needs; processor time stays bounded."""
    rulechild.WALL_SECONDS = 600.0


PEM, PUBLIC = signing.generate()
OTHER_PEM, OTHER_PUBLIC = signing.generate()
SETTINGS = Content(keys=(PUBLIC,), event_us=50_000)  # what a busy host takes is no fault of a release


def event(number: int, line: str) -> dict[str, Any]:
    """An exec as a recording has it."""
    return {"@timestamp": f"2026-01-01T00:00:{number:02d}.000000000Z",
            "event": {"id": f"golden-{number}", "kind": "event", "action": "process-exec", "category": ["process"],
                      "type": ["start"], "dataset": "sensor.process_exec"},
            "process": {"pid": number, "command_line": line, "executable": "/usr/bin/true"}}


def source(folder: Path, word: str = "bad", number: int = 1) -> Path:
    """A publisher's directory."""
    for name in ("rules", "golden", "lists"):
        (folder / name).mkdir(parents=True)
    (folder / "rules/one.yml").write_text(RULE.format(title=f"Finds {word}", number=number, word=word))
    (folder / "rules/one.samples.yml").write_text(SAMPLES.format(word=word))
    lines = [event(1, word), event(2, "ls"), event(3, "ps")]
    (folder / "golden/day.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "golden/expect.yaml").write_text(f"00000000-0000-4000-8000-{number:012d}: 1\n")
    return folder


def signed(files: dict[str, bytes], *pems: bytes) -> dict[str, bytes]:
    """The files with signatures."""
    lines = b""
    for pem in pems:
        lines = signing.added(lines, signing.sign(files[manifest.NAME], pem))
    return {**files, manifest.SIGNATURES: lines}


def release(folder: Path, out: Path, version: int = 1, expires: int = FAR, pems: tuple[bytes, ...] = (PEM,),
            revokes: tuple[str, ...] = ()) -> Path:
    """A packed and signed release of a publisher's directory."""
    files = signed(pack.make(str(folder), "rules", version, expires, revokes), *pems)
    out.write_bytes(archive.write(files))
    return out


def id_of(path: Path) -> str:
    """The id of a packed release."""
    return manifest.release_id(archive.unpack(path.read_bytes(), str(path))[manifest.NAME])
