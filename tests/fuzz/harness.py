"""What a target is, and what one input may do: nothing but return, within a second of processor time."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

SECONDS = 1.0  # of the processor, so that a busy machine fails nothing
MAX_BYTES = 16_384


class Slow(AssertionError):
    """One input took longer than SECONDS."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that takes bytes from outside. ``run`` raises nothing that is not a bug."""

    name: str
    doc: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES
    quick: int = 300  # changed inputs of the run that is part of the unit tests


def execute(target: Target, data: bytes) -> None:
    """Run one input. Raises Slow, or whatever the target raises."""
    before = time.thread_time()
    target.run(data)
    used = time.thread_time() - before
    if used > SECONDS:
        raise Slow(f"{target.name}: {used:.1f} s for {len(data)} bytes")


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(prefix="sensor-fuzz-", dir=memory if os.access(memory, os.W_OK) else None)


def in_file(data: bytes, suffix: str) -> str:
    """Path of a file, the same for each suffix, that holds *data*."""
    path = os.path.join(_folder().name, f"input{suffix}")
    with open(path, "wb") as file:
        file.write(data)
    return path


def mutations(seeds: Sequence[bytes], words: Sequence[str], count: int, seed: int) -> Iterator[bytes]:
    """Each seed, and then *count* changed ones: the same for the same arguments, and without coverage to guide them."""
    chance = random.Random(seed)
    yield from seeds
    for _ in range(count):
        data = bytearray(chance.choice(seeds)[:MAX_BYTES])
        for _ in range(chance.randint(1, 4)):
            _change(data, seeds, words, chance)
        yield bytes(data[:MAX_BYTES])


def _change(data: bytearray, seeds: Sequence[bytes], words: Sequence[str], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    end = min(len(data), at + chance.choice((1, 2, 8, 64, 512)))
    match chance.randrange(7):
        case 0:
            del data[at:end]
        case 1:
            data[at:at] = data[at:end] * chance.choice((1, 2, 40))
        case 2:
            data[at:end] = chance.randbytes(chance.choice((1, 2, 4, 8)))
        case 3 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 4:
            other = chance.choice(seeds)
            start = chance.randint(0, len(other))
            data[at:end] = other[start:start + chance.choice((4, 40, 400))]
        case 5 if words:
            data[at:end] = chance.choice(words).encode("utf-8", "surrogateescape")
        case _:
            lines = data.split(b"\n")
            chance.shuffle(lines)
            data[:] = b"\n".join(lines)
