"""Attach and detach under load, with a co-tenant on the same hooks: what the test on the host and in a guest share.

    python -m tests.live.soak LOADS ATTACHES [fentry]

Prints what it did as JSON. Status 1 where the kernel is not as before, the co-tenant misses an event, or the
workload failed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.live import cotenant, kernelstate
from tests.live.harness import ROOT, Workloads, environment, finish

FLOODS = 2  # processes that do nothing but what the probes see


def soak(loads: int, attaches: int, workloads: Workloads, place: Path, *, alone: bool = False,
         fentry: bool = False, seconds: float = 600) -> dict[str, Any]:
    """Run the cycles; facts about them. Raises AssertionError.

    *fentry*: the co-tenant uses it, too. *alone*: nobody else loads programs on this machine, so the lists of ids
    must be the very same.
    """
    hooks = cotenant.usable(fentry=fentry)
    before_all = kernelstate.state()
    with ExitStack() as stack:
        other = stack.enter_context(cotenant.CoTenant(hooks, place, workloads)) if hooks else None
        flooded = place / "flood"
        flooded.mkdir()
        before = kernelstate.state()
        churn = workloads.start("churn", flooded, FLOODS)
        stack.callback(churn.kill)
        if other:
            other.check()
        facts: dict[str, Any] = _cycles(loads, attaches, seconds)
        if other:
            other.check()
        before.check(alone=alone)
        churn.send_signal(signal.SIGTERM)
        facts["rounds of the flood"] = finish(churn)["rounds"]
        assert facts["rounds of the flood"] > 0
    before_all.check(alone=alone)
    return {**facts, "co-tenant": hooks}


def _cycles(loads: int, attaches: int, seconds: float) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "tests.live.cycles", str(loads), str(attaches)], cwd=ROOT,
                          env=environment(), capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-3000:]}"
    facts: dict[str, Any] = json.loads(done.stdout)
    assert (facts["loads"], facts["attaches"]) == (loads, attaches)
    return facts


def main() -> int:
    """For guests, which have the machine to themselves."""
    workloads = Workloads(Path("/var/cache/pytest/d/workloads"))
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/var/tmp") as place:
        facts = soak(int(sys.argv[1]), int(sys.argv[2]), workloads, Path(place).resolve(), alone=True,
                     fentry="fentry" in sys.argv, seconds=36000)
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
