"""Attach and detach under load, with a co-tenant on the same hooks: what the test on the host and in a guest share.

    python -m tests.live.soak LOADS ATTACHES [bpftrace]

Leaves what it did as data of the guest test. Status 1 where the kernel is not as before, a co-tenant misses an
event, or the workload failed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.live import cotenant, kernelstate
from tests.live.harness import ROOT, Workloads, environment, finish


def soak(loads: int, attaches: int, workloads: Workloads, place: Path, *, alone: bool = False,
         bpftrace: bool = False, seconds: float = 600) -> dict[str, Any]:
    """Run the cycles; facts about them. Raises AssertionError.

    *bpftrace*: a co-tenant, too, if there is one. *alone*: nobody else loads programs on this machine, so the lists
    of ids must be the very same.
    """
    before_all = kernelstate.state()
    with ExitStack() as stack:
        others = stack.enter_context(cotenant.CoTenants(place, workloads, bpftrace=bpftrace))
        print(f"co-tenants on {len(others.hooks)} hooks", flush=True)
        flooded = place / "flood"
        flooded.mkdir()
        before = kernelstate.state()
        cycles = stack.enter_context(_Cycles(loads, attaches))
        churn = workloads.start("churn", flooded, max(1, (os.cpu_count() or 1) - 1))
        stack.callback(churn.kill)
        others.check()
        facts = cycles.run(seconds)
        others.check()
        before.check(alone=alone)
        churn.send_signal(signal.SIGTERM)
        facts["rounds of the flood"] = finish(churn)["rounds"]
        assert facts["rounds of the flood"] > 0
    before_all.check(alone=alone)
    return {**facts, "co-tenants": others.hooks}


class _Cycles:
    """cycles.py, which compiles before anything else makes that slow. A context manager."""

    def __init__(self, loads: int, attaches: int) -> None:
        self._wanted = (loads, attaches)

    def __enter__(self) -> _Cycles:  # noqa: PYI034  typing.Self is newer than the oldest Python
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.live.cycles", *map(str, self._wanted)], cwd=ROOT, env=environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        assert self._process.stdout is not None
        print(self._process.stdout.readline(), end="", flush=True)
        return self

    def run(self, seconds: float) -> dict[str, Any]:
        out, _ = self._process.communicate("go\n", timeout=seconds)
        print(out, end="", flush=True)
        self._errors.seek(0)
        assert self._process.returncode == 0, f"status {self._process.returncode}: {self._errors.read()[-3000:]}"
        facts: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert (facts["loads"], facts["attaches"]) == self._wanted
        return facts

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def main() -> int:
    """For guests, which have the machine to themselves."""
    workloads = Workloads(Path("/var/cache/pytest/d/workloads"))
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/var/tmp") as place:
        facts = soak(int(sys.argv[1]), int(sys.argv[2]), workloads, Path(place).resolve(), alone=True,
                     bpftrace="bpftrace" in sys.argv, seconds=36000)
    Path(os.environ.get("VM_DATA", "/dev/null")).write_text(json.dumps({
        **{name: value for name, value in facts.items() if name not in ("seconds", "co-tenants")},
        **{f"seconds {name}": value for name, value in facts["seconds"].items()},
        "hooks of co-tenants": len(facts["co-tenants"])}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
