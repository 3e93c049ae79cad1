"""The sensor's own loader puts every family into this kernel; says which program failed, with the verifier's log.

Whatever holds the descriptors goes with this process, so nothing may be left behind.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sensor.host import probe_bcc
from sensor.kernel import bpf, knownbad, plan
from sensor.kernel.hooks import FAMILIES, HOOKS
from sensor.schema import BY_NAME


def load() -> list[dict[str, Any]]:
    """Run the loader with every family, optional ones too; returns its messages, descriptors still open."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    cpus = plan.possible_cpus(Path("/sys/devices/system/cpu/possible").read_text())
    wanted = plan.Plan((1 << 20, 4 << 20), tuple(family.name for family in FAMILIES), plan.MEMORY_CAP, cpus)
    here.send(wanted.dump())
    with subprocess.Popen([sys.executable, "-m", "sensor.kernel.loader", str(there.fileno())],
                          pass_fds=[there.fileno()]) as child:
        there.close()
        messages = []
        while True:
            data, _, _, _ = socket.recv_fds(here, 1 << 18, 253)
            if not data:
                break
            messages.append(json.loads(data))
        child.wait()
    return messages


def disagreements(messages: list[dict[str, Any]]) -> list[str]:
    """Where the doctor, which attaches nothing, promises another hook than the loader could attach."""
    told = json.loads(subprocess.run(["sensor", "doctor", "--json"], capture_output=True, check=False).stdout)
    used = {event["event"]: way for event in told["events"] for way in event["alternatives"] if way["used"]}
    promised = {(event, way["kind"], hook["program"], hook["target"])
                for event, way in used.items() for hook in way["hooks"] if hook["available"]}
    attached = {(program["event"], program["alternative"], program["program"], program["target"])
                for message in messages if message["kind"] == "family" for program in message["programs"]}
    return [f"the doctor promises {' '.join(hook)}, the loader could not"
            for hook in sorted(promised - attached) if hook[0] != "shell_line"] + [
        f"the doctor denies {' '.join(hook)}, the loader could"
        for hook in sorted(attached - promised) if hook[0] not in ("", "shell_line")]


def main() -> int:
    before = bpf.program_ids()
    start = time.monotonic()
    messages = load()
    seconds = time.monotonic() - start
    # Left out on purpose: all that could carry them is known to be bad here.
    bad = {event for event, ways in HOOKS.items()
           if all(knownbad.fault(way.kind, knownbad.Kernel.running()) for way in ways)}
    attached: Counter[str] = Counter()
    carried: dict[str, str] = {}
    reasons: list[str] = []
    verified = 0
    for message in messages:
        if message["kind"] == "family":
            attached.update(program["event"] for program in message["programs"])
            carried.update((program["event"], program["alternative"]) for program in message["programs"])
            verified = max([verified, *(program["verified"] for program in message["programs"])])
            for failure in message["failures"]:
                if failure["event"] in bad:
                    continue
                reasons.append(f"{message['name']}: {failure['program']} on {failure['target']}: {failure['reason']}")
                print(f"--- {reasons[-1]}\n{failure.get('log', '')}")
        elif message["kind"] in ("failed", "fatal"):
            reasons.append(f"{message.get('name', 'loader')}: {message['reason']}")
            print(f"--- {reasons[-1]}\n{message.get('log', '')}")
        elif message["kind"] == "done":
            print("not in this kernel:", " ".join(message["missing"]))
    table = {event: f"{carried.get(event, 'nothing')} ({attached[event]} hooks)" for event in HOOKS}
    reasons += [f"nothing carries {event}" for event in HOOKS if event not in carried and event not in bad]
    for event, cell in table.items():
        print(f"  {BY_NAME[event].family:10} {event:20} {cell}")
    print(f"loaded in {seconds:.1f} s, largest program {verified} verified instructions")
    Path(os.environ.get("VM_DATA", "/dev/null")).write_text(json.dumps(
        {"bcc": probe_bcc()["version"], "python": platform.python_version(), **table,
         "seconds to load": f"{seconds:.1f}", "most verified instructions": verified}))
    reasons += disagreements(messages)
    kinds = Counter(message["kind"] for message in messages)
    if kinds["done"] != 1 or not {*before} <= {*bpf.program_ids()}:
        reasons.append(f"the loader's messages: {dict(kinds)}")
    print("failed:", *(reasons or ["nothing"]), sep="\n  ")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
