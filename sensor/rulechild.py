"""Parses rules in a process that is thrown away, for the engine.

What a hostile file may do to a parser (crash it, keep it busy, fill its memory, take it over) it does to a
process with bounded memory and time, without network, and without anything to write to but the answer. The
engine reads the files and gives their bytes, so the child opens none of them; the answer is plain data that
the engine checks value by value (rules/plain.py).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sensor import children, confine
from sensor.errors import SensorError, UsageError
from sensor.outputs.terminal import terminal_safe
from sensor.rules import plain
from sensor.rules.files import Gathered
from sensor.rules.model import Options, RuleSet

#: Much longer than the CPU time: the machine has other work, most of all while it boots.
WALL_SECONDS = 120.0
_PATIENCE = 2  # times as long for a polite one: nobody waits for it, and it lets everybody else go first
_WAITING_SECONDS = 5.0  # between two signs of life
_MESSAGE = 4096  # characters of an error that are shown
_REFUSED = 2  # exit status: the output is a message
_NICE = 5  # events come first


#: Module whose ``main`` the child runs.
ENTRY = __name__


class NoChild(UsageError):
    """The system gave no process. That says nothing about the rules."""


class Interrupted(UsageError):
    """The host had no time or memory for it. Trying again may do, so a service is to be started again."""

    exit_status = SensorError.exit_status


class Process(Protocol):
    """What a parent needs of a child, as subprocess.Popen has it."""

    def poll(self) -> int | None:
        """Its status, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its status. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """End it."""


#: Job, output, whether to let others go first.
Starter = Callable[[int, int, bool], Process]


class Child:
    """One such process.

    Args:
        gathered: Files as they were read.
        options: From the settings.
        polite: Let others go first. Not where they wait for the rules.
        starter: Starts it, where this process may not.

    Raises:
        NoChild: It can't be started.
    """

    def __init__(self, gathered: Gathered, options: Options, *, polite: bool = True,
                 starter: Starter | None = None) -> None:
        self._output = os.memfd_create("rules-compiled", os.MFD_CLOEXEC)
        job = -1
        try:
            job = _job(gathered, options)
            self._process = (starter or start)(job, self._output, polite)
        except OSError as error:
            os.close(self._output)
            raise NoChild(f"no process could be started to read the rules: {error}") from error
        finally:
            if job >= 0:
                os.close(job)
        self._limit = WALL_SECONDS * (_PATIENCE if polite else 1)
        self._deadline = time.monotonic() + self._limit

    @property
    def ended(self) -> bool:
        """Whether it is at its end."""
        return self._process.poll() is not None

    @property
    def late(self) -> bool:
        """Whether it takes too long."""
        return time.monotonic() > self._deadline

    def result(self, seconds: float | None = None, waiting: Callable[[], None] = lambda: None) -> bytes:
        """What it made, for plain.load. Closes everything.

        Args:
            seconds: Waits at most so long; as long as it may take, if not said.
            waiting: Called now and then meanwhile: somebody may take who waits here for dead.

        Raises:
            UsageError: It refused the rules, or ended in any other way. Interrupted is one of them.
        """
        status: int | None = None
        end = time.monotonic() + (self._limit if seconds is None else seconds)
        while status is None:
            left = end - time.monotonic()
            try:
                status = self._process.wait(max(0.0, min(left, _WAITING_SECONDS)))
            except subprocess.TimeoutExpired:
                if left <= _WAITING_SECONDS:
                    self._process.kill()
                    self._process.wait()
                    break
                waiting()
        data = os.pread(self._output, plain.MAX_BYTES + 1, 0)
        os.close(self._output)
        if status == 0:
            return data
        raise _failure(status, data, self._limit)


def compile_rules(gathered: Gathered, options: Options, starter: Starter | None = None,
                  waiting: Callable[[], None] = lambda: None) -> tuple[RuleSet, bytes]:
    """Start one, wait for it, and check what it made: the rules, and the data that they were read from.

    Raises UsageError.
    """
    data = Child(gathered, options, polite=False, starter=starter).result(waiting=waiting)
    return checked(data), data


