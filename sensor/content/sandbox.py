"""Throw-away children for what reads foreign content: no privilege, no network, little memory and time.

Whatever a parser does there (a crash in C, endless memory, a loop) costs the child, and becomes one
sentence for the operator. The child can read what it was given by descriptor and write its answer.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensor import children, confine, importable, privileges
from sensor.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one child. Memory and answer in bytes; ``cpu`` and ``wall`` in seconds."""

    memory: int = 300 << 20
    cpu: int = 2
    wall: float = 300.0  # a last resort: a host may be busy, and processor time is what counts
    answer: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a child: its answer, or the reason why there is none."""

    answer: bytes
    reason: str = ""


def run(task: str, arguments: Mapping[str, Any], fds: Sequence[int], limits: Limits = Limits()) -> Outcome:
    """Run a task, ``module:function``, in a child that holds *fds*.

    The function gets the arguments, with the numbers of the descriptors in ``fds``, and an open binary
    file for the answer.
    """
    answer, complaint = os.memfd_create("answer", os.MFD_CLOEXEC), os.memfd_create("complaint", os.MFD_CLOEXEC)
    try:
        status = _wait(task, {**arguments, "fds": list(fds)}, fds, limits, answer, complaint)
        said = os.pread(complaint, 4000, 0).decode("utf-8", "replace").strip()
        if status == 0 and os.fstat(answer).st_size <= limits.answer:
            return Outcome(os.pread(answer, limits.answer + 1, 0))
        return Outcome(os.pread(answer, limits.answer, 0), _reason(status, said, limits))
    finally:
        os.close(answer)
        os.close(complaint)


def _wait(task: str, arguments: Mapping[str, Any], fds: Sequence[int], limits: Limits, answer: int,
          complaint: int) -> int | None:
    code = f"import sys; sys.path[:] = {json.dumps(sys.path)}; from sensor.content.sandbox import main; main()"
    numbers = [limits.memory, limits.cpu, limits.answer, os.getpid()]
    command = [sys.executable, "-I", "-B", "-c", code, task, json.dumps(numbers), json.dumps(arguments)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=answer, stderr=complaint, pass_fds=list(fds),
                             env={"LC_ALL": "C.UTF-8"}, start_new_session=True)
    try:
        return child.wait(limits.wall)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _reason(status: int | None, said: str, limits: Limits) -> str:
    if status is None:
        return f"took more than {limits.wall:.0f} s"
    if status == -signal.SIGPROF:
        return "took too much processor time for one file"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"took more than {limits.cpu} s of processor time, or the host ended it"
    if status == -signal.SIGXFSZ or "File too large" in said:  # Python ignores the signal
        return f"gave an answer of more than {limits.answer} bytes"
    if status < 0:
        return f"crashed the parser (signal {-status})"
    if "MemoryError" in said:
        return f"needs more than {limits.memory >> 20} MiB of memory"
    return said.splitlines()[-1] if said else f"ended with status {status}"


def main() -> None:
    """Entry point of the child: bounds first, then imports of what parses."""
    memory, cpu, answer, parent = json.loads(sys.argv[2])
    children.die_with(parent)
    status = 0
    try:
        bound(memory, cpu, answer, parent)
        module, _, name = sys.argv[1].partition(":")
        task: Callable[[dict[str, Any], Any], None] = getattr(importlib.import_module(module), name)
        with os.fdopen(os.dup(1), "wb") as out:
            task(json.loads(sys.argv[3]), out)
    except UsageError as error:
        sys.stderr.write(f"{error}\n".encode("ascii", "backslashreplace").decode().replace("\\n", " ").rstrip() + "\n")
        status = error.exit_status
    sys.stderr.flush()
    os._exit(status)  # what the task left behind needs no tidying


def bound(memory: int, cpu: int, answer: int, parent: int) -> None:
    """Bounds, then no privilege, then no system call that could get some back. For good."""
    for what, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_FSIZE, answer),
                        (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (least, least))
    if os.geteuid() == 0:
        importable.keep()
        privileges.drop(*privileges.ids_of(), parent)
    confine.calls()
