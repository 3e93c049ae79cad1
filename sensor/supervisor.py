"""The supervisor: root, small, no parser. Holds the probes' descriptors; starts and watches the engine.

Probes live exactly as long as this process: when it dies, however it dies, the kernel closes
its descriptors and detaches everything. It understands three fixed-size messages of the engine
(control.py) and JSON of the loader, a child of its own that runs as root.

Standard library only. Must stay readable in one sitting.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensor import control, engine_child
from sensor.content.keeper import POLL_SECONDS, Keeper
from sensor.controlsocket import STATUS, ControlSocket, Request
from sensor.daemonfacts import Run, facts
from sensor.drills import Drills, boot_guard, lost
from sensor.engine_child import EngineChild
from sensor.errors import UsageError
from sensor.governor import Governor
from sensor.guard import HEALTHY_SECONDS as GUARD_SECONDS
from sensor.guard import PASSIVE
from sensor.health import Finding
from sensor.integrity import Integrity
from sensor.kernel.plan import Plan, possible_cpus
from sensor.loaded import Load
from sensor.loading import Loading
from sensor.oversight import SCAN_SECONDS, Oversight
from sensor.vigil import Vigil

OWN_DELAY_SECONDS = 5.0  # this process had no time itself, or was stopped: silence then says nothing of the engine
STOP_SECONDS = 15.0
BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_SECONDS = 600.0  # after which the back-off begins anew
STATUS_USAGE, STATUS_HOST = 2, 3


class Supervisor:
    """One run of the sensor.

    Args:
        arguments: Passed to the engine as they are (JSON of its options).
        duration: Seconds after which it stops by itself, counted from readiness; None: never.
        keep: Descriptors that the engine inherits (an opened output).
        notify: Sends a line to the service manager (sd_notify); a no-op elsewhere.
        stay: Without probes, stay up in passive mode with the reason, instead of ending with status 3.
        once: An engine that fails ends the run with its status, instead of being started again.
        oversight: Says what may be loaded.
        store: Directory of content releases, or None for none.
        runtime: Directory of the control socket, or None for none.
    """

    def __init__(self, arguments: list[str], duration: float | None, keep: list[int],
                 notify: Callable[[str], None], oversight: Oversight, *, stay: bool, once: bool = False,
                 store: str | None = None, runtime: Path | None = None) -> None:
        self._arguments, self._duration, self._keep = arguments, duration, keep
        self._notify, self._oversight, self._stay, self._once = notify, oversight, stay, once
        self._selector = selectors.DefaultSelector()
        self._engine = EngineChild(self._selector, self._heard, self._say)
        self._loading = Loading(self._selector, self._after, self._say, notify,
                                self._taken, self._loaded)
        self._governor = Governor(self._say)
        self._vigil = Vigil(self._selector, self._after, self._say, self._unhealthy, self._loading.answer,
                            lambda: self._load, lambda: self._serving, self._engine.tell)
        self._plan: Plan | None = None  # what is loaded, and of what the first engine asked for
        self._asked: tuple[tuple[str, ...], tuple[int, int]] = ((), (0, 0))
        self._deadlines: dict[str, float] = {}  # name -> monotonic time; see _due
        self._restarts, self._ready, self._stopping = 0, False, False
        self._status, self._serving = 0, False  # serving: this engine reads records
        self._content = Keeper(store, self._say)
        self._integrity = Integrity()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._begun, self._events, self._runtime = time.monotonic(), 0, runtime
        self._drills = Drills({
            "guard": lambda: boot_guard(oversight),
            "breaker": self._governor.rehearse,
            "canary": self._vigil.rehearse,
            "loss": lambda: lost(self._engine.tell, serving=self._serving),
        }, self._say, self._engine.tell)
        self._control = ControlSocket(self._selector, self._answer, self._say)

    @property
    def _load(self) -> Load:
        """What is in the kernel."""
        return self._loading.load

    def run(self) -> int:
        """Serve until a signal, the duration's end or a fatal error; return the exit status."""
        self._catch_signals()
        self._oversight.begin()
        if self._runtime is not None:
            self._control.open(self._runtime)
        self._begin_engine()
        try:
            while self._engine.process is not None or "restart" in self._deadlines:
                self._turn()
        finally:
            self._detach()
            self._loading.kill()
            self._engine.kill()
            self._oversight.end_search()
            self._control.close()
        return self._status

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            # What came before it in this turn may have let go of it: an engine's death tells of its channel's end, too.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        self._due()

    # --- signals and time ---------------------------------------------------------------------

    def _catch_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up pipe carries it
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_signal)

    def _on_signal(self) -> None:
        for number in os.read(self._wake_read, 64):
            if number in (signal.SIGTERM, signal.SIGINT):
                self.stop()
            elif number == signal.SIGHUP:
                self._reload()
        self._reap()

    def _reload(self) -> None:
        """Look at the switches; the engine reads its rules. Probes come or go with an engine that begins anew."""
        self._oversight.refresh()
        if reason := self._oversight.disabled():
            self._say(reason)
            self.stop()
        elif self._load.done and (self._oversight.standing().mode == PASSIVE) != self._passive:
            self._say("the passive switch has changed; the engine is started again")
            self._begin_anew()
        else:
            self._engine.tell({"kind": "reload"})

    def _begin_anew(self) -> None:
        """Unload everything; the next engine asks for it again."""
        self._detach()
        self._loading.anew()
        self._plan = None
        self._end_engine()

    def _end_engine(self) -> None:
        """It ends, and another is started."""
        self._engine.told_to_end = True
        self._engine.tell({"kind": "stop"})
        self._after("silent", STOP_SECONDS)

    @property
    def _passive(self) -> bool:
        """Whether somebody has decided against probes, whom this kernel could carry."""
        return self._load.fatal is not None and self._load.fatal["lack"] in ("operator", "guard")

    def _timeout(self) -> float:
        nearest = min(self._deadlines.values(), default=time.monotonic() + 3600)
        return max(0.0, nearest - time.monotonic())

    def _due(self) -> None:
        now = time.monotonic()
        actions = {"restart": self._begin_engine, "silent": self._engine_silent, "load": self._loading.late,
                   "duration": self.stop, "stop": self._stop_late, "statistics": self._send_statistics,
                   "guard": self._oversight.healthy, "search": self._oversight.end_search,
                   "content": self._watch_content, **self._vigil.actions}
        for name in [name for name, at in self._deadlines.items() if at <= now]:
            at = self._deadlines.pop(name, None)
            if at is None:  # what was due before it has ended it, as a detachment ends the watch over probes
                continue
            if name == "silent" and now - at > OWN_DELAY_SECONDS:
                self._expect()
                continue
            actions[name]()

    def _after(self, name: str, seconds: float) -> None:
        self._deadlines[name] = time.monotonic() + seconds

    # --- the engine ---------------------------------------------------------------------------

    def _begin_engine(self) -> None:
        """Start one; the host may have no descriptor or process for it."""
        try:
            self._start_engine()
        except OSError as error:
            reason = f"the engine can't be started: {error.strerror}"
            if self._ready:
                self._say(f"{reason}; tried again in {BACKOFF_SECONDS[-1]:.0f} s")
                self._after("restart", BACKOFF_SECONDS[-1])
            else:
                self._fail(STATUS_HOST, f"{reason}\n  fix: raise the limit of open files (ulimit -n) or of processes")

    def _start_engine(self) -> None:
        selection, fds = self._content.begin()
        try:
            self._engine.start([*self._arguments, selection], [*self._keep, *fds])
        finally:
            for fd in fds:
                os.close(fd)
        self._after("content", POLL_SECONDS)
        self._serving, self._events = False, 0
        self._after("silent", engine_child.ENGINE_SILENT_SECONDS * 2)

    def _heard(self, data: bytes) -> None:
        kind = control.kind_of(data)
        if kind == control.MAGIC_PLAN:
            self._on_plan(data)
        elif kind == control.MAGIC_READY:
            self._on_ready()
        elif kind == control.MAGIC_VERDICT:
            self._watch_content(force=self._content.verdict(data))
        elif kind == control.MAGIC_BEAT:
            self._events = control.events_of(data)
        else:
            self._say(f"a malformed request of {len(data)} bytes from the engine was dropped")
            return
        self._engine.lives()
        self._expect()

    def _expect(self) -> None:
        """From now on the engine has so many seconds to say something."""
        self._engine.expected()
        self._after("silent", engine_child.ENGINE_SILENT_SECONDS)
        self._notify("WATCHDOG=1")

    def _on_plan(self, data: bytes) -> None:
        try:
            cpus = possible_cpus(Path("/sys/devices/system/cpu/possible").read_text())
            plan = Plan.of(control.parse_request(data), cpus)
        except UsageError as error:
            self._fail(STATUS_USAGE, str(error))
            return
        if self._load.done and self._plan is not None:
            if (plan.families, plan.rings) != self._asked:
                self._say("probe families and ring sizes change only with a restart of the service")
            self._hand_over()
        elif not self._loading.busy:
            self._plan, self._asked = self._oversight.limit(plan), (plan.families, plan.rings)
            self._start_loader()

    def _watch_content(self, *, force: bool = False) -> None:
        """Tell the engine of another selection of rules, made by itself or by an operator."""
        self._after("content", POLL_SECONDS)
        changed = self._content.changed(force=force)
        if changed is not None:
            text, fds = changed
            self._engine.hand({"kind": "content", "selection": text}, fds)
            self._content.told()

    def _on_ready(self) -> None:
        self._content.told()
        if not self._ready:
            self._ready = True
            if self._duration is not None:
                self._after("duration", self._duration)
        self._notify("READY=1")
        if self._oversight.search():  # only now: nothing waits for it
            self._after("search", SCAN_SECONDS)
        self._serving = True
        self._tell_crashes()

    def _tell_crashes(self) -> None:
        """The engine counts what the database holds; one of them tells what this run's search has found."""
        if self._serving and (fd := self._oversight.database()) is not None:
            self._engine.hand({"kind": "crashes", "search": self._oversight.untold()}, [fd])

    def _hand_over(self) -> None:
        """Give the engine what it may have: rings and counters, never a link or a filter map."""
        assert self._plan is not None
        passive = self._load.fatal
        info = {"kind": "rings", "rings": self._plan.rings, "cpus": self._plan.cpus,
                "memory": self._plan.memory(), "restarts": self._restarts, "missing": self._load.missing,
                "generation": self._loading.generation, "programs": self._load.programs,
                "failures": self._load.failures, "absent": self._load.absent, "passive": passive,
                "restricted": self._oversight.restriction, "strikes": self._oversight.strikes,
                "drills": self._drills.counts}
        names = () if passive else ("ring_process", "ring_events", "counters", "budgets")
        try:
            if not passive:
                self._integrity.begin(self._load, self._engine.pid)
        except OSError as error:  # what the sensor does itself would be reported, and reported again
            self._refuse(f"the probes can't be told which processes are the sensor's: {error}", "sensor doctor")
            return
        self._engine.tell(info, [*(self._load.maps[name] for name in names), *self._load.seed])
        # For the first engine only: a later one reads /proc itself while it is root.
        for fd in self._load.seed:
            os.close(fd)
        self._load.seed = []
        if not passive:
            self._governor.begin(self._load, self._plan.bounds, self._plan.cpus)
        self._vigil.report()
        self._after("statistics", 0.0)

    def _engine_silent(self) -> None:
        if self._engine.excused():
            self._expect()
            return
        seconds = engine_child.ENGINE_SILENT_SECONDS
        self._say(f"the engine was silent for {seconds:.0f} s; it is ended and started again")
        self._engine.kill()

    def _engine_ended(self, status: int) -> None:
        self._integrity.engine_ended(self._load)
        self._deadlines.pop("silent", None)
        if self._stopping:
            self._status = self._status or max(status, 0)
            return
        crashed = status not in (0, STATUS_USAGE, STATUS_HOST) and not self._once
        worth = crashed and self._content.died(stay=self._stay)
        if status == 0:  # told to begin anew
            self._content.stopped()
        hopeless = not self._ready and not worth and not self._engine.told_to_end
        if hopeless or self._once:  # its message stands on stderr; trying again can't help
            self._status = status if status > 0 else 1
            self._stopping = True
            return
        if time.monotonic() - self._engine.started > HEALTHY_SECONDS:
            self._restarts = 0
        delay = BACKOFF_SECONDS[min(self._restarts, len(BACKOFF_SECONDS) - 1)]
        self._restarts += 1
        how = f"signal {-status}" if status < 0 else f"status {status}"
        self._say(f"the engine ended by {how}; start {self._restarts} again in {delay} s")
        self._after("restart", delay)

    # --- the loader ---------------------------------------------------------------------------

    def _start_loader(self) -> None:
        assert self._plan is not None
        standing = self._oversight.standing()
        if standing.mode == PASSIVE:
            self._refuse(standing.reason, standing.fix, standing.lack)
            return
        self._oversight.arm()
        self._vigil.begin()
        try:
            self._loading.start(self._plan)
        except OSError as error:
            self._refuse(f"the loader can't be started: {error}", "make room in /tmp; more open files (ulimit -n)")

    def _taken(self, message: dict[str, Any]) -> None:
        self._oversight.loaded(self._load.tags)
        self._vigil.heard(message)

    def _loaded(self) -> None:
        self._deadlines.pop("load", None)
        if self._stopping:
            self._detach()
            return
        for failure in self._load.failures:
            self._say(f"probe {failure['program']} ({failure['target']}) failed: {failure['reason']}\n"
                      f"{failure.get('log', '')}")
        if self._load.fatal is not None:
            self._no_probes(self._load.fatal)
        else:
            self._after("guard", GUARD_SECONDS)
            self._vigil.loaded()
        if not self._stopping:  # _no_probes may have ended it
            self._hand_over()
            if self._oversight.standing().mode == PASSIVE:  # switched meanwhile
                self._reload()

    def _refuse(self, reason: str, fix: str, lack: str = "load") -> None:
        """Go on, or end, without probes."""
        self._loading.lack(reason, fix, lack)
        assert self._load.fatal is not None
        self._no_probes(self._load.fatal)
        if not self._stopping:
            self._hand_over()

    def _no_probes(self, fatal: dict[str, str]) -> None:
        self._detach()
        fix = f"\n  fix: {fatal['fix']}" if fatal["fix"] else ""
        if self._stay:
            self._load.done = True
            self._say(f"passive, nothing is seen: {fatal['reason']}{fix}")
            self._notify(f"STATUS=passive, nothing is seen: {fatal['reason']}")
        else:
            self._fail(STATUS_HOST, f"{fatal['reason']}{fix}")

    def _unhealthy(self, finding: Finding) -> None:
        """Everything is detached at once; after a drill it is loaded again."""
        done = self._load.done
        self._detach()
        detail = f"{'drill: ' if finding.drill else ''}{finding.detail}"
        self._say(f"all probes are detached: {detail}")
        self._engine.tell({"kind": "state", "state": "detached", "detail": detail})
        if finding.drill:
            self._begin_anew()
            return
        self._loading.lack(finding.detail, "sensor crashes; then start it again", finding.lack)
        if not done:  # the end of the loader's channel tells
            self._loading.kill()
        elif self._load.fatal is not None:
            self._no_probes(self._load.fatal)
            if not self._stopping:
                self._end_engine()

    # --- the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Detach, let the engine drain its rings, end."""
        if self._stopping:
            return
        self._stopping = True
        self._notify("STOPPING=1")
        self._content.stopped()
        self._deadlines.clear()
        self._detach()
        self._loading.kill()
        self._engine.tell({"kind": "stop"})
        self._after("stop", STOP_SECONDS)

    def _fail(self, status: int, message: str) -> None:
        self._say(message)
        self._status = status
        self.stop()

    def _stop_late(self) -> None:
        self._say(f"the engine did not stop within {STOP_SECONDS:.0f} s and was ended")
        self._status = self._status or 1
        self._engine.kill()

    def _detach(self) -> None:
        self._governor.end()
        self._vigil.end()
        self._loading.let_go()
        self._deadlines.pop("guard", None)
        self._oversight.clear()

    def _send_statistics(self) -> None:
        self._after("statistics", self._governor.round())
        if not self._governor.sampling:
            heard = self._serving and self._engine.connected
            self._engine.tell({**self._governor.report(heard=heard), "dropped": self._engine.dropped})
            for change in self._integrity.check(self._load):
                self._say(f"tampered with: {change.sentence}")
                self._engine.tell({"kind": "tampered", "part": change.part, "sentence": change.sentence})

    def _answer(self, request: Request) -> dict[str, Any]:
        """To a request on the control socket."""
        if request.kind != STATUS:
            return self._drills.run(request)
        memory = self._plan.memory() if self._plan is not None and self._load.maps else 0
        run = Run(self._begun, self._engine.pid, self._engine.started, self._restarts, self._serving, self._events,
                  memory)
        return facts(run, self._load, self._oversight, self._content)

    def _reap(self) -> None:
        self._loading.reap()
        self._vigil.reap()
        if self._oversight.searched():
            self._tell_crashes()
        status = self._engine.ended()
        if status is not None:
            self._engine_ended(status)

    def _say(self, message: str) -> None:
        # Plain stderr: systemd puts it into the journal, a terminal shows it.
        sys.stderr.write(f"sensor: {message.strip()}\n")
        sys.stderr.flush()
