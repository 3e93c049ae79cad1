"""Recordings, read with suspicion: every bound that a hostile file could break is here.

A recording is JSON lines, plain or in zstd frames, or Parquet; which one is told by its first bytes.
What can't be used is counted by reason and skipped. Memory stays bounded whatever the file holds.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import zstandard

from sensor import schema
from sensor.ecs_input import ACTIONS, normalise
from sensor.errors import UsageError
from sensor.outputs.ecs_json import EscapeError, restore
from sensor.shape import DEPTH_LIMIT, Document, depth, fits, sound

#: ``--input``: what the lines of a recording are. auto takes ours and ECS of others, told apart by line.
INPUTS = ("auto", "sensor", "ecs")

#: Why something was skipped. Closed: the summary and the report name nothing else.
REASONS = ("json", "truncated", "too_long", "too_deep", "type", "escape", "unknown_event", "duplicate",
           "abi", "version", "zstd", "bomb", "parquet", "read")

STDIN = "-"
#: Version of the recording format, in the header line.
RECORDING = 1

_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # a skippable frame: 0x50-0x5f, then this
_PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b"
_CHUNK = 256 * 1024
#: Compressed bytes given to the decoder at once. The worst block turns 4 bytes into 128 KiB, so this
#: bounds one answer to 32 MiB.
_ZSTD_PIECE = 1024
#: 2**27, the largest window that `zstd -d` takes without being told to.
_ZSTD_WINDOW = 1 << 27


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one recording. A line of ours is 1 to 20 KiB; 4 MiB is 16 times the largest."""

    line_bytes: int = 4 << 20
    #: A stream may grow this far before its ratio is looked at, and then by this factor.
    free_bytes: int = 8 << 20
    ratio: int = 1000


