"""An engine for test_content_incident.py: the sensor's own content, matcher and pipeline over a file of events.

The file stands for the ring: it keeps what comes while no engine is there, and what has been dealt with is
noted in ``position``. A rule with the id DEADLY ends the process by SIGABRT when it is evaluated the third
time, as a bug in a matcher would.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sensor import children, config, control
from sensor.arguments import Arguments
from sensor.content import running
from sensor.oversight import Oversight
from sensor.pipeline import Pipeline
from sensor.rulecache import RuleCache
from sensor.rulefiles import RuleFiles
from sensor.ruleload import RuleLoad
from sensor.rules.matcher import Matcher
from sensor.supervisor import Supervisor
from tests.unit import content_helpers

DEADLY = "00000000-0000-4000-8000-00000000dead"


class Live:
    """What Part needs of the live engine."""

    def __init__(self, pipeline: Pipeline, say: Any) -> None:
        self.pipeline, self._say, self.counts = pipeline, say, dict[str, dict[str, int]]()

    def content(self, values: tuple[Any, ...]) -> None:
        self._say(content=values)


def make_deadly() -> None:
    """Every matcher with the deadly rule aborts at its third document."""
    match, seen = Matcher.match, [0]

    def deadly(self: Matcher, document: Any) -> Any:
        if any(rule.id == DEADLY for rule in self.rules):
            seen[0] += 1
            if seen[0] == 3:
                os.abort()
        return match(self, document)

    Matcher.match = deadly  # type: ignore[method-assign]


def main() -> None:
    """The engine's process."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.setblocking(True)
    folder = Path(Arguments.parse(sys.argv[2]).rules[0])
    selection = running.Selection.parse(sys.argv[3])
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def say(**values: Any) -> None:
        os.write(log, json.dumps({"pid": os.getpid(), "at": time.monotonic(), **values}).encode() + b"\n")

    settings = config.load(folder / "sensor.yaml")
    make_deadly()
    content_helpers.patient()
    files, cache = RuleFiles.open([]), RuleCache(folder / "compiled")
    part = running.Part(selection, files, settings, RuleLoad(files, settings.rules, cache), channel.send,
                        lambda line: say(line=line))
    load = RuleLoad(files, settings.rules, cache)
    ready = part.first(load)
    pipeline = Pipeline(part.matcher(ready), correlator=ready.correlator)
    say(start=[(release or {}).get("version") for release in (part.selection.live, part.selection.other)],
        level=part.selection.level)
    live = Live(pipeline, say)
    channel.send(control.ready())
    selector = selectors.DefaultSelector()
    selector.register(channel, selectors.EVENT_READ)
    position = folder / "position"
    at = int(position.read_text()) if position.exists() else 0
    while True:
        if selector.select(0.02):
            data, fds, _, _ = socket.recv_fds(channel, children.SOCKET_BYTES, 8)
            message = json.loads(data) if data else {"kind": "stop"}
            if message["kind"] == "stop":
                return
            if message["kind"] == "content":
                part.take(message["selection"], fds)
        turned = part.turn(load) if part.turning else None
        if turned is not None:
            pipeline.use(part.matcher(turned), turned.correlator)
        lines = (folder / "events").read_bytes().splitlines()[at:]
        for line in lines:
            document = json.loads(line)
            alerts = pipeline.feed_document(document)
            at += 1
            position.write_text(str(at))
            say(seen=document["process"]["pid"], alerts=[alert["rule"]["name"] for alert in alerts])
        part.second(live, time.monotonic(), time.time())  # type: ignore[arg-type]
        channel.send(control.beat(at))


def supervise() -> None:
    """The supervisor's process: the real one, with this engine and no probes."""
    folder = sys.argv[1]
    start = children.start
    children.start = lambda module, *rest: start(  # type: ignore[assignment]
        {"sensor.engine": "tests.unit.content_engine"}.get(module, module), *rest)
    oversight = Oversight(Path(folder) / "state", print, boot="boot", root=Path(folder))
    supervisor = Supervisor([Arguments(rules=(folder,)).dump()], None, [], lambda _line: None, oversight, stay=True,
                            store=os.path.join(folder, "store"))
    sys.exit(supervisor.run())
