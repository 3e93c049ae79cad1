"""The engine: everything that reads hostile input, without any privilege.

It starts as root for three things only: to read /proc for the process table, to open what the
operator named on the command line, and to import. Then it drops everything, and only then
reads its first setting, rule or record.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor import config, control, hardening, importable, native, privileges
from sensor.arguments import Arguments
from sensor.boottime import BootClock
from sensor.children import SOCKET_BYTES
from sensor.content import running
from sensor.crashes import database
from sensor.crashes.telling import told
from sensor.document import Builder
from sensor.engine_rules import EngineRules
from sensor.errors import SensorError, UsageError
from sensor.http import MetricsServer, serve
from sensor.kernel.hooks import families_for
from sensor.kernel.ring import Ring
from sensor.kernel.stream import KernelCounters, Stream
from sensor.kernel.throttles import Throttles
from sensor.live import Live, Outputs, totals
from sensor.metrics import Histogram, Metrics
from sensor.options import METRICS_OFF
from sensor.outputs.terminal import terminal_safe
from sensor.pipeline import Pipeline
from sensor.process.seed import Found, Reader, host_user_name
from sensor.process.users import Users
from sensor.rulecache import RuleCache
from sensor.rulechild import Starter
from sensor.rulefiles import RuleFiles
from sensor.ruleload import RuleLoad, cache_home
from sensor.safe_yaml import read_descriptor
from sensor.schema import BY_ID, BY_NAME
from sensor.snapshot import Facts, take
from sensor.switches import state_home
from sensor.watch import WatchList
from sensor.zygote import Zygote


def boot_ns() -> int:
    """CLOCK_BOOTTIME in ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_offset_ns() -> int:
    """What to add to CLOCK_BOOTTIME for the time of day, in ns."""
    return time.time_ns() - boot_ns()


@dataclass(slots=True)
class _Opened:
    """What was opened or read as root."""

    found: list[Found]
    rules: RuleFiles
    config: tuple[str, int] | None  # display path, descriptor
    outputs: Outputs
    boot_id: str
    cache: Path | None = None
    state: Path | None = None
    selection: running.Selection = field(default_factory=running.Selection)  # its directories are open
    starter: Starter | None = None  # of processes that parse rules, where this one may start none
    confined: bool = False  # to leave itself only the files that it needs


def _open_config(path: str | None) -> tuple[str, int] | None:
    if path is None:
        if not Path(config.DEFAULT_PATH).exists():
            return None
        path = config.DEFAULT_PATH
    try:
        return path, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error


