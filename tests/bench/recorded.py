"""Events of a real machine for the benchmarks: the benign baseline's recording, brought to a number and to formats."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

import orjson
import zstandard

from sensor.record import open_recorder
from tests.baseline import recording
from tests.baseline.selection import lines_of
from tests.vm.host import say

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sensor-bench"


def available(make: bool) -> Path | None:
    """The baseline's recording; made now if *make* says so, None where there is none."""
    path = recording.cache() / "benign.jsonl.zst"
    if not path.exists() and make:
        recording.record(path, recording.ACTIVITIES, requests=20_000)
    return path if path.exists() else None


def brought_to(path: Path, count: int, folder: Path) -> Path:
    """*count* events of a recording, from its beginning again where it has fewer; kept in *folder*."""
    about = path.stat()
    name = hashlib.sha256(f"{path.resolve()}{about.st_size}{about.st_mtime_ns}".encode()).hexdigest()[:12]
    target = folder / f"recorded-{name}-{count}.jsonl.zst"
    if not target.exists():
        partial, own = target.with_suffix(".part"), 0
        with partial.open("wb") as file, zstandard.ZstdCompressor(3).stream_writer(file) as stream:
            left = count
            while left:
                given = 0
                for line in itertools.islice(lines_of(path), left):
                    stream.write(line)
                    given += 1
                own, left = max(own, given), left - given
                if not given:
                    raise SystemExit(f"{path} holds no events")
        partial.rename(target)
        say(f"{count:,} events: the {own:,} of {path}" + (", repeated" if own < count else ""))
    return target


def parquet_of(path: Path) -> Path:
    """The same events as Parquet, beside *path*."""
    target = path.with_name(path.name.removesuffix(".zst").removesuffix(".jsonl") + ".parquet")
    if not target.exists():
        partial = target.with_name(f".{target.name}")
        partial.unlink(missing_ok=True)
        recorder = open_recorder(partial)
        for line in lines_of(path):
            recorder.write(orjson.loads(line))
        recorder.close()
        partial.rename(target)
    return target