class Reader:
    """Reads recordings one after another; ``skipped`` counts what could not be used, by reason.

    ``notes`` are sentences for a person, one per thing seen, at most one per file and reason.
    """

    def __init__(self, kind: str = "auto", limits: Limits | None = None,
                 progress: Callable[[int], None] | None = None) -> None:
        if kind not in INPUTS:
            raise UsageError(f"input {kind!r} is not supported: use one of {', '.join(INPUTS)}")
        self.skipped: dict[str, int] = {}
        self.notes: list[str] = []
        self._kind, self._limits = kind, limits or Limits()
        self._progress = progress or (lambda _: None)
        self._chunk = min(_CHUNK, self._limits.line_bytes)  # so that no single chunk holds too long a line
        self._previous: Document = {}
        self._name = ""

    def documents(self, path: str) -> Iterator[Document]:
        """Documents of the recording at *path*, in its order; ``-`` is standard input.

        Raises:
            UsageError: It can't be opened, or is of a kind that can't be read.
        """
        self._name = path
        with _open(path) as stream:
            head = stream.read(4)
            if head == _PARQUET:
                yield from self._parquet(path)
                return
            if head[:2] == _GZIP:
                raise UsageError(f"{path}: gzip is not read; pipe it: zcat {path} | sensor replay -")
            chunks = self._plain(stream, head)
            if head == _ZSTD or (head[1:] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F):
                chunks = self._unpacked(chunks)
            try:
                yield from self._parsed(self._lines(chunks))
            except _Unreadable:
                return

    @property
    def kind(self) -> str:
        """One of INPUTS."""
        return self._kind

    @property
    def line_bytes(self) -> int:
        """The longest line, or row of Parquet, that is read."""
        return self._limits.line_bytes

    def advance(self, size: int) -> None:
        """Bytes of the recording were used up."""
        self._progress(size)

    def note(self, path: str, sentence: str) -> None:
        """Say something about a recording to a person."""
        self.notes.append(f"{path}: {sentence}")

    def skip(self, reason: str, count: int = 1) -> None:
        """Count something as skipped."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    # -- bytes ---------------------------------------------------------------------------------------

    def _plain(self, stream: io.BufferedReader, head: bytes) -> Iterator[bytes]:
        yield head
        while True:
            try:
                # read1: what a pipe has now is used now.
                chunk = stream.read1(self._chunk)
            except OSError as error:
                self.skip("read")
                self._note(f"reading stopped: {error.strerror}")
                return
            if not chunk:
                return
            yield chunk
            # Once it is used up, and before a read that may wait.
            self._progress(len(chunk))

    def _unpacked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Undo zstd, frame after frame. What follows a damaged place is lost, and counted once."""
        decoder = _zstd_decoder()
        taken = made = 0
        for chunk in chunks:
            for start in range(0, len(chunk), _ZSTD_PIECE):
                piece = chunk[start:start + _ZSTD_PIECE]
                taken += len(piece)
                try:
                    while piece:
                        if decoder.eof:
                            decoder = _zstd_decoder()
                        data = decoder.decompress(piece)
                        made += len(data)
                        if made > self._limits.free_bytes and made > taken * self._limits.ratio:
                            self.skip("bomb")
                            self._note(f"reading stopped: grows over {self._limits.ratio} times")
                            return
                        for at in range(0, len(data), self._chunk):
                            yield data[at:at + self._chunk]
                        piece = decoder.unused_data
                except zstandard.ZstdError as error:
                    self.skip("zstd")
                    self._note(f"reading stopped in damaged zstd data: {error}")
                    return
        if not decoder.eof:
            self.skip("truncated")
            self._note("the last zstd frame is cut off")

    # -- lines ---------------------------------------------------------------------------------------

    def _lines(self, chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
        """Lines without their newline, and whether it was there. Too long a line is never held."""
        held: list[bytes] = []  # the beginning of a line whose end is still to come
        size = 0
        discarding = False
        limit = self._limits.line_bytes
        for chunk in chunks:
            first, *rest = chunk.split(b"\n")
            if not discarding:
                held.append(first)
                size += len(first)
                if size > limit:
                    self.skip("too_long")
                    discarding, held, size = True, [], 0
            if not rest:
                continue
            if not discarding:
                yield b"".join(held), True
            discarding = False
            last = rest.pop()
            for line in rest:
                yield line, True
            held, size = [last], len(last)
        if held and size:
            yield b"".join(held), False

    def _parsed(self, lines: Iterator[tuple[bytes, bool]]) -> Iterator[Document]:
        loads, ours = orjson.loads, self._kind != "ecs"
        for line, ended in lines:
            try:
                document = loads(line)
            except orjson.JSONDecodeError as error:
                self._count_unparsable(line, ended, error)
                continue
            # An event of ours, sound, nothing escaped: the rest takes the longer way.
            if ours and type(document) is dict:
                event = document.get("event")
                if (type(event) is dict and type(action := event.get("action")) is str and action in ACTIONS
                        and event.get("kind") != "alert" and sound(document)
                        and "escaped" not in document.get("sensor", ())):
                    self._previous = document
                    yield document
                    continue
            yield from self.accept(document)

    def _count_unparsable(self, line: bytes, ended: bool, error: orjson.JSONDecodeError) -> None:
        if not line.strip():
            return
        # orjson stops at 1,024 levels, under one name or the other.
        if error.msg.lower().startswith(("depth", "recursion")):
            self.skip("too_deep")
        else:
            self.skip("json" if ended else "truncated")

    # -- documents -----------------------------------------------------------------------------------

    def accept(self, document: Any) -> Iterator[Document]:
        """The document in our shape, or nothing where it was counted as skipped."""
        if depth(document) > DEPTH_LIMIT or not isinstance(document, dict):
            self.skip("type" if depth(document) <= DEPTH_LIMIT else "too_deep")
            return
        if self._is_header(document):
            return
        try:
            shaped = self._shaped(document)
            if shaped is not None and "escaped" in shaped.get("sensor", ()):
                restore(shaped)
        except EscapeError:
            self.skip("escape")
            return
        except ValueError:
            self.skip("type")
            return
        if shaped is None:
            self.skip("unknown_event")
        elif shaped["event"].get("kind") != "alert":
            self._previous = shaped
            yield shaped
        else:
            yield from self._event_of(shaped)

    def _shaped(self, document: Document) -> Document | None:
        event = document.get("event")
        action = event.get("action") if isinstance(event, dict) else None
        ours = isinstance(action, str) and action in ACTIONS and fits(document)
        if ours and self._kind != "ecs":
            return document
        if self._kind != "sensor":
            return normalise(document)
        if not isinstance(event, dict) or not fits(document):
            raise ValueError("not in the shape of the event table")
        return None

    def _event_of(self, alert: Document) -> Iterator[Document]:
        """The event that an alert's line repeats, once however many rules it is repeated for."""
        event = {key: value for key, value in alert.items() if key not in ("rule", "threat", "tags")}
        event["event"] = {**alert["event"], "kind": "event"}
        if event["event"].get("id") == self._previous.get("event", {}).get("id", self):
            self.skip("duplicate")
            return
        self._previous = event
        yield event

    def _is_header(self, document: Document) -> bool:
        own = document.get("sensor")
        if "event" in document or not isinstance(own, dict) or "recording" not in own:
            return False
        if own["recording"] != RECORDING:
            self.skip("version")
            self._note(f"recording format {str(own['recording'])[:20]} is not ours ({RECORDING})")
            raise _Unreadable
        if own.get("abi") != schema.ABI:
            self.skip("abi")
            self._note("recorded under another event table; keys that it lacks are absent")
        return True

    def _parquet(self, path: str) -> Iterator[Document]:
        from sensor import parquet, parquet_read  # pyarrow is optional, and slow to import

        if path == STDIN:
            raise UsageError("Parquet can't be read from a pipe: name the file")
        try:
            for document in parquet_read.read(path, self._limits.line_bytes, self._progress, self.skip):
                yield from self.accept(document)
        except parquet.Damaged as error:
            self.skip("parquet")
            self._note(f"reading stopped: {error}")

    def _note(self, sentence: str) -> None:
        self.note(self._name, sentence)


class _Unreadable(Exception):
    """The rest of the recording can't be used; counted and noted already."""


def _zstd_decoder() -> zstandard.ZstdDecompressionObj:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


def _open(path: str) -> io.BufferedReader:
    try:
        if path == STDIN:
            return open(sys.stdin.fileno(), "rb", closefd=False)
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
