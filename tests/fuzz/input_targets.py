"""Targets of what the sensor reads: settings, recordings, ring records, the engine's messages."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from sensor import config, controlsocket, dns, replay
from sensor.boottime import BootClock
from sensor.control import VERDICTS, Request, kind_of, parse_request, parse_verdict, verdict
from sensor.document import Builder
from sensor.errors import ContentError, RecordError, UsageError
from sensor.hunting import Hunt
from sensor.kernel.decode import decode
from sensor.kernel.ring import CorruptRing, Ring
from sensor.outputs.ecs_json import encode
from sensor.pipeline import Pipeline
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.reading import REASONS, Limits, Reader
from sensor.record import open_recorder
from sensor.rules.condition import Network, Number, Order, Present, Regex, Relation, Text, negate
from sensor.rules.matcher import Matcher
from sensor.schema import Kind
from tests.conftest import ROOT
from tests.fuzz.harness import Target, in_file
from tests.fuzz.rule_targets import default_matcher, lines, recorded
from tests.unit.rules_helpers import made
from tests.unit.test_decode import KERNEL_EVENTS
from tests.unit.test_decode import encode as as_record
from tests.unit.test_ring import SIZE, HandMadeRing

_LIMITS = Limits(line_bytes=1 << 16, free_bytes=1 << 20)


def _settings(data: bytes) -> None:
    """Settings, and an expectation of replay, which is read by the same parser."""
    path = in_file(data, ".yaml")
    for read in (config.load, replay.load_expected):
        try:
            read(path)
        except (ContentError, UsageError) as error:
            assert str(error)


def _default_settings() -> list[bytes]:
    found = [path.read_bytes() for path in sorted(ROOT.rglob("systemd/*.yaml"))]
    return [*found, (ROOT / "docs/examples/intrusion.expect.yaml").read_bytes(),
            b"rules:\n  paths: [/etc/sensor/rules.d]\noutput:\n  to: [stdout]\nlimits:\n  memory: 200MiB\n",
            b"metrics:\n  listen: 127.0.0.1:9923\nwatch:\n  paths:\n    - /etc/shadow\n    - '/root/.ssh/*'\n",
            b"hooks:\n  file_open: fentry\nprobes:\n  disable: [shell]\n"]


def _recording(data: bytes, suffix: str) -> None:
    """A recording, from its first byte to the alerts: every loss has a reason, and every alert is a line."""
    path = in_file(data, suffix)
    for kind in ("auto", "ecs"):
        reader, alerts = Reader(kind, _LIMITS), _Lines()
        engine = Pipeline(default_matcher())
        try:
            replay.replay([path], reader, engine.feed_document, [alerts], finish=engine.finish)
        except UsageError as error:
            assert str(error)
        assert set(reader.skipped) <= set(REASONS), reader.skipped


class _Lines:
    def write(self, document: Any) -> None:
        encode(document)


def _packed(data: bytes) -> None:
    """zstd as it comes, and what is no zstd packed first."""
    if data[:4] != b"\x28\xb5\x2f\xfd":
        data = zstandard.ZstdCompressor(level=1).compress(data)
    _recording(data, ".zst")


def _parquet(data: bytes) -> None:
    _recording(data, ".parquet")


#: Planning takes DuckDB seconds for all default rules, and half of one for a keyword.
_FEW = tuple(made(number, condition, events=("process-exec", "file-open", "network-connect"))
             for number, condition in enumerate((
                 Text("process.args.1", Relation.EQUALS, "-c"), Regex("process.executable", "/(sh|bash)$"),
                 negate(Present("user.name")), Text("user.name", Relation.CONTAINS, "o"),
                 Number("process.pid", Order.GREATER, 500), Network("destination.ip", "10.0.0.0/8"))))


def _columns(data: bytes) -> None:
    """Lines that become Parquet: read back, hunted and replayed by columns they give what the lines give."""
    from sensor.batches import chunks

    accepted = list(Reader(limits=_LIMITS).documents(in_file(data, ".jsonl")))
    path = in_file(b"", ".parquet")
    os.unlink(path)
    recorder = open_recorder(Path(path), strict=True)
    for document in accepted:
        recorder.write(document)
    recorder.close()
    matcher = Matcher(_FEW)
    documents = list(Reader().documents(path))
    wanted = [(document, tuple(matched)) for document in documents if (matched := matcher.match(document))]
    assert list(Hunt(_FEW).run(path, Reader())) == wanted
    found = chunks(path, Reader(), _FEW, 1)
    assert found is not None
    assert [(document, tuple(_FEW[number] for number in numbers))
            for chunk in found for document, numbers in chunk.hits] == wanted


def _records(data: bytes) -> None:
    """A ring of whatever bytes, its records decoded, and those that are sound made into documents and alerts."""
    ring = _ring(data)
    table = ProcessTable("boot", 64, clock=BootClock(), users=Users(lambda _uid: None))
    builder = Builder(table, BootClock(), Users(lambda _uid: None))
    pipeline = Pipeline(default_matcher(), table, builder, all_events=True)
    for raw in ring:
        try:
            record = decode(raw)
        except RecordError as error:
            assert error.reason in ("short", "abi", "type")
            continue
        document, alerts = pipeline.feed(record)
        for each in (document, *alerts):
            if each is not None:
                encode(each)
    for document, _ in pipeline.notices(1 << 40, final=True):
        encode(document)


def _ring(data: bytes) -> list[bytes]:
    made = HandMadeRing()
    try:
        data = data[:SIZE - 8]
        for copy in (0, SIZE):
            os.pwrite(made.fd, data, 8192 + copy)
        os.pwrite(made.fd, struct.pack("<Q", len(data) & ~7), 4096)
        ring, found = Ring(made.fd, SIZE), []
        try:
            found = ring.read(ring.producer(), 100)
        except CorruptRing as error:
            assert str(error)
        finally:
            ring.release()
            ring.close()
        # Framed or not, the bytes are a record to the decoder too.
        return [*found, data[8:]]
    finally:
        os.close(made.fd)


def _sound_records() -> list[bytes]:
    """One framed record of each event, and all of the process events in a row."""
    found = []
    for event in KERNEL_EVENTS:
        values: list[Any] = [b"\x7f\0\0\1" + bytes(12) if item.kind is Kind.ADDRESS else b"a\0b\xff\0" if
                             item.kind.is_text else 2 for item in event.fields]
        found.append(as_record(event, {"pid": 7, "tid": 7, "start_ns": 5, "time_ns": 9}, values))
    framed = [struct.pack("<II", len(each), 0) + each + bytes(-len(each) % 8) for each in found]
    return [*framed, b"".join(framed[:4]), b"".join(framed[4:12])]


def _messages(data: bytes) -> None:
    """The engine's messages to the supervisor, requests to its control socket, and DNS messages."""
    assert kind_of(data) in (b"", b"SPLN", b"SRDY", b"SBEA", b"SVER")
    asked = controlsocket.parse(data)
    assert asked is None or asked.pack() == data
    found = parse_verdict(data)
    assert found is None or (verdict(found.release, found.reason) == data and found.reason in VERDICTS)
    try:
        request = parse_request(data)
    except UsageError as error:
        assert str(error)
    else:
        assert parse_request(request.pack()) == request
    dns.question(data)


