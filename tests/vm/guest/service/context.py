"""What the parts share."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

from service import host
from service.checks import Checks
from service.journal import Journal

CHECKOUT, NEXT = Path("/usr/src/sensor"), Path("/usr/src/sensor-next")
#: Loading is compiling, on one emulated processor.
READY_SECONDS = 200.0


@dataclass(slots=True)
class Context:
    """The guest under test."""

    checks: Checks = field(default_factory=Checks)
    journal: Journal = field(default_factory=Journal)
    files: dict[str, str] = field(default_factory=dict)  # before the installation
    programs: set[int] = field(default_factory=set)  # before the first start

    def make(self, target: str, where: Path = CHECKOUT, *more: str) -> CompletedProcess[str]:
        """``make TARGET`` as an operator types it. The packages come from the wheels' disk: there is no network."""
        start = time.monotonic()
        done = host.sh("make", target, *more, seconds=3000, cwd=str(where), PIP_NO_INDEX="1",
                       PIP_FIND_LINKS="/opt/site/.wheels")
        print(f"       make {target} {' '.join(more)}: status {done.returncode}, {time.monotonic() - start:.0f} s; "
              f"{host.tail(done.stdout + done.stderr)}", flush=True)
        return done

    def ready(self) -> bool:
        """Wait until the service runs and says that it is ready."""
        return bool(host.wait(lambda: host.state() == "active/running" and host.get("/-/ready")[0] == 200,
                              READY_SECONDS, 2.0))

    def fresh(self) -> None:
        """Begin a part: nothing in the journal yet, no start counted by systemd's limit (five in forty minutes)."""
        host.sh("systemctl", "reset-failed", "sensor.service")
        self.journal.mark()


def checkout() -> None:
    """Make of the harness's tree an ordinary checkout: a user has no import path and no command prepared."""
    for name in ("/usr/bin/sensor", "/usr/bin/gcc", "/usr/lib/python3/dist-packages/sensor-vm.pth"):
        Path(name).unlink(missing_ok=True)
    if not CHECKOUT.exists():
        CHECKOUT.parent.mkdir(exist_ok=True)
        shutil.move("/opt/sensor", CHECKOUT)
