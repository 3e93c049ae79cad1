"""The benchmark's events: the same everywhere, and of the shape that the sensor makes."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from sensor import schema, shape
from tests.bench import contenders, events


def test_stream_is_the_same_each_time_and_sound():
    """Two runs give equal documents, each of an event and a shape of the event table."""
    first, second = list(events.documents(3000)), list(events.documents(3000))
    assert first == second
    actions = {event.action for event in schema.EVENTS}
    assert all(shape.sound(document) and document["event"]["action"] in actions for document in first)
    kinds = Counter(document["event"]["dataset"] for document in first)
    assert kinds["sensor.file_open"] > kinds["sensor.process_exec"] > kinds["sensor.file_rename"] > 0


def test_cached_file_holds_the_stream(tmp_path):
    """What is read back in batches is what was made, and no more than was asked for."""
    path = events.cached(600, tmp_path)
    assert path == events.cached(600, tmp_path)
    lines = [line for batch in contenders.batches(path, 500) for line in batch]
    assert len(lines) == 500
    import orjson

    assert [orjson.loads(line) for line in lines] == list(islice(events.documents(600), 500))
