"""The real loader with one fault in each run, on families that were compiled once: hundreds of runs in a minute.

    python -m tests.live.faults RUNS

Everything between the plan and the last message is the loader's own code, in processes of its own; this process
stands for the supervisor. Prints a line for each run that did not end as declared, and a summary as JSON.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sensor import children
from sensor.kernel import bpf
from sensor.kernel.hooks import FAMILY
from sensor.loaded import Load
from tests.live import kernelstate
from tests.live.cycles import Compiled, all_families, quiet
from tests.live.host import alive, wait_until
from tests.live.inject import Fault, Injector, install

ACTIONS = (errno.ENOMEM, errno.EPERM, errno.E2BIG, errno.ENOSPC, -signal.SIGKILL)
END_SECONDS = 110.0  # what the loader gives one family
_FIRST = 5  # calls of a kind that are all tried


@dataclass
class Outcome:
    """What the supervisor would have been told."""

    load: Load
    kinds: list[str] = field(default_factory=list)
    status: int = 0
    errors: str = ""
    hit: bool = False
    named: set[str] = field(default_factory=set)  # families that a message is about
    attached: set[tuple[str, str, str, str]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def _child(compiled: Compiled, channel: socket.socket, work: Path, injector: Injector) -> None:
    """Become the loader; never returns."""
    from sensor.kernel import loader

    try:
        os.dup2(os.open(work.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)

        # As after a first run: nothing is left to compile, and what is compiled is at hand.
        os.environ["CACHE_DIRECTORY"] = str(compiled.sources.cache.home)
        sys.argv = ["loader", str(channel.detach()), str(work)]
        install(injector.report, injector.go)
        loader.main()
    except BaseException as error:
        traceback.print_exception(error)
    finally:
        os._exit(70)  # loader.main() ends the process itself


def run(compiled: Compiled, fault: Fault | None) -> Outcome:
    """One run of the loader."""
    before = kernelstate.state()
    ours, theirs = children.channel_pair()
    ours.settimeout(END_SECONDS)
    work = Path(tempfile.mkdtemp(prefix="sensor-load-"))
    injector, outcome = Injector(fault, "loader"), Outcome(Load())
    pid = os.fork()
    if not pid:
        ours.close()
        _child(compiled, theirs, work, injector)
    theirs.close()
    ours.send(compiled.plan.dump())
    injector.take(pid)
    try:
        while True:
            data, fds, flags, _ = socket.recv_fds(ours, children.SOCKET_BYTES, 253)
            if not data:
                break
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                outcome.wrong.append("a message was cut")
            message = json.loads(data)
            outcome.kinds.append(message["kind"])
            if message["kind"] in ("family", "failed"):
                outcome.named.add(message["name"])
            outcome.load.take(message, fds)
    except ConnectionResetError:
        pass  # it died before it had read its plan
    except TimeoutError:
        outcome.wrong.append(f"nothing came for {END_SECONDS} s")
        os.kill(pid, signal.SIGKILL)
    ours.close()
    outcome.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    injector.join(5)
    outcome.hit = injector.hit
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(map(alive, injector.pids)), kernelstate.GONE_SECONDS, "gone")
    outcome.wrong += [f"process {each} is still there" for each in injector.pids if alive(each)]
    log = work.with_suffix(".stderr")
    outcome.errors = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    if fault is None or fault.role != "loader" or fault.action > 0:
        outcome.wrong += ["its directory is left"] * work.exists()
    shutil.rmtree(work, ignore_errors=True)  # the supervisor removes it as well
    if fault is None:
        outcome.load.missing = [f"{role} {call} {count}" for (role, call), count in injector.counts.items()]
    outcome.attached = set(_attached(outcome))
    outcome.load.close()
    try:
        before.check()
    except AssertionError as error:
        outcome.wrong.append(str(error))
    return outcome


def _attached(outcome: Outcome) -> Iterator[tuple[str, str, str, str]]:
    """Programs that the report names; each is looked for where it must be."""
    load = outcome.load
    present = kernelstate.ids("program")
    for program in load.programs:
        yield program["family"], program["event"], program["program"], program["target"]
        if program["id"] not in present:
            outcome.wrong.append(f"{program['program']} is reported and not there")
        slots = {"syscall": zip(("native", "compat"), program["target"].split("/"), strict=False),
                 "tail": (("native", program["target"]),)}.get(program["kind"], ())
        for table, slot in slots:
            if int(slot) and bpf.map_lookup(load.maps[table], struct.pack("<I", int(slot)), 4) == bytes(4):
                outcome.wrong.append(f"{program['program']} is reported and its slot {slot} empty")


def judge(outcome: Outcome, whole: set[tuple[str, str, str, str]], families: tuple[str, ...]) -> list[str]:
    """What is not as declared."""
    wrong, kinds, load = list(outcome.wrong), outcome.kinds, outcome.load
    if "Traceback" in outcome.errors:
        wrong.append(f"a traceback: {outcome.errors[-1500:]}")
    if outcome.status not in (0, -signal.SIGKILL):
        wrong.append(f"status {outcome.status}")
    if load.fatal is not None and not load.fatal["reason"]:
        wrong.append("fatal without a reason")
    if load.fatal is not None or not load.done:
        return wrong  # refused whole: the supervisor says so and ends with status 3, or stays up passive
    told = {failure["program"] for failure in load.failures if failure["target"] == "family"}
    wrong += [f"family {name}: neither loaded nor failed" for name in families if name not in outcome.named]
    rows = [*load.failures, *load.absent]
    for family, event, program, target in whole - outcome.attached:
        if family not in told and not any(row["program"] == program or row["event"] == event for row in rows):
            wrong.append(f"{program} on {target} is missing and nobody says so")
    wrong += [f"no reason for {row['program']}" for row in rows if not row["reason"]]
    if kinds.count("done") != 1:
        wrong.append(f"messages {kinds}")
    return wrong


def faults(counts: dict[tuple[str, str], int], limit: int) -> list[Fault]:
    """The first calls of each kind and role, then as many evenly spread ones as *limit* leaves room for."""
    places = [(role, call, index) for (role, call), count in counts.items() for index in range(1, count + 1)]
    first = [place for place in places if place[2] <= _FIRST]
    rest = [place for place in places if place[2] > _FIRST]
    room = max(0, limit - len(first))
    step = max(1, -(-len(rest) // room)) if room else len(rest) + 1
    chosen = sorted({*first[:limit], *rest[::step]} if limit < len(places) else places)
    # Each place has an action of its own; where there is room for more runs than places, each place has several.
    rounds = max(1, min(len(ACTIONS), limit // max(1, len(places))))
    return [Fault(*place, ACTIONS[(number + turn) % len(ACTIONS)]) for turn in range(rounds)
            for number, place in enumerate(chosen)]


def main() -> int:
    """See the module."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work, quiet():
        compiled = Compiled(Path(work), all_families())
    families = tuple(name for name in compiled.plan.families if name in FAMILY)
    whole = run(compiled, None)
    wrong = judge(whole, whole.attached, families)
    counts = {(role, call): int(count) for role, call, count in map(str.split, whole.load.missing)}
    told = {"compile": round(time.monotonic() - begun, 1), "places": sum(counts.values()), "runs": 0, "hit": 0,
            "fatal": 0, "ended early": 0, "in part": 0, "whole": 0}
    for line in wrong:
        print(f"without a fault: {line}")
    chosen = faults(counts, int(sys.argv[1]))
    for fault in chosen:
        outcome = run(compiled, fault)
        told["runs"] += 1
        told["hit"] += outcome.hit
        load = outcome.load
        complete = "whole" if outcome.attached == whole.attached else "in part"
        told["fatal" if load.fatal else complete if load.done else "ended early"] += 1
        said = judge(outcome, whole.attached, families)
        for line in said:
            print(f"{fault}: {line}", flush=True)
        wrong += said
    told["wrong"] = len(wrong)
    told["seconds"] = round(time.monotonic() - begun, 1)
    print(json.dumps(told), flush=True)
    Path(os.environ.get("VM_DATA", "/dev/null")).write_text(json.dumps(told))
    sys.stdout.flush()
    # A run that never came to its place proves nothing.
    os._exit(1 if wrong or told["hit"] < told["runs"] * 0.8 else 0)


if __name__ == "__main__":
    main()