def checked(data: bytes) -> RuleSet:
    """The rules in what a child made. Raises UsageError."""
    try:
        rules = plain.load(data)
        plain.check(rules)
    except plain.NotPlain as error:
        raise UsageError(f"the process that read the rules made something else: {error}") from error
    return rules


def _failure(status: int | None, data: bytes, limit: float) -> UsageError:
    if status == _REFUSED:
        return UsageError(terminal_safe(data.decode("utf-8", "replace")[:_MESSAGE]))
    if status is None:
        return Interrupted(f"reading the rules took more than {limit:.0f} s")
    if status == -signal.SIGKILL:
        return Interrupted("the process that read the rules was killed: was there too little memory?")
    if status == -signal.SIGXCPU:
        return UsageError("reading the rules took too much processor time")
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return UsageError(f"the process that read the rules ended by {how}")


def _job(gathered: Gathered, options: Options) -> int:
    """A file in memory with everything that the child needs to know."""
    head = json.dumps([{name: list(values) for name, values in options.placeholders.items()}, options.pipelines])
    fd = os.memfd_create("rules", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(head.encode() + b"\n" + gathered.dump())
    return fd


def start(job: int, output: int, polite: bool) -> subprocess.Popen[bytes]:
    """Run :func:`main` in a fresh interpreter with these descriptors. Raises OSError."""
    # The interpreter itself: the link in a virtual environment may lie where this user may not go.
    code = f"import sys; sys.path[:] = {json.dumps(sys.path)}; from {ENTRY} import main; main()"
    command = [os.readlink("/proc/self/exe"), "-I", "-S", "-B", "-c", code, str(os.getpid()), str(job), str(output),
               str(_NICE if polite else 0)]
    imports = [int(found[1]) for entry in sys.path if (found := re.match(r"/proc/self/fd/(\d+)", entry))]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            pass_fds=[job, output, *imports], env={"PATH": os.defpath, "LANG": "C.UTF-8"})


# --- in the child ----------------------------------------------------------------------------------


def main() -> None:
    """Entry point of the child: its parent, the descriptors of its job and its answer."""
    parent, job, output = map(int, sys.argv[1:4])
    status = 0
    try:
        children.unseen()  # whoever has taken over the engine must not get at this before it is confined
        children.die_with(parent)
        data = _work(job)
    except SensorError as error:
        status, data = _REFUSED, str(error).encode("utf-8", "backslashreplace")
    except MemoryError:
        status, data = _REFUSED, f"the rules need more than {confine.MEMORY_BYTES >> 20} MB to be read".encode()
    except Exception as error:  # noqa: BLE001  whatever it is, the engine is told
        status, data = _REFUSED, f"reading the rules failed: {error!r}".encode("utf-8", "backslashreplace")
    _write(output, data)
    os._exit(status)


def collect_seldom() -> None:
    """Rules are many small objects that stay: looking through them for garbage again and again takes time."""
    gc.set_threshold(20_000, 50)


def _work(job: int) -> bytes:
    collect_seldom()
    confine.memory_and_files()
    with contextlib.suppress(OSError):  # a service may have no right to be polite
        os.nice(int(sys.argv[4]))
    text = Path(f"/proc/self/fd/{job}").read_bytes()
    head, _, rest = text.partition(b"\n")
    placeholders, pipelines = json.loads(head)
    from sensor.rules import content, correlation_read, sigma  # noqa: F401  before files are closed
    from sensor.rules.falco import frontend  # noqa: F401
    from sensor.rules.matcher import Matcher

    if pipelines:
        from sensor.rules import sigma_pipeline  # noqa: F401
    options = Options({name: tuple(values) for name, values in placeholders.items()}, tuple(pipelines))
    confine.cpu_time()
    confine.calls()  # after which limits can't be changed any more
    rules = content.compile_rules(Gathered.parse(rest), options=options)
    data = plain.dump(rules)
    if len(data) > plain.MAX_BYTES:
        raise UsageError(f"the rules, compiled, are larger than {plain.MAX_BYTES} bytes")
    Matcher(rules.rules)  # what can't be built within these bounds isn't tried by the engine
    return data


def _write(output: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(output, data[at:], at)
