"""Somebody else on the sensor's hooks, who counts what one program of a known name does there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.live.harness import Workloads, finish
from tests.live.host import wait_until
from tests.live.plain import Plain

MARK = "soak-mark"  # the name of the counted program; at most 15 bytes
#: hook, without bpftrace's word for its kind -> how often the workload `churn` passes it: in each round, and once
#: in each run. None: often.
OFTEN: dict[str, tuple[int, int] | None] = {
    "sched_process_exec": (1, 1), "sys_exit": None, "security_path_rename": (1, 0), "security_path_unlink": (3, 0),
    "security_path_mkdir": (1, 1), "security_path_chmod": (2, 0), "security_file_open": None,
}
_BPFTRACE = {
    "tracepoint": ("sched:sched_process_exec", "raw_syscalls:sys_exit"),
    "kprobe": ("security_path_rename", "security_path_mkdir"),
    "kfunc": ("security_path_rename", "security_path_unlink", "security_file_open"),
}
_READY_SECONDS = 1800.0  # measured: 2 on the host, 150 on a busy emulated processor
_ANSWER_SECONDS = 60.0


def _mount() -> list[str]:
    """A namespace with the directory that lists tracepoints, where this one has none."""
    if Path("/sys/kernel/tracing/events").exists():
        return []
    return ["unshare", "-m", "sh", "-c", 'mount -t tracefs tracing /sys/kernel/tracing && exec "$@"', "sh"]


class Bpftrace:
    """A running bpftrace. A context manager: entering waits until it has counted on each of its hooks."""

    def __init__(self, place: Path, provoke: Callable[[], None]) -> None:
        kprobes = Path("/sys/bus/event_source/devices/kprobe").exists()
        self.hooks = [f"{kind}:{hook}" for kind, hooks in _BPFTRACE.items() if kind == "tracepoint" or kprobes
                      for hook in hooks]
        self._out, self._err = place / "bpftrace.out", place / "bpftrace.err"
        self._provoke = provoke
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Bpftrace:  # noqa: PYI034  typing.Self is newer than the oldest Python
        program = " ".join(f'{hook} /comm == "{MARK}"/ {{ @["{hook}"] = count(); }}' for hook in self.hooks)
        with self._out.open("wb") as out, self._err.open("wb") as errors:
            self._process = subprocess.Popen(
                [*_mount(), "bpftrace", "-f", "json", "-e", f"{program} interval:s:1 {{ print(@); }}"],
                stdout=out, stderr=errors, env={**os.environ, "BPFTRACE_MAP_KEYS_MAX": "64"})
        try:
            # It says that it attaches before it does so, and in an order of its own: what it counts tells.
            wait_until(self._counts_all, _READY_SECONDS, "bpftrace attached", 2)
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

    def _lines(self) -> list[str]:
        assert self._process is not None
        assert self._process.poll() is None, self._err.read_text(errors="replace")[-2000:]
        whole = self._out.read_text().rpartition("\n")[0]
        return [line for line in whole.splitlines() if '"map"' in line]

    def _counts_all(self) -> bool:
        self._provoke()
        lines = self._lines()
        return bool(lines) and all(json.loads(lines[-1])["data"]["@"].get(hook) for hook in self.hooks)

    def counts(self) -> dict[str, int]:
        """What it has counted of all that is over by now, by hook."""
        seen = len(self._lines())
        wait_until(lambda: len(self._lines()) >= seen + 2, _ANSWER_SECONDS, "two reports of bpftrace", 0.2)
        counts: dict[str, int] = json.loads(self._lines()[-1])["data"]["@"]
        return counts


class CoTenants:
    """All of them together. A context manager: entering waits until they count.

    *bpftrace* is left out where time is short, and where there is none.
    """

    def __init__(self, place: Path, workloads: Workloads, *, bpftrace: bool) -> None:
        self._place, self._bpftrace = place, bpftrace and shutil.which("bpftrace") is not None
        self._mark = place / MARK
        shutil.copy(workloads.program("churn"), self._mark)

    def __enter__(self) -> CoTenants:  # noqa: PYI034
        with ExitStack() as stack:
            self._tenants: list[Plain | Bpftrace] = [stack.enter_context(Plain(MARK))]
            if self._bpftrace:
                self._tenants.append(stack.enter_context(Bpftrace(self._place, lambda: self._run_marked(1))))
            self._before = [tenant.counts() for tenant in self._tenants]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def hooks(self) -> list[str]:
        return [hook for tenant in self._tenants for hook in tenant.hooks]

    def _run_marked(self, rounds: int) -> None:
        place = self._place / f"mark-{time.monotonic_ns()}"
        place.mkdir()
        truth = finish(subprocess.Popen([self._mark, place, "1", str(rounds)], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE))
        assert truth["rounds"] == rounds

    def check(self, rounds: int = 23) -> None:
        """Each sees *rounds* rounds of the marked program, no more and no less, on each of its hooks."""
        self._run_marked(rounds)
        after = [tenant.counts() for tenant in self._tenants]
        for old, now in zip(self._before, after, strict=True):
            new = {hook: number - old.get(hook, 0) for hook, number in now.items()}
            often = {hook: OFTEN[hook.rpartition(":")[2]] for hook in new}
            wanted = {hook: each[0] * rounds + each[1] for hook, each in often.items() if each}
            assert {hook: new[hook] for hook in wanted} == wanted
            assert all(number >= rounds for number in new.values()), new
        self._before = after