def _found(item: dict[str, Any]) -> Found:
    """A process as the loader wrote it: JSON has no tuples."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in item["values"].items()}
    return Found(**{**item, "values": values})


def _open(arguments: Arguments, selection: running.Selection) -> _Opened:
    outputs = Outputs()
    outputs.open(arguments.output, arguments.record)
    return _Opened(list(Reader().processes()), RuleFiles.open(arguments.rules), _open_config(arguments.config),
                   outputs, Path("/proc/sys/kernel/random/boot_id").read_text().strip(), cache_home(), state_home(),
                   selection)


HEALTHY_SECONDS = 10.0  # the loop beats every second


class Engine:
    """One engine process.

    Args:
        channel: To the supervisor.
        arguments: From the command line.
        opened: What root opened.
    """

    def __init__(self, channel: socket.socket, arguments: Arguments, opened: _Opened) -> None:
        self._channel, self._arguments, self._opened = channel, arguments, opened
        self._settings = self._read_settings()
        if opened.confined:
            self._confine()
        self._facts = Facts()
        self._rules = self._first_rules()
        self._clock = BootClock(wall_offset_ns())
        users = Users(host_user_name)
        self._users = users
        every = self._every() or opened.outputs.recorder is not None
        self._table = native.table(opened.boot_id, self._settings.limits.processes, self._clock, users, every=every)
        self._table.seed(opened.found)
        opened.found.clear()
        self._watch = WatchList(self._settings.watch.paths)
        self._live: Live | None = None
        self._pipeline: Pipeline | None = None
        self._stop = False
        self._next_second = 0.0
        self._alive = time.monotonic()
        self._metrics = self._serve_metrics()  # last: a scrape may have waited for it

    def _every(self) -> bool:
        return (self._arguments.events or self._settings.events) == "all"

    # --- settings and rules -------------------------------------------------------------------

    def _beat(self) -> None:
        """Say that this is alive, though it sees nothing yet."""
        with contextlib.suppress(OSError):  # the supervisor's end is noticed where its answer is waited for
            self._channel.send(control.beat(0), socket.MSG_DONTWAIT)

    def _read_settings(self) -> config.Settings:
        if self._opened.config is None:
            return config.Settings()
        display, fd = self._opened.config
        return config.loads(read_descriptor(fd, display), display)

    def _confine(self) -> None:
        """Leave only the files that the settings and the command line speak of."""
        rules, output = self._settings.rules, self._arguments.output or self._settings.output.spec
        reading = [f"/proc/self/fd/{root.fd}" for root in (self._opened.rules.default, *self._opened.rules.named)]
        reading += [path for path in (*rules.paths, *rules.pipelines) if path.startswith("/")]
        reading += [str(path) for path in (self._opened.state,) if path is not None]
        writing = [str(path.parent) for path in (self._opened.cache,) if path is not None]
        writing += [os.path.dirname(path) for path in (output, self._arguments.record) if path and "/" in path]
        hardening.files(reading, writing)

    def _first_rules(self) -> EngineRules:
        """The rules at the start. Raises UsageError when there is none."""
        opened, settings, cache = self._opened, self._settings, RuleCache(self._opened.cache)
        load, side = (RuleLoad(opened.rules, settings.rules, cache, opened.state, opened.starter, self._beat)
                      for _ in range(2))
        content = running.Part(opened.selection, opened.rules, settings, side, self._channel.send, self._say)
        return EngineRules(load, content, settings.rules, self._facts, self._say)

    def _serve_metrics(self) -> MetricsServer | None:
        listen, inherited = self._arguments.metrics or self._settings.metrics.listen, self._arguments.metrics_fd
        if listen == METRICS_OFF:
            return None
        return serve(listen, Metrics(lambda: take(self._live, self._facts)), self._healthy, self._not_ready,
                     inherited=inherited)

    def _healthy(self) -> str:
        silent = time.monotonic() - self._alive
        return "" if silent < HEALTHY_SECONDS else f"the engine has made no progress for {silent:.0f} s"

    def _not_ready(self) -> str:
        if self._facts.info.get("passive"):
            return f"passive: {self._facts.info['passive']['reason']}"
        return "" if self._live is not None else "the probes are being loaded"

    def _request(self) -> control.Request:
        limits, families = self._settings.limits, families_for(self._settings.probes.families)
        names = control.watch_entries(sorted(self._watch.leaves), sorted(self._watch.parents))
        patterns = tuple(pattern.text for pattern in self._watch.patterns)
        hooks = tuple((BY_NAME[event].id, kind) for event, kind in self._settings.hooks.items())
        return control.Request((limits.process_ring_kib << 10, limits.ring_kib << 10), limits.kernel_memory_mib << 20,
                               tuple(name for name in control.FAMILY_BITS if name in families), names, patterns, hooks,
                               control.Bounds(round(limits.kernel_cpu * 10_000), limits.program_ns,
                                              limits.cgroup_events))

    # --- serving ------------------------------------------------------------------------------

    def run(self) -> None:
        """Ask for the probes, then read records until told to stop or the supervisor is gone."""
        self._channel.send(self._request().pack())
        selector = selectors.DefaultSelector()
        selector.register(self._channel, selectors.EVENT_READ)
        tick = self._settings.engine.tick_ms / 1000
        wait = tick
        while not self._stop:
            if selector.select(wait):
                self._message()
            more = self._live.tick() if self._live is not None else False
            self._rules.turn()
            now = time.monotonic()
            if now >= self._next_second:
                self._next_second = now + 1.0
                self._second()
            elif self._live is not None:
                self._live.flush()
            wait = 0.0 if more else tick
        if self._live is not None:
            self._live.state("stop", "the sensor stops")
            self._live.drain()
            self._summary()

    def _message(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._channel, SOCKET_BYTES, 8)
        except ConnectionResetError:  # it was killed before it had read our last beat
            data, fds = b"", []
        if not data:
            raise SensorError("the supervisor is gone")
        message = json.loads(data)
        if message["kind"] == "rings":
            self._begin(message, fds)
        elif message["kind"] == "stop":
            self._stop = True
        elif message["kind"] == "reload":
            self._rules.reload()
        elif message["kind"] == "content":
            self._rules.content.take(message["selection"], fds)
        elif message["kind"] == "statistics":
            self._statistics(message)
        elif message["kind"] == "loss_drill" and self._live is not None:
            self._live.rehearse_loss(message["count"])
        elif message["kind"] == "health":
            self._facts.health = message
        elif message["kind"] == "state":
            self._state(message["state"], message["detail"])
        elif message["kind"] == "tampered":
            self._facts.tampered[message["part"]] += 1
            if self._live is not None:
                self._live.state("tampered", message["sentence"][:1000])
        elif message["kind"] == "crashes":
            self._crashes(message["search"], fds)
        elif message["kind"] == "drill":
            self._drilled(message)

    def _begin(self, info: dict[str, Any], fds: list[int]) -> None:
        self._facts.info = info
        self._facts.drills = {(drill, result): float(number) for drill, result, number in info["drills"]}
        outputs = self._opened.outputs
        if outputs.output is None and outputs.recorder is None:
            outputs.open(self._settings.output.spec, None)
        outputs.all_events = self._every()
        for fd in fds[4:]:  # the processes that were born between our own look at /proc and the probes
            with open(fd, encoding="ascii") as file:
                file.seek(0)
                self._table.seed(_found(item) for item in json.load(file))
        builder = Builder(self._table, self._clock, self._users, generation=info["generation"])
        pipeline = native.pipeline(
            self._rules.matcher, self._table, builder, watch=self._watch, correlator=self._rules.correlator,
            all_events=outputs.all_events or outputs.recorder is not None,
            first_sequence=0 if info["restarts"] == 0 else None)
        self._pipeline = pipeline
        if info["passive"]:
            self._state("passive", f"nothing is seen: {info['passive']['reason']}")
            self._channel.send(control.ready())
            return
        rings = [Ring(fd, size) for fd, size in zip(fds, info["rings"], strict=False)]
        self._live = Live(pipeline, Stream(rings), KernelCounters(fds[2], info["cpus"]), outputs, boot_ns,
                          self._observe, self._rules.sample, Throttles(fds[3]), self._say)
        self._rules.live = self._live
        state = "engine_restart" if info["restarts"] else "start"
        self._live.state(state, f"{len(info['programs'])} hooks attached, {self._rules.count} rules")
        if info["restricted"]:
            self._live.state("reduced", info["restricted"])
        for failure in info["failures"]:
            self._live.state("probe_failed", f"{failure['program']} ({failure['target']}): {failure['reason']}"[:500])
        self._channel.send(control.ready())

    def _statistics(self, message: dict[str, Any]) -> None:
        self._facts.statistics, self._facts.breaker = message["programs"], message
        self._facts.requests_dropped = message["dropped"]
        if self._live is not None:
            for step in message["steps"]:
                self._live.breaker(step)

    def _state(self, state: str, detail: str) -> None:
        """What the supervisor tells of itself; in passive mode too."""
        if self._pipeline is not None:
            self._opened.outputs.tell([self._pipeline.state(state, detail[:500], now_ns=boot_ns())])
            for each in self._opened.outputs.each():
                each.flush()

    def _crashes(self, search: str, fds: list[int]) -> None:
        """Count the crashes of this host, and tell those that this search has found."""
        for fd in fds:
            with open(fd, "rb") as file:
                self._facts.crashes = database.read(file.read(database.FILE_BYTES))
        for crash in self._facts.crashes:
            if search and crash.scan == search and self._pipeline is not None:
                self._opened.outputs.tell([self._pipeline.crash(told(crash), now_ns=boot_ns())])
        for each in self._opened.outputs.each():
            each.flush()

    def _drilled(self, message: dict[str, Any]) -> None:
        """Count a drill and tell of it; without probes too."""
        self._facts.drills = {(drill, result): float(number) for drill, result, number in message["counts"]}
        if self._pipeline is not None:
            self._opened.outputs.tell([self._pipeline.state("drill", message["detail"], now_ns=boot_ns())])

    def _observe(self, kind: int, latency_ns: int) -> None:
        name = BY_ID[kind].name
        if name not in self._facts.latency:
            self._facts.latency[name] = Histogram()
        self._facts.latency[name].observe(latency_ns / 1e9)

    def _second(self) -> None:
        self._alive = time.monotonic()
        self._rules.look(self._alive)
        if step := self._clock.set(wall_offset_ns()):
            self._clock_set(step)
        events = 0
        if self._live is not None:
            self._live.second()
            self._rules.content.second(self._live, time.monotonic(), time.time())
            self._rules.budgets()
            events = sum(self._live.pipeline.counters.received.values())
        try:
            self._channel.send(control.beat(events), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # the supervisor is busy; the next beat will do

    def _clock_set(self, step: int) -> None:
        """Somebody has set the wall clock: windows of correlations go on as if it had always been so."""
        if self._pipeline is not None and self._pipeline.correlator is not None:
            self._pipeline.correlator.shift(step)
        self._rules.content.shift(step)
        if self._live is not None:
            self._live.state("clock_set", f"the clock was set {'forward' if step > 0 else 'back'} by "
                                          f"{abs(step) / 1e9:.0f} s; event.sequence keeps the order")

    def _summary(self) -> None:
        assert self._live is not None
        self._say(json.dumps(totals(self._live)))

    @staticmethod
    def _say(message: str) -> None:
        sys.stderr.write(f"sensor: {terminal_safe(message)}\n")
        sys.stderr.flush()


def main() -> None:
    """Entry point of the engine's process: descriptor of the channel, then the arguments as JSON."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor tells us when to stop
    status = 0
    try:
        channel = socket.socket(fileno=int(sys.argv[1]))
        arguments = Arguments.parse(sys.argv[2])
        parent = os.getppid()
        opened = _open(arguments, running.Selection.parse(sys.argv[3]))
        native.extension()  # while root can still reach it
        if os.geteuid() == 0:
            imports = importable.keep()
            privileges.drop(*privileges.ids_of(), parent)
            opened.starter, opened.confined = Zygote(imports).start, True
            hardening.calls()
        Engine(channel, arguments, opened).run()
    except SensorError as error:
        sys.stderr.write(f"sensor: {error}\n")
        status = error.exit_status
    sys.stdout.flush()
    sys.exit(status)
