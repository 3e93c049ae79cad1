"""Somebody else on the sensor's hooks: bpftrace, counting what one program of a known name does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.live.harness import Workloads, finish
from tests.live.host import wait_until

MARK = "soak-mark"  # the name of the counted program; at most 15 bytes
#: bpftrace's name of a hook -> how often the workload `churn` passes it: in each round, and once in each run.
#: None: often.
HOOKS: dict[str, tuple[int, int] | None] = {
    "tracepoint:sched:sched_process_exec": (1, 1), "tracepoint:raw_syscalls:sys_exit": None,
    "kprobe:security_path_rename": (1, 0), "kprobe:security_path_unlink": (3, 0),
    "kprobe:security_path_mkdir": (1, 1), "kprobe:security_path_chmod": (2, 0),
    "kfunc:security_path_rename": (1, 0), "kfunc:security_path_mkdir": (1, 1), "kfunc:security_file_open": None,
}
_READY_SECONDS = 600.0
_ANSWER_SECONDS = 60.0


def _mount() -> list[str]:
    """A namespace with the directory that lists tracepoints, where this one has none."""
    if Path("/sys/kernel/tracing/events").exists():
        return []
    return ["unshare", "-m", "sh", "-c", 'mount -t tracefs tracing /sys/kernel/tracing && exec "$@"', "sh"]


def usable(*, fentry: bool) -> list[str]:
    """The hooks of the table that this kernel and this bpftrace have; none where there is no bpftrace.

    *fentry* is left out where time is short: bpftrace reads all of the kernel's types for it, minutes when emulated.
    """
    if shutil.which("bpftrace") is None:
        return []
    kinds = ["tracepoint"]
    if Path("/sys/bus/event_source/devices/kprobe").exists():
        kinds += ["kprobe", *(["kfunc"] if fentry else [])]
    return [hook for hook in HOOKS if hook.partition(":")[0] in kinds]


def _program(hooks: list[str]) -> str:
    return " ".join(f'{hook} /comm == "{MARK}"/ {{ @["{hook}"] = count(); }}' for hook in hooks)


class CoTenant:
    """A running bpftrace. A context manager: entering waits until it has attached everything."""

    def __init__(self, hooks: list[str], place: Path, workloads: Workloads) -> None:
        self.hooks = hooks
        self._place = place
        self._mark = place / MARK
        shutil.copy(workloads.program("churn"), self._mark)
        self._out = place / "bpftrace.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[str, int] = {}

    def __enter__(self) -> CoTenant:  # noqa: PYI034  typing.Self is newer than the oldest Python
        with self._out.open("wb") as out, (self._place / "bpftrace.err").open("wb") as errors:
            self._process = subprocess.Popen(
                [*_mount(), "bpftrace", "-f", "json", "-e", f"{_program(self.hooks)} interval:s:1 {{ print(@); }}"],
                stdout=out, stderr=errors, env={**os.environ, "BPFTRACE_MAP_KEYS_MAX": "64"})
        try:
            # It says that it attaches before it does so, and in an order of its own: what it counts tells.
            wait_until(self._counts_all, _READY_SECONDS, "bpftrace attached", 0.5)
            self._before = self._settled()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _lines(self) -> list[str]:
        assert not self._ended(), (self._place / "bpftrace.err").read_text(errors="replace")[-2000:]
        whole = self._out.read_text().rpartition("\n")[0]
        return [line for line in whole.splitlines() if '"map"' in line]

    def _counts_all(self) -> bool:
        self._run_marked(1)
        lines = self._lines()
        return bool(lines) and all(json.loads(lines[-1])["data"]["@"].get(hook) for hook in self.hooks)

    def _settled(self) -> dict[str, int]:
        """What it has counted of all that is over by now, by hook."""
        seen = len(self._lines())
        wait_until(lambda: len(self._lines()) >= seen + 2, _ANSWER_SECONDS, "two reports of bpftrace", 0.2)
        counts: dict[str, int] = json.loads(self._lines()[-1])["data"]["@"]
        return counts

    def _run_marked(self, rounds: int) -> None:
        place = self._place / f"mark-{time.monotonic_ns()}"
        place.mkdir()
        truth = finish(subprocess.Popen([self._mark, place, "1", str(rounds)], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE))
        assert truth["rounds"] == rounds

    def check(self, rounds: int = 23) -> None:
        """It sees *rounds* rounds of the marked program, no more and no less, on each of its hooks."""
        self._run_marked(rounds)
        counts = self._settled()
        new = {hook: counts[hook] - self._before[hook] for hook in self.hooks}
        self._before = counts
        wanted = {hook: often[0] * rounds + often[1] for hook in self.hooks if (often := HOOKS[hook])}
        assert {hook: new[hook] for hook in wanted} == wanted
        assert all(number >= rounds for number in new.values()), new