def _requests() -> Sequence[bytes]:
    plan = Request((1 << 16, 1 << 20), 1 << 25, ("process", "file"), ((b"shadow", 1),), ("/etc/*",), ((4, "fentry"),))
    query = bytes.fromhex("1234010000010000000000000161076578616d706c6503636f6d0000010001")
    return [plan.pack(), query, controlsocket.Request(controlsocket.DRILLED, "guard", "ok").pack(),
            verdict("ab" * 32, "fault"), bytes(200)]


def _written(suffix: str) -> list[bytes]:
    path = Path(in_file(b"", suffix))
    os.unlink(path)
    recorder = open_recorder(path)
    for document in recorded():
        recorder.write(document)
    recorder.close()
    return [path.read_bytes()]


_JSON = ('{"event":{', '"action":"process-exec"', '"sensor":{"escaped":["', '"sensor":{"recording":1}', "null", "[[",
         "1e400", "\\ud800", '"event.action":', '"kind":"alert"', "-0", "99999999999999999999")
TARGETS = (
    Target("settings", "sensor.yaml, and expectations of replay", _settings, _default_settings,
           ("rules:", "  - ", "{", "[", "&a", "*a", "!!", "|", ">", "\n---\n", "'", '"', "? ", "1e9", "0x1f", "off"),
           4096),
    Target("jsonl", "recordings as JSON lines", lambda data: _recording(data, ".jsonl"), lines, _JSON),
    Target("zst", "recordings in zstd frames", _packed, lambda: [*_written(".jsonl.zst"), *lines()[:8]], _JSON),
    Target("parquet", "recordings in Parquet", _parquet, lambda: _written(".parquet"), ("PAR1",), 65_536, 100),
    Target("columns", "hunt and replay by columns say what replay by documents says", _columns,
           lambda: lines()[:12], _JSON, quick=20),
    Target("ring", "ring records, from the ring to documents", _records, _sound_records, (), 4096),
    Target("messages", "the engine's messages to the supervisor, and DNS questions", _messages, _requests,
           ("SPLN", "SRDY", "SBEA"), 75_000),
)
